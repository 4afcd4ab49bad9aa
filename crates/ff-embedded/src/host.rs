//! [`EmbeddedHost`]: the library and its keyspace behind one lock.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use ff_core::{EngineError, ExecutionId};
use ff_script::{
    host::{Call, Reply, ScriptHost, ServerVersion},
    loader, wire,
};

use crate::{
    Clock, Fault,
    feed::Feed,
    keyspace::{Access, CommandError, KeyValue, Keyspace, Stream, Value},
    listeners::Switchboard,
    script::{Numbers, Running, Script, Shared},
};

/// The server version whose behaviour the commands and the sandbox follow.
const LIKE: (u32, u32, u32) = (8, 0, 0);

/// Runs the library in this process. Calls are atomic and serialized, whichever thread makes them. No call waits for
/// anything, so a lock is never held across an await.
///
/// Beyond [`ScriptHost`] it offers tools that only a host in memory can offer: raw commands, a snapshot of all keys,
/// faults at an exact command, and the loss of the library's variables.
pub struct EmbeddedHost {
    machine: Mutex<Machine>,
    clock: Clock,
    switchboard: Arc<Switchboard>,
}

/// The state that a call may access.
struct Machine {
    shared: Shared,
    script: Script,
    /// The loaded libraries, in the order of loading.
    sources: Vec<(String, Numbers)>,
    feed: Feed,
}

impl fmt::Debug for EmbeddedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedHost").field("clock", &self.clock).finish_non_exhaustive()
    }
}

impl EmbeddedHost {
    /// A host without keys and without the library, which is loaded with the first call.
    ///
    /// `seed` decides the order in which hashes are iterated. The order differs at every call, so that code which
    /// depends on an order fails.
    #[must_use]
    pub fn new(clock: Clock, seed: u64) -> Self {
        let switchboard = Arc::new(Switchboard::default());
        let mut keys = Keyspace::new(seed);
        keys.listen(switchboard.clone());
        let shared = Shared::new(keys);
        let script = fresh(&shared);
        let machine = Machine { shared, script, sources: Vec::new(), feed: Feed::default() };
        Self { machine: Mutex::new(machine), clock, switchboard }
    }

    /// The clock of this host.
    #[must_use]
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The names of the supported commands: those that the library uses.
    pub fn commands() -> impl Iterator<Item = &'static str> {
        Keyspace::commands()
    }

    /// Executes one command separately, as another client of a server would: its name, then its arguments.
    ///
    /// # Errors
    /// The errors of the server.
    pub fn command<A: AsRef<[u8]>>(&self, args: &[A]) -> Result<Value<'static>, CommandError> {
        let mut machine = self.lock();
        let now = self.clock.now_us();
        let args: Vec<&[u8]> = args.iter().map(AsRef::as_ref).collect();
        let mut running = machine.shared.lock();
        running.keys.set_time(now);
        let answer = running.keys.execute(&args, Access::Full).map(Value::into_owned);
        drop(running);
        self.committed(&mut machine);
        answer
    }

    /// Calls a function as `FCALL` does, with any reply that a script can return.
    ///
    /// # Errors
    /// The errors of the server. What the function wrote before an error is kept.
    pub fn call<K: AsRef<[u8]>, A: AsRef<[u8]>>(
        &self,
        function: &str,
        keys: &[K],
        args: &[A],
    ) -> Result<Value<'static>, CommandError> {
        self.run(function, keys, args, Access::Full)
    }

    /// Calls a function as `FCALL_RO` does.
    ///
    /// # Errors
    /// As for [`EmbeddedHost::call`], and if the function may write.
    pub fn call_read_only<K: AsRef<[u8]>, A: AsRef<[u8]>>(
        &self,
        function: &str,
        keys: &[K],
        args: &[A],
    ) -> Result<Value<'static>, CommandError> {
        self.run(function, keys, args, Access::ReadOnly)
    }

    fn run<K: AsRef<[u8]>, A: AsRef<[u8]>>(
        &self,
        function: &str,
        keys: &[K],
        args: &[A],
        access: Access,
    ) -> Result<Value<'static>, CommandError> {
        let mut machine = self.lock();
        let answer = machine.script.call(function, keys, args, access, self.clock.now_us());
        self.committed(&mut machine);
        answer
    }

    /// Loads a library and replaces an earlier one of the same name.
    ///
    /// # Errors
    /// If its text is invalid; the earlier one is then kept.
    pub fn load(&self, source: &str) -> Result<(), CommandError> {
        self.load_with(source, Numbers::AsServer)
    }

    fn load_with(&self, source: &str, numbers: Numbers) -> Result<(), CommandError> {
        let machine = &mut *self.lock();
        machine.script.load(source, numbers)?;
        let header = |text: &str| text.lines().next().map(str::to_owned);
        let name = header(source);
        machine.sources.retain(|(loaded, _)| header(loaded) != name);
        machine.sources.push((source.to_owned(), numbers));
        Ok(())
    }

    /// Loads the project's library unless the same text is loaded: loading it again would reset its variables.
    pub(crate) fn load_once(&self, source: &str) -> Result<(), CommandError> {
        let loaded = self.lock().sources.iter().any(|(loaded, _)| loaded == source);
        if loaded { Ok(()) } else { self.load_with(source, Numbers::AsLua) }
    }

    /// Resets all variables of the libraries, as a server does that restarts, is promoted, or has its functions loaded
    /// again. The keys are kept.
    pub fn forget_variables(&self) {
        let machine = &mut *self.lock();
        machine.script = fresh(&machine.shared);
        for (source, numbers) in &machine.sources {
            machine.script.load(source, *numbers).expect("a library that was loaded before loads again");
        }
    }

    /// Makes a command of the next call fail. One call at a time: the fault is removed when that call ends.
    pub fn inject(&self, fault: Fault) {
        let machine = self.lock();
        let mut running = machine.shared.lock();
        (running.fault, running.fault_met) = (Some(fault), false);
    }

    /// Whether the last injected fault has occurred: not if the call had fewer commands.
    #[must_use]
    pub fn fault_was_met(&self) -> bool {
        self.lock().shared.lock().fault_met
    }

    /// How many commands the last call has executed, including one that was made to fail.
    #[must_use]
    pub fn commands_of_last_call(&self) -> u64 {
        self.lock().shared.lock().commands
    }

    /// All keys, sorted, with copies of their values.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<Bytes, KeyValue> {
        let machine = self.lock();
        let mut running = machine.shared.lock();
        running.keys.set_time(self.clock.now_us());
        running.keys.snapshot()
    }

    pub(crate) fn switchboard(&self) -> &Arc<Switchboard> {
        &self.switchboard
    }

    /// Reads keys between two calls.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Keyspace, &Feed) -> T) -> T {
        let machine = self.lock();
        let running: &Running = &machine.shared.lock();
        look(&running.keys, &machine.feed)
    }

    fn committed(&self, machine: &mut Machine) {
        let mut running = machine.shared.lock();
        let appended = running.keys.take_appended();
        if appended.is_empty() {
            return;
        }
        if self.switchboard.has_picked() {
            self.switchboard.ended(last_appended(&running.keys, &appended));
        }
        drop(running);
        machine.feed.note(appended);
        self.switchboard.appended();
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, call: &Call) -> Result<Reply, CommandError> {
        let access = if call.read_only { Access::ReadOnly } else { Access::Full };
        let flat = |items: Vec<Value<'static>>| items.into_iter().map(Value::into_bytes).collect::<Option<Vec<_>>>();
        let reply = match self.run(call.function, &call.keys, &call.args, access)? {
            Value::Array(items) => flat(items),
            one => flat(vec![one]),
        };
        reply.ok_or(CommandError::fixed("ERR the function's reply is not a flat array of strings"))
    }
}

