//! What a bench sends, and what it must read back: ids, messages and the order of both.
//!
//! Everything is a pure function of the seed and a number, so that a reply can
//! be checked without keeping what was sent. Nothing here knows a socket, a
//! clock or hidden chance.

use bytes::BytesMut;

use super::Op;

/// Digits of 6 bits that spell any index.
const INDEX_DIGITS: usize = 11;

/// What kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Write the message of an id.
    Set,
    /// Read it, and compare.
    Get,
}

/// One request to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Write or read.
    pub kind: Kind,
    /// The number of the id.
    pub index: u64,
}

/// Ids and messages by number.
#[derive(Debug, Clone)]
pub struct Values {
    prefix: String,
    /// Where messages begin, so that two seeds give different ones.
    key: u64,
    size: usize,
}

impl Values {
    /// Ids that start with `prefix`, messages of `size` bytes made from `seed`.
    pub fn new(prefix: &str, seed: u64, size: usize) -> Self {
        Self { prefix: prefix.to_owned(), key: mix(seed ^ 0x6861_746f_6b75_7365), size }
    }

    /// Bytes of every message.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Appends the id with this number.
    pub fn put_id(&self, index: u64, out: &mut BytesMut) {
        out.extend_from_slice(self.prefix.as_bytes());
        let mut digits = [0; 20];
        let mut from = digits.len();
        let mut rest = index;
        loop {
            from -= 1;
            digits[from] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        out.extend_from_slice(&digits[from..]);
    }

    /// Appends the message of the id with this number: printable, without blanks.
    ///
    /// It opens with the index itself, spelled so that two of them differ as
    /// early as they can, because a wrong reply has to be caught at any size.
    pub fn put_message(&self, index: u64, out: &mut BytesMut) {
        let start = out.len();
        let mut name = index ^ self.key;
        for _ in 0..INDEX_DIGITS.min(self.size) {
            out.extend_from_slice(&[b'0' + (name & 0x3f) as u8]);
            name >>= 6;
        }
        let mut state = mix(self.key.wrapping_add(index));
        let end = start + self.size;
        out.reserve(end - out.len());
        while out.len() < end {
            state = state.wrapping_add(GOLDEN);
            // Eight characters at once, each one of the 64 from '0' on.
            let bytes = ((mix(state) & 0x3f3f_3f3f_3f3f_3f3f) + 0x3030_3030_3030_3030).to_le_bytes();
            out.extend_from_slice(&bytes[..(end - out.len()).min(8)]);
        }
    }
}

/// The requests of one phase, handed out one by one to whichever connection has room.
#[derive(Debug)]
pub struct Plan {
    order: Order,
    seed: u64,
    total: u64,
    sets_given: u64,
    gets_given: u64,
}

#[derive(Debug)]
enum Order {
    /// Every id once, ascending.
    Write,
    /// Every id once, shuffled.
    ReadShuffled(Permutation),
    /// These ids, in this order.
    ReadThese(Vec<u64>),
    /// Every id once, ascending.
    ReadBack,
    /// SETs of fresh ids and GETs of ids that the same connection wrote before.
    Mixed { sets: u64 },
}

/// What one connection remembers of its part of a [`Plan`].
#[derive(Debug)]
pub struct Lane {
    chance: u64,
    /// Ids that it wrote; only kept where its GETs need them.
    written: Vec<u64>,
    wrote_last: bool,
}

impl Plan {
    /// The measured phase of a bench with `count` operations.
    pub fn measured(op: Op, count: u64, seed: u64) -> Self {
        let order = match op {
            Op::Set => Order::Write,
            Op::Get => Order::ReadShuffled(Permutation::new(count, seed)),
            Op::Mixed => Order::Mixed { sets: count.div_ceil(2) },
        };
        Self::of(order, count, seed)
    }

    /// Writes every id below `count`.
    pub fn load(count: u64) -> Self {
        Self::of(Order::Write, count, 0)
    }

    /// Reads every id below `count`.
    pub fn read_back(count: u64) -> Self {
        Self::of(Order::ReadBack, count, 0)
    }

