//! Every command there is, of both protocols: a new one is a row here, and an arm where its [`Op`] is carried out.
//!
//! What is found by name, counted, listed, completed and explained (HELP, COMMAND DOCS) comes from this table.
//! Names, arities, flags and key positions are those of Redis where Redis has the command (its `COMMAND INFO`).

mod access;
mod category;
mod op;

use self::Op::{Data, Keyspace, Register, Script, Server, Session, Tool};
pub use self::access::Access;
pub use self::category::{Category, Leaf, leaf_of, leaves};
pub use self::op::{DataOp, KeyspaceOp, Op, RegisterOp, ScriptOp, ServerOp, SessionOp, ToolOp};
use super::resp::number;

/// One command.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// In upper case.
    pub name: &'static str,
    /// What it does.
    pub op: Op,
    /// Words with the name, or, if negative, at least so many.
    pub arity: i32,
    /// As `COMMAND INFO` gives them.
    pub flags: &'static [&'static str],
    /// The first word that is an id, the last (negative: counted from the end), and the step; zeros: none is.
    pub keys: (i32, i32, i32),
    /// Its second words, if it is carried out by that, with the arity of each.
    pub subcommands: &'static [(&'static str, i32)],
    /// As `COMMAND DOCS` groups them.
    pub group: &'static str,
    /// What it does, for people.
    pub summary: &'static str,
    /// How it is written on a line of the text protocol; none: it is not of that protocol.
    pub line: Option<&'static str>,
    /// The place of the word that tells how many ids follow it, and how many words each of them has.
    counted: Option<(usize, usize)>,
    /// Its subcommands, but for HELP, are about the id that stands behind them.
    names_behind: bool,
}

/// Why the ids of a request cannot be found: the word that tells their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongCount {
    /// Is no number.
    NotANumber,
    /// Is less than none, or none where there is nothing to do without.
    TooFew,
    /// Is more than the words that follow.
    TooMany,
}

impl Spec {
    /// Whether a request of so many words, the name among them, can be this command.
    pub fn takes(&self, words: usize) -> bool {
        takes(self.arity, words)
    }

    /// Whether a request of these words, the name among them, can be this command, as far as numbers of words go.
    pub fn fits<T: AsRef<[u8]>>(&self, words: &[T]) -> Result<(), Misfit> {
        let wrong_number = |name: &str| Err(Misfit::Number(name.to_lowercase()));
        if !self.takes(words.len()) {
            return wrong_number(self.name);
        }
        let (Some(word), false) = (words.get(1), self.subcommands.is_empty()) else { return Ok(()) };
        let named = |(name, _): &&(&str, i32)| name.as_bytes().eq_ignore_ascii_case(word.as_ref());
        match self.subcommands.iter().find(named) {
            None => Err(Misfit::Subcommand),
            Some((_, arity)) if takes(*arity, words.len()) => Ok(()),
            Some((name, _)) => wrong_number(&format!("{}|{name}", self.name)),
        }
    }

    /// Whether it can be asked for through the Redis protocol: an answer of many lines cannot be given there.
    pub fn is_of_redis(&self) -> bool {
        self.op != Op::Register(RegisterOp::Verify)
    }

    /// The places of the ids in a request of these words, whose number was checked.
    pub fn key_places<T: AsRef<[u8]>>(&self, words: &[T]) -> Result<impl Iterator<Item = usize> + use<T>, WrongCount> {
        let behind = self.names_behind && words.len() > 2;
        let (first, last, step) = match self.counted {
            None if behind => (2, 2, 1),
            Some((place, step)) => {
                let count = number(words[place].as_ref()).ok_or(WrongCount::NotANumber)?;
                let count = usize::try_from(count).map_err(|_| WrongCount::TooFew)?;
                if count == 0 && self.data().is_some() {
                    return Err(WrongCount::TooFew);
                }
                let last = count.checked_mul(step).map(|all| place + all);
                (place + 1, last.filter(|last| *last < words.len()).ok_or(WrongCount::TooMany)?, step)
            }
            None => {
                let (first, last, step) = self.keys;
                let last = if last < 0 { words.len() as i32 + last } else { last };
                (first as usize, last as usize, step.max(1) as usize)
            }
        };
        Ok((first..=last).step_by(step).filter(|place| *place > 0))
    }

    /// What it does with the messages that it names, if it works on these and on nothing else.
    pub fn data(&self) -> Option<DataOp> {
        match self.op {
            Op::Data(op) => Some(op),
            _ => None,
        }
    }

    /// Whether it changes messages.
    pub fn writes(&self) -> bool {
        self.flags.contains(&"write")
    }

    const fn line(self, line: &'static str) -> Self {
        Self { line: Some(line), ..self }
    }

