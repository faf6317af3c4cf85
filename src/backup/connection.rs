//! A connection to the leader in the Redis protocol, which carries ids and messages of any bytes.
//!
//! It blocks: a backup does one thing after the other.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::Error;
use crate::error::printable;
use crate::protocol::resp::{Value, number};
use crate::tls::{Blocking, Dialer, explain};
use crate::types::{Credentials, Endpoints, MAX_MESSAGE_BYTES, says_nobody_leads};

/// The longest line of a reply, and the most values of a list.
const LONGEST_LINE: u64 = 64 << 10;
const MOST_VALUES: i64 = 1 << 20;

/// How deep lists may lie in lists.
const DEEPEST: usize = 4;

/// What a request of a backup may take at least: the leader waits for nodes, and completes what it found, meanwhile.
const LEAST_PATIENCE: Duration = Duration::from_secs(60);

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bytes(Bytes),
    Nil,
    List(Vec<Reply>),
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) addr: String,
    replies: BufReader<Blocking>,
    out: BytesMut,
}

impl Connection {
    /// Connects, of several addresses to the first that takes the connection and answers, and gives the password where there
    /// is one.
    pub(super) fn open(
        list: &str,
        timeout: Duration,
        tls: Option<&Dialer>,
        credentials: Option<&Credentials>,
    ) -> Result<Self, Error> {
        let endpoints = Endpoints::new(list);
        if !endpoints.are_several() {
            return Self::open_one(list, timeout, tls, credentials, false);
        }
        let mut tried = Vec::new();
        for (_, addr) in endpoints.in_order() {
            match Self::open_one(&addr, timeout, tls, credentials, true) {
                Ok(connection) => return Ok(connection),
                Err(Error::Connection { source, .. }) => tried.push(format!("{addr} ({source})")),
                Err(Error::Refused { said, .. }) if leads_nowhere(&said) => tried.push(format!("{addr} ({said})")),
                Err(error) => return Err(error),
            }
        }
        let source = io::Error::new(io::ErrorKind::NotConnected, format!("none answers: {}", tried.join(", ")));
        Err(Error::Connection { addr: list.to_owned(), source })
    }

    fn open_one(
        addr: &str,
        timeout: Duration,
        tls: Option<&Dialer>,
        credentials: Option<&Credentials>,
        proves: bool,
    ) -> Result<Self, Error> {
        let lost = |source| Error::Connection { addr: addr.to_owned(), source };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for to in addr.to_socket_addrs().map_err(lost)? {
            match TcpStream::connect_timeout(&to, timeout) {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(lost)?;
                    stream.set_read_timeout(Some(timeout.max(LEAST_PATIENCE))).map_err(lost)?;
                    stream.set_write_timeout(Some(timeout.max(LEAST_PATIENCE))).map_err(lost)?;
                    let stream = match tls {
                        None => Blocking::Plain(stream),
                        Some(tls) => tls.encrypt_blocking(addr, stream).map_err(lost)?,
                    };
                    let replies = BufReader::with_capacity(256 << 10, stream);
                    let mut connection = Self { addr: addr.to_owned(), replies, out: BytesMut::new() };
                    if proves {
                        connection.prove()?;
                    }
                    if let Some(credentials) = credentials {
                        let words: Vec<&[u8]> =
                            std::iter::once("AUTH").chain(credentials.words()).map(str::as_bytes).collect();
                        connection.ask(&words)?;
                    }
                    return Ok(connection);
                }
                Err(error) => last = error,
            }
        }
        Err(lost(last))
    }

    /// Finds out whether the other side answers, and is no standby that passes nothing on. As a line of text, which is read
    /// before the first request of the Redis protocol: to that, a standby that redirects says PONG.
    fn prove(&mut self) -> Result<(), Error> {
        self.out.extend_from_slice(b"PING\n");
        self.flush()?;
        let mut said = String::new();
        let read = (&mut self.replies).take(LONGEST_LINE).read_line(&mut said);
        let ended = || Err(io::ErrorKind::UnexpectedEof.into());
        read.and_then(|bytes| if bytes == 0 { ended() } else { Ok(()) }).map_err(|source| self.lost(source))?;
        match said.trim_end().strip_prefix("ERROR ") {
            Some(said) if leads_nowhere(said) => Err(Error::Refused { addr: self.addr.clone(), said: said.to_owned() }),
            _ => Ok(()),
        }
    }

    /// Puts a request behind those that leave with the next [`flush`](Self::flush).
    pub(super) fn put(&mut self, words: &[&[u8]]) {
        let words = words.iter().map(|word| Value::Bulk(Bytes::copy_from_slice(word)));
        Value::Array(words.collect()).encode(2, &mut self.out);
    }

    pub(super) fn flush(&mut self) -> Result<(), Error> {
        let to = self.replies.get_mut();
        let sent = to.write_all(&self.out).and_then(|()| to.flush());
        self.out.clear();
        sent.map_err(|source| self.lost(source))
    }

    /// One request and its reply, which must be no error.
    pub(super) fn ask(&mut self, words: &[&[u8]]) -> Result<Reply, Error> {
        self.put(words);
        self.flush()?;
        self.good_reply()
    }

    /// The next reply, which must be no error.
    pub(super) fn good_reply(&mut self) -> Result<Reply, Error> {
        match self.reply()? {
            Reply::Error(said) => Err(Error::Refused { addr: self.addr.clone(), said }),
            other => Ok(other),
        }
    }

    /// The next reply.
    pub(super) fn reply(&mut self) -> Result<Reply, Error> {
        read(&mut self.replies, DEEPEST).map_err(|why| match why {
            Unread::Lost(source) => self.lost(source),
            Unread::Strange(said) => self.strange(&said),
        })
    }

    /// What this stands for is said by no leader.
    pub(super) fn strange(&self, said: &str) -> Error {
        Error::Strange { addr: self.addr.clone(), said: said.to_owned() }
    }

    fn lost(&self, source: io::Error) -> Error {
        let source = match source.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "no answer in time"),
            io::ErrorKind::UnexpectedEof => io::Error::new(source.kind(), "it closed the connection"),
            _ => explain(source),
        };
        Error::Connection { addr: self.addr.clone(), source }
    }
}

