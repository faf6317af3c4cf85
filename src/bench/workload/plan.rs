//! The requests of one phase, handed out one by one to whichever connection has room.

use super::keys::{Distribution, Keys, Seen, below};
use super::{GOLDEN, Kind, Operation, mix};

/// How many SETs there are to how many GETs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// Parts that write, at least 1.
    pub sets: u32,
    /// Parts that read, at least 1.
    pub gets: u32,
}

/// The keys of a run and how they are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// How many keys there are, at least 1.
    pub keys: u64,
    /// Which comes next.
    pub distribution: Distribution,
    /// Of `Zipf`.
    pub theta: f64,
}

/// What a phase does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Order {
    /// SETs of new ids, ascending.
    Write,
    /// SETs of chosen ids.
    Overwrite(Choice),
    /// GETs of chosen ids.
    Read(Choice),
    /// SETs of new ids, and GETs of ids that the same connection wrote before.
    MixedNew(Mix),
    /// SETs and GETs of chosen ids, all of which exist.
    Mixed(Mix, Choice),
}

impl Order {
    /// The ids that must exist before: all below this number.
    pub fn needs(self) -> u64 {
        match self {
            Self::Write | Self::Overwrite(_) | Self::MixedNew(_) => 0,
            Self::Read(choice) | Self::Mixed(_, choice) => choice.keys,
        }
    }
}

/// The requests of one phase.
#[derive(Debug)]
pub struct Plan {
    source: Source,
    seed: u64,
    /// Requests that are still to be measured.
    sets_left: u64,
    gets_left: u64,
    sets_given: u64,
    /// Which chosen ids were written; kept only for a phase that reads them back.
    written: Option<Seen>,
}

/// Where ids come from.
#[derive(Debug)]
enum Source {
    New,
    Chosen(Keys),
    These(std::vec::IntoIter<u64>),
    /// New ids for SETs, the lane's own for GETs.
    Own(Mix),
    ChosenMixed(Mix, Keys),
}

/// What one connection remembers of its part of a [`Plan`].
#[derive(Debug)]
pub struct Lane {
    chance: u64,
    /// Ids that it wrote; only kept where its GETs need them.
    written: Vec<u64>,
    sets: u64,
    gets: u64,
}

impl Plan {
    /// `count` requests, or without end.
    pub fn new(order: Order, count: Option<u64>, seed: u64) -> Self {
        let keys = |choice: Choice| Keys::new(choice.distribution, choice.keys, choice.theta, seed);
        let all = count.unwrap_or(u64::MAX);
        let split = |mix: Mix| match count {
            // The larger half of an odd count is written first.
            Some(count) => {
                let sets = u128::from(count) * u128::from(mix.sets);
                let sets = sets.div_ceil(u128::from(mix.sets) + u128::from(mix.gets)) as u64;
                (sets, count - sets)
            }
            None => (u64::MAX, u64::MAX),
        };
        let (source, (sets_left, gets_left)) = match order {
            Order::Write => (Source::New, (all, 0)),
            Order::Overwrite(choice) => (Source::Chosen(keys(choice)), (all, 0)),
            Order::Read(choice) => (Source::Chosen(keys(choice)), (0, all)),
            Order::MixedNew(mix) => (Source::Own(mix), split(mix)),
            Order::Mixed(mix, choice) => (Source::ChosenMixed(mix, keys(choice)), split(mix)),
        };
        Self { source, seed, sets_left, gets_left, sets_given: 0, written: None }
    }

    /// Keeps which of the chosen ids are written, for [`Plan::written`].
    pub fn remember(mut self) -> Self {
        self.written = Some(Seen::default());
        self
    }

    /// Writes every id below `count`.
    pub fn load(count: u64) -> Self {
        Self::new(Order::Write, Some(count), 0)
    }

    /// Reads these ids.
    pub fn read_these(ids: Vec<u64>) -> Self {
        let gets_left = ids.len() as u64;
        let source = Source::These(ids.into_iter());
        Self { source, seed: 0, sets_left: 0, gets_left, sets_given: 0, written: None }
    }

    /// Reads every id below `count`, ascending.
    pub fn read_all(count: u64) -> Self {
        let choice = Choice { keys: count.max(1), distribution: Distribution::Sequential, theta: 1.0 };
        Self::new(Order::Read(choice), Some(count), 0)
    }

