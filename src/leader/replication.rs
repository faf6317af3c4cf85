//! The links to nodes: for each, one lane that writes, one that reads, and one for beats.
//!
//! A lane has one owner and a queue. Whatever queued while the last frames were
//! under way becomes the next frame, so batches grow with load and one message
//! alone does not wait. What nobody waits for goes along with the next frame, or
//! alone after a moment. A queue is bounded by the bytes that the coordinator lets
//! in: what nobody waits for any more is dropped. A lane that breaks, or is not answered
//! for long, drops its queue, and everyone who waits sees it at once.
//! What a broken lane had written is not known here: it counts as silence.

mod beat;
mod lane;
mod traffic;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::lane::{Owner, to};
use self::traffic::{ReadJob, Reads, WriteJob, Writes};
use crate::cluster::registry::{Stalled, Way};
use crate::seeded::{self, Bug};
use crate::stop::Stop;
use crate::telemetry::served::Times;
use crate::telemetry::{Meter, Period};
use crate::types::{CopyRecord, Epoch, Fence, Leadership, MessageId, NodeId, Refusing, Uuid};
use crate::wire::family::{self, from_node, to_node};
use crate::wire::{FORMAT, Lane, MemberList, Network, Settle, id_bytes};

/// A process that does not answer a ping for this long is not there.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// A node that opens a lane and says nothing has failed to answer the dial.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(3);

/// A leader that ends waits no longer for its nodes to hear that; theirs is then a wait of a second for the next one.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(200);

/// Settles of one node that wait; more are dropped, since an inventory brings them up again.
const SETTLE_QUEUE: usize = 65_536;

/// What a node said when it was dialled.
#[derive(Debug, Clone)]
pub struct Welcome {
    /// Its folder's name.
    pub uuid: Uuid,
    /// One a process.
    pub incarnation: u64,
    /// The highest epoch it had seen before.
    pub epoch_seen: Epoch,
    /// Members that it remembers, and who was removed.
    pub member_list: MemberList,
    /// `buffered` or `unbuffered`.
    pub io_mode: String,
    /// `text`.
    pub layout: String,
    /// It keeps what says when it ends.
    pub deadlines: bool,
    /// Its wall clock, in milliseconds since 1970; 0: it does not say.
    pub unix_ms: u64,
    /// Why its disk did not take this leadership, so that it answers reads only.
    pub not_noted: Option<Refusing>,
}

