//! One history, step by step, on the library and on the model, and what must agree.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use ff_core::{
    CancelOutcome, ControlBackend, EngineError, ExecutionId, FailOutcome, Failure, FlowId, Lease, PublicState,
    RenewOutcome, Scope, WorkBackend,
};

use super::{
    model::{Answer, Model},
    op::{Member, Op},
    world::{EPOCH, World, answer, now},
};

/// Longer than any time that a history sets.
const LONG: Duration = Duration::from_secs(3_600);
const RETENTION: Duration = Duration::from_secs(24 * 3_600);

/// What does not agree, for people.
type Disagreement = String;

/// The state of a run.
pub(super) struct Run<'a> {
    world: &'a World,
    tag: u64,
    model: Model,
    ids: Vec<ExecutionId>,
    flows: Vec<FlowId>,
    leases: Vec<(usize, Lease)>,
    submissions: usize,
    fault: Option<(u32, bool)>,
    /// Whether a call was interrupted: what it left is put right later, so that some orders are no longer fixed.
    interrupted: bool,
    trimmed: bool,
}

macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}

impl<'a> Run<'a> {
    pub(super) fn new(world: &'a World, tag: u64) -> Self {
        world.wipe();
        let model = Model::at(EPOCH);
        Self {
            world,
            tag,
            model,
            ids: Vec::new(),
            flows: Vec::new(),
            leases: Vec::new(),
            submissions: 0,
            fault: None,
            interrupted: false,
            trimmed: false,
        }
    }

    /// Runs a history to its end, and then until nothing is left.
    pub(super) fn whole(mut self, history: &[Op]) -> Result<(), Disagreement> {
        for (number, op) in history.iter().enumerate() {
            self.step(op).map_err(|what| format!("operation {number} ({op:?}): {what}"))?;
        }
        self.agree().map_err(|what| format!("after the last operation: {what}"))?;
        self.wind_up().map_err(|what| format!("winding up: {what}"))
    }

    fn step(&mut self, op: &Op) -> Result<(), Disagreement> {
        match op {
            Op::Advance { millis } => self.move_clock(self.model.now + millis),
            Op::StepBack { millis } => self.move_clock(self.model.now - millis),
            Op::Trim { keep } => {
                self.world.trim(*keep);
                self.trimmed = true;
            }
            Op::Forget => self.world.forget(),
            Op::Fault { command, stop } => self.fault = Some((*command, *stop)),
            _ => return self.call(op),
        }
        Ok(())
    }

    fn move_clock(&mut self, to: u64) {
        self.model.now = to;
        self.world.clock.set_millis(to);
    }

    /// A call of the library. If it was interrupted, what is left must amount to it, or to nothing.
    fn call(&mut self, op: &Op) -> Result<(), Disagreement> {
        let Some((command, stop)) = self.fault.take() else {
            return self.act(op, false)?.map_err(|error| format!("it was refused: {error}"));
        };
        let before = self.model.clone();
        self.world.inject(command, stop);
        let outcome = self.act(op, true);
        self.world.clear_fault();
        let outcome = outcome?;
        self.interrupted = true;
        self.heal()?;
        let mut possible = vec![std::mem::replace(&mut self.model, before)];
        if *op == Op::Sweep {
            let mut late = self.model.clone();
            late.sweep_deadlines_last();
            possible.push(late);
        }
        if outcome.is_err() {
            possible.extend(self.partly(op));
        }
        let mut complaints = Vec::new();
        for mut candidate in possible {
            candidate.sweep();
            self.model = candidate;
            match self.agree() {
                Ok(()) => return Ok(()),
                Err(what) => complaints.push(what),
            }
        }
        Err(format!(
            "interrupted at command {}, it is neither done nor undone: {}",
            command + 1,
            complaints.join(" / ")
        ))
    }

    /// What an interrupted call may amount to, other than to the whole: nothing, or the first few claims.
    fn partly(&self, op: &Op) -> Vec<Model> {
        let Op::Claim { max, lease } = op else { return vec![self.model.clone()] };
        let claimable = self.model.claimable(*max);
        let first = |count: usize| {
            let mut model = self.model.clone();
            model.claim(&claimable[..count], *lease);
            model
        };
        (0..claimable.len().max(1)).map(first).collect()
    }

