//! What a standby does for clients with `--standby redirect`: it tells them who leads and where, and does nothing else.
//!
//! Clients that ask for the leader, as they ask Redis Sentinel, are answered, and those that have subscribed are told when another
//! one leads. Nobody has to say who he is for that, and no password is looked at: there is nothing else to be had. What a
//! connection may send before its request is whole is little.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::gateway;
use super::ledger::Replica;
use super::relayed::Way;
use super::sentinel::{Subscriptions, View};
use crate::error::Refusal;
use crate::protocol::resp::{Asked, RequestDecoder, Value, Words, number};
use crate::protocol::table::{self, Op, ServerOp, SessionOp, ToolOp};
use crate::protocol::text::{CommandDecoder, encode_reply, is_redis_line};
use crate::protocol::{Command, Decoded, Reply};
use crate::raft::{Group, Standing};
use crate::tls::{Acceptor, Stream};
use crate::types::PeerId;

/// Bytes of an unfinished request that are kept, and of a word or a line of it; what is longer is read past.
const MOST_HELD: usize = 64 << 10;
const LONGEST: usize = 16 << 10;

/// Room made for each read.
const READ_SIZE: usize = 4 << 10;

/// What a standby that redirects needs.
#[derive(Debug, Clone)]
pub(super) struct Redirect {
    pub(super) group: Group<Replica>,
    pub(super) settings: Arc<gateway::Settings>,
    /// Takes those who come with TLS.
    pub(super) acceptor: Option<Acceptor>,
    /// The port for TLS, where there is one without it too.
    pub(super) tls_port: Option<u16>,
    /// Clients may come without it.
    pub(super) is_plain: bool,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Close,
}

/// How a connection speaks.
enum Talk {
    /// And whether it takes this for a Redis Sentinel.
    Text(CommandDecoder, bool),
    Resp(Box<Client>),
}

/// A client that speaks the Redis protocol.
struct Client {
    decoder: RequestDecoder,
    version: u8,
    subscribed: Subscriptions,
    /// It takes this for a Redis Sentinel.
    is_sentinel: bool,
}

impl Redirect {
    /// Whether another peer leads, or none: one that leads itself has nobody to send clients to.
    pub(super) fn is_for(&self, standing: &Standing) -> bool {
        standing.leads.is_none() && standing.leader.as_ref().is_none_or(|(leader, _)| *leader != self.group.me())
    }

    fn view(&self, (tls_port, sentinel_port): (Option<u16>, Option<u16>)) -> View {
        let voters = self.group.leading().borrow().voters.len();
        let ports = (tls_port, sentinel_port);
        View::of_group(&self.settings.sentinel, self.group.group(), self.group.status(), voters, ports)
    }

    /// Serves one client until it goes, or this peer leads.
    pub(super) async fn serve(&self, stream: TcpStream, way: Way) {
        let is_encrypted = way == Way::Encrypted || way == Way::Sentinel && !self.is_plain;
        let stream = match &self.acceptor {
            Some(acceptor) if is_encrypted => acceptor.accept(stream).await,
            _ => Ok(Stream::from(stream)),
        };
        // An error is the client's going, which is its right.
        if let Ok(mut stream) = stream {
            let _ = self.talk(&mut stream, way == Way::Sentinel).await;
            stream.say_end();
        }
    }

