//! The group as the rest of a leader process uses it.
//!
//! Everything here may be called from any runtime: the engine is reached by channels. What is appended has one of three
//! ends: it is on a majority's disks and applied here, it surely never will be, or nobody knows.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{ClientWriteError, ForwardReason, RaftError};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::grpc::{self, PeersService};
use super::identity::Identity;
use super::log::{LONGEST_PAYLOAD, Log, Pulse};
use super::machine::StateMachine;
use super::network::{Lane, PeerNetwork};
use super::port::Port;
use super::proto::request::Body;
use super::proto::{Request, Response};
use super::start::{self, NotOpened};
use super::types::{Member, Metrics, Payload, PeerId};
use super::{Addresses, Machine, Raft, Settings, removed};
use crate::durable::Folder;
use crate::lock::Lock;
use crate::stop::Stop;
use crate::types::Uuid;

/// How long what is under way may still end well after this peer has ceased to lead.
const GRACE: Duration = Duration::from_millis(100);

/// How long a peer that is asked something beside the engine may take.
const ANSWER: Duration = Duration::from_secs(1);

/// Why an entry was not appended, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAppended {
    /// Another peer leads, or none: this entry is surely in no log.
    #[error("this peer does not lead")]
    NotLeading,
    /// It is longer than [`LONGEST_PAYLOAD`].
    #[error("an entry of {0} bytes is too long")]
    TooLong(usize),
    /// Nobody knows: it may be committed, now or later.
    #[error("it is not known whether the entry was committed: {0}")]
    Unknown(String),
}

/// Why something else was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotDone(pub String);

/// Who leads, as far as this peer knows. It changes as fast as the engine does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// This peer leads in this term, its machine has applied all that was committed before it, a majority has answered
    /// a moment ago, and its disk does not hang. Whether another has been elected meanwhile only
    /// [`Group::append`] can tell.
    pub leads: Option<u64>,
    /// Who leads, if somebody does that has been heard of a moment ago.
    pub leader: Option<(PeerId, Addresses)>,
    /// Peers that have been heard of a moment ago, and this one.
    pub reachable: BTreeSet<PeerId>,
    /// Peers that have a vote.
    pub voters: BTreeSet<PeerId>,
    /// This peer's disk hangs.
    pub hangs: bool,
}

/// What a peer is in the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Leader,
    /// It has a vote, and follows.
    Standby,
    /// It has no vote (yet).
    Learner,
    /// It has not been heard of for a while.
    Unreachable,
}

/// Since when this peer leads, and why it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Led {
    /// In which term.
    pub term: u64,
    /// Since when.
    pub since: Instant,
    /// What it had seen before: of whom led, or of itself.
    pub why: String,
}

/// A time as the leader.
#[derive(Debug, Clone)]
pub(super) struct Reign {
    pub(super) term: u64,
    /// Cancelled at its end.
    pub(super) over: CancellationToken,
}

/// One peer in [`Status`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its number.
    pub id: PeerId,
    /// Where other peers reach it.
    pub address: String,
    /// What it is.
    pub role: Role,
    /// Up to which index its log is known to be this one's; only who leads knows.
    pub matched: Option<u64>,
    /// How long ago it was heard of; zero for this peer.
    pub silent_for: Option<Duration>,
    /// Why it has refused to take part, if it did last.
    pub refuses: Option<String>,
    /// Where clients are told to go for it, once it is known.
    pub clients: Option<String>,
}

