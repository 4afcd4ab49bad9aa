//! Events of other publishers: without a position, a namespace or tags.
//!
//! Unfiltered subscriptions receive them immediately. For filtered ones they are held until the server has returned the
//! attributes that the filters need: the namespace first, and the tags only if a filter still depends on them; one read
//! each, for all subscriptions together and for many events with one round trip. A missing attribute is an answer: the
//! event does not match. A failed read is not an answer: the event stays held and is read again, so it is neither
//! delivered unchecked nor lost.
//!
//! They are not in a log, so they cannot be repaired later: at most once, in no guaranteed order, and beyond [`HELD`]
//! the oldest is given up, with a warning. Positioned events never wait for any of this.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use ff_core::{CompletionPayload, EngineError, ExecutionId, ScannerFilter};
use ff_script::keys;
use fred::{error::Error, types::Value};
use tokio::sync::Notify;

use crate::{
    ValkeyHost,
    completions::{
        fanout::SubscriptionId,
        hub::{Hub, State},
    },
    host::together::{Question, Together},
    net::{backoff::Backoff, error::is_wrong_type, quiet::Quiet, value},
    telemetry,
};

/// The maximum number of held events.
const HELD: usize = 4096;
/// The maximum number of events per round trip.
const AT_ONCE: usize = 64;

/// The answer to one question: the value, or `None` if there is none.
type Answer = Option<String>;

/// Reads the namespace and the tags of executions.
#[async_trait]
pub(crate) trait Attributes: Send + Sync + 'static {
    /// The namespace of each execution.
    async fn namespaces(&self, of: &[ExecutionId]) -> Vec<Result<Answer, EngineError>>;
    /// The values of an execution's tags under the given keys, for each of several executions.
    async fn tags(&self, of: &[(ExecutionId, Vec<String>)]) -> Vec<Result<Vec<Answer>, EngineError>>;
}

#[derive(Debug)]
struct HeldEvent {
    event: Arc<CompletionPayload>,
    /// Subscriptions with this id or a later one do not receive it.
    horizon: SubscriptionId,
    namespace: Option<Answer>,
}

/// The events that wait for answers.
#[derive(Debug, Default)]
pub(crate) struct UnpositionedEvents {
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// In the order of arrival.
    held: BTreeMap<u64, HeldEvent>,
    next: u64,
    /// The first event of the next batch: events that cannot be decided must not starve others.
    turn: u64,
}

impl Queue {
    fn insert(&mut self, age: u64, event: HeldEvent) {
        self.held.insert(age, event);
        if self.held.len() > HELD {
            self.held.pop_first();
            telemetry::count_cause(telemetry::DROPPED, "held", 1);
            static LINES: Quiet = Quiet::new();
            if let Some(left_out) = LINES.turn() {
                tracing::warn!(
                    limit = HELD,
                    left_out,
                    "too many events wait for attributes that filters need; dropped the oldest"
                );
            }
        }
        telemetry::level(telemetry::HELD, self.held.len());
    }

    fn take(&mut self) -> Batch {
        if self.held.range(self.turn..).next().is_none() {
            self.turn = 0;
        }
        let ages: Vec<u64> = self.held.range(self.turn..).take(AT_ONCE).map(|(age, _)| *age).collect();
        self.turn = ages.last().map_or(0, |age| age + 1);
        telemetry::level(telemetry::HELD, self.held.len());
        ages.into_iter().filter_map(|age| self.held.remove_entry(&age)).collect()
    }
}

impl UnpositionedEvents {
    pub(crate) fn hold(&self, event: Arc<CompletionPayload>, horizon: SubscriptionId) {
        let mut queue = self.lock();
        let age = queue.next;
        queue.next += 1;
        queue.insert(age, HeldEvent { event, horizon, namespace: None });
        drop(queue);
        self.arrived.notify_one();
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().held.len()
    }

    fn take(&self) -> Batch {
        self.lock().take()
    }

