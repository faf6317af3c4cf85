//! What clients of Redis ask of a server itself: who it is, what it can, who is connected.

use std::sync::atomic::Ordering;

use super::OK;
use super::clients::Seat;
use super::help;
use super::refused::{SYNTAX, error, wrong_count};
use super::session::{Replies, Session};
use crate::VERSION;
use crate::acl::DEFAULT;
use crate::error::Refusal;
use crate::leader::coordinator::Meters;
use crate::leader::users::NotLetIn;
use crate::protocol::glob;
use crate::protocol::resp::{Value, Words, number};
use crate::protocol::table::{self, COMMANDS, ServerOp, Spec, leaves};
use crate::telemetry::Meter;
use crate::telemetry::served::{NOT_FOUND, Operation, Protocol};

/// The Redis whose commands these are: clients choose by it what they may send.
pub(in crate::leader) const REDIS_VERSION: &str = "7.0.15";

/// The longest name that a connection may have.
const LONGEST_NAME: usize = 1024;

/// Which connections CLIENT KILL means.
type Filter = Box<dyn Fn(&Seat) -> bool>;

impl Session {
    pub(super) async fn tell_of_server(&mut self, op: ServerOp, words: &Words) -> Result<Value, String> {
        match op {
            ServerOp::Acl => self.acl(words).await,
            ServerOp::Hello => self.hello(words).await,
            ServerOp::Auth => {
                if words.len() > 3 {
                    return error(SYNTAX);
                }
                if words.len() == 2 && self.rights.users().are_open() {
                    return error(
                        "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
                    );
                }
                let user = if words.len() == 3 { &*words[1] } else { DEFAULT.as_bytes() };
                self.authenticate(user, &words[words.len() - 1]).await
            }
            ServerOp::Client => self.client(words),
            ServerOp::Command => command(words),
            ServerOp::Config => self.config(words),
            ServerOp::Info => self.info(words).map(Value::Text),
            ServerOp::Dbsize => {
                let count = self.coordinator.count().await.map_err(|why| self.told(why))?;
                Ok(Value::Integer(count as i64))
            }
            ServerOp::Time => {
                // Clients make deadlines of it.
                Ok(time(self.coordinator.time.now_or_wall()))
            }
            ServerOp::Help => Ok(Value::text(table::help())),
            ServerOp::Sentinel if words[1].eq_ignore_ascii_case(b"HELP") => Ok(help::sentinel()),
            ServerOp::Sentinel => self.group().sentinel(words),
            ServerOp::Save => Err(NO_SNAPSHOT.to_owned()),
        }
    }

    async fn authenticate(&mut self, user: &[u8], password: &[u8]) -> Result<Value, String> {
        self.rights.log_in(user, password).await.map(|()| OK).map_err(|why| match why {
            NotLetIn::Wrong => format!("WRONGPASS {why}"),
            NotLetIn::TooMany => format!("ERR {why}"),
        })
    }

    async fn hello(&mut self, words: &Words) -> Result<Value, String> {
        let version = match words.get(1).map(|word| number(word)) {
            None => self.version,
            Some(Some(version @ (2 | 3))) => version as u8,
            Some(Some(_)) => return error("NOPROTO unsupported protocol version"),
            Some(None) => return error("ERR Protocol version is not an integer or out of range"),
        };
        let (mut at, mut name) = (2, None);
        while let Some(option) = words.get(at) {
            match option.to_ascii_uppercase().as_slice() {
                b"AUTH" if words.len() > at + 2 => {
                    self.authenticate(&words[at + 1], &words[at + 2]).await?;
                    at += 3;
                }
                b"SETNAME" if words.len() > at + 1 => {
                    name = Some(plain_text(&words[at + 1], "Client names")?);
                    at += 2;
                }
                _ => return Err(format!("ERR Syntax error in HELLO option '{}'", String::from_utf8_lossy(option))),
            }
        }
        if !self.rights.is_known() {
            return error(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
            );
        }
        self.version = version;
        let mut said = self.taken.seat.said();
        said.version = version;
        if let Some(name) = name {
            said.name = name;
        }
        let role = (!self.taken.seat.is_sentinel).then_some("master");
        Ok(self::hello(version, Some(self.taken.seat.number), role))
    }

