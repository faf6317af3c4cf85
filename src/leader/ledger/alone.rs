//! What one peer has of a register whose other peers are lost for good becomes the log of a new group.
//!
//! It may lack what the others had agreed on without it. So it is believed as little as no log at all: all nodes are heard
//! before anything is answered, and what they hold goes over it.

use std::sync::Arc;

use super::replica::{Folded, Replica};
use crate::cluster::knowledge::Trust;
use crate::durable::Folder;
use crate::leader::journal::Record;
use crate::raft;
use crate::types::{Epoch, IoMode, Leadership};

/// By so much the epoch jumps: the lost peers may have begun some of which this one knows nothing, and nodes heed the
/// highest. Far below what a node takes for nonsense.
const EPOCHS: u32 = 1000;

/// Makes the peer with this folder the only one of a new group, if its register is the cluster of this id; `false`: that was
/// done already. Blocks.
///
/// # Errors
/// Why it was not done; it may be begun anew.
pub fn recover_alone(
    replica: &Replica,
    folder: &Arc<dyn Folder>,
    settings: &raft::Settings,
    cluster: &str,
) -> Result<bool, String> {
    raft::recover_alone(folder, settings, replica.folded(), |folded| distrust(folded, replica.run(), cluster))
}

fn distrust(Folded(reading): &mut Folded, run: u64, cluster: &str) -> Result<(), String> {
    let last = reading.state.last().ok_or("there is no register in its folder yet")?;
    if last.cluster_id.to_string() != cluster {
        return Err(format!(
            "its folder is that of cluster {}, in epoch {}, with {} messages; if no other peer has more, say --recover-alone {}",
            last.cluster_id,
            last.epoch,
            reading.state.mapping().len(),
            last.cluster_id
        ));
    }
    let epoch = last.epoch.0.checked_add(EPOCHS).map(Epoch).ok_or("the epochs of this cluster are used up")?;
    let leadership = Leadership { cluster_id: last.cluster_id, epoch };
    let (boot_id, io_mode) = (String::new(), IoMode::Unbuffered);
    reading.take(Record::Began { leadership, run, boot_id, io_mode, trust: Trust::Nothing });
    Ok(())
}
