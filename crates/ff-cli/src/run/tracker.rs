//! Tracks a run: each execution's state and times, and whether each completion arrived once and in order. Pure: times
//! are arguments, and nothing is printed.

use std::{collections::HashMap, time::Duration};

use ff_core::{CompletionPayload, ExecutionId, FlowSnapshot, FlowTopology, Outcome, SubmittedFlow};

use crate::{cause, failure::one_line, work::Exit};

/// The reason of a member whose record was lost: it ends without waiting for its needs.
const RECORD_LOST: &str = "record_lost";

/// How an attempt in this process ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct AttemptEnd {
    /// Why it failed, if it did.
    pub(crate) failure: Option<String>,
    pub(crate) exit: Option<Exit>,
    /// The last lines that it printed, safe for a terminal.
    pub(crate) last_lines: Vec<String>,
}

/// One execution of the run. Times count from the start of the run.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// The name, safe to print.
    pub(crate) name: String,
    pub(crate) state: MemberState,
    /// The number of attempts that started in this process.
    pub(crate) attempts: u32,
    /// When its first attempt started.
    pub(crate) started: Option<Duration>,
    /// When its last attempt ended.
    pub(crate) stopped: Option<Duration>,
    pub(crate) reason: Option<String>,
    /// The end of its last attempt in this process.
    pub(crate) last: Option<AttemptEnd>,
    /// How often its completion has arrived.
    pub(crate) completions: u32,
    /// How many failed attempts end it; 0 if unknown.
    max_attempts: u32,
    /// Whether it had ended before the run was resumed.
    known_before: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemberState {
    /// Waits for its needs, for a worker, or for its next attempt.
    Waiting,
    /// An attempt runs.
    Running,
    /// Its completion has arrived.
    Ended(Outcome),
}

impl MemberState {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Ended(outcome) => outcome.as_str(),
        }
    }
}

impl Member {
    fn new(name: &str) -> Self {
        Self {
            name: one_line(name),
            state: MemberState::Waiting,
            attempts: 0,
            started: None,
            stopped: None,
            reason: None,
            last: None,
            completions: 0,
            max_attempts: 0,
            known_before: false,
        }
    }

    /// Why it did not succeed, from the error of its last attempt and the reason of its end.
    fn explain(&self, said: Option<&str>, end: Option<&str>, attempts: u32) -> Option<String> {
        Some(cause::in_words(end?, said, self.max_attempts, attempts))
    }

    /// The time from the start of the first attempt to the end of the last one, or to `now` while it runs.
    pub(crate) fn took(&self, now: Duration) -> Duration {
        match (self.started, self.stopped) {
            (Some(started), Some(stopped)) => stopped.saturating_sub(started),
            (Some(started), None) => now.saturating_sub(started),
            (None, _) => Duration::ZERO,
        }
    }
}

/// The kind of an arriving completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The first of this member.
    First(usize),
    /// A repeated one of this member, which is an error.
    Repeated(usize),
    /// One of a member that had ended before the run was resumed.
    Known,
    /// One that the run's filter should have rejected.
    Stranger,
}

/// The violations of the guarantees. All empty if there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Audit {
    /// Names whose completion has not arrived.
    pub(crate) missing: Vec<String>,
    /// Names whose completion has arrived more than once.
    pub(crate) repeated: Vec<String>,
    /// Names whose completion arrived before that of one of their needs.
    pub(crate) before_needs: Vec<String>,
    /// Completions that belong to other flows.
    pub(crate) strangers: u32,
}

impl Audit {
    pub(crate) fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// All executions of a run.
#[derive(Debug)]
pub(crate) struct Tracker {
    pub(crate) members: Vec<Member>,
    pub(crate) topology: FlowTopology,
    index: HashMap<ExecutionId, usize>,
    arrived: usize,
    before_needs: Vec<usize>,
    strangers: u32,
}

impl Tracker {
    /// The tracker of a new flow, with the `max_attempts` of each member.
    pub(crate) fn new(flow: &SubmittedFlow, topology: FlowTopology, max_attempts: &[u32]) -> Self {
        let mut members: Vec<_> = flow.executions.iter().map(|member| Member::new(&member.name)).collect();
        for (member, max_attempts) in members.iter_mut().zip(max_attempts) {
            member.max_attempts = *max_attempts;
        }
        Self::of(members, flow.ids(), topology)
    }

