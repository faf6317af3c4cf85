//! `hatokuse client`: one command from the command line, commands from a pipe, or a prompt.
//!
//! One shot: the words of the command line, joined with one blank each, are the
//! line. `GET` prints the bare message and a line feed. `SET <id> -` reads the
//! message from stdin to its end, without one last line end (`\n` or `\r\n`), if
//! it has one; a message that is only a dash is stored by
//! `printf -- - | hatokuse client SET 1 -`. A SET that is refused with BUSY is
//! tried again a few times, as [`Client::set`] does.
//!
//! Pipe: the bytes of stdin go to the leader as they are, and a reply comes back
//! for each line, blank ones included, in order, without waiting a round trip for
//! each. A last line without its end is run too. Nothing is tried again, since a
//! later line may build on it. With several addresses a connection that ends while
//! every line has its reply is made anew, and what is still to come goes there.
//!
//! Invariant: stdout holds replies and nothing else; what went wrong is said on
//! stderr and by the exit code. Never shows a message's control characters to a
//! terminal.

use std::ffi::OsString;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::signal::unix::{SignalKind, signal};

use super::advice::{fits, help, only_redis, writes};
use super::group::Peers;
use super::render::{Style, escape, write_bare, write_reply};
use super::status::Status;
use super::{Client, Error, Options, after_word, pipe, repl, unexpected, watch as watching};
use crate::error::Refusal;
use crate::protocol::table;
use crate::protocol::text::{CommandDecoder, ReplyLine, decode_nodes, decode_verified};
use crate::protocol::{Command, Decoded};
use crate::terminal::Paper;
use crate::tls::Dialer;
use crate::types::{Credentials, Endpoints};

/// Exit codes, as `hatokuse --help` promises them.
pub(super) const EXIT_OK: u8 = 0;
pub(super) const EXIT_REFUSED: u8 = 1;
const EXIT_USAGE: u8 = 2;
const EXIT_NOT_FOUND: u8 = 3;
pub(super) const EXIT_NO_ANSWER: u8 = 4;

/// The largest message that is read from stdin; the leader's limit is lower, and says so.
const MAX_MESSAGE: usize = 256 * 1024 * 1024;

/// Said of `client SET "a b" c`.
const BLANK_IN_ID: &str = "the second word of the command is an id, which holds no blank; nothing was sent";

/// What `hatokuse client` was asked for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The leader's address for clients; of several leader processes those of all of them, with commas between.
    pub addr: String,
    /// Print replies as JSON.
    pub json: bool,
    /// No colour.
    pub plain: bool,
    /// How long to wait for a connection or an answer.
    pub timeout: Duration,
    /// What encrypts the connection, if it is to be.
    pub tls: Option<Dialer>,
    /// Who this is, if the leader asks for it.
    pub credentials: Option<Credentials>,
    /// Show a line about the register each time this has passed.
    pub watch: Option<Duration>,
    /// One command; without one, a prompt or a pipe.
    pub command: Vec<OsString>,
}

#[cfg(test)]
impl Settings {
    /// Nothing but where to connect, for tests.
    pub(super) fn new(addr: &str, timeout: Duration) -> Self {
        let addr = addr.to_owned();
        Self {
            addr,
            json: false,
            plain: false,
            timeout,
            tls: None,
            credentials: None,
            watch: None,
            command: Vec::new(),
        }
    }
}

/// A connection that has given its password.
pub(super) async fn connect(settings: &Settings) -> Result<Client, Error> {
    let mut client =
        Client::connect_with(&settings.addr, Options { timeout: settings.timeout, tls: settings.tls.clone() }).await?;
    if let Some(credentials) = &settings.credentials {
        client.log_in(credentials).await?;
    }
    Ok(client)
}

/// Runs the client; gives the exit code.
///
/// An error is one of stdin or stdout; all others are told on stderr here.
pub fn run(settings: Settings) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let style = Style::here(&settings);
    let result = runtime.block_on(async {
        if let Some(every) = settings.watch {
            if settings.command.iter().any(|word| !word.eq_ignore_ascii_case("STATUS")) {
                complain("--watch shows what STATUS says, and takes no other command");
                return Ok(EXIT_USAGE);
            }
            watching::run(&settings, every).await
        } else if !settings.command.is_empty() {
            let mut out = io::stdout().lock();
            one_shot(&settings, io::stdin(), style, &mut out).await
        } else if io::stdin().is_terminal() {
            repl::run(&settings).await
        } else {
            match connect(&settings).await {
                Ok(client) => {
                    let mut out = BufWriter::new(io::stdout().lock());
                    pipe::run(client, tokio::io::stdin(), style, &mut out).await
                }
                Err(error) => Ok(failed(&error)),
            }
        }
    });
    // A thread may still wait for stdin, which need not ever come.
    runtime.shutdown_background();
    result
}

