//! The model: an independent state machine in Rust, written from the documentation and not from the Lua. It has no
//! keys, no indexes and no order of writes; it only knows what must be true after each operation.

use ff_core::{FlowState, Outcome, PublicState};

use super::op::Member;

/// A step back of the clock by this much (ms) is an adjustment.
const STEP_BACK: u64 = 1_000;

/// One execution in the model.
#[derive(Debug, Clone)]
pub(super) struct Execution {
    /// The uuid as text, which breaks ties.
    pub(super) uuid: String,
    pub(super) flow: Option<usize>,
    index: usize,
    dependents: Vec<usize>,
    spec: Member,
    pub(super) state: PublicState,
    pub(super) reason: Option<String>,
    pub(super) unmet: usize,
    pub(super) attempt: u32,
    pub(super) failures: u32,
    pub(super) expiries: u32,
    /// Leases that expired unconfirmed.
    pub(super) unseen: u32,
    /// Whether a worker has confirmed the lease of this attempt.
    pub(super) seen: bool,
    failed_attempt: u32,
    backoff_now: u64,
    ready_at: u64,
    eligible_at: u64,
    pub(super) deadline_at: u64,
    pub(super) lease_expires_at: u64,
    lease: u64,
    started_at: u64,
    timeout_at: u64,
}

impl Execution {
    pub(super) fn ended(&self) -> Option<Outcome> {
        self.state.outcome()
    }

    /// Whether it was submitted with a payload.
    pub(super) fn has_payload(&self) -> bool {
        self.index % 2 == 1
    }

    /// Whether the attempt has used up its time, without the leaps of the clock since it started.
    fn is_timed_out(&self, now: u64, leaps: &[(u64, u64)]) -> bool {
        let extended = leaps.iter().fold(self.timeout_at, |ends_at, (from, to)| {
            let counts = self.started_at <= from + STEP_BACK && self.started_at < *to && ends_at > *from;
            if counts { ends_at + to - from } else { ends_at }
        });
        self.timeout_at > 0 && extended <= now
    }

    /// The time of the attempt begins now.
    fn begin_attempt(&mut self, now: u64) {
        self.started_at = now;
        self.timeout_at = if self.spec.timeout > 0 { now + self.spec.timeout } else { 0 };
    }
}

#[derive(Debug, Clone)]
struct Flow {
    members: Vec<usize>,
    cancelled: bool,
}

/// The reply to the holder of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    Retry(u64),
    LeaseLost,
    /// The lease is held and not extended.
    TimedOut,
    AlreadyEnded,
}

/// The whole state.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) now: u64,
    pub(super) executions: Vec<Execution>,
    flows: Vec<Flow>,
    /// The leaps of the clock that the server process has seen: from when, to when.
    leaps: Vec<(u64, u64)>,
    /// Executions in the order of their completions.
    pub(super) completions: Vec<usize>,
}

impl Model {
    pub(super) fn at(now: u64) -> Self {
        Self { now, ..Self::default() }
    }

    /// `queued_at` is the queue time of each member, if not now.
    pub(super) fn submit(&mut self, members: &[Member], uuids: Vec<String>, is_flow: bool, queued_at: Option<&[u64]>) {
        let first = self.executions.len();
        let flow = is_flow.then_some(self.flows.len());
        for (index, (spec, uuid)) in members.iter().zip(uuids).enumerate() {
            let needs = needs_of(spec, index);
            for need in &needs {
                self.executions[first + need].dependents.push(first + index);
            }
            let state = match (needs.len(), spec.delay) {
                (0, 0) => PublicState::Waiting,
                (0, _) => PublicState::Delayed,
                _ => PublicState::Blocked,
            };
            let after = |millis: u64| if millis > 0 { self.now + millis } else { 0 };
            self.executions.push(Execution {
                uuid,
                flow,
                index,
                dependents: Vec::new(),
                spec: spec.clone(),
                state,
                reason: None,
                unmet: needs.len(),
                attempt: 0,
                failures: 0,
                expiries: 0,
                unseen: 0,
                seen: false,
                failed_attempt: 0,
                backoff_now: 0,
                ready_at: queued_at.map_or(self.now, |queued_at| queued_at[index]),
                eligible_at: after(spec.delay),
                deadline_at: after(spec.deadline),
                lease_expires_at: 0,
                lease: 0,
                started_at: 0,
                timeout_at: 0,
            });
        }
        if is_flow {
            self.flows.push(Flow { members: (first..self.executions.len()).collect(), cancelled: false });
        }
    }

