-- The keys and channels for Lua; src/keys.rs has them for Rust.

ff.keys = {
  flow_channel = 'ff:dag:completions',
  solo_channel = 'ff:solo:completions',
  timers_channel = 'ff:timers',
}

-- How many keys `ff.keys.partition` takes.
ff.keys.block = 12

local expected_types = {
  ready = 'zset', delayed = 'zset', leases = 'zset', deadlines = 'zset', open = 'zset', pending = 'zset',
  ended = 'zset', waiters = 'zset', flow_log = 'stream', flow_epochs = 'hash', solo_log = 'stream',
  solo_epochs = 'hash',
}

-- First key -> the result of `ff.keys.partition`, for the partitions whose key types were checked since this library
-- was loaded. A partition takes 1.5 KB.
local known = {}

local function check_types(partition)
  for name, expected in pairs(expected_types) do
    local found = redis.call('TYPE', partition[name]).ok
    if found ~= 'none' and found ~= expected then
      return 'WRONGTYPE ' .. partition[name] .. ' is a ' .. found .. ', expected a ' .. expected
        .. '; another program writes keys under ff:'
    end
  end
end

-- Names the partition's keys, which come first in KEYS:
--   ready      (zset, by member) executions that may be claimed, as ff.queue.member
--   delayed    (zset, by due ms) executions that wait for their time
--   leases     (zset, by ms) when a claimed execution's lease expires
--   deadlines  (zset, by ms) when an execution expires
--   open       (zset, by member) every execution that has not ended, or whose end is not completely written
--   pending    (zset, by ms) executions that ended and have dependents left to resolve
--   ended      (zset, by ms) executions to delete after retention, and flows as ff.flow.ended_member
--   waiters    (zset, by member) processes to signal when a lane gets work
-- and per scope the completion log with its epochs.
-- Raises WRONGTYPE before anything is written when a key holds something else.
function ff.keys.partition(KEYS)
  local partition = known[KEYS[1]]
  if partition then
    return partition
  end
  partition = {
    ready = KEYS[1], delayed = KEYS[2], leases = KEYS[3], deadlines = KEYS[4], open = KEYS[5], pending = KEYS[6],
    ended = KEYS[7], waiters = KEYS[8], flow_log = KEYS[9], flow_epochs = KEYS[10], solo_log = KEYS[11],
    solo_epochs = KEYS[12],
  }
  partition.tag = string.match(partition.ready, '{fp:%d+}')
  local problem = check_types(partition)
  if problem then
    error({ err = problem })
  end
  known[partition.ready] = partition
  return partition
end

function ff.keys.core(tag, uuid)
  return 'ff:exec:' .. tag .. ':' .. tag .. ':' .. uuid .. ':core'
end

function ff.keys.tags(tag, uuid)
  return 'ff:exec:' .. tag .. ':' .. tag .. ':' .. uuid .. ':tags'
end

function ff.keys.flow(tag, flow_id)
  return 'ff:flow:' .. tag .. ':' .. flow_id .. ':core'
end

function ff.keys.wake_channel(listener)
  return 'ff:wake:' .. listener
end
