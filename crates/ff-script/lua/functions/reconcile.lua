-- ff1_reconcile: looks at executions that are not done with and puts right what an interrupted call left undone.
-- KEYS   1..12 partition block
-- ARGV   1 policy, 2 uuid after which to go on ('' to begin), 3 how many executions at most
-- reply  examined, repaired, uuid to go on after or '' at the end, how many could not be read, the uuid of one of these
--        or '', then uuid and flow id (or '') of each suspect, for ff1_settle
-- errors WRONGTYPE
-- flags  allow-oom

-- Unmet needs of one execution that are looked up in a call.
local NEEDS_AT_ONCE = 16

local function in_index(index, member)
  return redis.call('ZSCORE', index, member)
end

-- A need that was met without being counted: its execution ended, recorded its completion, and is not pending.
local function missed_needs(call, execution)
  local stored = redis.call('HGET', execution.core, 'needs')
  local seen = 0
  for _, uuid in ipairs(ff.base.split(stored)) do
    if seen == NEEDS_AT_ONCE then
      return
    end
    if redis.call('HEXISTS', execution.core, 'met:' .. uuid) == 0 then
      seen = seen + 1
      local parent, problem = ff.execution.load(call, uuid)
      if not parent and not problem then
        ff.suspects.note(call, uuid, execution.flow_id)
      elseif parent and parent.lifecycle_phase == 'terminal' and parent.log_pos and not parent.progress
        and not in_index(call.partition.pending, uuid) then
        parent.dependents_done = '0'
        ff.dependents.plan(call, parent)
        call.repaired = call.repaired + 1
        return
      end
    end
  end
end

local function examine_open(call, execution)
  local partition, uuid, state = call.partition, execution.uuid, execution.public_state
  if ff.execution.cancelled_with_flow(call, execution) then
    call.repaired = call.repaired + 1
    return
  end
  local index, score, member
  if state == 'waiting' then
    index, score, member = partition.ready, '0', execution.ready_member
  elseif state == 'delayed' then
    index, score, member = partition.delayed, execution.eligible_at, uuid
  elseif state == 'active' then
    index, score, member = partition.leases, execution.lease_expires_at, uuid
  else
    missed_needs(call, execution)
  end
  if index and not in_index(index, member) then
    call.missing[#call.missing + 1] = { index, score, member, state == 'waiting' and execution.lane_id }
  end
  local deadline = ff.base.num(execution.deadline_at)
  if deadline > 0 and not in_index(partition.deadlines, uuid) then
    call.missing[#call.missing + 1] = { partition.deadlines, execution.deadline_at, uuid }
  end
end

local function examine(call, member)
  local uuid, flow_id = ff.execution.of_open_member(member)
  local execution, problem = ff.execution.load(call, uuid)
  if execution and (execution.ending or execution.moving) then
    return
  end
  local flow, flow_problem
  if execution then
    flow, flow_problem = ff.flow.try(call, execution)
  end
  if problem or flow_problem then
    call.unreadable, call.unreadable_count = uuid, call.unreadable_count + 1
    return
  elseif not execution or (execution.flow_id and not flow) then
    ff.suspects.note(call, uuid, flow_id)
    return
  end
  if execution.lifecycle_phase == 'terminal' then
    ff.execution.resume_end(call, execution)
    call.repaired = call.repaired + 1
  else
    examine_open(call, execution)
  end
end

local function add_missing(call)
  for _, entry in ipairs(call.missing) do
    redis.call('ZADD', entry[1], entry[2], entry[3])
    if entry[4] then
      call.lanes[#call.lanes + 1] = entry[4]
    else
      ff.timers.note(call, tonumber(entry[2]))
    end
    call.repaired = call.repaired + 1
  end
end

local function reconcile(KEYS, ARGV)
  local policy, after, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
  local call = ff.call.begin(KEYS, policy)
  call.repaired, call.missing, call.suspects, call.unreadable, call.unreadable_count = 0, {}, {}, '', 0
  -- A member continues its uuid with digits and '-' only, so that 'g' comes after it.
  local from = after == '' and '-' or '(' .. after .. 'g'
  local members = redis.call('ZRANGEBYLEX', call.partition.open, from, '+', 'LIMIT', 0, limit)
  local examined = 0
  for _, member in ipairs(members) do
    if call.ends_left <= 0 then
      break
    end
    examine(call, member)
    examined = examined + 1
  end
  add_missing(call)
  ff.call.commit(call)
  local stopped_early = examined < #members or #members == limit
  local last = stopped_early and examined > 0 and ff.execution.of_open_member(members[examined])
  return {
    ff.base.int(examined), ff.base.int(call.repaired), last or '', ff.base.int(call.unreadable_count), call.unreadable,
    unpack(call.suspects),
  }
end

redis.register_function({ function_name = 'ff1_reconcile', callback = reconcile, flags = { 'allow-oom' } })