    /// The executions that a claim would get, in order.
    pub(super) fn claimable(&self, max: u32) -> Vec<usize> {
        let mut ready: Vec<_> = self.in_state(PublicState::Waiting);
        ready.retain(|id| self.executions[*id].flow.is_none_or(|flow| !self.flows[flow].cancelled));
        ready.sort_by_key(|id| {
            let e = &self.executions[*id];
            (u16::MAX - e.spec.priority, e.ready_at, e.index, e.uuid.clone())
        });
        ready.truncate(max as usize);
        ready
    }

    pub(super) fn claim(&mut self, claimed: &[usize], lease: u64) {
        let now = self.now;
        for id in claimed {
            let e = &mut self.executions[*id];
            e.state = PublicState::Active;
            e.attempt += 1;
            e.seen = false;
            e.lease_expires_at = now + lease;
            e.lease = lease;
            e.begin_attempt(now);
        }
    }

    /// The executions that a repeated claim still gets. `taken` has those of the first call, each with its attempt.
    pub(super) fn still_claimed(&self, taken: &[(usize, u32)]) -> Vec<usize> {
        let is_left = |(id, attempt): &&(usize, u32)| {
            let e = &self.executions[*id];
            let is_open = e.flow.is_none_or(|flow| !self.flows[flow].cancelled);
            self.holds(*id, *attempt) || (e.state == PublicState::Waiting && e.attempt + 1 == *attempt && is_open)
        };
        taken.iter().filter(is_left).map(|(id, _)| *id).collect()
    }

    /// Repeats a claim: extends the leases that it holds, and takes the other executions. An attempt begins again
    /// unless its lease was confirmed.
    pub(super) fn claim_again(&mut self, taken: &[usize], lease: u64) {
        let now = self.now;
        for id in taken {
            let e = &mut self.executions[*id];
            if e.state == PublicState::Active {
                e.lease_expires_at = e.lease_expires_at.max(now + lease);
                if !e.seen {
                    e.begin_attempt(now);
                }
            } else {
                self.claim(&[*id], lease);
            }
        }
    }

    pub(super) fn complete(&mut self, id: usize, attempt: u32) -> Answer {
        self.as_owner(id, attempt, PublicState::Success, |model| {
            model.end(id, PublicState::Success, None);
            Answer::Done
        })
    }

    pub(super) fn fail(&mut self, id: usize, attempt: u32, reason: &str, retryable: bool) -> Answer {
        self.as_owner(id, attempt, PublicState::Failed, |model| {
            let answer = model.attempt_failed(id, reason, retryable);
            if matches!(answer, Answer::Retry(_)) {
                (model.executions[id].expiries, model.executions[id].unseen) = (0, 0);
            }
            answer
        })
    }

    pub(super) fn renew(&mut self, id: usize, attempt: u32, length: u64) -> Answer {
        if !self.holds(id, attempt) {
            return Answer::LeaseLost;
        }
        let now = self.now;
        let e = &mut self.executions[id];
        e.seen = true;
        if e.is_timed_out(now, &self.leaps) {
            return Answer::TimedOut;
        }
        e.lease_expires_at = now + length;
        e.lease = length;
        Answer::Done
    }

