//! The nemesis: faults in a random order, often two at once, and their healing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use hatokuse::bench::launcher::Cluster;
use rustix::process::Signal;

use crate::links::Links;
use crate::load::Load;
use crate::tools::tls_of_clusters;
use crate::{NODES, PATIENCE, TOLERANCE};

/// Answers that clients get between healing and the next fault.
const QUIET: u64 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    KillNode,
    KillLeader,
    PauseNode,
    PauseLeader,
    CutToNode,
    CutFromNode,
    CutNode,
    CutToLeader,
    CutFromLeader,
    CutLeader,
    SilenceNode,
    IsolateNode,
    LoseFolder,
    OldFolder,
    SecondLeader,
    KillPeer,
    PausePeer,
    SilencePeer,
    CutFromPeers,
    CutToPeers,
    CutFromNodes,
}

const PROCESSES: [Fault; 7] = [
    Fault::KillNode,
    Fault::KillLeader,
    Fault::PauseNode,
    Fault::PauseLeader,
    Fault::LoseFolder,
    Fault::OldFolder,
    Fault::SecondLeader,
];

/// The leader dials a node's port to write and read; nodes dial the leader's to register and to beat.
const LINKS: [Fault; 8] = [
    Fault::CutToNode,
    Fault::CutFromNode,
    Fault::CutNode,
    Fault::CutToLeader,
    Fault::CutFromLeader,
    Fault::CutLeader,
    Fault::SilenceNode,
    Fault::IsolateNode,
];

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KillNode => "nodes killed",
            Self::KillLeader => "leader killed",
            Self::PauseNode => "nodes paused",
            Self::PauseLeader => "leader paused",
            Self::CutToNode => "cut towards a node",
            Self::CutFromNode => "cut from a node",
            Self::CutNode => "cut to and from a node",
            Self::CutToLeader => "beats cut",
            Self::CutFromLeader => "answers to beats cut",
            Self::CutLeader => "beats and answers cut",
            Self::SilenceNode => "nodes silenced",
            Self::IsolateNode => "nodes isolated",
            Self::LoseFolder => "leader's folder lost",
            Self::OldFolder => "leader's folder old",
            Self::SecondLeader => "second leader from a copy",
            Self::KillPeer => "standbys killed",
            Self::PausePeer => "standbys paused",
            Self::SilencePeer => "peers silenced",
            Self::CutFromPeers => "leader cut off from its peers",
            Self::CutToPeers => "what the leader says to its peers cut",
            Self::CutFromNodes => "leader cut off from nodes",
        }
    }
}

/// Owns the cluster and does it harm.
#[derive(Debug)]
pub(crate) struct Nemesis {
    cluster: Cluster,
    /// Of nodes, for cutting them off.
    ports: BTreeMap<u32, String>,
    links: Option<Links>,
    rng: fastrand::Rng,
    counts: BTreeMap<Fault, u64>,
    dead: BTreeSet<u32>,
    paused: BTreeSet<u32>,
    leader_is_paused: bool,
    second: Option<Second>,
}

/// A second leader, which was started from a copy of the folder while the first one ran.
#[derive(Debug)]
struct Second {
    /// A leader, and no node.
    cluster: Cluster,
    /// The nodes that were started again with its address.
    followers: Vec<u32>,
}

impl Nemesis {
    pub(crate) fn new(mut cluster: Cluster, links: Option<Links>, seed: u64) -> Self {
        let ports = ports(&cluster);
        cluster.kill_leader().expect("the leader's end");
        let rng = fastrand::Rng::with_seed(seed);
        let (dead, paused) = (BTreeSet::new(), BTreeSet::new());
        let mut nemesis = Self {
            cluster,
            ports,
            links,
            rng,
            counts: BTreeMap::new(),
            dead,
            paused,
            leader_is_paused: false,
            second: None,
        };
        nemesis.back_up();
        nemesis.revive_leader();
        nemesis
    }

