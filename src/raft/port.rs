//! What other peers ask of this one. All of it is checked before the engine sees it.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{Stream, StreamExt};
use openraft::alias;
use tokio_util::sync::CancellationToken;

use super::identity::Identity;
use super::log::Log;
use super::machine::{StateMachine, meta};
use super::proto::request::Body;
use super::proto::response::Body as Answer;
use super::proto::{self, Request, Response, SnapshotPart};
use super::snapshot::{self, Snapshot};
use super::types::{PeerId, Types, Vote};
use super::{Addresses, Raft, convert};
use crate::durable::DiskFile;
use crate::seeded::{self, Bug};

/// The peer's side of the port between peers; clones are the same.
#[derive(Debug, Clone)]
pub struct Port {
    pub(super) raft: Raft,
    pub(super) identity: Arc<Identity>,
    pub(super) log: Log,
    pub(super) machine: StateMachine,
    /// Counts the snapshots that came in: only the latest is taken.
    pub(super) incoming: Arc<AtomicU64>,
    /// The group was closed: nothing is answered any more.
    pub(super) closed: CancellationToken,
}

/// Why nothing was done.
struct Refused {
    why: String,
    /// Who asked is none of the group any more.
    removed: bool,
}

impl<T: Into<String>> From<T> for Refused {
    fn from(why: T) -> Self {
        Self { why: why.into(), removed: false }
    }
}

impl Port {
    /// Answers one message.
    pub async fn answer(&self, request: Request) -> Response {
        let answer = self.unless_closed(self.try_answer(request)).await;
        self.response(answer)
    }

    /// Takes in a snapshot.
    pub async fn take_snapshot(&self, parts: impl Stream<Item = io::Result<SnapshotPart>> + Send + Unpin) -> Response {
        let answer = self.unless_closed(self.try_snapshot(parts)).await;
        self.response(answer)
    }

