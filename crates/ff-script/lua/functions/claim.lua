-- ff1_claim: hands out runnable executions of one lane under a lease.
-- KEYS   1..12 partition block
-- ARGV   1 lane, 2 worker, 3 how many at most (0: only pass the signal on), 4 lease ms, 5 listener to note if the
--        lane is empty ('' for none)
-- reply  '1' if the lane has more, else '0'; then per execution: uuid, flow id or '', name, namespace, tags as JSON,
--        payload, attempt, lease epoch, max attempts, timeout ms or 0
-- errors WRONGTYPE
-- flags  allow-oom
local FIELDS = {
  'public_state', 'ready_member', 'flow_id', 'name', 'namespace', 'tags_json', 'payload', 'current_attempt_index',
  'lease_epoch', 'max_attempts', 'timeout_ms',
}
-- Members looked at beyond those wanted, in case some are out of date.
local SPARE = 16

-- What a member of the queue stands for; nil where it is not found, or not readable now.
local function read_candidate(call, member)
  local uuid = ff.queue.uuid(member)
  local core = ff.keys.core(call.partition.tag, uuid)
  local values = redis.pcall('HMGET', core, unpack(FIELDS))
  if values.err or not values[1] then
    return nil
  end
  return {
    core = core, uuid = uuid, member = member, stale = values[1] ~= 'waiting' or values[2] ~= member,
    flow_id = values[3], name = values[4], namespace = values[5], tags_json = values[6], payload = values[7],
    current_attempt_index = values[8], lease_epoch = values[9], max_attempts = values[10], timeout_ms = values[11],
  }
end

-- Members of a flow that is being cancelled leave the queue too: whoever completes the cancellation finds them.
local function is_stale(call, candidate)
  if candidate.stale or not candidate.flow_id then
    return candidate.stale
  end
  local cancelled, flow_id = call.cancelled, candidate.flow_id
  if cancelled[flow_id] == nil then
    cancelled[flow_id] = redis.call('HGET', ff.keys.flow(call.partition.tag, flow_id), 'cancel_requested') == '1'
  end
  return cancelled[flow_id]
end

-- What to lease, what to take off the queue, and whether there is more to lease. Looks no further than that takes.
local function choose(call, members, wanted)
  local chosen, stale = {}, {}
  for _, member in ipairs(members) do
    local candidate = read_candidate(call, member)
    if candidate and is_stale(call, candidate) then
      stale[#stale + 1] = member
    elseif candidate and #chosen < wanted then
      chosen[#chosen + 1] = candidate
    elseif candidate then
      return chosen, stale, true
    end
  end
  -- Behind a window full of what goes away there may be work.
  return chosen, stale, #stale > 0 and #members == wanted + SPARE
end

local function lease(call, candidate, worker, lease_ms)
  local timeout = ff.base.num(candidate.timeout_ms)
  local expires, timeout_at = call.now + lease_ms, timeout > 0 and call.now + timeout or 0
  candidate.attempt = ff.base.int(ff.base.num(candidate.current_attempt_index) + 1)
  candidate.epoch = ff.base.int(ff.base.num(candidate.lease_epoch) + 1)
  local expires_text = ff.base.int(expires)
  local due = ff.execution.lease_due(expires, timeout_at)
  -- First out of the queue: the reconciler puts back what is waiting and not in it, but nobody could know an entry
  -- that an interrupted claim has left there.
  redis.call('ZREM', call.partition.ready, candidate.member)
  redis.call('HSET', candidate.core, 'lifecycle_phase', 'active', 'public_state', 'active',
    'current_attempt_index', candidate.attempt, 'lease_epoch', candidate.epoch, 'lease_worker', worker,
    'lease_expires_at', expires_text, 'started_at', call.now_text, 'timeout_at', ff.base.int(timeout_at))
  redis.call('ZADD', call.partition.leases, due == expires and expires_text or ff.base.int(due), candidate.uuid)
end

-- Ten texts at a time of what a worker is told.
local function tell(reply, candidate)
  local at = #reply
  reply[at + 1] = candidate.uuid
  reply[at + 2] = candidate.flow_id or ''
  reply[at + 3] = candidate.name
  reply[at + 4] = candidate.namespace
  reply[at + 5] = candidate.tags_json
  reply[at + 6] = candidate.payload or ''
  reply[at + 7] = candidate.attempt
  reply[at + 8] = candidate.epoch
  reply[at + 9] = candidate.max_attempts
  reply[at + 10] = candidate.timeout_ms or '0'
end

local function claim(KEYS, ARGV)
  local lane, worker, wanted, lease_ms, listener = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
  local call = ff.call.look(KEYS)
  call.cancelled = {} -- flow id -> whether it is being cancelled
  local members = ff.queue.peek(call.partition, lane, wanted + SPARE)
  local chosen, stale, more = choose(call, members, wanted)
  -- Room for the first execution, so that the table need not grow.
  local reply = { more and '1' or '0', nil, nil, nil, nil, nil, nil, nil, nil, nil, nil }
  for _, candidate in ipairs(chosen) do
    lease(call, candidate, worker, lease_ms)
    tell(reply, candidate)
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