    /// What the engine does all the time.
    fn heal(&self) -> Result<(), Disagreement> {
        let refused = |error: EngineError| format!("maintenance was refused: {error}");
        for _ in 0..3 {
            while self.world.sweep(RETENTION).map_err(refused)? {}
            self.world.resolve().map_err(refused)?;
            self.world.reconcile().map_err(refused)?;
        }
        Ok(())
    }

    /// Does it on both sides. The inner error is the library's; the outer one is a disagreement.
    fn act(&mut self, op: &Op, faulty: bool) -> Result<Result<(), EngineError>, Disagreement> {
        match op {
            Op::SubmitFlow(members) => self.submit(members, true),
            Op::SubmitSolo(member) => self.submit(std::slice::from_ref(member), false),
            Op::Claim { max, lease } => self.claim(*max, *lease, faulty),
            Op::Complete { lease } => self.as_owner(*lease, |world, model, id, lease| {
                let real = now(world.backend().complete(lease, Bytes::new())).map(|()| None);
                (real, model.complete(id, lease.attempt))
            }),
            Op::Fail { lease, retryable } => self.as_owner(*lease, |world, model, id, lease| {
                let failure = if *retryable { Failure::retryable("it broke") } else { Failure::permanent("it broke") };
                let real = now(world.backend().fail(lease, &failure)).map(|outcome| match outcome {
                    FailOutcome::Retry { after } => Some(after),
                    FailOutcome::Ended => None,
                });
                (real, model.fail(id, lease.attempt, "it broke", *retryable))
            }),
            Op::Renew { lease, length } => self.as_owner(*lease, |world, model, id, lease| {
                let real = now(world.backend().renew(&[*lease], Duration::from_millis(*length)));
                let real = real.and_then(|outcomes| match outcomes[0] {
                    RenewOutcome::Renewed => Ok(None),
                    RenewOutcome::LeaseLost => Err(EngineError::State {
                        what: lease.execution_id.to_string(),
                        conflict: ff_core::StateConflict::LeaseLost,
                    }),
                });
                (real, model.renew(id, lease.attempt, *length))
            }),
            Op::CancelExecution { execution } => self.cancel_execution(*execution),
            Op::CancelFlow { flow } => self.cancel_flow(*flow),
            Op::Sweep => {
                self.model.sweep();
                Ok(self.world.sweep(RETENTION).map(drop))
            }
            Op::Reconcile => {
                let repaired = self.world.reconcile();
                let clean = self.interrupted || !matches!(repaired, Ok(repaired) if repaired > 0);
                ensure!(clean, "the reconciler found something to repair though no call was interrupted");
                Ok(repaired.map(drop))
            }
            Op::Resolve => Ok(self.world.resolve()),
            Op::Advance { .. } | Op::StepBack { .. } | Op::Trim { .. } | Op::Forget | Op::Fault { .. } => Ok(Ok(())),
        }
    }

    fn submit(&mut self, members: &[Member], is_flow: bool) -> Result<Result<(), EngineError>, Disagreement> {
        let key = format!("{}-{}", self.tag, self.submissions);
        self.submissions += 1;
        let submitted = self.world.submit(&key, members, is_flow);
        // An interrupted submission is repeated, as its caller would do; the model decides if it is there.
        let (flow, ids) = match submitted {
            Ok(submitted) => submitted,
            Err(_) => {
                self.interrupted = true;
                self.heal()?;
                self.model.sweep();
                match self.world.submit(&key, members, is_flow) {
                    Ok(submitted) => submitted,
                    Err(error) => return Ok(Err(error)),
                }
            }
        };
        self.model.submit(members, ids.iter().map(|id| id.uuid().to_string()).collect(), is_flow);
        self.flows.extend(flow);
        self.ids.extend(ids);
        Ok(Ok(()))
    }