    /// The tracker of a resumed flow. Its dependencies are not known.
    pub(crate) fn resumed(flow: &FlowSnapshot) -> Self {
        let member = |snapshot: &ff_core::MemberSnapshot| {
            let mut member = Member::new(&snapshot.name);
            if let Some(outcome) = snapshot.state.outcome() {
                (member.state, member.completions, member.known_before) = (MemberState::Ended(outcome), 1, true);
            }
            member
        };
        let none = || vec![Vec::new(); flow.members.len()];
        let topology = FlowTopology { needs: none(), dependents: none() };
        let ids = flow.members.iter().map(|member| member.execution_id);
        Self::of(flow.members.iter().map(member).collect(), ids, topology)
    }

    fn of(members: Vec<Member>, ids: impl Iterator<Item = ExecutionId>, topology: FlowTopology) -> Self {
        let arrived = members.iter().filter(|member| member.completions > 0).count();
        let index = ids.enumerate().map(|(index, id)| (id, index)).collect();
        Self { members, topology, index, arrived, before_needs: Vec::new(), strangers: 0 }
    }

    /// How many executions have ended, by their completions.
    pub(crate) const fn arrived(&self) -> usize {
        self.arrived
    }

    pub(crate) fn all_arrived(&self) -> bool {
        self.arrived == self.members.len()
    }

    /// Records the start of an attempt. Returns the index of its member.
    pub(crate) fn attempt_began(&mut self, id: ExecutionId, now: Duration) -> Option<usize> {
        let index = *self.index.get(&id)?;
        let member = &mut self.members[index];
        member.attempts += 1;
        member.started.get_or_insert(now);
        member.stopped = None;
        if member.state == MemberState::Waiting {
            member.state = MemberState::Running;
        }
        Some(index)
    }

    /// The member with this id.
    pub(crate) fn member(&self, id: ExecutionId) -> Option<&Member> {
        self.index.get(&id).map(|index| &self.members[*index])
    }

    /// Records the end of an attempt. Returns the index of its member.
    pub(crate) fn attempt_ended(&mut self, id: ExecutionId, end: AttemptEnd, now: Duration) -> Option<usize> {
        let index = *self.index.get(&id)?;
        let member = &mut self.members[index];
        member.stopped = Some(now);
        if member.state == MemberState::Running && end.failure.is_some() {
            member.state = MemberState::Waiting;
        }
        member.last = Some(end);
        Some(index)
    }

    /// Records a completion.
    pub(crate) fn completion(&mut self, completion: &CompletionPayload, now: Duration) -> Arrival {
        let Some(index) = self.index.get(&completion.execution_id).copied() else {
            self.strangers += 1;
            return Arrival::Stranger;
        };
        let in_order =
            completion.reason.as_deref() == Some(RECORD_LOST) || self.needs_have_arrived(index, completion.outcome);
        let failed_needs = self.failed_needs(index);
        let member = &mut self.members[index];
        if std::mem::take(&mut member.known_before) {
            return Arrival::Known;
        }
        member.completions += 1;
        if member.completions > 1 {
            return Arrival::Repeated(index);
        }
        member.state = MemberState::Ended(completion.outcome);
        let said = member.last.as_ref().and_then(|last| last.failure.as_deref());
        member.reason = match (completion.outcome, failed_needs) {
            (Outcome::Skipped, Some(needs)) => Some(needs),
            _ => member.explain(said, completion.reason.as_deref(), completion.attempt),
        };
        if member.started.is_some() {
            member.stopped.get_or_insert(now);
        }
        self.arrived += 1;
        if !in_order {
            self.before_needs.push(index);
        }
        Arrival::First(index)
    }

    /// Whether the completions of all needs have arrived. A cancelled or expired execution need not wait for them.
    fn needs_have_arrived(&self, index: usize, outcome: Outcome) -> bool {
        let mut needs = self.topology.needs[index].iter().map(|need| self.members[*need].state);
        match outcome {
            Outcome::Success | Outcome::Failed => needs.all(|state| state == MemberState::Ended(Outcome::Success)),
            // Of a flow that another run has left, the needs are not known.
            Outcome::Skipped => {
                self.topology.needs[index].is_empty()
                    || needs.any(|state| matches!(state, MemberState::Ended(ended) if ended != Outcome::Success))
            }
            _ => true,
        }
    }

