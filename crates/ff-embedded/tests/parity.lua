#!lua name=parity
-- Small functions that show how a host behaves. Loaded on the embedded host and on a server, and compared.

-- One command, whose error ends the call.
local function run(_, command)
  return redis.call(unpack(command))
end
redis.register_function('run', run)

-- One command, whose error is its reply.
redis.register_function('try', function(_, command)
  return redis.pcall(unpack(command))
end)

-- What kind of thing a command gives.
redis.register_function('kind', function(_, command)
  local reply = redis.pcall(unpack(command))
  if type(reply) == 'table' then
    return { 'table', reply.err or '', reply.ok or '', tostring(#reply) }
  end
  return { type(reply), tostring(reply) }
end)

local replies = {
  text = function() return 'text' end,
  empty = function() return '' end,
  binary = function() return '\0\255\r\n' end,
  nothing = function() return nil end,
  no_value = function() end,
  yes = function() return true end,
  no = function() return false end,
  integer = function() return 42 end,
  fraction = function() return 3.99 end,
  negative_fraction = function() return -3.99 end,
  large = function() return 1700000000000 end,
  list = function() return { 'a', 1, true, false, { 'b', {} } } end,
  list_with_hole = function() return { 'a', nil, 'c' } end,
  map = function() return { a = 1 } end,
  status = function() return { ok = 'FINE' } end,
  status_reply = function() return redis.status_reply('FINE') end,
  failure = function() return { err = 'CODE text' } end,
  error_reply = function() return redis.error_reply('CODE text') end,
  error_reply_of_a_word = function() return redis.error_reply('word') end,
  error_reply_with_a_dash = function() return redis.error_reply('-CODE text') end,
  error_reply_with_lines = function() return redis.error_reply('CODE text\r\n') end,
  raised_text = function() error('text') end,
  raised_text_without_place = function() error('text', 0) end,
  raised_table = function() error({ err = 'CODE text' }) end,
  raised_elsewhere = function() run(nil, { 'HGET' }) end,
  runtime_error = function() return 1 + {} end,
  in_a_library_function = function() return string.rep() end,
  caught = function()
    local fine, problem = pcall(redis.call, 'ZADD', 'caught', 'x', 'member')
    local raised, table_problem = pcall(error, { err = 'CODE text' })
    return { tostring(fine), type(problem), tostring(problem), tostring(raised), tostring(table_problem) }
  end,
  handled = function()
    local fine, handled = xpcall(function() redis.call('HGET') end, function(problem)
      return type(problem) == 'table' and problem.err or problem
    end)
    return { tostring(fine), tostring(handled) }
  end,
  unknown_global = function() return undeclared end,
  new_global = function() created = 1 end,
  changed_global = function() tostring = nil end,
  no_command = function() return redis.call() end,
}
redis.register_function('reply', function(_, arguments)
  return replies[arguments[1]]()
end)

-- Writes before it fails: what it wrote stays.
redis.register_function('half', function(KEYS)
  redis.call('HSET', KEYS[1], 'before', '1')
  redis.call('ZADD', KEYS[1], '1', 'member')
  redis.call('HSET', KEYS[1], 'after', '1')
end)

redis.register_function('count_keys', function(KEYS, ARGV)
  return { #KEYS, #ARGV, KEYS[1] or 'none', ARGV[1] or 'none', type(KEYS[#KEYS + 1]) }
end)

redis.register_function({ function_name = 'writes_nothing', callback = run, flags = { 'no-writes' } })

-- Whether the time stands still within a call.
redis.register_function('frozen', function()
  local first = redis.call('TIME')
  for _ = 1, 200000 do end
  local second = redis.call('TIME')
  return { first[1] == second[1] and first[2] == second[2], #first, type(first[1]) }
end)

local numbers = {
  0, -0, 1, -1, 0.1, -0.1, 1.5, 3.0, 1e15, 1e16, 1e17, 1e18, 1e20, 1e21, 1e22, 1e100, -1e100, 1.7e12, 123456789012345,
  12345678901234567, 0.5, 1 / 3, 2 / 3, 1e-3, 1e-5, 1e-6, 1e-7, 1.5e-7, 1.25e-10, 5e-324, 1.7976931348623157e308,
  4503599627370495.5, 4503599627370496, 9007199254740993, 2 ^ 53, 2 ^ 62, 2 ^ 63, -2 ^ 63, 2 ^ 64, 100.25, 1234567.125,
}

-- Numbers as arguments of a command, as scores, and as they are printed.
redis.register_function('numbers', function()
  local reply = {}
  for index, number in ipairs(numbers) do
    redis.call('HSET', 'numbers', index, number)
    redis.call('ZADD', 'scores', number, index)
    reply[#reply + 1] = redis.call('HGET', 'numbers', index)
    reply[#reply + 1] = redis.call('ZSCORE', 'scores', index)
    reply[#reply + 1] = tostring(number)
    reply[#reply + 1] = string.format('%.0f', number)
    reply[#reply + 1] = cjson.encode(number)
  end
  return reply
end)

redis.register_function('json', function(_, ARGV)
  local all = {}
  for byte = 0, 255 do
    all[#all + 1] = string.char(byte)
  end
  local sparse = {}
  sparse[1], sparse[2], sparse[3] = 'a', 'b', 'c'
  return {
    cjson.encode(ARGV[1]), cjson.encode(table.concat(all)), cjson.encode('a/b\\c"d'), cjson.encode(''),
    cjson.encode({}), cjson.encode({ 'a', 1, true, 2.5 }), cjson.encode({ name = 'va/lue' }), cjson.encode({ [''] = 1 }),
    cjson.encode(true), cjson.encode(false), cjson.encode(nil), cjson.encode(12), cjson.encode(sparse),
  }
end)

-- Appends ARGV[2] entries of ARGV[3] bytes under MAXLEN ~ ARGV[1]; the lengths that the log has on the way.
redis.register_function('fill', function(KEYS, ARGV)
  local value, lengths = string.rep('x', tonumber(ARGV[3])), {}
  for entry = 1, tonumber(ARGV[2]) do
    local fields = { 'e', value .. entry }
    if entry % 7 == 0 then
      fields = { 'e', value, 'result', tostring(entry) }
    end
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '1700000000000-*', unpack(fields))
    lengths[#lengths + 1] = redis.call('XLEN', KEYS[1])
  end
  return table.concat(lengths, ',')
end)

-- What the library reads of XINFO STREAM.
redis.register_function('information', function(KEYS)
  local info, found = redis.call('XINFO', 'STREAM', KEYS[1]), {}
  for index = 1, #info, 2 do
    if info[index] == 'length' or info[index] == 'last-generated-id' then
      found[#found + 1] = info[index]
      found[#found + 1] = info[index + 1]
    end
  end
  return found
end)

-- PTTL, with a remaining time within these bounds as 'between'.
redis.register_function('remaining', function(KEYS, ARGV)
  local left = redis.call('PTTL', KEYS[1])
  return left >= tonumber(ARGV[1]) and left <= tonumber(ARGV[2]) and 'between' or left
end)

local counter = 0
redis.register_function('counter', function()
  counter = counter + 1
  return counter
end)
