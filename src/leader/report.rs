//! What the leader shows: the same facts for the screen, the plain line and STATUS.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use super::coordinator::Coordinator;
use crate::VERSION;
use crate::cluster::Cluster;
use crate::cluster::registry::Node;
use crate::telemetry::{EventRing, History, Period};
use crate::types::{
    Addresses, CacheView, ClusterView, Epoch, NodeId, NodeState, NodeView, PeerView, RateView, Refusing, RepairView,
};

/// Events that a report carries.
const EVENTS: usize = 50;

/// Report periods that a sparkline shows.
const PERIODS: usize = 60;

/// STATUS, as the contract has it.
#[derive(Debug, Serialize)]
struct Status {
    version: &'static str,
    epoch: u32,
    tolerance: usize,
    uptime_s: f64,
    messages: u64,
    /// SETs and GETs that were answered since the start, errors not among them.
    sets: u64,
    gets: u64,
    under_replicated: u64,
    lost: u64,
    /// Deletions that not all members have confirmed: each is kept as a tombstone, as a message is.
    tombstones: usize,
    /// Messages that end by themselves, and those that did since the start.
    expiring: u64,
    expired: u64,
    /// Only while the median of the wall clocks is too far from the register's time to be followed, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    clock_off_ms: Option<i64>,
    /// Why answers are held back, while they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_for: Option<String>,
    /// Only while `messages` is not all: nodes are still to be heard.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    incomplete: bool,
    repair: RepairView,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<CacheView>,
    nodes: Vec<StatusNode>,
    /// Only where there are several leaders.
    #[serde(skip_serializing_if = "Option::is_none")]
    term: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peers: Option<Vec<PeerView>>,
}

#[derive(Debug, Serialize)]
struct StatusNode {
    id: NodeId,
    address: String,
    state: NodeState,
    /// It is being emptied, and its state says something else.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    draining: bool,
    /// Whether it has no room for copies; and why it refuses them, for this or another reason.
    full: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    messages: u64,
    bytes: u64,
    io_mode: String,
    layout: String,
}

impl StatusNode {
    fn of(node: &Node) -> Self {
        Self {
            id: node.member.id,
            address: node.member.address.clone(),
            state: node.shown(),
            draining: node.draining && node.shown() != NodeState::Draining,
            full: node.is_full(),
            reason: node.refuses_as(),
            messages: node.committed,
            bytes: node.bytes,
            io_mode: node.traits.io_mode.clone(),
            layout: node.traits.layout.clone(),
        }
    }
}

impl Coordinator {
    /// Why answers are held back, to all requests or to writes, while they are.
    fn waiting_for(&self, cluster: &Cluster) -> Option<String> {
        let log = || {
            if let Some(why) = self.ledger().refuses() {
                return Some(why.to_owned());
            }
            let late = self.ledger().late()?.as_secs();
            Some(format!("the disk of the leader's log, which has not answered for {late} s: only reads go on"))
        };
        cluster.unsure().or_else(log)
    }

    /// Why messages cannot be written now; nothing if they can.
    pub fn not_ready(&self) -> Option<String> {
        if self.stop.is_requested() {
            return Some("the leader is stopping".to_owned());
        }
        let cluster = self.cluster();
        let (need, live) = (cluster.tolerance(), cluster.registry.usable());
        if live < need {
            return Some(cluster.registry.shortage(need).what);
        }
        match cluster.leadership() {
            None => Some("the leader has no epoch yet".to_owned()),
            Some(_) => self.waiting_for(&cluster),
        }
    }

    /// One line of JSON.
    pub fn status(&self, cluster: &Cluster) -> String {
        let counts = cluster.counts();
        let nodes = cluster.registry.nodes().iter().map(StatusNode::of);
        let group = self.peers();
        let status = Status {
            version: VERSION,
            epoch: cluster.leadership().map_or(0, |leadership| leadership.epoch.0),
            tolerance: cluster.tolerance(),
            uptime_s: (self.now().as_secs_f64() * 1e3).round() / 1e3,
            messages: counts.messages,
            sets: self.meters.sets.total(),
            gets: self.meters.gets.total(),
            under_replicated: counts.under_replicated,
            lost: counts.lost,
            tombstones: cluster.deletions(),
            expiring: cluster.mapping().deadlines(),
            expired: self.meters.expired.load(Ordering::Relaxed),
            clock_off_ms: self.time.is_far_off(),
            waiting_for: self.waiting_for(cluster),
            incomplete: !cluster.has_heard(),
            repair: self.repair_progress.add_to(cluster.repair_view()),
            cache: self.cache.view(),
            nodes: nodes.collect(),
            term: group.as_ref().map(|group| group.term),
            peers: group.map(|group| group.peers),
        };
        serde_json::to_string(&status).unwrap_or_default()
    }
}

