//! What a disk that is nearly full still takes, and what is put by for that.

use std::sync::atomic::Ordering;

use super::{LONGEST, SegmentStore, Writer};
use crate::durable::{Folder, Space};
use crate::node::reserve;
use crate::node::store::{Body, Put};

/// A message of so many bytes is small: there is room for it on a disk that is nearly full.
const SMALL: u64 = 4096;

/// Room is asked for again after so many bytes.
const LOOK_EVERY: u64 = 1 << 20;

/// While little is held, segments have this part of it: what is live in one of them has room in what is left of a full disk
/// (or of a quota that nobody tells of), so that it can be moved and the segment reclaimed.
const PART_OF_ALL: u64 = 32;

/// The smallest segments, on a small disk and on others.
const LEAST_SEGMENT: (u64, u64) = (64 << 10, 4 << 20);

/// Between which lengths segments are sealed on this disk: the upper end is as told.
pub(super) fn seal_between(folder: &dyn Folder, most: u64) -> (u64, u64) {
    let (small, usual) = LEAST_SEGMENT;
    let size = folder.space().ok().filter(Space::is_known).map_or(u64::MAX, |space| space.size);
    ((size / PART_OF_ALL).clamp(small, usual).min(most), most)
}

impl SegmentStore {
    /// From which length on a segment is sealed now, in bytes.
    pub(super) fn segment_bytes(&self) -> u64 {
        let held: u64 = self.known.segments().iter().map(|segment| segment.bytes.load(Ordering::Relaxed)).sum();
        let (least, most) = self.seal_between;
        (held / PART_OF_ALL).clamp(least, most)
    }

    /// The longest message that there is room for. The last of the disk (a sixteenth, or two segments) is left to what makes
    /// room again, to records of what is gone and to moving what is live out of the way; small messages may use half of that.
    pub(super) fn room(&self, writer: &mut Writer) -> u64 {
        if writer.room < LONGEST as u64 || writer.log.len() >= writer.look_at {
            writer.look_at = writer.log.len() + LOOK_EVERY;
            let room = |space: Space| match (space.size / 16).min(2 * self.seal_between.1) {
                _ if !space.is_known() => u64::MAX,
                kept if space.free > kept => (space.free - kept).max(SMALL),
                kept if space.free > kept / 2 => SMALL,
                _ => 0,
            };
            // A disk that cannot be asked says so at the next write.
            writer.room = self.folder.space().map_or(u64::MAX, room);
        }
        writer.room
    }

    /// Whether a put is let in on a disk with so much room left: always, if it leaves no more to keep than there was.
    pub(super) fn takes(&self, put: &Put, left: &mut u64) -> bool {
        let Body::Bytes(content) = &put.body else { return true };
        let bytes = content.len() as u64;
        let shrinks =
            || self.known.places.get(&put.id).newest().is_some_and(|newest| bytes <= u64::from(newest.bytes()));
        let takes = bytes <= *left || (bytes <= SMALL && shrinks());
        if takes && *left > SMALL {
            *left = left.saturating_sub(bytes).max(SMALL);
        }
        takes
    }

    pub(super) fn no_room(room: u64) -> String {
        let but = if room > 0 { format!("messages of up to {room} bytes and for ") } else { String::new() };
        format!("the disk (or a quota on it) is nearly full: what is left is kept for {but}what makes room again")
    }

    /// Gives up the reserve, if there is one: a disk without a byte takes some more records of what is gone.
    pub(super) fn give_up_reserve(&self, writer: &mut Writer) -> bool {
        std::mem::take(&mut writer.reserve) && reserve::give_up(&*self.folder)
    }

    /// Whether little more than what is kept is free.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.room(&mut self.writer()) <= SMALL
    }

    /// Sees to it that there is a reserve, on a disk that has room for it.
    pub(super) fn keep_reserve(&self) {
        let mut writer = self.writer();
        if !writer.reserve && writer.room > SMALL {
            writer.reserve = reserve::make(&*self.folder);
        }
    }
}
