//! A private server with a backend, and raw reads of what the library writes.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::{sync::Arc, time::Duration};

use ff_core::{EngineBackend, ExecutionId, LogId, Scope};
use ff_script::keys;
use ff_testserver::{RawClient, Reply, TestServer};
use ff_valkey::ValkeyBackend;

pub struct Stand {
    pub server: TestServer,
    pub backend: Arc<dyn EngineBackend>,
}

impl Stand {
    pub async fn start() -> Self {
        Self::on(TestServer::start().await.unwrap()).await
    }

    /// A server whose clock is stopped at this time (ms).
    pub async fn at(millis: u64) -> Self {
        Self::on(TestServer::builder().clock_at(millis).build().await.unwrap()).await
    }

    async fn on(server: TestServer) -> Self {
        let backend: Arc<dyn EngineBackend> = Arc::new(ValkeyBackend::connect(server.url()).await.unwrap());
        Self { server, backend }
    }

    pub async fn command(&self, args: &[&str]) -> Reply {
        let reply = self.server.command(args).await.unwrap();
        assert!(!reply.is_error(), "{args:?}: {}", reply.text());
        reply
    }

    pub async fn log_length(&self, id: ExecutionId, scope: Scope) -> i64 {
        let log = LogId { partition: id.partition(), scope };
        self.command(&["XLEN", &keys::completion_log(log)]).await.int().unwrap()
    }

    pub async fn field(&self, id: ExecutionId, field: &str) -> String {
        self.command(&["HGET", &keys::execution_core(id), field]).await.text()
    }

    /// How many commands that read an execution's hashes the server has executed since its statistics were reset,
    /// including those of the library.
    pub async fn reading_commands(&self) -> u64 {
        let stats = self.command(&["INFO", "commandstats"]).await.text();
        let reading = ["hget", "hmget", "hgetall", "hexists", "hscan", "hvals", "get", "mget"];
        let calls = |line: &str| {
            let (command, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            let calls = figures.split(',').next()?.parse::<u64>().ok()?;
            reading.contains(&command).then_some(calls)
        };
        stats.lines().filter_map(calls).sum()
    }

    /// The raw messages of a channel from now on.
    pub async fn listen(&self, channel: &str) -> Listener {
        let mut client = self.server.client().await.unwrap();
        client.command(&["SUBSCRIBE", channel]).await.unwrap();
        Listener { client }
    }
}

pub struct Listener {
    client: RawClient,
}

impl Listener {
    pub async fn next(&mut self) -> serde_json::Value {
        let reply = tokio::time::timeout(Duration::from_secs(60), self.client.receive()).await.unwrap().unwrap();
        serde_json::from_str(&reply.items()[2].text()).unwrap()
    }

    /// All messages so far: publishes a marker and reads up to it.
    pub async fn drain(&mut self, stand: &Stand, channel: &str) -> Vec<serde_json::Value> {
        stand.command(&["PUBLISH", channel, "\"marker\""]).await;
        let mut messages = Vec::new();
        loop {
            match self.next().await {
                serde_json::Value::String(_) => return messages,
                message => messages.push(message),
            }
        }
    }
}
