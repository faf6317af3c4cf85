//! What a standby does for clients and nodes: their bytes go on to the peer that leads, and its answers back.
//!
//! A relay repeats nothing, and reads nothing but what a standby is asked of itself over HTTP: when another peer leads, it closes its connections, and who was in the
//! middle of a request hears what it hears from a leader that dies.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::redirect::Redirect;
use super::relayed::{Relayed, Way};
use super::{gateway, http};
use crate::error::Refusal;
use crate::raft::{Addresses, PeerId, Standing};
use crate::stop::Stop;

/// Who comes while nobody leads waits this long for somebody to.
const ELECTION: Duration = Duration::from_secs(3);

/// How long the peer that leads may take to take a connection.
pub(super) const DIAL: Duration = Duration::from_secs(1);

/// A pause after an accept, or a dial, that failed.
const PAUSE: Duration = Duration::from_millis(50);

/// How often a relay looks whether this process stood still.
const TICK: Duration = Duration::from_millis(100);

/// It stood still for longer than a lease, so that others have gone on without it.
const PAUSED: Duration = Duration::from_secs(1);

/// What comes within this time after that came before it.
const BACKLOG: Duration = Duration::from_millis(50);

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
    /// And so is that of those who look for a Redis Sentinel.
    pub(super) sentinel_port: Option<u16>,
    pub(super) places: Arc<Semaphore>,
    /// Clients are told where to go instead.
    pub(super) redirect: Option<Redirect>,
    pub(super) relayed: Arc<Relayed>,
    /// What this peer answers by itself over HTTP, where it can read what is asked.
    pub(super) site: Option<Arc<http::Standby>>,
    pub(super) stop: Stop,
}

