-- ff1_sweep: does what is due in a partition, a bounded piece of it: delays, leases, deadlines,
-- pending dependents, retention.
-- KEYS   1..12 partition block
-- ARGV   1 policy, 2 retention ms
-- reply  released, reclaimed, ended, dependents resolved, removed, '1' if more is due now, ms until something is due
--        next or ''
-- errors WRONGTYPE
-- flags  allow-oom
local DUE_AT_ONCE = 64
-- How long an entry is put off whose execution is not found (ms): it may be on its way to another node.
local LOST_FOR = 3600000

local function due(call, index)
  return redis.call('ZRANGEBYSCORE', index, '-inf', ff.base.int(call.now), 'LIMIT', 0, DUE_AT_ONCE)
end

-- Looks at what an index says is due; an entry whose execution is not found is put off.
local function each_due(call, index, visit)
  local entries = due(call, index)
  for _, uuid in ipairs(entries) do
    if call.ends_left <= 0 then
      return true
    end
    local execution, problem = ff.execution.load(call, uuid)
    if not execution and not problem then
      call.lost[#call.lost + 1] = { index, uuid }
    end
    local untouched = execution and not execution.ending and not execution.moving
    local ended = untouched and execution.lifecycle_phase == 'terminal'
    if untouched and (ended or not ff.execution.cancelled_with_flow(call, execution)) then
      visit(execution)
    end
  end
  return #entries == DUE_AT_ONCE
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
    -- An attempt that has used up its time stays its worker's until the lease ends: attempts do not overlap.
    if ff.base.num(execution.lease_expires_at) <= call.now then
      ff.execution.lease_expired(call, execution)
      call.reclaimed = call.reclaimed + 1
    else
      -- A renewal was interrupted after it had written the core.
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
  local parents = redis.call('ZRANGE', call.partition.pending, 0, DUE_AT_ONCE - 1)
  for _, uuid in ipairs(parents) do
    if call.dependents_left <= 0 then
      return true
    end
    local parent = ff.execution.load(call, uuid)
    if parent and not parent.ending then
      ff.dependents.plan(call, parent)
    end
  end
  return #parents == DUE_AT_ONCE
end

local function correct_indexes(call)
  for _, entry in ipairs(call.stale) do
    redis.call('ZREM', entry[1], entry[2])
  end
  for _, entry in ipairs(call.moved_due) do
    redis.call('ZADD', call.partition.leases, entry[2], entry[1])
  end
  for _, entry in ipairs(call.lost) do
    redis.call('ZADD', entry[1], ff.base.int(call.now + LOST_FOR), entry[2])
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
  return {
    ff.base.int(call.released), ff.base.int(call.reclaimed), ff.base.int(#call.ends), ff.base.int(call.resolved),
    ff.base.int(removed), more and '1' or '0', due_at and ff.base.int(math.max(due_at - call.now, 0)) or '',
  }
end

-- Most sweeps find nothing to do and should cost next to nothing.
local function is_idle(call, due_at, cutoff)
  local oldest = first_score(call.partition.ended)
  return (not due_at or due_at > call.now) and (not oldest or oldest >= cutoff)
    and redis.call('EXISTS', call.partition.pending) == 0
end

local function sweep(KEYS, ARGV)
  local policy, retention_ms = ARGV[1], tonumber(ARGV[2])
  local call = ff.call.begin(KEYS, policy)
  call.released, call.reclaimed, call.stale, call.moved_due, call.lost = 0, 0, {}, {}, {}
  local partition = call.partition
  ff.queue.prune(partition, call.now)
  local remind_at = ff.queue.remind(partition, call.now)
  local due_at = soonest(partition)
  if is_idle(call, due_at, call.now - retention_ms) then
    return reply(call, 0, false, earlier(due_at, remind_at))
  end
  local more = each_due(call, partition.deadlines, function(execution) expire(call, execution) end)
  more = each_due(call, partition.leases, function(execution) reclaim(call, execution) end) or more
  more = each_due(call, partition.delayed, function(execution) release(call, execution) end) or more
  more = resolve_pending(call) or more
  ff.call.commit(call)
  correct_indexes(call)
  local removed, more_to_remove = ff.retention.run(call, retention_ms)
  return reply(call, removed, more or more_to_remove, earlier(soonest(partition), remind_at))
end

redis.register_function({ function_name = 'ff1_sweep', callback = sweep, flags = { 'allow-oom' } })
