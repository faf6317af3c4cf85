//! Several leaders, and the disk of one that hangs: the others go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::mounts::Hanging;
use crate::peer_orders::{all_follow, leader, peers};
use crate::peers::insist;
use crate::support::{BINARY, eventually, folder};
use crate::tools::group::Group;

/// The peer whose disk hangs, and the one that clients ask.
const HANGS: usize = 1;
const ASKED: usize = 2;

/// Answers that clients get before a disk has hung for long enough, and after.
const SOME: usize = 30;

/// Writes through one peer, one after the other, as long as it goes on; gives how many were acknowledged.
struct Writer<'a> {
    group: &'a Group,
    name: &'static str,
    acknowledged: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Writer<'_> {
    fn run(&self) {
        while !self.over.load(Ordering::Relaxed) {
            let n = self.acknowledged.load(Ordering::Relaxed);
            // The same is written again until it is acknowledged.
            if self.group.ask(ASKED, &format!("SET {}{n} {n}", self.name)).as_deref() == Some("OK") {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn goes_on(&self) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        eventually("writes", || (self.acknowledged.load(Ordering::Relaxed) >= before + SOME).then_some(()));
    }
}

/// Freezes the disk of a peer under writes, and thaws it; `hangs` tells when it has hung for long enough.
fn freeze(group: &Group, disk: &Hanging, name: &'static str, hangs: impl Fn()) {
    let writer = Writer { group, name, acknowledged: Arc::default(), over: Arc::default() };
    std::thread::scope(|threads| {
        let over = writer.over.clone();
        // However this ends: the other thread ends too.
        let _ends = Ends(over, disk);
        threads.spawn(|| writer.run());
        writer.goes_on();
        assert!(disk.freeze("--freeze"));
        hangs();
        writer.goes_on();
        // A client of the peer with that disk is served by way of it.
        assert_eq!(insist(group, HANGS, &format!("SET {name} there")), "OK");
        assert_eq!(insist(group, HANGS, &format!("GET {name}")), "VALUE there");
        assert!(disk.freeze("--unfreeze"));
        writer.goes_on();
    });
    all_follow(group, ASKED);
    let acknowledged = writer.acknowledged.load(Ordering::Relaxed);
    for via in [HANGS, ASKED] {
        let lines: Vec<String> = (0..acknowledged).map(|n| format!("GET {name}{n}")).collect();
        let read = eventually("all of them", || group.ask_all(via, &lines));
        for (n, value) in read.iter().enumerate() {
            assert_eq!(*value, format!("VALUE {n}"), "{name}{n} by peer {via}");
        }
    }
}

struct Ends<'a>(Arc<AtomicBool>, &'a Hanging);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        // Nothing may wait for it for ever; thawed twice does no harm.
        self.1.freeze("--unfreeze");
    }
}

/// Has this peer lead.
fn has_lead(group: &Group, peer: usize) {
    let mut asked = false;
    eventually("the hand-over", || {
        let leads = leader(group, ASKED) == peer;
        if !leads && !asked {
            asked = group.ask(ASKED, &format!("HANDOVER {peer}")).as_deref() == Some("OK");
        }
        leads.then_some(())
    });
}

#[test]
fn a_disk_that_hangs_under_one_leader_stops_nobody() {
    let home = folder();
    let peer = home.path().join(format!("peer-{HANGS}"));
    let Some(disk) = Hanging::ext4(&peer, &home.path().join("image")) else { return };
    let group = Group::start(BINARY.as_ref(), home.path(), (3, 2), &["--tolerance", "2"]);
    // Goes before those who wait for it.
    let disk = disk;
    all_follow(&group, ASKED);
    has_lead(&group, HANGS);
    let hung = |times| move |group: &Group| group.said(HANGS).matches("has not answered for").count() >= times;
    freeze(&group, &disk, "leader", || {
        eventually("it leads no more", || hung(1)(&group).then_some(()));
        eventually("another one leads", || (leader(&group, ASKED) != HANGS).then_some(()));
    });
    assert_eq!(group.said(HANGS).matches("answers again").count(), 1, "{}", group.said(HANGS));
    if leader(&group, ASKED) == HANGS {
        has_lead(&group, ASKED);
    }
    all_follow(&group, ASKED);
    let term = || peers(&group, ASKED)["term"].as_u64();
    let before = term();
    freeze(&group, &disk, "standby", || {
        eventually("it has hung for long", || hung(2)(&group).then_some(()));
        assert_eq!(term(), before, "nobody was deposed for it");
    });
    assert_eq!(term(), before, "nor when it answered again");
    drop(group);
}
