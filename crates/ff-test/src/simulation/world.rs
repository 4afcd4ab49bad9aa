//! The backend as the simulation drives it: one partition, a clock that moves when told, faults at an exact command.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use ff_core::{
    Backoff, ClaimRequest, EngineError, ExecutionId, ExecutionSnapshot, ExecutionSpec, ExecutionSubmission, FlowId,
    FlowSubmission, LaneId, LogId, Namespace, Partition, PartitionCount, Scope, StateConflict, WorkerId,
};
use ff_core::{Claim, ControlBackend, MaintenanceBackend, SubmitBackend, SweepPolicy, WorkBackend};
use ff_embedded::{Clock, EmbeddedBackend, Fault, KeyValue, Value, VirtualClock};
use ff_script::keys;
use futures::FutureExt;

use super::{
    model::{Answer, needs_of},
    op::Member,
};

/// The only partition.
pub(super) const PARTITION: Partition = Partition::new(0);
/// When every history begins (ms).
pub(super) const EPOCH: u64 = 1_700_000_000_000;

pub(super) struct World {
    backend: EmbeddedBackend,
    pub(super) clock: VirtualClock,
}

/// The indexes of the partition by name, each with the uuids that it holds.
pub(super) type Indexes = BTreeMap<&'static str, BTreeSet<String>>;

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let clock = VirtualClock::at_millis(EPOCH);
        let one = PartitionCount::new(1).expect("one partition is allowed");
        let builder = EmbeddedBackend::builder().partitions(one).seed(seed).clock(Clock::Virtual(clock.clone()));
        Self { backend: builder.build().expect("a fresh host has no other partition count"), clock }
    }

    /// Forgets all keys, for the next history.
    pub(super) fn wipe(&self) {
        for key in self.backend.host().snapshot().keys() {
            self.backend.host().command(&[b"DEL".as_slice(), key]).expect("a key can be deleted");
        }
        self.clock.set_millis(EPOCH);
    }

    /// The `command`-th command of the next call (from 0) ends it, or is refused, which the library may handle.
    pub(super) fn inject(&self, command: u32, stop: bool) {
        let at = u64::from(command) + 1;
        self.backend.host().inject(if stop { Fault::stop(at) } else { Fault::refuse(at) });
    }

    /// Spends a fault that no call has met.
    pub(super) fn clear_fault(&self) {
        // Whether this call meets it or not is all the same.
        let _ = self.backend.host().call::<&str, &str>("ff1_version", &[], &[]);
    }

    pub(super) fn forget(&self) {
        self.backend.host().forget_variables();
    }

    pub(super) fn submit(
        &self,
        key: &str,
        members: &[Member],
        is_flow: bool,
    ) -> Result<(Option<FlowId>, Vec<ExecutionId>), EngineError> {
        let namespace = Namespace::default_namespace();
        if !is_flow {
            let submission = ExecutionSubmission::new(namespace, spec(&members[0], 0)).idempotency_key(key);
            let solo = now(self.backend.submit_execution(&submission))?;
            return Ok((None, vec![solo.execution_id]));
        }
        let flow = members.iter().enumerate().fold(FlowSubmission::new(namespace), |flow, (index, member)| {
            let needs = needs_of(member, index).into_iter().map(|need| need.to_string());
            flow.execution(spec(member, index).needs(needs))
        });
        let submitted = now(self.backend.submit_flow(&flow.idempotency_key(key)))?;
        Ok((Some(submitted.flow_id), submitted.executions.into_iter().map(|(_, id)| id).collect()))
    }

    pub(super) fn claim(&self, max: u32, lease: u64) -> Result<Claim, EngineError> {
        now(self.backend.claim(&ClaimRequest {
            worker: WorkerId::new("simulated").expect("the name is valid"),
            lane: LaneId::default_lane(),
            partition: PARTITION,
            max,
            lease: Duration::from_millis(lease),
        }))
    }

    pub(super) fn backend(&self) -> &EmbeddedBackend {
        &self.backend
    }

    pub(super) fn describe(&self, id: ExecutionId) -> Result<ExecutionSnapshot, EngineError> {
        now(self.backend.describe_execution(id))
    }

    /// When the lease of an execution runs out (ms), which no description tells.
    pub(super) fn lease_expires_at(&self, id: ExecutionId) -> Option<u64> {
        let core = keys::execution_core(id);
        match self.backend.host().command(&["HGET", &core, "lease_expires_at"]) {
            Ok(Value::Bulk(text)) => std::str::from_utf8(&text).ok()?.parse().ok(),
            _ => None,
        }
    }

    pub(super) fn sweep(&self, retention: Duration) -> Result<bool, EngineError> {
        now(self.backend.sweep(&[PARTITION], &SweepPolicy { retention })).map(|reports| reports[0].more)
    }

    pub(super) fn reconcile(&self) -> Result<u32, EngineError> {
        now(self.backend.reconcile(PARTITION, None, 1_000)).map(|report| report.repaired)
    }

    pub(super) fn resolve(&self) -> Result<(), EngineError> {
        while now(self.backend.resolve_dependents(PARTITION))?.more {}
        Ok(())
    }

    /// Cuts both logs.
    pub(super) fn trim(&self, keep: u32) {
        for scope in [Scope::Flows, Scope::Solo] {
            let log = keys::completion_log(LogId { partition: PARTITION, scope });
            let keep = keep.to_string();
            let trimmed = self.backend.host().command(&["XTRIM", &log, "MAXLEN", &keep]);
            trimmed.expect("a log can be trimmed");
        }
    }

    /// The uuids in a log, in its order.
    pub(super) fn log(&self, scope: Scope) -> Vec<String> {
        let key = keys::completion_log(LogId { partition: PARTITION, scope });
        match self.backend.host().snapshot().remove(key.as_bytes()) {
            Some(KeyValue::Stream { entries, .. }) => entries.iter().map(|entry| announced(&entry.fields)).collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn indexes(&self) -> Indexes {
        let snapshot = self.backend.host().snapshot();
        let names = ["ready", "delayed", "leases", "deadlines", "open", "pending", "ended"];
        let index = |name: &&'static str| {
            let key = keys::partition_block(PARTITION)
                .into_iter()
                .find(|key| key.ends_with(&format!(":{name}")))
                .expect("the block holds it");
            let members = match snapshot.get(key.as_bytes()) {
                Some(KeyValue::SortedSet(members)) => members.iter().map(|(member, _)| uuid_of(member)).collect(),
                _ => BTreeSet::new(),
            };
            (*name, members)
        };
        names.iter().map(index).collect()
    }

    /// The keys that are left when everything has been forgotten: those that a deployment always has are not named.
    pub(super) fn leftovers(&self) -> Vec<String> {
        let lasting = |key: &str| key == keys::DEPLOYMENT || key.ends_with(":waiters") || key.contains(":completions");
        let keys = self.backend.host().snapshot();
        keys.keys().map(|key| String::from_utf8_lossy(key).into_owned()).filter(|key| !lasting(key)).collect()
    }
}

