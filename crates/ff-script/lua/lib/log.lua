-- Appending to a completion log so that a reader can prove what it has and has not seen.
--
-- Entries are numbered `<epoch>-<seq>`, densely within an epoch. An epoch is one server process's tenure over one log:
-- `tenures` lives in this library's memory and does not survive a restart, promotion or reload. A process that may have
-- missed the log's tail therefore has no epoch and starts a new one, whose first entry names the entry before it.
--
-- No two tenures share an epoch, whatever the clocks of their servers say. A new epoch is larger than every id of the
-- log, by a step that each load of the library computes once. Two tenures of one load see each other's epochs, in the
-- log or in `tenures`. Two loads compute different steps, from what no two of them share: the run id of the server, and
-- within one server its counters. The chance of equal steps is one in four billion per pair, and it matters only if
-- neither saw the other's entries. An average step uses up a four-millionth of the integers that Lua can represent
-- (2^53).

ff.log = {}

-- log key -> this process's tenure: `epoch` and `seq` of the last entry that it appended, the text `prefix` before the
-- seq of each id, and `next_id`, the next entry's id, once it was computed.
local tenures = {}

-- A hash beside the log holds the epochs of its entries with their predecessors, and in any case the newest
-- KEPT_EPOCHS. A log with entries of more than MAX_EPOCHS epochs loses the oldest of them.
local KEPT_EPOCHS = 64
local MAX_EPOCHS = 1024

-- The most entries that a call reads to trim them by age; fewer if it has read this many bytes.
local TRIMMED_ENTRIES, TRIMMED_BYTES = 100, 65536

-- The step of this load of the library, computed when the first epoch begins.
local step
-- A prime below 2^32, and a factor that keeps products below 2^53.
local STEPS, FACTOR = 4294967291, 1000003

local function parts(id)
  local epoch, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(epoch), tonumber(seq)
end

-- The smallest id after another one.
local function after(id)
  local epoch, seq = parts(id)
  return ff.base.int(epoch) .. '-' .. ff.base.int(seq + 1)
end

local function xadd(log, max_len, id, fields)
  return redis.pcall('XADD', log, 'NOMKSTREAM', 'MAXLEN', '~', max_len, id, unpack(fields))
end

-- Appends to this process's epoch. Returns the id, or nil and, if an appended entry had to be deleted, its id.
local function continue_epoch(log, max_len, fields)
  local own = tenures[log]
  if not own then
    return nil
  end
  local expected = ff.log.expected_id(log)
  local id = xadd(log, max_len, own.prefix .. '*', fields)
  if type(id) ~= 'string' then
    return nil
  end
  if id == expected then
    own.seq, own.next_id = own.seq + 1, nil
    return id
  end
  redis.call('XDEL', log, id)
  return nil, id
end

-- The last entry of the log before this append, or 'none', and the largest id that the log has ever assigned.
local function tail(log, deleted)
  if redis.call('EXISTS', log) == 0 then
    return 'none', nil
  end
  local info = redis.call('XINFO', 'STREAM', log)
  local largest
  for index = 1, #info, 2 do
    if info[index] == 'last-generated-id' then
      largest = info[index + 1]
    end
  end
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  if last then
    return last[1], largest
  end
  if deleted then
    local epoch, seq = parts(deleted)
    return seq > 0 and ff.base.int(epoch) .. '-' .. ff.base.int(seq - 1) or 'none', largest
  end
  return largest == '0-0' and 'none' or largest, largest
end

-- A number below STEPS that differs for every load of the library on every server.
local function random_step()
  local time = redis.call('TIME')
  local info = redis.pcall('INFO', 'server', 'replication', 'stats')
  local text, value = (type(info) == 'string' and info or '') .. time[1] .. ' ' .. time[2], 0
  for index = 1, #text do
    value = (value * FACTOR + string.byte(text, index)) % STEPS
  end
  return value
end

local function new_epoch(log, largest, now)
  step = step or random_step()
  local beyond = now
  if largest then
    beyond = math.max(beyond, (parts(largest)) + 1)
  end
  if tenures[log] then
    beyond = math.max(beyond, tenures[log].epoch + 1)
  end
  return beyond + step
