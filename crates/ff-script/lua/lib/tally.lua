-- What this server process has appended to the logs, remembered for readers: one short call tells them which logs went
-- on, in place of one for each log.

ff.tally = {}

-- How many entries this process has appended, and what tells this process from any other: when it was first asked for
-- that (microseconds). Processes that one reader asks in turn share no such moment.
local appends, process = 0, nil

-- log key -> its last entry: `own` as `ff.log` has it, with `whose` it is (a uuid), and how many entries had been appended
-- to all logs `at` it.
local logs = {}

-- Notes that an entry was appended.
function ff.tally.note(log, own, uuid)
  appends = appends + 1
  own.whose, own.at = uuid, appends
  logs[log] = own
end

-- The server's time (ms), the tally of this process, and then the logs of a scope that were appended to since the tally was
-- `since`. Uses nothing of the library that a reader has no rights for, and tells nobody the time: it takes no lease.
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