    /// Every kind of fault once, in a random order; some overlap.
    pub(crate) fn round(&mut self, load: &Load) {
        let mut faults = self.faults();
        self.rng.shuffle(&mut faults);
        for fault in faults {
            // One folder that is lost or old at a time, and one leader too many.
            if self.second.is_some() && matches!(fault, Fault::LoseFolder | Fault::OldFolder)
                || fault == Fault::SecondLeader
            {
                self.heal(load);
            }
            self.begin(fault, load);
            // Some last until nodes count as down, and repair begins.
            let lasts = if self.rng.u32(0..8) == 0 { 4000..6000 } else { 100..2000 };
            std::thread::sleep(Duration::from_millis(self.rng.u64(lasts)));
            // Otherwise the next one comes on top.
            if self.dead.len() + self.paused.len() > 1 || self.rng.u32(0..3) > 0 {
                self.heal(load);
                load.goes_on(QUIET);
            }
        }
        self.heal(load);
        load.goes_on(QUIET);
    }

    /// Whether some kind of fault has not taken effect yet.
    pub(crate) fn owes_some(&self) -> bool {
        self.faults().iter().any(|fault| !self.counts.contains_key(fault))
    }

    fn faults(&self) -> Vec<Fault> {
        let links: &[Fault] = if self.links.is_some() { &LINKS } else { &[] };
        [&PROCESSES, links].concat()
    }

    /// Heals everything; gives the cluster, and how often each fault took effect.
    pub(crate) fn end(mut self, load: &Load) -> (Cluster, String) {
        self.heal(load);
        let total: u64 = self.counts.values().sum();
        let each: Vec<String> = self.counts.iter().map(|(fault, count)| format!("{} {count}", fault.name())).collect();
        (self.cluster, format!("{total} faults took effect: {}", each.join(", ")))
    }

    fn begin(&mut self, fault: Fault, load: &Load) {
        match fault {
            Fault::KillNode => {
                let node = self.some_node();
                self.cluster.kill_node(node).expect("a node's end");
                self.dead.insert(node);
                self.count(fault);
            }
            Fault::PauseNode => {
                let node = self.some_node();
                self.cluster.pause_node(node).expect("a node's pause");
                self.paused.insert(node);
                self.count(fault);
            }
            Fault::KillLeader => {
                self.kill_leader();
                if self.rng.bool() {
                    self.back_up();
                }
                self.count(fault);
            }
            Fault::PauseLeader => {
                self.revive_leader();
                self.cluster.signal_leader(Signal::STOP).expect("the leader's pause");
                self.leader_is_paused = true;
                self.count(fault);
            }
            Fault::LoseFolder => {
                self.kill_leader();
                std::fs::remove_dir_all(self.metadata()).expect("no folder");
                self.count(fault);
                self.revive_leader();
            }
            Fault::OldFolder => {
                self.kill_leader();
                std::fs::remove_dir_all(self.metadata()).expect("no folder");
                copy(&self.backup(), &self.metadata());
                self.count(fault);
                self.revive_leader();
            }
            Fault::SecondLeader => {
                self.begin_second(load);
                self.count(fault);
            }
            Fault::CutToNode => self.cut_node(fault, true, false),
            Fault::CutFromNode => self.cut_node(fault, false, true),
            Fault::CutNode => self.cut_node(fault, true, true),
            Fault::SilenceNode => self.isolate_node(fault, false),
            Fault::IsolateNode => self.isolate_node(fault, true),
            Fault::CutToLeader => self.cut_leader(fault, true, false),
            Fault::CutFromLeader => self.cut_leader(fault, false, true),
            Fault::CutLeader => self.cut_leader(fault, true, true),
            other => unreachable!("{other:?} is for several leaders"),
        }
    }

