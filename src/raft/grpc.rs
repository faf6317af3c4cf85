//! The real network between peers: gRPC, encrypted where there are certificates for it.
//!
//! Each peer is called on three connections, so that a heartbeat never waits behind entries or a snapshot. They dial by
//! themselves, and again after each break.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::calls::Calls;
use super::log::LONGEST_PAYLOAD;
use super::network::{Lane, PeerNetwork};
use super::port::Port;
use super::proto::peers_client::PeersClient;
use super::proto::peers_server::{Peers, PeersServer};
use super::proto::{Answered, Envelope, Numbered, Request, Response, SnapshotPart};
use super::types::PeerId;
use crate::lock::Lock;
use crate::tls::Callee;
use crate::wire::Grpc;

/// The largest message that is taken: an entry of the longest payload, and what is around it.
const MOST_BYTES: usize = LONGEST_PAYLOAD + (4 << 20);

/// Calls of one stream that are worked on at once.
const AT_ONCE: usize = 64;

/// Peers over gRPC.
#[derive(Debug)]
pub struct GrpcPeers {
    grpc: Grpc,
    clients: Lock<BTreeMap<(String, Lane), PeersClient<Channel>>>,
    calls: Lock<BTreeMap<String, Calls>>,
}

impl GrpcPeers {
    /// Nothing is dialled until it is needed.
    pub fn new(grpc: Grpc) -> Self {
        Self { grpc, clients: Lock::default(), calls: Lock::default() }
    }

    /// Has to be called on the runtime that the connection is to live on.
    fn client(&self, address: &str, lane: Lane) -> io::Result<PeersClient<Channel>> {
        let mut clients = self.clients.lock();
        let place = (address.to_owned(), lane);
        if let Some(client) = clients.get(&place) {
            return Ok(client.clone());
        }
        let channel = self.grpc.lazy(address, Callee::Peer)?;
        let client =
            PeersClient::new(channel).max_decoding_message_size(MOST_BYTES).max_encoding_message_size(MOST_BYTES);
        clients.insert(place, client.clone());
        Ok(client)
    }

    /// The stream of calls to a peer; as [`client`](Self::client), on the runtime that it is to live on.
    fn calls(&self, address: &str) -> io::Result<Calls> {
        let mut calls = self.calls.lock();
        if let Some(open) = calls.get(address).filter(|calls| !calls.is_broken()) {
            return Ok(open.clone());
        }
        let open = Calls::open(self.client(address, Lane::Log)?);
        calls.insert(address.to_owned(), open.clone());
        Ok(open)
    }
}

impl PeerNetwork for GrpcPeers {
    fn call(&self, address: &str, lane: Lane, request: Request) -> BoxFuture<'static, io::Result<Response>> {
        if lane == Lane::Log {
            let calls = self.calls(address);
            return Box::pin(async move { calls?.call(request).await });
        }
        let client = self.client(address, lane);
        Box::pin(async move {
            let answer = client?.call(request).await;
            answer.map(tonic::Response::into_inner).map_err(|status| failed(&status))
        })
    }

    fn snapshot(
        &self,
        address: &str,
        parts: BoxStream<'static, SnapshotPart>,
    ) -> BoxFuture<'static, io::Result<Response>> {
        let client = self.client(address, Lane::Bulk);
        Box::pin(async move {
            let answer = client?.snapshot(Parts(parts)).await;
            answer.map(tonic::Response::into_inner).map_err(|status| failed(&status))
        })
    }
}

/// The parts of a snapshot, as a type that tonic can name.
struct Parts(BoxStream<'static, SnapshotPart>);

impl Stream for Parts {
    type Item = SnapshotPart;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<SnapshotPart>> {
        self.0.poll_next_unpin(context)
    }
}

pub(super) fn failed(status: &Status) -> io::Error {
    io::Error::other(status.to_string())
}

/// Whether who has called, as the extensions of the request say, may speak for this peer: the one place that knows of
/// certificates is whoever serves the port.
pub type CallerCheck = dyn Fn(&tonic::Extensions, PeerId) -> Result<(), Status> + Send + Sync;

/// The service of the port between peers, for a tonic server.
pub type PeersService = PeersServer<Checked>;

/// A [`Port`] with a look at who calls.
#[derive(Clone)]
pub struct Checked {
    port: Port,
    check: Arc<CallerCheck>,
}

impl fmt::Debug for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checked").field("port", &self.port).finish_non_exhaustive()
    }
}

pub(super) fn service(port: Port, check: Arc<CallerCheck>) -> PeersService {
    let server = PeersServer::new(Checked { port, check });
    server.max_decoding_message_size(MOST_BYTES).max_encoding_message_size(MOST_BYTES)
}

impl Checked {
    fn look(&self, extensions: &tonic::Extensions, envelope: Option<&Envelope>) -> Result<(), Status> {
        (self.check)(extensions, envelope.map_or(0, |envelope| envelope.from))
    }
}

#[tonic::async_trait]
impl Peers for Checked {
    async fn call(&self, request: tonic::Request<Request>) -> Result<tonic::Response<Response>, Status> {
        self.look(request.extensions(), request.get_ref().envelope.as_ref())?;
        Ok(tonic::Response::new(self.port.answer(request.into_inner()).await))
    }

    type CallsStream = BoxStream<'static, Result<Answered, Status>>;

    async fn calls(
        &self,
        request: tonic::Request<Streaming<Numbered>>,
    ) -> Result<tonic::Response<Self::CallsStream>, Status> {
        let (_, extensions, calls) = request.into_parts();
        let (checked, extensions) = (self.clone(), Arc::new(extensions));
        // A server that ends in order waits for its streams, and a new one is not found while the old one answers.
        let closed = self.port.closed.clone().cancelled_owned();
        let answer = move |call: Result<Numbered, Status>| {
            let (checked, extensions) = (checked.clone(), extensions.clone());
            async move {
                let Numbered { number, request } = call?;
                let request = request.ok_or_else(|| Status::invalid_argument("a call without a request"))?;
                checked.look(&extensions, request.envelope.as_ref())?;
                let response = checked.port.answer(request).await;
                Ok(Answered { number, response: Some(response) })
            }
        };
        Ok(tonic::Response::new(calls.map(answer).buffer_unordered(AT_ONCE).take_until(closed).boxed()))
    }

    async fn snapshot(
        &self,
        request: tonic::Request<Streaming<SnapshotPart>>,
    ) -> Result<tonic::Response<Response>, Status> {
        let (_, extensions, mut parts) = request.into_parts();
        let first = parts.message().await?.ok_or_else(|| Status::invalid_argument("a snapshot of nothing"))?;
        self.look(&extensions, first.envelope.as_ref())?;
        let rest = parts.map(|part| part.map_err(|status| failed(&status)));
        let parts = futures::stream::iter([Ok(first)]).chain(rest);
        Ok(tonic::Response::new(self.port.take_snapshot(parts).await))
    }
}
