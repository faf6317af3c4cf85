//! Who the nodes are, who is alive, and how loaded each one is.
//!
//! Time is handed in as the time since the leader's start. Load is what is
//! committed plus what is promised: a write under way counts where it will
//! arrive, and no longer counts where it will leave, so that a burst spreads
//! exactly as its end result will.

use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use super::lease::Lease;
use super::placement::{LoadIndex, Slot};
use crate::seeded::{self, Bug};
use crate::types::{
    CopyRecord, DiskView, Holders, IoMode, MAX_TOLERANCE, Member, NodeId, NodeState, Nodes, Refusing, Uuid,
};

/// Without a beat for this long a node takes no new copies, if others can.
pub const SUSPECT_AFTER: Duration = Duration::from_millis(1500);

/// Without a beat (or without lanes) for this long a node is down.
pub const DOWN_AFTER: Duration = Duration::from_secs(3);

/// A node that is down for this long is missing, unless the leader is told another time: most restarts take less.
pub const REPAIR_AFTER: Duration = Duration::from_secs(30);

/// A leader that did not look for longer than this was itself away, and judges nobody by that time.
const OWN_PAUSE: Duration = Duration::from_secs(1);

/// What a node says of itself when it joins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traits {
    /// `buffered` or `unbuffered`.
    pub io_mode: String,
    /// `text`.
    pub layout: String,
    /// It keeps what says when it ends.
    pub deadlines: bool,
}

impl Traits {
    /// Whether it syncs what it stores before it says so.
    pub(super) fn syncs(&self) -> bool {
        self.io_mode == IoMode::Unbuffered.name()
    }
}

/// What a node reports with each beat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Beat {
    /// Its disk.
    pub disk: DiskView,
    /// It refuses messages for want of room.
    pub full: bool,
    /// The smallest of those that it refused, in bytes. What is smaller may fit, and a tombstone always does.
    pub full_from: u32,
}

/// One of a node's two lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The one that writes.
    Writes,
    /// The one that reads.
    Reads,
}

/// On which lanes of a node answers are overdue: one that is late with either is not up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stalled {
    writes: bool,
    reads: bool,
}

impl Stalled {
    /// Whether they are on this one.
    pub fn on(self, way: Way) -> bool {
        match way {
            Way::Writes => self.writes,
            Way::Reads => self.reads,
        }
    }

    fn any(self) -> bool {
        self.writes || self.reads
    }

    fn set(&mut self, way: Way, stalled: bool) {
        match way {
            Way::Writes => self.writes = stalled,
            Way::Reads => self.reads = stalled,
        }
    }
}

/// One member.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its number, folder and address.
    pub member: Member,
    /// Its modes.
    pub traits: Traits,
    /// What we think of it.
    pub state: NodeState,
    /// Committed copies on it.
    pub committed: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Last beat, or join.
    pub last_beat: Duration,
    /// The last report.
    pub beat: Option<Beat>,
    /// Why it refused copies last; nothing once it takes some.
    pub refusing: Option<Refusing>,
    /// Which dial of ours it talks to; `None` while its lanes are closed.
    pub session: Option<u64>,
    /// Since when it has been here for reads only, or away: its disk does not take that this leader leads. What it holds can
    /// be read; for all else it is as one that is away.
    reads_only: Option<Duration>,
    /// When its lanes closed, if they are.
    lanes_lost: Duration,
    /// On which lanes answers are overdue.
    stalled: Stalled,
    /// Copies under way to it, less those that will leave it.
    promised: i64,
    /// Since when it is down; without meaning in other states.
    down_since: Duration,
    /// Down for so long that its copies do not count any more: they are made again elsewhere.
    pub missing: bool,
    /// Its operator wants it empty: what it holds moves away, and nothing new comes if others can take it.
    pub draining: bool,
    /// It is about to be taken off the list: nothing new comes in any case.
    pub(super) leaving: bool,
    /// When the last beat of ours that it answered was sent.
    pub(super) answered: Option<Duration>,
    /// A leader from an older copy of the log may know nothing of it yet: it keeps nothing, and its word counts for nothing.
    pub(super) fresh: bool,
}

impl Node {
    /// Whether it is linked, and knows this leader for good.
    pub fn is_linked(&self) -> bool {
        self.session.is_some() && self.reads_only.is_none()
    }

    /// Whether it is linked for reads only.
    pub fn only_reads(&self) -> bool {
        self.session.is_some() && self.reads_only.is_some()
    }

