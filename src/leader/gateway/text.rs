//! One connection that speaks the text protocol: its requests in order.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;

use super::{Door, Flow, Outbox, QUEUED_REQUESTS};
use crate::error::Refusal;
use crate::leader::coordinator::{Coordinator, Request};
use crate::protocol::text::{CommandDecoder, encode_reply};
use crate::protocol::{Command, Decoded, Reply};
use crate::telemetry::served::Protocol;

/// The request that is the same in both protocols.
const PING: &[u8] = b"PING\r\n";

/// Requests of one connection, decoded ahead of their execution.
#[derive(Debug)]
pub(super) struct TextTalk {
    decoder: CommandDecoder,
    requests: VecDeque<Request>,
    /// Of each PING, whether its line ended as those of the Redis protocol do: its answer does so too, and is then
    /// the same in both protocols. A Redis client may ask with nothing else on a line of its own.
    pings: VecDeque<bool>,
    /// The password was given, or none is asked for.
    pub(super) allowed: bool,
    /// The next line begins a request of the Redis protocol.
    pub(super) turns_to_resp: bool,
}

impl TextTalk {
    pub(super) fn new(door: &Door) -> Self {
        Self {
            decoder: CommandDecoder::new(door.settings.max_message),
            requests: VecDeque::new(),
            pings: VecDeque::new(),
            allowed: door.settings.password.is_none(),
            turns_to_resp: false,
        }
    }

    /// Takes all whole requests out of the buffer, up to a bound; gives whether the last one has begun and not ended.
    pub(super) fn decode(&mut self, door: &Door, buffer: &mut BytesMut) -> Result<bool, ()> {
        while self.requests.len() < QUEUED_REQUESTS && !self.turns_to_resp {
            if buffer.first() == Some(&b'*') && self.decoder.is_between_lines() {
                self.turns_to_resp = true;
                break;
            }
            let ends_in_crlf = self.decoder.is_between_lines()
                && buffer.get(..PING.len()).is_some_and(|line| line.eq_ignore_ascii_case(PING));
            let request = match self.decoder.decode(buffer) {
                Decoded::Item(command) => self.admit(door, command),
                // Whatever came before it has been asked by the same page in somebody's browser.
                Decoded::Bad(Refusal::OtherProtocol) => return Err(()),
                Decoded::Bad(refusal) => Err(refusal),
                Decoded::Need => break,
            };
            if request == Ok(Command::Ping) {
                self.pings.push_back(ends_in_crlf);
            }
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
    pub(super) async fn work(&mut self, coordinator: &Arc<Coordinator>, to: &mut Outbox) -> Flow {
        let (replies, room) = coordinator.execute(&mut self.requests, Protocol::Text).await;
        to.rooms.extend(room);
        for reply in replies {
            if reply == Reply::Pong && self.pings.pop_front() == Some(true) {
                to.out.extend_from_slice(b"+PONG\r\n");
                continue;
            }
            encode_reply(&reply, &mut to.out);
            if reply == Reply::Bye {
                return Flow::Close;
            }
        }
        Flow::On
    }

    pub(super) fn give_back(&mut self) {
        self.requests.shrink_to(4);
        self.pings.shrink_to(4);
    }
}
