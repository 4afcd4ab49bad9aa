-- ff1_complete: ends an execution with success.
-- KEYS   1..12 partition block, 13 the execution's core, 14 its flow's core if it has one
-- ARGV   1 policy, 2 uuid, 3 lease epoch, 4 attempt, 5 result, 6 '1' if the result is UTF-8
-- reply  'ok', '1' if an announcement was refused | 'not_found' | 'lease_lost' | 'ended', outcome
-- errors WRONGTYPE
-- flags  allow-oom
local function complete(KEYS, ARGV)
  local policy, uuid, epoch, attempt, result, is_text = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
  local call = ff.call.begin(KEYS, policy)
  local execution, answer = ff.execution.owned(call, uuid, epoch, attempt, 'success')
  if not execution then
    return answer
  end
  ff.execution.complete(call, execution, result, is_text)
  return { 'ok', ff.call.commit(call) }
end

redis.register_function({ function_name = 'ff1_complete', callback = complete, flags = { 'allow-oom' } })