    fn client(&mut self, words: &Words) -> Result<Value, String> {
        let (taken, door) = (self.taken.clone(), self.door.clone());
        let (seat, clients) = (&taken.seat, &door.clients);
        Ok(match (words[1].to_ascii_uppercase().as_slice(), words.len()) {
            (b"HELP", 2) => help::of("CLIENT", help::CLIENT),
            (b"ID", 2) => Value::Integer(seat.number as i64),
            (b"GETNAME", 2) => {
                let name = seat.said().name.clone();
                if name.is_empty() { Value::Nil } else { Value::text(name) }
            }
            (b"SETNAME", 3) => {
                seat.said().name = plain_text(&words[2], "Client names")?;
                OK
            }
            (b"SETINFO", 4) => {
                let value = plain_text(&words[3], "lib-name and lib-ver")?;
                match words[2].to_ascii_lowercase().as_slice() {
                    b"lib-name" => seat.said().library = value,
                    b"lib-ver" => seat.said().library_version = value,
                    _ => return Err(format!("ERR Unrecognized option '{}'", String::from_utf8_lossy(&words[2]))),
                }
                OK
            }
            (b"INFO", 2) => Value::Text(seat.line() + "\n"),
            (b"LIST", 2) => Value::Text(clients.which(|_| true).iter().map(|seat| seat.line() + "\n").collect()),
            (b"LIST", 4..) if words[2].eq_ignore_ascii_case(b"ID") => {
                let numbers: Option<Vec<i64>> = words[3..].iter().map(|word| number(word)).collect();
                let numbers = numbers.ok_or("ERR Invalid client ID")?;
                let seats = clients.which(|seat| numbers.contains(&(seat.number as i64)));
                Value::Text(seats.iter().map(|seat| seat.line() + "\n").collect())
            }
            (b"LIST", 4) if words[2].eq_ignore_ascii_case(b"TYPE") => {
                let normal = is_normal(&words[3])?;
                Value::Text(clients.which(|_| normal).iter().map(|seat| seat.line() + "\n").collect())
            }
            (b"NO-EVICT" | b"NO-TOUCH", 3) => match words[2].to_ascii_uppercase().as_slice() {
                b"ON" | b"OFF" => OK,
                _ => return error(SYNTAX),
            },
            (b"KILL", 3..) => self.kill(words)?,
            (b"REPLY", 3) => {
                self.replies = match (words[2].to_ascii_uppercase().as_slice(), self.replies) {
                    (b"ON", _) => Replies::All,
                    (b"OFF", _) => Replies::None,
                    (b"SKIP", Replies::None) => Replies::None,
                    (b"SKIP", _) => Replies::ButNext,
                    _ => return error(SYNTAX),
                };
                OK
            }
            (b"TRACKING", 3..) if words[2].eq_ignore_ascii_case(b"OFF") => OK,
            (b"TRACKING" | b"CACHING", 3..) => {
                return error(
                    "ERR client side caching is not supported: nobody is told of writes here; connect without it (CLIENT TRACKING OFF)",
                );
            }
            (b"GETREDIR", 2) => Value::Integer(-1),
            _ => return error(SYNTAX),
        })
    }

    /// The old form names an address, and the new one filters, which all have to hold.
    fn kill(&self, words: &Words) -> Result<Value, String> {
        let text = |place: usize| String::from_utf8_lossy(&words[place]).into_owned();
        let own = self.taken.seat.number;
        if words.len() == 3 {
            let address = text(2);
            let seats = self.door.clients.which(|seat| seat.peer.to_string() == address);
            let seat = seats.first().ok_or("ERR No such client")?;
            seat.kill.cancel();
            return Ok(OK);
        }
        let (mut filters, mut skips_own) = (Vec::<Filter>::new(), true);
        for place in (2..words.len()).step_by(2) {
            if place + 1 == words.len() {
                return error(SYNTAX);
            }
            let value = text(place + 1);
            match words[place].to_ascii_uppercase().as_slice() {
                b"ID" => {
                    let number = number(&words[place + 1]).filter(|number| *number > 0);
                    let number = number.ok_or("ERR client-id should be greater than 0")? as u64;
                    filters.push(Box::new(move |seat| seat.number == number));
                }
                b"ADDR" => filters.push(Box::new(move |seat| seat.peer.to_string() == value)),
                b"LADDR" => filters.push(Box::new(move |seat| seat.own.to_string() == value)),
                b"USER" => {
                    if self.rights.users().find(&words[place + 1]).is_none() {
                        return Err(format!("ERR No such user '{value}'"));
                    }
                    filters.push(Box::new(move |seat| seat.said().user == value));
                }
                b"TYPE" => {
                    let normal = is_normal(&words[place + 1])?;
                    filters.push(Box::new(move |_| normal));
                }
                b"SKIPME" => match value.to_ascii_lowercase().as_str() {
                    "yes" => skips_own = true,
                    "no" => skips_own = false,
                    _ => return error(SYNTAX),
                },
                _ => return error(SYNTAX),
            }
        }
        let goes = |seat: &Seat| !(skips_own && seat.number == own) && filters.iter().all(|holds| holds(seat));
        let seats = self.door.clients.which(goes);
        seats.iter().for_each(|seat| seat.kill.cancel());
        Ok(Value::Integer(seats.len() as i64))
    }

