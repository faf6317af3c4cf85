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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::Frame;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::transport::server::{Connected, TcpConnectInfo};

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

/// Bytes of messages that have come in part.
#[derive(Debug)]
pub struct Halves {
    /// Of all connections together.
    most: usize,
    peers: Mutex<HashMap<SocketAddr, Peer>>,
}

/// What one connection holds.
#[derive(Debug)]
struct Peer {
    calls: usize,
    bytes: usize,
    cut: CancellationToken,
}

impl Halves {
    /// At most so many bytes.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, peers: Mutex::default() })
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<SocketAddr, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call of this connection begins.
    fn begin(self: &Arc<Self>, peer: SocketAddr) -> Half {
        let mut peers = self.peers();
        let held = peers.entry(peer).or_insert_with(|| Peer { calls: 0, bytes: 0, cut: CancellationToken::new() });
        held.calls += 1;
        Half { halves: self.clone(), peer, bytes: 0, cut: Box::pin(held.cut.clone().cancelled_owned()) }
    }

    /// Cuts the connections that hold most until the others have room.
    fn bound(&self, peers: &HashMap<SocketAddr, Peer>) {
        let mut live: Vec<&Peer> = peers.values().filter(|peer| !peer.cut.is_cancelled()).collect();
        let mut total: usize = live.iter().map(|peer| peer.bytes).sum();
        while total > self.most {
            let Some(largest) = (0..live.len()).max_by_key(|&at| live[at].bytes) else { return };
            let largest = live.swap_remove(largest);
            largest.cut.cancel();
            total -= largest.bytes;
        }
    }
}

/// What one call has sent so far; given back when dropped.
#[derive(Debug)]
struct Half {
    halves: Arc<Halves>,
    peer: SocketAddr,
    bytes: usize,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Half {
    fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        let mut peers = self.halves.peers();
        if let Some(peer) = peers.get_mut(&self.peer) {
            peer.bytes += bytes;
        }
        self.halves.bound(&peers);
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        let mut peers = self.halves.peers();
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
    half: Half,
}

impl hyper::body::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.half.cut.as_mut().poll(context).is_ready() {
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

/// An answer on its way out.
struct Outgoing {
    body: Body,
    _keep: Keep,
}

impl hyper::body::Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// A service whose callers are held to account.
#[derive(Debug, Clone)]
pub struct Accounted<S> {
    service: S,
    /// None where calls are lanes, which live as long as a leader does.
    halves: Option<Arc<Halves>>,
}

impl<S> Accounted<S> {
    /// Accounts for what callers of this service hold.
    pub fn new(service: S, halves: Option<Arc<Halves>>) -> Self {
        Self { service, halves }
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
        let peer = request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        let request = match (&self.halves, peer) {
            (Some(halves), Some(peer)) => {
                let half = halves.begin(peer);
                request.map(|body| Body::new(Incoming { body, half }))
            }
            _ => request,
        };
        let answer = self.service.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            Ok(match response.extensions_mut().remove::<Keep>() {
                Some(keep) => response.map(|body| Body::new(Outgoing { body, _keep: keep })),
                None => response,
            })
        })
    }
}

/// A connection that is one of so many.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) stream: TcpStream,
    pub(super) _place: OwnedSemaphorePermit,
}

impl Connected for Counted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
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
        let halves = Halves::new(100);
        let peer = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let is_cut = |half: &Half| half.halves.peers()[&half.peer].cut.is_cancelled();
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
}
