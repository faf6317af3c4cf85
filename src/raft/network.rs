//! The way to other peers: what the engine asks for, in envelopes, each call with a bound of its own.

use std::future::{Future, ready};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use openraft::alias;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::time::timeout;

use super::identity::Identity;
use super::proto::request::Body;
use super::proto::response::Body as Answer;
use super::proto::{Request, Response, SnapshotPart};
use super::snapshot::Snapshot;
use super::types::{Member, PeerId, Types, Vote};
use super::{Addresses, convert};
use crate::durable::executor::Executor;

/// Entries are answered when they are on the other's disk. That a slow disk or a long entry takes more than a heartbeat
/// must not have them sent again and again: heartbeats go their own way, and only this peer's entries wait here.
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of a snapshot in one message.
const PART: usize = 1 << 20;

/// What a message is, so that the long ones need not hold up the urgent: each kind may have a connection of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Entries, votes, handing over.
    Log,
    /// Heartbeats.
    Beats,
    /// Snapshots.
    Bulk,
}

/// The network between peers. Tests stand in here.
pub trait PeerNetwork: std::fmt::Debug + Send + Sync + 'static {
    /// Sends a message to the peer at an address and waits for its answer; whoever asks gives up by itself.
    fn call(&self, address: &str, lane: Lane, request: Request) -> BoxFuture<'static, io::Result<Response>>;
    /// Sends a snapshot.
    fn snapshot(
        &self,
        address: &str,
        parts: BoxStream<'static, SnapshotPart>,
    ) -> BoxFuture<'static, io::Result<Response>>;
}

/// Makes clients for the engine.
#[derive(Debug)]
pub(super) struct Factory {
    pub(super) network: Arc<dyn PeerNetwork>,
    pub(super) identity: Arc<Identity>,
    pub(super) executor: Executor,
}

impl Factory {
    fn client(&self, target: PeerId, member: &Member, lane: Lane) -> Client {
        let (network, identity, executor) = (self.network.clone(), self.identity.clone(), self.executor.clone());
        Client { network, identity, executor, target, address: member.address.clone(), lane }
    }
}

impl RaftNetworkFactory<Types> for Factory {
    type Network = Client;

    async fn new_client(&mut self, target: PeerId, member: &Member) -> Client {
        self.client(target, member, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: PeerId, member: &Member) -> Client {
        self.client(target, member, Lane::Beats)
    }

    async fn new_snapshot_client(&mut self, target: PeerId, member: &Member) -> Client {
        self.client(target, member, Lane::Bulk)
    }
}

/// What became of entries.
type Appended = Result<StreamAppendResult<Types>, RPCError<Types>>;

/// One peer, as this one calls it.
#[derive(Debug)]
pub(super) struct Client {
    network: Arc<dyn PeerNetwork>,
    identity: Arc<Identity>,
    executor: Executor,
    target: PeerId,
    address: String,
    lane: Lane,
}

impl Client {
    async fn ask(&self, body: Body, within: Duration) -> Result<Answer, Unreachable<Types>> {
        let request = Request { envelope: Some(self.identity.envelope(self.target)), body: Some(body) };
        let answer = timeout(within, self.network.call(&self.address, self.lane, request)).await;
        self.read(answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
    }

    fn read(&self, answer: io::Result<Response>) -> Result<Answer, Unreachable<Types>> {
        let response = answer.map_err(|error| Unreachable::from_string(error.to_string()))?;
        self.identity.answered(self.target, &response).map_err(Unreachable::from_string)?;
        response.body.ok_or_else(senseless)
    }

    async fn vote_by(&self, body: Body, option: &RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(body, option.hard_ttl()).await? {
            Answer::Voted(voted) => Ok(convert::read_voted(&voted).map_err(Unreachable::from_string)?),
            _ => Err(senseless().into()),
        }
    }
}

fn senseless() -> Unreachable<Types> {
    Unreachable::from_string("it answered something else than was asked")
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = Arc<Snapshot>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let within = if request.entries.is_empty() { option.hard_ttl() } else { option.hard_ttl().max(APPEND_TIMEOUT) };
        let others = if request.entries.is_empty() { self.identity.known_to(self.target) } else { Vec::new() };
        let body = Body::Append(convert::append(&request, self.identity.addresses.clone().into(), others));
        match self.ask(body, within).await? {
            // The engine takes a conflict with nothing for a bug of its own.
            Answer::Appended(appended) if appended.conflict && request.prev_log_id.is_none() => Err(senseless().into()),
            Answer::Appended(appended) => {
                if let Some(Ok(follower)) = appended.follower.clone().map(Addresses::try_from) {
                    self.identity.set_addresses(self.target, follower);
                }
                Ok(convert::read_appended(&appended).map_err(Unreachable::from_string)?)
            }
            _ => Err(senseless().into()),
        }
    }