    /// Settings under the names that Redis has for them. They are read here, and changed where the leader is started.
    fn settings(&self) -> Vec<(&'static str, String)> {
        let settings = &self.door.settings;
        let max_message = settings.max_message.to_string();
        vec![
            ("appendonly", "yes".to_owned()),
            ("databases", "1".to_owned()),
            ("maxclients", settings.limits.max_clients.to_string()),
            ("maxmemory", "0".to_owned()),
            ("proto-max-bulk-len", max_message),
            ("save", String::new()),
            ("timeout", settings.limits.idle_timeout.as_secs().to_string()),
        ]
    }

    fn config(&self, words: &Words) -> Result<Value, String> {
        Ok(match (words[1].to_ascii_uppercase().as_slice(), words.len()) {
            (b"HELP", 2) => help::of("CONFIG", help::CONFIG),
            (b"GET", 3..) => {
                let patterns: Vec<_> = words[2..].iter().map(|word| word.to_ascii_lowercase()).collect();
                let asked = |name: &str| patterns.iter().any(|pattern| glob::matches(pattern, name.as_bytes()));
                let settings = self.settings().into_iter().filter(|(name, _)| asked(name));
                Value::Map(settings.map(|(name, value)| (Value::text(name), Value::text(value))).collect())
            }
            (b"SET", 4..) => return Err(config_set_refused(words)),
            (b"RESETSTAT", 2) => OK,
            _ => return error(SYNTAX),
        })
    }

