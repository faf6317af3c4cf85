//! Who is up, suspect or down, by table, with time handed in.

use super::*;
use crate::cluster::registry::{Beat, Registry, Transition, Way};
use crate::types::NodeState::{self, Down, Suspect, Up};

/// What happens to node 1, whose uuid is `uuid(1)`. Between two events the leader sweeps every 250 ms.
#[derive(Debug, Clone, Copy)]
enum Do {
    /// Both lanes are open, in this session.
    Join(u64),
    /// A sign of life of this folder; the answer is whether the leader knows it.
    Beat(u32, bool),
    /// It says that its disk is full, or no longer.
    Full(bool),
    /// It refused a copy for want of room.
    RefusedForRoom,
    /// The lanes of this session closed; whether its port is closed too.
    Part(u64, bool),
    /// Answers of this session are overdue, or came after all.
    Stalled(u64, bool),
    /// The same on the lane that reads.
    ReadsStalled(u64, bool),
    /// The leader itself is away until now: it does not sweep.
    Away,
    /// It is so at this moment: its state, and whether it is given copies gladly.
    Is(NodeState, bool),
}
use Do::{Away, Full, Is, Join, Part, ReadsStalled, RefusedForRoom, Stalled};

/// A sign of life of the right folder, which the leader knows.
const BEAT: Do = Do::Beat(1, true);

fn live_through(name: &str, events: &[(u64, Do)]) -> Vec<Transition> {
    let mut registry = Registry::default();
    registry.remember(Member { id: NodeId(1), uuid: uuid(1), address: "host:1".to_owned() }, Duration::ZERO);
    let (mut swept, mut transitions) = (0, Vec::new());
    for (at, event) in events {
        while swept + 250 <= *at && !matches!(event, Away) {
            swept += 250;
            transitions.extend(registry.sweep(ms(swept)));
        }
        let now = ms(*at);
        match *event {
            Join(session) => registry.join(NodeId(1), session, Traits::default(), now),
            Do::Beat(folder, known) => {
                assert_eq!(registry.beat(NodeId(1), uuid(folder), Beat::default(), now), known, "{name} at {at}");
            }
            Full(full) => drop(registry.beat(NodeId(1), uuid(1), Beat { full, ..Beat::default() }, now)),
            RefusedForRoom => registry.note_full(NodeId(1), 0),
            Part(session, gone) => drop(registry.part(NodeId(1), session, gone, now)),
            Stalled(session, stalled) => registry.note_stalled(NodeId(1), session, Way::Writes, stalled),
            ReadsStalled(session, stalled) => registry.note_stalled(NodeId(1), session, Way::Reads, stalled),
            Away => swept = *at - 250,
            Is(state, gladly) => {
                let node = registry.get(NodeId(1)).unwrap();
                assert_eq!(node.state, state, "{name} at {at}");
                assert_eq!(
                    !registry.choose(CopyRecord::of(crate::types::Version(1), b"x"), 0, 1, &[], &[]).is_empty()
                        && state == Up,
                    gladly,
                    "{name} at {at}"
                );
            }
        }
    }
    transitions
}

#[test]
fn a_node_is_judged_by_its_signs_of_life() {
    let table: &[(&str, &[(u64, Do)])] = &[
        ("never joined", &[(0, Is(Down, false)), (9000, Is(Down, false))]),
        ("beats in time", &[(0, Join(1)), (500, BEAT), (1000, BEAT), (2400, Is(Up, true))]),
        (
            "late",
            &[(0, Join(1)), (500, BEAT), (1999, Is(Up, true)), (2000, Is(Suspect, false)), (3499, Is(Suspect, false))],
        ),
        ("late and back", &[(0, Join(1)), (2000, Is(Suspect, false)), (2100, BEAT), (2250, Is(Up, true))]),
        ("silent", &[(0, Join(1)), (500, BEAT), (3500, Is(Down, false))]),
        (
            "down until it joins again",
            &[
                (0, Join(1)),
                (3000, Is(Down, false)),
                (3100, BEAT),
                (4000, Is(Down, false)),
                (4100, Join(2)),
                (4100, Is(Up, true)),
            ],
        ),
        (
            "lanes lost, beats go on",
            &[
                (0, Join(1)),
                (500, BEAT),
                (600, Part(1, false)),
                (600, Is(Suspect, false)),
                (1000, Do::Beat(1, false)),
                (2000, Do::Beat(1, false)),
                (3000, Do::Beat(1, false)),
                (3500, Is(Suspect, false)),
                (3750, Is(Down, false)),
            ],
        ),
        (
            "both lanes late, and one of them no more",
            &[
                (0, Join(1)),
                (300, Stalled(1, true)),
                (310, ReadsStalled(1, true)),
                (500, BEAT),
                (600, ReadsStalled(1, false)),
                (1000, BEAT),
                (1500, Is(Suspect, false)),
                (1600, Stalled(1, false)),
                (1800, Is(Up, true)),
            ],
        ),
        ("killed: its port is closed", &[(0, Join(1)), (300, Part(1, true)), (300, Is(Down, false))]),
        (
            "joins again before the old lanes are seen to close",
            &[
                (0, Join(1)),
                (300, Join(2)),
                (310, Part(1, true)),
                (320, Is(Up, true)),
                (330, Part(2, false)),
                (330, Is(Suspect, false)),
            ],
        ),
        (
            "an old session's stall says nothing",
            &[(0, Join(1)), (300, Join(2)), (310, Stalled(1, true)), (320, Is(Up, true))],
        ),
        (
            "stalled",
            &[
                (0, Join(1)),
                (400, BEAT),
                (500, Stalled(1, true)),
                (500, Is(Suspect, false)),
                (900, BEAT),
                (1000, Is(Suspect, false)),
                (1100, Stalled(1, false)),
                (1250, Is(Up, true)),
            ],
        ),
        (
            "full, and room again",
            &[(0, Join(1)), (400, Full(true)), (400, Is(Up, false)), (900, Full(false)), (900, Is(Up, true))],
        ),
        (
            "refused for room, until it reports room",
            &[(0, Join(1)), (400, RefusedForRoom), (500, Is(Up, false)), (900, BEAT), (900, Is(Up, true))],
        ),
        (
            "another folder's beat is no sign of life",
            &[(0, Join(1)), (1400, Do::Beat(2, false)), (1500, Is(Suspect, false))],
        ),
        (
            "the leader was away",
            &[
                (0, Join(1)),
                (500, BEAT),
                (60_000, Away),
                (60_000, Is(Up, true)),
                (60_500, Is(Up, true)),
                (61_750, Is(Suspect, false)),
                (63_250, Is(Down, false)),
            ],
        ),
        (
            "away while lanes were lost",
            &[
                (0, Join(1)),
                (500, Part(1, false)),
                (60_000, Away),
                (60_000, Is(Suspect, false)),
                (62_000, Is(Suspect, false)),
                (63_250, Is(Down, false)),
            ],
        ),
    ];
    for (name, events) in table {
        live_through(name, events);
    }
}

