//! Whose bytes the leader holds: pots of memory, a share of a connection in each, and who is cut when one is full.
//!
//! Plain counting. Every byte that is kept for somebody is in a [`Room`] until it is gone: unfinished requests, what is
//! read for them, replies that are not sent. A full pot is no reason to refuse who comes next: as long as others hold
//! as much or more, those are cut, the most first and of alike ones the oldest; only who would hold the most himself is
//! refused. Small requests have a reserve, which those who hold more cannot use up.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};

use tokio_util::sync::CancellationToken;

use crate::lock::Lock;

/// A request of up to so many bytes, of who holds no more than [`SMALL_SHARE`] with it, may use the reserve.
const SMALL: usize = 16 << 10;
const SMALL_SHARE: usize = 64 << 10;

/// Who asks for as much as this part of what another holds may have that other cut: sizes of the same order count as
/// alike, or else those who hold a little less than everybody asks for could not be cut.
const ALIKE: usize = 4;

/// What was taken from those who are cut counts as free at once, though it goes only when their tasks hear of it: but
/// not more than so many bytes of it at a time.
const OVERDRAFT: usize = 16 << 20;

/// The smallest pot, and the part of the machine's (or the container's) memory that one is at most.
const LEAST: usize = 8 << 20;
const PART: u64 = 6;

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// For everybody, bytes.
    pub limit: usize,
    /// Besides that, for small requests.
    pub reserve: usize,
}

impl Size {
    /// Of a pot that is to have `wanted` bytes, where the process has `memory` bytes in all (nothing: not known).
    pub fn of(wanted: usize, memory: Option<u64>) -> Self {
        let part = memory.map_or(usize::MAX, |memory| usize::try_from(memory / PART).unwrap_or(usize::MAX));
        let limit = wanted.min(part.max(LEAST));
        Self { limit, reserve: (limit / 16).max(1) }
    }
}

/// Bytes that all connections share.
#[derive(Debug)]
pub struct Pot {
    size: Size,
    used: AtomicUsize,
    /// Of those who are cut, and have not let go of it.
    going: AtomicUsize,
    cut: AtomicU64,
    /// Counts up, so that the oldest can be told.
    turn: AtomicU64,
    shares: Lock<BTreeMap<u64, Arc<Account>>>,
}

/// What one connection holds.
#[derive(Debug)]
struct Account {
    held: Lock<Held>,
    cut: CancellationToken,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    /// The turn in which it began to hold something.
    since: u64,
    is_cut: bool,
}

impl Account {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock()
    }
}

/// A connection's share of a pot; when it is dropped nobody looks at it any more.
#[derive(Debug)]
pub struct Share {
    pot: Arc<Pot>,
    number: u64,
    account: Arc<Account>,
}

/// Bytes taken from a pot; given back when dropped.
#[derive(Debug)]
pub struct Room {
    pot: Arc<Pot>,
    of: Option<Arc<Account>>,
    bytes: usize,
}

impl Pot {
    /// An empty one.
    pub fn new(size: Size) -> Arc<Self> {
        Arc::new(Self {
            size,
            used: AtomicUsize::new(0),
            going: AtomicUsize::new(0),
            cut: AtomicU64::new(0),
            turn: AtomicU64::new(0),
            shares: Lock::default(),
        })
    }

