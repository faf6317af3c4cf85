//! The last resort where most of a group is lost for good: one peer goes on alone, in a new group, with what its own
//! snapshot and log hold, whether a majority had agreed on it or not.
//!
//! The other folders are of another group from then on, and are refused. It is done in an order in which it can be begun
//! anew wherever it breaks off: until the last step the folder belongs to a new group that nobody leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::machine::Applied;
use super::start::{self, Read};
use super::types::{EntryPayload, LeaderId, LogId, Member, Membership, StoredMembership, Vote};
use super::{Fold, Settings, log, machine, snapshot};
use crate::durable::Folder;
use crate::types::Uuid;

/// A snapshot while it is made.
const MADE: &str = "snapshot.alone";

/// Makes a peer whose folder is not in use the only one of a new group; `false`: it was done already, and this peer has not
/// been started without being told to since. `finish` looks at what there is, and refuses before anything is changed.
///
/// Blocks.
///
/// # Errors
/// Why it was not done. It may be begun anew.
pub fn recover_alone<F: Fold>(
    folder: &Arc<dyn Folder>,
    settings: &Settings,
    mut fold: F,
    finish: impl FnOnce(&mut F) -> Result<(), String>,
) -> Result<bool, String> {
    let Read { opened, identity, snapshots } = start::read(settings, folder)?;
    if identity.is_alone() {
        return Ok(false);
    }
    if identity.group().is_none() {
        return Err("this peer was never of a group: there is nothing to go on with".to_owned());
    }
    let before = snapshots.current();
    let covered = before.as_ref().map(|before| before.last.index);
    let rest = || opened.memory.entries.iter().filter(|entry| Some(entry.log_id.index) > covered);
    machine::replay(&mut fold, before.as_deref(), rest())?;
    finish(&mut fold)?;
    let last = opened.memory.last().ok_or("the log of this peer is empty: there is nothing to go on with")?;
    let voted = opened.memory.vote.map_or(0, |vote| vote.leader_id.term);
    let leader = LeaderId { term: last.leader_id.term.max(voted) + 1, node_id: settings.me };
    let at = LogId { leader_id: leader, index: last.index + 1 };
    let me = Member { address: settings.addresses.peer.clone(), folder: Some(identity.folder) };
    let alone = Membership::new(vec![BTreeSet::from([settings.me])], BTreeMap::from([(settings.me, me)]));
    let alone = StoredMembership::new(Some(at), alone.map_err(|error| error.to_string())?);
    let failed = |what: &'static str| move |error: std::io::Error| format!("{what} failed: {error}; try it again");
    identity.begin_anew(Uuid::random(&mut fastrand::Rng::new())).map_err(failed("writing the new group"))?;
    log::write_vote(&**folder, &Vote::new(leader.term, settings.me)).map_err(failed("writing the vote"))?;
    let mut known = before.as_deref().map(Applied::of).unwrap_or_default();
    for entry in rest() {
        if let EntryPayload::Membership(members) = &entry.payload {
            known.take_members(entry.log_id, members.clone());
        }
    }
    let made = snapshot::write(&**folder, MADE, (at, &alone, &known.removed), &mut fold.records());
    let made = made.map_err(failed("writing what goes on"))?;
    snapshots.put(Arc::new(made)).map_err(failed("naming what goes on"))?;
    identity.note_alone().map_err(failed("writing that it is done"))?;
    Ok(true)
}
