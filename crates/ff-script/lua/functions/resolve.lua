-- ff1_resolve: promotes or skips the dependents that a terminal call has left pending.
-- KEYS   1..12 partition block, 13 core of the ended execution, 14 its flow's core, then the cores of the dependents
-- ARGV   1 policy, 2 uuid of the ended execution, then the uuids of the dependents
-- reply  dependents resolved, '1' if more is pending in the partition and this call has made progress
-- errors WRONGTYPE
-- flags  allow-oom
local function resolve(KEYS, ARGV)
  local policy, uuid = ARGV[1], ARGV[2]
  local declared = {}
  for index = 2, #ARGV do
    declared[ARGV[index]] = true
  end
  local call = ff.call.begin(KEYS, policy, declared)
  local parent, problem = ff.execution.load(call, uuid)
  if problem then
    return redis.error_reply(problem)
  end
  if parent then
    ff.dependents.plan(call, parent)
    ff.call.commit(call)
  end
  if not parent or not parent.leaves_pending then
    redis.call('ZREM', call.partition.pending, uuid)
  end
  local progress = not parent or not parent.leaves_pending or parent.advanced
  local more = progress and redis.call('ZCARD', call.partition.pending) > 0
  return { ff.base.int(call.resolved), more and '1' or '0' }
end

redis.register_function({ function_name = 'ff1_resolve', callback = resolve, flags = { 'allow-oom' } })
