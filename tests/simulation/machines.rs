//! A leader and its nodes as they are, each on a machine whose disk outlives the process.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hatokuse::clock::Clock;
use hatokuse::durable::executor::Executor;
use hatokuse::durable::sim::MemDisk;
use hatokuse::durable::{Disk, Folder};
use hatokuse::error::Refusal;
use hatokuse::leader::{GROUP_FOLDER, Leader, METADATA_FOLDER, Seams, Settings, Source};
use hatokuse::node::files::TextStore;
use hatokuse::node::heartbeat::{self, Announcement, Standing};
use hatokuse::node::identity::{IDENTITY_FILE, Identity, IdentityFile};
use hatokuse::node::records;
use hatokuse::node::segments::SegmentStore;
use hatokuse::node::store::{INVENTORY_PARTS, Store};
use hatokuse::node::{Node, Parts};
use hatokuse::protocol::{Command, Reply};
use hatokuse::stop::Stop;
use hatokuse::types::{IoMode, Layout, MessageId, NodeId, NodeState, PeerId, Uuid};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::network::{FIRST, LeaderHere, Life, Net, Plug};
use crate::together::{self, HALVES, PAIR};
use crate::world::{World, ask, client, request, value_of};

pub(crate) const TOLERANCE: usize = 2;
pub(crate) const NODES: u32 = 4;
const CLIENTS: u32 = 4;

/// Longer than most troubles here last, and shorter than some.
const REPAIR_AFTER: Duration = Duration::from_secs(4);

/// Small, so that the leader's log is rewritten many times in a life.
pub(crate) const REWRITE_LOG_FROM: u64 = 4096;

/// Small, so that segments are sealed and taken back many times in a life.
const SEGMENT_BYTES: u64 = 4096;

/// More than any healing takes: dials, registrations, inventories, completions, and all repairs with their retries.
const HEALING: Duration = Duration::from_secs(40);

/// How a process ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Crash {
    /// Everything that it wrote is there.
    Kill,
    /// What was not synced is there, or not, or in part.
    PowerCut,
}

/// What the wall clocks showed when they began, and ten years, in milliseconds.
const BEGAN_MS: u64 = 1_800_000_000_000;
const TEN_YEARS_MS: u64 = 315_360_000_000;

/// What is wrong with a wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wall {
    Right,
    /// At half, or twice the speed.
    Slow,
    Fast,
    Frozen,
    /// Ten years ahead, or back, and right again, every three seconds.
    Ahead,
    Back,
    /// The same, with every other millisecond.
    Strobe,
    /// Ten years ahead from a minute on, as are all others: they are right, and the register's time is not.
    AllAhead,
}

impl Wall {
    /// What may be wrong with any number of clocks: nothing can end early by those that are behind.
    pub(crate) const BEHIND: [Self; 6] = [Self::Right, Self::Right, Self::Right, Self::Slow, Self::Frozen, Self::Back];

    /// What may be wrong with one clock of a cluster: the lower of two that differ counts, as long as others are right.
    pub(crate) const AHEAD: [Self; 3] = [Self::Fast, Self::Ahead, Self::Strobe];

    fn shows(self, passed: u64) -> u64 {
        let right = BEGAN_MS + passed;
        match self {
            Self::Right => right,
            Self::Slow => BEGAN_MS + passed / 2,
            Self::Fast => BEGAN_MS + passed * 2,
            Self::Frozen => BEGAN_MS,
            Self::Ahead if passed / 3000 % 2 == 1 => right + TEN_YEARS_MS,
            Self::Back if passed / 3000 % 2 == 1 => right - TEN_YEARS_MS,
            Self::Strobe if passed % 2 == 1 => right + TEN_YEARS_MS,
            Self::AllAhead if passed >= 60_000 => right + TEN_YEARS_MS,
            _ => right,
        }
    }
}

