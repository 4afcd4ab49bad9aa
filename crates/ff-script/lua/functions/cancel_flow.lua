-- ff1_cancel_flow: cancels the members of a flow that have not ended, a bounded number of them per call. From the
-- first call on none of its members can start.
-- KEYS   1..12 partition block, 13 flow core
-- ARGV   1 policy, 2 flow id, 3 reason (UTF-8), 4 how many members earlier calls have visited, 5 how many to visit at
--        most
-- reply  'ok', cancelled, ended before, next offset or '' when done | 'not_found' | 'ended', state of the flow
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
  if not flow or flow.state == 'submitting' then
    return { 'not_found' }
  elseif flow.state ~= 'running' then
    return { 'ended', flow.state }
  end
  if not flow.cancel_requested then
    ff.flow.request_cancel(flow, reason)
  end
  local members = redis.call('HGET', core, 'members')
  local count = ff.uuids.count(members)
  local cancelled, done, last = 0, offset, math.min(offset + limit, count)
  while done < last and call.ends_left > 0 do
    done = done + 1
    if cancel_member(call, ff.uuids.at(members, done)) then
      cancelled = cancelled + 1
    end
  end
  ff.call.commit(call)
  return {
    'ok', ff.base.int(cancelled), ff.base.int(done - offset - cancelled), done < count and ff.base.int(done) or '',
  }
end

redis.register_function({ function_name = 'ff1_cancel_flow', callback = cancel_flow, flags = { 'allow-oom' } })
