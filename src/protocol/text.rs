//! The text protocol: one request a line, one reply a line, in both directions.
//!
//! Lines end in `\n`; one `\r` before it is dropped. A line that grows past its
//! limit is answered as soon as that is seen, and the rest of it is swallowed
//! without being kept, so that a line of any length costs a bounded buffer.

use std::str::FromStr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use super::resp::take;
use super::table::{self, DataOp, Op, RegisterOp, ServerOp, SessionOp};
use super::{Command, CopyFault, Decoded, Finding, Reply, Verified, peers};
use crate::error::{Refusal, printable};
use crate::types::{Deadline, MAX_ID_BYTES, MessageId, NodeId, Payload};

/// The longest time that a message may be given: a thousand years.
const LONGEST_TIME: Duration = Duration::from_secs(1000 * 366 * 86_400);

/// Bytes of the word that says a time: more than the longest one in words takes.
const MAX_TIME_BYTES: usize = 128;

/// `SETEX`, a time, three blanks and a `\r`, with room to tell a long id from a long message.
const FRAMING: usize = 16 + MAX_TIME_BYTES;

/// What stands before the time at which a message ends.
const EXPIRES: &str = " expires ";

/// Reads requests from a byte stream that may be split anywhere.
#[derive(Debug)]
pub struct CommandDecoder {
    max_message: usize,
    /// Bytes at the front of the buffer that are known to hold no line end.
    scanned: usize,
    /// Inside a line that was refused already: drop bytes up to its end.
    swallowing: bool,
}

impl CommandDecoder {
    /// A decoder that takes messages of up to `max_message` bytes.
    pub fn new(max_message: usize) -> Self {
        Self { max_message, scanned: 0, swallowing: false }
    }

    /// The most bytes that the buffer ever needs to hold for one line.
    pub fn line_limit(&self) -> usize {
        self.max_message + MAX_ID_BYTES + FRAMING
    }

    /// Whether the front of the buffer is the beginning of a line.
    pub fn is_between_lines(&self) -> bool {
        !self.swallowing
    }

    /// Whether a line has begun and not ended, after [`decode`](Self::decode) wanted more.
    pub fn is_inside_line(&self, buffer: &BytesMut) -> bool {
        self.swallowing || !buffer.is_empty()
    }

    /// Takes the next request off the front of `buffer`.
    ///
    /// `Bad` has used up its line, or stands for one whose rest will be swallowed.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Decoded<Command> {
        loop {
            match buffer[self.scanned..].iter().position(|&byte| byte == b'\n') {
                Some(at) => {
                    let mut line = take(buffer, self.scanned + at + 1);
                    self.scanned = 0;
                    if std::mem::take(&mut self.swallowing) {
                        continue;
                    }
                    line.truncate(line.len() - 1);
                    let crlf = line.last() == Some(&b'\r');
                    line.truncate(line.len() - usize::from(crlf));
                    return match parse(&line, self.max_message) {
                        Ok(Command::Ping { .. }) => Decoded::Item(Command::Ping { crlf }),
                        Ok(command) => Decoded::Item(command),
                        Err(refusal) => Decoded::Bad(refusal),
                    };
                }
                None if self.swallowing => {
                    buffer.clear();
                    self.scanned = 0;
                    return Decoded::Need;
                }
                None if buffer.len() > self.line_limit() => {
                    let refusal = match parse(&buffer.split().freeze(), self.max_message) {
                        Err(refusal) => refusal,
                        Ok(_) => Refusal::BadCommand(format!("the line is longer than {} bytes", self.line_limit())),
                    };
                    self.scanned = 0;
                    self.swallowing = true;
                    return Decoded::Bad(refusal);
                }
                None => {
                    self.scanned = buffer.len();
                    return Decoded::Need;
                }
            }
        }
    }
}

