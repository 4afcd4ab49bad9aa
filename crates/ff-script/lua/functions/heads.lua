-- ff1_heads: compares the newest entries of completion logs with what a reader has of them.
-- KEYS   1.. logs of one partition
-- ARGV   for each of them: '-' if the reader has nothing, else the id of the newest entry that it has, and behind a
--        space the uuid of the execution of which that entry told it, if it knows
-- reply  for each log: '' if that is its newest entry, '-' if it holds none, else the id of its newest entry and the
--        uuid of the execution that it tells of ('' if it does not say it as the library does)
-- errors WRONGTYPE
-- flags  no-writes
-- The uuid of the execution that an entry of the log tells of; '' if it is not written as the library does.
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
