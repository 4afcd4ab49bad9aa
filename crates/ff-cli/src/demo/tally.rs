//! The completions that each watcher of the demo received. Pure.

use std::collections::HashMap;

use ff_core::{CompletionPayload, ExecutionId, FlowId, FlowSubmission, Namespace, ScannerFilter, SubmittedFlow, Tags};

/// The attributes of an execution of the demo that filters check.
#[derive(Debug)]
pub(super) struct DemoExecution {
    pub(super) flow: usize,
    pub(super) name: String,
    namespace: Namespace,
    tags: Tags,
}

/// One subscription and what it has received.
#[derive(Debug)]
struct Watcher {
    name: &'static str,
    filter: ScannerFilter,
    seen: HashMap<ExecutionId, u32>,
    /// Received although the filter rejects them.
    unexpected: usize,
}

/// The result of one watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) watcher: &'static str,
    pub(super) filter: String,
    pub(super) committed: usize,
    pub(super) seen: usize,
    pub(super) missing: usize,
    pub(super) repeated: usize,
    pub(super) unexpected: usize,
}

impl Row {
    pub(super) const fn is_correct(&self) -> bool {
        self.missing == 0 && self.repeated == 0 && self.unexpected == 0 && self.committed == self.seen
    }
}

#[derive(Debug)]
pub(super) struct Tally {
    flows: HashMap<FlowId, usize>,
    known: HashMap<ExecutionId, DemoExecution>,
    watchers: Vec<Watcher>,
}

impl Tally {
    pub(super) fn new(watchers: Vec<(&'static str, ScannerFilter)>) -> Self {
        let watcher = |(name, filter)| Watcher { name, filter, seen: HashMap::new(), unexpected: 0 };
        Self { flows: HashMap::new(), known: HashMap::new(), watchers: watchers.into_iter().map(watcher).collect() }
    }

    /// Adds a submitted flow of the demo.
    pub(super) fn add(&mut self, flow: &FlowSubmission, submitted: &SubmittedFlow) {
        let index = self.flows.len();
        self.flows.insert(submitted.flow_id, index);
        for (member, spec) in submitted.executions.iter().zip(&flow.executions) {
            let known = DemoExecution {
                flow: index,
                name: member.name.clone(),
                namespace: flow.namespace.clone(),
                tags: spec.tags.clone(),
            };
            self.known.insert(member.execution_id, known);
        }
    }

    pub(super) fn known(&self, id: ExecutionId) -> Option<&DemoExecution> {
        self.known.get(&id)
    }

    /// Counts a completion that a watcher received. Completions of other users of the server are ignored.
    pub(super) fn receive(&mut self, watcher: usize, completion: &CompletionPayload) {
        let ours = completion.flow_id.is_some_and(|flow| self.flows.contains_key(&flow));
        let watcher = &mut self.watchers[watcher];
        match self.known.get(&completion.execution_id) {
            Some(known) if wants(&watcher.filter, known) => {
                *watcher.seen.entry(completion.execution_id).or_insert(0) += 1;
            }
            None if !ours => {}
            _ => watcher.unexpected += 1,
        }
    }

    /// Whether every watcher has received every completion that its filter passes.
    pub(super) fn is_complete(&self) -> bool {
        self.watchers.iter().all(|watcher| {
            self.known.iter().all(|(id, known)| !wants(&watcher.filter, known) || watcher.seen.contains_key(id))
        })
    }

    /// Compares the received completions with the executions that ended on the server.
    pub(super) fn rows(&self, ended: &[ExecutionId]) -> Vec<Row> {
        let row = |watcher: &Watcher| {
            let wanted =
                ended.iter().filter(|id| self.known.get(id).is_some_and(|known| wants(&watcher.filter, known)));
            Row {
                watcher: watcher.name,
                filter: shown(&watcher.filter),
                committed: wanted.clone().count(),
                seen: watcher.seen.len(),
                missing: wanted.filter(|id| !watcher.seen.contains_key(id)).count(),
                repeated: watcher.seen.values().filter(|times| **times > 1).count(),
                unexpected: watcher.unexpected,
            }
        };
        self.watchers.iter().map(row).collect()
    }
}

fn wants(filter: &ScannerFilter, known: &DemoExecution) -> bool {
    let tag = filter.instance_tag.as_ref().and_then(|(key, _)| known.tags.get(key));
    filter.matches(Some(known.namespace.as_str()), tag)
}

fn shown(filter: &ScannerFilter) -> String {
    match (&filter.namespace, &filter.instance_tag) {
        (Some(namespace), _) => format!("namespace {namespace}"),
        (None, Some((key, value))) => format!("tag {key}={value}"),
        (None, None) => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use ff_core::{ExecutionSpec, Outcome, PartitionCount, SubmittedMember};

    use super::*;

    fn tally() -> (Tally, Vec<ExecutionId>, FlowId) {
        let namespace = Namespace::new("a").unwrap();
        let blue = Tags::new([("colour", "blue")]).unwrap();
        let flow = FlowSubmission::new(namespace.clone())
            .execution(ExecutionSpec::new("x").tags(blue))
            .execution(ExecutionSpec::new("y"));
        let id = FlowId::generate();
        let member =
            |name: &str| SubmittedMember::new(name.into(), ExecutionId::member(id, name, PartitionCount::DEFAULT));
        let submitted = SubmittedFlow::new(id, vec![member("x"), member("y")], false);
        let mut tally = Tally::new(vec![
            ("all", ScannerFilter::new()),
            ("tenant", ScannerFilter::new().namespace(namespace)),
            ("blue", ScannerFilter::new().instance_tag("colour", "blue")),
        ]);
        tally.add(&flow, &submitted);
        (tally, submitted.ids().collect(), id)
    }

    fn completion(id: ExecutionId, flow: FlowId) -> CompletionPayload {
        CompletionPayload::new(id, Some(flow), Outcome::Success)
    }

    #[test]
    fn only_the_completions_that_a_filter_passes_are_counted() {
        let (mut tally, ids, flow) = tally();
        for watcher in [0, 1] {
            tally.receive(watcher, &completion(ids[0], flow));
            tally.receive(watcher, &completion(ids[1], flow));
        }
        assert!(!tally.is_complete());
        tally.receive(2, &completion(ids[0], flow));
        let elsewhere = completion(ExecutionId::generate_solo(PartitionCount::DEFAULT), FlowId::generate());
        tally.receive(0, &elsewhere);
        assert!(tally.is_complete());
        let rows = tally.rows(&ids);
        assert!(rows.iter().all(Row::is_correct), "{rows:?}");
        assert_eq!(rows.iter().map(|row| row.seen).collect::<Vec<_>>(), [2, 2, 1]);
    }

    #[test]
    fn missing_repeated_and_unexpected_completions_are_reported() {
        let (mut tally, ids, flow) = tally();
        tally.receive(0, &completion(ids[0], flow));
        tally.receive(1, &completion(ids[0], flow));
        tally.receive(1, &completion(ids[0], flow));
        tally.receive(1, &completion(ids[1], flow));
        tally.receive(2, &completion(ids[0], flow));
        tally.receive(2, &completion(ids[1], flow));
        let rows = tally.rows(&ids);
        assert_eq!((rows[0].missing, rows[1].repeated, rows[2].unexpected), (1, 1, 1));
        assert!(rows.iter().all(|row| !row.is_correct()));
    }
}
