-- Flows: how many members are left, and how the flow ends.

ff.flow = {}

local FIELDS = { 'flow_id', 'state', 'total', 'remaining', 'unsuccessful', 'cancel_requested', 'cancel_reason' }

-- Reads a flow, once a call. Raises the error of a read that failed, since this comes before any write.
function ff.flow.load(call, flow_id)
  if call.flows[flow_id] then
    return call.flows[flow_id]
  end
  local core = ff.keys.flow(call.partition.tag, flow_id)
  local values = redis.call('HMGET', core, unpack(FIELDS))
  if not values[1] then
    return nil
  end
  local flow = { core = core, changes = {} }
  for index, name in ipairs(FIELDS) do
    flow[name] = values[index] or nil
  end
  flow.cancel_requested = flow.cancel_requested == '1'
  call.flows[flow_id] = flow
  call.flow_list[#call.flow_list + 1] = flow
  return flow
end

-- The flow of an execution; nil for a solo one.
function ff.flow.of(call, execution)
  return execution.flow_id and ff.flow.load(call, execution.flow_id)
end

-- Plans to count a member that ends. A member that was counted before is not counted again.
function ff.flow.member_ended(call, execution)
  local flow = ff.flow.of(call, execution)
  if not flow then
    return
  end
  local mark = 'ended:' .. execution.index
  if redis.call('HEXISTS', flow.core, mark) == 1 then
    return
  end
  local changes = flow.changes
  changes[#changes + 1] = mark
  changes[#changes + 1] = execution.terminal_outcome
  flow.remaining = ff.base.num(flow.remaining) - 1
  if execution.terminal_outcome == 'failed' or execution.terminal_outcome == 'expired' then
    flow.unsuccessful = ff.base.num(flow.unsuccessful) + 1
  end
  flow.ended_at = call.now
end

-- Plans to mark a flow as being cancelled: its members no longer start.
function ff.flow.request_cancel(flow, reason)
  flow.cancel_requested, flow.cancel_reason, flow.newly_cancelled = true, reason, true
end

-- Marks a flow as being cancelled. Comes before its first member ends, so that whoever completes an interrupted
-- cancellation cancels the rest.
function ff.flow.write_cancel(flow)
  if flow.newly_cancelled then
    redis.call('HSET', flow.core, 'cancel_requested', '1', 'cancel_reason', flow.cancel_reason)
  end
end

local function final_state(flow)
  if flow.cancel_requested then
    return 'cancelled'
  end
  return ff.base.num(flow.unsuccessful) > 0 and 'failed' or 'success'
end

-- Writes what was planned for a flow, in one command for as many members as a call can end.
function ff.flow.write(flow)
  local changes = flow.changes
  if #changes == 0 then
    return
  end
  local function set(name, value)
    changes[#changes + 1] = name
    changes[#changes + 1] = value
  end
  if flow.ended_at then
    set('remaining', ff.base.int(flow.remaining))
    set('unsuccessful', ff.base.int(ff.base.num(flow.unsuccessful)))
    if flow.remaining == 0 then
      set('state', final_state(flow))
      set('completed_at', ff.base.int(flow.ended_at))
    end
  end
  redis.call('HSET', flow.core, unpack(changes))
end
