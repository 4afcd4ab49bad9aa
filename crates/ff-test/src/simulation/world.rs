//! The operations of the simulation on a host, with their arguments, and the observable state.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use ff_core::{
    Backoff, ClaimId, ControlBackend, EngineError, EntryId, ExecutionId, ExecutionSpec, ExecutionSubmission, FlowId,
    FlowState, FlowSubmission, LaneId, LogId, Namespace, Outcome, Partition, PublicState, Scope, StateConflict,
    SubmitBackend, SweepPolicy, WorkerId,
    backend::{Claim, ClaimRequest, MaintenanceBackend, SweepReport, WorkBackend},
};
use ff_embedded::{Fault, KeyValue, Value};
use ff_script::keys;

use super::{
    model::{Answer, needs_of},
    op::Member,
    stage::{Contents, Stage},
};

/// The only partition.
pub(super) const PARTITION: Partition = Partition::new(0);
/// The namespace of all submissions.
pub(super) const NAMESPACE: &str = "default";
/// The bytes that the library counts for an entry beside event and result.
const OVERHEAD: u64 = 40;
/// The start time of every history (ms).
pub(super) const EPOCH: u64 = 1_700_000_000_000;

pub(super) struct World<'a, S> {
    pub(super) stage: &'a S,
    /// The report of the last sweep, until it is taken.
    pub(super) last_sweep: Cell<Option<SweepReport>>,
}

/// The indexes of the partition by name, each with the uuids that it holds.
pub(super) type Indexes = BTreeMap<&'static str, BTreeSet<String>>;

/// The compared state of an execution.
#[derive(Debug)]
pub(super) struct StoredExecution {
    pub(super) state: PublicState,
    pub(super) outcome: Option<Outcome>,
    pub(super) reason: Option<String>,
    pub(super) attempt: u32,
    pub(super) failures: u32,
    pub(super) unmet: u32,
    pub(super) lease_expires_at: u64,
    pub(super) expiries: u32,
    pub(super) unseen: u32,
    /// Whether the record names its lease as confirmed.
    pub(super) confirmed: bool,
    pub(super) has_payload: bool,
}

