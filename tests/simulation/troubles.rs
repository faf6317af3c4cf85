//! What goes wrong in a life: troubles by chance, each counted when it takes effect.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hatokuse::durable::sim::{Fault, Op, errno};
use hatokuse::protocol::{Command, Reply};
use hatokuse::types::{IoMode, NodeId};
use tokio::time::{sleep, sleep_until, timeout};

use crate::machines::{Crash, NODES, Sim, TOLERANCE, address, folder};
use crate::network::Way;
use crate::peer_troubles::PeerTrouble;
use crate::world::ask;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Trouble {
    Node(u32, Crash),
    Leader(Crash),
    /// The leader's folder is gone.
    LeaderWithoutFolder,
    /// The leader's folder is that of some time ago.
    LeaderFromBackup,
    /// Frames of a node's link are lost, in one direction or both.
    Cut(u32, Way),
    /// Frames of a node's link do not move, as if it, or the leader, were paused.
    NodeStalls(u32),
    LeaderStalls,
    /// Whatever changes a disk fails with this error: of a node, or (0) of the leader.
    DiskFails(u32, i32),
    /// A disk has no room left, or a quota on it: of a node, or (0) of the leader.
    DiskFills(u32, i32),
    /// The next change of a name on a node is refused with this error, as that of one file or folder is.
    NameStays(u32, i32),
    /// The next so many openings of files on a node fail with this error.
    OpenFails(u32, i32),
    /// One bit of some copy on this node is not what it was.
    Rot(u32),
    /// Two nodes come back with each other's disks.
    Swap(u32, u32),
    /// Another process with a copy of this node's folder.
    Double(u32),
    /// A node is taken off the list, if it is gone and its copies are made again. Its number gets an empty disk.
    Remove(u32),
    /// The old folder of a node that was removed comes back, beside what has its number.
    OldFolder(u32),
    Tolerance(usize),
    /// A second leader is started from a copy of the first one's folder, and has these nodes: those of the bits of this
    /// number, cut off from the first one, or restarted.
    SecondLeader(u8, bool),
    /// One more node goes to it.
    ToSecond(u32, bool),
    /// Another leader comes while the disk of a node takes nothing, and fails with this error.
    Unnoted(u32, i32),
    /// So does a node go to the second leader, and is started again and follows the first one, on a disk that works.
    Forgets(u32, i32),
    Order(Order),
    /// A backup of the leader's folder is made.
    Backup,
    /// Something of the leaders of a group.
    Peer(PeerTrouble),
    /// Everything works and runs again.
    Heal,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    Drain(u32),
    Undrain(u32),
    Rebalance(bool),
}

/// What of all this may be in one life, so that nothing that was acknowledged is lost by right.
struct Limits {
    /// Buffered, a power cut of fewer machines than there are copies is survived.
    power_cuts: usize,
    /// Rot is on this node only, and not where power cuts take copies too.
    rots: Option<u32>,
    /// A lost log and copies lost in a power cut are one trouble too many, where nothing is synced. So are a lost log
    /// and a second process with a copy of a node's folder: without the log nobody knows which of the two went on, and
    /// if the copy comes first, it brings back what was deleted since it was made.
    leader_loses: bool,
    /// What a second process with a node's folder has taken goes with it: that node's newest copies are lost. Rot, or a
    /// power cut where nothing is synced, may take the others, and so may the double of another node.
    doubles: bool,
    doubled: Option<u32>,
}

impl Limits {
    fn by_chance(io_mode: IoMode, chance: &mut fastrand::Rng) -> Self {
        let limits = Self::of(io_mode, chance);
        let takes_copies = limits.rots.is_some() || (io_mode == IoMode::Buffered && limits.power_cuts > 0);
        Self { doubles: !limits.leader_loses && !takes_copies, ..limits }
    }

