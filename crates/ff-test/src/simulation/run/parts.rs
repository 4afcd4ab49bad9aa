//! Flows that are submitted in parts by separate calls, with other operations in between.

use sha2::{Digest as _, Sha256};

use super::*;
use crate::simulation::{
    model::needs_of,
    world::{NAMESPACE, PARTITION},
};

/// How long the parts are kept (`parts_kept_for` in `lua/lib/flow.lua`).
const PARTS_KEPT_FOR: u64 = 60_000;

/// The submissions in parts of a run.
#[derive(Clone, Default)]
pub(super) struct Parts {
    begun: Vec<InParts>,
    /// Whether some parts have expired, or a part was interrupted: the reconciler discards their members.
    pub(super) discarded: bool,
}

/// A flow that has not started.
#[derive(Clone)]
struct InParts {
    key: String,
    members: Vec<Member>,
    flow: FlowId,
    ids: Vec<ExecutionId>,
    /// The arguments of each member.
    written: Vec<Vec<String>>,
    fingerprint: String,
    /// The recorded parts: the index of the first member and the number of members of each.
    parts: BTreeMap<usize, usize>,
    /// Until when the parts are kept (ms); `None` if there are none.
    kept_until: Option<u64>,
    /// When each member was last written.
    written_at: Vec<u64>,
}

impl InParts {
    fn new(key: String, members: &[Member]) -> Self {
        let namespace: Namespace = NAMESPACE.parse().expect("the name is valid");
        let flow = FlowId::from_idempotency_key(&namespace, &key);
        let one = PartitionCount::new(1).expect("one partition is allowed");
        let ids: Vec<_> = (0..members.len()).map(|index| ExecutionId::member(flow, &index.to_string(), one)).collect();
        let written: Vec<_> = (0..members.len()).map(|index| written(members, &ids, index)).collect();
        let head = [flow.to_string(), NAMESPACE.to_owned(), String::new()];
        let fingerprint = fingerprint(head.iter().chain(written.iter().flatten()));
        let written_at = vec![0; members.len()];
        let parts = BTreeMap::new();
        Self { key, members: members.to_vec(), flow, ids, written, fingerprint, parts, kept_until: None, written_at }
    }

    /// The members of one part of a division.
    fn part(&self, number: u32, size: u32) -> (usize, usize) {
        let size = size.max(1) as usize;
        let first = number as usize % self.members.len().div_ceil(size) * size;
        (first, size.min(self.members.len() - first))
    }

    fn write_call(&self, first: usize, count: usize) -> (Vec<String>, Vec<String>) {
        let cores = self.ids[first..first + count].iter().copied();
        let cores = cores.flat_map(|id| [keys::execution_core(id), keys::execution_tags(id)]);
        let keys = self.block().into_iter().chain(cores).collect();
        let part = if first == 0 { "first" } else { "further" };
        let head =
            ["10000 1000 4096", &self.flow.to_string(), NAMESPACE, "", &self.fingerprint, &first.to_string(), part];
        let members = self.written[first..first + count].iter().flatten().cloned();
        (keys, head.iter().map(|text| (*text).to_owned()).chain(members).collect())
    }

    fn start_call(&self) -> (Vec<String>, Vec<String>) {
        let uuids: Vec<_> = self.ids.iter().map(|id| id.uuid().to_string()).collect();
        let args =
            [self.flow.to_string(), NAMESPACE.to_owned(), String::new(), self.fingerprint.clone(), uuids.join(",")];
        (self.block(), args.to_vec())
    }

    /// Queues the members that wait for no other member, and those with times.
    fn enqueue_call(&self) -> (Vec<String>, Vec<String>) {
        let is_placed = |index: &usize| {
            let member = &self.members[*index];
            needs_of(member, *index).is_empty() || member.delay > 0 || member.deadline > 0
        };
        let placed = (0..self.members.len()).filter(is_placed).map(|index| self.ids[index].uuid().to_string());
        (keys::partition_block(PARTITION), placed.collect())
    }

    fn core(&self) -> String {
        keys::flow_core(PARTITION, self.flow)
    }