    /// Reads the first and the last id below `count`.
    pub fn probe(count: u64) -> Self {
        let ids: Vec<u64> = match count {
            0 => Vec::new(),
            1 => vec![0],
            _ => vec![0, count - 1],
        };
        let total = ids.len() as u64;
        Self::of(Order::ReadThese(ids), total, 0)
    }

    fn of(order: Order, total: u64, seed: u64) -> Self {
        Self { order, seed, total, sets_given: 0, gets_given: 0 }
    }

    /// Requests in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// What the `number`-th connection starts with.
    pub fn lane(&self, number: usize) -> Lane {
        Lane { chance: mix(self.seed.wrapping_add(number as u64)), written: Vec::new(), wrote_last: false }
    }

    /// The next request for the connection of this lane; nothing when its work is done.
    pub fn next(&mut self, lane: &mut Lane) -> Option<Operation> {
        let Order::Mixed { sets } = self.order else {
            return self.next_of_one_kind();
        };
        let sets_left = self.sets_given < sets;
        let gets_left = self.gets_given < self.total - sets;
        // A connection reads what itself wrote, which a register must show it even
        // if both requests are in flight: no GET has to wait for another's SET.
        if gets_left && !lane.written.is_empty() && (lane.wrote_last || !sets_left) {
            self.gets_given += 1;
            lane.wrote_last = false;
            lane.chance = lane.chance.wrapping_add(GOLDEN);
            let pick = mix(lane.chance) % lane.written.len() as u64;
            return Some(Operation { kind: Kind::Get, index: lane.written[pick as usize] });
        }
        if !sets_left {
            return None;
        }
        lane.wrote_last = true;
        lane.written.push(self.sets_given);
        Some(self.next_set())
    }

    fn next_of_one_kind(&mut self) -> Option<Operation> {
        if self.sets_given + self.gets_given == self.total {
            return None;
        }
        let index = match &self.order {
            Order::Write | Order::Mixed { .. } => return Some(self.next_set()),
            Order::ReadBack => self.gets_given,
            Order::ReadShuffled(permutation) => permutation.at(self.gets_given),
            Order::ReadThese(ids) => ids[self.gets_given as usize],
        };
        self.gets_given += 1;
        Some(Operation { kind: Kind::Get, index })
    }

    fn next_set(&mut self) -> Operation {
        let index = self.sets_given;
        self.sets_given += 1;
        Operation { kind: Kind::Set, index }
    }
}

/// All numbers below `len` in a seeded order, without a table: a Feistel network
/// over the next even power of two, walked until it lands below `len`.
#[derive(Debug, Clone)]
struct Permutation {
    len: u64,
    half_bits: u32,
    key: u64,
}

impl Permutation {
    fn new(len: u64, seed: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        Self { len, half_bits: bits.div_ceil(2).max(1), key: mix(!seed) }
    }

    fn at(&self, number: u64) -> u64 {
        let mut value = number;
        loop {
            value = self.step(value);
            if value < self.len {
                return value;
            }
        }
    }

