-- ff1_settle: settles suspects: index entries whose execution is not found, and executions whose flow is not found. All
-- their keys are in KEYS, so an absent key is really gone: a server that is moving the slot refuses the call
-- (TRYAGAIN).
-- KEYS   1..12 partition block, then per suspect: core, tags, flow core (its own core if no flow is known)
-- ARGV   1 policy, then per suspect: uuid, flow id or ''
-- reply  removed (left by an interrupted submission, or of no known flow), lost (ended because a record is gone)
-- errors WRONGTYPE
-- flags  allow-oom

-- The most ancestors of executions that a call reads.
local ANCESTORS_AT_ONCE = 96
-- The lane and the name of an execution whose record is gone.
local UNKNOWN = 'unknown'

-- Removes an execution from the indexes that only terminal calls maintain.
local function forget(call, suspect)
  local partition, uuid = call.partition, suspect.uuid
  for _, index in ipairs({ 'delayed', 'leases', 'deadlines', 'pending', 'ended' }) do
    redis.call('ZREM', partition[index], uuid)
  end
  redis.call('ZREM', partition.open, ff.execution.open_member(suspect))
end

local function discard(call, suspect, execution)
  redis.call('UNLINK', suspect.core, suspect.tags)
  if execution.ready_member then
    redis.call('ZREM', call.partition.ready, execution.ready_member)
  end
  forget(call, suspect)
end

-- The index of an execution in its flow, from 0; nil if its flow does not list it. Also reads the fields that the
-- execution takes from its flow.
local function index_in(flow, uuid)
  if not flow.namespace then
    local stored = redis.call('HMGET', flow.core, 'members', 'namespace', 'created_at')
    flow.members, flow.namespace, flow.created_at = stored[1] or '', stored[2], stored[3]
  end
  local place = ff.uuids.place(flow.members, uuid)
  return place and ff.base.int(place - 1)
end

-- A record that replaces the lost one, made of what its flow holds.
local function record_of(call, suspect, flow, index)
  local record = {
    uuid = suspect.uuid, core = suspect.core, execution_id = call.partition.tag .. ':' .. suspect.uuid,
    flow_id = suspect.flow_id, index = index, namespace = flow.namespace, lane_id = UNKNOWN, tags_json = '{}',
    current_attempt_index = '0', generation = '0', deadline_at = '0', dependents = ff.dependents.unknown,
  }
  local fields = {
    'execution_id', record.execution_id, 'flow_id', record.flow_id, 'index', index, 'name', UNKNOWN,
    'namespace', record.namespace, 'lane_id', UNKNOWN, 'tags_json', '{}', 'created_at', flow.created_at or '0',
    'current_attempt_index', '0', 'generation', '0', 'lease_epoch', '0', 'unmet_needs', '0', 'max_attempts', '1',
    'priority', '0', 'dependents', record.dependents,
  }
  return record, fields
end

