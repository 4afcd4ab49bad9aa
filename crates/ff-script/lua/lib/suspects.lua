-- Suspects: entries of an index whose execution is not found, and executions whose flow is not. Whether something is gone
-- only a call can tell that has its key in KEYS, `ff1_settle`. Others name suspects in their reply, and put them off so
-- that their bounded scans go on.

ff.suspects = {}

-- Suspects that one reply names.
local NAMED_AT_ONCE = 64
-- For how long an entry is put off that cannot be dealt with now (ms).
ff.suspects.put_off_for = 60000

-- Notes a suspect. The flow id of a member is found in its entry in `open` where the caller does not know it.
function ff.suspects.note(call, uuid, flow_id)
  local suspects = call.suspects
  if #suspects >= 2 * NAMED_AT_ONCE then
    return
  end
  if not flow_id then
    local member = redis.call('ZRANGEBYLEX', call.partition.open, '[' .. uuid, '(' .. uuid .. 'g', 'LIMIT', '0', '1')[1]
    flow_id = member and string.sub(member, 37) or ''
  end
  suspects[#suspects + 1] = uuid
  suspects[#suspects + 1] = flow_id
end

-- When an entry that cannot be dealt with now is looked at again (ms), as a text.
function ff.suspects.later(call)
  return ff.base.int(call.now + ff.suspects.put_off_for)
end
