//! Runs one history step by step on the library and on the model, and compares them.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use ff_core::{
    CancelOutcome, ClaimId, ControlBackend, EngineError, EntryId, ExecutionId, Failure, FlowId, FlowState, LaneId,
    Lease, Namespace, PartitionCount, PublicState, Scope, SweepPolicy,
    backend::{FailOutcome, MaintenanceBackend, ReleaseOutcome, RenewOutcome, WorkBackend},
};
use uuid::Uuid;

use ff_script::keys;

use super::{
    epochs::Tenures,
    model::{Answer, Model},
    op::{Member, Op},
    reader::Reader,
    stage::{Contents, Stage},
    timers::SweepPlan,
    world::{EPOCH, Entry, StoredExecution, World, answer},
};

/// Longer than any time in a history.
const LONG: Duration = Duration::from_secs(3_600);
const RETENTION: Duration = Duration::from_secs(24 * 3_600);
/// The most sweeps at the end of a history until all times have passed, and the sweeps after that.
const MAX_ROUNDS: u32 = 40;
/// How far a clock may go back without having been set (ms).
const STEP_BACK: u64 = 1_000;
/// The number and length (ms) of the steps for which retention needs a stable clock.
const CLOCK_STANDS: u32 = 7;
const STEP: u64 = 100_000;
const QUIET_ROUNDS: u32 = 2;
/// How many dependents one call of the library plans (`MAX_DEPENDENTS` in `lua/lib/call.lua`).
const SETTLED_AT_ONCE: usize = 32;

/// The text of a disagreement.
type Disagreement = String;

/// The result of a run.
pub(super) struct RunRecord {
    /// Snapshots of all keys, if they were requested.
    pub(super) snapshots: Vec<Contents>,
    /// Faults at commands that their calls did not have.
    pub(super) unmet_faults: usize,
}

/// The state of a run.
pub(super) struct Run<'a, S> {
    world: World<'a, S>,
    tag: u64,
    model: Model,
    ids: Vec<ExecutionId>,
    flows: Vec<FlowId>,
    leases: Vec<(usize, Lease)>,
    claims: u32,
    last_claim: Option<LastClaim>,
    submissions: Vec<Submission>,
    parts: Parts,
    fault: Option<(u32, bool)>,
    unmet_faults: usize,
    /// Whether a call was interrupted: it is repaired later, so that some orders are no longer fixed.
    interrupted: bool,
    trimmed: bool,
    /// The policies of the logs.
    keeps: keeps::Keeps,
    reader: Option<Reader>,
    /// Whether a record was deleted: its entry may stay in the queue until a claim visits it.
    lost: bool,
    /// Whether a member of a flow with more than [`SETTLED_AT_ONCE`] members was lost: its dependents are skipped by
    /// several calls, in an order that depends on where each call stops.
    settled_in_parts: bool,
    tenures: Tenures,
    /// The disconnected replica.
    replica: Option<Replica>,
    /// How often something was submitted, what was undone included.
    submitted: usize,
    snapshots: Option<Vec<Contents>>,
    /// The plan of sweeps, in process only.
    engine: Option<SweepPlan>,
}

/// A claim that can be repeated.
#[derive(Debug, Clone)]
struct LastClaim {
    id: ClaimId,
    max: u32,
    lease: u64,
    /// The executions to take, each with its attempt.
    taken: Vec<(usize, u32)>,
    /// Until when its record is kept, and the latest time that the clock has shown since.
    recorded_until: u64,
    latest: u64,
    /// The executions that the last try was to take, in order.
    trying: Vec<usize>,
}

/// What was submitted, and what became of it.
#[derive(Clone)]
struct Submission {
    key: String,
    members: Vec<Member>,
    flow: Option<FlowId>,
    ids: Vec<ExecutionId>,
}

macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}

mod agreement;
mod keeps;
mod parts;
mod replica;
mod submitting;

use parts::Parts;
use replica::Replica;

