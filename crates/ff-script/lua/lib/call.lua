-- What one call of a function knows and intends. Functions first read and plan, then `ff.call.commit` writes: a
-- script's error does not roll back, so nothing may be found out after the first write.

ff.call = {}

-- Bounds of one call, since a script cannot be interrupted once it has written.
local MAX_ENDS = 128
local MAX_DEPENDENTS = 256

-- `policy` is 'max_flow_log max_solo_log inline_limit': entries kept per log, bytes of a result that travels with its
-- event. `declared` are the uuids whose core is in KEYS: for them an absent core is a fact.
function ff.call.begin(KEYS, policy, declared)
  local max_flow_log, max_solo_log, inline_limit = string.match(policy, '^(%d+) (%d+) (%d+)$')
  return {
    partition = ff.keys.partition(KEYS),
    now = ff.base.now(),
    max_flow_log = max_flow_log, max_solo_log = max_solo_log, inline_limit = tonumber(inline_limit),
    declared = declared or {},
    ends_left = MAX_ENDS, dependents_left = MAX_DEPENDENTS,
    loaded = {},      -- uuid -> execution
    flows = {},       -- flow id -> flow
    flow_list = {},   -- the same, in the order in which they were read
    ends = {},        -- executions that end, or whose end is completed, in the order of their completions
    moves = {},       -- executions that change without ending
    parents = {},     -- ended executions whose dependents were looked at
    messages = {},    -- completions to announce
    lanes = {},       -- lanes that got work
    resolved = 0,     -- dependents promoted or skipped
  }
end

local function zrem(key, members)
  if #members > 0 then
    ff.base.chunked('ZREM', key, members)
  end
end

-- Takes ended executions out of the indexes: out of those of the state they had, or out of all where an interrupted
-- call has overwritten it. The lease, deadline and open entries go last: through them an
-- interrupted end is found and completed.
local function leave_indexes(call)
  local ready, delayed, leases, deadlines, open, ended = {}, {}, {}, {}, {}, {}
  for _, execution in ipairs(call.ends) do
    local uuid, was = execution.uuid, not execution.resumed and execution.public_state
    if execution.ready_member and (not was or was == 'waiting') then
      ready[#ready + 1] = execution.ready_member
    end
    if not was or was == 'delayed' then
      delayed[#delayed + 1] = uuid
    end
    if not was or was == 'active' then
      leases[#leases + 1] = uuid
    end
    if ff.base.num(execution.deadline_at) > 0 then
      deadlines[#deadlines + 1] = uuid
    end
    open[#open + 1] = uuid
    ended[#ended + 1] = execution.completed_at
    ended[#ended + 1] = uuid
  end
  local partition = call.partition
  ff.base.chunked('ZADD', partition.ended, ended, 2)
  zrem(partition.ready, ready)
  zrem(partition.delayed, delayed)
  zrem(partition.deadlines, deadlines)
  zrem(partition.leases, leases)
  zrem(partition.open, open)
end

-- Carries out what was planned. Returns whether an announcement was refused ('0' or '1').
function ff.call.commit(call)
  for _, flow in ipairs(call.flow_list) do
    ff.flow.write_cancel(flow)
  end
  for _, execution in ipairs(call.ends) do
    ff.execution.write_end(call, execution)
    ff.completion.record(call, execution)
  end
  for _, execution in ipairs(call.moves) do
    ff.execution.write_move(call, execution)
  end
  for _, parent in ipairs(call.parents) do
    ff.dependents.write_progress(call, parent)
  end
  for _, flow in ipairs(call.flow_list) do
    ff.flow.write(flow)
  end
  if #call.ends > 0 then
    leave_indexes(call)
  end
  local refused = ff.completion.publish(call)
  ff.queue.signal_all(call)
  return refused
end