/// A machine's clocks. That since the boot is right.
#[derive(Debug)]
struct MachineClock {
    began: Instant,
    wall: Wall,
}

impl Clock for MachineClock {
    fn unix_ms(&self) -> u64 {
        self.wall.shows(self.began.elapsed().as_millis() as u64)
    }

    fn since_boot(&self) -> Duration {
        self.began.elapsed()
    }
}

/// What outlives a process: its disk.
pub(crate) struct Machine {
    pub(crate) disk: MemDisk,
    pub(crate) layout: Layout,
    pub(crate) running: Option<(Life, Stop)>,
}

impl Machine {
    pub(crate) fn new(layout: Layout) -> Self {
        Self { disk: MemDisk::new(), layout, running: None }
    }

    /// Ends the process; `false`: there was none. Its tasks may go on for a while, on disks and wires that lead nowhere.
    pub(crate) fn crash(&mut self, how: Crash, chance: &mut fastrand::Rng) -> bool {
        let Some((life, stop)) = self.running.take() else { return false };
        self.disk = match how {
            Crash::Kill => self.disk.after_kill(),
            Crash::PowerCut => self.disk.after_power_cut(chance),
        };
        life.cancel();
        stop.request();
        true
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Whether it has ended by itself, as after a failed sync.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure().is_some()
    }

    /// Why it has ended by itself.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.running.as_ref().and_then(|(_, stop)| stop.failure())
    }
}

pub(crate) struct Sim {
    pub(crate) net: Net,
    pub(crate) chance: fastrand::Rng,
    pub(crate) io_mode: IoMode,
    /// What their files tell leaders.
    pub(crate) tolerance: Arc<AtomicUsize>,
    /// After which a leader begins its next epoch by itself.
    pub(crate) versions_an_epoch: u32,
    pub(crate) leader: Machine,
    /// The leader that runs, if one does: for its end in order.
    leading: Option<Leader>,
    /// A second leader from a copy of the first one's folder, how often there was one, and where the first one is.
    second: Option<(Machine, Leader)>,
    seconds: u32,
    home: String,
    /// When the clocks began, and what is wrong with those of the leaders, and of nodes.
    began: Instant,
    pub(crate) leaders_wall: Wall,
    /// Those of the leaders of a group, by where they are, where they are other ones.
    pub(crate) peer_walls: BTreeMap<String, Wall>,
    walls: BTreeMap<u32, Wall>,
    pub(crate) nodes: BTreeMap<u32, Machine>,
    /// The leaders that make a group, if they do, instead of the one.
    pub(crate) peers: BTreeMap<PeerId, Machine>,
    /// The highest number that a peer had, and the one that has lost its folder.
    pub(crate) last_peer: PeerId,
    pub(crate) lost_folder: Option<PeerId>,
    /// What runs at each address, or ran there last.
    stores: BTreeMap<String, Arc<dyn Store>>,
    pub(crate) world: World,
    /// Whether clients write several ids at once.
    pub(crate) pairs: bool,
    /// Nodes that somebody wanted to remove. What became of that the one who asked may not know.
    pub(crate) dismissed: BTreeSet<u32>,
    /// The disks of those that were.
    pub(crate) retired: BTreeMap<u32, MemDisk>,
}

pub(crate) fn address(node: u32) -> String {
    format!("node-{node}:1")
}

pub(crate) fn folder(node: u32) -> PathBuf {
    PathBuf::from(format!("/data/storage_node_{node}"))
}

/// The layout of each node, in the order of their numbers.
pub(crate) fn layouts(seed: u64) -> Vec<Layout> {
    let mut chance = fastrand::Rng::with_seed(seed.wrapping_mul(3));
    (1..=NODES).map(|_| if chance.bool() { Layout::Text } else { Layout::Log }).collect()
}

