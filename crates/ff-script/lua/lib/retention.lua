-- Forgetting: log entries by age, then the executions and flows that no log entry speaks of any more.

ff.retention = {}

-- Executions deleted per call, rounded up to whole flows.
local REMOVED_AT_ONCE = 256
local CANDIDATES_AT_ONCE = 32

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

local function postpone(partition, uuid, score)
  redis.call('ZADD', partition.ended, ff.base.int(score), uuid)
  return 0
end

-- Members stay as long as their flow does, and a flow as long as its youngest completion.
local function remove_flow(call, uuid, flow_id, cutoff)
  local core = ff.keys.flow(call.partition.tag, flow_id)
  local flow = redis.call('HMGET', core, 'state', 'completed_at', 'members')
  if not flow[1] then
    return remove_executions(call, { uuid })
  elseif flow[1] == 'running' then
    return postpone(call.partition, uuid, call.now)
  elseif ff.base.num(flow[2]) >= cutoff then
    return postpone(call.partition, uuid, ff.base.num(flow[2]))
  end
  local removed = remove_executions(call, ff.base.split(flow[3]))
  redis.call('UNLINK', core)
  return removed
end

-- Removes an execution, or the flow that it belongs to. Returns how many executions were removed.
local function remove(call, uuid, cutoff)
  local stored = redis.pcall('HMGET', ff.keys.core(call.partition.tag, uuid), 'execution_id', 'flow_id')
  if stored.err or not stored[1] then
    return postpone(call.partition, uuid, call.now)
  elseif stored[2] then
    return remove_flow(call, uuid, stored[2], cutoff)
  end
  return remove_executions(call, { uuid })
end

-- Returns how many executions were removed, and whether more are due.
function ff.retention.run(call, retention_ms)
  local cutoff = call.now - retention_ms
  local partition = call.partition
  local flows_done = ff.log.trim_before(partition.flow_log, cutoff)
  local solo_done = ff.log.trim_before(partition.solo_log, cutoff)
  if not (flows_done and solo_done) then
    return 0, true
  end
  local candidates = redis.call('ZRANGEBYSCORE', partition.ended, '-inf', '(' .. ff.base.int(cutoff), 'LIMIT', 0,
    CANDIDATES_AT_ONCE)
  local removed = 0
  call.gone = {}
  for _, uuid in ipairs(candidates) do
    if removed >= REMOVED_AT_ONCE then
      return removed, true
    end
    if not call.gone[uuid] then
      removed = removed + remove(call, uuid, cutoff)
    end
  end
  return removed, #candidates == CANDIDATES_AT_ONCE
end
