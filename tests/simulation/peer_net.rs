//! The network between the leaders of a group, and which of them others come to.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use futures::future::{BoxFuture, ready};
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use hatokuse::leader::ledger::Replica;
use hatokuse::raft::proto::{Request, Response, SnapshotPart};
use hatokuse::raft::{Group, Lane, PeerId, PeerNetwork, Port};
use tokio::time::{Instant, sleep};

use crate::network::{LeaderHere, Life, Net, STALL_LOOK};

/// Messages between peers are on their way for up to so long, in milliseconds.
const SLOWEST_MS: u64 = 3;

/// A connection on which nothing arrives breaks after so long, as its keep-alive is not answered.
const BREAKS: Duration = Duration::from_secs(4);

/// The peers that run, and what is lost between them.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    running: BTreeMap<PeerId, PeerHere>,
    /// From the first to the second everything is lost.
    cut: BTreeSet<(PeerId, PeerId)>,
    /// Whoever is elected next is cut off from the others.
    cut_next: bool,
    /// Of a snapshot so many parts come, and then the stream ends.
    parts: Option<usize>,
}

/// A running peer, as others meet it.
#[derive(Debug, Clone)]
struct PeerHere {
    group: Group<Replica>,
    life: Life,
    leads: Option<LeaderHere>,
}

pub(crate) fn home(peer: PeerId) -> String {
    format!("peer-{peer}")
}

pub(crate) fn peer_address(peer: PeerId) -> String {
    format!("peer-{peer}:1")
}

fn peer_at(address: &str) -> Option<PeerId> {
    address.strip_prefix("peer-")?.strip_suffix(":1")?.parse().ok()
}

impl Peers {
    pub(crate) fn are_there(&self) -> bool {
        !self.running.is_empty()
    }

    /// All that run, who do no more.
    pub(crate) fn take(&mut self) -> impl Sized + use<> {
        std::mem::take(&mut self.running)
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
        self.cut_next = false;
        self.parts = None;
    }

    /// The leader that whoever calls this address meets.
    pub(crate) fn at(&self, address: &str) -> Option<LeaderHere> {
        let named = peer_at(address)?;
        // The name of one that was replaced leads to another.
        if self.running.contains_key(&named) { self.through(named) } else { self.by(named as usize) }
    }

    /// The leader to which one of the peers, this one by number, brings a client.
    pub(crate) fn by(&self, nth: usize) -> Option<LeaderHere> {
        self.through(*self.running.keys().nth(nth % self.running.len().max(1))?)
    }

    /// A peer, or, where it does not lead itself, the one that leads by what it knows: that is how a standby relays.
    fn through(&self, peer: PeerId) -> Option<LeaderHere> {
        let here = self.running.get(&peer)?;
        if here.leads.is_some() {
            return here.leads.clone();
        }
        let leader = here.group.leading().borrow().leader.as_ref().map(|(leader, _)| *leader)?;
        let is_cut = self.cut.contains(&(peer, leader)) || self.cut.contains(&(leader, peer));
        self.running.get(&leader).filter(|_| !is_cut)?.leads.clone()
    }

    /// Those who believe that they lead.
    fn leads(&self) -> Vec<(PeerId, LeaderHere)> {
        self.running.iter().filter_map(|(peer, here)| Some((*peer, here.leads.clone()?))).collect()
    }
}

impl Net {
    pub(crate) fn set_peer(&self, peer: PeerId, here: Option<(Group<Replica>, Life)>) {
        self.with_peers(|peers| match here {
            Some((group, life)) => drop(peers.running.insert(peer, PeerHere { group, life, leads: None })),
            None => drop(peers.running.remove(&peer)),
        });
    }

    /// This process of a peer leads, or leads no more.
    pub(crate) fn set_leads(&self, peer: PeerId, life: &Life, leads: Option<LeaderHere>) {
        self.with_peers(|peers| {
            if let Some(here) = peers.running.get_mut(&peer).filter(|_| !life.is_cancelled()) {
                here.leads = leads;
            }
        });
    }

    /// The group as a peer sees it.
    pub(crate) fn group(&self, peer: PeerId) -> Option<Group<Replica>> {
        self.with_peers(|peers| peers.running.get(&peer).map(|here| here.group.clone()))
    }