    /// Reads the first and the last id below `count`.
    pub fn probe(count: u64) -> Self {
        Self::read_these(match count {
            0 => Vec::new(),
            1 => vec![0],
            _ => vec![0, count - 1],
        })
    }

    /// Requests that are still to be measured; nothing if there is no end to them.
    pub fn left(&self) -> Option<u64> {
        self.sets_left.checked_add(self.gets_left).filter(|_| self.sets_left.max(self.gets_left) < u64::MAX)
    }

    /// SETs handed out so far, measured or not.
    pub fn sets_given(&self) -> u64 {
        self.sets_given
    }

    /// The chosen ids that were written, if they were to be remembered.
    pub fn written(&self) -> Vec<u64> {
        self.written.as_ref().map(Seen::all).unwrap_or_default()
    }

    /// What the `number`-th connection starts with.
    pub fn lane(&self, number: usize) -> Lane {
        let chance = mix(self.seed.wrapping_add(number as u64));
        Lane { chance, written: Vec::new(), sets: 0, gets: 0 }
    }

    /// The next request for the connection of this lane; nothing when its work is done.
    ///
    /// Only those that are `measured` use up the count: a warm-up comes before it.
    pub fn next(&mut self, lane: &mut Lane, measured: bool) -> Option<Operation> {
        let kind = self.kind(lane)?;
        let index = match (&mut self.source, kind) {
            (Source::New, _) | (Source::Own(_), Kind::Set) => self.sets_given,
            (Source::Chosen(keys) | Source::ChosenMixed(_, keys), _) => keys.next(),
            (Source::These(ids), _) => ids.next()?,
            (Source::Own(_), Kind::Get) => {
                lane.chance = lane.chance.wrapping_add(GOLDEN);
                lane.written[below(mix(lane.chance), lane.written.len() as u64) as usize]
            }
        };
        let used = u64::from(measured);
        match kind {
            Kind::Set => {
                lane.sets += 1;
                self.sets_given += 1;
                self.sets_left -= used.min(self.sets_left);
                if matches!(self.source, Source::Own(_)) {
                    lane.written.push(index);
                }
                if let Some(written) = &mut self.written {
                    written.add(index);
                }
            }
            Kind::Get => {
                lane.gets += 1;
                self.gets_left -= used.min(self.gets_left);
            }
        }
        Some(Operation { kind, index })
    }

