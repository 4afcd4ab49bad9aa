//! A server for the simulation: its clock is set by a library that it preloads.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use bytes::Bytes;
use ff_core::{EntryId, PartitionCount};
use ff_embedded::{KeyValue, StreamEntry, Value};
use ff_test::simulation::{Stage, little};
use ff_testserver::{RawClient, Reply, TestServer};
use ff_valkey::{ValkeyBackend, ValkeyConfig};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

pub(crate) struct OnServer {
    backends: [ValkeyBackend; 2],
    little: Cell<bool>,
    client: RefCell<RawClient>,
    server: TestServer,
    runtime: Runtime,
}

impl OnServer {
    pub(crate) fn start() -> Result<Self, Box<dyn std::error::Error>> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (server, backends, client) = runtime.block_on(async {
            let server = TestServer::builder().clock_at(0).build().await?;
            let config = ValkeyConfig::from_url(server.url())?.partition_count(PartitionCount::new(1)?);
            let keeps_little = ValkeyBackend::connect_with(config.clone().log_policy(little())).await?;
            let backends = [ValkeyBackend::connect_with(config).await?, keeps_little];
            let client = server.client().await?;
            Ok::<_, Box<dyn std::error::Error>>((server, backends, client))
        })?;
        Ok(Self { backends, little: Cell::new(false), client: RefCell::new(client), server, runtime })
    }

    fn ask<A: AsRef<[u8]>>(&self, args: &[A]) -> Reply {
        let reply = self.runtime.block_on(self.client.borrow_mut().command(args)).expect("the server answers");
        assert!(!reply.is_error(), "{}", reply.text());
        reply
    }

    fn value(&self, key: &[u8]) -> KeyValue {
        let ask = |command: &str, rest: &[&str]| {
            let words = [command.as_bytes(), key].into_iter().chain(rest.iter().map(|word| word.as_bytes()));
            self.ask(&words.collect::<Vec<_>>())
        };
        match ask("TYPE", &[]).text().as_str() {
            "hash" => KeyValue::Hash(pairs(&ask("HGETALL", &[])).collect()),
            "zset" => {
                let members = ask("ZRANGE", &["0", "-1", "WITHSCORES"]);
                KeyValue::SortedSet(pairs(&members).map(|(member, score)| (member, number(&score))).collect())
            }
            "stream" => {
                let entry = |entry: &Reply| StreamEntry {
                    id: id(&entry.items()[0].text()),
                    fields: pairs(&entry.items()[1]).collect(),
                };
                let entries = ask("XRANGE", &["-", "+"]).items().iter().map(entry).collect();
                let about = self.ask(&[b"XINFO", b"STREAM".as_slice(), key]);
                let last = about.items().chunks_exact(2).find(|pair| pair[0].text() == "last-generated-id");
                KeyValue::Stream { entries, last_generated: id(&last.expect("a stream has a last id")[1].text()) }
            }
            "string" => KeyValue::String(bytes(&ask("GET", &[]))),
            other => panic!("the library keeps no {other}"),
        }
    }
}

impl Stage for OnServer {
    type Backend = ValkeyBackend;

    fn backend(&self) -> &ValkeyBackend {
        &self.backends[usize::from(self.little.get())]
    }

    fn keep_little(&self, little: bool) {
        self.little.set(little);
    }

    fn listeners(&self) -> [Uuid; 2] {
        [self.backends[0].listener(), self.backends[1].listener()]
    }

    fn wait<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(call)
    }

    fn set_clock(&self, millis: u64) {
        self.server.set_clock(millis).expect("the clock's file can be written");
        // The server deletes an expired key when it visits it. In process, keys expire when the clock is set.
        self.ask(&["SCAN", "0", "COUNT", "100000"]);
    }

    fn command(&self, args: &[&str]) -> Value<'static> {
        value(self.ask(args))
    }

    fn snapshot(&self) -> BTreeMap<Bytes, KeyValue> {
        let keys = self.ask(&["KEYS", "*"]);
        keys.items().iter().map(bytes).map(|key| (key.clone(), self.value(&key))).collect()
    }

    fn forget(&self) {
        self.ask(&["FUNCTION", "LOAD", "REPLACE", ff_script::SOURCE]);
    }
}

fn value(reply: Reply) -> Value<'static> {
    match reply {
        Reply::Nil => Value::Nil,
        Reply::Int(number) => Value::Integer(number),
        Reply::Status(text) | Reply::Error(text) => Value::Status(Cow::Owned(text.into_bytes())),
        Reply::Bulk(bytes) => Value::Bulk(Cow::Owned(bytes)),
        Reply::Array(items) => Value::Array(items.into_iter().map(value).collect()),
    }
}

fn bytes(reply: &Reply) -> Bytes {
    match reply {
        Reply::Bulk(bytes) => Bytes::copy_from_slice(bytes),
        other => panic!("{other:?} is not a string"),
    }
}

fn pairs(reply: &Reply) -> impl Iterator<Item = (Bytes, Bytes)> {
    reply.items().chunks_exact(2).map(|pair| (bytes(&pair[0]), bytes(&pair[1])))
}

fn number(score: &Bytes) -> f64 {
    std::str::from_utf8(score).ok().and_then(|text| text.parse().ok()).expect("a score is a number")
}

fn id(text: &str) -> EntryId {
    text.parse().expect("an entry has an id")
}
