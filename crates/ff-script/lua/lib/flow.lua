-- Flows: submission in parts, the count of open members, cancellation, and the end of a flow.

ff.flow = {}

local FIELDS = {
  'flow_id', 'state', 'remaining', 'unsuccessful', 'cancel_requested', 'cancel_reason', 'member_cancelled',
}

-- How long the parts of a submission are kept while the next one is awaited (ms).
ff.flow.parts_kept_for = '60000'

-- The reply to a submission whose flow exists already; nil if it is to be written, and whether some of its parts exist.
-- `part` is 'whole', 'first' or 'further'.
function ff.flow.known(core, fingerprint, part)
  local stored = redis.call('HMGET', core, 'fingerprint', 'state')
  local known, submitting = stored[1], stored[2] == 'submitting'
  if not known then
    return part == 'further' and 'restart' or nil
  elseif known ~= fingerprint then
    return 'conflict'
  elseif not submitting then
    return 'exists'
  end
  return nil, true
end

-- The field for the number of members of the part that begins at this index.
local function part_field(first)
  return 'part:' .. first
end

-- Records that a part is written. The record expires with the flow's core and is lost in a failover like the part
-- itself, so a flow never starts without some of its members.
function ff.flow.record_part(core, first, count)
  redis.call('HSET', core, part_field(first), ff.base.int(count))
end

