-- Leases after the clock was set back.

ff.leases = {}

-- The most leases that one call visits.
local LEASES_AT_ONCE = 64

-- partition tag -> { turns, skipped, done }: how far its leases were visited since the clock last went back.
local walks = {}

-- Leases that would last longer than they were given for, because the clock was set back: pairs of execution and new
-- end. Visits a bounded number of leases per call, and none once all were visited.
function ff.leases.overlong(call)
  local turns, tolerance = ff.clock.turns()
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
    if active and ff.base.num(execution.lease_expires_at) > call.now + length + tolerance then
      found[#found + 1] = { execution, call.now + length }
    else
      walk.skipped = walk.skipped + 1
    end
  end
  walk.done = #uuids < LEASES_AT_ONCE
  return found
end