    const fn counted(self, place: usize, each: usize) -> Self {
        Self { counted: Some((place, each)), ..self }
    }

    const fn about_one(self) -> Self {
        Self { names_behind: true, ..self }
    }

    const fn of(self, subcommands: &'static [(&'static str, i32)]) -> Self {
        Self { subcommands, ..self }
    }
}

/// Why a request cannot be the command that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// This command, or `command|subcommand`, takes another number of words.
    Number(String),
    /// There is no such subcommand.
    Subcommand,
}

fn takes(arity: i32, words: usize) -> bool {
    let least = arity.unsigned_abs() as usize;
    if arity < 0 { words >= least } else { words == least }
}

const READ: &[&str] = &["readonly", "fast"];
const SLOW_READ: &[&str] = &["readonly"];
const WRITE: &[&str] = &["write", "denyoom"];
const COUNTED: &[&str] = &["write", "denyoom", "movablekeys"];
const FAST_WRITE: &[&str] = &["write", "denyoom", "fast"];
const FREES: &[&str] = &["write"];
const FAST_FREES: &[&str] = &["write", "fast"];
const SELF: &[&str] = &["loading", "stale", "fast"];
const ADMIN: &[&str] = &["admin", "loading", "stale"];
const TELLS: &[&str] = &["loading", "stale"];
const GATHERS: &[&str] = &["noscript", "loading", "stale", "fast", "allow_busy"];
const LOGIN: &[&str] = &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"];
const LISTENS: &[&str] = &["pubsub", "noscript", "loading", "stale"];
/// Redis has flags for each of their subcommands, and none for them.
const BY_SUBCOMMAND: &[&str] = &[];

const RUNS: &[&str] = &["noscript", "stale", "skip_monitor", "no_mandatory_keys", "movablekeys"];
const RUNS_READING: &[&str] = &["readonly", "noscript", "stale", "skip_monitor", "no_mandatory_keys", "movablekeys"];

const NONE: (i32, i32, i32) = (0, 0, 0);
const ONE: (i32, i32, i32) = (1, 1, 1);
const TWO: (i32, i32, i32) = (1, 2, 1);
const ALL: (i32, i32, i32) = (1, -1, 1);
const PAIRS: (i32, i32, i32) = (1, -1, 2);

const fn row(
    name: &'static str,
    op: Op,
    arity: i32,
    flags: &'static [&'static str],
    keys: (i32, i32, i32),
    group: &'static str,
    summary: &'static str,
) -> Spec {
    Spec {
        name,
        op,
        arity,
        flags,
        keys,
        subcommands: &[],
        group,
        summary,
        line: None,
        counted: None,
        names_behind: false,
    }
}

const OF_ACL: &[(&str, i32)] = &[
    ("CAT", -2),
    ("DELUSER", -3),
    ("DRYRUN", -4),
    ("GENPASS", -2),
    ("GETUSER", 3),
    ("HELP", 2),
    ("LIST", 2),
    ("LOAD", 2),
    ("LOG", -2),
    ("SAVE", 2),
    ("SETUSER", -3),
    ("USERS", 2),
    ("WHOAMI", 2),
];
const OF_CLIENT: &[(&str, i32)] = &[
    ("CACHING", 3),
    ("GETNAME", 2),
    ("GETREDIR", 2),
    ("HELP", 2),
    ("ID", 2),
    ("INFO", 2),
    ("KILL", -3),
    ("LIST", -2),
    ("NO-EVICT", 3),
    ("NO-TOUCH", 3),
    ("REPLY", 3),
    ("SETINFO", 4),
    ("SETNAME", 3),
    ("TRACKING", -3),
];
const OF_COMMAND: &[(&str, i32)] =
    &[("COUNT", 2), ("DOCS", -2), ("GETKEYS", -3), ("HELP", 2), ("INFO", -2), ("LIST", -2)];
const OF_CONFIG: &[(&str, i32)] = &[("GET", -3), ("HELP", 2), ("RESETSTAT", 2), ("SET", -4)];
const OF_FUNCTION: &[(&str, i32)] =
    &[("DELETE", 3), ("FLUSH", -2), ("HELP", 2), ("LIST", -2), ("LOAD", -3), ("RESTORE", -3)];
