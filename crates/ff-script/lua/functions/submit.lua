-- ff1_submit: accepts a flow, or one solo execution, or writes a part of the members of a flow that is too large for
-- one call. Such a flow is invisible before ff1_start_flow, and its parts may be written again until then. A flow may
-- also be accepted as a whole after some of its parts were written: programs differ in what they send at once.
-- KEYS   1..12 partition block, 13 flow core (of a solo execution: its own core), then per member: core, tags
-- ARGV   1 policy, 2 flow id ('' for a solo execution), 3 namespace, 4 flow name, 5 fingerprint, 6 index in the flow of
--        the first member, 7 'whole' | 'first' (part of a flow) | 'further', then per member: uuid,
--        name, lane, priority, tags as JSON, payload, max attempts, backoff ms, longest backoff ms,
--        max lease expiries, delay ms, deadline ms (0 none), timeout ms (0 none), number of needs,
--        needs and dependents (uuids, comma-separated), number of tags, then key and value of each tag
-- reply  'ok' | 'exists' (with the same content) | 'conflict' (exists with other content) | 'restart' (a further part
--        of a flow whose earlier parts have expired)
-- errors WRONGTYPE, OOM
local FIRST_MEMBER, MEMBER_ARGUMENTS = 8, 17
-- A payload of this many bytes or more has its own field, so that a claim can weigh it without reading it.
local LARGE_PAYLOAD = 16384

local function read_members(KEYS, ARGV)
  local members, count, first = {}, 0, tonumber(ARGV[6])
  local at, key = FIRST_MEMBER, ff.keys.block + 2
  while at <= #ARGV do
    local tags = at + MEMBER_ARGUMENTS
    local member = {
      core = KEYS[key], tags_key = KEYS[key + 1],
      uuid = ARGV[at], name = ARGV[at + 1], lane_id = ARGV[at + 2], priority = ARGV[at + 3],
      tags_json = ARGV[at + 4], payload = ARGV[at + 5], max_attempts = ARGV[at + 6], backoff_ms = ARGV[at + 7],
      backoff_max_ms = ARGV[at + 8], max_lease_expiries = ARGV[at + 9], delay_ms = ARGV[at + 10],
      deadline_ms = ARGV[at + 11], timeout_ms = ARGV[at + 12], unmet_needs = ARGV[at + 13],
      needs = ARGV[at + 14], dependents = ARGV[at + 15], first_tag = tags,
      last_tag = tags + 2 * tonumber(ARGV[at + 16]) - 1, index = ff.base.int(first + count),
    }
    at, key, count = member.last_tag + 1, key + 2, count + 1
    members[count] = member
  end
  return members
end

-- The time `ms` (a text) from now, as a text; nil for never.
local function due(call, ms)
  return ms ~= '0' and ff.base.int(call.now + tonumber(ms)) or nil
end

-- Sets the initial state of a member.
local function begin_member(call, member)
  member.deadline_at = due(call, member.deadline_ms)
  member.eligible_at = due(call, member.delay_ms)
  if member.unmet_needs ~= '0' then
    member.state, member.phase = 'blocked', 'submitted'
  elseif member.eligible_at then
    member.state, member.phase = 'delayed', 'submitted'
  else
    member.state, member.phase = 'waiting', 'runnable'
    member.ready_member = ff.queue.member(call, member)
  end
end

-- The optional fields of an execution, and how many texts these are.
local function further_fields(call, member, ARGV)
  local flow_id, fingerprint, part = ARGV[2], ARGV[5], ARGV[7]
  -- Sized for what most executions have, so that the table need not grow.
  local fields, count = { nil, nil, nil, nil, nil, nil, nil, nil }, 0
  local function set(name, value)
    fields[count + 1], fields[count + 2] = name, value
    count = count + 2
  end
  if flow_id ~= '' then
    set('flow_id', flow_id)
    set('index', member.index)
  else
    set('fingerprint', fingerprint)
  end
  local payload_bytes = #member.payload
  if payload_bytes >= LARGE_PAYLOAD then
    set('large_payload', member.payload)
    set('large_payload_len', ff.base.int(payload_bytes))
    set('has_payload', '1')
  elseif payload_bytes > 0 then
    set('payload', member.payload)
    set('has_payload', '1')
  end
  if member.needs ~= '' then
    set('needs', member.needs)
  end
  if member.dependents ~= '' then
    set('dependents', member.dependents)
  end
  if member.timeout_ms ~= '0' then
    set('timeout_ms', member.timeout_ms)
  end
  if member.eligible_at then
    set('eligible_at', member.eligible_at)
  end
  if member.deadline_at then
    set('deadline_at', member.deadline_at)
  end
  if part ~= 'whole' and (member.eligible_at or member.deadline_at) then
    set('times_from', call.now_text)
  end
  if member.ready_member then
    set('ready_member', member.ready_member)
  end
  return fields, count
