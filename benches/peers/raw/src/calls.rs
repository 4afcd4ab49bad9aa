//! The calls of the functions, and the keys and texts that they take.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use fred::prelude::{Builder, Client, ClientLike, Config, TcpConfig, Value};
use fred::types::{ClusterHash, CustomCommand};

const LIBRARY: &str = include_str!("library.lua");
pub(crate) const PARTITIONS: usize = 256;
/// The channel of the completions of flows.
pub(crate) const FLOWS: &str = "raw:flow:completions";
const SOLO: &str = "raw:solo:completions";
const FINGERPRINT: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A flow that was submitted.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) partition: usize,
    pub(crate) id: String,
    pub(crate) members: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Calls(Client);

fn part(partition: usize, name: &str) -> String {
    format!("raw:part:{{fp:{partition}}}:{name}")
}

fn prefix(partition: usize) -> String {
    format!("raw:exec:{{fp:{partition}}}:{{fp:{partition}}}:")
}

fn core(partition: usize, uuid: &str) -> String {
    format!("{}{uuid}:core", prefix(partition))
}

fn millis() -> String {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis().to_string()
}

pub(crate) fn new_uuid() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// The member of `ready`: lane, priority, time, and the uuid.
fn ready_member(uuid: &str) -> String {
    format!("default\n999{}0000:{uuid}", millis())
}

/// The uuid in an event.
pub(crate) fn uuid_of(event: &str) -> Option<String> {
    let (_, rest) = event.split_once("}:")?;
    rest.get(..36).map(str::to_owned)
}

fn event(partition: usize, uuid: &str) -> String {
    let at = millis();
    format!(
        r#"{{"execution_id":"{{fp:{partition}}}:{uuid}","outcome":"success","at":{at},"ns":"tenant","lane":"default","attempt":1,"gen":0}}"#
    )
}

/// The fields of a record.
fn fields(partition: usize, uuid: &str, ready: &str, further: &[(&str, &str)]) -> Vec<String> {
    let (now, id) = (millis(), format!("{{fp:{partition}}}:{uuid}"));
    let known = [
        ("execution_id", id.as_str()),
        ("name", "job"),
        ("namespace", "tenant"),
        ("lane_id", "default"),
        ("priority", "0"),
        ("tags_json", "{}"),
        ("lifecycle_phase", "runnable"),
        ("public_state", "waiting"),
        ("terminal_outcome", "none"),
        ("created_at", &now),
        ("current_attempt_index", "0"),
        ("generation", "0"),
        ("lease_epoch", "0"),
        ("unmet_needs", "0"),
        ("max_attempts", "1"),
        ("max_lease_expiries", "3"),
        ("backoff_ms", "1000"),
        ("backoff_max_ms", "300000"),
        ("ready_member", ready),
        ("fingerprint", FINGERPRINT),
    ];
    known.iter().chain(further).flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()]).collect()
}

/// The keys of an end.
fn ends(partition: usize, uuid: &str, log: &str) -> Vec<String> {
    let of = |name| part(partition, name);
    vec![core(partition, uuid), of(log), of("ended"), of("leases"), of("open")]
}