    fn of(io_mode: IoMode, chance: &mut fastrand::Rng) -> Self {
        let (power_cuts, rots, leader_loses) = match (io_mode, chance.u8(..3)) {
            (IoMode::Unbuffered, n) => (usize::MAX, chance.bool().then(|| chance.u32(1..=NODES)), n > 0),
            (IoMode::Buffered, 0) => ((TOLERANCE - 1) * chance.usize(..2), None, false),
            (IoMode::Buffered, 1) => (0, Some(chance.u32(1..=NODES)), false),
            (IoMode::Buffered, _) => (0, None, true),
        };
        Self { power_cuts, rots, leader_loses, doubles: false, doubled: None }
    }

    /// Where several leaders make a group, their log is never lost.
    fn of_group(io_mode: IoMode, chance: &mut fastrand::Rng) -> Self {
        let limits = Self::of(io_mode, chance);
        let takes_copies = limits.rots.is_some() || (io_mode == IoMode::Buffered && limits.power_cuts > 0);
        Self { leader_loses: false, doubles: !takes_copies, ..limits }
    }

    /// What goes wrong with nodes, or with the leaders of a group.
    fn trouble_of_group(&mut self, chance: &mut fastrand::Rng) -> Trouble {
        let of_peers = Trouble::Peer(PeerTrouble::by_chance(chance));
        match self.trouble(chance) {
            _ if chance.bool() => of_peers,
            Trouble::Leader(_) | Trouble::LeaderStalls | Trouble::DiskFails(0, _) | Trouble::DiskFills(0, _) => {
                of_peers
            }
            of_nodes => of_nodes,
        }
    }

    fn crash(&mut self, chance: &mut fastrand::Rng) -> Crash {
        if self.power_cuts > 0 && chance.bool() {
            self.power_cuts -= 1;
            return Crash::PowerCut;
        }
        Crash::Kill
    }

    fn trouble(&mut self, chance: &mut fastrand::Rng) -> Trouble {
        let node = chance.u32(1..=NODES);
        let errno = [errno::EIO, errno::ENOSPC, errno::EROFS][chance.usize(..3)];
        match chance.u8(..33) {
            0..3 => Trouble::Node(node, self.crash(chance)),
            3..6 => Trouble::Leader(self.crash(chance)),
            6 if self.leader_loses => Trouble::LeaderWithoutFolder,
            7 if self.leader_loses => Trouble::LeaderFromBackup,
            8 => Trouble::Cut(node, Way::Both),
            9 | 10 => Trouble::Cut(node, Way::ToNode),
            11 | 12 => Trouble::Cut(node, Way::FromNode),
            13 => Trouble::NodeStalls(node),
            14 => Trouble::LeaderStalls,
            15 | 16 => Trouble::DiskFails(node, errno),
            17 => Trouble::DiskFails(0, errno),
            18 => Trouble::OpenFails(node, [errno::EMFILE, errno::EIO, errno::EACCES][chance.usize(..3)]),
            19 | 20 if self.rots.is_some() => Trouble::Rot(self.rots.unwrap_or(node)),
            21 => Trouble::Swap(node, node % NODES + 1),
            19..23 if self.doubles => Trouble::Double(*self.doubled.get_or_insert(node)),
            23 => Trouble::Tolerance(chance.usize(2..=3)),
            24 => Trouble::Order(if chance.bool() { Order::Drain(node) } else { Order::Undrain(node) }),
            25 => Trouble::Order(Order::Rebalance(chance.bool())),
            26..29 if self.leader_loses => Trouble::SecondLeader(chance.u8(1..16), chance.bool()),
            29 if self.leader_loses => Trouble::ToSecond(node, chance.bool()),
            30 | 31 => {
                let full = if chance.bool() { errno::ENOSPC } else { errno::EDQUOT };
                Trouble::DiskFills(if chance.u8(..4) == 0 { 0 } else { node }, full)
            }
            32 => {
                let refused = [errno::EPERM, errno::EACCES, errno::ENAMETOOLONG, errno::EDQUOT];
                Trouble::NameStays(node, refused[chance.usize(..4)])
            }
            _ => Trouble::Node(node, Crash::Kill),
        }
    }
}

