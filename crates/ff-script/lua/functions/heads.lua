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