/// Says on stderr what happened. A stderr that is gone is no reason to fail.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "hatokuse client: {}", escape(text.as_bytes()));
}

/// Tells of an error; gives the exit code that goes with it.
pub(super) fn failed(error: &Error) -> u8 {
    complain(&error.to_string());
    match error {
        Error::BadId { .. } | Error::MessageHasLineBreak => EXIT_USAGE,
        Error::Refused { .. } => EXIT_REFUSED,
        _ => EXIT_NO_ANSWER,
    }
}

/// A line as it was typed, understood here or only by the leader.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    Known(Command),
    Other(Bytes),
}

/// Reads a line without its end; refuses a known command in a wrong form.
pub(super) fn read_request(line: &[u8]) -> Result<Request, Refusal> {
    let word = line.split(|&byte| byte == b' ').next().unwrap_or_default();
    if table::find(word).is_none_or(|spec| spec.line.is_none()) {
        return Ok(Request::Other(Bytes::copy_from_slice(line)));
    }
    let mut whole = BytesMut::with_capacity(line.len() + 2);
    whole.extend_from_slice(line);
    // With this line end a CR at the end of the message stays part of it.
    whole.extend_from_slice(b"\r\n");
    match CommandDecoder::new(MAX_MESSAGE).decode(&mut whole) {
        // The line end above is ours, and its answer is to end as all others do.
        Decoded::Item(Command::Ping { .. }) => Ok(Request::Known(Command::Ping { crlf: false })),
        Decoded::Item(command) => Ok(Request::Known(command)),
        Decoded::Bad(refusal) => Err(refusal),
        Decoded::Need => Err(Refusal::BadCommand("the line has no end".to_owned())),
    }
}

/// Sends one request, gives its last reply line; those before it go to `part` as they come.
pub(super) async fn ask(
    client: &mut Client,
    request: &Request,
    mut part: impl FnMut(&ReplyLine),
) -> Result<ReplyLine, Error> {
    let mut reply = match request {
        Request::Known(command) => client.request(command).await?,
        Request::Other(line) => client.request_line(line).await?,
    };
    while reply.is_part() {
        part(&reply);
        reply = client.next_part().await?;
    }
    let fits = match request {
        Request::Known(command) => fits(command, &reply),
        Request::Other(_) => true,
    };
    if fits { Ok(reply) } else { Err(unexpected("a reply to this command", &reply)) }
}

/// Does this until Ctrl-C or SIGTERM: nothing comes of it then, and what was asked may be done all the same.
pub(super) async fn unless_interrupted<T>(request: &Request, work: impl Future<Output = T>) -> Option<T> {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return Some(work.await);
    };
    tokio::select! {
        biased;
        done = work => return Some(done),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    complain(match request {
        Request::Known(command) if !writes(command) => "interrupted before the answer",
        _ => {
            "interrupted before the answer; a write may have happened or may happen yet: read the id before you write it again"
        }
    });
    None
}

/// What may have been meant, where the leader does not know the command.
pub(super) fn hint(request: &Request, reply: &ReplyLine) -> Option<String> {
    let (Request::Other(line), ReplyLine::Error { code, .. }) = (request, reply) else { return None };
    let word = String::from_utf8_lossy(line.split(|&byte| byte == b' ').next()?);
    let name = table::nearest(word.as_bytes()).filter(|_| code == "BAD_COMMAND")?;
    Some(format!("did you mean {name}?"))
}

/// The word of `HELP <word>`, or of `HELP`.
pub(super) fn asks_for_help(line: &[u8]) -> Option<Option<&str>> {
    let mut words = std::str::from_utf8(line).ok()?.split_whitespace();
    let (first, of, None) = (words.next()?, words.next(), words.next()) else { return None };
    table::find(first.as_bytes()).is_some_and(|spec| spec.op == table::Op::Server(table::ServerOp::Help)).then_some(of)
}

/// The table that stands for a reply where people read it; `None` for replies that are lines.
///
/// The holders of a message are numbers; who they are and how they are is asked for as well.
pub(super) async fn table_of(
    client: &mut Client,
    request: &Request,
    reply: &ReplyLine,
    paper: Paper,
) -> Option<String> {
    match (request, reply) {
        (Request::Known(Command::Status), ReplyLine::Other(line)) => Some(Status::parse(line)?.table(paper)),
        (Request::Known(Command::Peers), ReplyLine::Other(line)) => Some(Peers::parse(line)?.table(paper)),
        (Request::Known(Command::Where(_)), ReplyLine::Other(_)) => {
            let (holders, expires) = after_word(reply, "").and_then(decode_nodes)?;
            let ReplyLine::Other(status) = client.request(&Command::Status).await.ok()? else { return None };
            Some(Status::parse(&status)?.holders(&holders, expires, paper))
        }
        _ => None,
    }
}

