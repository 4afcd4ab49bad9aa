-- ff1_reconcile: examines open executions and repairs what an interrupted call left incomplete.
-- KEYS   1..12 partition block
-- ARGV   1 policy, 2 uuid of the last examined execution ('' to begin), 3 how many executions at most
-- reply  examined, repaired, uuid to continue after or '' at the end, how many could not be read, the uuid of one of
--        these or '', then uuid and flow id (or '') of each suspect, for ff1_settle
-- errors WRONGTYPE
-- flags  allow-oom

-- The most unmet needs of one execution that a call looks up.
local NEEDS_AT_ONCE = 16
-- The most executions that a call reads. Reading PIECE bytes of a list of uuids takes as long and counts as one.
local READS_AT_ONCE, PIECE = 48, 8192

-- Where the scan of an execution's needs begins. Random, so that successive calls cover all of a long list.
local random_start = 1

local function charge_list(call, list)
  call.reads_left = call.reads_left - math.floor(#list / PIECE)
end

-- Finds a need that was met without being counted: its execution ended, recorded its completion, and is not pending.
local function missed_needs(call, execution)
  local stored = redis.call('HGET', execution.core, 'needs') or ''
  local count, seen = ff.uuids.count(stored), 0
  charge_list(call, stored)
  random_start = random_start * 16807 % 2147483647
  for turn = 0, math.min(count, 4 * NEEDS_AT_ONCE) - 1 do
    local uuid = ff.uuids.at(stored, (random_start + turn) % count + 1)
    call.reads_left = call.reads_left - 1 / NEEDS_AT_ONCE
    if seen == NEEDS_AT_ONCE then
      return
    end
    if redis.call('HEXISTS', execution.core, 'met:' .. uuid) == 0 then
      seen = seen + 1
      call.reads_left = call.reads_left - 1
      local parent, problem = ff.execution.load(call, uuid)
      if not parent and not problem then
        ff.suspects.note(call, uuid, execution.flow_id)
      elseif parent and parent.lifecycle_phase == 'terminal' and parent.log_pos and not parent.progress
        and not redis.call('ZSCORE', call.partition.pending, uuid) then
        parent.dependents_done = '0'
        ff.dependents.plan(call, parent)
        call.repaired = call.repaired + 1
        return
      end
    end
  end
end

local function is_listed(call, flow, execution)
  local is_first = not flow.members
  local listed = ff.flow.lists(flow, execution)
  if is_first then
    charge_list(call, flow.members)
  end
  return listed
end

local function examine_open(call, execution)
  local flow = ff.flow.of(call, execution)
  if flow and not is_listed(call, flow, execution) then
    ff.suspects.note(call, execution.uuid, execution.flow_id)
  elseif ff.execution.cancelled_with_flow(call, execution) then
    call.repaired = call.repaired + 1
  else
    ff.execution.note_missing(call, execution)
    if execution.public_state == 'blocked' then
      missed_needs(call, execution)
    end
  end
end

local function examine(call, member)
  local uuid, flow_id = ff.execution.of_open_member(member)
  local execution, problem = ff.execution.load(call, uuid)
  if execution and (execution.ending or execution.moving) then
    return
  end
  local flow, flow_problem = ff.flow.try(call, execution or { flow_id = flow_id ~= '' and flow_id })
  if problem or flow_problem or execution and ff.completion.problem(call, execution) then
    call.unreadable, call.unreadable_count = uuid, call.unreadable_count + 1
    return
  elseif flow and flow.state == 'submitting' then
    call.submitting[flow.core] = true
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

-- Sets the expiry of flows that are being submitted, in case an interrupted call did not.
local function expire_submitting(call)
  for core in pairs(call.submitting) do
    if redis.call('PTTL', core) < 0 then
      redis.call('PEXPIRE', core, ff.flow.parts_kept_for)
    end
  end
end

local function reconcile(KEYS, ARGV)
  local policy, after, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
  local call = ff.call.begin(KEYS, policy)
  call.repaired, call.missing, call.suspects, call.unreadable, call.unreadable_count = 0, { counted = {} }, {}, '', 0
  call.reads_left, call.submitting = READS_AT_ONCE, {}
  -- A member continues its uuid with digits and '-' only, so that 'g' comes after it.
  local from = after == '' and '-' or '(' .. after .. 'g'
  limit = math.min(limit, READS_AT_ONCE)
  local members = redis.call('ZRANGEBYLEX', call.partition.open, from, '+', 'LIMIT', 0, limit)
  local examined = 0
  for _, member in ipairs(members) do
    if call.ends_left <= 0 or call.reads_left <= 0 then
      break
    end
    call.reads_left = call.reads_left - 1
    examine(call, member)
    examined = examined + 1
  end
  call.repaired = call.repaired + #call.missing
  ff.execution.add_missing(call)
  expire_submitting(call)
  ff.call.commit(call)
  local stopped_early = examined < #members or #members == limit
  local last = stopped_early and examined > 0 and ff.execution.of_open_member(members[examined])
  return {
    ff.base.int(examined), ff.base.int(call.repaired), last or '', ff.base.int(call.unreadable_count), call.unreadable,
    unpack(call.suspects),
  }
end

redis.register_function({ function_name = 'ff1_reconcile', callback = reconcile, flags = { 'allow-oom' } })
