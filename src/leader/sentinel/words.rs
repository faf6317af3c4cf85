//! The replies of `SENTINEL`, `ROLE` and `INFO`.
//!
//! Fields have Redis Sentinel's names, and only those are there for which there is a true value.

use std::fmt::Write as _;

use super::{DOWN_AFTER, Peer, Place, View};
use crate::leader::gateway::SYNTAX;
use crate::protocol::resp::{Value, Words};
use crate::types::PeerId;

const UNKNOWN_MASTER: &str = "ERR No such master with that name";

/// The names and values of one instance, which a client of version 3 gets as a map.
type Fields = Vec<(&'static str, String)>;

fn map(fields: Fields) -> Value {
    Value::Map(fields.into_iter().map(|(name, value)| (Value::text(name), Value::text(value))).collect())
}

fn flags(kind: &str, is_down: bool) -> String {
    if is_down { format!("{kind},s_down,disconnected") } else { kind.to_owned() }
}

impl Peer {
    /// What is known of each, whatever it is asked as.
    fn fields(&self, name: String, kind: &str) -> Fields {
        let mut fields = vec![
            ("name", name),
            ("ip", self.place.host.clone()),
            ("port", self.place.port.to_string()),
            ("runid", self.run.clone()),
            ("flags", flags(kind, self.is_down)),
        ];
        if let Some(silent) = self.silent_for {
            let ms = silent.as_millis().to_string();
            fields.extend([("last-ok-ping-reply", ms.clone()), ("last-ping-reply", ms)]);
        }
        fields.push(("down-after-milliseconds", DOWN_AFTER.as_millis().to_string()));
        fields
    }

    fn address(&self) -> String {
        let Place { host, port } = &self.place;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl View {
    /// Carries out `SENTINEL`, whose words were counted; HELP is the caller's.
    pub(in crate::leader) fn sentinel(&self, words: &Words) -> Result<Value, String> {
        let is_known = words.get(2).is_none_or(|name| **name == *self.name.as_bytes());
        let sub = words[1].to_ascii_uppercase();
        if !is_known {
            // As Redis: nil to who asks for an address.
            return if sub == b"GET-MASTER-ADDR-BY-NAME" {
                Ok(Value::NilArray)
            } else {
                Err(UNKNOWN_MASTER.to_owned())
            };
        }
        let list = |fields: Vec<Fields>| Value::Array(fields.into_iter().map(map).collect());
        Ok(match sub.as_slice() {
            b"GET-MASTER-ADDR-BY-NAME" => match self.leads() {
                Some(Peer { place: Place { host, port }, .. }) => {
                    Value::Array(vec![Value::text(host), Value::text(port.to_string())])
                }
                None => Value::NilArray,
            },
            b"MASTERS" => list(self.leads().map(|leader| self.master(leader)).into_iter().collect()),
            b"MASTER" => map(self.master(self.leads().ok_or("LOADING no leader is known; try again")?)),
            b"REPLICAS" | b"SLAVES" => list(self.replicas().map(|peer| self.replica(peer)).collect()),
            b"SENTINELS" => list(self.others().map(|peer| self.other(peer)).collect()),
            b"CKQUORUM" => return self.quorum(),
            b"MYID" => Value::text(self.peers.iter().find(|peer| peer.id == self.me).map_or("", |peer| &*peer.run)),
            _ => return Err(SYNTAX.to_owned()),
        })
    }

    /// Standbys that answer reads.
    fn replicas(&self) -> impl Iterator<Item = &Peer> {
        self.standbys().filter(|_| self.is_relayed)
    }

    fn other(&self, peer: &Peer) -> Fields {
        let place = peer.place.clone().on(self.sentinel_port);
        Peer { place, ..peer.clone() }.fields(peer.run.clone(), "sentinel")
    }

    fn master(&self, leader: &Peer) -> Fields {
        let mut fields = leader.fields(self.name.clone(), "master");
        fields.extend([
            ("role-reported", "master".to_owned()),
            ("config-epoch", self.term.to_string()),
            ("num-slaves", self.replicas().count().to_string()),
            ("num-other-sentinels", self.others().count().to_string()),
            ("quorum", self.majority.to_string()),
        ]);
        fields
    }

    fn replica(&self, peer: &Peer) -> Fields {
        let mut fields = peer.fields(peer.address(), "slave");
        fields.push(("role-reported", "slave".to_owned()));
        if let Some(leader) = self.leads() {
            let status = if peer.is_down { "err" } else { "ok" };
            fields.extend([
                ("master-link-status", status.to_owned()),
                ("master-host", leader.place.host.clone()),
                ("master-port", leader.place.port.to_string()),
            ]);
        }
        if let Some(matched) = peer.matched {
            fields.push(("slave-repl-offset", matched.to_string()));
        }
        fields
    }

    /// Whether as many peers are there as elect a leader.
    fn quorum(&self) -> Result<Value, String> {
        let up = self.peers.iter().filter(|peer| !peer.is_down).count();
        if up >= self.majority && self.leader.is_some() {
            return Ok(Value::Status(format!(
                "OK {up} usable Sentinels. Quorum and failover authorization can be reached"
            )));
        }
        Err(format!(
            "NOQUORUM {up} usable Sentinels. Not enough available Sentinels to reach the majority and authorize a failover"
        ))
    }

    /// The reply to ROLE of one who looks for a Redis Sentinel.
    pub(in crate::leader) fn sentinel_role(&self) -> Value {
        Value::Array(vec![Value::text("sentinel"), Value::Array(vec![Value::text(&self.name)])])
    }

    /// The reply to ROLE.
    pub(in crate::leader) fn role(&self) -> Value {
        let number = |number: u64| Value::Integer(number as i64);
        let text = |text: String| Value::text(text);
        if self.leader != Some(self.me) {
            let (host, port) =
                self.leads().map(|leader| (leader.place.host.clone(), leader.place.port)).unwrap_or_default();
            let state = if self.leader.is_some() { "connected" } else { "connect" };
            return Value::Array(vec![
                Value::text("slave"),
                text(host),
                Value::Integer(port.into()),
                Value::text(state),
                number(self.offset),
            ]);
        }
        let standby = |peer: &Peer| {
            let offset = peer.matched.unwrap_or_default().to_string();
            Value::Array(vec![text(peer.place.host.clone()), text(peer.place.port.to_string()), text(offset)])
        };
        let standbys = self.standbys().filter(|peer| !peer.is_down).map(standby).collect();
        Value::Array(vec![Value::text("master"), number(self.offset), Value::Array(standbys)])
    }

    /// INFO's section `Replication`.
    pub(in crate::leader) fn replication(&self) -> String {
        let mut text = String::new();
        // A string takes everything.
        if self.leader == Some(self.me) {
            let standbys: Vec<&Peer> = self.standbys().filter(|peer| !peer.is_down).collect();
            let _ = write!(text, "role:master\r\nconnected_slaves:{}\r\n", standbys.len());
            for (n, Peer { place, matched, silent_for, .. }) in standbys.into_iter().enumerate() {
                let (offset, lag) = (matched.unwrap_or_default(), silent_for.unwrap_or_default().as_secs());
                let Place { host, port } = place;
                let _ = write!(text, "slave{n}:ip={host},port={port},state=online,offset={offset},lag={lag}\r\n");
            }
            text.push_str("master_failover_state:no-failover\r\n");
        } else {
            text.push_str("role:slave\r\n");
            if let Some(Peer { place: Place { host, port }, .. }) = self.leads() {
                let _ = write!(text, "master_host:{host}\r\nmaster_port:{port}\r\n");
            }
            let link = if self.leader.is_some() { "up" } else { "down" };
            let _ = write!(text, "master_link_status:{link}\r\nslave_read_only:1\r\nconnected_slaves:0\r\n");
        }
        let _ = write!(text, "master_repl_offset:{}\r\n", self.offset);
        text
    }

    /// INFO's section `Sentinel`.
    pub(in crate::leader) fn sentinel_info(&self) -> String {
        let mut text = format!("sentinel_masters:{}\r\n", usize::from(self.leader.is_some()));
        if let Some(leader) = self.leads() {
            let (name, address) = (&self.name, leader.address());
            let (slaves, sentinels) = (self.replicas().count(), self.peers.len());
            let _ = write!(
                text,
                "master0:name={name},status=ok,address={address},slaves={slaves},sentinels={sentinels}\r\n"
            );
        }
        text
    }

    /// Whether somebody is known to lead, and where.
    pub(in crate::leader) fn has_leader(&self) -> bool {
        self.leader.is_some()
    }

    /// What a standby says of all that it does not do.
    pub(in crate::leader) fn elsewhere(&self) -> String {
        match self.leads() {
            Some(leader) => {
                let (peer, at) = (leader.id, leader.address());
                format!("this peer is a standby: peer {peer} leads, clients go to {at}; nothing was written")
            }
            None => "this peer is a standby, and no leader is known; nothing was written, try again".to_owned(),
        }
    }

    /// What `+switch-master` says when another leads than `before`; nothing: it is not known who, or where.
    pub(in crate::leader) fn switched_from(&self, before: PeerId) -> Option<String> {
        let now = &self.leads().filter(|now| now.id != before)?.place;
        let then = &self.peers.iter().find(|peer| peer.id == before)?.place;
        Some(format!("{} {} {} {} {}", self.name, then.host, then.port, now.host, now.port))
    }
}
