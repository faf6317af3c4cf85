//! TCP 6666: accept, frame, limit, reply. The only place that touches client sockets.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::coordinator::{Coordinator, Request, Room};
use crate::error::Refusal;
use crate::protocol::text::{CommandDecoder, encode_reply};
use crate::protocol::{Command, Decoded, Reply};

/// Clients connected at once; one more is told so, and cut off.
pub const MOST_CLIENTS: usize = 10_000;

/// Requests decoded ahead of their execution, on one connection.
const QUEUED_REQUESTS: usize = 4096;

/// Findings of VERIFY that wait for a slow client.
const QUEUED_FINDINGS: usize = 64;

/// Room made for each read.
const READ_SIZE: usize = 32 << 10;

/// Replies are sent once there are this many bytes of them, or no request is left.
const WRITE_SIZE: usize = 256 << 10;

/// A client that does not take its replies for this long is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// A pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Takes clients until the leader stops.
pub async fn run(listener: TcpListener, coordinator: Arc<Coordinator>, max_message: usize) {
    let places = Arc::new(Semaphore::new(MOST_CLIENTS));
    let stop = coordinator.stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.requested() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot accept a client: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                let coordinator = coordinator.clone();
                let tasks = coordinator.tasks.clone();
                tasks.spawn(async move {
                    coordinator.meters.clients.fetch_add(1, Ordering::Relaxed);
                    // An error here is the client's going, which is its right.
                    let _ = Connection::new(stream, coordinator.clone(), max_message).serve().await;
                    coordinator.meters.clients.fetch_sub(1, Ordering::Relaxed);
                    drop(place);
                });
            }
            Err(_) => drop(tokio::spawn(turn_away(stream))),
        }
    }
}

async fn turn_away(mut stream: TcpStream) {
    let mut out = BytesMut::new();
    encode_reply(&Reply::Refused(Refusal::Busy("too many clients are connected")), &mut out);
    let _ = timeout(WRITE_TIMEOUT, stream.write_all(&out)).await;
}

struct Connection {
    stream: TcpStream,
    coordinator: Arc<Coordinator>,
    decoder: CommandDecoder,
    buffer: BytesMut,
    requests: VecDeque<Request>,
    out: BytesMut,
    /// What the replies in `out` keep reserved until they are sent.
    rooms: Vec<Room>,
}

impl Connection {
    fn new(stream: TcpStream, coordinator: Arc<Coordinator>, max_message: usize) -> Self {
        Self {
            stream,
            coordinator,
            decoder: CommandDecoder::new(max_message),
            buffer: BytesMut::new(),
            requests: VecDeque::new(),
            out: BytesMut::new(),
            rooms: Vec::new(),
        }
    }

    async fn serve(mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        let stop = self.coordinator.stop.clone();
        loop {
            self.decode();
            while !self.requests.is_empty() {
                if self.requests.pop_front_if(|request| *request == Ok(Command::Verify)).is_some() {
                    self.verify().await?;
                    continue;
                }
                let (replies, room) = self.coordinator.execute(&mut self.requests).await;
                self.rooms.extend(room);
                for reply in replies {
                    encode_reply(&reply, &mut self.out);
                    if reply == Reply::Bye {
                        return self.flush().await;
                    }
                }
                if self.out.len() >= WRITE_SIZE {
                    self.flush().await?;
                }
            }
            self.flush().await?;
            if stop.is_requested() {
                return Ok(());
            }
            self.decode();
            if !self.requests.is_empty() {
                continue;
            }
            self.buffer.reserve(READ_SIZE);
            let read = tokio::select! {
                biased;
                read = self.stream.read_buf(&mut self.buffer) => read?,
                () = stop.requested() => return Ok(()),
            };
            if read == 0 {
                return Ok(());
            }
        }
    }

    /// The one command with many lines: findings are sent as they come, and the sum at the end.
    async fn verify(&mut self) -> io::Result<()> {
        let (tell, mut findings) = mpsc::channel(QUEUED_FINDINGS);
        let coordinator = self.coordinator.clone();
        let verify = coordinator.verify(tell);
        tokio::pin!(verify);
        let verified = loop {
            tokio::select! {
                biased;
                Some(finding) = findings.recv() => encode_reply(&Reply::Finding(finding), &mut self.out),
                verified = &mut verify => break verified,
            }
            if self.out.len() >= WRITE_SIZE || findings.is_empty() {
                self.flush().await?;
            }
        };
        while let Ok(finding) = findings.try_recv() {
            encode_reply(&Reply::Finding(finding), &mut self.out);
        }
        encode_reply(&Reply::Verified(verified), &mut self.out);
        Ok(())
    }

    /// Takes all whole requests out of the buffer, up to a bound.
    fn decode(&mut self) {
        while self.requests.len() < QUEUED_REQUESTS {
            self.requests.push_back(match self.decoder.decode(&mut self.buffer) {
                Decoded::Item(command) => Ok(command),
                Decoded::Bad(refusal) => Err(refusal),
                Decoded::Need => return,
            });
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            timeout(WRITE_TIMEOUT, self.stream.write_all(&self.out)).await.map_err(|_| io::ErrorKind::TimedOut)??;
            self.out.clear();
        }
        self.rooms.clear();
        Ok(())
    }
}