impl<'a, S: Stage> Run<'a, S> {
    pub(super) fn new(stage: &'a S, tag: u64) -> Self {
        let world = World { stage, last_sweep: Cell::default() };
        stage.keep_little(false);
        world.wipe();
        // Like an engine that starts; announcements of earlier histories are dropped.
        let _ = world.sweep(RETENTION);
        let signals = stage.host().and_then(|_| stage.wait(stage.backend().timer_signals()).ok());
        let model = Model::at(EPOCH);
        let reader = Reader::start(&world);
        Self {
            world,
            tag,
            model,
            ids: Vec::new(),
            flows: Vec::new(),
            leases: Vec::new(),
            claims: 0,
            last_claim: None,
            submissions: Vec::new(),
            parts: Parts::default(),
            fault: None,
            unmet_faults: 0,
            interrupted: false,
            trimmed: false,
            keeps: keeps::Keeps::default(),
            reader,
            lost: false,
            settled_in_parts: false,
            tenures: Tenures::default(),
            replica: None,
            submitted: 0,
            snapshots: None,
            engine: signals.map(|signals| SweepPlan::new(signals, EPOCH)),
        }
    }

    /// Takes snapshots of all keys after the last operation and twice later, to compare them with another host.
    pub(super) fn recording(self) -> Self {
        Self { snapshots: Some(Vec::new()), ..self }
    }

    /// Runs a history to its end, and then until nothing is left.
    pub(super) fn whole(mut self, history: &[Op]) -> Result<RunRecord, Disagreement> {
        for (number, op) in history.iter().enumerate() {
            let stepped = self.step(op).and_then(|()| self.timers_agree()).and_then(|()| self.bytes_agree());
            stepped.map_err(|what| format!("operation {number} ({op:?}): {what}"))?;
        }
        self.executions_agree(|id| self.world.described(id)).map_err(|what| format!("as described: {what}"))?;
        self.agree().map_err(|what| format!("after the last operation: {what}"))?;
        self.check_epochs()?;
        self.read()?;
        self.record();
        self.finish().map_err(|what| format!("while finishing: {what}"))?;
        Ok(RunRecord { snapshots: self.snapshots.unwrap_or_default(), unmet_faults: self.unmet_faults })
    }

    fn record(&mut self) {
        if let Some(snapshots) = &mut self.snapshots {
            snapshots.push(self.world.stage.snapshot());
        }
    }

    fn step(&mut self, op: &Op) -> Result<(), Disagreement> {
        match op {
            Op::Advance { millis } => self.move_clock(self.model.now + millis),
            Op::StepBack { millis } => self.move_clock(self.model.now - millis),
            Op::Leap { millis } => return self.leap([self.model.now + millis]),
            Op::LeapBack { millis } => return self.leap([self.model.now - millis]),
            Op::LeapInPart { millis, back } => {
                let ahead = self.model.now + millis;
                return self.leap([ahead, ahead - back]);
            }
            Op::Trim { keep } => {
                self.world.trim(*keep);
                (self.trimmed, self.keeps.cut) = (true, true);
            }
            Op::Keep { little } => self.keep(*little),
            Op::Read => self.read()?,
            Op::Forget => {
                self.check_epochs()?;
                self.world.stage.forget();
                self.model.forget_leaps();
                let held = self.positions();
                self.tenures.change(held);
                self.keeps.tenures += 1;
            }
            Op::CutOff => self.cut_off(),
            Op::FailOver => self.fail_over()?,
            Op::BeginParts(members) => self.begin_parts(members),
            Op::Fault { command, stop } => self.fault = Some((*command, *stop)),
            _ => return self.call(op),
        }
        Ok(())
    }

    fn move_clock(&mut self, to: u64) {
        self.model.now = to;
        if let Some(last) = &mut self.last_claim {
            last.latest = last.latest.max(to);
        }
        self.world.stage.set_clock(to);
        self.expire_parts();
    }

    /// Sets the clock between two sweeps, to one time after another. The library sees each time: those before the last
    /// one in a call that visits no lease.
    fn leap<const N: usize>(&mut self, times: [u64; N]) -> Result<(), Disagreement> {
        let refused = |error: EngineError| format!("a sweep was refused: {error}");
        self.model.sweep();
        self.world.sweep(RETENTION).map_err(refused)?;
        let before = self.model.now;
        for (step, to) in times.into_iter().enumerate() {
            if step > 0 {
                self.world.look().map_err(refused)?;
            }
            self.move_clock(to);
        }
        self.model.leapt(before);
        self.model.sweep();
        self.world.sweep(RETENTION).map(drop).map_err(refused)
    }