fn open_store(
    disk: Arc<dyn Disk>,
    folder: &Arc<dyn Folder>,
    layout: Layout,
    io_mode: IoMode,
) -> Result<Arc<dyn Store>, String> {
    Ok(match layout {
        Layout::Text => Arc::new(TextStore::open(disk, folder.clone(), io_mode).map_err(|error| error.to_string())?.0),
        Layout::Log => {
            let opened = SegmentStore::open_sized(folder.clone(), io_mode, SEGMENT_BYTES);
            Arc::new(opened.map_err(|error| error.to_string())?.0)
        }
    })
}

/// The wall clocks of leaders, and of each node: either the leaders' are ahead at times, or those of one node are; any
/// others may be behind.
pub(crate) fn walls(seed: u64) -> (Wall, BTreeMap<u32, Wall>) {
    let mut chance = fastrand::Rng::with_seed(seed.wrapping_mul(5));
    let mut walls: BTreeMap<u32, Wall> = (1..=NODES).map(|node| (node, chance.choice(Wall::BEHIND).unwrap())).collect();
    let ahead = chance.choice(Wall::AHEAD).unwrap();
    if chance.bool() {
        return (ahead, walls);
    }
    walls.insert(chance.u32(1..=NODES), ahead);
    (chance.choice(Wall::BEHIND).unwrap(), walls)
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.net.empty();
    }
}

impl Sim {
    pub(crate) async fn start(seed: u64, io_mode: IoMode) -> Self {
        Self::with_walls(seed, io_mode, walls(seed)).await
    }

    /// With clocks of one's own choice.
    pub(crate) async fn with_walls(
        seed: u64,
        io_mode: IoMode,
        (leaders_wall, walls): (Wall, BTreeMap<u32, Wall>),
    ) -> Self {
        let mut sim = Self::built(seed, io_mode, (leaders_wall, walls));
        sim.start_leader().await.unwrap();
        (1..=NODES).for_each(|node| sim.start_node(node).unwrap());
        sim
    }

    /// A world in which nothing runs yet.
    pub(crate) fn built(seed: u64, io_mode: IoMode, (leaders_wall, walls): (Wall, BTreeMap<u32, Wall>)) -> Self {
        let mut chance = fastrand::Rng::with_seed(seed);
        let layouts = layouts(seed);
        let nodes: BTreeMap<u32, Machine> =
            (1..=NODES).map(|node| (node, Machine::new(layouts[node as usize - 1]))).collect();
        // Some file systems do not say how full they are.
        if seed.is_multiple_of(5) {
            nodes[&1].disk.set_space(0, 0);
        }
        let net = Net::new(chance.fork());
        let (tolerance, leader) = (Arc::new(AtomicUsize::new(TOLERANCE)), Machine::new(Layout::Text));
        let (stores, world) = (BTreeMap::new(), World::new());
        let (leading, pairs, dismissed, retired) = (None, true, BTreeSet::new(), BTreeMap::new());
        // In a quarter of all lives that happens all the time.
        let versions_an_epoch = if seed.is_multiple_of(4) { 200 } else { u32::MAX };
        Self {
            net,
            chance,
            io_mode,
            tolerance,
            versions_an_epoch,
            leader,
            leading,
            second: None,
            seconds: 0,
            home: FIRST.to_owned(),
            began: Instant::now(),
            leaders_wall,
            peer_walls: BTreeMap::new(),
            walls,
            nodes,
            peers: BTreeMap::new(),
            last_peer: 0,
            lost_folder: None,
            stores,
            world,
            pairs,
            dismissed,
            retired,
        }
    }

    /// Fails where the disk does.
    pub(crate) async fn start_leader(&mut self) -> Result<(), String> {
        let (disk, home) = (self.leader.disk.clone(), self.home.clone());
        let (here, leader, running) = self.lead(&disk, home).await?;
        self.net.set_leader(Some(here));
        self.leader.running = Some(running);
        self.leading = Some(leader);
        Ok(())
    }

