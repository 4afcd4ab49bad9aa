#!lua name=flowfabric1
-- Assembled from crates/ff-script/lua by `cargo xtask script`; edit those files, not this one.
local ff = { version = '27', digest = '40013dc2bc20b3e3a9d6d9a2ef399164' }

do -- lib/base.lua
-- The clock, numbers as text, and replies; used by everything else.

ff.base = {}

-- The second of the last call, cached: the next call most often falls into the same.
local last_second, last_second_ms

-- The server's time in milliseconds. Frozen within a call.
function ff.base.now()
  local time = redis.call('TIME')
  if time[1] ~= last_second then
    last_second, last_second_ms = time[1], tonumber(time[1]) * 1000
  end
  local now = last_second_ms + math.floor(tonumber(time[2]) / 1000)
  ff.clock.note(now)
  return now
end

-- Conversion tables for the most frequent numbers.
local text_of = { [0] = '0', '1', '2', '3', '4', '5', '6', '7', '8', '9' }
local number_of = {
  [''] = 0, ['0'] = 0, ['1'] = 1, ['2'] = 2, ['3'] = 3, ['4'] = 4, ['5'] = 5, ['6'] = 6, ['7'] = 7, ['8'] = 8, ['9'] = 9,
}

-- An integer as text; Lua's own conversion writes large ones as 1e+15. Formatting a float takes several times as long
-- as formatting two integers, and '%d' takes at most 32 bits.
function ff.base.int(number)
  local text = text_of[number]
  if text then
    return text
  elseif number >= 0 and number < 1000000 then
    return string.format('%d', number)
  elseif number >= 1000000 and number < 2000000000000000 then
    return string.format('%d%06d', math.floor(number / 1000000), number % 1000000)
  end
  return string.format('%.0f', number)
end

-- A stored text as an integer; absent and empty are 0.
function ff.base.num(text)
  if not text then
    return 0
  end
  return number_of[text] or tonumber(text)
end

-- A stored text, with absent as ''.
function ff.base.text(value)
  return value or ''
end

-- Calls a command with any number of arguments after its key, at most 1,000 at a time. Groups of `width` arguments stay
-- together.
function ff.base.chunked(command, key, arguments, width)
  local count, step = #arguments, 1000 - 1000 % (width or 1)
  for first = 1, count, step do
    redis.call(command, key, unpack(arguments, first, math.min(first + step - 1, count)))
  end
end

-- Whether an error says that another program has overwritten a key.
function ff.base.is_overwritten(problem)
  return string.find(problem, 'WRONGTYPE', 1, true) ~= nil
end

-- The error reply of a failing call: a code, a space, and a text.
function ff.base.refuse(code, text)
  return redis.error_reply(code .. ' ' .. text)
end
end

do -- lib/bytes.lua
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
end

do -- lib/call.lua
-- The state and the plan of one call. Functions first read and plan, then `ff.call.commit` writes. An error in a script
-- does not roll back, so everything that can fail comes before the first write.

ff.call = {}

-- Bounds of one call, since a script cannot be interrupted once it has written. ARCHITECTURE.md has the measured times.
local MAX_ENDS = 24
local MAX_DEPENDENTS = 32

local NOTHING = {}

-- The policy of the last call, cached: the next call most often has the same.
local last_policy, keep_of_flows, keep_of_solo, inline_limit

local function read_policy(policy)
  local max_flow_log, max_solo_log, inline, more = string.match(policy, '^(%d+) (%d+) (%d+)(.*)$')
  local flow_bytes, solo_bytes = string.match(more, '^ (%d+) (%d+)')
  keep_of_flows = ff.bytes.keep(max_flow_log, tonumber(flow_bytes) or math.huge)
  keep_of_solo = ff.bytes.keep(max_solo_log, tonumber(solo_bytes) or math.huge)
  inline_limit = tonumber(inline)
  last_policy = policy
end

-- The state of a call that ends no execution and writes without `ff.call.commit`. `lanes` collects the lanes that get
-- work.
function ff.call.look(KEYS)
  local now = ff.base.now()
  return { partition = ff.keys.partition(KEYS), now = now, now_text = ff.base.int(now), loaded = {}, lanes = {} }
end

-- The state of a call that may end executions. `policy` is 'max_flow_log max_solo_log inline_limit flow_bytes
-- solo_bytes': entries kept per log, the largest result that is part of its event, bytes kept per log. Earlier programs
-- send no bytes; then there is no such limit. Numbers after these belong to later versions and are ignored. `declared`
-- holds the uuids of dependents whose core is in KEYS: an absent core of theirs is really gone.
function ff.call.begin(KEYS, policy, declared)
  if policy ~= last_policy then
    read_policy(policy)
  end
  local now = ff.base.now()
  return {
    partition = ff.keys.partition(KEYS),
    now = now, now_text = ff.base.int(now),
    keep_of_flows = keep_of_flows, keep_of_solo = keep_of_solo, inline_limit = inline_limit,
    declared = declared or NOTHING,
    ends_left = MAX_ENDS, dependents_left = MAX_DEPENDENTS,
    loaded = {},      -- uuid -> execution
    flows = {},       -- flow id -> flow
    flow_list = {},   -- the same, in the order in which they were read
    ends = {},        -- executions that end, or whose end is completed, in the order of their completions
    moves = {},       -- executions that change without ending
    parents = {},     -- ended executions whose dependents were visited
    messages = {},    -- completions to announce: channel and text of each
    lanes = {},       -- lanes that got work
    losses = {},      -- executions whose lease this call ends, to notify their holders
    resolved = 0,     -- dependents promoted or skipped
    bytes_of_ends = 0, -- bytes of tags and results that were read to end executions
    log_types = {},   -- log -> type of its key, once it was checked
  }
end