    pub(super) fn give_back(&mut self, id: usize, attempt: u32) -> Answer {
        if self.holds(id, attempt) {
            self.become_waiting(id);
            return Answer::Done;
        }
        let e = &self.executions[id];
        let is_back = e.state == PublicState::Waiting && e.attempt == attempt;
        if is_back { Answer::Done } else { Answer::LeaseLost }
    }

    pub(super) fn cancel_execution(&mut self, id: usize, reason: &str) -> Outcome {
        if let Some(outcome) = self.executions[id].ended() {
            return outcome;
        }
        self.end(id, PublicState::Cancelled, Some(reason));
        Outcome::Cancelled
    }

    /// The record of a member is lost; only its flow is known.
    pub(super) fn lose(&mut self, id: usize) {
        let e = &mut self.executions[id];
        (e.attempt, e.failures, e.failed_attempt, e.expiries, e.unseen) = (0, 0, 0, 0, 0);
        self.end(id, PublicState::Failed, Some("record_lost"));
    }

    /// How many members the flow of this execution has; 0 for a solo execution.
    pub(super) fn flow_size(&self, id: usize) -> usize {
        self.executions[id].flow.map_or(0, |flow| self.flows[flow].members.len())
    }

    /// Returns how many members this ended.
    pub(super) fn cancel_flow(&mut self, flow: usize, reason: &str) -> usize {
        let members = self.flows[flow].members.clone();
        if members.iter().all(|id| self.executions[*id].ended().is_some()) {
            return 0;
        }
        self.flows[flow].cancelled = true;
        let open: Vec<_> = members.into_iter().filter(|id| self.executions[*id].ended().is_none()).collect();
        for id in &open {
            self.end(*id, PublicState::Cancelled, Some(reason));
        }
        open.len()
    }

    /// The clock was set, from `before`: a lease that expired within the leap keeps its remaining time after it, and
    /// none lasts longer than it was given for.
    pub(super) fn leapt(&mut self, before: u64) {
        let now = self.now;
        if now > before {
            self.leaps.push((before, now));
        } else {
            self.leaps.retain(|(from, _)| *from < now);
            self.leaps.iter_mut().for_each(|(_, to)| *to = now.min(*to));
        }
        for e in self.executions.iter_mut().filter(|e| e.state == PublicState::Active) {
            if e.lease_expires_at > before && e.lease_expires_at <= now {
                e.lease_expires_at = now + (e.lease_expires_at - before);
            } else if now < before && e.lease_expires_at > now + e.lease {
                e.lease_expires_at = now + e.lease;
            }
        }
    }

    /// Another server process knows of no leap.
    pub(super) fn forget_leaps(&mut self) {
        self.leaps.clear();
    }

    pub(super) fn sweep(&mut self) {
        self.sweep_without(|_| false);
    }

    /// A sweep that could not read some of the overdue executions; the next one reads them.
    pub(super) fn sweep_without(&mut self, is_unread: impl Fn(usize) -> bool) {
        let (overdue, delayed) = (self.overdue(), self.delayed());
        self.expire(|id| !is_unread(id));
        self.reclaim(&overdue);
        self.release(&delayed);
        self.expire(|_| true);
    }

    /// The results of a sweep with a failed read of the deadlines: of one execution that is beyond its deadline, or of
    /// all.
    pub(super) fn sweeps_with_unread(&self) -> Vec<Self> {
        let overdue = (0..self.executions.len()).filter(|id| self.is_overdue(*id));
        let without = |is_unread: &dyn Fn(usize) -> bool| {
            let mut swept = self.clone();
            swept.sweep_without(is_unread);
            swept
        };
        overdue.map(|unread| without(&|id| id == unread)).chain([without(&|_| true)]).collect()
    }

    /// Whether a lease, a delay or a deadline is still running.
    pub(super) fn waits_for_time(&self) -> bool {
        use PublicState::{Active, Delayed};
        let waits = |e: &Execution| matches!(e.state, Active | Delayed) || (e.ended().is_none() && e.deadline_at > 0);
        self.executions.iter().any(waits)
    }

