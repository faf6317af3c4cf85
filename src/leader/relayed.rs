//! How many connections a standby relays.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whose connections are relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Clients,
    /// With TLS: nothing can be said to them in the clear.
    Encrypted,
    /// They look for a Redis Sentinel.
    Sentinel,
    Nodes,
    Http,
}

impl Way {
    const ALL: [Self; 5] = [Self::Clients, Self::Encrypted, Self::Sentinel, Self::Nodes, Self::Http];

    fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Encrypted => "tls",
            Self::Sentinel => "sentinel",
            Self::Nodes => "nodes",
            Self::Http => "http",
        }
    }
}

/// Counts of each way.
#[derive(Debug, Default)]
pub(super) struct Relayed([Count; Way::ALL.len()]);

#[derive(Debug, Default)]
struct Count {
    now: AtomicU64,
    all: AtomicU64,
}

/// A connection that is relayed; counted out when dropped.
#[derive(Debug)]
pub(super) struct Counted {
    counts: Arc<Relayed>,
    way: Way,
}

impl Relayed {
    /// Counts one in.
    pub(super) fn begin(self: &Arc<Self>, way: Way) -> Counted {
        let Count { now, all } = &self.0[way as usize];
        now.fetch_add(1, Ordering::Relaxed);
        all.fetch_add(1, Ordering::Relaxed);
        Counted { counts: self.clone(), way }
    }

    /// The name of each way, how many there are now, and how many there were since the start.
    pub(super) fn counts(&self) -> Vec<(&'static str, u64, u64)> {
        let of = |(way, count): (Way, &Count)| {
            (way.name(), count.now.load(Ordering::Relaxed), count.all.load(Ordering::Relaxed))
        };
        Way::ALL.into_iter().zip(&self.0).map(of).collect()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counts.0[self.way as usize].now.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_counts_until_it_ends() {
        let relayed = Arc::new(Relayed::default());
        let first = relayed.begin(Way::Nodes);
        drop(relayed.begin(Way::Nodes));
        let nodes = || relayed.counts().into_iter().find(|(way, ..)| *way == "nodes");
        assert_eq!(nodes(), Some(("nodes", 1, 2)));
        drop(first);
        assert_eq!(nodes(), Some(("nodes", 0, 2)));
        let names: Vec<_> = relayed.counts().iter().map(|(way, ..)| *way).collect();
        assert_eq!(names, ["clients", "tls", "sentinel", "nodes", "http"]);
    }
}
