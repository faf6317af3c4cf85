//! What one connection wants to be told: of Redis Sentinel's events the change of the leader is the one that there is.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::protocol::glob;
use crate::protocol::resp::{Value, Words};
use crate::protocol::table::SessionOp;

/// The event of a change of the leader.
const SWITCH: &[u8] = b"+switch-master";

/// Channels that Redis Sentinel has. Clients wait for several of them; what never happens here is never told.
const EVENTS: [&[u8]; 22] = [
    SWITCH,
    b"+sdown",
    b"-sdown",
    b"+odown",
    b"-odown",
    b"+slave",
    b"+sentinel",
    b"+reboot",
    b"-dup-sentinel",
    b"+tilt",
    b"-tilt",
    b"+new-epoch",
    b"+try-failover",
    b"+elected-leader",
    b"+failover-end",
    b"+failover-end-for-timeout",
    b"+failover-detected",
    b"+reset-master",
    b"+convert-to-slave",
    b"+slave-reconf-sent",
    b"+slave-reconf-inprog",
    b"+slave-reconf-done",
];

/// Channels and patterns of one connection, and bytes of each.
const MOST: usize = 64;
const LONGEST: usize = 128;

/// What a connection has subscribed to.
#[derive(Debug, Default)]
pub(in crate::leader) struct Subscriptions {
    channels: BTreeSet<Bytes>,
    patterns: BTreeSet<Bytes>,
}

/// Whether this names events of Redis Sentinel: as a pattern if it matches one, with its sign or without it.
fn is_of_sentinel(name: &[u8], is_pattern: bool) -> bool {
    match is_pattern {
        false => EVENTS.contains(&name),
        true => EVENTS.iter().any(|event| glob::matches(name, event) || glob::matches(name, &event[1..])),
    }
}

impl Subscriptions {
    /// Whether there are none.
    pub(in crate::leader) fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.patterns.is_empty()
    }

    /// How many there are.
    fn len(&self) -> i64 {
        (self.channels.len() + self.patterns.len()) as i64
    }

    /// Carries out SUBSCRIBE and its kin: a reply for each name. If one is refused, nothing is done.
    pub(in crate::leader) fn change(&mut self, op: SessionOp, words: &Words) -> Result<Value, String> {
        let names = &words[1..];
        let (kind, is_pattern, begins) = match op {
            SessionOp::Subscribe => ("subscribe", false, true),
            SessionOp::PSubscribe => ("psubscribe", true, true),
            SessionOp::Unsubscribe => ("unsubscribe", false, false),
            _ => ("punsubscribe", true, false),
        };
        let own = if is_pattern { &mut self.patterns } else { &mut self.channels };
        if begins {
            if let Some(name) = names.iter().find(|name| !is_of_sentinel(name, is_pattern)) {
                let shown = crate::error::printable(name, 128);
                return Err(format!(
                    "ERR there is no channel '{shown}': there are no messages to subscribers here but events of Redis Sentinel, such as +switch-master"
                ));
            }
            if names.iter().any(|name| name.len() > LONGEST) || own.len() + names.len() > MOST {
                return Err(format!("ERR at most {MOST} names of at most {LONGEST} bytes can be subscribed to"));
            }
        }
        let named: Vec<Bytes> = match begins || !names.is_empty() {
            true => names.iter().map(|name| Bytes::copy_from_slice(name)).collect(),
            false => own.iter().cloned().collect(),
        };
        if named.is_empty() {
            return Ok(Value::Push(vec![Value::text(kind), Value::Nil, Value::Integer(self.len())]));
        }
        let replies = named.into_iter().map(|name| {
            let own = if is_pattern { &mut self.patterns } else { &mut self.channels };
            match begins {
                true => drop(own.insert(name.clone())),
                false => drop(own.remove(&name)),
            }
            Value::Push(vec![Value::text(kind), Value::Bulk(name), Value::Integer(self.len())])
        });
        Ok(Value::Replies(replies.collect()))
    }

    /// What a connection is told when the leader has changed.
    pub(in crate::leader) fn switched(&self, said: &str) -> Vec<Value> {
        let is = |name: &Bytes| &**name == SWITCH;
        let channel =
            self.channels.iter().filter(|name| is(name)).map(|channel| {
                Value::Push(vec![Value::text("message"), Value::Bulk(channel.clone()), Value::text(said)])
            });
        let patterns = self.patterns.iter().filter(|pattern| glob::matches(pattern, SWITCH)).map(|pattern| {
            let channel = Value::Bulk(Bytes::from_static(SWITCH));
            Value::Push(vec![Value::text("pmessage"), Value::Bulk(pattern.clone()), channel, Value::text(said)])
        });
        channel.chain(patterns).collect()
    }

    /// Whether a client of version 2 may ask this now: what it reads are messages.
    pub(in crate::leader) fn admits(&self, op: crate::protocol::table::Op) -> bool {
        use crate::protocol::table::Op::Session;
        use SessionOp::{Exit, PSubscribe, PUnsubscribe, Ping, Reset, Subscribe, Unsubscribe};
        self.is_empty()
            || matches!(op, Session(Exit | PSubscribe | PUnsubscribe | Ping | Reset | Subscribe | Unsubscribe))
    }

    /// What it is told of other commands.
    pub(in crate::leader) fn refusal(command: &str) -> String {
        format!(
            "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
            command.to_lowercase()
        )
    }

    /// The answer to PING, which is a message to a client of version 2.
    pub(in crate::leader) fn pong(word: Option<&Bytes>) -> Value {
        Value::Array(vec![Value::text("pong"), Value::Bulk(word.cloned().unwrap_or_default())])
    }
}
