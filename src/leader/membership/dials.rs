//! How many callers of RegisterNode are dialled back at once, and for whom.
//!
//! Each dial takes a connection for a few seconds at most, and the address that is named may be one where nobody answers.
//! So a caller has a share of the places, and a member at the address where it was last needs none: nobody else's calls
//! keep it away.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::MutexGuard;

use crate::lock::Lock;
use crate::types::NodeId;

/// Callers that are dialled back at once; more are told to try again.
const MOST: usize = 256;
/// Those of one address.
const MOST_OF_ONE: usize = 32;

/// Dials that are under way.
#[derive(Debug, Default)]
pub(super) struct Dials {
    under_way: Lock<UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    all: usize,
    of_callers: BTreeMap<IpAddr, usize>,
    of_members: BTreeSet<NodeId>,
}

/// A place for one dial, until it is dropped.
#[derive(Debug)]
pub(super) struct Dial<'a> {
    of: &'a Dials,
    whose: Whose,
}

#[derive(Debug)]
enum Whose {
    Member(NodeId),
    Caller(IpAddr),
}

impl Dials {
    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock()
    }

    /// A place for a caller. `member`: it says that it is this member, at the address that this member is known by.
    pub(super) fn begin(&self, caller: IpAddr, member: Option<NodeId>) -> Option<Dial<'_>> {
        let mut under_way = self.under_way();
        if let Some(member) = member.filter(|member| under_way.of_members.insert(*member)) {
            return Some(Dial { of: self, whose: Whose::Member(member) });
        }
        let caller = network(caller);
        let own = under_way.of_callers.get(&caller).copied().unwrap_or(0);
        if under_way.all >= MOST || own >= MOST_OF_ONE {
            return None;
        }
        under_way.all += 1;
        under_way.of_callers.insert(caller, own + 1);
        Some(Dial { of: self, whose: Whose::Caller(caller) })
    }
}

impl Drop for Dial<'_> {
    fn drop(&mut self) {
        let mut under_way = self.of.under_way();
        match self.whose {
            Whose::Member(member) => {
                under_way.of_members.remove(&member);
            }
            Whose::Caller(caller) => {
                under_way.all -= 1;
                if let Entry::Occupied(mut own) = under_way.of_callers.entry(caller) {
                    *own.get_mut() -= 1;
                    if *own.get() == 0 {
                        own.remove();
                    }
                }
            }
        }
    }
}

/// Whom an address stands for: of IPv6 one machine has 2^64 (RFC 4291, 2.5.1).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_leaves_places_for_others_and_members_need_none() {
        let dials = Dials::default();
        let caller = |last: u8| IpAddr::from([10, 0, 0, last]);
        let mut held: Vec<_> = (0..MOST_OF_ONE).map(|_| dials.begin(caller(1), None).unwrap()).collect();
        assert!(dials.begin(caller(1), None).is_none());
        let member = dials.begin(caller(1), Some(NodeId(7))).unwrap();
        assert!(dials.begin(caller(1), Some(NodeId(7))).is_none(), "its second dial is like anybody's");
        for other in 2..=8 {
            held.extend((0..MOST_OF_ONE).map(|_| dials.begin(caller(other), None).unwrap()));
        }
        assert!(dials.begin(caller(9), None).is_none());
        assert!(dials.begin(caller(9), Some(NodeId(8))).is_some());
        held.pop();
        drop(dials.begin(caller(9), None).unwrap());
        drop((held, member));
        let under_way = dials.under_way();
        assert_eq!((under_way.all, under_way.of_callers.len(), under_way.of_members.len()), (0, 0, 0));
    }

    #[test]
    fn the_addresses_of_one_machine_are_one_caller() {
        let same = |a: &str, b: &str| network(a.parse().unwrap()) == network(b.parse().unwrap());
        assert!(same("2001:db8::1", "2001:db8::ffff:1") && !same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(same("::ffff:10.0.0.1", "10.0.0.1") && !same("10.0.0.1", "10.0.0.2"));
    }
}
