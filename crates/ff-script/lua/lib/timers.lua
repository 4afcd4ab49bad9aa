-- Timers that are due before the next regular sweep: the call that creates one makes it known.
--
-- The engine that serves a partition sweeps it when the soonest timer that it knows of is due, and otherwise once per
-- interval, which is shorter than HORIZON. So a timer is announced only if it is due within the horizon and sooner than
-- what was announced or reported before: a later one is found by the sweep that the earlier one asks for. A burst of
-- timers announces little, and a lease of 30 s announces nothing.

ff.timers = {}

-- How far ahead timers are announced (ms). The longest interval of a sweeper is shorter; limits.rs spells it for Rust.
local HORIZON = 10000
-- How long after it was due a timer that nobody swept counts as known (ms). Then the message was lost, and the next
-- timer is announced again.
local OVERDUE = 1000

-- partition tag -> when the soonest timer is due (ms) that was announced, or reported by a sweep.
local known = {}

-- Plans to make a timer known that this call creates, due at a time in ms.
function ff.timers.note(call, due)
  if due - call.now < HORIZON and not call.reports_timers and (not call.timer or due < call.timer) then
    call.timer = due
  end
end

-- Announces the soonest timer that this call has created, as `<partition number> <ms until it is due>`. A lost message
-- costs time only.
function ff.timers.announce(call)
  local due = call.timer
  if not due then
    return
  end
  local tag = call.partition.tag
  local told = known[tag]
  if told and told <= due and told > call.now - OVERDUE then
    return
  end
  redis.pcall('PUBLISH', ff.keys.timers_channel,
    string.match(tag, '%d+') .. ' ' .. ff.base.int(math.max(due - call.now, 0)))
  known[tag] = due
end

-- Notes when something is due next (ms, or nil) that a sweep reports to its caller.
function ff.timers.reported(partition, due)
  known[partition.tag] = due
end

-- Tells the engines that their number has changed, so that they share the partitions again.
function ff.timers.tell_engines()
  redis.pcall('PUBLISH', ff.keys.timers_channel, 'engines')
end
