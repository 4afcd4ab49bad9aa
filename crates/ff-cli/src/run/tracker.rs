//! What is known of a run: each execution's state and times, and whether the completions keep their promise. Pure:
//! times are given, nothing is printed.

use std::{collections::HashMap, time::Duration};

use ff_core::{CompletionPayload, ExecutionId, FlowTopology, Outcome, SubmittedFlow};

/// One execution as the run has seen it. Times count from the start of the run.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) state: MemberState,
    /// Attempts that began here.
    pub(crate) attempts: u32,
    /// When its first attempt began.
    pub(crate) started: Option<Duration>,
    /// When its last attempt ended.
    pub(crate) stopped: Option<Duration>,
    pub(crate) reason: Option<String>,
    /// How often its completion has arrived.
    pub(crate) completions: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemberState {
    /// Waits for what it needs, for a worker, or for its next attempt.
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
    /// From the first attempt's begin to the last one's end, or to `now` while it is not over.
    pub(crate) fn took(&self, now: Duration) -> Duration {
        match (self.started, self.stopped) {
            (Some(started), Some(stopped)) => stopped.saturating_sub(started),
            (Some(started), None) => now.saturating_sub(started),
            (None, _) => Duration::ZERO,
        }
    }
}

/// What an arriving completion is to this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The first of this member.
    First(usize),
    /// One of this member that had arrived before: it should not have come.
    Repeated(usize),
    /// One that the run's filter should have kept away.
    Stranger,
}

