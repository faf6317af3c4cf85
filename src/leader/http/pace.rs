//! A connection whose reader has to read.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::tls::Stream;

/// In each such time a waiting reply has to be taken whole, or at least [`LEAST`] of it.
const WINDOW: Duration = Duration::from_secs(10);

/// Bytes.
const LEAST: usize = 16 << 10;

/// A stream whose writes fail when they wait for too long.
#[derive(Debug)]
pub(super) struct Paced {
    stream: Stream,
    /// While a write waits: when that is too long.
    waiting: Option<Pin<Box<Sleep>>>,
    taken: usize,
}

impl Paced {
    /// Around a connection.
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, waiting: None, taken: 0 }
    }
}

impl AsyncRead for Paced {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, buf) {
            Poll::Pending => {
                let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(WINDOW)));
                waiting.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Ready(Ok(written)) => {
                self.taken += written;
                if written == buf.len() || self.taken >= LEAST {
                    (self.waiting, self.taken) = (None, 0);
                }
                Poll::Ready(Ok(written))
            }
            ready => ready,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