    /// What kind comes next on this lane: kinds alternate so that the ratio holds all the time.
    fn kind(&self, lane: &Lane) -> Option<Kind> {
        let (mix, can_read) = match &self.source {
            // A connection reads what itself wrote, which a register must show it even
            // if both requests are in flight: no GET has to wait for another's SET.
            Source::Own(mix) => (*mix, !lane.written.is_empty()),
            Source::ChosenMixed(mix, _) => (*mix, true),
            _ if self.sets_left > 0 => return Some(Kind::Set),
            _ => return (self.gets_left > 0).then_some(Kind::Get),
        };
        let behind = u128::from(lane.gets) * u128::from(mix.sets) < u128::from(lane.sets) * u128::from(mix.gets);
        let sets = self.sets_left > 0;
        if self.gets_left > 0 && can_read && (behind || !sets) {
            return Some(Kind::Get);
        }
        sets.then_some(Kind::Set)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const HALVES: Mix = Mix { sets: 1, gets: 1 };

    fn choice(keys: u64, distribution: Distribution) -> Choice {
        Choice { keys, distribution, theta: 0.99 }
    }

    /// Deals a plan to `lanes` connections in turn.
    fn deal(plan: &mut Plan, lanes: usize) -> Vec<(usize, Operation)> {
        let mut all = Vec::new();
        let mut open: Vec<_> = (0..lanes).map(|number| (number, plan.lane(number))).collect();
        while !open.is_empty() {
            open.retain_mut(|(number, lane)| match plan.next(lane, true) {
                Some(operation) => {
                    all.push((*number, operation));
                    true
                }
                None => false,
            });
        }
        all
    }

    fn dealt(order: Order, count: u64, seed: u64, lanes: usize) -> Vec<(usize, Operation)> {
        deal(&mut Plan::new(order, Some(count), seed), lanes)
    }

    proptest! {
        #[test]
        fn sets_go_through_new_ids_in_order(count in 0u64..500, lanes in 1usize..9) {
            let dealt = dealt(Order::Write, count, 1, lanes);
            let wanted: Vec<_> = (0..count).map(|index| Operation { kind: Kind::Set, index }).collect();
            prop_assert_eq!(dealt.into_iter().map(|(_, o)| o).collect::<Vec<_>>(), wanted);
        }

        #[test]
        fn gets_read_every_id_once_in_an_order_of_the_seed(count in 1u64..3000, seed: u64, lanes in 1usize..9) {
            let order = Order::Read(choice(count, Distribution::Shuffled));
            let all = dealt(order, count, seed, lanes);
            prop_assert!(all.iter().all(|(_, o)| o.kind == Kind::Get && o.index < count));
            prop_assert_eq!(all.iter().map(|(_, o)| o.index).collect::<HashSet<_>>().len() as u64, count);
            prop_assert_eq!(&all, &dealt(order, count, seed, lanes));
            if count > 50 {
                prop_assert!(!all.is_sorted_by_key(|(_, o)| o.index));
                prop_assert_ne!(all, dealt(order, count, !seed, lanes));
            }
        }

        #[test]
        fn mixed_new_reads_only_what_the_connection_wrote(
            count in 0u64..500, seed: u64, lanes in 1usize..9, sets in 1u32..10, gets in 1u32..10,
        ) {
            let dealt = dealt(Order::MixedNew(Mix { sets, gets }), count, seed, lanes);
            prop_assert_eq!(dealt.len() as u64, count);
            let mut written = HashSet::new();
            for (lane, operation) in dealt {
                match operation.kind {
                    Kind::Set => prop_assert!(written.insert((operation.index, lane))),
                    Kind::Get => prop_assert!(written.contains(&(operation.index, lane))),
                }
            }
            prop_assert_eq!(written.len() as u64, (count * u64::from(sets)).div_ceil(u64::from(sets + gets)));
        }

        #[test]
        fn a_ratio_holds_from_the_first_request_on(sets in 1u32..10, gets in 1u32..10, keys in 1u64..50) {
            let order = Order::Mixed(Mix { sets, gets }, choice(keys, Distribution::Zipf));
            let mut plan = Plan::new(order, None, 1);
            let mut lane = plan.lane(0);
            for _ in 0..200 {
                let operation = plan.next(&mut lane, true).unwrap();
                prop_assert!(operation.index < keys);
                let off = (lane.gets * u64::from(sets)).abs_diff(lane.sets * u64::from(gets));
                prop_assert!(off <= u64::from(sets + gets), "{} sets, {} gets", lane.sets, lane.gets);
            }
        }
    }

    #[test]
    fn a_warm_up_uses_no_count_up() {
        let mut plan = Plan::new(Order::Write, Some(3), 1);
        let mut lane = plan.lane(0);
        let given = [false, false, true, true, true, true].map(|m| plan.next(&mut lane, m).map(|o| o.index));
        assert_eq!(given, [Some(0), Some(1), Some(2), Some(3), Some(4), None]);
        assert_eq!((plan.sets_given(), plan.left()), (5, Some(0)));
        assert_eq!(Plan::new(Order::Write, None, 1).left(), None);
        assert_eq!(Plan::new(Order::MixedNew(HALVES), None, 1).left(), None);
    }

    #[test]
    fn what_was_overwritten_is_remembered() {
        let order = Order::Overwrite(choice(1000, Distribution::Zipf));
        let mut plan = Plan::new(order, Some(300), 1).remember();
        let wrote: std::collections::BTreeSet<_> = deal(&mut plan, 3).iter().map(|(_, o)| o.index).collect();
        assert_eq!(plan.written(), wrote.into_iter().collect::<Vec<_>>());
        assert!(Plan::new(order, Some(300), 1).written().is_empty());
    }

    #[test]
    fn a_probe_looks_at_both_ends_and_a_reading_at_all() {
        let ids = |mut plan| deal(&mut plan, 1).into_iter().map(|(_, o)| o.index).collect::<Vec<_>>();
        let probes = [0, 1, 9000].map(|count| ids(Plan::probe(count)));
        assert_eq!(probes, [vec![], vec![0], vec![0, 8999]]);
        assert_eq!(ids(Plan::read_all(3)), [0, 1, 2]);
        assert!(ids(Plan::read_all(0)).is_empty());
        assert_eq!([Order::Write.needs(), Order::Read(choice(7, Distribution::Uniform)).needs()], [0, 7]);
    }
}
