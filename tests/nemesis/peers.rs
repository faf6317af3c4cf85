//! Several leaders under a nemesis: whoever leads is killed, paused and cut off, from the others, from nodes, or from all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::faults::Fault;
use crate::links::Links;
use crate::load::Load;
use crate::power::Volume;
use crate::tools::group::Group;
use crate::{BINARY, CLIENTS, PATIENCE, all_copies_are_good, alone, folder, say, setting};

const PEERS: usize = 3;
const NODES: usize = 4;

/// Answers that clients get between healing and the next fault.
const QUIET: u64 = 50;

const FAULTS: [Fault; 10] = [
    Fault::KillLeader,
    Fault::PauseLeader,
    Fault::KillPeer,
    Fault::PausePeer,
    Fault::KillNode,
    Fault::SilencePeer,
    Fault::CutFromPeers,
    Fault::CutToPeers,
    Fault::CutFromNodes,
    Fault::KillLeader,
];

struct Nemesis {
    group: Group,
    links: Option<Links>,
    rng: fastrand::Rng,
    counts: BTreeMap<Fault, u64>,
    dead: BTreeSet<usize>,
    paused: BTreeSet<usize>,
    dead_nodes: BTreeSet<usize>,
}

impl Nemesis {
    fn peer_ports(&self, but: usize) -> Vec<u16> {
        (1..=PEERS).filter(|peer| *peer != but).map(|peer| self.group.ports[peer - 1].peer).collect()
    }

    fn begin(&mut self, fault: Fault) {
        let leader = self.group.leader().expect("somebody has led");
        let standbys: Vec<usize> = (1..=PEERS).filter(|peer| *peer != leader).collect();
        let standby = standbys[self.rng.usize(0..standbys.len())];
        let others = self.peer_ports(leader);
        let own = self.group.ports[leader - 1].peer.to_string();
        let nodes: Vec<u16> = (1..=NODES).map(|node| self.group.node_port(node)).collect();
        let links = self.links.as_mut();
        match (fault, links) {
            (Fault::KillLeader, _) => self.kill(leader),
            (Fault::KillPeer, _) => self.kill(standby),
            (Fault::PauseLeader, _) => self.pause(leader),
            (Fault::PausePeer, _) => self.pause(standby),
            (Fault::KillNode, _) => {
                let node = self.rng.usize(1..=NODES);
                self.group.kill_node(node);
                self.dead_nodes.insert(node);
            }
            (_, None) => return,
            (Fault::SilencePeer, Some(links)) => {
                links.silence_peer(fault, if self.rng.bool() { leader } else { standby }, None);
            }
            (Fault::CutFromPeers, Some(links)) => {
                links.silence_peer(fault, leader, Some(&others));
                links.cut(fault, &own, true, true);
            }
            (Fault::CutToPeers, Some(links)) => links.silence_peer(fault, leader, Some(&others)),
            (Fault::CutFromNodes, Some(links)) => links.silence_peer(fault, leader, Some(&nodes)),
            (other, _) => unreachable!("{other:?} is for one leader"),
        }
        if matches!(
            fault,
            Fault::KillLeader | Fault::KillPeer | Fault::PauseLeader | Fault::PausePeer | Fault::KillNode
        ) {
            *self.counts.entry(fault).or_default() += 1;
        }
    }

    fn kill(&mut self, peer: usize) {
        self.group.kill_peer(peer);
        self.paused.remove(&peer);
        self.dead.insert(peer);
    }

    fn pause(&mut self, peer: usize) {
        if !self.dead.contains(&peer) {
            self.group.signal(peer, Signal::STOP);
            self.paused.insert(peer);
        }
    }

    fn heal(&mut self) {
        for fault in self.links.as_mut().map(Links::mend).unwrap_or_default() {
            *self.counts.entry(fault).or_default() += 1;
        }
        for peer in std::mem::take(&mut self.paused) {
            self.group.signal(peer, Signal::CONT);
        }
        for peer in std::mem::take(&mut self.dead) {
            self.group.start_peer(peer, &[]);
        }
        for node in std::mem::take(&mut self.dead_nodes) {
            self.group.start_node(node);
        }
        let ended: Vec<usize> = (1..=PEERS).filter(|peer| !self.group.runs(*peer)).collect();
        assert!(ended.is_empty(), "peers {ended:?} ended by themselves: {}", self.group.said(ended[0]));
    }
}

/// Whose power goes in one cut.
fn without_power(group: &Group, cut: u32, rng: &mut fastrand::Rng) -> Vec<usize> {
    let leader = group.leader().expect("somebody has led");
    let others: Vec<usize> = (1..=PEERS).filter(|peer| *peer != leader).collect();
    match cut % 2 {
        0 => (1..=PEERS).collect(),
        _ => vec![leader, others[rng.usize(0..others.len())]],
    }
}