impl<S: Stage> World<'_, S> {
    /// Deletes all keys, for the next history.
    pub(super) fn wipe(&self) {
        // Expired keys exist again under an earlier clock.
        self.stage.set_clock(EPOCH);
        self.delete_all();
    }

    fn delete_all(&self) {
        for key in self.stage.snapshot().keys() {
            self.stage.command(&["DEL", text(key)]);
        }
    }

    /// Restores all keys, for a replica that takes over.
    pub(super) fn restore(&self, now: u64, contents: &Contents) {
        self.wipe();
        self.stage.set_clock(now);
        for (key, value) in contents {
            self.put(text(key), value);
        }
    }

    fn put(&self, key: &str, value: &KeyValue) {
        let set = |command: &str, pairs: &[(String, String)]| {
            for chunk in pairs.chunks(100) {
                let words = chunk.iter().flat_map(|(first, second)| [first.as_str(), second.as_str()]);
                self.stage.command(&[command, key].into_iter().chain(words).collect::<Vec<_>>());
            }
        };
        match value {
            KeyValue::Hash(fields) => {
                let pair = |(name, value): (&Bytes, &Bytes)| (text(name).to_owned(), text(value).to_owned());
                set("HSET", &fields.iter().map(pair).collect::<Vec<_>>());
            }
            KeyValue::SortedSet(members) => {
                let pair = |(member, score): &(Bytes, f64)| (score.to_string(), text(member).to_owned());
                set("ZADD", &members.iter().map(pair).collect::<Vec<_>>());
            }
            KeyValue::Stream { entries, last_generated } => {
                let add = |id: &EntryId, fields: &[(&str, &str)]| {
                    let id = id.to_string();
                    let words = fields.iter().flat_map(|(name, value)| [*name, *value]);
                    self.stage.command(&["XADD", key, &id].into_iter().chain(words).collect::<Vec<_>>());
                };
                for entry in entries {
                    add(
                        &entry.id,
                        &entry.fields.iter().map(|(name, value)| (text(name), text(value))).collect::<Vec<_>>(),
                    );
                }
                if entries.last().is_none_or(|last| last.id != *last_generated) {
                    add(last_generated, &[("gone", "")]);
                    self.stage.command(&["XDEL", key, &last_generated.to_string()]);
                }
            }
            // Keys that expire are skipped, as if they had expired.
            _ => {}
        }
    }

    /// Lets the `command`-th command of the next call (from 0) stop it, or be refused, which the library may handle.
    /// Returns whether this host supports it.
    pub(super) fn inject(&self, command: u32, stop: bool) -> bool {
        let at = u64::from(command) + 1;
        let fault = if stop { Fault::stop(at) } else { Fault::refuse(at) };
        self.stage.host().map(|host| host.inject(fault)).is_some()
    }

    /// Whether the injected fault has occurred; otherwise it is removed.
    pub(super) fn fault_was_met(&self) -> bool {
        let Some(host) = self.stage.host() else { return false };
        // This call executes no command.
        let _ = host.call::<&str, &str>("ff1_version", &[], &[]);
        host.fault_was_met()
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
            let solo = self.stage.wait(self.stage.backend().submit_execution(&submission))?;
            return Ok((None, vec![solo.execution_id]));
        }
        let flow = members.iter().enumerate().fold(FlowSubmission::new(namespace), |flow, (index, member)| {
            let needs = needs_of(member, index).into_iter().map(|need| need.to_string());
            flow.execution(spec(member, index).needs(needs))
        });
        let submitted = self.stage.wait(self.stage.backend().submit_flow(&flow.idempotency_key(key)))?;
        Ok((Some(submitted.flow_id), submitted.ids().collect()))
    }

    /// Calls a function of the library like another program, and returns the first text of its reply.
    pub(super) fn raw(&self, function: &str, keys: &[String], args: &[String]) -> Result<String, EngineError> {
        let reply = match self.stage.host() {
            Some(host) => {
                let refused = |error: ff_embedded::CommandError| EngineError::transport(function, error.to_string());
                host.call(function, keys, args).map_err(refused)?
            }
            None => {
                let count = keys.len().to_string();
                let words = ["FCALL", function, &count].into_iter();
                let rest = keys.iter().chain(args).map(String::as_str);
                self.stage.command(&words.chain(rest).collect::<Vec<_>>())
            }
        };
        let Value::Array(reply) = &reply else { panic!("a reply is an array, not {reply:?}") };
        Ok(reply.first().map(|first| text(bytes_of(first)).to_owned()).unwrap_or_default())
    }

    /// The fields of a hash with this prefix: the rest of the name, and the value.
    pub(super) fn fields_like(&self, key: &str, prefix: &str) -> Vec<(String, String)> {
        let Value::Array(names) = self.stage.command(&["HKEYS", key]) else { return Vec::new() };
        let field = |name: &Value<'_>| {
            let name = text(bytes_of(name));
            let value = self.stage.command(&["HGET", key, name]);
            Some((name.strip_prefix(prefix)?.to_owned(), text(bytes_of(&value)).to_owned()))
        };
        names.iter().filter_map(field).collect()
    }

    /// In how many milliseconds a key expires, 0 for never; `None` if it does not exist.
    pub(super) fn left_ms(&self, key: &str) -> Option<u64> {
        match self.stage.command(&["PTTL", key]) {
            Value::Integer(-1) => Some(0),
            Value::Integer(left) => u64::try_from(left).ok(),
            other => panic!("a time is a number, not {other:?}"),
        }
    }

    pub(super) fn claim(&self, max: u32, lease: u64, id: ClaimId) -> Result<Claim, EngineError> {
        self.stage.wait(
            self.stage.backend().claim(
                &ClaimRequest::new(worker(), LaneId::default_lane(), PARTITION)
                    .max(max)
                    .lease(Duration::from_millis(lease))
                    .id(id),
            ),
        )
    }

    /// The recorded executions of this claim, if it was the last one: uuids with their attempts.
    pub(super) fn recorded_claim(&self, id: ClaimId) -> Option<Vec<(String, u32)>> {
        let stored = self.stage.command(&["GET", &keys::claim_record(PARTITION, &worker())]);
        let taken = text(bytes_of(&stored)).strip_prefix(&format!("{id} "))?;
        let entry = |entry: &str| {
            let (uuid, attempt) = entry.split_once(':')?;
            Some((uuid.to_owned(), attempt.parse().ok()?))
        };
        taken.split(',').map(entry).collect()
    }

    /// An execution as the library describes it, with the fields that a description lacks.
    pub(super) fn described(&self, id: ExecutionId) -> Result<StoredExecution, EngineError> {
        let found = self.stage.wait(self.stage.backend().describe_execution(id))?;
        let stored = self.stored(id)?;
        Ok(StoredExecution {
            state: found.state,
            outcome: found.outcome,
            reason: found.reason.map(|reason| reason.to_string()),
            attempt: found.attempt,
            failures: found.failures,
            unmet: found.unmet_needs,
            lease_expires_at: stored.lease_expires_at,
            expiries: stored.expiries,
            unseen: stored.unseen,
            confirmed: stored.confirmed,
            has_payload: stored.has_payload,
        })
    }

    /// An execution from its core, read without the library.
    pub(super) fn stored(&self, id: ExecutionId) -> Result<StoredExecution, EngineError> {
        let names = [
            "public_state",
            "terminal_outcome",
            "failure_reason",
            "current_attempt_index",
            "failures",
            "unmet_needs",
            "lease_expires_at",
            "log_pos",
            "lease_expiries",
            "lease_unseen",
            "payload",
            "lease_epoch",
            "lease_seen",
        ];
        let values = self.fields(&keys::execution_core(id), names);
        let text = |index: usize| values.get(index).map(bytes_of).map(text).filter(|text| !text.is_empty());
        let number = |index| text(index).map_or(Ok(0), str::parse::<u64>).unwrap_or(u64::MAX);
        let small = |index| u32::try_from(number(index)).unwrap_or(u32::MAX);
        let state: PublicState = text(0).unwrap_or("absent").parse()?;
        // An execution without a recorded completion has not ended.
        let half_written = state.outcome().is_some() && text(7).is_none();
        Ok(StoredExecution {
            state: if half_written { PublicState::Active } else { state },
            outcome: text(1).filter(|outcome| !half_written && *outcome != "none").map(Outcome::from_wire),
            reason: text(2).map(str::to_owned),
            attempt: small(3),
            failures: small(4),
            unmet: small(5),
            lease_expires_at: number(6),
            expiries: small(8),
            unseen: small(9),
            confirmed: text(11).is_some() && text(11) == text(12),
            has_payload: text(10).is_some(),
        })
    }

    /// The state of a flow, and how many of its members have not ended.
    pub(super) fn flow(&self, flow: FlowId) -> Result<(FlowState, usize), EngineError> {
        let values = self.fields(&keys::flow_core(PARTITION, flow), ["state", "remaining"]);
        let text = |index: usize| values.get(index).map(bytes_of).map_or("", text);
        Ok((text(0).parse()?, text(1).parse().unwrap_or(usize::MAX)))
    }

    fn fields<const N: usize>(&self, key: &str, names: [&str; N]) -> Vec<Value<'static>> {
        let args: Vec<&str> = ["HMGET", key].into_iter().chain(names).collect();
        if let Value::Array(values) = self.stage.command(&args) { values } else { Vec::new() }
    }

    /// Sweeps until nothing more is due; returns whether anything was.
    pub(super) fn sweep(&self, retention: Duration) -> Result<bool, EngineError> {
        let mut busy = false;
        loop {
            let policy = SweepPolicy::retention(retention);
            let mut reports = self.stage.wait(self.stage.backend().sweep(&[PARTITION], &policy));
            let report = reports.remove(0)?;
            self.last_sweep.set(Some(report));
            busy |= report.released + report.reclaimed + report.ended + report.resolved + report.removed > 0;
            busy |= report.lost > 0;
            if !report.more {
                return Ok(busy);
            }
        }
    }

    pub(super) fn reconcile(&self) -> Result<u32, EngineError> {
        let (mut repaired, mut cursor) = (0, None);
        loop {
            let report = self.stage.wait(self.stage.backend().reconcile(PARTITION, cursor, 1_000))?;
            repaired += report.repaired + report.lost;
            cursor = report.next;
            if cursor.is_none() {
                return Ok(repaired);
            }
        }
    }

    /// A call that records the time and changes nothing.
    pub(super) fn look(&self) -> Result<(), EngineError> {
        self.stage.wait(self.stage.backend().reconcile(PARTITION, None, 0)).map(drop)
    }

    /// Resolves pending dependents. Returns whether there were any.
    pub(super) fn resolve(&self) -> Result<bool, EngineError> {
        let mut busy = false;
        loop {
            let report = self.stage.wait(self.stage.backend().resolve_dependents(PARTITION))?;
            busy |= report.resolved > 0;
            if !report.more {
                return Ok(busy);
            }
        }
    }

    /// Trims both logs.
    pub(super) fn trim(&self, keep: u32) {
        for scope in [Scope::Flows, Scope::Solo] {
            self.stage.command(&["XTRIM", &log_key(scope), "MAXLEN", &keep.to_string()]);
        }
    }

    /// A log's entries, in its order.
    pub(super) fn log(&self, scope: Scope) -> Vec<Entry> {
        let Value::Array(entries) = self.stage.command(&["XRANGE", &log_key(scope), "-", "+"]) else {
            return Vec::new();
        };
        entries.iter().map(Entry::read).collect()
    }

    pub(super) fn indexes(&self) -> Indexes {
        let names = ["ready", "delayed", "leases", "deadlines", "open", "pending", "ended"];
        let block = keys::partition_block(PARTITION);
        let index = |(name, key): (&'static str, &String)| {
            let members = match self.stage.command(&["ZRANGE", key, "0", "-1"]) {
                Value::Array(members) if name == "open" => members.iter().map(|m| uuid_of_open(bytes_of(m))).collect(),
                Value::Array(members) => {
                    let executions = members.iter().filter(|member| flow_of_ended(bytes_of(member)).is_none());
                    executions.map(|member| uuid_in(bytes_of(member))).collect()
                }
                _ => BTreeSet::new(),
            };
            (name, members)
        };
        let mut indexes: Indexes = names.into_iter().zip(&block).map(index).collect();
        indexes.insert("ended flows", self.ended_flows());
        indexes
    }

    /// The flows that `ended` holds.
    fn ended_flows(&self) -> BTreeSet<String> {
        match self.stage.command(&["ZRANGE", &keys::partition_block(PARTITION)[6], "0", "-1"]) {
            Value::Array(members) => members.iter().filter_map(|member| flow_of_ended(bytes_of(member))).collect(),
            _ => BTreeSet::new(),
        }
    }

    /// The keys that remain after retention, without those that a deployment always has.
    pub(super) fn leftovers(&self) -> Vec<String> {
        let lasting = |key: &str| key == keys::DEPLOYMENT || key.ends_with(":waiters") || key.contains(":completions");
        self.stage.snapshot().keys().map(|key| text(key).to_owned()).filter(|key| !lasting(key)).collect()
    }
}

