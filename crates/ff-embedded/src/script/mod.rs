//! The library in Lua: a sandbox like the server's, the library loaded into it, and calls of its functions.
//!
//! Values are converted as RESP2 on the server: nil becomes `false`, a status a table with `ok`, an error a table with
//! `err`. In the return value of a function a number is truncated to an integer and a table ends at its first nil.

mod arguments;
mod convert;
mod failure;
mod json;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mlua::{Function, Lua, LuaOptions, StdLib, Table};
use rustc_hash::FxHashMap;

pub(crate) use arguments::Numbers;
use arguments::{Arguments, Refusal, Texts, Values};

use crate::{
    fault::Fault,
    keyspace::{Access, CommandError, Keyspace, Value},
};

/// The server's name for the text of a library in error positions.
const CHUNK: &str = "@user_function";

const NO_ARGUMENTS: &str = "ERR Please specify at least one argument for this call";
const BAD_ARGUMENTS: &str = "ERR Lua redis lib command arguments must be strings or integers";

/// The keyspace, and the permissions of the present call.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) keys: Keyspace,
    access: Access,
    /// The number of commands executed by the present call, or else by the last one.
    pub(crate) commands: u64,
    pub(crate) fault: Option<Fault>,
    /// Whether the last fault has occurred.
    pub(crate) fault_met: bool,
    /// Outside a call no command can be executed.
    in_call: bool,
}

/// The keyspace as shared by Lua and its host. Only one of them uses it at a time.
#[derive(Debug, Clone)]
pub(crate) struct Shared(Arc<Mutex<Running>>);

impl Shared {
    pub(crate) fn new(keys: Keyspace) -> Self {
        let running =
            Running { keys, access: Access::Full, commands: 0, fault: None, fault_met: false, in_call: false };
        Self(Arc::new(Mutex::new(running)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone)]
struct Registered {
    library: String,
    callback: Function,
    no_writes: bool,
}

type Functions = FxHashMap<String, Registered>;

/// The library that is being loaded: its name and the functions registered so far.
type Loading = Arc<Mutex<Option<(String, Functions)>>>;

/// A Lua state with libraries loaded into it.
#[derive(Debug)]
pub(crate) struct Script {
    lua: Lua,
    shared: Shared,
    /// For [`Numbers::AsServer`].
    exact: Sandbox,
    /// For [`Numbers::AsLua`].
    fast: Sandbox,
    functions: Functions,
    loading: Loading,
}

/// The environment of a library, which runs its functions.
#[derive(Debug)]
struct Sandbox {
    environment: Table,
    run: Function,
}

impl Sandbox {
    /// `A` is the conversion of command arguments.
    fn new<A: Arguments>(lua: &Lua, shared: &Shared, loading: &Loading) -> mlua::Result<Self> {
        let handed_in = (
            call_function::<A>(lua, shared.clone(), OnError::Raise)?,
            call_function::<A>(lua, shared.clone(), OnError::Return)?,
            register_function(lua, loading.clone())?,
            lua.create_function(json::encode)?,
            lua.create_function(|lua, raised| failure::describe(lua, raised, CHUNK))?,
            lua.create_function(failure::as_table)?,
        );
        let prelude = lua.load(include_str!("prelude.lua")).set_name("=host");
        let (environment, run) = prelude.call(handed_in)?;
        Ok(Self { environment, run })
    }
}

impl Script {
    /// A fresh state without libraries.
    pub(crate) fn new(shared: Shared) -> mlua::Result<Self> {
        let options = LuaOptions::new().catch_rust_panics(false);
        let lua = Lua::new_with(StdLib::STRING | StdLib::TABLE | StdLib::MATH, options)?;
        // Few objects survive a call: rare collection costs little memory and saves most of the marking.
        lua.gc_set_pause(400);
        let loading = Loading::default();
        let exact = Sandbox::new::<Values>(&lua, &shared, &loading)?;
        let fast = Sandbox::new::<Texts>(&lua, &shared, &loading)?;
        Ok(Self { lua, shared, exact, fast, functions: Functions::default(), loading })
    }

    /// Loads a library and replaces an earlier one of the same name, as `FUNCTION LOAD REPLACE`. If loading fails, the
    /// earlier one is kept.
    pub(crate) fn load(&mut self, source: &str, numbers: Numbers) -> Result<(), CommandError> {
        let (name, body) = split_header(source)?;
        self.lock_loading().replace((name.to_owned(), Functions::default()));
        let sandbox = match numbers {
            Numbers::AsServer => &self.exact,
            Numbers::AsLua => &self.fast,
        };
        let chunk = self.lua.load(body).set_name(CHUNK).set_environment(sandbox.environment.clone());
        let loaded = chunk.into_function().and_then(|chunk| sandbox.run.call::<(bool, mlua::Value)>(chunk));
        let (_, functions) = self.lock_loading().take().unwrap_or_default();
        match loaded {
            Ok((true, _)) if functions.is_empty() => {
                return Err(CommandError::fixed("ERR No functions registered"));
            }
            Ok((true, _)) => {}
            Ok((false, raised)) => return Err(convert::raised(&raised, None)),
            Err(error) => return Err(CommandError::new(format!("ERR Error compiling function: {error}"))),
        }
        self.functions.retain(|_, function| function.library != name);
        self.functions.extend(functions);
        Ok(())
    }

    fn lock_loading(&self) -> MutexGuard<'_, Option<(String, Functions)>> {
        self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a function at the time `now_us`. What it wrote before an error is kept. A function that tries to create a
    /// key beyond `keys` fails, even if it ignores the error.
    pub(crate) fn call<K: AsRef<[u8]>, A: AsRef<[u8]>>(
        &self,
        function: &str,
        keys: &[K],
        args: &[A],
        access: Access,
        now_us: u64,
    ) -> Result<Value<'static>, CommandError> {
        let registered = self.functions.get(function).ok_or(CommandError::fixed("ERR Function not found"))?;
        if access == Access::ReadOnly && !registered.no_writes {
            let text = "ERR Can not execute a script with write flag using *_ro command.";
            return Err(CommandError::fixed(text));
        }
        self.begin(if registered.no_writes { Access::ReadOnly } else { Access::Full }, keys, now_us);
        let answer = self.run_function(&registered.callback, keys, args);
        let mut running = self.shared.lock();
        running.in_call = false;
        running.fault = None;
        let undeclared = running.keys.end_call();
        drop(running);
        if let Some(error) = undeclared {
            return Err(error);
        }
        match answer {
            Ok((true, value)) => convert::reply(&value),
            Ok((false, raised)) => Err(convert::raised(&raised, Some(function))),
            Err(error) => Err(CommandError::new(format!("ERR {error}"))),
        }
    }

    fn begin<K: AsRef<[u8]>>(&self, access: Access, keys: &[K], now_us: u64) {
        let mut running = self.shared.lock();
        running.keys.set_time(now_us);
        running.keys.begin_call(keys);
        running.access = access;
        running.commands = 0;
        running.in_call = true;
    }

    fn run_function<K: AsRef<[u8]>, A: AsRef<[u8]>>(
        &self,
        callback: &Function,
        keys: &[K],
        args: &[A],
    ) -> mlua::Result<(bool, mlua::Value)> {
        let keys = self.lua.create_sequence_from(keys.iter().map(|key| convert::LuaText(key.as_ref()).item()))?;
        let args = self.lua.create_sequence_from(args.iter().map(|arg| convert::LuaText(arg.as_ref()).item()))?;
        self.exact.run.call((callback, keys, args))
    }
}

/// The name in the first line, and the text without it; an empty line is kept, so that line numbers do not change.
fn split_header(source: &str) -> Result<(&str, &str), CommandError> {
    let (header, _) = source.split_once('\n').unwrap_or((source, ""));
    let name = header.strip_prefix("#!lua name=").map(str::trim).filter(|name| !name.is_empty());
    let name = name.ok_or(CommandError::fixed("ERR Missing library metadata"))?;
    Ok((name, &source[header.len()..]))
}

/// How an error of a command is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnError {
    Raise,
    Return,
}