const OF_LATENCY: &[(&str, i32)] = &[("HELP", 2), ("HISTOGRAM", -2), ("HISTORY", 3), ("LATEST", 2), ("RESET", -2)];
const OF_MEMORY: &[(&str, i32)] = &[("HELP", 2), ("USAGE", -3)];
const OF_MODULE: &[(&str, i32)] = &[("HELP", 2), ("LIST", 2)];
const OF_OBJECT: &[(&str, i32)] = &[("ENCODING", 3), ("FREQ", 3), ("HELP", 2), ("IDLETIME", 3), ("REFCOUNT", 3)];
const OF_SCRIPT: &[(&str, i32)] = &[("DEBUG", 3), ("EXISTS", -3), ("FLUSH", -2), ("HELP", 2), ("KILL", 2), ("LOAD", 3)];
const OF_SENTINEL: &[(&str, i32)] = &[
    ("CKQUORUM", 3),
    ("GET-MASTER-ADDR-BY-NAME", 3),
    ("HELP", 2),
    ("MASTER", 3),
    ("MASTERS", 2),
    ("MYID", 2),
    ("REPLICAS", 3),
    ("SENTINELS", 3),
    ("SLAVES", 3),
];
const OF_SLOWLOG: &[(&str, i32)] = &[("GET", -2), ("HELP", 2), ("LEN", 2), ("RESET", 2)];

