-- ff1_pending: names an ended execution that has unresolved dependents, and the next of these.
-- KEYS   1..12 partition block
-- ARGV   1 how many dependents at most
-- reply  nothing when there is none; else the uuid of the ended execution, its flow's id, then the uuids of its next
--        dependents
-- errors WRONGTYPE
-- flags  no-writes
-- How many entries are read, in case the first ones cannot be.
local READ_AT_ONCE = 16

local function pending(KEYS, ARGV)
  local limit = tonumber(ARGV[1])
  local partition = ff.keys.partition(KEYS)
  for _, uuid in ipairs(redis.call('ZRANGE', partition.pending, 0, READ_AT_ONCE - 1)) do
    local core = ff.keys.core(partition.tag, uuid)
    local stored = redis.pcall('HMGET', core, 'dependents', 'dependents_done', 'flow_id')
    if not stored.err then
      local reply = { uuid, ff.base.text(stored[3]) }
      local list, done = ff.dependents.list(partition, stored[1], stored[3]), ff.base.num(stored[2])
      for place = done + 1, math.min(done + limit, ff.uuids.count(list)) do
        reply[#reply + 1] = ff.uuids.at(list, place)
      end
      return reply
    end
  end
  return {}
end

redis.register_function({ function_name = 'ff1_pending', callback = pending, flags = { 'no-writes' } })
