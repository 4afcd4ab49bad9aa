//! The summary of a run: counts, times, the critical path, and the audit of its completions.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use ff_core::{FlowId, FlowState, Namespace, Outcome};
use serde::Serialize;
use uuid::Uuid;

use super::{
    critical_path::critical_path,
    tracker::{Audit, Member, MemberState, Tracker},
};
use crate::{failure::one_line, text};

/// The most names in one line for people; JSON has them all.
const NAMES_SHOWN: usize = 8;

/// The summary of a run; serialised, it is the last object of `--json`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Summary {
    pub(crate) event: &'static str,
    pub(crate) run: Uuid,
    pub(crate) flow_id: FlowId,
    pub(crate) name: Option<String>,
    pub(crate) namespace: Namespace,
    pub(crate) state: FlowState,
    pub(crate) executions: usize,
    pub(crate) outcomes: BTreeMap<Outcome, usize>,
    pub(crate) wall_ms: u64,
    /// The time of all executions added up.
    pub(crate) work_ms: u64,
    pub(crate) critical_path: Vec<String>,
    pub(crate) critical_path_ms: u64,
    pub(crate) audit_passed: bool,
    pub(crate) audit: Audit,
}

/// The facts for the summary that the tracker does not have.
pub(crate) struct RunFacts {
    pub(crate) run: Uuid,
    pub(crate) flow_id: FlowId,
    pub(crate) name: Option<String>,
    pub(crate) namespace: Namespace,
    pub(crate) state: FlowState,
    pub(crate) wall: Duration,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Summary {
    pub(crate) fn of(tracker: &Tracker, facts: RunFacts) -> Self {
        let took: Vec<_> = tracker.members.iter().map(|member| member.took(facts.wall)).collect();
        let path = critical_path(&tracker.topology, &took);
        let mut outcomes = BTreeMap::new();
        for member in &tracker.members {
            if let MemberState::Ended(outcome) = member.state {
                *outcomes.entry(outcome).or_insert(0) += 1;
            }
        }
        let audit = tracker.audit();
        Self {
            event: "summary",
            run: facts.run,
            flow_id: facts.flow_id,
            name: facts.name,
            namespace: facts.namespace,
            state: facts.state,
            executions: tracker.members.len(),
            outcomes,
            wall_ms: millis(facts.wall),
            work_ms: millis(took.iter().sum()),
            critical_path: path.members.iter().map(|member| tracker.members[*member].name.clone()).collect(),
            critical_path_ms: millis(path.total),
            audit_passed: audit.is_clean(),
            audit,
        }
    }

    /// Several lines for people. `members` has the reasons of those that did not succeed.
    pub(crate) fn to_text(&self, members: &[Member]) -> String {
        let mut text = String::new();
        let outcomes: Vec<_> = self.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        let name = one_line(self.name.as_deref().unwrap_or("flow"));
        let mut say = |line: String| {
            let _ = writeln!(text, "{line}");
        };
        say(format!(
            "{name} {} in {}: {} ({})",
            past(self.state),
            text::span(Duration::from_millis(self.wall_ms)),
            text::count(self.executions, "execution"),
            outcomes.join(", ")
        ));
        for member in members
            .iter()
            .filter(|member| matches!(member.state, MemberState::Ended(Outcome::Failed | Outcome::Expired)))
        {
            let reason = member.reason.as_deref().unwrap_or("no reason given");
            say(format!("  {} {}: {}", member.name, member.state.word(), one_line(reason)));
        }
        say(format!(
            "  critical path {} of {} work: {}",
            text::span(Duration::from_millis(self.critical_path_ms)),
            text::span(Duration::from_millis(self.work_ms)),
            chain(&self.critical_path)
        ));
        say(format!("  {}", self.audit_text()));
        say(format!("  flow {}", self.flow_id));
        text
    }

    fn audit_text(&self) -> String {
        if self.audit_passed {
            return format!(
                "completions: {} of {} seen exactly once, none before its needs",
                self.executions, self.executions
            );
        }
        let mut parts = Vec::new();
        for (what, names) in [
            ("missing", &self.audit.missing),
            ("seen more than once", &self.audit.repeated),
            ("seen before their needs", &self.audit.before_needs),
        ] {
            if !names.is_empty() {
                parts.push(format!("{} {what} ({})", names.len(), shortened(names, ", ")));
            }
        }
        if self.audit.strangers > 0 {
            parts.push(format!("{} of other flows", self.audit.strangers));
        }
        format!("completions: GUARANTEE VIOLATED: {}", parts.join("; "))
    }
}

const fn past(state: FlowState) -> &'static str {
    match state {
        FlowState::Success => "succeeded",
        FlowState::Failed => "failed",
        FlowState::Cancelled => "was cancelled",
        _ => "is not over",
    }
}

fn chain(names: &[String]) -> String {
    if names.is_empty() { "nothing ran".to_owned() } else { shortened(names, " -> ") }
}

fn shortened(names: &[String], between: &str) -> String {
    let shown = |names: &[String]| names.iter().map(String::as_str).collect::<Vec<_>>().join(between);
    if names.len() <= NAMES_SHOWN + 1 {
        return shown(names);
    }
    let (head, tail) = (&names[..NAMES_SHOWN / 2], &names[names.len() - NAMES_SHOWN / 2..]);
    format!("{}{between}… {} more …{between}{}", shown(head), names.len() - NAMES_SHOWN, shown(tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_chains_are_shortened_in_the_middle() {
        let names: Vec<String> = (0..20).map(|n| format!("n{n}")).collect();
        assert_eq!(chain(&names), "n0 -> n1 -> n2 -> n3 -> … 12 more … -> n16 -> n17 -> n18 -> n19");
        assert_eq!(chain(&names[..2]), "n0 -> n1");
        assert_eq!(chain(&[]), "nothing ran");
    }
}
