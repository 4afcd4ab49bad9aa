//! [`ScriptHost`] on a Valkey server: one connection for calls, one for reads.
//!
//! Reads have a separate connection so that catching up with a long log does not delay calls. A call that must not run
//! twice is not sent again when its connection is lost: its caller gets the error and decides. A call that a replica
//! refused has not run: it is sent again until a primary accepts it, within the command timeout.

pub(crate) mod apart;
pub(crate) mod inspect;
pub(crate) mod together;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use ff_core::EngineError;
use ff_script::{
    host::{Call, Reply, ScriptHost, ServerVersion},
    loader,
};
use fred::{
    clients::Client,
    error::Error,
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, Value, config::Options},
};
use tokio::time::Instant;

use crate::{
    ValkeyConfig,
    host::apart::Apart,
    net::{
        backoff::Backoff,
        connection::{Connection, Life, Task, UnconnectedClient},
        error::{OpContext, is_missing_function, is_replica},
        primary::{Primary, Role},
        value,
    },
};

/// A Valkey server that runs the library.
pub struct ValkeyHost {
    primary: Arc<Primary>,
    calls: Connection,
    reads: Connection,
    _follow: Option<Task>,
    apart: Apart,
    loading: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for ValkeyHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ValkeyHost")
            .field("config", self.config())
            .field("server", &self.server())
            .finish_non_exhaustive()
    }
}

impl ValkeyHost {
    /// Connects. The connections reconnect on their own for as long as the host lives.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for an invalid configuration, [`EngineError::PermissionDenied`] for wrong
    /// credentials, [`EngineError::Transport`] or [`EngineError::Timeout`] when no server answers,
    /// [`EngineError::Contention`] if the server is a replica.
    pub async fn connect(config: ValkeyConfig) -> Result<Self, EngineError> {
        config.check()?;
        let primary = Arc::new(Primary::new(config));
        primary.first().await?;
        let open = async || Connection::open(UnconnectedClient::to_ask(&primary).await?).await;
        let (calls, reads) = futures::try_join!(open(), open())?;
        let follow = primary.is_named().then(|| primary.tasks().spawn("sentinels", primary.clone().follow()));
        Ok(Self {
            primary,
            calls,
            reads,
            _follow: follow,
            apart: Apart::default(),
            loading: tokio::sync::Mutex::new(()),
        })
    }

    /// The configuration of the connection.
    #[must_use]
    pub fn config(&self) -> &ValkeyConfig {
        self.primary.config()
    }

    /// The server that commands go to: the configured one, or the primary that the sentinels named.
    #[must_use]
    pub fn server(&self) -> String {
        self.calls.leads_to().map_or_else(|| self.config().endpoint.to_string(), |address| address.to_string())
    }

    pub(crate) const fn primary(&self) -> &Arc<Primary> {
        &self.primary
    }

    pub(crate) const fn reads(&self) -> &Client {
        self.reads.get()
    }

    pub(crate) fn reads_life(&self) -> &Life {
        self.reads.life()
    }

    /// Data counts only if the server's role, read after the data, is primary.
    pub(crate) fn must_be_primary(&self, op: &str, role: &Role) -> Result<(), EngineError> {
        role.must_be_primary(op).inspect_err(|_| self.reads.doubt())
    }