    /// A second leader from a copy of the first one's folder; these nodes go to it, restarted or cut off from the first.
    pub(crate) async fn start_second(&mut self, nodes: &[u32], cut: bool) -> bool {
        if self.second.is_some() || !self.leader.is_running() || !self.all_belong() {
            return false;
        }
        let mut machine = Machine { disk: self.leader.disk.after_kill(), layout: Layout::Text, running: None };
        self.seconds += 1;
        let home = format!("leader-{}", self.seconds);
        let Ok((here, leader, running)) = self.lead(&machine.disk.clone(), home).await else { return false };
        machine.running = Some(running);
        self.net.set_second(Some(here));
        self.second = Some((machine, leader));
        nodes.iter().for_each(|node| self.send_to_second(*node, cut));
        true
    }

    /// Whether every node's disk says which cluster it is of. One that is new joins whichever leader it meets first, and
    /// refuses all others for good: two leaders without a log would divide the nodes between them.
    pub(crate) fn all_belong(&self) -> bool {
        self.nodes.iter().all(|(number, machine)| {
            let files = machine.disk.peek(&folder(*number));
            let text = files.get(IDENTITY_FILE).and_then(Option::as_ref).map(|text| String::from_utf8_lossy(text));
            text.is_some_and(|text| Identity::decode(&text).is_ok_and(|identity| identity.seen.is_some()))
        })
    }

    /// From now on this node follows the second leader.
    pub(crate) fn send_to_second(&mut self, node: u32, cut: bool) {
        self.net.send_to_second(&address(node));
        if cut {
            self.net.part(&self.home, &address(node));
        } else if self.crash_node(node, Crash::Kill) {
            let _ = self.start_node(node);
        }
    }

    /// This node is started again, on a disk that works, and follows the first leader.
    pub(crate) fn send_to_first(&mut self, node: u32) -> bool {
        self.net.send_to_first(&self.home, &address(node));
        if let Some(second) = self.net.second() {
            self.net.part(&second.home, &address(node));
        }
        self.nodes[&node].disk.heal();
        self.crash_node(node, Crash::Kill) && self.start_node(node).is_ok()
    }

    /// One of two leaders goes: one that has stopped by itself, or either.
    pub(crate) async fn end_second(&mut self) {
        let Some((mut machine, leader)) = self.second.take() else { return };
        let here = self.net.second();
        let stays = self.leader.has_failed() || !machine.has_failed() && self.chance.bool();
        if stays {
            self.crash_leader(Crash::Kill);
            self.home = here.as_ref().map_or_else(|| FIRST.to_owned(), |here| here.home.clone());
            self.net.set_leader(here);
            (self.leader, self.leading) = (machine, Some(leader));
        } else {
            machine.crash(Crash::Kill, &mut self.chance);
        }
        self.net.set_second(None);
        // Whoever stays may be told that it is succeeded, as the nodes of the other one come.
        sleep(Duration::from_secs(5)).await;
    }

    async fn lead(&mut self, disk: &MemDisk, home: String) -> Result<(LeaderHere, Leader, (Life, Stop)), String> {
        let (life, stop) = (Life::new(), Stop::new());
        let (settings, seams) = (self.settings(), self.seams(disk, &home, &life));
        let leader = Leader::start(Path::new("/data"), settings, seams, stop.clone(), Source::File).await;
        let leader = leader.map_err(|error| error.to_string())?;
        let (coordinator, membership) = (leader.coordinator.clone(), leader.membership.clone());
        Ok((LeaderHere { home, coordinator, membership, life: life.clone() }, leader, (life, stop)))
    }

    /// Where a leader meets this world.
    pub(crate) fn seams(&mut self, disk: &MemDisk, home: &str, life: &Life) -> Seams {
        let wall = self.peer_walls.get(home).copied().unwrap_or(self.leaders_wall);
        Seams {
            disk: Arc::new(disk.clone()),
            network: Arc::new(self.plug(home, life)),
            executor: Executor::Inline,
            chance: self.chance.fork(),
            clock: Arc::new(MachineClock { began: self.began, wall }),
        }
    }