/// Reads one line without its end.
fn parse(line: &Bytes, max_message: usize) -> Result<Command, Refusal> {
    let (word, rest) = split_blank(line);
    let bad = |text: &str| Err(Refusal::BadCommand(text.to_owned()));
    let Some(spec) = table::find(&word).filter(|spec| spec.line.is_some() || spec.op == Op::OtherProtocol) else {
        return match word.is_empty() {
            true => bad("the line starts with no command word; HELP lists the commands"),
            false => bad(&unknown(&word)),
        };
    };
    let command = match spec.op {
        Op::Data(DataOp::Set) => return parse_set(rest, max_message),
        Op::Data(DataOp::SetEx) => return parse_set_for(rest, max_message),
        Op::Data(DataOp::Expire) => return parse_expire(rest),
        Op::Data(DataOp::Ttl) => return Ok(Command::Ttl(only_id(rest, "TTL wants one id: TTL <id>")?)),
        Op::Data(DataOp::Persist) => {
            let id = only_id(rest, "PERSIST wants one id: PERSIST <id>")?;
            return Ok(Command::Expire { id, time: None });
        }
        Op::Data(DataOp::Get) => return Ok(Command::Get(only_id(rest, "GET wants one id: GET <id>")?)),
        Op::Register(RegisterOp::Where) => return Ok(Command::Where(only_id(rest, "WHERE wants one id: WHERE <id>")?)),
        Op::Data(DataOp::Del) => return Ok(Command::Delete(only_id(rest, "DEL wants one id: DEL <id>")?)),
        Op::Register(RegisterOp::Drain) => {
            return Ok(Command::Drain(only_node(rest, "DRAIN wants the number of a node: DRAIN <node>")?));
        }
        Op::Register(RegisterOp::Undrain) => {
            return Ok(Command::Undrain(only_node(rest, "UNDRAIN wants the number of a node: UNDRAIN <node>")?));
        }
        Op::Register(RegisterOp::Remove) => {
            const FORCE: &[u8] = b" FORCE";
            let force = rest.as_ref().and_then(|rest| {
                let at = rest.len().checked_sub(FORCE.len())?;
                rest[at..].eq_ignore_ascii_case(FORCE).then_some(at)
            });
            let node = rest.map(|rest| rest.slice(..force.unwrap_or(rest.len())));
            let node = only_node(node, "REMOVE wants the number of a node: REMOVE <node> [FORCE]")?;
            return Ok(Command::Remove { node, force: force.is_some() });
        }
        Op::Register(RegisterOp::Rebalance) => {
            return match rest {
                None => Ok(Command::Rebalance(true)),
                Some(stop) if stop.eq_ignore_ascii_case(b"STOP") => Ok(Command::Rebalance(false)),
                Some(_) => bad("REBALANCE stands alone on its line, or with STOP"),
            };
        }
        Op::Register(RegisterOp::Clock) => {
            return match rest {
                Some(accept) if accept.eq_ignore_ascii_case(b"ACCEPT") => Ok(Command::AcceptClock),
                _ => bad("CLOCK wants ACCEPT: CLOCK ACCEPT"),
            };
        }
        Op::Register(RegisterOp::HandOver) => return peers::hand_over(&words_of(rest)).map_err(Refusal::BadCommand),
        Op::Register(RegisterOp::Peer) => return peers::change(&words_of(rest)).map_err(Refusal::BadCommand),
        Op::Server(ServerOp::Auth) => {
            return match rest {
                Some(password) if !password.is_empty() => Ok(Command::Auth(password)),
                _ => bad("AUTH wants the password: AUTH <password>"),
            };
        }
        Op::OtherProtocol => return Err(Refusal::OtherProtocol),
        Op::Register(RegisterOp::Count) => Command::Count,
        Op::Register(RegisterOp::Peers) => Command::Peers,
        Op::Register(RegisterOp::Status) => Command::Status,
        Op::Register(RegisterOp::Verify) => Command::Verify,
        Op::Session(SessionOp::Ping) => Command::Ping { crlf: false },
        Op::Server(ServerOp::Help) => Command::Help,
        Op::Session(SessionOp::Exit) => Command::Exit,
        Op::Data(_) | Op::Session(_) | Op::Keyspace(_) | Op::Server(_) | Op::Script(_) | Op::Tool(_) => {
            return bad(&unknown(&word));
        }
    };
    match rest {
        None => Ok(command),
        Some(_) => bad(&format!("{} stands alone on its line", spec.name)),
    }
}

/// What is said of a word that is none of this protocol.
fn unknown(word: &[u8]) -> String {
    let shown = printable(word, 32);
    if let Some(spec) = table::find(word) {
        return format!("{} speaks the Redis protocol only: redis-cli -p 6666", spec.name);
    }
    match table::nearest(word) {
        Some(name) => format!("unknown command {shown:?}: {name}? HELP lists the commands"),
        None => format!("unknown command {shown:?}; HELP lists the commands"),
    }
}

/// Whether the first line of a buffer is whole, ends in CR and LF, and is of the Redis protocol only: who sends that
/// speaks it, with requests on lines of their own.
pub fn is_redis_line(buffer: &[u8]) -> bool {
    const LONGEST_NAME: usize = 16;
    let Some(end) = buffer.iter().take(LONGEST_NAME).position(|byte| matches!(byte, b' ' | b'\r' | b'\n')) else {
        return false;
    };
    let is_one = table::find(&buffer[..end]).is_some_and(|spec| spec.line.is_none() && spec.op != Op::OtherProtocol);
    is_one && buffer.iter().position(|byte| *byte == b'\n').is_some_and(|at| buffer[at - 1] == b'\r')
}

fn parse_set(rest: Option<Bytes>, max_message: usize) -> Result<Command, Refusal> {
    let bad = |text: &str| Err(Refusal::BadCommand(text.to_owned()));
    let Some(rest) = rest else { return bad("SET wants an id and a message: SET <id> <message>") };
    let (id, message) = split_blank(&rest);
    let id = parse_id(&id)?;
    let Some(payload) = message else {
        return bad("SET wants a message after the id; for an empty one, end the line with a blank");
    };
    if payload.len() > max_message {
        return Err(Refusal::TooLarge { limit: max_message });
    }
    Ok(Command::Set { id, payload })
}

fn parse_set_for(rest: Option<Bytes>, max_message: usize) -> Result<Command, Refusal> {
    const USAGE: &str = "SETEX wants an id, a time and a message: SETEX <id> 30s <message>";
    let usage = || Refusal::BadCommand(USAGE.to_owned());
    let (id, rest) = split_blank(&rest.ok_or_else(usage)?);
    let id = parse_id(&id)?;
    let (time, message) = split_blank(&rest.ok_or_else(usage)?);
    let (time, payload) = (parse_time(&time)?, message.ok_or_else(usage)?);
    match payload.len() <= max_message {
        true => Ok(Command::SetFor { id, time, payload }),
        false => Err(Refusal::TooLarge { limit: max_message }),
    }
}

