-- Detects changes of the server's clock. Leases and retention depend on elapsed time, not on a clock that was set.
--
-- Every call records its time here. A long time between two calls is a leap: either the clock was set, or the server
-- answered nobody meanwhile, so that no lease could be renewed. The observations live in this library's memory only: a
-- new process knows of no leap, and its clock counts as not yet stable.

ff.clock = {}

-- A leap ahead (ms): longer than the time between two calls of a live deployment.
local LEAP = 10000
-- Longer than the time between two passes of a sweeper (ms).
local LONG_LEAP = 120000
-- A step back (ms): larger than the steps of a clock that is being adjusted.
local STEP_BACK = 1000
local KEPT_LEAPS = 8

-- The time of the last call, since when the clock has been stable, the latest leaps ahead, and how often it went back.
local seen, since, leaps, turns = nil, nil, {}, 0

local function leapt_ahead(now)
  leaps[#leaps + 1] = { from = seen, to = now }
  if #leaps > KEPT_LEAPS then
    table.remove(leaps, 1)
  end
  if now - seen > LONG_LEAP then
    since = now
  end
end

-- A step back shortens the leaps ahead that it undoes: leases that expired within such a leap expired by the clock
-- only.
local function went_back(now)
  local kept = {}
  for _, leap in ipairs(leaps) do
    if leap.from < now then
      kept[#kept + 1] = { from = leap.from, to = math.min(leap.to, now) }
    end
  end
  leaps, since, turns = kept, now, turns + 1
end

-- Records the time of a call.
function ff.clock.note(now)
  if not seen then
    since = now
  elseif now - seen > LEAP then
    leapt_ahead(now)
  elseif now < seen - STEP_BACK then
    went_back(now)
  end
  seen = now
end

-- For how long the clock has been stable (ms): since the last leap longer than any pause of a sweeper, or step back.
function ff.clock.stable_for(now)
  return now - since
end

-- The end of a lease of this length, corrected for leaps: a lease that expired within a leap has after the leap the
-- time that was left before it. A lease that was given after the leap is not corrected, although its end may lie within
-- the leap if the clock was adjusted back afterwards.
function ff.clock.lease_end(expires_at, lease_ms)
  for _, leap in ipairs(leaps) do
    local held = expires_at - lease_ms <= leap.from + STEP_BACK
    if held and expires_at > leap.from and expires_at <= leap.to then
      expires_at = leap.to + (expires_at - leap.from)
    end
  end
  return expires_at
end

-- The end of an attempt's time that began at `started`. A leap ahead since then does not use it up.
function ff.clock.attempt_end(ends_at, started)
  for _, leap in ipairs(leaps) do
    local began_before = started <= leap.from + STEP_BACK and started < leap.to
    if began_before and ends_at > leap.from then
      ends_at = ends_at + leap.to - leap.from
    end
  end
  return ends_at
end

-- How often the clock went back, and how large a step back is tolerated (ms).
function ff.clock.turns()
  return turns, STEP_BACK
end