end

local function write_member(call, ARGV, member)
  local namespace = ARGV[3]
  begin_member(call, member)
  local further, count = further_fields(call, member, ARGV)
  redis.call('DEL', member.core, member.tags_key)
  if member.first_tag <= member.last_tag then
    redis.call('HSET', member.tags_key, unpack(ARGV, member.first_tag, member.last_tag))
  end
  redis.call('HSET', member.core,
    'execution_id', call.partition.tag .. ':' .. member.uuid, 'name', member.name, 'namespace', namespace,
    'lane_id', member.lane_id, 'priority', member.priority, 'tags_json', member.tags_json,
    'lifecycle_phase', member.phase, 'public_state', member.state, 'terminal_outcome', 'none',
    'created_at', call.now_text, 'current_attempt_index', '0', 'generation', '0', 'lease_epoch', '0',
    'unmet_needs', member.unmet_needs, 'max_attempts', member.max_attempts,
    'max_lease_expiries', member.max_lease_expiries, 'backoff_ms', member.backoff_ms,
    'backoff_max_ms', member.backoff_max_ms, unpack(further, 1, count))
end

local function write_flow(call, key, ARGV, members)
  local uuids = {}
  for index = 1, #members do
    uuids[index] = members[index].uuid
  end
  ff.flow.start(call, key, {
    id = ARGV[2], namespace = ARGV[3], name = ARGV[4], fingerprint = ARGV[5], members = table.concat(uuids, ','),
  })
end

local function index_members(call, members)
  local partition, lanes = call.partition, call.lanes
  local ready, delayed, deadlines = {}, {}, {}
  for _, member in ipairs(members) do
    if member.state == 'waiting' then
      ready[#ready + 1] = '0'
      ready[#ready + 1] = member.ready_member
      lanes[#lanes + 1] = member.lane_id
    elseif member.state == 'delayed' then
      delayed[#delayed + 1] = member.eligible_at
      delayed[#delayed + 1] = member.uuid
      ff.timers.note(call, tonumber(member.eligible_at))
    end
    if member.deadline_at then
      deadlines[#deadlines + 1] = member.deadline_at
      deadlines[#deadlines + 1] = member.uuid
      ff.timers.note(call, tonumber(member.deadline_at))
    end
  end
  ff.base.chunked('ZADD', partition.ready, ready, 2)
  ff.base.chunked('ZADD', partition.delayed, delayed, 2)
  ff.base.chunked('ZADD', partition.deadlines, deadlines, 2)
end

-- The open entries are written first, so that the reconciler finds a submission that is interrupted later: it discards
-- a member without the core of its flow, and otherwise repairs what is missing.
local function open_members(call, flow_id, members)
  local open = {}
  for index, member in ipairs(members) do
    open[2 * index - 1] = '0'
    open[2 * index] = ff.execution.open_member({ uuid = member.uuid, flow_id = flow_id ~= '' and flow_id })
  end
  ff.base.chunked('ZADD', call.partition.open, open, 2)
end

local function submit(KEYS, ARGV)
  local head = KEYS[ff.keys.block + 1]
  local flow_id, fingerprint, first, part = ARGV[2], ARGV[5], ARGV[6], ARGV[7]
  local call = ff.call.look(KEYS)
  local answer, in_parts = ff.flow.known(head, fingerprint, part)
  if answer then
    return { answer }
  end
  local members = read_members(KEYS, ARGV)
  open_members(call, flow_id, members)
  if part ~= 'whole' then
    ff.flow.keep_submitting(head, flow_id, fingerprint)
  end
  if in_parts then
    ff.flow.forget_parts(head, tonumber(first), #members)
  end
  for _, member in ipairs(members) do
    write_member(call, ARGV, member)
  end
  if part ~= 'whole' then
    ff.flow.record_part(head, first, #members)
    return { 'ok' }
  elseif in_parts then
    -- First, as in ff1_start_flow.
    redis.call('PERSIST', head)
  end
  if flow_id ~= '' then
    write_flow(call, head, ARGV, members)
  end
  index_members(call, members)
  ff.queue.signal_all(call)
  ff.timers.announce(call)
  return { 'ok' }
end

redis.register_function('ff1_submit', submit)