fn parse_expire(rest: Option<Bytes>) -> Result<Command, Refusal> {
    let usage = || Refusal::BadCommand("EXPIRE wants an id and a time: EXPIRE <id> 30s".to_owned());
    let (id, time) = split_blank(&rest.ok_or_else(usage)?);
    let id = parse_id(&id)?;
    Ok(Command::Expire { id, time: Some(parse_time(&time.ok_or_else(usage)?)?) })
}

/// A time: `30s`, `500ms`, `2h`, or a number of seconds, as the Redis protocol has it.
fn parse_time(word: &[u8]) -> Result<Duration, Refusal> {
    let text = std::str::from_utf8(word).ok().filter(|text| text.len() <= MAX_TIME_BYTES).unwrap_or_default();
    let seconds = text.parse().map(Duration::from_secs).ok();
    // `humantime` counts in nanoseconds, and so to 584 years.
    let millis = || text.strip_suffix("ms")?.parse().map(Duration::from_millis).ok();
    let time = seconds.or_else(millis).or_else(|| humantime::parse_duration(text).ok());
    let time = time.filter(|time| *time >= Duration::from_millis(1) && *time <= LONGEST_TIME);
    time.ok_or_else(|| {
        Refusal::BadCommand(format!("{:?} is no time: 30s, 500ms, 2h, or a number of seconds", printable(word, 32)))
    })
}

/// The bytes before the first blank, and those after it if there is one; both share the line's memory.
fn split_blank(line: &Bytes) -> (Bytes, Option<Bytes>) {
    match line.iter().position(|&byte| byte == b' ') {
        Some(at) => (line.slice(..at), Some(line.slice(at + 1..))),
        None => (line.clone(), None),
    }
}

/// The words of the rest of a line, one blank between them; the last one is all that is left of many.
fn words_of(rest: Option<Bytes>) -> Vec<Bytes> {
    const MOST: usize = 4;
    let split = |rest: Bytes| rest.splitn(MOST, |byte| *byte == b' ').map(|word| rest.slice_ref(word)).collect();
    rest.map_or_else(Vec::new, split)
}

fn parse_id(bytes: &[u8]) -> Result<MessageId, Refusal> {
    MessageId::parse(bytes).map_err(|reason| {
        Refusal::BadCommand(format!("{reason}; an id is 1 to {MAX_ID_BYTES} bytes of UTF-8 without blanks"))
    })
}

fn only_id(rest: Option<Bytes>, usage: &str) -> Result<MessageId, Refusal> {
    let rest = rest.ok_or_else(|| Refusal::BadCommand(usage.to_owned()))?;
    if rest.contains(&b' ') {
        return Err(Refusal::BadCommand(usage.to_owned()));
    }
    parse_id(&rest)
}

/// A number as it is written out: with a sign or zeros before it, a line of any length could be one.
fn only_node(rest: Option<Bytes>, usage: &str) -> Result<NodeId, Refusal> {
    let number = rest.as_ref().and_then(|rest| std::str::from_utf8(rest).ok()?.parse::<u32>().ok());
    match number {
        Some(number) if number > 0 && rest.is_some_and(|rest| *rest == *number.to_string().as_bytes()) => {
            Ok(NodeId(number))
        }
        _ => Err(Refusal::BadCommand(format!("{usage}, 1 to {}", u32::MAX))),
    }
}

/// Appends a request as its line. The caller sees to it that a message holds no `\n`.
pub fn encode_command(command: &Command, out: &mut BytesMut) {
    match command {
        Command::Set { id, payload } => {
            out.reserve(6 + id.as_bytes().len() + payload.len());
            put(out, &[b"SET ", id.as_bytes(), b" "]);
            put_message(payload, out);
        }
        Command::SetFor { id, time, payload } => {
            let time = format!("{}ms", time.as_millis());
            put(out, &[b"SETEX ", id.as_bytes(), b" ", time.as_bytes(), b" "]);
            put_message(payload, out);
        }
        Command::Expire { id, time: Some(time) } => {
            put(out, &[b"EXPIRE ", id.as_bytes(), format!(" {}ms", time.as_millis()).as_bytes()]);
        }
        Command::Expire { id, time: None } => put(out, &[b"PERSIST ", id.as_bytes()]),
        Command::Ttl(id) => put(out, &[b"TTL ", id.as_bytes()]),
        Command::Get(id) => put(out, &[b"GET ", id.as_bytes()]),
        Command::Delete(id) => put(out, &[b"DEL ", id.as_bytes()]),
        Command::Where(id) => put(out, &[b"WHERE ", id.as_bytes()]),
        Command::Verify => put(out, &[b"VERIFY"]),
        Command::Drain(node) => put(out, &[b"DRAIN ", node.to_string().as_bytes()]),
        Command::Undrain(node) => put(out, &[b"UNDRAIN ", node.to_string().as_bytes()]),
        Command::Remove { node, force } => {
            put(out, &[b"REMOVE ", node.to_string().as_bytes(), if *force { b" FORCE" } else { b"" }]);
        }
        Command::Rebalance(true) => put(out, &[b"REBALANCE"]),
        Command::Rebalance(false) => put(out, &[b"REBALANCE STOP"]),
        Command::AcceptClock => put(out, &[b"CLOCK ACCEPT"]),
        Command::Peers => put(out, &[b"PEERS"]),
        Command::HandOver(None) => put(out, &[b"HANDOVER"]),
        Command::HandOver(Some(peer)) => put(out, &[b"HANDOVER ", peer.to_string().as_bytes()]),
        Command::AddPeer { peer, address } => {
            put(out, &[b"PEER ADD ", peer.to_string().as_bytes(), b" ", address.as_bytes()]);
        }
        Command::RemovePeer(peer) => put(out, &[b"PEER REMOVE ", peer.to_string().as_bytes()]),
        Command::Count => put(out, &[b"COUNT"]),
        Command::Status => put(out, &[b"STATUS"]),
        Command::Auth(password) => put(out, &[b"AUTH ", password]),
        Command::Ping { crlf } => put(out, &[if *crlf { b"PING\r" } else { b"PING" }]),
        Command::Help => put(out, &[b"HELP"]),
        Command::Exit => put(out, &[b"EXIT"]),
    }
    put(out, &[b"\n"]);
}