    /// Why it refuses copies, if it does.
    pub fn refuses_as(&self) -> Option<String> {
        let why = &self.refusing.as_ref()?.why;
        Some(match self.only_reads() {
            true => format!("{why}; it could not note this leader, and only answers reads"),
            false => why.clone(),
        })
    }

    /// Whether what it says of this leader's lease counts.
    fn may_promise(&self) -> bool {
        !self.fresh && (self.reads_only.is_none() || seeded::active(Bug::UnnotedCountsForLease))
    }

    /// Copies that it will have when everything under way is done.
    pub fn load(&self) -> u64 {
        self.committed.saturating_add_signed(self.promised)
    }

    /// Takes copies of any size gladly.
    pub(super) fn placeable(&self) -> bool {
        self.is_ranked() && !self.full()
    }

    /// Stands in the load index: takes gladly what it has room for.
    pub(super) fn is_ranked(&self) -> bool {
        self.state == NodeState::Up && !self.draining && !self.leaving && !self.fresh && self.reads_only.is_none()
    }

    /// The state that reports show.
    pub fn shown(&self) -> NodeState {
        match self.state {
            NodeState::Up if self.draining => NodeState::Draining,
            // It is about to be told of: it keeps nothing yet.
            NodeState::Up if self.fresh => NodeState::Suspect,
            state => state,
        }
    }

    /// Can take copies of any size, gladly or not.
    fn usable(&self) -> bool {
        self.is_reached() && !self.full()
    }

    /// Can take what it has room for, gladly or not.
    fn is_reached(&self) -> bool {
        self.is_linked() && self.state != NodeState::Down && !self.leaving && !self.fresh
    }

    /// Whether it has no room for copies, as it says or as it last refused one.
    pub fn is_full(&self) -> bool {
        self.full() || self.refusing.as_ref().is_some_and(|refusing| refusing.full)
    }

    /// Has no room for some messages.
    pub(super) fn full(&self) -> bool {
        self.beat.is_some_and(|beat| beat.full)
    }

    /// Has no room for this.
    pub(super) fn full_for(&self, record: CopyRecord) -> bool {
        !record.is_tombstone() && self.beat.is_some_and(|beat| beat.full && record.bytes() >= beat.full_from)
    }
}

/// Why a node that is down is missing now, or one that only reads.
const MISSING: &str = "it stays away, and its copies are made again on other nodes";
const STAYS_UNNOTED: &str = "but it cannot note this leader, and its copies are made again on other nodes";

/// A change of a node's state that people want to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Whose.
    pub node: NodeId,
    /// To what.
    pub state: NodeState,
    /// Why.
    pub reason: &'static str,
}

/// All members.
#[derive(Debug)]
pub struct Registry {
    /// Ascending by id; the position is the node's slot in the load index.
    nodes: Vec<Node>,
    /// Hashed: a write looks a node up some twenty times, and that must not cost more with more nodes.
    slots: HashMap<NodeId, Slot, FixedState>,
    load_index: LoadIndex,
    /// How many of them are full.
    full: usize,
    swept: Duration,
    repair_after: Duration,
    pub(super) lease: Lease,
    /// Members that were removed, of which not all others know yet: a leader from an older copy of the log counts them.
    departed: usize,
}

impl Default for Registry {
    fn default() -> Self {
        let slots = HashMap::with_hasher(FixedState::with_seed(0));
        let (load_index, lease) = (LoadIndex::default(), Lease::default());
        Self {
            nodes: Vec::new(),
            slots,
            load_index,
            full: 0,
            swept: Duration::ZERO,
            repair_after: REPAIR_AFTER,
            lease,
            departed: 0,
        }
    }
}

impl Registry {
    /// A member's entry.
    pub fn get(&self, id: NodeId) -> Option<&Node> {
        self.slots.get(&id).map(|&slot| &self.nodes[slot])
    }

    /// All members, ascending by id.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Whether our lanes to a member are open, for more than reads.
    pub fn is_linked(&self, id: NodeId) -> bool {
        self.get(id).is_some_and(Node::is_linked)
    }

    /// Whether our lanes to a member are open, if only for reads.
    pub fn is_readable(&self, id: NodeId) -> bool {
        self.get(id).is_some_and(|node| node.session.is_some())
    }

    /// The members that our lanes are open to for more than reads, ascending.
    pub fn linked(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.iter().filter(|node| node.is_linked()).map(|node| node.member.id)
    }

