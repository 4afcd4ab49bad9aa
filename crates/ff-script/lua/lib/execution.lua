-- Reads executions, and is the only writer of their state.
--
--   blocked ──> waiting <──> active ──> success | failed | cancelled | expired | skipped
--      └──────> delayed ─┘     │
--                  └───<───────┘ (a failed attempt waits for its retry)

ff.execution = {}

-- Two ranges of the fields suffice for the most frequent calls, which read no more: those to end an execution, and
-- those to promote a dependent. Each range begins with a field that every execution has. The tags, which may be long,
-- are read to end an execution only.
local FIELDS = {
  'tags_json', 'execution_id', 'namespace', 'terminal_outcome', 'completed_at', 'current_attempt_index', 'generation',
  'lease_epoch', 'ready_member', 'dependents_done', 'log_pos', 'log_expected', 'failure_reason', 'ended_by',
  'has_payload', 'public_state', 'lifecycle_phase', 'flow_id', 'index', 'lane_id', 'deadline_at', 'priority',
  'unmet_needs', 'eligible_at', 'times_from', 'failed_epoch', 'lease_expires_at', 'timeout_at', 'max_attempts',
  'failures', 'max_lease_expiries', 'lease_expiries', 'backoff_ms', 'backoff_max_ms', 'lease_listener', 'lease_seen',
  'lease_unseen', 'lease_ms',
}
local ALL = #FIELDS

-- The most bytes of tags, and of results of interrupted ends, that a call reads to end executions; the last one may
-- exceed it.
local BYTES_OF_ENDS = 65536

local PHASES = { blocked = 'submitted', delayed = 'submitted', waiting = 'runnable', active = 'active' }

-- Tables of the values of FIELDS, which begin at `values[2]`; absent fields are false, and fields that were not read
-- are nil.
local function with_all(uuid, core, values)
  return {
    uuid = uuid, core = core,
    --@ FIELDS 2..38 values +0
  }
end

local function to_end(uuid, core, values)
  return {
    uuid = uuid, core = core, range = 'to_end',
    --@ FIELDS 1..21 values +1
  }
end

local function to_promote(uuid, core, values)
  return {
    uuid = uuid, core = core, range = 'to_promote',
    --@ FIELDS 16..25 values -14
  }
end

local ranges = {
  all = { 2, ALL, with_all }, to_end = { 1, 21, to_end }, to_promote = { 16, 25, to_promote },
}

-- Reads the fields that a range has left out. Returns an error if they cannot be read.
local function read_the_rest(execution)
  local values = redis.pcall('HMGET', execution.core, unpack(FIELDS, 2))
  if values.err then
    return values.err
  end
  for index = 2, ALL do
    local name = FIELDS[index]
    if execution[name] == nil then
      execution[name] = values[index - 1]
    end
  end
  execution.range = nil
end

-- Reads an execution, once per call: a table of its fields, or nil if it is not found, or nil and an error.
-- `extra` names one more field to read; its value is the third result. `range` names the fields to read: 'all' if it is
-- nil, which leaves out the tags.
function ff.execution.load(call, uuid, extra, range)
  local known = call.loaded[uuid]
  if known then
    local problem = known.range and known.range ~= range and read_the_rest(known)
    if problem then
      return nil, problem
    end
    local value = extra and redis.pcall('HGET', known.core, extra)
    if type(value) == 'table' then
      return nil, value.err
    end
    return known, nil, value
  end
  local core, chosen = ff.keys.core(call.partition.tag, uuid), ranges[range or 'all']
  local values = redis.pcall('HMGET', core, extra or FIELDS[chosen[1]], unpack(FIELDS, chosen[1], chosen[2]))
  if values.err then
    return nil, values.err
  end
  if not values[2] then
    return nil
  end
  local execution = chosen[3](uuid, core, values)
  call.loaded[uuid] = execution
  return execution, nil, values[1]
end

-- The member of an execution in `open`: its uuid, followed by the id of its flow if it has one, so that the flow of a
-- lost record is still known.
function ff.execution.open_member(execution)
  return execution.flow_id and execution.uuid .. execution.flow_id or execution.uuid
end

-- The uuid and the flow id ('' for a solo execution) of a member of `open`.
function ff.execution.of_open_member(member)
  return string.sub(member, 1, 36), string.sub(member, 37)
end

function ff.execution.is_terminal(execution)
  return execution.ending or execution.lifecycle_phase == 'terminal'
end

-- Whether the attempt has timed out. Its lease is no longer extended and so bounds how long the handler may take to
-- stop; no other worker gets the execution before the lease ends.
function ff.execution.is_timed_out(call, execution)
  local timeout_at = ff.base.num(execution.timeout_at)
  if timeout_at == 0 or timeout_at > call.now then
    return false
  end
  local started = ff.base.num(redis.call('HGET', execution.core, 'started_at'))
  return ff.clock.attempt_end(timeout_at, started) <= call.now
