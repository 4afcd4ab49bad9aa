-- Timers that are due before the next regular sweep: the call that creates one announces it to the engines.
--
-- The engine that serves a partition sweeps it when the earliest timer that it knows of is due, and otherwise once per
-- interval, which is shorter than HORIZON. A timer is therefore announced only if it is due within the horizon and
-- earlier than the timer that was announced or reported last; the sweep for that one finds a later timer. A burst of
-- timers announces little, and a lease of 30 s announces nothing.

ff.timers = {}

-- How far ahead timers are announced (ms). The longest interval of a sweeper is shorter; limits.rs has the value for
-- Rust.
local HORIZON = 10000
-- How long an overdue timer counts as known (ms). After that time without a sweep its message was lost, and the next
-- timer is announced.
local OVERDUE = 1000

-- partition tag -> when the earliest timer is due (ms) that was announced, or reported by a sweep.
local known = {}

-- Plans to announce a timer that this call creates, due at a time in ms.
function ff.timers.note(call, due)
  if due - call.now < HORIZON and not call.reports_timers and (not call.timer or due < call.timer) then
    call.timer = due
  end
end

-- Announces the earliest timer that this call has created, as `<partition number> <ms until it is due>`. A lost message
-- only delays the timer until the next sweep.
function ff.timers.announce(call)
  local due = call.timer
  if not due then
    return
  end
  local tag = call.partition.tag
  local known_due = known[tag]
  if known_due and known_due <= due and known_due > call.now - OVERDUE then
    return
  end
  redis.pcall('PUBLISH', ff.keys.timers_channel,
    string.match(tag, '%d+') .. ' ' .. ff.base.int(math.max(due - call.now, 0)))
  known[tag] = due
end

-- Records the next due time (ms, or nil) that a sweep reports to its caller.
function ff.timers.reported(partition, due)
  known[partition.tag] = due
end

-- Announces that the set of engines has changed, so that they divide the partitions again.
function ff.timers.announce_engines()
  redis.pcall('PUBLISH', ff.keys.timers_channel, 'engines')
end
