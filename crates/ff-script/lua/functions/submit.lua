-- ff1_submit: accepts a flow, or one solo execution.
-- KEYS   1..12 partition block, 13 flow core (of a solo execution: its own core), then per member: core, tags
-- ARGV   1 policy, 2 flow id ('' for a solo execution), 3 namespace, 4 flow name, 5 fingerprint, then per member:
--        uuid, name, lane, priority, tags as JSON, payload, max attempts, backoff ms, longest backoff ms,
--        max lease expiries, delay ms, deadline ms (0 none), timeout ms (0 none), number of needs,
--        needs and dependents (uuids, comma-separated), number of tags, then key and value of each tag
-- reply  'ok' | 'exists' (the same content is there already) | 'conflict' (other content is there)
-- errors WRONGTYPE, OOM
local MEMBER_ARGUMENTS = 17

local function read_members(KEYS, ARGV)
  local members = {}
  local at, key = 6, ff.keys.block + 2
  while at <= #ARGV do
    local member = {
      core = KEYS[key], tags_key = KEYS[key + 1],
      uuid = ARGV[at], name = ARGV[at + 1], lane_id = ARGV[at + 2], priority = ARGV[at + 3],
      tags_json = ARGV[at + 4], payload = ARGV[at + 5], max_attempts = ARGV[at + 6], backoff_ms = ARGV[at + 7],
      backoff_max_ms = ARGV[at + 8], max_lease_expiries = ARGV[at + 9], delay_ms = tonumber(ARGV[at + 10]),
      deadline_ms = tonumber(ARGV[at + 11]), timeout_ms = ARGV[at + 12], unmet_needs = ARGV[at + 13],
      needs = ARGV[at + 14], dependents = ARGV[at + 15], tags = {}, index = tostring(#members),
    }
    local tags = tonumber(ARGV[at + 16])
    at = at + MEMBER_ARGUMENTS
    for _ = 1, 2 * tags do
      member.tags[#member.tags + 1] = ARGV[at]
      at = at + 1
    end
    members[#members + 1] = member
    key = key + 2
  end
  return members
end

local function initial_state(member, now)
  if tonumber(member.unmet_needs) > 0 then
    return 'blocked', 'submitted'
  elseif member.delay_ms > 0 then
    return 'delayed', 'submitted'
  end
  member.ready_member = ff.queue.member(member, now)
  return 'waiting', 'runnable'
end

local function write_member(call, member, flow_id, namespace, fingerprint)
  local now = ff.base.int(call.now)
  local state, phase = initial_state(member, call.now)
  member.state = state
  local fields = {
    'execution_id', call.partition.tag .. ':' .. member.uuid, 'name', member.name, 'namespace', namespace,
    'lane_id', member.lane_id, 'priority', member.priority, 'tags_json', member.tags_json,
    'lifecycle_phase', phase, 'public_state', state, 'terminal_outcome', 'none', 'created_at', now,
    'current_attempt_index', '0', 'generation', '0', 'lease_epoch', '0', 'unmet_needs', member.unmet_needs,
    'max_attempts', member.max_attempts, 'max_lease_expiries', member.max_lease_expiries,
    'backoff_ms', member.backoff_ms, 'backoff_max_ms', member.backoff_max_ms,
  }
  local function set(name, value)
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
  if flow_id ~= '' then
    set('flow_id', flow_id)
    set('index', member.index)
  else
    set('fingerprint', fingerprint)
  end
  if member.payload ~= '' then
    set('payload', member.payload)
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
  if member.delay_ms > 0 then
    set('eligible_at', ff.base.int(call.now + member.delay_ms))
  end
  if member.deadline_ms > 0 then
    set('deadline_at', ff.base.int(call.now + member.deadline_ms))
  end
  if member.ready_member then
    set('ready_member', member.ready_member)
  end
  redis.call('DEL', member.core, member.tags_key)
  if #member.tags > 0 then
    redis.call('HSET', member.tags_key, unpack(member.tags))
  end
  redis.call('HSET', member.core, unpack(fields))
end

local function write_flow(call, key, flow_id, namespace, name, fingerprint, members)
  local uuids = {}
  for index, member in ipairs(members) do
    uuids[index] = member.uuid
  end
  redis.call('HSET', key, 'flow_id', flow_id, 'namespace', namespace, 'name', name, 'fingerprint', fingerprint,
    'state', 'running', 'total', #members, 'remaining', #members, 'unsuccessful', '0',
    'created_at', ff.base.int(call.now), 'members', table.concat(uuids, ','))
end

local function index_members(call, members)
  local partition = call.partition
  local delayed, deadlines = {}, {}
  for _, member in ipairs(members) do
    if member.state == 'waiting' then
      ff.queue.push(call, member)
    elseif member.state == 'delayed' then
      delayed[#delayed + 1] = ff.base.int(call.now + member.delay_ms)
      delayed[#delayed + 1] = member.uuid
    end
    if member.deadline_ms > 0 then
      deadlines[#deadlines + 1] = ff.base.int(call.now + member.deadline_ms)
      deadlines[#deadlines + 1] = member.uuid
    end
  end
  ff.base.chunked('ZADD', partition.delayed, delayed, 2)
  ff.base.chunked('ZADD', partition.deadlines, deadlines, 2)
end

-- The open entries come first, so that whatever is interrupted later is found by the reconciler: without the core of
-- its flow a member is discarded, with it what is missing is put right.
local function open_members(call, members)
  local open = {}
  for _, member in ipairs(members) do
    open[#open + 1] = '0'
    open[#open + 1] = member.uuid
  end
  ff.base.chunked('ZADD', call.partition.open, open, 2)
end

local function submit(KEYS, ARGV)
  local head = KEYS[ff.keys.block + 1]
  local policy, flow_id, namespace, name, fingerprint = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
  local call = ff.call.begin(KEYS, policy)
  local known = redis.call('HGET', head, 'fingerprint')
  if known then
    return { known == fingerprint and 'exists' or 'conflict' }
  end
  local members = read_members(KEYS, ARGV)
  open_members(call, members)
  for _, member in ipairs(members) do
    write_member(call, member, flow_id, namespace, fingerprint)
  end
  if flow_id ~= '' then
    write_flow(call, head, flow_id, namespace, name, fingerprint, members)
  end
  index_members(call, members)
  ff.queue.signal_all(call)
  return { 'ok' }
end

redis.register_function('ff1_submit', submit)