/// Why a dial came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The address does not answer.
    #[error("cannot be reached: {0}")]
    Unreachable(#[from] io::Error),
    /// It answers, and refuses.
    #[error("refuses: {reason}")]
    Fenced {
        /// The highest epoch it has seen.
        epoch: Epoch,
        /// For people.
        reason: String,
    },
    /// It answers that it cannot.
    #[error("could not do it: {0}")]
    Failed(String),
    /// It answers with something else.
    #[error("answers with what is no welcome: {0}")]
    Strange(&'static str),
}

/// What links tell the leader, besides answers.
pub trait LinkEvents: Debug + Send + Sync {
    /// A link's lanes broke. `gone`: the port is closed too.
    fn parted(&self, node: NodeId, session: u64, gone: bool);
    /// Answers on one of the lanes are overdue, or came after all.
    fn stalled(&self, node: NodeId, session: u64, way: Way, stalled: bool);
    /// The node answered a beat that was sent then: it lets in no other leader for a while. Its wall clock showed so many
    /// milliseconds since 1970, or nothing is known of it (0).
    fn answered(&self, node: NodeId, sent: Instant, unix_ms: u64);
    /// The node has seen a later epoch.
    fn fenced(&self, node: NodeId, epoch: Epoch, reason: &str);
}

/// All links, by node.
#[derive(Debug)]
pub struct Links {
    network: Arc<dyn Network>,
    stop: Stop,
    /// Ascending, so that what is told to all is told in one order in every run.
    links: RwLock<BTreeMap<NodeId, Link>>,
    /// How long nodes took, whatever became of their sessions.
    times: RwLock<BTreeMap<NodeId, Arc<NodeTimes>>>,
}

/// How long a node took for frames, from their sending to their answers, since the leader started.
#[derive(Debug, Default)]
pub struct NodeTimes {
    /// Frames of copies to keep.
    pub writes: Times,
    /// Frames of copies to read.
    pub reads: Times,
}

/// One session with a node.
#[derive(Debug, Clone)]
struct Link {
    session: u64,
    writes: mpsc::UnboundedSender<WriteJob>,
    reads: mpsc::UnboundedSender<ReadJob>,
    settle_room: Arc<Semaphore>,
    beats: mpsc::UnboundedSender<oneshot::Sender<()>>,
    cut: CancellationToken,
    meter: Arc<Meter>,
    /// The node could not note this leader: it is sent nothing that changes anything, and what it lacks is unknown.
    reads_only: bool,
}

/// A dialled node, verified by its caller before [`Links::attach`].
#[derive(Debug)]
pub struct Dialled {
    /// What it said.
    pub welcome: Welcome,
    /// When it was first spoken to: its answer is that of a beat, too.
    pub sent: Instant,
    fence: Fence,
    address: String,
    write_lane: Lane,
    read_lane: Lane,
    beat_lane: Lane,
}

impl Links {
    /// No links yet. From the stop on, nothing lingers.
    pub fn new(network: Arc<dyn Network>, stop: Stop) -> Self {
        Self { network, stop, links: RwLock::default(), times: RwLock::default() }
    }

    /// Opens all lanes to a node.
    pub async fn dial(&self, node: NodeId, address: &str, fence: Fence) -> Result<Dialled, DialError> {
        let open = |kind| self.open(node, address, fence, kind);
        let sent = Instant::now();
        let (write_lane, welcome) = open(family::LaneKind::LaneWrite).await?;
        let (read_lane, again) = open(family::LaneKind::LaneRead).await?;
        let (beat_lane, once_more) = open(family::LaneKind::LaneBeat).await?;
        let same = |other: &Welcome| (welcome.uuid, welcome.incarnation) == (other.uuid, other.incarnation);
        if !same(&again) || !same(&once_more) {
            return Err(DialError::Strange("two dials reached two different nodes"));
        }
        // A session begins for reads only with its first lane or with any other, and stays so.
        let not_noted = welcome.not_noted.clone().or(again.not_noted).or(once_more.not_noted);
        let welcome = Welcome { not_noted, ..welcome };
        Ok(Dialled { welcome, sent, fence, address: address.to_owned(), write_lane, read_lane, beat_lane })
    }

    async fn open(
        &self,
        node: NodeId,
        address: &str,
        fence: Fence,
        kind: family::LaneKind,
    ) -> Result<(Lane, Welcome), DialError> {
        let mut lane = self.network.open_lane(node, address.to_owned()).await?;
        let hello = family::Hello { format: FORMAT, kind: kind.into(), node_id: node.0, reads_only: true };
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "it takes connections and says nothing");
        lane.frames_out.send(to(fence, 0, to_node::Body::Hello(hello))).await.map_err(|_| silent())?;
        let frame = timeout(WELCOME_TIMEOUT, lane.frames_in.recv()).await.map_err(|_| silent())?;
        match frame.and_then(|frame| frame.body) {
            Some(from_node::Body::Welcome(welcome)) => Ok((lane, Welcome::read(welcome)?)),
            Some(from_node::Body::Fenced(fenced)) => {
                Err(DialError::Fenced { epoch: Epoch(fenced.epoch_seen), reason: fenced.reason })
            }
            Some(_) => Err(DialError::Strange("another frame")),
            None => Err(io::Error::new(io::ErrorKind::ConnectionReset, "it closed the connection").into()),
        }
    }

    /// Starts the lanes of a dialled node, in place of an older session, for everything or for reads only. `late`: those on
    /// which it was late in that one.
    pub fn attach(
        self: &Arc<Self>,
        node: NodeId,
        dialled: Dialled,
        reads_only: bool,
        late: Stalled,
        events: Arc<dyn LinkEvents>,
    ) {
        let (writes, write_jobs) = mpsc::unbounded_channel();
        let (reads, read_jobs) = mpsc::unbounded_channel();
        let (beats, last_beats) = mpsc::unbounded_channel();
        let cut = CancellationToken::new();
        let meter = Arc::new(Meter::default());
        let session = dialled.fence.session;
        let settle_room = Arc::new(Semaphore::new(SETTLE_QUEUE));
        let (cut_link, meter_link) = (cut.clone(), meter.clone());
        let link = Link { session, writes, reads, settle_room, beats, cut: cut_link, meter: meter_link, reads_only };
        if let Some(old) = self.links.write().unwrap_or_else(PoisonError::into_inner).insert(node, link) {
            old.cut.cancel();
        }
        let times = self.times.write().unwrap_or_else(PoisonError::into_inner).entry(node).or_default().clone();
        let (fence, stop) = (dialled.fence, &self.stop);
        let owner = |way| Owner {
            node,
            fence,
            events: events.clone(),
            cut: cut.clone(),
            stop: stop.clone(),
            late: late.on(way),
        };
        let wrote = times.clone();
        let write = owner(Way::Writes).drive::<Writes>(dialled.write_lane, write_jobs, move |elapsed| {
            meter.record(elapsed, 1);
            wrote.writes.record(elapsed, 1);
        });
        let read = owner(Way::Reads)
            .drive::<Reads>(dialled.read_lane, read_jobs, move |elapsed| times.reads.record(elapsed, 1));
        let beat = owner(Way::Reads).beat(dialled.beat_lane, last_beats);
        let links = self.clone();
        tokio::spawn(async move {
            tokio::join!(write, read, beat);
            links.detach(node, session);
            // A closed port tells a dead process from a lost connection.
            let probe = links.network.open_lane(node, dialled.address).await;
            let gone = probe.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
            events.parted(node, session, gone);
        });
    }

    fn detach(&self, node: NodeId, session: u64) {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        if links.get(&node).is_some_and(|link| link.session == session) {
            links.remove(&node);
        }
    }

    /// Ends a session: everyone who waits for it sees it at once.
    pub fn cut(&self, node: NodeId) {
        if let Some(link) = self.link(node) {
            link.cut.cancel();
        }
    }

    fn link(&self, node: NodeId) -> Option<Link> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    /// A link for more than reads.
    fn whole_link(&self, node: NodeId) -> Option<Link> {
        self.link(node).filter(|link| !link.reads_only)
    }

    /// Sends copies to a node. The answer has a status for each; it does not come if the link is or gets broken.
    pub fn store(&self, node: NodeId, puts: Vec<family::Put>) -> oneshot::Receiver<family::WriteResult> {
        let (done, answer) = oneshot::channel();
        if let Some(link) = self.whole_link(node) {
            let _ = link.writes.send(WriteJob::Store { puts, done });
        }
        answer
    }

    /// Tells a node which versions are committed. The answer says of each settle whether what had to go is gone; it
    /// does not come if the link is or gets broken: what gets lost is told again after an inventory. `lingers`: it goes
    /// with the next copies for this node, or after a moment.
    pub fn settle(&self, node: NodeId, settles: &[Settle], lingers: bool) -> oneshot::Receiver<Vec<bool>> {
        let (done, answer) = oneshot::channel();
        if let Some(link) = self.whole_link(node) {
            let room = link.settle_room.try_acquire_many_owned(settles.len() as u32);
            if let Ok(_room) = room {
                let settles = settles.iter().map(family::Settle::from).collect();
                let _ = link.writes.send(WriteJob::Settle { settles, lingers, _room, done });
            }
        }
        answer
    }

    /// Tells every node that is linked for more than reads who the members are. Each answers whether it remembers that.
    pub fn tell_members(&self, member_list: &MemberList) -> Vec<(NodeId, oneshot::Receiver<bool>)> {
        let members = family::Members::from(member_list);
        let tell = |(node, link): (&NodeId, &Link)| {
            let (done, answer) = oneshot::channel();
            let _ = link.writes.send(WriteJob::Members { members: members.clone(), done });
            (*node, answer)
        };
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        links.iter().filter(|(_, link)| !link.reads_only).map(tell).collect()
    }

    /// Asks a node for copies, by id and record. The answer has a status for each; it does not come if the link
    /// is or gets broken.
    pub fn fetch(&self, node: NodeId, keys: &[(MessageId, CopyRecord)]) -> oneshot::Receiver<family::ReadResult> {
        self.read(node, keys, false)
    }

    /// Has a node read copies and check them. The answer is as that of [`Links::fetch`], without bodies.
    pub fn check(&self, node: NodeId, keys: &[(MessageId, CopyRecord)]) -> oneshot::Receiver<family::ReadResult> {
        self.read(node, keys, true)
    }

    fn read(
        &self,
        node: NodeId,
        keys: &[(MessageId, CopyRecord)],
        check: bool,
    ) -> oneshot::Receiver<family::ReadResult> {
        let (done, answer) = oneshot::channel();
        if let Some(link) = self.link(node) {
            let bytes = keys.iter().map(|(_, record)| record.bytes() as usize).sum();
            let key = |(id, record): &(MessageId, CopyRecord)| family::CopyKey {
                id: id_bytes(id),
                version: record.version.0,
                check,
            };
            let proves = !link.reads_only || seeded::active(Bug::UnnotedAbsenceBelieved);
            let _ = link.reads.send(ReadJob { keys: keys.iter().map(key).collect(), check, proves, bytes, done });
        }
        answer
    }

    /// Tells all nodes that they may let in another leader at once, and waits a moment for their answers.
    pub async fn release(&self) {
        let release = |link: &Link| {
            let (done, answer) = oneshot::channel();
            let _ = link.beats.send(done);
            answer
        };
        let answers: Vec<_> = self.links.read().unwrap_or_else(PoisonError::into_inner).values().map(release).collect();
        let _ = timeout(RELEASE_TIMEOUT, futures::future::join_all(answers)).await;
    }

    /// Asks who answers at the address of this node. Nothing changes there, whoever it is.
    pub async fn ask_who(&self, node: NodeId, address: &str) -> Result<family::Pong, DialError> {
        let mut lane = self.network.open_lane(node, address.to_owned()).await?;
        let nobody =
            Fence { leadership: Leadership { cluster_id: Uuid([0; 16]), epoch: Epoch(0) }, run: 0, session: 0 };
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "it takes connections and says nothing");
        let ping = to(nobody, 0, to_node::Body::Ping(family::Ping::default()));
        lane.frames_out.send(ping).await.map_err(|_| silent())?;
        let frame = timeout(WELCOME_TIMEOUT, lane.frames_in.recv()).await.map_err(|_| silent())?;
        match frame.and_then(|frame| frame.body) {
            Some(from_node::Body::Pong(pong)) => Ok(pong),
            Some(_) => Err(DialError::Strange("another frame")),
            None => Err(io::Error::new(io::ErrorKind::ConnectionReset, "it closed the connection").into()),
        }
    }

    /// Whether the process behind a node's link still answers, and is this one.
    pub async fn answers_as(&self, node: NodeId, address: &str, incarnation: u64) -> bool {
        let who = timeout(PING_TIMEOUT, self.ask_who(node, address)).await;
        self.link(node).is_some() && matches!(who, Ok(Ok(pong)) if pong.incarnation == incarnation)
    }

    /// Streams a node's inventory over a lane of its own: pages in order, the last one marked.
    pub async fn inventory(&self, node: NodeId, address: &str, fence: Fence) -> Result<Lane, DialError> {
        let (lane, _) = self.open(node, address, fence, family::LaneKind::LaneRead).await?;
        let request = to_node::Body::Inventory(family::InventoryRequest {});
        let closed = |_| io::Error::new(io::ErrorKind::ConnectionReset, "it closed the connection");
        lane.frames_out.send(to(fence, 1, request)).await.map_err(closed)?;
        Ok(lane)
    }

    /// How long each node took since the leader started, of those that have been linked.
    pub fn times(&self) -> Vec<(NodeId, Arc<NodeTimes>)> {
        let times = self.times.read().unwrap_or_else(PoisonError::into_inner);
        times.iter().map(|(node, times)| (*node, times.clone())).collect()
    }

    /// 99th percentile of a node's write batches in this period, in milliseconds; nothing if there were none.
    pub fn write_p99_ms(&self, node: NodeId, period: Period) -> Option<f64> {
        self.link(node).map(|link| link.meter.report(period).p99_ms).filter(|p99| *p99 > 0.0)
    }
}

impl Welcome {
    fn read(welcome: family::Welcome) -> Result<Self, DialError> {
        if welcome.format > FORMAT {
            return Err(DialError::Strange("the node speaks a newer format: upgrade the leader"));
        }
        let uuid = Uuid::from_bytes(&welcome.uuid).ok_or(DialError::Strange("no uuid"))?;
        let member_list = family::Members { members: welcome.members, removed: welcome.removed };
        let member_list = MemberList::try_from(&member_list).map_err(DialError::Strange)?;
        Ok(Self {
            uuid,
            incarnation: welcome.incarnation,
            epoch_seen: Epoch(welcome.epoch_seen),
            member_list,
            io_mode: welcome.io_mode,
            layout: welcome.layout,
            deadlines: welcome.deadlines,
            unix_ms: welcome.unix_ms,
            not_noted: Some(Refusing { full: welcome.no_room, why: welcome.not_noted })
                .filter(|not_noted| !not_noted.why.is_empty()),
        })
    }
}
