//! The leaders of a group as they are, each on a machine whose disk outlives the process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hatokuse::durable::Disk as _;
use hatokuse::durable::executor::Executor;
use hatokuse::leader::ledger::Replica;
use hatokuse::leader::peer::watch_term;
use hatokuse::leader::{GROUP_FOLDER, Leader, METADATA_FOLDER, Seams, Settings, Source};
use hatokuse::protocol::{Command, Reply};
use hatokuse::raft::{self, Addresses, Group, Runtime};
use hatokuse::stop::Stop;
use hatokuse::types::{IoMode, Layout, PeerId};
use tokio::time::{Instant, sleep};

use crate::machines::{Crash, Machine, NODES, REWRITE_LOG_FROM, Sim, Wall, walls};
use crate::network::{LeaderHere, Life, Net, Plug};
use crate::peer_net::{PeerPlug, home, peer_address};
use crate::world::{World, ask};

/// A pause after a time as the leader that ended by itself.
const PAUSE: Duration = Duration::from_millis(200);

/// A leader is there so soon, when most peers are up and can reach one another.
const ELECTED: Duration = Duration::from_secs(5);

/// What a peer needs to lead whenever it is elected.
struct Staying {
    peer: PeerId,
    group: Group<Replica>,
    replica: Arc<Replica>,
    settings: Settings,
    tolerance: Arc<AtomicUsize>,
    /// Those of the process, and its way to nodes.
    seams: Seams,
    plug: Plug,
    net: Net,
    world: World,
    life: Life,
    stop: Stop,
}

impl Staying {
    /// Leads whenever it is elected, until the process ends.
    async fn stay(mut self) {
        let mut standing = self.group.leading();
        while !self.stop.is_requested() {
            let elected = self.stop.unless(standing.wait_for(|standing| standing.leads.is_some())).await;
            let Some(Ok(term)) = elected.map(|elected| elected.map(|standing| standing.leads)) else { return };
            let Some(term) = term else { continue };
            self.lead(term).await;
            sleep(PAUSE).await;
        }
    }

    /// Those of one time as the leader.
    fn seams(&mut self, reign: &Life) -> Seams {
        let Seams { disk, executor, chance, clock, .. } = &mut self.seams;
        Seams {
            disk: disk.clone(),
            network: Arc::new(Plug { life: reign.clone(), ..self.plug.clone() }),
            executor: executor.clone(),
            chance: chance.fork(),
            clock: clock.clone(),
        }
    }

    async fn lead(&mut self, term: u64) {
        // In the product each time as the leader has a runtime of its own, and ends with it; here its wires lead nowhere.
        let (over, reign) = (self.stop.child(), self.life.child_token());
        tokio::spawn(watch_term(self.group.leading(), (self.peer, term), over.clone()));
        self.world.say(&format!("peer {} leads (term {term})", self.peer));
        self.net.note_elected(self.peer);
        let source = Source::Group(self.group.clone(), self.replica.clone());
        let seams = self.seams(&reign);
        let told = |tolerance: &AtomicUsize| tolerance.load(Ordering::Relaxed);
        let settings = Settings { tolerance: Some(told(&self.tolerance)), ..self.settings };
        let started = Leader::start(Path::new("/data"), settings, seams, over.clone(), source).await;
        match started {
            Ok(leader) => {
                let (coordinator, membership) = (leader.coordinator.clone(), leader.membership.clone());
                let here = LeaderHere { home: home(self.peer), coordinator, membership, life: reign.clone() };
                // It may have been changed while this one began.
                here.coordinator.cluster().set_tolerance(told(&self.tolerance));
                self.net.set_leads(self.peer, &self.life, Some(here.clone()));
                over.requested().await;
                self.world.note_ended(&here);
                self.net.set_leads(self.peer, &self.life, None);
                let why = over.failure().unwrap_or("it was told to");
                self.world.say(&format!("peer {} does not lead any more (term {term}): {why}", self.peer));
                leader.abandon().await;
            }
            Err(why) => self.world.say(&format!("peer {} cannot lead (term {term}): {why}", self.peer)),
        }
        over.request();
        reign.cancel();
    }
}

