//! One Lua 5.1 interpreter: what scripts see of the world (`sandbox.lua`), what ends them, and one script's run.
//!
//! A script works on a [`Transaction`]: nothing of it is true before that is written, in one record. So one that is ended
//! has done nothing, and can be ended at any time. What it writes before an error of its own stays, as in Redis.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use mlua::chunk::ChunkMode;
use mlua::{Function, HookTriggers, Lua, LuaOptions, MultiValue, StdLib, Table, Value as LuaValue, VmState};

use super::{Limits, Script, Sha, bit, cjson, cmsgpack, convert, redis};
use crate::acl::Denied;
use crate::leader::coordinator::ScriptMeters;
use crate::leader::gateway::multi::View;
use crate::leader::gateway::refused::select;
use crate::leader::gateway::rights::Rights;
use crate::leader::gateway::server::{REDIS_VERSION, time};
use crate::leader::gateway::session::keys_of;
use crate::leader::gateway::{OK, data};
use crate::leader::transaction::Transaction;
use crate::leader::users::Context;
use crate::protocol::resp::{Value, Words, decimal};
use crate::protocol::table::{self, Op, ServerOp, SessionOp, Spec};
use crate::seeded::{self, Bug};
use crate::types::MessageId;

/// Lua's name of a script's text, for its messages.
const NAME: &str = "@user_script";

/// Lua's own error when there is no memory.
const NO_MEMORY: &str = "not enough memory";

/// Steps of the interpreter between two looks at the limits: some 50 us.
const LOOK: u32 = 10_000;

/// Compiled scripts that an interpreter keeps; above this it forgets all.
const MOST_COMPILED: usize = 1000;

/// Lines that one script may write into the leader's log; more are left away.
const MOST_LOGGED: usize = 100;

/// Bytes of such a line that are shown.
pub(super) const LONGEST_LOGGED: usize = 512;

/// Memory that is given back at once when a script has ended, bytes.
const KEPT_MEMORY: usize = 8 << 20;

/// A script, and what it is to work on.
#[derive(Debug, Clone)]
pub(in crate::leader::gateway) struct Call {
    pub(in crate::leader::gateway) script: Arc<Script>,
    /// The only ids that it may read and write.
    pub(in crate::leader::gateway) keys: Vec<MessageId>,
    pub(in crate::leader::gateway) args: Vec<Bytes>,
    /// It is not to write.
    pub(in crate::leader::gateway) reads_only: bool,
    /// What whoever runs it may do.
    pub(in crate::leader::gateway) rights: Rights,
    /// Bytes.
    pub(in crate::leader::gateway) max_message: usize,
}

/// An interpreter. It belongs to one thread.
pub(in crate::leader::gateway) struct Interpreter {
    lua: Lua,
    execute: Function,
    compiled: HashMap<Sha, Function>,
    current: Rc<Current>,
    counted: Counted,
}

/// How scripts of an interpreter came to their ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) ended: u64,
}

impl Counted {
    fn note(&mut self, told: &Result<Value, String>) {
        *match told {
            Ok(Value::Error(_)) => &mut self.failed,
            Ok(_) => &mut self.done,
            Err(_) => &mut self.ended,
        } += 1;
    }

    /// Adds them to the metrics.
    pub(super) fn tell(self, meters: &ScriptMeters) {
        meters.done.fetch_add(self.done, Ordering::Relaxed);
        meters.failed.fetch_add(self.failed, Ordering::Relaxed);
        meters.ended.fetch_add(self.ended, Ordering::Relaxed);
    }
}

/// The script that runs now.
pub(super) struct Current {
    limits: Limits,
    call: RefCell<Option<Running>>,
    killed: RefCell<Arc<AtomicBool>>,
    /// What it has set for JSON.
    json: cjson::Shared,
    steps: Cell<u64>,
    /// Why it was ended.
    stopped: RefCell<Option<String>>,
}