    /// The members that are here for reads only, ascending.
    pub fn only_reading(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.only_reads())
    }

    /// How many nodes can take a copy now.
    pub fn usable(&self) -> usize {
        self.nodes.iter().filter(|node| node.usable()).count()
    }

    /// Adds a member that is not connected (or gives a known one its new address).
    pub fn remember(&mut self, member: Member, now: Duration) {
        if let Some(&slot) = self.slots.get(&member.id) {
            self.nodes[slot].member = member;
            return;
        }
        let node = Node {
            member,
            traits: Traits::default(),
            state: NodeState::Down,
            committed: 0,
            bytes: 0,
            last_beat: now,
            beat: None,
            refusing: None,
            session: None,
            reads_only: None,
            lanes_lost: now,
            stalled: Stalled::default(),
            promised: 0,
            down_since: now,
            missing: false,
            draining: false,
            leaving: false,
            answered: None,
            fresh: false,
        };
        let at = self.nodes.partition_point(|other| other.member.id < node.member.id);
        if at == self.nodes.len() {
            // No other slot moves, and a node that is down stands on no rung: members in order cost the same each.
            self.slots.insert(node.member.id, at);
            self.nodes.push(node);
        } else {
            self.nodes.insert(at, node);
            self.number_slots();
        }
        self.count_leases();
    }

    /// A member is none any more.
    pub(super) fn remove(&mut self, id: NodeId) {
        let before = self.nodes.len();
        self.nodes.retain(|node| node.member.id != id);
        self.departed += before - self.nodes.len();
        self.number_slots();
        self.count_leases();
    }

    /// All members know who was removed.
    pub(super) fn forget_departed(&mut self) {
        self.departed = 0;
        self.count_leases();
    }

    /// A beat that was sent then, or the first word of a session, is answered: the node lets in no other leader for a while.
    pub fn note_answered(&mut self, id: NodeId, sent: Duration) {
        if let Some(&slot) = self.slots.get(&id) {
            let answered = &mut self.nodes[slot].answered;
            *answered = (*answered).max(Some(sent));
            self.count_leases();
        }
    }

    /// A new member counts from now on, or not yet.
    pub(super) fn set_fresh(&mut self, id: NodeId, fresh: bool) {
        self.change(id, |node| node.fresh = fresh);
        self.count_leases();
    }

    /// The members that count.
    pub(super) fn counted(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.iter().filter(|node| !node.fresh).map(|node| node.member.id)
    }

    /// Counts anew for how long leases last.
    pub(super) fn count_leases(&mut self) {
        let answered = self.nodes.iter().filter(|node| node.may_promise()).filter_map(|node| node.answered);
        self.lease.count(self.nodes.len() + self.departed, answered);
    }

    fn number_slots(&mut self) {
        self.slots.clear();
        self.slots.extend(self.nodes.iter().enumerate().map(|(slot, node)| (node.member.id, slot)));
        self.load_index = LoadIndex::default();
        self.full = self.nodes.iter().filter(|node| node.full()).count();
        for (slot, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_ranked()) {
            self.load_index.insert(slot, node.load());
        }
    }

    /// On which lanes a member was late when its session ended.
    pub fn was_late(&self, id: NodeId) -> Stalled {
        self.get(id).map(|node| node.stalled).unwrap_or_default()
    }

    /// Both lanes to a member are open.
    pub fn join(&mut self, id: NodeId, session: u64, traits: Traits, now: Duration) {
        self.link(id, session, traits, now);
        self.change(id, |node| (node.refusing, node.missing, node.reads_only) = (None, false, None));
        self.count_leases();
    }

    /// Both lanes to a member are open for reads only, and why. As far as its copies go it stays away: if that lasts, they are
    /// made again elsewhere.
    pub fn join_to_read(&mut self, id: NodeId, session: u64, traits: Traits, why: Refusing, now: Duration) {
        self.change(id, |node| {
            let away = if node.state == NodeState::Down { node.down_since } else { now };
            node.reads_only.get_or_insert(away);
            node.refusing = Some(why);
        });
        self.link(id, session, traits, now);
        self.count_leases();
    }

    fn link(&mut self, id: NodeId, session: u64, traits: Traits, now: Duration) {
        self.change(id, |node| {
            node.traits = traits;
            node.session = Some(session);
            node.last_beat = now;
            node.beat = None;
            node.stalled = Stalled::default();
            node.state = NodeState::Up;
        });
    }

    /// A node is missing when it is down for so long.
    pub fn set_repair_after(&mut self, repair_after: Duration) {
        self.repair_after = repair_after;
    }

    /// Begins or ends the draining of a node.
    pub fn set_draining(&mut self, id: NodeId, draining: bool) {
        self.change(id, |node| node.draining = draining);
    }

    /// A node is about to be taken off the list, or stays after all.
    pub(super) fn set_leaving(&mut self, id: NodeId, leaving: bool) {
        self.change(id, |node| node.leaving = leaving);
    }

    /// The lanes of this session are closed; a newer session is not affected.
    /// `gone`: the node's port is closed as well, so it is surely down.
    pub fn part(&mut self, id: NodeId, session: u64, gone: bool, now: Duration) -> bool {
        if self.get(id).is_none_or(|node| node.session != Some(session)) {
            return false;
        }
        self.change(id, |node| {
            node.session = None;
            node.lanes_lost = now;
            // A node that was judged down is not brought back by the end of its connection.
            if node.state != NodeState::Down {
                node.down_since = now;
                node.state = if gone { NodeState::Down } else { NodeState::Suspect };
            }
        });
        true
    }

    /// A beat came. `false`: we have no lanes at all to this node, it has to register again.
    pub fn beat(&mut self, id: NodeId, uuid: Uuid, beat: Beat, now: Duration) -> bool {
        if self.get(id).is_none_or(|node| node.member.uuid != uuid) {
            return false;
        }
        self.change(id, |node| {
            node.last_beat = now;
            node.beat = Some(beat);
        });
        self.is_readable(id)
    }

    /// A node refused a message of so many bytes for want of room: none of that size until it reports room again.
    pub fn note_full(&mut self, id: NodeId, bytes: u32) {
        self.change(id, |node| {
            let before = node.beat.unwrap_or_default();
            let full_from = if before.full { before.full_from.min(bytes) } else { bytes };
            node.beat = Some(Beat { full: true, full_from, ..before });
        });
    }

    /// Why a node refuses copies, or that it takes them; tells whether that is new.
    pub fn note_refusing(&mut self, id: NodeId, refusing: Option<Refusing>) -> bool {
        let new = self.get(id).is_some_and(|node| node.refusing != refusing);
        if new {
            self.change(id, |node| node.refusing = refusing);
        }
        new
    }

    /// Answers on a lane of this session are overdue, or came after all.
    pub fn note_stalled(&mut self, id: NodeId, session: u64, way: Way, stalled: bool) {
        if self.get(id).is_some_and(|node| node.session == Some(session) && node.stalled.on(way) != stalled) {
            self.change(id, |node| {
                node.stalled.set(way, stalled);
                if stalled && node.state == NodeState::Up {
                    node.state = NodeState::Suspect;
                }
            });
        }
    }

    /// Judges every node by the time since its last sign of life.
    pub fn sweep(&mut self, now: Duration) -> Vec<Transition> {
        let gap = now.saturating_sub(self.swept);
        self.swept = now;
        let mut transitions = Vec::new();
        for slot in 0..self.nodes.len() {
            let id = self.nodes[slot].member.id;
            if gap > OWN_PAUSE {
                // It was us who were away: give everyone the time back.
                let (beat, lost) = (self.nodes[slot].last_beat + gap, self.nodes[slot].lanes_lost + gap);
                let down = (self.nodes[slot].down_since + gap).min(now);
                self.change(id, |node| {
                    (node.last_beat, node.lanes_lost, node.down_since) = (beat.min(now), lost.min(now), down);
                    node.reads_only = node.reads_only.map(|since| (since + gap).min(now));
                });
            }
            let node = &self.nodes[slot];
            let unnoted = node.reads_only.filter(|_| node.session.is_some() && !node.missing);
            if unnoted.is_some_and(|since| now.saturating_sub(since) >= self.repair_after) {
                transitions.push(Transition { node: id, state: node.state, reason: STAYS_UNNOTED });
                self.change(id, |node| node.missing = true);
            }
            let node = &self.nodes[slot];
            let silent = now.saturating_sub(node.last_beat);
            let parted = if node.session.is_some() { Duration::ZERO } else { now.saturating_sub(node.lanes_lost) };
            let (state, reason) = match node.state {
                NodeState::Down => {
                    if !node.missing && now.saturating_sub(node.down_since) >= self.repair_after {
                        transitions.push(Transition { node: id, state: NodeState::Down, reason: MISSING });
                        self.change(id, |node| node.missing = true);
                    }
                    continue;
                }
                _ if silent >= DOWN_AFTER => (NodeState::Down, "no heartbeat for 3 s"),
                _ if parted >= DOWN_AFTER => (NodeState::Down, "its connection is lost"),
                _ if node.session.is_none() => (NodeState::Suspect, "its connection is lost"),
                _ if silent >= SUSPECT_AFTER => (NodeState::Suspect, "its heartbeats are late"),
                _ if node.stalled.any() => (NodeState::Suspect, "its answers are late"),
                _ => (NodeState::Up, "it answers again"),
            };
            if state != node.state {
                transitions.push(Transition { node: id, state, reason });
                self.change(id, |node| (node.state, node.down_since) = (state, now));
            }
        }
        transitions
    }

    /// The `count` nodes for a message, least loaded first, ties by id; fewer if there are not as many.
    /// `held` are the holders of its older version. Nodes of `barred` are left out.
    /// Nodes that something is late about come last, and only as needed; those without room for `record` never, but that
    /// holders always have room for what is no longer than the `before` bytes that they hold.
    pub fn choose(&self, record: CopyRecord, before: u32, count: usize, held: &[NodeId], barred: &[NodeId]) -> Nodes {
        let staying: SmallVec<[(u64, Slot); MAX_TOLERANCE]> = held
            .iter()
            .filter_map(|id| self.slots.get(id))
            .filter(|&&slot| self.nodes[slot].is_ranked())
            .map(|&slot| (self.nodes[slot].load(), slot))
            .collect();
        let in_place = |node: &Node| record.bytes() <= before && held.contains(&node.member.id);
        let is_barred = |node: &Node| barred.contains(&node.member.id) || node.full_for(record) && !in_place(node);
        let full = if self.full > 0 { self.nodes.iter().filter(|node| node.full_for(record)).count() } else { 0 };
        let mut chosen: Nodes = self
            .load_index
            .choose(count + barred.len() + full, &staying)
            .into_iter()
            .map(|slot| &self.nodes[slot])
            .filter(|node| !is_barred(node))
            .take(count)
            .map(|node| node.member.id)
            .collect();
        if chosen.len() < count {
            let mut late: Vec<&Node> =
                self.nodes.iter().filter(|node| node.is_reached() && !node.is_ranked() && !is_barred(node)).collect();
            late.sort_by_key(|node| (node.load(), node.member.id));
            chosen.extend(late.iter().take(count - chosen.len()).map(|node| node.member.id));
        }
        chosen
    }

    /// Promises copies to a node (or with a negative number, takes them away from it).
    pub fn promise(&mut self, id: NodeId, copies: i64) {
        self.change(id, |node| node.promised += copies);
    }

    /// The log gives this node so many copies of so many bytes in all.
    pub fn restore_load(&mut self, id: NodeId, copies: u64, bytes: u64) {
        self.change(id, |node| (node.committed, node.bytes) = (copies, bytes));
    }

    /// A commit gives each of these nodes one more copy of `bytes`.
    pub fn gain(&mut self, holders: &Holders, bytes: u32) {
        for &id in holders {
            self.change(id, |node| {
                node.committed += 1;
                node.bytes += u64::from(bytes);
            });
        }
    }

    /// A commit takes a copy of `bytes` from each of these nodes.
    pub fn lose(&mut self, holders: &Holders, bytes: u32) {
        for &id in holders {
            self.change(id, |node| {
                node.committed = node.committed.saturating_sub(1);
                node.bytes = node.bytes.saturating_sub(u64::from(bytes));
            });
        }
    }

    /// Changes a node, and keeps the load index true to it.
    fn change(&mut self, id: NodeId, change: impl FnOnce(&mut Node)) {
        let Some(&slot) = self.slots.get(&id) else { return };
        let node = &mut self.nodes[slot];
        let (before, was_full) = (node.is_ranked().then(|| node.load()), node.full());
        change(node);
        self.full = self.full + usize::from(node.full()) - usize::from(was_full);
        match (before, node.is_ranked().then(|| node.load())) {
            (None, None) => {}
            (None, Some(load)) => self.load_index.insert(slot, load),
            (Some(load), None) => self.load_index.remove(slot, load),
            (Some(from), Some(to)) => self.load_index.shift(slot, from, to),
        }
    }
}
