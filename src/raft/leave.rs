//! The only peer of a group leaves it: what its snapshot and log hold is handed to whoever goes on without a group.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::start::{self, Read};
use super::types::{EntryPayload, Membership, PeerId};
use super::{Addresses, Fold, Settings, identity, machine};
use crate::durable::Folder;

/// Has `fold` take all that a peer holds whose folder is not in use, where its group is this peer alone: all of it was
/// agreed on then, and nobody else has agreed on more. Nothing is changed but what a start of the peer changes.
///
/// Blocks.
///
/// # Errors
/// Why the peer cannot leave; for people.
pub fn read_alone<F: Fold>(folder: &Arc<dyn Folder>, boot: String, mut fold: F) -> Result<F, String> {
    const NEVER: &str = "this peer was never of a group: there is nothing to go on with";
    let me = identity::peer_of(&**folder)?.ok_or(NEVER)?;
    let Read { opened, identity, snapshots } = start::read(&Settings::new(me, Addresses::default(), boot), folder)?;
    if identity.group().is_none() {
        return Err(NEVER.to_owned());
    }
    if identity.is_removed() {
        return Err("this peer was removed from its group, which goes on without it: what it has is old".to_owned());
    }
    let before = snapshots.current();
    let covered = before.as_ref().map(|before| before.last.index);
    let rest = || opened.memory.entries.iter().filter(|entry| Some(entry.log_id.index) > covered);
    let known = before.as_ref().map(|before| before.members.membership().clone()).unwrap_or_default();
    let last = rest().fold(known, |known, entry| match &entry.payload {
        EntryPayload::Membership(members) => members.clone(),
        _ => known,
    });
    is_alone(&last, me)?;
    machine::replay(&mut fold, before.as_deref(), rest())?;
    Ok(fold)
}

/// Whether nobody else has a vote, or may be about to get one.
fn is_alone(members: &Membership, me: PeerId) -> Result<(), String> {
    let others: BTreeSet<PeerId> = members.nodes().map(|(peer, _)| *peer).filter(|peer| *peer != me).collect();
    if !members.voter_ids().any(|voter| voter == me) {
        return Err(format!("peer {me} has no vote in its group: only the last one that has can leave it"));
    }
    if !others.is_empty() {
        let list = others.iter().map(PeerId::to_string).collect::<Vec<_>>().join(", ");
        return Err(format!("its group has other peers ({list}): start it as a peer, and PEER REMOVE them first"));
    }
    Ok(())
}