/// Where the completions break what is promised. All empty when they keep it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Audit {
    /// Names whose completion has not arrived.
    pub(crate) missing: Vec<String>,
    /// Names whose completion has arrived more than once.
    pub(crate) repeated: Vec<String>,
    /// Names whose completion arrived before that of something that had to end first.
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
    pub(crate) fn new(flow: &SubmittedFlow, topology: FlowTopology) -> Self {
        let member = |(name, _): &(String, ExecutionId)| Member {
            name: name.clone(),
            state: MemberState::Waiting,
            attempts: 0,
            started: None,
            stopped: None,
            reason: None,
            completions: 0,
        };
        Self {
            members: flow.executions.iter().map(member).collect(),
            topology,
            index: flow.executions.iter().enumerate().map(|(index, (_, id))| (*id, index)).collect(),
            arrived: 0,
            before_needs: Vec::new(),
            strangers: 0,
        }
    }

    /// How many executions have ended, as far as completions have arrived.
    pub(crate) const fn arrived(&self) -> usize {
        self.arrived
    }

    pub(crate) fn all_arrived(&self) -> bool {
        self.arrived == self.members.len()
    }

    /// An attempt began; the answer is whose.
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

    /// An attempt ended, by failure if there is a reason; the answer is whose.
    pub(crate) fn attempt_ended(&mut self, id: ExecutionId, failure: Option<&str>, now: Duration) -> Option<usize> {
        let index = *self.index.get(&id)?;
        let member = &mut self.members[index];
        member.stopped = Some(now);
        if let Some(reason) = failure {
            member.reason = Some(reason.to_owned());
        }
        if member.state == MemberState::Running && failure.is_some() {
            member.state = MemberState::Waiting;
        }
        Some(index)
    }

    /// A completion has arrived.
    pub(crate) fn completion(&mut self, completion: &CompletionPayload, now: Duration) -> Arrival {
        let Some(index) = self.index.get(&completion.execution_id).copied() else {
            self.strangers += 1;
            return Arrival::Stranger;
        };
        let in_order = self.needs_have_arrived(index, completion.outcome);
        let member = &mut self.members[index];
        member.completions += 1;
        if member.completions > 1 {
            return Arrival::Repeated(index);
        }
        member.state = MemberState::Ended(completion.outcome);
        member.reason = match (completion.reason.as_deref(), member.reason.take()) {
            // How it ended, after what the last attempt said.
            (Some(end), Some(said)) if end != said => Some(format!("{said} ({end})")),
            (end, _) => end.map(str::to_owned),
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

    /// Whether everything that had to end before has arrived. What was cancelled or expired need not have waited.
    fn needs_have_arrived(&self, index: usize, outcome: Outcome) -> bool {
        let mut needs = self.topology.needs[index].iter().map(|need| self.members[*need].state);
        match outcome {
            Outcome::Success | Outcome::Failed => needs.all(|state| state == MemberState::Ended(Outcome::Success)),
            Outcome::Skipped => {
                needs.any(|state| matches!(state, MemberState::Ended(ended) if ended != Outcome::Success))
            }
            _ => true,
        }
    }

    /// Members that ended as failed, for a closer look.
    pub(crate) fn failed(&self) -> impl Iterator<Item = ExecutionId> {
        let failed = |index: &usize| self.members[*index].state == MemberState::Ended(Outcome::Failed);
        self.index.iter().filter(move |(_, index)| failed(index)).map(|(id, _)| *id)
    }

    /// What the last attempt of a member failed with, as it is recorded.
    pub(crate) fn recorded_error(&mut self, id: ExecutionId, reason: Option<&str>, last_error: &str) {
        let Some(index) = self.index.get(&id) else { return };
        self.members[*index].reason = Some(match reason {
            Some(reason) if reason != last_error => format!("{last_error} ({reason})"),
            _ => last_error.to_owned(),
        });
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
    use ff_core::{ExecutionSpec, FlowId, FlowSubmission, Namespace, PartitionCount};

    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn tracker() -> Tracker {
        let flow = FlowSubmission::new(Namespace::default_namespace())
            .execution(ExecutionSpec::new("a"))
            .execution(ExecutionSpec::new("b").needs(["a"]));
        let id = FlowId::generate();
        let member = |name: &str| (name.to_owned(), ExecutionId::member(id, name, PartitionCount::DEFAULT));
        let submitted = SubmittedFlow::new(id, vec![member("a"), member("b")], false);
        Tracker::new(&submitted, flow.topology().unwrap())
    }

    fn id_of(tracker: &Tracker, index: usize) -> ExecutionId {
        *tracker.index.iter().find(|(_, at)| **at == index).unwrap().0
    }

    fn ended(tracker: &mut Tracker, index: usize, outcome: Outcome) -> Arrival {
        let id = id_of(tracker, index);
        tracker.completion(&CompletionPayload::new(id, None, outcome), NOW)
    }

    #[test]
    fn a_run_whose_completions_come_once_and_in_order_is_clean() {
        let mut tracker = tracker();
        assert_eq!(ended(&mut tracker, 0, Outcome::Success), Arrival::First(0));
        assert_eq!(tracker.audit().missing, ["b"]);
        assert_eq!(ended(&mut tracker, 1, Outcome::Success), Arrival::First(1));
        assert!(tracker.all_arrived() && tracker.audit().is_clean());
    }

    #[test]
    fn a_repeated_completion_and_a_stranger_are_found() {
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
    fn a_completion_before_its_needs_is_found_whatever_comes_later() {
        let mut tracker = tracker();
        ended(&mut tracker, 1, Outcome::Success);
        ended(&mut tracker, 0, Outcome::Success);
        assert_eq!(tracker.audit().before_needs, ["b"]);
    }

    #[test]
    fn a_skip_must_follow_the_failure_and_a_cancellation_need_not_follow_anything() {
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

    #[test]
    fn the_reason_tells_what_the_last_attempt_said_and_how_it_ended() {
        let mut tracker = tracker();
        let id = id_of(&tracker, 0);
        tracker.attempt_began(id, NOW);
        tracker.attempt_ended(id, Some("exit status 1"), NOW);
        let mut completion = CompletionPayload::new(id, None, Outcome::Failed);
        completion.reason = Some("attempts_exhausted".into());
        tracker.completion(&completion, NOW);
        assert_eq!(tracker.members[0].reason.as_deref(), Some("exit status 1 (attempts_exhausted)"));
    }

    #[test]
    fn the_time_of_an_execution_spans_its_attempts() {
        let mut tracker = tracker();
        let id = id_of(&tracker, 0);
        let at = Duration::from_secs;
        tracker.attempt_began(id, at(1));
        tracker.attempt_ended(id, Some("exit status 1"), at(2));
        assert_eq!(tracker.members[0].state, MemberState::Waiting);
        tracker.attempt_began(id, at(4));
        assert_eq!((tracker.members[0].state, tracker.members[0].took(at(5))), (MemberState::Running, at(4)));
        tracker.attempt_ended(id, None, at(6));
        ended(&mut tracker, 0, Outcome::Success);
        assert_eq!((tracker.members[0].attempts, tracker.members[0].took(at(9))), (2, at(5)));
    }
}
