//! A world of peers: disks that lose what was not synced, and a network that can be cut one way.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::time::{Instant, sleep, timeout};

use crate::durable::Disk;
use crate::durable::executor::Executor;
use crate::durable::sim::MemDisk;
use crate::lock::Lock;
use crate::raft::proto::{Request, Response, SnapshotPart};
use crate::raft::{Addresses, Fold, Group, Lane, Machine, PeerId, PeerNetwork, Port, Runtime, Settings};
use crate::stop::Stop;

pub(super) fn path() -> &'static Path {
    Path::new("/raft")
}

/// A machine that writes down what it gets.
#[derive(Debug, Default)]
pub(super) struct Notes(pub(super) Lock<Vec<Vec<u8>>>);

impl Notes {
    pub(super) fn all(&self) -> Vec<Vec<u8>> {
        self.0.lock().clone()
    }
}

impl Machine for Notes {
    type Answer = usize;

    fn apply(&self, payload: &[u8]) -> usize {
        assert_ne!(payload, b"panic", "as it was told");
        let mut notes = self.0.lock();
        notes.push(payload.to_vec());
        notes.len()
    }

    fn reset(&self) {
        self.0.lock().clear();
    }

    fn restore(&self, records: &mut dyn Iterator<Item = io::Result<Vec<u8>>>) -> io::Result<()> {
        let restored = records.collect::<io::Result<Vec<_>>>()?;
        *self.0.lock() = restored;
        Ok(())
    }

    fn fold(&self) -> Box<dyn Fold> {
        Box::new(Folded(Vec::new()))
    }
}

/// A machine's notes beside the live one.
#[derive(Default)]
pub(super) struct Folded(pub(super) Vec<Vec<u8>>);

impl Fold for Folded {
    fn restore_record(&mut self, record: &[u8]) -> Result<(), String> {
        self.0.push(record.to_vec());
        Ok(())
    }

    fn apply(&mut self, payload: &[u8]) {
        self.0.push(payload.to_vec());
    }

    fn records(&mut self) -> Box<dyn Iterator<Item = Vec<u8>> + '_> {
        Box::new(self.0.drain(..))
    }
}

/// A network in memory. What is cut is lost without a word, as on a real one.
#[derive(Debug, Default)]
pub(super) struct MemNetwork {
    ports: Lock<BTreeMap<String, Port>>,
    cuts: Lock<BTreeSet<(PeerId, PeerId)>>,
    /// Of 256 messages, so many are lost.
    pub(super) lost: Lock<u8>,
    pub(super) slowest: Lock<Duration>,
    pub(super) snapshots: Lock<usize>,
    /// Of a snapshot, so many parts come, and then the stream ends; of the last one, half.
    pub(super) parts: Lock<Option<usize>>,
}

impl MemNetwork {
    /// Cuts or heals one direction.
    pub(super) fn cut(&self, from: PeerId, to: PeerId, is_cut: bool) {
        let mut cuts = self.cuts.lock();
        if is_cut {
            cuts.insert((from, to))
        } else {
            cuts.remove(&(from, to))
        };
    }

    pub(super) fn heal(&self) {
        self.cuts.lock().clear();
    }

    pub(super) fn is_cut(&self, from: PeerId, to: PeerId) -> bool {
        self.cuts.lock().contains(&(from, to))
    }

    fn loses(&self) -> bool {
        fastrand::u8(..) < *self.lost.lock()
    }
}

/// The network as one process has it: what has ended sends nothing more, and hears nothing.
#[derive(Debug, Clone)]
struct Shared(Arc<MemNetwork>, Stop);

impl Shared {
    async fn way(&self, from: PeerId, to: PeerId) {
        let slowest = *self.0.slowest.lock();
        sleep(slowest.mul_f64(fastrand::f64()) + Duration::from_micros(100)).await;
        if self.0.is_cut(from, to) || self.0.loses() || self.1.is_requested() {
            std::future::pending::<()>().await;
        }
    }

    fn port(&self, address: &str) -> io::Result<Port> {
        self.0.ports.lock().get(address).cloned().ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
    }
}