    /// The sections of INFO that are asked for, or all.
    /// While it is not known which messages there are, who asks for their number alone gets an error, and all others a
    /// text that says that the leader is still loading.
    fn info(&self, words: &Words) -> Result<String, String> {
        let coordinator = &self.coordinator;
        let asked: Vec<String> = words[1..].iter().map(|word| String::from_utf8_lossy(word).to_lowercase()).collect();
        let (count, epoch, loading, (expires, left)) = {
            let cluster = coordinator.cluster();
            let expiry = cluster.mapping().time_left(coordinator.time.peek());
            let loading = u8::from(cluster.waiting_for().is_some());
            (cluster.count(), cluster.leadership().map_or(0, |leadership| leadership.epoch.0), loading, expiry)
        };
        let keyspace = match count {
            Ok(0) => String::new(),
            Ok(messages) => format!("db0:keys={messages},expires={expires},avg_ttl={left}\r\n"),
            Err(reason) if asked == ["keyspace"] => return Err(self.told(Refusal::Unavailable(reason))),
            Err(reason) => format!("# not known yet: {reason}\r\n"),
        };
        let (uptime, memory) = (coordinator.now().as_secs(), used_memory());
        let (clients, group) = (self.door.clients.which(|_| true).len(), self.group());
        let is_sentinel = self.taken.seat.is_sentinel;
        let mode = if is_sentinel { "sentinel" } else { "standalone" };
        let (hits, misses) = hits_and_misses(&coordinator.meters);
        let sections = [
            (
                "Server",
                format!(
                    "redis_version:{REDIS_VERSION}\r\nredis_mode:{mode}\r\nhatokuse_version:{VERSION}\r\nos:{} {}\r\nprocess_id:{}\r\ntcp_port:{}\r\nuptime_in_seconds:{uptime}\r\nuptime_in_days:{}\r\nepoch:{epoch}\r\n",
                    std::env::consts::OS,
                    std::env::consts::ARCH,
                    std::process::id(),
                    self.taken.seat.own.port(),
                    uptime / 86_400
                ),
            ),
            (
                "Clients",
                format!(
                    "connected_clients:{clients}\r\nmaxclients:{}\r\nblocked_clients:0\r\n",
                    self.door.settings.limits.max_clients
                ),
            ),
            (
                "Memory",
                format!(
                    "used_memory:{memory}\r\nused_memory_human:{:.2}M\r\nused_memory_rss:{memory}\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\nnumber_of_cached_scripts:{}\r\nin_flight_bytes:{}\r\n",
                    memory as f64 / f64::from(1 << 20),
                    self.door.scripts.count(),
                    coordinator.in_flight()
                ),
            ),
            ("Persistence", format!("loading:{loading}\r\nasync_loading:0\r\naof_enabled:1\r\n")),
            (
                "Stats",
                format!(
                    "total_connections_received:{}\r\ntotal_commands_processed:{}\r\ninstantaneous_ops_per_sec:{}\r\nrejected_connections:{}\r\nexpired_keys:{}\r\nevicted_keys:0\r\nkeyspace_hits:{hits}\r\nkeyspace_misses:{misses}\r\nrequest_batches:{}\r\n",
                    self.door.clients.accepted(),
                    self.door.clients.pace.requests(),
                    self.door.clients.pace.per_second(),
                    self.door.clients.refused.load(Ordering::Relaxed),
                    coordinator.meters.expired.load(Ordering::Relaxed),
                    coordinator.meters.requests.load(Ordering::Relaxed)
                ),
            ),
            ("Replication", group.replication()),
            ("Sentinel", group.sentinel_info()),
            ("CPU", used_cpu()),
            ("Commandstats", command_stats(&coordinator.meters)),
            ("Cluster", "cluster_enabled:0\r\n".to_owned()),
            ("Keyspace", keyspace),
        ];
        let any_of = |names: &[&str]| asked.iter().any(|name| names.contains(&name.as_str()));
        let all = any_of(&["all", "everything"]);
        let usual = all || asked.is_empty() || any_of(&["default"]);
        // As in Redis, counts by command are long, and shown to those who ask for them; so is what a Sentinel says.
        let shown = sections.iter().filter(|(name, _)| {
            let of_its_own = match *name {
                "Commandstats" => all,
                "Sentinel" => is_sentinel && usual,
                _ => usual,
            };
            of_its_own || asked.contains(&name.to_lowercase())
        });
        let parts: Vec<String> = shown.map(|(name, body)| format!("# {name}\r\n{body}")).collect();
        Ok(parts.join("\r\n"))
    }
}

/// The answer to HELLO: in which version of the protocol it goes on, the connection's number, and what this process is; without a
/// role it is a Redis Sentinel.
pub(in crate::leader) fn hello(version: u8, number: Option<u64>, role: Option<&str>) -> Value {
    let text = |text: &str| Value::text(text);
    let mut fields = vec![
        (text("server"), text("redis")),
        (text("version"), text(REDIS_VERSION)),
        (text("proto"), Value::Integer(version.into())),
    ];
    fields.extend(number.map(|number| (text("id"), Value::Integer(number as i64))));
    fields.push((text("mode"), text(if role.is_some() { "standalone" } else { "sentinel" })));
    fields.extend(role.map(|role| (text("role"), text(role))));
    fields.push((text("modules"), Value::Array(Vec::new())));
    Value::Map(fields)
}

/// Reads that found a message, and those of none.
fn hits_and_misses(meters: &Meters) -> (u64, u64) {
    let reads = Protocol::ALL.map(|via| meters.served.view(via, Operation::Read));
    let missed = reads.iter().filter_map(|view| view.refused.get(NOT_FOUND));
    (reads.iter().map(|view| view.good).sum(), missed.sum())
}

/// Bytes of memory that the leader has.
fn used_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() << 10
}

/// Seconds of processor time that the leader took.
fn used_cpu() -> String {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name before it may hold blanks. In clock ticks, of which a second has a hundred.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let seconds = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or_default() / 100.0;
    format!("used_cpu_sys:{:.2}\r\nused_cpu_user:{:.2}\r\n", seconds(12), seconds(11))
}

