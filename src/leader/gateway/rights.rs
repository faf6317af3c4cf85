//! What a connection may do: the one place where requests of both protocols are held against the rights of their user.

use std::sync::Arc;

use super::Door;
use super::clients::Taken;
use crate::acl::{Denied, Rule, User, UserName};
use crate::error::{Refusal, printable};
use crate::leader::users::{Context, Login, NotLetIn, Reason, Users};
use crate::protocol::table::{KeyspaceOp, Op, RegisterOp, ServerOp, Spec, find, leaf_of};
use crate::protocol::{Command, Reply};
use crate::telemetry::AUDIT;
use crate::types::MessageId;

/// Bytes of an id that a line of the audit log shows.
const SHOWN: usize = 128;

/// A connection, as rights see it: who it is, and where.
#[derive(Debug, Clone)]
pub(super) struct Rights {
    users: Arc<Users>,
    taken: Arc<Taken>,
    /// Nobody yet, where that takes a password.
    login: Option<Login>,
}

impl Rights {
    /// Those of a connection that has shown a certificate of this name, or none.
    pub(super) fn new(door: &Door, taken: Arc<Taken>, certificate: Option<&str>) -> Self {
        let users = door.users.clone();
        let login = certificate.map_or_else(|| users.anonymous(), |name| users.of_certificate(name));
        let rights = Self { users, taken, login };
        rights.tell();
        rights
    }

    /// Those of one that may do everything.
    #[cfg(test)]
    pub(super) fn of_all() -> Self {
        Self::of("on nopass ~* +@all")
    }

    /// Those of one whose user these rules make.
    #[cfg(test)]
    pub(super) fn of(rules: &str) -> Self {
        let users = Arc::new(Users::new(None, false));
        users.load(&std::collections::BTreeMap::from([(crate::acl::DEFAULT.to_owned(), rules.as_bytes().to_vec())]));
        let clients = Arc::<super::clients::Clients>::default();
        let here = ([127, 0, 0, 1], 1).into();
        let taken = Arc::new(clients.enter(here, here, (false, false)));
        let login = users.anonymous();
        Self { users, taken, login }
    }

    /// Others see who it is.
    fn tell(&self) {
        let name = self.login.as_ref().map(|login| login.name().to_string());
        self.taken.seat.said().user = name.unwrap_or_else(|| crate::acl::DEFAULT.to_owned());
    }

    /// Whether it has said who it is, or need not.
    pub(super) fn is_known(&self) -> bool {
        self.login.is_some()
    }

    /// Its user's name.
    pub(super) fn name(&self) -> Option<&UserName> {
        self.login.as_ref().map(Login::name)
    }

    pub(super) fn users(&self) -> &Arc<Users> {
        &self.users
    }

    /// Looks whether its rights have changed. One whose user is gone is nobody any more.
    pub(super) fn refresh(&mut self) {
        if self.login.as_mut().is_some_and(|login| !login.refresh(&self.users)) {
            self.login = None;
        }
    }

    /// As at the beginning, without a certificate: RESET.
    pub(super) fn reset(&mut self) {
        self.login = self.users.anonymous();
        self.tell();
    }

    /// Logs in.
    pub(super) async fn log_in(&mut self, name: &[u8], password: &[u8]) -> Result<(), NotLetIn> {
        let from = self.taken.seat.peer.ip();
        match self.users.log_in(name, password, from).await {
            Ok(login) => {
                self.login = Some(login);
                self.tell();
                Ok(())
            }
            Err(why) => {
                let name = String::from_utf8_lossy(name);
                self.note(Reason::Auth, Context::TopLevel, b"AUTH", &name);
                Err(why)
            }
        }
    }

    fn note(&self, reason: Reason, context: Context, object: &[u8], user: &str) {
        self.users.denials.note((reason, context), object, user, || self.taken.seat.line());
    }

    /// Whether everything is allowed, so that nothing has to be looked at.
    pub(super) fn may_all(&self) -> bool {
        self.login.as_ref().is_some_and(|login| login.user().may_all())
    }

    fn user(&self) -> Option<&User> {
        self.login.as_ref().map(|login| &**login.user())
    }

    /// Whether a request may be run; it is not noted if not.
    pub(super) fn allow<T: AsRef<[u8]>>(&self, spec: &Spec, words: &[T]) -> Result<(), Denied> {
        match self.user() {
            Some(user) => user.check(spec, words),
            // By these one says who one is.
            None if spec.flags.contains(&"no_auth") => Ok(()),
            None => Err(Denied::Command),
        }
    }

