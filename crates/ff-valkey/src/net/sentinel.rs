//! Asks sentinels for the current primary.
//!
//! All sentinels are asked at once, so that dead ones cost no time. The answer with the newest configuration counts: a
//! sentinel that was cut off from the others names the former primary, which may still report the primary role.
//! Connections to sentinels are kept, because the query is repeated often.

use std::time::Duration;

use ff_core::EngineError;
use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, Value, config::Config},
};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    ValkeyConfig,
    net::{
        address::Address,
        connection::{ConnectionDriver, drive},
        value,
        wording::{sentence, wrong_certificate},
    },
};

/// The time limit for one sentinel, including its connection.
const LIMIT: Duration = Duration::from_secs(1);
/// The time limit for the other sentinels once one has answered.
const OTHERS: Duration = Duration::from_millis(200);

/// The sentinels of one service.
pub(crate) struct Sentinels {
    service: String,
    nodes: Vec<Node>,
}

/// One sentinel, and its connection if there is one.
struct Node {
    address: Address,
    link: Mutex<Option<OneShotClient>>,
}

/// A connection that is not re-established when it is lost, and closed when dropped.
pub(crate) struct OneShotClient {
    pub(crate) client: Client,
    _router: ConnectionDriver,
}

/// The answer of one sentinel.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// The primary's address, and the version of the configuration that it comes from.
    Primary { address: Address, epoch: u64 },
    /// It monitors other services only.
    NoSuchService { others: Vec<String> },
}

impl Sentinels {
    pub(crate) fn new(service: &str, sentinels: &[Address]) -> Self {
        let node = |address: &Address| Node { address: address.clone(), link: Mutex::new(None) };
        Self { service: service.to_owned(), nodes: sentinels.iter().map(node).collect() }
    }

    /// The candidates for the primary by the newest configuration, most likely first.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] if no such service is known, [`EngineError::PermissionDenied`] for wrong
    /// credentials, [`EngineError::Transport`] when no sentinel answers; each names the sentinels.
    pub(crate) async fn candidates(
        &self,
        config: &ValkeyConfig,
        current: Option<&Address>,
    ) -> Result<Vec<Address>, EngineError> {
        let answers = self.ask_all(config).await;
        let named = answers.iter().filter_map(|(_, answer)| match answer {
            Ok(Answer::Primary { address, epoch }) => Some((address, *epoch)),
            _ => None,
        });
        let ranked = rank(named, current);
        if ranked.is_empty() { Err(self.failure(config, &answers)) } else { Ok(ranked) }
    }

    async fn ask_all(&self, config: &ValkeyConfig) -> Vec<(&Address, Result<Answer, Error>)> {
        let asked = self.nodes.iter().map(|node| async { (&node.address, node.ask(config, &self.service).await) });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut answers = Vec::new();
        let mut until = Instant::now() + LIMIT;
        while let Ok(Some(answer)) = timeout_at(until, asked.next()).await {
            if matches!(answer.1, Ok(Answer::Primary { .. })) {
                until = until.min(Instant::now() + OTHERS);
            }
            answers.push(answer);
        }
        let is_silent = |node: &&Node| !answers.iter().any(|(address, _)| **address == node.address);
        let silent: Vec<&Node> = self.nodes.iter().filter(is_silent).collect();
        answers.extend(silent.into_iter().map(|node| (&node.address, Err(silence()))));
        answers
    }

    fn failure(&self, config: &ValkeyConfig, answers: &[(&Address, Result<Answer, Error>)]) -> EngineError {
        let op = format!("finding {}", config.endpoint);
        let others = answers.iter().find_map(|(_, answer)| match answer {
            Ok(Answer::NoSuchService { others }) => Some(others),
            _ => None,
        });
        if let Some(others) = others {
            let known = if others.is_empty() { "none".into() } else { format!("`{}`", others.join("`, `")) };
            let reason = format!("the sentinels do not monitor it; services they know: {known}");
            return EngineError::invalid(config.endpoint.to_string(), reason);
        }
        let failures = || answers.iter().filter_map(|(at, answer)| Some((at, answer.as_ref().err()?)));
        if let Some((at, error)) = failures().find(|(_, error)| is_refusal(error)) {
            let fix = "the sentinels' own user and password are written ?sentinelUser=…&sentinelPass=…";
            return EngineError::PermissionDenied { op, reason: format!("{at}: {}; {fix}", sentence(error)) };
        }
        let is_lasting = |error: &Error| *error.kind() == ErrorKind::Config || wrong_certificate(error).is_some();
        if let Some((at, error)) = failures().find(|(_, error)| is_lasting(error)) {
            let reason = wrong_certificate(error).unwrap_or_else(|| sentence(error));
            return EngineError::invalid(format!("sentinel {at}"), reason);
        }
        let each: Vec<String> = failures().map(|(at, error)| format!("{at}: {}", sentence(error))).collect();
        EngineError::transport(op, format!("no sentinel answers ({})", each.join("; ")))
    }
}

