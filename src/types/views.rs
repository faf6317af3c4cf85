//! What screens, plain lines, STATUS and the web page show, as plain values.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::{Epoch, IoMode, MessageId, NodeId, NodeState, PeerId};

/// Throughput and latency of one kind of work over the last report period.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RateView {
    /// Operations a second.
    pub per_second: f64,
    /// Median, milliseconds.
    pub p50_ms: f64,
    /// 99th percentile, milliseconds.
    pub p99_ms: f64,
    /// Operations that ended in an error in this period.
    pub errors: u64,
}

/// A line of the "last events" part of a screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLine {
    /// Time of day in UTC, `HH:MM:SS`.
    pub time: String,
    /// `INFO`, `WARN` or `ERROR`.
    pub level: String,
    /// What happened.
    pub text: String,
}

/// Why a node does not take copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusing {
    /// It has no room; else its disk refuses for another reason.
    pub full: bool,
    /// What its disk said.
    pub why: String,
}

impl Refusing {
    /// Of what a failed write said: without names of files before the system's word and without its number.
    pub fn of(full: bool, error: &str) -> Self {
        let why = error.rsplit(": ").next().unwrap_or(error);
        Self { full, why: why.split(" (os error").next().unwrap_or(why).to_owned() }
    }

    /// In a word, as a state.
    pub fn word(&self) -> &'static str {
        if self.full { "full" } else { "refuses" }
    }
}

/// One node, as the leader's report shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeView {
    /// Its number.
    pub id: NodeId,
    /// The advertised address.
    pub address: String,
    /// What the leader thinks of it.
    pub state: NodeState,
    /// Why it takes no copies, where it does not.
    pub refusing: Option<Refusing>,
    /// Committed copies that the leader counts on it.
    pub messages: u64,
    /// Bytes of these copies.
    pub bytes: u64,
    /// Its IO mode.
    pub io_mode: String,
    /// Its layout.
    pub layout: String,
    /// Its disk as last reported, and nothing before the first report.
    pub disk: Option<DiskView>,
    /// 99th percentile of its write batches in the last period, milliseconds.
    pub p99_ms: Option<f64>,
    /// Seconds since its last heartbeat.
    pub seen_s: f64,
}

/// Where a leader listens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// For clients.
    pub clients: String,
    /// For nodes.
    pub nodes: String,
    /// For the page and metrics, if they are served.
    pub http: Option<String>,
}

/// How full a disk is, for this user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskView {
    /// Bytes that can still be written.
    pub free: u64,
    /// Bytes of all of it; 0: not known.
    pub size: u64,
    /// Files that can still be made.
    pub free_files: u64,
    /// Files that it can hold; 0: not known, or there is no such limit.
    pub files: u64,
}

/// What the leader keeps in memory of recent messages.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CacheView {
    /// Messages in it.
    pub messages: u64,
    /// Their bytes, with what an entry costs.
    pub bytes: u64,
    /// The most that these may be.
    pub max_bytes: u64,
    /// GETs that it answered since the start.
    pub hits: u64,
    /// GETs that went to nodes.
    pub misses: u64,
}

/// How far repair is.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RepairView {
    /// Messages whose copies are too few, too many or on nodes that are being drained, and can be put right.
    pub pending: u64,
    /// Messages put right since there last was nothing to do.
    pub done: u64,
    /// Messages put right a second.
    pub per_s: f64,
    /// Seconds that the rest will take, once there is a rate.
    pub eta_s: Option<f64>,
    /// Copies are being evened out.
    pub rebalancing: bool,
    /// A node that holds less than half of its share: REBALANCE would even that out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uneven: Option<NodeId>,
    /// Messages that cannot be put right now.
    pub blocked: Vec<BlockedView>,
}

/// Messages that cannot be repaired now, all for one reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BlockedView {
    /// How many.
    pub messages: u64,
    /// Some of them.
    pub ids: Vec<MessageId>,
    /// What stands in the way.
    pub why: String,
    /// What would help.
    pub help: String,
}

/// What a peer is in the group of leaders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerRole {
    /// It leads.
    Leader,
    /// It has a vote, and follows.
    Standby,
    /// It has no vote (yet).
    Learner,
    /// It has not been heard of for a while.
    Unreachable,
}

impl PeerRole {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Leader, Self::Standby, Self::Learner, Self::Unreachable];
}

impl fmt::Display for PeerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Leader => "leader",
            Self::Standby => "standby",
            Self::Learner => "learner",
            Self::Unreachable => "unreachable",
        })
    }
}

/// One peer of the group of leaders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerView {
    /// Its number.
    pub id: PeerId,
    /// Where other peers reach it.
    pub address: String,
    /// What it is.
    pub role: PeerRole,
    /// Up to which entry it is known to have the log.
    pub matched: Option<u64>,
    /// How long ago it was heard of, in milliseconds; nothing: never.
    pub silent_ms: Option<u64>,
    /// Why it takes no part, if it has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refuses: Option<String>,
    /// Up to which entry it has applied the log, of the one that answers: no peer is told that of another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<u64>,
    /// Of the one that leads and answers.
    #[serde(flatten)]
    pub led: Option<LedView>,
}

