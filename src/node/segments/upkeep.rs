//! What a log store does beside its writes, in slices: sealed segments are synced and get their hints, and the oldest
//! is reclaimed once more than half of what lies in sealed ones is garbage.
//!
//! The invariant: a segment goes only when every copy that was live in it is synced elsewhere, in both IO modes, and its
//! going is synced before the next one's begins: an older segment must not come back without the drops of a later one.
//! What a damaged place may have held is not destroyed: such a segment is put aside.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::known::Segment;
use super::op::{HintWriter, Kind, Op, head_bytes, push_head};
use super::replay::{Seen, read_record};
use super::{LONGEST, SegmentStore, hint_name, log_name};
use crate::durable::record_log::{FIRST_FRAME, FRAME_BYTES, Met, walk};
use crate::durable::{Folder, put_in_place, takes_nothing, write_beside};
use crate::node::store::Fatal;
use crate::seeded::{self, Bug};

/// Bytes of a segment that are looked at in one slice.
const SLICE: u64 = 256 << 10;

/// A pause after a slice while little is garbage, and while much is: 16 and 64 MB/s.
const CALM: Duration = Duration::from_millis(16);
const BUSY: Duration = Duration::from_millis(4);

/// On a disk without a byte a write waits for so many slices at most.
const SLICES_AT_ONCE: usize = 256;

/// So many bytes are worth another try.
const LEAST_GAIN: u64 = 16 << 10;

/// Nothing to do: look again so much later.
const IDLE: Duration = Duration::from_millis(250);

/// A disk that does not do what it should is asked again so much later.
const REFUSED: Duration = Duration::from_secs(5);

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    moving: Option<Moving>,
    /// The last refusal, so that it is said once.
    refused: Option<String>,
}

#[derive(Debug)]
struct Moving {
    segment: Arc<Segment>,
    next: u64,
    /// Something in it could not be told.
    damaged: bool,
}

/// Why a slice did not do its work.
enum Miss {
    Fatal(Fatal),
    /// It may be tried again.
    Refused(String),
}

impl From<Fatal> for Miss {
    fn from(fatal: Fatal) -> Self {
        Self::Fatal(fatal)
    }
}

fn refused(what: &str, segment: &Segment) -> impl FnOnce(io::Error) -> Miss {
    let what = format!("{what} {}", log_name(segment.number));
    move |error| Miss::Refused(format!("{what} failed: {error}"))
}

impl SegmentStore {
    /// One slice; gives the pause before the next.
    pub(super) fn keep_up(&self) -> Result<Duration, Fatal> {
        let mut upkeep = self.upkeep.lock();
        match self.slice(&mut upkeep, false) {
            Ok(pause) => {
                upkeep.refused = None;
                Ok(pause)
            }
            Err(Miss::Fatal(fatal)) => Err(fatal),
            Err(Miss::Refused(why)) => {
                if upkeep.refused.as_ref() != Some(&why) {
                    tracing::warn!("segments cannot be tidied: {why}; trying again until it works");
                    upkeep.refused = Some(why);
                }
                Ok(REFUSED)
            }
        }
    }

    fn slice(&self, upkeep: &mut Upkeep, has_no_room: bool) -> Result<Duration, Miss> {
        if let Some(moving) = &mut upkeep.moving {
            if self.move_some(moving)? {
                self.reclaim(moving)?;
                upkeep.moving = None;
            }
            return Ok(self.pace());
        }
        if self.sync_one()? {
            return Ok(BUSY);
        }
        if self.hint_one() {
            return Ok(BUSY);
        }
        let mut sealed = self.known.segments();
        sealed.pop();
        let most = match (has_no_room, self.is_nearly_full()) {
            (true, _) => self.segment_bytes() * 2,
            (false, true) => self.segment_bytes().max(self.known.live() / 8),
            (false, false) => self.known.live(),
        };
        upkeep.moving = oldest_to_reclaim(&sealed, most);
        self.keep_reserves();
        Ok(if upkeep.moving.is_some() { BUSY } else { IDLE })
    }

