-- Watching the server's clock, which may be set. Whoever holds a lease or waits for retention counts on time that has passed,
-- and not on a clock that was moved.
--
-- Every call tells the time here. Two calls far apart are a leap: the clock was set, or the server answered nobody
-- meanwhile. Neither could a lease be renewed then. What was seen is kept in this library's memory only: a process that
-- begins knows of no leap, and has seen its clock stand for no time.

ff.clock = {}

-- Ahead (ms): more than lies between two calls of a deployment that is alive.
local LEAP = 10000
-- More than lies between two passes of a sweeper.
local LONG_LEAP = 120000
-- Back (ms): more than a clock that is being adjusted.
local STEP_BACK = 1000
local KEPT_LEAPS = 8

-- The time of the last call, since when the clock has stood, leaps ahead in their order, and how often it went back.
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

-- A leap ahead that is taken back in part is a shorter one: leases that ran out within it ran out by the clock only.
local function went_back(now)
  local kept = {}
  for _, leap in ipairs(leaps) do
    if leap.from < now then
      kept[#kept + 1] = { from = leap.from, to = math.min(leap.to, now) }
    end
  end
  leaps, since, turns = kept, now, turns + 1
end

-- Notes the time of a call.
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

-- For how long the clock has stood (ms): since the last leap that no sweeper makes, or that went back.
function ff.clock.stood_for(now)
  return now - since
end

-- When a lease of this length runs out that leaps are not to shorten: one that ran out within a leap has left at its end
-- what it had left at its beginning. A lease that was given after the leap did not run out within it, although a clock that
-- was then adjusted back shows such a time.
function ff.clock.lease_end(expires_at, lease_ms)
  for _, leap in ipairs(leaps) do
    local held = expires_at - lease_ms <= leap.from + STEP_BACK
    if held and expires_at > leap.from and expires_at <= leap.to then
      expires_at = leap.to + (expires_at - leap.from)
    end
  end
  return expires_at
end

-- How often the clock went back, and by how much it may differ without having gone back (ms).
function ff.clock.turns()
  return turns, STEP_BACK
end