    fn put_back(&self, undecided: Batch) {
        let mut queue = self.lock();
        for (age, event) in undecided {
            queue.insert(age, event);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tag keys whose values still decide which of `filters` an execution of this namespace passes.
fn tags_wanted<'a>(filters: impl IntoIterator<Item = &'a ScannerFilter>, namespace: Option<&str>) -> Vec<String> {
    let depends = |filter: &&ScannerFilter| filter.namespace.as_ref().is_none_or(|ns| Some(ns.as_str()) == namespace);
    let keys: BTreeSet<&String> = filters
        .into_iter()
        .filter(depends)
        .filter_map(|filter| filter.instance_tag.as_ref().map(|(key, _)| key))
        .collect();
    keys.into_iter().cloned().collect()
}

/// The task that decides held events.
pub(crate) async fn decide(hub: Arc<Hub>, attributes: Arc<dyn Attributes>) {
    let mut backoff = Backoff::reconnect();
    loop {
        let batch = hub.unpositioned().take();
        if batch.is_empty() {
            hub.unpositioned().arrived.notified().await;
            continue;
        }
        match decide_batch(&hub, &*attributes, batch).await {
            None => backoff = Backoff::reconnect(),
            Some(error) => {
                static LINES: Quiet = Quiet::new();
                if let Some(left_out) = LINES.turn() {
                    let held = hub.unpositioned().len();
                    tracing::warn!(%error, held, left_out, "reading attributes for filters failed; events stay held");
                }
                backoff.pause().await;
            }
        }
    }
}

/// Events by their order of arrival.
type Batch = Vec<(u64, HeldEvent)>;

/// Decides the events that it can, holds the rest again, and returns one error of the reads, if any.
async fn decide_batch(hub: &Arc<Hub>, attributes: &dyn Attributes, mut batch: Batch) -> Option<EngineError> {
    let filters: HashSet<ScannerFilter> =
        hub.with_state(|State { fanout, .. }| fanout.distinct_filters().filter(|f| !f.is_noop()).cloned().collect());
    let mut failure = None;
    if filters.iter().any(|filter| filter.namespace.is_some()) {
        let unknown: Vec<&mut HeldEvent> =
            batch.iter_mut().map(|(_, held)| held).filter(|held| held.namespace.is_none()).collect();
        let of: Vec<ExecutionId> = unknown.iter().map(|held| held.event.execution_id).collect();
        let answers = if of.is_empty() { Vec::new() } else { attributes.namespaces(&of).await };
        for (held, answer) in unknown.into_iter().zip(answers) {
            match answer {
                Ok(answer) => {
                    telemetry::count(telemetry::MISSING, u64::from(answer.is_none()));
                    held.namespace = Some(answer);
                }
                Err(error) => failure = Some(error),
            }
        }
    } else {
        batch.iter_mut().for_each(|(_, held)| held.namespace = Some(None));
    }
    let (known, mut undecided): (Batch, Batch) = batch.into_iter().partition(|(_, held)| held.namespace.is_some());
    let mut asking = Vec::new();
    for (age, held) in known {
        let namespace = held.namespace.clone().flatten();
        let keys = tags_wanted(&filters, namespace.as_deref());
        if keys.is_empty() { pass(hub, &held, &filters, &[], &[]) } else { asking.push((age, held, keys)) }
    }
    let of: Vec<(ExecutionId, Vec<String>)> =
        asking.iter().map(|(_, held, keys)| (held.event.execution_id, keys.clone())).collect();
    let answers = if of.is_empty() { Vec::new() } else { attributes.tags(&of).await };
    for ((age, held, keys), answer) in asking.into_iter().zip(answers) {
        match answer {
            Ok(values) => {
                telemetry::count(telemetry::MISSING, u64::from(values.iter().all(Option::is_none)));
                pass(hub, &held, &filters, &keys, &values);
            }
            Err(error) => {
                failure = Some(error);
                undecided.push((age, held));
            }
        }
    }
    if !undecided.is_empty() {
        hub.unpositioned().put_back(undecided);
    }
    failure
}

/// Delivers the event to the filters that were asked for and that match it.
fn pass(hub: &Arc<Hub>, held: &HeldEvent, asked: &HashSet<ScannerFilter>, keys: &[String], values: &[Answer]) {
    let namespace = held.namespace.as_ref().and_then(Option::as_deref);
    let value = |key: &str| keys.iter().position(|k| k == key).and_then(|at| values.get(at)?.as_deref());
    let wanted = |filter: &ScannerFilter| {
        let tag = filter.instance_tag.as_ref().and_then(|(key, _)| value(key));
        !filter.is_noop() && asked.contains(filter) && filter.matches(namespace, tag)
    };
    hub.with_state(|State { fanout, .. }| fanout.deliver_bare(&held.event, held.horizon, wanted));
}

/// Reads the attributes from the server, over the connection for reads.
#[derive(Debug)]
pub(crate) struct ServerAttributes(pub(crate) Arc<ValkeyHost>);

impl ServerAttributes {
    async fn ask<T>(
        &self,
        op: &str,
        commands: Vec<Question>,
        answer: impl Fn(Value) -> T,
        none: impl Fn(usize) -> T,
    ) -> Vec<Result<T, EngineError>> {
        let expected = commands.len();
        let together = Together::new(&self.0, op);
        let answers = match together.ask(commands).await {
            Ok(answers) => answers,
            // A replica may hold state that is about to be rolled back, so its answer does not count.
            Err(error) => return (0..expected).map(|_| Err(error.clone())).collect(),
        };
        let decided = |(index, read): (usize, Result<Value, Error>)| match read {
            Ok(value) => Ok(answer(value)),
            Err(error) if is_wrong_type(&error) => Ok(none(index)),
            Err(error) => Err(together.failed(error)),
        };
        answers.into_iter().enumerate().map(decided).collect()
    }
}

fn text(value: Value) -> Answer {
    value::string(value).and_then(|bytes| String::from_utf8(bytes.into()).ok())
}

#[async_trait]
impl Attributes for ServerAttributes {
    async fn namespaces(&self, of: &[ExecutionId]) -> Vec<Result<Answer, EngineError>> {
        let command = |id: &ExecutionId| ("HGET", vec![keys::execution_core(*id).into(), "namespace".into()]);
        self.ask("reading namespaces", of.iter().map(command).collect(), text, |_| None).await
    }

    async fn tags(&self, of: &[(ExecutionId, Vec<String>)]) -> Vec<Result<Vec<Answer>, EngineError>> {
        let command = |(id, names): &(ExecutionId, Vec<String>)| {
            let key: Value = keys::execution_tags(*id).into();
            ("HMGET", std::iter::once(key).chain(names.iter().map(|name| name.as_str().into())).collect())
        };
        let answer = |value| match value {
            Value::Array(values) => values.into_iter().map(text).collect(),
            other => vec![text(other)],
        };
        self.ask("reading tags", of.iter().map(command).collect(), answer, |index| vec![None; of[index].1.len()]).await
    }
}

#[cfg(test)]
mod tests {
    use ff_core::Namespace;

    use super::*;

    fn filter(namespace: Option<&str>, tag: Option<&str>) -> ScannerFilter {
        let filter =
            namespace.map_or(ScannerFilter::NOOP, |ns| ScannerFilter::NOOP.namespace(Namespace::new(ns).unwrap()));
        tag.map_or(filter.clone(), |key| filter.instance_tag(key, "v"))
    }

    #[test]
    fn tags_are_fetched_only_if_a_filter_still_depends_on_them() {
        let filters = [
            filter(Some("a"), Some("x")),
            filter(Some("b"), Some("y")),
            filter(Some("c"), None),
            filter(None, Some("z")),
        ];
        assert_eq!(tags_wanted(&filters, Some("a")), ["x", "z"]);
        assert_eq!(tags_wanted(&filters, None), ["z"]);
        assert!(tags_wanted(&filters[..3], Some("c")).is_empty());
    }
}
