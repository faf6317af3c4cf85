//! Replies on their way out: what is written already, what is still to be, and the room that both take until they are
//! sent.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf as _, Bytes, BytesMut};

use super::connection::WRITE_SIZE;
use crate::leader::shares::{Room, Share};
use crate::protocol::resp::{self, Value};
use crate::types::Payload;

/// An emptied buffer above this is given back before a client is waited for.
const KEPT_CAPACITY: usize = 4 << 10;

/// Messages above so many bytes are sent from where they are; to copy a smaller one costs no more than a part of its own.
const COPIED: usize = 16 << 10;

/// Parts that are sent with one system call.
const SLICES: usize = 16;

/// Replies on their way out: `out`, then `more`, then `rest`.
#[derive(Debug)]
pub(super) struct Outbox {
    out: BytesMut,
    more: VecDeque<Part>,
    /// The last first, with the version of the protocol; large lists are written as they are sent.
    rest: Vec<Value>,
    version: u8,
    /// Bytes of `more`, and of `rest`.
    behind: usize,
    waiting: usize,
    room: Room,
    /// Replies are not wanted.
    pub(super) mute: bool,
}

/// A part that is written.
#[derive(Debug)]
enum Part {
    Own(BytesMut),
    /// A message that others may have too, such as the cache.
    Shared(Bytes),
}

impl Outbox {
    pub(super) fn new(share: &Share) -> Self {
        Self {
            out: BytesMut::new(),
            more: VecDeque::new(),
            rest: Vec::new(),
            version: 2,
            behind: 0,
            waiting: 0,
            room: share.empty(),
            mute: false,
        }
    }

    /// Takes a reply of the Redis protocol, and the room that is reserved for it, if there is some.
    pub(super) fn put(&mut self, value: Value, version: u8, room: Option<Room>) {
        if self.mute {
            return;
        }
        self.keep(room);
        let size = value.size();
        self.version = version;
        match value {
            Value::Bulk(bytes) if self.rest.is_empty() => self.bulk(&bytes),
            value if self.rest.is_empty() && size <= WRITE_SIZE => self.append(|out| value.encode(version, out)),
            value => {
                self.waiting += size;
                self.rest.insert(0, value);
            }
        }
    }

    /// Takes a message between what comes before and after it.
    pub(super) fn message(&mut self, before: &[u8], payload: &Payload, after: &[u8]) {
        if payload.len() <= COPIED {
            return self.append(|out| [before, payload, after].iter().for_each(|part| out.extend_from_slice(part)));
        }
        self.append(|out| out.extend_from_slice(before));
        self.behind += payload.len();
        self.more.push_back(Part::Shared(payload.clone()));
        self.append(|out| out.extend_from_slice(after));
    }

    /// Takes over room that replies have which are written already.
    pub(super) fn keep(&mut self, room: Option<Room>) {
        if let Some(room) = room {
            self.room.absorb(room);
        }
    }

