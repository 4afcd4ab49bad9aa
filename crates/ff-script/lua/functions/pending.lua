-- ff1_pending: names an execution that ended with dependents left to resolve, and the next of them.
-- KEYS   1..12 partition block
-- ARGV   1 how many dependents at most
-- reply  nothing when there is none; else the uuid of the ended execution, its flow's id, then the uuids of its next
--        dependents
-- errors WRONGTYPE
-- flags  no-writes
local function pending(KEYS, ARGV)
  local limit = tonumber(ARGV[1])
  local partition = ff.keys.partition(KEYS)
  local uuid = redis.call('ZRANGE', partition.pending, 0, 0)[1]
  if not uuid then
    return {}
  end
  local stored = redis.call('HMGET', ff.keys.core(partition.tag, uuid), 'dependents', 'dependents_done', 'flow_id')
  local reply = { uuid, ff.base.text(stored[3]) }
  local list, done = ff.base.split(stored[1]), ff.base.num(stored[2])
  for index = done + 1, math.min(done + limit, #list) do
    reply[#reply + 1] = list[index]
  end
  return reply
end

redis.register_function({ function_name = 'ff1_pending', callback = pending, flags = { 'no-writes' } })