    /// The network as a leader that is here has it.
    pub(crate) fn plug(&self, home: &str, life: &Life) -> Plug {
        Plug { net: self.net.clone(), home: home.to_owned(), life: life.clone() }
    }

    /// What leaders are told.
    pub(crate) fn settings(&self) -> Settings {
        // Half of all lives read everything from nodes.
        let cache_bytes = if self.io_mode == IoMode::Buffered { 0 } else { 4096 };
        Settings {
            tolerance: Some(self.tolerance()),
            io_mode: self.io_mode,
            repair_after: REPAIR_AFTER,
            auto_rebalance: false,
            cache_bytes,
            largest_message: 1 << 20,
            rewrite_log_from: REWRITE_LOG_FROM,
            versions_an_epoch: self.versions_an_epoch,
        }
    }

    /// Copies a message.
    pub(crate) fn tolerance(&self) -> usize {
        self.tolerance.load(Ordering::Relaxed)
    }

    /// Where the first leader is.
    pub(crate) fn home(&self) -> &str {
        &self.home
    }

    /// Has the leader end in order.
    pub(crate) async fn stop_leader(&mut self) {
        let (Some(leader), Some((_, stop))) = (self.leading.take(), &self.leader.running) else { return };
        stop.request();
        leader.close().await;
    }

    pub(crate) fn crash_leader(&mut self, how: Crash) -> bool {
        self.net.leader().iter().for_each(|leader| self.world.note_ended(leader));
        self.net.set_leader(None);
        self.leading = None;
        self.leader.crash(how, &mut self.chance)
    }

    /// Fails where the disk does.
    pub(crate) fn start_node(&mut self, number: u32) -> Result<(), String> {
        let disk = self.nodes[&number].disk.clone();
        let running = self.start_node_at(number, &address(number), &disk)?;
        self.nodes.get_mut(&number).unwrap().running = Some(running);
        Ok(())
    }

    /// Starts a node of this number on any disk, at any address.
    pub(crate) fn start_node_at(&mut self, number: u32, home: &str, disk: &MemDisk) -> Result<(Life, Stop), String> {
        let (life, stop) = (Life::new(), Stop::new());
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let folder = disk.folder(&folder(number)).map_err(|error| error.to_string())?;
        let (id, uuid) = (NodeId(number), Uuid::random(&mut self.chance));
        let layout = self.nodes[&number].layout;
        let identity = IdentityFile::open(folder.clone(), id, uuid, layout).map_err(|error| error.to_string())?;
        let store = open_store(disk, &folder, layout, self.io_mode)?;
        self.stores.insert(home.to_owned(), store.clone());
        let wall = self.walls.get(&number).copied().unwrap_or(Wall::Right);
        let (incarnation, clock) = (self.chance.u64(1..), Arc::new(MachineClock { began: self.began, wall }));
        let parts = Parts { id, identity, store, io_mode: self.io_mode, incarnation, clock };
        let node = Node::start(parts, Executor::Inline, stop.clone()).map_err(|error| error.to_string())?;
        let announcement = Announcement { leaders: self.leaders(), address: home.to_owned(), folder };
        let plug = Plug { net: self.net.clone(), home: home.to_owned(), life: life.clone() };
        let (standing, _) = watch::channel(Standing::default());
        let beats =
            heartbeat::run(node.clone(), announcement, Arc::new(plug), self.chance.fork(), standing, stop.clone());
        tokio::spawn(stop.vital("heartbeat", beats));
        self.net.set_node(home, Some((node, life.clone())));
        Ok((life, stop))
    }

    pub(crate) fn crash_node(&mut self, number: u32, how: Crash) -> bool {
        self.net.set_node(&address(number), None);
        self.nodes.get_mut(&number).unwrap().crash(how, &mut self.chance)
    }

