-- The state and the plan of one call. Functions first read and plan, then `ff.call.commit` writes. An error in a script
-- does not roll back, so everything that can fail comes before the first write.

ff.call = {}

-- Bounds of one call, since a script cannot be interrupted once it has written. ARCHITECTURE.md has the measured times.
local MAX_ENDS = 24
local MAX_DEPENDENTS = 32

local NOTHING = {}

-- The policy of the last call, cached: the next call most often has the same.
local last_policy, keep_of_flows, keep_of_solo, inline_limit

local function read_policy(policy)
  local max_flow_log, max_solo_log, inline, more = string.match(policy, '^(%d+) (%d+) (%d+)(.*)$')
  local flow_bytes, solo_bytes = string.match(more, '^ (%d+) (%d+)')
  keep_of_flows = ff.bytes.keep(max_flow_log, tonumber(flow_bytes) or math.huge)
  keep_of_solo = ff.bytes.keep(max_solo_log, tonumber(solo_bytes) or math.huge)
  inline_limit = tonumber(inline)
  last_policy = policy
end

-- The state of a call that ends no execution and writes without `ff.call.commit`. `lanes` collects the lanes that get
-- work.
function ff.call.look(KEYS)
  local now = ff.base.now()
  return { partition = ff.keys.partition(KEYS), now = now, now_text = ff.base.int(now), loaded = {}, lanes = {} }
end

-- The state of a call that may end executions. `policy` is 'max_flow_log max_solo_log inline_limit flow_bytes
-- solo_bytes': entries kept per log, the largest result that is part of its event, bytes kept per log. Earlier programs
-- send no bytes; then there is no such limit. Numbers after these belong to later versions and are ignored. `declared`
-- holds the uuids of dependents whose core is in KEYS: an absent core of theirs is really gone.
function ff.call.begin(KEYS, policy, declared)
  if policy ~= last_policy then
    read_policy(policy)
  end
  local now = ff.base.now()
  return {
    partition = ff.keys.partition(KEYS),
    now = now, now_text = ff.base.int(now),
    keep_of_flows = keep_of_flows, keep_of_solo = keep_of_solo, inline_limit = inline_limit,
    declared = declared or NOTHING,
    ends_left = MAX_ENDS, dependents_left = MAX_DEPENDENTS,
    loaded = {},      -- uuid -> execution
    flows = {},       -- flow id -> flow
    flow_list = {},   -- the same, in the order in which they were read
    ends = {},        -- executions that end, or whose end is completed, in the order of their completions
    moves = {},       -- executions that change without ending
    parents = {},     -- ended executions whose dependents were visited
    messages = {},    -- completions to announce: channel and text of each
    lanes = {},       -- lanes that got work
    losses = {},      -- executions whose lease this call ends, to notify their holders
    resolved = 0,     -- dependents promoted or skipped
    bytes_of_ends = 0, -- bytes of tags and results that were read to end executions
    log_types = {},   -- log -> type of its key, once it was checked
  }
end

-- Appends to a list that is created with its first value.
local function with(list, value)
  list = list or {}
  list[#list + 1] = value
  return list
end

local function zrem(key, members)
  if members then
    ff.base.chunked('ZREM', key, members)
  end
end

-- Frees the payloads of ended executions and removes them from the indexes of their last state, or from all indexes if
-- an interrupted call has overwritten that state. The lease, deadline and open entries are removed last: through them
-- an interrupted end is found and completed.
local function leave_indexes(call)
  local ready, delayed, leases, deadlines
  local open, ended = {}, {}
  for index = 1, #call.ends do
    local execution = call.ends[index]
    local uuid, was = execution.uuid, not execution.resumed and execution.public_state
    if execution.ready_member and (not was or was == 'waiting') then
      ready = with(ready, execution.ready_member)
    end
    if not was or was == 'delayed' then
      delayed = with(delayed, uuid)
    end
    if not was or was == 'active' then
      leases = with(leases, uuid)
    end
    if execution.deadline_at then
      deadlines = with(deadlines, uuid)
    end
    open[index] = ff.execution.open_member(execution)
    ff.execution.free_payload(execution)
    ended[2 * index - 1] = execution.completed_at
    ended[2 * index] = uuid
  end
  for index = 1, #call.flow_list do
    ff.flow.plan_ended(call, call.flow_list[index], ended)
  end
  local partition = call.partition
  ff.base.chunked('ZADD', partition.ended, ended, 2)
  zrem(partition.ready, ready)
  zrem(partition.delayed, delayed)
  zrem(partition.deadlines, deadlines)
  zrem(partition.leases, leases)
  zrem(partition.open, open)
end

-- Writes the plan. Returns whether an announcement was refused ('0' or '1').
function ff.call.commit(call)
  local flows, ends, moves, parents = call.flow_list, call.ends, call.moves, call.parents
  for index = 1, #flows do
    ff.flow.write_cancel(flows[index])
  end
  for index = 1, #ends do
    ff.execution.write_end(call, ends[index])
    ff.completion.record(call, ends[index])
  end
  for index = 1, #moves do
    ff.execution.write_move(call, moves[index])
  end
  for index = 1, #parents do
    ff.dependents.write_progress(call, parents[index])
  end
  for index = 1, #flows do
    ff.flow.write(flows[index])
  end
  if #ends > 0 then
    leave_indexes(call)
  end
  local refused = ff.completion.publish(call)
  ff.execution.announce_losses(call)
  ff.queue.signal_all(call)
  ff.timers.announce(call)
  return refused
end