    /// The first need that did not succeed.
    fn failed_needs(&self, index: usize) -> Option<String> {
        let needs = self.topology.needs[index].iter().map(|need| &self.members[*need]);
        let failed = needs.filter_map(|member| match member.state {
            MemberState::Ended(Outcome::Success) => None,
            MemberState::Ended(outcome) => Some(format!("`{}`, which it needs, ended as {outcome}", member.name)),
            _ => None,
        });
        failed.reduce(|first, _| first)
    }

    /// The members that ended as failed.
    pub(crate) fn failed(&self) -> impl Iterator<Item = ExecutionId> {
        let failed = |index: &usize| self.members[*index].state == MemberState::Ended(Outcome::Failed);
        self.index.iter().filter(move |(_, index)| failed(index)).map(|(id, _)| *id)
    }

    /// Adds the recorded error of a member's last attempt.
    pub(crate) fn recorded_error(&mut self, id: ExecutionId, reason: Option<&str>, last_error: &str, attempts: u32) {
        let Some(index) = self.index.get(&id) else { return };
        let member = &mut self.members[*index];
        if let Some(explained) = member.explain(Some(last_error), reason, attempts) {
            member.reason = Some(explained);
        }
    }

    pub(crate) fn audit(&self) -> Audit {
        let names = |wanted: &dyn Fn(&Member) -> bool| {
            self.members.iter().filter(|member| wanted(member)).map(|member| member.name.clone()).collect()
        };
        Audit {
            missing: names(&|member| member.completions == 0),
            repeated: names(&|member| member.completions > 1),
            before_needs: self.before_needs.iter().map(|index| self.members[*index].name.clone()).collect(),
            strangers: self.strangers,
        }
    }
}

#[cfg(test)]
mod tests {
    use ff_core::{ExecutionSpec, FlowId, FlowSubmission, Namespace, PartitionCount, SubmittedMember};

    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn tracker() -> Tracker {
        let flow = FlowSubmission::new(Namespace::default_namespace())
            .execution(ExecutionSpec::new("a"))
            .execution(ExecutionSpec::new("b").needs(["a"]));
        let id = FlowId::generate();
        let member =
            |name: &str| SubmittedMember::new(name.into(), ExecutionId::member(id, name, PartitionCount::DEFAULT));
        let submitted = SubmittedFlow::new(id, vec![member("a"), member("b")], false);
        Tracker::new(&submitted, flow.topology().unwrap(), &[1, 3])
    }

    fn id_of(tracker: &Tracker, index: usize) -> ExecutionId {
        *tracker.index.iter().find(|(_, at)| **at == index).unwrap().0
    }

    fn ended(tracker: &mut Tracker, index: usize, outcome: Outcome) -> Arrival {
        let id = id_of(tracker, index);
        tracker.completion(&CompletionPayload::new(id, None, outcome), NOW)
    }

    #[test]
    fn a_run_whose_completions_arrive_once_and_in_order_is_clean() {
        let mut tracker = tracker();
        assert_eq!(ended(&mut tracker, 0, Outcome::Success), Arrival::First(0));
        assert_eq!(tracker.audit().missing, ["b"]);
        assert_eq!(ended(&mut tracker, 1, Outcome::Success), Arrival::First(1));
        assert!(tracker.all_arrived() && tracker.audit().is_clean());
    }

    #[test]
    fn repeated_and_unexpected_completions_are_found() {
        let mut tracker = tracker();
        ended(&mut tracker, 0, Outcome::Success);
        assert_eq!(ended(&mut tracker, 0, Outcome::Success), Arrival::Repeated(0));
        let stranger =
            CompletionPayload::new(ExecutionId::generate_solo(PartitionCount::DEFAULT), None, Outcome::Success);
        assert_eq!(tracker.completion(&stranger, NOW), Arrival::Stranger);
        let audit = tracker.audit();
        assert_eq!((audit.repeated, audit.strangers, audit.missing), (vec!["a".into()], 1, vec!["b".into()]));
    }

    #[test]
    fn a_completion_before_its_needs_is_found() {
        let mut tracker = tracker();
        ended(&mut tracker, 1, Outcome::Success);
        ended(&mut tracker, 0, Outcome::Success);
        assert_eq!(tracker.audit().before_needs, ["b"]);
    }

    #[test]
    fn a_skip_must_follow_the_failure_and_a_cancellation_has_no_order() {
        let mut in_order = tracker();
        ended(&mut in_order, 0, Outcome::Failed);
        ended(&mut in_order, 1, Outcome::Skipped);
        assert!(in_order.audit().is_clean());
        let mut too_early = tracker();
        ended(&mut too_early, 1, Outcome::Skipped);
        assert_eq!(too_early.audit().before_needs, ["b"]);
        let mut cancelled = tracker();
        ended(&mut cancelled, 1, Outcome::Cancelled);
        ended(&mut cancelled, 0, Outcome::Cancelled);
        assert!(cancelled.audit().is_clean());
    }

