-- Resolves the dependents of an ended execution: promotes them, or ends them as skipped.
--
-- An execution's `dependents` is a fixed list; `dependents_done` counts how many of them are resolved. A dependent
-- records each met need as a field `met:<uuid>` in the same command that counts it, so resolving one twice changes
-- nothing. If a call's bound is reached or a dependent cannot be read, the ended execution stays in `pending`.

ff.dependents = {}

-- Marks the dependents of an execution whose record was lost as unknown: any member of its flow may need it. Resolving
-- checks the needs of each member.
ff.dependents.unknown = '?'

-- The list of dependents of a stored text, and whether it is uncertain: all members that may need the execution.
function ff.dependents.list(partition, stored, flow_id)
  if not stored or string.byte(stored) ~= 63 then
    return stored or '', false
  end
  return flow_id and redis.call('HGET', ff.keys.flow(partition.tag, flow_id), 'members') or '', true
end

local function needs(dependent, parent)
  local list = redis.call('HGET', dependent.core, 'needs')
  return list and string.find(list, parent.uuid, 1, true)
end

local function promote(call, dependent)
  local counted = ff.execution.count_from_start(call, dependent)
  if counted then
    ff.execution.touch(call, dependent, counted)
  end
  if ff.base.num(dependent.eligible_at) > call.now then
    ff.execution.move(call, dependent, 'delayed', ff.base.num(dependent.eligible_at))
  else
    ff.execution.move(call, dependent, 'waiting')
  end
end

local function meet(call, dependent, parent)
  local unmet = ff.base.num(dependent.unmet_needs) - 1
  dependent.unmet_needs = ff.base.int(unmet)
  ff.execution.touch(call, dependent, { 'met:' .. parent.uuid, '1', 'unmet_needs', dependent.unmet_needs })
  if unmet == 0 then
    promote(call, dependent)
  end
end

-- Resolves one dependent. Returns false if it has to wait.
local function resolve(call, parent, uuid)
  local range = parent.terminal_outcome == 'success' and 'to_promote' or 'all'
  local dependent, problem, met = ff.execution.load(call, uuid, 'met:' .. parent.uuid, range)
  if problem then
    -- A key that another program has overwritten is lost, and must not block the others.
    return ff.base.is_overwritten(problem)
  elseif not dependent then
    return call.declared[uuid]
  end
  if dependent.public_state ~= 'blocked' or ff.execution.is_terminal(dependent) or met then
    return true
  elseif parent.uncertain and not needs(dependent, parent) then
    return true
  end
  if parent.terminal_outcome == 'success' then
    meet(call, dependent, parent)
  elseif call.ends_left > 0 then
    ff.execution.finish(call, dependent, 'skipped', 'dependency_failed')
  else
    return false
  end
  call.resolved = call.resolved + 1
  return true
end

-- Plans the resolution of the dependents of an ended execution, within the call's bounds. Members of a flow that is
-- being cancelled are left to the cancellation.
function ff.dependents.plan(call, parent)
  local stored = parent.dependents
  if stored == nil then
    stored = redis.call('HGET', parent.core, 'dependents')
  end
  if not stored then
    return
  end
  local list
  list, parent.uncertain = ff.dependents.list(call.partition, stored, parent.flow_id)
  local count = ff.uuids.count(list)
  -- One call may plan for the same parent twice before anything is written.
  local before = parent.progress or ff.base.num(parent.dependents_done)
  local done = before
  local flow = ff.flow.of(call, parent)
  if flow and flow.cancel_requested then
    done = count
  end
  while done < count and call.dependents_left > 0 do
    call.dependents_left = call.dependents_left - 1
    if not resolve(call, parent, ff.uuids.at(list, done + 1)) then
      break
    end
    done = done + 1
  end
  parent.leaves_pending = done < count
  parent.progress = done
  parent.advanced = done > before
  if done > before or parent.leaves_pending then
    call.parents[#call.parents + 1] = parent
  end
end

function ff.dependents.write_progress(call, parent)
  redis.call('HSET', parent.core, 'dependents_done', ff.base.int(parent.progress))
  if parent.leaves_pending then
    redis.call('ZADD', call.partition.pending, call.now_text, parent.uuid)
  else
    redis.call('ZREM', call.partition.pending, parent.uuid)
  end
end