/// What the commands of a script work on.
struct Running {
    transaction: Transaction,
    keys: BTreeSet<MessageId>,
    reads_only: bool,
    rights: Rights,
    max_message: usize,
    /// The version of the protocol whose values it wants.
    version: u8,
    began: Instant,
    /// Lines that it has written into the leader's log.
    logged: usize,
}

impl Interpreter {
    /// One in which no script has run.
    pub(super) fn new(limits: Limits) -> mlua::Result<Self> {
        let lua = Lua::new_with(StdLib::TABLE | StdLib::STRING | StdLib::MATH, LuaOptions::default())?;
        let current = Rc::new(Current {
            limits,
            call: RefCell::default(),
            killed: RefCell::default(),
            json: cjson::Shared::default(),
            steps: Cell::default(),
            stopped: RefCell::default(),
        });
        let own = own_functions(&lua, &current)?;
        let run = |raised: bool| {
            let current = current.clone();
            lua.create_function(move |lua, args: MultiValue| current.command(lua, &args, raised))
        };
        let stopped = {
            let current = current.clone();
            lua.create_function(move |_, ()| Ok(current.stopped.borrow().is_some()))?
        };
        let where_from = lua.create_function(|lua, ()| Ok(place(lua).map(|line| (NAME, line)).unzip()))?;
        let sandbox = lua.load(include_str!("sandbox.lua")).set_name("=sandbox");
        let (visible, execute): (Table, Function) =
            sandbox.call((run(true)?, run(false)?, where_from, stopped, own))?;
        lua.set_globals(visible)?;
        lua.set_memory_limit(lua.used_memory() + limits.memory)?;
        let looked = current.clone();
        lua.set_global_hook(HookTriggers::new().every_nth_instruction(LOOK), move |_, _| looked.look())?;
        Ok(Self { lua, execute, compiled: HashMap::new(), current, counted: Counted::default() })
    }

    /// Checks that a script can be compiled, and keeps it so.
    ///
    /// # Errors
    /// Why it cannot, as Redis says it.
    pub(in crate::leader::gateway) fn compile(&mut self, script: &Script) -> Result<Function, String> {
        if let Some(function) = self.compiled.get(&script.sha) {
            return Ok(function.clone());
        }
        let chunk = self.lua.load(script.body()).set_name(NAME).set_mode(ChunkMode::Text);
        let function = chunk.into_function().map_err(|error| {
            let why = match &error {
                mlua::Error::SyntaxError { message, .. } => message.clone(),
                other => other.to_string(),
            };
            format!("ERR Error compiling script (new function): {why}")
        })?;
        if self.compiled.len() >= MOST_COMPILED {
            self.compiled.clear();
        }
        self.compiled.insert(script.sha, function.clone());
        Ok(function)
    }

    /// Runs a script on a transaction, until `killed` says that it is to end.
    ///
    /// # Errors
    /// Why it was ended, or not begun: then the transaction is as it was.
    pub(in crate::leader::gateway) fn run(
        &mut self,
        call: &Call,
        killed: &Arc<AtomicBool>,
        transaction: &mut Transaction,
    ) -> Result<Value, String> {
        let function = self.compile(&call.script)?;
        let told = transaction.attempt(|transaction| {
            *self.current.call.borrow_mut() = Some(Running {
                transaction: std::mem::take(transaction),
                keys: call.keys.iter().cloned().collect(),
                reads_only: call.reads_only || call.script.reads_only,
                rights: call.rights.clone(),
                max_message: call.max_message,
                version: 2,
                began: Instant::now(),
                logged: 0,
            });
            *self.current.killed.borrow_mut() = killed.clone();
            self.current.steps.set(0);
            self.current.json.take();
            let done = self.execute(&function, call);
            let running = self.current.call.borrow_mut().take();
            *transaction = running.map(|running| running.transaction).unwrap_or_default();
            match self.current.stopped.borrow_mut().take() {
                Some(why) => Err(format!("ERR {why}; nothing was written")),
                None => done.map_err(|error| self.why(&error)),
            }
        });
        self.counted.note(&told);
        if told.is_err() {
            // What it was in the middle of is nothing to go on from.
            if let Ok(fresh) = Self::new(self.current.limits) {
                *self = Self { counted: self.counted, ..fresh };
            }
        } else {
            self.tidy();
        }
        told
    }

