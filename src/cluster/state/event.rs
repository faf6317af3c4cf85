//! What can become true of the register: the words of its log.

use crate::cluster::mapping::Commit;
use crate::types::{Leadership, Member, MessageId, NodeId, Removed, Version};

/// Something that became true. [`State::apply`](super::State::apply) is what it means, live and at a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A leader began to lead.
    Began {
        /// Its cluster and epoch.
        leadership: Leadership,
        /// Random, one a leader process: tells two leaders with copies of one log apart.
        run: u64,
        /// It hears every member before it answers: who had the epochs before it, and what they left open, does not
        /// matter any more.
        hears_all: bool,
    },
    /// A node was accepted, or has a new address.
    Member(Member),
    /// A version of a message became true, or its deletion.
    Commit(Commit),
    /// Several versions became true at once: a transaction.
    Commits(Vec<Commit>),
    /// A version is on its way to these nodes, and true as soon as all of them have stored it: a write that the log speaks
    /// of beside its copies. It ends with [`Event::Concluded`] or [`Event::Dropped`], or with any commit of its id that is as new.
    Intent(Commit),
    /// All nodes that the intents of these versions name have stored them: what they say is so.
    Concluded(Vec<Version>),
    /// Nothing follows from the intents of these versions.
    Dropped(Vec<Version>),
    /// A transaction is about to send copies: none of these versions is true until all of them are.
    Prepared {
        /// Its name: the first of its versions.
        name: Version,
        /// Its ids with their versions.
        writes: Vec<(MessageId, Version)>,
    },
    /// A transaction never becomes true.
    Aborted {
        /// Its name.
        name: Version,
    },
    /// Nothing of an id is left anywhere up to this version: every member has confirmed its deletion.
    Forgotten {
        /// The deleted id.
        id: MessageId,
        /// The deletion's version.
        version: Version,
    },
    /// The newest version that a deletion was forgotten of; what a rewritten log keeps of them.
    Horizon(Version),
    /// A node is to be emptied, or not any more.
    Draining {
        /// Which.
        node: NodeId,
        /// Whether.
        on: bool,
    },
    /// A member is none any more, and its folder never will be.
    Removed(Removed),
    /// On how many nodes a message is kept from here on.
    Tolerance(u8),
    /// The register's time has come so far, in milliseconds since 1970: it never goes back behind this.
    Time(u64),
    /// This is what a user is from here on, or there is none of this name any more.
    User {
        /// Its name.
        name: String,
        /// The rules that make it; none: it is gone. What they mean is not looked at here.
        rules: Option<Vec<u8>>,
    },
}

impl Event {
    /// The versions that it makes true.
    pub fn commits(&self) -> &[Commit] {
        match self {
            Self::Commit(commit) => std::slice::from_ref(commit),
            Self::Commits(commits) => commits,
            _ => &[],
        }
    }
}