fn is_refusal(error: &Error) -> bool {
    let refused = |code| error.details().starts_with(code);
    *error.kind() == ErrorKind::Auth || ["NOAUTH", "WRONGPASS", "NOPERM"].into_iter().any(refused)
}

/// The addresses of the newest configuration: those named by most sentinels first; on a tie the current one.
fn rank<'a>(named: impl Iterator<Item = (&'a Address, u64)>, current: Option<&Address>) -> Vec<Address> {
    let named: Vec<(&Address, u64)> = named.collect();
    let newest = named.iter().map(|(_, epoch)| *epoch).max().unwrap_or(0);
    let mut votes: Vec<(&Address, usize)> = Vec::new();
    for (address, _) in named.iter().filter(|(_, epoch)| *epoch == newest) {
        match votes.iter_mut().find(|(other, _)| other == address) {
            Some((_, count)) => *count += 1,
            None => votes.push((address, 1)),
        }
    }
    votes.sort_by_key(|(address, count)| (std::cmp::Reverse(*count), Some(*address) != current));
    votes.into_iter().map(|(address, _)| address.clone()).collect()
}

impl Node {
    async fn ask(&self, config: &ValkeyConfig, service: &str) -> Result<Answer, Error> {
        let mut link = self.link.lock().await;
        // Take the connection out while it is in use: if the caller is cancelled or gets no reply, a possibly dead
        // connection is dropped instead of reused.
        if let Some(kept) = link.take()
            && let Ok(answer) = kept.ask(service).await
        {
            *link = Some(kept);
            return Ok(answer);
        }
        let unusable = |error: EngineError| Error::new(ErrorKind::Config, error.to_string());
        let of = config.sentinel_config(&self.address).map_err(unusable)?;
        let fresh = OneShotClient::open(of, config, LIMIT).await?;
        let answer = fresh.ask(service).await?;
        *link = Some(fresh);
        Ok(answer)
    }
}

impl OneShotClient {
    /// Connects within the time limit, which also applies to each answer.
    pub(crate) async fn open(of: Config, config: &ValkeyConfig, limit: Duration) -> Result<Self, Error> {
        let limits = ValkeyConfig { connect_timeout: limit, command_timeout: limit, ..config.clone() };
        let client = Client::new(of, Some(limits.performance_config(32)), Some(limits.connection_config()), None);
        let router = drive(&client, limit).await.unwrap_or_else(|| Err(silence()))?;
        Ok(Self { client, _router: router })
    }

    async fn ask(&self, service: &str) -> Result<Answer, Error> {
        let named = self.sentinel(&["GET-MASTER-ADDR-BY-NAME", service]).await?;
        let Some(address) = address_in(named) else {
            let others = self.sentinel(&["MASTERS"]).await.map(names_in).unwrap_or_default();
            return Ok(Answer::NoSuchService { others });
        };
        // Without permission for this query all answers count as equally new.
        let state = self.sentinel(&["MASTER", service]).await;
        Ok(Answer::Primary { address, epoch: state.ok().and_then(epoch_in).unwrap_or(0) })
    }

    async fn sentinel(&self, args: &[&str]) -> Result<Value, Error> {
        let command = CustomCommand::new_static("SENTINEL", ClusterHash::Random, false);
        let args: Vec<Value> = args.iter().map(|arg| Value::from(*arg)).collect();
        timeout(LIMIT, self.client.custom(command, args)).await.unwrap_or_else(|_| Err(silence()))
    }
}