    /// Reclaims at once, beside the usual pace; whether there is more room now.
    pub(super) fn make_room(&self) -> Result<bool, Fatal> {
        let (before, mut upkeep) = (self.known.held(), self.upkeep.lock());
        // A segment that is whole is moved as it is, and gives nothing.
        for _ in 0..SLICES_AT_ONCE {
            match self.slice(&mut upkeep, true) {
                Err(Miss::Fatal(fatal)) => return Err(fatal),
                Err(Miss::Refused(_)) | Ok(IDLE) => break,
                Ok(_) if self.known.held() + LEAST_GAIN <= before => return Ok(true),
                Ok(_) => {}
            }
        }
        Ok(self.known.held() < before)
    }

    /// The more is garbage, the less foreground work is spared: it is what makes it.
    fn pace(&self) -> Duration {
        let (garbage, live) = (self.known.segments().iter().map(|s| s.garbage()).sum::<u64>(), self.known.live());
        match garbage {
            _ if garbage < live * 2 => CALM,
            _ if garbage < live * 4 => BUSY,
            _ => Duration::from_millis(1),
        }
    }

    /// Syncs a sealed segment that is not; false if all are.
    fn sync_one(&self) -> Result<bool, Fatal> {
        let Some(segment) = self.writer().unsynced.first().cloned() else { return Ok(false) };
        // Writes go on meanwhile.
        let synced = segment.file.sync_data();
        let mut writer = self.writer();
        writer.synced(&segment, synced)?;
        Ok(true)
    }

    /// Writes the hint of a sealed segment; false if all have theirs. It is made of what was written, and not of what
    /// is on the disk: if that rots, the hint says it all the same.
    fn hint_one(&self) -> bool {
        let Some((segment, hint)) = self.writer().unhinted.pop() else { return false };
        if self.is_nearly_full() {
            return true; // what is left is not for what only speeds a start up
        }
        write_hint(&*self.folder, segment.number, segment.bytes.load(Ordering::Relaxed), hint);
        true
    }