    /// Checks that the planned sweep is not later than the next timer.
    fn timers_agree(&mut self) -> Result<(), Disagreement> {
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let planned = engine.plan(self.model.now, self.world.last_sweep.take());
        let soonest = self.model.next_timer();
        ensure!(soonest.is_none_or(|due| planned <= due), "the next sweep is at {planned}, but {soonest:?} is due");
        Ok(())
    }

    /// Makes a call of the library. If it was interrupted, it must have its whole effect or none.
    fn call(&mut self, op: &Op) -> Result<(), Disagreement> {
        let Some((command, stop)) = self.fault.take() else {
            return self.act(op, false)?.map_err(|error| format!("it was refused: {error}"));
        };
        if !self.world.inject(command, stop) {
            return self.call(op);
        }
        let before = self.model.clone();
        let outcome = self.act(op, true);
        let was_met = self.world.fault_was_met();
        let outcome = outcome?;
        if !was_met {
            self.unmet_faults += 1;
            return outcome.map_err(|error| format!("it was refused: {error}"));
        }
        self.interrupted = true;
        self.keeps.tenures += 1;
        self.heal()?;
        let mut possible = vec![std::mem::replace(&mut self.model, before.clone())];
        if *op == Op::Sweep {
            possible.extend(before.sweeps_with_unread());
        }
        if outcome.is_err() {
            possible.extend(self.partly(op));
        }
        let mut complaints = Vec::new();
        for mut candidate in possible {
            candidate.sweep();
            self.settle_overdue(&before, &mut candidate)?;
            self.model = candidate;
            match self.agree() {
                Ok(()) => return Ok(()),
                Err(what) => complaints.push(what),
            }
        }
        Err(format!(
            "interrupted at command {}, it has neither its whole effect nor none: {}",
            command + 1,
            complaints.join(" / ")
        ))
    }

    /// A dependent that is beyond its deadline when an interrupted call should have skipped it is skipped or expires,
    /// whichever comes first: the call's completion, or the sweep.
    fn settle_overdue(&self, before: &Model, after: &mut Model) -> Result<(), Disagreement> {
        for (index, id) in self.ids.iter().enumerate() {
            if before.is_overdue(index) && after.executions[index].ended().is_some() {
                let found = self.world.stored(*id).map_err(|error| format!("{id} cannot be read: {error}"))?;
                after.settle_overdue(index, found.state);
            }
        }
        Ok(())
    }

    /// The effects of an interrupted call that completes these leases: the first few ends, or all but one whose record
    /// could not be read.
    fn partly_completed(&self, chosen: &[(usize, Lease)]) -> Vec<Model> {
        let with = |ended: &dyn Fn(usize) -> bool| {
            let mut model = self.model.clone();
            for (index, (id, lease)) in chosen.iter().enumerate() {
                if ended(index) {
                    model.complete(*id, lease.attempt);
                }
            }
            model
        };
        let first = (0..chosen.len().max(1)).map(|count| with(&|index| index < count));
        let all_but = (0..chosen.len()).map(|unread| with(&|index| index != unread));
        first.chain(all_but).collect()
    }

    /// The other possible effects of an interrupted call: none, or the first few claims or ends.
    fn partly(&self, op: &Op) -> Vec<Model> {
        if let Op::CompleteMany { lease, count } = op {
            return self.partly_completed(&self.chosen(*lease, *count));
        }
        let (Op::Claim { .. } | Op::RepeatClaim, Some(last)) = (op, &self.last_claim) else {
            return vec![self.model.clone()];
        };
        let first = |count: usize| {
            let mut model = self.model.clone();
            model.claim_again(&last.trying[..count], last.lease);
            model
        };
        (0..last.trying.len().max(1)).map(first).collect()
    }

