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
local function remove_flow(call, execution, cutoff)
  local core = ff.keys.flow(call.partition.tag, execution.flow_id)
  local flow = redis.call('HMGET', core, 'state', 'completed_at', 'members')
  if not flow[1] then
    return remove_executions(call, { execution.uuid })
  elseif flow[1] == 'running' then
    return postpone(call.partition, execution.uuid, call.now)
  elseif ff.base.num(flow[2]) >= cutoff then
    return postpone(call.partition, execution.uuid, ff.base.num(flow[2]))
  end
  local removed = remove_executions(call, ff.base.split(flow[3]))
  redis.call('UNLINK', core)
  return removed
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
    local execution = not call.gone[uuid] and ff.execution.load(call, uuid)
    if execution and execution.flow_id then
      removed = removed + remove_flow(call, execution, cutoff)
    elseif execution then
      removed = removed + remove_executions(call, { uuid })
    elseif not call.gone[uuid] then
      postpone(partition, uuid, call.now)
    end
  end
  return removed, #candidates == CANDIDATES_AT_ONCE
end
