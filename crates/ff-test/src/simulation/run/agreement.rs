//! Compares the state of the library with the model, after each operation and after all times have passed.

use super::*;

impl<S: Stage> Run<'_, S> {
    /// The entries of both logs.
    pub(super) fn positions(&self) -> Vec<(Scope, EntryId)> {
        let of = |scope| self.world.log(scope).into_iter().map(move |entry| (scope, entry.id));
        [Scope::Flows, Scope::Solo].into_iter().flat_map(of).collect()
    }

    pub(super) fn check_epochs(&mut self) -> Result<(), Disagreement> {
        for (scope, entry) in self.positions() {
            if let Some(epoch) = self.tenures.look(scope, [entry]) {
                return Err(format!("two tenures of the log of {scope:?} have the epoch {epoch}"));
            }
        }
        Ok(())
    }

    /// Checks that library and model agree in everything that is stored.
    pub(super) fn agree(&self) -> Result<(), Disagreement> {
        self.executions_agree(|id| self.world.stored(id))?;
        self.flows_agree()?;
        self.logs_agree()?;
        self.indexes_agree()
    }

    pub(super) fn executions_agree(
        &self,
        look: impl Fn(ExecutionId) -> Result<StoredExecution, EngineError>,
    ) -> Result<(), Disagreement> {
        for (id, expected) in self.ids.iter().zip(&self.model.executions) {
            let found = look(*id).map_err(|error| format!("{id} cannot be described: {error}"))?;
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
                found.reason == expected.reason,
                "{id} ended because of {:?}, expected {:?}",
                found.reason,
                expected.reason
            );
            ensure!(found.outcome == expected.ended(), "{id}: outcome {:?}", found.outcome);
            ensure!(
                (found.expiries, found.unseen) == (expected.expiries, expected.unseen),
                "{id} has {} leases that ran out and {} unconfirmed ones, expected {} and {}",
                found.expiries,
                found.unseen,
                expected.expiries,
                expected.unseen
            );
            let needed = expected.has_payload() && expected.ended().is_none();
            ensure!(found.has_payload == needed, "{id}: it has a payload: {}, expected {needed}", found.has_payload);
            if expected.state == PublicState::Active {
                // Whether an expiry counts depends on it. It also distinguishes an interrupted renewal from a whole
                // one.
                let (is, should) = (found.confirmed, expected.seen);
                ensure!(is == should, "{id}: a worker has confirmed the lease: {is}, expected {should}");
                let (found, expected) = (found.lease_expires_at, expected.lease_expires_at);
                ensure!(found == expected, "{id}: the lease runs out at {found}, expected {expected}");
            }
            if expected.state == PublicState::Blocked {
                let (found, expected) = (found.unmet, expected.unmet);
                ensure!(found as usize == expected, "{id} lacks {found} needs, expected {expected}");
            }
        }
        Ok(())
    }

    pub(super) fn flows_agree(&self) -> Result<(), Disagreement> {
        for (index, flow) in self.flows.iter().enumerate() {
            let found = self.world.flow(*flow).map_err(|error| format!("the flow {flow} cannot be read: {error}"))?;
            let expected = self.model.flow_state(index);
            ensure!(found == expected, "the flow {flow} and its open members are {found:?}, expected {expected:?}");
        }
        Ok(())
    }

    pub(super) fn logs_agree(&self) -> Result<(), Disagreement> {
        for scope in [Scope::Flows, Scope::Solo] {
            let log = self.world.log(scope);
            let gap = log.windows(2).find(|pair| !pair[0].leads_to(&pair[1]));
            ensure!(gap.is_none(), "in the log of {scope:?} a reader cannot tell that one follows the other: {gap:?}");
            let begins = self.trimmed || log.first().is_none_or(Entry::begins);
            ensure!(begins, "a reader cannot tell that the log of {scope:?} begins with {:?}", log.first());
            let log: Vec<_> = log.into_iter().map(|entry| entry.uuid).collect();
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
            if self.interrupted || self.settled_in_parts {
                // No order is promised for interrupted ends, nor for skips that several calls plan.
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

    pub(super) fn indexes_agree(&self) -> Result<(), Disagreement> {
        use PublicState::{Active, Delayed, Waiting};
        let uuids = |wanted: &dyn Fn(&super::super::model::Execution) -> bool| -> BTreeSet<String> {
            let picked = self.model.executions.iter().filter(|execution| wanted(execution));
            picked.map(|execution| execution.uuid.clone()).collect()
        };
        let has_ended = |(index, _): &(usize, &FlowId)| self.model.flow_state(*index).0 != FlowState::Running;
        let ended_flows = self.flows.iter().enumerate().filter(has_ended).map(|(_, flow)| flow.to_string()).collect();
        let expected = [
            ("ready", uuids(&|e| e.state == Waiting)),
            ("delayed", uuids(&|e| e.state == Delayed)),
            ("leases", uuids(&|e| e.state == Active)),
            ("deadlines", uuids(&|e| e.ended().is_none() && e.deadline_at > 0)),
            ("open", uuids(&|e| e.ended().is_none())),
            ("ended", uuids(&|e| e.ended().is_some())),
            ("ended flows", ended_flows),
            ("pending", BTreeSet::new()),
        ];
        let (found, in_parts) = (self.world.indexes(), self.parts.uuids());
        for (name, expected) in expected {
            let found = &found[name];
            let missing: Vec<_> = expected.difference(found).collect();
            ensure!(missing.is_empty(), "the index {name} lacks {missing:?}");
            // Entries of an interrupted call may stay in these indexes until they are due or visited.
            let left_behind = self.interrupted && ["ready", "delayed", "leases", "deadlines"].contains(&name);
            if !(left_behind || self.lost && name == "ready") {
                let is_in_parts = |uuid: &String| name == "open" && in_parts.contains(uuid);
                let extra: Vec<_> = found.difference(&expected).filter(|uuid| !is_in_parts(uuid)).collect();
                ensure!(extra.is_empty(), "the index {name} holds {extra:?} besides");
            }
        }
        Ok(())
    }

    /// Lets all times pass, ends all open executions, and lets retention delete everything.
    pub(super) fn finish(&mut self) -> Result<(), Disagreement> {
        let refused = |error: EngineError| format!("it was refused: {error}");
        let mut quiet = 0;
        for round in 0..MAX_ROUNDS {
            quiet = if self.model.waits_for_time() { 0 } else { quiet + 1 };
            if quiet > QUIET_ROUNDS {
                break;
            }
            self.move_clock(self.model.now + 50 * (1 << round.min(6)));
            self.model.sweep();
            self.world.sweep(RETENTION).map_err(refused)?;
        }
        self.agree().map_err(|what| format!("after all times have passed: {what}"))?;
        self.record();
        for flow in 0..self.flows.len() {
            if self.model.flow_state(flow).0 == FlowState::Running {
                self.cancel_flow(u32::try_from(flow).unwrap_or(0))?.map_err(refused)?;
            }
        }
        for id in 0..self.ids.len() {
            if self.model.executions[id].ended().is_none() {
                self.cancel_execution(u32::try_from(id).unwrap_or(0))?.map_err(refused)?;
            }
        }
        self.agree().map_err(|what| format!("after everything was cancelled: {what}"))?;
        self.record();
        self.move_clock(self.model.now + u64::try_from((RETENTION + LONG).as_millis()).unwrap_or(0));
        self.world.sweep(RETENTION).map_err(refused)?;
        let deleted = self.ids.iter().find(|id| self.world.described(**id).is_err());
        ensure!(deleted.is_none(), "retention deleted {deleted:?} by a clock that had just been set");
        for _ in 0..CLOCK_STANDS {
            self.move_clock(self.model.now + STEP);
            self.world.sweep(RETENTION).map_err(refused)?;
        }
        for submission in 0..self.submissions.len() {
            self.resubmit(u32::try_from(submission).unwrap_or(0))?.map_err(refused)?;
        }
        let claimed = self.world.claim(1, 1, ClaimId::generate()).map_err(refused)?.executions;
        ensure!(claimed.is_empty(), "what was submitted again after retention runs again: {claimed:?}");
        self.move_clock(
            self.model.now + STEP + u64::try_from(SweepPolicy::default().idempotency.as_millis()).unwrap_or(0),
        );
        // What submissions in parts have left that never started.
        self.heal()?;
        let mut left = self.world.leftovers();
        left.retain(|key| !(self.lost && key.ends_with(":ready")));
        ensure!(left.is_empty(), "keys are left after retention: {left:?}");
        Ok(())
    }
}