    /// Runs the maintenance of the engine until it finds nothing more to do.
    fn heal(&self) -> Result<(), Disagreement> {
        let refused = |error: EngineError| format!("maintenance was refused: {error}");
        for _ in 0..MAX_ROUNDS {
            let mut busy = self.world.sweep(RETENTION).map_err(refused)?;
            busy |= self.world.resolve().map_err(refused)?;
            busy |= self.world.reconcile().map_err(refused)? > 0;
            if !busy {
                return Ok(());
            }
        }
        Err("maintenance never finishes".to_owned())
    }

    /// Applies an operation to both sides. The inner error is the library's; the outer one is a disagreement.
    fn act(&mut self, op: &Op, faulty: bool) -> Result<Result<(), EngineError>, Disagreement> {
        match op {
            Op::SubmitFlow(members) => self.submit(members, true),
            Op::SubmitSolo(member) => self.submit(std::slice::from_ref(member), false),
            Op::Resubmit { submission } => self.resubmit(*submission),
            Op::WritePart { submission, number, size } => self.write_part(*submission, (*number, *size)),
            Op::StartParts { submission } => self.start_parts(*submission),
            Op::TakeOver { submission } => self.take_over(*submission),
            Op::Claim { max, lease } => self.claim(*max, *lease, faulty),
            Op::RepeatClaim => self.repeat_claim(faulty),
            Op::Complete { lease } => self.as_owner(*lease, |world, model, id, lease| {
                let real = world.stage.wait(world.stage.backend().complete(lease, Bytes::new())).map(|()| None);
                (answer(real), model.complete(id, lease.attempt))
            }),
            Op::CompleteMany { lease, count } => self.complete_many(*lease, *count),
            Op::Fail { lease, retryable } => self.as_owner(*lease, |world, model, id, lease| {
                let failure = if *retryable { Failure::retryable("it broke") } else { Failure::permanent("it broke") };
                let real = world.stage.wait(world.stage.backend().fail(lease, &failure)).map(|outcome| match outcome {
                    FailOutcome::Retry { after } => Some(after),
                    _ => None,
                });
                (answer(real), model.fail(id, lease.attempt, "it broke", *retryable))
            }),
            Op::Renew { lease, length } => self.as_owner(*lease, |world, model, id, lease| {
                let real = world.stage.wait(world.stage.backend().renew(&[*lease], Duration::from_millis(*length)));
                let expected = model.renew(id, lease.attempt, *length);
                (real.and_then(|outcomes| renewed(outcomes[0])), expected)
            }),
            Op::Release { lease } => self.as_owner(*lease, |world, model, id, lease| {
                let real = world.stage.wait(world.stage.backend().release(&[*lease]));
                let expected = model.give_back(id, lease.attempt);
                (real.and_then(|outcomes| released(outcomes[0])), expected)
            }),
            Op::CancelExecution { execution } => self.cancel_execution(*execution),
            Op::CancelFlow { flow } => self.cancel_flow(*flow),
            Op::Sweep => {
                self.model.sweep();
                Ok(self.world.sweep(RETENTION).map(drop))
            }
            Op::Reconcile => {
                let repaired = self.world.reconcile();
                let clean =
                    self.interrupted || self.parts.discarded || !matches!(repaired, Ok(repaired) if repaired > 0);
                ensure!(clean, "the reconciler found something to repair though no call was interrupted");
                Ok(repaired.map(drop))
            }
            Op::Resolve => Ok(self.world.resolve().map(drop)),
            Op::Lose { execution } => self.lose(*execution),
            Op::Advance { .. } | Op::StepBack { .. } => Ok(Ok(())),
            Op::Leap { .. } | Op::LeapBack { .. } | Op::LeapInPart { .. } => Ok(Ok(())),
            Op::Trim { .. } | Op::Forget | Op::CutOff | Op::FailOver | Op::Fault { .. } => Ok(Ok(())),
            Op::Keep { .. } | Op::Read | Op::BeginParts(_) => Ok(Ok(())),
        }
    }

    fn claim(&mut self, max: u32, lease: u64, faulty: bool) -> Result<Result<(), EngineError>, Disagreement> {
        self.claims += 1;
        let id = ClaimId::from(Uuid::from_u64_pair(self.tag, u64::from(self.claims)));
        // An unreadable execution is skipped, and the next one is claimed instead.
        let wanted = self.model.claimable(max + u32::from(faulty));
        self.claim_these(id, max, lease, (wanted, false), faulty)
    }

