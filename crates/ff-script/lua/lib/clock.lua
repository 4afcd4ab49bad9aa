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
-- Leases looked at by one call after the clock was set back.
local LEASES_AT_ONCE = 64

-- The time of the last call, since when the clock has stood, leaps ahead in their order, and how often it went back.
local seen, since, leaps, turns = nil, nil, {}, 0

-- partition tag -> { turns, skipped, done }: how far its leases were looked at since the clock last went back.
local walks = {}

local function leapt_ahead(now)
  leaps[#leaps + 1] = { from = seen, to = now }
  if #leaps > KEPT_LEAPS then
    table.remove(leaps, 1)
  end
  if now - seen > LONG_LEAP then
    since = now
  end
end

local function went_back(now)
  local kept = {}
  for _, leap in ipairs(leaps) do
    if leap.to <= now then
      kept[#kept + 1] = leap
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

-- When a lease runs out that leaps are not to shorten: one that ran out within a leap has left at its end what it had left
-- at its beginning.
function ff.clock.lease_end(expires_at)
  for _, leap in ipairs(leaps) do
    if expires_at > leap.from and expires_at <= leap.to then
      expires_at = leap.to + (expires_at - leap.from)
    end
  end
  return expires_at
end

-- Leases that run for longer than they were given, since the clock was set back: pairs of execution and new end. Looks at
-- a bounded number of leases, and at none once all were seen.
function ff.clock.overlong_leases(call)
  local partition, found = call.partition, {}
  local walk = walks[partition.tag]
  if not walk or walk.turns ~= turns then
    walk = { turns = turns, skipped = 0 }
    walks[partition.tag] = walk
  end
  if walk.done then
    return found
  end
  local uuids = redis.call('ZRANGE', partition.leases, -LEASES_AT_ONCE - walk.skipped, -1 - walk.skipped)
  for _, uuid in ipairs(uuids) do
    local execution = ff.execution.load(call, uuid)
    local length = execution and ff.base.num(execution.lease_ms) or 0
    local active = length > 0 and execution.lifecycle_phase == 'active'
    if active and ff.base.num(execution.lease_expires_at) > call.now + length + STEP_BACK then
      found[#found + 1] = { execution, call.now + length }
    else
      walk.skipped = walk.skipped + 1
    end
  end
  walk.done = #uuids < LEASES_AT_ONCE
  return found
end
