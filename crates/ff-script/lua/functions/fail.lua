-- ff1_fail: reports a failed attempt; decides between a retry and the end.
-- KEYS   1..12 partition block, 13 the execution's core, 14 its flow's core if it has one
-- ARGV   1 policy, 2 uuid, 3 lease epoch, 4 attempt, 5 reason (UTF-8), 6 '1' if a retry can help
-- reply  'retry', backoff ms | 'ok', '1' if an announcement was refused | 'not_found' | 'lease_lost' |
--        'ended', outcome
-- errors WRONGTYPE
-- flags  allow-oom
local function fail(KEYS, ARGV)
  local policy, uuid, epoch, attempt, reason, retryable = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6] == '1'
  local call = ff.call.begin(KEYS, policy)
  local execution, answer = ff.execution.owned(call, uuid, epoch, attempt, 'failed')
  if not execution then
    return answer
  end
  if execution.lifecycle_phase == 'terminal' then
    ff.execution.resume_end(call, execution)
    return { 'ok', ff.call.commit(call) }
  end
  execution.by_holder = true
  local verdict, backoff = ff.execution.attempt_failed(call, execution, reason, retryable)
  local refused = ff.call.commit(call)
  if verdict == 'retry' then
    return { 'retry', ff.base.int(backoff) }
  end
  return { 'ok', refused }
end

redis.register_function({ function_name = 'ff1_fail', callback = fail, flags = { 'allow-oom' } })