-- Ends a member whose record is gone: as failed, unless its flow has recorded how it ended.
local function end_lost(call, suspect, flow)
  local index = index_in(flow, suspect.uuid)
  if not index then
    call.removals[#call.removals + 1] = suspect
    return
  end
  local record, fields = record_of(call, suspect, flow, index)
  call.lost = call.lost + 1
  call.loaded[suspect.uuid] = record
  local outcome = redis.call('HGET', flow.core, 'ended:' .. index)
  if not outcome then
    ff.execution.finish(call, record, 'failed', 'record_lost', fields)
    return
  end
  record.terminal_outcome, record.lifecycle_phase = outcome, 'terminal'
  for _, value in ipairs({ 'lifecycle_phase', 'terminal', 'public_state', outcome, 'terminal_outcome', outcome,
    'completed_at', call.now_text, 'log_pos', '0-0' }) do
    fields[#fields + 1] = value
  end
  ff.execution.touch(call, record, fields)
  ff.dependents.plan(call, record)
  call.counted[#call.counted + 1] = suspect
end

-- Whether the submission of an execution was completed: then it is in an index, or has progressed since. For a blocked
-- execution that has neither, also returns one of its needs.
local function was_submitted(call, execution)
  local partition, state = call.partition, execution.public_state
  if execution.lifecycle_phase == 'terminal' or execution.current_attempt_index ~= '0' or execution.ending then
    return true
  elseif state == 'waiting' then
    return redis.call('ZSCORE', partition.ready, execution.ready_member)
  elseif state == 'delayed' then
    return redis.call('ZSCORE', partition.delayed, execution.uuid)
  end
  local needs = redis.call('HGET', execution.core, 'needs') or ''
  local count = ff.uuids.count(needs)
  return ff.base.num(execution.unmet_needs) < count, count > 0 and ff.uuids.at(needs, 1)
end

-- Whether the submission of a flow whose core is gone was completed, judged by an execution and what it needs; nil if
-- that is not known.
local function flow_was_submitted(call, execution)
  while call.ancestors_left > 0 do
    call.ancestors_left = call.ancestors_left - 1
    local submitted, need = was_submitted(call, execution)
    if submitted or not need then
      return submitted and true or false
    end
    local problem
    execution, problem = ff.execution.load(call, need)
    if problem then
      return nil
    elseif not execution then
      return false
    end
  end
end

-- Plans for an execution whose flow is gone.
local function settle_orphan(call, suspect, execution)
  local submitted = flow_was_submitted(call, execution)
  if submitted == false then
    call.discards[#call.discards + 1] = { suspect, execution }
  elseif submitted and execution.lifecycle_phase == 'terminal' then
    ff.execution.resume_end(call, execution)
  elseif submitted then
    call.lost = call.lost + 1
    ff.execution.finish(call, execution, 'failed', 'record_lost')
  end
end

local function judge(call, suspect)
  local execution, problem = ff.execution.load(call, suspect.uuid)
  if problem or (execution and (execution.ending or execution.moving)) then
    return
  end
  suspect.flow_id = execution and execution.flow_id or suspect.flow_id
  local flow, flow_problem = ff.flow.try(call, suspect)
  if flow_problem or ff.completion.problem(call, suspect) then
    return
  elseif flow and flow.state == 'submitting' then
    return
  elseif not execution and flow then
    end_lost(call, suspect, flow)
  elseif not execution then
    call.removals[#call.removals + 1] = suspect
  elseif suspect.flow_id and not flow then
    settle_orphan(call, suspect, execution)
  elseif flow and not ff.flow.lists(flow, execution) then
    call.discards[#call.discards + 1] = { suspect, execution }
  end
end

local function settle(KEYS, ARGV)
  local call = ff.call.begin(KEYS, ARGV[1])
  call.ancestors_left = ANCESTORS_AT_ONCE
  call.removals, call.discards, call.counted, call.lost = {}, {}, {}, 0
  for at = 2, #ARGV, 2 do
    if call.ends_left <= 0 then
      break
    end
    local key = ff.keys.block + 3 * (at / 2) - 2
    judge(call, {
      uuid = ARGV[at], flow_id = ARGV[at + 1] ~= '' and ARGV[at + 1], core = KEYS[key], tags = KEYS[key + 1],
    })
  end
  ff.call.commit(call)
  for _, suspect in ipairs(call.counted) do
    redis.call('ZADD', call.partition.ended, call.now_text, suspect.uuid)
    redis.call('ZREM', call.partition.open, ff.execution.open_member(suspect))
  end
  for _, suspect in ipairs(call.removals) do
    redis.call('UNLINK', suspect.tags)
    forget(call, suspect)
  end
  for _, entry in ipairs(call.discards) do
    discard(call, entry[1], entry[2])
  end
  return { ff.base.int(#call.removals + #call.discards), ff.base.int(call.lost) }
end

redis.register_function({ function_name = 'ff1_settle', callback = settle, flags = { 'allow-oom' } })