impl Sim {
    /// A group of so many leaders, which has just been founded, and nodes.
    pub(crate) async fn start_group(seed: u64, io_mode: IoMode, peers: u64) -> Self {
        // The engine's chance.
        fastrand::seed(seed);
        let mut sim = Self::built(seed, io_mode, walls(seed));
        // Any may be behind. Those that are ahead all are.
        if !Wall::AHEAD.contains(&sim.leaders_wall) {
            let chance = &mut sim.chance;
            sim.peer_walls = (1..=peers).map(|peer| (home(peer), chance.choice(Wall::BEHIND).unwrap())).collect();
        }
        sim.last_peer = peers;
        sim.peers = (1..=peers).map(|peer| (peer, Machine::new(Layout::Text))).collect();
        for peer in 1..=peers {
            sim.start_peer(peer).await.unwrap();
        }
        let all: BTreeMap<PeerId, String> = (1..=peers).map(|peer| (peer, peer_address(peer))).collect();
        sim.net.group(1).unwrap().found(all).await.unwrap();
        (1..=NODES).for_each(|node| sim.start_node(node).unwrap());
        sim.elected().await;
        sim
    }

    /// Where nodes look for a leader.
    pub(crate) fn leaders(&self) -> Vec<String> {
        if self.peers.is_empty() {
            return vec!["leader:1".to_owned()];
        }
        self.peers.keys().map(|peer| peer_address(*peer)).collect()
    }

    /// Fails where the disk does, or where the folder is not taken.
    pub(crate) async fn start_peer(&mut self, peer: PeerId) -> Result<(), String> {
        let disk = self.peers[&peer].disk.clone();
        let (life, stop) = (Life::new(), Stop::new());
        let path = Path::new("/data").join(METADATA_FOLDER);
        let open = |path: &Path| disk.folder(path).map_err(|error| error.to_string());
        let (metadata, folder) = (open(&path)?, open(&path.join(GROUP_FOLDER))?);
        let seams = self.seams(&disk, &home(peer), &life);
        let replica = Arc::new(Replica::new(&mut self.chance, seams.clock.clone(), stop.clone()));
        replica.keep_time(metadata, disk.boot_id(), Executor::Inline, &stop).await;
        let addresses = Addresses { peer: peer_address(peer), clients: home(peer), ..Addresses::default() };
        let mut told = raft::Settings::new(peer, addresses, disk.boot_id());
        told.snapshot_log_bytes = REWRITE_LOG_FROM;
        told.runtime = Runtime::Current(Executor::Inline);
        let plug = Arc::new(PeerPlug { net: self.net.clone(), me: peer, life: life.clone() });
        let group = Group::open(told, folder, replica.clone(), plug, stop.clone()).await;
        let group = group.map_err(|error| error.to_string())?;
        self.net.set_peer(peer, Some((group.clone(), life.clone())));
        let plug = self.plug(&home(peer), &life);
        let staying = Staying {
            peer,
            group,
            replica,
            settings: self.settings(),
            tolerance: self.tolerance.clone(),
            seams,
            plug,
            net: self.net.clone(),
            world: self.world.clone(),
            life: life.clone(),
            stop: stop.clone(),
        };
        tokio::spawn(staying.stay());
        self.peers.get_mut(&peer).unwrap().running = Some((life, stop));
        Ok(())
    }

    pub(crate) async fn crash_peer(&mut self, peer: PeerId, how: Crash) -> bool {
        let group = self.net.group(peer);
        self.net.set_peer(peer, None);
        let was = self.peers.get_mut(&peer).unwrap().crash(how, &mut self.chance);
        if let Some(group) = group {
            tokio::spawn(async move { group.close().await });
        }
        was
    }

    /// What failed is over: all peers run.
    pub(crate) async fn start_all_peers(&mut self) {
        let all: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in all {
            if self.peers[&peer].has_failed() {
                self.crash_peer(peer, Crash::Kill).await;
            }
            if !self.peers[&peer].is_running() {
                self.start_peer(peer).await.unwrap();
            }
        }
        self.elected().await;
        self.put_peers_right().await;
    }

    /// Waits until somebody leads, which has to be soon.
    pub(crate) async fn elected(&self) {
        let began = Instant::now();
        while self.net.leading().is_none() {
            sleep(Duration::from_millis(10)).await;
            if began.elapsed() > ELECTED {
                let seen: Vec<_> = self.peers.keys().filter_map(|peer| self.net.group(*peer)).collect();
                let seen: Vec<_> = seen.iter().map(Group::status).collect();
                panic!("nobody leads: {seen:#?}");
            }
        }
    }

    /// Every peer leads once, and is as right as the one before.
    pub(crate) async fn check_by_each(&self) {
        for peer in self.peers.keys().copied() {
            while self.net.leading().is_none_or(|(leader, _)| leader != peer) {
                let order = Command::HandOver(Some(peer));
                let _: Option<Reply> = ask(&self.net, order).await;
                sleep(Duration::from_secs(1)).await;
            }
            sleep(Duration::from_secs(10)).await;
            self.check().await;
        }
    }
}
