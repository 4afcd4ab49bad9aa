-- ff1_version: which library this is.
-- KEYS   none
-- ARGV   none
-- reply  version, digest
-- flags  no-writes
local function version()
  return { ff.version, ff.digest }
end

redis.register_function({ function_name = 'ff1_version', callback = version, flags = { 'no-writes' } })
