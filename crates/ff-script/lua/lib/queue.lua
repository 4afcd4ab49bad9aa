-- What may be claimed, and who is told about it.

ff.queue = {}

local MAX_PRIORITY = 999
-- Digits of a time in ms, until the year 2286.
local TIME_DIGITS = 13
-- Waiting processes that are tried for one signal, in case the first ones are gone.
local SIGNAL_TRIES = '64'
-- How often a partition looks for processes that are gone (ms), and at how many of those that wait.
local PRUNE_INTERVAL = 60000
local PRUNED_AT_ONCE = 16

-- partition tag -> { at, after }: when this process last looked, and at whom last.
local pruned = {}

-- The range of a lane's members in `ready` and `waiters`: lanes hold no control characters.
local function lane_range(lane)
  return '[' .. lane .. '\n', '(' .. lane .. '\11'
end

-- Members sort by lane, priority (high first), time (old first), and place in the flow.
function ff.queue.member(call, execution)
  local time = call.now_text
  if #time < TIME_DIGITS then
    time = string.rep('0', TIME_DIGITS - #time) .. time
  end
  return string.format('%s\n%03d%s%04d:%s', execution.lane_id, MAX_PRIORITY - ff.base.num(execution.priority), time,
    ff.base.num(execution.index), execution.uuid)
end

-- The uuid at the end of a member.
function ff.queue.uuid(member)
  return string.sub(member, -36)
end

function ff.queue.peek(partition, lane, limit)
  local first, last = lane_range(lane)
  return redis.call('ZRANGEBYLEX', partition.ready, first, last, 'LIMIT', '0', ff.base.int(limit))
end

-- Puts a runnable execution into the queue; its core names the member.
function ff.queue.push(call, execution)
  redis.call('ZADD', call.partition.ready, '0', execution.ready_member)
  call.lanes[#call.lanes + 1] = execution.lane_id
end

-- Notes a process to be signalled when the lane gets work here.
function ff.queue.wait(partition, lane, listener)
  redis.call('ZADD', partition.waiters, '0', lane .. '\n' .. listener)
end

-- Whether somebody receives a message on a listener's channel.
local function reaches(listener, message)
  local receivers = redis.pcall('PUBLISH', ff.keys.wake_channel(listener), message)
  return type(receivers) == 'number' and receivers > 0
end

-- Tells a process that it has lost a lease, so that its handler need not go on until the next renewal.
function ff.queue.lost(partition, listener, uuid, epoch)
  reaches(listener, 'lost ' .. partition.tag .. ' ' .. uuid .. ' ' .. epoch)
end

local function listener_of(waiter)
  return string.sub(waiter, string.find(waiter, '\n', 1, true) + 1)
end

-- Signals one process that waits for this lane, passing over those that are gone.
function ff.queue.signal(partition, lane)
  local first, last = lane_range(lane)
  local waiters = redis.call('ZRANGEBYLEX', partition.waiters, first, last, 'LIMIT', '0', SIGNAL_TRIES)
  for _, waiter in ipairs(waiters) do
    redis.call('ZREM', partition.waiters, waiter)
    if reaches(listener_of(waiter), lane .. ' ' .. string.match(partition.tag, '%d+')) then
      return
    end
  end
end

-- Now and then takes processes that are gone off the list, also of lanes that get no more work. An empty message asks
-- whether somebody listens.
function ff.queue.prune(partition, now)
  local last = pruned[partition.tag] or { at = now - PRUNE_INTERVAL, after = '-' }
  pruned[partition.tag] = last
  if now >= last.at and now - last.at < PRUNE_INTERVAL then
    return
  end
  local waiters = redis.call('ZRANGEBYLEX', partition.waiters, last.after, '+', 'LIMIT', 0, PRUNED_AT_ONCE)
  for _, waiter in ipairs(waiters) do
    if not reaches(listener_of(waiter), '') then
      redis.call('ZREM', partition.waiters, waiter)
    end
  end
  local more = #waiters == PRUNED_AT_ONCE
  last.after = more and '(' .. waiters[#waiters] or '-'
  -- A long list is gone through without a pause.
  last.at = more and now - PRUNE_INTERVAL or now
end

-- Signals one process for each lane that this call gave work to.
function ff.queue.signal_all(call)
  local lanes = call.lanes
  if #lanes == 0 then
    return
  end
  local done = {}
  for index = 1, #lanes do
    local lane = lanes[index]
    if not done[lane] then
      done[lane] = true
      ff.queue.signal(call.partition, lane)
    end
  end
end