    fn block(&self) -> Vec<String> {
        keys::partition_block(PARTITION).into_iter().chain([self.core()]).collect()
    }

    /// The parts that a part of these members replaces.
    fn shared_with(&self, first: usize, count: usize) -> Vec<usize> {
        let shares = |(at, length): &(&usize, &usize)| **at < first + count && **at + **length > first;
        self.parts.iter().filter(shares).map(|(at, _)| *at).collect()
    }

    fn are_whole(&self) -> bool {
        self.kept_until.is_some() && self.parts.values().sum::<usize>() == self.members.len()
    }

    fn forget(&mut self) {
        self.kept_until = None;
        self.parts.clear();
    }
}

impl Parts {
    /// The executions that belong to no flow yet.
    pub(super) fn uuids(&self) -> BTreeSet<String> {
        self.begun.iter().flat_map(|flow| &flow.ids).map(|id| id.uuid().to_string()).collect()
    }

    /// The index of one of them, counted from the newest.
    fn pick(&self, pick: u32) -> Option<usize> {
        let count = self.begun.len();
        (count > 0).then(|| count - 1 - pick as usize % count)
    }
}

impl<S: Stage> Run<'_, S> {
    pub(super) fn begin_parts(&mut self, members: &[Member]) {
        let flow = InParts::new(self.next_key(), members);
        self.parts.begun.push(flow);
    }

    /// The clock was set: expired parts are gone, and stay gone if the clock is set back later.
    pub(super) fn expire_parts(&mut self) {
        let now = self.model.now;
        for flow in self.parts.begun.iter_mut().filter(|flow| flow.kept_until.is_some_and(|until| until < now)) {
            self.world.stage.command(&["EXISTS", &flow.core()]);
            flow.forget();
            self.parts.discarded = true;
        }
    }

    /// A server with these parts took over; their expiry was not restored.
    pub(super) fn restore_parts(&mut self, parts: Parts) {
        self.parts = Parts { discarded: true, ..parts };
        let now = self.model.now;
        for flow in &mut self.parts.begun {
            let (core, Some(until)) = (flow.core(), flow.kept_until) else { continue };
            self.world.stage.command(&["PEXPIRE", &core, &until.saturating_sub(now).to_string()]);
            if until <= now {
                flow.forget();
            }
        }
    }

    pub(super) fn write_part(&mut self, pick: u32, part: (u32, u32)) -> Result<Result<(), EngineError>, Disagreement> {
        let Some(at) = self.parts.pick(pick) else { return Ok(Ok(())) };
        let flow = &self.parts.begun[at];
        let (first, count) = flow.part(part.0, part.1);
        let (keys, args) = flow.write_call(first, count);
        let expected = if first > 0 && flow.kept_until.is_none() { "restart" } else { "ok" };
        let (before, now) = (flow.parts.clone(), self.model.now);
        match self.world.raw("ff1_submit", &keys, &args) {
            Ok(found) => {
                ensure!(found == expected, "a part was answered {found}, expected {expected}");
                if expected == "ok" {
                    let flow = &mut self.parts.begun[at];
                    for replaced in flow.shared_with(first, count) {
                        flow.parts.remove(&replaced);
                    }
                    flow.parts.insert(first, count);
                    flow.kept_until = Some(now + PARTS_KEPT_FOR);
                    flow.written_at[first..first + count].fill(now);
                    let (found, expected) = (self.noted_parts(at), self.parts.begun[at].parts.clone());
                    ensure!(found == expected, "the parts {found:?} are noted, expected {expected:?}");
                }
                Ok(Ok(()))
            }
            Err(error) => {
                // The part is recorded, or must be written again.
                (self.interrupted, self.parts.discarded) = (true, true);
                self.heal()?;
                self.model.sweep();
                let found = self.noted_parts(at);
                let is_new = |(at, length): &(&usize, &usize)| (**at, **length) != (first, count);
                let unknown = found.iter().filter(is_new).find(|(at, length)| before.get(at) != Some(length));
                ensure!(unknown.is_none(), "an interrupted part left {found:?} of {before:?}");
                let is_whole = found.get(&first) == Some(&count) && before.get(&first) != Some(&count);
                ensure!(!is_whole, "a part was noted before it was written whole");
                let left = self.world.left_ms(&self.parts.begun[at].core());
                ensure!(left != Some(0), "a submission that was interrupted does not expire");
                let flow = &mut self.parts.begun[at];
                flow.kept_until = left.map(|left| now + left);
                flow.parts = found;
                Ok(Err(error))
            }
        }
    }

    pub(super) fn start_parts(&mut self, pick: u32) -> Result<Result<(), EngineError>, Disagreement> {
        let Some(at) = self.parts.pick(pick) else { return Ok(Ok(())) };
        let flow = &self.parts.begun[at];
        let (keys, args) = flow.start_call();
        let expected = if flow.are_whole() { "ok" } else { "restart" };
        let (enqueue, found) = (flow.enqueue_call(), self.world.raw("ff1_start_flow", &keys, &args));
        let found = match found {
            Ok(found) => found,
            Err(_) => {
                // The caller repeats it.
                self.interrupted = true;
                self.heal()?;
                self.model.sweep();
                match self.world.raw("ff1_start_flow", &keys, &args) {
                    Ok(found) if found == "exists" => "ok".to_owned(),
                    Ok(found) => found,
                    Err(error) => return Ok(Err(error)),
                }
            }
        };
        ensure!(found == expected, "a start was answered {found}, expected {expected}");
        if found == "ok" {
            // If this fails, the reconciler does it.
            let enqueued = self.world.raw("ff1_enqueue", &enqueue.0, &enqueue.1);
            self.interrupted |= enqueued.is_err();
            let InParts { key, members, flow, ids, written_at, .. } = self.parts.begun.remove(at);
            self.accepted(key, &members, Some(flow), ids, Some(&written_at));
        }
        Ok(Ok(()))
    }

    /// A program that sends the flow as a whole, or in its own parts.
    pub(super) fn take_over(&mut self, pick: u32) -> Result<Result<(), EngineError>, Disagreement> {
        let Some(at) = self.parts.pick(pick) else { return Ok(Ok(())) };
        let InParts { key, members, flow, .. } = self.parts.begun.remove(at);
        let submitted = self.submit_as(key, &members, true)?;
        let is_same = submitted.is_err() || self.flows.last() == Some(&flow);
        ensure!(is_same, "the flow that took over is {:?}, expected {flow}", self.flows.last());
        Ok(submitted)
    }

    /// The parts that the server has recorded.
    fn noted_parts(&self, at: usize) -> BTreeMap<usize, usize> {
        let noted = self.world.fields_like(&self.parts.begun[at].core(), "part:");
        noted.into_iter().filter_map(|(first, count)| Some((first.parse().ok()?, count.parse().ok()?))).collect()
    }
}

/// The arguments of one member, as a program sends them.
fn written(members: &[Member], ids: &[ExecutionId], index: usize) -> Vec<String> {
    let member = &members[index];
    let needs = needs_of(member, index);
    let dependents = (index + 1..members.len()).filter(|other| needs_of(&members[*other], *other).contains(&index));
    let uuids = |indices: Vec<usize>| {
        let uuids: Vec<_> = indices.into_iter().map(|index| ids[index].uuid().to_string()).collect();
        uuids.join(",")
    };
    let text = |number: u64| number.to_string();
    vec![
        ids[index].uuid().to_string(),
        text(index as u64),
        LaneId::default_lane().to_string(),
        text(member.priority.into()),
        "{}".to_owned(),
        "x".repeat(index % 2),
        text(member.attempts.into()),
        text(member.backoff),
        text(4 * member.backoff),
        text(member.expiries.into()),
        text(member.delay),
        text(member.deadline),
        text(member.timeout),
        text(needs.len() as u64),
        uuids(needs),
        uuids(dependents.collect()),
        "0".to_owned(),
    ]
}

/// Identifies the content of a submission: SHA-256 over all texts, each with its length.
fn fingerprint<'a>(texts: impl Iterator<Item = &'a String>) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
