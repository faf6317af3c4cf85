//! What is known of all segments and the copies in them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::op::{Kind, Op, head_bytes};
use super::places::{Place, Places};
use crate::durable::DiskFile;
use crate::durable::record_log::FRAME_BYTES;
use crate::types::MessageId;

/// One segment, open for reading.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u32,
    pub(super) file: Box<dyn DiskFile>,
    /// Bytes in the file.
    pub(super) bytes: AtomicU64,
    /// Of these, the bytes of records of copies that are still here.
    pub(super) live: AtomicU64,
}

impl Segment {
    pub(super) fn new(number: u32, file: Box<dyn DiskFile>, bytes: u64) -> Arc<Self> {
        let (bytes, live) = (AtomicU64::new(bytes), AtomicU64::new(0));
        Arc::new(Self { number, file, bytes, live })
    }

    /// Bytes that can be had back.
    pub(super) fn garbage(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed).saturating_sub(self.live.load(Ordering::Relaxed))
    }
}

#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) places: Places,
    segments: RwLock<BTreeMap<u32, Arc<Segment>>>,
}

impl Known {
    pub(super) fn segment(&self, number: u32) -> Option<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    /// All segments, oldest first.
    pub(super) fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Bytes of all segments.
    pub(super) fn held(&self) -> u64 {
        self.sum(|segment| &segment.bytes)
    }

    /// Of these, the bytes of all records that are still needed.
    pub(super) fn live(&self) -> u64 {
        self.sum(|segment| &segment.live)
    }

    fn sum(&self, of: impl Fn(&Segment) -> &AtomicU64) -> u64 {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.values().map(|segment| of(segment).load(Ordering::Relaxed)).sum()
    }

    pub(super) fn add(&self, segment: Arc<Segment>) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).insert(segment.number, segment);
    }

    pub(super) fn remove(&self, number: u32) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    fn count(&self, id: &MessageId, place: &Place, alive: bool) {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(segment) = segments.get(&place.segment) {
            let bytes = FRAME_BYTES + head_bytes(id, &place.record()) as u64 + u64::from(place.record().bytes());
            let _ = if alive {
                segment.live.fetch_add(bytes, Ordering::Relaxed)
            } else {
                segment.live.fetch_sub(bytes, Ordering::Relaxed)
            };
        }
    }

    /// Does what a record says.
    pub(super) fn apply(&self, op: &Op, segment: u32) {
        let place = Place::new(op.record, segment, op.body_at);
        let gone: smallvec::SmallVec<[Place; 1]> = self.places.change(&op.id, |slot| match op.kind {
            Kind::Copy => slot.add(place).into_iter().collect(),
            Kind::Drop => slot.drop_below(op.record.version),
        });
        if op.kind == Kind::Copy {
            self.count(&op.id, &place, true);
        }
        gone.iter().for_each(|place| self.count(&op.id, place, false));
    }

    /// Whether this record's copy is still here, and nowhere else.
    pub(super) fn lies_at(&self, op: &Op, segment: u32) -> bool {
        op.kind == Kind::Copy
            && self
                .places
                .find(&op.id, op.record.version)
                .is_some_and(|place| place == Place::new(op.record, segment, op.body_at))
    }

    /// A copy turned out to be damaged; true if that was not known.
    pub(super) fn mark_damaged(&self, id: &MessageId, place: &Place) -> bool {
        let marked = self.places.change(id, |slot| slot.mark_damaged(place));
        if marked {
            self.count(id, place, false);
        }
        marked
    }
}