    /// When the next lease, delay or deadline ends.
    pub(super) fn next_timer(&self) -> Option<u64> {
        let of = |e: &Execution| {
            let state = match e.state {
                PublicState::Active => Some(e.lease_expires_at),
                PublicState::Delayed => Some(e.eligible_at),
                _ => None,
            };
            let deadline = (e.ended().is_none() && e.deadline_at > 0).then_some(e.deadline_at);
            state.into_iter().chain(deadline).min()
        };
        self.executions.iter().filter_map(of).min()
    }

    /// Whether an execution is beyond its deadline and has not ended.
    pub(super) fn is_overdue(&self, id: usize) -> bool {
        let execution = self.executions.get(id);
        execution.is_some_and(|e| e.ended().is_none() && e.deadline_at > 0 && e.deadline_at <= self.now)
    }

    /// If an execution may have been skipped or have expired, takes the observed state.
    pub(super) fn settle_overdue(&mut self, id: usize, found: PublicState) {
        let e = &mut self.executions[id];
        let reason = |state| match state {
            PublicState::Expired => Some("deadline_exceeded"),
            PublicState::Skipped => Some("dependency_failed"),
            _ => None,
        };
        if let (Some(_), Some(reason)) = (reason(e.state), reason(found)) {
            (e.state, e.reason) = (found, Some(reason.to_owned()));
        }
    }

    fn due(&self, at: impl Fn(&Execution) -> Option<u64>) -> Vec<usize> {
        let mut due: Vec<_> = (0..self.executions.len())
            .filter_map(|id| Some((at(&self.executions[id])?, self.executions[id].uuid.clone(), id)))
            .filter(|(at, ..)| *at <= self.now)
            .collect();
        due.sort();
        due.into_iter().map(|(.., id)| id).collect()
    }

    fn overdue(&self) -> Vec<usize> {
        self.due(|e| (e.state == PublicState::Active).then_some(e.lease_expires_at))
    }

    fn delayed(&self) -> Vec<usize> {
        self.due(|e| (e.state == PublicState::Delayed).then_some(e.eligible_at))
    }

    fn expire(&mut self, is_read: impl Fn(usize) -> bool) {
        for id in self.due(|e| (e.ended().is_none() && e.deadline_at > 0).then_some(e.deadline_at)) {
            if is_read(id) && self.executions[id].ended().is_none() {
                self.end(id, PublicState::Expired, Some("deadline_exceeded"));
            }
        }
    }

    fn reclaim(&mut self, overdue: &[usize]) {
        for id in overdue {
            if self.executions[*id].state == PublicState::Active {
                self.lease_expired(*id);
            }
        }
    }

    fn release(&mut self, delayed: &[usize]) {
        for id in delayed {
            if self.executions[*id].state == PublicState::Delayed {
                self.become_waiting(*id);
            }
        }
    }

    /// The state of a flow, and how many of its members have not ended.
    pub(super) fn flow_state(&self, flow: usize) -> (FlowState, usize) {
        let flow = &self.flows[flow];
        let members = || flow.members.iter().map(|id| &self.executions[*id]);
        let open = members().filter(|member| member.ended().is_none()).count();
        let state = if open > 0 {
            FlowState::Running
        } else if flow.cancelled || members().any(|member| member.state == PublicState::Cancelled) {
            FlowState::Cancelled
        } else if members().any(|member| matches!(member.state, PublicState::Failed | PublicState::Expired)) {
            FlowState::Failed
        } else {
            FlowState::Success
        };
        (state, open)
    }

    pub(super) fn in_state(&self, state: PublicState) -> Vec<usize> {
        (0..self.executions.len()).filter(|id| self.executions[*id].state == state).collect()
    }

    fn holds(&self, id: usize, attempt: u32) -> bool {
        self.executions[id].state == PublicState::Active && self.executions[id].attempt == attempt
    }

