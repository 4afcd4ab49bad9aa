//! A replica that is disconnected, and takes over later.

use super::*;

/// The state when the replica was disconnected.
pub(super) struct Replica {
    contents: Contents,
    model: Model,
    ids: Vec<ExecutionId>,
    flows: Vec<FlowId>,
    leases: Vec<(usize, Lease)>,
    submissions: Vec<Submission>,
    parts: Parts,
}

impl<S: Stage> Run<'_, S> {
    /// Disconnects the replica.
    pub(super) fn cut_off(&mut self) {
        self.replica = Some(Replica {
            contents: self.world.stage.snapshot(),
            model: self.model.clone(),
            ids: self.ids.clone(),
            flows: self.flows.clone(),
            leases: self.leases.clone(),
            submissions: self.submissions.clone(),
            parts: self.parts.clone(),
        });
    }

    /// A server with the state of the replica and a fresh library takes over. Everything since is rolled back. There
    /// may be several such replicas, so this can happen again.
    pub(super) fn fail_over(&mut self) -> Result<(), Disagreement> {
        self.check_epochs()?;
        let Some(replica) = &self.replica else { return Ok(()) };
        self.world.restore(self.model.now, &replica.contents);
        self.world.stage.forget();
        let now = self.model.now;
        self.model = replica.model.clone();
        self.model.now = now;
        self.model.forget_leaps();
        self.last_claim = None;
        (self.ids, self.flows) = (replica.ids.clone(), replica.flows.clone());
        (self.leases, self.submissions) = (replica.leases.clone(), replica.submissions.clone());
        let parts = replica.parts.clone();
        let cut_at = replica.model.now;
        self.restore_parts(parts);
        let held = self.positions();
        self.tenures.change(held);
        self.keeps.tenures += 1;
        if self.model.now + STEP_BACK < cut_at {
            // By the clock of the new server some leases last too long.
            self.model.leapt(cut_at);
        }
        // Engines may have missed announcements while they reconnected, and sweep at once.
        self.model.sweep();
        self.world.sweep(RETENTION).map(drop).map_err(|error| format!("a sweep was refused: {error}"))
    }
}
