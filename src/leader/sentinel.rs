//! What Redis Sentinel's words tell of the group of leaders: who leads, who else there is, and where clients find them.
//!
//! A [`View`] is what one peer knows at one moment. It opens nothing: `words` makes replies of it, and `channels` holds
//! what a connection wants to be told.

mod channels;
mod words;

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

pub(super) use self::channels::Subscriptions;
use crate::raft::{PeerStatus, Role, Status};
use crate::types::{PeerId, Uuid};

/// A peer that has not been heard of for so long is told as down.
const DOWN_AFTER: Duration = Duration::from_secs(2);

/// What a peer that does not lead does with clients' connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standby {
    /// Their bytes go on to who leads.
    Relay,
    /// They are told where that is.
    Redirect,
}

impl FromStr for Standby {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "relay" => Ok(Self::Relay),
            "redirect" => Ok(Self::Redirect),
            _ => Err(format!("{text:?} is nothing that a standby does; there are relay and redirect")),
        }
    }
}

/// What clients that ask for a leader are told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name that they ask for.
    pub master_name: String,
    /// Where they are sent, `HOST:PORT`; nothing: where this process is reached.
    pub advertise: Option<String>,
    /// What standbys do.
    pub standby: Standby,
}

/// Where a peer serves clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Place {
    /// `HOST:PORT`; nothing: it is none.
    pub(super) fn read(address: &str) -> Option<Self> {
        let (host, port) = address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Some(Self { host: host.to_owned(), port: port.parse().ok()? })
    }

    fn of(address: SocketAddr) -> Self {
        Self { host: address.ip().to_canonical().to_string(), port: address.port() }
    }

    /// The same host, on the port for TLS, if that is asked for: it is the same on all peers.
    fn on(self, tls_port: Option<u16>) -> Self {
        Self { port: tls_port.unwrap_or(self.port), ..self }
    }
}

/// One peer, as clients are told of it.
#[derive(Debug, Clone)]
struct Peer {
    id: PeerId,
    /// 40 hexadecimal digits, as clients of Redis know ids of processes.
    run: String,
    place: Place,
    is_down: bool,
    /// How long ago it was heard of, where this is known.
    silent_for: Option<Duration>,
    /// Up to where it is known to have the log.
    matched: Option<u64>,
}

/// The group, or an only leader, as clients are told of it.
#[derive(Debug, Clone)]
pub(super) struct View {
    name: String,
    /// Who answers.
    me: PeerId,
    leader: Option<PeerId>,
    term: u64,
    /// Up to where this peer has the log.
    offset: u64,
    /// Votes that elect a leader.
    majority: usize,
    /// Peers whose place is known.
    peers: Vec<Peer>,
    /// Standbys answer reads, by relaying them.
    is_relayed: bool,
    /// Where others are asked as this one is, if that is another port: the same on all peers.
    sentinel_port: Option<u16>,
}

impl View {
    /// Of a group. `voters` is how many there are. The ports are that of who asks with TLS, where there is one without, and that of
    /// who asks as a Redis Sentinel is asked.
    pub(super) fn of_group(
        settings: &Settings,
        group: Option<Uuid>,
        status: Status,
        voters: usize,
        (tls_port, sentinel_port): (Option<u16>, Option<u16>),
    ) -> Self {
        let leader = status.peers.iter().find(|peer| peer.role == Role::Leader).map(|peer| peer.id);
        let me = status.me;
        let peer = |peer: PeerStatus| {
            // A standby hears of the leader only, and cannot tell who else is down.
            let can_tell = leader == Some(me) || [Some(me), leader].contains(&Some(peer.id));
            Some(Peer {
                id: peer.id,
                run: run_id(group, peer.id),
                place: Place::read(&peer.clients?)?.on(tls_port),
                is_down: can_tell && peer.role == Role::Unreachable,
                silent_for: peer.silent_for.filter(|_| can_tell),
                matched: peer.matched,
            })
        };
        let mut peers: Vec<Peer> = status.peers.into_iter().filter_map(peer).collect();
        peers.sort_by_key(|peer| peer.id);
        let offset = if leader == Some(me) { status.last } else { status.applied };
        Self {
            name: settings.master_name.clone(),
            me,
            leader: leader.filter(|leader| peers.iter().any(|peer| peer.id == *leader)),
            term: status.term,
            offset: offset.unwrap_or_default(),
            majority: voters / 2 + 1,
            peers,
            is_relayed: settings.standby == Standby::Relay,
            sentinel_port,
        }
    }

    /// Of a leader that is the only one, to who has come by its address `own`. `run` marks this run of it.
    pub(super) fn of_one(
        settings: &Settings,
        own: SocketAddr,
        (epoch, run): (u32, u64),
        tls_port: Option<u16>,
    ) -> Self {
        let advertised = settings.advertise.as_deref().and_then(Place::read);
        let place = advertised.map_or_else(|| Place::of(own), |place| place.on(tls_port));
        let only = Peer {
            id: 1,
            run: format!("{run:040x}"),
            place,
            is_down: false,
            silent_for: Some(Duration::ZERO),
            matched: None,
        };
        Self {
            name: settings.master_name.clone(),
            me: 1,
            leader: Some(1),
            term: epoch.into(),
            offset: 0,
            majority: 1,
            peers: vec![only],
            is_relayed: true,
            sentinel_port: None,
        }
    }

    fn leads(&self) -> Option<&Peer> {
        self.peers.iter().find(|peer| Some(peer.id) == self.leader)
    }

    /// Who does not lead.
    fn standbys(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| Some(peer.id) != self.leader)
    }

    /// All but who answers.
    fn others(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.id != self.me)
    }
}

/// The id of a peer of a group.
fn run_id(group: Option<Uuid>, peer: PeerId) -> String {
    format!("{}{peer:08x}", group.unwrap_or(Uuid([0; 16])))
}

#[cfg(test)]
pub(super) mod tests;