#[test]
fn a_change_is_told_once() {
    // Judged down, its link is cut, and only then its lanes are seen to close: that is no second fall.
    let told = live_through(
        "down once",
        &[(0, Join(1)), (3000, Is(Down, false)), (3010, Part(1, false)), (9000, Is(Down, false))],
    );
    let told: Vec<_> = told.iter().map(|transition| (transition.state, transition.reason)).collect();
    assert_eq!(told, [(Suspect, "its heartbeats are late"), (Down, "no heartbeat for 3 s")]);
}

#[test]
fn nodes_that_something_is_late_about_come_last_and_only_as_needed() {
    let mut cluster = healthy(2, 3);
    cluster.registry.note_stalled(NodeId(1), 1, Way::Writes, true);
    assert_eq!(cluster.admit(&id("x"), message(1, 1)).unwrap().targets.to_vec(), [NodeId(2), NodeId(3)]);
    cluster.registry.part(NodeId(2), 2, true, ms(0));
    assert_eq!(cluster.admit(&id("y"), message(1, 1)).unwrap().targets.to_vec(), [NodeId(3), NodeId(1)]);
    cluster.registry.note_full(NodeId(1), 0);
    let refused = cluster.admit(&id("z"), message(1, 1)).unwrap_err();
    assert_eq!(refused, crate::cluster::NotAdmitted::TooFewNodes { need: 2, live: 1 });
}

#[test]
fn a_full_node_takes_what_fits_and_whatever_makes_room() {
    let mut cluster = healthy(2, 3);
    put_on(&mut cluster, "x", &[1, 2]);
    cluster.registry.note_full(NodeId(1), 100);
    cluster.registry.note_full(NodeId(2), 5000);
    cluster.registry.note_full(NodeId(1), 200);
    let targets = |cluster: &mut Cluster, name: &str, length: u32| {
        cluster.admit(&id(name), message(length, 1)).map(|ticket| ticket.targets.len())
    };
    assert_eq!(targets(&mut cluster, "small", 99), Ok(2));
    assert_eq!(targets(&mut cluster, "middle", 4999), Ok(2), "two of them have room for it");
    let refused = crate::cluster::NotAdmitted::TooFewNodes { need: 2, live: 1 };
    assert_eq!(targets(&mut cluster, "large", 5000), Err(refused));
    assert!(cluster.admit_deletion(&id("x")).unwrap().is_some());
    // What is no longer than the message before fits where that one is.
    for node in [1, 2, 3] {
        cluster.registry.note_full(NodeId(node), 0);
    }
    assert!(targets(&mut cluster, "new", 0).is_err());
    let held = cluster.mapping().get(&id("x")).unwrap().record.bytes();
    assert_eq!(targets(&mut cluster, "x", held), Ok(2));
    assert!(targets(&mut cluster, "x", held + 1).is_err());
    assert!(cluster.admit_deletion(&id("x")).unwrap().is_some());
    // A beat that says nothing of it ends it.
    cluster.registry.beat(NodeId(1), uuid(1), Beat::default(), ms(1));
    cluster.registry.beat(NodeId(2), uuid(2), Beat::default(), ms(1));
    assert_eq!(targets(&mut cluster, "large", 5000), Ok(2));
}

#[test]
fn copies_that_are_too_many_wait_until_some_can_be_asked() {
    let mut cluster = healthy(3, 3);
    put_on(&mut cluster, "x", &[1, 2, 3]);
    cluster.set_tolerance(2);
    assert_eq!((cluster.most_urgent(), cluster.repair_view().pending), (Some(3), 1));
    for node in 1..=3 {
        cluster.registry.part(NodeId(node), u64::from(node), true, ms(10));
    }
    assert_eq!((cluster.most_urgent(), cluster.repair_view().pending), (None, 0), "nothing can be done about it now");
    join_as(&mut cluster, 2, 9, ms(20));
    assert_eq!(cluster.most_urgent(), Some(1));
}

#[test]
fn a_full_node_takes_nothing_off_one_that_is_to_be_emptied() {
    let mut cluster = healthy(2, 4);
    assert_eq!(cluster.left_without(NodeId(1)), 3);
    cluster.registry.note_full(NodeId(2), 0);
    cluster.registry.set_draining(NodeId(3), true);
    assert_eq!(cluster.left_without(NodeId(1)), 1);
}