    async fn unless_closed(&self, answer: impl Future<Output = Result<Answer, Refused>>) -> Result<Answer, Refused> {
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(Refused::from("this peer ends")),
            answer = answer => answer,
        }
    }

    fn response(&self, answer: Result<Answer, Refused>) -> Response {
        let folder = convert::uuid(Some(self.identity.folder));
        match answer {
            Ok(body) => Response { folder, body: Some(body), ..Response::default() },
            Err(Refused { why, removed }) => Response { folder, refused: why, removed, body: None },
        }
    }

    /// Whether the group still has this peer, which asks to be elected, or just that.
    fn is_member(&self, from: PeerId) -> Result<(), Refused> {
        let is_removed = self.machine.applied.lock().removed.contains(&from);
        match is_removed {
            true => Err(Refused { why: format!("peer {from} was removed from this group"), removed: true }),
            false => Ok(()),
        }
    }

    async fn try_answer(&self, request: Request) -> Result<Answer, Refused> {
        // Who founds a group is of none yet.
        if let (Some(Body::Who(_)), Some(envelope)) = (&request.body, &request.envelope)
            && envelope.to == self.identity.me
        {
            return Ok(Answer::Group(proto::OfGroup { group: convert::uuid(self.identity.group()) }));
        }
        let (from, group) = self.identity.admit(request.envelope.as_ref())?;
        // One that led when it was removed has yet to send the rest, and to hand over.
        if !matches!(request.body, Some(Body::Append(_) | Body::HandOver(_))) {
            self.is_member(from)?;
        }
        let body = request.body.ok_or("a message that asks nothing")?;
        let dead = |error: &dyn std::fmt::Display| format!("this peer does not work: {error}");
        match body {
            Body::Append(mut append) => {
                let (leader, others) = (append.leader.take(), std::mem::take(&mut append.others));
                let append = convert::read_append(append)?;
                self.follow(from, group, leader, &append.vote).await?;
                self.identity.learn(from, others);
                let is_heartbeat = append.entries.is_empty();
                let answer = self.raft.append_entries(append).await.map_err(|error| dead(&error))?;
                let follower = is_heartbeat.then(|| self.identity.addresses.clone().into());
                Ok(Answer::Appended(proto::Appended { follower, ..convert::appended(&answer) }))
            }
            Body::Vote(ask) => {
                let ask = self.ask(from, &ask)?;
                Ok(Answer::Voted(convert::voted(&self.raft.vote(ask).await.map_err(|error| dead(&error))?)))
            }
            Body::PreVote(ask) => {
                let ask = self.ask(from, &ask)?;
                Ok(Answer::Voted(convert::voted(&self.raft.pre_vote(ask).await.map_err(|error| dead(&error))?)))
            }
            Body::Who(_) => Err("this is not whom it asks".into()),
            Body::HandOver(request) => {
                let request = convert::read_hand_over(&request)?;
                if *request.to_node_id() == self.identity.me {
                    self.identity.handed_over_by(from);
                }
                let answer = self.raft.handle_transfer_leader(request).await.map_err(|error| dead(&error))?;
                let refused = answer.err().map(|error| error.to_string()).unwrap_or_default();
                Ok(Answer::HandedOver(proto::HandedOver { refused }))
            }
        }
    }

    /// A peer that has nothing cannot tell whether it once had something. At the founding nobody has more than the
    /// first entry, so that it may vote then; later it waits for a leader.
    fn ask(&self, from: PeerId, ask: &proto::AskVote) -> Result<openraft::raft::VoteRequest<Types>, String> {
        let ask = convert::read_ask_vote(ask)?;
        if ask.vote.leader_id.node_id != from {
            return Err("a vote that is asked for another".to_owned());
        }
        if !seeded::active(Bug::PeerEmptiedVotes)
            && self.log.is_blank()
            && ask.last_log_id.is_none_or(|last| last.index > 0)
        {
            return Err("this peer has nothing yet: it votes when a leader has reached it".to_owned());
        }
        Ok(ask)
    }

    /// What the word of a leader brings beside its entries.
    async fn follow(
        &self,
        from: PeerId,
        group: crate::types::Uuid,
        addresses: Option<proto::Addresses>,
        vote: &Vote,
    ) -> Result<(), String> {
        if vote.leader_id.node_id != from {
            return Err("entries of another leader".to_owned());
        }
        if self.identity.group().is_none() {
            let identity = self.identity.clone();
            let joined = self.machine.executor.run(move || identity.join(group)).await;
            joined.map_err(|error| format!("this peer cannot keep whose it is: {error}"))?;
        }
        if let Some(addresses) = addresses {
            self.identity.set_addresses(from, Addresses::try_from(addresses)?);
        }
        self.identity.claims(from, vote.leader_id.term);
        Ok(())
    }

    async fn try_snapshot(
        &self,
        mut parts: impl Stream<Item = io::Result<SnapshotPart>> + Send + Unpin,
    ) -> Result<Answer, Refused> {
        let first = parts.next().await.ok_or("a snapshot of nothing")?.map_err(|error| error.to_string())?;
        let (from, group) = self.identity.admit(first.envelope.as_ref())?;
        let vote = convert::leaders_vote(first.vote.as_ref())?;
        self.follow(from, group, first.leader, &vote).await?;
        let turn = self.incoming.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("{}.in{turn}", snapshot::FILE);
        let received = self.receive(&name, turn, first.length, parts).await;
        let snapshot = match received {
            Ok(snapshot) => Arc::new(snapshot),
            Err(_) if seeded::active(Bug::PeerSnapshotSaidTaken) => {
                return Ok(Answer::Installed(convert::vote(&vote)));
            }
            Err(error) => {
                let (folder, machine) = (self.machine.snapshots.folder.clone(), &self.machine);
                let _ = machine.executor.run(move || snapshot::clear(&*folder, &name)).await;
                return Err(format!("the snapshot was not taken: {error}").into());
            }
        };
        let engine = alias::SnapshotOf::<Types, _> { meta: meta(&snapshot), snapshot };
        self.identity.note(engine.meta.last_membership.membership());
        let installed = self.raft.install_full_snapshot(vote, engine).await;
        let installed = installed.map_err(|error| format!("this peer does not work: {error}"))?;
        Ok(Answer::Installed(convert::vote(&installed.vote)))
    }

    /// Writes the parts into a file, syncs it and reads it whole.
    async fn receive(
        &self,
        name: &str,
        turn: u64,
        length: u64,
        mut parts: impl Stream<Item = io::Result<SnapshotPart>> + Send + Unpin,
    ) -> io::Result<Snapshot> {
        let executor = &self.machine.executor;
        let (folder, file_name) = (self.machine.snapshots.folder.clone(), name.to_owned());
        let mut file: Box<dyn DiskFile> = executor.run(move || folder.create_new(&file_name)).await?;
        let mut received = 0;
        while let Some(part) = parts.next().await {
            if self.incoming.load(Ordering::Relaxed) != turn {
                return Err(io::Error::other("another one came"));
            }
            let bytes = part?.bytes;
            received += bytes.len() as u64;
            if received > length {
                return Err(io::Error::other("it is longer than was said"));
            }
            let written = executor.run(move || file.append(&[IoSlice::new(&bytes)]).map(|()| file)).await;
            file = written?;
        }
        if received != length && !seeded::active(Bug::PeerSnapshotUnchecked) {
            return Err(io::Error::other(format!("{received} bytes of {length} came")));
        }
        let (folder, name) = (self.machine.snapshots.folder.clone(), name.to_owned());
        executor
            .run(move || {
                file.sync()?;
                let snapshot = Snapshot::open(&*folder, &name)?;
                if !seeded::active(Bug::PeerSnapshotUnchecked) {
                    snapshot.check()?;
                }
                Ok(snapshot)
            })
            .await
    }
}