fn silence() -> Error {
    Error::new(ErrorKind::Timeout, "it does not answer")
}

fn address_in(named: Value) -> Option<Address> {
    let parts = value::strings(named)?;
    let text = |at: usize| std::str::from_utf8(parts.get(at)?).ok();
    Some(Address { host: text(0)?.to_owned(), port: text(1)?.parse().ok()? })
}

fn field(state: Value, name: &str) -> Option<String> {
    let pairs = value::pairs(state)?;
    let (_, value) = pairs.into_iter().find(|(key, _)| &**key == name.as_bytes())?;
    String::from_utf8(value.to_vec()).ok()
}

fn epoch_in(state: Value) -> Option<u64> {
    field(state, "config-epoch")?.parse().ok()
}

fn names_in(states: Value) -> Vec<String> {
    match states {
        Value::Array(states) => states.into_iter().filter_map(|state| field(state, "name")).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Address {
        Address { host: "10.0.0.1".into(), port }
    }

    fn ranked(named: &[(u16, u64)], current: Option<u16>) -> Vec<u16> {
        let named: Vec<(Address, u64)> = named.iter().map(|(port, epoch)| (at(*port), *epoch)).collect();
        let ranked = rank(named.iter().map(|(address, epoch)| (address, *epoch)), current.map(at).as_ref());
        ranked.into_iter().map(|address| address.port).collect()
    }

    #[test]
    fn the_newest_configuration_counts_however_many_name_an_older_one() {
        assert_eq!(ranked(&[(1, 3), (1, 3), (2, 4)], Some(1)), [2]);
        assert_eq!(ranked(&[], Some(1)), [0_u16; 0]);
    }

    #[test]
    fn of_equally_new_answers_the_most_named_comes_first_and_then_the_present_one() {
        assert_eq!(ranked(&[(1, 0), (2, 0), (2, 0)], Some(1)), [2, 1]);
        assert_eq!(ranked(&[(1, 0), (2, 0)], Some(2)), [2, 1]);
        assert_eq!(ranked(&[(1, 0), (2, 0)], None), [1, 2]);
    }

    #[test]
    fn replies_of_sentinels_are_parsed_from_names_and_values() {
        let words = |words: &[&str]| Value::Array(words.iter().map(|word| Value::from(*word)).collect());
        assert_eq!(address_in(words(&["10.0.0.1", "7"])), Some(at(7)));
        assert_eq!((address_in(Value::Null), address_in(words(&["h", "x"]))), (None, None));
        let state = words(&["name", "orders", "ip", "h", "config-epoch", "12"]);
        assert_eq!(epoch_in(state.clone()), Some(12));
        assert_eq!(names_in(Value::Array(vec![state])), ["orders"]);
        assert!(names_in(Value::Null).is_empty());
    }

    #[test]
    fn a_failure_names_the_sentinels_and_the_fix() {
        let config = ValkeyConfig::from_url("redis-sentinel://:secret@10.0.0.1:1,10.0.0.1:2/orders").unwrap();
        let sentinels = Sentinels::new("orders", &[at(1), at(2)]);
        let error = |kind, text: &'static str| Err(Error::new(kind, text));
        let (a, b) = (at(1), at(2));
        let failure = |answers: [Result<Answer, Error>; 2]| {
            let [first, second] = answers;
            sentinels.failure(&config, &[(&a, first), (&b, second)])
        };
        let refused = || error(ErrorKind::IO, "Connection refused");
        let text = failure([refused(), refused()]).to_string();
        assert!(text.contains("10.0.0.1:1: Connection refused; 10.0.0.1:2: Connection refused"), "{text}");
        assert!(!text.contains("secret"), "{text}");
        let denied = failure([refused(), error(ErrorKind::Unknown, "NOAUTH Authentication required.")]);
        assert!(denied.to_string().contains("sentinelPass=") && !denied.is_retryable(), "{denied}");
        let unknown = failure([refused(), Ok(Answer::NoSuchService { others: vec!["bills".into()] })]);
        assert!(matches!(unknown, EngineError::InvalidInput { .. }), "{unknown}");
        assert!(unknown.to_string().contains("`orders`") && unknown.to_string().contains("`bills`"), "{unknown}");
    }
}