impl OnError {
    fn refuse(self, lua: &Lua, text: &str) -> mlua::Result<mlua::Value> {
        match self {
            Self::Raise => Err(failure::raise(text)),
            Self::Return => failure::table(lua, text),
        }
    }
}

/// `redis.call` or `redis.pcall`.
fn call_function<A: Arguments>(lua: &Lua, shared: Shared, on_error: OnError) -> mlua::Result<Function> {
    lua.create_function(move |lua, args: A| {
        args.with_texts(|args| match args {
            Ok(args) => call(lua, &shared, on_error, args),
            Err(Refusal::None) => on_error.refuse(lua, NO_ARGUMENTS),
            Err(Refusal::Type) => on_error.refuse(lua, BAD_ARGUMENTS),
        })
    })
}

fn call(lua: &Lua, shared: &Shared, on_error: OnError, args: &[&[u8]]) -> mlua::Result<mlua::Value> {
    let running = &mut *shared.lock();
    if !running.in_call {
        return on_error.refuse(lua, "ERR commands can be executed by functions only");
    }
    running.commands += 1;
    if let Some(fault) = running.fault.as_ref().filter(|fault| fault.command() == running.commands) {
        running.fault_met = true;
        return if fault.stops() { Err(failure::raise(fault.text())) } else { on_error.refuse(lua, fault.text()) };
    }
    match running.keys.execute(args, running.access) {
        Ok(reply) => convert::to_lua(lua, &reply),
        Err(error) => on_error.refuse(lua, error.text()),
    }
}

/// `register(name, callback, no_writes)`: registers a function of the library that is being loaded, or returns an
/// error.
fn register_function(lua: &Lua, loading: Loading) -> mlua::Result<Function> {
    lua.create_function(move |_, (name, callback, no_writes): (String, Function, bool)| {
        let mut loading = loading.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((library, functions)) = &mut *loading else {
            return Ok(Some("ERR redis.register_function can only be called on FUNCTION LOAD command"));
        };
        if functions.contains_key(&name) {
            return Ok(Some("ERR Function already exists in the library"));
        }
        let library = library.clone();
        functions.insert(name, Registered { library, callback, no_writes });
        Ok(None)
    })
}
