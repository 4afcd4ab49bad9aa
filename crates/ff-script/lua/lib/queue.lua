-- The queue of claimable executions, and the signals to processes that wait for work.

ff.queue = {}

local MAX_PRIORITY = 999
-- Digits of a time in ms, until the year 2286.
local TIME_DIGITS = 13
-- The most waiting processes that are tried for one signal, in case the first ones are gone.
local SIGNAL_TRIES = '64'
-- How often a partition checks for processes that are gone (ms), and how many waiters it checks at once.
local PRUNE_INTERVAL = 60000
local PRUNED_AT_ONCE = 16

-- How long work waits for the signalled process before the next one is signalled (ms), and how many lanes of a
-- partition a sweep checks for such work.
local REMIND_AFTER = 1000
local REMINDED_AT_ONCE = 8
-- The most lanes whose last signal is remembered.
local REMEMBERED_LANES = 1000

-- partition tag -> { at, after }: when waiters were last checked, and the last waiter checked.
local pruned = {}
-- partition tag -> the start of the next check for waiting work.
local reminded = {}
-- lane -> the process that was signalled last in any partition, so that processes take turns.
local signalled, remembered = {}, 0

-- The range of a lane's members in `ready` and `waiters`: lanes hold no control characters.
local function lane_range(lane)
  return '[' .. lane .. '\n', '(' .. lane .. '\11'
end

-- Members sort by lane, priority (high first), time (old first), and index in the flow.
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

-- The first members of a lane, or the first after the member `after`.
function ff.queue.peek(partition, lane, limit, after)
  local first, last = lane_range(lane)
  first = after and '(' .. after or first
  return redis.call('ZRANGEBYLEX', partition.ready, first, last, 'LIMIT', '0', ff.base.int(limit))
end

-- Puts a runnable execution into the queue; its core names the member.
function ff.queue.push(call, execution)
  redis.call('ZADD', call.partition.ready, '0', execution.ready_member)
  call.lanes[#call.lanes + 1] = execution.lane_id
end

-- Records a process to be signalled when the lane gets work here.
function ff.queue.wait(partition, lane, listener)
  redis.call('ZADD', partition.waiters, '0', lane .. '\n' .. listener)
end

-- Sends a message on a listener's channel. Returns whether a process received it.
local function reaches(listener, message)
  local receivers = redis.pcall('PUBLISH', ff.keys.wake_channel(listener), message)
  return type(receivers) == 'number' and receivers > 0
end

-- Notifies a process that it has lost a lease, so that its handler does not run on until the next renewal.
function ff.queue.announce_loss(partition, listener, uuid, epoch)
  reaches(listener, 'lost ' .. partition.tag .. ' ' .. uuid .. ' ' .. epoch)
end

local function listener_of(waiter)
  return string.sub(waiter, string.find(waiter, '\n', 1, true) + 1)
end

local function remember(lane, listener)
  if not signalled[lane] then
    if remembered >= REMEMBERED_LANES then
      signalled, remembered = {}, 0
    end
    remembered = remembered + 1
  end
  signalled[lane] = listener
end

-- Processes that wait for this lane, beginning after the one that was signalled last.
local function waiters_in_turn(partition, lane)
  local first, last = lane_range(lane)
  local waiters = redis.call('ZRANGEBYLEX', partition.waiters, first, last, 'LIMIT', '0', SIGNAL_TRIES)
  local previous = signalled[lane]
  if not previous or #waiters < 2 then
    return waiters
  end
  previous = lane .. '\n' .. previous
  if #waiters == tonumber(SIGNAL_TRIES) then
    local next_ones = redis.call('ZRANGEBYLEX', partition.waiters, '(' .. previous, last, 'LIMIT', '0', SIGNAL_TRIES)
    return #next_ones > 0 and next_ones or waiters
  end
  local turned, count = {}, #waiters
  local start = 1
  while start <= count and waiters[start] <= previous do
    start = start + 1
  end
  for index = 0, count - 1 do
    turned[index + 1] = waiters[(start - 1 + index) % count + 1]
  end
  return turned
end

-- Signals one process that waits for this lane, skipping those that are gone.
function ff.queue.signal(partition, lane)
  for _, waiter in ipairs(waiters_in_turn(partition, lane)) do
    redis.call('ZREM', partition.waiters, waiter)
    local listener = listener_of(waiter)
    if reaches(listener, lane .. ' ' .. string.match(partition.tag, '%d+')) then
      remember(lane, listener)
      return
    end
  end
end

-- Signals the next process for lanes whose work waits although processes wait for it: the process that was signalled
-- cannot take the work or is gone. Returns when to check again (ms), if there is work.
function ff.queue.remind(partition, now)
  local from = reminded[partition.tag] or '-'
  local found = false
  for _ = 1, REMINDED_AT_ONCE do
    local member = redis.call('ZRANGEBYLEX', partition.ready, from, '+', 'LIMIT', '0', '1')[1]
    if not member then
      reminded[partition.tag] = nil
      break
    end
    if not found and redis.call('EXISTS', partition.waiters) == 0 then
      -- A process that comes later finds the work itself.
      return nil
    end
    found = true
    local lane, time = string.match(member, '^([^\n]*)\n%d%d%d(%d+)')
    local since = time and tonumber(string.sub(time, 1, TIME_DIGITS))
    -- Work from the future was queued before the clock was set back.
    if since and (now - since >= REMIND_AFTER or now < since) then
      ff.queue.signal(partition, lane)
    end
    from = '(' .. string.match(member, '^[^\n]*') .. '\11'
    reminded[partition.tag] = from
  end
  return found and now + REMIND_AFTER or nil
end

-- Periodically removes waiters that are gone, also of lanes that get no more work. An empty message tests whether a
-- process listens.
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
  -- A long list is checked without a pause.
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