impl Relay {
    /// Takes connections while this peer does not serve, until the stop is requested.
    pub(super) async fn run(mut self, listener: TcpListener, way: Way) {
        let stop = self.stop.clone();
        let work = async {
            let (mut tick, mut ticked) = (interval(TICK), Instant::now());
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut refused_until = ticked;
            let mut serves = self.serves.clone();
            loop {
                if *serves.borrow_and_update() {
                    if serves.wait_for(|serves| !serves).await.is_err() {
                        return;
                    }
                    // Meanwhile nobody looked.
                    ticked = Instant::now();
                }
                let accepted = tokio::select! {
                    biased;
                    changed = serves.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                    _ = tick.tick() => {
                        if ticked.elapsed() > PAUSED {
                            refused_until = Instant::now() + BACKLOG;
                        }
                        ticked = Instant::now();
                        continue;
                    }
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    // Its client has most likely given up: what it asked for must not happen now.
                    Ok(_) if Instant::now() < refused_until => {}
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

    async fn carry(mut self, connection: TcpStream, way: Way) {
        if let (Some(redirect), Way::Clients | Way::Encrypted | Way::Sentinel) = (&self.redirect, way)
            && redirect.is_for(&self.standing.borrow())
        {
            return redirect.serve(connection, way).await;
        }
        let site = self.site.clone().filter(|_| way == Way::Http);
        let is_http = site.is_some();
        let (mut connection, read) = match site {
            None => (connection, Vec::new()),
            Some(site) => match site.answer(connection).await {
                Some(others) => others,
                None => return,
            },
        };
        let Ok((leader, mut onward)) = timeout(ELECTION, self.dial(way)).await else {
            let why = no_leader(&self.standing.borrow());
            if way == Way::Clients {
                let why = format!("{why}; nothing was written, try again");
                // LOADING: what clients of Redis know as a server that is not there yet.
                let redis = format!("LOADING {why}");
                gateway::part(connection, Refusal::Unavailable(why), redis).await;
            } else if is_http {
                http::part(connection, &why).await;
            }
            return;
        };
        let _counted = self.relayed.begin(way);
        let (_, _) = (connection.set_nodelay(true), onward.set_nodelay(true));
        let pass = async {
            onward.write_all(&read).await?;
            copy_bidirectional(&mut connection, &mut onward).await
        };
        tokio::select! {
            _ = pass => {}
            // That nobody is known to lead for a moment says nothing yet, and its addresses come a moment after it.
            _ = self.standing.wait_for(|standing| standing.leader.as_ref().is_some_and(|now| now.0 != leader.0)) => {}
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
        let own_port = match way {
            Way::Clients => None,
            Way::Encrypted => self.tls_port,
            Way::Sentinel => self.sentinel_port,
            Way::Nodes => return addresses.nodes.clone(),
            Way::Http => return addresses.http.clone().unwrap_or_default(),
        };
        match (own_port, addresses.clients.rsplit_once(':')) {
            (Some(port), Some((host, _))) => format!("{host}:{port}"),
            _ => addresses.clients.clone(),
        }
    }
}

/// Why nobody leads, or who leads cannot be reached.
pub(super) fn no_leader(standing: &Standing) -> String {
    let list = |peers: &BTreeSet<PeerId>| peers.iter().map(PeerId::to_string).collect::<Vec<_>>().join(",");
    let (reached, all) = (list(&standing.reachable), list(&standing.voters));
    match &standing.leader {
        Some((leader, _)) => format!("peer {leader} leads and cannot be reached"),
        None if all.is_empty() => "no leader: this one is of no group yet, and waits to be called".to_owned(),
        None => format!("no leader: peers {reached} of {all} can be reached"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn leads(peer: PeerId, clients: &str) -> Standing {
        let addresses = Addresses { clients: clients.to_owned(), ..Addresses::default() };
        Standing { leader: Some((peer, addresses)), voters: [1, 2, 3].into(), ..Standing::default() }
    }

    /// A relay of peer 1, with what makes others lead and this one serve, and a listener in the place of peer 2.
    async fn start() -> (watch::Sender<Standing>, watch::Sender<bool>, TcpListener, String, String) {
        let (upstream, own) =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let (there, here) = (address(&upstream), address(&own));
        let (tell, standing) = watch::channel(Standing::default());
        let (serve, serves) = watch::channel(false);
        let places = Arc::new(Semaphore::new(9));
        let relay = Relay {
            me: 1,
            standing,
            serves,
            tls_port: None,
            sentinel_port: None,
            places,
            redirect: None,
            relayed: Arc::default(),
            site: None,
            stop: Stop::new(),
        };
        tokio::spawn(relay.run(own, Way::Clients));
        (tell, serve, upstream, there, here)
    }

    async fn pass(from: &mut TcpStream, to: &mut TcpStream) {
        from.write_all(b"x").await.unwrap();
        let mut got = [0];
        timeout(PATIENCE, to.read_exact(&mut got)).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_connection_waits_for_a_leader_and_stays_until_another_one_leads() {
        let (tell, _serve, upstream, there, here) = start().await;
        let mut client = TcpStream::connect(&here).await.unwrap();
        tell.send_replace(leads(2, &there));
        let (mut leader, _) = timeout(PATIENCE, upstream.accept()).await.unwrap().unwrap();
        pass(&mut client, &mut leader).await;
        // For a moment nobody is known to lead, or it is known by other addresses.
        for standing in [Standing::default(), leads(2, "elsewhere:1"), leads(2, &there)] {
            tell.send_replace(standing);
            pass(&mut client, &mut leader).await;
            pass(&mut leader, &mut client).await;
        }
        tell.send_replace(leads(3, "elsewhere:1"));
        assert_eq!(timeout(PATIENCE, client.read(&mut [0])).await.unwrap().unwrap(), 0);
        assert_eq!(timeout(PATIENCE, leader.read(&mut [0])).await.unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn one_that_leads_and_does_not_serve_yet_is_not_given_its_own_connections() {
        let (tell, serve, upstream, there, here) = start().await;
        tell.send_replace(leads(1, &there));
        let _client = TcpStream::connect(&here).await.unwrap();
        assert!(timeout(PAUSE * 4, upstream.accept()).await.is_err());
        serve.send_replace(true);
        timeout(PATIENCE, upstream.accept()).await.unwrap().unwrap();
        // When that is over it relays again.
        serve.send_replace(false);
        tell.send_replace(leads(2, &there));
        let _next = TcpStream::connect(&here).await.unwrap();
        timeout(PATIENCE, upstream.accept()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn without_a_leader_a_client_hears_so_in_what_it_speaks() {
        let (tell, _serve, _upstream, _, here) = start().await;
        let of_group = Standing { voters: [1, 2, 3].into(), reachable: [1].into(), ..Standing::default() };
        let of_none = Standing { reachable: [1].into(), ..Standing::default() };
        for (standing, asks, hears) in [
            (&of_group, "GET x\n", "ERROR UNAVAILABLE no leader: peers 1 of 1,2,3"),
            (&of_group, "*1\r\n", "-LOADING no leader"),
            (&of_none, "GET x\n", "ERROR UNAVAILABLE no leader: this one is of no group yet"),
        ] {
            tell.send_replace(standing.clone());
            let mut client = TcpStream::connect(&here).await.unwrap();
            client.write_all(asks.as_bytes()).await.unwrap();
            let mut said = String::new();
            timeout(PATIENCE, client.read_to_string(&mut said)).await.unwrap().unwrap();
            assert!(said.starts_with(hears), "{said}");
        }
    }
}
