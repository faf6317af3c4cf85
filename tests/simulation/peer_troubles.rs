//! What goes wrong with the leaders of a group, beside what goes wrong with nodes.

use std::collections::BTreeSet;
use std::time::Duration;

use hatokuse::durable::sim::{Fault, Op, errno};
use hatokuse::protocol::{Command, Reply};
use hatokuse::types::{Layout, PeerId};
use tokio::time::{Instant, sleep, timeout};

use crate::machines::{Crash, Machine, NODES, Sim, address};
use crate::peer_net::{home, peer_address};
use crate::world::ask;

/// As many peers have to be left, that one may fail.
const FEWEST: usize = 3;

/// A new peer has a vote so soon, when everything works.
const JOINED: Duration = Duration::from_secs(30);

/// Which peer something happens to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whom {
    /// The one that leads then.
    Leader,
    /// One of those that are there, in the order of their numbers.
    Nth(usize),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum PeerTrouble {
    Dies(Whom, Crash),
    /// All machines with peers lose power at once.
    PowerCut,
    /// Nothing moves between it and anybody, as if it were paused.
    Stalls(Whom),
    /// All that it says to another one is lost.
    Cut(Whom, usize),
    /// The others do not hear it, or it does not hear them, or neither.
    Apart(Whom, bool, bool),
    /// It and the nodes do not reach one another.
    FromNodes(Whom),
    /// Only its clients reach it.
    Alone(Whom),
    /// Whoever is elected next is cut off from the others in that moment.
    AloneWhenElected,
    /// Whatever changes its disk fails with this error.
    DiskFails(Whom, i32),
    /// Its disk has no room left, or a quota on it.
    DiskFills(Whom, i32),
    /// The process ends in the middle of the next call of this kind.
    DiesIn(Whom, Op),
    /// Its folder is gone.
    WithoutFolder(Whom),
    HandOver(Option<usize>),
    Joins,
    Leaves(Whom),
    /// Snapshots break off after so many parts.
    SnapshotsBreak(usize),
}

impl PeerTrouble {
    pub(crate) fn by_chance(chance: &mut fastrand::Rng) -> Self {
        let whom = if chance.bool() { Whom::Leader } else { Whom::Nth(chance.usize(..5)) };
        let crash = if chance.bool() { Crash::Kill } else { Crash::PowerCut };
        match chance.u8(..31) {
            0..5 => Self::Dies(whom, crash),
            5 => Self::PowerCut,
            6 | 7 => Self::Stalls(whom),
            8 | 9 => Self::Cut(whom, chance.usize(..5)),
            10 | 11 => Self::Apart(whom, true, true),
            12 => Self::Apart(whom, true, false),
            13 => Self::Apart(whom, false, true),
            14 | 15 => Self::FromNodes(whom),
            16 | 17 => Self::DiskFails(whom, [errno::EIO, errno::ENOSPC, errno::EROFS][chance.usize(..3)]),
            18 => Self::DiskFills(whom, if chance.bool() { errno::ENOSPC } else { errno::EDQUOT }),
            19 => Self::DiesIn(whom, [Op::Append, Op::Sync, Op::Rename, Op::SyncFolder][chance.usize(..4)]),
            20 => Self::WithoutFolder(whom),
            21 | 22 => Self::HandOver(chance.bool().then(|| chance.usize(..5))),
            23 => Self::Joins,
            24 => Self::Leaves(whom),
            25 | 26 => Self::Alone(whom),
            27..29 => Self::AloneWhenElected,
            _ => Self::SnapshotsBreak(chance.usize(..3)),
        }
    }
}

impl Sim {
    fn whom(&self, whom: Whom) -> Option<PeerId> {
        match whom {
            Whom::Leader => self.net.leading().map(|(peer, _)| peer),
            Whom::Nth(nth) => self.peers.keys().nth(nth % self.peers.len()).copied(),
        }
    }