    fn failed(reason: &str) -> AttemptEnd {
        AttemptEnd { failure: Some(reason.to_owned()), ..AttemptEnd::default() }
    }

    /// The reason of the member at `index` whose attempts all failed with `said`.
    fn reason(index: usize, said: &str, end: &str, attempts: u32) -> String {
        let mut tracker = tracker();
        let id = id_of(&tracker, index);
        tracker.attempt_began(id, NOW);
        tracker.attempt_ended(id, failed(said), NOW);
        let mut completion = CompletionPayload::new(id, None, Outcome::Failed);
        (completion.reason, completion.attempt) = (Some(end.into()), attempts);
        tracker.completion(&completion, NOW);
        tracker.members[index].reason.clone().unwrap()
    }

    #[test]
    fn the_reason_has_the_cause_and_counts_attempts_only_if_there_could_be_more() {
        assert_eq!(reason(0, "exit status 1", "attempts_exhausted", 1), "exit status 1");
        assert_eq!(reason(1, "exit status 1", "attempts_exhausted", 3), "exit status 1 (after 3 attempts)");
        assert_eq!(reason(0, "no such shell", "no such shell", 1), "no such shell");
        assert_eq!(reason(0, "exit status 1", "lease_expired", 1), "its worker was lost too often (exit status 1)");
    }

    #[test]
    fn worker_and_server_describe_a_cause_in_the_same_words() {
        let mut tracker = tracker();
        let id = id_of(&tracker, 0);
        ended(&mut tracker, 0, Outcome::Failed);
        tracker.recorded_error(id, Some("attempts_exhausted"), "timeout", 1);
        assert_eq!(tracker.members[0].reason.as_deref(), Some("the attempt took longer than its timeout"));
    }

    #[test]
    fn a_skipped_execution_names_the_need_that_did_not_succeed() {
        let mut tracker = tracker();
        ended(&mut tracker, 0, Outcome::Failed);
        ended(&mut tracker, 1, Outcome::Skipped);
        assert_eq!(tracker.members[1].reason.as_deref(), Some("`a`, which it needs, ended as failed"));
    }

    #[test]
    fn executions_that_ended_before_a_run_resumed_count_and_may_arrive_once_more() {
        let mut flow =
            FlowSnapshot::new(FlowId::generate(), Namespace::default_namespace(), ff_core::FlowState::Running);
        let member = |name: &str, state| {
            ff_core::MemberSnapshot::new(
                name.to_owned(),
                ExecutionId::member(flow.flow_id, name, PartitionCount::DEFAULT),
                state,
            )
        };
        flow.members = vec![member("a", ff_core::PublicState::Success), member("b", ff_core::PublicState::Waiting)];
        let mut tracker = Tracker::resumed(&flow);
        assert_eq!(tracker.arrived(), 1);
        assert_eq!(ended(&mut tracker, 0, Outcome::Success), Arrival::Known);
        assert_eq!(ended(&mut tracker, 0, Outcome::Success), Arrival::Repeated(0));
        assert_eq!(ended(&mut tracker, 1, Outcome::Success), Arrival::First(1));
        assert!(tracker.all_arrived() && tracker.audit().repeated == ["a"]);
        let mut tracker = Tracker::resumed(&flow);
        ended(&mut tracker, 1, Outcome::Skipped);
        assert!(tracker.audit().is_clean(), "a skip follows a failure that may be unknown here");
    }

    #[test]
    fn the_time_of_an_execution_spans_its_attempts() {
        let mut tracker = tracker();
        let id = id_of(&tracker, 0);
        let at = Duration::from_secs;
        tracker.attempt_began(id, at(1));
        tracker.attempt_ended(id, failed("exit status 1"), at(2));
        assert_eq!(tracker.members[0].state, MemberState::Waiting);
        tracker.attempt_began(id, at(4));
        assert_eq!((tracker.members[0].state, tracker.members[0].took(at(5))), (MemberState::Running, at(4)));
        tracker.attempt_ended(id, AttemptEnd::default(), at(6));
        ended(&mut tracker, 0, Outcome::Success);
        assert_eq!((tracker.members[0].attempts, tracker.members[0].took(at(9))), (2, at(5)));
    }
}