    /// How scripts ended since this was last asked.
    pub(super) fn counted(&mut self) -> Counted {
        std::mem::take(&mut self.counted)
    }

    /// Gives memory back that a script has left, and compiled scripts where these are what takes it.
    fn tidy(&mut self) {
        if self.lua.used_memory() > KEPT_MEMORY {
            let _ = self.lua.gc_collect();
        }
        if self.lua.used_memory() > KEPT_MEMORY {
            self.compiled.clear();
            let _ = self.lua.gc_collect();
        }
    }

    /// Why a script came to no end of its own.
    fn why(&self, error: &mlua::Error) -> String {
        let why = match root(error) {
            mlua::Error::MemoryError(_) => {
                let most = self.current.limits.memory >> 20;
                format!("not enough memory: the script took more than {most} MiB, and was ended")
            }
            other => format!("the script was ended: {other}"),
        };
        format!("ERR {why}; nothing was written")
    }

    /// A list of texts, made one by one: Lua's stack does not take very many at once.
    fn list<'a>(&self, texts: impl ExactSizeIterator<Item = &'a [u8]>) -> mlua::Result<Table> {
        let list = self.lua.create_table_with_capacity(texts.len(), 0)?;
        for (place, text) in texts.enumerate() {
            list.raw_set(place + 1, self.lua.create_string(text)?)?;
        }
        Ok(list)
    }

    /// Calls a function with the keys and arguments of a script.
    fn execute(&self, function: &Function, call: &Call) -> mlua::Result<Value> {
        let keys = self.list(call.keys.iter().map(MessageId::as_bytes))?;
        let args = self.list(call.args.iter().map(|word| &**word))?;
        let (done, value): (bool, LuaValue) = self.execute.call((function, keys, args))?;
        let version = self.current.call.borrow().as_ref().map_or(2, |running| running.version);
        if done { convert::from_lua(&value, version) } else { failed(&value, &call.script) }
    }
}

/// The reply to a script that ended in an error of its own.
fn failed(value: &LuaValue, script: &Script) -> mlua::Result<Value> {
    let text = |value: &LuaValue| value.as_string().map(|text| text.to_string_lossy());
    let name = script.sha.to_string();
    let LuaValue::Table(error) = value else {
        if let LuaValue::Error(error) = value {
            return Err(*error.clone());
        }
        let why = text(value).unwrap_or_else(|| "it raised an error that is no text".to_owned());
        // This one is raised as it is, without a place.
        if why == NO_MEMORY {
            return Err(mlua::Error::MemoryError(why));
        }
        return Ok(Value::Error(format!("ERR {why} script: {name}.")));
    };
    let field = |name: &str| error.raw_get::<LuaValue>(name).unwrap_or(LuaValue::Nil);
    let why = text(&field("err")).unwrap_or_else(|| "ERR unknown error".to_owned());
    if why == format!("ERR {NO_MEMORY}") {
        return Err(mlua::Error::MemoryError(why));
    }
    let place = text(&field("source")).zip(field("line").as_i64());
    Ok(Value::Error(match place {
        Some((source, line)) => format!("{why} script: {name}, on {source}:{line}."),
        None => format!("{why} script: {name}."),
    }))
}

/// A command of a script that failed, in this line of it.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
struct Failure {
    why: String,
    line: Option<usize>,
}

/// An error of a command, or of another function of Redis, as a script gets it.
pub(super) fn failure(lua: &Lua, why: String) -> mlua::Error {
    mlua::Error::external(Failure { why, line: place(lua) })
}

