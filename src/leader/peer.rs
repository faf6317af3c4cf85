//! One of several leader processes: a member of the group that keeps the log, which leads when it is elected, and relays
//! what comes to its ports while another one does.
//!
//! Each time as the leader has a runtime of its own, and everything in it: when that is over, so is all that belongs to it.

mod founding;
mod list;
mod local;
mod others;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};

pub(super) use self::founding::leave;
use self::founding::{Opened, found, grow, open_folder, recover};
pub use self::list::{Peers, Start};
pub(super) use self::local::run_local;
use self::others::watch_others;
use super::group::frail;
use super::http;
use super::ledger::Replica;
use super::process::{Listeners, Settings, Told, clients_for, runtime, serve, watch_certificates};
use super::redirect::Redirect;
use super::relay::Relay;
use super::relayed::{Relayed, Way};
use super::sentinel::Standby;
use super::{FolderLock, Source};
use crate::clock::SystemClock;
use crate::durable::Disk;
use crate::durable::executor::Executor;
use crate::durable::os::OsDisk;
use crate::process::door::Caller;
use crate::process::{
    Signals, allow_open, bind, limit_drain, open_port, raise_file_limit, say_ready, serve_peers, watch_stdin,
};
use crate::raft::{self, Addresses, Group, GrpcPeers, PeerId, Standing};
use crate::stop::Stop;
use crate::telemetry::EventRing;
use crate::wire::Grpc;

/// A time as the leader that failed within this time has not begun well; after so many in a row something else is wrong.
const SHORT: Duration = Duration::from_secs(5);
const MOST_SHORT: u32 = 5;

/// A pause after a time as the leader that ended by itself, and after too many of them.
const PAUSE: Duration = Duration::from_millis(200);
const LONG_PAUSE: Duration = Duration::from_secs(2);

/// Runs a peer until it is told to stop.
pub(super) fn run(mut settings: Settings, peers: Peers, events: EventRing) -> anyhow::Result<()> {
    ensure!(
        settings.local_nodes == 0,
        "--local-nodes go with one leader: start nodes by themselves, with --leader and the addresses of all peers"
    );
    let around = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let signals = {
        let _inside = around.enter();
        Signals::take()?
    };
    settings.clients.limits.max_clients = clients_for(settings.clients.limits.max_clients, raise_file_limit());
    settings.tolerance.read()?;
    let listeners = Listeners::bind(&settings)?;
    let port = bind(settings.host, peers.port()?, "peers", "--peers")?;
    let open = open_port(&port, "can pass for a leader and change everything", "give --cluster-cert");
    let open: Vec<String> = open.into_iter().filter(|_| settings.cluster_tls.is_none()).collect();
    allow_open(&open, settings.insecure)?;
    let stop = Stop::new();
    if settings.stop_with_stdin {
        watch_stdin(stop.clone());
    }
    let peer = around.block_on(Peer::open(&settings, &peers, &listeners, port, &stop))?;
    around.block_on(async {
        drop(signals.attend(&stop));
        limit_drain(stop.clone(), &Handle::current());
    });
    let served = peer.stay(&around, &settings, &listeners, &events);
    stop.request();
    around.block_on(peer.group.close());
    around.shutdown_background();
    served?;
    stop.ended()
}

/// A member of the group.
struct Peer {
    group: Group<Replica>,
    replica: Arc<Replica>,
    serves: watch::Sender<bool>,
    stop: Stop,
    _lock: FolderLock,
}

