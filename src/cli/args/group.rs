//! The flags of a leader that is one of several, and of how clients find the one that leads.

use anyhow::ensure;
use clap::Args;
use clap::builder::BoolishValueParser as YesOrNo;

use super::super::values::{Peers, master_name, own_address, peers};
use crate::leader;

#[derive(Debug, Args)]
pub(in crate::cli) struct GroupArgs {
    /// This leader's number among --peers
    #[arg(long, env = "HATOKUSE_PEER", value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    peer: Option<u64>,
    /// All leaders of the register, each with where the others reach it: 1=host:5560,2=host:5560,3=host:5560. One of them leads; when it
    /// dies another one does
    #[arg(long, env = "HATOKUSE_PEERS", value_parser = peers, value_name = "N=HOST:PORT,...")]
    peers: Option<Peers>,
    /// Found the group of leaders that --peers names: once, on one of them, with empty folders
    #[arg(long, env = "HATOKUSE_FOUND", value_parser = YesOrNo::new())]
    found: bool,
    /// The last resort when most leaders are lost for good: this one goes on without them, with what it has (any word: says which
    /// cluster it has, and changes nothing)
    #[arg(long, env = "HATOKUSE_RECOVER_ALONE", conflicts_with = "found", value_name = "CLUSTER-ID")]
    recover_alone: Option<String>,
    /// Be the only leader again, where a group of leaders has this one left: takes over what the group has, and keeps its files. Without
    /// --peer and --peers
    #[arg(long, env = "HATOKUSE_LEAVE_GROUP", value_parser = YesOrNo::new())]
    leave_group: bool,
    /// What a leader of --peers that does not lead does with clients: relay passes their bytes on to the one that leads, redirect tells
    /// them where it is
    #[arg(long, env = "HATOKUSE_STANDBY", default_value = "relay", value_name = "relay|redirect")]
    standby: leader::Standby,
    /// Where clients are told that this leader is, by SENTINEL and the like [default: the host that --peers names, or the address that
    /// they came by, and the port for clients]
    #[arg(long, env = "HATOKUSE_ADVERTISE_CLIENTS", value_parser = own_address, value_name = "HOST:PORT")]
    advertise_clients: Option<String>,
    /// A port more for clients, on which ROLE says sentinel, for those that ask it of whom they ask for the leader (redis-rs); with TLS if
    /// --port is off; the same on all leaders (0: any free one)
    #[arg(long, env = "HATOKUSE_SENTINEL_PORT", value_name = "PORT")]
    sentinel_port: Option<u16>,
    /// The name by which clients ask for the leader as they ask Redis Sentinel
    #[arg(long, env = "HATOKUSE_MASTER_NAME", default_value = "hatokuse", value_parser = master_name, value_name = "NAME")]
    master_name: String,
}

impl GroupArgs {
    /// The number among the leaders; that of an only one is 1.
    pub(super) fn number(&self) -> u32 {
        self.peer.map_or(1, |peer| peer as u32)
    }

    pub(super) fn is_advertised(&self) -> bool {
        self.advertise_clients.is_some()
    }

    pub(super) fn sentinel_port(&self) -> Option<u16> {
        self.sentinel_port
    }

    pub(super) fn leaves(&self) -> bool {
        self.leave_group
    }

    pub(super) fn peers(&self) -> anyhow::Result<Option<leader::peer::Peers>> {
        // Not by the parser: it takes what stands in a settings file for a default, which needs nothing and is not there.
        let is_one_of_several = self.found || self.recover_alone.is_some();
        ensure!(
            self.peer.is_some() == self.peers.is_some() && (self.peer.is_some() || !is_one_of_several),
            "--peer, --peers, --found and --recover-alone go together: give the number of this leader, and where all of them are reached"
        );
        ensure!(
            !self.leave_group || self.peer.is_none(),
            "--leave-group makes this leader the only one: leave --peer and --peers away"
        );
        let start = match &self.recover_alone {
            Some(cluster) => leader::peer::Start::RecoversAlone(cluster.clone()),
            None if self.found => leader::peer::Start::Founds,
            None => leader::peer::Start::Joins,
        };
        let peers = self.peer.zip(self.peers.as_ref());
        peers.map(|(me, all)| leader::peer::Peers::new(me, &all.0, start)).transpose()
    }

    pub(super) fn sentinel(&self) -> leader::SentinelSettings {
        leader::SentinelSettings {
            master_name: self.master_name.clone(),
            advertise: self.advertise_clients.clone(),
            standby: self.standby,
        }
    }
}
