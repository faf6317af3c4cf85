//! Who may join, under which cluster and epoch, and what follows when somebody does.
//!
//! A node announces itself; the leader dials the address back and believes only
//! what answers there. The number of a node is pinned to its folder's uuid. A
//! leader without a log founds a cluster only when no node of an older one shows
//! up. One that meets a member of a later epoch than its own starts over, if nobody
//! has believed it yet; else it refuses that node, and only the nodes that it leads
//! can tell it that it was succeeded.

mod announced;
mod dials;
mod reads_only;
mod weighing;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use self::announced::{Announced, Known, Refused, not_now, refuse};
use self::dials::Dials;
use super::coordinator::Coordinator;
use super::replication::{DialError, Dialled, LinkEvents, Welcome};
use crate::cluster::knowledge::Trust;
use crate::cluster::registry::{Beat, Node, Stalled, Traits, Way};
use crate::cluster::state::Event;
use crate::error::printable;
use crate::lock::Lock;
use crate::seeded::{self, Bug};
use crate::telemetry::repeats::Repeats;
use crate::types::{DiskView, Epoch, Fence, Leadership, Member, NodeId, Refusing, Uuid};
use crate::wire::FORMAT;
use crate::wire::family::{HeartbeatRequest, HeartbeatResponse, RegisterNodeRequest, RegisterNodeResponse};

/// A leader without a log waits this long for nodes of an older cluster before it founds one of its own.
/// Nodes that lost their leader try again at least this often.
const FOUNDING_GRACE: Duration = Duration::from_millis(600);

/// For so long members are called by a leader that was elected, and so often.
const SUMMONING: Duration = Duration::from_secs(10);
const SUMMON_EVERY: Duration = Duration::from_millis(50);

/// Characters of the reason why a node refuses copies that are kept of what it says.
const REASON_CHARS: usize = 200;

/// What membership needs beside the coordinator.
#[derive(Debug)]
pub struct Membership {
    pub(super) coordinator: Arc<Coordinator>,
    /// Random, one a process.
    run: u64,
    sessions: AtomicU64,
    chance: Lock<fastrand::Rng>,
    /// Founding and changes of epoch, one at a time.
    founding: tokio::sync::Mutex<()>,
    dials: Dials,
    /// Nodes whose registration is under way: those that answered at their address.
    joining: Lock<BTreeSet<NodeId>>,
    /// The process behind each node that has joined.
    incarnations: Lock<BTreeMap<NodeId, u64>>,
    /// What was said of nodes that are not let in, or do not let this leader in.
    said: Lock<Repeats>,
}

fn not_reached(member: &Member, error: &DialError) -> String {
    let address = &member.address;
    format!("the leader dialled {address} back, which {error}; check --advertise and --host of the node")
}

/// Why a folder is not let in any more.
fn removed(member: &Member) -> String {
    let (id, uuid) = (member.id, member.uuid);
    format!(
        "node {id} was removed from this register, and its folder (uuid {uuid}) is not let in any more: move storage_node_{id} away, or delete it with the hidden .hatokuse in it, and start the node again; it joins as a new one"
    )
}

/// A registration under way. The call is dropped where it stands if the node goes away, and the next one must be let in.
struct Joining<'a> {
    all: &'a Lock<BTreeSet<NodeId>>,
    id: NodeId,
}

impl<'a> Joining<'a> {
    fn begin(all: &'a Lock<BTreeSet<NodeId>>, id: NodeId) -> Option<Self> {
        // Made only if it is the first: one that is dropped takes the lock, and ends the other's.
        all.lock().insert(id).then(|| Self { all, id })
    }
}

impl Drop for Joining<'_> {
    fn drop(&mut self) {
        self.all.lock().remove(&self.id);
    }
}

impl Membership {
    /// Of a leader that has not begun an epoch.
    pub fn new(coordinator: Arc<Coordinator>, mut chance: fastrand::Rng) -> Self {
        Self {
            coordinator,
            run: chance.u64(1..),
            sessions: AtomicU64::new(0),
            chance: Lock::new(chance),
            founding: tokio::sync::Mutex::new(()),
            dials: Dials::default(),
            joining: Lock::new(BTreeSet::new()),
            incarnations: Lock::new(BTreeMap::new()),
            said: Lock::default(),
        }
    }