/// Says which address serves now, where it is another one than before.
pub(super) fn note_address(before: &str, client: &Client) {
    if client.address() != before {
        complain(&format!("connected to {}", client.address()));
    }
}

/// Whether a reply is the end of a VERIFY that found something.
pub(super) fn found_faults(reply: &ReplyLine) -> bool {
    let ReplyLine::Other(line) = reply else { return false };
    let verified = std::str::from_utf8(line).ok().and_then(decode_verified);
    verified.is_some_and(|verified| verified.bad + verified.unknown > 0)
}

/// Runs the command of the command line.
async fn one_shot(settings: &Settings, stdin: impl Read, style: Style, out: &mut impl Write) -> anyhow::Result<u8> {
    let words: Vec<&[u8]> = settings.command.iter().map(|word| word.as_encoded_bytes()).collect();
    let line = words.join(&b' ');
    if line.contains(&b'\n') {
        return Ok(failed(&Error::MessageHasLineBreak));
    }
    if let Some(of @ Some(_)) = asks_for_help(&line) {
        let told = help(of, if style.json { usize::MAX } else { style.paper.columns });
        match style.json {
            true => write_reply(&ReplyLine::Other(told.into()), style, out)?,
            false => told.lines().try_for_each(|line| write_bare(line.as_bytes(), style, out))?,
        }
        return Ok(EXIT_OK);
    }
    if let Some(instead) = only_redis(&line, Endpoints::new(&settings.addr).current()) {
        complain(&instead);
        return Ok(EXIT_USAGE);
    }
    let mut request = match read_request(&line) {
        // As one word it was meant as one id; in a line the id would end at the blank.
        Ok(Request::Known(_)) if words.len() > 2 && words[1].contains(&b' ') => {
            complain(&format!("{BLANK_IN_ID}; for examples: hatokuse client --help"));
            return Ok(EXIT_USAGE);
        }
        Ok(Request::Other(line)) if line.trim_ascii().is_empty() => {
            complain("the command is empty; try for example: hatokuse client SET 1 hello");
            return Ok(EXIT_USAGE);
        }
        Ok(request) => request,
        Err(refusal) => {
            complain(&format!("{refusal}; for examples: hatokuse client --help"));
            return Ok(EXIT_USAGE);
        }
    };
    if let Request::Known(Command::Set { payload, .. } | Command::SetFor { payload, .. }) = &mut request
        && payload == "-"
    {
        let Some(message) = read_message(stdin)? else {
            complain(&format!("the message on stdin is over {MAX_MESSAGE} bytes; nothing was sent"));
            return Ok(EXIT_USAGE);
        };
        if message.contains(&b'\n') {
            return Ok(failed(&Error::MessageHasLineBreak));
        }
        *payload = message;
    }
    let mut client = match connect(settings).await {
        Ok(client) => client,
        Err(error) => return Ok(failed(&error)),
    };
    // An error of writing shows with the last line.
    let asking = ask(&mut client, &request, |part| drop(write_reply(part, style, out)));
    let reply = match unless_interrupted(&request, asking).await {
        Some(Ok(reply)) => reply,
        Some(Err(error)) => return Ok(failed(&error)),
        None => return Ok(EXIT_NO_ANSWER),
    };
    let table = match style.is_for_people() {
        true => table_of(&mut client, &request, &reply, style.paper).await,
        false => None,
    };
    let is_get = matches!(request, Request::Known(Command::Get(_)));
    let code = match &reply {
        ReplyLine::Error { code, .. } if is_get && code == "NOT_FOUND" => EXIT_NOT_FOUND,
        ReplyLine::Error { .. } => EXIT_REFUSED,
        reply if found_faults(reply) => EXIT_REFUSED,
        _ => EXIT_OK,
    };
    match &reply {
        // Without JSON stdout holds answers only, so that `x=$(hatokuse client GET 1)` is never an error's text.
        ReplyLine::Error { .. } if !style.json => {
            let _ = write_reply(&reply, Style { terminal: true, ..style }, &mut io::stderr());
            if let Some(hint) = hint(&request, &reply) {
                complain(&hint);
            }
        }
        ReplyLine::Value(message) if is_get && !style.json => write_bare(message, style, out)?,
        _ if let Some(table) = &table => out.write_all(table.as_bytes())?,
        _ => write_reply(&reply, style, out)?,
    }
    out.flush()?;
    Ok(code)
}

/// All of stdin but one last line end; `None` if it is too much.
fn read_message(stdin: impl Read) -> io::Result<Option<Bytes>> {
    let mut message = Vec::new();
    stdin.take(MAX_MESSAGE as u64 + 3).read_to_end(&mut message)?;
    if message.last() == Some(&b'\n') {
        message.pop();
        if message.last() == Some(&b'\r') {
            message.pop();
        }
    }
    Ok((message.len() <= MAX_MESSAGE).then(|| message.into()))
}

#[cfg(test)]
mod tests;