/// Makes the views of one leader, one a report period.
#[derive(Debug)]
pub struct Reporter {
    coordinator: Arc<Coordinator>,
    events: EventRing,
    addresses: Addresses,
    every: Duration,
    sets: History,
    gets: History,
    /// What the last whole period came to: shown until the next one is over.
    last: Option<Measured>,
}

/// What is measured over a period.
#[derive(Debug, Clone, Default)]
struct Measured {
    sets: RateView,
    gets: RateView,
    not_found: u64,
    p99_ms: BTreeMap<NodeId, f64>,
}

impl Reporter {
    /// A reporter for a leader with these addresses.
    pub fn new(coordinator: Arc<Coordinator>, events: EventRing, addresses: Addresses, every: Duration) -> Self {
        Self {
            coordinator,
            events,
            addresses,
            every,
            sets: History::new(PERIODS),
            gets: History::new(PERIODS),
            last: None,
        }
    }

    /// What was measured in the last whole period; in the first one, what has been so far.
    fn measured(&mut self, period: Period) -> Measured {
        if let Some(last) = self.last.as_ref().filter(|_| !period.full) {
            return last.clone();
        }
        let leader = &self.coordinator;
        let (sets, gets) = (leader.meters.sets.report(period), leader.meters.gets.report(period));
        self.sets.note(period, &sets);
        self.gets.note(period, &gets);
        let not_found = match period.full {
            true => leader.meters.not_found.swap(0, Ordering::Relaxed),
            false => leader.meters.not_found.load(Ordering::Relaxed),
        };
        let nodes: Vec<NodeId> = leader.cluster().registry.nodes().iter().map(|node| node.member.id).collect();
        let p99 = |node: NodeId| Some((node, leader.links.write_p99_ms(node, period)?));
        let measured = Measured { sets, gets, not_found, p99_ms: nodes.into_iter().filter_map(p99).collect() };
        if period.full {
            self.last = Some(measured.clone());
        }
        measured
    }

    /// The register as it is now, with what was measured over the last `period`.
    pub fn view(&mut self, period: Period) -> ClusterView {
        let Measured { sets, gets, not_found, p99_ms: p99 } = self.measured(period);
        let leader = &self.coordinator;
        let now = leader.now();
        let cluster = leader.cluster();
        let counts = cluster.counts();
        let nodes = cluster.registry.nodes().iter().map(|node| {
            let StatusNode { id, address, state, full, reason, messages, bytes, io_mode, layout, .. } =
                StatusNode::of(node);
            let refusing = (full || reason.is_some()).then(|| Refusing { full, why: reason.unwrap_or_default() });
            let (disk, p99_ms) = (node.beat.map(|beat| beat.disk), p99.get(&id).copied());
            let seen_s = now.saturating_sub(node.last_beat).as_secs_f64();
            NodeView { id, address, state, refusing, messages, bytes, io_mode, layout, disk, p99_ms, seen_s }
        });
        ClusterView {
            version: VERSION.to_owned(),
            epoch: cluster.leadership().map_or(Epoch(0), |leadership| leadership.epoch),
            tolerance: cluster.tolerance(),
            uptime_s: now.as_secs_f64(),
            every_s: self.every.as_secs_f64(),
            addresses: self.addresses.clone(),
            messages: counts.messages,
            is_settled: cluster.is_settled(),
            bytes: counts.bytes,
            copies_live: counts.copies_live,
            copies_wanted: counts.messages * cluster.tolerance() as u64,
            under_replicated: counts.under_replicated,
            lost: counts.lost,
            tombstones: cluster.deletions() as u64,
            expiring: cluster.mapping().deadlines(),
            expired: leader.meters.expired.load(Ordering::Relaxed),
            clock_off_ms: leader.time.off_by_ms(),
            repair: leader.repair_progress.add_to(cluster.repair_view()),
            waiting_for: leader.waiting_for(&cluster),
            clients: leader.meters.clients.load(Ordering::Relaxed),
            in_flight: (leader.in_flight() as u64, leader.pot().size().limit as u64),
            sets,
            gets,
            not_found,
            set_history: self.sets.values(),
            get_history: self.gets.values(),
            nodes: nodes.collect(),
            group: leader.peers(),
            events: self.events.last(EVENTS),
        }
    }
}
