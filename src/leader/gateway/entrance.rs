//! The ports that clients come by.

use std::io;
use std::pin::pin;

use tokio::net::{TcpListener, TcpStream};

use crate::tls::{Acceptor, Stream};

/// A port for clients.
#[derive(Debug)]
pub struct Entrance {
    /// Where they come.
    pub listener: TcpListener,
    /// What encrypts what they say; nothing: it goes as it is.
    pub tls: Option<Acceptor>,
    /// They take it for a Redis Sentinel.
    pub is_sentinel: bool,
}

/// The port of those that come to be served, without TLS if there is one.
pub(super) fn first_port(entrances: &[Entrance]) -> u16 {
    let first = entrances.first().and_then(|entrance| entrance.listener.local_addr().ok());
    first.map_or(0, |address| address.port())
}

/// The port of those that speak TLS, if others come without it.
pub(super) fn second_port(entrances: &[Entrance]) -> Option<u16> {
    let encrypted = entrances.iter().find(|entrance| entrance.tls.is_some())?;
    let is_second = entrances.iter().any(|entrance| entrance.tls.is_none());
    encrypted.listener.local_addr().ok().filter(|_| is_second).map(|address| address.port())
}

/// The next one who comes, by whichever port.
pub(super) async fn accept(entrances: &[Entrance]) -> io::Result<(TcpStream, &Entrance)> {
    let accepts = entrances.iter().map(|entrance| {
        Box::pin(async move {
            let (stream, _) = entrance.listener.accept().await?;
            io::Result::Ok((stream, entrance))
        })
    });
    let all = pin!(futures::future::select_all(accepts));
    all.await.0
}

/// Lets one in. An error is his, and was told as far as possible.
pub(super) async fn enter(stream: TcpStream, tls: Option<Acceptor>) -> io::Result<Stream> {
    match tls {
        None => Ok(stream.into()),
        Some(tls) => tls.accept(stream).await,
    }
}