    /// Runs `act` if the lease is held. Otherwise gives the reply that the same call got before, or refuses.
    fn as_owner(
        &mut self,
        id: usize,
        attempt: u32,
        wanted: PublicState,
        act: impl FnOnce(&mut Self) -> Answer,
    ) -> Answer {
        if self.holds(id, attempt) {
            return act(self);
        }
        let e = &self.executions[id];
        match e.ended() {
            Some(_) if e.state == wanted && e.attempt == attempt => Answer::Done,
            Some(_) => Answer::AlreadyEnded,
            None if wanted == PublicState::Failed && e.failed_attempt == attempt && e.attempt == attempt => {
                Answer::Retry(e.backoff_now)
            }
            None => Answer::LeaseLost,
        }
    }

    fn attempt_failed(&mut self, id: usize, reason: &str, retryable: bool) -> Answer {
        let now = self.now;
        let e = &mut self.executions[id];
        e.failures += 1;
        e.failed_attempt = e.attempt;
        if !retryable || e.failures >= e.spec.attempts {
            let reason = if retryable { "attempts_exhausted" } else { reason };
            self.end(id, PublicState::Failed, Some(reason));
            return Answer::Done;
        }
        let backoff = (e.spec.backoff << (e.failures - 1)).min(4 * e.spec.backoff);
        let backoff = with_jitter(&e.uuid, e.failures, backoff);
        e.backoff_now = backoff;
        if backoff > 0 {
            e.state = PublicState::Delayed;
            e.eligible_at = now + backoff;
        } else {
            self.become_waiting(id);
        }
        Answer::Retry(backoff)
    }

    fn lease_expired(&mut self, id: usize) {
        let now = self.now;
        let e = &mut self.executions[id];
        if !e.seen {
            e.unseen += 1;
            self.become_waiting(id);
            return;
        }
        if e.is_timed_out(now, &self.leaps) {
            self.attempt_failed(id, "timeout", true);
            return;
        }
        e.expiries += 1;
        if e.expiries >= e.spec.expiries {
            self.end(id, PublicState::Failed, Some("lease_expired"));
        } else {
            self.become_waiting(id);
        }
    }

    fn become_waiting(&mut self, id: usize) {
        self.executions[id].state = PublicState::Waiting;
        self.executions[id].ready_at = self.now;
    }

    fn end(&mut self, id: usize, state: PublicState, reason: Option<&str>) {
        self.executions[id].state = state;
        self.executions[id].reason = reason.map(str::to_owned);
        self.completions.push(id);
        if self.executions[id].flow.is_some_and(|flow| self.flows[flow].cancelled) {
            return;
        }
        for dependent in self.executions[id].dependents.clone() {
            self.need_ended(dependent, state == PublicState::Success);
        }
    }

    fn need_ended(&mut self, id: usize, with_success: bool) {
        if self.executions[id].state != PublicState::Blocked {
            return;
        }
        if !with_success {
            self.end(id, PublicState::Skipped, Some("dependency_failed"));
            return;
        }
        self.executions[id].unmet -= 1;
        if self.executions[id].unmet == 0 {
            if self.executions[id].eligible_at > self.now {
                self.executions[id].state = PublicState::Delayed;
            } else {
                self.become_waiting(id);
            }
        }
    }
}

/// Shortens a backoff by up to a fifth, depending on the uuid and the number of failures.
fn with_jitter(uuid: &str, failures: u32, backoff: u64) -> u64 {
    let last = u64::from_str_radix(&uuid[uuid.len() - 6..], 16).expect("a uuid ends in hexadecimal digits");
    let drawn = (last + u64::from(failures) * 7_919) * 48_271 % 1_000;
    backoff - backoff * drawn / 5_000
}

/// The members that a member needs: its numbers modulo its own index, ascending, each once.
pub(super) fn needs_of(member: &Member, index: usize) -> Vec<usize> {
    if index == 0 {
        return Vec::new();
    }
    let mut needs: Vec<_> = member.needs.iter().map(|need| *need as usize % index).collect();
    needs.sort_unstable();
    needs.dedup();
    needs
}