/// All commands; those of the text protocol in the order in which HELP shows them.
pub const COMMANDS: &[Spec] = &[
    row("SET", Data(DataOp::Set), -3, WRITE, ONE, "string", "Keeps a message under an id.").line("SET <id> <message>"),
    row("GET", Data(DataOp::Get), 2, READ, ONE, "string", "Gives the message of an id.").line("GET <id>"),
    row("DEL", Data(DataOp::Del), -2, FREES, ALL, "generic", "Deletes messages.").line("DEL <id>"),
    row("WHERE", Register(RegisterOp::Where), 2, READ, ONE, "register", "Tells which nodes hold a message.")
        .line("WHERE <id>"),
    row("COUNT", Register(RegisterOp::Count), 1, READ, NONE, "register", "Tells how many messages there are.")
        .line("COUNT"),
    row("STATUS", Register(RegisterOp::Status), 1, SELF, NONE, "register", "Gives the register's state.")
        .line("STATUS"),
    row(
        "VERIFY",
        Register(RegisterOp::Verify),
        1,
        SLOW_READ,
        NONE,
        "register",
        "Checks every copy of every message now.",
    )
    .line("VERIFY"),
    row("DRAIN", Register(RegisterOp::Drain), 2, ADMIN, NONE, "register", "Moves everything off a node.")
        .line("DRAIN <node>"),
    row("UNDRAIN", Register(RegisterOp::Undrain), 2, ADMIN, NONE, "register", "Lets a node take copies again.")
        .line("UNDRAIN <node>"),
    row(
        "REMOVE",
        Register(RegisterOp::Remove),
        -2,
        ADMIN,
        NONE,
        "register",
        "Takes a node that holds nothing, or is gone, off the list.",
    )
    .line("REMOVE <node> [FORCE]"),
    row(
        "REBALANCE",
        Register(RegisterOp::Rebalance),
        -1,
        ADMIN,
        NONE,
        "register",
        "Evens out the copies, or stops that.",
    )
    .line("REBALANCE [STOP]"),
    row(
        "CLOCK",
        Register(RegisterOp::Clock),
        2,
        ADMIN,
        NONE,
        "register",
        "Takes the time of the machines' clocks, where they are far ahead.",
    )
    .line("CLOCK ACCEPT"),
    row("PEERS", Register(RegisterOp::Peers), 1, SELF, NONE, "register", "Gives the group of leaders.").line("PEERS"),
    row(
        "HANDOVER",
        Register(RegisterOp::HandOver),
        -1,
        ADMIN,
        NONE,
        "register",
        "Lets another leader process lead: this one, or any.",
    )
    .line("HANDOVER [<peer>]"),
    row(
        "PEER",
        Register(RegisterOp::Peer),
        -3,
        ADMIN,
        NONE,
        "register",
        "Takes a leader process into the group; PEER REMOVE <peer> takes one off.",
    )
    .line("PEER ADD <peer> <host:port>"),
    row("AUTH", Server(ServerOp::Auth), -2, LOGIN, NONE, "connection", "Gives a user's password.")
        .line("AUTH [<user>] <password>"),
    row("PING", Session(SessionOp::Ping), -1, &["fast"], NONE, "connection", "Answers, if the leader is there.")
        .line("PING"),
    row("HELP", Server(ServerOp::Help), 1, SELF, NONE, "connection", "Names the commands.").line("HELP"),
    row("EXIT", Session(SessionOp::Exit), 1, LOGIN, NONE, "connection", "Closes the connection.").line("EXIT"),
    row("QUIT", Session(SessionOp::Exit), -1, LOGIN, NONE, "connection", "Closes the connection.").line("QUIT"),
    row("ACL", Server(ServerOp::Acl), -2, BY_SUBCOMMAND, NONE, "server", "Says who may do what.").of(OF_ACL),
    row("APPEND", Data(DataOp::Append), 3, FAST_WRITE, ONE, "string", "Appends to a message."),
    row(
        "BACKUP",
        Keyspace(KeyspaceOp::Backup),
        2,
        ADMIN,
        NONE,
        "register",
        "Gives everything as it was at one moment: BEGIN, NEXT, STOP.",
    ),
    row(
        "CLIENT",
        Server(ServerOp::Client),
        -2,
        BY_SUBCOMMAND,
        NONE,
        "connection",
        "Names, tells of and ends connections.",
    )
    .of(OF_CLIENT),
    row("COMMAND", Server(ServerOp::Command), -1, TELLS, NONE, "server", "Tells of commands.").of(OF_COMMAND),
    row(
        "CONFIG",
        Server(ServerOp::Config),
        -2,
        BY_SUBCOMMAND,
        NONE,
        "server",
        "Tells settings that Redis clients ask for.",
    )
    .of(OF_CONFIG),
    row("COPY", Data(DataOp::Copy), -3, WRITE, TWO, "generic", "Copies a message to another id."),
    row("DBSIZE", Server(ServerOp::Dbsize), 1, READ, NONE, "server", "Tells how many messages there are."),
    row("DECR", Data(DataOp::Decr), 2, FAST_WRITE, ONE, "string", "Takes one from a number."),
    row("DECRBY", Data(DataOp::DecrBy), 3, FAST_WRITE, ONE, "string", "Takes a number from a number."),
    row(
        "DISCARD",
        Session(SessionOp::Discard),
        1,
        GATHERS,
        NONE,
        "transactions",
        "Forgets what was queued since MULTI.",
    ),
    row("ECHO", Session(SessionOp::Echo), 2, SELF, NONE, "connection", "Answers with its word."),
    row(
        "EXEC",
        Session(SessionOp::Exec),
        1,
        &["noscript", "loading", "stale", "skip_slowlog"],
        NONE,
        "transactions",
        "Runs what was queued since MULTI, all or nothing.",
    ),
    row("EXISTS", Data(DataOp::Exists), -2, READ, ALL, "generic", "Counts the ids that have a message."),
    row(
        "FLUSHALL",
        Keyspace(KeyspaceOp::Flush),
        -1,
        FREES,
        NONE,
        "server",
        "Deletes everything, where --allow-flush allows it.",
    ),
    row(
        "FLUSHDB",
        Keyspace(KeyspaceOp::Flush),
        -1,
        FREES,
        NONE,
        "server",
        "Deletes everything, where --allow-flush allows it.",
    ),
    row("GETDEL", Data(DataOp::GetDel), 2, FAST_FREES, ONE, "string", "Gives a message and deletes it."),
    row("GETRANGE", Data(DataOp::GetRange), 4, SLOW_READ, ONE, "string", "Gives a part of a message."),
    row("GETSET", Data(DataOp::GetSet), 3, FAST_WRITE, ONE, "string", "Keeps a message and gives the one before."),
    row("HELLO", Server(ServerOp::Hello), -1, LOGIN, NONE, "connection", "Chooses the protocol's version."),
    row("HOST:", Op::OtherProtocol, -1, LOGIN, NONE, "server", "A line of HTTP, which closes the connection."),
    row("INCR", Data(DataOp::Incr), 2, FAST_WRITE, ONE, "string", "Adds one to a number."),
    row("INCRBY", Data(DataOp::IncrBy), 3, FAST_WRITE, ONE, "string", "Adds a number to a number."),
    row("INCRBYFLOAT", Data(DataOp::IncrByFloat), 3, FAST_WRITE, ONE, "string", "Adds a decimal number to a number."),
    row(
        "INCREX",
        Data(DataOp::IncrEx),
        -2,
        WRITE,
        ONE,
        "string",
        "Adds to a number within bounds, and says when it ends.",
    ),
    row("INFO", Server(ServerOp::Info), -1, TELLS, NONE, "server", "Tells of the server, in Redis's form."),
    row("KEYS", Keyspace(KeyspaceOp::Keys), 2, SLOW_READ, NONE, "generic", "Gives all ids that match a pattern."),
    row("MGET", Data(DataOp::Mget), -2, READ, ALL, "string", "Gives several messages, as they were at one moment."),
    row("MSET", Data(DataOp::Mset), -3, WRITE, PAIRS, "string", "Keeps several messages, all or none."),
    row("MSETEX", Data(DataOp::MsetEx), -4, COUNTED, NONE, "string", "Keeps several messages for the same time.")
        .counted(1, 2),
    row(
        "MSETNX",
        Data(DataOp::MsetNx),
        -3,
        WRITE,
        PAIRS,
        "string",
        "Keeps several messages if none of the ids has one.",
    ),
    row(
        "MULTI",
        Session(SessionOp::Multi),
        1,
        GATHERS,
        NONE,
        "transactions",
        "Queues the commands that follow, until EXEC.",
    ),
    row("POST", Op::OtherProtocol, -1, LOGIN, NONE, "server", "A line of HTTP, which closes the connection."),
    row("PTTL", Data(DataOp::Pttl), 2, READ, ONE, "generic", "Tells how long a message stays."),
    row(
        "RANDOMKEY",
        Keyspace(KeyspaceOp::RandomKey),
        1,
        SLOW_READ,
        NONE,
        "generic",
        "Gives any id that has a message.",
    ),
    row("RENAME", Data(DataOp::Rename), 3, FREES, TWO, "generic", "Moves a message to another id."),
    row("RENAMENX", Data(DataOp::RenameNx), 3, FAST_FREES, TWO, "generic", "Moves a message to an id that has none."),
    row("RESET", Session(SessionOp::Reset), 1, LOGIN, NONE, "connection", "Makes the connection like new."),
    row("SCAN", Keyspace(KeyspaceOp::Scan), -2, SLOW_READ, NONE, "generic", "Gives ids in steps."),
    row("SELECT", Session(SessionOp::Select), 2, SELF, NONE, "connection", "Chooses a database: there is only 0."),
    row("SETNX", Data(DataOp::SetNx), 3, FAST_WRITE, ONE, "string", "Keeps a message if the id has none."),
    row("SETRANGE", Data(DataOp::SetRange), 4, WRITE, ONE, "string", "Overwrites a part of a message."),
    row("STRLEN", Data(DataOp::Strlen), 2, READ, ONE, "string", "Tells the length of a message in bytes."),
    row("SUBSTR", Data(DataOp::GetRange), 4, SLOW_READ, ONE, "string", "Gives a part of a message."),
    row("TIME", Server(ServerOp::Time), 1, SELF, NONE, "server", "Tells the register's time."),
    row("TOUCH", Data(DataOp::Touch), -2, READ, ALL, "generic", "Counts the ids that have a message."),
    row("TTL", Data(DataOp::Ttl), 2, READ, ONE, "generic", "Tells how long a message stays.").line("TTL <id>"),
    row("TYPE", Data(DataOp::Type), 2, READ, ONE, "generic", "Tells the type of a message: string, or none."),
    row("UNLINK", Data(DataOp::Del), -2, FAST_FREES, ALL, "generic", "Deletes messages."),
    row("UNWATCH", Session(SessionOp::Unwatch), 1, GATHERS, NONE, "transactions", "Forgets what is watched."),
    row("EXPIRE", Data(DataOp::Expire), -3, FAST_FREES, ONE, "generic", "Has a message end after so many seconds.")
        .line("EXPIRE <id> <time>"),
    row(
        "EXPIREAT",
        Data(DataOp::ExpireAt),
        -3,
        FAST_FREES,
        ONE,
        "generic",
        "Has a message end at a second of the clock.",
    ),
    row("EXPIRETIME", Data(DataOp::ExpireTime), 2, READ, ONE, "generic", "Tells at which second a message ends."),
    row(
        "PEXPIRE",
        Data(DataOp::PExpire),
        -3,
        FAST_FREES,
        ONE,
        "generic",
        "Has a message end after so many milliseconds.",
    ),
    row(
        "PEXPIREAT",
        Data(DataOp::PExpireAt),
        -3,
        FAST_FREES,
        ONE,
        "generic",
        "Has a message end at a millisecond of the clock.",
    ),
    row(
        "PEXPIRETIME",
        Data(DataOp::PExpireTime),
        2,
        READ,
        ONE,
        "generic",
        "Tells at which millisecond a message ends.",
    ),
    row("SETEX", Data(DataOp::SetEx), 4, WRITE, ONE, "string", "Keeps a message for so many seconds.")
        .line("SETEX <id> <time> <message>"),
    row("PSETEX", Data(DataOp::PSetEx), 4, WRITE, ONE, "string", "Keeps a message for so many milliseconds."),
    row(
        "DELEX",
        Data(DataOp::DelEx),
        -2,
        FREES,
        ONE,
        "string",
        "Deletes a message, with IFEQ or IFNE if it is or is not this one.",
    ),
    row("DELIFEQ", Data(DataOp::DelIfEq), 3, FREES, ONE, "string", "Deletes a message if it is this one."),
    row("BITCOUNT", Data(DataOp::BitCount), -2, SLOW_READ, ONE, "bitmap", "Counts the bits of a message that are set."),
    row("BITFIELD", Data(DataOp::BitField), -2, WRITE, ONE, "bitmap", "Reads and changes numbers inside a message."),
    row("BITFIELD_RO", Data(DataOp::BitFieldRo), -2, READ, ONE, "bitmap", "Reads numbers inside a message."),
    row("BITOP", Data(DataOp::BitOp), -4, WRITE, (2, -1, 1), "bitmap", "Joins the bits of messages into another."),
    row("BITPOS", Data(DataOp::BitPos), -3, SLOW_READ, ONE, "bitmap", "Finds the first bit that is set, or not."),
    row("GETBIT", Data(DataOp::GetBit), 3, READ, ONE, "bitmap", "Gives one bit of a message."),
    row("GETEX", Data(DataOp::GetEx), -2, FAST_FREES, ONE, "string", "Gives a message and has it end at another time."),
    row("LCS", Data(DataOp::Lcs), -3, SLOW_READ, TWO, "string", "Gives the longest sequence that two messages share."),
    row("PERSIST", Data(DataOp::Persist), 2, FAST_FREES, ONE, "generic", "Has a message stay that would end.")
        .line("PERSIST <id>"),
    row("SETBIT", Data(DataOp::SetBit), 4, WRITE, ONE, "bitmap", "Sets one bit of a message."),
    row("EVAL", Script(ScriptOp::Eval), -3, RUNS, NONE, "scripting", "Runs a script in Lua on messages.").counted(2, 1),
    row(
        "EVALSHA",
        Script(ScriptOp::EvalSha),
        -3,
        RUNS,
        NONE,
        "scripting",
        "Runs a script that is known, by its SHA-1.",
    )
    .counted(2, 1),
    row(
        "EVALSHA_RO",
        Script(ScriptOp::EvalShaRo),
        -3,
        RUNS_READING,
        NONE,
        "scripting",
        "Runs a script that is known and writes nothing.",
    )
    .counted(2, 1),
    row(
        "EVAL_RO",
        Script(ScriptOp::EvalRo),
        -3,
        RUNS_READING,
        NONE,
        "scripting",
        "Runs a script in Lua that writes nothing.",
    )
    .counted(2, 1),
    row("SCRIPT", Script(ScriptOp::Script), -2, BY_SUBCOMMAND, NONE, "scripting", "Loads, tells of and ends scripts.")
        .of(OF_SCRIPT),
    row(
        "BGSAVE",
        Server(ServerOp::Save),
        -1,
        &["admin", "noscript", "no_async_loading"],
        NONE,
        "server",
        "Refused: there is no snapshot to write.",
    ),
    row(
        "SAVE",
        Server(ServerOp::Save),
        1,
        &["admin", "noscript", "no_async_loading", "no_multi"],
        NONE,
        "server",
        "Refused: there is no snapshot to write.",
    ),
    row("FUNCTION", Tool(ToolOp::Function), -2, BY_SUBCOMMAND, NONE, "tools", "Tells of functions: there are none.")
        .of(OF_FUNCTION),
    row("LASTSAVE", Tool(ToolOp::LastSave), 1, SELF, NONE, "tools", "Tells when everything was last saved: it is now."),
    row(
        "LATENCY",
        Tool(ToolOp::Latency),
        -2,
        BY_SUBCOMMAND,
        NONE,
        "tools",
        "Tells of latencies: they are on the metrics page.",
    )
    .of(OF_LATENCY),
    row("MEMORY", Tool(ToolOp::Memory), -2, BY_SUBCOMMAND, NONE, "tools", "Tells how many bytes a message takes.")
        .of(OF_MEMORY)
        .about_one(),
    row("MODULE", Tool(ToolOp::Module), -2, BY_SUBCOMMAND, NONE, "tools", "Tells of modules: there are none.")
        .of(OF_MODULE),
    row("OBJECT", Tool(ToolOp::Object), -2, BY_SUBCOMMAND, NONE, "tools", "Tells how Redis would keep a message.")
        .of(OF_OBJECT)
        .about_one(),
    row(
        "ROLE",
        Tool(ToolOp::Role),
        1,
        &["noscript", "loading", "stale", "fast"],
        NONE,
        "tools",
        "Tells that this is the one that takes writes.",
    ),
    row(
        "PSUBSCRIBE",
        Session(SessionOp::PSubscribe),
        -2,
        LISTENS,
        NONE,
        "pubsub",
        "Has the connection told when another leads, by patterns of channels.",
    ),
    row("PUNSUBSCRIBE", Session(SessionOp::PUnsubscribe), -1, LISTENS, NONE, "pubsub", "Ends that."),
    row(
        "SENTINEL",
        Server(ServerOp::Sentinel),
        -2,
        BY_SUBCOMMAND,
        NONE,
        "sentinel",
        "Tells who leads and where, in Redis Sentinel's form.",
    )
    .of(OF_SENTINEL),
    row("SLOWLOG", Tool(ToolOp::SlowLog), -2, BY_SUBCOMMAND, NONE, "tools", "Tells of slow commands: none is noted.")
        .of(OF_SLOWLOG),
    row(
        "SUBSCRIBE",
        Session(SessionOp::Subscribe),
        -2,
        LISTENS,
        NONE,
        "pubsub",
        "Has the connection told when another leads: +switch-master.",
    ),
    row("UNSUBSCRIBE", Session(SessionOp::Unsubscribe), -1, LISTENS, NONE, "pubsub", "Ends that."),
    row("WAIT", Tool(ToolOp::Wait), 3, &["noscript"], NONE, "tools", "Tells how many copies each write has."),
    row(
        "WATCH",
        Session(SessionOp::Watch),
        -2,
        GATHERS,
        ALL,
        "transactions",
        "Lets EXEC fail if one of these ids is written before.",
    ),
];

