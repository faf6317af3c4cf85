//! Recent messages in the leader's memory.
//!
//! An entry is of one version, and answers only for that one: the index says which version is true, so that nothing
//! here can be stale. The policy is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", 2023).

use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::FixedState;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use crate::types::{CacheView, MessageId, Payload, Version};

/// What an entry costs beside its id and message, bytes.
const ENTRY_COST: usize = 96;

/// A typical entry, for the first size of the tables.
const TYPICAL: u64 = 512;

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<MessageId, (Version, Payload)> for Bytes {
    fn weight(&self, id: &MessageId, (_, payload): &(Version, Payload)) -> u64 {
        (id.as_bytes().len() + payload.len() + ENTRY_COST) as u64
    }
}

/// Messages up to a number of bytes in all; none at all if that is zero.
#[derive(Debug)]
pub struct MessageCache {
    entries: Option<Cache<MessageId, (Version, Payload), Bytes, FixedState>>,
    max_bytes: u64,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl MessageCache {
    /// An empty cache of `max_bytes`, entries' own cost among them.
    pub fn new(max_bytes: u64) -> Self {
        let entries = (max_bytes > 0).then(|| {
            let items = usize::try_from(max_bytes / TYPICAL).unwrap_or(usize::MAX);
            Cache::with(items, max_bytes, Bytes, FixedState::default(), DefaultLifecycle::default())
        });
        Self { entries, max_bytes, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// The message, if this very version of it is here.
    pub fn get(&self, id: &MessageId, version: Version) -> Option<Payload> {
        let entry = self.entries.as_ref()?.get(id).filter(|(cached, _)| *cached == version);
        let counter = if entry.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        entry.map(|(_, payload)| payload)
    }

    /// Keeps a message of a version that is, or was, committed.
    pub fn put(&self, id: &MessageId, version: Version, payload: &Payload) {
        if let Some(entries) = &self.entries {
            // A copy: the payload may be a small part of a buffer that it would keep alive.
            entries.insert(id.clone(), (version, Payload::copy_from_slice(payload)));
        }
    }

    /// What reports show; nothing without a cache.
    pub fn view(&self) -> Option<CacheView> {
        self.entries.as_ref().map(|entries| CacheView {
            messages: entries.len() as u64,
            bytes: entries.weight(),
            max_bytes: self.max_bytes,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    #[test]
    fn an_entry_answers_for_its_version_only() {
        let cache = MessageCache::new(1 << 20);
        let (id, payload) = ("x".parse().unwrap(), Payload::from_static(b"hello"));
        let version = |sequence| Version::new(Epoch(1), sequence);
        assert_eq!(cache.get(&id, version(1)), None);
        cache.put(&id, version(2), &payload);
        assert_eq!(cache.get(&id, version(2)), Some(payload.clone()));
        assert_eq!((cache.get(&id, version(1)), cache.get(&id, version(3))), (None, None));
        // A late read of an older version only costs a miss.
        cache.put(&id, version(1), &payload);
        assert_eq!(cache.get(&id, version(2)), None);
        let view = cache.view().unwrap();
        assert_eq!((view.messages, view.hits, view.misses), (1, 1, 4));
    }

    #[test]
    fn the_bytes_are_bounded() {
        let cache = MessageCache::new(64 << 10);
        for n in 0..10_000 {
            let id = format!("id{n}").parse().unwrap();
            cache.put(&id, Version::new(Epoch(1), n), &Payload::from(vec![0; 100]));
        }
        let view = cache.view().unwrap();
        assert!(view.bytes <= 64 << 10 && view.messages > 100, "{view:?}");
        assert_eq!(MessageCache::new(0).view(), None);
    }
}