end

-- Whether the lease is known to have reached a worker.
local function is_confirmed(execution)
  return execution.lease_seen == execution.lease_epoch
end

-- Whether this lease (epoch and attempt, as texts) is the one that counts.
function ff.execution.holds_lease(execution, epoch, attempt)
  return execution.lifecycle_phase == 'active' and execution.lease_epoch == epoch
    and execution.current_attempt_index == attempt
end

-- The execution that the holder of a lease wants to end as `outcome`: to be ended, or to be resumed if an earlier call
-- was interrupted. Otherwise nil and the reply: the one that an identical call got, or why the call is refused.
function ff.execution.owned(call, uuid, epoch, attempt, outcome)
  local range = outcome == 'success' and 'to_end' or 'all'
  local execution, problem, dependents = ff.execution.load(call, uuid, 'dependents', range)
  if problem then
    return nil, redis.error_reply(problem)
  elseif not execution then
    return nil, { 'not_found' }
  end
  execution.dependents = dependents
  if ff.execution.holds_lease(execution, epoch, attempt) then
    return execution
  end
  local same_lease = execution.lease_epoch == epoch and execution.current_attempt_index == attempt
  if execution.lifecycle_phase == 'terminal' then
    local by_this_call = outcome == 'failed' and execution.ended_by == epoch
    if same_lease and (execution.terminal_outcome == outcome or by_this_call) then
      if execution.log_pos and not redis.call('ZSCORE', call.partition.open, ff.execution.open_member(execution)) then
        return nil, { 'ok', '0' }
      end
      return execution
    end
    return nil, execution.log_pos and { 'ended', execution.terminal_outcome } or { 'lease_lost' }
  end
  if outcome == 'failed' and same_lease and execution.failed_epoch == epoch then
    return nil, { 'retry', redis.call('HGET', execution.core, 'backoff_now_ms') }
  end
  return nil, { 'lease_lost' }
end

-- A call plans no further ends once it has read BYTES_OF_ENDS.
local function charge(call, bytes)
  call.bytes_of_ends = call.bytes_of_ends + bytes
  if call.bytes_of_ends >= BYTES_OF_ENDS then
    call.ends_left = 0
  end
end

