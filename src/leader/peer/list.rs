//! Which leader processes there are, as an operator names them.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};

use crate::raft::PeerId;

/// The leader processes of a register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peers {
    /// Which of them this is.
    pub me: PeerId,
    /// Where each is reached by the others.
    pub all: BTreeMap<PeerId, String>,
    /// How this one comes to the group.
    pub start: Start,
}

/// How a peer comes to the group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Start {
    /// It is of it, or waits to be called.
    #[default]
    Joins,
    /// It founds it: once, one of them does.
    Founds,
    /// Most of the others are lost for good: it goes on without them, where its register has this cluster id.
    RecoversAlone(String),
}

impl Peers {
    /// Reads `1=host:port,2=host:port,...`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(me: PeerId, list: &[(PeerId, String)], start: Start) -> anyhow::Result<Self> {
        let all: BTreeMap<PeerId, String> = list.iter().cloned().collect();
        ensure!(all.len() == list.len(), "--peers names a number twice");
        let mut addresses: Vec<&String> = all.values().collect();
        addresses.sort();
        addresses.dedup();
        ensure!(addresses.len() == all.len(), "--peers names an address twice");
        ensure!(all.contains_key(&me), "--peer {me} is not among --peers");
        ensure!(
            all.len() == 1 || !matches!(start, Start::RecoversAlone(_)),
            "--recover-alone leaves all other peers behind: --peers is to name this one alone"
        );
        Ok(Self { me, all, start })
    }

    pub(super) fn address(&self) -> &str {
        self.all.get(&self.me).map_or("", String::as_str)
    }

    /// The host by which others reach this machine.
    pub(super) fn host(&self) -> &str {
        self.address().rsplit_once(':').map_or("", |(host, _)| host)
    }

    pub(super) fn port(&self) -> anyhow::Result<u16> {
        let port = self.address().rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        port.with_context(|| format!("{} of --peers is no HOST:PORT", self.address()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_every_peer_once_and_this_one() {
        let list = |text: &str| -> Vec<(PeerId, String)> {
            let one = |part: &str| part.split_once('=').map(|(id, at)| (id.parse().unwrap(), at.to_owned()));
            text.split(',').filter_map(one).collect()
        };
        let peers = Peers::new(2, &list("1=a:1,2=[::1]:2,3=c:3"), Start::Founds).unwrap();
        assert_eq!((peers.address(), peers.host(), peers.port().unwrap()), ("[::1]:2", "[::1]", 2));
        for (text, why) in [
            ("1=a:1,2=b:2,1=c:3", "names a number twice"),
            ("1=a:1,2=a:1", "names an address twice"),
            ("1=a:1,3=c:3", "--peer 2 is not among --peers"),
        ] {
            let refused = Peers::new(2, &list(text), Start::Joins).unwrap_err().to_string();
            assert!(refused.contains(why), "{text}: {refused}");
        }
        let alone = |text: &str| Peers::new(2, &list(text), Start::RecoversAlone("id".to_owned()));
        assert!(alone("2=b:2").is_ok() && alone("1=a:1,2=b:2").is_err());
    }
}