/// Whether a leader always finds the whole end of its log: without it, a transaction that was under way is settled id
/// by id.
pub(crate) fn leave_transactions_whole(io_mode: IoMode, troubles: &[(Duration, Trouble)]) -> bool {
    !troubles.iter().any(|(_, trouble)| match trouble {
        Trouble::LeaderWithoutFolder | Trouble::LeaderFromBackup | Trouble::SecondLeader(..) => true,
        Trouble::Leader(Crash::PowerCut) => io_mode == IoMode::Buffered,
        _ => false,
    })
}

/// By then all nodes have joined, in seconds. A leader without a log that came before would found another cluster with
/// those that are new, and refuse the others.
const ALL_JOINED: f64 = 2.0;

/// Some troubles, times `density`, over this time in seconds; most are healed some time after.
fn scatter(
    chance: &mut fastrand::Rng,
    (from, until): (f64, f64),
    density: usize,
    mut draw: impl FnMut(&mut fastrand::Rng) -> Trouble,
) -> Vec<(f64, Trouble)> {
    let mut troubles = Vec::new();
    for _ in 0..chance.usize(2..9) * density {
        let (at, trouble) = (from + chance.f64() * (until * 0.8 - from), draw(chance));
        let at = if matches!(trouble, Trouble::LeaderWithoutFolder | Trouble::SecondLeader(..)) {
            at.max(ALL_JOINED)
        } else {
            at
        };
        troubles.push((at, trouble));
        if chance.u8(..3) > 0 {
            troubles.push((at + chance.f64() * until / 3.0 / density as f64, Trouble::Heal));
        }
    }
    troubles
}

/// Troubles by chance, in the order of their times: some of them, times `density`.
pub(crate) fn by_chance(
    io_mode: IoMode,
    chance: &mut fastrand::Rng,
    until: f64,
    density: usize,
) -> Vec<(Duration, Trouble)> {
    let mut limits = Limits::by_chance(io_mode, chance);
    let mut troubles = vec![(chance.f64() * until / 2.0, Trouble::Backup)];
    // In dense lives a leader is sure to lose its folder.
    let from = if density > 1 { ALL_JOINED } else { 0.0 };
    troubles.extend(scatter(chance, (from, until), density, |chance| limits.trouble(chance)));
    // Until the other members have heard of it only the leader's log says that one was removed: if it is lost in that
    // moment, the next leader waits for that one for ever.
    if !limits.leader_loses && density == 1 && chance.bool() {
        troubles.extend(removal_by_chance(chance));
    }
    troubles.sort_by(|a, b| a.0.total_cmp(&b.0));
    troubles.into_iter().map(|(at, trouble)| (Duration::from_secs_f64(at), trouble)).collect()
}

/// A node dies, is removed, and its folder comes back.
fn removal_by_chance(chance: &mut fastrand::Rng) -> [(f64, Trouble); 3] {
    // Its copies take a while to be made again, and it must not come back meanwhile: that is up to the others.
    let (node, at) = (chance.u32(1..=NODES), chance.f64() * 3.0);
    let back = at + 8.0 + chance.f64() * 3.0;
    [(at, Trouble::Node(node, Crash::Kill)), (at + 8.0, Trouble::Remove(node)), (back, Trouble::OldFolder(node))]
}

