//! One connection that speaks the text protocol: its requests in order.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;

use super::Door;
use super::clients::Taken;
use super::connection::{Flow, QUEUED_REQUESTS};
use super::outbox::Outbox;
use super::rights::{Rights, audited};
use crate::acl::DEFAULT;
use crate::error::Refusal;
use crate::leader::coordinator::{Coordinator, Request};
use crate::leader::shares::Share;
use crate::leader::users::NotLetIn;
use crate::protocol::text::{CommandDecoder, Dialect, encode_reply, is_redis_line, message_of};
use crate::protocol::{Command, Decoded, Reply};
use crate::telemetry::served::Protocol;
use crate::tls::FIRST_BYTE;
use crate::types::Payload;

/// What is said of too many passwords.
const TOO_MANY: &str = "too many passwords are being checked, or were wrong";

/// Requests of one connection, decoded ahead of their execution.
#[derive(Debug)]
pub(super) struct TextTalk {
    decoder: CommandDecoder,
    dialect: Dialect,
    requests: VecDeque<Request>,
    pub(super) rights: Rights,
    /// A password is among the requests: what comes behind it is looked at when it is known whose it is.
    waits_for_auth: bool,
    /// The next line begins a request of the Redis protocol.
    pub(super) turns_to_resp: bool,
    /// Nothing was read of this connection yet.
    is_new: bool,
}

impl TextTalk {
    pub(super) fn new(door: &Door, rights: Rights) -> Self {
        Self {
            decoder: CommandDecoder::new(door.settings.max_message),
            dialect: door.settings.dialect,
            requests: VecDeque::new(),
            rights,
            waits_for_auth: false,
            turns_to_resp: false,
            is_new: true,
        }
    }

    /// Whether it is not clear yet which protocol these first lines are of: `SET 1 x` with CR LF is one of both. Tools
    /// that send such lines to Redis send an array behind them.
    pub(super) fn is_unclear(&self, buffer: &BytesMut) -> bool {
        let is_ping = buffer.len() >= 4 && buffer[..4].eq_ignore_ascii_case(b"PING");
        self.is_new && buffer.ends_with(b"\r\n") && !is_ping && buffer[0] != b'*'
    }

    /// Takes all whole requests out of the buffer, up to a bound; gives whether the last one has begun and not ended.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<bool, ()> {
        self.rights.refresh();
        if !buffer.is_empty() && std::mem::take(&mut self.is_new) {
            // An empty line of CR LF and an array are what ends such lines; the Redis protocol passes over the first.
            let ends = |rest: &[u8]| rest.windows(5).any(|five| five == b"\r\n\r\n*");
            self.turns_to_resp = buffer.starts_with(b"\r\n*") || buffer[0] != b'*' && ends(buffer);
            if buffer[0] == FIRST_BYTE {
                buffer.clear();
                let why = "this port speaks no TLS: use the one that the leader prints as tls= (--tls-port)";
                self.requests.extend([Err(Refusal::BadCommand(why.to_owned())), Ok(Command::Exit)]);
            }
        }
        while self.requests.len() < QUEUED_REQUESTS && !self.turns_to_resp && !self.waits_for_auth {
            let turns = buffer.first() == Some(&b'*') || is_redis_line(buffer);
            if turns && self.decoder.is_between_lines() {
                self.turns_to_resp = true;
                break;
            }
            let request = match self.decoder.decode(buffer) {
                Decoded::Item(command) => self.admit(command),
                // Whatever came before it has been asked by the same page in somebody's browser.
                Decoded::Bad(Refusal::OtherProtocol) => return Err(()),
                Decoded::Bad(refusal) => Err(refusal),
                Decoded::Need => break,
            };
            self.requests.push_back(request);
        }
        Ok(!self.turns_to_resp && self.decoder.is_inside_line(buffer))
    }

    fn admit(&mut self, command: Command) -> Request {
        match &command {
            Command::Auth(_) => self.waits_for_auth = true,
            command => self.rights.check_command(command)?,
        }
        Ok(command)
    }

    /// Logs in: with a name and a password if the first word is the name of a user, or else with the password of the
    /// one that is there from the start.
    async fn log_in(&mut self, words: &Payload) -> Reply {
        self.waits_for_auth = false;
        let pair = words.iter().position(|byte| *byte == b' ').map(|at| (&words[..at], &words[at + 1..]));
        let known = pair.filter(|(name, _)| self.rights.users().find(name).is_some());
        let mut told = match known {
            Some((name, password)) => self.rights.log_in(name, password).await,
            None => Err(NotLetIn::Wrong),
        };
        // That password may hold a space, where there is one.
        if known.is_none() && (pair.is_none() || !self.rights.users().are_open()) {
            told = self.rights.log_in(DEFAULT.as_bytes(), words).await;
        }
        match told {
            Ok(()) => Reply::Done,
            Err(NotLetIn::Wrong) => Reply::Refused(Refusal::WrongPassword),
            Err(NotLetIn::TooMany) => Reply::Refused(Refusal::Busy(TOO_MANY)),
        }
    }

    pub(super) fn is_asked(&self) -> bool {
        !self.requests.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether the next request is the one with many lines for an answer.
    pub(super) fn takes_verify(&mut self) -> bool {
        self.requests.pop_front_if(|request| *request == Ok(Command::Verify)).is_some()
    }

    /// Works on the next requests, as many as go together.
    pub(super) async fn work(
        &mut self,
        coordinator: &Arc<Coordinator>,
        share: &Share,
        taken: &Taken,
        to: &mut Outbox,
    ) -> Flow {
        let command = self.requests.front().map_or("", name_of);
        if let Some(Ok(Command::Auth(words))) =
            self.requests.pop_front_if(|request| matches!(request, Ok(Command::Auth(_))))
        {
            taken.note("AUTH", 1);
            let reply = self.log_in(&words).await;
            to.append(|out| encode_reply(&reply, out));
            return Flow::On;
        }
        // It is the last of them.
        let auth = self.requests.pop_back_if(|request| matches!(request, Ok(Command::Auth(_))));
        let order = self.requests.front().and_then(|request| request.as_ref().ok()).and_then(audited);
        let (replies, room) = coordinator.execute_for(Some(share), &mut self.requests, Protocol::Text).await;
        self.requests.extend(auth);
        if let Some(order) = order {
            self.rights.audit_order(&order, replies.first());
        }
        taken.note(command, replies.len());
        to.keep(room);
        for reply in replies {
            match message_of(self.dialect, &reply) {
                Some((begin, payload)) => to.message(begin, payload, b"\n"),
                None => to.append(|out| encode_reply(&reply, out)),
            }
            if reply == Reply::Bye {
                return Flow::Close;
            }
        }
        Flow::On
    }

    pub(super) fn give_back(&mut self) {
        self.requests.shrink_to(4);
    }
}

/// The name of a request, for CLIENT LIST.
fn name_of(request: &Request) -> &'static str {
    match request {
        Ok(Command::Set { .. }) => "SET",
        Ok(Command::Get(_)) => "GET",
        Ok(Command::Delete(_)) => "DEL",
        Ok(Command::Where(_)) => "WHERE",
        Ok(Command::SetFor { .. }) => "SETEX",
        Ok(Command::Expire { time, .. }) => time.map_or("PERSIST", |_| "EXPIRE"),
        Ok(Command::Ttl(_)) => "TTL",
        Ok(Command::Count) => "COUNT",
        Ok(Command::Status) => "STATUS",
        _ => "",
    }
}
