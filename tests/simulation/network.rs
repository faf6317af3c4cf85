//! A network in memory, behind the same seam as gRPC: seeded delays, links that can be cut, processes that die.
//!
//! Frames of a lane keep their order and arrive late; a cut or a death breaks the lane and loses what was on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use hatokuse::leader::coordinator::Coordinator;
use hatokuse::leader::membership::Membership;
use hatokuse::node::{Node, lane_queue};
use hatokuse::types::NodeId;
use hatokuse::wire::family::{HeartbeatRequest, HeartbeatResponse, RegisterNodeRequest, RegisterNodeResponse};
use hatokuse::wire::{LANE_FRAMES, Lane, LeaderPort, Network};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::peer_net::Peers;

/// Cancelled when the process is killed. What it does after that nobody sees.
pub(crate) type Life = CancellationToken;

/// Where the first leader is.
pub(crate) const FIRST: &str = "leader";

/// How often it is looked whether somebody who is paused goes on.
pub(crate) const STALL_LOOK: Duration = Duration::from_millis(20);

/// A dial into a cut fails after this long, as the real one does.
const DIAL: Duration = Duration::from_secs(2);

/// A running leader, as others meet it.
#[derive(Debug, Clone)]
pub(crate) struct LeaderHere {
    /// Where it is: two leaders are on two machines.
    pub(crate) home: String,
    pub(crate) coordinator: Arc<Coordinator>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) life: Life,
}

/// The whole network; clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Net(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    chance: fastrand::Rng,
    leader: Option<LeaderHere>,
    /// Another one, from a copy of its folder, and whether the next request is for that.
    second: Option<LeaderHere>,
    turn: bool,
    /// The nodes whose leader's address leads to the second one.
    follow_second: BTreeSet<String>,
    /// A leader and a node between which everything is lost.
    apart: BTreeSet<(String, String)>,
    nodes: BTreeMap<String, (Arc<Node>, Life)>,
    /// Links of nodes, by address, on which everything is lost in this direction.
    cut: BTreeSet<(String, Way)>,
    /// Those on which nothing moves; a leader stands for all of its.
    stalled: BTreeSet<String>,
    /// Where several leaders make a group: they, instead of the first and second.
    peers: Peers,
}

/// A direction on the link of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    ToNode,
    FromNode,
    Both,
}

impl Net {
    pub(crate) fn new(chance: fastrand::Rng) -> Self {
        let (nodes, cut, stalled) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self(Arc::new(Mutex::new(State {
            chance,
            leader: None,
            second: None,
            turn: false,
            follow_second: BTreeSet::new(),
            apart: BTreeSet::new(),
            nodes,
            cut,
            stalled,
            peers: Peers::default(),
        })))
    }

    pub(crate) fn leader(&self) -> Option<LeaderHere> {
        if self.with_peers(|peers| peers.are_there()) {
            return self.leading().map(|(_, here)| here);
        }
        self.0.lock().unwrap().leader.clone()
    }

    pub(crate) fn with_peers<T>(&self, look: impl FnOnce(&mut Peers) -> T) -> T {
        look(&mut self.0.lock().unwrap().peers)
    }

    pub(crate) fn chance(&self, below: u64) -> u64 {
        self.0.lock().unwrap().chance.u64(..below)
    }

    /// Another leader, if there is one.
    pub(crate) fn second(&self) -> Option<LeaderHere> {
        self.0.lock().unwrap().second.clone()
    }

    pub(crate) fn set_second(&self, second: Option<LeaderHere>) {
        let mut state = self.0.lock().unwrap();
        if second.is_none() {
            state.follow_second.clear();
            state.apart.clear();
        }
        state.second = second;
    }

    /// The leader that a client asks: where there are two, one after the other; where there is a group, the one that any of
    /// the peers brings it to.
    pub(crate) fn either(&self) -> Option<LeaderHere> {
        let mut state = self.0.lock().unwrap();
        if state.peers.are_there() {
            let nth = state.chance.usize(..);
            return state.peers.by(nth);
        }
        state.turn = !state.turn && state.second.is_some();
        if state.turn { state.second.clone() } else { state.leader.clone() }
    }

