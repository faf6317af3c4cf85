//! What HELP says of subcommands, in the form that Redis has: a line how it is written, and an indented one what it does.

use crate::protocol::resp::Value;
use crate::protocol::table::ToolOp;

/// Of ACL.
pub(super) const ACL: &[&str] = &[
    "CAT [<category>]",
    "    List all commands that belong to <category>, or all command categories",
    "    when no category is specified.",
    "DELUSER <username> [<username> ...]",
    "    Delete a list of users.",
    "DRYRUN <username> <command> [<arg> ...]",
    "    Returns whether the user can execute the given command without executing the command.",
    "GETUSER <username>",
    "    Get the user's details.",
    "GENPASS [<bits>]",
    "    Generate a secure 256-bit user password. The optional `bits` argument can",
    "    be used to specify a different size.",
    "LIST",
    "    Show users with the rules that make them.",
    "LOAD",
    "    Refused: users are in the leader's log.",
    "LOG [<count> | RESET]",
    "    Show what was denied of late.",
    "SAVE",
    "    Refused: users are in the leader's log.",
    "SETUSER <username> <attribute> [<attribute> ...]",
    "    Create or modify a user with the specified attributes.",
    "USERS",
    "    List all the registered usernames.",
    "WHOAMI",
    "    Return the current connection username.",
];

/// Of CLIENT.
pub(super) const CLIENT: &[&str] = &[
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <ip:port>",
    "    Kill the connection from <ip:port>.",
    "KILL <option> <value> [<option> <value> [...]]",
    "    Kill connections. Options are ADDR, LADDR, ID, TYPE, USER, SKIPME.",
    "LIST [ID <id> [<id> ...] | TYPE (NORMAL|MASTER|REPLICA|PUBSUB)]",
    "    Return information about client connections.",
    "REPLY (ON|OFF|SKIP)",
    "    Which replies are sent.",
    "TRACKING OFF",
    "    Accepted; ON is refused, as nobody is told of writes.",
    "NO-EVICT (ON|OFF)",
    "    Accepted, without effect.",
    "NO-TOUCH (ON|OFF)",
    "    Accepted, without effect.",
    "SETINFO (LIB-NAME|LIB-VER) <value>",
    "    Tell which library the client is.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
];

/// Of CONFIG.
pub(super) const CONFIG: &[&str] = &[
    "GET <pattern> [<pattern> ...]",
    "    Return settings that match a pattern.",
    "SET <setting> <value>",
    "    Refused: settings are flags of hatokuse leader.",
    "RESETSTAT",
    "    Accepted, without effect.",
];

/// Of COMMAND itself.
pub(super) const COMMAND: &[&str] = &[
    "(no subcommand)",
    "    Return details about all commands.",
    "COUNT",
    "    Return the total number of commands.",
    "DOCS [<command-name> ...]",
    "    Return documentation of the named commands, or of all.",
    "GETKEYS <full-command>",
    "    Return the ids from a full command.",
    "INFO [<command-name> ...]",
    "    Return details about the named commands, or about all.",
    "LIST [FILTERBY (MODULE <module-name>|ACLCAT <category>|PATTERN <pattern>)]",
    "    Return the names of all commands, or of those that match.",
];

/// Of SCRIPT.
pub(super) const SCRIPT: &[&str] = &[
    "DEBUG NO",
    "    Accepted; there is no debugger.",
    "EXISTS <sha1> [<sha1> ...]",
    "    Return information about the existence of the scripts in the script cache.",
    "FLUSH [ASYNC|SYNC]",
    "    Forget all scripts.",
    "KILL",
    "    End all scripts that run.",
    "LOAD <script>",
    "    Load a script into the scripts cache without executing it.",
];

/// Of SENTINEL.
const SENTINEL: &[&str] = &[
    "CKQUORUM <master-name>",
    "    Check if as many leaders are there as elect one.",
    "GET-MASTER-ADDR-BY-NAME <master-name>",
    "    Return the ip and port number of the one that leads.",
    "MASTER <master-name>",
    "    Show the one that leads.",
    "MASTERS",
    "    Show it as a list of one.",
    "MYID",
    "    Return the id of who answers.",
    "REPLICAS <master-name>",
    "    Show the others, if they answer reads.",
    "SENTINELS <master-name>",
    "    Show all but who answers.",
    "SLAVES <master-name>",
    "    As REPLICAS.",
];

/// The answer to SENTINEL HELP.
pub(in crate::leader) fn sentinel() -> Value {
    of("SENTINEL", SENTINEL)
}

/// Of the small words that tools ask.
pub(super) fn tools(op: ToolOp) -> &'static [&'static str] {
    match op {
        ToolOp::SlowLog => &[
            "GET [<count>]",
            "    Empty: no command is noted as slow.",
            "LEN",
            "    0.",
            "RESET",
            "    Accepted, without effect.",
        ],
        ToolOp::Latency => &[
            "LATEST",
            "    Empty: see the metrics page for latencies.",
            "HISTORY <event>",
            "    Empty.",
            "RESET",
            "    0.",
        ],
        ToolOp::Module => &["LIST", "    Empty: there are no modules."],
        ToolOp::Function => &["LIST", "    Empty: there are no functions.", "FLUSH", "    Accepted, without effect."],
        ToolOp::Object => &["ENCODING <key>", "    How Redis would keep this message.", "REFCOUNT <key>", "    1."],
        ToolOp::Memory => &["USAGE <key>", "    Bytes of the message, its id and its place in the index."],
        ToolOp::LastSave | ToolOp::Role | ToolOp::Wait => &[],
    }
}

/// The reply: who is spoken of, and the lines.
pub(super) fn of(command: &str, lines: &[&'static str]) -> Value {
    let first = Value::text(format!("{command} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    let lines = lines.iter().chain(&["HELP", "    Print this help."]).map(|line| Value::Simple(line));
    Value::Array(std::iter::once(first).chain(lines).collect())
}