impl Failure {
    /// What the script gets for it.
    fn table(&self, lua: &Lua) -> mlua::Result<LuaValue> {
        let table = lua.create_table_from([("err", self.why.as_str())])?;
        if let Some(line) = self.line {
            table.raw_set("source", NAME)?;
            table.raw_set("line", line)?;
        }
        Ok(LuaValue::Table(table))
    }
}

/// What an error was at first, before it went through calls.
fn root(mut error: &mlua::Error) -> &mlua::Error {
    while let mlua::Error::CallbackError { cause, .. } = error {
        error = cause;
    }
    error
}

/// An error of one of our own functions as what it would be, were it Lua's own; other values stay.
fn message(lua: &Lua, value: LuaValue) -> LuaValue {
    let prefix = || place(lua).map(|line| format!("{}:{line}: ", &NAME[1..])).unwrap_or_default();
    // One of Lua's own functions, called by one of the sandbox: the place there is nothing to the script.
    if let Some(text) = value.as_string().map(|text| text.to_string_lossy())
        && let Some((_, why)) = text.strip_prefix("sandbox:").and_then(|text| text.split_once(": "))
    {
        return lua.create_string(format!("{}{why}", prefix())).map_or(value, LuaValue::String);
    }
    let LuaValue::Error(error) = &value else { return value };
    let cause = root(error);
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return failure.table(lua).unwrap_or(value);
    }
    let why = match cause {
        mlua::Error::RuntimeError(why) => why.clone(),
        mlua::Error::MemoryError(_) => return lua.create_string(NO_MEMORY).map_or(value, LuaValue::String),
        other => other.to_string(),
    };
    lua.create_string(format!("{}{why}", prefix())).map_or(value, LuaValue::String)
}

/// Which line of the script is being run.
fn place(lua: &Lua) -> Option<usize> {
    let mut level = 0;
    while let Some(found) = lua.inspect_stack(level, |debug| {
        let is_script = debug.source().source.is_some_and(|source| source == NAME);
        is_script.then(|| debug.current_line())
    }) {
        if let Some(line) = found {
            return line;
        }
        level += 1;
    }
    None
}

/// What the sandbox gives to scripts that is not Lua's own.
fn own_functions(lua: &Lua, current: &Rc<Current>) -> mlua::Result<Table> {
    let own = lua.create_table()?;
    own.set("message", lua.create_function(|lua, value: LuaValue| Ok(message(lua, value)))?)?;
    own.set("redis", redis::table(lua, current)?)?;
    own.set("cjson", cjson::table(lua, &current.json)?)?;
    own.set("cmsgpack", cmsgpack::table(lua)?)?;
    own.set("bit", bit::table(lua)?)?;
    own.set("version", REDIS_VERSION)?;
    let parts = REDIS_VERSION.split('.').filter_map(|part| part.parse::<i64>().ok());
    own.set("version_number", parts.fold(0, |all, part| all << 8 | part))?;
    Ok(own)
}

impl Current {
    /// Writes a line of the script into the leader's log, as long as it has not written many.
    pub(super) fn log(&self, level: i64, text: &[u8]) {
        let mut call = self.call.borrow_mut();
        let Some(running) = call.as_mut().filter(|running| running.logged < MOST_LOGGED) else { return };
        running.logged += 1;
        let text = crate::error::printable(text, LONGEST_LOGGED);
        match level {
            0 | 1 => tracing::debug!("a script says: {text}"),
            2 => tracing::info!("a script says: {text}"),
            _ => tracing::warn!("a script says: {text}"),
        }
    }

    /// Whether whoever runs the script may run this.
    pub(super) fn may(&self, spec: &Spec, words: &Words) -> bool {
        self.call.borrow().as_ref().is_some_and(|running| running.rights.allow(spec, words).is_ok())
    }

    /// From here on the script wants values of this version of the protocol.
    pub(super) fn speak(&self, version: u8) {
        if let Some(running) = self.call.borrow_mut().as_mut() {
            running.version = version;
        }
    }

