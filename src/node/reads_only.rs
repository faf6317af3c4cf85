//! A node whose disk does not take that there is a new leader: it serves that leader's reads, and nothing else.
//!
//! What it remembers of the leader goes with the process, and the one before may come back then. So nothing may depend on
//! it: it promises nothing, keeps and lets go of nothing, and what it holds is nobody's knowledge. As soon as the disk takes
//! the epoch, it registers anew.

use std::io;

use super::identity::Fenced;
use super::promise::Turn;
use super::{Node, identity_failed};
use crate::durable;
use crate::seeded::{self, Bug};
use crate::types::{Fence, Refusing};
use crate::wire::family::CopyStatus::{CopyFailed, CopyFull};
use crate::wire::family::{InventoryPage, WriteBatch, WriteResult};

impl Node {
    /// Lets a leader in whose turn it is. Why it may only read, if so: `reads_only` says that it knows what to make of that.
    /// An error: the disk did not take it, and it was not let in.
    pub(super) async fn admit(
        &self,
        fence: Fence,
        turn: Turn,
        reads_only: bool,
    ) -> io::Result<Result<Option<Refusing>, Fenced>> {
        let identity = self.identity.clone();
        let admit = move || {
            let failed = match identity.admit(fence) {
                Ok(Err(fenced)) => return Ok((Err(fenced), None)),
                Ok(Ok(())) => None,
                Err(error) if reads_only && durable::is_refused(&error) => {
                    let why = Refusing::of(durable::is_full(&error), &error.to_string());
                    if let Err(fenced) = identity.admit_to_read(fence, why) {
                        return Ok((Err(fenced), None));
                    }
                    Some(error)
                }
                Err(error) => return Err(error),
            };
            let reads_only = identity.reads_only_for(fence);
            if reads_only.is_none() {
                turn.promise();
            }
            Ok((Ok(reads_only), failed))
        };
        let (admitted, failed) = self.executor.run(admit).await?;
        if let Some(error) = failed {
            self.tell_not_noted(&error);
        }
        Ok(admitted)
    }

    /// A beat of a leader: whether no other one is let in for a while.
    pub(super) fn promises(&self, fence: Fence) -> bool {
        let reads_only = self.identity.reads_only_for(fence).is_some() && !seeded::active(Bug::UnnotedCountsForLease);
        !reads_only && self.promise.renew(fence.run)
    }

    /// Tries once more to note the leader, if it is one that only reads; `true`: it is noted, and the node has to
    /// register anew. Blocks.
    pub(super) fn notes_after_all(&self) -> bool {
        if self.identity.reads_only().is_none() {
            return false;
        }
        match self.identity.note_seen() {
            Ok(()) => true,
            Err(error) => {
                if durable::is_refused(&error) {
                    self.tell_not_noted(&error);
                } else {
                    self.stop.fail(identity_failed(&error));
                }
                false
            }
        }
    }

    /// Said once, and then counted.
    fn tell_not_noted(&self, error: &io::Error) {
        let line = format!(
            "the new leader could not be noted: {}; until it is, this node answers reads, and neither keeps copies nor counts",
            identity_failed(error)
        );
        if let Some(unsaid) = self.said.lock().note(&line, self.started.elapsed()) {
            tracing::warn!("{line}{unsaid}");
        }
    }
}

/// The answer to a batch that nothing is done of.
pub(super) fn keeps_nothing(batch: &WriteBatch, not_noted: &Refusing) -> WriteResult {
    let status = if not_noted.full { CopyFull } else { CopyFailed };
    WriteResult {
        statuses: vec![status as i32; batch.puts.len()],
        settled: vec![CopyFailed as i32; batch.settles.len()],
        error: format!("this node could not note its leader: {}", not_noted.why),
        ..WriteResult::default()
    }
}