    /// Bytes that wait to be sent.
    pub(super) fn len(&self) -> usize {
        self.out.len() + self.behind + self.waiting
    }

    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty() && self.more.is_empty() && self.rest.is_empty()
    }

    /// Takes as much room as its bytes need; `false`: there is none.
    pub(super) fn settle(&mut self) -> bool {
        let bytes = self.len();
        self.room.set(bytes)
    }

    /// Writes as much as is sent at once.
    pub(super) fn fill(&mut self) {
        while self.out.len() + self.behind < WRITE_SIZE {
            let Some(value) = self.rest.pop() else {
                self.waiting = 0;
                return;
            };
            let before = self.len();
            self.write(value);
            let written = self.len() - before;
            // What a list has is still to be written.
            self.waiting = self.waiting.saturating_sub(written);
        }
    }

    /// What is sent next, in one call.
    pub(super) fn slices(&self) -> [IoSlice<'_>; SLICES] {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let parts = self.more.iter().map(|part| match part {
            Part::Own(bytes) => &bytes[..],
            Part::Shared(bytes) => &bytes[..],
        });
        for (slice, part) in slices.iter_mut().zip([&self.out[..]].into_iter().chain(parts)) {
            *slice = IoSlice::new(part);
        }
        slices
    }

    /// So many bytes are sent.
    pub(super) fn advance(&mut self, mut sent: usize) {
        let of_out = sent.min(self.out.len());
        self.out.advance(of_out);
        sent -= of_out;
        while self.out.is_empty() {
            match self.more.front_mut() {
                None => return,
                Some(Part::Own(_)) => {
                    let Some(Part::Own(mut bytes)) = self.more.pop_front() else { return };
                    self.behind -= bytes.len();
                    let part = sent.min(bytes.len());
                    bytes.advance(part);
                    sent -= part;
                    self.out = bytes;
                }
                Some(Part::Shared(bytes)) if sent < bytes.len() => {
                    bytes.advance(sent);
                    self.behind -= sent;
                    return;
                }
                Some(Part::Shared(bytes)) => {
                    sent -= bytes.len();
                    self.behind -= bytes.len();
                    self.more.pop_front();
                }
            }
        }
    }

    /// Everything is sent, or will not be.
    pub(super) fn clear(&mut self) {
        (self.rest, self.more) = (Vec::new(), VecDeque::new());
        (self.behind, self.waiting) = (0, 0);
        self.out.clear();
        self.room.set(0);
    }

    /// What is written and not sent, for a client that has to go.
    pub(super) fn last_words(&mut self) -> BytesMut {
        let mut words = std::mem::take(&mut self.out);
        for part in self.more.drain(..) {
            match part {
                Part::Own(bytes) => words.extend_from_slice(&bytes),
                Part::Shared(bytes) => words.extend_from_slice(&bytes),
            }
        }
        self.behind = 0;
        words
    }

    /// A buffer that many clients have emptied and wait with is memory for nothing.
    pub(super) fn give_back(&mut self) {
        if self.out.capacity() > KEPT_CAPACITY && self.out.is_empty() {
            self.out = BytesMut::new();
        }
    }

    /// Writes a value behind what is written already; of a list only its begin.
    fn write(&mut self, value: Value) {
        if let Value::Bulk(bytes) = value {
            return self.bulk(&bytes);
        }
        let (version, mut parts) = (self.version, Vec::new());
        self.append(|out| parts = value.encode_begin(version, out));
        self.rest.extend(parts.into_iter().rev());
    }

    fn bulk(&mut self, bytes: &Bytes) {
        if bytes.len() <= COPIED {
            return self.append(|out| resp::bulk(bytes, out));
        }
        self.message(resp::bulk_head(bytes.len()).as_bytes(), bytes, b"\r\n");
    }

    /// Appends behind what is written already.
    pub(super) fn append(&mut self, write: impl FnOnce(&mut BytesMut)) {
        if self.more.is_empty() {
            return write(&mut self.out);
        }
        if !matches!(self.more.back(), Some(Part::Own(_))) {
            self.more.push_back(Part::Own(BytesMut::new()));
        }
        if let Some(Part::Own(last)) = self.more.back_mut() {
            let before = last.len();
            write(last);
            self.behind += last.len() - before;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::leader::shares::{Pot, Size};

    /// Sends what one call would send, up to so many bytes.
    fn take(outbox: &mut Outbox, most: usize, sent: &mut BytesMut) {
        let before = sent.len();
        for slice in outbox.slices() {
            let left = most - (sent.len() - before);
            sent.extend_from_slice(&slice[..left.min(slice.len())]);
        }
        outbox.advance(sent.len() - before);
    }

    #[test]
    fn large_replies_are_written_as_they_are_sent_and_in_their_order() {
        let pot = Pot::new(Size { limit: 16 << 20, reserve: 1 });
        let share = pot.share(CancellationToken::new());
        let mut outbox = Outbox::new(&share);
        let large = Value::Array(vec![Value::text("x".repeat(WRITE_SIZE)); 5]);
        let replies = [Value::Integer(1), large, Value::Integer(2), Value::Array(vec![])];
        let mut wanted = BytesMut::new();
        for reply in &replies {
            reply.encode(2, &mut wanted);
            outbox.put(reply.clone(), 2, share.room(reply.size()));
        }
        assert!(outbox.settle() && pot.used() >= 5 * WRITE_SIZE);
        let mut sent = BytesMut::new();
        while !outbox.is_empty() {
            outbox.fill();
            assert!(outbox.out.len() + outbox.behind <= 2 * WRITE_SIZE + 64);
            take(&mut outbox, usize::MAX, &mut sent);
        }
        assert!(sent == wanted);
        outbox.clear();
        assert_eq!(pot.used(), 0);
    }

    #[test]
    fn who_has_to_go_is_sent_all_that_was_written_for_him() {
        let pot = Pot::new(Size { limit: 16 << 20, reserve: 1 });
        let (mut outbox, mut wanted) = (Outbox::new(&pot.share(CancellationToken::new())), BytesMut::new());
        for value in [Value::text("x".repeat(COPIED + 1)), Value::text("y"), Value::Error("ERR why".to_owned())] {
            value.encode(2, &mut wanted);
            outbox.put(value, 2, None);
        }
        assert!(outbox.last_words() == wanted && outbox.is_empty());
    }

    #[test]
    fn a_large_message_is_sent_from_where_it_is_however_the_socket_takes_it() {
        let pot = Pot::new(Size { limit: 16 << 20, reserve: 1 });
        let share = pot.share(CancellationToken::new());
        let large = Bytes::from(vec![b'x'; COPIED + 1]);
        for most in [1, 7, COPIED, 3 * COPIED, usize::MAX] {
            let (mut outbox, mut wanted, mut sent) = (Outbox::new(&share), BytesMut::new(), BytesMut::new());
            for round in 0..2 * SLICES {
                let value = if round % 3 == 0 { Value::Integer(round as i64) } else { Value::Bulk(large.clone()) };
                value.encode(2, &mut wanted);
                outbox.put(value, 2, None);
            }
            outbox.message(b"VALUE ", &large, b"\n");
            wanted.extend_from_slice(&[&b"VALUE "[..], &large, b"\n"].concat());
            let own: usize = outbox.more.iter().map(|part| if let Part::Own(own) = part { own.len() } else { 0 }).sum();
            assert!(own < COPIED && outbox.len() == wanted.len());
            while !outbox.is_empty() {
                outbox.fill();
                take(&mut outbox, most, &mut sent);
                assert_eq!(outbox.len() + sent.len(), wanted.len());
            }
            assert!(sent == wanted, "{most}");
        }
    }
}