/// What is counted of GETs and writes. Both protocols are in it.
fn command_stats(meters: &Meters) -> String {
    let line = |name: &str, meter: &Meter, op: Operation| {
        let times = Protocol::ALL.map(|via| meters.served.view(via, op).times);
        let micros = times.iter().map(|times| times.sum_s * 1e6).sum::<f64>();
        let each = micros / times.iter().flat_map(|times| times.buckets.iter()).sum::<u64>().max(1) as f64;
        format!(
            "cmdstat_{name}:calls={},usec={micros:.0},usec_per_call={each:.2},rejected_calls=0,failed_calls=0\r\n",
            meter.total()
        )
    };
    line("get", &meters.gets, Operation::Read) + &line("set", &meters.sets, Operation::Write)
}

/// The reply to TIME, at so many milliseconds since 1970.
pub(super) fn time(now: u64) -> Value {
    let part = |number: u64| Value::text(number.to_string());
    Value::Array(vec![part(now / 1000), part(now % 1000 * 1000)])
}

/// The refusal of CONFIG SET.
pub(super) fn config_set_refused(words: &Words) -> String {
    let name = words.get(2).map(|word| String::from_utf8_lossy(word).into_owned()).unwrap_or_default();
    format!(
        "ERR Unknown option or number of arguments for CONFIG SET - '{name}': settings are flags of hatokuse leader"
    )
}

/// The refusal of SAVE and BGSAVE.
pub(super) const NO_SNAPSHOT: &str =
    "ERR there is no snapshot to write: what was answered OK is on its nodes and in the leader's log already";

/// The refusal of a command that is none of this protocol.
pub(super) const OF_TEXT: &str = "ERR this command is of the text protocol: try it with nc, or with hatokuse client";

/// Names that end up in lists must not forge lines there.
fn plain_text(bytes: &[u8], what: &str) -> Result<String, String> {
    let plain = bytes.iter().all(u8::is_ascii_graphic) && bytes.len() <= LONGEST_NAME;
    match plain {
        true => Ok(String::from_utf8_lossy(bytes).into_owned()),
        false => Err(format!("ERR {what} cannot contain spaces, newlines or special characters.")),
    }
}

/// Whether this type of clients is the one that all are of here.
fn is_normal(word: &[u8]) -> Result<bool, String> {
    match word.to_ascii_lowercase().as_slice() {
        b"normal" => Ok(true),
        b"master" | b"slave" | b"replica" | b"pubsub" => Ok(false),
        _ => Err(format!("ERR Unknown client type '{}'", crate::error::printable(word, 128))),
    }
}

/// The reply to COMMAND.
pub(in crate::leader) fn command(words: &Words) -> Result<Value, String> {
    let named = |from: usize| words[from.min(words.len())..].iter().map(|name| table::find(name));
    let all = || COMMANDS.iter().filter(|spec| spec.is_of_redis());
    let Some(sub) = words.get(1) else { return Ok(Value::Array(all().map(info_of).collect())) };
    Ok(match (sub.to_ascii_uppercase().as_slice(), words.len()) {
        (b"HELP", 2) => help::of("COMMAND", help::COMMAND),
        (b"COUNT", 2) => Value::Integer(all().count() as i64),
        (b"LIST", 2) => names(|_| true),
        (b"LIST", 5) if words[2].eq_ignore_ascii_case(b"FILTERBY") => {
            match words[3].to_ascii_uppercase().as_slice() {
                b"PATTERN" => names(|name| glob::matches(&words[4].to_ascii_lowercase(), name.as_bytes())),
                b"ACLCAT" => {
                    let of = table::Category::find(&words[4]);
                    let is_in = |leaf: table::Leaf| leaf.subcommand.is_none() && of.is_some_and(|of| leaf.is_in(of));
                    let found: Vec<_> = leaves().filter(|leaf| is_in(*leaf)).map(|leaf| leaf.name()).collect();
                    names(|name| found.iter().any(|of| of == name))
                }
                // There are no modules.
                b"MODULE" => names(|_| false),
                _ => return error(SYNTAX),
            }
        }
        (b"INFO", 2) => Value::Array(all().map(info_of).collect()),
        (b"INFO", _) => Value::Array(named(2).map(|spec| spec.map_or(Value::NilArray, info_of)).collect()),
        (b"DOCS", 2) => Value::Map(all().map(docs_of).collect()),
        (b"DOCS", _) => Value::Map(named(2).flatten().map(docs_of).collect()),
        (b"GETKEYS", 3..) => {
            let spec = table::find(&words[2]).ok_or("ERR Invalid command specified")?;
            if !spec.takes(words.len() - 2) {
                return error("ERR Invalid number of arguments specified for command");
            }
            let asked: Words = words[2..].iter().cloned().collect();
            // Those may have none, and then a wrong number of them is none, too.
            let may_have_none = spec.flags.contains(&"no_mandatory_keys");
            let keys: Vec<Value> = match spec.key_places(&asked) {
                Ok(places) => places.map(|place| Value::Bulk(asked[place].clone())).collect(),
                Err(_) if may_have_none => Vec::new(),
                Err(why) => return Err(wrong_count(spec, why)),
            };
            if keys.is_empty() && !may_have_none {
                return error("ERR The command has no key arguments");
            }
            Value::Array(keys)
        }
        _ => return error(SYNTAX),
    })
}

