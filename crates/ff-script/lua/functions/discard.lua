-- ff1_discard: removes what an interrupted submission left: executions without a core, or without the core of the flow
-- that they name. A submission is one call, so none can still be under way.
-- KEYS   1..12 partition block, then per execution: core, tags, flow core (of a solo execution: its own core)
-- ARGV   the uuids
-- reply  how many were removed
-- errors WRONGTYPE
-- flags  allow-oom
local function is_left_over(core, flow_core)
  return redis.call('EXISTS', core) == 0 or redis.call('EXISTS', flow_core) == 0
end

local function discard(KEYS, ARGV)
  local partition = ff.keys.partition(KEYS)
  local left_over = {}
  for index, uuid in ipairs(ARGV) do
    local at = ff.keys.block + 3 * index - 2
    local core, tags, flow_core = KEYS[at], KEYS[at + 1], KEYS[at + 2]
    if is_left_over(core, flow_core) then
      local member = redis.call('HGET', core, 'ready_member')
      left_over[#left_over + 1] = { uuid = uuid, core = core, tags = tags, member = member }
    end
  end
  for _, entry in ipairs(left_over) do
    redis.call('UNLINK', entry.core, entry.tags)
    if entry.member then
      redis.call('ZREM', partition.ready, entry.member)
    end
    redis.call('ZREM', partition.delayed, entry.uuid)
    redis.call('ZREM', partition.leases, entry.uuid)
    redis.call('ZREM', partition.deadlines, entry.uuid)
    redis.call('ZREM', partition.open, entry.uuid)
  end
  return { ff.base.int(#left_over) }
end

redis.register_function({ function_name = 'ff1_discard', callback = discard, flags = { 'allow-oom' } })
