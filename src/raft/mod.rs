//! A log that several leader processes keep in one order: entries are opaque bytes, appended by the one that leads,
//! on the disks of a majority before they are answered, and applied by all to a [`Machine`] of the caller's.
//!
//! The consensus itself is openraft's; here are its log (`log`), snapshots (`snapshot`, `machine`), network (`network`
//! and `port`, over gRPC in `grpc`), who is who (`identity`), and what it does not do: a leader whose disk hangs steps
//! down, a folder that was emptied is refused, and an append says whether it has surely not happened (`group`,
//! `upkeep`). Nothing here knows what an entry means.

mod calls;
mod changes;
mod convert;
mod founding;
mod group;
mod grpc;
mod identity;
mod leave;
mod led;
mod log;
mod machine;
mod network;
mod port;
mod recover;
mod removed;
mod runtime;
mod silence;
mod small;
mod snapshot;
mod start;
mod types;
mod upkeep;

use std::fmt::Debug;
use std::io;
use std::time::Duration;

pub use self::group::{Group, Led, NotAppended, NotDone, PeerStatus, Role, Standing, Status};
pub use self::grpc::{CallerCheck, Checked, GrpcPeers, PeersService};
pub use self::leave::read_alone;
pub use self::log::LONGEST_PAYLOAD;
pub use self::network::{Lane, PeerNetwork};
pub use self::port::Port;
pub use self::recover::recover_alone;
pub use self::start::NotOpened;
pub use self::types::PeerId;
use crate::durable::executor::Executor;

/// Messages and the service of `proto/peers.proto`.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all)]
pub mod proto {
    tonic::include_proto!("peers");
}

/// The engine.
type Raft = openraft::Raft<types::Types, machine::StateMachine>;

/// What the log's entries change.
pub trait Machine: Debug + Send + Sync + 'static {
    /// What applying an entry gives to whoever appended it.
    type Answer: Debug + Send + Sync + 'static;

    /// Applies an entry: in the order of the log, each committed one once since the last [`Self::reset`] (and the
    /// [`Self::restore`] after it), or since the start. It runs on the raft thread, and is to be quick.
    fn apply(&self, payload: &[u8]) -> Self::Answer;

    /// Goes back to nothing.
    fn reset(&self);

    /// From nothing to what a snapshot's records say. An error of an item has to be handed back.
    fn restore(&self, records: &mut dyn Iterator<Item = io::Result<Vec<u8>>>) -> io::Result<()>;

    /// An empty state beside the live one, to make a snapshot in.
    fn fold(&self) -> Box<dyn Fold>;
}

/// A state that a snapshot is made in: first the records of the snapshot before, then the entries since.
pub trait Fold: Send {
    /// Takes a record of the snapshot before.
    fn restore_record(&mut self, record: &[u8]) -> Result<(), String>;
    /// Applies an entry.
    fn apply(&mut self, payload: &[u8]);
    /// What the new snapshot has to hold.
    fn records(&mut self) -> Box<dyn Iterator<Item = Vec<u8>> + '_>;
}

/// Where a peer is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// By other peers.
    pub peer: String,
    /// By clients.
    pub clients: String,
    /// By nodes.
    pub nodes: String,
    /// By HTTP, if it is.
    pub http: Option<String>,
    /// Where clients are told to go, if that is elsewhere than `clients`, by which other peers reach it for them.
    pub advertised: Option<String>,
}

impl Addresses {
    /// Where clients are told to go; nothing: it is not known.
    pub fn for_clients(&self) -> Option<&str> {
        self.advertised.as_deref().or(Some(&*self.clients)).filter(|address| !address.is_empty())
    }
}

impl From<Addresses> for proto::Addresses {
    fn from(addresses: Addresses) -> Self {
        let Addresses { peer, clients, nodes, http, advertised } = addresses;
        Self { peer, clients, nodes, http: http.unwrap_or_default(), advertised: advertised.unwrap_or_default() }
    }
}

impl TryFrom<proto::Addresses> for Addresses {
    type Error = String;

    fn try_from(addresses: proto::Addresses) -> Result<Self, String> {
        let proto::Addresses { peer, clients, nodes, http, advertised } = addresses;
        // They end up before people, and in answers to clients.
        let bad = |text: &String| text.len() > 512 || text.chars().any(char::is_control);
        if [&peer, &clients, &nodes, &http, &advertised].into_iter().any(bad) {
            return Err("addresses that make no sense".to_owned());
        }
        let said = |text: String| Some(text).filter(|text| !text.is_empty());
        Ok(Self { peer, clients, nodes, http: said(http), advertised: said(advertised) })
    }
}

/// Where the engine's tasks run.
#[derive(Debug, Clone, Default)]
pub enum Runtime {
    /// On a thread of their own, so that load elsewhere makes no elections; disks have further threads.
    #[default]
    Own,
    /// On the runtime that opens the group, with this for its disk work: for simulations.
    Current(Executor),
}

/// How a peer behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its number.
    pub me: PeerId,
    /// Where it is reached.
    pub addresses: Addresses,
    /// Names this boot of the machine: [`Disk::boot_id`](crate::durable::Disk::boot_id).
    pub boot: String,
    /// How often who leads says so.
    pub heartbeat: Duration,
    /// How long nothing is heard of a leader before another is elected: between these.
    pub election: (Duration, Duration),
    /// A snapshot is made when the log file has grown by so much.
    pub snapshot_log_bytes: u64,
    /// How long a disk may hang, or a majority be silent, under a peer that leads.
    pub step_down_after: Duration,
    /// How long sending a snapshot may take.
    pub snapshot_timeout: Duration,
    /// It was told at this start to go on alone: [`recover_alone`].
    pub recovers: bool,
    /// Where its tasks run.
    pub runtime: Runtime,
}

impl Settings {
    /// As they should be on a network of one place.
    pub fn new(me: PeerId, addresses: Addresses, boot: String) -> Self {
        Self {
            me,
            addresses,
            boot,
            heartbeat: Duration::from_millis(100),
            election: (Duration::from_millis(300), Duration::from_millis(600)),
            snapshot_log_bytes: 64 << 20,
            step_down_after: Duration::from_secs(2),
            snapshot_timeout: Duration::from_secs(600),
            recovers: false,
            runtime: Runtime::Own,
        }
    }
}

#[cfg(test)]
mod tests;