/// The answer to who asks for an inventory: nothing follows from it.
pub(super) fn lists_nothing(not_noted: &Refusing) -> InventoryPage {
    let error = format!("this node could not note its leader, and what it holds may change: {}", not_noted.why);
    InventoryPage { last: true, error, ..InventoryPage::default() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;
    use crate::clock::SystemClock;
    use crate::durable::Disk;
    use crate::durable::executor::Executor;
    use crate::durable::sim::{MemDisk, errno};
    use crate::node::files::TextStore;
    use crate::node::identity::IdentityFile;
    use crate::node::{Parts, lane_queue};
    use crate::stop::Stop;
    use crate::types::{Epoch, IoMode, Layout, Leadership, NodeId, Uuid};
    use crate::wire::family::{self, FromNode, LaneKind, ToNode, from_node, to_node};
    use crate::wire::{FORMAT, LANE_FRAMES};

    fn start(disk: &MemDisk) -> Arc<Node> {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let folder = disk.folder(Path::new("/storage_node_1")).unwrap();
        let identity = IdentityFile::open(folder.clone(), NodeId(1), Uuid([1; 16]), Layout::Text).unwrap();
        let store = Arc::new(TextStore::open(disk, folder, IoMode::Buffered).unwrap().0);
        let (id, io_mode, clock) = (NodeId(1), IoMode::Buffered, Arc::new(SystemClock));
        let parts = Parts { id, identity, store, io_mode, incarnation: 1, clock };
        Node::start(parts, Executor::Inline, Stop::new()).unwrap()
    }

    /// A lane of the leader with this epoch.
    struct Lane {
        fence: Fence,
        frames: mpsc::Sender<ToNode>,
        answers: mpsc::Receiver<FromNode>,
    }

    impl Lane {
        fn open(node: &Arc<Node>, epoch: u32) -> Self {
            let (frames, sent) = mpsc::channel(LANE_FRAMES);
            let (reply, answers) = lane_queue();
            tokio::spawn(node.clone().serve_lane(ReceiverStream::new(sent), reply));
            let leadership = Leadership { cluster_id: Uuid([7; 16]), epoch: Epoch(epoch) };
            Self { fence: Fence { leadership, run: u64::from(epoch), session: 1 }, frames, answers }
        }

        async fn ask(&mut self, body: to_node::Body) -> from_node::Body {
            self.frames.send(ToNode { fence: Some(self.fence.into()), seq: 1, body: Some(body) }).await.unwrap();
            self.answers.recv().await.and_then(|frame| frame.body).expect("an answer")
        }

        /// `reads_only`: the leader knows of nodes that only read.
        async fn hello(&mut self, reads_only: bool) -> from_node::Body {
            let kind = LaneKind::LaneWrite.into();
            self.ask(to_node::Body::Hello(family::Hello { format: FORMAT, kind, node_id: 1, reads_only })).await
        }

        async fn write(&mut self, body: &'static [u8]) -> WriteResult {
            let crc = crate::types::checksum(body);
            let version = crate::types::Version::new(self.fence.leadership.epoch, 1).0;
            let put = family::Put { id: "x".into(), version, crc, body: body.into(), ..Default::default() };
            let settle = family::Settle { id: "x".into(), version, keep: true, ..Default::default() };
            let members = Some(family::Members::default());
            let batch = WriteBatch { settles: vec![settle], puts: vec![put], members };
            match self.ask(to_node::Body::Write(batch)).await {
                from_node::Body::Written(result) => result,
                other => panic!("{other:?}"),
            }
        }

        async fn read(&mut self, version: u64) -> family::ReadResult {
            let keys = vec![family::CopyKey { id: "x".into(), version, check: false }];
            match self.ask(to_node::Body::Read(family::ReadBatch { keys })).await {
                from_node::Body::Read(result) => result,
                other => panic!("{other:?}"),
            }
        }

        async fn is_promised(&mut self) -> bool {
            match self.ask(to_node::Body::Ping(family::Ping { lease: true, release: false })).await {
                from_node::Body::Pong(pong) => !pong.lease_refused,
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_is_not_noted_reads_and_changes_nothing() {
        let disk = MemDisk::new();
        let node = start(&disk);
        let mut first = Lane::open(&node, 1);
        assert!(matches!(first.hello(true).await, from_node::Body::Welcome(welcome) if welcome.not_noted.is_empty()));
        assert!(first.is_promised().await);
        assert_eq!(first.write(b"first").await.statuses, [family::CopyStatus::CopyStored as i32]);
        let stored = crate::types::Version::new(Epoch(1), 1).0;

        disk.set_failing(Some(errno::EROFS));
        // One of a version that would count on this node is not let in, and the first one goes on.
        let refused = Lane::open(&node, 2).hello(false).await;
        assert!(
            matches!(&refused, from_node::Body::Fenced(fenced) if fenced.reason.contains("Read-only")),
            "{refused:?}"
        );
        assert!(first.is_promised().await);

        let mut second = Lane::open(&node, 2);
        let from_node::Body::Welcome(welcome) = second.hello(true).await else { panic!("it is let in") };
        assert_eq!((welcome.not_noted.as_str(), welcome.no_room), ("Read-only file system", false));
        assert!(matches!(first.answers.recv().await.and_then(|frame| frame.body), Some(from_node::Body::Fenced(_))));
        assert_eq!(second.read(stored).await.bodies, [&b"first"[..]]);
        assert!(!second.is_promised().await);
        // As its disk works again, the session stays as it began: its leader counts on nothing else.
        for failing in [Some(errno::EROFS), None] {
            disk.set_failing(failing);
            let result = second.write(b"second").await;
            assert_eq!(result.statuses, [family::CopyStatus::CopyFailed as i32]);
            assert_eq!((result.settled, result.members_kept), (vec![family::CopyStatus::CopyFailed as i32], false));
            assert!(result.error.contains("could not note its leader"), "{}", result.error);
            assert_eq!(node.notes_after_all(), failing.is_none());
        }
        let page = second.ask(to_node::Body::Inventory(family::InventoryRequest {})).await;
        assert!(matches!(page, from_node::Body::Page(page) if page.last && !page.error.is_empty()));
        assert!(!second.is_promised().await && node.identity().is_noted());
        let mut anew = Lane::open(&node, 2);
        anew.fence.session = 2;
        assert!(matches!(anew.hello(true).await, from_node::Body::Welcome(welcome) if welcome.not_noted.is_empty()));
        assert!(anew.is_promised().await);
        assert_eq!(anew.write(b"second").await.statuses, [family::CopyStatus::CopyStored as i32]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_noted_is_forgotten_by_a_restart_and_not_before() {
        let disk = MemDisk::new();
        let node = start(&disk);
        assert!(matches!(Lane::open(&node, 1).hello(true).await, from_node::Body::Welcome(_)));
        disk.set_failing(Some(errno::ENOSPC));
        let second = Lane::open(&node, 2).hello(true).await;
        assert!(matches!(second, from_node::Body::Welcome(welcome) if welcome.no_room));
        assert!(matches!(Lane::open(&node, 1).hello(true).await, from_node::Body::Fenced(_)));
        assert_eq!((node.who().epoch_seen, node.who().run_seen), (2, 2));
        let after = disk.after_kill();
        let node = start(&after);
        assert_eq!(node.who().epoch_seen, 1);
        assert!(matches!(Lane::open(&node, 1).hello(true).await, from_node::Body::Welcome(_)));
    }
}
