//! `leader_metadata/message_mapping.txt`: the log's readable view.
//!
//! One line a message, `<id>:<node>,<node>`, ids encoded as in file names. New
//! messages are appended; when the holders of a message change, the file is
//! written anew and renamed into place, so that a reader never sees half of one.
//! It is never the authority, and an error here harms no message.

use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::coordinator::Coordinator;
use crate::cluster::mapping::SHARDS;
use crate::durable::{DiskFile, Folder};
use crate::file_names;
use crate::types::{Holders, MessageId};

/// The file's name.
pub const VIEW_FILE: &str = "message_mapping.txt";

/// The view is at most this far behind; the contract allows a second.
const EVERY: Duration = Duration::from_millis(250);

/// Where a file that is being written anew stands until it is whole.
const BESIDE: &str = ".message_mapping.txt.new";

/// A message whose holders are new or have changed; without holders, one that was deleted.
pub type Change = (MessageId, Holders);

/// Keeps the view until `finish`, and then writes it once more, so that it is exact.
pub async fn keep(
    folder: Arc<dyn Folder>,
    coordinator: Arc<Coordinator>,
    mut changes: mpsc::UnboundedReceiver<Vec<Change>>,
    finish: CancellationToken,
) {
    let mut view = View { folder, file: None, said: false };
    // What is there may be behind the log: begin with a whole one.
    let mut anew = true;
    let mut pending: Vec<Change> = Vec::new();
    let mut next = Instant::now();
    loop {
        let mut ending = false;
        tokio::select! {
            biased;
            Some(change) = changes.recv() => pending.extend(change),
            () = finish.cancelled() => ending = true,
            () = sleep_until(next), if anew || !pending.is_empty() => {}
        }
        if !ending && Instant::now() < next {
            continue;
        }
        if !anew && !pending.is_empty() {
            anew = view.append(&coordinator, &pending).is_err();
        }
        pending.clear();
        if anew {
            let result = view.rewrite(&coordinator);
            anew = view.note(result);
        }
        if ending {
            return;
        }
        next = Instant::now() + EVERY;
    }
}

struct View {
    folder: Arc<dyn Folder>,
    /// Open for appending, once a whole view has been written.
    file: Option<Box<dyn DiskFile>>,
    said: bool,
}

impl View {
    /// Says a failure once; `true`: the view has to be written anew.
    fn note(&mut self, result: io::Result<()>) -> bool {
        let failed = result.is_err();
        if let Err(error) = result
            && !self.said
        {
            tracing::warn!(
                "cannot write {VIEW_FILE}: {error}; messages are safe, the view is behind until this works again"
            );
        }
        self.said = failed;
        failed
    }

    /// Appends lines of new messages. An error: some message has a line already, or the disk failed.
    fn append(&mut self, coordinator: &Coordinator, changes: &[Change]) -> io::Result<()> {
        let mut text = String::with_capacity(changes.len() * 24);
        {
            let mut cluster = coordinator.cluster();
            for (id, holders) in changes {
                if holders.is_empty() || cluster.note_viewed(id) {
                    return Err(io::Error::other("a line has changed"));
                }
                line(&mut text, id, holders);
            }
        }
        match &mut self.file {
            Some(file) => file.append(&[IoSlice::new(text.as_bytes())]),
            None => Err(io::Error::other("not open")),
        }
    }

    fn rewrite(&mut self, coordinator: &Coordinator) -> io::Result<()> {
        self.file = None;
        match self.folder.remove(BESIDE) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = self.folder.create_new(BESIDE)?;
        let mut ids = Vec::new();
        for part in 0..SHARDS {
            let mut text = String::new();
            {
                // The lock is let go between two parts, so that no request waits for all of them.
                let mut cluster = coordinator.cluster();
                ids.clear();
                cluster.mapping().for_each(part, |id, found| {
                    line(&mut text, id, &found.set.holders);
                    ids.push(id.clone());
                });
                for id in &ids {
                    cluster.note_viewed(id);
                }
            }
            file.append(&[IoSlice::new(text.as_bytes())])?;
        }
        self.folder.rename(BESIDE, VIEW_FILE)?;
        self.file = Some(file);
        Ok(())
    }
}

fn line(text: &mut String, id: &MessageId, holders: &Holders) {
    let _ = write!(text, "{}:", file_names::stem(id));
    for (i, node) in holders.iter().enumerate() {
        let _ = write!(text, "{}{node}", if i == 0 { "" } else { "," });
    }
    text.push('\n');
}
