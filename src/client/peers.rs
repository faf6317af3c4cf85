//! Calls about the group of leaders.

use super::{Client, Error, after_word};
use crate::protocol::Command;
use crate::protocol::text::ReplyLine;
use crate::types::PeerId;

impl Client {
    /// The group of leaders: who leads, and how far the others are. Refused with `BAD_COMMAND` where there is one leader
    /// only.
    pub async fn peers(&mut self) -> Result<serde_json::Value, Error> {
        let reply = self.request(&Command::Peers).await?;
        match after_word(&reply, "").and_then(|json| serde_json::from_str(json).ok()) {
            Some(peers) => Ok(peers),
            None => Err(self.refused("a line of JSON or ERROR", reply)),
        }
    }

    /// Lets another leader process lead: this one, or whichever is ready for it. `Ok` means that it begins; connections
    /// end when it is done, within a second.
    pub async fn hand_over(&mut self, to: Option<PeerId>) -> Result<(), Error> {
        self.change_group(&Command::HandOver(to)).await
    }

    /// Takes a leader process into the group, which the others reach at `address`. `Ok` means that it has a vote. It may
    /// take longer than this client waits: it goes on then, and to ask again does no harm.
    pub async fn add_peer(&mut self, peer: PeerId, address: &str) -> Result<(), Error> {
        self.change_group(&Command::AddPeer { peer, address: address.to_owned() }).await
    }

    /// Takes a leader process off the group, for good. `Ok` means that the group has agreed on it; where it was the one that
    /// leads, connections end a moment later, when another one does.
    pub async fn remove_peer(&mut self, peer: PeerId) -> Result<(), Error> {
        self.change_group(&Command::RemovePeer(peer)).await
    }

    async fn change_group(&mut self, order: &Command) -> Result<(), Error> {
        match self.request(order).await? {
            ReplyLine::Ok => Ok(()),
            reply => Err(self.refused("OK or ERROR", reply)),
        }
    }
}
