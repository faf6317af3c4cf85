//! Replies on their way out: what is written already, what is still to be, and the room that both take until they are
//! sent.

use bytes::BytesMut;

use super::connection::WRITE_SIZE;
use crate::leader::shares::{Room, Share};
use crate::protocol::resp::Value;

/// An emptied buffer above this is given back before a client is waited for.
const KEPT_CAPACITY: usize = 4 << 10;

/// Replies on their way out.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) out: BytesMut,
    /// What is sent after `out`, the last first, with the version of the protocol; large replies are written as they
    /// are sent, so that they are in memory once.
    rest: Vec<Value>,
    version: u8,
    /// Bytes of `rest`.
    waiting: usize,
    room: Room,
    /// Replies are not wanted.
    pub(super) mute: bool,
}

impl Outbox {
    pub(super) fn new(share: &Share) -> Self {
        Self { out: BytesMut::new(), rest: Vec::new(), version: 2, waiting: 0, room: share.empty(), mute: false }
    }

    /// Takes a reply of the Redis protocol, and the room that is reserved for it, if there is some.
    pub(super) fn put(&mut self, value: Value, version: u8, room: Option<Room>) {
        if self.mute {
            return;
        }
        if let Some(room) = room {
            self.room.absorb(room);
        }
        let size = value.size();
        if size <= WRITE_SIZE && self.rest.is_empty() {
            return value.encode(version, &mut self.out);
        }
        self.version = version;
        self.waiting += size;
        self.rest.insert(0, value);
    }

    /// Takes over room that replies have which are written already.
    pub(super) fn keep(&mut self, room: Option<Room>) {
        if let Some(room) = room {
            self.room.absorb(room);
        }
    }

    /// Bytes that wait to be sent.
    pub(super) fn len(&self) -> usize {
        self.out.len() + self.waiting
    }

    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty() && self.rest.is_empty()
    }

    /// Takes as much room as its bytes need; `false`: there is none.
    pub(super) fn settle(&mut self) -> bool {
        let bytes = self.len();
        self.room.set(bytes)
    }

    /// Writes as much as is sent at once.
    pub(super) fn fill(&mut self) {
        while self.out.len() < WRITE_SIZE {
            let Some(value) = self.rest.pop() else {
                self.waiting = 0;
                return;
            };
            let before = self.out.len();
            let parts = value.encode_begin(self.version, &mut self.out);
            if parts.is_empty() {
                self.waiting = self.waiting.saturating_sub(self.out.len() - before);
            }
            self.rest.extend(parts.into_iter().rev());
        }
    }

    /// Everything is sent, or will not be.
    pub(super) fn clear(&mut self) {
        self.rest = Vec::new();
        self.waiting = 0;
        self.out.clear();
        self.room.set(0);
    }

    /// A buffer that many clients have emptied and wait with is memory for nothing.
    pub(super) fn give_back(&mut self) {
        if self.out.capacity() > KEPT_CAPACITY && self.out.is_empty() {
            self.out = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::leader::shares::{Pot, Size};

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
            assert!(outbox.out.len() <= 2 * WRITE_SIZE + 64);
            sent.extend_from_slice(&outbox.out.split());
        }
        assert!(sent == wanted);
        outbox.clear();
        assert_eq!(pot.used(), 0);
    }
}
