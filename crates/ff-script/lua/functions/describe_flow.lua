-- ff1_describe_flow: reads a flow and the state of its members.
-- KEYS   1 flow core
-- ARGV   1 the partition's hash tag, 2 first member to read (from 1), 3 how many members at most
-- reply  nothing when it does not exist; else name, namespace, state, '1' if its cancellation was requested, created
--        at, completed at or '', next member to read or '' at the end, then per member: name, uuid, state
-- errors WRONGTYPE
-- flags  no-writes
local function describe_flow(KEYS, ARGV)
  local core, tag, first, limit = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
  local flow = redis.call('HMGET', core, 'name', 'namespace', 'state', 'cancel_requested', 'created_at',
    'completed_at', 'members')
  if not flow[7] then
    return {}
  end
  local members = flow[7]
  local count = ff.uuids.count(members)
  local last = math.min(first + limit - 1, count)
  local reply = {
    ff.base.text(flow[1]), flow[2], flow[3], flow[4] or '0', flow[5], ff.base.text(flow[6]),
    last < count and ff.base.int(last + 1) or '',
  }
  for place = first, last do
    local uuid = ff.uuids.at(members, place)
    local member = redis.call('HMGET', ff.keys.core(tag, uuid), 'name', 'public_state', 'lifecycle_phase', 'log_pos')
    if member[1] then
      reply[#reply + 1] = member[1]
      reply[#reply + 1] = uuid
      reply[#reply + 1] = member[3] == 'terminal' and not member[4] and 'active' or member[2]
    end
  end
  return reply
end

redis.register_function({ function_name = 'ff1_describe_flow', callback = describe_flow, flags = { 'no-writes' } })
