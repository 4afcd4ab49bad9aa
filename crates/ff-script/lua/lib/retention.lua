-- Retention: removes log entries by age, then the executions and flows that no log entry refers to any more.

ff.retention = {}

-- For how long the clock must have been stable before anything is deleted (ms), or for the retention if that is
-- shorter.
local STABLE_CLOCK = 600000
-- The fields of a core that are kept to recognise a repeated submission.
local KEPT_FIELDS = { fingerprint = true, state = true, terminal_outcome = true }

-- Whether the id is derived from an idempotency key (UUIDv5): others cannot be submitted again.
local function is_derived(uuid)
  return string.sub(uuid, 15, 15) == '5'
end

-- Deletes the core of a flow or a solo execution, or reduces it to KEPT_FIELDS for the time of the policy, so that a
-- repeated submission is recognised. Everywhere else a reduced core counts as not found. The expiry is set first, so
-- that no core stays forever if the call is interrupted.
local function delete_head(call, core, uuid)
  if call.idempotency_ms <= 0 or not is_derived(uuid) then
    redis.call('UNLINK', core)
    return
  end
  redis.call('PEXPIRE', core, ff.base.int(call.idempotency_ms))
  local dropped = {}
  for _, name in ipairs(redis.call('HKEYS', core)) do
    if not KEPT_FIELDS[name] then
      dropped[#dropped + 1] = name
    end
  end
  ff.base.chunked('HDEL', core, dropped)
end

local function remove_solo(call, uuid)
  local partition = call.partition
  delete_head(call, ff.keys.core(partition.tag, uuid), uuid)
  redis.call('UNLINK', ff.keys.tags(partition.tag, uuid))
  redis.call('ZREM', partition.ended, uuid)
  return 1
end

-- The flow id of a flow's member of `ended`; nil for an execution's.
local function flow_of_member(member)
  return string.match(member, '^flow:(.+)$')
end

local function remove_executions(call, uuids)
  local partition, keys = call.partition, {}
  for _, uuid in ipairs(uuids) do
    call.gone[uuid] = true
    keys[#keys + 1] = ff.keys.core(partition.tag, uuid)
    keys[#keys + 1] = ff.keys.tags(partition.tag, uuid)
  end
  for first = 1, #keys, 1000 do
    redis.call('UNLINK', unpack(keys, first, math.min(first + 999, #keys)))
  end
  ff.base.chunked('ZREM', partition.ended, uuids)
  return #uuids
end

local function postpone(partition, member, score)
  redis.call('ZADD', partition.ended, ff.base.int(score), member)
  return 0
end

-- Removes the flow to which the entry `member` of `ended` belongs: the flow's own entry, or that of its member `uuid`.
-- Members stay at least as long as their flow does, and a flow as long as its newest completion.
local function remove_flow(call, member, uuid, flow_id, cutoff)
  local core = ff.keys.flow(call.partition.tag, flow_id)
  local flow = redis.pcall('HMGET', core, 'state', 'completed_at', 'members')
  if flow.err then
    return postpone(call.partition, member, call.now)
  elseif flow[1] == 'running' or flow[1] == 'submitting' then
    return postpone(call.partition, member, call.now)
  elseif not flow[3] and uuid then
    return remove_executions(call, { uuid })
  elseif flow[3] and ff.base.num(flow[2]) >= cutoff then
    return postpone(call.partition, member, ff.base.num(flow[2]))
  end
  -- The flow is deleted first: without its list of members, each member is removed by its own entry in `ended`. So are
  -- the members beyond this call's bound.
  local uuids = { uuid }
  if flow[3] then
    for place = 1, math.min(ff.uuids.count(flow[3]), call.removals_left) do
      local other = ff.uuids.at(flow[3], place)
      uuids[#uuids + 1] = other ~= uuid and other or nil
    end
    delete_head(call, core, flow_id)
  end
  local removed = remove_executions(call, uuids)
  -- Last, so that this entry still finds the flow after an interruption.
  redis.call('ZREM', call.partition.ended, ff.flow.ended_member(flow_id))
  call.gone[ff.flow.ended_member(flow_id)] = true
  return removed
end

-- Removes the execution of a member of `ended`, or the whole flow that it belongs to. Returns how many executions were
-- removed.
local function remove(call, member, cutoff)
  local flow_id = flow_of_member(member)
  if flow_id and not call.flows_done then
    return postpone(call.partition, member, call.now)
  elseif flow_id then
    return remove_flow(call, member, nil, flow_id, cutoff)
  end
  local uuid = member
  local stored = redis.pcall('HMGET', ff.keys.core(call.partition.tag, uuid), 'execution_id', 'flow_id')
  if not stored.err and not stored[1] then
    ff.suspects.note(call, uuid)
  end
  if stored.err or not stored[1] then
    return postpone(call.partition, uuid, call.now)
  elseif not (stored[2] and call.flows_done or not stored[2] and call.solo_done) then
    return postpone(call.partition, uuid, call.now)
  elseif stored[2] then
    return remove_flow(call, uuid, uuid, stored[2], cutoff)
  end
  return remove_solo(call, uuid)
end

-- Whether a log has no entry from before `cutoff` left; nil if another program has overwritten the log, which holds up
-- the removal of the executions of this log only.
local function trimmed(log, cutoff)
  local length = redis.pcall('XLEN', log)
  if type(length) == 'table' and ff.base.is_overwritten(length.err) then
    return nil
  end
  return ff.log.trim_before(log, cutoff)
end

-- Deletes up to `limit` executions, or more if the last of them belongs to a flow. Returns how many were removed, and
-- whether more are due.
function ff.retention.run(call, retention_ms, idempotency_ms, limit)
  if ff.clock.stable_for(call.now) < math.min(STABLE_CLOCK, retention_ms) then
    return 0, false
  end
  call.idempotency_ms = idempotency_ms
  local cutoff = call.now - retention_ms
  local partition = call.partition
  local flows_done, solo_done = trimmed(partition.flow_log, cutoff), trimmed(partition.solo_log, cutoff)
  if flows_done == false or solo_done == false then
    return 0, true
  end
  local candidates = redis.call('ZRANGEBYSCORE', partition.ended, '-inf', '(' .. ff.base.int(cutoff), 'LIMIT', 0,
    limit)
  local removed = 0
  call.gone, call.flows_done, call.solo_done = {}, flows_done, solo_done
  for _, member in ipairs(candidates) do
    call.removals_left = limit - removed
    if call.removals_left <= 0 then
      return removed, true
    end
    if not call.gone[member] then
      removed = removed + remove(call, member, cutoff)
    end
  end
  return removed, #candidates == limit
end
