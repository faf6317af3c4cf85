//! Loads a backup into a register: checked as a whole first where it can be read twice, and written in windows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::connection::{Connection, Reply};
use super::error::Written;
use super::progress::{Progress, say};
use super::source::Source;
use super::{Error, Outcome, counted};
use crate::archive::Item;
use crate::error::printable;
use crate::telemetry::grouped;
use crate::tls::Dialer;
use crate::types::{Credentials, Deadline, MessageId, Payload};

/// Messages and bytes that are written at once; one message at least.
const WINDOW: usize = 512;
const WINDOW_BYTES: usize = 1 << 20;

/// Messages of a window that are read back at once: few enough that their requests fit into any socket's buffers
/// while nobody reads the answers yet.
const READ_BACK: usize = 64;

/// What to do with ids that have a message already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Nothing is restored if there is any.
    Refuse,
    /// They are left alone.
    Keep,
    /// They get the message of the backup.
    Overwrite,
}

/// How to restore.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder; none: standard input.
    pub from: Option<PathBuf>,
    /// The leader's address for clients.
    pub addr: String,
    /// How long to wait for a connection.
    pub timeout: Duration,
    /// What encrypts it, if it is to be.
    pub tls: Option<Dialer>,
    /// Of a leader that asks for one.
    pub credentials: Option<Credentials>,
    /// What to do with ids that have a message already.
    pub existing: Existing,
    /// Read back what was written.
    pub verify: bool,
    /// Only check the backup.
    pub dry_run: bool,
    /// No bar.
    pub plain: bool,
}

/// Restores a backup.
pub fn restore(settings: &Settings) -> Result<Outcome, Error> {
    let source = settings.from.as_deref().map_or(Ok(Source::In), Source::folder)?;
    let shown = settings.from.as_deref().map_or_else(|| "the backup".to_owned(), |path| path.display().to_string());
    if settings.dry_run || settings.from.is_some() {
        let totals = source.read(|_| Ok(0))?;
        if settings.dry_run {
            let (messages, lost) = (counted(totals.messages), totals.lost);
            say(&format!("{shown} is whole: {messages}, {} bytes, {lost} lost before", grouped(totals.bytes)));
            return Ok(Outcome { lost });
        }
    }
    let mut connection =
        Connection::open(&settings.addr, settings.timeout, settings.tls.as_ref(), settings.credentials.as_ref())?;
    if settings.existing == Existing::Refuse {
        refuse_messages(&mut connection)?;
    }
    let mut restoring = Restoring { settings, connection, window: Vec::new(), bytes: 0, written: 0, kept: 0 };
    let mut progress = None;
    let totals = source.read(|item| {
        match item {
            Item::Header(header) => progress = Some(Progress::begin("restore", header.messages, settings.plain)),
            Item::Message((id, _, expires, Some(message))) => {
                restoring.add(id, message, expires)?;
                progress.iter_mut().for_each(|progress| progress.add(1));
            }
            Item::Message((id, .., None)) => say(&format!("restore: {id} was lost before the backup was made")),
            Item::End(_) => restoring.write()?,
        }
        Ok(restoring.written)
    })?;
    if let Some(progress) = progress {
        progress.end(|seconds| {
            let kept = restoring.kept;
            let kept = if kept > 0 { format!(", {} left as they were", grouped(kept)) } else { String::new() };
            let verified = if settings.verify { ", all read back" } else { "" };
            format!("restored {} from {shown} in {seconds:.1} s{kept}{verified}", counted(restoring.written))
        });
    }
    Ok(Outcome { lost: totals.lost })
}

/// Refuses a register that has any message; it waits until that is known.
fn refuse_messages(connection: &mut Connection) -> Result<(), Error> {
    let mut cursor = b"0".to_vec();
    loop {
        let Reply::List(found) = connection.ask(&[b"SCAN", &cursor, b"COUNT", b"1"])? else {
            return Err(connection.strange("no list to SCAN"));
        };
        match &found[..] {
            [_, Reply::List(ids)] if !ids.is_empty() => break,
            [Reply::Bytes(next), Reply::List(_)] if &next[..] == b"0" => return Ok(()),
            [Reply::Bytes(next), Reply::List(_)] => cursor = next.to_vec(),
            _ => return Err(connection.strange("another list to SCAN")),
        }
    }
    match connection.ask(&[b"DBSIZE"])? {
        Reply::Integer(messages) => Err(Error::Taken { addr: connection.addr.clone(), messages }),
        _ => Err(connection.strange("no number to DBSIZE")),
    }
}

/// A message on its way back, and when it ends by itself, if it does.
type Restored = (MessageId, Payload, Option<Deadline>);

struct Restoring<'a> {
    settings: &'a Settings,
    connection: Connection,
    window: Vec<Restored>,
    bytes: usize,
    written: u64,
    kept: u64,
}

impl Restoring<'_> {
    fn add(&mut self, id: MessageId, message: Payload, expires: Option<Deadline>) -> Result<(), Error> {
        self.bytes += message.len();
        self.window.push((id, message, expires));
        if self.window.len() >= WINDOW || self.bytes >= WINDOW_BYTES { self.write() } else { Ok(()) }
    }

    /// Writes what has gathered, and reads it back where that is asked for.
    fn write(&mut self) -> Result<(), Error> {
        let merges = self.settings.existing == Existing::Keep;
        for (id, message, expires) in &self.window {
            let deadline = expires.map(|deadline| deadline.unix_ms().to_string());
            let mut words: Vec<&[u8]> = vec![b"SET", id.as_bytes(), message];
            words.extend(merges.then_some(&b"NX"[..]));
            // One that has passed meanwhile has nothing kept.
            words.extend(deadline.iter().flat_map(|deadline| [&b"PXAT"[..], deadline.as_bytes()]));
            self.connection.put(&words);
        }
        self.connection.flush()?;
        let (mut written, mut refused) = (Vec::with_capacity(self.window.len()), None);
        for (id, message, expires) in self.window.drain(..) {
            match self.connection.reply()? {
                Reply::Simple(_) => written.push((id, message, expires)),
                Reply::Nil if merges => self.kept += 1,
                Reply::Error(said) => refused = refused.or(Some((id, said))),
                other => return Err(self.connection.strange(&format!("{other:?} to SET"))),
            }
        }
        self.bytes = 0;
        self.written += written.len() as u64;
        if let Some((id, said)) = refused {
            let flag = if self.settings.existing == Existing::Overwrite { "--overwrite" } else { "--merge" };
            return Err(Error::NotTaken { id, said, written: Written(self.written), flag });
        }
        if self.settings.verify { self.read_back(&written) } else { Ok(()) }
    }

    fn read_back(&mut self, written: &[Restored]) -> Result<(), Error> {
        for some in written.chunks(READ_BACK) {
            some.iter().for_each(|(id, ..)| self.connection.put(&[b"GET", id.as_bytes()]));
            self.connection.flush()?;
            for (id, message, expires) in some {
                let found = match self.connection.reply()? {
                    Reply::Bytes(found) if found == *message => continue,
                    Reply::Bytes(found) => printable(&found, 64),
                    Reply::Nil if expires.is_some() => continue,
                    Reply::Nil => "there is no message".to_owned(),
                    Reply::Error(said) => said,
                    other => format!("{other:?}"),
                };
                return Err(Error::Differs { id: id.clone(), found });
            }
        }
        Ok(())
    }
}

/// Whether this names standard input or output.
pub fn is_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}