-- The fields that record parts, and for each the index of its first member and the number of its members.
local function read_parts(core)
  local fields, firsts = {}, {}
  for _, name in ipairs(redis.call('HKEYS', core)) do
    local first = string.match(name, '^part:(%d+)$')
    if first then
      fields[#fields + 1] = name
      firsts[#firsts + 1] = tonumber(first)
    end
  end
  return fields, firsts, #fields > 0 and redis.call('HMGET', core, unpack(fields)) or {}
end

-- Removes the records of the parts that the members from index `first` on (`count` of them) overlap: these members are
-- about to be written again. Programs may divide a flow into different parts, and the records must never overlap.
function ff.flow.forget_parts(core, first, count)
  local fields, firsts, counts = read_parts(core)
  local replaced = {}
  for index, field in ipairs(fields) do
    if firsts[index] < first + count and firsts[index] + ff.base.num(counts[index]) > first then
      replaced[#replaced + 1] = field
    end
  end
  ff.base.chunked('HDEL', core, replaced)
end

-- The fields that record parts, and the number of members in all parts.
function ff.flow.parts(core)
  local fields, _, counts = read_parts(core)
  local total = 0
  for _, count in ipairs(counts) do
    total = total + ff.base.num(count)
  end
  return fields, total
end

-- Marks a flow as being submitted in parts. It expires unless the next part comes in time: then the reconciler discards
-- its members like those of any interrupted submission.
function ff.flow.keep_submitting(core, flow_id, fingerprint)
  redis.call('HSET', core, 'flow_id', flow_id, 'fingerprint', fingerprint, 'state', 'submitting')
  redis.call('PEXPIRE', core, ff.flow.parts_kept_for)
end

-- Writes the core of a flow whose members are all written.
function ff.flow.start(call, core, flow)
  local count = ff.base.int(ff.uuids.count(flow.members))
  redis.call('HSET', core, 'flow_id', flow.id, 'namespace', flow.namespace, 'name', flow.name,
    'fingerprint', flow.fingerprint, 'state', 'running', 'total', count, 'remaining', count, 'unsuccessful', '0',
    'created_at', call.now_text, 'members', flow.members)
end

-- Whether a flow lists a member. A submission that was interrupted and then repeated with other content leaves members
-- that its flow does not list.
function ff.flow.lists(flow, execution)
  if not flow.members then
    flow.members = redis.call('HGET', flow.core, 'members') or ''
  end
  return ff.uuids.at(flow.members, ff.base.num(execution.index) + 1) == execution.uuid
end

-- When a flow was accepted (ms).
function ff.flow.started_at(flow)
  flow.started_at = flow.started_at or ff.base.num(redis.call('HGET', flow.core, 'created_at'))
  return flow.started_at
end

-- The field that marks a member as counted.
local function mark_of(index)
  return 'ended:' .. index
end

-- Reads a flow, once per call, and whether its member `index` ('' for none) was counted as ended. Returns nil if there
-- is no such flow, and nil and an error if it cannot be read.
local function read(call, flow_id, index)
  if call.flows[flow_id] then
    return call.flows[flow_id]
  end
  local core, mark = ff.keys.flow(call.partition.tag, flow_id), mark_of(index)
  local values = redis.pcall('HMGET', core, mark, unpack(FIELDS))
  if not values[2] then
    return nil, values.err
  end
  local flow = {
    id = flow_id, core = core, mark = mark, marked = values[1], changes = {}, state = values[3],
    remaining = values[4], unsuccessful = values[5], cancel_requested = values[6] == '1', cancel_reason = values[7],
    member_cancelled = values[8] == '1',
  }
  call.flows[flow_id] = flow
  call.flow_list[#call.flow_list + 1] = flow
  return flow
end

-- Like `read`, but raises an error. Allowed before the first write only.
function ff.flow.load(call, flow_id, index)
  local flow, problem = read(call, flow_id, index)
  if problem then
    error({ err = problem })
  end
  return flow
end

-- The flow of an execution; nil if it has none or it does not exist, and nil and an error if it cannot be read. A call
-- for many executions uses this before it plans anything for one of them, so that one bad flow does not fail the
-- others.
function ff.flow.try(call, execution)
  local flow_id = execution.flow_id
  if flow_id then
    return read(call, flow_id, execution.index or '')
  end
end

-- The flow of an execution; nil for a solo one.
function ff.flow.of(call, execution)
  local flow_id = execution.flow_id
  return flow_id and (call.flows[flow_id] or ff.flow.load(call, flow_id, execution.index))
end

-- Whether an execution was written by a submission other than that of its flow, or by one that is not complete yet.
function ff.flow.is_of_another(call, execution)
  local flow = ff.flow.of(call, execution)
  return flow and (flow.state == 'submitting' or not ff.flow.lists(flow, execution))
end

-- Whether the stored flow has counted a member.
local function was_counted(flow, mark)
  if mark == flow.mark then
    return flow.marked
  end
  return redis.call('HEXISTS', flow.core, mark) == 1
end

-- Plans to count a member that ends, unless it was counted before.
function ff.flow.member_ended(call, execution)
  local flow = ff.flow.of(call, execution)
  if not flow then
    return
  end
  local mark = mark_of(execution.index)
  if was_counted(flow, mark) then
    return
  end
  local changes = flow.changes
  changes[#changes + 1] = mark
  changes[#changes + 1] = execution.terminal_outcome
  flow.remaining = ff.base.num(flow.remaining) - 1
  if execution.terminal_outcome == 'failed' or execution.terminal_outcome == 'expired' then
    flow.unsuccessful = ff.base.num(flow.unsuccessful) + 1
  elseif execution.terminal_outcome == 'cancelled' and not flow.member_cancelled then
    flow.member_cancelled = true
    changes[#changes + 1] = 'member_cancelled'
    changes[#changes + 1] = '1'
  end
  flow.ended_at = call.now_text
end

-- Plans to mark a flow as being cancelled: its members do not start any more.
function ff.flow.request_cancel(flow, reason)
  flow.cancel_requested, flow.cancel_reason, flow.newly_cancelled = true, reason, true
end

-- Marks a flow as being cancelled. Comes before its first member ends, so that the repair of an interrupted
-- cancellation cancels the rest.
function ff.flow.write_cancel(flow)
  if flow.newly_cancelled then
    redis.call('HSET', flow.core, 'cancel_requested', '1', 'cancel_reason', flow.cancel_reason)
  end
end

-- A cancellation, of the flow or of one of its members, takes precedence over a failure.
local function final_state(flow)
  if flow.cancel_requested or flow.member_cancelled then
    return 'cancelled'
  end
  return ff.base.num(flow.unsuccessful) > 0 and 'failed' or 'success'
end

-- Whether all members of a flow are counted as ended, including those that this call ends.
local function has_ended(flow)
  return flow.remaining and ff.base.num(flow.remaining) == 0
end

-- The member of a flow in `ended`. Retention finds by it a flow whose members' records are all gone.
function ff.flow.ended_member(flow_id)
  return 'flow:' .. flow_id
end

-- Adds a flow whose last member this call ends to the entries that the call writes to `ended`.
function ff.flow.plan_ended(call, flow, entries)
  if has_ended(flow) then
    local count = #entries
    entries[count + 1], entries[count + 2] = call.now_text, ff.flow.ended_member(flow.id)
  end
end

-- Writes the planned changes of a flow in one command; the members that one call can end fit into it.
function ff.flow.write(flow)
  local changes = flow.changes
  if #changes == 0 then
    return
  end
  local remaining, unsuccessful = ff.base.int(flow.remaining), ff.base.int(ff.base.num(flow.unsuccessful))
  if flow.remaining ~= 0 then
    redis.call('HSET', flow.core, 'remaining', remaining, 'unsuccessful', unsuccessful, unpack(changes))
  else
    redis.call('HSET', flow.core, 'remaining', remaining, 'unsuccessful', unsuccessful, 'state', final_state(flow),
      'completed_at', flow.ended_at, unpack(changes))
  end
end
