//! What callers of a gRPC port hold there: connections, halves of messages, answers that are not sent yet.
//!
//! The framework bounds one message and one connection. This bounds all of them together; where that does not suffice,
//! whoever holds most is cut, not who asks next.

use std::any::Any;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::Frame;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::transport::server::Connected;

use crate::lock::Lock;
use crate::tls::{Identity, Role, Stream};

/// What an answer takes, in the extensions of its response: it is held until the answer is sent, or will never be.
#[derive(Clone)]
pub struct Keep {
    _kept: Arc<dyn Any + Send + Sync>,
}

impl Keep {
    /// Keeps this until the answer has gone.
    pub fn new(kept: impl Any + Send + Sync) -> Self {
        Self { _kept: Arc::new(kept) }
    }
}

impl fmt::Debug for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keep")
    }
}

/// An answer of up to so many bytes finds room even while those who were cut have not let go yet.
const SMALL: usize = 16 << 10;

/// Bytes that callers have us hold: of messages that have come in part, or of answers that they do not take.
#[derive(Debug)]
pub struct Holdings {
    /// Of all connections together.
    most: usize,
    peers: Lock<HashMap<SocketAddr, Peer>>,
}

/// What one connection holds.
#[derive(Debug)]
struct Peer {
    calls: usize,
    bytes: usize,
    cut: CancellationToken,
}

impl Holdings {
    /// At most so many bytes.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, peers: Lock::default() })
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<SocketAddr, Peer>> {
        self.peers.lock()
    }

    /// A call of this connection begins.
    fn begin(self: &Arc<Self>, peer: SocketAddr) -> Holding {
        let mut peers = self.peers();
        let held = peers.entry(peer).or_insert_with(|| Peer { calls: 0, bytes: 0, cut: CancellationToken::new() });
        held.calls += 1;
        Holding { of: self.clone(), peer, bytes: 0, cut: Box::pin(held.cut.clone().cancelled_owned()) }
    }

    /// Room for so many bytes of an answer to this connection, for which those are cut that hold more than it does; nothing:
    /// there is nobody.
    fn take(self: &Arc<Self>, peer: SocketAddr, bytes: usize) -> Option<Holding> {
        let mut holding = self.begin(peer);
        let mut peers = self.peers();
        let own = peers.get(&peer).filter(|own| !own.cut.is_cancelled())?.bytes;
        if !self.make_room(&peers, bytes, own) {
            return None;
        }
        peers.get_mut(&peer)?.bytes += bytes;
        holding.bytes = bytes;
        Some(holding)
    }

    /// Cuts the connections that hold most, of those that hold more than `own`, until there is room for so many bytes more;
    /// `false`: there is none.
    fn make_room(&self, peers: &HashMap<SocketAddr, Peer>, bytes: usize, own: usize) -> bool {
        let held: usize = peers.values().map(|peer| peer.bytes).sum();
        if held + bytes <= self.most {
            return true;
        }
        // What was cut counts as free for others only up to a quarter, until it is gone.
        if bytes > SMALL && held + bytes > self.most + self.most / 4 {
            return false;
        }
        let mut live: Vec<&Peer> = peers.values().filter(|peer| !peer.cut.is_cancelled()).collect();
        let mut total: usize = live.iter().map(|peer| peer.bytes).sum();
        while total + bytes > self.most {
            let more = (0..live.len()).filter(|&at| live[at].bytes > own);
            let Some(largest) = more.max_by_key(|&at| live[at].bytes) else { return false };
            let largest = live.swap_remove(largest);
            largest.cut.cancel();
            total -= largest.bytes;
        }
        true
    }
}

/// What one call has us hold; given back when dropped.
#[derive(Debug)]
pub struct Holding {
    of: Arc<Holdings>,
    peer: SocketAddr,
    bytes: usize,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Holding {
    fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        let mut peers = self.of.peers();
        if let Some(peer) = peers.get_mut(&self.peer) {
            peer.bytes = peer.bytes - before + bytes;
        }
        if bytes > before {
            self.of.make_room(&peers, 0, 0);
        }
    }

    /// Whether its connection ends.
    fn is_cut(&mut self, context: &mut Context<'_>) -> bool {
        self.cut.as_mut().poll(context).is_ready()
    }

