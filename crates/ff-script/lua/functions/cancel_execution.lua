-- ff1_cancel_execution: cancels an execution that has not ended.
-- KEYS   1..12 partition block, 13 the execution's core
-- ARGV   1 policy, 2 uuid, 3 reason (UTF-8)
-- reply  'ok', '1' if an announcement was refused | 'not_found' | 'ended', outcome
-- errors WRONGTYPE
-- flags  allow-oom
local function cancel_execution(KEYS, ARGV)
  local policy, uuid, reason = ARGV[1], ARGV[2], ARGV[3]
  local call = ff.call.begin(KEYS, policy)
  local execution, problem = ff.execution.load(call, uuid)
  if problem then
    return redis.error_reply(problem)
  elseif not execution or ff.flow.is_of_another(call, execution) then
    return { 'not_found' }
  elseif execution.lifecycle_phase ~= 'terminal' then
    ff.execution.finish(call, execution, 'cancelled', reason)
  elseif not execution.log_pos then
    ff.execution.resume_end(call, execution)
  end
  if #call.ends == 0 or execution.terminal_outcome ~= 'cancelled' then
    if #call.ends > 0 then
      ff.call.commit(call)
    end
    return { 'ended', execution.terminal_outcome }
  end
  return { 'ok', ff.call.commit(call) }
end

redis.register_function({ function_name = 'ff1_cancel_execution', callback = cancel_execution,
  flags = { 'allow-oom' } })