    /// The worker did not get the reply and repeats the claim.
    fn repeat_claim(&mut self, faulty: bool) -> Result<Result<(), EngineError>, Disagreement> {
        let Some(last) = self.last_claim.clone() else { return Ok(Ok(())) };
        let recorded = self.world.recorded_claim(last.id).map(|entries| self.known(&entries)).transpose()?;
        if !self.interrupted {
            let kept = !last.taken.is_empty() && last.latest < last.recorded_until;
            ensure!(!kept || recorded.is_some(), "the claim's record is gone before its lease");
            let same = recorded.as_ref().is_none_or(|recorded| *recorded == last.taken);
            ensure!(same, "the claim's record says {recorded:?}, it took {:?}", last.taken);
        }
        let wanted = match &recorded {
            Some(taken) => self.model.still_claimed(taken),
            None => self.model.claimable(last.max + u32::from(faulty)),
        };
        self.claim_these(last.id, last.max, last.lease, (wanted, recorded.is_some()), faulty)
    }

    /// The executions with these uuids, with their attempts.
    fn known(&self, entries: &[(String, u32)]) -> Result<Vec<(usize, u32)>, Disagreement> {
        let find = |(uuid, attempt): &(String, u32)| {
            let id = self.model.executions.iter().position(|execution| execution.uuid == *uuid);
            id.map(|id| (id, *attempt)).ok_or_else(|| format!("a claim has recorded {uuid}, which is unknown"))
        };
        entries.iter().map(find).collect()
    }

    /// Makes a claim that should return `wanted`, the first `max` of them unless it is a repetition.
    fn claim_these(
        &mut self,
        id: ClaimId,
        max: u32,
        lease: u64,
        (mut wanted, repeats): (Vec<usize>, bool),
        faulty: bool,
    ) -> Result<Result<(), EngineError>, Disagreement> {
        let claim = self.world.claim(max, lease, id);
        if let (Ok(claim), true) = (&claim, faulty) {
            // Unreadable executions were left for the next claim.
            let found: BTreeSet<_> = claim.executions.iter().map(|claimed| claimed.lease.execution_id).collect();
            wanted.retain(|id| found.contains(&self.ids[*id]));
        } else if !repeats {
            wanted.truncate(max as usize);
        }
        let before = self.last_claim.take().filter(|_| repeats).map(|last| last.taken);
        self.model.claim_again(&wanted, lease);
        let attempt = |id: &usize| (*id, self.model.executions[*id].attempt);
        let taken = before.unwrap_or_else(|| wanted.iter().map(attempt).collect());
        let (now, trying) = (self.model.now, wanted.clone());
        self.last_claim = Some(LastClaim { id, max, lease, taken, recorded_until: now + lease, latest: now, trying });
        let claimed = match claim {
            Ok(claim) => claim.executions,
            Err(error) => return Ok(Err(error)),
        };
        let found: Vec<_> = claimed.iter().map(|claimed| claimed.lease.execution_id).collect();
        let expected: Vec<_> = wanted.iter().map(|id| self.ids[*id]).collect();
        ensure!(found == expected, "claimed {found:?}, expected {expected:?}");
        for (id, claimed) in wanted.into_iter().zip(claimed) {
            let counted = self.model.executions[id].unseen;
            let reported = claimed.unconfirmed_leases;
            ensure!(reported == counted, "{reported} unconfirmed leases, expected {counted}");
            if !self.leases.contains(&(id, claimed.lease)) {
                self.leases.push((id, claimed.lease));
            }
        }
        Ok(Ok(()))
    }

