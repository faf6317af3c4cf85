//! `hatokuse backup` and `hatokuse restore`: one moment of a running register into a folder or a stream, and back.
//!
//! The leader fixes the moment and hands everything out (`leader/backup`); `archive` says how it is written.

mod connection;
mod error;
mod progress;
mod restore;
mod sink;
mod source;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::connection::{Connection, Reply};
pub use self::error::Error;
use self::progress::{Progress, say};
pub use self::restore::{Existing, Settings as RestoreSettings, is_stream, restore};
use self::sink::Sink;
use crate::archive::{Header, Kept, Writer};
use crate::telemetry::grouped;
use crate::tls::Dialer;
use crate::types::{Credentials, Deadline, MessageId, Uuid, Version};

/// How to make a backup.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder; none: standard output.
    pub to: Option<PathBuf>,
    /// The leader's address for clients.
    pub addr: String,
    /// How long to wait for a connection.
    pub timeout: Duration,
    /// What encrypts it, if it is to be.
    pub tls: Option<Dialer>,
    /// Of a leader that asks for one.
    pub credentials: Option<Credentials>,
    /// No bar.
    pub plain: bool,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Messages that the register had lost before: they are named in the backup, and not in it.
    pub lost: u64,
}

/// `1 message`, or `1,234 messages`.
fn counted(messages: u64) -> String {
    if messages == 1 { "1 message".to_owned() } else { format!("{} messages", grouped(messages)) }
}

/// Makes a backup.
pub fn back_up(settings: &Settings) -> Result<Outcome, Error> {
    let mut connection =
        Connection::open(&settings.addr, settings.timeout, settings.tls.as_ref(), settings.credentials.as_ref())?;
    // Before the register is bothered.
    let mut sink = settings.to.as_deref().map_or_else(|| Ok(Sink::out()), Sink::folder)?;
    let begun = connection.ask(&[b"BACKUP", b"BEGIN"])?;
    let header = header(begun).ok_or_else(|| connection.strange("something else to BACKUP BEGIN"))?;
    let mut progress = Progress::begin("backup", header.messages, settings.plain);
    let mut bytes = Vec::new();
    let mut writer = Writer::begin(&header, &mut bytes);
    sink.push(&bytes)?;
    connection.put(&[b"BACKUP", b"NEXT"]);
    connection.flush()?;
    loop {
        let Reply::List(copied) = connection.good_reply()? else {
            return Err(connection.strange("no list to BACKUP NEXT"));
        };
        if copied.is_empty() {
            break;
        }
        // The leader reads on while this is written.
        connection.put(&[b"BACKUP", b"NEXT"]);
        connection.flush()?;
        let strange = || connection.strange("another list to BACKUP NEXT");
        for one in copied.chunks(3) {
            let copied = message(one).ok_or_else(strange)?;
            let (id, .., message) = &copied;
            bytes.clear();
            writer.message(&copied, &mut bytes);
            sink.push(&bytes)?;
            if message.is_none() {
                say(&format!(
                    "backup: {id} is lost: no node has an intact copy; it is named in the backup, and not in it"
                ));
            }
        }
        progress.add(copied.len() as u64 / 3);
    }
    bytes.clear();
    let totals = writer.end(&mut bytes);
    sink.push(&bytes)?;
    sink.finish(&header, &totals)?;
    progress.end(|seconds| {
        let to = settings.to.as_deref().map_or_else(|| "standard output".to_owned(), |to| to.display().to_string());
        let (messages, bytes) = (counted(totals.messages), grouped(totals.bytes));
        format!("backed up {messages} ({bytes} bytes) as of version {} into {to} in {seconds:.1} s", header.version)
    });
    Ok(Outcome { lost: totals.lost })
}

/// What BACKUP BEGIN answers.
fn header(reply: Reply) -> Option<Header> {
    let Reply::List(mut parts) = reply else { return None };
    // Only of a register in which some messages end by themselves.
    let expires = parts.len() > 5 && matches!(parts.pop(), Some(Reply::Integer(_)));
    let [
        Reply::Bytes(cluster),
        Reply::Integer(version),
        Reply::Integer(tolerance),
        Reply::Integer(messages),
        Reply::Integer(bytes),
    ] = &parts[..]
    else {
        return None;
    };
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(Header {
        cluster_id: Uuid::from_hex(std::str::from_utf8(cluster).ok()?)?,
        version: Version(*version as u64),
        unix_ms: since.as_millis() as u64,
        tolerance: u8::try_from(*tolerance).ok()?,
        messages: *messages as u64,
        bytes: *bytes as u64,
        expires,
    })
}

/// One message of what BACKUP NEXT answers.
fn message(parts: &[Reply]) -> Option<Kept<&[u8]>> {
    let [Reply::Bytes(id), version, message] = parts else { return None };
    let (version, expires) = match version {
        Reply::Integer(version) => (version, None),
        Reply::List(both) => match &both[..] {
            [Reply::Integer(version), Reply::Integer(deadline)] => (version, Some(Deadline::at(*deadline as u64)?)),
            _ => return None,
        },
        _ => return None,
    };
    let message = match message {
        Reply::Bytes(message) => Some(&message[..]),
        Reply::Nil => None,
        _ => return None,
    };
    Some((MessageId::from_bytes(id).ok()?, Version(*version as u64), expires, message))
}
