//! One connection that speaks the text protocol: its requests in order.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;

use super::Door;
use super::clients::Taken;
use super::connection::{Flow, QUEUED_REQUESTS};
use super::outbox::Outbox;
use crate::error::Refusal;
use crate::leader::coordinator::{Coordinator, Request};
use crate::leader::shares::Share;
use crate::protocol::text::{CommandDecoder, Dialect, encode_reply, is_redis_line, message_of};
use crate::protocol::{Command, Decoded, Reply};
use crate::telemetry::served::Protocol;
use crate::tls::FIRST_BYTE;

/// Requests of one connection, decoded ahead of their execution.
#[derive(Debug)]
pub(super) struct TextTalk {
    decoder: CommandDecoder,
    dialect: Dialect,
    requests: VecDeque<Request>,
    /// The password was given, or none is asked for.
    pub(super) allowed: bool,
    /// The next line begins a request of the Redis protocol.
    pub(super) turns_to_resp: bool,
    /// Nothing was read of this connection yet.
    is_new: bool,
}

impl TextTalk {
    pub(super) fn new(door: &Door) -> Self {
        Self {
            decoder: CommandDecoder::new(door.settings.max_message),
            dialect: door.settings.dialect,
            requests: VecDeque::new(),
            allowed: door.settings.password.is_none(),
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
    pub(super) fn decode(&mut self, door: &Door, buffer: &mut BytesMut) -> Result<bool, ()> {
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
        while self.requests.len() < QUEUED_REQUESTS && !self.turns_to_resp {
            let turns = buffer.first() == Some(&b'*') || is_redis_line(buffer);
            if turns && self.decoder.is_between_lines() {
                self.turns_to_resp = true;
                break;
            }
            let request = match self.decoder.decode(buffer) {
                Decoded::Item(command) => self.admit(door, command),
                // Whatever came before it has been asked by the same page in somebody's browser.
                Decoded::Bad(Refusal::OtherProtocol) => return Err(()),
                Decoded::Bad(refusal) => Err(refusal),
                Decoded::Need => break,
            };
            self.requests.push_back(request);
        }
        Ok(!self.turns_to_resp && self.decoder.is_inside_line(buffer))
    }

    fn admit(&mut self, door: &Door, command: Command) -> Request {
        match &command {
            Command::Auth(password) => {
                door.check_password(password)?;
                self.allowed = true;
            }
            Command::Exit => {}
            _ if !self.allowed => return Err(Refusal::NoAuth),
            _ => {}
        }
        Ok(command)
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
        let (replies, room) = coordinator.execute_for(Some(share), &mut self.requests, Protocol::Text).await;
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