/// The names of commands for which this holds.
fn names(is: impl Fn(&str) -> bool) -> Value {
    let names = COMMANDS.iter().filter(|spec| spec.is_of_redis()).map(|spec| spec.name.to_lowercase());
    let names = names.filter(|name| is(name));
    Value::Array(names.map(Value::text).collect())
}

/// Name, arity, flags, places of the ids, and categories; nothing more of ids and subcommands.
fn info_of(spec: &Spec) -> Value {
    let (first, last, step) = spec.keys;
    let own = leaves().find(|leaf| leaf.subcommand.is_none() && leaf.spec.name == spec.name);
    let categories = table::Category::ALL.iter().filter(|category| own.is_some_and(|leaf| leaf.is_in(**category)));
    let categories = categories.map(|category| Value::Status(format!("@{}", category.name()))).collect();
    let number = |number: i32| Value::Integer(number.into());
    Value::Array(vec![
        Value::text(spec.name.to_lowercase()),
        number(spec.arity),
        Value::Set(spec.flags.iter().map(|flag| Value::Simple(flag)).collect()),
        number(first),
        number(last),
        number(step),
        Value::Set(categories),
        Value::Array(vec![]),
        Value::Array(vec![]),
        Value::Array(vec![]),
    ])
}

fn docs_of(spec: &Spec) -> (Value, Value) {
    let text = |text: &str| Value::text(text);
    let mut docs = vec![(text("summary"), text(spec.summary)), (text("group"), text(spec.group))];
    if let Some(line) = spec.line {
        docs.push((text("text_protocol"), text(line)));
    }
    (Value::text(spec.name.to_lowercase()), Value::Map(docs))
}

#[cfg(test)]
mod tests {
    use super::super::refused::class;
    use super::*;

    #[test]
    fn refusals_have_the_classes_that_clients_know() {
        let few = Refusal::TooFewNodes("need 3 live nodes, have 2".to_owned());
        assert_eq!(class(&few, || "LOADING"), "NOREPLICAS");
        assert_eq!(class(&Refusal::Unavailable("wait".into()), || "LOADING"), "LOADING");
        assert_eq!(class(&Refusal::Busy("full"), || "LOADING"), "OOM");
    }

    /// What a Redis 7.0.15 answered, but to the last, which it does not have.
    #[test]
    fn keys_of_commands_are_told_as_in_redis() {
        for (asked, keys) in [
            ("EVAL x 1 a", Ok(&["a"][..])),
            ("EVAL x 0", Ok(&[])),
            ("EVAL x 2 a", Ok(&[])),
            ("EVALSHA x -1", Ok(&[])),
            ("EVAL_RO x y", Ok(&[])),
            ("CLIENT ID", Err("ERR The command has no key arguments")),
            ("GET", Err("ERR Invalid number of arguments specified for command")),
            ("NOSUCH a", Err("ERR Invalid command specified")),
            ("MSETEX 2 a 1", Err("ERR wrong number of key-value pairs")),
        ] {
            let told = command(&super::super::words(&format!("COMMAND GETKEYS {asked}")));
            let keys = keys.map(|keys| Value::Array(keys.iter().map(|key| Value::text(*key)).collect()));
            assert_eq!(told, keys.map_err(str::to_owned), "{asked}");
        }
    }

    #[test]
    fn names_cannot_forge_lines() {
        assert!(plain_text(b"ab-1", "x").is_ok());
        for bad in [&b"a b"[..], b"a\nid=1", b"\xff", &[b'x'; LONGEST_NAME + 1]] {
            assert!(plain_text(bad, "x").is_err());
        }
    }
}