/// On this host every call is answered at once.
pub(super) fn now<T>(call: impl Future<Output = T>) -> T {
    call.now_or_never().expect("an embedded host does not wait")
}

/// The model's word for an answer to the owner of a lease; an error that is none is returned.
pub(super) fn answer(result: Result<Option<Duration>, EngineError>) -> Result<Answer, EngineError> {
    match result {
        Ok(None) => Ok(Answer::Done),
        Ok(Some(after)) => Ok(Answer::Retry(u64::try_from(after.as_millis()).unwrap_or(u64::MAX))),
        Err(EngineError::State { conflict: StateConflict::LeaseLost, .. }) => Ok(Answer::LeaseLost),
        Err(EngineError::State { conflict: StateConflict::AlreadyTerminal, .. }) => Ok(Answer::AlreadyEnded),
        Err(error) => Err(error),
    }
}

fn spec(member: &Member, index: usize) -> ExecutionSpec {
    let millis = Duration::from_millis;
    let backoff = Backoff { initial: millis(member.backoff), max: millis(4 * member.backoff) };
    let mut spec = ExecutionSpec::new(index.to_string())
        .priority(member.priority)
        .attempts(member.attempts, backoff)
        .max_lease_expiries(member.expiries)
        .delay(millis(member.delay));
    spec.deadline = Some(millis(member.deadline)).filter(|deadline| !deadline.is_zero());
    spec.timeout = Some(millis(member.timeout)).filter(|timeout| !timeout.is_zero());
    spec
}

fn uuid_of(member: &Bytes) -> String {
    let text = String::from_utf8_lossy(member);
    text[text.len() - 36..].to_owned()
}

/// The uuid of the execution that a log entry speaks of.
fn announced(fields: &[(Bytes, Bytes)]) -> String {
    let event = fields.iter().find(|(name, _)| name.as_ref() == b"e").map(|(_, event)| event);
    let event: serde_json::Value =
        event.and_then(|event| serde_json::from_slice(event).ok()).expect("an entry holds an event");
    let id = event["execution_id"].as_str().expect("an event names its execution");
    id[id.len() - 36..].to_owned()
}
