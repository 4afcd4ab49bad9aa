-- ff1_renew: extends leases. The first renewal of a lease confirms that a worker has it.
-- KEYS   1..12 partition block, then the core of each execution
-- ARGV   1 lease ms, then per execution: uuid, lease epoch, attempt
-- reply  per execution '1' renewed, '0' lease lost, '2' held but not extended, since the attempt has used up its time,
--        '?' cannot be read, and the lease is unchanged
-- errors WRONGTYPE
-- flags  allow-oom
-- The entry in `leases` is never later than the lease in the core, also when this call is interrupted: the sweep
-- corrects an entry that is too early, but would not visit one that is too late.
local function extend(call, execution, lease_ms)
  local expires, before = call.now + lease_ms, ff.base.num(execution.lease_expires_at)
  local expires_text = ff.base.int(expires)
  if expires < before then
    redis.call('ZADD', call.partition.leases, expires_text, execution.uuid)
    ff.timers.note(call, expires)
  end
  if execution.lease_seen == execution.lease_epoch then
    redis.call('HSET', execution.core, 'lease_expires_at', expires_text, 'lease_ms', ff.base.int(lease_ms))
  else
    redis.call('HSET', execution.core, 'lease_expires_at', expires_text, 'lease_ms', ff.base.int(lease_ms),
      'lease_seen', execution.lease_epoch)
  end
  if expires >= before then
    redis.call('ZADD', call.partition.leases, expires_text, execution.uuid)
  end
end

local function confirm(execution)
  if execution.lease_seen ~= execution.lease_epoch then
    redis.call('HSET', execution.core, 'lease_seen', execution.lease_epoch)
  end
end

-- The reply for one execution.
local function verdict(call, execution, epoch, attempt)
  if not (execution and ff.execution.holds_lease(execution, epoch, attempt)) then
    return '0'
  end
  return ff.execution.is_timed_out(call, execution) and '2' or '1'
end

local function renew(KEYS, ARGV)
  local lease_ms = tonumber(ARGV[1])
  local call = ff.call.look(KEYS)
  local reply, held = {}, {}
  for at = 2, #ARGV, 3 do
    local execution, problem = ff.execution.load(call, ARGV[at])
    local answer = problem and '?' or verdict(call, execution, ARGV[at + 1], ARGV[at + 2])
    reply[#reply + 1] = answer
    if answer == '1' or answer == '2' then
      held[#held + 1] = execution
      execution.extends = answer == '1'
    end
  end
  for _, execution in ipairs(held) do
    if execution.extends then
      extend(call, execution, lease_ms)
    else
      confirm(execution)
    end
  end
  ff.timers.announce(call)
  return reply
end

redis.register_function({ function_name = 'ff1_renew', callback = renew, flags = { 'allow-oom' } })