    /// Gives what took effect.
    pub(crate) async fn make_peer(&mut self, trouble: PeerTrouble) -> Option<&'static str> {
        match trouble {
            PeerTrouble::Dies(whom, how) => {
                let peer = self.whom(whom)?;
                let leads = self.net.leading().is_some_and(|(leader, _)| leader == peer);
                self.crash_peer(peer, how).await.then_some(match (leads, how) {
                    (true, Crash::Kill) => "leading peer killed",
                    (true, Crash::PowerCut) => "leading peer lost power",
                    (false, Crash::Kill) => "standby killed",
                    (false, Crash::PowerCut) => "standby lost power",
                })
            }
            PeerTrouble::PowerCut => {
                for peer in self.peers.keys().copied().collect::<Vec<_>>() {
                    self.crash_peer(peer, Crash::PowerCut).await;
                }
                Some("all peers lost power")
            }
            PeerTrouble::Stalls(whom) => {
                self.net.stall(&home(self.whom(whom)?));
                Some("peer paused")
            }
            PeerTrouble::Cut(whom, other) => {
                let (peer, other) = (self.whom(whom)?, self.whom(Whom::Nth(other))?);
                self.net.cut_peers(peer, other);
                (peer != other).then_some("peers cut one way")
            }
            PeerTrouble::Apart(whom, out, into) => {
                self.part_peer(self.whom(whom)?, out, into);
                Some(if out && into { "peer cut off" } else { "peer cut off one way" })
            }
            PeerTrouble::FromNodes(whom) => {
                let peer = self.whom(whom)?;
                (1..=NODES).for_each(|node| self.net.part(&home(peer), &address(node)));
                Some("peer cut off from nodes")
            }
            PeerTrouble::Alone(whom) => {
                let peer = self.whom(whom)?;
                self.part_peer(peer, true, true);
                (1..=NODES).for_each(|node| self.net.part(&home(peer), &address(node)));
                Some("peer left alone with its clients")
            }
            PeerTrouble::AloneWhenElected => {
                self.net.cut_next(true);
                Some("peer cut off when it is elected")
            }
            PeerTrouble::DiskFails(whom, error) => {
                let disk = &self.peers[&self.whom(whom)?].disk;
                disk.set_failing(Some(error));
                if error == errno::EIO {
                    disk.fault_next(Op::Sync, Fault::Unwritten(error));
                }
                Some("disk of a peer fails")
            }
            PeerTrouble::DiskFills(whom, error) => {
                self.peers[&self.whom(whom)?].disk.fill(error);
                Some("disk of a peer full")
            }
            PeerTrouble::DiesIn(whom, op) => {
                let fault = if self.chance.bool() { Fault::CrashBefore } else { Fault::CrashAfter };
                self.peers[&self.whom(whom)?].disk.fault_next(op, fault);
                Some("peer dies in a call")
            }
            PeerTrouble::WithoutFolder(whom) => {
                let peer = self.whom(whom)?;
                self.lose_folder(peer).await.then_some("peer lost its folder")
            }
            PeerTrouble::HandOver(to) => {
                let to = to.and_then(|nth| self.whom(Whom::Nth(nth)));
                (self.tell(Command::HandOver(to)).await == Some(Reply::Done)).then_some("peer handed over")
            }
            PeerTrouble::Joins => self.join().await.then_some("peer joined"),
            PeerTrouble::Leaves(whom) => {
                let peer = self.whom(whom)?;
                self.leave(peer).await.then_some("peer removed")
            }
            PeerTrouble::SnapshotsBreak(after) => {
                self.net.break_snapshots(after);
                Some("snapshots break off")
            }
        }
    }

    /// What a peer says to others is lost, or what they say to it.
    fn part_peer(&self, peer: PeerId, out: bool, into: bool) {
        for other in self.peers.keys().filter(|other| **other != peer) {
            if out {
                self.net.cut_peers(peer, *other);
            }
            if into {
                self.net.cut_peers(*other, peer);
            }
        }
    }

    /// An order of an operator, who gives up at some time.
    async fn tell(&self, command: Command) -> Option<Reply> {
        timeout(Duration::from_secs(3), ask(&self.net, command)).await.ok().flatten()
    }

    /// It comes back with an empty folder, and may take no part. One at most in a life: the others have the log.
    async fn lose_folder(&mut self, peer: PeerId) -> bool {
        if self.lost_folder.is_some() || !self.crash_peer(peer, Crash::Kill).await {
            return false;
        }
        self.lost_folder = Some(peer);
        self.peers.insert(peer, Machine::new(Layout::Text));
        self.start_peer(peer).await.is_ok()
    }

    /// A new machine comes to the group.
    async fn join(&mut self) -> bool {
        self.last_peer += 1;
        let peer = self.last_peer;
        self.peers.insert(peer, Machine::new(Layout::Text));
        self.start_peer(peer).await.unwrap();
        self.tell(Command::AddPeer { peer, address: peer_address(peer) }).await == Some(Reply::Done)
    }

    async fn leave(&mut self, peer: PeerId) -> bool {
        if self.peers.len() <= FEWEST {
            return false;
        }
        let done = self.tell(Command::RemovePeer(peer)).await == Some(Reply::Done);
        if done {
            self.crash_peer(peer, Crash::Kill).await;
            self.peers.remove(&peer);
        }
        done
    }

    fn voters(&self) -> BTreeSet<PeerId> {
        let leader = self.net.leading().and_then(|(peer, _)| self.net.group(peer));
        leader.map(|group| group.leading().borrow().voters.clone()).unwrap_or_default()
    }

    /// An operator looks who is of the group: those that are not go, and others take the place of those that are missing.
    pub(crate) async fn put_peers_right(&mut self) {
        if let Some(peer) = self.lost_folder {
            while !matches!(self.tell(Command::RemovePeer(peer)).await, Some(Reply::Done)) && self.is_known(peer) {
                sleep(Duration::from_millis(200)).await;
            }
            self.lost_folder = None;
            self.crash_peer(peer, Crash::Kill).await;
            self.peers.remove(&peer);
        }
        let voters = self.voters();
        for peer in self.peers.keys().filter(|peer| !voters.contains(peer)).copied().collect::<Vec<_>>() {
            while self.is_known(peer) && self.tell(Command::RemovePeer(peer)).await != Some(Reply::Done) {
                sleep(Duration::from_millis(200)).await;
            }
            self.crash_peer(peer, Crash::Kill).await;
            self.peers.remove(&peer);
        }
        while self.voters().len() < FEWEST {
            self.join().await;
            let (peer, began) = (self.last_peer, Instant::now());
            while !self.voters().contains(&peer) {
                sleep(Duration::from_millis(200)).await;
                let answer = self.tell(Command::AddPeer { peer, address: peer_address(peer) }).await;
                assert!(began.elapsed() < JOINED, "peer {peer} cannot join: {answer:?}");
            }
        }
    }

    fn is_known(&self, peer: PeerId) -> bool {
        let leader = self.net.leading().and_then(|(peer, _)| self.net.group(peer));
        leader.is_none_or(|group| group.status().peers.iter().any(|known| known.id == peer))
    }
}
