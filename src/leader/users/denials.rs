//! What was denied of late: ACL LOG.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::Lock;

/// Entries that are kept, as in Redis (`acllog-max-len`).
const MOST: usize = 128;

/// The same again within this time is counted, as in Redis.
const SAME_WITHIN: Duration = Duration::from_secs(60);

/// Bytes of an id, or of what was given for a name, that are kept.
const MOST_BYTES: usize = 1024;

/// Why something was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The user may not run the command.
    Command,
    /// The user may not name the id.
    Key,
    /// A password was wrong.
    Auth,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auth, Self::Command, Self::Key];

    /// As ACL LOG and metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Key => "key",
            Self::Auth => "auth",
        }
    }
}

/// Where it was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// To a request by itself.
    TopLevel,
    /// To one of a transaction.
    Multi,
    /// To a script.
    Lua,
}

impl Context {
    /// As ACL LOG names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::TopLevel => "toplevel",
            Self::Multi => "multi",
            Self::Lua => "lua",
        }
    }
}

/// One entry.
#[derive(Debug, Clone)]
pub struct Denial {
    /// How often.
    pub count: u64,
    /// Why.
    pub reason: Reason,
    /// Where.
    pub context: Context,
    /// The command, the id, or AUTH.
    pub object: Vec<u8>,
    /// Of whom.
    pub user: String,
    /// The line of CLIENT LIST of its connection.
    pub client: String,
    /// When it was denied last.
    pub at: Instant,
}

/// The entries, the newest first.
#[derive(Debug, Default)]
pub struct Denials {
    entries: Lock<VecDeque<Denial>>,
    counts: [AtomicU64; 3],
}

impl Denials {
    /// Something was denied.
    pub fn note(
        &self,
        (reason, context): (Reason, Context),
        object: &[u8],
        user: &str,
        client: impl FnOnce() -> String,
    ) {
        self.counts[reason as usize].fetch_add(1, Ordering::Relaxed);
        let (object, now) = (&object[..object.len().min(MOST_BYTES)], Instant::now());
        let user: String = user.chars().take(MOST_BYTES).collect();
        let mut entries = self.entries.lock();
        let is_same = |entry: &Denial| {
            entry.reason == reason
                && entry.context == context
                && entry.object == object
                && entry.user == user
                && now.duration_since(entry.at) < SAME_WITHIN
        };
        let same = entries.iter().position(is_same).and_then(|place| entries.remove(place));
        let count = same.map_or(0, |entry| entry.count) + 1;
        entries.push_front(Denial { count, reason, context, object: object.to_vec(), user, client: client(), at: now });
        entries.truncate(MOST);
    }

    /// The newest, at most so many.
    pub fn newest(&self, most: usize) -> Vec<Denial> {
        self.entries.lock().iter().take(most).cloned().collect()
    }

    /// Forgets all of them.
    pub fn reset(&self) {
        self.entries.lock().clear();
    }

    /// How many there were since the start, by the reason.
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        Reason::ALL.map(|reason| (reason.name(), self.counts[reason as usize].load(Ordering::Relaxed)))
    }
}