/// The group as one peer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// This peer.
    pub me: PeerId,
    /// Its term.
    pub term: u64,
    /// The last entry in its log.
    pub last: Option<u64>,
    /// The last entry that it knows to be committed.
    pub committed: Option<u64>,
    /// The last entry that its machine has applied.
    pub applied: Option<u64>,
    /// The last entry in its snapshot.
    pub snapshot: Option<u64>,
    /// How long its disk has not answered, while it does not.
    pub disk_late: Duration,
    /// How many entries that it knows to be committed are not in its log.
    pub behind: u64,
    /// Where this peer leads: since when, and why.
    pub led: Option<Led>,
    /// All peers.
    pub peers: Vec<PeerStatus>,
    /// Numbers of peers that were removed, as far as this peer has applied the log. They are not used again.
    pub removed: BTreeSet<PeerId>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) settings: Settings,
    pub(super) raft: Raft,
    pub(super) identity: Arc<Identity>,
    pub(super) log: Log,
    pub(super) machine: StateMachine,
    pub(super) network: Arc<dyn PeerNetwork>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) standing: watch::Receiver<Standing>,
    /// This peer's time as the leader, while it is one.
    pub(super) reign: Lock<Option<Reign>>,
    /// The last time that this peer came to lead.
    pub(super) led: Lock<Option<Led>>,
    pub(super) port: Port,
    /// Where the engine's tasks run.
    pub(super) runtime: Handle,
    /// Held by whoever changes who the peers are. The engine takes it for a bug of its own if a leader that has just been
    /// removed begins another change.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// This peer is none of the group any more.
    pub(super) removed: CancellationToken,
    /// Nothing is to be done any more.
    pub(super) closed: CancellationToken,
    /// Nothing is done any more: the thread may end.
    pub(super) ended: CancellationToken,
}

impl Inner {
    /// Asks a peer something beside the engine; nothing: it has not answered in time.
    pub(super) async fn ask(&self, peer: PeerId, address: &str, body: Option<Body>) -> Option<Response> {
        let request = Request { envelope: Some(self.identity.envelope(peer)), body };
        timeout(ANSWER, self.network.call(address, Lane::Log, request)).await.ok()?.ok()
    }
}

/// A peer of a group; clones are the same peer.
#[derive(Debug)]
pub struct Group<M> {
    pub(super) inner: Arc<Inner>,
    machine: PhantomData<fn() -> M>,
}

impl<M> Clone for Group<M> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), machine: PhantomData }
    }
}

impl<M: Machine> Group<M> {
    /// Opens a peer's folder, which is its own, and takes part. `machine` is at nothing, and gets what the snapshot says.
    pub async fn open(
        settings: Settings,
        folder: Arc<dyn Folder>,
        machine: Arc<M>,
        network: Arc<dyn PeerNetwork>,
        stop: Stop,
    ) -> Result<Self, NotOpened> {
        let inner = start::start(settings, folder, machine, network, stop).await?;
        Ok(Self { inner, machine: PhantomData })
    }

    /// Appends an entry. `Ok` when it is on a majority's disks and applied here. To give up waiting makes it unknown.
    pub async fn append(&self, payload: impl Into<bytes::Bytes>) -> Result<M::Answer, NotAppended> {
        let payload = payload.into();
        if payload.len() > LONGEST_PAYLOAD {
            return Err(NotAppended::TooLong(payload.len()));
        }
        let Reign { term, over } = self.inner.reign.lock().clone().ok_or(NotAppended::NotLeading)?;
        let written = self.write(Payload(payload), term);
        tokio::pin!(written);
        tokio::select! {
            biased;
            answer = &mut written => return answer,
            () = over.cancelled() => {}
        }
        let late = timeout(GRACE, written).await;
        late.unwrap_or_else(|_| Err(NotAppended::Unknown("this peer has ceased to lead meanwhile".to_owned())))
    }

    async fn write(&self, payload: Payload, term: u64) -> Result<M::Answer, NotAppended> {
        let unknown = |why: &dyn std::fmt::Display| Err(NotAppended::Unknown(why.to_string()));
        loop {
            match self.inner.raft.client_write(payload.clone()).await {
                Ok(done) => {
                    let answer = done.data.0.and_then(|answer| (answer as Box<dyn std::any::Any>).downcast().ok());
                    let nothing = || NotAppended::Unknown("the machine gave no answer".to_owned());
                    return answer.map(|answer: Box<M::Answer>| *answer).ok_or_else(nothing);
                }
                // Refused before it was appended. A fresh leader does so for some ms.
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                    let again = to.reason == ForwardReason::LeaseExpired;
                    if !again || self.inner.standing.borrow().leads != Some(term) {
                        return Err(NotAppended::NotLeading);
                    }
                    sleep(Duration::from_millis(2)).await;
                }
                Err(error) => return unknown(&error),
            }
        }
    }
}

impl<M> Group<M> {
    /// Whether this peer belongs to a group.
    pub fn is_founded(&self) -> bool {
        self.inner.identity.group().is_some()
    }

