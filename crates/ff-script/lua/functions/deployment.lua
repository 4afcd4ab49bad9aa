-- ff1_deployment: records the settings that are fixed for the lifetime of a deployment, and returns what is recorded.
-- KEYS   1 the deployment's record (hash)
-- ARGV   1 partition count, 2 ABI major
-- reply  recorded partition count, recorded ABI major
-- errors WRONGTYPE
-- flags  allow-oom (a program that ends work must be able to connect to a full server)
local function deployment(KEYS, ARGV)
  local record, count, abi = KEYS[1], ARGV[1], ARGV[2]
  local known = redis.call('HMGET', record, 'partition_count', 'abi')
  if known[1] and known[2] then
    return { known[1], known[2] }
  end
  count, abi = known[1] or count, known[2] or abi
  redis.call('HSET', record, 'partition_count', count, 'abi', abi)
  return { count, abi }
end

redis.register_function({ function_name = 'ff1_deployment', callback = deployment, flags = { 'allow-oom' } })
