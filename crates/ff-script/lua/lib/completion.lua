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
