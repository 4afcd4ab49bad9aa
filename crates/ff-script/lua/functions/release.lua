-- ff1_release: gives held leases back. The attempt counts neither as a failure nor as an expiry: the execution goes
-- back to the queue.
-- KEYS   1..12 partition block, then the core of each execution
-- ARGV   1 policy, then per execution: uuid, lease epoch, attempt
-- reply  per execution '1' back in the queue, or ended because its flow is being cancelled, by this call or by an
--        earlier one; '0' lease lost; '?' it, its flow or its log cannot be read, and the lease is unchanged
-- errors WRONGTYPE
-- flags  allow-oom
local FIRST = 2

-- Plans the return of an execution to the queue. Returns whether the worker held the lease.
local function give_back(call, execution, epoch, attempt)
  if ff.execution.holds_lease(execution, epoch, attempt) then
    execution.by_holder = true
    -- The caller may name a lease twice.
    local is_planned = execution.ending or execution.moving
    if not is_planned and not ff.execution.cancelled_with_flow(call, execution) then
      ff.execution.move(call, execution, 'waiting')
    end
    return true
  end
  local same_lease = execution.lease_epoch == epoch and execution.current_attempt_index == attempt
  if same_lease and execution.public_state == 'waiting' then
    -- An earlier call may have been interrupted before it reached the queue.
    call.released[#call.released + 1] = execution
    return true
  end
  return false
end

local function release(KEYS, ARGV)
  local call = ff.call.begin(KEYS, ARGV[1])
  call.released = {}
  local reply = {}
  for at = FIRST, #ARGV, 3 do
    local execution, problem = ff.execution.load(call, ARGV[at])
    local _, flow_problem = ff.flow.try(call, execution or {})
    if problem or flow_problem or execution and ff.completion.problem(call, execution) then
      reply[#reply + 1] = '?'
    else
      local own = execution and give_back(call, execution, ARGV[at + 1], ARGV[at + 2])
      reply[#reply + 1] = own and '1' or '0'
    end
  end
  for _, execution in ipairs(call.released) do
    ff.queue.push(call, execution)
  end
  ff.call.commit(call)
  return reply
end

redis.register_function({ function_name = 'ff1_release', callback = release, flags = { 'allow-oom' } })
