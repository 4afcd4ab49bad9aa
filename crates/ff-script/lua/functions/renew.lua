-- ff1_renew: extends leases.
-- KEYS   1..12 partition block, then the core of each execution
-- ARGV   1 lease ms, then per execution: uuid, lease epoch, attempt
-- reply  per execution '1' renewed, '0' lease lost
-- errors WRONGTYPE
-- flags  allow-oom
-- The entry in `leases` is never later than the lease in the core, also when this call is interrupted: the sweep puts
-- right one that is too early, but would not look at one that is too late.
local function extend(call, execution, lease_ms)
  local timeout_at = ff.base.num(execution.timeout_at)
  local expires, before = call.now + lease_ms, ff.base.num(execution.lease_expires_at)
  local due_at = ff.base.int(ff.execution.lease_due(expires, timeout_at))
  if expires < before then
    redis.call('ZADD', call.partition.leases, due_at, execution.uuid)
  end
  redis.call('HSET', execution.core, 'lease_expires_at', ff.base.int(expires))
  if expires >= before then
    redis.call('ZADD', call.partition.leases, due_at, execution.uuid)
  end
end

local function renew(KEYS, ARGV)
  local lease_ms = tonumber(ARGV[1])
  local call = ff.call.look(KEYS)
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
    extend(call, execution, lease_ms)
  end
  return reply
end

redis.register_function({ function_name = 'ff1_renew', callback = renew, flags = { 'allow-oom' } })