    /// Begins the epoch after `last`, the last one that the log speaks of, if it speaks of one.
    pub async fn resume(&self, last: Option<Leadership>) -> Result<(), String> {
        match last {
            Some(last) => self.begin(last.cluster_id, last.epoch).await,
            None => Ok(()),
        }
    }

    /// Begins the epoch after `seen`. It is on stable storage before anything is said in its name.
    async fn begin(&self, cluster_id: Uuid, seen: Epoch) -> Result<(), String> {
        let step = u32::from(!(seeded::active(Bug::EpochNotRaised) && seen.0 > 0));
        let epoch = seen.0.checked_add(step).ok_or("the epochs of this cluster are used up")?;
        let leadership = Leadership { cluster_id, epoch: Epoch(epoch) };
        self.coordinator.ledger().begin(leadership, self.run).await.map_err(|error| error.to_string())?;
        self.coordinator.notify();
        tracing::info!("epoch {epoch} of cluster {cluster_id} begins");
        Ok(())
    }

    /// Says what comes again with every try of a node only once, and then counts.
    fn warn(&self, line: String) {
        let unsaid = self.said.lock().note(&line, self.coordinator.now());
        if let Some(unsaid) = unsaid {
            tracing::warn!("{line}{unsaid}");
        }
    }

    /// The fence of a new session.
    fn fence(&self, leadership: Leadership) -> Fence {
        Fence { leadership, run: self.run, session: self.sessions.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    /// A node announces itself, from this address.
    pub async fn register(self: &Arc<Self>, request: RegisterNodeRequest, caller: IpAddr) -> RegisterNodeResponse {
        let answer = |success, error, retry| RegisterNodeResponse { success, error, format: FORMAT, retry };
        let announced = match Announced::read(request) {
            Ok(announced) => announced,
            Err(refused) => return answer(false, refused.reason, refused.retry),
        };
        let id = announced.member.id;
        match self.admit(announced, caller).await {
            Ok(()) => answer(true, String::new(), false),
            Err(refused) => {
                if refused.retry {
                    // The node says it, once; here it would be said at every try.
                    tracing::debug!("node {id} cannot join yet: {}", refused.reason);
                } else {
                    self.warn(format!("node {id} was refused: {}", refused.reason));
                }
                answer(false, refused.reason, refused.retry)
            }
        }
    }

    async fn admit(self: &Arc<Self>, announced: Announced, caller: IpAddr) -> Result<(), Refused> {
        let known = self.ask_back(&announced, caller).await?;
        if self.is_summoned(&announced) {
            return Ok(());
        }
        self.let_in(announced, known).await
    }

    /// Whether this very process was called by this leader and is here already: to dial it anew would break what is under
    /// way to it.
    fn is_summoned(&self, announced: &Announced) -> bool {
        let id = announced.member.id;
        let same = self.incarnations.lock().get(&id) == Some(&announced.incarnation);
        let cluster = self.coordinator.cluster();
        same && self.coordinator.ledger().is_of_group()
            && cluster.registry.get(id).is_some_and(|node| node.member == announced.member)
            && cluster.answers(id)
    }

    /// Calls the members that the log names. With several leaders they may not have noticed yet that another one leads.
    pub fn summon(self: &Arc<Self>) {
        let members: Vec<Member> = self.coordinator.cluster().state().members().cloned().collect();
        for member in members {
            let leader = self.clone();
            tokio::spawn(async move {
                let until = Instant::now() + SUMMONING;
                while Instant::now() < until && !leader.coordinator.cluster().registry.is_readable(member.id) {
                    if let Err(refused) = leader.call(member.clone()).await {
                        tracing::debug!("node {} does not follow yet: {}", member.id, refused.reason);
                    }
                    sleep(SUMMON_EVERY).await;
                }
            });
        }
    }

    async fn call(self: &Arc<Self>, member: Member) -> Result<(), Refused> {
        let pong = self.coordinator.links.ask_who(member.id, &member.address).await;
        let pong = pong.or_else(|error| not_now(not_reached(&member, &error)))?;
        let announced = Announced::called(member, &pong);
        let known = announced.check(&pong)?;
        self.let_in(announced, known).await
    }

    /// A node that is who it says joins, unless something stands against it.
    async fn let_in(self: &Arc<Self>, announced: Announced, known: Known) -> Result<(), Refused> {
        let member = announced.member.clone();
        let Some(_joining) = Joining::begin(&self.joining, member.id) else {
            return not_now(format!("another registration of node {} is under way", member.id));
        };
        self.found_or_match(&known).await?;
        self.check_pins(&announced).await?;
        let leadership = self.weigh(&member, &known).await?;
        if known.cluster_id.is_some() {
            self.coordinator.cluster().announce(member.id, member.uuid);
        }
        let fence = self.fence(leadership);
        let dialled = self.coordinator.links.dial(member.id, &member.address, fence).await;
        let dialled = match dialled {
            Ok(dialled) => dialled,
            Err(DialError::Fenced { reason, .. }) => {
                return not_now(format!("the node refuses this leader: {reason}"));
            }
            Err(error) => return not_now(not_reached(&member, &error)),
        };
        let is_it = (dialled.welcome.uuid, dialled.welcome.incarnation) == (member.uuid, announced.incarnation);
        if !is_it && !seeded::active(Bug::DialBackNotCompared) {
            return not_now("another process has taken the node's address meanwhile");
        }
        self.accept(member, dialled, fence).await
    }

    /// Begins an epoch after `seen`, and hears everyone first.
    async fn start_over(&self, leadership: Leadership, seen: Epoch) {
        self.coordinator.cluster().distrust();
        if let Err(error) = self.begin(leadership.cluster_id, seen).await {
            return self.coordinator.stop.fail(error);
        }
        self.cut_all();
    }

    /// Begins the next epoch of a leader that goes on. Nodes have to join it.
    pub(super) async fn begin_next(&self) -> Result<(), String> {
        let _one_at_a_time = self.founding.lock().await;
        let leadership = self.coordinator.cluster().leadership();
        let Some(leadership) = leadership.filter(|_| self.coordinator.says_whole()) else { return Ok(()) };
        self.begin(leadership.cluster_id, leadership.epoch).await?;
        self.cut_all();
        Ok(())
    }

    /// Ends all sessions. From here on nothing is sent to a node before it has joined anew.
    fn cut_all(&self) {
        let now = self.coordinator.now();
        let mut cluster = self.coordinator.cluster();
        let sessions = cluster.registry.nodes().iter().filter_map(|node| Some((node.member.id, node.session?)));
        for (node, session) in sessions.collect::<Vec<_>>() {
            cluster.registry.part(node, session, false, now);
            self.coordinator.links.cut(node);
        }
    }

    /// A node's number belongs to one folder, and a folder to one process.
    async fn check_pins(&self, announced: &Announced) -> Result<(), Refused> {
        let member = &announced.member;
        let (pinned, other, unsure) = {
            let cluster = self.coordinator.cluster();
            if cluster.is_removed(member.uuid) {
                return refuse(removed(member));
            }
            let other = cluster
                .registry
                .nodes()
                .iter()
                .find(|node| node.member.uuid == member.uuid && node.member.id != member.id);
            let other = other.map(|node| node.member.id);
            (cluster.registry.get(member.id).cloned(), other, cluster.waiting_for().is_some())
        };
        if let Some(other) = other {
            return refuse(format!(
                "its folder is a copy of node {other}'s: give node {} a folder of its own",
                member.id
            ));
        }
        let Some(pinned) = pinned else { return Ok(()) };
        if pinned.member.uuid != member.uuid && !seeded::active(Bug::UuidNotPinned) {
            let reason = format!(
                "number {} belongs to another folder (uuid {}, last at {}): start this node with another --id, or with the folder that has this number; if that one is gone for good, REMOVE {} first",
                member.id, pinned.member.uuid, pinned.member.address, member.id
            );
            // Members that are still to be heard may know that the other one was removed.
            return if unsure { not_now(reason) } else { refuse(reason) };
        }
        let before = self.incarnations.lock().get(&member.id).copied();
        let Some(before) = before.filter(|before| *before != announced.incarnation) else { return Ok(()) };
        if pinned.session.is_some()
            && !seeded::active(Bug::CopiedFolderAdmitted)
            && self.coordinator.links.answers_as(member.id, &pinned.member.address, before).await
        {
            return refuse(format!(
                "another process with a copy of this folder runs as node {} at {}: stop one of them",
                member.id, pinned.member.address
            ));
        }
        Ok(())
    }

    /// A node that was dialled back and is who it says.
    async fn accept(self: &Arc<Self>, member: Member, dialled: Dialled, fence: Fence) -> Result<(), Refused> {
        let coordinator = &self.coordinator;
        if dialled.welcome.not_noted.is_some() && !seeded::active(Bug::UnnotedInventoryBelieved) {
            return self.accept_to_read(member, dialled, fence).await;
        }
        let member_list = &dialled.welcome.member_list;
        coordinator.learn_removed(&member_list.removed).await.or_else(|error| not_now(error.to_string()))?;
        let told = !member_list.members.is_empty();
        let mut news = Vec::new();
        let is_new = {
            let cluster = coordinator.cluster();
            if cluster.is_removed(member.uuid) {
                return refuse(removed(&member));
            }
            if !dialled.welcome.deadlines && cluster.mapping().deadlines() > 0 {
                return refuse("it is of a version that does not keep when a message ends, and this register has such messages: upgrade the node".to_owned());
            }
            if cluster.registry.get(member.id).is_none_or(|node| node.member != member) {
                news.push(member.clone());
            }
            let unknown = |other: &&Member| {
                other.id != member.id && cluster.registry.get(other.id).is_none() && !cluster.is_removed(other.uuid)
            };
            news.extend(member_list.members.iter().filter(unknown).cloned());
            // A leader without its log learns from them who the members are: one that was told so itself is not new.
            let was_one =
                cluster.trust() == Trust::Nothing && member_list.members.iter().any(|other| other.uuid == member.uuid);
            cluster.registry.get(member.id).is_none() && !was_one
        };
        let events: Vec<Event> = news.into_iter().map(Event::Member).collect();
        if !events.is_empty() {
            coordinator.ledger().append(&events).await.or_else(|error| not_now(error.to_string()))?;
        }
        let Welcome { io_mode, layout, deadlines, unix_ms, .. } = &dialled.welcome;
        if *unix_ms > 0 {
            coordinator.time.hear(member.id, *unix_ms);
        }
        let traits = Traits { io_mode: io_mode.clone(), layout: layout.clone(), deadlines: *deadlines };
        let incarnation = dialled.welcome.incarnation;
        let before = self.incarnations.lock().insert(member.id, incarnation);
        {
            let now = coordinator.now();
            let mut cluster = coordinator.cluster();
            if cluster.is_removed(member.uuid) {
                return refuse(removed(&member));
            }
            if is_new {
                cluster.introduce(member.id);
            }
            if cluster.leadership() != Some(fence.leadership) {
                return not_now("the leader began a later epoch meanwhile");
            }
            cluster.registry.note_answered(member.id, coordinator.at(dialled.sent));
            // The same process on the same disk: that its lanes are new proves nothing.
            let same = before == Some(incarnation);
            let late = if same { cluster.registry.was_late(member.id) } else { Stalled::default() };
            coordinator.links.attach(member.id, dialled, false, late, self.clone());
            cluster.registry.join(member.id, fence.session, traits, now);
            for way in [Way::Writes, Way::Reads].into_iter().filter(|way| late.on(*way)) {
                cluster.registry.note_stalled(member.id, fence.session, way, true);
            }
            cluster.ask_for_confirmations(member.id);
            // Under this lock too: what it holds is not known until its inventory has come.
            cluster.inventory_begins(member.id, fence.session);
            if told {
                cluster.note_told();
            }
            cluster.greet();
            if cluster.trust() == Trust::Whole {
                // Under the lock, so that it is ahead of every copy that goes to this node.
                coordinator.tell_all(&cluster);
            }
        }
        tracing::info!(node.id = member.id.0, node.address = %member.address, "node {} joined ({})", member.id, member.address);
        coordinator.notify();
        let leader = coordinator.clone();
        tokio::spawn(async move { leader.take_inventory(member.id, &member.address, fence).await });
        Ok(())
    }

    /// A node gives a sign of life; where the answer does not know it, it has to register.
    pub fn beat(&self, request: &HeartbeatRequest) -> HeartbeatResponse {
        let id = NodeId(request.node_id);
        let joined = self.incarnations.lock().get(&id).copied();
        let disk = DiskView {
            free: request.bytes_free,
            size: request.disk_bytes,
            free_files: request.files_free,
            files: request.disk_files,
        };
        let beat = Beat { disk, full: request.full, full_from: request.full_from };
        let now = self.coordinator.now();
        let known = joined == Some(request.incarnation)
            && Uuid::from_bytes(&request.uuid)
                .is_some_and(|uuid| self.coordinator.cluster().registry.beat(id, uuid, beat, now));
        let refusing = (!request.refuses.is_empty())
            .then(|| Refusing { full: request.no_room, why: printable(request.refuses.as_bytes(), REASON_CHARS) });
        // Of one that only reads it is known why, until it joins anew.
        let only_reads = self.coordinator.cluster().registry.get(id).is_some_and(Node::only_reads);
        if known && (refusing.is_some() || !only_reads) {
            self.coordinator.note_refusing(id, refusing);
        }
        let cluster = self.coordinator.cluster();
        // A leader that does not believe its own log has nothing to tell.
        let tells = known && cluster.is_settled();
        HeartbeatResponse { known, committed: if tells { cluster.newest_committed().0 } else { 0 } }
    }
}

impl LinkEvents for Membership {
    fn parted(&self, node: NodeId, session: u64, gone: bool) {
        let now = self.coordinator.now();
        let parted = self.coordinator.cluster().registry.part(node, session, gone, now);
        // Local nodes go with a leader that stops: nobody has to look after them.
        if parted && !self.coordinator.stop.is_requested() {
            let how = if gone { "is down: its port is closed" } else { "is suspect: its connection is lost" };
            tracing::warn!("node {node} {how}");
        }
    }

    fn answered(&self, node: NodeId, sent: Instant, unix_ms: u64) {
        if unix_ms > 0 {
            self.coordinator.time.hear(node, unix_ms);
            self.coordinator.settle_time();
        }
        let sent = self.coordinator.at(sent);
        let (before, after) = {
            let mut cluster = self.coordinator.cluster();
            let before = cluster.leases();
            cluster.registry.note_answered(node, sent);
            (before, cluster.leases())
        };
        if after != before {
            self.coordinator.notify();
        }
    }

    fn stalled(&self, node: NodeId, session: u64, way: Way, stalled: bool) {
        if stalled {
            let of = if way == Way::Writes { "writes" } else { "reads" };
            tracing::warn!("node {node} is late with its answers to {of}");
        }
        self.coordinator.cluster().registry.note_stalled(node, session, way, stalled);
    }

    fn fenced(&self, node: NodeId, epoch: Epoch, reason: &str) {
        self.warn(format!("node {node} refuses this leader: {reason}"));
        let later = self.coordinator.cluster().leadership().is_some_and(|leadership| epoch > leadership.epoch);
        if later && self.coordinator.has_served() {
            let remedy = if self.coordinator.ledger().is_of_group() { "" } else { "; start only one" };
            self.coordinator
                .stop
                .fail(format!("node {node} has seen epoch {epoch}: another leader has taken over{remedy}"));
        }
    }
}