/// The command of this name, in any case.
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    let is = |spec: &&Spec| spec.name.as_bytes().eq_ignore_ascii_case(name);
    COMMANDS.iter().find(is)
}

/// What other stores call it.
const ELSEWHERE: &[(&str, &str)] = &[
    ("DELETE", "DEL"),
    ("FETCH", "GET"),
    ("INSERT", "SET"),
    ("PUT", "SET"),
    ("READ", "GET"),
    ("STAT", "STATUS"),
    ("STATS", "STATUS"),
    ("STORE", "SET"),
    ("WRITE", "SET"),
];

/// The command of the text protocol that a word may be meant for: one slip away, or two where it is long, or of that
/// name elsewhere.
pub fn nearest(word: &[u8]) -> Option<&'static str> {
    let word = String::from_utf8_lossy(word).to_ascii_uppercase();
    if let Some((_, name)) = ELSEWHERE.iter().find(|(other, _)| *other == word) {
        return Some(name);
    }
    let slips = if word.len() > 4 { 2 } else { 1 };
    let written = COMMANDS.iter().filter(|spec| spec.line.is_some());
    let near = written.map(|spec| (strsim::osa_distance(spec.name, &word), spec.name));
    // Of two that are as near the one that begins alike.
    let near = near.filter(|(distance, _)| (1..=slips).contains(distance));
    near.min_by_key(|(distance, name)| (*distance, name.bytes().next() != word.bytes().next())).map(|(_, name)| name)
}

