//! What commands do, grouped by who carries them out.

/// What a command does, by who carries it out: an operation without an arm there does not compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Works on the messages that it names, and on nothing else.
    Data(DataOp),
    /// Changes or ends what one connection has.
    Session(SessionOp),
    /// Works on all messages.
    Keyspace(KeyspaceOp),
    /// Tells of the server and its connections, or changes settings of one.
    Server(ServerOp),
    /// Runs a script, or tells of scripts.
    Script(ScriptOp),
    /// What monitoring tools ask a Redis for.
    Tool(ToolOp),
    /// Works on the register itself; see the text protocol.
    Register(RegisterOp),
    /// A line of HTTP: somebody makes a browser talk to us.
    OtherProtocol,
}

/// Operations on the messages that are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the command of its name, which the table explains")]
pub enum DataOp {
    Append,
    BitCount,
    BitField,
    BitFieldRo,
    BitOp,
    BitPos,
    Copy,
    Decr,
    DecrBy,
    Del,
    Exists,
    DelEx,
    DelIfEq,
    Expire,
    ExpireAt,
    ExpireTime,
    Get,
    GetBit,
    GetDel,
    GetEx,
    GetRange,
    GetSet,
    Incr,
    IncrBy,
    IncrByFloat,
    IncrEx,
    Lcs,
    Mget,
    Mset,
    MsetEx,
    MsetNx,
    PExpire,
    PExpireAt,
    PExpireTime,
    Persist,
    PSetEx,
    Pttl,
    Rename,
    RenameNx,
    Set,
    SetBit,
    SetEx,
    SetNx,
    SetRange,
    Strlen,
    Touch,
    Ttl,
    Type,
}

/// Operations on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the command of its name, which the table explains")]
pub enum SessionOp {
    Discard,
    Echo,
    Exec,
    Exit,
    Multi,
    Ping,
    PSubscribe,
    PUnsubscribe,
    Reset,
    Select,
    Subscribe,
    Unsubscribe,
    Unwatch,
    Watch,
}

/// Operations on all messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the command of its name, which the table explains")]
pub enum KeyspaceOp {
    Backup,
    Flush,
    Keys,
    RandomKey,
    Scan,
}

/// Operations on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the command of its name, which the table explains")]
pub enum ServerOp {
    Acl,
    Auth,
    Client,
    Command,
    Config,
    Dbsize,
    Hello,
    Help,
    Info,
    /// SAVE and BGSAVE, which are refused.
    Save,
    Sentinel,
    Time,
}

/// Operations of scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the command of its name, which the table explains")]
pub enum ScriptOp {
    Eval,
    EvalRo,
    EvalSha,
    EvalShaRo,
    Script,
}

/// Answers to monitoring tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the command of its name, which the table explains")]
pub enum ToolOp {
    Function,
    LastSave,
    Latency,
    Memory,
    Module,
    Object,
    Role,
    SlowLog,
    Wait,
}

/// Operations on the register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the command of its name, which the table explains")]
pub enum RegisterOp {
    Clock,
    Count,
    Drain,
    HandOver,
    Peer,
    Peers,
    Rebalance,
    Remove,
    Status,
    Undrain,
    Verify,
    Where,
}