/// The message at the end of a line: one CR before the line end is dropped, so its own needs a second one.
fn put_message(payload: &[u8], out: &mut BytesMut) {
    put(out, &[payload, if payload.last() == Some(&b'\r') { b"\r" } else { b"" }]);
}

/// How a GET is answered on a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// `VALUE <message>`.
    #[default]
    Own,
    /// `OK <message>`, as load clients of the course read it that the original was written for: they take what does not
    /// begin with OK for an error.
    Course,
}

impl FromStr for Dialect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "own" => Ok(Self::Own),
            "course" => Ok(Self::Course),
            _ => Err(format!("{text:?} is no dialect; there are own and course")),
        }
    }
}

/// The message that a reply is, if a line can hold it, and what its line begins with in a dialect: for who sends large
/// messages without a copy of them.
pub fn message_of(dialect: Dialect, reply: &Reply) -> Option<(&'static [u8], &Payload)> {
    let Reply::Value(payload) = reply else { return None };
    let begin: &[u8] = match dialect {
        Dialect::Own => b"VALUE ",
        Dialect::Course => b"OK ",
    };
    (!payload.contains(&b'\n')).then_some((begin, payload))
}

/// Appends a reply as its line.
pub fn encode_reply(reply: &Reply, out: &mut BytesMut) {
    match reply {
        Reply::Done => put(out, &[b"OK"]),
        Reply::Value(payload) if payload.contains(&b'\n') => {
            return encode_reply(&Reply::Refused(Refusal::NotALine), out);
        }
        Reply::Value(payload) => put(out, &[b"VALUE ", payload]),
        Reply::Nodes { holders, expires } => {
            let list: Vec<String> = holders.iter().map(NodeId::to_string).collect();
            put(out, &[b"NODES ", list.join(",").as_bytes()]);
            put_expires(*expires, out);
        }
        Reply::Count(count) => put(out, &[b"COUNT ", count.to_string().as_bytes()]),
        Reply::Ttl(Some(left)) => put(out, &[b"TTL ", left.to_string().as_bytes(), b"ms"]),
        Reply::Ttl(None) => put(out, &[b"TTL never"]),
        Reply::Status(json) => put(out, &[json.as_bytes()]),
        Reply::Finding(Finding::Away { node, copies }) => {
            let (node, copies) = (node.to_string(), copies.to_string());
            put(out, &[b"NODE ", node.as_bytes(), b" UNKNOWN copies=", copies.as_bytes()]);
        }
        Reply::Finding(Finding::Copy { id, node, fault, expires }) => {
            let fault = match fault {
                CopyFault::Missing => "MISSING",
                CopyFault::Damaged => "DAMAGED",
                CopyFault::Unknown => "UNKNOWN",
            };
            let (node, id) = (node.to_string(), id.to_string());
            put(out, &[b"COPY ", id.as_bytes(), b" ", node.as_bytes(), b" ", fault.as_bytes()]);
            put_expires(*expires, out);
        }
        Reply::Verified(v) => {
            let (messages, intact) = (v.messages, v.intact);
            let text = format!("VERIFIED messages={messages} intact={intact} bad={} unknown={}", v.bad, v.unknown);
            put(out, &[text.as_bytes()]);
        }
        Reply::Pong { crlf } => put(out, &[if *crlf { b"+PONG\r" } else { b"+PONG" }]),
        Reply::Help => put(out, &[table::help().as_bytes()]),
        Reply::Bye => put(out, &[b"BYE"]),
        Reply::Refused(refusal) => {
            let text = printable(refusal.to_string().as_bytes(), 400);
            put(out, &[b"ERROR ", refusal.code().as_bytes(), b" ", text.as_bytes()]);
        }
    }
    put(out, &[b"\n"]);
}

/// When a message ends, at the end of a line about it; nothing where it does not.
fn put_expires(expires: Option<Deadline>, out: &mut BytesMut) {
    if let Some(deadline) = expires {
        put(out, &[EXPIRES.as_bytes(), deadline.to_string().as_bytes()]);
    }
}

/// Takes what `put_expires` wrote off the end of a line.
fn split_expires(line: &str) -> Option<(&str, Option<Deadline>)> {
    match line.split_once(EXPIRES) {
        Some((rest, deadline)) => Some((rest, Some(deadline.parse().ok()?))),
        None => Some((line, None)),
    }
}