    /// Whether a request may be run; what is denied is noted.
    pub(super) fn check<T: AsRef<[u8]>>(&self, spec: &Spec, words: &[T], context: Context) -> Result<(), Denied> {
        let checked = self.allow(spec, words);
        if let Err(denied) = checked {
            let user = self.name().map_or("", UserName::as_str);
            match denied {
                Denied::Command => {
                    let name = full_name(spec, words.get(1).map(AsRef::as_ref));
                    self.note(Reason::Command, context, name.as_bytes(), user);
                }
                Denied::Key(place) => {
                    self.note(Reason::Key, context, words.get(place).map_or(&b""[..], AsRef::as_ref), user);
                }
            }
        }
        checked
    }

    /// The same of a command of the text protocol.
    pub(super) fn check_command(&self, command: &Command) -> Result<(), Refusal> {
        if self.may_all() || matches!(command, Command::Exit) {
            return Ok(());
        }
        let Some(user) = self.user() else { return Err(Refusal::NoAuth) };
        check_command(user, command).map_err(|denied| {
            let name = self.name().map_or("", UserName::as_str);
            let (reason, object) = noted(denied, command);
            self.note(reason, Context::TopLevel, &object, name);
            refusal(name, denied, command)
        })
    }

    /// The ids that may be read, of these.
    pub(super) fn readable(&self, ids: &mut Vec<MessageId>) {
        match &self.login {
            Some(login) => login.retain_readable(ids),
            None => ids.clear(),
        }
    }

    /// Writes a line about an order of an operator into the audit log: what, of whom, and how it ended. It has no values.
    pub(super) fn audit<T: AsRef<[u8]>>(&self, spec: &Spec, words: &[T], outcome: Result<(), &str>) {
        if is_audited(spec, words.get(1).map_or(b"", AsRef::as_ref)) {
            // What is said of a rule that is wrong says the rule again, which may be a password.
            let is_acl = spec.op == Op::Server(ServerOp::Acl);
            self.audit_line(&shown(spec, words), outcome.map_err(|why| if is_acl { "refused" } else { why }));
        }
    }

    /// The same of one of the text protocol, and what it was answered.
    pub(super) fn audit_order(&self, order: &str, reply: Option<&Reply>) {
        match reply {
            Some(Reply::Refused(why)) => self.audit_line(order, Err(&format!("{} {why}", why.code()))),
            _ => self.audit_line(order, Ok(())),
        }
    }

    fn audit_line(&self, what: &str, outcome: Result<(), &str>) {
        let (user, from) = (self.name().map_or("", UserName::as_str), self.taken.seat.peer);
        match outcome {
            Ok(()) => tracing::info!(target: AUDIT, "audit: user {user} at {from}: {what}"),
            Err(why) => tracing::info!(target: AUDIT, "audit: user {user} at {from}: {what}: {why}"),
        }
    }
}

/// Whether a user may have a command of the text protocol, or of gRPC, carried out.
pub(in crate::leader) fn check_command(user: &User, command: &Command) -> Result<(), Denied> {
    let (spec, id) = asked(command);
    user.check_one(spec, id.map(MessageId::as_bytes))
}

/// What is noted of a command that is denied.
pub(in crate::leader) fn noted(denied: Denied, command: &Command) -> (Reason, Vec<u8>) {
    match (denied, asked(command)) {
        (Denied::Key(_), (_, Some(id))) => (Reason::Key, id.as_bytes().to_vec()),
        (_, (spec, _)) => (Reason::Command, spec.name.to_lowercase().into_bytes()),
    }
}

/// What a client is told of a command that is denied.
pub(in crate::leader) fn refusal(user: &str, denied: Denied, command: &Command) -> Refusal {
    let (spec, id) = asked(command);
    Refusal::Denied(match (denied, id) {
        (Denied::Key(_), Some(id)) => {
            format!("user {user} may not do this to id {}: {}", printable(id.as_bytes(), SHOWN), spec.name)
        }
        _ => format!("user {user} may not run {}", spec.name),
    })
}

