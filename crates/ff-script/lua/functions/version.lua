-- ff1_version: the version and digest of the loaded library.
-- KEYS   none
-- ARGV   none
-- reply  version, digest
-- flags  no-writes
local function version()
  return { ff.version, ff.digest }
end

redis.register_function({ function_name = 'ff1_version', callback = version, flags = { 'no-writes' } })
