//! What a bench sends, and what it must read back: ids, messages and the order of both.
//!
//! Everything is a pure function of the seed and a number, so that a reply can
//! be checked without keeping what was sent. Nothing here knows a socket, a
//! clock or hidden chance. `keys` draws ids, `plan` deals requests to connections.

mod keys;
mod plan;

pub use self::keys::Distribution;
pub use self::plan::{Choice, Lane, Mix, Order, Plan};

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

/// How long messages are: each length in between as likely as the others, fixed for an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// The shortest.
    pub min: usize,
    /// The longest.
    pub max: usize,
}

impl Sizes {
    /// All of one length.
    pub fn only(size: usize) -> Self {
        Self { min: size, max: size }
    }

    /// What messages are long in the mean.
    pub fn mean(self) -> f64 {
        (self.min as f64 + self.max as f64) / 2.0
    }
}

/// Ids and messages by number.
#[derive(Debug, Clone)]
pub struct Values {
    prefix: String,
    /// Where messages begin, so that two seeds give different ones.
    key: u64,
    sizes: Sizes,
    /// How long a message stays, in milliseconds; nothing: until it is deleted.
    ttl_ms: Option<u64>,
}

impl Values {
    /// Ids that start with `prefix`, messages of these sizes made from `seed`.
    pub fn new(prefix: &str, seed: u64, sizes: Sizes) -> Self {
        Self { prefix: prefix.to_owned(), key: mix(seed ^ 0x6861_746f_6b75_7365), sizes, ttl_ms: None }
    }

    /// Messages that end by themselves after so many milliseconds, if any.
    pub fn ending(self, ttl_ms: Option<u64>) -> Self {
        Self { ttl_ms, ..self }
    }

    /// How long a message stays, in milliseconds.
    pub fn ttl_ms(&self) -> Option<u64> {
        self.ttl_ms
    }

    /// Bytes of the longest message.
    pub fn longest(&self) -> usize {
        self.sizes.max
    }

    /// Bytes of the message of the id with this number.
    pub fn size(&self, index: u64) -> usize {
        let Sizes { min, max } = self.sizes;
        if min == max {
            return min;
        }
        min + keys::below(mix(!self.key.wrapping_add(index)), (max - min) as u64 + 1) as usize
    }

    /// Bytes of the id with this number.
    pub fn id_len(&self, index: u64) -> usize {
        self.prefix.len() + digits_of(index)
    }

    /// Appends the id with this number.
    pub fn put_id(&self, index: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(self.prefix.as_bytes());
        put_number(index, out);
    }

    /// Appends the message of the id with this number: printable, without blanks.
    ///
    /// It opens with the index itself, spelled so that two of them differ as
    /// early as they can, because a wrong reply has to be caught at any size.
    pub fn put_message(&self, index: u64, out: &mut Vec<u8>) {
        let size = self.size(index);
        let start = out.len();
        let mut name = index ^ self.key;
        for _ in 0..INDEX_DIGITS.min(size) {
            out.push(b'0' + (name & 0x3f) as u8);
            name >>= 6;
        }
        let mut state = mix(self.key.wrapping_add(index));
        let end = start + size;
        out.reserve(end - out.len());
        while out.len() < end {
            state = state.wrapping_add(GOLDEN);
            // Eight characters at once, each one of the 64 from '0' on.
            let bytes = ((mix(state) & 0x3f3f_3f3f_3f3f_3f3f) + 0x3030_3030_3030_3030).to_le_bytes();
            out.extend_from_slice(&bytes[..(end - out.len()).min(8)]);
        }
    }
}

/// Appends a number in decimal, without an allocation.
pub fn put_number(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut from = digits.len();
    let mut rest = number;
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

/// How many digits a number has in decimal.
pub(super) fn digits_of(number: u64) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
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
    use proptest::prelude::*;

    use super::*;

    fn message(seed: u64, size: usize, index: u64) -> Vec<u8> {
        let mut out = b"SET ".to_vec();
        Values::new("k-", seed, Sizes::only(size)).put_message(index, &mut out);
        out.split_off(4)
    }

    #[test]
    fn messages_stay_the_same_from_version_to_version() {
        assert_eq!(message(1, 32, 7), MESSAGE_7_OF_SEED_1);
        assert_eq!(message(1, 0, 7), b"");
        assert_ne!(message(2, 32, 7), message(1, 32, 7), "another seed, another message");
        let mut id = Vec::new();
        Values::new("bench-", 1, Sizes::only(0)).put_id(0, &mut id);
        Values::new(",", 1, Sizes::only(0)).put_id(u64::MAX, &mut id);
        assert_eq!(id, b"bench-0,18446744073709551615");
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
        fn a_range_of_sizes_is_kept_to_and_fixed_for_an_id(seed: u64, index: u64, min in 0usize..50, more in 0usize..50) {
            let values = Values::new("k-", seed, Sizes { min, max: min + more });
            let mut out = Vec::new();
            values.put_message(index, &mut out);
            prop_assert_eq!(out.len(), values.size(index));
            prop_assert!((min..=min + more).contains(&out.len()));
            out.clear();
            values.put_id(index, &mut out);
            prop_assert_eq!(out.len(), values.id_len(index));
        }
    }

    #[test]
    fn every_size_of_a_range_comes() {
        let values = Values::new("k-", 1, Sizes { min: 5, max: 8 });
        let seen: std::collections::BTreeSet<_> = (0..100).map(|index| values.size(index)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [5, 6, 7, 8]);
    }
}
