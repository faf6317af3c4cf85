//! The folders of a peer, and how a group comes to be in them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::sleep;

use super::Peers;
use crate::durable::{Disk, Folder};
use crate::leader::ledger::{IMPORTED, Replica, is_to_import};
use crate::leader::{GROUP_FOLDER, LOCK_FILE, METADATA_FOLDER, is_of_peer};
use crate::raft::{Group, Standing};
use crate::stop::Stop;

/// How often it is looked whether others can be added to a group of one.
const LOOK: Duration = Duration::from_millis(500);

/// The folders of a peer, which no other process has.
pub(super) struct Opened {
    /// That of an only leader's log.
    pub(super) metadata: Arc<dyn Folder>,
    /// The group's, in it.
    pub(super) folder: Arc<dyn Folder>,
    pub(super) lock: Box<dyn std::fmt::Debug + Send + Sync>,
}

/// Opens the folder of the log, which no other process may have, and the group's in it.
pub(super) fn open_folder(disk: &dyn Disk, data_dir: &Path, founds: bool) -> anyhow::Result<Opened> {
    let path = data_dir.join(METADATA_FOLDER);
    let shown = path.display();
    let usable = || format!("cannot use {shown}; check that the folder can be written and the disk is not full");
    let folder = disk.folder(&path).with_context(usable)?;
    let lock = folder.lock(LOCK_FILE).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => {
            anyhow::anyhow!("{shown} is in use by another leader: stop that one, or give this one another --data-dir")
        }
        _ => anyhow::Error::new(error).context(usable()),
    })?;
    let is_peer = is_of_peer(&folder.list().with_context(usable)?);
    ensure!(
        founds || is_peer || !is_to_import(&*folder).with_context(usable)?,
        "{shown} has the log of a leader that was the only one, which the peer takes over that founds the group: add --found, if this is that one, or give it an empty folder"
    );
    let group = disk.folder(&path.join(GROUP_FOLDER)).with_context(usable)?;
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
            while let Err(error) = group.add(*peer, address.clone()).await {
                tracing::debug!("peer {peer} is not of the group yet: {error}");
                sleep(LOOK).await;
            }
            tracing::info!("peer {peer} is of the group, and has all of its log");
        }
    };
    stop.unless(work).await;
}