impl Calls {
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let mut builder = Builder::from_config(Config::from_url(url)?);
        builder.with_connection_config(|connection| {
            connection.tcp = TcpConfig { nodelay: Some(true), ..Default::default() };
        });
        let client = builder.build()?;
        client.init().await?;
        let load = CustomCommand::new_static("FUNCTION", ClusterHash::Random, false);
        let _: Value = client.custom(load, vec!["LOAD", "REPLACE", LIBRARY]).await?;
        Ok(Self(client))
    }

    async fn call(&self, function: &'static str, keys: Vec<String>, args: Vec<String>) -> Result<Vec<String>> {
        let fcall = CustomCommand::new_static("FCALL", ClusterHash::Random, false);
        let count = keys.len().to_string();
        let all: Vec<Value> =
            [function.to_owned(), count].into_iter().chain(keys).chain(args).map(Value::from).collect();
        match self.0.custom(fcall, all).await? {
            Value::Array(items) => Ok(items.into_iter().filter_map(|item| item.into_string()).collect()),
            other => bail!("{function} answered {other:?}"),
        }
    }

    pub(crate) async fn submit(&self, partition: usize, payload: &str) -> Result<()> {
        let uuid = new_uuid();
        let ready = ready_member(&uuid);
        let further: &[_] = if payload.is_empty() { &[] } else { &[("payload", payload)] };
        let mut args = vec![uuid.clone(), ready.clone()];
        args.extend(fields(partition, &uuid, &ready, further));
        let keys = vec![core(partition, &uuid), part(partition, "open"), part(partition, "ready")];
        self.call("raw_submit", keys, args).await.map(drop)
    }

    /// Claims the first waiting execution; returns its uuid.
    pub(crate) async fn claim(&self, partition: usize) -> Result<String> {
        let now = millis();
        let lease = [
            ("lifecycle_phase", "active"),
            ("public_state", "active"),
            ("current_attempt_index", "1"),
            ("lease_epoch", "1"),
            ("lease_worker", "worker-1"),
            ("lease_expires_at", now.as_str()),
            ("started_at", &now),
            ("timeout_at", "0"),
        ];
        let mut args = vec![prefix(partition), now.clone()];
        args.extend(lease.iter().flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()]));
        let reply = self.call("raw_claim", vec![part(partition, "ready"), part(partition, "leases")], args).await?;
        reply.into_iter().next().context("nothing is waiting")
    }

    pub(crate) async fn complete(&self, partition: usize, uuid: &str) -> Result<()> {
        let args = vec![uuid.to_owned(), millis(), event(partition, uuid), SOLO.to_owned()];
        self.call("raw_complete", ends(partition, uuid, "completions:solo"), args).await.map(drop)
    }

    pub(crate) async fn publish(&self, partition: usize, uuid: &str) -> Result<()> {
        let args = vec![FLOWS.to_owned(), event(partition, uuid)];
        self.call("raw_publish", vec![part(partition, "completions")], args).await.map(drop)
    }

    pub(crate) async fn submit_flow(&self, partition: usize, members: usize) -> Result<Flow> {
        let flow = Flow { partition, id: new_uuid(), members: (0..members).map(|_| new_uuid()).collect() };
        let (now, count, list) = (millis(), members.to_string(), flow.members.join(","));
        let own = [
            ("flow_id", flow.id.as_str()),
            ("namespace", "tenant"),
            ("fingerprint", FINGERPRINT),
            ("state", "running"),
            ("total", &count),
            ("remaining", &count),
            ("created_at", &now),
            ("members", &list),
        ];
        let mut args = vec![(own.len() * 2).to_string()];
        args.extend(own.iter().flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()]));
        let first = ready_member(&flow.members[0]);
        for (index, uuid) in flow.members.iter().enumerate() {
            let (index, needs) = (index.to_string(), &flow.members[index.saturating_sub(1)]);
            let further = [("flow_id", flow.id.as_str()), ("index", &index), ("needs", needs)];
            let fields = fields(partition, uuid, &ready_member(uuid), &further);
            if index == "0" {
                args.push(fields.len().to_string());
            }
            args.push(uuid.clone());
            args.extend(fields);
        }
        args.push(first);
        let mut keys = vec![part(partition, "open"), part(partition, "ready"), flow.key()];
        keys.extend(flow.members.iter().map(|uuid| core(partition, uuid)));
        self.call("raw_submit_flow", keys, args).await?;
        Ok(flow)
    }

    /// Completes the member `uuid`, after which the flow has `left` others. Its dependents can be claimed then if
    /// `promote`, else it is counted in them.
    pub(crate) async fn complete_member(
        &self,
        flow: &Flow,
        uuid: &str,
        left: usize,
        (dependents, promote): (&[String], bool),
    ) -> Result<()> {
        let mut keys = ends(flow.partition, uuid, "completions");
        keys.extend([part(flow.partition, "ready"), flow.key()]);
        keys.extend(dependents.iter().map(|dependent| core(flow.partition, dependent)));
        let mut args = vec![uuid.to_owned(), millis(), event(flow.partition, uuid), FLOWS.to_owned(), left.to_string()];
        args.extend(dependents.iter().map(|dependent| if promote { ready_member(dependent) } else { String::new() }));
        self.call("raw_complete_member", keys, args).await.map(drop)
    }
}

impl Flow {
    fn key(&self) -> String {
        format!("raw:flow:{{fp:{}}}:{}:core", self.partition, self.id)
    }
}
