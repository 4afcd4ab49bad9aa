-- Suspects: index entries whose execution is not found, and executions whose flow is not found. Only `ff1_settle`,
-- which has their keys in KEYS, can prove that a record is gone. Other functions name suspects in their reply, and
-- postpone them so that their bounded scans make progress.

ff.suspects = {}

-- The most suspects that one reply names.
local NAMED_AT_ONCE = 64
-- For how long an entry that cannot be handled now is postponed (ms).
ff.suspects.postponed_for = 60000

-- Adds a suspect to the reply. If the caller does not know its flow id, this is taken from its entry in `open`.
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

-- When a postponed entry is visited again (ms), as a text.
function ff.suspects.later(call)
  return ff.base.int(call.now + ff.suspects.postponed_for)
end