impl PeerNetwork for Shared {
    fn call(&self, address: &str, _: Lane, request: Request) -> BoxFuture<'static, io::Result<Response>> {
        let (network, address) = (self.clone(), address.to_owned());
        Box::pin(async move {
            let envelope = request.envelope.clone().unwrap_or_default();
            network.way(envelope.from, envelope.to).await;
            let port = network.port(&address)?;
            // What was begun there goes on, whether or not anybody waits.
            let answer = tokio::spawn(async move { port.answer(request).await }).await.map_err(io::Error::other)?;
            network.way(envelope.to, envelope.from).await;
            Ok(answer)
        })
    }

    fn snapshot(
        &self,
        address: &str,
        parts: BoxStream<'static, SnapshotPart>,
    ) -> BoxFuture<'static, io::Result<Response>> {
        let (network, address) = (self.clone(), address.to_owned());
        Box::pin(async move {
            sleep(Duration::from_millis(1)).await;
            let port = network.port(&address)?;
            *network.0.snapshots.lock() += 1;
            let (inner, stop) = (network.0.clone(), network.1.clone());
            let parts = parts.scan(None, move |way, part| {
                let envelope = part.envelope.clone();
                let way = *way.get_or_insert_with(|| envelope.map_or((0, 0), |envelope| (envelope.from, envelope.to)));
                let is_cut = inner.is_cut(way.0, way.1) || stop.is_requested();
                futures::future::ready((!is_cut).then_some(Ok(part)))
            });
            let kept = *network.0.parts.lock();
            let parts = parts.enumerate().map(move |(place, part)| match kept {
                Some(kept) if place == kept => part
                    .map(|part: SnapshotPart| SnapshotPart { bytes: part.bytes.slice(..part.bytes.len() / 2), ..part }),
                _ => part,
            });
            let parts = parts.take(kept.map_or(usize::MAX, |kept| kept + 1));
            Ok(port.take_snapshot(Box::pin(parts)).await)
        })
    }
}

pub(super) struct Peer {
    pub(super) disk: MemDisk,
    pub(super) machine: Arc<Notes>,
    pub(super) group: Option<Group<Notes>>,
    pub(super) stop: Stop,
}

/// Peers 1 to `count`; those that are down have no group.
pub(super) struct World {
    pub(super) network: Arc<MemNetwork>,
    pub(super) peers: BTreeMap<PeerId, Peer>,
    pub(super) snapshot_log_bytes: u64,
    /// Who starts was told to go on alone.
    pub(super) recovers: bool,
}

pub(super) fn address(peer: PeerId) -> String {
    format!("peer-{peer}:1")
}

/// How a peer behaves, in this thread.
pub(super) fn settings(peer: PeerId, disk: &MemDisk) -> Settings {
    let addresses = Addresses { peer: address(peer), clients: format!("clients-{peer}"), ..Addresses::default() };
    let mut settings = Settings::new(peer, addresses, disk.boot_id());
    settings.runtime = Runtime::Current(Executor::Inline);
    settings
}

impl World {
    /// Peers that are up, of no group.
    pub(super) async fn empty(count: u64) -> Self {
        let mut world =
            Self { network: Arc::default(), peers: BTreeMap::new(), snapshot_log_bytes: 64 << 20, recovers: false };
        for peer in 1..=count {
            world.start(peer, MemDisk::new()).await.unwrap();
        }
        world
    }

    /// A group, founded by peer 1, with a leader.
    pub(super) async fn founded(count: u64) -> Self {
        let world = Self::empty(count).await;
        world.found().await;
        world
    }

    /// A group that makes snapshots whenever its log has grown by so many bytes.
    pub(super) async fn founded_with(count: u64, snapshot_log_bytes: u64) -> Self {
        let mut world = Self::empty(count).await;
        world.make_snapshots_from(snapshot_log_bytes).await;
        world.found().await;
        world
    }

    /// From here on all peers, which are started anew, make snapshots whenever their logs have grown by so many bytes.
    pub(super) async fn make_snapshots_from(&mut self, bytes: u64) {
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        self.snapshot_log_bytes = bytes;
        for peer in peers {
            self.kill(peer, None).await;
            self.restart(peer).await.unwrap();
        }
    }

    pub(super) async fn found(&self) {
        let peers = self.peers.keys().map(|peer| (*peer, address(*peer))).collect();
        self.group(1).found(peers).await.unwrap();
        self.leader().await;
    }

