#!lua name=raw
-- The writes of FlowFabric without its checks, reads and plans. Each function trusts its caller.

-- KEYS: core, open, ready. ARGV: uuid, member of ready, fields.
local function submit(keys, args)
  redis.call('ZADD', keys[2], '0', args[1])
  redis.call('HSET', keys[1], unpack(args, 3))
  redis.call('ZADD', keys[3], '0', args[2])
  return { 'ok' }
end

-- KEYS: ready, leases. ARGV: prefix of cores, end of the lease, fields.
local function claim(keys, args)
  local popped = redis.call('ZPOPMIN', keys[1], 1)
  if #popped == 0 then
    return {}
  end
  local uuid = string.sub(popped[1], -36)
  local core = args[1] .. uuid .. ':core'
  redis.call('HSET', core, unpack(args, 3))
  redis.call('ZADD', keys[2], args[2], uuid)
  return { uuid, redis.call('HGET', core, 'payload') or '' }
end

-- The record of an end. KEYS: core, log, ended, leases, open. ARGV: uuid, time, event, channel.
local function finish(keys, args)
  redis.call('HSET', keys[1], 'lifecycle_phase', 'terminal', 'public_state', 'success', 'terminal_outcome', 'success',
    'completed_at', args[2], 'log_expected', args[2] .. '-1', 'log_pos', args[2] .. '-1')
  redis.call('XADD', keys[2], 'MAXLEN', '~', '10000', '*', 'e', args[3])
  redis.call('ZADD', keys[3], args[2], args[1])
  redis.call('ZREM', keys[4], args[1])
  redis.call('ZREM', keys[5], args[1])
end

-- As finish.
local function complete(keys, args)
  finish(keys, args)
  redis.call('PUBLISH', args[4], args[3])
  return { 'ok' }
end

-- KEYS: open, ready, flow, cores. ARGV: number of the flow's fields, these, number of a member's fields, then for each
-- member its uuid and these; last the member of ready of the first.
local function submit_flow(keys, args)
  local count = tonumber(args[1])
  redis.call('HSET', keys[3], unpack(args, 2, 1 + count))
  local fields, at = tonumber(args[2 + count]), 3 + count
  local open = {}
  for index = 4, #keys do
    open[#open + 1], open[#open + 2] = '0', args[at]
    redis.call('HSET', keys[index], unpack(args, at + 1, at + fields))
    at = at + 1 + fields
  end
  for first = 1, #open, 1000 do
    redis.call('ZADD', keys[1], unpack(open, first, math.min(first + 999, #open)))
  end
  redis.call('ZADD', keys[2], '0', args[at])
  return { 'ok' }
end

-- Completes a member and queues its dependents, or counts it in them. KEYS: as finish, then ready, flow, cores of the
-- dependents. ARGV: as finish, then what the flow has left, and for each dependent its member of ready, or '' to count.
local function complete_member(keys, args)
  finish(keys, args)
  local ready = {}
  for index = 8, #keys do
    local member = args[index - 2]
    if member == '' then
      redis.call('HSET', keys[index], 'met:' .. args[1], '1', 'unmet_needs', args[5])
    else
      redis.call('HSET', keys[index], 'met:' .. args[1], '1', 'unmet_needs', '0', 'lifecycle_phase', 'runnable',
        'public_state', 'waiting', 'ready_member', member)
      ready[#ready + 1], ready[#ready + 2] = '0', member
    end
  end
  for first = 1, #ready, 1000 do
    redis.call('ZADD', keys[6], unpack(ready, first, math.min(first + 999, #ready)))
  end
  redis.call('HSET', keys[7], 'remaining', args[5], 'ended:' .. args[1], 'success')
  redis.call('PUBLISH', args[4], args[3])
  return { 'ok' }
end

-- ARGV: channel, event.
local function publish(_, args)
  redis.call('PUBLISH', args[1], args[2])
  return { 'ok' }
end

redis.register_function('raw_submit', submit)
redis.register_function('raw_claim', claim)
redis.register_function('raw_complete', complete)
redis.register_function('raw_submit_flow', submit_flow)
redis.register_function('raw_complete_member', complete_member)
redis.register_function('raw_publish', publish)
