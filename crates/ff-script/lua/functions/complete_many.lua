-- ff1_complete_many: ends executions of one partition with success, each as ff1_complete does.
-- KEYS   1..12 partition block, then per execution its core and, if it has one, its flow's core
-- ARGV   1 policy, then per execution: uuid, lease epoch, attempt, result, '1' if the result is UTF-8
-- reply  '1' if an announcement was refused, else '0'; then per execution two texts: 'ok', '' | 'not_found', '' |
--        'lease_lost', '' | 'ended', outcome | '?', why it, its flow or its log cannot be read, and the lease is
--        unchanged | 'later', '' (the call had reached its bounds, and nothing of this execution has changed)
-- errors WRONGTYPE
-- flags  allow-oom
local FIRST, ARGUMENTS = 2, 5

-- Plans the end of one execution. Returns its part of the reply.
local function end_one(call, uuid, epoch, attempt, result, is_text)
  local known = call.loaded[uuid]
  if known and known.ending then
    -- The call names this execution twice, perhaps under an earlier lease.
    local same_lease = known.lease_epoch == epoch and known.current_attempt_index == attempt
    return same_lease and 'ok' or 'ended', same_lease and '' or known.terminal_outcome
  elseif call.ends_left <= 0 or call.dependents_left <= 0 then
    return 'later', ''
  end
  local execution, answer = ff.execution.owned(call, uuid, epoch, attempt, 'success')
  if not execution then
    return answer.err and '?' or answer[1], answer.err or answer[1] == 'ended' and answer[2] or ''
  end
  local _, problem = ff.flow.try(call, execution)
  problem = problem or ff.completion.problem(call, execution)
  if problem then
    return '?', problem
  end
  ff.execution.complete(call, execution, result, is_text)
  return 'ok', ''
end

local function complete_many(KEYS, ARGV)
  local call = ff.call.begin(KEYS, ARGV[1])
  local reply = { '0' }
  for at = FIRST, #ARGV, ARGUMENTS do
    local count = #reply
    reply[count + 1], reply[count + 2] =
      end_one(call, ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4])
  end
  reply[1] = ff.call.commit(call)
  return reply
end

redis.register_function({ function_name = 'ff1_complete_many', callback = complete_many, flags = { 'allow-oom' } })
