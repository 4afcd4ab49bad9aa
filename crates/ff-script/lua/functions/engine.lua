-- ff1_engine: records that an engine is running or stops, and returns the running engines. A change is announced to all
-- of them.
-- KEYS   1 the engines (zset, by the ms at which each counts as gone)
-- ARGV   1 engine, 2 for how many ms it counts as running unless it calls again (0: it stops)
-- reply  the running engines
-- errors WRONGTYPE
-- flags  allow-oom (running work must go on when the server is full)

-- Engines beyond this number are not recorded; they stand by until others stop.
local MAX_ENGINES = 1000
-- The longest time that an engine counts as running without a call (ms). An entry further ahead comes from before the
-- clock was set back.
local LONGEST = 60000

-- The other running engines, those that are gone, and whether `id` counts as running.
local function read_engines(key, id, now)
  local stored = redis.call('ZRANGE', key, 0, MAX_ENGINES, 'WITHSCORES')
  local living, gone, is_noted = {}, {}, false
  for at = 1, #stored, 2 do
    local name, ends_at = stored[at], tonumber(stored[at + 1])
    local lives = ends_at > now and ends_at <= now + LONGEST
    if name == id then
      is_noted = lives
    elseif lives then
      living[#living + 1] = name
    else
      gone[#gone + 1] = name
    end
  end
  return living, gone, is_noted
end

local function engine(KEYS, ARGV)
  local key, id, stays_ms = KEYS[1], ARGV[1], math.min(tonumber(ARGV[2]), LONGEST)
  local now = ff.base.now()
  local living, gone, was_noted = read_engines(key, id, now)
  local stays = stays_ms > 0 and #living < MAX_ENGINES
  local changed = #gone > 0 or stays ~= was_noted
  if stays then
    living[#living + 1] = id
    redis.call('ZADD', key, ff.base.int(now + stays_ms), id)
  else
    gone[#gone + 1] = id
  end
  ff.base.chunked('ZREM', key, gone)
  if changed then
    ff.timers.announce_engines()
  end
  return living
end

redis.register_function({ function_name = 'ff1_engine', callback = engine, flags = { 'allow-oom' } })