/// Troubles by chance of nodes and of the leaders of a group, in the order of their times: some of them, times `density`.
pub(crate) fn by_chance_in_group(
    io_mode: IoMode,
    chance: &mut fastrand::Rng,
    until: f64,
    density: usize,
) -> Vec<(Duration, Trouble)> {
    let mut limits = Limits::of_group(io_mode, chance);
    let mut troubles = scatter(chance, (0.0, until), density, |chance| limits.trouble_of_group(chance));
    if density == 1 && chance.bool() {
        troubles.extend(removal_by_chance(chance));
    }
    let timed = |(at, trouble)| (Duration::from_secs_f64(at), trouble);
    let mut troubles: Vec<_> = troubles.into_iter().map(timed).collect();
    troubles.extend(unnoted_by_chance(false, chance, until, density));
    troubles.sort_by_key(|(at, _)| *at);
    troubles
}

/// Troubles by chance in which a node's disk does not take that there is another leader: a third of all lives has one such,
/// times `density`.
pub(crate) fn unnoted_by_chance(
    second_leaders: bool,
    chance: &mut fastrand::Rng,
    until: f64,
    density: usize,
) -> Vec<(Duration, Trouble)> {
    let mut troubles = Vec::new();
    for _ in 0..density {
        let at = ALL_JOINED + chance.f64() * (until * 0.7 - ALL_JOINED);
        let (node, error) = (chance.u32(1..=NODES), [errno::ENOSPC, errno::EROFS, errno::EDQUOT][chance.usize(..3)]);
        match chance.u8(..6) {
            0 => troubles.push((at, Trouble::Unnoted(node, error))),
            1..4 if second_leaders => {
                troubles.push((at, Trouble::SecondLeader(chance.u8(1..16), true)));
                troubles.push((at + chance.f64() * 2.0, Trouble::Forgets(node, error)));
            }
            1 => troubles.push((at, Trouble::Unnoted(node, error))),
            _ => {}
        }
    }
    troubles.into_iter().map(|(at, trouble)| (Duration::from_secs_f64(at), trouble)).collect()
}

impl Sim {
    /// Makes troubles at their times.
    pub(crate) async fn suffer(&mut self, troubles: &[(Duration, Trouble)]) {
        let mut backup = None;
        for (at, trouble) in troubles {
            sleep_until(self.world.began() + *at).await;
            self.world.say(&format!("{trouble:?}"));
            match trouble {
                Trouble::Backup => backup = Some(self.leader.disk.after_kill()),
                Trouble::LeaderFromBackup => {
                    if let Some(backup) = backup.clone()
                        && self.crash_leader(Crash::Kill)
                    {
                        self.leader.disk = backup.after_kill();
                        self.world.count("leader folder from a backup");
                    }
                }
                Trouble::Heal => self.start_all().await,
                other => self.make(*other).await,
            }
        }
    }

