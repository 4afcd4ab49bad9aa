-- The clock, numbers as text, lists as text, and replies. Everything else builds on these.

ff.base = {}

-- The server's time in milliseconds. Frozen within a call.
function ff.base.now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- An integer as text; Lua's own conversion writes large ones as 1e+12.
function ff.base.int(number)
  return string.format('%.0f', number)
end

-- The integer behind a stored text; absent and empty are 0.
function ff.base.num(text)
  if not text or text == '' then
    return 0
  end
  return tonumber(text)
end

-- A stored text, with absent as ''.
function ff.base.text(value)
  return value or ''
end

-- The parts of a comma-separated list.
function ff.base.split(list)
  local parts = {}
  for part in string.gmatch(list or '', '[^,]+') do
    parts[#parts + 1] = part
  end
  return parts
end

-- Calls a command that takes any number of arguments after its key, at most 1,000 of them at a time. `width` arguments
-- belong together.
function ff.base.chunked(command, key, arguments, width)
  local step = 1000 - 1000 % (width or 1)
  for first = 1, #arguments, step do
    local last = math.min(first + step - 1, #arguments)
    redis.call(command, key, unpack(arguments, first, last))
  end
end

-- What every failing call of this library raises: a code, a space, and a text.
function ff.base.refuse(code, text)
  return redis.error_reply(code .. ' ' .. text)
end
