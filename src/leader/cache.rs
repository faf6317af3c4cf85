//! Messages that were read, in the leader's memory.
//!
//! An entry is of one version, and answers only for that one: the index says which version is true, so that nothing
//! here can be stale. The policy is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", 2023).

use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::FixedState;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use crate::types::{CacheView, MAX_ID_BYTES, MessageId, Payload, Version};

/// What an entry costs beside its id and message, bytes.
const ENTRY_COST: usize = 96;

/// Shards a core: threads seldom meet at one.
const SHARDS_A_CORE: usize = 4;

/// Of the largest messages, as many fit into a shard: it takes none that would fill it alone.
const LARGEST_A_SHARD: u64 = 2;

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
    /// An empty cache of `max_bytes`, entries' own cost among them, for messages up to `largest` bytes.
    pub fn new(max_bytes: u64, largest: usize) -> Self {
        let mut options = OptionsBuilder::new();
        options.weight_capacity(max_bytes).shards(shards(max_bytes, largest));
        options.estimated_items_capacity(usize::try_from(max_bytes / TYPICAL).unwrap_or(usize::MAX));
        let options = options.build().ok().filter(|_| max_bytes > 0);
        let entries = options
            .map(|options| Cache::with_options(options, Bytes, FixedState::default(), DefaultLifecycle::default()));
        Self { entries, max_bytes, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// The message, if this very version of it is here.
    pub fn get(&self, id: &MessageId, version: Version) -> Option<Payload> {
        let entry = self.entries.as_ref()?.get(id).filter(|(cached, _)| *cached == version);
        let counter = if entry.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        entry.map(|(_, payload)| payload)
    }

    /// Keeps a message of a version that is, or was, committed; gives the copy that it keeps, which nothing larger stands behind.
    pub fn put(&self, id: &MessageId, version: Version, payload: &Payload) -> Option<Payload> {
        let entries = self.entries.as_ref()?;
        // A copy: the payload may be a small part of a buffer that it would keep alive.
        let own = Payload::copy_from_slice(payload);
        entries.insert(id.clone(), (version, own.clone()));
        Some(own)
    }

    /// Takes a new version of a message that is here. Others come in when they are read: most writes of a load are never
    /// read again, and to take them all made durable SETs of 32 and 128 connections slower by a sixth.
    pub fn renew(&self, id: &MessageId, version: Version, payload: &Payload) {
        if self.entries.as_ref().is_some_and(|entries| entries.contains_key(id)) {
            self.put(id, version, payload);
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

/// Each shard has its part of the bytes to itself, so that there are only as many as leave room for the largest message.
fn shards(max_bytes: u64, largest: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let entry = (largest + ENTRY_COST + MAX_ID_BYTES) as u64;
    let most = usize::try_from(max_bytes / (LARGEST_A_SHARD * entry)).unwrap_or(usize::MAX);
    // The cache rounds up to a power of two.
    1 << most.clamp(1, SHARDS_A_CORE * cores).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    #[test]
    fn the_largest_message_has_room() {
        for max_bytes in [5 << 20, 16 << 20, 64 << 20, 1 << 30] {
            let (cache, largest) = (MessageCache::new(max_bytes, 2 << 20), Payload::from(vec![0; 2 << 20]));
            for n in 0..8 {
                let id = format!("id{n}").parse().unwrap();
                cache.put(&id, Version::new(Epoch(1), 1), &largest);
                assert!(cache.get(&id, Version::new(Epoch(1), 1)).is_some(), "{n} of {max_bytes} bytes");
            }
        }
    }

    #[test]
    fn an_entry_answers_for_its_version_only() {
        let cache = MessageCache::new(1 << 20, 1 << 10);
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
    fn a_write_renews_what_was_read_and_takes_nothing_else() {
        let cache = MessageCache::new(1 << 20, 1 << 10);
        let (read, other, payload) = ("x".parse().unwrap(), "y".parse().unwrap(), Payload::from_static(b"new"));
        let version = |sequence| Version::new(Epoch(1), sequence);
        cache.put(&read, version(1), &Payload::from_static(b"old"));
        cache.renew(&read, version(2), &payload);
        cache.renew(&other, version(3), &payload);
        assert_eq!(cache.get(&read, version(2)), Some(payload));
        assert_eq!((cache.get(&other, version(3)), cache.view().unwrap().messages), (None, 1));
    }

    #[test]
    fn the_bytes_are_bounded() {
        let cache = MessageCache::new(64 << 10, 1 << 10);
        for n in 0..10_000 {
            let id = format!("id{n}").parse().unwrap();
            cache.put(&id, Version::new(Epoch(1), n), &Payload::from(vec![0; 100]));
        }
        let view = cache.view().unwrap();
        assert!(view.bytes <= 64 << 10 && view.messages > 100, "{view:?}");
        assert_eq!(MessageCache::new(0, 1).view(), None);
    }
}