#[test]
fn power_cuts_of_leaders_lose_nothing_that_was_acknowledged() {
    let _alone = alone();
    let cuts: u32 = setting("PEER_POWER_CUTS", 2);
    let seed: u64 = setting("NEMESIS_SEED", fastrand::u64(..));
    let home = folder();
    let mut volumes = Vec::new();
    for peer in 1..=PEERS {
        let volume = match Volume::make("ext4", folder()) {
            Ok(volume) => volume,
            Err(why) if rustix::process::geteuid().is_root() => panic!("power cuts: none are made: {why}"),
            Err(why) => return say(&format!("SKIPPED: power cuts of leaders: this user may make none: {why}")),
        };
        std::os::unix::fs::symlink(volume.path(), home.path().join(format!("peer-{peer}"))).expect("a link");
        volumes.push(volume);
    }
    // A snapshot now and then, and nodes that stay: what they hold is not what makes the log true.
    let more = ["--tolerance", "2", "--repair-after", "1s", "--rewrite-log-from", "64KiB"];
    let mut group = Group::start(Path::new(BINARY), home.path(), (PEERS, NODES), &more);
    let addresses: Vec<String> = (1..=PEERS).map(|peer| group.clients(peer)).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut load = Load::start(addresses[0], CLIENTS, seed);
    let (mut checked, mut of_all) = (0, 0);
    for cut in 1..=cuts {
        load.ask_at(&addresses);
        load.goes_on(rng.u64(200..600));
        let gone = without_power(&group, cut, &mut rng);
        of_all += u32::from(gone.len() == PEERS);
        gone.iter().for_each(|peer| group.signal(*peer, Signal::STOP));
        gone.iter().for_each(|peer| volumes[peer - 1].cut());
        gone.iter().for_each(|peer| group.kill_peer(*peer));
        let told = load.finish();
        gone.iter().for_each(|peer| volumes[peer - 1].mount_again());
        gone.iter().for_each(|peer| group.start_peer(*peer, &[]));
        let found = told.read_everything(PATIENCE).check();
        let found = found.unwrap_or_else(|violation| panic!("cut {cut} of {gone:?}, NEMESIS_SEED={seed}: {violation}"));
        checked = found.operations;
        load = told.goes_on_with(CLIENTS, rng.u64(..));
    }
    let told = load.finish();
    all_copies_are_good(|line| group.ask(1, line));
    say(&format!(
        "peers: {cuts} power cuts, {of_all} of all leaders, the others of the one that leads and another; 0 acknowledged messages lost; {checked} operations ({})",
        told.summary()
    ));
}

#[test]
fn histories_of_several_leaders_are_linearizable() {
    let _alone = alone();
    let wanted: u64 = setting("NEMESIS_PEER_OPS", 15_000);
    let seed: u64 = setting("NEMESIS_SEED", fastrand::u64(..));
    say(&format!("peers: NEMESIS_SEED={seed} chooses faults and requests (threads and processes run as they like)"));
    let home = folder();
    let links = Links::open().inspect_err(|why| say(&format!("peers: no links are cut: {why}"))).ok();
    let program = links.as_ref().map_or_else(|| BINARY.into(), |_| Links::wrapper(home.path(), BINARY));
    // A snapshot now and then.
    let more = ["--tolerance", "2", "--repair-after", "1s", "--rewrite-log-from", "256KiB"];
    let group = Group::start(Path::new(&program), home.path(), (PEERS, NODES), &more);
    let addresses: Vec<String> = (1..=PEERS).map(|peer| group.clients(peer)).collect();
    let load = Load::start(&addresses[0], CLIENTS, seed);
    load.ask_at(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
    load.goes_on(QUIET);
    let rng = fastrand::Rng::with_seed(seed);
    let (counts, dead, paused, dead_nodes) = Default::default();
    let mut nemesis = Nemesis { group, links, rng, counts, dead, paused, dead_nodes };
    let began = Instant::now();
    let mut rounds = 0;
    while load.told() < wanted || rounds < 2 {
        let mut faults = FAULTS;
        nemesis.rng.shuffle(&mut faults);
        for fault in faults {
            nemesis.begin(fault);
            std::thread::sleep(Duration::from_millis(nemesis.rng.u64(50..2500)));
            // Otherwise the next one comes on top.
            if nemesis.rng.u32(0..4) > 0 {
                nemesis.heal();
                load.goes_on(QUIET);
            }
        }
        nemesis.heal();
        load.goes_on(QUIET);
        rounds += 1;
    }
    let told = load.finish();
    let checked = told.read_everything(PATIENCE).check().unwrap_or_else(|violation| panic!("{violation}"));
    let each: Vec<String> = nemesis.counts.iter().map(|(fault, count)| format!("{} {count}", fault.name())).collect();
    let elections: usize = (1..=PEERS).map(|peer| nemesis.group.said(peer).matches("this peer leads").count()).sum();
    say(&format!("peers: faults that took effect: {}; {elections} elections", each.join(", ")));
    say(&format!(
        "peers: {} operations checked linearizable ({}), {rounds} rounds in {:.0} s",
        checked.operations,
        told.summary(),
        began.elapsed().as_secs_f64()
    ));
    all_copies_are_good(|line| nemesis.group.ask(1, line));
}
