-- Counts the bytes of a completion log and trims the log when they exceed its limit.
--
-- The count is a running offset: the bytes of all entries appended so far. Marks record at which offset some of the
-- entries begin, about a sixteenth of the limit apart. The entries before a mark are trimmed when the entries after it
-- have reached the limit. A log thus keeps at least its newest `limit` bytes, and at most one piece and one entry more.
--
-- Offset and marks live in this library's memory and are saved four times per piece, as one field beside the log's
-- epochs. A new tenure starts from the saved field. Entries appended after the last save, or before the field existed,
-- are not counted; they are trimmed with the entries before the next mark. A log may therefore be trimmed too late but
-- never too early, because all bytes counted after a mark belong to entries after it.

ff.bytes = {}

-- Bytes of an entry beside event and result: ids, lengths and field names in the stream.
local OVERHEAD = 40
-- Pieces per limit, the most bytes of one piece, and saves per piece.
local PIECES, LONGEST_PIECE, SAVES = 16, 1048576, 4
-- The most entries that one append trims, and the entries of a stream node: a trim that was stopped by the limit has
-- removed more than their difference.
local AT_ONCE, NODE = 120, 100
-- The most marks of a log; reached only if programs without a limit append to it.
local MAX_MARKS = 300

local FIELD = 'bytes'

-- log key -> `offset`; `upto`, the last entry it counts; `saved`, the offset last saved; `last_at`, the offset of the
-- last mark; and the marks, oldest first: entries (`ids`) and the offsets where they begin (`ats`).
local logs = {}

-- Whether an entry comes after another one.
local function is_after(id, other)
  local epoch, seq = string.match(id, '^(%d+)-(%d+)$')
  local other_epoch, other_seq = string.match(other, '^(%d+)-(%d+)$')
  epoch, other_epoch = tonumber(epoch), tonumber(other_epoch)
  return epoch > other_epoch or epoch == other_epoch and tonumber(seq) > tonumber(other_seq)
end

local function text_of(state)
  local words = { state.upto, ff.base.int(state.offset) }
  for index, id in ipairs(state.ids) do
    words[#words + 1] = id
    words[#words + 1] = ff.base.int(state.ats[index])
  end
  return table.concat(words, ' ')
end

-- Takes from a saved text the marks of entries up to `prev`, and the offset if it counts no entry after `prev`.
local function restore(state, text, prev)
  local upto, offset, marks = string.match(text, '^(%d+%-%d+) (%d+)(.*)$')
  if not upto then
    return
  end
  for id, at in string.gmatch(marks, ' (%d+%-%d+) (%d+)') do
    if is_after(id, prev) then
      break
    end
    state.ids[#state.ids + 1], state.ats[#state.ats + 1] = id, tonumber(at)
  end
  state.last_at = state.ats[#state.ats] or 0
  state.offset = is_after(upto, prev) and state.last_at or tonumber(offset)
end

-- The limits of a log: entries (a text) and bytes.
function ff.bytes.keep(entries, limit)
  return { entries = entries, bytes = limit, piece = math.min(limit / PIECES, LONGEST_PIECE) }
end

-- The bytes of an entry with this event and this result, if any.
function ff.bytes.of(event, result)
  return #event + (result and #result or 0) + OVERHEAD
end

-- Starts the count for a tenure whose log ends with `prev` ('none' if it is empty). Returns the field to save beside
-- the log's epochs, and its value.
function ff.bytes.begin(log, epochs_key, prev)
  local state = { offset = 0, upto = '0-0', last_at = 0, ids = {}, ats = {} }
  if prev ~= 'none' then
    state.upto = prev
    restore(state, redis.call('HGET', epochs_key, FIELD) or '', prev)
  end
  state.saved = state.offset
  logs[log] = state
  return FIELD, text_of(state)
end

-- Whether a field beside the epochs belongs to this file.
function ff.bytes.is_field(name)
  return name == FIELD
end

-- Trims the entries before the last mark at or below the offset `beyond`, at most AT_ONCE of them; the next appends
-- trim the rest. If the server refuses this, or the saved field, the log is trimmed later.
local function trim(log, state, beyond)
  local ids, ats, first = state.ids, state.ats, 2
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

-- Counts an entry that was just appended.
function ff.bytes.count(log, epochs_key, id, length, keep)
  local state = logs[log]
  local offset, ats = state.offset, state.ats
  if not ats[1] or offset - state.last_at >= keep.piece then
    state.ids[#state.ids + 1], ats[#ats + 1], state.last_at = id, offset, offset
    if #ats > MAX_MARKS then
      table.remove(state.ids, 1)
      table.remove(ats, 1)
    end
  end
  offset = offset + length
  state.offset, state.upto = offset, id
  if (offset - state.saved) * SAVES >= keep.piece then
    state.saved = offset
    redis.pcall('HSET', epochs_key, FIELD, text_of(state))
  end
  local beyond = offset - keep.bytes
  if ats[2] and ats[2] <= beyond then
    trim(log, state, beyond)
  end
end