    fn add(&mut self, bytes: usize) {
        self.set(self.bytes + bytes);
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut peers = self.of.peers();
        if let Some(peer) = peers.get_mut(&self.peer) {
            peer.bytes -= self.bytes;
            peer.calls -= 1;
            if peer.calls == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}

/// A message on its way in.
struct Incoming {
    body: Body,
    half: Holding,
}

impl hyper::body::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.half.is_cut(context) {
            let why =
                "BUSY too many bytes of messages that have come in part; surely nothing was written, try again later";
            return Poll::Ready(Some(Err(Status::resource_exhausted(why))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            self.half.add(frame.data_ref().map_or(0, Bytes::len));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Bytes of an answer that are given on at once: of more the framework would hold what its caller does not take.
const CHUNK: usize = 16 << 10;

/// An answer on its way out.
struct Outgoing {
    body: Body,
    /// What is left of the last frame.
    left: Bytes,
    /// What was kept of it from the start, or else what is left.
    kept: Result<Keep, Option<Holding>>,
}

impl hyper::body::Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.left.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.left = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let next = self.left.len().min(CHUNK);
        let next = self.left.split_to(next);
        let left = self.left.len();
        if let Err(Some(holding)) = &mut self.kept {
            holding.set(left);
        }
        Poll::Ready(Some(Ok(Frame::data(next))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.body.is_end_stream()
    }
}

/// Takes account of the answers to one connection, for services: in the extensions of a request.
#[derive(Debug, Clone)]
pub struct Answers {
    all: Arc<Holdings>,
    peer: SocketAddr,
}

impl Answers {
    /// The account of whoever asks this.
    pub fn of<T>(request: &tonic::Request<T>) -> Option<Self> {
        request.extensions().get().cloned()
    }

    /// Room for an answer of so many bytes, until it is sent; the error says that there is none.
    pub fn room(account: Option<&Self>, bytes: usize) -> Result<Option<Holding>, Status> {
        let Some(Self { all, peer }) = account else { return Ok(None) };
        let busy = || {
            Status::resource_exhausted(
                "BUSY too many bytes of answers that this connection has not taken; take them, and ask again",
            )
        };
        all.take(*peer, bytes).map(Some).ok_or_else(busy)
    }
}

/// A service whose callers are held to account.
#[derive(Debug, Clone)]
pub struct Accounted<S> {
    service: S,
    /// None where calls are lanes, which live as long as a leader does.
    halves: Option<Arc<Holdings>>,
    answers: Arc<Holdings>,
}

impl<S> Accounted<S> {
    /// Accounts for what callers of this service hold.
    pub fn new(service: S, halves: Option<Arc<Holdings>>, answers: Arc<Holdings>) -> Self {
        Self { service, halves, answers }
    }
}

impl<S: NamedService> NamedService for Accounted<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Accounted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Caller>().and_then(|caller| caller.addr);
        // What a lane carries has bounds of its own.
        let lane = request.uri().path().ends_with("/Lane");
        let mut request = match (&self.halves, peer) {
            (Some(halves), Some(peer)) => {
                let half = halves.begin(peer);
                request.map(|body| Body::new(Incoming { body, half }))
            }
            _ => request,
        };
        let answers = peer.filter(|_| !lane).map(|peer| Answers { all: self.answers.clone(), peer });
        if let Some(answers) = answers.clone() {
            request.extensions_mut().insert(answers);
        }
        let answer = self.service.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            let keep = response.extensions_mut().remove::<Keep>();
            let Some(Answers { all, peer }) = answers else { return Ok(response) };
            let kept = keep.ok_or_else(|| Some(all.begin(peer)));
            Ok(response.map(|body| Body::new(Outgoing { body, left: Bytes::new(), kept })))
        })
    }
}

/// Who has called, of all that is asked on one connection: in the extensions of a request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Where it has called from.
    pub addr: Option<SocketAddr>,
    /// What its certificate says; nothing where it has shown none, and none is asked for.
    identity: Option<Arc<Identity>>,
}