    /// From its next registration on the node goes to the second leader.
    pub(crate) fn send_to_second(&self, address: &str) {
        self.0.lock().unwrap().follow_second.insert(address.to_owned());
    }

    /// From its next registration on the node goes to the first leader again, and nothing between the two is lost.
    pub(crate) fn send_to_first(&self, leader: &str, node: &str) {
        let mut state = self.0.lock().unwrap();
        state.follow_second.remove(node);
        state.apart.remove(&(leader.to_owned(), node.to_owned()));
    }

    /// Everything between this leader and this node is lost.
    pub(crate) fn part(&self, leader: &str, node: &str) {
        self.0.lock().unwrap().apart.insert((leader.to_owned(), node.to_owned()));
    }

    /// The leader that a node meets at this address.
    fn leader_of(&self, node: &str, address: &str) -> Option<LeaderHere> {
        let state = self.0.lock().unwrap();
        if state.peers.are_there() {
            return state.peers.at(address);
        }
        if state.follow_second.contains(node) { state.second.clone() } else { state.leader.clone() }
    }

    pub(crate) fn set_leader(&self, leader: Option<LeaderHere>) {
        self.0.lock().unwrap().leader = leader;
    }

    pub(crate) fn set_node(&self, address: &str, node: Option<(Arc<Node>, Life)>) {
        let nodes = &mut self.0.lock().unwrap().nodes;
        match node {
            Some(node) => nodes.insert(address.to_owned(), node),
            None => nodes.remove(address),
        };
    }

    pub(crate) fn node(&self, address: &str) -> Option<Arc<Node>> {
        self.0.lock().unwrap().nodes.get(address).map(|(node, _)| node.clone())
    }

    pub(crate) fn cut(&self, address: &str, way: Way) {
        self.0.lock().unwrap().cut.insert((address.to_owned(), way));
    }

    pub(crate) fn stall(&self, address: &str) {
        self.0.lock().unwrap().stalled.insert(address.to_owned());
    }

    /// Nobody is there any more: what is there knows the network, and would keep it for ever.
    pub(crate) fn empty(&self) {
        let mut state = self.0.lock().unwrap();
        let left = (state.leader.take(), state.second.take(), std::mem::take(&mut state.nodes), state.peers.take());
        drop(state);
        drop(left);
    }

    /// Everything carries again; what was held up moves on.
    pub(crate) fn heal(&self) {
        let mut state = self.0.lock().unwrap();
        state.cut.clear();
        state.apart.clear();
        state.stalled.clear();
        state.peers.heal();
    }

    /// Waits until whoever is behind this address goes on.
    pub(crate) async fn wait_while_stalled(&self, address: &str) {
        while self.0.lock().unwrap().stalled.contains(address) {
            sleep(STALL_LOOK).await;
        }
    }

    /// One way over the link of a node; `false`: it was cut, and what travelled is lost.
    async fn travel(&self, leader: &str, node: &str, way: Way) -> bool {
        let delay = self.0.lock().unwrap().chance.u64(0..=4);
        sleep(Duration::from_millis(delay)).await;
        self.wait_while_stalled(node).await;
        self.wait_while_stalled(leader).await;
        let state = self.0.lock().unwrap();
        ![way, Way::Both].iter().any(|way| state.cut.contains(&(node.to_owned(), *way)))
            && !state.apart.contains(&(leader.to_owned(), node.to_owned()))
    }

    /// There and back, as a dial goes.
    async fn reaches(&self, leader: &str, node: &str) -> bool {
        self.travel(leader, node, Way::ToNode).await && self.travel(leader, node, Way::FromNode).await
    }