    /// Moves what is live in the next part of a segment to the end of the newest; true when all of it was looked at.
    fn move_some(&self, moving: &mut Moving) -> Result<bool, Miss> {
        let Moving { segment, next, damaged } = moving;
        let number = segment.number;
        let mut live: Vec<(Op, Vec<u8>)> = Vec::new();
        let mut harmed = *damaged;
        let mut visit = |offset, met: Met<'_>| {
            let content = match met {
                Met::Record(payload) => payload,
                Met::Damaged(payload) => payload.unwrap_or_default(),
            };
            match read_record(offset, met) {
                Seen::Whole(op) if self.known.lies_at(&op, number) => {
                    let content = content[head_bytes(&op.id, &op.record)..].to_vec();
                    live.push((op, content));
                }
                Seen::Whole(_) => {}
                Seen::Damaged(_) | Seen::Nothing(_) => harmed = true,
            }
        };
        let more = walk(&*segment.file, LONGEST, *next, SLICE, &mut visit).map_err(refused("reading", segment))?;
        self.append_moved(number, live)?;
        *damaged = harmed;
        match more {
            Some(more) => *next = more,
            None => return Ok(true),
        }
        // All that is left is garbage, which nobody has to read.
        Ok(!harmed && segment.live.load(Ordering::Relaxed) == 0)
    }

    fn append_moved(&self, from: u32, mut live: Vec<(Op, Vec<u8>)>) -> Result<(), Miss> {
        let mut writer = self.writer();
        // What was let go of meanwhile must not come back.
        live.retain(|(op, _)| self.known.lies_at(op, from));
        if live.is_empty() {
            return Ok(());
        }
        let mut heads = Vec::new();
        let mut ends = Vec::with_capacity(live.len());
        for (op, _) in &live {
            push_head(&mut heads, Kind::Copy, &op.id, op.record);
            ends.push(heads.len());
        }
        let mut offset = loop {
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let spans = starts.zip(&ends).zip(&live);
            let records = spans.map(|((from, until), (_, body))| (&heads[from..*until], &body[..]));
            match self.append(&mut writer, records) {
                Ok(first) => break first,
                Err(error) if error.is_full() && self.give_up_moving_reserve(&mut writer) => {}
                Err(error) => {
                    return Err(match writer.fatal("moving copies", error) {
                        Ok(fatal) => Miss::Fatal(fatal),
                        Err(error) => Miss::Refused(error.to_string()),
                    });
                }
            }
        };
        for (op, body) in live {
            let head = head_bytes(&op.id, &op.record) as u64;
            let body_at = offset + FRAME_BYTES + head;
            offset = body_at + body.len() as u64;
            let op = Op { body_at: body_at as u32, ..op };
            writer.hint.push(&op);
            self.known.apply(&op, writer.number);
        }
        Ok(())
    }

    /// Removes a segment of which all that was live lies elsewhere.
    fn reclaim(&self, moving: &mut Moving) -> Result<(), Miss> {
        let segment = &moving.segment;
        if segment.live.load(Ordering::Relaxed) > 0 {
            let lost = self.known.places.give_up(segment.number);
            tracing::warn!("{lost} copies in {} are damaged", log_name(segment.number));
            segment.live.store(0, Ordering::Relaxed);
            moving.damaged = true;
        }
        // Most of it beside writes, so that they do not wait for long.
        let newest = self.known.segment(self.writer().number).filter(|_| !seeded::active(Bug::MovedCopiesNotSynced));
        let synced = newest.map_or(Ok(()), |newest| newest.file.sync_data());
        let mut writer = self.writer();
        if !seeded::active(Bug::MovedCopiesNotSynced) {
            writer.check_sync(synced)?;
            writer.sync()?;
        }
        drop(writer);
        let name = log_name(segment.number);
        let gone = if moving.damaged {
            self.folder.rename(&name, &format!(".damaged-{name}"))
        } else {
            self.folder.remove(&name)
        };
        match gone {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if moving.damaged && !takes_nothing(&error) => self.writer().check_sync(Err(error))?,
            Err(error) => return Err(refused("removing", segment)(error)),
            Ok(()) => {}
        }
        let synced = self.folder.sync();
        self.writer().check_sync(synced)?;
        self.known.remove(segment.number);
        if self.is_nearly_full() {
            // Before anything else takes the bytes.
            self.keep_moving_reserve(&mut self.writer());
        }
        // A hint without a segment says nothing; if it stays, the next start removes it.
        let _ = self.folder.remove(&hint_name(segment.number));
        tracing::debug!("{name} was reclaimed");
        Ok(())
    }
}

/// Writes a hint. It is not synced: a torn one is told, and a start without it takes longer.
pub(super) fn write_hint(folder: &dyn Folder, number: u32, length: u64, hint: HintWriter) {
    let name = hint_name(number);
    let written = write_beside(folder, &name, &hint.finish(number, length)).and_then(|_| put_in_place(folder, &name));
    if let Err(error) = written {
        tracing::debug!("{name} was not written: {error}");
    }
}

/// The oldest sealed segment, if nothing in it is live, or if there is more garbage than this in all of them.
fn oldest_to_reclaim(sealed: &[Arc<Segment>], most: u64) -> Option<Moving> {
    let oldest = sealed.first()?;
    let garbage: u64 = sealed.iter().map(|segment| segment.garbage()).sum();
    let wanted = oldest.live.load(Ordering::Relaxed) == 0 || garbage > most;
    wanted.then(|| Moving { segment: oldest.clone(), next: FIRST_FRAME, damaged: false })
}