/// The row of a command, and the id that it names.
fn asked(command: &Command) -> (&'static Spec, Option<&MessageId>) {
    let (name, id): (&str, _) = match command {
        Command::Set { id, .. } => ("SET", Some(id)),
        Command::SetFor { id, .. } => ("SETEX", Some(id)),
        Command::Expire { id, time: Some(_) } => ("EXPIRE", Some(id)),
        Command::Expire { id, time: None } => ("PERSIST", Some(id)),
        Command::Ttl(id) => ("TTL", Some(id)),
        Command::Get(id) => ("GET", Some(id)),
        Command::Delete(id) => ("DEL", Some(id)),
        Command::Where(id) => ("WHERE", Some(id)),
        Command::Count => ("COUNT", None),
        Command::Status => ("STATUS", None),
        Command::Verify => ("VERIFY", None),
        Command::Drain(_) => ("DRAIN", None),
        Command::Undrain(_) => ("UNDRAIN", None),
        Command::Remove { .. } => ("REMOVE", None),
        Command::Rebalance(_) => ("REBALANCE", None),
        Command::AcceptClock => ("CLOCK", None),
        Command::Peers => ("PEERS", None),
        Command::HandOver(_) => ("HANDOVER", None),
        Command::AddPeer { .. } | Command::RemovePeer(_) => ("PEER", None),
        Command::Auth(_) => ("AUTH", None),
        Command::Ping { .. } => ("PING", None),
        Command::Help => ("HELP", None),
        Command::Exit => ("EXIT", None),
    };
    (find(name.as_bytes()).unwrap_or_else(|| unreachable!("{name} is in the table")), id)
}

/// `get`, `config|get`.
pub(super) fn full_name(spec: &'_ Spec, subcommand: Option<&[u8]>) -> String {
    leaf_of(spec, subcommand).map_or_else(|| spec.name.to_lowercase(), |leaf| leaf.name())
}

/// Whether a line is written of it: it changes the register itself or who may use it, or reads or deletes everything.
/// Programs that watch the register ask for its state all the time.
fn is_audited(spec: &Spec, subcommand: &[u8]) -> bool {
    let is = |names: &[&str]| names.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(subcommand));
    match spec.op {
        Op::Register(op) => {
            !matches!(op, RegisterOp::Count | RegisterOp::Peers | RegisterOp::Status | RegisterOp::Where)
        }
        Op::Keyspace(KeyspaceOp::Flush) => true,
        Op::Keyspace(KeyspaceOp::Backup) => is(&["BEGIN"]),
        Op::Server(ServerOp::Acl) => is(&["SETUSER", "DELUSER", "GETUSER", "LIST", "LOG"]),
        Op::Server(ServerOp::Client) => is(&["KILL"]),
        _ => false,
    }
}

/// What the audit log says of a command of the text protocol, if a line is written of it.
pub(super) fn audited(command: &Command) -> Option<String> {
    let words = match command {
        Command::Drain(node) | Command::Undrain(node) | Command::Remove { node, force: false } => {
            vec![node.to_string()]
        }
        Command::Remove { node, force: true } => vec![node.to_string(), "FORCE".to_owned()],
        Command::Rebalance(false) => vec!["STOP".to_owned()],
        Command::AcceptClock => vec!["ACCEPT".to_owned()],
        Command::HandOver(Some(peer)) => vec![peer.to_string()],
        Command::AddPeer { peer, address } => vec!["ADD".to_owned(), peer.to_string(), address.clone()],
        Command::RemovePeer(peer) => vec!["REMOVE".to_owned(), peer.to_string()],
        _ => Vec::new(),
    };
    let spec = asked(command).0;
    let words: Vec<String> = std::iter::once(spec.name.to_owned()).chain(words).collect();
    is_audited(spec, b"").then(|| shown(spec, &words))
}

/// The words of an order that may be shown. Of ACL these are names that can be users', and rules that say nothing of
/// passwords: whatever else it is may be one, written at the wrong place.
fn shown<T: AsRef<[u8]>>(spec: &Spec, words: &[T]) -> String {
    let is_acl = spec.op == Op::Server(ServerOp::Acl);
    let is_set = words.get(1).is_some_and(|word| word.as_ref().eq_ignore_ascii_case(b"SETUSER"));
    let mut text = spec.name.to_owned();
    for (place, word) in words.iter().map(AsRef::as_ref).enumerate().skip(1).take(64) {
        let may_show = match place {
            _ if !is_acl => true,
            1 => true,
            2 => UserName::from_bytes(word).is_ok(),
            _ if is_set => Rule::read(word).is_ok_and(|rule| !rule.is_about_passwords() || rule == Rule::Reset),
            _ => UserName::from_bytes(word).is_ok(),
        };
        text.push(' ');
        match word.first() {
            _ if may_show => text.push_str(&printable(word, SHOWN)),
            Some(sign @ (b'>' | b'<' | b'#' | b'!')) => text.push_str(&format!("{}***", char::from(*sign))),
            _ => text.push_str("***"),
        }
    }
    text
}