impl Peer {
    async fn open(
        settings: &Settings,
        peers: &Peers,
        listeners: &Listeners,
        port: std::net::TcpListener,
        stop: &Stop,
    ) -> anyhow::Result<Self> {
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
        let founds = peers.start == Start::Founds;
        let Opened { metadata, folder, lock } = open_folder(&*disk, &settings.data_dir, founds)?;
        let mut addresses = addresses(peers, listeners)?;
        addresses.advertised = settings.clients.sentinel.advertise.clone();
        let mut chance = fastrand::Rng::new();
        let replica = Arc::new(Replica::new(&mut chance, Arc::new(SystemClock), stop.clone()));
        let mut told = raft::Settings::new(peers.me, addresses.clone(), disk.boot_id());
        told.snapshot_log_bytes = settings.rewrite_log_from;
        if let Start::RecoversAlone(cluster) = &peers.start {
            told.recovers = true;
            recover(&replica, &folder, &told, cluster)?;
        }
        let executor = Executor::Threads(Handle::current());
        replica.keep_time(metadata.clone(), disk.boot_id(), executor, stop).await;
        let network = Arc::new(GrpcPeers::new(Grpc { tls: settings.cluster_tls.clone() }));
        let group = Group::open(told, folder, replica.clone(), network, stop.clone()).await?;
        say_members(peers);
        open_port_of_peers(&group, settings, port, stop);
        if founds {
            found(&group, peers, &*metadata).await?;
        } else if !group.is_founded() {
            tracing::info!("this peer is of no group yet: it waits for the one that was founded to call it");
        }
        let (serves, serving) = watch::channel(false);
        let tls_port = port_of(&listeners.encrypted);
        let places = Arc::new(Semaphore::new(settings.clients.limits.max_clients));
        let redirects = settings.clients.sentinel.standby == Standby::Redirect;
        let relayed = Arc::<Relayed>::default();
        let relay = Relay {
            me: peers.me,
            standing: group.leading(),
            serves: serving,
            tls_port,
            sentinel_port: port_of(&listeners.sentinel),
            places,
            redirect: redirects.then(|| redirect(settings, &group, tls_port)),
            site: site(settings, listeners, &group, peers.me, &relayed),
            relayed,
            stop: stop.clone(),
        };
        start_relays(relay, listeners.again()?)?;
        watch_certificates(settings, stop);
        tokio::spawn(stop.needed("watch over peers", watch_others(group.clone(), peers.clone(), stop.clone())));
        say_ready(
            &format!("leader ready clients={} nodes={}", bound(listeners)?, listeners.nodes.local_addr()?),
            false,
        );
        say_ready(&format!("leader peer={} of {}", addresses.peer, peers.all.len()), false);
        tokio::spawn(stop.needed("removal of this peer", end_when_removed(group.clone(), stop.clone())));
        tokio::spawn(stop.needed("growth of the group", grow(group.clone(), peers.clone(), metadata, stop.clone())));
        Ok(Self { group, replica, serves, stop: stop.clone(), _lock: lock })
    }

    /// Leads whenever it is elected, until the stop is requested.
    fn stay(
        &self,
        around: &Runtime,
        settings: &Settings,
        listeners: &Listeners,
        events: &EventRing,
    ) -> anyhow::Result<()> {
        let mut short = 0;
        let mut standing = self.group.leading();
        loop {
            let elected = around.block_on(self.stop.unless(standing.wait_for(|standing| standing.leads.is_some())));
            let Some(Ok(term)) = elected.map(|elected| elected.map(|standing| standing.leads)) else { return Ok(()) };
            let Some(term) = term else { continue };
            let began = Instant::now();
            let over = self.stop.child();
            let led = self.lead(around, term, settings, listeners, events, &over);
            let Some(why) = over.failure() else {
                // Asked for, also by a key on the screen; or it cannot lead as it is set up.
                led?;
                if !self.stop.is_requested() {
                    self.stop.request();
                }
                if let Err(error) = around.block_on(self.group.hand_over(None)) {
                    tracing::debug!("nobody takes over at once: {error}");
                }
                return Ok(());
            };
            tracing::warn!("this peer does not lead any more (term {term}): {why}");
            // To be deposed soon is nothing wrong with this peer.
            let still_leads = standing.borrow().leads == Some(term);
            short = if still_leads && began.elapsed() < SHORT { short + 1 } else { 0 };
            if short < MOST_SHORT {
                std::thread::sleep(PAUSE);
                continue;
            }
            tracing::error!(
                "this peer was elected, and could not lead, {short} times in a row: another one is to lead"
            );
            if let Err(error) = around.block_on(self.group.hand_over(None)) {
                tracing::warn!("no other peer leads: {error}");
            }
            std::thread::sleep(LONG_PAUSE);
            short = 0;
        }
    }

    /// Leads in this term, on a runtime of its own.
    fn lead(
        &self,
        around: &Runtime,
        term: u64,
        settings: &Settings,
        listeners: &Listeners,
        events: &EventRing,
        over: &Stop,
    ) -> anyhow::Result<()> {
        let why = self.group.status().led.map_or_else(String::new, |led| format!(": {}", led.why));
        tracing::info!("this peer leads (term {term}){why}");
        let tolerance = settings.tolerance.read()?;
        around.spawn(watch_term(self.group.leading(), (self.group.me(), term), over.clone()));
        let inside = runtime()?;
        let listeners = listeners.again()?;
        let source = Source::Group(self.group.clone(), self.replica.clone());
        self.serves.send_replace(true);
        let led = inside.block_on(async {
            let hang_up = signal(SignalKind::hangup())?;
            serve(
                settings,
                Told { tolerance, hang_up, is_first: false },
                listeners,
                over.clone(),
                events.clone(),
                source,
            )
            .await
        });
        self.serves.send_replace(false);
        // With all that is left of it: nothing of it goes on beside another leader.
        inside.shutdown_background();
        match led {
            // It lost its term while it began.
            Err(_) if over.failure().is_some() => Ok(()),
            led => led,
        }
    }
}

