//! What one call of `Store::write` will record: decided against the copies as they are, before anything is written.

use hashbrown::HashMap;

use super::op::{Kind, Op, head_bytes, push_head};
use super::places::{Place, Places, Slot};
use super::{LONGEST, NOT_YET};
use crate::durable::record_log::FRAME_BYTES;
use crate::node::store::{Body, Put, PutOutcome, Settle};
use crate::seeded::{self, Bug};
use crate::types::{CopyRecord, MessageId, Version};

/// A record that is to be written.
struct Planned<'a> {
    kind: Kind,
    id: &'a MessageId,
    record: CopyRecord,
    head: std::ops::Range<usize>,
    body: &'a [u8],
}

/// The records of one batch, and the slots as they will be.
pub(super) struct Plan<'a> {
    places: &'a Places,
    slots: HashMap<&'a MessageId, Slot, foldhash::fast::RandomState>,
    heads: Vec<u8>,
    planned: Vec<Planned<'a>>,
}

impl<'a> Plan<'a> {
    /// For a batch with these.
    pub(super) fn new(places: &'a Places, settles: &'a [Settle], puts: &'a [Put]) -> Self {
        let ids = settles.iter().map(|settle| &settle.id).chain(puts.iter().map(|put| &put.id));
        let ids: Vec<&MessageId> = ids.collect();
        let found = places.get_all(&ids);
        let planned = Vec::with_capacity(ids.len());
        Self { slots: ids.into_iter().zip(found).collect(), places, heads: Vec::new(), planned }
    }

    /// Whether nothing has to be written.
    pub(super) fn is_empty(&self) -> bool {
        self.planned.is_empty()
    }

    /// Lets go of what a committed version made old; true if nothing of that will be left.
    pub(super) fn settle(&mut self, settle: &'a Settle) -> bool {
        let Settle { id, version, keep, .. } = settle;
        let slot = self.slot(id);
        if *keep && !slot.whole().any(|place| place.version == *version) {
            // It is not here, so that what is older stays.
            return slot.whole().all(|place| place.version >= *version);
        }
        let mut below = if *keep { *version } else { Version(version.0.saturating_add(1)) };
        if seeded::active(Bug::DeletedUnconditionally) && !keep {
            below = Version(u64::MAX);
        }
        if !slot.drop_below(below).is_empty() {
            self.record(Kind::Drop, id, CopyRecord { version: below, length: 0, crc: 0, expires: None }, &[]);
        }
        true
    }

    pub(super) fn put(&mut self, put: &'a Put) -> PutOutcome {
        if let Some(outcome) = decide(self.slot(&put.id), put) {
            return outcome;
        }
        self.slot(&put.id).add(Place::new(put.record, NOT_YET, 0));
        self.record(Kind::Copy, &put.id, put.record, body(put));
        PutOutcome::Stored
    }

    /// What became of a put when none of the batch could be written.
    pub(super) fn missed(&self, put: &Put, missed: PutOutcome) -> PutOutcome {
        decide(&self.places.get(&put.id), put).unwrap_or(missed)
    }

    fn slot(&mut self, id: &'a MessageId) -> &mut Slot {
        self.slots.entry(id).or_default()
    }

    fn record(&mut self, kind: Kind, id: &'a MessageId, record: CopyRecord, body: &'a [u8]) {
        let from = self.heads.len();
        push_head(&mut self.heads, kind, id, record);
        self.planned.push(Planned { kind, id, record, head: from..self.heads.len(), body });
    }

    /// Heads and bodies, for the log.
    pub(super) fn records(&self) -> impl Iterator<Item = (&[u8], &'a [u8])> {
        self.planned.iter().map(|planned| (&self.heads[planned.head.clone()], planned.body))
    }

    /// What was written, with the first record at `offset`.
    pub(super) fn written(&self, mut offset: u64) -> impl Iterator<Item = Op> {
        self.planned.iter().map(move |Planned { kind, id, record, head, body }| {
            let body_at = offset + FRAME_BYTES + head.len() as u64;
            offset = body_at + body.len() as u64;
            Op { kind: *kind, id: (*id).clone(), record: *record, body_at: body_at as u32 }
        })
    }
}

fn body(put: &Put) -> &[u8] {
    match &put.body {
        Body::Bytes(content) => content,
        Body::Adopt | Body::Deleted => &[],
    }
}

/// What is decided without writing anything.
fn decide(slot: &Slot, put: &Put) -> Option<PutOutcome> {
    let Put { id, record, body: content } = put;
    let fits = head_bytes(id, record) + body(put).len() <= LONGEST;
    if record.version == Version::FOREIGN || record.is_tombstone() != (*content == Body::Deleted) || !fits {
        return Some(PutOutcome::Failed);
    }
    let unless = |bug, outcome| if seeded::active(bug) { PutOutcome::Stored } else { outcome };
    match slot.newest() {
        Some(newest) if newest.version > record.version => Some(unless(Bug::StaleAnsweredStored, PutOutcome::Stale)),
        Some(newest) if newest == *record => Some(PutOutcome::Stored),
        Some(newest) if newest.version == record.version => {
            Some(unless(Bug::ConflictAnsweredStored, PutOutcome::Conflict))
        }
        // There are no foreign files in this layout.
        _ => (*content == Body::Adopt).then_some(PutOutcome::Failed),
    }
}