    async fn talk(&self, stream: &mut Stream, is_sentinel: bool) -> io::Result<()> {
        stream.tcp().set_nodelay(true)?;
        let own = stream.local_addr()?.port();
        let tls_port = self.tls_port.filter(|_| matches!(stream, Stream::Tls(_)));
        let ports = (tls_port, is_sentinel.then_some(own));
        let mut standing = self.group.leading();
        let mut leader = leader_of(&standing);
        let (mut talk, mut buffer) = (Talk::new(is_sentinel), BytesMut::new());
        loop {
            let mut out = BytesMut::new();
            let flow = talk.answer(&mut buffer, &mut out, || self.view(ports));
            self.send(stream, &out).await?;
            if flow == Flow::Close {
                return Ok(());
            }
            let before = leader;
            let is_another = |now: &Standing| now.leader.as_ref().is_some_and(|(now, _)| Some(*now) != before);
            tokio::select! {
                biased;
                another = standing.wait_for(is_another) => {
                    if another.is_err() {
                        return Ok(());
                    }
                }
                read = self.read(stream, &mut buffer, &talk) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    continue;
                }
            }
            leader = leader_of(&standing);
            if let (Talk::Resp(client), Some(before)) = (&talk, before) {
                let mut out = BytesMut::new();
                client.tell(&self.view(ports), before, &mut out);
                self.send(stream, &out).await?;
            }
            let goes_on = self.is_for(&standing.borrow());
            if !goes_on {
                return Ok(());
            }
        }
    }

    async fn send(&self, stream: &mut Stream, out: &[u8]) -> io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let sent = async {
            stream.write_all(out).await?;
            stream.flush().await
        };
        timeout(self.settings.limits.write_deadline, sent).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Waits for bytes as long as the limits allow.
    async fn read(&self, stream: &mut Stream, buffer: &mut BytesMut, talk: &Talk) -> io::Result<usize> {
        let limits = &self.settings.limits;
        let most = match (talk.is_inside(buffer), talk.listens()) {
            (true, _) => limits.line_timeout,
            (false, true) => Duration::ZERO,
            (false, false) => limits.idle_timeout,
        };
        let read = async {
            stream.readable().await?;
            buffer.reserve(READ_SIZE);
            stream.read_buf(buffer).await
        };
        if most.is_zero() {
            return read.await;
        }
        timeout(most, read).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

fn leader_of(standing: &watch::Receiver<Standing>) -> Option<PeerId> {
    standing.borrow().leader.as_ref().map(|(leader, _)| *leader)
}

impl Talk {
    fn new(is_sentinel: bool) -> Self {
        Self::Text(CommandDecoder::new(LONGEST), is_sentinel)
    }

    fn is_inside(&self, buffer: &BytesMut) -> bool {
        match self {
            Self::Text(decoder, _) => decoder.is_inside_line(buffer),
            Self::Resp(client) => client.decoder.is_inside_request(buffer),
        }
    }

    /// It waits to be told something.
    fn listens(&self) -> bool {
        matches!(self, Self::Resp(client) if !client.subscribed.is_empty())
    }

    /// Answers all whole requests.
    fn answer(&mut self, buffer: &mut BytesMut, out: &mut BytesMut, view: impl Fn() -> View) -> Flow {
        loop {
            let flow = match self {
                Self::Text(decoder, is_sentinel) => {
                    let turns = buffer.first() == Some(&b'*') || is_redis_line(buffer);
                    if turns && decoder.is_between_lines() {
                        *self = Self::Resp(Box::new(Client::new(*is_sentinel)));
                        continue;
                    }
                    match decoder.decode(buffer) {
                        Decoded::Need => return Flow::On,
                        Decoded::Bad(Refusal::OtherProtocol) => Flow::Close,
                        Decoded::Item(Command::Exit) => {
                            encode_reply(&Reply::Bye, out);
                            Flow::Close
                        }
                        Decoded::Item(_) | Decoded::Bad(_) => {
                            encode_reply(&Reply::Refused(Refusal::Unavailable(view().elsewhere())), out);
                            Flow::On
                        }
                    }
                }
                Self::Resp(client) => match client.decoder.decode(buffer) {
                    Ok(None) if client.decoder.kept() + buffer.len() > MOST_HELD => {
                        Value::Error(readonly(&view())).encode(client.version, out);
                        Flow::Close
                    }
                    Ok(None) => return Flow::On,
                    Ok(Some(Asked::Words(words))) => client.answer(&words, out, &view),
                    Ok(Some(Asked::TooLong { .. })) => {
                        Value::Error(readonly(&view())).encode(client.version, out);
                        Flow::On
                    }
                    Err(fault) => {
                        Value::Error(format!("ERR {fault}")).encode(client.version, out);
                        Flow::Close
                    }
                },
            };
            if flow == Flow::Close {
                return flow;
            }
        }
    }
}

/// What is said of all that has to do with messages.
fn readonly(view: &View) -> String {
    let class = if view.has_leader() { "READONLY" } else { "LOADING" };
    format!("{class} {}", view.elsewhere())
}

impl Client {
    fn new(is_sentinel: bool) -> Self {
        Self { decoder: RequestDecoder::new(LONGEST), version: 2, subscribed: Subscriptions::default(), is_sentinel }
    }

    fn answer(&mut self, words: &Words, out: &mut BytesMut, view: &impl Fn() -> View) -> Flow {
        let found = table::find(&words[0]);
        let op = found.filter(|spec| spec.fits(words).is_ok()).map(|spec| spec.op);
        if op == Some(Op::OtherProtocol) {
            return Flow::Close;
        }
        let flow = if op == Some(Op::Session(SessionOp::Exit)) { Flow::Close } else { Flow::On };
        let value = match (op, found) {
            (Some(op), Some(spec)) if self.version == 2 && !self.subscribed.admits(op) => {
                Err(Subscriptions::refusal(spec.name))
            }
            (Some(op), _) => self.carry_out(op, words, view),
            (None, _) => Err(readonly(&view())),
        };
        // HELLO itself is answered in the version that it asks for.
        value.unwrap_or_else(Value::Error).encode(self.version, out);
        flow
    }

    fn carry_out(&mut self, op: Op, words: &Words, view: &impl Fn() -> View) -> Result<Value, String> {
        let is = |name: &[u8]| words.get(1).is_some_and(|word| word.eq_ignore_ascii_case(name));
        Ok(match op {
            Op::Session(SessionOp::Ping) if self.version == 2 && !self.subscribed.is_empty() => {
                Subscriptions::pong(words.get(1))
            }
            Op::Session(SessionOp::Ping) => {
                words.get(1).map_or(Value::Simple("PONG"), |word| Value::Bulk(word.clone()))
            }
            Op::Session(SessionOp::Echo) => Value::Bulk(words[1].clone()),
            Op::Session(SessionOp::Exit) | Op::Server(ServerOp::Auth) => Value::Simple("OK"),
            Op::Session(SessionOp::Select) if is(b"0") => Value::Simple("OK"),
            Op::Session(SessionOp::Reset) => {
                (self.version, self.subscribed) = (2, Subscriptions::default());
                Value::Simple("RESET")
            }
            Op::Session(
                op @ (SessionOp::Subscribe | SessionOp::PSubscribe | SessionOp::Unsubscribe | SessionOp::PUnsubscribe),
            ) => return self.subscribed.change(op, words),
            Op::Server(ServerOp::Sentinel) if is(b"HELP") => gateway::sentinel_help(),
            Op::Server(ServerOp::Sentinel) => return view().sentinel(words),
            Op::Server(ServerOp::Hello) => {
                self.version = match words.get(1).map(|word| number(word)) {
                    None => self.version,
                    Some(Some(version @ (2 | 3))) => version as u8,
                    Some(_) => return Err("NOPROTO unsupported protocol version".to_owned()),
                };
                gateway::hello(self.version, None, (!self.is_sentinel).then_some("replica"))
            }
            Op::Server(ServerOp::Info) => Value::Text(info(&view(), words)),
            Op::Server(ServerOp::Command) => return gateway::command(words),
            Op::Server(ServerOp::Client) if is(b"SETNAME") || is(b"SETINFO") => Value::Simple("OK"),
            Op::Server(ServerOp::Client) if is(b"GETNAME") => Value::Nil,
            Op::Tool(ToolOp::Role) if self.is_sentinel => view().sentinel_role(),
            Op::Tool(ToolOp::Role) => view().role(),
            _ => return Err(readonly(&view())),
        })
    }

    /// Tells who has subscribed that another one leads than before.
    fn tell(&self, view: &View, before: PeerId, out: &mut BytesMut) {
        if let Some(said) = view.switched_from(before) {
            self.subscribed.switched(&said).iter().for_each(|value| value.encode(self.version, out));
        }
    }
}

/// What INFO says, as far as a standby has it.
fn info(view: &View, words: &Words) -> String {
    let asked: Vec<String> = words[1..].iter().map(|word| String::from_utf8_lossy(word).to_lowercase()).collect();
    let usual = asked.is_empty() || asked.iter().any(|name| ["default", "all", "everything"].contains(&name.as_str()));
    let server = format!(
        "redis_version:{}\r\nredis_mode:standalone\r\nhatokuse_version:{}\r\nprocess_id:{}\r\n",
        gateway::REDIS_VERSION,
        crate::VERSION,
        std::process::id()
    );
    let sections = [
        ("Server", server, usual),
        ("Replication", view.replication(), usual),
        ("Sentinel", view.sentinel_info(), false),
    ];
    let shown = sections.iter().filter(|(name, _, usual)| *usual || asked.contains(&name.to_lowercase()));
    shown.map(|(name, body, _)| format!("# {name}\r\n{body}")).collect::<Vec<_>>().join("\r\n")
}

#[cfg(test)]
#[path = "redirect_tests.rs"]
mod tests;
