//! A connection, encrypted or not.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BufMut;
use tokio::io::{
    AsyncBufRead as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf, Ready,
};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

/// How long who is told why a connection ends has to read that and to go.
const PARTING: Duration = Duration::from_secs(1);

/// A connection over TCP. Beside what every stream can do, it can be waited for without memory for what will come, and
/// be tried without waiting.
#[derive(Debug)]
pub enum Stream {
    /// As it comes.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

impl Stream {
    /// What it goes over.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    /// The certificate that the other side has shown, DER.
    pub fn certificate(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.get_ref().1.peer_certificates()?.first().map(|certificate| certificate.as_ref()),
        }
    }

    /// The address of the other side.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().peer_addr()
    }

    /// Its own address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().local_addr()
    }

    /// Waits until something can be read, or the end.
    pub async fn readable(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.readable().await,
            Self::Tls(tls) => {
                std::future::poll_fn(|context| Pin::new(&mut **tls).poll_fill_buf(context).map_ok(drop)).await
            }
        }
    }

    /// Waits until one of these is possible.
    pub async fn ready(&mut self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Plain(tcp) => tcp.ready(interest).await,
            Self::Tls(tls) => {
                std::future::poll_fn(|context| {
                    if interest.is_readable() && Pin::new(&mut **tls).poll_fill_buf(context).is_ready() {
                        return Poll::Ready(Ok(Ready::READABLE));
                    }
                    if interest.is_writable() && tls.get_ref().0.poll_write_ready(context).is_ready() {
                        return Poll::Ready(Ok(Ready::WRITABLE));
                    }
                    Poll::Pending
                })
                .await
            }
        }
    }

    /// Reads what is there; `WouldBlock`: nothing.
    pub fn try_read_buf(&mut self, buffer: &mut impl BufMut) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.try_read_buf(buffer),
            Self::Tls(tls) => {
                let mut tls = Pin::new(&mut **tls);
                let mut context = Context::from_waker(Waker::noop());
                let Poll::Ready(held) = tls.as_mut().poll_fill_buf(&mut context) else {
                    return Err(io::ErrorKind::WouldBlock.into());
                };
                let held = held?;
                let read = held.len().min(buffer.remaining_mut());
                buffer.put_slice(&held[..read]);
                tls.consume(read);
                Ok(read)
            }
        }
    }

    /// Writes what is taken at once; `WouldBlock`: nothing.
    pub fn try_write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.try_write_vectored(parts),
            Self::Tls(tls) => {
                let mut context = Context::from_waker(Waker::noop());
                match Pin::new(&mut **tls).poll_write_vectored(&mut context, parts) {
                    Poll::Ready(written) => written,
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                }
            }
        }
    }

    /// Sends what was written and is still held; `WouldBlock`: some of it is left.
    pub fn try_flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => {
                let mut context = Context::from_waker(Waker::noop());
                match Pin::new(&mut **tls).poll_flush(&mut context) {
                    Poll::Ready(flushed) => flushed,
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                }
            }
        }
    }

    /// Tells the other side why this ends. What it still sends is read for a moment: a socket that is closed with unread
    /// bytes takes the line back that was not read yet.
    pub async fn part(mut self, why: &[u8]) {
        let _ = timeout(PARTING, async {
            self.write_all(why).await?;
            self.shutdown().await?;
            let mut rest = [0; 1024];
            while self.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        })
        .await;
    }

    /// Says that nothing more comes, as far as that can be said at once: who reads an end without it has to take it for
    /// a connection that was cut.
    pub fn say_end(&mut self) {
        if let Self::Tls(tls) = self {
            let _ = Pin::new(&mut **tls).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(context, buf),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_read(context, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(context, parts),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
