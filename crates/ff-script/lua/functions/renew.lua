-- ff1_renew: extends leases.
-- KEYS   1..12 partition block, then the core of each execution
-- ARGV   1 lease ms, then per execution: uuid, lease epoch, attempt
-- reply  per execution '1' renewed, '0' lease lost
-- errors WRONGTYPE
-- flags  allow-oom
local function renew(KEYS, ARGV)
  local lease_ms = tonumber(ARGV[1])
  local call = ff.call.begin(KEYS, '0 0 0')
  local reply, held = {}, {}
  for at = 2, #ARGV, 3 do
    local execution, problem = ff.execution.load(call, ARGV[at])
    if problem then
      return redis.error_reply(problem)
    end
    local holds = execution and ff.execution.holds_lease(execution, ARGV[at + 1], ARGV[at + 2])
    reply[#reply + 1] = holds and '1' or '0'
    if holds then
      held[#held + 1] = execution
    end
  end
  for _, execution in ipairs(held) do
    local expires = call.now + lease_ms
    redis.call('HSET', execution.core, 'lease_expires_at', ff.base.int(expires))
    local due_at = ff.execution.lease_due(expires, ff.base.num(execution.timeout_at))
    redis.call('ZADD', call.partition.leases, ff.base.int(due_at), execution.uuid)
  end
  return reply
end

redis.register_function({ function_name = 'ff1_renew', callback = renew, flags = { 'allow-oom' } })
