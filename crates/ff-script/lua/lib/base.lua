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