    async fn make(&mut self, trouble: Trouble) {
        let effect = match trouble {
            Trouble::Node(node, how) => self.crash_node(node, how).then_some(match how {
                Crash::Kill => "node killed",
                Crash::PowerCut => "node lost power",
            }),
            Trouble::Leader(how) => self.crash_leader(how).then_some(match how {
                Crash::Kill => "leader killed",
                Crash::PowerCut => "leader lost power",
            }),
            Trouble::LeaderWithoutFolder if !self.all_belong() => None,
            Trouble::LeaderWithoutFolder => {
                let was = self.crash_leader(Crash::Kill);
                self.leader.disk = hatokuse::durable::sim::MemDisk::new();
                was.then_some("leader folder lost")
            }
            Trouble::Cut(node, way) => {
                self.net.cut(&address(node), way);
                Some(match way {
                    Way::Both => "link cut both ways",
                    Way::ToNode => "link cut towards the node",
                    Way::FromNode => "link cut towards the leader",
                })
            }
            Trouble::NodeStalls(node) => {
                self.net.stall(&address(node));
                Some("node paused")
            }
            Trouble::LeaderStalls => {
                let home = self.home().to_owned();
                self.net.stall(&home);
                Some("leader paused")
            }
            Trouble::DiskFails(node, error) => {
                let machine = if node == 0 { &self.leader } else { &self.nodes[&node] };
                machine.disk.set_failing(Some(error));
                if error == errno::EIO {
                    // What the next sync does not write can be read until the power goes.
                    machine.disk.fault_next(Op::Sync, Fault::Unwritten(error));
                    machine.disk.fault_next(Op::SyncAll, Fault::Unwritten(error));
                }
                Some(match error {
                    errno::EIO => "disk EIO",
                    errno::ENOSPC => "disk ENOSPC",
                    _ => "disk EROFS",
                })
            }
            Trouble::DiskFills(node, error) => {
                let machine = if node == 0 { &self.leader } else { &self.nodes[&node] };
                machine.disk.fill(error);
                Some(if error == errno::EDQUOT { "quota used up" } else { "disk full" })
            }
            Trouble::NameStays(node, error) => {
                let op = if self.chance.bool() { Op::Rename } else { Op::Remove };
                self.nodes[&node].disk.fault_next(op, Fault::Fail(error));
                Some("a name that cannot be changed")
            }
            Trouble::OpenFails(node, error) => {
                self.nodes[&node].disk.fault_next(Op::Open, Fault::Fail(error));
                Some(if error == errno::EMFILE { "open EMFILE" } else { "open EIO or EACCES" })
            }
            Trouble::Rot(node) => self.rot(node).then_some("bit flipped"),
            Trouble::Swap(one, other) => self.swap(one, other).then_some("disks swapped"),
            Trouble::Double(node) => self.double(node).await.then_some("folder copied, node doubled"),
            Trouble::Remove(node) => self.remove(node).await.then_some("member removed"),
            Trouble::OldFolder(node) => self.old_folder(node).await.then_some("removed folder refused"),
            Trouble::Tolerance(tolerance) => self.change_tolerance(tolerance).then_some("tolerance changed"),
            Trouble::Order(order) => {
                let (command, what) = match order {
                    Order::Drain(node) => (Command::Drain(NodeId(node)), "node drained"),
                    Order::Undrain(node) => (Command::Undrain(NodeId(node)), "node undrained"),
                    Order::Rebalance(on) => (Command::Rebalance(on), "rebalanced"),
                };
                // A leader that is paused does not keep the rest from happening.
                let answer = timeout(Duration::from_secs(1), ask(&self.net, command)).await;
                (answer == Ok(Some(Reply::Done))).then_some(what)
            }
            Trouble::SecondLeader(bits, cut) => {
                let nodes: Vec<u32> = (1..=NODES).filter(|node| bits & (1 << (node - 1)) != 0).collect();
                self.start_second(&nodes, cut).await.then_some("second leader from a copied folder")
            }
            Trouble::ToSecond(node, cut) => self.net.second().is_some().then(|| {
                self.send_to_second(node, cut);
                "node sent to the second leader"
            }),
            Trouble::Peer(trouble) => self.make_peer(trouble).await,
            Trouble::Unnoted(node, error) => {
                self.nodes[&node].disk.set_failing(Some(error));
                let comes = match self.net.leading() {
                    Some((peer, _)) => self.crash_peer(peer, Crash::Kill).await,
                    None => self.crash_leader(Crash::Kill) && self.start_leader().await.is_ok(),
                };
                comes.then_some("leader killed while a disk takes nothing")
            }
            Trouble::Forgets(node, error) => self.forgets(node, error).await.then_some("node forgot the second leader"),
            Trouble::Backup | Trouble::LeaderFromBackup | Trouble::Heal => None,
        };
        if let Some(effect) = effect {
            self.world.count(effect);
        }
    }

