//! Which id comes next: orders and distributions over the numbers below `len`, from a seed.
//!
//! Every draw is a pure function of the seed and how many came before, and costs
//! the same with ten keys or a billion: no table, no sum over all keys.

use super::{GOLDEN, mix};

/// How ids are chosen among the keys of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Distribution {
    /// Ascending, and again from the first.
    Sequential,
    /// Each once in an order of the seed, and again.
    Shuffled,
    /// Any, each as likely as the others.
    Uniform,
    /// The first the most often, the k-th 1/k^theta as often.
    Zipf,
}

impl Distribution {
    /// As typed and reported.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Shuffled => "shuffled",
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
        }
    }
}

/// Numbers below a length, one after another.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    len: u64,
    given: u64,
    chance: u64,
    by: By,
}

#[derive(Debug, Clone)]
enum By {
    Order,
    Shuffle(Permutation),
    Chance,
    Rank(Zipf),
}

impl Keys {
    /// `len` is at least 1; `theta` is that of `Zipf`.
    pub(super) fn new(distribution: Distribution, len: u64, theta: f64, seed: u64) -> Self {
        let by = match distribution {
            Distribution::Sequential => By::Order,
            Distribution::Shuffled => By::Shuffle(Permutation::new(len, seed)),
            Distribution::Uniform => By::Chance,
            Distribution::Zipf => By::Rank(Zipf::new(len, theta)),
        };
        Self { len, given: 0, chance: mix(seed ^ 0x6b65_7973), by }
    }

    /// The next number.
    pub(super) fn next(&mut self) -> u64 {
        let number = self.given;
        self.given += 1;
        match &self.by {
            By::Order => number % self.len,
            By::Shuffle(permutation) => permutation.at(number % self.len),
            By::Chance => below(draw(&mut self.chance), self.len),
            By::Rank(zipf) => zipf.rank(&mut self.chance) - 1,
        }
    }
}

/// The next 64 random bits (SplitMix64).
fn draw(chance: &mut u64) -> u64 {
    *chance = chance.wrapping_add(GOLDEN);
    mix(*chance)
}

/// A number below `len`, by multiplication: its bias is below `len` / 2^64.
pub(super) fn below(bits: u64, len: u64) -> u64 {
    ((u128::from(bits) * u128::from(len)) >> 64) as u64
}

/// Zipf's distribution by rejection-inversion (W. Hörmann, G. Derflinger: Rejection-inversion to
/// generate variates from monotone discrete distributions, 1996): constant cost for any length and any
/// exponent, where the method of YCSB sums over all keys first.
#[derive(Debug, Clone)]
struct Zipf {
    len: f64,
    theta: f64,
    /// The integral of the hat at its two ends.
    low: f64,
    high: f64,
    /// Closer to its rank than this, a point is taken without a further look.
    near: f64,
}