impl Caller {
    /// Whoever asks this.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<&Self, Status> {
        request.extensions().get().ok_or_else(|| Status::internal("the connection has no address"))
    }

    /// The name of the client whose certificate it has shown.
    pub fn client(&self) -> Option<&str> {
        match &self.identity.as_deref()?.role {
            Role::Client(name) => Some(name),
            _ => None,
        }
    }

    /// Refuses who shows a certificate that is not the one of this node.
    pub fn must_be_node(&self, id: u32) -> Result<(), Status> {
        self.must_be(&format!("node {id}"), |role| *role == Role::Node(id))
    }

    /// Refuses who shows a certificate that is not the one of this leader.
    pub fn must_be_peer_of(extensions: &tonic::Extensions, number: u64) -> Result<(), Status> {
        let caller: &Self = extensions.get().ok_or_else(|| Status::internal("the connection has no address"))?;
        caller.must_be(&format!("peer {number}"), |role| matches!(role, Role::Peer(peer) if u64::from(*peer) == number))
    }

    /// Refuses who shows a certificate that is not one of a leader.
    pub fn must_be_peer(&self) -> Result<(), Status> {
        self.must_be("a leader", |role| matches!(role, Role::Peer(_)))
    }

    fn must_be(&self, whom: &str, is: impl FnOnce(&Role) -> bool) -> Result<(), Status> {
        match &self.identity {
            Some(identity) if !is(&identity.role) => Err(Status::permission_denied(format!(
                "only {whom} may ask this, and the certificate is of {identity}"
            ))),
            _ => Ok(()),
        }
    }
}

/// A connection that is one of so many.
#[derive(Debug)]
pub(super) struct Counted {
    stream: Stream,
    identity: Option<Arc<Identity>>,
    /// Of the answers: it ends the connection that holds most.
    answers: Option<Holding>,
    _place: OwnedSemaphorePermit,
}

impl Counted {
    pub(super) fn new(
        stream: Stream,
        identity: Option<Identity>,
        place: OwnedSemaphorePermit,
        answers: &Arc<Holdings>,
    ) -> Self {
        let answers = stream.peer_addr().ok().map(|peer| answers.begin(peer));
        Self { stream, identity: identity.map(Arc::new), answers, _place: place }
    }
}

impl Connected for Counted {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        Caller { addr: self.stream.peer_addr().ok(), identity: self.identity.clone() }
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.answers.as_mut().is_some_and(|answers| answers.is_cut(context)) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_holds_most_is_cut_and_gives_back_what_it_held() {
        let halves = Holdings::new(100);
        let peer = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let is_cut = |half: &Holding| half.of.peers()[&half.peer].cut.is_cancelled();
        let (mut small, mut large, mut more) = (halves.begin(peer(1)), halves.begin(peer(2)), halves.begin(peer(2)));
        small.add(30);
        large.add(40);
        more.add(30);
        assert!(!is_cut(&small) && !is_cut(&large));
        // The small one asks next, and the large one goes, with all of its calls.
        small.add(10);
        assert!(!is_cut(&small) && is_cut(&large) && is_cut(&more));
        drop((large, more));
        assert_eq!(halves.peers().len(), 1);
        let again = halves.begin(peer(2));
        assert!(!is_cut(&again));
        small.add(61);
        assert!(is_cut(&small) && !is_cut(&again));
        drop((small, again));
        assert!(halves.peers().is_empty());
    }

    #[test]
    fn who_holds_most_has_no_more_room_and_goes_for_others() {
        let answers = Holdings::new(100);
        let peer = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let (first, second) = (answers.begin(peer(1)), answers.begin(peer(2)));
        let is_cut = |of: &Holding| answers.peers()[&of.peer].cut.is_cancelled();
        let held = [answers.take(peer(1), 60).unwrap(), answers.take(peer(1), 40).unwrap()];
        assert!(answers.take(peer(1), 1).is_none() && !is_cut(&first), "it is told, and goes on");
        let other = answers.take(peer(2), 10).unwrap();
        assert!(is_cut(&first) && !is_cut(&second));
        assert!(answers.take(peer(1), 1).is_none(), "it ends");
        drop((held, first, other));
        let _all = answers.take(peer(2), 100).unwrap();
    }

    #[test]
    fn what_was_cut_is_not_given_away_many_times_over() {
        const MIB: usize = 1 << 20;
        let answers = Holdings::new(4 * MIB);
        let peer = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let mut held: Vec<Holding> = (1..=40)
            .flat_map(|port| (0..4).filter_map(|_| answers.take(peer(port), MIB)).collect::<Vec<_>>())
            .collect();
        assert_eq!(held.len(), 5, "nobody has let go yet");
        held.push(answers.take(peer(50), SMALL).expect("small ones find room"));
        drop(held);
        assert!(answers.take(peer(60), 4 * MIB).is_some());
    }
}
