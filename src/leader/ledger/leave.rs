//! The log of a group that has one peer left becomes that of a leader that is the only one, as it was before there was a
//! group.
//!
//! In an order in which it can be begun anew wherever it breaks off: the log is made whole beside, named, and only then the
//! group is put aside, which until then has the folder for its own. In between a peer that is started there takes the log
//! for one to take over, which has what it has.

use std::io;
use std::sync::Arc;

use super::replica::Replica;
use crate::durable::Folder;
use crate::leader::journal;
use crate::raft;

/// What a group's folder is called when it was left; later ones have a number behind it.
const LEFT: &str = "group.left";

/// Groups that one folder was of, at most.
const MOST_LEFT: u32 = 1000;

/// What a leader goes on with that has left its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// How many messages there are.
    pub messages: u64,
    /// Where the group's files are kept, which nothing needs any more.
    pub kept: String,
}

/// Makes the folder of a group's only peer that of an only leader. `metadata` has the group's folder `group` under the name
/// `group_name`, and neither is in use. Blocks.
///
/// # Errors
/// Why it was not done; it may be begun anew.
pub fn leave_group(
    replica: &Replica,
    metadata: &Arc<dyn Folder>,
    (group_name, group): (&str, &Arc<dyn Folder>),
    boot_id: &str,
) -> Result<Left, String> {
    let folded = raft::read_alone(group, boot_id.to_owned(), replica.folded())?;
    let reading = folded.0;
    let messages = reading.state.mapping().len();
    if reading.state.last().is_none() {
        return Err("there is no register in its folder yet: start a leader with an empty one".to_owned());
    }
    let failed = |error: io::Error| format!("the log cannot be put in place: {error}; try it again");
    let records = journal::live_records(&reading, reading.believed());
    journal::replace(metadata, records).map_err(|error| format!("{error}; try it again"))?;
    let names: Vec<String> = metadata.list().map_err(failed)?.into_iter().map(|listed| listed.name).collect();
    let name = |number| if number == 1 { LEFT.to_owned() } else { format!("{LEFT}.{number}") };
    let is_free = |name: &String| !names.contains(name);
    let kept = (1..MOST_LEFT).map(name).find(is_free).ok_or("there are far too many groups that were left")?;
    metadata.rename(group_name, &kept).and_then(|()| metadata.sync()).map_err(failed)?;
    Ok(Left { messages, kept })
}

#[cfg(test)]
#[path = "leave_tests.rs"]
mod tests;
