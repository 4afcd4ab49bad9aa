//! The keyspace: the commands that the library uses, on data in memory, with the server's replies and errors.
//!
//! It supports no other command, and contains neither Lua nor a clock: the caller sets the time.

mod declared;
mod entry;
mod expiry;
mod generic;
mod hash;
mod listpack;
pub(crate) mod number;
mod snapshot;
mod stream;
mod stream_commands;
#[cfg(test)]
mod stream_tests;
mod string;
#[cfg(test)]
mod testing;
mod value;
mod zset;
#[cfg(test)]
mod zset_tests;

use std::{fmt, sync::Arc};

use rustc_hash::FxHashMap;

use declared::Declared;
use entry::{Data, Kind};
use expiry::Expiries;
pub(crate) use hash::Hash;
pub use snapshot::{KeyValue, StreamEntry};
pub(crate) use stream::{Entry, Stream};
pub use value::{CommandError, Value};

/// Delivers messages that are published on a channel.
pub(crate) trait Listeners: Send + Sync {
    /// Delivers a message and returns the number of receivers.
    fn announce(&self, channel: &[u8], message: &[u8]) -> usize;
}

struct Nobody;

impl Listeners for Nobody {
    fn announce(&self, _channel: &[u8], _message: &[u8]) -> usize {
        0
    }
}

type Run = for<'a> fn(&'a mut Keyspace, &[&[u8]]) -> Result<Value<'a>, CommandError>;

struct Command {
    name: &'static str,
    /// The number of arguments with the name; negative for at least that many.
    arity: i32,
    writes: bool,
    run: Run,
}

macro_rules! commands {
    ($($name:ident: $arity:literal $access:ident $run:path;)+) => {
        const COMMANDS: &[Command] = &[$(
            Command { name: stringify!($name), arity: $arity, writes: commands!(@$access), run: $run },
        )+];
    };
    (@reads) => { false };
    (@writes) => { true };
}

commands! {
    HGET: 3 reads hash::hget;
    HMGET: -3 reads hash::hmget;
    HSET: -4 writes hash::hset;
    ZADD: -4 writes zset::zadd;
    ZREM: -3 writes zset::zrem;
    ZRANGEBYLEX: -4 reads zset::zrangebylex;
    ZSCORE: 3 reads zset::zscore;
    ZRANGE: -4 reads zset::zrange;
    ZRANGEBYSCORE: -4 reads zset::zrangebyscore;
    ZCARD: 2 reads zset::zcard;
    TIME: 1 reads generic::time;
    INFO: -1 reads generic::info;
    XADD: -5 writes stream_commands::xadd;
    PUBLISH: 3 writes generic::announce;
    DEL: -2 writes generic::del;
    UNLINK: -2 writes generic::del;
    EXISTS: -2 reads generic::exists;
    TYPE: 2 reads generic::key_type;
    HEXISTS: 3 reads hash::hexists;
    HSTRLEN: 3 reads hash::hstrlen;
    HLEN: 2 reads hash::hlen;
    HKEYS: 2 reads hash::hkeys;
    HDEL: -3 writes hash::hdel;
    XRANGE: -4 reads stream_commands::xrange;
    XREVRANGE: -4 reads stream_commands::xrevrange;
    XLEN: 2 reads stream_commands::xlen;
    XTRIM: -4 writes stream_commands::xtrim;
    XDEL: -3 writes stream_commands::xdel;
    XINFO: -2 reads stream_commands::xinfo;
    SET: -3 writes string::set;
    GET: 2 reads string::get;
    STRLEN: 2 reads string::strlen;
    PEXPIRE: 3 writes expiry::pexpire;
    PTTL: 2 reads expiry::pttl;
    PERSIST: 2 writes expiry::persist;
}

/// Whether a caller may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    Full,
}

/// All keys and their values.
pub(crate) struct Keyspace {
    data: FxHashMap<Box<[u8]>, Data>,
    expiries: Expiries,
    now_us: u64,
    random: fastrand::Rng,
    created: u64,
    /// The id of this host, like a server's run id.
    run_id: u128,
    executed: u64,
    /// The streams that were appended to since [`Keyspace::take_appended`].
    appended: Vec<Box<[u8]>>,
    /// While a function runs: its KEYS, the only keys that it may create.
    declared: Declared,
    /// The creation that was refused in the present call, whether or not the function handled the error.
    undeclared: Option<CommandError>,
    listeners: Arc<dyn Listeners>,
}

impl fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyspace").field("keys", &self.data.len()).finish_non_exhaustive()
    }
}