/// The model's answer for a reply to the holder of a lease. Other errors are returned.
pub(super) fn answer(result: Result<Option<Duration>, EngineError>) -> Result<Answer, EngineError> {
    match result {
        Ok(None) => Ok(Answer::Done),
        Ok(Some(after)) => Ok(Answer::Retry(u64::try_from(after.as_millis()).unwrap_or(u64::MAX))),
        Err(EngineError::State { conflict: StateConflict::LeaseLost, .. }) => Ok(Answer::LeaseLost),
        Err(EngineError::State { conflict: StateConflict::AlreadyTerminal, .. }) => Ok(Answer::AlreadyEnded),
        Err(error) => Err(error),
    }
}

fn worker() -> WorkerId {
    WorkerId::new("simulated").expect("the name is valid")
}

fn spec(member: &Member, index: usize) -> ExecutionSpec {
    let millis = Duration::from_millis;
    let backoff = Backoff { initial: millis(member.backoff), max: millis(4 * member.backoff) };
    let mut spec = ExecutionSpec::new(index.to_string())
        .payload(Bytes::from("x".repeat(index % 2)))
        .priority(member.priority)
        .attempts(member.attempts, backoff)
        .max_lease_expiries(member.expiries)
        .delay(millis(member.delay));
    spec.deadline = Some(millis(member.deadline)).filter(|deadline| !deadline.is_zero());
    spec.timeout = Some(millis(member.timeout)).filter(|timeout| !timeout.is_zero());
    spec
}

