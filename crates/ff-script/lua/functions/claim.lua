-- ff1_claim: leases runnable executions of one lane to a worker. A repeated claim gets the executions that its first
-- call took, as far as the claim still holds them.
-- KEYS   1..12 partition block, 13 the worker's last claim here
-- ARGV   1 lane, 2 worker, 3 how many at most (0: only signal the next waiter), 4 lease ms, 5 listener to note if the
--        lane is empty ('' for none), 6 claim id ('' for a claim that is never repeated)
-- reply  '1' if the lane has more, else '0'; then per execution: uuid, flow id or '', name, namespace, tags as JSON,
--        payload, attempt, lease epoch, max attempts, timeout ms or 0, how many of its leases expired unconfirmed
-- errors WRONGTYPE
-- flags  allow-oom
local FIELDS = {
  'public_state', 'ready_member', 'flow_id', 'name', 'namespace', 'tags_json', 'payload', 'current_attempt_index',
  'lease_epoch', 'max_attempts', 'timeout_ms', 'lease_unseen', 'large_payload_len',
}
-- The most executions that a call leases, and the queue members that it reads beyond the first ones if it cannot lease
-- some of these.
local LEASED_AT_ONCE, MORE_AT_ONCE = 40, 16
-- The most bytes of payloads and tags in one reply, unless the first execution has more.
local BYTES_AT_ONCE = 262144

-- The fields that a lease needs; nil if the execution cannot be read now. Nil and true if it is not found or was
-- overwritten by another program.
local function read_execution(call, uuid)
  local core = ff.keys.core(call.partition.tag, uuid)
  local values = redis.pcall('HMGET', core, unpack(FIELDS))
  if values.err and not ff.base.is_overwritten(values.err) then
    return nil
  elseif not values[1] then
    return nil, true
  end
  return {
    core = core, uuid = uuid,
    --@ FIELDS 1..13 values +0
  }
end

local function bytes_of(execution)
  local len = execution.large_payload_len
  return #execution.tags_json + (len and tonumber(len) or execution.payload and #execution.payload or 0)
end

local function take_next(candidate)
  candidate.attempt = ff.base.int(ff.base.num(candidate.current_attempt_index) + 1)
  candidate.epoch = ff.base.int(ff.base.num(candidate.lease_epoch) + 1)
end

-- The execution of a queue member. A member whose execution is not found is removed from the queue, so that it does not
-- block others: the reconciler settles lost executions and queues the others again.
local function read_candidate(call, member)
  local candidate, absent = read_execution(call, ff.queue.uuid(member))
  if absent then
    return { stale = true }
  elseif candidate then
    candidate.stale = candidate.public_state ~= 'waiting' or candidate.ready_member ~= member
    take_next(candidate)
  end
  return candidate
end

-- Members of a flow that is being cancelled leave the queue too: the cancellation finds them by the flow's list.
local function is_stale(call, candidate)
  if candidate.stale or not candidate.flow_id then
    return candidate.stale
  end
  local cancelled, flow_id = call.cancelled, candidate.flow_id
  if cancelled[flow_id] == nil then
    cancelled[flow_id] = redis.pcall('HGET', ff.keys.flow(call.partition.tag, flow_id), 'cancel_requested') == '1'
  end
  return cancelled[flow_id]
end

