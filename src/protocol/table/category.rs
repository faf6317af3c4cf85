//! Categories of commands, for rules of users (`+@read`).
//!
//! They follow from a command's flags and group, as they do in Redis 7.0.15, whose categories those of its commands are.

use super::{COMMANDS, Op, RegisterOp, Spec};

macro_rules! categories {
    ($($name:ident $shown:literal,)*) => {
        /// A set of commands that have something in common.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "each is the category of its name")]
        pub enum Category {
            $($name,)*
        }

        impl Category {
            /// All of them, in the order in which they are listed. Those of types that there are not have no commands.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As rules name it, behind `@`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $shown,)*
                }
            }
        }
    };
}

categories! {
    Keyspace "keyspace",
    Read "read",
    Write "write",
    Set "set",
    SortedSet "sortedset",
    List "list",
    Hash "hash",
    String "string",
    Bitmap "bitmap",
    HyperLogLog "hyperloglog",
    Geo "geo",
    Stream "stream",
    PubSub "pubsub",
    Admin "admin",
    Fast "fast",
    Slow "slow",
    Blocking "blocking",
    Dangerous "dangerous",
    Connection "connection",
    Transaction "transaction",
    Scripting "scripting",
    Observe "observe",
}

impl Category {
    /// The one of this name, in any case.
    pub fn find(name: &[u8]) -> Option<Self> {
        Self::ALL.iter().copied().find(|category| category.name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// Its commands.
    pub fn commands(self) -> impl Iterator<Item = Leaf> {
        leaves().filter(move |leaf| leaf.is_in(self))
    }
}

/// What a user may or may not run: a command, or a subcommand of one that has some.
#[derive(Debug, Clone, Copy)]
pub struct Leaf {
    /// Its place among all of them.
    pub index: usize,
    /// The command.
    pub spec: &'static Spec,
    /// The subcommand, if it is one.
    pub subcommand: Option<&'static str>,
}

/// All of them. A command that has subcommands is one beside these: it stands for what is none of them.
pub fn leaves() -> impl Iterator<Item = Leaf> {
    let all = COMMANDS.iter().filter(|spec| spec.op != Op::OtherProtocol).flat_map(|spec| {
        let own = std::iter::once((spec, None));
        own.chain(spec.subcommands.iter().map(move |(name, _)| (spec, Some(*name))))
    });
    all.enumerate().map(|(index, (spec, subcommand))| Leaf { index, spec, subcommand })
}

/// What a user needs the right to, for a command with this word behind it. Nothing, for a line of HTTP.
pub fn leaf_of(spec: &Spec, word: Option<&[u8]>) -> Option<Leaf> {
    let own = || leaves().filter(|leaf| leaf.spec.name == spec.name);
    let is =
        |leaf: &Leaf| leaf.subcommand.is_some_and(|name| word.is_some_and(|w| name.as_bytes().eq_ignore_ascii_case(w)));
    let named = if spec.subcommands.is_empty() { None } else { own().find(is) };
    named.or_else(|| own().next())
}

impl Leaf {
    /// `get`, `config|get`.
    pub fn name(&self) -> String {
        let command = self.spec.name.to_lowercase();
        self.subcommand.map_or(command.clone(), |name| format!("{command}|{}", name.to_lowercase()))
    }

    /// Whether this is its [`name`](Self::name), in any case.
    pub fn is_named(&self, name: &str) -> bool {
        match (name.split_once('|'), self.subcommand) {
            (None, None) => self.spec.name.eq_ignore_ascii_case(name),
            (Some((command, of)), Some(own)) => {
                self.spec.name.eq_ignore_ascii_case(command) && own.eq_ignore_ascii_case(of)
            }
            _ => false,
        }
    }

    /// Whether it is in a category.
    pub fn is_in(&self, category: Category) -> bool {
        let (spec, group, has) = (self.spec, self.spec.group, |flag: &str| self.spec.flags.contains(&flag));
        let subcommand = self.subcommand.unwrap_or_default();
        let is_container = !spec.subcommands.is_empty() && self.subcommand.is_none();
        let is = |name: &str, subcommands: &[&str]| spec.name == name && subcommands.contains(&subcommand);
        let is_one = |names: &[&str]| names.contains(&spec.name);
        let flushes = is_one(&["FLUSHALL", "FLUSHDB"]);
        let observes = matches!(spec.op, Op::Register(RegisterOp::Peers | RegisterOp::Status | RegisterOp::Verify));
        // Of a container that has categories of its own only its subcommands have them.
        match category {
            Category::Fast => return has("fast"),
            Category::Slow => return !has("fast"),
            _ if is_container && spec.name != "COMMAND" => return false,
            _ => {}
        }
        match category {
            Category::Keyspace => group == "generic" || spec.name == "OBJECT" || spec.name == "DBSIZE" || flushes,
            Category::Read => {
                has("readonly") && group != "scripting" && !observes
                    || spec.name == "OBJECT" && subcommand != "HELP"
                    || is("MEMORY", &["USAGE"])
            }
            Category::Write => has("write") || is("FUNCTION", &["DELETE", "FLUSH", "LOAD", "RESTORE"]),
            Category::String => group == "string",
            Category::Bitmap => group == "bitmap",
            // Redis's SENTINEL is of a process beside the servers, for operators. Here it is how a client finds where to go,
            // so that it is for all who may connect.
            Category::Connection => group == "connection" || is_one(&["COMMAND", "SENTINEL", "WAIT"]),
            Category::PubSub => has("pubsub"),
            Category::Transaction => group == "transactions",
            Category::Scripting => group == "scripting" || spec.name == "FUNCTION",
            Category::Admin => self.is_of_operators() || flushes,
            Category::Dangerous => self.is_of_operators() || flushes || is_one(&["KEYS", "INFO"]),
            Category::Observe => observes,
            _ => false,
        }
    }

    /// Whether it is for those who run the register.
    fn is_of_operators(&self) -> bool {
        let subcommand = self.subcommand.unwrap_or_default();
        match self.spec.name {
            "LASTSAVE" | "ROLE" => true,
            "ACL" => !matches!(subcommand, "CAT" | "GENPASS" | "HELP" | "WHOAMI"),
            "CLIENT" => matches!(subcommand, "KILL" | "LIST" | "NO-EVICT" | "PAUSE" | "UNPAUSE" | "UNBLOCK"),
            "CONFIG" | "LATENCY" | "MODULE" | "SLOWLOG" => subcommand != "HELP",
            _ => self.spec.flags.contains(&"admin"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a Redis 7.0.15 answered to ACL CAT, of the commands that are here too; FLUSHALL and FLUSHDB are for operators
    /// only here.
    #[test]
    fn categories_are_those_of_redis() {
        for (categories, names) in [
            ("admin connection dangerous slow", "client|kill client|list client|no-evict"),
            ("admin dangerous fast", "lastsave role"),
            (
                "admin dangerous slow",
                "config|get config|resetstat config|set bgsave save latency|histogram latency|reset latency|latest \
                 latency|history module|list slowlog|get slowlog|reset slowlog|len acl|setuser acl|getuser acl|deluser \
                 acl|list acl|users acl|log acl|dryrun acl|save acl|load",
            ),
            ("bitmap fast read", "bitfield_ro getbit"),
            ("bitmap read slow", "bitcount bitpos"),
            ("bitmap slow write", "bitfield bitop setbit"),
            ("connection fast", "auth ping quit echo hello reset select"),
            (
                "connection slow",
                "client|setname client|caching client|id client|getredir client|help client|getname client|tracking \
                 client|info client|reply command command|getkeys command|help command|count command|docs command|list \
                 command|info wait",
            ),
            ("pubsub slow", "subscribe psubscribe unsubscribe punsubscribe"),
            ("dangerous keyspace read slow", "keys"),
            ("admin dangerous keyspace slow write", "flushall flushdb"),
            ("dangerous slow", "info"),
            ("fast", "time"),
            ("fast keyspace read", "dbsize exists pttl touch ttl type expiretime pexpiretime"),
            ("fast keyspace write", "renamenx unlink expire expireat pexpire pexpireat persist"),
            ("fast read string", "get mget strlen"),
            ("fast string write", "append decr decrby getdel getset incr incrby incrbyfloat setnx getex"),
            ("fast transaction", "discard multi unwatch watch"),
            ("keyspace read slow", "randomkey scan object|idletime object|freq object|encoding object|refcount"),
            ("keyspace slow", "object|help"),
            ("keyspace slow write", "del copy rename"),
            ("read slow", "memory|usage"),
            ("read slow string", "getrange substr lcs"),
            (
                "scripting slow",
                "eval evalsha evalsha_ro eval_ro script|flush script|help script|debug script|exists script|kill \
                 script|load function|help function|list",
            ),
            ("scripting slow write", "function|restore function|delete function|load function|flush"),
            (
                "slow",
                "client config config|help script function latency latency|help memory memory|help module module|help \
                 object slowlog slowlog|help acl acl|cat acl|genpass acl|help acl|whoami",
            ),
            ("slow string write", "set mset msetnx setrange setex psetex"),
            ("slow transaction", "exec"),
            ("connection slow", "sentinel|masters sentinel|get-master-addr-by-name sentinel|myid"),
            ("fast observe", "peers status"),
            ("observe slow", "verify"),
            ("admin dangerous slow", "drain undrain remove rebalance clock backup handover peer"),
        ] {
            for name in names.split_whitespace() {
                let leaf = leaves().find(|leaf| leaf.name() == name).unwrap_or_else(|| panic!("{name}"));
                let mut own: Vec<_> = Category::ALL.iter().filter(|category| leaf.is_in(**category)).collect();
                own.sort_by_key(|category| category.name());
                let own: Vec<_> = own.iter().map(|category| category.name()).collect();
                assert_eq!(own.join(" "), categories, "{name}");
            }
        }
    }

    #[test]
    fn a_category_is_found_in_any_case() {
        assert_eq!(Category::find(b"ReAd"), Some(Category::Read));
        assert_eq!(Category::find(b"nosuch"), None);
    }
}