    /// A leader from a copy of the folder of the one that runs, some nodes that follow it, and clients of both.
    fn begin_second(&mut self, load: &Load) {
        let dir = self.cluster.dir().join("second");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).expect("a folder");
        copy(&self.metadata(), &dir.join("leader_metadata"));
        // The copy is of a process that runs: this one lives on somewhere else.
        let _ = std::fs::remove_file(dir.join("leader_metadata/.lock"));
        if self.cluster.certificates().exists() {
            copy(&self.cluster.certificates(), &dir.join(".certificates"));
        }
        let second = Cluster::builder(self.cluster.binary())
            .nodes(0)
            .tolerance(TOLERANCE)
            .dir(&dir)
            .patience(PATIENCE)
            .leader_args(["--repair-after", "1s"])
            .cluster_tls(tls_of_clusters())
            .start()
            .expect("a second leader");
        load.ask_at(&[self.cluster.addr(), second.addr()]);
        let mut followers: Vec<u32> = (1..=NODES).collect();
        self.rng.shuffle(&mut followers);
        followers.truncate(self.rng.usize(1..=NODES as usize));
        for &node in &followers {
            self.cluster.kill_node(node).expect("a node's end");
        }
        self.cluster.start_nodes_of(&followers, second.grpc_addr()).expect("nodes of the second leader");
        self.second = Some(Second { cluster: second, followers });
    }

    /// One of the two goes, with its folder or without; everybody follows the one that stays.
    fn end_second(&mut self, load: &Load) {
        let Some(mut second) = self.second.take() else { return };
        for leader in [&mut self.cluster, &mut second.cluster] {
            // It may have heard that it is not the only one, and have stopped.
            if leader.leader_is_running() {
                leader.kill_leader().expect("a leader's end");
            }
        }
        self.leader_is_paused = false;
        if self.rng.bool() {
            std::fs::remove_dir_all(self.metadata()).expect("no folder");
            copy(&second.cluster.dir().join("leader_metadata"), &self.metadata());
        }
        drop(second.cluster);
        load.ask_at(&[self.cluster.addr()]);
        self.revive_leader();
        for node in second.followers {
            // One that is dead already starts again with the others.
            if self.dead.insert(node) {
                self.cluster.kill_node(node).expect("a node's end");
            }
        }
    }

    fn heal(&mut self, load: &Load) {
        for fault in self.links.as_mut().map(Links::mend).unwrap_or_default() {
            self.count(fault);
        }
        for node in std::mem::take(&mut self.paused) {
            self.cluster.resume_node(node).expect("a node goes on");
        }
        self.end_second(load);
        self.revive_leader();
        let dead: Vec<u32> = std::mem::take(&mut self.dead).into_iter().collect();
        self.cluster.start_nodes(&dead).expect("nodes start again");
    }

    fn cut_node(&mut self, fault: Fault, to: bool, from: bool) {
        let node = self.some_node();
        if let Some(links) = &mut self.links {
            links.cut(fault, &self.ports[&node], to, from);
        }
    }

    /// Beats and answers of a node are lost; with `deaf`, requests to it too.
    fn isolate_node(&mut self, fault: Fault, deaf: bool) {
        let node = self.some_node();
        if let Some(links) = &mut self.links {
            links.silence(fault, node);
            links.cut(fault, &self.ports[&node], deaf, false);
        }
    }

    fn cut_leader(&mut self, fault: Fault, to: bool, from: bool) {
        let port = self.cluster.grpc_addr().rsplit(':').next().expect("a port");
        if let Some(links) = &mut self.links {
            links.cut(fault, port, to, from);
        }
    }

    fn kill_leader(&mut self) {
        if self.cluster.leader_is_running() {
            self.cluster.kill_leader().expect("the leader's end");
        }
        self.leader_is_paused = false;
    }

    fn revive_leader(&mut self) {
        if std::mem::take(&mut self.leader_is_paused) {
            self.cluster.signal_leader(Signal::CONT).expect("the leader goes on");
        }
        if !self.cluster.leader_is_running() {
            self.cluster.start_leader().expect("the leader starts again");
        }
    }

    /// One that runs.
    fn some_node(&mut self) -> u32 {
        let free: Vec<u32> = (1..=NODES).filter(|n| !self.dead.contains(n) && !self.paused.contains(n)).collect();
        free[self.rng.usize(0..free.len())]
    }

    fn metadata(&self) -> PathBuf {
        self.cluster.dir().join("leader_metadata")
    }

    fn backup(&self) -> PathBuf {
        self.cluster.dir().join("leader_metadata.backup")
    }

    /// Keeps a copy of the folder of the leader, which is dead.
    fn back_up(&self) {
        let _ = std::fs::remove_dir_all(self.backup());
        copy(&self.metadata(), &self.backup());
    }

    fn count(&mut self, fault: Fault) {
        *self.counts.entry(fault).or_default() += 1;
    }
}

fn ports(cluster: &Cluster) -> BTreeMap<u32, String> {
    let status = cluster.status().expect("STATUS");
    let port = |node: &serde_json::Value| {
        let (_, port) = node["address"].as_str()?.rsplit_once(':')?;
        Some((node["id"].as_u64()? as u32, port.to_owned()))
    };
    status["nodes"].as_array().expect("nodes").iter().map(|node| port(node).expect("id and address")).collect()
}

pub(crate) fn copy(from: &std::path::Path, to: &std::path::Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp").success());
}