fn log_key(scope: Scope) -> String {
    keys::completion_log(LogId { partition: PARTITION, scope })
}

/// The library writes text only.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the library writes text")
}

fn bytes_of<'a>(value: &'a Value<'_>) -> &'a [u8] {
    if let Value::Bulk(bytes) = value { bytes } else { &[] }
}

/// The uuid at the end of an index's member.
fn uuid_in(member: &[u8]) -> String {
    let member = text(member);
    member[member.len() - 36..].to_owned()
}

/// The flow of a member of `ended`, if it is a flow's.
fn flow_of_ended(member: &[u8]) -> Option<String> {
    text(member).strip_prefix("flow:").map(str::to_owned)
}

/// The uuid at the beginning of a member of `open`; the flow's follows.
fn uuid_of_open(member: &[u8]) -> String {
    text(member)[..36].to_owned()
}

/// One entry of a log.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: EntryId,
    /// On an epoch's first entry, the one before it.
    prev: Option<String>,
    /// The uuid of the execution that ended.
    pub(super) uuid: String,
    /// Its bytes as the library counts them.
    pub(super) bytes: u64,
}

impl Entry {
    fn read(entry: &Value<'_>) -> Self {
        let Value::Array(entry) = entry else { panic!("a log holds entries, not {entry:?}") };
        let [id, Value::Array(fields)] = &entry[..] else { panic!("an entry has an id and fields: {entry:?}") };
        let field = |name: &[u8]| fields.chunks_exact(2).find(|pair| bytes_of(&pair[0]) == name).map(|pair| &pair[1]);
        let counted =
            [b"e".as_slice(), b"result"].map(|name| field(name).map_or(0, |value| bytes_of(value).len() as u64));
        let event = field(b"e").and_then(|event| serde_json::from_slice::<serde_json::Value>(bytes_of(event)).ok());
        let event = event.expect("an entry holds an event");
        Self {
            id: text(bytes_of(id)).parse().expect("an entry has an id"),
            prev: field(b"prev").map(|prev| text(bytes_of(prev)).to_owned()),
            uuid: uuid_in(event["execution_id"].as_str().expect("an event names its execution").as_bytes()),
            bytes: counted.iter().sum::<u64>() + OVERHEAD,
        }
    }

    /// Whether a reader at the start can prove that this is the log's first entry.
    pub(super) fn begins(&self) -> bool {
        self.prev.as_deref() == Some("none")
    }

    /// Whether a reader at this entry can prove that `next` follows it.
    pub(super) fn leads_to(&self, next: &Self) -> bool {
        next.follows(Some(self.id))
    }

    /// Whether a reader at `last`, or at the start, can prove that this entry follows.
    pub(super) fn follows(&self, last: Option<EntryId>) -> bool {
        match (&self.prev, last) {
            (Some(prev), Some(last)) => *prev == last.to_string(),
            (Some(prev), None) => prev == "none",
            (None, Some(last)) => (self.id.epoch, self.id.seq) == (last.epoch, last.seq + 1),
            (None, None) => false,
        }
    }
}
