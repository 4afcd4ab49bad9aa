-- How many bytes a completion log holds, and which of its entries may go when these are too many.
--
-- The count is a running offset: the bytes of all entries that were appended. Marks say at which offset some of the
-- entries begin, about a sixteenth of the limit apart. What stands before a mark goes when what follows it has reached
-- the limit, so that a log keeps at least its newest `limit` bytes and at most one piece and one entry more.
--
-- Both live in this library's memory, and are saved as one field beside the log's epochs four times per piece. A new tenure
-- takes them from there. What was appended after they were saved counts for nothing then, and so does what the log held
-- before there was such a field: it goes with the entries before the next mark. So a log may be trimmed too late, and never
-- too early, because the bytes that count after a mark are bytes of entries after it.

ff.bytes = {}

-- Beside the value and the result: ids, lengths and names as a stream keeps them.
local OVERHEAD = 40
-- Pieces of a limit, the most bytes of one piece, and how often the count is saved per piece.
local PIECES, LONGEST_PIECE, SAVES = 16, 1048576, 4
-- How many entries an append trims, and how many a node of a stream has: a trim that stops for the first has taken more than
-- their difference.
local AT_ONCE, NODE = 120, 100
-- A log of programs without a limit keeps no more marks.
local MOST_MARKS = 300

local FIELD = 'bytes'

-- log key -> `offset`, the id `upto` which it counts, `saved` as it stood when it was saved, `last_at` of the last mark,
-- and the marks, oldest first: `ids` and where they begin (`ats`).
local logs = {}

-- Whether an entry stands behind another one.
local function is_behind(id, other)
  local epoch, seq = string.match(id, '^(%d+)-(%d+)$')
  local other_epoch, other_seq = string.match(other, '^(%d+)-(%d+)$')
  epoch, other_epoch = tonumber(epoch), tonumber(other_epoch)
  return epoch > other_epoch or epoch == other_epoch and tonumber(seq) > tonumber(other_seq)
end

local function text_of(held)
  local words = { held.upto, ff.base.int(held.offset) }
  for index, id in ipairs(held.ids) do
    words[#words + 1] = id
    words[#words + 1] = ff.base.int(held.ats[index])
  end
  return table.concat(words, ' ')
end

-- What counts of a saved text: the marks of entries up to `prev`, and its offset if it counts no others.
local function read(held, text, prev)
  local upto, offset, marks = string.match(text, '^(%d+%-%d+) (%d+)(.*)$')
  if not upto then
    return
  end
  for id, at in string.gmatch(marks, ' (%d+%-%d+) (%d+)') do
    if is_behind(id, prev) then
      break
    end
    held.ids[#held.ids + 1], held.ats[#held.ats + 1] = id, tonumber(at)
  end
  held.last_at = held.ats[#held.ats] or 0
  held.offset = is_behind(upto, prev) and held.last_at or tonumber(offset)
end

-- How much a log keeps: so many entries (a text), and so many bytes, in pieces of so many.
function ff.bytes.keep(entries, limit)
  return { entries = entries, bytes = limit, piece = math.min(limit / PIECES, LONGEST_PIECE) }
end

-- How many bytes an entry takes with this event and this result, if any.
function ff.bytes.of(event, result)
  return #event + (result and #result or 0) + OVERHEAD
end

-- Begins to count for a tenure whose log ends with `prev` ('none' if it holds nothing). Returns what is to be saved: a
-- field beside the log's epochs, and its value.
function ff.bytes.begin(log, epochs_key, prev)
  local held = { offset = 0, upto = '0-0', last_at = 0, ids = {}, ats = {} }
  if prev ~= 'none' then
    held.upto = prev
    read(held, redis.call('HGET', epochs_key, FIELD) or '', prev)
  end
  held.saved = held.offset
  logs[log] = held
  return FIELD, text_of(held)
end

-- Whether a field beside the epochs is one of this file.
function ff.bytes.is_field(name)
  return name == FIELD
end

-- Takes the entries before the last mark that what follows allows to begin the log, at most `AT_ONCE` of them: what is left
-- goes with the next appends. Where this is refused, as where a field cannot be saved, the log is trimmed later.
local function trim(log, held, beyond)
  local ids, ats, first = held.ids, held.ats, 2
  while ats[first + 1] and ats[first + 1] <= beyond do
    first = first + 1
  end
  local taken = redis.pcall('XTRIM', log, 'MINID', '~', ids[first], 'LIMIT', AT_ONCE)
  if type(taken) ~= 'number' or taken > AT_ONCE - NODE then
    return
  end
  redis.pcall('XTRIM', log, 'MINID', '=', ids[first])
  for _ = 2, first do
    table.remove(ids, 1)
    table.remove(ats, 1)
  end
end

-- Counts an entry that was appended, behind all others that were counted.
function ff.bytes.count(log, epochs_key, id, length, keep)
  local held = logs[log]
  local offset, ats = held.offset, held.ats
  if not ats[1] or offset - held.last_at >= keep.piece then
    held.ids[#held.ids + 1], ats[#ats + 1], held.last_at = id, offset, offset
    if #ats > MOST_MARKS then
      table.remove(held.ids, 1)
      table.remove(ats, 1)
    end
  end
  offset = offset + length
  held.offset, held.upto = offset, id
  if (offset - held.saved) * SAVES >= keep.piece then
    held.saved = offset
    redis.pcall('HSET', epochs_key, FIELD, text_of(held))
  end
  local beyond = offset - keep.bytes
  if ats[2] and ats[2] <= beyond then
    trim(log, held, beyond)
  end
end