    /// How much there is.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Bytes that are held, those of connections that are cut included.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed) + self.going.load(Ordering::Relaxed)
    }

    /// Connections that were cut since the start, because they held the most.
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// A share for a connection, which is to end when `cut` is cancelled.
    pub fn share(self: &Arc<Self>, cut: CancellationToken) -> Share {
        let number = self.turn.fetch_add(1, Ordering::Relaxed);
        let account = Arc::new(Account { held: Lock::default(), cut });
        self.shares().insert(number, account.clone());
        Share { pot: self.clone(), number, account }
    }

    /// Room for nobody in particular: what is under way and cannot be cut.
    pub fn room(self: &Arc<Self>, bytes: usize) -> Option<Room> {
        self.take(None, bytes).then(|| Room { pot: self.clone(), of: None, bytes })
    }

    fn shares(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Account>>> {
        self.shares.lock()
    }

    fn take(&self, of: Option<&Arc<Account>>, bytes: usize) -> bool {
        let mut own = bytes;
        if let Some(account) = of {
            let mut held = account.held();
            if held.is_cut {
                return false;
            }
            if held.bytes == 0 {
                held.since = self.turn.fetch_add(1, Ordering::Relaxed);
            }
            held.bytes += bytes;
            own = held.bytes;
            self.used.fetch_add(bytes, Ordering::Relaxed);
        } else {
            self.used.fetch_add(bytes, Ordering::Relaxed);
        }
        let is_small = bytes <= SMALL && own <= SMALL_SHARE;
        let limit = self.size.limit + if is_small { self.size.reserve } else { 0 };
        let fits = self.used.load(Ordering::Relaxed) <= limit || self.cut_others(of, own, limit);
        if !fits {
            self.give_back(of, bytes);
        }
        fits
    }

    fn give_back(&self, of: Option<&Arc<Account>>, bytes: usize) {
        let Some(account) = of else {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return;
        };
        let mut held = account.held();
        held.bytes -= bytes;
        let from = if held.is_cut { &self.going } else { &self.used };
        from.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Cuts those who hold as much as the one who asks would hold, or more, until it fits; nobody, if that is not enough.
    fn cut_others(&self, of: Option<&Arc<Account>>, own: usize, limit: usize) -> bool {
        if own > limit || self.going.load(Ordering::Relaxed) > OVERDRAFT {
            return false;
        }
        let shares = self.shares();
        let others = shares.values().filter(|other| of.is_none_or(|own| !Arc::ptr_eq(own, other)));
        let held = others.filter_map(|other| {
            let held = other.held();
            let is_one = !held.is_cut && held.bytes > 0 && held.bytes >= own / ALIKE;
            is_one.then(|| (Reverse(held.bytes.ilog2()), held.since, held.bytes, other))
        });
        let mut held: Vec<_> = held.collect();
        held.sort_unstable_by_key(|(order, since, ..)| (*order, *since));
        let excess = self.used.load(Ordering::Relaxed).saturating_sub(limit);
        let mut freed = 0;
        for (cut, (_, _, bytes, _)) in held.iter().enumerate() {
            freed += bytes;
            if freed >= excess {
                held[..=cut].iter().for_each(|(.., account)| self.cut_off(account));
                return true;
            }
        }
        excess == 0
    }

    fn cut_off(&self, account: &Account) {
        let mut held = account.held();
        held.is_cut = true;
        self.used.fetch_sub(held.bytes, Ordering::Relaxed);
        self.going.fetch_add(held.bytes, Ordering::Relaxed);
        self.cut.fetch_add(1, Ordering::Relaxed);
        account.cut.cancel();
    }
}

impl Share {
    /// Room of this connection.
    pub fn room(&self, bytes: usize) -> Option<Room> {
        let of = Some(&self.account);
        self.pot.take(of, bytes).then(|| Room { pot: self.pot.clone(), of: of.cloned(), bytes })
    }

    /// No room yet, which can grow.
    pub fn empty(&self) -> Room {
        Room { pot: self.pot.clone(), of: Some(self.account.clone()), bytes: 0 }
    }

    /// The pot that it is of.
    pub fn pot(&self) -> &Arc<Pot> {
        &self.pot
    }

    /// Whether this connection is to end because it held the most.
    pub fn is_cut(&self) -> bool {
        self.account.held().is_cut
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.pot.shares().remove(&self.number);
    }
}

impl Room {
    /// Makes it so large; `false`: there is no room for that, and it stays as it was.
    pub fn set(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes && !self.pot.take(self.of.as_ref(), bytes - self.bytes) {
            return false;
        }
        if bytes < self.bytes {
            self.pot.give_back(self.of.as_ref(), self.bytes - bytes);
        }
        self.bytes = bytes;
        true
    }

    /// Takes over what another one has of the same share.
    pub fn absorb(&mut self, mut other: Self) {
        let same = match (&self.of, &other.of) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (None, None) => true,
            _ => false,
        };
        if same {
            self.bytes += std::mem::take(&mut other.bytes);
        }
    }

    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.pot.give_back(self.of.as_ref(), self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    fn pot() -> Arc<Pot> {
        Pot::new(Size { limit: 1000 * KIB, reserve: 100 * KIB })
    }

    /// What is asked of a pot of 1,000 KiB in which these hold so many KiB, the oldest first; whether the asker gets it,
    /// and who is cut.
    #[test]
    fn who_holds_most_is_cut_and_not_who_asks_next() {
        for (holders, asks, gets, cut) in [
            (&[300, 300][..], 400, true, &[][..]),
            (&[500, 400], 200, true, &[0]),
            (&[400, 500], 200, true, &[0]),
            (&[200, 700], 200, true, &[1]),
            (&[100, 100, 100, 600], 300, true, &[3]),
            // As many as it takes, of alike ones the oldest.
            (&[100, 100, 100, 100, 100, 100, 100, 100, 100, 100], 150, true, &[0, 1]),
            // A little less than what is asked for is alike.
            (&[99, 99, 99, 99, 99, 99, 99, 99, 99, 99], 100, true, &[0]),
            // Who would hold the most himself is refused, and costs nobody anything.
            (&[50; 20], 300, false, &[]),
            (&[500, 400], 1001, false, &[]),
            // A small one has the reserve.
            (&[500, 500], 10, true, &[]),
            (&[500, 500], 20, true, &[0]),
        ] {
            let pot = pot();
            let own = pot.share(CancellationToken::new());
            let all: Vec<_> = holders.iter().map(|bytes| (pot.share(CancellationToken::new()), *bytes)).collect();
            let rooms: Vec<_> = all.iter().map(|(share, bytes)| share.room(bytes * KIB)).collect();
            let room = own.room(asks * KIB);
            let was: Vec<usize> = (0..all.len()).filter(|place| all[*place].0.is_cut()).collect();
            assert_eq!((room.is_some(), was.as_slice()), (gets, cut), "{holders:?} {asks}");
            assert!(!own.is_cut() && all.iter().all(|(share, _)| share.account.cut.is_cancelled() == share.is_cut()));
            drop((rooms, room));
            assert_eq!(pot.used(), 0, "everything is given back, by those who were cut too");
        }
    }

    #[test]
    fn what_nobody_can_be_cut_for_leaves_the_reserve_to_small_requests() {
        let pot = pot();
        let _writes = pot.room(1000 * KIB).unwrap();
        let (large, small) = (pot.share(CancellationToken::new()), pot.share(CancellationToken::new()));
        assert!(large.room(20 * KIB).is_none());
        let rooms: Vec<Room> = std::iter::from_fn(|| large.room(SMALL)).collect();
        assert!(rooms.len() * SMALL <= SMALL_SHARE, "no connection has the reserve for itself");
        assert!(small.room(SMALL).is_some());
    }

    #[test]
    fn a_room_grows_shrinks_and_takes_over_others() {
        let pot = pot();
        let share = pot.share(CancellationToken::new());
        let mut room = share.empty();
        assert!(room.set(10 * KIB) && !room.set(2000 * KIB));
        room.absorb(share.room(5 * KIB).unwrap());
        assert_eq!((room.bytes(), pot.used()), (15 * KIB, 15 * KIB));
        assert!(room.set(KIB));
        assert_eq!(pot.used(), KIB);
        drop(room);
        assert_eq!(pot.used(), 0);
    }

    #[test]
    fn who_is_cut_gets_nothing_more() {
        let pot = pot();
        let (first, second) = (pot.share(CancellationToken::new()), pot.share(CancellationToken::new()));
        let mut room = first.room(900 * KIB).unwrap();
        let other = second.room(500 * KIB).unwrap();
        assert!(first.is_cut() && first.room(1).is_none() && !room.set(901 * KIB));
        assert_eq!((pot.used(), pot.cut()), (1400 * KIB, 1));
        assert!(room.set(100 * KIB));
        drop((room, other));
        assert_eq!(pot.used(), 0);
    }

    #[test]
    fn a_pot_is_sized_by_the_memory_that_there_is() {
        const MIB: usize = 1 << 20;
        for (memory, limit) in
            [(None, 144 * MIB), (Some(64 << 30), 144 * MIB), (Some(384 << 20), 64 * MIB), (Some(16 << 20), 8 * MIB)]
        {
            assert_eq!(Size::of(144 * MIB, memory).limit, limit, "{memory:?}");
        }
        assert_eq!(Size::of(64 * KIB, Some(1 << 40)), Size { limit: 64 * KIB, reserve: 4 * KIB });
    }
}
