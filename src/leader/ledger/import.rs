//! The log of a leader that was the only one becomes that of a group: once, by the peer that founds it.
//!
//! Everything that is true by the file is appended to the group's log, in the name of the file's last epoch. Meanwhile
//! the group is this peer alone, so that nobody else is elected with a part of it; the others come when it is done.
//! The file is kept beside, under another name, and a file that no build takes for a log has its place: one from before
//! groups would begin anew with an empty one.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::agreed::Agreed;
use super::replica::Replica;
use crate::cluster::knowledge::Trust;
use crate::cluster::state::Event;
use crate::durable::Folder;
use crate::durable::executor::Executor;
use crate::leader::journal::{self, LOG_FILE, Record, Recovered, encode_event};
use crate::types::Leadership;

/// What the file is called afterwards.
pub const IMPORTED: &str = "mapping.log.before-group";

/// Bytes of what has its place: the head of a log.
const HEAD: usize = 16;

/// The head of a log in a format that no build will ever write, and every one takes for a newer one.
fn head_of_none() -> [u8; HEAD] {
    let mut head = [0xff; HEAD];
    head[..8].copy_from_slice(&journal::MAGIC);
    let crc = crc32c::crc32c(&head[..12]);
    head[12..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// Events of one entry.
const CHUNK: usize = 4096;

/// Whether there is the log of a leader that was the only one.
///
/// # Errors
/// The file cannot be read.
pub fn is_to_import(folder: &dyn Folder) -> io::Result<bool> {
    match folder.open(LOG_FILE) {
        Ok(mut file) => Ok(file.len()? > HEAD as u64 || file.read_all(HEAD)? != head_of_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Says that this folder is a peer's, to every build that would take it for that of an only leader.
fn keep_others_out(folder: &dyn Folder) -> io::Result<()> {
    const NEW: &str = "mapping.log.none";
    match folder.remove(NEW) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = folder.create_new(NEW)?;
    file.append(&[IoSlice::new(&head_of_none())])?;
    file.sync()?;
    folder.rename(NEW, LOG_FILE)?;
    folder.sync()
}

/// Puts the file aside, for people.
fn put_aside(folder: &dyn Folder) -> io::Result<()> {
    folder.rename(LOG_FILE, IMPORTED)?;
    keep_others_out(folder)
}

/// Takes over what an only leader has left in this folder, if there is anything.
///
/// # Errors
/// Why it could not be taken over; it is as it was, and is tried again when this peer leads the next time.
pub(in crate::leader) async fn import(
    agreed: &Agreed,
    replica: &Replica,
    folder: &Arc<dyn Folder>,
    (boot_id, seed): (String, u64),
    executor: &Executor,
) -> Result<(), String> {
    let failed = |error: io::Error| format!("{LOG_FILE} cannot be taken over: {error}");
    let looked = folder.clone();
    let found = executor.run(move || {
        let is_there = is_to_import(&*looked)?;
        if !is_there && looked.open(LOG_FILE).is_err() {
            keep_others_out(&*looked)?;
        }
        Ok(is_there)
    });
    if !found.await.map_err(failed)? {
        return Ok(());
    }
    let read = folder.clone();
    let recovered = executor.run(move || journal::open(&read, &boot_id, seed)).await;
    let Recovered { state, trust, old, .. } = recovered.map_err(|error| error.to_string())?;
    let aside = folder.clone();
    let put_aside = || executor.run(move || put_aside(&*aside));
    let Some(last) = state.last() else { return put_aside().await.map_err(failed) };
    if trust != Trust::Whole || old {
        return Err(format!(
            "{LOG_FILE} may lack its end: start the leader once more as the only one, without --peer and --peers, let all nodes join, stop it with SIGTERM, and then start it as a peer"
        ));
    }
    let (epoch, _) = replica.summary();
    if epoch.is_some_and(|epoch| epoch > last.epoch) {
        tracing::warn!(
            "{LOG_FILE} is of before this group, which has its own log: it is called {IMPORTED} from here on"
        );
        return put_aside().await.map_err(failed);
    }
    let logged = |error: journal::NotLogged| error.to_string();
    for (&began, &run) in state.runs().iter().filter(|(began, _)| epoch.is_none_or(|epoch| epoch < **began)) {
        let leadership = Leadership { cluster_id: last.cluster_id, epoch: began };
        agreed.begin(leadership, run, Trust::MayLackItsEnd).await.map_err(logged)?;
    }
    let mut count = 0;
    let mut events = state.snapshot().filter(|event| !matches!(event, Event::Began { .. })).peekable();
    while events.peek().is_some() {
        let some: Vec<Event> = events.by_ref().take(CHUNK).collect();
        count += some.iter().map(|event| event.commits().len()).sum::<usize>();
        agreed.put_in(last.epoch, &some, encode_event).await.map_err(logged)?;
    }
    drop(events);
    let whole = [Record::Whole(state.mapping().newest_committed())];
    agreed.put_in(last.epoch, &whole, Record::encode).await.map_err(logged)?;
    put_aside().await.map_err(failed)?;
    tracing::info!(
        "what this leader kept as the only one is the group's now: {count} messages and deletions; its log is called {IMPORTED}"
    );
    Ok(())
}