impl Zipf {
    fn new(len: u64, theta: f64) -> Self {
        let mut zipf = Self { len: len as f64, theta, low: 0.0, high: 0.0, near: 0.0 };
        zipf.low = zipf.integral(1.5) - 1.0;
        zipf.high = zipf.integral(zipf.len + 0.5);
        zipf.near = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.hat(2.0));
        zipf
    }

    /// From 1 to the length.
    fn rank(&self, chance: &mut u64) -> u64 {
        loop {
            let unit = (draw(chance) >> 11) as f64 / (1u64 << 53) as f64;
            let area = self.high + unit * (self.low - self.high);
            let x = self.inverse(area);
            let rank = (x + 0.5).floor().clamp(1.0, self.len);
            if rank - x <= self.near || area >= self.integral(rank + 0.5) - self.hat(rank) {
                return rank as u64;
            }
        }
    }

    /// x^-theta.
    fn hat(&self, x: f64) -> f64 {
        (-self.theta * x.ln()).exp()
    }

    /// (x^(1-theta) - 1) / (1 - theta), and ln x where theta is 1.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        let power = (1.0 - self.theta) * log;
        if power.abs() > 1e-8 { power.exp_m1() / (1.0 - self.theta) } else { log * (1.0 + power / 2.0) }
    }

    fn inverse(&self, area: f64) -> f64 {
        let t = (area * (1.0 - self.theta)).max(-1.0);
        if t.abs() > 1e-8 { (t.ln_1p() / (1.0 - self.theta)).exp() } else { (area * (1.0 - t / 2.0)).exp() }
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

/// One bit a key: which of them were written.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen(Vec<u64>);

impl Seen {
    /// Adds a key.
    pub(super) fn add(&mut self, key: u64) {
        let word = (key / 64) as usize;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (key % 64);
    }

    /// All of them, ascending.
    pub(super) fn all(&self) -> Vec<u64> {
        let bits = |(word, bits): (usize, &u64)| {
            let (word, bits) = (word as u64 * 64, *bits);
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word + bit)
        };
        self.0.iter().enumerate().flat_map(bits).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const ALL: [Distribution; 4] =
        [Distribution::Sequential, Distribution::Shuffled, Distribution::Uniform, Distribution::Zipf];

    fn take(distribution: Distribution, len: u64, theta: f64, seed: u64, count: usize) -> Vec<u64> {
        let mut keys = Keys::new(distribution, len, theta, seed);
        (0..count).map(|_| keys.next()).collect()
    }

    proptest! {
        #[test]
        fn keys_are_below_the_length_and_the_same_for_a_seed(
            len in prop_oneof![1u64..50, Just(u64::MAX >> 11)],
            seed: u64,
            theta in 0.01f64..4.0,
        ) {
            for distribution in ALL {
                let keys = take(distribution, len, theta, seed, 200);
                prop_assert!(keys.iter().all(|key| *key < len), "{:?}", distribution);
                prop_assert_eq!(keys, take(distribution, len, theta, seed, 200));
            }
        }

        #[test]
        fn a_shuffle_gives_every_key_once_a_round(len in 1u64..2000, seed: u64) {
            let keys = take(Distribution::Shuffled, len, 1.0, seed, len as usize * 2);
            let (first, second) = keys.split_at(len as usize);
            prop_assert_eq!(first, second);
            prop_assert_eq!(first.iter().collect::<BTreeSet<_>>().len() as u64, len);
        }
    }

    #[test]
    fn sequential_wraps() {
        assert_eq!(take(Distribution::Sequential, 3, 1.0, 9, 7), [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn other_seeds_give_other_keys() {
        for distribution in &ALL[1..] {
            assert_ne!(take(*distribution, 10_000, 0.99, 1, 100), take(*distribution, 10_000, 0.99, 2, 100));
        }
    }

    #[test]
    fn uniform_reaches_every_part_alike() {
        let mut tenths = [0u32; 10];
        take(Distribution::Uniform, 1000, 1.0, 7, 100_000).iter().for_each(|key| tenths[(key / 100) as usize] += 1);
        assert!(tenths.iter().all(|count| (9_500..10_500).contains(count)), "{tenths:?}");
    }

    /// The share of the first keys is that of 1/k^theta over its sum, for exponents below, at and above 1.
    #[test]
    fn zipf_has_the_shares_of_its_law() {
        const DRAWS: usize = 200_000;
        for (theta, len) in [(0.5, 1000), (0.99, 10_000), (1.0, 100), (1.5, 50), (0.99, 1)] {
            let keys = take(Distribution::Zipf, len, theta, 3, DRAWS);
            let sum: f64 = (1..=len).map(|k| (k as f64).powf(-theta)).sum();
            for first in [1, 2, 10, 100].into_iter().filter(|first| *first <= len) {
                let law: f64 = (1..=first).map(|k| (k as f64).powf(-theta)).sum::<f64>() / sum;
                let seen = keys.iter().filter(|key| **key < first).count() as f64 / DRAWS as f64;
                assert!((seen - law).abs() < 0.005, "theta {theta}, {len} keys, first {first}: {seen} and not {law}");
            }
        }
    }

    #[test]
    fn seen_keys_come_back_once_and_in_order() {
        let mut seen = Seen::default();
        [700, 0, 63, 64, 700, 65].into_iter().for_each(|key| seen.add(key));
        assert_eq!(seen.all(), [0, 63, 64, 65, 700]);
        assert_eq!(Seen::default().all(), [0; 0]);
    }
}
