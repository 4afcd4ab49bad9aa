-- ff1_start_flow: accepts a flow whose members were written in parts. From then on the whole flow is visible. Its
-- members are queued by ff1_enqueue, or by the reconciler if that is not called.
-- KEYS   1..12 partition block, 13 flow core
-- ARGV   1 flow id, 2 namespace, 3 flow name, 4 fingerprint, 5 members (uuids, comma-separated)
-- reply  'ok' | 'exists' (with the same content) | 'conflict' (exists with other content) | 'restart' (some parts have
--        expired)
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
  -- First, so that an accepted flow does not expire. The reconciler sets the expiry again if this call stops here.
  redis.call('PERSIST', head)
  ff.flow.start(call, head, {
    id = ARGV[1], namespace = ARGV[2], name = ARGV[3], fingerprint = ARGV[4], members = ARGV[5],
  })
  ff.base.chunked('HDEL', head, parts)
  return { 'ok' }
end

redis.register_function('ff1_start_flow', start_flow)