/// The executions named by the entries that were last appended to these streams, one for each append; `None` for an
/// entry without the library's format.
fn last_appended<'a>(keys: &'a Keyspace, appended: &'a [Box<[u8]>]) -> impl Iterator<Item = Option<ExecutionId>> + 'a {
    let mut counts: BTreeMap<&[u8], usize> = BTreeMap::new();
    for key in appended {
        *counts.entry(key).or_default() += 1;
    }
    counts.into_iter().flat_map(|(key, count)| {
        let stream = keys.get::<Stream>(key).ok().flatten();
        let newest = stream.into_iter().flat_map(move |stream| stream.iter().rev().take(count));
        newest.map(|entry| wire::execution_of(&entry.fields))
    })
}

fn fresh(shared: &Shared) -> Script {
    Script::new(shared.clone()).expect("the host's own Lua text loads")
}

fn is_missing(error: &CommandError) -> bool {
    error.text() == "ERR Function not found"
}

/// Maps an error to the kinds that callers decide by, as for a server. Injected errors can be of any kind.
fn failed(op: &str, error: &CommandError) -> EngineError {
    let text = error.text().to_owned();
    match text.split(' ').next().unwrap_or_default() {
        "OOM" => EngineError::ResourceExhausted { resource: "memory of the host", reason: text },
        "TRYAGAIN" | "BUSY" | "LOADING" | "READONLY" => EngineError::Contention { op: op.to_owned(), reason: text },
        "WRONGTYPE" => EngineError::protocol(op, text),
        _ if text.starts_with("ERR user_function:") => EngineError::protocol(op, text),
        _ => EngineError::transport(op, text),
    }
}

#[async_trait]
impl ScriptHost for EmbeddedHost {
    async fn fcall(&self, call: Call) -> Result<Reply, EngineError> {
        let mut answer = self.answer(&call);
        if answer.as_ref().is_err_and(is_missing) {
            loader::ensure_loaded(self).await?;
            answer = self.answer(&call);
        }
        answer.map_err(|error| failed(call.function, &error))
    }

    async fn fcall_many(&self, calls: Vec<Call>) -> Vec<Result<Reply, EngineError>> {
        let mut answers = Vec::with_capacity(calls.len());
        for call in calls {
            answers.push(self.fcall(call).await);
        }
        answers
    }

    async fn load_library(&self, source: &str) -> Result<(), EngineError> {
        self.load_with(source, Numbers::AsLua).map_err(|error| failed("loading the library", &error))
    }

    async fn probe(&self, call: Call) -> Result<Option<Reply>, EngineError> {
        match self.answer(&call) {
            Ok(reply) => Ok(Some(reply)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(failed(call.function, &error)),
        }
    }

    async fn server_version(&self) -> Result<ServerVersion, EngineError> {
        Ok(ServerVersion { name: "embedded".to_owned(), version: LIKE })
    }
}
