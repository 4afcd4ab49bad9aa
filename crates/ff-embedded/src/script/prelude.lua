-- What the library sees of its host: the globals of the server's sandbox as far as it uses them, and the frame around
-- a call. The host hands in its functions and gets back what it needs to load a library and to run a function.
local call, protected_call, register, encode, describe, failure = ...

-- `call` and `protected_call` are functions of the host and not of Lua: only so does `return redis.call(…)` leave its
-- caller on the stack, where an error finds the place to name.
local redis = { call = call, pcall = protected_call }

-- An error as a table, its text beginning with a code.
function redis.error_reply(text)
  if type(text) ~= 'string' then
    return { err = 'ERR wrong number or type of arguments' }
  end
  text = string.gsub(string.gsub(text, '^%-', ''), '[\r\n]+$', '')
  if not string.find(text, ' ', 1, true) then
    text = 'ERR ' .. text
  end
  return { err = text }
end

function redis.status_reply(text)
  return { ok = text }
end

local function has_flag(flags, wanted)
  for _, flag in ipairs(flags or {}) do
    if flag == wanted then
      return true
    end
  end
  return false
end

function redis.register_function(first, second)
  local name, callback, flags = first, second, nil
  if type(first) == 'table' then
    name, callback, flags = first.function_name, first.callback, first.flags
  end
  if type(name) ~= 'string' or type(callback) ~= 'function' then
    error({ err = 'ERR redis.register_function needs a name and a function' })
  end
  local problem = register(name, callback, has_flag(flags, 'no-writes'))
  if problem then
    error({ err = problem })
  end
end

-- As on the server, `pcall` gives the text of an error that was raised as a table.
local function caught(fine, ...)
  if fine then
    return fine, ...
  end
  local raised = failure((...))
  if type(raised) == 'table' and raised.err then
    return fine, raised.err
  end
  return fine, raised
end

local globals = {
  _VERSION = _VERSION, assert = assert, error = error, getmetatable = getmetatable, ipairs = ipairs, next = next,
  pairs = pairs, pcall = function(...) return caught(pcall(...)) end, rawequal = rawequal,
  rawget = rawget, rawset = rawset, select = select,
  setmetatable = setmetatable, tonumber = tonumber, tostring = tostring, type = type, unpack = unpack,
  xpcall = function(called, handler)
    return xpcall(called, function(raised) return handler(failure(raised)) end)
  end,
  math = math, string = string, table = table, redis = redis, server = redis,
  cjson = { encode = encode },
}

local function unknown(_, name)
  error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
end

local function readonly()
  error('Attempt to modify a readonly table', 2)
end

-- Assignments never reach `globals`, so that also its own names stay as they are.
local environment = setmetatable({}, {
  __index = setmetatable(globals, { __index = unknown }), __newindex = readonly, __metatable = false,
})

-- Lua 5.1 hands xpcall's function no arguments.
local callback, keys, arguments
local function body()
  return callback(keys, arguments)
end

local function run(called, with_keys, with_arguments)
  callback, keys, arguments = called, with_keys, with_arguments
  return xpcall(body, describe)
end

return environment, run
