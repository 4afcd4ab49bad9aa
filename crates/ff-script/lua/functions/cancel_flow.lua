-- ff1_cancel_flow: cancels the members of a flow that have not ended, a bounded number of them per call. From the
-- first call on none of its members can start.
-- KEYS   1..12 partition block, 13 flow core
-- ARGV   1 policy, 2 flow id, 3 reason (UTF-8), 4 offset of the first member, 5 how many members at most
-- reply  'ok', cancelled, ended before, offset to go on at or '' when done | 'not_found' | 'ended', state of the flow
-- errors WRONGTYPE
-- flags  allow-oom
local function cancel_member(call, uuid)
  local execution, problem = ff.execution.load(call, uuid)
  if problem and not ff.base.is_overwritten(problem) then
    error({ err = problem })
  end
  if not execution or ff.execution.is_terminal(execution) then
    return false
  end
  ff.execution.finish(call, execution, 'cancelled', call.reason)
  return true
end

local function cancel_flow(KEYS, ARGV)
  local core = KEYS[ff.keys.block + 1]
  local policy, flow_id, reason, offset, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
  local call = ff.call.begin(KEYS, policy)
  call.reason = reason
  local flow = ff.flow.load(call, flow_id, '')
  if not flow then
    return { 'not_found' }
  elseif flow.state ~= 'running' then
    return { 'ended', flow.state }
  end
  if not flow.cancel_requested then
    ff.flow.request_cancel(flow, reason)
  end
  local members = ff.base.split(redis.call('HGET', core, 'members'))
  local last = math.min(offset + limit, #members)
  local cancelled, before = 0, 0
  for index = offset + 1, last do
    if cancel_member(call, members[index]) then
      cancelled = cancelled + 1
    else
      before = before + 1
    end
  end
  ff.call.commit(call)
  return { 'ok', ff.base.int(cancelled), ff.base.int(before), last < #members and ff.base.int(last) or '' }
end

redis.register_function({ function_name = 'ff1_cancel_flow', callback = cancel_flow, flags = { 'allow-oom' } })