    fn claim(&mut self, max: u32, lease: u64, faulty: bool) -> Result<Result<(), EngineError>, Disagreement> {
        // One that cannot be read is passed over, and the next one claimed in its place.
        let mut expected = self.model.claimable(max + u32::from(faulty));
        let claimed = match self.world.claim(max, lease) {
            Ok(claim) => claim.executions,
            Err(error) => {
                expected.truncate(max as usize);
                self.model.claim(&expected, lease);
                return Ok(Err(error));
            }
        };
        let found: Vec<_> = claimed.iter().map(|claimed| claimed.lease.execution_id).collect();
        if faulty {
            // What could not be read was left for the next claim.
            expected.retain(|id| found.contains(&self.ids[*id]));
        }
        let wanted: Vec<_> = expected.iter().map(|id| self.ids[*id]).collect();
        ensure!(found == wanted, "claimed {found:?}, expected {wanted:?}");
        self.model.claim(&expected, lease);
        self.leases.extend(expected.into_iter().zip(claimed.into_iter().map(|claimed| claimed.lease)));
        Ok(Ok(()))
    }

    fn as_owner(
        &mut self,
        pick: u32,
        act: impl FnOnce(&World, &mut Model, usize, &Lease) -> (Result<Option<Duration>, EngineError>, Answer),
    ) -> Result<Result<(), EngineError>, Disagreement> {
        if self.leases.is_empty() {
            return Ok(Ok(()));
        }
        let (id, lease) = self.leases[pick as usize % self.leases.len()];
        let (real, expected) = act(self.world, &mut self.model, id, &lease);
        match answer(real) {
            Ok(found) => {
                ensure!(found == expected, "it answered {found:?}, expected {expected:?}");
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    fn cancel_execution(&mut self, pick: u32) -> Result<Result<(), EngineError>, Disagreement> {
        if self.ids.is_empty() {
            return Ok(Ok(()));
        }
        let id = pick as usize % self.ids.len();
        let real = now(self.world.backend().cancel_execution(self.ids[id], "stop"));
        let expected = self.model.cancel_execution(id, "stop");
        let found = match real {
            Ok(CancelOutcome::Cancelled) => ff_core::Outcome::Cancelled,
            Ok(CancelOutcome::AlreadyEnded(outcome)) => outcome,
            Err(error) => return Ok(Err(error)),
        };
        ensure!(found == expected, "it ended as {found}, expected {expected}");
        Ok(Ok(()))
    }

    fn cancel_flow(&mut self, pick: u32) -> Result<Result<(), EngineError>, Disagreement> {
        if self.flows.is_empty() {
            return Ok(Ok(()));
        }
        let flow = pick as usize % self.flows.len();
        let real = now(self.world.backend().cancel_flow(self.flows[flow], "stop"));
        let expected = self.model.cancel_flow(flow, "stop");
        let found = match real {
            Ok(cancelled) => cancelled.cancelled as usize,
            Err(error) => return Ok(Err(error)),
        };
        ensure!(found == expected, "it cancelled {found} members, expected {expected}");
        Ok(Ok(()))
    }

    /// Whether library and model agree in everything that can be seen.
    fn agree(&self) -> Result<(), Disagreement> {
        for (id, expected) in self.ids.iter().zip(&self.model.executions) {
            let found = self.world.describe(*id).map_err(|error| format!("{id} cannot be described: {error}"))?;
            ensure!(found.state == expected.state, "{id} is {}, expected {}", found.state, expected.state);
            ensure!(
                (found.attempt, found.failures) == (expected.attempt, expected.failures),
                "{id} has {} attempts and {} failures, expected {} and {}",
                found.attempt,
                found.failures,
                expected.attempt,
                expected.failures
            );
            ensure!(
                found.reason.as_deref() == expected.reason.as_deref(),
                "{id} ended because of {:?}, expected {:?}",
                found.reason,
                expected.reason
            );
            ensure!(found.outcome == expected.ended(), "{id}: outcome {:?}", found.outcome);
            if expected.state == PublicState::Active {
                let (found, expected) = (self.world.lease_expires_at(*id), expected.lease_expires_at);
                ensure!(found == Some(expected), "{id}: the lease runs out at {found:?}, expected {expected}");
            }
        }
        self.logs_agree()?;
        self.indexes_agree()
    }

    fn logs_agree(&self) -> Result<(), Disagreement> {
        for scope in [Scope::Flows, Scope::Solo] {
            let log = self.world.log(scope);
            let mut expected: Vec<_> = self
                .model
                .completions
                .iter()
                .map(|id| &self.model.executions[*id])
                .filter(|execution| execution.flow.is_some() == (scope == Scope::Flows))
                .map(|execution| execution.uuid.clone())
                .collect();
            let distinct: BTreeSet<_> = log.iter().collect();
            ensure!(distinct.len() == log.len(), "the log of {scope:?} holds something twice: {log:?}");
            if self.interrupted {
                // In which order interrupted ends are completed is nobody's promise.
                let unexpected = log.iter().find(|uuid| !expected.contains(uuid));
                ensure!(unexpected.is_none(), "the log of {scope:?} holds {unexpected:?}, which has not ended");
                ensure!(self.trimmed || log.len() == expected.len(), "the log of {scope:?} lacks something: {log:?}");
                continue;
            }
            if self.trimmed {
                expected.drain(..expected.len().saturating_sub(log.len()));
            }
            ensure!(log == expected, "the log of {scope:?} is {log:?}, expected {expected:?}");
        }
        Ok(())
    }

    fn indexes_agree(&self) -> Result<(), Disagreement> {
        use PublicState::{Active, Delayed, Waiting};
        let uuids = |wanted: &dyn Fn(&super::model::Execution) -> bool| -> BTreeSet<String> {
            let picked = self.model.executions.iter().filter(|execution| wanted(execution));
            picked.map(|execution| execution.uuid.clone()).collect()
        };
        let expected = [
            ("ready", uuids(&|e| e.state == Waiting)),
            ("delayed", uuids(&|e| e.state == Delayed)),
            ("leases", uuids(&|e| e.state == Active)),
            ("deadlines", uuids(&|e| e.ended().is_none() && e.deadline_at > 0)),
            ("open", uuids(&|e| e.ended().is_none())),
            ("ended", uuids(&|e| e.ended().is_some())),
            ("pending", BTreeSet::new()),
        ];
        let found = self.world.indexes();
        for (name, expected) in expected {
            let found = &found[name];
            let missing: Vec<_> = expected.difference(found).collect();
            ensure!(missing.is_empty(), "the index {name} lacks {missing:?}");
            // What an interrupted call left behind may stay in these until it is due or met.
            if !(self.interrupted && ["ready", "delayed", "leases", "deadlines"].contains(&name)) {
                let extra: Vec<_> = found.difference(&expected).collect();
                ensure!(extra.is_empty(), "the index {name} holds {extra:?} besides");
            }
        }
        Ok(())
    }

    /// Lets all times pass, ends what is open, and lets retention take everything.
    fn wind_up(&mut self) -> Result<(), Disagreement> {
        let refused = |error: EngineError| format!("it was refused: {error}");
        for round in 0..40 {
            self.move_clock(self.model.now + 50 * (1 << round.min(6)));
            self.model.sweep();
            while self.world.sweep(RETENTION).map_err(refused)? {}
        }
        self.agree().map_err(|what| format!("after all times have passed: {what}"))?;
        for flow in 0..self.model.flow_count() {
            self.cancel_flow(u32::try_from(flow).unwrap_or(0))?.map_err(refused)?;
        }
        for id in 0..self.ids.len() {
            self.cancel_execution(u32::try_from(id).unwrap_or(0))?.map_err(refused)?;
        }
        self.agree().map_err(|what| format!("after everything was cancelled: {what}"))?;
        self.move_clock(self.model.now + u64::try_from((RETENTION + LONG).as_millis()).unwrap_or(0));
        while self.world.sweep(RETENTION).map_err(refused)? {}
        let left = self.world.leftovers();
        ensure!(left.is_empty(), "keys are left after retention: {left:?}");
        Ok(())
    }
}