/// Whether this is the error of a standby that knows no leader.
fn leads_nowhere(said: &str) -> bool {
    said.split_once(' ').is_some_and(|(code, explanation)| says_nobody_leads(code, explanation))
}

enum Unread {
    Lost(io::Error),
    Strange(String),
}

fn read(from: &mut impl io::BufRead, depth: usize) -> Result<Reply, Unread> {
    let mut line = Vec::new();
    from.take(LONGEST_LINE).read_until(b'\n', &mut line).map_err(Unread::Lost)?;
    let Some(text) = line.strip_suffix(b"\r\n") else {
        return match line.last() {
            None => Err(Unread::Lost(io::ErrorKind::UnexpectedEof.into())),
            Some(_) => Err(Unread::Strange(printable(&line, 64))),
        };
    };
    let strange = || Unread::Strange(printable(text, 64));
    let (mark, rest) = text.split_first().ok_or_else(strange)?;
    let words = || String::from_utf8_lossy(rest).into_owned();
    match (mark, number(rest)) {
        (b'+', _) => Ok(Reply::Simple(words())),
        (b'-', _) => Ok(Reply::Error(words())),
        (b':', Some(number)) => Ok(Reply::Integer(number)),
        (b'$' | b'*', Some(-1)) => Ok(Reply::Nil),
        (b'$', Some(length @ 0..)) if length as u64 <= MAX_MESSAGE_BYTES => {
            let mut bytes = vec![0; length as usize + 2];
            from.read_exact(&mut bytes).map_err(Unread::Lost)?;
            bytes.truncate(length as usize);
            Ok(Reply::Bytes(bytes.into()))
        }
        (b'*', Some(count @ 0..=MOST_VALUES)) if depth > 0 => {
            (0..count).map(|_| read(from, depth - 1)).collect::<Result<_, _>>().map(Reply::List)
        }
        _ => Err(strange()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(reply: &Reply) -> Value {
        match reply {
            Reply::Simple(_) => Value::Simple("OK"),
            Reply::Error(text) => Value::Error(text.clone()),
            Reply::Integer(number) => Value::Integer(*number),
            Reply::Bytes(bytes) => Value::Bulk(bytes.clone()),
            Reply::Nil => Value::Nil,
            Reply::List(all) => Value::Array(all.iter().map(value).collect()),
        }
    }

    fn some_reply() -> impl Strategy<Value = Reply> {
        let leaf = prop_oneof![
            Just(Reply::Simple("OK".to_owned())),
            "[A-Z]{3,9} [a-z ]{0,20}".prop_map(Reply::Error),
            any::<i64>().prop_map(Reply::Integer),
            prop::collection::vec(any::<u8>(), 0..50).prop_map(|bytes| Reply::Bytes(bytes.into())),
            Just(Reply::Nil),
        ];
        leaf.prop_recursive(2, 30, 8, |inner| prop::collection::vec(inner, 0..8).prop_map(Reply::List))
    }

    proptest! {
        #[test]
        fn what_a_leader_writes_is_read(replies in prop::collection::vec(some_reply(), 1..6)) {
            let mut out = BytesMut::new();
            replies.iter().for_each(|reply| value(reply).encode(2, &mut out));
            let mut from = &out[..];
            for reply in replies {
                prop_assert_eq!(read(&mut from, DEEPEST).ok(), Some(reply));
            }
            prop_assert!(from.is_empty());
        }

        #[test]
        fn no_bytes_make_it_fail(bytes in prop::collection::vec(prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), b'0'..=b'9', any::<u8>()], 0..100)) {
            let mut from = &bytes[..];
            while read(&mut from, DEEPEST).is_ok() {}
        }
    }
}
