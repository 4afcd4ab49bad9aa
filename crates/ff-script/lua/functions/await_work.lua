-- ff1_await_work: reports whether a lane has work here. If not, notes a process to be signalled when it gets work.
-- KEYS   1..12 partition block
-- ARGV   1 lane, 2 listener
-- reply  '1' if there is work, else '0'
-- errors WRONGTYPE
-- flags  allow-oom
local function await_work(KEYS, ARGV)
  local lane, listener = ARGV[1], ARGV[2]
  local partition = ff.keys.partition(KEYS)
  if #ff.queue.peek(partition, lane, 1) > 0 then
    return { '1' }
  end
  ff.queue.wait(partition, lane, listener)
  return { '0' }
end

redis.register_function({ function_name = 'ff1_await_work', callback = await_work, flags = { 'allow-oom' } })
