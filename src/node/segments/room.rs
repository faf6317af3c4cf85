//! What a disk that is nearly full still takes, and what is put by for that.

use super::{SegmentStore, Writer};
use crate::durable::Space;
use crate::node::reserve;
use crate::node::store::{Body, Put};

/// A message of so many bytes is small: there is room for it on a disk that is nearly full.
const SMALL: u64 = 4096;

/// Room is asked for again after so many bytes.
const LOOK_EVERY: u64 = 1 << 20;

impl SegmentStore {
    /// The longest message that there is room for. The last of the disk (a sixteenth, or two segments) is left to what makes
    /// room again, to records of what is gone and to moving what is live out of the way; small messages may use half of that.
    pub(super) fn room(&self, writer: &mut Writer) -> u64 {
        if writer.room < u64::MAX || writer.log.len() >= writer.look_at {
            writer.look_at = writer.log.len() + LOOK_EVERY;
            let room = |space: Space| match (space.size / 16).min(2 * self.segment_bytes) {
                kept if !space.is_known() || space.free > kept => u64::MAX,
                kept if space.free > kept / 2 => SMALL,
                _ => 0,
            };
            // A disk that cannot be asked says so at the next write.
            writer.room = self.folder.space().map_or(u64::MAX, room);
        }
        writer.room
    }

    /// Whether a put is let in on a disk with so much room: always, if it leaves no more to keep than there was.
    pub(super) fn has_room_for(&self, put: &Put, room: u64) -> bool {
        let Body::Bytes(content) = &put.body else { return true };
        let bytes = content.len() as u64;
        let shrinks =
            || self.known.places.get(&put.id).newest().is_some_and(|newest| bytes <= u64::from(newest.bytes()));
        bytes <= room || (bytes <= SMALL && shrinks())
    }

    pub(super) fn no_room(room: u64) -> String {
        let but = if room > 0 { format!("messages of up to {room} bytes and for ") } else { String::new() };
        format!("the disk (or a quota on it) is nearly full: what is left is kept for {but}what makes room again")
    }

    /// Gives up the reserve, if there is one: a disk without a byte takes some more records of what is gone.
    pub(super) fn give_up_reserve(&self, writer: &mut Writer) -> bool {
        std::mem::take(&mut writer.reserve) && reserve::give_up(&*self.folder)
    }

    /// Sees to it that there is a reserve, on a disk that has room for it.
    pub(super) fn keep_reserve(&self) {
        let mut writer = self.writer();
        if !writer.reserve && writer.room == u64::MAX {
            writer.reserve = reserve::make(&*self.folder);
        }
    }
}