    /// Who leads: of those who believe that they do, the one of the latest epoch.
    pub(crate) fn leading(&self) -> Option<(PeerId, LeaderHere)> {
        let all = self.with_peers(|peers| peers.leads());
        let epoch = |here: &LeaderHere| here.coordinator.cluster().leadership().map(|leadership| leadership.epoch);
        all.into_iter().max_by_key(|(_, here)| epoch(here))
    }

    pub(crate) fn cut_peers(&self, from: PeerId, to: PeerId) {
        self.with_peers(|peers| peers.cut.insert((from, to)));
    }

    pub(crate) fn cut_next(&self, cut: bool) {
        self.with_peers(|peers| peers.cut_next = cut);
    }

    /// A peer was elected, and is about to begin its epoch.
    pub(crate) fn note_elected(&self, peer: PeerId) {
        self.with_peers(|peers| {
            if std::mem::take(&mut peers.cut_next) {
                let others = peers.running.keys().copied().filter(|other| *other != peer);
                peers.cut.extend(others.flat_map(|other| [(peer, other), (other, peer)]));
            }
        });
    }

    /// From now on snapshots break off after so many parts.
    pub(crate) fn break_snapshots(&self, after: usize) {
        self.with_peers(|peers| peers.parts = Some(after));
    }

    /// One way from a peer to another. As with TCP, what is on its way when that is cut arrives when it is whole again, or the
    /// connection breaks.
    async fn between(&self, from: PeerId, to: PeerId, life: &Life) -> io::Result<()> {
        sleep(Duration::from_micros(100 + self.chance(SLOWEST_MS * 1000))).await;
        self.wait_while_stalled(&home(from)).await;
        self.wait_while_stalled(&home(to)).await;
        let began = Instant::now();
        while self.with_peers(|peers| peers.cut.contains(&(from, to))) {
            if began.elapsed() > BREAKS {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            sleep(STALL_LOOK).await;
        }
        if life.is_cancelled() {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn port(&self, peer: PeerId) -> io::Result<(Port, Life)> {
        let here = self.with_peers(|peers| peers.running.get(&peer).map(|here| (here.group.port(), here.life.clone())));
        here.ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
    }
}

/// The network between peers as one process has it: one that has ended says nothing more, and hears nothing.
#[derive(Debug, Clone)]
pub(crate) struct PeerPlug {
    pub(crate) net: Net,
    pub(crate) me: PeerId,
    pub(crate) life: Life,
}

impl PeerPlug {
    async fn ask(self, address: String, request: Request) -> io::Result<Response> {
        let to = peer_at(&address).ok_or(io::ErrorKind::NotFound)?;
        self.net.between(self.me, to, &self.life).await?;
        let (port, life) = self.net.port(to)?;
        // What was begun there goes on, whether or not anybody waits.
        let answer = tokio::spawn(async move { port.answer(request).await }).await.map_err(io::Error::other)?;
        self.net.between(to, self.me, &life).await?;
        Ok(answer)
    }

    async fn send(self, address: String, parts: BoxStream<'static, SnapshotPart>) -> io::Result<Response> {
        let to = peer_at(&address).ok_or(io::ErrorKind::NotFound)?;
        self.net.between(self.me, to, &self.life).await?;
        let (port, life) = self.net.port(to)?;
        let (net, from, own) = (self.net.clone(), self.me, self.life.clone());
        let parts = parts.take_while(move |_| {
            let is_cut = net.with_peers(|peers| peers.cut.contains(&(from, to)));
            ready(!is_cut && !own.is_cancelled())
        });
        let kept = self.net.with_peers(|peers| peers.parts);
        let parts = parts.map(Ok).take(kept.unwrap_or(usize::MAX));
        let answer = port.take_snapshot(Box::pin(parts)).await;
        self.net.between(to, self.me, &life).await?;
        Ok(answer)
    }
}

impl PeerNetwork for PeerPlug {
    fn call(&self, address: &str, _: Lane, request: Request) -> BoxFuture<'static, io::Result<Response>> {
        self.clone().ask(address.to_owned(), request).boxed()
    }

    fn snapshot(
        &self,
        address: &str,
        parts: BoxStream<'static, SnapshotPart>,
    ) -> BoxFuture<'static, io::Result<Response>> {
        self.clone().send(address.to_owned(), parts).boxed()
    }
}
