-- The one place that records a completion in the log and announces it.

ff.completion = {}

-- An event is bounded whatever the core holds, so that every reader can take it. What was checked where it entered is
-- never longer than this.
local LONGEST_REASON, LONGEST_TAGS, LONGEST_RESULT = 1024, 32768, 1048576

-- A text cut at a character of UTF-8.
local function cut(text, longest)
  local len = longest
  while len > 0 and string.find(text, '^[\128-\191]', len + 1) do
    len = len - 1
  end
  return string.sub(text, 1, len)
end

-- What every subscriber may know, as the inside of a JSON object. Namespaces, lanes and ids hold no character that
-- needs escaping; `tags_json` was composed and checked where it was submitted.
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

-- Whether the result travels with the event: text that is short enough.
local function travels(call, execution)
  local result = execution.result
  return result and result ~= '' and execution.result_text == '1' and #result <= call.inline_limit
    and #result <= LONGEST_RESULT
end

-- The log of an execution, its epochs, how much it keeps, and the channel.
local function destination(call, execution)
  local partition = call.partition
  if execution.flow_id then
    return partition.flow_log, partition.flow_epochs, call.keep_of_flows, ff.keys.flow_channel
  end
  return partition.solo_log, partition.solo_epochs, call.keep_of_solo, ff.keys.solo_channel
end

-- Where the completion of an execution that ends now is expected to stand, if that is known. The core says so before it
-- stands there, so that a call which is interrupted in between is not followed by a second entry.
function ff.completion.expected_position(call, execution)
  return ff.log.expected_id((destination(call, execution)))
end

-- The event of an entry of the log.
local function event_of(entry)
  local fields = entry[2]
  for index = 1, #fields, 2 do
    if fields[index] == 'e' then
      return fields[index + 1]
    end
  end
  return ''
end

-- The position of an entry that an interrupted call wrote without noting it in the core. Another execution's entry may
-- stand there, and its result may hold any text, so that only the event's first field says whose entry it is.
local function unnoted_position(log, execution)
  local expected = execution.log_expected
  local entry = execution.resumed and expected and redis.call('XRANGE', log, expected, expected)[1]
  local own = '{"execution_id":"' .. execution.execution_id .. '"'
  if entry and string.sub(event_of(entry), 1, #own) == own then
    return expected
  end
end

-- Notes where the entry of an execution is going to stand.
local function note_expected(execution, id)
  redis.call('HSET', execution.core, 'log_expected', id)
end

-- Writes the log entry of an execution whose core is terminal, notes its position in the core, and keeps the message
-- for `ff.completion.publish`. What an interrupted call has recorded is announced again: it may not have been, and
-- readers know a duplicate by its position.
function ff.completion.record(call, execution)
  local inline = travels(call, execution)
  local text = body(execution, inline)
  local event = '{' .. text .. '}'
  local fields = inline and { 'e', event, 'result', execution.result } or { 'e', event }
  local log, epochs, keep, channel = destination(call, execution)
  local id, prev = execution.log_pos, nil
  if not id then
    id = unnoted_position(log, execution)
    if not id then
      local length = ff.bytes.of(event, inline and execution.result)
      id, prev = ff.log.append(log, epochs, keep, call.now, fields, length, note_expected, execution)
    end
    redis.call('HSET', execution.core, 'log_pos', id)
  end
  prev = prev and ',"prev":"' .. prev .. '"' or ''
  local result = inline and ',"result":' .. cjson.encode(execution.result) or ''
  local messages = call.messages
  messages[#messages + 1] = channel
  messages[#messages + 1] = '{' .. text .. ',"pos":"' .. id .. '"' .. prev .. result .. '}'
end

-- Announces what this call recorded. Comes last: the log holds it whatever becomes of the announcement.
-- Returns '0', or '1' if an announcement was refused (no permission on the channel).
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

-- When an entry of the log was committed (ms). The fields before `at` hold no quotation marks of their own.
function ff.completion.committed_at(entry)
  return tonumber(string.match(event_of(entry), '"at":(%d+)')) or 0
end