    /// The last error of a connection, until all connections have recovered.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.primary.outage().last_error()
    }

    /// Internal tasks that have ended, including those of the separate connections.
    pub(crate) fn ended_tasks(&self) -> Vec<&'static str> {
        let mut ended = self.primary.tasks().ended();
        ended.extend(self.apart.get().map(|apart| apart.primary.tasks().ended()).unwrap_or_default());
        ended
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.calls.is_connected() && self.reads.is_connected()
    }

    pub(crate) fn doing<'a>(&'a self, op: &'a str) -> OpContext<'a> {
        OpContext::command(op, self.config())
    }

    async fn call(&self, call: &Call) -> Result<Reply, Failure> {
        let mut moving = PrimaryRetry::of(self);
        let life = self.calls.life();
        let _large = is_large(call).then(|| life.large());
        loop {
            let (command, args) = command(call);
            let answer: Result<Value, Error> =
                self.calls.get().with_options(&options(call)).custom(command, args).await;
            life.hear_of(&answer);
            match answer {
                Err(error) if is_replica(&error) && moving.again().await => {}
                answer => return self.answer(call, answer),
            }
        }
    }

    async fn call_all(&self, calls: &[&Call]) -> Vec<Result<Reply, Failure>> {
        let mut moving = PrimaryRetry::of(self);
        let mut answers = self.send_all(calls).await;
        loop {
            let is_refused = |answer: &Result<Value, Error>| answer.as_ref().is_err_and(is_replica);
            let refused: Vec<usize> = (0..calls.len()).filter(|at| is_refused(&answers[*at])).collect();
            if refused.is_empty() || !moving.again().await {
                return calls.iter().zip(answers).map(|(call, answer)| self.answer(call, answer)).collect();
            }
            let again: Vec<&Call> = refused.iter().map(|at| calls[*at]).collect();
            for (at, answer) in refused.into_iter().zip(self.send_all(&again).await) {
                answers[at] = answer;
            }
        }
    }

    /// One answer for each call.
    async fn send_all(&self, calls: &[&Call]) -> Vec<Result<Value, Error>> {
        let for_all = |error: Error| calls.iter().map(|_| Err(error.clone())).collect();
        let life = self.calls.life();
        let _large = calls.iter().any(|call| is_large(call)).then(|| life.large());
        let pipeline = self.calls.get().pipeline();
        for call in calls {
            let (command, args) = command(call);
            let queued: Result<(), Error> = pipeline.with_options(&options(call)).custom(command, args).await;
            if let Err(error) = queued {
                return for_all(error);
            }
        }
        let mut answers = pipeline.try_all::<Value>().await;
        answers.iter().for_each(|answer| life.hear_of(answer));
        // One error for all calls if the pipeline as a whole was not answered.
        if answers.len() < calls.len() {
            return for_all(answers.drain(..).find_map(Result::err).unwrap_or_else(Error::new_canceled));
        }
        answers
    }

    fn answer(&self, call: &Call, answer: Result<Value, Error>) -> Result<Reply, Failure> {
        match answer {
            Ok(value) => value::strings(value).ok_or_else(|| {
                let text = "the function's reply is not a flat array of strings";
                Failure::Other(EngineError::protocol(call.function, text))
            }),
            Err(error) if is_missing_function(&error) => Err(Failure::NoLibrary(error)),
            Err(error) => Err(Failure::Other(self.doing(call.function).failed(error))),
        }
    }

    /// Loads the library once for all calls that found it missing together.
    async fn load(&self) -> Result<(), EngineError> {
        let _turn = self.loading.lock().await;
        loader::ensure_loaded(self).await.map(drop)
    }

    fn not_loaded(&self, error: Error) -> EngineError {
        const OP: &str = "loading the library";
        match self.doing(OP).failed(error) {
            // The server has read the library and does not accept its text.
            EngineError::Transport { cause, .. } if cause.to_string().starts_with("ERR ") => {
                EngineError::protocol(format!("{OP} at {}", self.config().endpoint), cause.to_string())
            }
            other => other,
        }
    }

    fn give_up(&self, call: &Call, failure: Failure) -> EngineError {
        match failure {
            Failure::NoLibrary(error) => self.doing(call.function).failed(error),
            Failure::Other(error) => error,
        }
    }
}

enum Failure {
    NoLibrary(Error),
    Other(EngineError),
}

/// Retries a call until a primary accepts it.
struct PrimaryRetry<'a> {
    calls: &'a Connection,
    until: Instant,
    backoff: Backoff,
}

impl<'a> PrimaryRetry<'a> {
    fn of(host: &'a ValkeyHost) -> Self {
        let until = Instant::now() + host.config().command_timeout;
        Self { calls: &host.calls, until, backoff: Backoff::reconnect() }
    }

    /// Whether there is time for another attempt; returns after the pause.
    async fn again(&mut self) -> bool {
        self.calls.doubt();
        if Instant::now() >= self.until {
            return false;
        }
        self.backoff.pause().await;
        true
    }
}

#[async_trait]
impl ScriptHost for ValkeyHost {
    async fn fcall(&self, call: Call) -> Result<Reply, EngineError> {
        match self.call(&call).await {
            Ok(reply) => Ok(reply),
            Err(Failure::NoLibrary(_)) => {
                self.load().await?;
                self.call(&call).await.map_err(|failure| self.give_up(&call, failure))
            }
            Err(Failure::Other(error)) => Err(error),
        }
    }

    async fn fcall_many(&self, calls: Vec<Call>) -> Vec<Result<Reply, EngineError>> {
        let all: Vec<&Call> = calls.iter().collect();
        let mut answers = self.call_all(&all).await;
        let missing: Vec<usize> = answers
            .iter()
            .enumerate()
            .filter(|(_, a)| matches!(a, Err(Failure::NoLibrary(_))))
            .map(|(i, _)| i)
            .collect();
        if !missing.is_empty() {
            match self.load().await {
                Ok(()) => {
                    let again: Vec<&Call> = missing.iter().map(|index| &calls[*index]).collect();
                    for (index, answer) in missing.into_iter().zip(self.call_all(&again).await) {
                        answers[index] = answer;
                    }
                }
                Err(error) => {
                    for index in missing {
                        answers[index] = Err(Failure::Other(error.clone()));
                    }
                }
            }
        }
        calls.iter().zip(answers).map(|(call, a)| a.map_err(|failure| self.give_up(call, failure))).collect()
    }