    /// This peer.
    pub fn me(&self) -> PeerId {
        self.inner.settings.me
    }

    /// The group's id, once there is one.
    pub fn group(&self) -> Option<Uuid> {
        self.inner.identity.group()
    }

    /// The id of this peer's folder.
    pub fn folder(&self) -> Uuid {
        self.inner.identity.folder
    }

    /// Who leads, and whoever follows its changes.
    pub fn leading(&self) -> watch::Receiver<Standing> {
        self.inner.standing.clone()
    }

    pub(super) fn metrics(&self) -> Metrics {
        use openraft::async_runtime::WatchReceiver as _;
        self.inner.raft.metrics().borrow_watched().clone()
    }

    /// The group as this peer sees it.
    pub fn status(&self) -> Status {
        let inner = &self.inner;
        let metrics = self.metrics();
        let standing = inner.standing.borrow().clone();
        let leader = standing.leader.as_ref().map(|(leader, _)| *leader);
        let voters: BTreeSet<PeerId> = metrics.membership_config.voter_ids().collect();
        let me = inner.settings.me;
        let peer = |(id, member): (&PeerId, &Member)| {
            let (heard, refuses) = inner.identity.contact(*id);
            let role = match () {
                () if leader == Some(*id) => Role::Leader,
                () if !standing.reachable.contains(id) => Role::Unreachable,
                () if voters.contains(id) => Role::Standby,
                () => Role::Learner,
            };
            let own = (*id == me).then_some(Duration::ZERO);
            let silent_for = own.or_else(|| heard.map(|heard| heard.elapsed()));
            let matched = if *id == me { metrics.last_log_index } else { matched(&metrics, *id) };
            let clients = inner.identity.addresses_of(*id).for_clients().map(str::to_owned);
            PeerStatus { id: *id, address: member.address.clone(), role, matched, silent_for, refuses, clients }
        };
        let count = |last: Option<u64>| last.map_or(0, |last| last.saturating_add(1));
        let agreed = metrics.cluster_committed.as_ref().map(|id| id.index);
        Status {
            me,
            behind: count(agreed).saturating_sub(count(metrics.last_log_index)),
            term: metrics.current_term,
            last: metrics.last_log_index,
            committed: metrics.local_committed.map(|id| id.index),
            applied: metrics.last_applied.map(|id| id.index),
            snapshot: inner.machine.snapshots.current().map(|snapshot| snapshot.last.index),
            disk_late: inner.pulse.late(),
            led: inner.led.lock().clone().filter(|led| standing.leads == Some(led.term)),
            peers: metrics.membership_config.nodes().map(peer).collect(),
            removed: inner.machine.applied.lock().removed.clone(),
        }
    }

    /// Returns when this peer has been removed from its group, and says what that means.
    pub async fn removed(&self) -> &'static str {
        self.inner.removed.cancelled().await;
        removed::END
    }

    /// What answers other peers, for a network of one's own.
    pub fn port(&self) -> Port {
        self.inner.port.clone()
    }

    /// What answers other peers, for the port between them. `check` says whether who has called may speak for a peer.
    pub fn service(
        &self,
        check: impl Fn(&tonic::Extensions, PeerId) -> Result<(), tonic::Status> + Send + Sync + 'static,
    ) -> PeersService {
        grpc::service(self.inner.port.clone(), Arc::new(check))
    }

    /// Runs what answers other peers beside the engine, on its thread: each entry would else change threads twice more.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.inner.runtime.spawn(work);
    }

    /// Takes part no more. What is under way is unknown. Returns when the engine has ended, or has had time to.
    pub async fn close(&self) {
        let inner = self.inner.clone();
        inner.closed.cancel();
        if let Some(reign) = inner.reign.lock().take() {
            reign.over.cancel();
        }
        // A disk that hangs holds the engine.
        let _ = timeout(Duration::from_secs(2), inner.raft.shutdown()).await;
        inner.ended.cancel();
    }
}

/// Up to which index a peer has the log, as who leads knows.
pub(super) fn matched(metrics: &Metrics, peer: PeerId) -> Option<u64> {
    let replication = metrics.replication.as_ref()?;
    replication.get(&peer)?.as_ref().map(|id| id.index)
}
