//! How the log file becomes short again: what is behind the last snapshot is written beside it, on a thread of its own,
//! and the log goes on there with all that came meanwhile.

use std::io;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::disk::{LOG_FILE, Writer};
use super::record;
use crate::durable::record_log::{LogError, Replacement};
use crate::raft::types::{Entry, LogId};

/// A shorter file that is being written, and where the log ended when it was begun.
pub(super) type Begun = (oneshot::Receiver<Result<Replacement, LogError>>, u64);

/// What the file is to hold from now on.
pub(super) struct Rewrite {
    pub(super) purged: Option<LogId>,
    pub(super) entries: Vec<Entry>,
    /// What will be appended does not go on where the file ends.
    pub(super) gap: bool,
}

/// The shorter file, when it is there; never, where none was begun.
pub(super) async fn shorter(begun: &mut Option<Begun>) -> (Result<Replacement, LogError>, u64) {
    let Some((file, from)) = begun else { return std::future::pending().await };
    let (result, from) = (file.await, *from);
    *begun = None;
    let gone = |_| LogError::Io { what: "replacing", file: LOG_FILE.to_owned(), source: io::Error::other("no thread") };
    (result.map_err(gone).and_then(|written| written), from)
}

impl Writer {
    /// Begins a shorter file on a thread of its own, which takes as long as the entries are long; [`Self::adopt`] goes on
    /// in it. Where the next entry does not go on where this file ends, it has to be there first.
    pub(super) async fn rewrite(&mut self, rewrite: Rewrite) {
        let (place, gap, from) = (self.log.place(), rewrite.gap, self.log.len());
        let boot = self.boot.clone();
        let write = move || {
            let mut next = place.replacement()?;
            let written = rewrite.write(&boot, &mut next).and_then(|()| next.sync());
            match written {
                Ok(()) => Ok(next),
                Err(error) => {
                    next.discard();
                    Err(error)
                }
            }
        };
        if !gap {
            // The next snapshot makes up for one that is let go of here.
            if self.begun.is_none() {
                let (done, begun) = oneshot::channel();
                let executor = self.executor.clone();
                let task = async move { drop(done.send(executor.run(write).await)) };
                tokio::spawn(task);
                self.begun = Some((begun, from));
            }
            return;
        }
        if let Some((begun, _)) = self.begun.take()
            && let Ok(Ok(next)) = begun.await
        {
            next.discard();
        }
        loop {
            let result = write().and_then(|next| self.log.adopt(next, from));
            match result {
                Ok(()) => return self.adopted(),
                Err(error) => {
                    if self.bear(error).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Goes on in the file that was begun at `from`, with all that came since. Without it the log stays as it is.
    pub(super) fn adopt(&mut self, begun: Result<Replacement, LogError>, from: u64) {
        match begun.and_then(|next| self.log.adopt(next, from)) {
            Ok(()) => self.adopted(),
            Err(error) if self.log.is_poisoned() => drop(self.end(error.to_string())),
            Err(error) => tracing::warn!("{error}; the log stays as long as it is"),
        }
    }

    fn adopted(&mut self) {
        self.log.keep_room();
        self.pulse.base.store(self.log.len(), Ordering::Relaxed);
    }
}

impl Rewrite {
    fn write(&self, boot: &str, next: &mut Replacement) -> Result<(), LogError> {
        next.push(&record::begin(self.purged).0)?;
        next.push(&record::boot(boot).0)?;
        for entry in &self.entries {
            let (mut head, payload) = record::entry(entry);
            head.extend(&payload);
            next.push(&head)?;
        }
        Ok(())
    }
}