    /// Carries frames one way, until an end lets go, a process dies or the link is cut.
    fn pump<T: Send + 'static>(
        &self,
        (leader, node, way): (&str, &str, Way),
        lives: [Life; 2],
        mut from: mpsc::Receiver<T>,
        to: mpsc::Sender<T>,
    ) {
        let (net, leader, node) = (self.clone(), leader.to_owned(), node.to_owned());
        tokio::spawn(async move {
            let carry = async {
                loop {
                    let frame = tokio::select! {
                        biased;
                        () = to.closed() => return,
                        frame = from.recv() => frame,
                    };
                    let Some(frame) = frame else { return };
                    if !net.travel(&leader, &node, way).await || to.send(frame).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                biased;
                () = lives[0].cancelled() => {}
                () = lives[1].cancelled() => {}
                () = carry => {}
            }
        });
    }
}

/// The network as one process sees it.
#[derive(Debug, Clone)]
pub(crate) struct Plug {
    pub(crate) net: Net,
    /// Its own address.
    pub(crate) home: String,
    pub(crate) life: Life,
}

impl Network for Plug {
    fn open_lane(&self, _: NodeId, address: String) -> BoxFuture<'static, io::Result<Lane>> {
        let plug = self.clone();
        Box::pin(async move {
            if plug.life.is_cancelled() || !plug.net.reaches(&plug.home, &address).await {
                sleep(DIAL).await;
                return Err(io::ErrorKind::TimedOut.into());
            }
            let node = plug.net.0.lock().unwrap().nodes.get(&address).cloned();
            let (node, life) = node.ok_or(io::ErrorKind::ConnectionRefused)?;
            let lives = [plug.life.clone(), life];
            let (frames_out, sent) = mpsc::channel(LANE_FRAMES);
            let (arrive, arrived) = mpsc::channel(LANE_FRAMES);
            let (reply, replies) = lane_queue();
            let (answer, frames_in) = mpsc::channel(LANE_FRAMES);
            plug.net.pump((&plug.home, &address, Way::ToNode), lives.clone(), sent, arrive);
            plug.net.pump((&plug.home, &address, Way::FromNode), lives, replies, answer);
            tokio::spawn(node.serve_lane(ReceiverStream::new(arrived), reply));
            Ok(Lane { frames_out, frames_in })
        })
    }

    fn leader(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn LeaderPort>>> {
        let plug = self.clone();
        Box::pin(async move {
            let leader = plug.net.leader_of(&plug.home, &address);
            let home = leader.map_or_else(|| FIRST.to_owned(), |leader| leader.home);
            if plug.life.is_cancelled() || !plug.net.reaches(&home, &plug.home).await {
                sleep(DIAL).await;
                return Err(io::ErrorKind::TimedOut.into());
            }
            let leader = plug.net.leader_of(&plug.home, &address).ok_or(io::ErrorKind::ConnectionRefused)?;
            Ok(Box::new(Port { plug, leader }) as Box<dyn LeaderPort>)
        })
    }
}

#[derive(Debug)]
struct Port {
    plug: Plug,
    leader: LeaderHere,
}

impl Port {
    /// There, `answer`, and back. A caller that goes away takes the call with it, as gRPC does.
    async fn call<T>(&self, answer: impl Future<Output = T>) -> io::Result<T> {
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        let there_and_back = async {
            if !self.plug.net.travel(&self.leader.home, &self.plug.home, Way::FromNode).await {
                return Err(reset());
            }
            let answer = answer.await;
            if self.plug.net.travel(&self.leader.home, &self.plug.home, Way::ToNode).await {
                Ok(answer)
            } else {
                Err(reset())
            }
        };
        tokio::select! {
            biased;
            () = self.plug.life.cancelled() => Err(reset()),
            () = self.leader.life.cancelled() => Err(reset()),
            answer = there_and_back => answer,
        }
    }
}

impl LeaderPort for Port {
    fn register(&mut self, request: RegisterNodeRequest) -> BoxFuture<'_, io::Result<RegisterNodeResponse>> {
        Box::pin(self.call(self.leader.membership.register(request, Ipv4Addr::LOCALHOST.into())))
    }

    fn beat(&mut self, request: HeartbeatRequest) -> BoxFuture<'_, io::Result<HeartbeatResponse>> {
        let membership = &self.leader.membership;
        Box::pin(self.call(async move { membership.beat(&request) }))
    }
}