    fn step(&self, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..4 {
            (left, right) = (right, left ^ (mix(self.key.wrapping_add(right << 3 | round)) & mask));
        }
        left << self.half_bits | right
    }
}

/// The step of the generator, 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's last step: spelled out here because messages must stay the same
/// from version to version, for a `--op get` of what an older build wrote.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn message(seed: u64, size: usize, index: u64) -> BytesMut {
        let mut out = BytesMut::from(&b"SET "[..]);
        Values::new("k-", seed, size).put_message(index, &mut out);
        out.split_off(4)
    }

    /// Deals a plan to `lanes` connections in turn.
    fn deal(mut plan: Plan, lanes: usize) -> Vec<(usize, Operation)> {
        let mut all = Vec::new();
        let mut open: Vec<_> = (0..lanes).map(|number| (number, plan.lane(number))).collect();
        while !open.is_empty() {
            open.retain_mut(|(number, lane)| match plan.next(lane) {
                Some(operation) => {
                    all.push((*number, operation));
                    true
                }
                None => false,
            });
        }
        all
    }

    #[test]
    fn messages_stay_the_same_from_version_to_version() {
        assert_eq!(message(1, 32, 7).as_ref(), MESSAGE_7_OF_SEED_1);
        assert_eq!(message(1, 0, 7).as_ref(), b"");
        assert_ne!(message(2, 32, 7), message(1, 32, 7), "another seed, another message");
        let mut id = BytesMut::new();
        Values::new("bench-", 1, 0).put_id(0, &mut id);
        Values::new(",", 1, 0).put_id(u64::MAX, &mut id);
        assert_eq!(id.as_ref(), b"bench-0,18446744073709551615");
    }

    const MESSAGE_7_OF_SEED_1: &[u8] = br"^gF\787bQE5IO4d5`VS?W^[LoJ8W\VDB";

    proptest! {
        #[test]
        fn a_message_is_printable_and_as_long_as_asked(seed: u64, index: u64, size in 0usize..300) {
            let text = message(seed, size, index);
            prop_assert_eq!(text.len(), size);
            prop_assert!(text.iter().all(u8::is_ascii_graphic));
            prop_assert_eq!(text, message(seed, size, index));
        }

        #[test]
        fn messages_differ_wherever_there_is_room(seed: u64, a in 0u64..1 << 40, b in 0u64..1 << 40, size in 7usize..40) {
            prop_assert_eq!(message(seed, size, a) == message(seed, size, b), a == b);
        }

        #[test]
        fn short_messages_differ_too(seed: u64, a in 0u64..64, b in 0u64..64) {
            prop_assert_eq!(message(seed, 1, a) == message(seed, 1, b), a == b);
        }

        #[test]
        fn sets_go_through_the_ids_in_order(count in 0u64..500, lanes in 1usize..9) {
            let dealt = deal(Plan::measured(Op::Set, count, 1), lanes);
            let wanted: Vec<_> = (0..count).map(|index| Operation { kind: Kind::Set, index }).collect();
            prop_assert_eq!(dealt.into_iter().map(|(_, o)| o).collect::<Vec<_>>(), wanted);
        }

        #[test]
        fn gets_read_every_id_once_in_an_order_of_the_seed(count in 0u64..3000, seed: u64, lanes in 1usize..9) {
            let dealt = deal(Plan::measured(Op::Get, count, seed), lanes);
            prop_assert!(dealt.iter().all(|(_, o)| o.kind == Kind::Get && o.index < count));
            prop_assert_eq!(dealt.iter().map(|(_, o)| o.index).collect::<HashSet<_>>().len() as u64, count);
            prop_assert_eq!(&dealt, &deal(Plan::measured(Op::Get, count, seed), lanes));
            if count > 50 {
                prop_assert!(!dealt.is_sorted_by_key(|(_, o)| o.index));
                prop_assert_ne!(dealt, deal(Plan::measured(Op::Get, count, !seed), lanes));
            }
        }

        #[test]
        fn mixed_is_half_fresh_sets_and_half_gets_of_own_ids(count in 0u64..500, seed: u64, lanes in 1usize..9) {
            let dealt = deal(Plan::measured(Op::Mixed, count, seed), lanes);
            prop_assert_eq!(dealt.len() as u64, count);
            let mut written = HashSet::new();
            for (lane, operation) in dealt {
                match operation.kind {
                    Kind::Set => prop_assert!(written.insert((operation.index, lane))),
                    Kind::Get => prop_assert!(written.contains(&(operation.index, lane))),
                }
            }
            prop_assert_eq!(written.len() as u64, count.div_ceil(2));
        }
    }

    #[test]
    fn a_probe_looks_at_both_ends() {
        let ids = |count| deal(Plan::probe(count), 1).into_iter().map(|(_, o)| o.index).collect::<Vec<_>>();
        assert_eq!((ids(0), ids(1), ids(9000)), (vec![], vec![0], vec![0, 8999]));
    }
}