fn put(out: &mut BytesMut, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// One reply line as a client sees it. Which of the forms is meant depends on
/// the request only for STATUS, PEERS and HELP, whose lines carry no word of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyLine {
    /// `OK`.
    Ok,
    /// `VALUE`, with the message.
    Value(Bytes),
    /// `ERROR`, with its code and explanation.
    Error {
        /// The code word.
        code: String,
        /// For people.
        explanation: String,
    },
    /// Any other line, whole.
    Other(Bytes),
}

impl ReplyLine {
    /// Whether more lines of the same reply follow: so it is with the findings of VERIFY, and nothing else.
    pub fn is_part(&self) -> bool {
        matches!(self, Self::Other(line) if line.starts_with(b"COPY ") || line.starts_with(b"NODE "))
    }
}

/// Reads what [`encode_reply`] made of the holders of a message, and of when it ends.
pub fn decode_nodes(line: &str) -> Option<(Vec<NodeId>, Option<Deadline>)> {
    let (list, expires) = split_expires(line.strip_prefix("NODES ")?)?;
    let holders: Option<_> = list.split(',').map(|number| number.parse().ok().map(NodeId)).collect();
    Some((holders?, expires))
}

/// Reads what [`encode_reply`] made of a finding.
pub fn decode_finding(line: &str) -> Option<Finding> {
    if let Some((node, copies)) = line.strip_prefix("NODE ").and_then(|rest| rest.split_once(" UNKNOWN copies=")) {
        return Some(Finding::Away { node: NodeId(node.parse().ok()?), copies: copies.parse().ok()? });
    }
    let (line, expires) = split_expires(line.strip_prefix("COPY ")?)?;
    let mut words = line.split(' ');
    let (id, node) = (MessageId::from_shown(words.next()?).ok()?, NodeId(words.next()?.parse().ok()?));
    let fault = match words.next()? {
        "MISSING" => CopyFault::Missing,
        "DAMAGED" => CopyFault::Damaged,
        "UNKNOWN" => CopyFault::Unknown,
        _ => return None,
    };
    words.next().is_none().then_some(Finding::Copy { id, node, fault, expires })
}

/// Reads what [`encode_reply`] made of the end of VERIFY.
pub fn decode_verified(line: &str) -> Option<Verified> {
    let mut words = line.strip_prefix("VERIFIED ")?.split(' ');
    let mut number = |name: &str| words.next()?.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
    let (messages, intact, bad) = (number("messages")?, number("intact")?, number("bad")?);
    let unknown = number("unknown")?;
    words.next().is_none().then_some(Verified { messages, intact, bad, unknown })
}