/// Since when a peer leads, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LedView {
    /// How long ago it began, in milliseconds.
    pub leads_since_ms: u64,
    /// What it had seen before: of whom led, or of itself.
    pub why: String,
}

/// The group of leaders, as the peer sees it that leads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GroupView {
    /// This peer.
    pub me: PeerId,
    /// Its term.
    pub term: u64,
    /// Who leads, if that is known.
    pub leader: Option<PeerId>,
    /// The last entry in the log.
    pub last: Option<u64>,
    /// The last one that is committed.
    pub committed: Option<u64>,
    /// The last one that is applied.
    pub applied: Option<u64>,
    /// For how long the disk of its log has not answered, while it does not.
    #[serde(skip)]
    pub disk_late: Duration,
    /// All peers, ascending by number.
    pub peers: Vec<PeerView>,
    /// Numbers of peers that were removed, which are not used again.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub removed: BTreeSet<PeerId>,
}

impl GroupView {
    /// How many entries of the log a peer is not known to have.
    pub fn behind(&self, peer: &PeerView) -> u64 {
        let count = |last: Option<u64>| last.map_or(0, |last| last + 1);
        count(self.last).saturating_sub(count(peer.matched))
    }
}

/// Everything that the leader's screen, its plain line and STATUS show.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterView {
    /// Version of the binary, with its commit.
    pub version: String,
    /// The leader's epoch; 0 while it has none yet.
    pub epoch: Epoch,
    /// Copies a message.
    pub tolerance: usize,
    /// Seconds since the start.
    pub uptime_s: f64,
    /// Seconds between two reports.
    pub every_s: f64,
    /// Where it listens.
    pub addresses: Addresses,
    /// Committed messages.
    pub messages: u64,
    /// Whether these are all: every node that had to be heard was.
    pub is_settled: bool,
    /// Bytes of these, counted once.
    pub bytes: u64,
    /// Copies on nodes that are up, and copies that there should be.
    pub copies_live: u64,
    /// Messages times tolerance.
    pub copies_wanted: u64,
    /// Messages with fewer live copies than tolerance, but at least one.
    pub under_replicated: u64,
    /// Messages that no holder has an intact copy of.
    pub lost: u64,
    /// Deletions that not all members have confirmed.
    pub tombstones: u64,
    /// Messages that end by themselves.
    pub expiring: u64,
    /// Messages that ended by themselves since the leader started.
    pub expired: u64,
    /// How far the median of the wall clocks is ahead of the register's time, in milliseconds.
    pub clock_off_ms: i64,
    /// How far repair is.
    pub repair: RepairView,
    /// Why some answers are held back, where the leader does not know all yet.
    pub waiting_for: Option<String>,
    /// Open client connections.
    pub clients: usize,
    /// Bytes of requests under way, and the most allowed.
    pub in_flight: (u64, u64),
    /// SETs.
    pub sets: RateView,
    /// GETs.
    pub gets: RateView,
    /// GETs of the last period that found no such message.
    pub not_found: u64,
    /// SETs a second over the last periods, oldest first.
    pub set_history: Vec<u64>,
    /// GETs a second over the last periods, oldest first.
    pub get_history: Vec<u64>,
    /// Members, ascending by id.
    pub nodes: Vec<NodeView>,
    /// The group of leaders, if there are several.
    pub group: Option<GroupView>,
    /// Newest last.
    pub events: Vec<EventLine>,
}

/// Everything that a node's screen and its plain line show.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeReport {
    /// Version of the binary, with its commit.
    pub version: String,
    /// This node.
    pub id: NodeId,
    /// Seconds since the start.
    pub uptime_s: f64,
    /// Seconds between two reports.
    pub every_s: f64,
    /// Where the leader is looked for.
    pub leader: String,
    /// Whether the leader has accepted this node.
    pub registered: bool,
    /// Round trip of the last heartbeat, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Where this node listens.
    pub listening: String,
    /// Its IO mode.
    pub io_mode: IoMode,
    /// Its layout.
    pub layout: String,
    /// The folder of its copies.
    pub folder: String,
    /// Whole copies.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes and id of the largest copy written by this process.
    pub largest: Option<(u64, String)>,
    /// Its disk.
    pub disk: Option<DiskView>,
    /// Copies written.
    pub stores: RateView,
    /// Copies read.
    pub reads: RateView,
    /// Copies written a second over the last periods, oldest first.
    pub store_history: Vec<u64>,
    /// Copies read a second over the last periods, oldest first.
    pub read_history: Vec<u64>,
    /// 99th percentile of one batch's waiting, writing and syncing, milliseconds.
    pub queue_p99_ms: f64,
    /// See `queue_p99_ms`.
    pub write_p99_ms: f64,
    /// See `queue_p99_ms`; nothing in buffered mode, which does not sync.
    pub sync_p99_ms: Option<f64>,
    /// Failed writes since the start.
    pub write_errors: u64,
    /// Copies whose content did not match their record, since the start.
    pub bad_checksums: u64,
    /// What the start found: messages, seconds, foreign files, damaged copies.
    pub recovered: (u64, f64, u64, u64),
    /// Newest last.
    pub events: Vec<EventLine>,
}
