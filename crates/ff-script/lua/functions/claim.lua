-- ff1_claim: hands out runnable executions of one lane under a lease.
-- KEYS   1..12 partition block
-- ARGV   1 lane, 2 worker, 3 how many at most (0: only pass the signal on), 4 lease ms, 5 listener to note if the
--        lane is empty ('' for none)
-- reply  '1' if the lane has more, else '0'; then per execution: uuid, flow id or '', name, namespace, tags as JSON,
--        payload, attempt, lease epoch, max attempts, timeout ms or 0
-- errors WRONGTYPE
-- flags  allow-oom
local FIELDS = {
  'execution_id', 'flow_id', 'name', 'namespace', 'tags_json', 'payload', 'current_attempt_index', 'lease_epoch',
  'max_attempts', 'timeout_ms', 'ready_member', 'public_state',
}
-- Members looked at beyond those wanted, in case some are out of date.
local SPARE = 16

local function read_candidate(call, member)
  local core = ff.keys.core(call.partition.tag, ff.queue.uuid(member))
  local values = redis.pcall('HMGET', core, unpack(FIELDS))
  if values.err or not values[1] then
    return nil
  end
  local candidate = { core = core, uuid = ff.queue.uuid(member), member = member }
  for index, name in ipairs(FIELDS) do
    candidate[name] = values[index] or nil
  end
  candidate.stale = candidate.public_state ~= 'waiting' or candidate.ready_member ~= member
  return candidate
end

-- Members of a flow that is being cancelled leave the queue too: whoever completes the cancellation finds them.
local function is_stale(call, candidate)
  local flow = not candidate.stale and ff.flow.of(call, candidate)
  return candidate.stale or (flow and flow.cancel_requested)
end

-- What to lease, what to take off the queue, and whether there is more to lease.
local function choose(call, members, wanted)
  local chosen, stale, more = {}, {}, false
  for _, member in ipairs(members) do
    local candidate = read_candidate(call, member)
    if candidate and is_stale(call, candidate) then
      stale[#stale + 1] = member
    elseif candidate and #chosen < wanted then
      chosen[#chosen + 1] = candidate
    elseif candidate then
      more = true
    end
  end
  -- Behind a window full of what goes away there may be work.
  return chosen, stale, more or (#stale > 0 and #members == wanted + SPARE)
end

local function lease(call, candidate, worker, lease_ms)
  local attempt = ff.base.num(candidate.current_attempt_index) + 1
  local epoch = ff.base.num(candidate.lease_epoch) + 1
  local timeout = ff.base.num(candidate.timeout_ms)
  local expires, timeout_at = call.now + lease_ms, timeout > 0 and call.now + timeout or 0
  candidate.attempt, candidate.epoch = ff.base.int(attempt), ff.base.int(epoch)
  -- First out of the queue: the reconciler puts back what is waiting and not in it, but nobody could know an entry
  -- that an interrupted claim has left there.
  redis.call('ZREM', call.partition.ready, candidate.member)
  redis.call('HSET', candidate.core, 'lifecycle_phase', 'active', 'public_state', 'active',
    'current_attempt_index', candidate.attempt, 'lease_epoch', candidate.epoch, 'lease_worker', worker,
    'lease_expires_at', ff.base.int(expires), 'started_at', ff.base.int(call.now),
    'timeout_at', ff.base.int(timeout_at))
  redis.call('ZADD', call.partition.leases, ff.base.int(ff.execution.lease_due(expires, timeout_at)), candidate.uuid)
end

local function claim(KEYS, ARGV)
  local lane, worker, wanted, lease_ms, listener = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
  local call = ff.call.begin(KEYS, '0 0 0')
  local members = ff.queue.peek(call.partition, lane, wanted + SPARE)
  local chosen, stale, more = choose(call, members, wanted)
  local reply = { more and '1' or '0' }
  for _, candidate in ipairs(chosen) do
    lease(call, candidate, worker, lease_ms)
    for _, value in ipairs({
      candidate.uuid, ff.base.text(candidate.flow_id), candidate.name, candidate.namespace, candidate.tags_json,
      ff.base.text(candidate.payload), candidate.attempt, candidate.epoch, candidate.max_attempts,
      candidate.timeout_ms or '0',
    }) do
      reply[#reply + 1] = value
    end
  end
  if #stale > 0 then
    redis.call('ZREM', call.partition.ready, unpack(stale))
  end
  if more then
    ff.queue.signal(call.partition, lane)
  elseif listener ~= '' then
    ff.queue.wait(call.partition, lane, listener)
  end
  return reply
end

redis.register_function({ function_name = 'ff1_claim', callback = claim, flags = { 'allow-oom' } })