/// Takes the next reply line off the front of `buffer`, if it is there whole.
pub fn decode_reply(buffer: &mut BytesMut) -> Option<ReplyLine> {
    let at = buffer.iter().position(|&byte| byte == b'\n')?;
    let line = buffer.split_to(at).freeze();
    buffer.advance(1);
    Some(if line.as_ref() == b"OK" {
        ReplyLine::Ok
    } else if line.starts_with(b"VALUE ") {
        ReplyLine::Value(line.slice(6..))
    } else if line.starts_with(b"ERROR ") {
        let text = String::from_utf8_lossy(&line[6..]).into_owned();
        let (code, explanation) = text.split_once(' ').unwrap_or((&text, ""));
        ReplyLine::Error { code: code.to_owned(), explanation: explanation.to_owned() }
    } else {
        ReplyLine::Other(line)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 64;

    fn decode_all(pieces: &[&[u8]]) -> Vec<Decoded<Command>> {
        let mut decoder = CommandDecoder::new(LIMIT);
        let mut buffer = BytesMut::new();
        let mut all = Vec::new();
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut buffer) {
                    Decoded::Need => break,
                    other => all.push(other),
                }
            }
            assert!(buffer.len() <= decoder.line_limit(), "the buffer is bounded by one line");
        }
        all
    }

    fn one(line: &[u8]) -> Result<Command, &'static str> {
        match decode_all(&[line]).as_slice() {
            [Decoded::Item(command)] => Ok(command.clone()),
            [Decoded::Bad(refusal)] => Err(refusal.code()),
            other => panic!("{other:?}"),
        }
    }

    fn set(id: &str, payload: &'static [u8]) -> Result<Command, &'static str> {
        Ok(Command::Set { id: id.parse().unwrap(), payload: Bytes::from_static(payload) })
    }

    #[test]
    fn requests_are_read_byte_for_byte() {
        assert_eq!(one(b"SET 1 hello world\n"), set("1", b"hello world"));
        assert_eq!(one(b"set 1  two blanks \r\n"), set("1", b" two blanks "));
        assert_eq!(one(b"SET 1 \n"), set("1", b""));
        assert_eq!(one(b"SET a/b \xff\x00\r\r\n"), set("a/b", b"\xff\x00\r"));
        assert_eq!(one(b"gEt x\n"), Ok(Command::Get("x".parse().unwrap())));
        assert_eq!(one(b"QUIT\r\n"), Ok(Command::Exit));
        assert_eq!(decode_all(&[b"GET 1"]), vec![], "a line without its end is never run");
    }

    #[test]
    fn times_are_read_in_words_and_in_seconds() {
        let (id, time) = (|id: &str| id.parse().unwrap(), Duration::from_millis);
        let set_for =
            |ms, payload| Ok(Command::SetFor { id: id("a"), time: time(ms), payload: Bytes::from_static(payload) });
        let expire = |of: &str, ms| Ok(Command::Expire { id: id(of), time: Some(time(ms)) });
        assert_eq!(one(b"SETEX a 30s hello world\n"), set_for(30_000, b"hello world"));
        assert_eq!(one(b"setex a 5 x\r\n"), set_for(5_000, b"x"));
        assert_eq!(one(b"SETEX a 1h30m \n"), set_for(5_400_000, b""));
        assert_eq!(one(b"EXPIRE a 500ms\n"), expire("a", 500));
        assert_eq!(one(b"EXPIRE a 7\n"), expire("a", 7_000));
        assert_eq!(one(b"PERSIST a\n"), Ok(Command::Expire { id: id("a"), time: None }));
        assert_eq!(one(b"TTL a\n"), Ok(Command::Ttl(id("a"))));
        for bad in [
            "SETEX a 30s",
            "SETEX a",
            "SETEX",
            "SETEX a x y",
            "EXPIRE a",
            "EXPIRE a 0",
            "EXPIRE a -5",
            "EXPIRE a 1.5",
            "EXPIRE a 2000years",
            "TTL",
            "PERSIST",
        ] {
            assert_eq!(one(format!("{bad}\n").as_bytes()), Err("BAD_COMMAND"), "{bad}");
        }
        assert_eq!(one(format!("SETEX a 5 {}\n", "x".repeat(LIMIT + 1)).as_bytes()), Err("TOO_LARGE"));
        for payload in [&b"x\r"[..], b"\r\r", b"", b"x y"] {
            let asked = set_for(1500, payload);
            let mut line = BytesMut::new();
            encode_command(asked.as_ref().unwrap(), &mut line);
            assert_eq!(one(&line), asked, "{payload:?} goes as it is");
        }
    }

    #[test]
    fn malformed_requests_are_refused() {
        for line in [
            "\n",
            " GET 1\n",
            "SET\n",
            "SET 1\n",
            "SET  1 x\n",
            "GET\n",
            "GET \n",
            "GET 1 2\n",
            "GET 1 \n",
            "PING 1\n",
            "COUNT \n",
            "FROB 1\n",
            "GET a\tb\n",
            "GET a\0b\n",
            "SET \u{a0} x\n",
            "GETX 1\n",
            "DEL\n",
            "DEL 1 2\n",
            "DRAIN\n",
            "DRAIN x\n",
            "DRAIN 0\n",
            "DRAIN +1\n",
            "DRAIN 01\n",
            "UNDRAIN 4294967296\n",
            "REMOVE\n",
            "REMOVE 03\n",
            "REMOVE FORCE\n",
            "REMOVE 3FORCE\n",
            "REMOVE 3  FORCE\n",
            "REMOVE 3 FORCED\n",
            "REBALANCE NOW\n",
            "VERIFY 1\n",
            "PEERS 1\n",
            "HANDOVER \n",
            "HANDOVER 01\n",
            "HANDOVER 1 2\n",
            "PEER\n",
            "PEER 4\n",
            "PEER ADD 4\n",
            "PEER ADD  4 h:1\n",
            "PEER ADD 4 h:1 \n",
            "PEER REMOVE x\n",
        ] {
            assert_eq!(one(line.as_bytes()), Err("BAD_COMMAND"), "{line:?}");
        }
        assert_eq!(one(b"GET \xff\n"), Err("BAD_COMMAND"));
        assert_eq!(one(format!("GET {}\n", "x".repeat(MAX_ID_BYTES + 1)).as_bytes()), Err("BAD_COMMAND"));
    }

    #[test]
    fn a_word_that_is_none_here_is_told_what_it_may_be() {
        let text = |line: &[u8]| match decode_all(&[line]).pop() {
            Some(Decoded::Bad(refusal)) => refusal.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(text(b"INCR visits\n").contains("redis-cli -p 6666"));
        assert!(text(b"GTE 1\n").contains("GET?") && text(b"satus\n").contains("STATUS?"));
        assert!(!text(b"FROBNICATE 1\n").contains('?'));
    }

    #[test]
    fn lines_of_the_redis_protocol_are_known_by_word_and_end() {
        for line in [&b"info replication\r\n"[..], b"CLIENT ID\r\nPING\r\n", b"dbsize\r\n"] {
            assert!(is_redis_line(line), "{}", line.escape_ascii());
        }
        for line in [&b"info\n"[..], b"info x", b"PING\r\n", b"SET 1 x\r\n", b"\r\n", b"POST / HTTP/1.1\r\n", b"\n"] {
            assert!(!is_redis_line(line), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn a_lone_cr_goes_both_ways_as_it_is() {
        assert_eq!(one(b"SET 1 a\rb\r\r\n"), set("1", b"a\rb\r"));
        let mut out = BytesMut::new();
        encode_reply(&Reply::Value(Bytes::from_static(b"a\rb\r")), &mut out);
        assert_eq!(out, &b"VALUE a\rb\r\n"[..]);
        assert_eq!(decode_reply(&mut out), Some(ReplyLine::Value(Bytes::from_static(b"a\rb\r"))));
    }

    #[test]
    fn the_message_limit_is_exact_and_long_lines_are_swallowed() {
        let at = |n: usize| format!("SET 1 {}\n", "x".repeat(n));
        assert!(one(at(LIMIT).as_bytes()).is_ok());
        assert_eq!(one(at(LIMIT + 1).as_bytes()), Err("TOO_LARGE"));
        let endless = vec![b'x'; 100_000];
        let all = decode_all(&[b"SET 1 ", &endless, &endless, b"\nPING\n"]);
        assert!(
            matches!(
                all.as_slice(),
                [Decoded::Bad(Refusal::TooLarge { .. }), Decoded::Item(Command::Ping { crlf: false })]
            ),
            "{all:?}"
        );
        let all = decode_all(&[&endless, b"\nPING\n"]);
        assert!(
            matches!(
                all.as_slice(),
                [Decoded::Bad(Refusal::BadCommand(_)), Decoded::Item(Command::Ping { crlf: false })]
            ),
            "{all:?}"
        );
    }

    #[test]
    fn the_dialect_of_the_course_says_ok_to_a_get() {
        let mut out = BytesMut::new();
        let value = |bytes: &'static [u8]| Reply::Value(Bytes::from_static(bytes));
        for reply in [value(b"a b"), value(b""), value(b"a\nb"), Reply::Done, Reply::Refused(Refusal::NotFound)] {
            match message_of(Dialect::Course, &reply) {
                Some((begin, payload)) => put(&mut out, &[begin, payload, b"\n"]),
                None => encode_reply(&reply, &mut out),
            }
        }
        let text = String::from_utf8(out.to_vec()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["OK a b", "OK "]);
        assert!(lines[2].starts_with("ERROR NOT_A_LINE ") && lines[3] == "OK", "{text}");
        assert!(lines[4].starts_with("ERROR NOT_FOUND ") && lines.len() == 5, "{text}");
        assert_eq!(("course".parse(), "own".parse()), (Ok(Dialect::Course), Ok(Dialect::Own)));
        assert!("lisp".parse::<Dialect>().is_err());
    }

    #[test]
    fn no_reply_can_forge_a_second_line() {
        let mut out = BytesMut::new();
        encode_reply(&Reply::Value(Bytes::from_static(b"x\nOK")), &mut out);
        encode_reply(&Reply::Refused(Refusal::Unavailable("a\nOK\u{1b}[2J".into())), &mut out);
        let lines: Vec<_> = std::iter::from_fn(|| decode_reply(&mut out)).collect();
        assert_eq!(lines.len(), 2);
        assert!(matches!(&lines[0], ReplyLine::Error { code, .. } if code == "NOT_A_LINE"));
        assert!(matches!(&lines[1], ReplyLine::Error { explanation, .. } if !explanation.contains(char::is_control)));
    }

    #[test]
    fn what_verify_says_is_read_again() {
        let (node, fault) = (NodeId(3), CopyFault::Damaged);
        let finding = Finding::Copy { id: "a/b".parse().unwrap(), node, fault, expires: None };
        let away = Finding::Away { node, copies: 4350 };
        let verified = Verified { messages: 1, intact: 2, bad: 3, unknown: 4 };
        let mut out = BytesMut::new();
        encode_reply(&Reply::Finding(finding.clone()), &mut out);
        encode_reply(&Reply::Finding(away.clone()), &mut out);
        encode_reply(&Reply::Verified(verified), &mut out);
        let text = String::from_utf8(out.to_vec()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(decode_finding(lines[0]), Some(finding));
        assert_eq!((lines[1], decode_finding(lines[1])), ("NODE 3 UNKNOWN copies=4350", Some(away)));
        let strange = MessageId::from_bytes(b"x 1 MISSING\nOK\xff").unwrap();
        let (strange, mut line) = (Finding::Copy { id: strange, node, fault, expires: None }, BytesMut::new());
        encode_reply(&Reply::Finding(strange.clone()), &mut line);
        let line = String::from_utf8(line.to_vec()).unwrap();
        assert_eq!((line.lines().count(), decode_finding(line.trim_end())), (1, Some(strange)));
        assert_eq!(decode_verified(lines[2]), Some(verified));
        let parts: Vec<bool> = (0..3).map(|_| decode_reply(&mut out).unwrap().is_part()).collect();
        assert_eq!(parts, [true, true, false]);
        for bad in [
            "",
            "COPY",
            "COPY a 1",
            "COPY a x MISSING",
            "COPY a 1 GONE",
            "COPY a 1 MISSING x",
            "COPY a 1 MISSING expires x",
            "COPY a 1 MISSING expires 2026-11-30T12:00:00.000Z x",
            "NODE 1",
            "NODE 1 UNKNOWN",
        ] {
            assert_eq!(decode_finding(bad), None, "{bad}");
        }
        for bad in ["VERIFIED", "VERIFIED messages=1", "VERIFIED messages=1 intact=2 bad=3 unknown=x"] {
            assert_eq!(decode_verified(bad), None, "{bad}");
        }
    }

    #[test]
    fn lines_say_when_a_message_ends_if_it_does() {
        let id: MessageId = "a".parse().unwrap();
        let (nodes, node, fault) = (vec![NodeId(1), NodeId(3)], NodeId(3), CopyFault::Missing);
        for (unix_ms, end) in [
            (None, ""),
            (Some(1_796_040_000_000), " expires 2026-11-30T12:00:00.000Z"),
            (Some(1), " expires 1970-01-01T00:00:00.001Z"),
            (Some(u64::MAX), " expires 9999-12-31T23:59:59.999Z"),
        ] {
            let expires = unix_ms.and_then(Deadline::at);
            let shown = expires.and_then(|deadline| Deadline::at(deadline.unix_ms().min(253_402_300_799_999)));
            let mut out = BytesMut::new();
            encode_reply(&Reply::Nodes { holders: nodes.clone(), expires }, &mut out);
            encode_reply(&Reply::Finding(Finding::Copy { id: id.clone(), node, fault, expires }), &mut out);
            let text = String::from_utf8(out.to_vec()).unwrap();
            assert_eq!(text, format!("NODES 1,3{end}\nCOPY a 3 MISSING{end}\n"));
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(decode_nodes(lines[0]), Some((nodes.clone(), shown)));
            assert_eq!(decode_finding(lines[1]), Some(Finding::Copy { id: id.clone(), node, fault, expires: shown }));
        }
        for bad in ["NODES", "NODES ", "NODES x", "NODES 1 expires", "NODES 1 expires never", "NODES 1 gone"] {
            assert_eq!(decode_nodes(bad), None, "{bad}");
        }
    }

    /// However they come in: the limit of a line is looked at where its end is not there yet.
    #[test]
    fn the_longest_request_of_every_command_is_taken() {
        let id: MessageId = "i".repeat(MAX_ID_BYTES).parse().unwrap();
        // A CR at its end takes another one.
        let payload: Payload = [&[b'x'; LIMIT - 1][..], b"\r"].concat().into();
        let time = LONGEST_TIME;
        let commands = [
            Command::Set { id: id.clone(), payload: payload.clone() },
            Command::SetFor { id: id.clone(), time, payload: payload.clone() },
            Command::Expire { id: id.clone(), time: Some(time) },
            Command::Expire { id: id.clone(), time: None },
            Command::Ttl(id.clone()),
            Command::Get(id.clone()),
            Command::Delete(id.clone()),
            Command::Where(id.clone()),
            Command::Remove { node: NodeId(u32::MAX), force: true },
        ];
        for command in commands {
            let mut line = BytesMut::new();
            encode_command(&command, &mut line);
            let end = line.len() - 1;
            assert_eq!(decode_all(&[&line[..end], b"\n"]), [Decoded::Item(command.clone())]);
        }
        let id = id.to_string();
        let line = |zeros: usize| format!("SETEX {id} {}30s {}\r\r", "0".repeat(zeros), "x".repeat(LIMIT - 1));
        let longest = line(MAX_TIME_BYTES - 3);
        let taken = decode_all(&[longest.as_bytes(), b"\n"]);
        assert!(matches!(&taken[..], [Decoded::Item(Command::SetFor { .. })]), "{taken:?}");
        assert_eq!(one((line(MAX_TIME_BYTES - 2) + "\n").as_bytes()), Err("BAD_COMMAND"), "in one piece, too");
    }

    fn commands() -> impl Strategy<Value = Command> {
        let id = "[^\\s\\p{Cc}]{1,40}".prop_map(|text: String| text.parse::<MessageId>().unwrap());
        let payload = proptest::collection::vec(any::<u8>().prop_filter("no line end", |b| *b != b'\n'), 0..LIMIT);
        prop_oneof![
            (id.clone(), payload).prop_map(|(id, payload)| Command::Set { id, payload: payload.into() }),
            id.clone().prop_map(Command::Get),
            id.clone().prop_map(Command::Where),
            id.clone().prop_map(Command::Delete),
            (1..u32::MAX).prop_map(|node| Command::Drain(NodeId(node))),
            (1..u32::MAX).prop_map(|node| Command::Undrain(NodeId(node))),
            (1..u32::MAX, any::<bool>()).prop_map(|(node, force)| Command::Remove { node: NodeId(node), force }),
            any::<bool>().prop_map(Command::Rebalance),
            Just(Command::Verify),
            Just(Command::AcceptClock),
            Just(Command::Peers),
            proptest::option::of(1..=u64::from(u32::MAX)).prop_map(Command::HandOver),
            (1..=u64::from(u32::MAX), "[a-z0-9.-]{1,30}:[1-9][0-9]{0,3}")
                .prop_map(|(peer, address)| Command::AddPeer { peer, address }),
            (1..=u64::from(u32::MAX)).prop_map(Command::RemovePeer),
            Just(Command::Count),
            any::<bool>().prop_map(|crlf| Command::Ping { crlf }),
            Just(Command::Exit),
        ]
    }

    proptest! {
        #[test]
        fn decoding_gives_back_what_was_encoded(commands in proptest::collection::vec(commands(), 1..8)) {
            let mut bytes = BytesMut::new();
            for command in &commands {
                encode_command(command, &mut bytes);
            }
            let decoded = decode_all(&[&bytes]);
            prop_assert_eq!(decoded, commands.into_iter().map(Decoded::Item).collect::<Vec<_>>());
        }

        #[test]
        fn any_split_gives_the_same_commands(
            lines in proptest::collection::vec("(SET|GET|get|PING|X|) ?[a-z%\r ]{0,90}", 1..8),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
        ) {
            let mut bytes = lines.join("\n").into_bytes();
            bytes.push(b'\n');
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            pieces.push(&bytes[from..]);
            prop_assert_eq!(decode_all(&pieces), decode_all(&[&bytes]));
        }
    }
}
