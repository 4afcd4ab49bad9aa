-- Remembers which logs this server process has appended to, so that a reader finds the logs that have grown with one
-- short call instead of one call per log.

ff.tally = {}

-- How many entries this process has appended, and an identity of this process: the time of its first `since` call in
-- microseconds. No two processes that serve one reader in turn share that time.
local appends, process = 0, nil

-- log key -> the log's tenure in `ff.log`, with the uuid of its newest entry's execution (`whose`) and the value of
-- `appends` at that entry (`at`).
local logs = {}

-- Counts an appended entry.
function ff.tally.note(log, own, uuid)
  appends = appends + 1
  own.whose, own.at = uuid, appends
  logs[log] = own
end

-- The server's time (ms), the tally of this process, and then the logs of a scope that were appended to since the tally
-- `since`. Calls TIME only, since a reader's permissions allow no more; `ff.clock` is not needed, because no lease
-- depends on this call.
function ff.tally.since(since, scope)
  local time = redis.call('TIME')
  process = process or time[1] .. '.' .. time[2]
  local now = time[1] .. string.format('%03d', math.floor(tonumber(time[2]) / 1000))
  local reply = { now, process .. ':' .. string.format('%.0f', appends) }
  local of, count = string.match(since, '^(.*):(%d+)$')
  if of ~= process then
    reply[3] = '*'
    return reply
  end
  count = tonumber(count)
  if count == appends then
    return reply
  end
  for log, own in pairs(logs) do
    if own.at > count then
      local partition, rest = string.match(log, '{fp:(%d+)}:completions(.*)$')
      if (rest == '') == (scope == 'flows') then
        reply[#reply + 1] = partition .. ' ' .. own.prefix .. string.format('%.0f', own.seq) .. ' ' .. own.whose
      end
    end
  end
  return reply
end
