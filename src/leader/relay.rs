//! What a standby does for clients and nodes: their bytes go on to the peer that leads, and its answers back.
//!
//! A relay repeats nothing and reads nothing: when another peer leads, it closes its connections, and who was in the
//! middle of a request hears what it hears from a leader that dies.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::raft::{Addresses, PeerId, Standing};
use crate::stop::Stop;

/// Who comes while nobody leads waits this long for somebody to.
const ELECTION: Duration = Duration::from_secs(3);

/// How long the peer that leads may take to take a connection.
const DIAL: Duration = Duration::from_secs(1);

/// How long a client for which there is no leader has to show what it speaks.
const FIRST_BYTE: Duration = Duration::from_millis(250);

/// A pause after an accept, or a dial, that failed.
const PAUSE: Duration = Duration::from_millis(50);

/// Whose connections are relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Clients,
    /// With TLS: nothing can be said to them in the clear.
    Encrypted,
    Nodes,
    Http,
}

/// What relays need.
#[derive(Debug, Clone)]
pub(super) struct Relay {
    /// This peer.
    pub(super) me: PeerId,
    pub(super) standing: watch::Receiver<Standing>,
    /// Whether this peer serves by itself now.
    pub(super) serves: watch::Receiver<bool>,
    /// Where clients with TLS are served by who leads is the same port everywhere.
    pub(super) tls_port: Option<u16>,
    pub(super) places: Arc<Semaphore>,
    pub(super) stop: Stop,
}

impl Relay {
    /// Takes connections while this peer does not serve, until the stop is requested.
    pub(super) async fn run(mut self, listener: TcpListener, way: Way) {
        let stop = self.stop.clone();
        let work = async {
            loop {
                let mut serves = self.serves.clone();
                if serves.wait_for(|serves| !serves).await.is_err() {
                    return;
                }
                let accepted = tokio::select! {
                    biased;
                    _ = serves.changed() => continue,
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    Ok((connection, _)) => self.take(connection, way),
                    Err(_) => sleep(PAUSE).await,
                }
            }
        };
        stop.unless(work).await;
    }

    /// One for which there is no place is closed.
    fn take(&mut self, connection: TcpStream, way: Way) {
        let Ok(place) = self.places.clone().try_acquire_owned() else { return };
        let (relay, stop) = (self.clone(), self.stop.clone());
        tokio::spawn(async move {
            stop.unless(relay.carry(connection, way)).await;
            drop(place);
        });
    }

    async fn carry(mut self, mut connection: TcpStream, way: Way) {
        let Ok((leader, mut onward)) = timeout(ELECTION, self.dial(way)).await else {
            if way == Way::Clients {
                self.tell_none(&mut connection).await;
            }
            return;
        };
        let (_, _) = (connection.set_nodelay(true), onward.set_nodelay(true));
        tokio::select! {
            _ = copy_bidirectional(&mut connection, &mut onward) => {}
            _ = self.standing.wait_for(|standing| standing.leader.as_ref() != Some(&leader)) => {}
        }
    }

    /// A connection to who leads, as soon as there is one.
    async fn dial(&mut self, way: Way) -> ((PeerId, Addresses), TcpStream) {
        loop {
            let leader = match self.standing.wait_for(|standing| standing.leader.is_some()).await {
                Ok(standing) => standing.leader.clone(),
                Err(_) => None,
            };
            // This process ends.
            let Some(leader) = leader else { return std::future::pending().await };
            // One that leads and does not serve yet would be given its own connections.
            if leader.0 == self.me && !*self.serves.borrow() {
                sleep(PAUSE).await;
                continue;
            }
            if let Ok(Ok(onward)) = timeout(DIAL, TcpStream::connect(self.address(&leader.1, way))).await {
                return (leader, onward);
            }
            // It may have died a moment ago.
            sleep(PAUSE).await;
        }
    }

    fn address(&self, addresses: &Addresses, way: Way) -> String {
        match (way, self.tls_port) {
            (Way::Clients, _) | (Way::Encrypted, None) => addresses.clients.clone(),
            (Way::Encrypted, Some(port)) => {
                let host = addresses.clients.rsplit_once(':').map_or(&*addresses.clients, |(host, _)| host);
                format!("{host}:{port}")
            }
            (Way::Nodes, _) => addresses.nodes.clone(),
            (Way::Http, _) => addresses.http.clone().unwrap_or_default(),
        }
    }

    /// Tells a client, in what it speaks, that nobody leads or that who leads cannot be reached. Nothing was sent on.
    async fn tell_none(&self, connection: &mut TcpStream) {
        let mut first = [0];
        let speaks_redis =
            matches!(timeout(FIRST_BYTE, connection.read(&mut first)).await, Ok(Ok(1)) if first == *b"*");
        let why = self.why();
        // LOADING: what clients of Redis know as a server that is not there yet.
        let line = if speaks_redis { format!("-LOADING {why}\r\n") } else { format!("ERROR UNAVAILABLE {why}\n") };
        let _ = timeout(DIAL, connection.write_all(line.as_bytes())).await;
        let _ = connection.shutdown().await;
    }

    fn why(&self) -> String {
        let standing = self.standing.borrow();
        let list = |peers: &BTreeSet<PeerId>| peers.iter().map(PeerId::to_string).collect::<Vec<_>>().join(",");
        let (reached, all) = (list(&standing.reachable), list(&standing.voters));
        match &standing.leader {
            Some((leader, _)) => {
                format!("peer {leader} leads and cannot be reached; nothing was written, try again")
            }
            None => format!("no leader: peers {reached} of {all} can be reached; nothing was written, try again"),
        }
    }
}