    fn rot(&mut self, node: u32) -> bool {
        let disk = &self.nodes[&node].disk;
        let files = disk.peek(&folder(node));
        let whole = |(name, content): &(&String, &Option<Vec<u8>>)| {
            (name.ends_with(".txt") || name.ends_with(".log") && !name.starts_with('.'))
                && content.as_ref().is_some_and(|content| !content.is_empty())
        };
        let copies: Vec<&String> = files.iter().filter(whole).map(|(name, _)| name).collect();
        if copies.is_empty() {
            return false;
        }
        let name = copies[self.chance.usize(..copies.len())];
        let (at, bit) = (self.chance.usize(..), self.chance.u8(..8));
        disk.rot(&folder(node), name, |bytes| {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
        });
        true
    }

    /// Neither may start on the other's disk; each gets its own back.
    fn swap(&mut self, one: u32, other: u32) -> bool {
        // A new disk that was never started is anybody's.
        let started = |node: u32| self.nodes[&node].is_running() || !self.retired.contains_key(&node);
        if !started(one) || !started(other) || !self.crash_node(one, Crash::Kill) {
            return false;
        }
        let theirs = self.nodes[&other].disk.after_kill();
        // The disk of another machine has another node's folder; an operator renames it to fit.
        theirs.rename_folder(&folder(other), &folder(one));
        let refused = self.start_node_at(one, &address(one), &theirs).is_err();
        assert!(refused, "node {one} started with the folder of node {other}");
        true
    }

    /// A second process with a copy of a node's folder must not be let in.
    async fn double(&mut self, node: u32) -> bool {
        if !self.nodes[&node].is_running() {
            return false;
        }
        let copy = self.nodes[&node].disk.after_kill();
        let home = format!("double-{node}:1");
        let Ok((life, stop)) = self.start_node_at(node, &home, &copy) else { return false };
        tokio::time::sleep(Duration::from_millis(1500)).await;
        life.cancel();
        stop.request();
        self.net.set_node(&home, None);
        true
    }

    /// An operator takes a node off the list.
    async fn remove(&mut self, node: u32) -> bool {
        self.dismissed.insert(node);
        let net = self.net.clone();
        let order = ask(&net, Command::Remove { node: NodeId(node), force: false });
        let removed = timeout(Duration::from_secs(10), order).await == Ok(Some(Reply::Done));
        if removed {
            self.retire(node);
        }
        removed
    }

    /// The folder of a node that was removed must not be let in, whoever has its number; true: it was told so.
    async fn old_folder(&mut self, node: u32) -> bool {
        let Some(disk) = self.retired.get(&node).cloned() else { return false };
        let home = format!("old-{node}:1");
        let Ok((life, stop)) = self.start_node_at(node, &home, &disk) else { return false };
        sleep(Duration::from_secs(3)).await;
        if let Some(leader) = self.net.leader() {
            let cluster = leader.coordinator.cluster();
            let member = cluster.registry.get(NodeId(node)).filter(|_| cluster.waiting_for().is_none());
            assert!(member.is_none_or(|node| node.member.address != home), "a removed folder is a member again");
        }
        let refused = stop.failure().is_some_and(|why| why.contains("was removed from this register"));
        life.cancel();
        stop.request();
        self.net.set_node(&home, None);
        refused
    }

    /// Whether the node was let in for reads by a second leader before it came back to the first one.
    async fn forgets(&mut self, node: u32, error: i32) -> bool {
        let Some(second) = self.net.second() else { return false };
        self.nodes[&node].disk.set_failing(Some(error));
        self.send_to_second(node, true);
        let only_reads = || second.coordinator.cluster().registry.only_reading().any(|other| other.member.id.0 == node);
        // Its leader has to be lost to it first, and what it promised that one to be over.
        for _ in 0..100 {
            if only_reads() {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        let forgets = only_reads();
        self.send_to_first(node) && forgets
    }

    fn change_tolerance(&mut self, tolerance: usize) -> bool {
        let changes = self.tolerance.swap(tolerance, Ordering::Relaxed) != tolerance;
        for leader in self.net.leader().into_iter().chain(self.net.second()) {
            leader.coordinator.cluster().set_tolerance(tolerance);
        }
        changes
    }
}