    async fn fcall_apart(&self, calls: Vec<Call>) -> Vec<Result<Reply, EngineError>> {
        match self.apart.host(self.config()).await {
            Ok(host) => host.fcall_many(calls).await,
            Err(error) => {
                tracing::warn!(%error, "no connection of their own for renewals; the ones for other calls take them");
                self.fcall_many(calls).await
            }
        }
    }

    async fn load_library(&self, source: &str) -> Result<(), EngineError> {
        let mut moving = PrimaryRetry::of(self);
        loop {
            let command = CustomCommand::new_static("FUNCTION", ClusterHash::Random, false);
            let args: Vec<Value> = vec!["LOAD".into(), "REPLACE".into(), source.into()];
            let loaded: Result<Value, Error> = self.calls.get().custom(command, args).await;
            match loaded {
                Err(error) if is_replica(&error) && moving.again().await => {}
                loaded => {
                    return loaded.map(drop).map_err(|error| self.not_loaded(error));
                }
            }
        }
    }

    async fn probe(&self, call: Call) -> Result<Option<Reply>, EngineError> {
        match self.call(&call).await {
            Ok(reply) => Ok(Some(reply)),
            Err(Failure::NoLibrary(_)) => Ok(None),
            Err(Failure::Other(error)) => Err(error),
        }
    }

    async fn server_version(&self) -> Result<ServerVersion, EngineError> {
        let command = CustomCommand::new_static("INFO", ClusterHash::Random, false);
        let info: String = self
            .calls
            .get()
            .custom(command, vec![Value::from("server")])
            .await
            .map_err(|error| self.doing("asking for the server's version").failed(error))?;
        version_in(&info)
            .ok_or_else(|| EngineError::protocol("asking for the server's version", "INFO names no version"))
    }
}

fn version_in(info: &str) -> Option<ServerVersion> {
    let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    // Valkey also reports a compatible `redis_version`.
    let (name, text) = match value("valkey_version") {
        Some(version) => ("valkey", version),
        None => ("redis", value("redis_version")?),
    };
    let mut parts = text.split('.').map(|part| part.parse().ok());
    let mut part = || parts.next().unwrap_or(Some(0));
    Some(ServerVersion { name: name.to_owned(), version: (part()?, part()?, part()?) })
}

fn command(call: &Call) -> (CustomCommand, Vec<Value>) {
    let name = if call.read_only { "FCALL_RO" } else { "FCALL" };
    let slot = call.keys.first().map(|key| fred::util::redis_keyslot(key.as_bytes()));
    let hash = slot.map_or(ClusterHash::Random, ClusterHash::Custom);
    (CustomCommand::new_static(name, hash, false), arguments(call))
}

/// The arguments of FCALL or FCALL_RO.
pub(crate) fn arguments(call: &Call) -> Vec<Value> {
    let mut args: Vec<Value> = Vec::with_capacity(2 + call.keys.len() + call.args.len());
    args.push(Value::from_static_str(call.function));
    args.push(call.keys.len().to_string().into());
    args.extend(call.keys.iter().map(|key| Value::from(key.as_str())));
    args.extend(call.args.iter().cloned().map(|arg: Bytes| Value::Bytes(arg)));
    args
}

/// Whether a call or its answer may be in transit for longer than a connection may be silent.
fn is_large(call: &Call) -> bool {
    /// Some tenths of a second on a slow link.
    const LARGE: usize = 64 << 10;
    let answer = call.read_only || call.function == "ff1_claim";
    answer || call.args.iter().map(Bytes::len).sum::<usize>() > LARGE
}

fn options(call: &Call) -> Options {
    Options { max_attempts: (!call.idempotent).then_some(1), ..Options::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_either_server() {
        let valkey = "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\n";
        let version = version_in(valkey).unwrap();
        assert_eq!((version.name.as_str(), version.version), ("valkey", (8, 0, 1)));
        let redis = version_in("redis_version:6.2.14\r\nredis_mode:standalone\r\n").unwrap();
        assert_eq!((redis.name.as_str(), redis.version), ("redis", (6, 2, 14)));
        assert!(version_in("redis_version:x.y").is_none() && version_in("").is_none());
    }
}
