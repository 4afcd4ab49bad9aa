-- ff1_enqueue: adds members of a flow that was submitted in parts to the queue, or to the delays and deadlines, which
-- count from the start of the flow. Skips a member that has progressed meanwhile, one whose flow does not exist or does
-- not list it, and one that another program has overwritten.
-- KEYS   1..12 partition block
-- ARGV   uuids
-- reply  'ok'
-- errors WRONGTYPE
-- flags  allow-oom (accepted work must go on when the server is full)
local function enqueue(KEYS, ARGV)
  local call = ff.call.look(KEYS)
  call.missing, call.flows, call.flow_list = { counted = {} }, {}, {}
  for index = 1, #ARGV do
    local execution, problem = ff.execution.load(call, ARGV[index])
    local flow, flow_problem = ff.flow.try(call, execution or {})
    problem = problem or flow_problem
    -- What another program has overwritten must not hold up the other members.
    if problem and not ff.base.is_overwritten(problem) then
      return redis.error_reply(problem)
    elseif not problem and flow and flow.state == 'running' and ff.flow.lists(flow, execution)
      and execution.lifecycle_phase ~= 'terminal' then
      ff.execution.note_missing(call, execution)
    end
  end
  ff.execution.add_missing(call)
  ff.queue.signal_all(call)
  ff.timers.announce(call)
  return { 'ok' }
end

redis.register_function({ function_name = 'ff1_enqueue', callback = enqueue, flags = { 'allow-oom' } })
