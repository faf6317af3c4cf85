//! The folders of a peer, and how a group comes to be in them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use tokio::time::sleep;

use super::Peers;
use crate::clock::SystemClock;
use crate::durable::os::OsDisk;
use crate::durable::{Disk, Folder};
use crate::leader::ledger::{IMPORTED, Replica, is_to_import, leave_group, recover_alone};
use crate::leader::{FolderLock, GROUP_FOLDER, METADATA_FOLDER, OpenError, is_of_peer, lock};
use crate::raft::{self, Group, Standing};
use crate::stop::Stop;

/// How often it is looked whether others can be added to a group of one.
const LOOK: Duration = Duration::from_millis(500);

/// The folders of a peer, which no other process has.
pub(super) struct Opened {
    /// That of an only leader's log.
    pub(super) metadata: Arc<dyn Folder>,
    /// The group's, in it.
    pub(super) folder: Arc<dyn Folder>,
    pub(super) lock: FolderLock,
}

/// Opens the folder of the log, which no other process may have, and the group's in it.
pub(super) fn open_folder(disk: &dyn Disk, data_dir: &Path, founds: bool) -> anyhow::Result<Opened> {
    let path = data_dir.join(METADATA_FOLDER);
    let shown = path.display().to_string();
    let failed = |error: OpenError| error.of(shown.clone());
    let unusable = |error| failed(OpenError::Folder(error));
    let (folder, lock) = lock(disk, &path).map_err(failed)?;
    let is_peer = is_of_peer(&folder.list().map_err(unusable)?);
    ensure!(
        founds || is_peer || !is_to_import(&*folder).map_err(unusable)?,
        "{shown} has the log of a leader that was the only one, which the peer takes over that founds the group: add --found, if this is that one, or give it an empty folder"
    );
    let group = disk.folder(&path.join(GROUP_FOLDER)).map_err(unusable)?;
    Ok(Opened { metadata: folder, folder: group, lock })
}

/// Founds the group: of all its peers, or, where there is a log to take over, of this one until it is done.
pub(super) async fn found(group: &Group<Replica>, peers: &Peers, metadata: &dyn Folder) -> anyhow::Result<()> {
    let mut members = peers.all.clone();
    if is_to_import(metadata)? {
        members.retain(|peer, _| *peer == peers.me);
    }
    let founded = group.found(members).await;
    founded
        .context("--found is for one peer, once: if another one has founded the group, start this one without it")?;
    tracing::info!("this peer has founded the group of leaders; the others join it as they come");
    Ok(())
}

/// Lets this peer go on without the others, which are lost for good; once, however often it is told to.
pub(super) fn recover(
    replica: &Replica,
    folder: &Arc<dyn Folder>,
    settings: &raft::Settings,
    cluster: &str,
) -> anyhow::Result<()> {
    let done = recover_alone(replica, folder, settings, cluster);
    let done = done.map_err(|why| anyhow!("this peer does not go on alone: {why}"))?;
    match done {
        true => tracing::warn!(
            "this peer goes on alone, in a new group, with what it had; all nodes are heard before answers are given. The folders of the other peers are refused from here on: add new peers with empty folders (PEER ADD), and start this one without --recover-alone"
        ),
        false => tracing::warn!(
            "this peer goes on alone since an earlier start: --recover-alone does nothing any more, take it away"
        ),
    }
    Ok(())
}

/// Has a leader that is to be the only one go on with what the group has of which only it is left; once, however often it is
/// told to.
///
/// # Errors
/// Why it does not; nothing was lost by it.
pub(in crate::leader) fn leave(data_dir: &Path) -> anyhow::Result<()> {
    let disk = OsDisk::new();
    let path = data_dir.join(METADATA_FOLDER);
    let shown = path.display().to_string();
    let failed = |error: OpenError| error.of(shown.clone());
    let unusable = |error| failed(OpenError::Folder(error));
    let (folder, _lock) = lock(&disk, &path).map_err(failed)?;
    let is_peer = is_of_peer(&folder.list().map_err(unusable)?);
    if !is_peer {
        tracing::warn!("this leader is of no group, or has left it before: --leave-group does nothing, take it away");
        return Ok(());
    }
    let group = disk.folder(&path.join(GROUP_FOLDER)).map_err(unusable)?;
    let replica = Replica::new(&mut fastrand::Rng::new(), Arc::new(SystemClock), Stop::new());
    let left = leave_group(&replica, &folder, (GROUP_FOLDER, &group), &disk.boot_id());
    let left = left.map_err(|why| anyhow!("this peer does not leave its group: {why}"))?;
    tracing::warn!(
        "this leader has left its group and is the only one from here on, with {} messages; what the group was is kept as {}, which nothing needs any more. Take --leave-group away",
        left.messages,
        left.kept
    );
    Ok(())
}

/// Adds the other peers to a group that has taken over the log of an only leader.
pub(super) async fn grow(group: Group<Replica>, peers: Peers, metadata: Arc<dyn Folder>, stop: Stop) {
    if peers.all.len() == 1 {
        return;
    }
    let work = async {
        let mut standing = group.leading();
        let alone = |standing: &Standing| standing.leads.is_some() && standing.voters.len() == 1;
        loop {
            if standing.wait_for(alone).await.is_err() {
                return;
            }
            let has_imported = metadata.open(IMPORTED).is_ok() && is_to_import(&*metadata).is_ok_and(|is| !is);
            if has_imported {
                break;
            }
            sleep(LOOK).await;
        }
        for (peer, address) in peers.all.iter().filter(|(peer, _)| **peer != peers.me) {
            // One that was removed since stands in the list until somebody takes it out.
            let is_removed = || group.status().removed.contains(peer);
            while !is_removed()
                && let Err(error) = group.add(*peer, address.clone()).await
            {
                tracing::debug!("peer {peer} is not of the group yet: {error}");
                sleep(LOOK).await;
            }
            if !is_removed() {
                tracing::info!("peer {peer} is of the group, and has all of its log");
            }
        }
    };
    stop.unless(work).await;
}