/// Ends a time as the leader when its term is over.
pub async fn watch_term(mut standing: watch::Receiver<Standing>, (me, term): (PeerId, u64), over: Stop) {
    let lost = async {
        let ended = standing.wait_for(|standing| standing.leads != Some(term)).await;
        ended.map(|standing| match &standing.leader {
            Some((leader, _)) => format!("peer {leader} leads"),
            None if !standing.voters.contains(&me) => "it was removed from the group".to_owned(),
            None if standing.hangs => "the disk of its log hangs".to_owned(),
            None => "most of the others do not answer".to_owned(),
        })
    };
    if let Some(Ok(why)) = over.unless(lost).await {
        over.fail(why);
    }
}

/// Where this peer is reached: by the host that `--peers` names, and the ports that it listens on.
fn addresses(peers: &Peers, listeners: &Listeners) -> anyhow::Result<Addresses> {
    let at = |address: std::net::SocketAddr| format!("{}:{}", peers.host(), address.port());
    let http = listeners.http.as_ref().map(std::net::TcpListener::local_addr).transpose()?;
    Ok(Addresses {
        peer: peers.address().to_owned(),
        clients: at(bound(listeners)?),
        nodes: at(listeners.nodes.local_addr()?),
        http: http.map(at),
        advertised: None,
    })
}

fn port_of(listener: &Option<std::net::TcpListener>) -> Option<u16> {
    listener.as_ref().and_then(|listener| listener.local_addr().ok()).map(|address| address.port())
}

/// Where clients are served: those who may come by TLS only are told where that is.
fn bound(listeners: &Listeners) -> anyhow::Result<std::net::SocketAddr> {
    let listener =
        listeners.clients.as_ref().or(listeners.encrypted.as_ref()).context("there is no port for clients")?;
    Ok(listener.local_addr()?)
}

fn say_members(peers: &Peers) {
    // Who is the only one means it.
    if let Some(what) = frail(peers.all.len()).filter(|_| peers.all.len() > 1) {
        tracing::warn!("{what}");
    }
}

/// Ends a peer that was removed from its group: nobody calls it any more, and clients are better served elsewhere.
async fn end_when_removed(group: Group<Replica>, stop: Stop) {
    if let Some(what) = stop.unless(group.removed()).await {
        tracing::warn!("{what}");
        stop.request();
    }
}

fn open_port_of_peers(group: &Group<Replica>, settings: &Settings, port: std::net::TcpListener, stop: &Stop) {
    let (service, tls, stop) = (group.service(Caller::must_be_peer_of), settings.cluster_tls.clone(), stop.clone());
    group.spawn(async move {
        match TcpListener::from_std(port) {
            Ok(listener) => serve_peers(listener, service, tls, stop).await,
            Err(error) => stop.fail(format!("the port for peers cannot be served: {error}")),
        }
    });
}

/// What tells clients where to go while this peer does not lead.
fn redirect(settings: &Settings, group: &Group<Replica>, tls_port: Option<u16>) -> Redirect {
    Redirect {
        group: group.clone(),
        settings: Arc::new(settings.clients.clone()),
        acceptor: settings.tls.as_ref().map(|tls| tls.acceptor.clone()),
        tls_port: tls_port.filter(|_| settings.port.is_some()),
        is_plain: settings.port.is_some(),
    }
}

fn start_relays(relay: Relay, listeners: Listeners) -> std::io::Result<()> {
    let Listeners { clients, encrypted, sentinel, nodes, http } = listeners;
    let all = [
        (clients, Way::Clients),
        (encrypted, Way::Encrypted),
        (sentinel, Way::Sentinel),
        (Some(nodes), Way::Nodes),
        (http, Way::Http),
    ];
    for (listener, way) in all {
        if let Some(listener) = listener {
            let mut relay = relay.clone();
            if way == Way::Http {
                // Who looks takes no place from clients.
                relay.places = Arc::new(Semaphore::new(http::CONNECTIONS));
            }
            tokio::spawn(relay.run(TcpListener::from_std(listener)?, way));
        }
    }
    Ok(())
}

/// What this peer answers by itself over HTTP while another one leads. With TLS nothing of a request can be read here.
fn site(
    settings: &Settings,
    listeners: &Listeners,
    group: &Group<Replica>,
    me: PeerId,
    relayed: &Arc<Relayed>,
) -> Option<Arc<http::Standby>> {
    let address = listeners.http.as_ref()?.local_addr().ok().filter(|_| !settings.http_tls)?;
    let seen = group.clone();
    Some(Arc::new(http::Standby {
        me,
        guard: http::Guard::new(address.ip(), settings.http_token.clone()),
        began: tokio::time::Instant::now(),
        standing: group.leading(),
        status: Box::new(move || seen.status()),
        relayed: relayed.clone(),
        data_dir: settings.data_dir.clone(),
        certificates: settings.certificates(),
    }))
}