    /// Whether the script may go on.
    fn look(&self) -> mlua::Result<VmState> {
        self.steps.set(self.steps.get() + u64::from(LOOK));
        let Limits { steps, time, .. } = self.limits;
        let began = self.call.borrow().as_ref().map(|running| running.began);
        let why = if self.killed.borrow().load(Ordering::Relaxed) {
            "the script was killed by SCRIPT KILL".to_owned()
        } else if self.steps.get() > steps {
            format!("the script took more than {steps} steps, and was ended")
        } else if began.is_some_and(|began| began.elapsed() > time) {
            format!("the script took more than {} s, and was ended", time.as_secs())
        } else {
            return Ok(VmState::Continue);
        };
        *self.stopped.borrow_mut() = Some(why);
        Err(mlua::Error::runtime("stopped"))
    }

    /// Runs a command for the script, and gives its reply. What fails is raised as an error where it is `raised`.
    fn command(&self, lua: &Lua, args: &MultiValue, raised: bool) -> mlua::Result<LuaValue> {
        let mut call = self.call.borrow_mut();
        let Some(running) = call.as_mut() else { return Ok(LuaValue::Nil) };
        let version = running.version;
        match words(args).and_then(|words| running.run(&words)).unwrap_or_else(Value::Error) {
            Value::Error(why) if raised => Err(failure(lua, why)),
            Value::Error(why) => Failure { why, line: place(lua) }.table(lua),
            value => convert::to_lua(lua, value, version),
        }
    }
}

/// The words of a command that a script gives.
pub(super) fn words(args: &MultiValue) -> Result<Words, String> {
    if args.is_empty() {
        return Err("ERR Please specify at least one argument for this redis lib call".to_owned());
    }
    let word = |value: &LuaValue| match value {
        LuaValue::String(text) => Ok(Bytes::copy_from_slice(&text.as_bytes())),
        LuaValue::Integer(number) => Ok(Bytes::from(decimal(*number as f64, 17))),
        LuaValue::Number(number) => Ok(Bytes::from(decimal(*number, 17))),
        _ => Err("ERR Lua redis lib command arguments must be strings or integers".to_owned()),
    };
    args.iter().map(word).collect()
}

impl Running {
    /// Runs a command at the instant of the transaction.
    fn run(&mut self, words: &Words) -> Result<Value, String> {
        let Some(spec) = table::find(&words[0]) else {
            return Err("ERR Unknown Redis command called from script".to_owned());
        };
        if spec.fits(words).is_err() {
            return Err("ERR Wrong number of args calling Redis command from script".to_owned());
        }
        if let Err(denied) = self.rights.check(spec, words, Context::Lua)
            && !seeded::active(Bug::ScriptUnchecked)
        {
            let what = match denied {
                Denied::Command => "can't run this command or subcommand",
                Denied::Key(_) => "can't access at least one of the keys mentioned in the command arguments",
            };
            return Err(format!("ERR The user executing the script {what}"));
        }
        let op = match spec.op {
            Op::Data(op) => op,
            Op::Session(SessionOp::Ping) => {
                return Ok(words.get(1).cloned().map_or(Value::Simple("PONG"), Value::Bulk));
            }
            Op::Session(SessionOp::Echo) => return Ok(Value::Bulk(words[1].clone())),
            Op::Session(SessionOp::Select) => return select(&words[1]).map(|()| OK),
            Op::Server(ServerOp::Time) => return Ok(time(self.transaction.now())),
            _ => return Err("ERR This Redis command is not allowed from script".to_owned()),
        };
        if spec.writes() && self.reads_only {
            return Err("ERR Write commands are not allowed from read-only scripts.".to_owned());
        }
        let keys = keys_of(spec, words)?;
        if let Some(id) = keys.iter().find(|id| !self.keys.contains(id)) {
            return Err(format!(
                "ERR {id:?} is not among the KEYS of the script: it has to name every id that it uses"
            ));
        }
        Ok(data::run(op, words, &keys, self.max_message, &mut View(&mut self.transaction)))
    }
}