-- Appends to a list that is created with its first value.
local function with(list, value)
  list = list or {}
  list[#list + 1] = value
  return list
end

local function zrem(key, members)
  if members then
    ff.base.chunked('ZREM', key, members)
  end
end

-- Frees the payloads of ended executions and removes them from the indexes of their last state, or from all indexes if
-- an interrupted call has overwritten that state. The lease, deadline and open entries are removed last: through them
-- an interrupted end is found and completed.
local function leave_indexes(call)
  local ready, delayed, leases, deadlines
  local open, ended = {}, {}
  for index = 1, #call.ends do
    local execution = call.ends[index]
    local uuid, was = execution.uuid, not execution.resumed and execution.public_state
    if execution.ready_member and (not was or was == 'waiting') then
      ready = with(ready, execution.ready_member)
    end
    if not was or was == 'delayed' then
      delayed = with(delayed, uuid)
    end
    if not was or was == 'active' then
      leases = with(leases, uuid)
    end
    if execution.deadline_at then
      deadlines = with(deadlines, uuid)
    end
    open[index] = ff.execution.open_member(execution)
    ff.execution.free_payload(execution)
    ended[2 * index - 1] = execution.completed_at
    ended[2 * index] = uuid
  end
  for index = 1, #call.flow_list do
    ff.flow.plan_ended(call, call.flow_list[index], ended)
  end
  local partition = call.partition
  ff.base.chunked('ZADD', partition.ended, ended, 2)
  zrem(partition.ready, ready)
  zrem(partition.delayed, delayed)
  zrem(partition.deadlines, deadlines)
  zrem(partition.leases, leases)
  zrem(partition.open, open)
end

-- Writes the plan. Returns whether an announcement was refused ('0' or '1').
function ff.call.commit(call)
  local flows, ends, moves, parents = call.flow_list, call.ends, call.moves, call.parents
  for index = 1, #flows do
    ff.flow.write_cancel(flows[index])
  end
  for index = 1, #ends do
    ff.execution.write_end(call, ends[index])
    ff.completion.record(call, ends[index])
  end
  for index = 1, #moves do
    ff.execution.write_move(call, moves[index])
  end
  for index = 1, #parents do
    ff.dependents.write_progress(call, parents[index])
  end
  for index = 1, #flows do
    ff.flow.write(flows[index])
  end
  if #ends > 0 then
    leave_indexes(call)
  end
  local refused = ff.completion.publish(call)
  ff.execution.announce_losses(call)
  ff.queue.signal_all(call)
  ff.timers.announce(call)
  return refused
end
end

do -- lib/clock.lua
-- Detects changes of the server's clock. Leases and retention depend on elapsed time, not on a clock that was set.
--
-- Every call records its time here. A long time between two calls is a leap: either the clock was set, or the server
-- answered nobody meanwhile, so that no lease could be renewed. The observations live in this library's memory only: a
-- new process knows of no leap, and its clock counts as not yet stable.

ff.clock = {}

-- A leap ahead (ms): longer than the time between two calls of a live deployment.
local LEAP = 10000
-- Longer than the time between two passes of a sweeper (ms).
local LONG_LEAP = 120000
-- A step back (ms): larger than the steps of a clock that is being adjusted.
local STEP_BACK = 1000
local KEPT_LEAPS = 8

-- The time of the last call, since when the clock has been stable, the latest leaps ahead, and how often it went back.
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

-- A step back shortens the leaps ahead that it undoes: leases that expired within such a leap expired by the clock
-- only.
local function went_back(now)
  local kept = {}
  for _, leap in ipairs(leaps) do
    if leap.from < now then
      kept[#kept + 1] = { from = leap.from, to = math.min(leap.to, now) }
    end
  end
  leaps, since, turns = kept, now, turns + 1
end

-- Records the time of a call.
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

-- For how long the clock has been stable (ms): since the last leap longer than any pause of a sweeper, or step back.
function ff.clock.stable_for(now)
  return now - since
end

-- The end of a lease of this length, corrected for leaps: a lease that expired within a leap has after the leap the
-- time that was left before it. A lease that was given after the leap is not corrected, although its end may lie within
-- the leap if the clock was adjusted back afterwards.
function ff.clock.lease_end(expires_at, lease_ms)
  for _, leap in ipairs(leaps) do
    local held = expires_at - lease_ms <= leap.from + STEP_BACK
    if held and expires_at > leap.from and expires_at <= leap.to then
      expires_at = leap.to + (expires_at - leap.from)
    end
  end
  return expires_at
end

-- The end of an attempt's time that began at `started`. A leap ahead since then does not use it up.
function ff.clock.attempt_end(ends_at, started)
  for _, leap in ipairs(leaps) do
    local began_before = started <= leap.from + STEP_BACK and started < leap.to
    if began_before and ends_at > leap.from then
      ends_at = ends_at + leap.to - leap.from
    end
  end
  return ends_at
end

-- How often the clock went back, and how large a step back is tolerated (ms).
function ff.clock.turns()
  return turns, STEP_BACK
end
end

do -- lib/completion.lua
-- The one place that records a completion in the log and announces it.

ff.completion = {}

-- The bounds of an event, whatever the core holds, so that every reader accepts it. Values that passed the checks at
-- submission are never longer.
local LONGEST_REASON, LONGEST_TAGS, LONGEST_RESULT = 1024, 32768, 1048576

-- Cuts a text at a UTF-8 character boundary.
local function cut(text, longest)
  local len = longest
  while len > 0 and string.find(text, '^[\128-\191]', len + 1) do
    len = len - 1
  end
  return string.sub(text, 1, len)
end

-- The fields of the event, as the inside of a JSON object. Namespaces, lanes and ids hold no character that needs
-- escaping; `tags_json` was composed and checked at submission.
local function body(execution, inline)
  local flow, more = '', ''
  if execution.flow_id then
    flow = ',"flow_id":"' .. execution.flow_id .. '"'
  end
  local reason, tags, shortened = execution.failure_reason, execution.tags_json, ''
  if reason and reason ~= '' then
    if #reason > LONGEST_REASON then
      reason, shortened = cut(reason, LONGEST_REASON), ',"shortened":true'
    end
    more = ',"reason":' .. cjson.encode(reason)
  end
  if #tags > LONGEST_TAGS then
    shortened = ',"shortened":true'
  elseif tags ~= '{}' then
    more = more .. ',"tags":' .. tags
  end
  if not inline then
    local len = execution.result_len or execution.result and #execution.result or 0
    more = len > 0 and more .. ',"result_len":' .. ff.base.int(len) or more
  end
  if execution.leaves_pending then
    more = more .. ',"pending":true'
  end
  more = more .. shortened
  return '"execution_id":"' .. execution.execution_id .. '"' .. flow
    .. ',"outcome":"' .. execution.terminal_outcome .. '","at":' .. execution.completed_at
    .. ',"ns":"' .. execution.namespace .. '","lane":"' .. execution.lane_id
    .. '","attempt":' .. execution.current_attempt_index .. ',"gen":' .. execution.generation .. more
end

-- Whether the result is part of the event: it must be text and short enough.
local function is_inline(call, execution)
  local result = execution.result
  return result and result ~= '' and execution.result_text == '1' and #result <= call.inline_limit
    and #result <= LONGEST_RESULT
end

-- The log of an execution, the log's epochs and limits, and the channel.
local function destination(call, execution)
  local partition = call.partition
  if execution.flow_id then
    return partition.flow_log, partition.flow_epochs, call.keep_of_flows, ff.keys.flow_channel
  end
  return partition.solo_log, partition.solo_epochs, call.keep_of_solo, ff.keys.solo_channel
end

-- The error if the log of an execution cannot take its completion, because another program has overwritten the log.
-- Calls that end several executions check this before they plan anything for one of them, so that an overwritten log
-- affects its own executions only.
function ff.completion.problem(call, execution)
  local log = destination(call, execution)
  if call.log_types[log] == nil then
    call.log_types[log] = redis.call('TYPE', log).ok
  end
  local found = call.log_types[log]
  return found ~= 'stream' and found ~= 'none' and 'WRONGTYPE ' .. log or nil
end

-- The expected position of the completion of an execution that ends now, if it is known. The core records it before the
-- entry is appended, so that completing an interrupted call does not append a second entry.
function ff.completion.expected_position(call, execution)
  return ff.log.expected_id((destination(call, execution)))
end

-- The event of a log entry.
local function event_of(entry)
  local fields = entry[2]
  for index = 1, #fields, 2 do
    if fields[index] == 'e' then
      return fields[index + 1]
    end
  end
  return ''
end

-- The position of an entry that an interrupted call appended without recording it in the core. Another execution's
-- entry may be there instead. Results may hold any text, so only the event's first field identifies the execution.
local function unrecorded_position(log, execution)
  local expected = execution.log_expected
  local entry = execution.resumed and expected and redis.call('XRANGE', log, expected, expected)[1]
  local own = '{"execution_id":"' .. execution.execution_id .. '"'
  if entry and string.sub(event_of(entry), 1, #own) == own then
    return expected
  end
end

-- Records the position that the entry of an execution is going to have.
local function record_expected(execution, id)
  redis.call('HSET', execution.core, 'log_expected', id)
end

-- Appends the log entry of an execution whose core is terminal, records its position in the core, and keeps the message
-- for `ff.completion.publish`. An entry that an interrupted call appended is announced again: the call may not have
-- announced it, and readers detect a duplicate by its position.
function ff.completion.record(call, execution)
  local inline = is_inline(call, execution)
  local text = body(execution, inline)
  local event = '{' .. text .. '}'
  local fields = inline and { 'e', event, 'result', execution.result } or { 'e', event }
  local log, epochs, keep, channel = destination(call, execution)
  local id, prev = execution.log_pos, nil
  if not id then
    id = unrecorded_position(log, execution)
    if not id then
      local length = ff.bytes.of(event, inline and execution.result)
      id, prev = ff.log.append(log, epochs, keep, call.now, fields, length, record_expected, execution)
    end
    redis.call('HSET', execution.core, 'log_pos', id)
  end
  prev = prev and ',"prev":"' .. prev .. '"' or ''
  local result = inline and ',"result":' .. cjson.encode(execution.result) or ''
  local messages = call.messages
  messages[#messages + 1] = channel
  messages[#messages + 1] = '{' .. text .. ',"pos":"' .. id .. '"' .. prev .. result .. '}'
end

-- Announces the entries of this call. Comes last: the log holds them even if the announcement fails. Returns '0', or
-- '1' if an announcement was refused (no permission on the channel).
function ff.completion.publish(call)
  local refused, messages = '0', call.messages
  for index = 1, #messages, 2 do
    local receivers = redis.pcall('PUBLISH', messages[index], messages[index + 1])
    if type(receivers) == 'table' then
      refused = '1'
    end
  end
  return refused
end

-- When a log entry was committed (ms). The values before `at` hold no quotation marks.
function ff.completion.committed_at(entry)
  return tonumber(string.match(event_of(entry), '"at":(%d+)')) or 0
end
end

do -- lib/dependents.lua
-- Resolves the dependents of an ended execution: promotes them, or ends them as skipped.
--
-- An execution's `dependents` is a fixed list; `dependents_done` counts how many of them are resolved. A dependent
-- records each met need as a field `met:<uuid>` in the same command that counts it, so resolving one twice changes
-- nothing. If a call's bound is reached or a dependent cannot be read, the ended execution stays in `pending`.

ff.dependents = {}

-- Marks the dependents of an execution whose record was lost as unknown: any member of its flow may need it. Resolving
-- checks the needs of each member.
ff.dependents.unknown = '?'

-- The list of dependents of a stored text, and whether it is uncertain: all members that may need the execution.
function ff.dependents.list(partition, stored, flow_id)
  if not stored or string.byte(stored) ~= 63 then
    return stored or '', false
  end
  return flow_id and redis.call('HGET', ff.keys.flow(partition.tag, flow_id), 'members') or '', true
end

local function needs(dependent, parent)
  local list = redis.call('HGET', dependent.core, 'needs')
  return list and string.find(list, parent.uuid, 1, true)
end

local function promote(call, dependent)
  local counted = ff.execution.count_from_start(call, dependent)
  if counted then
    ff.execution.touch(call, dependent, counted)
  end
  if ff.base.num(dependent.eligible_at) > call.now then
    ff.execution.move(call, dependent, 'delayed', ff.base.num(dependent.eligible_at))
  else
    ff.execution.move(call, dependent, 'waiting')
  end
end

local function meet(call, dependent, parent)
  local unmet = ff.base.num(dependent.unmet_needs) - 1
  dependent.unmet_needs = ff.base.int(unmet)
  ff.execution.touch(call, dependent, { 'met:' .. parent.uuid, '1', 'unmet_needs', dependent.unmet_needs })
  if unmet == 0 then
    promote(call, dependent)
  end
end

-- Resolves one dependent. Returns false if it has to wait.
local function resolve(call, parent, uuid)
  local range = parent.terminal_outcome == 'success' and 'to_promote' or 'all'
  local dependent, problem, met = ff.execution.load(call, uuid, 'met:' .. parent.uuid, range)
  if problem then
    -- A key that another program has overwritten is lost, and must not block the others.
    return ff.base.is_overwritten(problem)
  elseif not dependent then
    return call.declared[uuid]
  end
  if dependent.public_state ~= 'blocked' or ff.execution.is_terminal(dependent) or met then
    return true
  elseif parent.uncertain and not needs(dependent, parent) then
    return true
  end
  if parent.terminal_outcome == 'success' then
    meet(call, dependent, parent)
  elseif call.ends_left > 0 then
    ff.execution.finish(call, dependent, 'skipped', 'dependency_failed')
  else
    return false
  end
  call.resolved = call.resolved + 1
  return true
end

-- Plans the resolution of the dependents of an ended execution, within the call's bounds. Members of a flow that is
-- being cancelled are left to the cancellation.
function ff.dependents.plan(call, parent)
  local stored = parent.dependents
  if stored == nil then
    stored = redis.call('HGET', parent.core, 'dependents')
  end
  if not stored then
    return
  end
  local list
  list, parent.uncertain = ff.dependents.list(call.partition, stored, parent.flow_id)
  local count = ff.uuids.count(list)
  -- One call may plan for the same parent twice before anything is written.
  local before = parent.progress or ff.base.num(parent.dependents_done)
  local done = before
  local flow = ff.flow.of(call, parent)
  if flow and flow.cancel_requested then
    done = count
  end
  while done < count and call.dependents_left > 0 do
    call.dependents_left = call.dependents_left - 1
    if not resolve(call, parent, ff.uuids.at(list, done + 1)) then
      break
    end
    done = done + 1
  end
  parent.leaves_pending = done < count
  parent.progress = done
  parent.advanced = done > before
  if done > before or parent.leaves_pending then
    call.parents[#call.parents + 1] = parent
  end
end

function ff.dependents.write_progress(call, parent)
  redis.call('HSET', parent.core, 'dependents_done', ff.base.int(parent.progress))
  if parent.leaves_pending then
    redis.call('ZADD', call.partition.pending, call.now_text, parent.uuid)
  else
    redis.call('ZREM', call.partition.pending, parent.uuid)
  end
end
end

do -- lib/execution.lua
-- Reads executions, and is the only writer of their state.
--
--   blocked ──> waiting <──> active ──> success | failed | cancelled | expired | skipped
--      └──────> delayed ─┘     │
--                  └───<───────┘ (a failed attempt waits for its retry)

ff.execution = {}

-- Two ranges of the fields suffice for the most frequent calls, which read no more: those to end an execution, and
-- those to promote a dependent. Each range begins with a field that every execution has. The tags, which may be long,
-- are read to end an execution only.
local FIELDS = {
  'tags_json', 'execution_id', 'namespace', 'terminal_outcome', 'completed_at', 'current_attempt_index', 'generation',
  'lease_epoch', 'ready_member', 'dependents_done', 'log_pos', 'log_expected', 'failure_reason', 'ended_by',
  'has_payload', 'public_state', 'lifecycle_phase', 'flow_id', 'index', 'lane_id', 'deadline_at', 'priority',
  'unmet_needs', 'eligible_at', 'times_from', 'failed_epoch', 'lease_expires_at', 'timeout_at', 'max_attempts',
  'failures', 'max_lease_expiries', 'lease_expiries', 'backoff_ms', 'backoff_max_ms', 'lease_listener', 'lease_seen',
  'lease_unseen', 'lease_ms',
}
local ALL = #FIELDS

-- The most bytes of tags, and of results of interrupted ends, that a call reads to end executions; the last one may
-- exceed it.
local BYTES_OF_ENDS = 65536

local PHASES = { blocked = 'submitted', delayed = 'submitted', waiting = 'runnable', active = 'active' }

-- Tables of the values of FIELDS, which begin at `values[2]`; absent fields are false, and fields that were not read
-- are nil.
local function with_all(uuid, core, values)
  return {
    uuid = uuid, core = core,
 execution_id = values[2], namespace = values[3], terminal_outcome = values[4], completed_at = values[5], current_attempt_index = values[6], generation = values[7], lease_epoch = values[8], ready_member = values[9], dependents_done = values[10], log_pos = values[11], log_expected = values[12], failure_reason = values[13], ended_by = values[14], has_payload = values[15], public_state = values[16], lifecycle_phase = values[17], flow_id = values[18], index = values[19], lane_id = values[20], deadline_at = values[21], priority = values[22], unmet_needs = values[23], eligible_at = values[24], times_from = values[25], failed_epoch = values[26], lease_expires_at = values[27], timeout_at = values[28], max_attempts = values[29], failures = values[30], max_lease_expiries = values[31], lease_expiries = values[32], backoff_ms = values[33], backoff_max_ms = values[34], lease_listener = values[35], lease_seen = values[36], lease_unseen = values[37], lease_ms = values[38],
  }
end

local function to_end(uuid, core, values)
  return {
    uuid = uuid, core = core, range = 'to_end',
 tags_json = values[2], execution_id = values[3], namespace = values[4], terminal_outcome = values[5], completed_at = values[6], current_attempt_index = values[7], generation = values[8], lease_epoch = values[9], ready_member = values[10], dependents_done = values[11], log_pos = values[12], log_expected = values[13], failure_reason = values[14], ended_by = values[15], has_payload = values[16], public_state = values[17], lifecycle_phase = values[18], flow_id = values[19], index = values[20], lane_id = values[21], deadline_at = values[22],
  }
end

local function to_promote(uuid, core, values)
  return {
    uuid = uuid, core = core, range = 'to_promote',
 public_state = values[2], lifecycle_phase = values[3], flow_id = values[4], index = values[5], lane_id = values[6], deadline_at = values[7], priority = values[8], unmet_needs = values[9], eligible_at = values[10], times_from = values[11],
  }
end

local ranges = {
  all = { 2, ALL, with_all }, to_end = { 1, 21, to_end }, to_promote = { 16, 25, to_promote },
}

-- Reads the fields that a range has left out. Returns an error if they cannot be read.
local function read_the_rest(execution)
  local values = redis.pcall('HMGET', execution.core, unpack(FIELDS, 2))
  if values.err then
    return values.err
  end
  for index = 2, ALL do
    local name = FIELDS[index]
    if execution[name] == nil then
      execution[name] = values[index - 1]
    end
  end
  execution.range = nil
end

-- Reads an execution, once per call: a table of its fields, or nil if it is not found, or nil and an error.
-- `extra` names one more field to read; its value is the third result. `range` names the fields to read: 'all' if it is
-- nil, which leaves out the tags.
function ff.execution.load(call, uuid, extra, range)
  local known = call.loaded[uuid]
  if known then
    local problem = known.range and known.range ~= range and read_the_rest(known)
    if problem then
      return nil, problem
    end
    local value = extra and redis.pcall('HGET', known.core, extra)
    if type(value) == 'table' then
      return nil, value.err
    end
    return known, nil, value
  end
  local core, chosen = ff.keys.core(call.partition.tag, uuid), ranges[range or 'all']
  local values = redis.pcall('HMGET', core, extra or FIELDS[chosen[1]], unpack(FIELDS, chosen[1], chosen[2]))
  if values.err then
    return nil, values.err
  end
  if not values[2] then
    return nil
  end
  local execution = chosen[3](uuid, core, values)
  call.loaded[uuid] = execution
  return execution, nil, values[1]
end

-- The member of an execution in `open`: its uuid, followed by the id of its flow if it has one, so that the flow of a
-- lost record is still known.
function ff.execution.open_member(execution)
  return execution.flow_id and execution.uuid .. execution.flow_id or execution.uuid
end

-- The uuid and the flow id ('' for a solo execution) of a member of `open`.
function ff.execution.of_open_member(member)
  return string.sub(member, 1, 36), string.sub(member, 37)
end

function ff.execution.is_terminal(execution)
  return execution.ending or execution.lifecycle_phase == 'terminal'
end

-- Whether the attempt has timed out. Its lease is no longer extended and so bounds how long the handler may take to
-- stop; no other worker gets the execution before the lease ends.
function ff.execution.is_timed_out(call, execution)
  local timeout_at = ff.base.num(execution.timeout_at)
  if timeout_at == 0 or timeout_at > call.now then
    return false
  end
  local started = ff.base.num(redis.call('HGET', execution.core, 'started_at'))
  return ff.clock.attempt_end(timeout_at, started) <= call.now
end

-- Whether the lease is known to have reached a worker.
local function is_confirmed(execution)
  return execution.lease_seen == execution.lease_epoch
end

-- Whether this lease (epoch and attempt, as texts) is the one that counts.
function ff.execution.holds_lease(execution, epoch, attempt)
  return execution.lifecycle_phase == 'active' and execution.lease_epoch == epoch
    and execution.current_attempt_index == attempt
end

-- The execution that the holder of a lease wants to end as `outcome`: to be ended, or to be resumed if an earlier call
-- was interrupted. Otherwise nil and the reply: the one that an identical call got, or why the call is refused.
function ff.execution.owned(call, uuid, epoch, attempt, outcome)
  local range = outcome == 'success' and 'to_end' or 'all'
  local execution, problem, dependents = ff.execution.load(call, uuid, 'dependents', range)
  if problem then
    return nil, redis.error_reply(problem)
  elseif not execution then
    return nil, { 'not_found' }
  end
  execution.dependents = dependents
  if ff.execution.holds_lease(execution, epoch, attempt) then
    return execution
  end
  local same_lease = execution.lease_epoch == epoch and execution.current_attempt_index == attempt
  if execution.lifecycle_phase == 'terminal' then
    local by_this_call = outcome == 'failed' and execution.ended_by == epoch
    if same_lease and (execution.terminal_outcome == outcome or by_this_call) then
      if execution.log_pos and not redis.call('ZSCORE', call.partition.open, ff.execution.open_member(execution)) then
        return nil, { 'ok', '0' }
      end
      return execution
    end
    return nil, execution.log_pos and { 'ended', execution.terminal_outcome } or { 'lease_lost' }
  end
  if outcome == 'failed' and same_lease and execution.failed_epoch == epoch then
    return nil, { 'retry', redis.call('HGET', execution.core, 'backoff_now_ms') }
  end
  return nil, { 'lease_lost' }
end

-- A call plans no further ends once it has read BYTES_OF_ENDS.
local function charge(call, bytes)
  call.bytes_of_ends = call.bytes_of_ends + bytes
  if call.bytes_of_ends >= BYTES_OF_ENDS then
    call.ends_left = 0
  end
end

-- Reads the tags for the event, unless they were read with the execution.
local function read_tags(call, execution)
  execution.tags_json = execution.tags_json or redis.call('HGET', execution.core, 'tags_json') or '{}'
  charge(call, #execution.tags_json)
end

-- Plans the end of an execution and its effects. `fields` are further fields to write.
function ff.execution.finish(call, execution, outcome, reason, fields)
  execution.ending = true
  execution.terminal_outcome = outcome
  execution.failure_reason = reason
  execution.completed_at = call.now_text
  ff.execution.take_from_holder(call, execution)
  -- Sized for what most ends write besides, so that the table need not grow.
  execution.fields = fields or { nil, nil, nil, nil, nil, nil }
  call.ends[#call.ends + 1] = execution
  call.ends_left = call.ends_left - 1
  read_tags(call, execution)
  ff.flow.member_ended(call, execution)
  ff.dependents.plan(call, execution)
end

-- Plans to notify the process that holds the lease that the lease is lost. In a call of the holder itself `by_holder`
-- is set.
function ff.execution.take_from_holder(call, execution)
  local active = execution.public_state == 'active'
  if active and execution.lease_listener and not execution.by_holder and not execution.loss_planned then
    execution.loss_planned = true
    call.losses[#call.losses + 1] = execution
  end
end

-- Notifies the holders of the leases that this call has ended.
function ff.execution.announce_losses(call)
  local losses = call.losses
  for index = 1, #losses do
    local execution = losses[index]
    ff.queue.announce_loss(call.partition, execution.lease_listener, execution.uuid, execution.lease_epoch)
  end
end

-- Plans the cancellation of an execution whose flow is being cancelled. Returns whether it is.
function ff.execution.cancelled_with_flow(call, execution, fields)
  local flow = ff.flow.of(call, execution)
  if not (flow and flow.cancel_requested) then
    return false
  end
  ff.execution.finish(call, execution, 'cancelled', flow.cancel_reason, fields)
  return true
end

-- Reads what a completion needs of an ended execution's result: its length, and the result itself only if it may be
-- part of the event.
local function read_result(call, execution)
  local len = redis.call('HSTRLEN', execution.core, 'result')
  execution.result_len = len
  if len == 0 or len > call.inline_limit then
    return
  end
  local stored = redis.call('HMGET', execution.core, 'result', 'result_text')
  execution.result, execution.result_text = stored[1] or nil, stored[2] or nil
  charge(call, len)
end

-- Plans to complete an interrupted end.
function ff.execution.resume_end(call, execution)
  call.ends_left = call.ends_left - 1
  read_tags(call, execution)
  read_result(call, execution)
  execution.ending = true
  execution.resumed = true
  call.ends[#call.ends + 1] = execution
  ff.flow.member_ended(call, execution)
  ff.dependents.plan(call, execution)
end

-- Plans the success of an execution that `ff.execution.owned` has returned, or to complete its interrupted end.
function ff.execution.complete(call, execution, result, is_text)
  if execution.lifecycle_phase == 'terminal' then
    ff.execution.resume_end(call, execution)
    return
  end
  execution.by_holder = true
  execution.result, execution.result_text = result, is_text
  ff.execution.finish(call, execution, 'success')
end

-- Plans a change to a state that is not terminal: to 'waiting', or to 'delayed' until `due` (ms).
function ff.execution.move(call, execution, state, due, fields)
  execution.next_state = state
  execution.due = due
  ff.execution.touch(call, execution, fields)
end

-- Moves the delay and the deadline of a member of a flow that was submitted in parts: they were computed from the time
-- of its part (`times_from`), and count from the start of its flow. Returns the fields to write, or nil if nothing
-- changes.
function ff.execution.count_from_start(call, execution)
  local from = ff.base.num(execution.times_from)
  local flow = from > 0 and ff.flow.of(call, execution)
  if not flow then
    return nil
  end
  local by, fields = ff.flow.started_at(flow) - from, { 'times_from', '0' }
  for _, name in ipairs({ 'eligible_at', 'deadline_at' }) do
    local time = ff.base.num(execution[name])
    if time > 0 then
      execution[name] = ff.base.int(time + by)
      fields[#fields + 1] = name
      fields[#fields + 1] = execution[name]
    end
  end
  execution.times_from = '0'
  return fields
end

-- Collects in `call.missing` the index entries that an open execution lacks, and in its field `counted` the changes of
-- `count_from_start`.
function ff.execution.note_missing(call, execution)
  local counted = ff.execution.count_from_start(call, execution)
  if counted then
    call.missing.counted[#call.missing.counted + 1] = { execution.core, counted }
  end
  local partition, uuid, state = call.partition, execution.uuid, execution.public_state
  local index, score, member
  if state == 'waiting' then
    index, score, member = partition.ready, '0', execution.ready_member
  elseif state == 'delayed' then
    index, score, member = partition.delayed, execution.eligible_at, uuid
  elseif state == 'active' then
    index, score, member = partition.leases, execution.lease_expires_at, uuid
  end
  if index and not redis.call('ZSCORE', index, member) then
    call.missing[#call.missing + 1] = { index, score, member, state == 'waiting' and execution.lane_id }
  end
  if ff.base.num(execution.deadline_at) > 0 and not redis.call('ZSCORE', partition.deadlines, uuid) then
    call.missing[#call.missing + 1] = { partition.deadlines, execution.deadline_at, uuid }
  end
end

-- Writes the missing index entries. The changed times are written first, since the index entries are derived from them.
function ff.execution.add_missing(call)
  for _, entry in ipairs(call.missing.counted) do
    redis.call('HSET', entry[1], unpack(entry[2]))
  end
  for _, entry in ipairs(call.missing) do
    redis.call('ZADD', entry[1], entry[2], entry[3])
    if entry[4] then
      call.lanes[#call.lanes + 1] = entry[4]
    else
      ff.timers.note(call, tonumber(entry[2]))
    end
  end
end

-- Plans to write further fields.
function ff.execution.touch(call, execution, fields)
  local planned = execution.fields
  if not planned then
    execution.fields = fields or {}
  elseif fields then
    local count = #planned
    for index = 1, #fields do
      planned[count + index] = fields[index]
    end
  end
  if not execution.moving then
    execution.moving = true
    call.moves[#call.moves + 1] = execution
  end
end

-- Shortens the backoff by up to a fifth, depending on the execution's uuid and its number of failures: executions that
-- failed together retry at different times, and a repeated call computes the same backoff.
local function with_jitter(execution, failures, backoff)
  local fraction = (tonumber(string.sub(execution.uuid, -6), 16) + failures * 7919) * 48271 % 1000
  return backoff - math.floor(backoff * fraction / 5000)
end

local function reset(fields, name, stored)
  if ff.base.num(stored) > 0 then
    fields[#fields + 1] = name
    fields[#fields + 1] = '0'
  end
end

-- Plans a retry or the end after a failed attempt. Returns 'retry' and the backoff in ms, or 'ended' and 0. If the
-- worker itself reports the failure (`by_holder`), this work does not crash its process: the counts of expired leases
-- are reset.
function ff.execution.attempt_failed(call, execution, reason, retryable)
  local failures = ff.base.num(execution.failures) + 1
  local fields = { 'failures', ff.base.int(failures), 'last_error', reason, 'failed_epoch', execution.lease_epoch }
  if ff.execution.cancelled_with_flow(call, execution, { 'ended_by', execution.lease_epoch, unpack(fields) }) then
    return 'ended', 0
  end
  if not retryable or failures >= ff.base.num(execution.max_attempts) then
    ff.execution.finish(call, execution, 'failed', retryable and 'attempts_exhausted' or reason, fields)
    return 'ended', 0
  end
  if execution.by_holder then
    reset(fields, 'lease_expiries', execution.lease_expiries)
    reset(fields, 'lease_unseen', execution.lease_unseen)
  end
  local doubled = ff.base.num(execution.backoff_ms) * 2 ^ math.min(failures - 1, 40)
  local backoff = with_jitter(execution, failures, math.min(doubled, ff.base.num(execution.backoff_max_ms)))
  fields[#fields + 1] = 'backoff_now_ms'
  fields[#fields + 1] = ff.base.int(backoff)
  if backoff > 0 then
    ff.execution.move(call, execution, 'delayed', call.now + backoff, fields)
  else
    ff.execution.move(call, execution, 'waiting', nil, fields)
  end
  return 'retry', backoff
end

-- Plans what follows an expired lease. An unconfirmed lease may never have reached a worker, so it counts neither as an
-- expiry nor as a timeout; the next worker confirms its lease before it starts.
function ff.execution.lease_expired(call, execution)
  ff.execution.take_from_holder(call, execution)
  if not is_confirmed(execution) then
    local unseen = ff.base.int(ff.base.num(execution.lease_unseen) + 1)
    ff.execution.move(call, execution, 'waiting', nil, { 'lease_unseen', unseen })
    return
  end
  if ff.execution.is_timed_out(call, execution) then
    ff.execution.attempt_failed(call, execution, 'timeout', true)
    return
  end
  local expiries = ff.base.num(execution.lease_expiries) + 1
  local fields = { 'lease_expiries', ff.base.int(expiries) }
  if expiries >= ff.base.num(execution.max_lease_expiries) then
    ff.execution.finish(call, execution, 'failed', 'lease_expired', fields)
  else
    ff.execution.move(call, execution, 'waiting', nil, fields)
  end
end

-- Writes the core of an execution that ends, in one command.
function ff.execution.write_end(call, execution)
  if execution.resumed then
    return
  end
  local outcome, fields = execution.terminal_outcome, execution.fields
  local count = #fields
  local expected = ff.completion.expected_position(call, execution)
  if expected then
    fields[count + 1], fields[count + 2] = 'log_expected', expected
    count = count + 2
  end
  if execution.failure_reason then
    fields[count + 1], fields[count + 2] = 'failure_reason', execution.failure_reason
    count = count + 2
  end
  if execution.result and execution.result ~= '' then
    fields[count + 1], fields[count + 2] = 'result', execution.result
    fields[count + 3], fields[count + 4] = 'result_text', execution.result_text
    count = count + 4
  end
  redis.call('HSET', execution.core, 'lifecycle_phase', 'terminal', 'public_state', outcome,
    'terminal_outcome', outcome, 'completed_at', execution.completed_at, unpack(fields, 1, count))
end

-- Frees the payload, which only a worker needed. Comes after the end and its log entry, and before the execution leaves
-- the indexes.
function ff.execution.free_payload(execution)
  if execution.has_payload then
    redis.call('HDEL', execution.core, 'payload', 'large_payload', 'large_payload_len', 'has_payload')
  end
end

-- Writes an execution that changes without ending, and moves it between the indexes.
function ff.execution.write_move(call, execution)
  if execution.ending then
    return
  end
  local partition, state = call.partition, execution.next_state
  local fields = execution.fields
  local was_active, was_delayed = execution.public_state == 'active', execution.public_state == 'delayed'
  if state then
    local count = #fields
    fields[count + 1], fields[count + 2] = 'lifecycle_phase', PHASES[state]
    fields[count + 3], fields[count + 4] = 'public_state', state
    if state == 'waiting' then
      execution.ready_member = ff.queue.member(call, execution)
      fields[count + 5], fields[count + 6] = 'ready_member', execution.ready_member
    else
      fields[count + 5], fields[count + 6] = 'eligible_at', ff.base.int(execution.due)
    end
  end
  ff.base.chunked('HSET', execution.core, fields, 2)
  if state == 'waiting' then
    ff.queue.push(call, execution)
  elseif state == 'delayed' then
    redis.call('ZADD', partition.delayed, ff.base.int(execution.due), execution.uuid)
    ff.timers.note(call, execution.due)
  end
  if was_delayed and state == 'waiting' then
    redis.call('ZREM', partition.delayed, execution.uuid)
  end
  if was_active and state then
    redis.call('ZREM', partition.leases, execution.uuid)
  end
end
end

do -- lib/flow.lua
-- Flows: submission in parts, the count of open members, cancellation, and the end of a flow.

ff.flow = {}

local FIELDS = {
  'flow_id', 'state', 'remaining', 'unsuccessful', 'cancel_requested', 'cancel_reason', 'member_cancelled',
}

-- How long the parts of a submission are kept while the next one is awaited (ms).
ff.flow.parts_kept_for = '60000'

-- The reply to a submission whose flow exists already; nil if it is to be written, and whether some of its parts exist.
-- `part` is 'whole', 'first' or 'further'.
function ff.flow.known(core, fingerprint, part)
  local stored = redis.call('HMGET', core, 'fingerprint', 'state')
  local known, submitting = stored[1], stored[2] == 'submitting'
  if not known then
    return part == 'further' and 'restart' or nil
  elseif known ~= fingerprint then
    return 'conflict'
  elseif not submitting then
    return 'exists'
  end
  return nil, true
end

-- The field for the number of members of the part that begins at this index.
local function part_field(first)
  return 'part:' .. first
end

-- Records that a part is written. The record expires with the flow's core and is lost in a failover like the part
-- itself, so a flow never starts without some of its members.
function ff.flow.record_part(core, first, count)
  redis.call('HSET', core, part_field(first), ff.base.int(count))
end

-- The fields that record parts, and for each the index of its first member and the number of its members.
local function read_parts(core)
  local fields, firsts = {}, {}
  for _, name in ipairs(redis.call('HKEYS', core)) do
    local first = string.match(name, '^part:(%d+)$')
    if first then
      fields[#fields + 1] = name
      firsts[#firsts + 1] = tonumber(first)
    end
  end
  return fields, firsts, #fields > 0 and redis.call('HMGET', core, unpack(fields)) or {}
end

-- Removes the records of the parts that the members from index `first` on (`count` of them) overlap: these members are
-- about to be written again. Programs may divide a flow into different parts, and the records must never overlap.
function ff.flow.forget_parts(core, first, count)
  local fields, firsts, counts = read_parts(core)
  local replaced = {}
  for index, field in ipairs(fields) do
    if firsts[index] < first + count and firsts[index] + ff.base.num(counts[index]) > first then
      replaced[#replaced + 1] = field
    end
  end
  ff.base.chunked('HDEL', core, replaced)
end

-- The fields that record parts, and the number of members in all parts.
function ff.flow.parts(core)
  local fields, _, counts = read_parts(core)
  local total = 0
  for _, count in ipairs(counts) do
    total = total + ff.base.num(count)
  end
  return fields, total
end

-- Marks a flow as being submitted in parts. It expires unless the next part comes in time: then the reconciler discards
-- its members like those of any interrupted submission.
function ff.flow.keep_submitting(core, flow_id, fingerprint)
  redis.call('HSET', core, 'flow_id', flow_id, 'fingerprint', fingerprint, 'state', 'submitting')
  redis.call('PEXPIRE', core, ff.flow.parts_kept_for)
end

-- Writes the core of a flow whose members are all written.
function ff.flow.start(call, core, flow)
  local count = ff.base.int(ff.uuids.count(flow.members))
  redis.call('HSET', core, 'flow_id', flow.id, 'namespace', flow.namespace, 'name', flow.name,
    'fingerprint', flow.fingerprint, 'state', 'running', 'total', count, 'remaining', count, 'unsuccessful', '0',
    'created_at', call.now_text, 'members', flow.members)
end

-- Whether a flow lists a member. A submission that was interrupted and then repeated with other content leaves members
-- that its flow does not list.
function ff.flow.lists(flow, execution)
  if not flow.members then
    flow.members = redis.call('HGET', flow.core, 'members') or ''
  end
  return ff.uuids.at(flow.members, ff.base.num(execution.index) + 1) == execution.uuid
end

-- When a flow was accepted (ms).
function ff.flow.started_at(flow)
  flow.started_at = flow.started_at or ff.base.num(redis.call('HGET', flow.core, 'created_at'))
  return flow.started_at
end

-- The field that marks a member as counted.
local function mark_of(index)
  return 'ended:' .. index
end

-- Reads a flow, once per call, and whether its member `index` ('' for none) was counted as ended. Returns nil if there
-- is no such flow, and nil and an error if it cannot be read.
local function read(call, flow_id, index)
  if call.flows[flow_id] then
    return call.flows[flow_id]
  end
  local core, mark = ff.keys.flow(call.partition.tag, flow_id), mark_of(index)
  local values = redis.pcall('HMGET', core, mark, unpack(FIELDS))
  if not values[2] then
    return nil, values.err
  end
  local flow = {
    id = flow_id, core = core, mark = mark, marked = values[1], changes = {}, state = values[3],
    remaining = values[4], unsuccessful = values[5], cancel_requested = values[6] == '1', cancel_reason = values[7],
    member_cancelled = values[8] == '1',
  }
  call.flows[flow_id] = flow
  call.flow_list[#call.flow_list + 1] = flow
  return flow
end

-- Like `read`, but raises an error. Allowed before the first write only.
function ff.flow.load(call, flow_id, index)
  local flow, problem = read(call, flow_id, index)
  if problem then
    error({ err = problem })
  end
  return flow
end

-- The flow of an execution; nil if it has none or it does not exist, and nil and an error if it cannot be read. A call
-- for many executions uses this before it plans anything for one of them, so that one bad flow does not fail the
-- others.
function ff.flow.try(call, execution)
  local flow_id = execution.flow_id
  if flow_id then
    return read(call, flow_id, execution.index or '')
  end
end

-- The flow of an execution; nil for a solo one.
function ff.flow.of(call, execution)
  local flow_id = execution.flow_id
  return flow_id and (call.flows[flow_id] or ff.flow.load(call, flow_id, execution.index))
end

-- Whether an execution was written by a submission other than that of its flow, or by one that is not complete yet.
function ff.flow.is_of_another(call, execution)
  local flow = ff.flow.of(call, execution)
  return flow and (flow.state == 'submitting' or not ff.flow.lists(flow, execution))
end

-- Whether the stored flow has counted a member.
local function was_counted(flow, mark)
  if mark == flow.mark then
    return flow.marked
  end
  return redis.call('HEXISTS', flow.core, mark) == 1
end

-- Plans to count a member that ends, unless it was counted before.
function ff.flow.member_ended(call, execution)
  local flow = ff.flow.of(call, execution)
  if not flow then
    return
  end
  local mark = mark_of(execution.index)
  if was_counted(flow, mark) then
    return
  end
  local changes = flow.changes
  changes[#changes + 1] = mark
  changes[#changes + 1] = execution.terminal_outcome
  flow.remaining = ff.base.num(flow.remaining) - 1
  if execution.terminal_outcome == 'failed' or execution.terminal_outcome == 'expired' then
    flow.unsuccessful = ff.base.num(flow.unsuccessful) + 1
  elseif execution.terminal_outcome == 'cancelled' and not flow.member_cancelled then
    flow.member_cancelled = true
    changes[#changes + 1] = 'member_cancelled'
    changes[#changes + 1] = '1'
  end
  flow.ended_at = call.now_text
end

-- Plans to mark a flow as being cancelled: its members do not start any more.
function ff.flow.request_cancel(flow, reason)
  flow.cancel_requested, flow.cancel_reason, flow.newly_cancelled = true, reason, true
end

-- Marks a flow as being cancelled. Comes before its first member ends, so that the repair of an interrupted
-- cancellation cancels the rest.
function ff.flow.write_cancel(flow)
  if flow.newly_cancelled then
    redis.call('HSET', flow.core, 'cancel_requested', '1', 'cancel_reason', flow.cancel_reason)
  end
end

-- A cancellation, of the flow or of one of its members, takes precedence over a failure.
local function final_state(flow)
  if flow.cancel_requested or flow.member_cancelled then
    return 'cancelled'
  end
  return ff.base.num(flow.unsuccessful) > 0 and 'failed' or 'success'
end

-- Whether all members of a flow are counted as ended, including those that this call ends.
local function has_ended(flow)
  return flow.remaining and ff.base.num(flow.remaining) == 0
end

-- The member of a flow in `ended`. Retention finds by it a flow whose members' records are all gone.
function ff.flow.ended_member(flow_id)
  return 'flow:' .. flow_id
end

-- Adds a flow whose last member this call ends to the entries that the call writes to `ended`.
function ff.flow.plan_ended(call, flow, entries)
  if has_ended(flow) then
    local count = #entries
    entries[count + 1], entries[count + 2] = call.now_text, ff.flow.ended_member(flow.id)
  end
end

-- Writes the planned changes of a flow in one command; the members that one call can end fit into it.
function ff.flow.write(flow)
  local changes = flow.changes
  if #changes == 0 then
    return
  end
  local remaining, unsuccessful = ff.base.int(flow.remaining), ff.base.int(ff.base.num(flow.unsuccessful))
  if flow.remaining ~= 0 then
    redis.call('HSET', flow.core, 'remaining', remaining, 'unsuccessful', unsuccessful, unpack(changes))
  else
    redis.call('HSET', flow.core, 'remaining', remaining, 'unsuccessful', unsuccessful, 'state', final_state(flow),
      'completed_at', flow.ended_at, unpack(changes))
  end
end
end

do -- lib/keys.lua
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
end

do -- lib/leases.lua
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
end

do -- lib/log.lua
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
end

do -- lib/queue.lua
-- The queue of claimable executions, and the signals to processes that wait for work.

ff.queue = {}

local MAX_PRIORITY = 999
-- Digits of a time in ms, until the year 2286.
local TIME_DIGITS = 13
-- The most waiting processes that are tried for one signal, in case the first ones are gone.
local SIGNAL_TRIES = '64'
-- How often a partition checks for processes that are gone (ms), and how many waiters it checks at once.
local PRUNE_INTERVAL = 60000
local PRUNED_AT_ONCE = 16

-- How long work waits for the signalled process before the next one is signalled (ms), and how many lanes of a
-- partition a sweep checks for such work.
local REMIND_AFTER = 1000
local REMINDED_AT_ONCE = 8
-- The most lanes whose last signal is remembered.
local REMEMBERED_LANES = 1000

-- partition tag -> { at, after }: when waiters were last checked, and the last waiter checked.
local pruned = {}
-- partition tag -> the start of the next check for waiting work.
local reminded = {}
-- lane -> the process that was signalled last in any partition, so that processes take turns.
local signalled, remembered = {}, 0

-- The range of a lane's members in `ready` and `waiters`: lanes hold no control characters.
local function lane_range(lane)
  return '[' .. lane .. '\n', '(' .. lane .. '\11'
end

-- Members sort by lane, priority (high first), time (old first), and index in the flow.
function ff.queue.member(call, execution)
  local time = call.now_text
  if #time < TIME_DIGITS then
    time = string.rep('0', TIME_DIGITS - #time) .. time
  end
  return string.format('%s\n%03d%s%04d:%s', execution.lane_id, MAX_PRIORITY - ff.base.num(execution.priority), time,
    ff.base.num(execution.index), execution.uuid)
end

-- The uuid at the end of a member.
function ff.queue.uuid(member)
  return string.sub(member, -36)
end

-- The first members of a lane, or the first after the member `after`.
function ff.queue.peek(partition, lane, limit, after)
  local first, last = lane_range(lane)
  first = after and '(' .. after or first
  return redis.call('ZRANGEBYLEX', partition.ready, first, last, 'LIMIT', '0', ff.base.int(limit))
end

-- Puts a runnable execution into the queue; its core names the member.
function ff.queue.push(call, execution)
  redis.call('ZADD', call.partition.ready, '0', execution.ready_member)
  call.lanes[#call.lanes + 1] = execution.lane_id
end

-- Records a process to be signalled when the lane gets work here.
function ff.queue.wait(partition, lane, listener)
  redis.call('ZADD', partition.waiters, '0', lane .. '\n' .. listener)
end

-- Sends a message on a listener's channel. Returns whether a process received it.
local function reaches(listener, message)
  local receivers = redis.pcall('PUBLISH', ff.keys.wake_channel(listener), message)
  return type(receivers) == 'number' and receivers > 0
end

-- Notifies a process that it has lost a lease, so that its handler does not run on until the next renewal.
function ff.queue.announce_loss(partition, listener, uuid, epoch)
  reaches(listener, 'lost ' .. partition.tag .. ' ' .. uuid .. ' ' .. epoch)
end

local function listener_of(waiter)
  return string.sub(waiter, string.find(waiter, '\n', 1, true) + 1)
end

local function remember(lane, listener)
  if not signalled[lane] then
    if remembered >= REMEMBERED_LANES then
      signalled, remembered = {}, 0
    end
    remembered = remembered + 1
  end
  signalled[lane] = listener
end

-- Processes that wait for this lane, beginning after the one that was signalled last.
local function waiters_in_turn(partition, lane)
  local first, last = lane_range(lane)
  local waiters = redis.call('ZRANGEBYLEX', partition.waiters, first, last, 'LIMIT', '0', SIGNAL_TRIES)
  local previous = signalled[lane]
  if not previous or #waiters < 2 then
    return waiters
  end
  previous = lane .. '\n' .. previous
  if #waiters == tonumber(SIGNAL_TRIES) then
    local next_ones = redis.call('ZRANGEBYLEX', partition.waiters, '(' .. previous, last, 'LIMIT', '0', SIGNAL_TRIES)
    return #next_ones > 0 and next_ones or waiters
  end
  local turned, count = {}, #waiters
  local start = 1
  while start <= count and waiters[start] <= previous do
    start = start + 1
  end
  for index = 0, count - 1 do
    turned[index + 1] = waiters[(start - 1 + index) % count + 1]
  end
  return turned
end

-- Signals one process that waits for this lane, skipping those that are gone.
function ff.queue.signal(partition, lane)
  for _, waiter in ipairs(waiters_in_turn(partition, lane)) do
    redis.call('ZREM', partition.waiters, waiter)
    local listener = listener_of(waiter)
    if reaches(listener, lane .. ' ' .. string.match(partition.tag, '%d+')) then
      remember(lane, listener)
      return
    end
  end
end

-- Signals the next process for lanes whose work waits although processes wait for it: the process that was signalled
-- cannot take the work or is gone. Returns when to check again (ms), if there is work.
function ff.queue.remind(partition, now)
  local from = reminded[partition.tag] or '-'
  local found = false
  for _ = 1, REMINDED_AT_ONCE do
    local member = redis.call('ZRANGEBYLEX', partition.ready, from, '+', 'LIMIT', '0', '1')[1]
    if not member then
      reminded[partition.tag] = nil
      break
    end
    if not found and redis.call('EXISTS', partition.waiters) == 0 then
      -- A process that comes later finds the work itself.
      return nil
    end
    found = true
    local lane, time = string.match(member, '^([^\n]*)\n%d%d%d(%d+)')
    local since = time and tonumber(string.sub(time, 1, TIME_DIGITS))
    -- Work from the future was queued before the clock was set back.
    if since and (now - since >= REMIND_AFTER or now < since) then
      ff.queue.signal(partition, lane)
    end
    from = '(' .. string.match(member, '^[^\n]*') .. '\11'
    reminded[partition.tag] = from
  end
  return found and now + REMIND_AFTER or nil
end

-- Periodically removes waiters that are gone, also of lanes that get no more work. An empty message tests whether a
-- process listens.
function ff.queue.prune(partition, now)
  local last = pruned[partition.tag] or { at = now - PRUNE_INTERVAL, after = '-' }
  pruned[partition.tag] = last
  if now >= last.at and now - last.at < PRUNE_INTERVAL then
    return
  end
  local waiters = redis.call('ZRANGEBYLEX', partition.waiters, last.after, '+', 'LIMIT', 0, PRUNED_AT_ONCE)
  for _, waiter in ipairs(waiters) do
    if not reaches(listener_of(waiter), '') then
      redis.call('ZREM', partition.waiters, waiter)
    end
  end
  local more = #waiters == PRUNED_AT_ONCE
  last.after = more and '(' .. waiters[#waiters] or '-'
  -- A long list is checked without a pause.
  last.at = more and now - PRUNE_INTERVAL or now
end

-- Signals one process for each lane that this call gave work to.
function ff.queue.signal_all(call)
  local lanes = call.lanes
  if #lanes == 0 then
    return
  end
  local done = {}
  for index = 1, #lanes do
    local lane = lanes[index]
    if not done[lane] then
      done[lane] = true
      ff.queue.signal(call.partition, lane)
    end
  end
end
end

do -- lib/retention.lua
-- Retention: removes log entries by age, then the executions and flows that no log entry refers to any more.

ff.retention = {}

-- For how long the clock must have been stable before anything is deleted (ms), or for the retention if that is
-- shorter.
local STABLE_CLOCK = 600000
-- The fields of a core that are kept to recognise a repeated submission.
local KEPT_FIELDS = { fingerprint = true, state = true, terminal_outcome = true }

-- Whether the id is derived from an idempotency key (UUIDv5): others cannot be submitted again.
local function is_derived(uuid)
  return string.sub(uuid, 15, 15) == '5'
end

-- Deletes the core of a flow or a solo execution, or reduces it to KEPT_FIELDS for the time of the policy, so that a
-- repeated submission is recognised. Everywhere else a reduced core counts as not found. The expiry is set first, so
-- that no core stays forever if the call is interrupted.
local function delete_head(call, core, uuid)
  if call.idempotency_ms <= 0 or not is_derived(uuid) then
    redis.call('UNLINK', core)
    return
  end
  redis.call('PEXPIRE', core, ff.base.int(call.idempotency_ms))
  local dropped = {}
  for _, name in ipairs(redis.call('HKEYS', core)) do
    if not KEPT_FIELDS[name] then
      dropped[#dropped + 1] = name
    end
  end
  ff.base.chunked('HDEL', core, dropped)
end

local function remove_solo(call, uuid)
  local partition = call.partition
  delete_head(call, ff.keys.core(partition.tag, uuid), uuid)
  redis.call('UNLINK', ff.keys.tags(partition.tag, uuid))
  redis.call('ZREM', partition.ended, uuid)
  return 1
end

-- The flow id of a flow's member of `ended`; nil for an execution's.
local function flow_of_member(member)
  return string.match(member, '^flow:(.+)$')
end

local function remove_executions(call, uuids)
  local partition, keys = call.partition, {}
  for _, uuid in ipairs(uuids) do
    call.gone[uuid] = true
    keys[#keys + 1] = ff.keys.core(partition.tag, uuid)
    keys[#keys + 1] = ff.keys.tags(partition.tag, uuid)
  end
  for first = 1, #keys, 1000 do
    redis.call('UNLINK', unpack(keys, first, math.min(first + 999, #keys)))
  end
  ff.base.chunked('ZREM', partition.ended, uuids)
  return #uuids
end

local function postpone(partition, member, score)
  redis.call('ZADD', partition.ended, ff.base.int(score), member)
  return 0
end

-- Removes the flow to which the entry `member` of `ended` belongs: the flow's own entry, or that of its member `uuid`.
-- Members stay at least as long as their flow does, and a flow as long as its newest completion.
local function remove_flow(call, member, uuid, flow_id, cutoff)
  local core = ff.keys.flow(call.partition.tag, flow_id)
  local flow = redis.pcall('HMGET', core, 'state', 'completed_at', 'members')
  if flow.err then
    return postpone(call.partition, member, call.now)
  elseif flow[1] == 'running' or flow[1] == 'submitting' then
    return postpone(call.partition, member, call.now)
  elseif not flow[3] and uuid then
    return remove_executions(call, { uuid })
  elseif flow[3] and ff.base.num(flow[2]) >= cutoff then
    return postpone(call.partition, member, ff.base.num(flow[2]))
  end
  -- The flow is deleted first: without its list of members, each member is removed by its own entry in `ended`. So are
  -- the members beyond this call's bound.
  local uuids = { uuid }
  if flow[3] then
    for place = 1, math.min(ff.uuids.count(flow[3]), call.removals_left) do
      local other = ff.uuids.at(flow[3], place)
      uuids[#uuids + 1] = other ~= uuid and other or nil
    end
    delete_head(call, core, flow_id)
  end
  local removed = remove_executions(call, uuids)
  -- Last, so that this entry still finds the flow after an interruption.
  redis.call('ZREM', call.partition.ended, ff.flow.ended_member(flow_id))
  call.gone[ff.flow.ended_member(flow_id)] = true
  return removed
end

-- Removes the execution of a member of `ended`, or the whole flow that it belongs to. Returns how many executions were
-- removed.
local function remove(call, member, cutoff)
  local flow_id = flow_of_member(member)
  if flow_id and not call.flows_done then
    return postpone(call.partition, member, call.now)
  elseif flow_id then
    return remove_flow(call, member, nil, flow_id, cutoff)
  end
  local uuid = member
  local stored = redis.pcall('HMGET', ff.keys.core(call.partition.tag, uuid), 'execution_id', 'flow_id')
  if not stored.err and not stored[1] then
    ff.suspects.note(call, uuid)
  end
  if stored.err or not stored[1] then
    return postpone(call.partition, uuid, call.now)
  elseif not (stored[2] and call.flows_done or not stored[2] and call.solo_done) then
    return postpone(call.partition, uuid, call.now)
  elseif stored[2] then
    return remove_flow(call, uuid, uuid, stored[2], cutoff)
  end
  return remove_solo(call, uuid)
end

-- Whether a log has no entry from before `cutoff` left; nil if another program has overwritten the log, which holds up
-- the removal of the executions of this log only.
local function trimmed(log, cutoff)
  local length = redis.pcall('XLEN', log)
  if type(length) == 'table' and ff.base.is_overwritten(length.err) then
    return nil
  end
  return ff.log.trim_before(log, cutoff)
end

-- Deletes up to `limit` executions, or more if the last of them belongs to a flow. Returns how many were removed, and
-- whether more are due.
function ff.retention.run(call, retention_ms, idempotency_ms, limit)
  if ff.clock.stable_for(call.now) < math.min(STABLE_CLOCK, retention_ms) then
    return 0, false
  end
  call.idempotency_ms = idempotency_ms
  local cutoff = call.now - retention_ms
  local partition = call.partition
  local flows_done, solo_done = trimmed(partition.flow_log, cutoff), trimmed(partition.solo_log, cutoff)
  if flows_done == false or solo_done == false then
    return 0, true
  end
  local candidates = redis.call('ZRANGEBYSCORE', partition.ended, '-inf', '(' .. ff.base.int(cutoff), 'LIMIT', 0,
    limit)
  local removed = 0
  call.gone, call.flows_done, call.solo_done = {}, flows_done, solo_done
  for _, member in ipairs(candidates) do
    call.removals_left = limit - removed
    if call.removals_left <= 0 then
      return removed, true
    end
    if not call.gone[member] then
      removed = removed + remove(call, member, cutoff)
    end
  end
  return removed, #candidates == limit
end
end

do -- lib/suspects.lua
-- Suspects: index entries whose execution is not found, and executions whose flow is not found. Only `ff1_settle`,
-- which has their keys in KEYS, can prove that a record is gone. Other functions name suspects in their reply, and
-- postpone them so that their bounded scans make progress.

ff.suspects = {}

-- The most suspects that one reply names.
local NAMED_AT_ONCE = 64
-- For how long an entry that cannot be handled now is postponed (ms).
ff.suspects.postponed_for = 60000

-- Adds a suspect to the reply. If the caller does not know its flow id, this is taken from its entry in `open`.
function ff.suspects.note(call, uuid, flow_id)
  local suspects = call.suspects
  if #suspects >= 2 * NAMED_AT_ONCE then
    return
  end
  if not flow_id then
    local member = redis.call('ZRANGEBYLEX', call.partition.open, '[' .. uuid, '(' .. uuid .. 'g', 'LIMIT', '0', '1')[1]
    flow_id = member and string.sub(member, 37) or ''
  end
  suspects[#suspects + 1] = uuid
  suspects[#suspects + 1] = flow_id
end

-- When a postponed entry is visited again (ms), as a text.
function ff.suspects.later(call)
  return ff.base.int(call.now + ff.suspects.postponed_for)
end
end

do -- lib/tally.lua
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
end

do -- lib/timers.lua
-- Timers that are due before the next regular sweep: the call that creates one announces it to the engines.
--
-- The engine that serves a partition sweeps it when the earliest timer that it knows of is due, and otherwise once per
-- interval, which is shorter than HORIZON. A timer is therefore announced only if it is due within the horizon and
-- earlier than the timer that was announced or reported last; the sweep for that one finds a later timer. A burst of
-- timers announces little, and a lease of 30 s announces nothing.

ff.timers = {}

-- How far ahead timers are announced (ms). The longest interval of a sweeper is shorter; limits.rs has the value for
-- Rust.
local HORIZON = 10000
-- How long an overdue timer counts as known (ms). After that time without a sweep its message was lost, and the next
-- timer is announced.
local OVERDUE = 1000

-- partition tag -> when the earliest timer is due (ms) that was announced, or reported by a sweep.
local known = {}

-- Plans to announce a timer that this call creates, due at a time in ms.
function ff.timers.note(call, due)
  if due - call.now < HORIZON and not call.reports_timers and (not call.timer or due < call.timer) then
    call.timer = due
  end
end

-- Announces the earliest timer that this call has created, as `<partition number> <ms until it is due>`. A lost message
-- only delays the timer until the next sweep.
function ff.timers.announce(call)
  local due = call.timer
  if not due then
    return
  end
  local tag = call.partition.tag
  local known_due = known[tag]
  if known_due and known_due <= due and known_due > call.now - OVERDUE then
    return
  end
  redis.pcall('PUBLISH', ff.keys.timers_channel,
    string.match(tag, '%d+') .. ' ' .. ff.base.int(math.max(due - call.now, 0)))
  known[tag] = due
end

-- Records the next due time (ms, or nil) that a sweep reports to its caller.
function ff.timers.reported(partition, due)
  known[partition.tag] = due
end

-- Announces that the set of engines has changed, so that they divide the partitions again.
function ff.timers.announce_engines()
  redis.pcall('PUBLISH', ff.keys.timers_channel, 'engines')
end
end

do -- lib/uuids.lua
-- Lists of uuids as they are stored: texts of 36 characters, separated by commas. Reading a list creates no table.

ff.uuids = {}

local LENGTH = 36
local WIDTH = LENGTH + 1

function ff.uuids.count(list)
  return math.floor((#list + 1) / WIDTH)
end

-- The uuid at a position, from 1.
function ff.uuids.at(list, place)
  local first = (place - 1) * WIDTH + 1
  return string.sub(list, first, first + LENGTH - 1)
end

-- The position of a uuid, from 1; nil if it is not in the list.
function ff.uuids.place(list, uuid)
  local first = string.find(list, uuid, 1, true)
  return first and (first - 1) / WIDTH + 1
end
end

do -- functions/appended.lua
-- ff1_appended: names the logs that this server process has appended to since the reader's last call. It reads no key:
-- the library remembers its appends. A process that has taken over or has reloaded the library returns another tally.
-- KEYS   1 a key of the server that is asked
-- ARGV   1 the tally of the last reply, '' at first; 2 'flows' or 'solo'
-- reply  the server's time (ms) and the tally now; then '*' if the appends since that tally are unknown, else per log
--        appended to: partition number, id of the newest entry and uuid of that entry's execution, separated by spaces
-- flags  no-writes
local function appended(_, ARGV)
  return ff.tally.since(ARGV[1], ARGV[2])
end

redis.register_function({ function_name = 'ff1_appended', callback = appended, flags = { 'no-writes' } })
end

do -- functions/await_work.lua
-- ff1_await_work: reports whether a lane has work here. If not, notes a process to be signalled when it gets work.
-- KEYS   1..12 partition block
-- ARGV   1 lane, 2 listener
-- reply  '1' if there is work, else '0'
-- errors WRONGTYPE
-- flags  allow-oom
local function await_work(KEYS, ARGV)
  local lane, listener = ARGV[1], ARGV[2]
  local partition = ff.keys.partition(KEYS)
  if #ff.queue.peek(partition, lane, 1) > 0 then
    return { '1' }
  end
  ff.queue.wait(partition, lane, listener)
  return { '0' }
end

redis.register_function({ function_name = 'ff1_await_work', callback = await_work, flags = { 'allow-oom' } })
end

do -- functions/cancel_execution.lua
-- ff1_cancel_execution: cancels an execution that has not ended.
-- KEYS   1..12 partition block, 13 the execution's core
-- ARGV   1 policy, 2 uuid, 3 reason (UTF-8)
-- reply  'ok', '1' if an announcement was refused | 'not_found' | 'ended', outcome
-- errors WRONGTYPE
-- flags  allow-oom
local function cancel_execution(KEYS, ARGV)
  local policy, uuid, reason = ARGV[1], ARGV[2], ARGV[3]
  local call = ff.call.begin(KEYS, policy)
  local execution, problem = ff.execution.load(call, uuid)
  if problem then
    return redis.error_reply(problem)
  elseif not execution or ff.flow.is_of_another(call, execution) then
    return { 'not_found' }
  elseif execution.lifecycle_phase ~= 'terminal' then
    ff.execution.finish(call, execution, 'cancelled', reason)
  elseif not execution.log_pos then
    ff.execution.resume_end(call, execution)
  end
  if #call.ends == 0 or execution.terminal_outcome ~= 'cancelled' then
    if #call.ends > 0 then
      ff.call.commit(call)
    end
    return { 'ended', execution.terminal_outcome }
  end
  return { 'ok', ff.call.commit(call) }
end

redis.register_function({ function_name = 'ff1_cancel_execution', callback = cancel_execution,
  flags = { 'allow-oom' } })
end

do -- functions/cancel_flow.lua
-- ff1_cancel_flow: cancels the members of a flow that have not ended, a bounded number of them per call. From the
-- first call on none of its members can start.
-- KEYS   1..12 partition block, 13 flow core
-- ARGV   1 policy, 2 flow id, 3 reason (UTF-8), 4 how many members earlier calls have visited, 5 how many to visit at
--        most
-- reply  'ok', cancelled, ended before, next offset or '' when done | 'not_found' | 'ended', state of the flow
-- errors WRONGTYPE
-- flags  allow-oom
local function cancel_member(call, uuid)
  local execution, problem = ff.execution.load(call, uuid)
  if problem and not ff.base.is_overwritten(problem) then
    error({ err = problem })
  end
  if not execution or ff.execution.is_terminal(execution) then
    return false
  end
  ff.execution.finish(call, execution, 'cancelled', call.reason)
  return true
end

local function cancel_flow(KEYS, ARGV)
  local core = KEYS[ff.keys.block + 1]
  local policy, flow_id, reason, offset, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
  local call = ff.call.begin(KEYS, policy)
  call.reason = reason
  local flow = ff.flow.load(call, flow_id, '')
  if not flow or flow.state == 'submitting' then
    return { 'not_found' }
  elseif flow.state ~= 'running' then
    return { 'ended', flow.state }
  end
  if not flow.cancel_requested then
    ff.flow.request_cancel(flow, reason)
  end
  local members = redis.call('HGET', core, 'members')
  local count = ff.uuids.count(members)
  local cancelled, done, last = 0, offset, math.min(offset + limit, count)
  while done < last and call.ends_left > 0 do
    done = done + 1
    if cancel_member(call, ff.uuids.at(members, done)) then
      cancelled = cancelled + 1
    end
  end
  ff.call.commit(call)
  return {
    'ok', ff.base.int(cancelled), ff.base.int(done - offset - cancelled), done < count and ff.base.int(done) or '',
  }
end

redis.register_function({ function_name = 'ff1_cancel_flow', callback = cancel_flow, flags = { 'allow-oom' } })
end

do -- functions/claim.lua
-- ff1_claim: leases runnable executions of one lane to a worker. A repeated claim gets the executions that its first
-- call took, as far as the claim still holds them.
-- KEYS   1..12 partition block, 13 the worker's last claim here
-- ARGV   1 lane, 2 worker, 3 how many at most (0: only signal the next waiter), 4 lease ms, 5 listener to note if the
--        lane is empty ('' for none), 6 claim id ('' for a claim that is never repeated)
-- reply  '1' if the lane has more, else '0'; then per execution: uuid, flow id or '', name, namespace, tags as JSON,
--        payload, attempt, lease epoch, max attempts, timeout ms or 0, how many of its leases expired unconfirmed
-- errors WRONGTYPE
-- flags  allow-oom
local FIELDS = {
  'public_state', 'ready_member', 'flow_id', 'name', 'namespace', 'tags_json', 'payload', 'current_attempt_index',
  'lease_epoch', 'max_attempts', 'timeout_ms', 'lease_unseen', 'large_payload_len',
}
-- The most executions that a call leases, and the queue members that it reads beyond the first ones if it cannot lease
-- some of these.
local LEASED_AT_ONCE, MORE_AT_ONCE = 40, 16
-- The most bytes of payloads and tags in one reply, unless the first execution has more.
local BYTES_AT_ONCE = 262144

-- The fields that a lease needs; nil if the execution cannot be read now. Nil and true if it is not found or was
-- overwritten by another program.
local function read_execution(call, uuid)
  local core = ff.keys.core(call.partition.tag, uuid)
  local values = redis.pcall('HMGET', core, unpack(FIELDS))
  if values.err and not ff.base.is_overwritten(values.err) then
    return nil
  elseif not values[1] then
    return nil, true
  end
  return {
    core = core, uuid = uuid,
 public_state = values[1], ready_member = values[2], flow_id = values[3], name = values[4], namespace = values[5], tags_json = values[6], payload = values[7], current_attempt_index = values[8], lease_epoch = values[9], max_attempts = values[10], timeout_ms = values[11], lease_unseen = values[12], large_payload_len = values[13],
  }
end

local function bytes_of(execution)
  local len = execution.large_payload_len
  return #execution.tags_json + (len and tonumber(len) or execution.payload and #execution.payload or 0)
end

local function take_next(candidate)
  candidate.attempt = ff.base.int(ff.base.num(candidate.current_attempt_index) + 1)
  candidate.epoch = ff.base.int(ff.base.num(candidate.lease_epoch) + 1)
end

-- The execution of a queue member. A member whose execution is not found is removed from the queue, so that it does not
-- block others: the reconciler settles lost executions and queues the others again.
local function read_candidate(call, member)
  local candidate, absent = read_execution(call, ff.queue.uuid(member))
  if absent then
    return { stale = true }
  elseif candidate then
    candidate.stale = candidate.public_state ~= 'waiting' or candidate.ready_member ~= member
    take_next(candidate)
  end
  return candidate
end

-- Members of a flow that is being cancelled leave the queue too: the cancellation finds them by the flow's list.
local function is_stale(call, candidate)
  if candidate.stale or not candidate.flow_id then
    return candidate.stale
  end
  local cancelled, flow_id = call.cancelled, candidate.flow_id
  if cancelled[flow_id] == nil then
    cancelled[flow_id] = redis.pcall('HGET', ff.keys.flow(call.partition.tag, flow_id), 'cancel_requested') == '1'
  end
  return cancelled[flow_id]
end

-- Chooses from some members of the queue. Returns whether the choice is complete, and then whether there may be more to
-- lease. The record behind the last one that is wanted is not read: its payload may be long. A call that wants none
-- reads it, because its caller relies on the answer.
local function choose_from(call, members, wanted, choice)
  local chosen, stale = choice.chosen, choice.stale
  for index = 1, #members do
    if wanted > 0 and #chosen == wanted then
      return true, true
    end
    local candidate = read_candidate(call, members[index])
    if candidate and is_stale(call, candidate) then
      stale[#stale + 1] = members[index]
    elseif candidate and wanted > 0 and (#chosen == 0 or bytes_of(candidate) <= choice.bytes_left) then
      chosen[#chosen + 1] = candidate
      choice.bytes_left = choice.bytes_left - bytes_of(candidate)
    elseif candidate then
      return true, true
    end
  end
  return false, false
end

-- The executions to lease, the members to remove from the queue, and whether there may be more to lease.
local function choose(call, lane, wanted)
  local choice = { chosen = {}, stale = {}, bytes_left = BYTES_AT_ONCE }
  -- One more than wanted, to know whether there is more.
  local members = ff.queue.peek(call.partition, lane, wanted + 1)
  local complete, more = choose_from(call, members, wanted, choice)
  if not complete and #members == wanted + 1 then
    -- Some members were stale or could not be read; there may be work behind them.
    members = ff.queue.peek(call.partition, lane, MORE_AT_ONCE, members[#members])
    complete, more = choose_from(call, members, wanted, choice)
    more = more or not complete and #choice.stale > 0 and #members == MORE_AT_ONCE
  end
  return choice.chosen, choice.stale, more
end

local function lease(call, candidate, worker, listener, lease_ms)
  local timeout = ff.base.num(candidate.timeout_ms)
  local expires_text, timeout_at = ff.base.int(call.now + lease_ms), timeout > 0 and call.now + timeout or 0
  -- Out of the queue first: if the call stops here, the reconciler queues the waiting execution again. A queue entry
  -- of an active execution would look like work.
  redis.call('ZREM', call.partition.ready, candidate.ready_member)
  redis.call('HSET', candidate.core, 'lifecycle_phase', 'active', 'public_state', 'active',
    'current_attempt_index', candidate.attempt, 'lease_epoch', candidate.epoch, 'lease_worker', worker,
    'lease_listener', listener, 'lease_expires_at', expires_text, 'lease_ms', ff.base.int(lease_ms),
    'started_at', call.now_text, 'timeout_at', ff.base.int(timeout_at))
  redis.call('ZADD', call.partition.leases, expires_text, candidate.uuid)
end

-- The text of a claim's record: the claim's id, then the uuid and lease epoch of each execution.
local function describe(claim_id, chosen)
  local parts = {}
  for index = 1, #chosen do
    parts[index] = chosen[index].uuid .. ':' .. chosen[index].epoch
  end
  return claim_id .. ' ' .. table.concat(parts, ',')
end

-- The executions that an earlier call of this claim took and still holds, or was about to take; nil if this is the
-- first call, which then records what it has chosen. The record is written before the first lease, so it names every
-- leased execution. It is never replaced by a repetition, not even by one that is interrupted.
local function taken_before(call, key, claim_id, chosen, lease_ms)
  local stored = redis.pcall('GET', key)
  if type(stored) == 'table' and not ff.base.is_overwritten(stored.err) then
    error(stored)
  end
  -- A key of another type, which another program wrote in its place, is replaced.
  if type(stored) ~= 'string' or string.sub(stored, 1, #claim_id + 1) ~= claim_id .. ' ' then
    if #chosen > 0 then
      redis.call('SET', key, describe(claim_id, chosen), 'PX', lease_ms)
    end
    return nil
  end
  redis.call('PEXPIRE', key, lease_ms)
  local taken = {}
  for uuid, epoch in string.gmatch(string.sub(stored, #claim_id + 2), '([^:,]+):(%d+)') do
    local execution = read_execution(call, uuid)
    if execution and execution.public_state == 'active' and execution.lease_epoch == epoch then
      execution.attempt, execution.epoch, execution.is_held = execution.current_attempt_index, epoch, true
      taken[#taken + 1] = execution
    elseif execution and execution.public_state == 'waiting' then
      take_next(execution)
      taken[#taken + 1] = execution.epoch == epoch and not is_stale(call, execution) and execution or nil
    end
  end
  return taken
end

-- Extends a lease that this claim already holds to its full length, and repairs the index after an interrupted call.
-- The time of an attempt begins again unless a worker has confirmed the lease: the first reply may have been lost.
local function lease_again(call, execution, lease_ms)
  local stored = redis.call('HMGET', execution.core, 'lease_expires_at', 'lease_seen')
  local expires = ff.base.int(math.max(call.now + lease_ms, ff.base.num(stored[1])))
  local fields, timeout = { 'lease_expires_at', expires }, ff.base.num(execution.timeout_ms)
  if timeout > 0 and stored[2] ~= execution.epoch then
    fields[3], fields[4] = 'started_at', call.now_text
    fields[5], fields[6] = 'timeout_at', ff.base.int(call.now + timeout)
  end
  redis.call('HSET', execution.core, unpack(fields))
  redis.call('ZADD', call.partition.leases, expires, execution.uuid)
end

local function payload_of(candidate)
  if candidate.large_payload_len then
    return redis.call('HGET', candidate.core, 'large_payload') or ''
  end
  return candidate.payload or ''
end

-- Appends an execution to the reply, as eleven texts.
local function append_claimed(reply, candidate)
  local at = #reply
  reply[at + 1] = candidate.uuid
  reply[at + 2] = candidate.flow_id or ''
  reply[at + 3] = candidate.name
  reply[at + 4] = candidate.namespace
  reply[at + 5] = candidate.tags_json
  reply[at + 6] = payload_of(candidate)
  reply[at + 7] = candidate.attempt
  reply[at + 8] = candidate.epoch
  reply[at + 9] = candidate.max_attempts
  reply[at + 10] = candidate.timeout_ms or '0'
  reply[at + 11] = candidate.lease_unseen or '0'
end

local function claim(KEYS, ARGV)
  local lane, worker, wanted, lease_ms, listener = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
  wanted = math.min(wanted, LEASED_AT_ONCE)
  local claim_id = ARGV[6]
  local call = ff.call.look(KEYS)
  call.cancelled = {} -- flow id -> whether it is being cancelled
  local chosen, stale, more = choose(call, lane, wanted)
  local taken = claim_id ~= '' and taken_before(call, KEYS[ff.keys.block + 1], claim_id, chosen, ARGV[4])
  if taken then
    more = more or #chosen > 0
    chosen = taken
  end
  -- Sized for the first execution, so that the table need not grow.
  local reply = { more and '1' or '0', nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil }
  for _, candidate in ipairs(chosen) do
    if candidate.is_held then
      lease_again(call, candidate, lease_ms)
    else
      lease(call, candidate, worker, listener, lease_ms)
    end
    append_claimed(reply, candidate)
  end
  if #stale > 0 then
    redis.call('ZREM', call.partition.ready, unpack(stale))
  end
  if more then
    ff.queue.signal(call.partition, lane)
  elseif listener ~= '' then
    ff.queue.wait(call.partition, lane, listener)
  end
  if #chosen > 0 then
    ff.timers.note(call, call.now + lease_ms)
  end
  ff.timers.announce(call)
  return reply
end

redis.register_function({ function_name = 'ff1_claim', callback = claim, flags = { 'allow-oom' } })
end

do -- functions/complete.lua
-- ff1_complete: ends an execution with success.
-- KEYS   1..12 partition block, 13 the execution's core, 14 its flow's core if it has one
-- ARGV   1 policy, 2 uuid, 3 lease epoch, 4 attempt, 5 result, 6 '1' if the result is UTF-8
-- reply  'ok', '1' if an announcement was refused | 'not_found' | 'lease_lost' | 'ended', outcome
-- errors WRONGTYPE
-- flags  allow-oom
local function complete(KEYS, ARGV)
  local policy, uuid, epoch, attempt, result, is_text = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
  local call = ff.call.begin(KEYS, policy)
  local execution, answer = ff.execution.owned(call, uuid, epoch, attempt, 'success')
  if not execution then
    return answer
  end
  ff.execution.complete(call, execution, result, is_text)
  return { 'ok', ff.call.commit(call) }
end

redis.register_function({ function_name = 'ff1_complete', callback = complete, flags = { 'allow-oom' } })
end

do -- functions/complete_many.lua
-- ff1_complete_many: ends executions of one partition with success, each as ff1_complete does.
-- KEYS   1..12 partition block, then per execution its core and, if it has one, its flow's core
-- ARGV   1 policy, then per execution: uuid, lease epoch, attempt, result, '1' if the result is UTF-8
-- reply  '1' if an announcement was refused, else '0'; then per execution two texts: 'ok', '' | 'not_found', '' |
--        'lease_lost', '' | 'ended', outcome | '?', why it, its flow or its log cannot be read, and the lease is
--        unchanged | 'later', '' (the call had reached its bounds, and nothing of this execution has changed)
-- errors WRONGTYPE
-- flags  allow-oom
local FIRST, ARGUMENTS = 2, 5

-- Plans the end of one execution. Returns its part of the reply.
local function end_one(call, uuid, epoch, attempt, result, is_text)
  local known = call.loaded[uuid]
  if known and known.ending then
    -- The call names this execution twice, perhaps under an earlier lease.
    local same_lease = known.lease_epoch == epoch and known.current_attempt_index == attempt
    return same_lease and 'ok' or 'ended', same_lease and '' or known.terminal_outcome
  elseif call.ends_left <= 0 or call.dependents_left <= 0 then
    return 'later', ''
  end
  local execution, answer = ff.execution.owned(call, uuid, epoch, attempt, 'success')
  if not execution then
    return answer.err and '?' or answer[1], answer.err or answer[1] == 'ended' and answer[2] or ''
  end
  local _, problem = ff.flow.try(call, execution)
  problem = problem or ff.completion.problem(call, execution)
  if problem then
    return '?', problem
  end
  ff.execution.complete(call, execution, result, is_text)
  return 'ok', ''
end

local function complete_many(KEYS, ARGV)
  local call = ff.call.begin(KEYS, ARGV[1])
  local reply = { '0' }
  for at = FIRST, #ARGV, ARGUMENTS do
    local count = #reply
    reply[count + 1], reply[count + 2] =
      end_one(call, ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4])
  end
  reply[1] = ff.call.commit(call)
  return reply
end

redis.register_function({ function_name = 'ff1_complete_many', callback = complete_many, flags = { 'allow-oom' } })
end

do -- functions/deployment.lua
-- ff1_deployment: records the settings that are fixed for the lifetime of a deployment, and returns what is recorded.
-- KEYS   1 the deployment's record (hash)
-- ARGV   1 partition count, 2 ABI major
-- reply  recorded partition count, recorded ABI major
-- errors WRONGTYPE
-- flags  allow-oom (a program that ends work must be able to connect to a full server)
local function deployment(KEYS, ARGV)
  local record, count, abi = KEYS[1], ARGV[1], ARGV[2]
  local known = redis.call('HMGET', record, 'partition_count', 'abi')
  if known[1] and known[2] then
    return { known[1], known[2] }
  end
  count, abi = known[1] or count, known[2] or abi
  redis.call('HSET', record, 'partition_count', count, 'abi', abi)
  return { count, abi }
end

redis.register_function({ function_name = 'ff1_deployment', callback = deployment, flags = { 'allow-oom' } })
end

do -- functions/describe_execution.lua
-- ff1_describe_execution: reads an execution. One whose end is half-written still counts as active.
-- KEYS   1 the execution's core
-- ARGV   none
-- reply  nothing when it does not exist; else name, flow id, namespace, lane, priority, tags as JSON, phase, state,
--        outcome, reason, last error, attempt, failures, max attempts, unmet needs, generation, worker, created at,
--        started at, completed at, result; '' for a field that it does not have
-- errors WRONGTYPE
-- flags  no-writes
local FIELDS = {
  'name', 'flow_id', 'namespace', 'lane_id', 'priority', 'tags_json', 'lifecycle_phase', 'public_state',
  'terminal_outcome', 'failure_reason', 'last_error', 'current_attempt_index', 'failures', 'max_attempts',
  'unmet_needs', 'generation', 'lease_worker', 'created_at', 'started_at', 'completed_at', 'result', 'log_pos',
  'execution_id',
}

-- Whether an execution belongs to a flow that is not submitted as a whole yet.
local function is_submitting(flow_id, execution_id)
  local tag = flow_id and string.match(execution_id, '^{fp:%d+}')
  return tag and redis.pcall('HGET', ff.keys.flow(tag, flow_id), 'state') == 'submitting'
end

local function describe_execution(KEYS)
  local values = redis.call('HMGET', KEYS[1], unpack(FIELDS))
  if not values[1] or is_submitting(values[2], values[#FIELDS]) then
    return {}
  end
  local reply = {}
  for index = 1, #FIELDS - 2 do
    reply[index] = ff.base.text(values[index])
  end
  if reply[7] == 'terminal' and not values[#FIELDS - 1] then
    reply[7], reply[8], reply[9], reply[10], reply[20], reply[21] = 'active', 'active', 'none', '', '', ''
  end
  return reply
end

redis.register_function({ function_name = 'ff1_describe_execution', callback = describe_execution,
  flags = { 'no-writes' } })
end

do -- functions/describe_flow.lua
-- ff1_describe_flow: reads a flow and the state of its members.
-- KEYS   1 flow core
-- ARGV   1 the partition's hash tag, 2 first member to read (from 1), 3 how many members at most
-- reply  nothing when it does not exist; else name, namespace, state, '1' if its cancellation was requested, created
--        at, completed at or '', next member to read or '' at the end, then per member: name, uuid, state
-- errors WRONGTYPE
-- flags  no-writes
local function describe_flow(KEYS, ARGV)
  local core, tag, first, limit = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
  local flow = redis.call('HMGET', core, 'name', 'namespace', 'state', 'cancel_requested', 'created_at',
    'completed_at', 'members')
  if not flow[7] then
    return {}
  end
  local members = flow[7]
  local count = ff.uuids.count(members)
  local last = math.min(first + limit - 1, count)
  local reply = {
    ff.base.text(flow[1]), flow[2], flow[3], flow[4] or '0', flow[5], ff.base.text(flow[6]),
    last < count and ff.base.int(last + 1) or '',
  }
  for place = first, last do
    local uuid = ff.uuids.at(members, place)
    local member = redis.call('HMGET', ff.keys.core(tag, uuid), 'name', 'public_state', 'lifecycle_phase', 'log_pos')
    if member[1] then
      reply[#reply + 1] = member[1]
      reply[#reply + 1] = uuid
      reply[#reply + 1] = member[3] == 'terminal' and not member[4] and 'active' or member[2]
    end
  end
  return reply
end

redis.register_function({ function_name = 'ff1_describe_flow', callback = describe_flow, flags = { 'no-writes' } })
end

do -- functions/engine.lua
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
end

do -- functions/enqueue.lua
-- ff1_enqueue: adds members of a flow that was submitted in parts to the queue, or to the delays and deadlines, which
-- count from the start of the flow. Skips a member that has progressed meanwhile, one whose flow does not exist or does
-- not list it, and one that another program has overwritten.
-- KEYS   1..12 partition block
-- ARGV   uuids
-- reply  'ok'
-- errors WRONGTYPE
-- flags  allow-oom (accepted work must go on when the server is full)
local function enqueue(KEYS, ARGV)
  local call = ff.call.look(KEYS)
  call.missing, call.flows, call.flow_list = { counted = {} }, {}, {}
  for index = 1, #ARGV do
    local execution, problem = ff.execution.load(call, ARGV[index])
    local flow, flow_problem = ff.flow.try(call, execution or {})
    problem = problem or flow_problem
    -- What another program has overwritten must not hold up the other members.
    if problem and not ff.base.is_overwritten(problem) then
      return redis.error_reply(problem)
    elseif not problem and flow and flow.state == 'running' and ff.flow.lists(flow, execution)
      and execution.lifecycle_phase ~= 'terminal' then
      ff.execution.note_missing(call, execution)
    end
  end
  ff.execution.add_missing(call)
  ff.queue.signal_all(call)
  ff.timers.announce(call)
  return { 'ok' }
end

redis.register_function({ function_name = 'ff1_enqueue', callback = enqueue, flags = { 'allow-oom' } })
end

do -- functions/fail.lua
-- ff1_fail: reports a failed attempt; decides between a retry and the end.
-- KEYS   1..12 partition block, 13 the execution's core, 14 its flow's core if it has one
-- ARGV   1 policy, 2 uuid, 3 lease epoch, 4 attempt, 5 reason (UTF-8), 6 '1' if a retry can help
-- reply  'retry', backoff ms | 'ok', '1' if an announcement was refused | 'not_found' | 'lease_lost' |
--        'ended', outcome
-- errors WRONGTYPE
-- flags  allow-oom
local function fail(KEYS, ARGV)
  local policy, uuid, epoch, attempt, reason, retryable = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6] == '1'
  local call = ff.call.begin(KEYS, policy)
  local execution, answer = ff.execution.owned(call, uuid, epoch, attempt, 'failed')
  if not execution then
    return answer
  end
  if execution.lifecycle_phase == 'terminal' then
    ff.execution.resume_end(call, execution)
    return { 'ok', ff.call.commit(call) }
  end
  execution.by_holder = true
  local verdict, backoff = ff.execution.attempt_failed(call, execution, reason, retryable)
  local refused = ff.call.commit(call)
  if verdict == 'retry' then
    return { 'retry', ff.base.int(backoff) }
  end
  return { 'ok', refused }
end

redis.register_function({ function_name = 'ff1_fail', callback = fail, flags = { 'allow-oom' } })
end

do -- functions/heads.lua
-- ff1_heads: compares the newest entries of completion logs with a reader's cursors.
-- KEYS   1.. logs of one partition
-- ARGV   per log: '-' if the reader has no entry, else the id of its newest entry, then a space and the uuid of that
--        entry's execution if the reader knows it
-- reply  per log: '' if that is the log's newest entry, '-' if the log is empty, else the id of the newest entry and
--        the uuid of its execution ('' if the entry is not in the library's format)
-- errors WRONGTYPE
-- flags  no-writes
-- The uuid of an entry's execution; '' if the entry is not in the library's format.
local function uuid_in(entry)
  local fields = entry[2]
  for index = 1, #fields, 2 do
    if fields[index] == 'e' then
      return string.match(fields[index + 1], '^{"execution_id":"{fp:%d+}:(%x[%x-]*)"') or ''
    end
  end
  return ''
end

local function heads(KEYS, ARGV)
  local reply = {}
  for index = 1, #KEYS do
    local newest, known = '-', ARGV[index]
    local entry = redis.call('XREVRANGE', KEYS[index], '+', '-', 'COUNT', 1)[1]
    if entry then
      newest = entry[1] .. ' ' .. uuid_in(entry)
    end
    reply[index] = (newest == known or (entry and entry[1] == known)) and '' or newest
  end
  return reply
end

redis.register_function({ function_name = 'ff1_heads', callback = heads, flags = { 'no-writes' } })
end

do -- functions/pending.lua
-- ff1_pending: names an ended execution that has unresolved dependents, and the next of these.
-- KEYS   1..12 partition block
-- ARGV   1 how many dependents at most
-- reply  nothing when there is none; else the uuid of the ended execution, its flow's id, then the uuids of its next
--        dependents
-- errors WRONGTYPE
-- flags  no-writes
-- How many entries are read, in case the first ones cannot be.
local READ_AT_ONCE = 16

local function pending(KEYS, ARGV)
  local limit = tonumber(ARGV[1])
  local partition = ff.keys.partition(KEYS)
  for _, uuid in ipairs(redis.call('ZRANGE', partition.pending, 0, READ_AT_ONCE - 1)) do
    local core = ff.keys.core(partition.tag, uuid)
    local stored = redis.pcall('HMGET', core, 'dependents', 'dependents_done', 'flow_id')
    if not stored.err then
      local reply = { uuid, ff.base.text(stored[3]) }
      local list, done = ff.dependents.list(partition, stored[1], stored[3]), ff.base.num(stored[2])
      for place = done + 1, math.min(done + limit, ff.uuids.count(list)) do
        reply[#reply + 1] = ff.uuids.at(list, place)
      end
      return reply
    end
  end
  return {}
end

redis.register_function({ function_name = 'ff1_pending', callback = pending, flags = { 'no-writes' } })
end

do -- functions/reconcile.lua
-- ff1_reconcile: examines open executions and repairs what an interrupted call left incomplete.
-- KEYS   1..12 partition block
-- ARGV   1 policy, 2 uuid of the last examined execution ('' to begin), 3 how many executions at most
-- reply  examined, repaired, uuid to continue after or '' at the end, how many could not be read, the uuid of one of
--        these or '', then uuid and flow id (or '') of each suspect, for ff1_settle
-- errors WRONGTYPE
-- flags  allow-oom

-- The most unmet needs of one execution that a call looks up.
local NEEDS_AT_ONCE = 16
-- The most executions that a call reads. Reading PIECE bytes of a list of uuids takes as long and counts as one.
local READS_AT_ONCE, PIECE = 48, 8192

-- Where the scan of an execution's needs begins. Random, so that successive calls cover all of a long list.
local random_start = 1

local function charge_list(call, list)
  call.reads_left = call.reads_left - math.floor(#list / PIECE)
end

-- Finds a need that was met without being counted: its execution ended, recorded its completion, and is not pending.
local function missed_needs(call, execution)
  local stored = redis.call('HGET', execution.core, 'needs') or ''
  local count, seen = ff.uuids.count(stored), 0
  charge_list(call, stored)
  random_start = random_start * 16807 % 2147483647
  for turn = 0, math.min(count, 4 * NEEDS_AT_ONCE) - 1 do
    local uuid = ff.uuids.at(stored, (random_start + turn) % count + 1)
    call.reads_left = call.reads_left - 1 / NEEDS_AT_ONCE
    if seen == NEEDS_AT_ONCE then
      return
    end
    if redis.call('HEXISTS', execution.core, 'met:' .. uuid) == 0 then
      seen = seen + 1
      call.reads_left = call.reads_left - 1
      local parent, problem = ff.execution.load(call, uuid)
      if not parent and not problem then
        ff.suspects.note(call, uuid, execution.flow_id)
      elseif parent and parent.lifecycle_phase == 'terminal' and parent.log_pos and not parent.progress
        and not redis.call('ZSCORE', call.partition.pending, uuid) then
        parent.dependents_done = '0'
        ff.dependents.plan(call, parent)
        call.repaired = call.repaired + 1
        return
      end
    end
  end
end

local function is_listed(call, flow, execution)
  local is_first = not flow.members
  local listed = ff.flow.lists(flow, execution)
  if is_first then
    charge_list(call, flow.members)
  end
  return listed
end

local function examine_open(call, execution)
  local flow = ff.flow.of(call, execution)
  if flow and not is_listed(call, flow, execution) then
    ff.suspects.note(call, execution.uuid, execution.flow_id)
  elseif ff.execution.cancelled_with_flow(call, execution) then
    call.repaired = call.repaired + 1
  else
    ff.execution.note_missing(call, execution)
    if execution.public_state == 'blocked' then
      missed_needs(call, execution)
    end
  end
end

local function examine(call, member)
  local uuid, flow_id = ff.execution.of_open_member(member)
  local execution, problem = ff.execution.load(call, uuid)
  if execution and (execution.ending or execution.moving) then
    return
  end
  local flow, flow_problem = ff.flow.try(call, execution or { flow_id = flow_id ~= '' and flow_id })
  if problem or flow_problem or execution and ff.completion.problem(call, execution) then
    call.unreadable, call.unreadable_count = uuid, call.unreadable_count + 1
    return
  elseif flow and flow.state == 'submitting' then
    call.submitting[flow.core] = true
    return
  elseif not execution or (execution.flow_id and not flow) then
    ff.suspects.note(call, uuid, flow_id)
    return
  end
  if execution.lifecycle_phase == 'terminal' then
    ff.execution.resume_end(call, execution)
    call.repaired = call.repaired + 1
  else
    examine_open(call, execution)
  end
end

-- Sets the expiry of flows that are being submitted, in case an interrupted call did not.
local function expire_submitting(call)
  for core in pairs(call.submitting) do
    if redis.call('PTTL', core) < 0 then
      redis.call('PEXPIRE', core, ff.flow.parts_kept_for)
    end
  end
end

local function reconcile(KEYS, ARGV)
  local policy, after, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
  local call = ff.call.begin(KEYS, policy)
  call.repaired, call.missing, call.suspects, call.unreadable, call.unreadable_count = 0, { counted = {} }, {}, '', 0
  call.reads_left, call.submitting = READS_AT_ONCE, {}
  -- A member continues its uuid with digits and '-' only, so that 'g' comes after it.
  local from = after == '' and '-' or '(' .. after .. 'g'
  limit = math.min(limit, READS_AT_ONCE)
  local members = redis.call('ZRANGEBYLEX', call.partition.open, from, '+', 'LIMIT', 0, limit)
  local examined = 0
  for _, member in ipairs(members) do
    if call.ends_left <= 0 or call.reads_left <= 0 then
      break
    end
    call.reads_left = call.reads_left - 1
    examine(call, member)
    examined = examined + 1
  end
  call.repaired = call.repaired + #call.missing
  ff.execution.add_missing(call)
  expire_submitting(call)
  ff.call.commit(call)
  local stopped_early = examined < #members or #members == limit
  local last = stopped_early and examined > 0 and ff.execution.of_open_member(members[examined])
  return {
    ff.base.int(examined), ff.base.int(call.repaired), last or '', ff.base.int(call.unreadable_count), call.unreadable,
    unpack(call.suspects),
  }
end

redis.register_function({ function_name = 'ff1_reconcile', callback = reconcile, flags = { 'allow-oom' } })
end

do -- functions/release.lua
-- ff1_release: gives held leases back. The attempt counts neither as a failure nor as an expiry: the execution goes
-- back to the queue.
-- KEYS   1..12 partition block, then the core of each execution
-- ARGV   1 policy, then per execution: uuid, lease epoch, attempt
-- reply  per execution '1' back in the queue, or ended because its flow is being cancelled, by this call or by an
--        earlier one; '0' lease lost; '?' it, its flow or its log cannot be read, and the lease is unchanged
-- errors WRONGTYPE
-- flags  allow-oom
local FIRST = 2

-- Plans the return of an execution to the queue. Returns whether the worker held the lease.
local function give_back(call, execution, epoch, attempt)
  if ff.execution.holds_lease(execution, epoch, attempt) then
    execution.by_holder = true
    -- The caller may name a lease twice.
    local is_planned = execution.ending or execution.moving
    if not is_planned and not ff.execution.cancelled_with_flow(call, execution) then
      ff.execution.move(call, execution, 'waiting')
    end
    return true
  end
  local same_lease = execution.lease_epoch == epoch and execution.current_attempt_index == attempt
  if same_lease and execution.public_state == 'waiting' then
    -- An earlier call may have been interrupted before it reached the queue.
    call.released[#call.released + 1] = execution
    return true
  end
  return false
end

local function release(KEYS, ARGV)
  local call = ff.call.begin(KEYS, ARGV[1])
  call.released = {}
  local reply = {}
  for at = FIRST, #ARGV, 3 do
    local execution, problem = ff.execution.load(call, ARGV[at])
    local _, flow_problem = ff.flow.try(call, execution or {})
    if problem or flow_problem or execution and ff.completion.problem(call, execution) then
      reply[#reply + 1] = '?'
    else
      local own = execution and give_back(call, execution, ARGV[at + 1], ARGV[at + 2])
      reply[#reply + 1] = own and '1' or '0'
    end
  end
  for _, execution in ipairs(call.released) do
    ff.queue.push(call, execution)
  end
  ff.call.commit(call)
  return reply
end

redis.register_function({ function_name = 'ff1_release', callback = release, flags = { 'allow-oom' } })
end

do -- functions/renew.lua
-- ff1_renew: extends leases. The first renewal of a lease confirms that a worker has it.
-- KEYS   1..12 partition block, then the core of each execution
-- ARGV   1 lease ms, then per execution: uuid, lease epoch, attempt
-- reply  per execution '1' renewed, '0' lease lost, '2' held but not extended, since the attempt has used up its time,
--        '?' cannot be read, and the lease is unchanged
-- errors WRONGTYPE
-- flags  allow-oom
-- The entry in `leases` is never later than the lease in the core, also when this call is interrupted: the sweep
-- corrects an entry that is too early, but would not visit one that is too late.
local function extend(call, execution, lease_ms)
  local expires, before = call.now + lease_ms, ff.base.num(execution.lease_expires_at)
  local expires_text = ff.base.int(expires)
  if expires < before then
    redis.call('ZADD', call.partition.leases, expires_text, execution.uuid)
    ff.timers.note(call, expires)
  end
  if execution.lease_seen == execution.lease_epoch then
    redis.call('HSET', execution.core, 'lease_expires_at', expires_text, 'lease_ms', ff.base.int(lease_ms))
  else
    redis.call('HSET', execution.core, 'lease_expires_at', expires_text, 'lease_ms', ff.base.int(lease_ms),
      'lease_seen', execution.lease_epoch)
  end
  if expires >= before then
    redis.call('ZADD', call.partition.leases, expires_text, execution.uuid)
  end
end

local function confirm(execution)
  if execution.lease_seen ~= execution.lease_epoch then
    redis.call('HSET', execution.core, 'lease_seen', execution.lease_epoch)
  end
end

-- The reply for one execution.
local function verdict(call, execution, epoch, attempt)
  if not (execution and ff.execution.holds_lease(execution, epoch, attempt)) then
    return '0'
  end
  return ff.execution.is_timed_out(call, execution) and '2' or '1'
end

local function renew(KEYS, ARGV)
  local lease_ms = tonumber(ARGV[1])
  local call = ff.call.look(KEYS)
  local reply, held = {}, {}
  for at = 2, #ARGV, 3 do
    local execution, problem = ff.execution.load(call, ARGV[at])
    local answer = problem and '?' or verdict(call, execution, ARGV[at + 1], ARGV[at + 2])
    reply[#reply + 1] = answer
    if answer == '1' or answer == '2' then
      held[#held + 1] = execution
      execution.extends = answer == '1'
    end
  end
  for _, execution in ipairs(held) do
    if execution.extends then
      extend(call, execution, lease_ms)
    else
      confirm(execution)
    end
  end
  ff.timers.announce(call)
  return reply
end

redis.register_function({ function_name = 'ff1_renew', callback = renew, flags = { 'allow-oom' } })
end

do -- functions/resolve.lua
-- ff1_resolve: promotes or skips the dependents that a terminal call has left pending.
-- KEYS   1..12 partition block, 13 core of the ended execution, 14 its flow's core, then the cores of the dependents
-- ARGV   1 policy, 2 uuid of the ended execution, then the uuids of the dependents
-- reply  dependents resolved, '1' if more is pending in the partition and this call has made progress
-- errors WRONGTYPE
-- flags  allow-oom
local function resolve(KEYS, ARGV)
  local policy, uuid = ARGV[1], ARGV[2]
  local declared = {}
  for index = 2, #ARGV do
    declared[ARGV[index]] = true
  end
  local call = ff.call.begin(KEYS, policy, declared)
  local parent, problem = ff.execution.load(call, uuid)
  if problem then
    return redis.error_reply(problem)
  end
  if parent then
    ff.dependents.plan(call, parent)
    ff.call.commit(call)
  end
  if not parent or not parent.leaves_pending then
    redis.call('ZREM', call.partition.pending, uuid)
  end
  local progress = not parent or not parent.leaves_pending or parent.advanced
  local more = progress and redis.call('ZCARD', call.partition.pending) > 0
  return { ff.base.int(call.resolved), more and '1' or '0' }
end

redis.register_function({ function_name = 'ff1_resolve', callback = resolve, flags = { 'allow-oom' } })
end

do -- functions/settle.lua
-- ff1_settle: settles suspects: index entries whose execution is not found, and executions whose flow is not found. All
-- their keys are in KEYS, so an absent key is really gone: a server that is moving the slot refuses the call
-- (TRYAGAIN).
-- KEYS   1..12 partition block, then per suspect: core, tags, flow core (its own core if no flow is known)
-- ARGV   1 policy, then per suspect: uuid, flow id or ''
-- reply  removed (left by an interrupted submission, or of no known flow), lost (ended because a record is gone)
-- errors WRONGTYPE
-- flags  allow-oom

-- The most ancestors of executions that a call reads.
local ANCESTORS_AT_ONCE = 96
-- The lane and the name of an execution whose record is gone.
local UNKNOWN = 'unknown'

-- Removes an execution from the indexes that only terminal calls maintain.
local function forget(call, suspect)
  local partition, uuid = call.partition, suspect.uuid
  for _, index in ipairs({ 'delayed', 'leases', 'deadlines', 'pending', 'ended' }) do
    redis.call('ZREM', partition[index], uuid)
  end
  redis.call('ZREM', partition.open, ff.execution.open_member(suspect))
end

local function discard(call, suspect, execution)
  redis.call('UNLINK', suspect.core, suspect.tags)
  if execution.ready_member then
    redis.call('ZREM', call.partition.ready, execution.ready_member)
  end
  forget(call, suspect)
end

-- The index of an execution in its flow, from 0; nil if its flow does not list it. Also reads the fields that the
-- execution takes from its flow.
local function index_in(flow, uuid)
  if not flow.namespace then
    local stored = redis.call('HMGET', flow.core, 'members', 'namespace', 'created_at')
    flow.members, flow.namespace, flow.created_at = stored[1] or '', stored[2], stored[3]
  end
  local place = ff.uuids.place(flow.members, uuid)
  return place and ff.base.int(place - 1)
end

-- A record that replaces the lost one, made of what its flow holds.
local function record_of(call, suspect, flow, index)
  local record = {
    uuid = suspect.uuid, core = suspect.core, execution_id = call.partition.tag .. ':' .. suspect.uuid,
    flow_id = suspect.flow_id, index = index, namespace = flow.namespace, lane_id = UNKNOWN, tags_json = '{}',
    current_attempt_index = '0', generation = '0', deadline_at = '0', dependents = ff.dependents.unknown,
  }
  local fields = {
    'execution_id', record.execution_id, 'flow_id', record.flow_id, 'index', index, 'name', UNKNOWN,
    'namespace', record.namespace, 'lane_id', UNKNOWN, 'tags_json', '{}', 'created_at', flow.created_at or '0',
    'current_attempt_index', '0', 'generation', '0', 'lease_epoch', '0', 'unmet_needs', '0', 'max_attempts', '1',
    'priority', '0', 'dependents', record.dependents,
  }
  return record, fields
end

-- Ends a member whose record is gone: as failed, unless its flow has recorded how it ended.
local function end_lost(call, suspect, flow)
  local index = index_in(flow, suspect.uuid)
  if not index then
    call.removals[#call.removals + 1] = suspect
    return
  end
  local record, fields = record_of(call, suspect, flow, index)
  call.lost = call.lost + 1
  call.loaded[suspect.uuid] = record
  local outcome = redis.call('HGET', flow.core, 'ended:' .. index)
  if not outcome then
    ff.execution.finish(call, record, 'failed', 'record_lost', fields)
    return
  end
  record.terminal_outcome, record.lifecycle_phase = outcome, 'terminal'
  for _, value in ipairs({ 'lifecycle_phase', 'terminal', 'public_state', outcome, 'terminal_outcome', outcome,
    'completed_at', call.now_text, 'log_pos', '0-0' }) do
    fields[#fields + 1] = value
  end
  ff.execution.touch(call, record, fields)
  ff.dependents.plan(call, record)
  call.counted[#call.counted + 1] = suspect
end

-- Whether the submission of an execution was completed: then it is in an index, or has progressed since. For a blocked
-- execution that has neither, also returns one of its needs.
local function was_submitted(call, execution)
  local partition, state = call.partition, execution.public_state
  if execution.lifecycle_phase == 'terminal' or execution.current_attempt_index ~= '0' or execution.ending then
    return true
  elseif state == 'waiting' then
    return redis.call('ZSCORE', partition.ready, execution.ready_member)
  elseif state == 'delayed' then
    return redis.call('ZSCORE', partition.delayed, execution.uuid)
  end
  local needs = redis.call('HGET', execution.core, 'needs') or ''
  local count = ff.uuids.count(needs)
  return ff.base.num(execution.unmet_needs) < count, count > 0 and ff.uuids.at(needs, 1)
end

-- Whether the submission of a flow whose core is gone was completed, judged by an execution and what it needs; nil if
-- that is not known.
local function flow_was_submitted(call, execution)
  while call.ancestors_left > 0 do
    call.ancestors_left = call.ancestors_left - 1
    local submitted, need = was_submitted(call, execution)
    if submitted or not need then
      return submitted and true or false
    end
    local problem
    execution, problem = ff.execution.load(call, need)
    if problem then
      return nil
    elseif not execution then
      return false
    end
  end
end

-- Plans for an execution whose flow is gone.
local function settle_orphan(call, suspect, execution)
  local submitted = flow_was_submitted(call, execution)
  if submitted == false then
    call.discards[#call.discards + 1] = { suspect, execution }
  elseif submitted and execution.lifecycle_phase == 'terminal' then
    ff.execution.resume_end(call, execution)
  elseif submitted then
    call.lost = call.lost + 1
    ff.execution.finish(call, execution, 'failed', 'record_lost')
  end
end

local function judge(call, suspect)
  local execution, problem = ff.execution.load(call, suspect.uuid)
  if problem or (execution and (execution.ending or execution.moving)) then
    return
  end
  suspect.flow_id = execution and execution.flow_id or suspect.flow_id
  local flow, flow_problem = ff.flow.try(call, suspect)
  if flow_problem or ff.completion.problem(call, suspect) then
    return
  elseif flow and flow.state == 'submitting' then
    return
  elseif not execution and flow then
    end_lost(call, suspect, flow)
  elseif not execution then
    call.removals[#call.removals + 1] = suspect
  elseif suspect.flow_id and not flow then
    settle_orphan(call, suspect, execution)
  elseif flow and not ff.flow.lists(flow, execution) then
    call.discards[#call.discards + 1] = { suspect, execution }
  end
end

local function settle(KEYS, ARGV)
  local call = ff.call.begin(KEYS, ARGV[1])
  call.ancestors_left = ANCESTORS_AT_ONCE
  call.removals, call.discards, call.counted, call.lost = {}, {}, {}, 0
  for at = 2, #ARGV, 2 do
    if call.ends_left <= 0 then
      break
    end
    local key = ff.keys.block + 3 * (at / 2) - 2
    judge(call, {
      uuid = ARGV[at], flow_id = ARGV[at + 1] ~= '' and ARGV[at + 1], core = KEYS[key], tags = KEYS[key + 1],
    })
  end
  ff.call.commit(call)
  for _, suspect in ipairs(call.counted) do
    redis.call('ZADD', call.partition.ended, call.now_text, suspect.uuid)
    redis.call('ZREM', call.partition.open, ff.execution.open_member(suspect))
  end
  for _, suspect in ipairs(call.removals) do
    redis.call('UNLINK', suspect.tags)
    forget(call, suspect)
  end
  for _, entry in ipairs(call.discards) do
    discard(call, entry[1], entry[2])
  end
  return { ff.base.int(#call.removals + #call.discards), ff.base.int(call.lost) }
end

redis.register_function({ function_name = 'ff1_settle', callback = settle, flags = { 'allow-oom' } })
end

do -- functions/start_flow.lua
-- ff1_start_flow: accepts a flow whose members were written in parts. From then on the whole flow is visible. Its
-- members are queued by ff1_enqueue, or by the reconciler if that is not called.
-- KEYS   1..12 partition block, 13 flow core
-- ARGV   1 flow id, 2 namespace, 3 flow name, 4 fingerprint, 5 members (uuids, comma-separated)
-- reply  'ok' | 'exists' (with the same content) | 'conflict' (exists with other content) | 'restart' (some parts have
--        expired)
-- errors WRONGTYPE, OOM
local function start_flow(KEYS, ARGV)
  local head = KEYS[ff.keys.block + 1]
  local call = ff.call.look(KEYS)
  local answer = ff.flow.known(head, ARGV[4], 'further')
  if answer then
    return { answer }
  end
  local parts, count = ff.flow.parts(head)
  if count ~= ff.uuids.count(ARGV[5]) then
    return { 'restart' }
  end
  -- First, so that an accepted flow does not expire. The reconciler sets the expiry again if this call stops here.
  redis.call('PERSIST', head)
  ff.flow.start(call, head, {
    id = ARGV[1], namespace = ARGV[2], name = ARGV[3], fingerprint = ARGV[4], members = ARGV[5],
  })
  ff.base.chunked('HDEL', head, parts)
  return { 'ok' }
end

redis.register_function('ff1_start_flow', start_flow)
end

do -- functions/submit.lua
-- ff1_submit: accepts a flow, or one solo execution, or writes a part of the members of a flow that is too large for
-- one call. Such a flow is invisible before ff1_start_flow, and its parts may be written again until then. A flow may
-- also be accepted as a whole after some of its parts were written: programs differ in what they send at once.
-- KEYS   1..12 partition block, 13 flow core (of a solo execution: its own core), then per member: core, tags
-- ARGV   1 policy, 2 flow id ('' for a solo execution), 3 namespace, 4 flow name, 5 fingerprint, 6 index in the flow of
--        the first member, 7 'whole' | 'first' (part of a flow) | 'further', then per member: uuid,
--        name, lane, priority, tags as JSON, payload, max attempts, backoff ms, longest backoff ms,
--        max lease expiries, delay ms, deadline ms (0 none), timeout ms (0 none), number of needs,
--        needs and dependents (uuids, comma-separated), number of tags, then key and value of each tag
-- reply  'ok' | 'exists' (with the same content) | 'conflict' (exists with other content) | 'restart' (a further part
--        of a flow whose earlier parts have expired)
-- errors WRONGTYPE, OOM
local FIRST_MEMBER, MEMBER_ARGUMENTS = 8, 17
-- A payload of this many bytes or more has its own field, so that a claim can weigh it without reading it.
local LARGE_PAYLOAD = 16384

local function read_members(KEYS, ARGV)
  local members, count, first = {}, 0, tonumber(ARGV[6])
  local at, key = FIRST_MEMBER, ff.keys.block + 2
  while at <= #ARGV do
    local tags = at + MEMBER_ARGUMENTS
    local member = {
      core = KEYS[key], tags_key = KEYS[key + 1],
      uuid = ARGV[at], name = ARGV[at + 1], lane_id = ARGV[at + 2], priority = ARGV[at + 3],
      tags_json = ARGV[at + 4], payload = ARGV[at + 5], max_attempts = ARGV[at + 6], backoff_ms = ARGV[at + 7],
      backoff_max_ms = ARGV[at + 8], max_lease_expiries = ARGV[at + 9], delay_ms = ARGV[at + 10],
      deadline_ms = ARGV[at + 11], timeout_ms = ARGV[at + 12], unmet_needs = ARGV[at + 13],
      needs = ARGV[at + 14], dependents = ARGV[at + 15], first_tag = tags,
      last_tag = tags + 2 * tonumber(ARGV[at + 16]) - 1, index = ff.base.int(first + count),
    }
    at, key, count = member.last_tag + 1, key + 2, count + 1
    members[count] = member
  end
  return members
end

-- The time `ms` (a text) from now, as a text; nil for never.
local function due(call, ms)
  return ms ~= '0' and ff.base.int(call.now + tonumber(ms)) or nil
end

-- Sets the initial state of a member.
local function begin_member(call, member)
  member.deadline_at = due(call, member.deadline_ms)
  member.eligible_at = due(call, member.delay_ms)
  if member.unmet_needs ~= '0' then
    member.state, member.phase = 'blocked', 'submitted'
  elseif member.eligible_at then
    member.state, member.phase = 'delayed', 'submitted'
  else
    member.state, member.phase = 'waiting', 'runnable'
    member.ready_member = ff.queue.member(call, member)
  end
end

-- The optional fields of an execution, and how many texts these are.
local function further_fields(call, member, ARGV)
  local flow_id, fingerprint, part = ARGV[2], ARGV[5], ARGV[7]
  -- Sized for what most executions have, so that the table need not grow.
  local fields, count = { nil, nil, nil, nil, nil, nil, nil, nil }, 0
  local function set(name, value)
    fields[count + 1], fields[count + 2] = name, value
    count = count + 2
  end
  if flow_id ~= '' then
    set('flow_id', flow_id)
    set('index', member.index)
  else
    set('fingerprint', fingerprint)
  end
  local payload_bytes = #member.payload
  if payload_bytes >= LARGE_PAYLOAD then
    set('large_payload', member.payload)
    set('large_payload_len', ff.base.int(payload_bytes))
    set('has_payload', '1')
  elseif payload_bytes > 0 then
    set('payload', member.payload)
    set('has_payload', '1')
  end
  if member.needs ~= '' then
    set('needs', member.needs)
  end
  if member.dependents ~= '' then
    set('dependents', member.dependents)
  end
  if member.timeout_ms ~= '0' then
    set('timeout_ms', member.timeout_ms)
  end
  if member.eligible_at then
    set('eligible_at', member.eligible_at)
  end
  if member.deadline_at then
    set('deadline_at', member.deadline_at)
  end
  if part ~= 'whole' and (member.eligible_at or member.deadline_at) then
    set('times_from', call.now_text)
  end
  if member.ready_member then
    set('ready_member', member.ready_member)
  end
  return fields, count
end

local function write_member(call, ARGV, member)
  local namespace = ARGV[3]
  begin_member(call, member)
  local further, count = further_fields(call, member, ARGV)
  redis.call('DEL', member.core, member.tags_key)
  if member.first_tag <= member.last_tag then
    redis.call('HSET', member.tags_key, unpack(ARGV, member.first_tag, member.last_tag))
  end
  redis.call('HSET', member.core,
    'execution_id', call.partition.tag .. ':' .. member.uuid, 'name', member.name, 'namespace', namespace,
    'lane_id', member.lane_id, 'priority', member.priority, 'tags_json', member.tags_json,
    'lifecycle_phase', member.phase, 'public_state', member.state, 'terminal_outcome', 'none',
    'created_at', call.now_text, 'current_attempt_index', '0', 'generation', '0', 'lease_epoch', '0',
    'unmet_needs', member.unmet_needs, 'max_attempts', member.max_attempts,
    'max_lease_expiries', member.max_lease_expiries, 'backoff_ms', member.backoff_ms,
    'backoff_max_ms', member.backoff_max_ms, unpack(further, 1, count))
end

local function write_flow(call, key, ARGV, members)
  local uuids = {}
  for index = 1, #members do
    uuids[index] = members[index].uuid
  end
  ff.flow.start(call, key, {
    id = ARGV[2], namespace = ARGV[3], name = ARGV[4], fingerprint = ARGV[5], members = table.concat(uuids, ','),
  })
end

local function index_members(call, members)
  local partition, lanes = call.partition, call.lanes
  local ready, delayed, deadlines = {}, {}, {}
  for _, member in ipairs(members) do
    if member.state == 'waiting' then
      ready[#ready + 1] = '0'
      ready[#ready + 1] = member.ready_member
      lanes[#lanes + 1] = member.lane_id
    elseif member.state == 'delayed' then
      delayed[#delayed + 1] = member.eligible_at
      delayed[#delayed + 1] = member.uuid
      ff.timers.note(call, tonumber(member.eligible_at))
    end
    if member.deadline_at then
      deadlines[#deadlines + 1] = member.deadline_at
      deadlines[#deadlines + 1] = member.uuid
      ff.timers.note(call, tonumber(member.deadline_at))
    end
  end
  ff.base.chunked('ZADD', partition.ready, ready, 2)
  ff.base.chunked('ZADD', partition.delayed, delayed, 2)
  ff.base.chunked('ZADD', partition.deadlines, deadlines, 2)
end

-- The open entries are written first, so that the reconciler finds a submission that is interrupted later: it discards
-- a member without the core of its flow, and otherwise repairs what is missing.
local function open_members(call, flow_id, members)
  local open = {}
  for index, member in ipairs(members) do
    open[2 * index - 1] = '0'
    open[2 * index] = ff.execution.open_member({ uuid = member.uuid, flow_id = flow_id ~= '' and flow_id })
  end
  ff.base.chunked('ZADD', call.partition.open, open, 2)
end

local function submit(KEYS, ARGV)
  local head = KEYS[ff.keys.block + 1]
  local flow_id, fingerprint, first, part = ARGV[2], ARGV[5], ARGV[6], ARGV[7]
  local call = ff.call.look(KEYS)
  local answer, in_parts = ff.flow.known(head, fingerprint, part)
  if answer then
    return { answer }
  end
  local members = read_members(KEYS, ARGV)
  open_members(call, flow_id, members)
  if part ~= 'whole' then
    ff.flow.keep_submitting(head, flow_id, fingerprint)
  end
  if in_parts then
    ff.flow.forget_parts(head, tonumber(first), #members)
  end
  for _, member in ipairs(members) do
    write_member(call, ARGV, member)
  end
  if part ~= 'whole' then
    ff.flow.record_part(head, first, #members)
    return { 'ok' }
  elseif in_parts then
    -- First, as in ff1_start_flow.
    redis.call('PERSIST', head)
  end
  if flow_id ~= '' then
    write_flow(call, head, ARGV, members)
  end
  index_members(call, members)
  ff.queue.signal_all(call)
  ff.timers.announce(call)
  return { 'ok' }
end

redis.register_function('ff1_submit', submit)
end

do -- functions/sweep.lua
-- ff1_sweep: does a bounded amount of what is due in a partition: delays, leases, deadlines, pending dependents,
-- retention.
-- KEYS   1..12 partition block
-- ARGV   1 policy, 2 retention ms, 3 how long a repeated submission is recognised after that (ms; 0: not at all)
-- reply  released, reclaimed, ended, dependents resolved, removed, '1' if more is due now, ms until something is due
--        next or '', then uuid and flow id (or '') of each suspect, for ff1_settle
-- errors WRONGTYPE
-- flags  allow-oom

-- How many executions a call visits, and at least how many of each index.
local VISITS, LEAST_VISITS = 32, 6

-- How many entries of an index the call may visit.
local function visit_limit(call)
  return math.max(call.visits_left, LEAST_VISITS)
end

local function due(call, index)
  local entries = redis.call('ZRANGEBYSCORE', index, '-inf', ff.base.int(call.now), 'LIMIT', 0, visit_limit(call))
  call.visits_left = call.visits_left - #entries
  return entries
end

-- Visits the due entries of an index. Postpones an entry that cannot be handled, because its execution is not found or
-- because it, its flow or its log was overwritten by another program.
local function each_due(call, index, visit)
  local limit = visit_limit(call)
  local entries = due(call, index)
  for _, uuid in ipairs(entries) do
    if call.ends_left <= 0 then
      return true
    end
    local execution, problem = ff.execution.load(call, uuid)
    if not execution and not problem then
      ff.suspects.note(call, uuid)
    elseif execution then
      local _, flow_problem = ff.flow.try(call, execution)
      problem = flow_problem or ff.completion.problem(call, execution)
    end
    if problem and ff.base.is_overwritten(problem) or not (execution or problem) then
      call.postponed[#call.postponed + 1] = { index, uuid }
    end
    local untouched = execution and not problem and not execution.ending and not execution.moving
    local ended = untouched and execution.lifecycle_phase == 'terminal'
    if untouched and (ended or not ff.execution.cancelled_with_flow(call, execution)) then
      visit(execution)
    end
  end
  return #entries == limit
end

local function release(call, execution)
  if execution.public_state == 'delayed' then
    ff.execution.move(call, execution, 'waiting')
    call.released = call.released + 1
  else
    call.stale[#call.stale + 1] = { call.partition.delayed, execution.uuid }
  end
end

local function reclaim(call, execution)
  if execution.lifecycle_phase == 'terminal' then
    ff.execution.resume_end(call, execution)
  elseif execution.public_state ~= 'active' then
    call.stale[#call.stale + 1] = { call.partition.leases, execution.uuid }
  else
    -- A timed-out attempt keeps its lease until the lease ends: attempts do not overlap.
    local expires_at = ff.base.num(execution.lease_expires_at)
    local corrected = ff.clock.lease_end(expires_at, ff.base.num(execution.lease_ms))
    if expires_at <= call.now and corrected > call.now then
      call.corrected[#call.corrected + 1] = { execution, corrected }
    elseif expires_at <= call.now then
      ff.execution.lease_expired(call, execution)
      call.reclaimed = call.reclaimed + 1
    else
      -- A renewal was interrupted after it wrote the core.
      call.moved_due[#call.moved_due + 1] = { execution.uuid, execution.lease_expires_at }
    end
  end
end

local function expire(call, execution)
  if execution.lifecycle_phase == 'terminal' then
    ff.execution.resume_end(call, execution)
  else
    ff.execution.finish(call, execution, 'expired', 'deadline_exceeded')
  end
end

local function resolve_pending(call)
  local limit = visit_limit(call)
  local parents = redis.call('ZRANGE', call.partition.pending, 0, limit - 1)
  call.visits_left = call.visits_left - #parents
  local progress = false
  for _, uuid in ipairs(parents) do
    if call.dependents_left <= 0 then
      return true
    end
    local parent, problem = ff.execution.load(call, uuid)
    local flow_problem
    if parent then
      flow_problem = select(2, ff.flow.try(call, parent)) or ff.completion.problem(call, parent)
    elseif not problem then
      ff.suspects.note(call, uuid)
    end
    if parent and not parent.ending and not flow_problem then
      ff.dependents.plan(call, parent)
      progress = progress or parent.advanced or not parent.leaves_pending
      if not (parent.advanced or parent.leaves_pending) then
        call.stale[#call.stale + 1] = { call.partition.pending, uuid }
      end
    elseif not parent or flow_problem then
      call.postponed[#call.postponed + 1] = { call.partition.pending, uuid }
    end
  end
  return progress and #parents == limit
end

-- Moves the end of a lease after the clock was set. The entry in `leases` is never later than the core.
local function correct_lease(call, execution, expires_at)
  if execution.ending or execution.moving then
    return
  end
  local expires_text = ff.base.int(expires_at)
  local shorter = expires_at < ff.base.num(execution.lease_expires_at)
  if shorter then
    redis.call('ZADD', call.partition.leases, expires_text, execution.uuid)
  end
  redis.call('HSET', execution.core, 'lease_expires_at', expires_text)
  if not shorter then
    redis.call('ZADD', call.partition.leases, expires_text, execution.uuid)
  end
end

local function correct_indexes(call)
  for _, entry in ipairs(call.stale) do
    redis.call('ZREM', entry[1], entry[2])
  end
  for _, entry in ipairs(call.moved_due) do
    redis.call('ZADD', call.partition.leases, entry[2], entry[1])
  end
  for _, entry in ipairs(call.corrected) do
    correct_lease(call, entry[1], entry[2])
  end
  for _, entry in ipairs(call.postponed) do
    redis.call('ZADD', entry[1], ff.suspects.later(call), entry[2])
  end
end

local function first_score(index)
  local first = redis.call('ZRANGE', index, 0, 0, 'WITHSCORES')
  return tonumber(first[2])
end

-- When something is due next (ms), if anything is.
local function soonest(partition)
  local found
  for _, index in ipairs({ partition.delayed, partition.leases, partition.deadlines }) do
    local score = first_score(index)
    if score and (not found or score < found) then
      found = score
    end
  end
  return found
end

-- The earlier of two times, either of which may be absent.
local function earlier(one, other)
  return one and other and math.min(one, other) or one or other
end

local function reply(call, removed, more, due_at)
  ff.timers.reported(call.partition, due_at)
  return {
    ff.base.int(call.released), ff.base.int(call.reclaimed), ff.base.int(#call.ends), ff.base.int(call.resolved),
    ff.base.int(removed), more and '1' or '0', due_at and ff.base.int(math.max(due_at - call.now, 0)) or '',
    unpack(call.suspects),
  }
end

-- Most sweeps find nothing due and must be cheap.
local function is_idle(call, due_at, cutoff)
  local oldest = first_score(call.partition.ended)
  return (not due_at or due_at > call.now) and (not oldest or oldest >= cutoff)
    and redis.call('EXISTS', call.partition.pending) == 0
end

local function sweep(KEYS, ARGV)
  local policy, retention_ms, idempotency_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
  local call = ff.call.begin(KEYS, policy)
  -- The reply says when something is due next.
  call.reports_timers = true
  call.released, call.reclaimed, call.stale, call.moved_due, call.postponed, call.suspects = 0, 0, {}, {}, {}, {}
  call.visits_left = VISITS
  local partition = call.partition
  ff.queue.prune(partition, call.now)
  local remind_at = ff.queue.remind(partition, call.now)
  call.corrected = ff.leases.overlong(call)
  local due_at = soonest(partition)
  if #call.corrected == 0 and is_idle(call, due_at, call.now - retention_ms) then
    return reply(call, 0, false, earlier(due_at, remind_at))
  end
  local more = each_due(call, partition.deadlines, function(execution) expire(call, execution) end)
  more = each_due(call, partition.leases, function(execution) reclaim(call, execution) end) or more
  more = each_due(call, partition.delayed, function(execution) release(call, execution) end) or more
  more = resolve_pending(call) or more
  ff.call.commit(call)
  correct_indexes(call)
  local removed, more_to_remove = ff.retention.run(call, retention_ms, idempotency_ms, visit_limit(call))
  return reply(call, removed, more or more_to_remove, earlier(soonest(partition), remind_at))
end

redis.register_function({ function_name = 'ff1_sweep', callback = sweep, flags = { 'allow-oom' } })
end

do -- functions/version.lua
-- ff1_version: the version and digest of the loaded library.
-- KEYS   none
-- ARGV   none
-- reply  version, digest
-- flags  no-writes
local function version()
  return { ff.version, ff.digest }
end

redis.register_function({ function_name = 'ff1_version', callback = version, flags = { 'no-writes' } })
end