    pub(super) async fn start(&mut self, peer: PeerId, disk: MemDisk) -> Result<(), String> {
        let (machine, stop) = (Arc::new(Notes::default()), Stop::new());
        let mut settings = settings(peer, &disk);
        settings.snapshot_log_bytes = self.snapshot_log_bytes;
        settings.recovers = self.recovers;
        let folder = disk.folder(path()).map_err(|error| error.to_string())?;
        let network = Arc::new(Shared(self.network.clone(), stop.clone()));
        let group = Group::open(settings, folder, machine.clone(), network, stop.clone()).await;
        let group = group.map_err(|error| error.0)?;
        self.network.ports.lock().insert(address(peer), group.port());
        self.peers.insert(peer, Peer { disk, machine, group: Some(group), stop });
        // The engine says what it has read only after a moment.
        sleep(Duration::from_millis(1)).await;
        Ok(())
    }

    /// The end of a process; its disk as the power leaves it, if it went too.
    pub(super) async fn kill(&mut self, peer: PeerId, power: Option<&mut fastrand::Rng>) {
        let one = self.peers.get_mut(&peer).unwrap();
        // Before its disk is looked at: nobody must hear of what that does not have.
        one.stop.request();
        self.network.ports.lock().remove(&address(peer));
        let disk = match power {
            Some(chance) => one.disk.after_power_cut(chance),
            None => one.disk.after_kill(),
        };
        if let Some(group) = one.group.take() {
            group.close().await;
        }
        one.disk = disk;
    }

    pub(super) async fn restart(&mut self, peer: PeerId) -> Result<(), String> {
        let disk = self.peers[&peer].disk.clone();
        self.start(peer, disk).await
    }

    pub(super) fn group(&self, peer: PeerId) -> &Group<Notes> {
        self.peers[&peer].group.as_ref().unwrap()
    }

    pub(super) fn notes(&self, peer: PeerId) -> Vec<Vec<u8>> {
        self.peers[&peer].machine.all()
    }

    /// Who says that it leads, once one of these does.
    pub(super) async fn leader_of(&self, peers: &[PeerId]) -> PeerId {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            for peer in peers.iter().filter(|peer| self.peers[peer].group.is_some()) {
                if self.group(*peer).leading().borrow().leads.is_some() {
                    return *peer;
                }
            }
            if Instant::now() > until {
                let seen: Vec<_> = peers.iter().map(|peer| self.group(*peer).status()).collect();
                panic!("nobody leads: {seen:#?}");
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) async fn leader(&self) -> PeerId {
        let all: Vec<PeerId> = self.peers.keys().copied().collect();
        self.leader_of(&all).await
    }

    /// Appends by whoever leads until it is acknowledged.
    pub(super) async fn append(&self, text: &str) {
        loop {
            let leader = self.leader().await;
            if timeout(Duration::from_secs(5), self.group(leader).append(text.as_bytes().to_vec()))
                .await
                .is_ok_and(|answer| answer.is_ok())
            {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Cuts a peer off from all others, or heals it.
    pub(super) fn isolate(&self, peer: PeerId, is_cut: bool) {
        for other in self.peers.keys().filter(|other| **other != peer) {
            self.network.cut(peer, *other, is_cut);
            self.network.cut(*other, peer, is_cut);
        }
    }

    /// Waits until all peers that are up have applied the same, and gives it.
    pub(super) async fn settled(&self) -> Vec<Vec<u8>> {
        self.append("settled").await;
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let up = self.peers.values().filter(|peer| peer.group.is_some());
            let all: Vec<_> = up.map(|peer| peer.machine.all()).collect();
            if all.iter().all(|notes| *notes == all[0]) {
                let mut notes = all[0].clone();
                notes.retain(|note| note != b"settled");
                return notes;
            }
            if Instant::now() > until {
                let lengths: Vec<_> = all.iter().map(Vec::len).collect();
                panic!("the peers do not come together: {lengths:?} {:#?}", self.group(self.leader().await).status());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(super) fn texts(notes: &[Vec<u8>]) -> Vec<String> {
    notes.iter().map(|note| String::from_utf8_lossy(note).into_owned()).collect()
}