    /// One request after the other. That more was committed is no reason for one: the next entries say so, or the next
    /// heartbeat, and a standby answers nobody from what it has applied. (The engine's own way costs each entry a second
    /// round to every peer.)
    fn stream_append<'s, S>(
        &'s mut self,
        requests: S,
        option: RPCOption,
    ) -> openraft::base::BoxFuture<'s, Result<openraft::base::BoxStream<'s, Appended>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        // The next request is asked for when the one before was taken, so that the peer has all of that.
        let mut taken = None;
        let news = requests.filter(move |request| {
            let is_news = !request.entries.is_empty() || taken != Some(request.prev_log_id);
            let last = request.entries.last().map(|entry| entry.log_id);
            taken = Some(last.or(request.prev_log_id));
            ready(is_news)
        });
        stream_append_sequential(self, news, option)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.vote_by(Body::Vote(convert::ask_vote(&request)), &option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.vote_by(Body::PreVote(convert::ask_vote(&request)), &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: alias::SnapshotOf<Types, Arc<Snapshot>>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let first = SnapshotPart {
            envelope: Some(self.identity.envelope(self.target)),
            vote: Some(convert::vote(&vote)),
            length: snapshot.snapshot.length,
            leader: Some(self.identity.addresses.clone().into()),
            ..SnapshotPart::default()
        };
        let parts = parts(first, snapshot.snapshot, self.executor.clone());
        let sent = timeout(option.hard_ttl(), self.network.snapshot(&self.address, parts));
        let answer = tokio::select! {
            biased;
            closed = cancel => return Err(closed.into()),
            answer = sent => answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
        };
        match self.read(answer)? {
            Answer::Installed(vote) => {
                Ok(SnapshotResponse::new(convert::needed_vote(Some(&vote)).map_err(Unreachable::from_string)?))
            }
            _ => Err(senseless().into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        // It waits for its log to be flushed first.
        let within = option.hard_ttl().max(APPEND_TIMEOUT);
        match self.ask(Body::HandOver(convert::hand_over(&request)), within).await? {
            Answer::HandedOver(answer) if answer.refused.is_empty() => Ok(Ok(())),
            Answer::HandedOver(answer) => Err(Unreachable::from_string(answer.refused).into()),
            _ => Err(senseless().into()),
        }
    }
}

/// The parts of a snapshot, each read when it is asked for. Where the file cannot be read the stream ends early, and
/// the receiver finds it too short.
fn parts(first: SnapshotPart, snapshot: Arc<Snapshot>, executor: Executor) -> BoxStream<'static, SnapshotPart> {
    let rest = stream::unfold(0, move |offset| {
        let (snapshot, executor) = (snapshot.clone(), executor.clone());
        async move {
            if offset >= snapshot.length {
                return None;
            }
            let part = executor.run(move || snapshot.part(offset, PART)).await;
            let bytes = part.inspect_err(|error| tracing::error!("reading a snapshot failed: {error}")).ok()?;
            let next = offset + bytes.len() as u64;
            Some((SnapshotPart { bytes: bytes.into(), ..SnapshotPart::default() }, next))
        }
    });
    Box::pin(stream::once(async { first }).chain(rest))
}
