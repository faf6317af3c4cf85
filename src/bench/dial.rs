//! How the bench comes to its connections: addresses, TLS, the password.

use std::io::{self, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use super::dialect::Dialect;
use crate::error::printable;
use crate::lock::Lock;
use crate::tls::{Blocking, Dialer};
use crate::types::{Credentials, Endpoints, says_nobody_leads};

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// How long one of several addresses may take to answer; a standby waits for a leader meanwhile.
const PROOF: Duration = Duration::from_secs(5);

/// Where and how to send.
#[derive(Debug)]
pub(super) struct Target {
    /// The server, or several processes of which any will do.
    pub(super) endpoints: Lock<Endpoints>,
    /// How long to wait for any reply at all before giving up.
    pub(super) patience: Duration,
    /// Given on every connection before anything else.
    pub(super) credentials: Option<Credentials>,
    /// What encrypts connections, if they are to be.
    pub(super) tls: Option<Dialer>,
    /// Processes of the server on this machine, for their CPU time.
    pub(super) pids: Vec<u32>,
}

/// A connection that has given its password: of several addresses, to the first that answers.
pub(super) fn connect(target: &Target, dialect: Dialect) -> io::Result<Blocking> {
    let endpoints = target.endpoints.lock().clone();
    if !endpoints.are_several() {
        return connect_to(target, endpoints.current(), dialect, false);
    }
    let (mut tried, mut kind) = (Vec::new(), io::ErrorKind::TimedOut);
    for (at, addr) in endpoints.in_order() {
        match connect_to(target, &addr, dialect, true) {
            Ok(stream) => {
                target.endpoints.lock().served_by(at);
                return Ok(stream);
            }
            // All of them would say the same.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            Err(error) => {
                if error.kind() != io::ErrorKind::TimedOut {
                    kind = error.kind();
                }
                tried.push(format!("{addr} ({error})"));
            }
        }
    }
    Err(io::Error::new(kind, format!("none answers: {}", tried.join(", "))))
}

/// One to this address; it has to answer first where it `proves` that it can.
fn connect_to(target: &Target, addr: &str, dialect: Dialect, proves: bool) -> io::Result<Blocking> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for to in addr.to_socket_addrs()? {
        match TcpStream::connect_timeout(&to, target.patience.min(CONNECT)) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(target.patience))?;
                stream.set_write_timeout(Some(target.patience))?;
                let mut stream = match &target.tls {
                    None => Blocking::Plain(stream),
                    Some(tls) => tls.encrypt_blocking(addr, stream)?,
                };
                if proves {
                    prove(&mut stream, target.patience)?;
                }
                if let Some(credentials) = &target.credentials {
                    log_in(&mut stream, dialect, credentials)?;
                }
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Finds out whether the other side answers, and is no standby without a leader; both protocols know PING as a line.
fn prove(stream: &mut Blocking, patience: Duration) -> io::Result<()> {
    stream.tcp().set_read_timeout(Some(patience.min(PROOF)))?;
    stream.write_all(b"PING\n")?;
    stream.flush()?;
    let reply = read_line(stream)?;
    let said = reply.trim_end().trim_start_matches('-').trim_start_matches("ERROR ");
    let (code, explanation) = said.split_once(' ').unwrap_or((said, ""));
    if says_nobody_leads(code, explanation) {
        let why = explanation.split(';').next().unwrap_or_default().to_owned();
        return Err(io::Error::new(io::ErrorKind::NotConnected, why));
    }
    stream.tcp().set_read_timeout(Some(patience))
}

/// Gives the password, and waits for the server's word on it.
fn log_in(stream: &mut Blocking, dialect: Dialect, credentials: &Credentials) -> io::Result<()> {
    let words: Vec<&str> = std::iter::once("AUTH").chain(credentials.words()).collect();
    let (request, right) = match dialect {
        Dialect::Text => (words.join(" ") + "\n", "OK"),
        Dialect::Resp => {
            let bulk = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
            (format!("*{}\r\n", words.len()) + &bulk.collect::<String>(), "+OK")
        }
    };
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    match read_line(stream)?.trim_end() {
        reply if reply == right => Ok(()),
        reply => {
            let reply = printable(reply.as_bytes(), 200);
            Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("the password was refused: {reply}")))
        }
    }
}

/// The only line that the server has been asked for, without its end.
fn read_line(stream: &mut Blocking) -> io::Result<String> {
    let mut reply = String::new();
    io::BufRead::read_line(&mut io::BufReader::new(stream), &mut reply)?;
    match reply.strip_suffix('\n') {
        Some(reply) => Ok(reply.to_owned()),
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed it")),
    }
}

/// One request line that stands alone, such as STATUS; the reply line without its end.
pub(super) fn ask(target: &Target, line: &str) -> io::Result<String> {
    let mut stream = connect(target, Dialect::Text)?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    stream.flush()?;
    read_line(&mut stream)
}
