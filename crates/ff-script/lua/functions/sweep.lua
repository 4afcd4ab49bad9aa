-- ff1_sweep: does a bounded amount of what is due in a partition: delays, leases, deadlines, pending dependents,
-- retention.
-- KEYS   1..12 partition block
-- ARGV   1 policy, 2 retention ms, 3 how long a repeated submission is recognised after that (ms; 0: not at all)
-- reply  released, reclaimed, ended, dependents resolved, removed, '1' if more is due now, ms until something is due
--        next or '', then uuid and flow id (or '') of each suspect, for ff1_settle
-- errors WRONGTYPE
-- flags  allow-oom

-- How many executions a call visits, and at least how many of each index.
local VISITS, LEAST_VISITS = 32, 6

-- How many entries of an index the call may visit.
local function visit_limit(call)
  return math.max(call.visits_left, LEAST_VISITS)
end

local function due(call, index)
  local entries = redis.call('ZRANGEBYSCORE', index, '-inf', ff.base.int(call.now), 'LIMIT', 0, visit_limit(call))
  call.visits_left = call.visits_left - #entries
  return entries
end

-- Visits the due entries of an index. Postpones an entry that cannot be handled, because its execution is not found or
-- because it, its flow or its log was overwritten by another program.
local function each_due(call, index, visit)
  local limit = visit_limit(call)
  local entries = due(call, index)
  for _, uuid in ipairs(entries) do
    if call.ends_left <= 0 then
      return true
    end
    local execution, problem = ff.execution.load(call, uuid)
    if not execution and not problem then
      ff.suspects.note(call, uuid)
    elseif execution then
      local _, flow_problem = ff.flow.try(call, execution)
      problem = flow_problem or ff.completion.problem(call, execution)
    end
    if problem and ff.base.is_overwritten(problem) or not (execution or problem) then
      call.postponed[#call.postponed + 1] = { index, uuid }
    end
    local untouched = execution and not problem and not execution.ending and not execution.moving
    local ended = untouched and execution.lifecycle_phase == 'terminal'
    if untouched and (ended or not ff.execution.cancelled_with_flow(call, execution)) then
      visit(execution)
    end
  end
  return #entries == limit
end

local function release(call, execution)
  if execution.public_state == 'delayed' then
    ff.execution.move(call, execution, 'waiting')
    call.released = call.released + 1
  else
    call.stale[#call.stale + 1] = { call.partition.delayed, execution.uuid }
  end
end

local function reclaim(call, execution)
  if execution.lifecycle_phase == 'terminal' then
    ff.execution.resume_end(call, execution)
  elseif execution.public_state ~= 'active' then
    call.stale[#call.stale + 1] = { call.partition.leases, execution.uuid }
  else
    -- A timed-out attempt keeps its lease until the lease ends: attempts do not overlap.
    local expires_at = ff.base.num(execution.lease_expires_at)
    local corrected = ff.clock.lease_end(expires_at, ff.base.num(execution.lease_ms))
    if expires_at <= call.now and corrected > call.now then
      call.corrected[#call.corrected + 1] = { execution, corrected }
    elseif expires_at <= call.now then
      ff.execution.lease_expired(call, execution)
      call.reclaimed = call.reclaimed + 1
    else
      -- A renewal was interrupted after it wrote the core.
      call.moved_due[#call.moved_due + 1] = { execution.uuid, execution.lease_expires_at }
    end
  end
end

local function expire(call, execution)
  if execution.lifecycle_phase == 'terminal' then
    ff.execution.resume_end(call, execution)
  else
    ff.execution.finish(call, execution, 'expired', 'deadline_exceeded')
  end
end

local function resolve_pending(call)
  local limit = visit_limit(call)
  local parents = redis.call('ZRANGE', call.partition.pending, 0, limit - 1)
  call.visits_left = call.visits_left - #parents
  local progress = false
  for _, uuid in ipairs(parents) do
    if call.dependents_left <= 0 then
      return true
    end
    local parent, problem = ff.execution.load(call, uuid)
    local flow_problem
    if parent then
      flow_problem = select(2, ff.flow.try(call, parent)) or ff.completion.problem(call, parent)
    elseif not problem then
      ff.suspects.note(call, uuid)
    end
    if parent and not parent.ending and not flow_problem then
      ff.dependents.plan(call, parent)
      progress = progress or parent.advanced or not parent.leaves_pending
      if not (parent.advanced or parent.leaves_pending) then
        call.stale[#call.stale + 1] = { call.partition.pending, uuid }
      end
    elseif not parent or flow_problem then
      call.postponed[#call.postponed + 1] = { call.partition.pending, uuid }
    end
  end
  return progress and #parents == limit
end

-- Moves the end of a lease after the clock was set. The entry in `leases` is never later than the core.
local function correct_lease(call, execution, expires_at)
  if execution.ending or execution.moving then
    return
  end
  local expires_text = ff.base.int(expires_at)
  local shorter = expires_at < ff.base.num(execution.lease_expires_at)
  if shorter then
    redis.call('ZADD', call.partition.leases, expires_text, execution.uuid)
  end
  redis.call('HSET', execution.core, 'lease_expires_at', expires_text)
  if not shorter then
    redis.call('ZADD', call.partition.leases, expires_text, execution.uuid)
  end
end

local function correct_indexes(call)
  for _, entry in ipairs(call.stale) do
    redis.call('ZREM', entry[1], entry[2])
  end
  for _, entry in ipairs(call.moved_due) do
    redis.call('ZADD', call.partition.leases, entry[2], entry[1])
  end
  for _, entry in ipairs(call.corrected) do
    correct_lease(call, entry[1], entry[2])
  end
  for _, entry in ipairs(call.postponed) do
    redis.call('ZADD', entry[1], ff.suspects.later(call), entry[2])
  end
end

local function first_score(index)
  local first = redis.call('ZRANGE', index, 0, 0, 'WITHSCORES')
  return tonumber(first[2])
end

-- When something is due next (ms), if anything is.
local function soonest(partition)
  local found
  for _, index in ipairs({ partition.delayed, partition.leases, partition.deadlines }) do
    local score = first_score(index)
    if score and (not found or score < found) then
      found = score
    end
  end
  return found
end

-- The earlier of two times, either of which may be absent.
local function earlier(one, other)
  return one and other and math.min(one, other) or one or other
end

local function reply(call, removed, more, due_at)
  ff.timers.reported(call.partition, due_at)
  return {
    ff.base.int(call.released), ff.base.int(call.reclaimed), ff.base.int(#call.ends), ff.base.int(call.resolved),
    ff.base.int(removed), more and '1' or '0', due_at and ff.base.int(math.max(due_at - call.now, 0)) or '',
    unpack(call.suspects),
  }
end

-- Most sweeps find nothing due and must be cheap.
local function is_idle(call, due_at, cutoff)
  local oldest = first_score(call.partition.ended)
  return (not due_at or due_at > call.now) and (not oldest or oldest >= cutoff)
    and redis.call('EXISTS', call.partition.pending) == 0
end

local function sweep(KEYS, ARGV)
  local policy, retention_ms, idempotency_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
  local call = ff.call.begin(KEYS, policy)
  -- The reply says when something is due next.
  call.reports_timers = true
  call.released, call.reclaimed, call.stale, call.moved_due, call.postponed, call.suspects = 0, 0, {}, {}, {}, {}
  call.visits_left = VISITS
  local partition = call.partition
  ff.queue.prune(partition, call.now)
  local remind_at = ff.queue.remind(partition, call.now)
  call.corrected = ff.leases.overlong(call)
  local due_at = soonest(partition)
  if #call.corrected == 0 and is_idle(call, due_at, call.now - retention_ms) then
    return reply(call, 0, false, earlier(due_at, remind_at))
  end
  local more = each_due(call, partition.deadlines, function(execution) expire(call, execution) end)
  more = each_due(call, partition.leases, function(execution) reclaim(call, execution) end) or more
  more = each_due(call, partition.delayed, function(execution) release(call, execution) end) or more
  more = resolve_pending(call) or more
  ff.call.commit(call)
  correct_indexes(call)
  local removed, more_to_remove = ff.retention.run(call, retention_ms, idempotency_ms, visit_limit(call))
  return reply(call, removed, more or more_to_remove, earlier(soonest(partition), remind_at))
end

redis.register_function({ function_name = 'ff1_sweep', callback = sweep, flags = { 'allow-oom' } })