    fn as_owner(
        &mut self,
        pick: u32,
        act: impl FnOnce(&World<'_, S>, &mut Model, usize, &Lease) -> (Result<Answer, EngineError>, Answer),
    ) -> Result<Result<(), EngineError>, Disagreement> {
        if self.leases.is_empty() {
            return Ok(Ok(()));
        }
        let (id, lease) = self.leases[pick as usize % self.leases.len()];
        let (real, expected) = act(&self.world, &mut self.model, id, &lease);
        match real {
            Ok(found) => {
                ensure!(found == expected, "it answered {found:?}, expected {expected:?}");
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    /// Leases that follow one another, also old ones and several of one execution.
    fn chosen(&self, pick: u32, count: u32) -> Vec<(usize, Lease)> {
        let held = self.leases.len();
        (0..held.min(count as usize)).map(|index| self.leases[(pick as usize + index) % held]).collect()
    }

    /// Completes leases in one call.
    fn complete_many(&mut self, pick: u32, count: u32) -> Result<Result<(), EngineError>, Disagreement> {
        let chosen = self.chosen(pick, count);
        let ended: Vec<_> = chosen.iter().map(|(_, lease)| (*lease, Bytes::new())).collect();
        let outcomes = self.world.stage.wait(self.world.stage.backend().complete_many(&ended));
        let mut failure = Ok(());
        for ((id, lease), outcome) in chosen.iter().zip(outcomes) {
            let expected = self.model.complete(*id, lease.attempt);
            match answer(outcome.map(|()| None)) {
                Ok(found) => ensure!(found == expected, "{id}: it answered {found:?}, expected {expected:?}"),
                Err(error) => failure = Err(error),
            }
        }
        Ok(failure)
    }

    fn cancel_execution(&mut self, pick: u32) -> Result<Result<(), EngineError>, Disagreement> {
        if self.ids.is_empty() {
            return Ok(Ok(()));
        }
        let id = pick as usize % self.ids.len();
        let real = self.world.stage.wait(self.world.stage.backend().cancel_execution(self.ids[id], "stop"));
        let expected = self.model.cancel_execution(id, "stop");
        let found = match real {
            Ok(CancelOutcome::Cancelled) => ff_core::Outcome::Cancelled,
            Ok(CancelOutcome::AlreadyEnded(outcome)) => outcome,
            Ok(other) => return Err(format!("an outcome that the model does not have: {other:?}")),
            Err(error) => return Ok(Err(error)),
        };
        ensure!(found == expected, "it ended as {found}, expected {expected}");
        Ok(Ok(()))
    }

    fn lose(&mut self, pick: u32) -> Result<Result<(), EngineError>, Disagreement> {
        let open =
            |id: &usize| self.model.executions[*id].ended().is_none() && self.model.executions[*id].flow.is_some();
        let candidates: Vec<_> = (0..self.ids.len()).filter(open).collect();
        if candidates.is_empty() {
            return Ok(Ok(()));
        }
        let id = candidates[pick as usize % candidates.len()];
        self.world.stage.command(&["DEL", &keys::execution_core(self.ids[id])]);
        self.lost = true;
        self.settled_in_parts |= self.model.flow_size(id) > SETTLED_AT_ONCE;
        self.model.lose(id);
        // Any member of the flow may need it, which is more than one call visits.
        Ok(self.world.reconcile().and_then(|_| self.world.resolve()).map(drop))
    }

    fn cancel_flow(&mut self, pick: u32) -> Result<Result<(), EngineError>, Disagreement> {
        if self.flows.is_empty() {
            return Ok(Ok(()));
        }
        let flow = pick as usize % self.flows.len();
        let real = self.world.stage.wait(self.world.stage.backend().cancel_flow(self.flows[flow], "stop"));
        let expected = self.model.cancel_flow(flow, "stop");
        let found = match real {
            Ok(cancelled) => cancelled.cancelled as usize,
            Err(error) => return Ok(Err(error)),
        };
        ensure!(found == expected, "it cancelled {found} members, expected {expected}");
        Ok(Ok(()))
    }
}

fn renewed(outcome: RenewOutcome) -> Result<Answer, EngineError> {
    match outcome {
        RenewOutcome::Renewed => Ok(Answer::Done),
        RenewOutcome::TimedOut => Ok(Answer::TimedOut),
        RenewOutcome::LeaseLost => Ok(Answer::LeaseLost),
        _ => Err(EngineError::transport("renew", "the lease could not be read")),
    }
}

fn released(outcome: ReleaseOutcome) -> Result<Answer, EngineError> {
    match outcome {
        ReleaseOutcome::Released => Ok(Answer::Done),
        ReleaseOutcome::LeaseLost => Ok(Answer::LeaseLost),
        _ => Err(EngineError::transport("release", "the lease could not be read")),
    }
}