    /// Whether it ended because its folder is not let in any more.
    pub(crate) fn was_removed(&self, node: u32) -> bool {
        let removed = self.nodes[&node].failure().is_some_and(|why| why.contains("was removed from this register"));
        assert!(!removed || self.dismissed.contains(&node), "node {node} was removed, and nobody wanted that");
        removed
    }

    /// Whether it ended because it had served a later leader than this one, which was started from an old log.
    fn served_another(&self, node: u32) -> bool {
        self.nodes[&node].failure().is_some_and(|why| why.contains("has served another leader"))
    }

    /// A node that was removed gets an empty disk; the old one is kept.
    pub(crate) fn retire(&mut self, node: u32) {
        self.crash_node(node, Crash::Kill);
        let machine = self.nodes.get_mut(&node).unwrap();
        self.retired.insert(node, std::mem::replace(&mut machine.disk, MemDisk::new()));
    }

    /// Clients work beside `story` until `until`; then everything heals, and what there is has to be right.
    pub(crate) async fn live(&mut self, until: Duration, story: impl AsyncFnOnce(&mut Self)) {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| tokio::spawn(client(n, self.net.clone(), self.chance.fork(), self.world.clone(), until)))
            .collect();
        tokio::spawn(self.world.clone().watch_ends(self.net.clone()));
        let (net, chance, world) = (self.net.clone(), self.chance.fork(), self.world.clone());
        let together = tokio::spawn(together::client(CLIENTS, net, chance, world, until, self.pairs));
        let (net, chance, world) = (self.net.clone(), self.chance.fork(), self.world.clone());
        let beside = tokio::spawn(together::client(CLIENTS + 1, net, chance, world, until, self.pairs));
        story(self).await;
        tokio::time::sleep_until(self.world.began() + until).await;
        // A client may wait for somebody who is paused.
        self.start_all().await;
        for client in clients.into_iter().chain([together, beside]) {
            client.await.unwrap();
        }
        self.heal().await;
        self.check().await;
    }

    /// What failed is over: disks work, links carry, processes run.
    pub(crate) async fn start_all(&mut self) {
        self.net.heal();
        for machine in self.nodes.values().chain([&self.leader]).chain(self.peers.values()) {
            machine.disk.heal();
        }
        if self.peers.is_empty() {
            self.start_the_leader().await;
        } else {
            self.start_all_peers().await;
        }
        for node in 1..=NODES {
            if self.was_removed(node) {
                self.retire(node);
            }
            if self.nodes[&node].has_failed() {
                self.crash_node(node, Crash::Kill);
            }
            if !self.nodes[&node].is_running() {
                self.start_node(node).unwrap();
            }
        }
    }

    async fn start_the_leader(&mut self) {
        self.end_second().await;
        // A leader that served clients by an old log refuses a node that has served a later one, until it is started again.
        if self.leader.has_failed() || (1..=NODES).any(|node| self.served_another(node)) {
            self.crash_leader(Crash::Kill);
        }
        if !self.leader.is_running() {
            self.start_leader().await.unwrap();
        }
    }

    /// Starts everything and waits until nothing is left to repair.
    pub(crate) async fn heal(&mut self) {
        self.put_right().await;
        // A leader without its log may let in a folder that was removed, until it hears those who know.
        while (1..=NODES).any(|node| self.was_removed(node) || self.served_another(node)) {
            self.put_right().await;
        }
        for machine in self.nodes.values().chain([&self.leader]).chain(self.peers.values()) {
            assert_eq!(machine.failure(), None, "nothing that was healed stops by itself");
        }
    }

    async fn put_right(&mut self) {
        self.start_all().await;
        for node in 1..=NODES {
            while ask(&self.net, Command::Undrain(NodeId(node))).await != Some(Reply::Done) {
                sleep(Duration::from_millis(100)).await;
                // A leader that was started from an old log may refuse its successor's nodes.
                self.start_all().await;
            }
        }
        sleep(HEALING).await;
    }

    /// Every answer fits one order, the register is whole, and the disks hold exactly what they should.
    pub(crate) async fn check(&self) {
        // What nobody reads rots unseen until it is looked for.
        let (tell, mut findings) = tokio::sync::mpsc::channel(1000);
        let leader = self.net.leader().unwrap();
        leader.coordinator.verify(tell).await;
        if findings.recv().await.is_some() {
            sleep(HEALING / 4).await;
        }
        let ids: BTreeSet<String> = self.world.record().history.ids();
        for half in HALVES.iter().filter(|_| ids.contains(PAIR)) {
            let reply = ask(&self.net, Command::Get(half.parse().unwrap())).await;
            let found = matches!(reply, Some(Reply::Value(_) | Reply::Refused(Refusal::NotFound)));
            assert!(found, "{half} after healing: {reply:?}");
            self.check_copies(half, PAIR, reply);
        }
        for id in ids.iter().filter(|id| *id != PAIR) {
            let reply = request(99, &self.net, &self.world, id, None).await;
            let found = matches!(reply, Some(Reply::Value(_) | Reply::Refused(Refusal::NotFound)));
            assert!(found, "{id} after healing: {reply:?}");
            self.check_copies(id, id, reply);
        }
        let leader = self.net.leader().unwrap();
        let cluster = leader.coordinator.cluster();
        assert_eq!((cluster.waiting_for(), cluster.uncommitted_len(), cluster.deletions()), (None, 0, 0));
        let states: Vec<NodeState> = cluster.registry.nodes().iter().map(|node| node.state).collect();
        assert_eq!(states, [NodeState::Up; NODES as usize]);
        let counts = cluster.counts();
        assert_eq!((counts.under_replicated, counts.lost), (0, 0), "{:?}", cluster.repair_view());
        drop(cluster);
        if let Err(violation) = self.world.record().history.check() {
            panic!("{violation}");
        }
        let back = self.world.record().history.came_back();
        assert!(back.is_none(), "{}", back.unwrap_or_default());
    }

    /// Exactly as many nodes as tolerance says have the file of an id, and all of them the right one.
    fn check_copies(&self, id: &str, register: &str, reply: Option<Reply>) {
        let files: BTreeMap<u32, Vec<u8>> = (1..=NODES)
            .filter_map(|node| Some((node, self.copy(node, id)?)))
            // First, as what is rotten need not be a value at all.
            .filter(|(node, content)| !self.is_rotten_news(*node, id, content))
            // A write of unknown outcome may lie on a node that has not been heard since: it may yet happen.
            .filter(|(_, content)| {
                reply == Some(Reply::Value(content.clone().into()))
                    || !self.world.record().history.is_in_doubt(value_of(register, content))
            })
            .collect();
        let Some(Reply::Value(value)) = reply else {
            let left: Vec<_> = files.keys().map(|node| (node, self.record(*node, id))).collect();
            assert!(left.is_empty(), "{id} is deleted and lies on (node, record): {left:?}");
            return;
        };
        let nodes: Vec<u32> = files.keys().copied().collect();
        let leader = self.net.leader().unwrap();
        let holders = leader.coordinator.cluster().holders(&id.parse::<MessageId>().unwrap()).unwrap();
        let holders: Vec<u32> = holders.iter().map(|node| node.0).collect();
        let told: Vec<_> = files.iter().map(|(node, content)| (node, self.record(*node, id), content.len())).collect();
        assert_eq!((nodes.len(), &nodes), (self.tolerance(), &holders), "{id} (node, record, bytes): {told:?}");
        let records: Vec<_> = files.keys().map(|node| (node, self.record(*node, id))).collect();
        assert!(files.values().all(|content| *content == value[..]), "a copy of {id} differs: {records:?}");
    }

    /// Whether a copy is damaged and newer than what is committed: what is left of a write that failed goes with the next
    /// write of that id, if nobody can tell any more what it was.
    fn is_rotten_news(&self, node: u32, id: &str, content: &[u8]) -> bool {
        let id: MessageId = id.parse().unwrap();
        let record =
            self.record(node, id.to_string().as_str()).and_then(|bytes| records::decode(&bytes, Some(&id)).ok());
        let leader = self.net.leader().unwrap();
        let cluster = leader.coordinator.cluster();
        // A deletion that every member has confirmed is forgotten, and is older than the horizon.
        let known = cluster.mapping().newest(&id).map(|found| found.record.version);
        let committed = known.unwrap_or_else(|| cluster.mapping().horizon());
        record.is_some_and(|(_, record)| !record.matches(content) && committed < record.version)
    }

    /// How many messages a node has a visible copy of.
    pub(crate) fn held(&self, node: u32) -> usize {
        let Machine { disk, layout, .. } = &self.nodes[&node];
        if *layout == Layout::Text {
            return disk.peek(&folder(node)).keys().filter(|name| name.ends_with(".txt")).count();
        }
        let disk: Arc<dyn Disk> = Arc::new(disk.after_kill());
        let store = open_store(disk.clone(), &disk.folder(&folder(node)).unwrap(), *layout, self.io_mode).unwrap();
        store.totals().messages as usize
    }

    /// The visible copy of an id, as a restart of the node would find it.
    fn copy(&self, node: u32, id: &str) -> Option<Vec<u8>> {
        let Machine { disk, layout, .. } = &self.nodes[&node];
        if *layout == Layout::Text {
            return disk.peek(&folder(node)).remove(&format!("{id}.txt"))?;
        }
        // A record that says that a copy is gone may rot too. A restart is put right by the leader then.
        let rotted = self.world.record().faults.contains_key("bit flipped");
        let store = if rotted {
            self.stores[&address(node)].clone()
        } else {
            let disk: Arc<dyn Disk> = Arc::new(disk.after_kill());
            open_store(disk.clone(), &disk.folder(&folder(node)).unwrap(), *layout, self.io_mode).unwrap()
        };
        let mut entries = (0..INVENTORY_PARTS).flat_map(|part| store.inventory(part));
        let entry = entries.find(|entry| entry.id.to_string() == id && !entry.staged)?;
        match store.read(&entry.id, entry.record.version) {
            Ok(copy) => Some(copy.to_vec()),
            // What rotted is no copy of anything.
            Err(_) if rotted => None,
            Err(fault) => panic!("the copy of {id} on node {node}: {fault:?}"),
        }
    }

    /// Bytes of the record of a copy, if it has one.
    fn record(&self, node: u32, id: &str) -> Option<Vec<u8>> {
        let folder = self.nodes[&node].disk.folder(&folder(node)).ok()?;
        folder.open(&format!("{id}.txt")).and_then(|file| file.record()).ok()?
    }

    /// Everybody's answers, and every byte on every disk.
    pub(crate) fn bytes(&self) -> String {
        let mut all = self.world.record().trace.clone();
        let leader = (Path::new("/data").join(METADATA_FOLDER), &self.leader.disk);
        let group = Path::new("/data").join(METADATA_FOLDER).join(GROUP_FOLDER);
        let peers = self.peers.values().map(|machine| (group.clone(), &machine.disk));
        let nodes = self.nodes.iter().map(|(node, machine)| (folder(*node), &machine.disk));
        for (path, disk) in nodes.chain([leader]).chain(peers) {
            let folder = disk.folder(&path).unwrap();
            for (name, content) in disk.peek(&path) {
                let record = folder.open(&name).and_then(|file| file.record()).ok().flatten();
                let _ = writeln!(all, "{}/{name} {record:?} {content:?}", path.display());
            }
        }
        all
    }
}
