-- ff1_describe_execution: reads an execution. One whose end is half-written still counts as active.
-- KEYS   1 the execution's core
-- ARGV   none
-- reply  nothing when it does not exist; else name, flow id, namespace, lane, priority, tags as JSON, phase, state,
--        outcome, reason, last error, attempt, failures, max attempts, unmet needs, generation, worker, created at,
--        started at, completed at, result; '' for a field that it does not have
-- errors WRONGTYPE
-- flags  no-writes
local FIELDS = {
  'name', 'flow_id', 'namespace', 'lane_id', 'priority', 'tags_json', 'lifecycle_phase', 'public_state',
  'terminal_outcome', 'failure_reason', 'last_error', 'current_attempt_index', 'failures', 'max_attempts',
  'unmet_needs', 'generation', 'lease_worker', 'created_at', 'started_at', 'completed_at', 'result', 'log_pos',
  'execution_id',
}

-- Whether an execution belongs to a flow that is not submitted as a whole yet.
local function is_submitting(flow_id, execution_id)
  local tag = flow_id and string.match(execution_id, '^{fp:%d+}')
  return tag and redis.pcall('HGET', ff.keys.flow(tag, flow_id), 'state') == 'submitting'
end

local function describe_execution(KEYS)
  local values = redis.call('HMGET', KEYS[1], unpack(FIELDS))
  if not values[1] or is_submitting(values[2], values[#FIELDS]) then
    return {}
  end
  local reply = {}
  for index = 1, #FIELDS - 2 do
    reply[index] = ff.base.text(values[index])
  end
  if reply[7] == 'terminal' and not values[#FIELDS - 1] then
    reply[7], reply[8], reply[9], reply[10], reply[20], reply[21] = 'active', 'active', 'none', '', '', ''
  end
  return reply
end

redis.register_function({ function_name = 'ff1_describe_execution', callback = describe_execution,
  flags = { 'no-writes' } })