impl Keyspace {
    /// An empty keyspace; the seed decides the order in which hashes are iterated.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        Self {
            data: FxHashMap::default(),
            expiries: Expiries::default(),
            now_us: 0,
            run_id: random.u128(..),
            random,
            created: 0,
            executed: 0,
            appended: Vec::new(),
            declared: Declared::default(),
            undeclared: None,
            listeners: Arc::new(Nobody),
        }
    }

    pub(crate) fn listen(&mut self, listeners: Arc<dyn Listeners>) {
        self.listeners = listeners;
    }

    /// Sets the time that `TIME` returns, in microseconds since 1970-01-01 UTC, and removes the keys that have expired.
    pub(crate) fn set_time(&mut self, now_us: u64) {
        self.now_us = now_us;
        while let Some(key) = self.expiries.pop_before(self.now_ms()) {
            self.data.remove(&key);
        }
    }

    const fn now_ms(&self) -> u64 {
        self.now_us / 1_000
    }

    /// From here on only these keys can be created. In a cluster a server could not know to which node another key
    /// belongs, so a single server must not be asked to create one either.
    pub(crate) fn begin_call<K: AsRef<[u8]>>(&mut self, declared: &[K]) {
        self.declared.begin(declared);
        self.undeclared = None;
    }

    /// Allows all keys to be created again, and returns the creation that was refused, if any.
    pub(crate) fn end_call(&mut self) -> Option<CommandError> {
        self.declared.end();
        self.undeclared.take()
    }

    /// The names of all commands.
    pub(crate) fn commands() -> impl Iterator<Item = &'static str> {
        COMMANDS.iter().map(|command| command.name)
    }

    /// Executes one command: its name, then its arguments.
    ///
    /// # Errors
    /// The errors of the server, with its texts; for an unsupported command an error with its name.
    pub(crate) fn execute(&mut self, args: &[&[u8]], access: Access) -> Result<Value<'_>, CommandError> {
        let name = args.first().copied().unwrap_or_default();
        let Some(command) = COMMANDS.iter().find(|command| command.name.as_bytes().eq_ignore_ascii_case(name)) else {
            let name = String::from_utf8_lossy(name);
            return Err(CommandError::new(format!("ERR this host does not know the command '{name}'")));
        };
        let count = i32::try_from(args.len()).unwrap_or(i32::MAX);
        if (command.arity >= 0 && count != command.arity) || count < -command.arity {
            return Err(CommandError::fixed("ERR Wrong number of args calling command from script"));
        }
        if command.writes && access == Access::ReadOnly {
            return Err(CommandError::fixed("ERR Write commands are not allowed from read-only scripts."));
        }
        self.executed += 1;
        (command.run)(self, args)
    }

    pub(crate) fn get<T: Kind>(&self, key: &[u8]) -> Result<Option<&T>, CommandError> {
        self.data.get(key).map(|data| T::of(data).ok_or(CommandError::WRONG_TYPE)).transpose()
    }

    fn get_mut<T: Kind>(&mut self, key: &[u8]) -> Result<Option<&mut T>, CommandError> {
        self.data.get_mut(key).map(|data| T::of_mut(data).ok_or(CommandError::WRONG_TYPE)).transpose()
    }

    fn get_or_create<T: Kind>(&mut self, key: &[u8]) -> Result<&mut T, CommandError> {
        if !self.contains(key) {
            self.check_declared(key)?;
            self.created += 1;
            self.data.insert(key.into(), T::create(self.created));
        }
        self.get_mut(key)?.ok_or(CommandError::WRONG_TYPE)
    }

    /// Replaces the value of the key, which loses its expiry.
    fn replace(&mut self, key: &[u8], data: Data) -> Result<(), CommandError> {
        if !self.contains(key) {
            self.check_declared(key)?;
        }
        self.expiries.clear(key);
        self.data.insert(key.into(), data);
        Ok(())
    }

    fn check_declared(&mut self, key: &[u8]) -> Result<(), CommandError> {
        if self.declared.allows(key) {
            return Ok(());
        }
        let error = CommandError::undeclared(key);
        self.undeclared = Some(error.clone());
        Err(error)
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.data.contains_key(key)
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        self.expiries.clear(key);
        self.data.remove(key).is_some()
    }

    /// When a key expires, in milliseconds since 1970-01-01 UTC.
    fn expiry(&self, key: &[u8]) -> Option<u64> {
        self.expiries.get(key)
    }

    fn expire(&mut self, key: &[u8], due: Option<u64>) {
        if let Some(due) = due {
            self.expiries.set(key, due);
        }
    }

    /// A separate source of randomness, derived from the seed.
    fn fork_random(&mut self) -> fastrand::Rng {
        self.random.fork()
    }

    fn appended_to(&mut self, key: &[u8]) {
        self.appended.push(key.into());
    }

    /// The keys of the streams that were appended to since the previous call, in order, one for each append.
    pub(crate) fn take_appended(&mut self) -> Vec<Box<[u8]>> {
        std::mem::take(&mut self.appended)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Bed;

    #[test]
    fn a_key_of_another_type_is_refused() {
        let mut bed = Bed::new();
        bed.run("HSET h a 1");
        bed.run("ZADD z 1 a");
        for command in [
            "HGET z a",
            "HSET z a 1",
            "HKEYS z",
            "HDEL z a",
            "ZADD h 1 a",
            "ZRANGE h 0 1",
            "ZREM h a",
            "XADD h 1-1 a 1",
            "XADD h NOMKSTREAM 1-1 a 1",
            "XLEN z",
            "XRANGE z - +",
            "XINFO STREAM z",
            "XDEL z 1-1",
            "XTRIM z MAXLEN 1",
            "GET z",
            "STRLEN h",
            "SET z x GET",
        ] {
            let refusal = "WRONGTYPE Operation against a key holding the wrong kind of value";
            assert_eq!(bed.fail(command), refusal, "{command}");
        }
    }

    #[test]
    fn an_unknown_command_is_named_and_a_wrong_number_of_arguments_refused() {
        let mut bed = Bed::new();
        assert_eq!(bed.fail("INCR a"), "ERR this host does not know the command 'INCR'");
        for command in ["HGET a", "TIME 1", "HSET a b", "ZADD z 1", "XADD s 1-1 a"] {
            assert_eq!(bed.fail(command), "ERR Wrong number of args calling command from script", "{command}");
        }
        assert_eq!(bed.fail("HSET a b 1 c"), "ERR wrong number of arguments for 'hset' command");
    }
}
