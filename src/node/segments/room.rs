//! What a disk that is nearly full still takes, and what is put by for that.

use super::op::head_bytes;
use super::{LONGEST, SegmentStore, Writer};
use crate::durable::record_log::FRAME_BYTES;
use crate::durable::{Folder, Space};
use crate::node::reserve;
use crate::node::store::{Body, Put};
use crate::seeded::{self, Bug};

/// A message of so many bytes is small: there is room for it on a disk that is nearly full.
const SMALL: u64 = 4096;

/// Room is asked for again after so many bytes.
const LOOK_EVERY: u64 = 1 << 20;

/// While little is held, segments have this part of it: what is live in one of them has room in what is left of a full disk
/// (or of a quota that nobody tells of), so that it can be moved and the segment reclaimed.
const PART_OF_ALL: u64 = 64;

/// The smallest segments, on a small disk and on others.
const LEAST_SEGMENT: (u64, u64) = (32 << 10, 1 << 20);

/// For how many bytes of messages there is room: of small ones, and of others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    large: u64,
    small: u64,
}

impl Room {
    /// Nobody knows of an end.
    pub(super) const ANY: Self = Self { large: u64::MAX, small: u64::MAX };
    /// For none.
    pub(super) const NONE: Self = Self { large: 0, small: 0 };

    pub(super) fn is_none(self) -> bool {
        self.longest() == 0
    }

    /// The longest message that is let in, in bytes.
    fn longest(self) -> u64 {
        self.large.max(self.small.min(SMALL))
    }

    /// Says why what is longer is refused.
    pub(super) fn refusal(self) -> String {
        let but = match self.longest() {
            0 => String::new(),
            longest => format!("messages of up to {longest} bytes and for "),
        };
        format!("the disk (or a quota on it) is nearly full: what is left is kept for {but}what makes room again")
    }
}

/// Between which lengths segments are sealed on this disk: the upper end is as told.
pub(super) fn seal_between(folder: &dyn Folder, most: u64) -> (u64, u64) {
    let (small, usual) = LEAST_SEGMENT;
    let size = folder.space().ok().filter(Space::is_known).map_or(u64::MAX, |space| space.size);
    ((size / PART_OF_ALL).clamp(small, usual).min(most), most)
}

impl SegmentStore {
    /// From which length on a segment is sealed now, in bytes.
    pub(super) fn segment_bytes(&self) -> u64 {
        let (least, most) = self.seal_between;
        (self.known.held() / PART_OF_ALL).clamp(least, most)
    }

    /// What there is room for. The last of the disk (a sixteenth, or two segments) is left to what makes room again, to
    /// records of what is gone and to moving what is live out of the way; small messages may use half of that.
    pub(super) fn room(&self, writer: &mut Writer) -> Room {
        if writer.room.large < LONGEST as u64 || writer.log.len() >= writer.look_at {
            writer.look_at = writer.log.len() + LOOK_EVERY;
            let room = |space: Space| match (space.size / 16).min(2 * self.seal_between.1) {
                _ if !space.is_known() || seeded::active(Bug::LastRoomForMessages) => Room::ANY,
                kept => Room { large: space.free.saturating_sub(kept), small: space.free.saturating_sub(kept / 2) },
            };
            // A disk that cannot be asked says so at the next write.
            writer.room = self.folder.space().map_or(Room::ANY, room);
        }
        writer.room
    }

    /// Whether a put is let in, which takes its room: always, if it leaves no more to keep than there was.
    pub(super) fn takes(&self, put: &Put, room: &mut Room) -> bool {
        let Body::Bytes(content) = &put.body else { return true };
        let bytes = content.len() as u64;
        let shrinks =
            || self.known.places.get(&put.id).newest().is_some_and(|newest| bytes <= u64::from(newest.bytes()));
        let takes = bytes <= room.longest() || (bytes <= SMALL && shrinks());
        if takes && !seeded::active(Bug::RoomCountedForEach) {
            let all = bytes + FRAME_BYTES + head_bytes(&put.id, &put.record) as u64;
            *room = Room { large: room.large.saturating_sub(all), small: room.small.saturating_sub(all) };
        }
        takes
    }

    /// Whether a batch of these makes no segment much longer than it should be: what is live in one is moved at once.
    pub(super) fn fits_a_segment(&self, puts: &[Put]) -> bool {
        let bytes = |put: &Put| if let Body::Bytes(content) = &put.body { content.len() as u64 } else { 0 };
        puts.iter().map(bytes).sum::<u64>() <= self.seal_between.0.max(LEAST_SEGMENT.0)
    }

    /// Gives up a reserve, if there is one: a disk without a byte takes some more records of what is gone.
    pub(super) fn give_up_reserve(&self, writer: &mut Writer) -> bool {
        let may = std::mem::take(&mut writer.reserve) && !seeded::active(Bug::ReserveKept);
        may && reserve::give_up(&*self.folder, reserve::RESERVE_FILE)
    }

    /// As [`Self::give_up_reserve`], for moving copies: the disk has the bytes back when their segment is reclaimed.
    pub(super) fn give_up_moving_reserve(&self, writer: &mut Writer) -> bool {
        std::mem::take(&mut writer.moving_reserve) && reserve::give_up(&*self.folder, reserve::MOVING_FILE)
    }

    /// Puts by what moving the copies of a segment takes, if there is room for it.
    pub(super) fn keep_moving_reserve(&self, writer: &mut Writer) {
        if !writer.moving_reserve {
            writer.moving_reserve = reserve::put_by(&*self.folder, reserve::MOVING_FILE, 2 * self.seal_between.0);
        }
    }

    /// Whether little more than what is kept is free.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.room(&mut self.writer()).large == 0
    }

    /// Sees to it that there are reserves, on a disk that has room for them.
    pub(super) fn keep_reserves(&self) {
        let mut writer = self.writer();
        if writer.room.large > 0 {
            writer.reserve = writer.reserve || reserve::make(&*self.folder);
            self.keep_moving_reserve(&mut writer);
        }
    }
}