-- Chooses from some members of the queue. Returns whether the choice is complete, and then whether there may be more to
-- lease. The record behind the last one that is wanted is not read: its payload may be long. A call that wants none
-- reads it, because its caller relies on the answer.
local function choose_from(call, members, wanted, choice)
  local chosen, stale = choice.chosen, choice.stale
  for index = 1, #members do
    if wanted > 0 and #chosen == wanted then
      return true, true
    end
    local candidate = read_candidate(call, members[index])
    if candidate and is_stale(call, candidate) then
      stale[#stale + 1] = members[index]
    elseif candidate and wanted > 0 and (#chosen == 0 or bytes_of(candidate) <= choice.bytes_left) then
      chosen[#chosen + 1] = candidate
      choice.bytes_left = choice.bytes_left - bytes_of(candidate)
    elseif candidate then
      return true, true
    end
  end
  return false, false
end

-- The executions to lease, the members to remove from the queue, and whether there may be more to lease.
local function choose(call, lane, wanted)
  local choice = { chosen = {}, stale = {}, bytes_left = BYTES_AT_ONCE }
  -- One more than wanted, to know whether there is more.
  local members = ff.queue.peek(call.partition, lane, wanted + 1)
  local complete, more = choose_from(call, members, wanted, choice)
  if not complete and #members == wanted + 1 then
    -- Some members were stale or could not be read; there may be work behind them.
    members = ff.queue.peek(call.partition, lane, MORE_AT_ONCE, members[#members])
    complete, more = choose_from(call, members, wanted, choice)
    more = more or not complete and #choice.stale > 0 and #members == MORE_AT_ONCE
  end
  return choice.chosen, choice.stale, more
end

local function lease(call, candidate, worker, listener, lease_ms)
  local timeout = ff.base.num(candidate.timeout_ms)
  local expires_text, timeout_at = ff.base.int(call.now + lease_ms), timeout > 0 and call.now + timeout or 0
  -- Out of the queue first: if the call stops here, the reconciler queues the waiting execution again. A queue entry
  -- of an active execution would look like work.
  redis.call('ZREM', call.partition.ready, candidate.ready_member)
  redis.call('HSET', candidate.core, 'lifecycle_phase', 'active', 'public_state', 'active',
    'current_attempt_index', candidate.attempt, 'lease_epoch', candidate.epoch, 'lease_worker', worker,
    'lease_listener', listener, 'lease_expires_at', expires_text, 'lease_ms', ff.base.int(lease_ms),
    'started_at', call.now_text, 'timeout_at', ff.base.int(timeout_at))
  redis.call('ZADD', call.partition.leases, expires_text, candidate.uuid)
end

-- The text of a claim's record: the claim's id, then the uuid and lease epoch of each execution.
local function describe(claim_id, chosen)
  local parts = {}
  for index = 1, #chosen do
    parts[index] = chosen[index].uuid .. ':' .. chosen[index].epoch
  end
  return claim_id .. ' ' .. table.concat(parts, ',')
end

-- The executions that an earlier call of this claim took and still holds, or was about to take; nil if this is the
-- first call, which then records what it has chosen. The record is written before the first lease, so it names every
-- leased execution. It is never replaced by a repetition, not even by one that is interrupted.
local function taken_before(call, key, claim_id, chosen, lease_ms)
  local stored = redis.pcall('GET', key)
  if type(stored) == 'table' and not ff.base.is_overwritten(stored.err) then
    error(stored)
  end
  -- A key of another type, which another program wrote in its place, is replaced.
  if type(stored) ~= 'string' or string.sub(stored, 1, #claim_id + 1) ~= claim_id .. ' ' then
    if #chosen > 0 then
      redis.call('SET', key, describe(claim_id, chosen), 'PX', lease_ms)
    end
    return nil
  end
  redis.call('PEXPIRE', key, lease_ms)
  local taken = {}
  for uuid, epoch in string.gmatch(string.sub(stored, #claim_id + 2), '([^:,]+):(%d+)') do
    local execution = read_execution(call, uuid)
    if execution and execution.public_state == 'active' and execution.lease_epoch == epoch then
      execution.attempt, execution.epoch, execution.is_held = execution.current_attempt_index, epoch, true
      taken[#taken + 1] = execution
    elseif execution and execution.public_state == 'waiting' then
      take_next(execution)
      taken[#taken + 1] = execution.epoch == epoch and not is_stale(call, execution) and execution or nil
    end
  end
  return taken
end

-- Extends a lease that this claim already holds to its full length, and repairs the index after an interrupted call.
-- The time of an attempt begins again unless a worker has confirmed the lease: the first reply may have been lost.
local function lease_again(call, execution, lease_ms)
  local stored = redis.call('HMGET', execution.core, 'lease_expires_at', 'lease_seen')
  local expires = ff.base.int(math.max(call.now + lease_ms, ff.base.num(stored[1])))
  local fields, timeout = { 'lease_expires_at', expires }, ff.base.num(execution.timeout_ms)
  if timeout > 0 and stored[2] ~= execution.epoch then
    fields[3], fields[4] = 'started_at', call.now_text
    fields[5], fields[6] = 'timeout_at', ff.base.int(call.now + timeout)
  end
  redis.call('HSET', execution.core, unpack(fields))
  redis.call('ZADD', call.partition.leases, expires, execution.uuid)
end

local function payload_of(candidate)
  if candidate.large_payload_len then
    return redis.call('HGET', candidate.core, 'large_payload') or ''
  end
  return candidate.payload or ''
end

-- Appends an execution to the reply, as eleven texts.
local function append_claimed(reply, candidate)
  local at = #reply
  reply[at + 1] = candidate.uuid
  reply[at + 2] = candidate.flow_id or ''
  reply[at + 3] = candidate.name
  reply[at + 4] = candidate.namespace
  reply[at + 5] = candidate.tags_json
  reply[at + 6] = payload_of(candidate)
  reply[at + 7] = candidate.attempt
  reply[at + 8] = candidate.epoch
  reply[at + 9] = candidate.max_attempts
  reply[at + 10] = candidate.timeout_ms or '0'
  reply[at + 11] = candidate.lease_unseen or '0'
end

local function claim(KEYS, ARGV)
  local lane, worker, wanted, lease_ms, listener = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
  wanted = math.min(wanted, LEASED_AT_ONCE)
  local claim_id = ARGV[6]
  local call = ff.call.look(KEYS)
  call.cancelled = {} -- flow id -> whether it is being cancelled
  local chosen, stale, more = choose(call, lane, wanted)
  local taken = claim_id ~= '' and taken_before(call, KEYS[ff.keys.block + 1], claim_id, chosen, ARGV[4])
  if taken then
    more = more or #chosen > 0
    chosen = taken
  end
  -- Sized for the first execution, so that the table need not grow.
  local reply = { more and '1' or '0', nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil }
  for _, candidate in ipairs(chosen) do
    if candidate.is_held then
      lease_again(call, candidate, lease_ms)
    else
      lease(call, candidate, worker, listener, lease_ms)
    end
    append_claimed(reply, candidate)
  end
  if #stale > 0 then
    redis.call('ZREM', call.partition.ready, unpack(stale))
  end
  if more then
    ff.queue.signal(call.partition, lane)
  elseif listener ~= '' then
    ff.queue.wait(call.partition, lane, listener)
  end
  if #chosen > 0 then
    ff.timers.note(call, call.now + lease_ms)
  end
  ff.timers.announce(call)
  return reply
end

redis.register_function({ function_name = 'ff1_claim', callback = claim, flags = { 'allow-oom' } })
