-- ff1_start_flow: accepts a flow whose members were written in parts. From here on it is there as a whole; its members
-- are queued by ff1_enqueue, or by the reconciler where that is not called.
-- KEYS   1..12 partition block, 13 flow core
-- ARGV   1 flow id, 2 namespace, 3 flow name, 4 fingerprint, 5 members (uuids, comma-separated)
-- reply  'ok' | 'exists' (the same content is there already) | 'conflict' (other content is there) | 'restart' (some
--        parts are not kept any more)
-- errors WRONGTYPE, OOM
local function start_flow(KEYS, ARGV)
  local head = KEYS[ff.keys.block + 1]
  local call = ff.call.look(KEYS)
  local answer = ff.flow.known(head, ARGV[4], 'further')
  if answer then
    return { answer }
  end
  local parts, count = ff.flow.parts(head)
  if count ~= ff.uuids.count(ARGV[5]) then
    return { 'restart' }
  end
  -- First, so that what was accepted does not expire. The reconciler knows a flow of parts that does not.
  redis.call('PERSIST', head)
  ff.flow.start(call, head, {
    id = ARGV[1], namespace = ARGV[2], name = ARGV[3], fingerprint = ARGV[4], members = ARGV[5],
  })
  ff.base.chunked('HDEL', head, parts)
  return { 'ok' }
end

redis.register_function('ff1_start_flow', start_flow)