/// How the commands of the text protocol are written, in the order of HELP.
pub fn lines() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().filter_map(|spec| spec.line)
}

/// The answer to HELP.
pub fn help() -> String {
    let lines: Vec<&str> = lines().collect();
    format!("commands: {} (one a line)", lines.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a Redis 7.0.15 answered to COMMAND INFO, of those that it has.
    #[test]
    fn flags_are_those_of_redis() {
        for (flags, names) in [
            ("", "ACL CLIENT CONFIG FUNCTION LATENCY MEMORY MODULE OBJECT SCRIPT SLOWLOG"),
            ("admin no_async_loading no_multi noscript", "SAVE"),
            ("admin no_async_loading noscript", "BGSAVE"),
            ("allow_busy fast loading no_auth noscript stale", "AUTH HELLO QUIT RESET"),
            ("allow_busy fast loading noscript stale", "DISCARD MULTI UNWATCH WATCH"),
            ("denyoom fast write", "APPEND DECR DECRBY GETSET INCR INCRBY INCRBYFLOAT SETNX"),
            ("denyoom write", "BITFIELD BITOP COPY MSET MSETNX PSETEX SET SETBIT SETEX SETRANGE"),
            ("fast", "PING"),
            ("fast loading noscript stale", "ROLE"),
            ("fast loading stale", "ECHO LASTSAVE SELECT TIME"),
            (
                "fast readonly",
                "BITFIELD_RO DBSIZE EXISTS EXPIRETIME GET GETBIT MGET PEXPIRETIME PTTL STRLEN TOUCH TTL TYPE",
            ),
            ("fast write", "EXPIRE EXPIREAT GETDEL GETEX PERSIST PEXPIRE PEXPIREAT RENAMENX UNLINK"),
            ("loading noscript skip_slowlog stale", "EXEC"),
            ("loading stale", "COMMAND INFO"),
            ("movablekeys no_mandatory_keys noscript readonly skip_monitor stale", "EVALSHA_RO EVAL_RO"),
            ("movablekeys no_mandatory_keys noscript skip_monitor stale", "EVAL EVALSHA"),
            ("noscript", "WAIT"),
            ("loading noscript pubsub stale", "PSUBSCRIBE PUNSUBSCRIBE SUBSCRIBE UNSUBSCRIBE"),
            ("readonly", "BITCOUNT BITPOS GETRANGE KEYS LCS RANDOMKEY SCAN SUBSTR"),
            ("write", "DEL FLUSHALL FLUSHDB RENAME"),
        ] {
            for name in names.split(' ') {
                let mut own = find(name.as_bytes()).unwrap().flags.to_vec();
                own.sort_unstable();
                assert_eq!(own.join(" "), flags, "{name}");
            }
        }
    }

    #[test]
    fn rows_are_found_by_name_and_say_where_their_ids_are() {
        assert_eq!(find(b"mSeT").map(|spec| spec.op), Some(Op::Data(DataOp::Mset)));
        assert!(find(b"").is_none() && find(b"LPUSH").is_none());
        let places = |line: &str| {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            find(words[0]).unwrap().key_places(&words).map(Iterator::collect::<Vec<_>>)
        };
        for (line, wanted) in [
            ("GET a", vec![1]),
            ("DEL a b c", vec![1, 2, 3]),
            ("MSET a 1 b 2", vec![1, 3]),
            ("COPY a b REPLACE", vec![1, 2]),
            ("BITOP AND a b c", vec![2, 3, 4]),
            ("PING a", vec![]),
            ("EVAL x 2 a b c", vec![3, 4]),
            ("EVAL x 0", vec![]),
            ("EVAL_RO x 1 a b", vec![3]),
            ("EVALSHA x 1 a b", vec![3]),
            ("EVALSHA_RO x 1 a b", vec![3]),
            ("MSETEX 2 a 1 b 2 NX", vec![2, 4]),
            ("OBJECT ENCODING a", vec![2]),
            ("OBJECT HELP", vec![]),
            ("MEMORY USAGE a SAMPLES 5", vec![2]),
        ] {
            assert_eq!(places(line), Ok(wanted), "{line}");
        }
        for (line, why) in [
            ("EVAL x y", WrongCount::NotANumber),
            ("EVAL x -1", WrongCount::TooFew),
            ("MSETEX 0 a 1", WrongCount::TooFew),
            ("EVAL x 2 a", WrongCount::TooMany),
            ("EVAL x 9223372036854775807 a", WrongCount::TooMany),
            ("MSETEX 2 a 1 b", WrongCount::TooMany),
            ("MSETEX 9223372036854775807 a 1 b", WrongCount::TooMany),
        ] {
            assert_eq!(places(line), Err(why), "{line}");
        }
        let fits = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            find(words[0].as_bytes()).unwrap().fits(&words)
        };
        let number = |name: &str| Err(Misfit::Number(name.to_owned()));
        assert_eq!([fits("CLIENT id"), fits("COMMAND"), fits("CONFIG GET a b")], [Ok(()), Ok(()), Ok(())]);
        assert_eq!([fits("CLIENT"), fits("GET a b")], [number("client"), number("get")]);
        assert_eq!([fits("CLIENT ID 1"), fits("config Get")], [number("client|id"), number("config|get")]);
        assert_eq!([fits("CLIENT foo"), fits("OBJECT GET x")], [Err(Misfit::Subcommand), Err(Misfit::Subcommand)]);
        assert!(find(b"SET").unwrap().takes(5) && !find(b"SET").unwrap().takes(2) && !find(b"GET").unwrap().takes(3));
    }

    #[test]
    fn a_slip_is_understood() {
        for (word, name) in [
            ("GTE", Some("GET")),
            ("ste", Some("SET")),
            ("STAUTS", Some("STATUS")),
            ("VERFIY", Some("VERIFY")),
            ("WHER", Some("WHERE")),
            ("GETT", Some("GET")),
            ("delete", Some("DEL")),
            ("STAT", Some("STATUS")),
            ("FROB", None),
            ("", None),
        ] {
            assert_eq!(nearest(word.as_bytes()), name, "{word}");
        }
        assert!(
            ELSEWHERE.iter().all(|(other, name)| find(other.as_bytes()).is_none() && find(name.as_bytes()).is_some())
        );
    }

    #[test]
    fn no_name_is_there_twice_and_each_is_explained() {
        let mut names: Vec<&str> = COMMANDS.iter().map(|spec| spec.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        assert!(COMMANDS.iter().all(|spec| spec.summary.ends_with('.') && spec.name == spec.name.to_uppercase()));
        assert!(help().starts_with("commands: SET <id> <message>, GET <id>, "));
    }
}