-- Reads the tags for the event, unless they were read with the execution.
local function read_tags(call, execution)
  execution.tags_json = execution.tags_json or redis.call('HGET', execution.core, 'tags_json') or '{}'
  charge(call, #execution.tags_json)
end

-- Plans the end of an execution and its effects. `fields` are further fields to write.
function ff.execution.finish(call, execution, outcome, reason, fields)
  execution.ending = true
  execution.terminal_outcome = outcome
  execution.failure_reason = reason
  execution.completed_at = call.now_text
  ff.execution.take_from_holder(call, execution)
  -- Sized for what most ends write besides, so that the table need not grow.
  execution.fields = fields or { nil, nil, nil, nil, nil, nil }
  call.ends[#call.ends + 1] = execution
  call.ends_left = call.ends_left - 1
  read_tags(call, execution)
  ff.flow.member_ended(call, execution)
  ff.dependents.plan(call, execution)
end

-- Plans to notify the process that holds the lease that the lease is lost. In a call of the holder itself `by_holder`
-- is set.
function ff.execution.take_from_holder(call, execution)
  local active = execution.public_state == 'active'
  if active and execution.lease_listener and not execution.by_holder and not execution.loss_planned then
    execution.loss_planned = true
    call.losses[#call.losses + 1] = execution
  end
end

-- Notifies the holders of the leases that this call has ended.
function ff.execution.announce_losses(call)
  local losses = call.losses
  for index = 1, #losses do
    local execution = losses[index]
    ff.queue.announce_loss(call.partition, execution.lease_listener, execution.uuid, execution.lease_epoch)
  end
end

-- Plans the cancellation of an execution whose flow is being cancelled. Returns whether it is.
function ff.execution.cancelled_with_flow(call, execution, fields)
  local flow = ff.flow.of(call, execution)
  if not (flow and flow.cancel_requested) then
    return false
  end
  ff.execution.finish(call, execution, 'cancelled', flow.cancel_reason, fields)
  return true
end

-- Reads what a completion needs of an ended execution's result: its length, and the result itself only if it may be
-- part of the event.
local function read_result(call, execution)
  local len = redis.call('HSTRLEN', execution.core, 'result')
  execution.result_len = len
  if len == 0 or len > call.inline_limit then
    return
  end
  local stored = redis.call('HMGET', execution.core, 'result', 'result_text')
  execution.result, execution.result_text = stored[1] or nil, stored[2] or nil
  charge(call, len)
end

-- Plans to complete an interrupted end.
function ff.execution.resume_end(call, execution)
  call.ends_left = call.ends_left - 1
  read_tags(call, execution)
  read_result(call, execution)
  execution.ending = true
  execution.resumed = true
  call.ends[#call.ends + 1] = execution
  ff.flow.member_ended(call, execution)
  ff.dependents.plan(call, execution)
end

-- Plans the success of an execution that `ff.execution.owned` has returned, or to complete its interrupted end.
function ff.execution.complete(call, execution, result, is_text)
  if execution.lifecycle_phase == 'terminal' then
    ff.execution.resume_end(call, execution)
    return
  end
  execution.by_holder = true
  execution.result, execution.result_text = result, is_text
  ff.execution.finish(call, execution, 'success')
end

-- Plans a change to a state that is not terminal: to 'waiting', or to 'delayed' until `due` (ms).
function ff.execution.move(call, execution, state, due, fields)
  execution.next_state = state
  execution.due = due
  ff.execution.touch(call, execution, fields)
end

-- Moves the delay and the deadline of a member of a flow that was submitted in parts: they were computed from the time
-- of its part (`times_from`), and count from the start of its flow. Returns the fields to write, or nil if nothing
-- changes.
function ff.execution.count_from_start(call, execution)
  local from = ff.base.num(execution.times_from)
  local flow = from > 0 and ff.flow.of(call, execution)
  if not flow then
    return nil
  end
  local by, fields = ff.flow.started_at(flow) - from, { 'times_from', '0' }
  for _, name in ipairs({ 'eligible_at', 'deadline_at' }) do
    local time = ff.base.num(execution[name])
    if time > 0 then
      execution[name] = ff.base.int(time + by)
      fields[#fields + 1] = name
      fields[#fields + 1] = execution[name]
    end
  end
  execution.times_from = '0'
  return fields
end

-- Collects in `call.missing` the index entries that an open execution lacks, and in its field `counted` the changes of
-- `count_from_start`.
function ff.execution.note_missing(call, execution)
  local counted = ff.execution.count_from_start(call, execution)
  if counted then
    call.missing.counted[#call.missing.counted + 1] = { execution.core, counted }
  end
  local partition, uuid, state = call.partition, execution.uuid, execution.public_state
  local index, score, member
  if state == 'waiting' then
    index, score, member = partition.ready, '0', execution.ready_member
  elseif state == 'delayed' then
    index, score, member = partition.delayed, execution.eligible_at, uuid
  elseif state == 'active' then
    index, score, member = partition.leases, execution.lease_expires_at, uuid
  end
  if index and not redis.call('ZSCORE', index, member) then
    call.missing[#call.missing + 1] = { index, score, member, state == 'waiting' and execution.lane_id }
  end
  if ff.base.num(execution.deadline_at) > 0 and not redis.call('ZSCORE', partition.deadlines, uuid) then
    call.missing[#call.missing + 1] = { partition.deadlines, execution.deadline_at, uuid }
  end
end

-- Writes the missing index entries. The changed times are written first, since the index entries are derived from them.
function ff.execution.add_missing(call)
  for _, entry in ipairs(call.missing.counted) do
    redis.call('HSET', entry[1], unpack(entry[2]))
  end
  for _, entry in ipairs(call.missing) do
    redis.call('ZADD', entry[1], entry[2], entry[3])
    if entry[4] then
      call.lanes[#call.lanes + 1] = entry[4]
    else
      ff.timers.note(call, tonumber(entry[2]))
    end
  end
end

-- Plans to write further fields.
function ff.execution.touch(call, execution, fields)
  local planned = execution.fields
  if not planned then
    execution.fields = fields or {}
  elseif fields then
    local count = #planned
    for index = 1, #fields do
      planned[count + index] = fields[index]
    end
  end
  if not execution.moving then
    execution.moving = true
    call.moves[#call.moves + 1] = execution
  end
end

-- Shortens the backoff by up to a fifth, depending on the execution's uuid and its number of failures: executions that
-- failed together retry at different times, and a repeated call computes the same backoff.
local function with_jitter(execution, failures, backoff)
  local fraction = (tonumber(string.sub(execution.uuid, -6), 16) + failures * 7919) * 48271 % 1000
  return backoff - math.floor(backoff * fraction / 5000)
end

local function reset(fields, name, stored)
  if ff.base.num(stored) > 0 then
    fields[#fields + 1] = name
    fields[#fields + 1] = '0'
  end
end

-- Plans a retry or the end after a failed attempt. Returns 'retry' and the backoff in ms, or 'ended' and 0. If the
-- worker itself reports the failure (`by_holder`), this work does not crash its process: the counts of expired leases
-- are reset.
function ff.execution.attempt_failed(call, execution, reason, retryable)
  local failures = ff.base.num(execution.failures) + 1
  local fields = { 'failures', ff.base.int(failures), 'last_error', reason, 'failed_epoch', execution.lease_epoch }
  if ff.execution.cancelled_with_flow(call, execution, { 'ended_by', execution.lease_epoch, unpack(fields) }) then
    return 'ended', 0
  end
  if not retryable or failures >= ff.base.num(execution.max_attempts) then
    ff.execution.finish(call, execution, 'failed', retryable and 'attempts_exhausted' or reason, fields)
    return 'ended', 0
  end
  if execution.by_holder then
    reset(fields, 'lease_expiries', execution.lease_expiries)
    reset(fields, 'lease_unseen', execution.lease_unseen)
  end
  local doubled = ff.base.num(execution.backoff_ms) * 2 ^ math.min(failures - 1, 40)
  local backoff = with_jitter(execution, failures, math.min(doubled, ff.base.num(execution.backoff_max_ms)))
  fields[#fields + 1] = 'backoff_now_ms'
  fields[#fields + 1] = ff.base.int(backoff)
  if backoff > 0 then
    ff.execution.move(call, execution, 'delayed', call.now + backoff, fields)
  else
    ff.execution.move(call, execution, 'waiting', nil, fields)
  end
  return 'retry', backoff
end

-- Plans what follows an expired lease. An unconfirmed lease may never have reached a worker, so it counts neither as an
-- expiry nor as a timeout; the next worker confirms its lease before it starts.
function ff.execution.lease_expired(call, execution)
  ff.execution.take_from_holder(call, execution)
  if not is_confirmed(execution) then
    local unseen = ff.base.int(ff.base.num(execution.lease_unseen) + 1)
    ff.execution.move(call, execution, 'waiting', nil, { 'lease_unseen', unseen })
    return
  end
  if ff.execution.is_timed_out(call, execution) then
    ff.execution.attempt_failed(call, execution, 'timeout', true)
    return
  end
  local expiries = ff.base.num(execution.lease_expiries) + 1
  local fields = { 'lease_expiries', ff.base.int(expiries) }
  if expiries >= ff.base.num(execution.max_lease_expiries) then
    ff.execution.finish(call, execution, 'failed', 'lease_expired', fields)
  else
    ff.execution.move(call, execution, 'waiting', nil, fields)
  end
end

-- Writes the core of an execution that ends, in one command.
function ff.execution.write_end(call, execution)
  if execution.resumed then
    return
  end
  local outcome, fields = execution.terminal_outcome, execution.fields
  local count = #fields
  local expected = ff.completion.expected_position(call, execution)
  if expected then
    fields[count + 1], fields[count + 2] = 'log_expected', expected
    count = count + 2
  end
  if execution.failure_reason then
    fields[count + 1], fields[count + 2] = 'failure_reason', execution.failure_reason
    count = count + 2
  end
  if execution.result and execution.result ~= '' then
    fields[count + 1], fields[count + 2] = 'result', execution.result
    fields[count + 3], fields[count + 4] = 'result_text', execution.result_text
    count = count + 4
  end
  redis.call('HSET', execution.core, 'lifecycle_phase', 'terminal', 'public_state', outcome,
    'terminal_outcome', outcome, 'completed_at', execution.completed_at, unpack(fields, 1, count))
end

-- Frees the payload, which only a worker needed. Comes after the end and its log entry, and before the execution leaves
-- the indexes.
function ff.execution.free_payload(execution)
  if execution.has_payload then
    redis.call('HDEL', execution.core, 'payload', 'large_payload', 'large_payload_len', 'has_payload')
  end
end

-- Writes an execution that changes without ending, and moves it between the indexes.
function ff.execution.write_move(call, execution)
  if execution.ending then
    return
  end
  local partition, state = call.partition, execution.next_state
  local fields = execution.fields
  local was_active, was_delayed = execution.public_state == 'active', execution.public_state == 'delayed'
  if state then
    local count = #fields
    fields[count + 1], fields[count + 2] = 'lifecycle_phase', PHASES[state]
    fields[count + 3], fields[count + 4] = 'public_state', state
    if state == 'waiting' then
      execution.ready_member = ff.queue.member(call, execution)
      fields[count + 5], fields[count + 6] = 'ready_member', execution.ready_member
    else
      fields[count + 5], fields[count + 6] = 'eligible_at', ff.base.int(execution.due)
    end
  end
  ff.base.chunked('HSET', execution.core, fields, 2)
  if state == 'waiting' then
    ff.queue.push(call, execution)
  elseif state == 'delayed' then
    redis.call('ZADD', partition.delayed, ff.base.int(execution.due), execution.uuid)
    ff.timers.note(call, execution.due)
  end
  if was_delayed and state == 'waiting' then
    redis.call('ZREM', partition.delayed, execution.uuid)
  end
  if was_active and state then
    redis.call('ZREM', partition.leases, execution.uuid)
  end
end