end

-- Trims the oldest epochs of a log that has too many. Returns the epoch of the log's first entry.
local function oldest_epoch(log, epochs)
  local too_many = #epochs - MAX_EPOCHS
  if too_many > 0 then
    redis.call('XTRIM', log, 'MINID', epochs[too_many + 1] .. '-0')
  end
  local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  return first and (parts(first[1])) or math.huge
end

local function forget_old_epochs(log, epochs_key)
  -- One field is the count of bytes.
  if redis.call('HLEN', epochs_key) <= KEPT_EPOCHS + 1 then
    return
  end
  local epochs = {}
  for _, name in ipairs(redis.call('HKEYS', epochs_key)) do
    epochs[#epochs + 1] = not ff.bytes.is_field(name) and name or nil
  end
  table.sort(epochs, function(a, b) return tonumber(a) < tonumber(b) end)
  local oldest, forgotten = oldest_epoch(log, epochs), {}
  for index = 1, #epochs - KEPT_EPOCHS do
    if tonumber(epochs[index]) >= oldest then
      break
    end
    forgotten[index] = epochs[index]
  end
  ff.base.chunked('HDEL', epochs_key, forgotten)
end

local function begin_epoch(log, epochs_key, max_len, now, fields, deleted, record_expected, execution)
  local prev, largest = tail(log, deleted)
  local epoch_text = ff.base.int(new_epoch(log, largest, now))
  local first = { 'prev', prev }
  for index = 1, #fields do
    first[#first + 1] = fields[index]
  end
  record_expected(execution, epoch_text .. '-0')
  redis.call('HSET', epochs_key, epoch_text, prev, ff.bytes.begin(log, epochs_key, prev))
  forget_old_epochs(log, epochs_key)
  local id = redis.call('XADD', log, 'MAXLEN', '~', max_len, epoch_text .. '-*', unpack(first))
  local given, seq = parts(id)
  tenures[log] = { epoch = given, seq = seq, prefix = ff.base.int(given) .. '-' }
  return id, prev
end

-- The id of the next append if this process's epoch continues; nil if it has none.
function ff.log.expected_id(log)
  local own = tenures[log]
  if not own then
    return nil
  end
  own.next_id = own.next_id or own.prefix .. ff.base.int(own.seq + 1)
  return own.next_id
end

-- Appends an entry with these fields, which takes `length` bytes, for `execution`. Returns its id, and for an epoch's
-- first entry the entry before it. `keep` comes from `ff.bytes.keep`. If the id is not the one of `ff.log.expected_id`,
-- calls `record_expected` with the execution and the id before it appends.
function ff.log.append(log, epochs_key, keep, now, fields, length, record_expected, execution)
  local id, prev = continue_epoch(log, keep.entries, fields)
  if not id then
    id, prev = begin_epoch(log, epochs_key, keep.entries, now, fields, prev, record_expected, execution)
  end
  ff.bytes.count(log, epochs_key, id, length, keep)
  ff.tally.note(log, tenures[log], execution.uuid)
  return id, prev
end

-- Trims entries that were committed before `cutoff` (ms), at most TRIMMED_ENTRIES per call. Returns whether none is
-- left. Reads one entry at a time, because the length of an entry is not known in advance.
function ff.log.trim_before(log, cutoff)
  local last, bytes, count = nil, 0, 0
  while count < TRIMMED_ENTRIES and bytes < TRIMMED_BYTES do
    local entry = redis.call('XRANGE', log, last and '(' .. last or '-', '+', 'COUNT', 1)[1]
    if not entry or ff.completion.committed_at(entry) >= cutoff then
      if last then
        redis.call('XTRIM', log, 'MINID', entry and entry[1] or after(last))
      end
      return true
    end
    last, count = entry[1], count + 1
    for _, text in ipairs(entry[2]) do
      bytes = bytes + #text
    end
  end
  redis.call('XTRIM', log, 'MINID', after(last))
  return redis.call('XLEN', log) == 0
end
