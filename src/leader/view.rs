//! `leader_metadata/message_mapping.txt`: the log's readable view.
//!
//! One line a message, `<id>:<node>,<node>`, ids encoded as in file names. New
//! messages are appended; when the holders of a message change, the file is copied
//! without its old line and renamed into place, so that a reader never sees half of
//! one. It is never the authority, and an error here harms no message.
//!
//! The index remembers where each message's line is, counted over all that was ever
//! written: a line keeps its number when lines before it are cut out, and
//! `View::place` finds it by the sum of these cuts.

mod changes;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

pub use self::changes::Changes;
use super::coordinator::Coordinator;
use crate::cluster::Cluster;
use crate::cluster::knowledge::Trust;
use crate::cluster::mapping::SHARDS;
use crate::durable::{DiskFile, Folder};
use crate::file_names::Names;
use crate::types::{Holders, MessageId, NodeId};

/// The file's name.
pub const VIEW_FILE: &str = "message_mapping.txt";

/// The view is at most this far behind, and the time that writing it takes; the contract allows a second.
const EVERY: Duration = Duration::from_millis(250);

/// After a write that took long there is a pause of so many times as long: a view of very many messages is
/// further behind than a second, rather than that it takes the leader's time.
const REST: u32 = 3;

/// Where a file that is being written anew stands until it is whole.
const BESIDE: &str = ".message_mapping.txt.new";

/// How much is read and written at once.
const CHUNK: usize = 1 << 20;

/// The longest line: a stem and seven nodes, with something to spare.
const MAX_LINE: usize = 512;

/// Ids that are looked up under one lock.
const LOOKS: usize = 256;

/// More cuts than this, and than a quarter of the messages, are not worth remembering: the view is written anew.
const MAX_CUTS: usize = 65_536;

/// Keeps the view until `finish`, and then writes it once more, so that it is exact. With `hold` the file that is
/// there says what a leader without its log has to hear: it stays until all that is heard.
pub async fn keep(
    folder: Arc<dyn Folder>,
    coordinator: Arc<Coordinator>,
    changes: Arc<Changes>,
    finish: CancellationToken,
    mut hold: bool,
) {
    let from = coordinator.cluster().mapping().lines_end();
    let mut view = View::new(folder, from);
    // What is there may be behind the log: begin with a whole one.
    let mut anew = true;
    let mut next = Instant::now();
    loop {
        let due = async {
            if !anew {
                changes.come().await;
            }
            // What comes meanwhile wakes nobody.
            sleep_until(next).await;
        };
        let ending = tokio::select! {
            biased;
            () = finish.cancelled() => true,
            () = due => false,
        };
        let began = Instant::now();
        let waiting = changes.take();
        anew |= waiting.too_many;
        let pending: BTreeSet<MessageId> = waiting.ids.into_iter().collect();
        hold &= coordinator.cluster().trust() == Trust::Nothing;
        if !anew && !pending.is_empty() {
            anew = view.take(&*coordinator, &pending).is_err();
        }
        if anew && !hold {
            let result = view.rewrite(&*coordinator);
            anew = view.note(result);
        }
        if ending {
            return;
        }
        next = Instant::now() + EVERY.max(began.elapsed() * REST);
    }
}

/// Where the messages are looked up. The lock is never held for long, and not while a disk is waited for.
trait Index {
    fn cluster(&self) -> MutexGuard<'_, Cluster>;
}

impl Index for Coordinator {
    fn cluster(&self) -> MutexGuard<'_, Cluster> {
        Coordinator::cluster(self)
    }
}

/// A part of the file: where it begins, and its bytes.
type Range = (u64, u64);

struct View {
    folder: Arc<dyn Folder>,
    /// Open for appending, once a whole view has been written.
    file: Option<Box<dyn DiskFile>>,
    said: bool,
    /// The number of the file's first byte; lines of lower numbers were in a file before.
    base: u64,
    /// The number of the next byte.
    end: u64,
    /// What was cut out since the file was written anew: the number of the first byte, and the bytes of all cuts up
    /// to and with this one. Ascending.
    cuts: Vec<(u64, u64)>,
}

/// A message with a line that may have to change.
struct Line {
    id: MessageId,
    /// Its number.
    number: u64,
    /// What it should be; nothing for a deleted message.
    text: String,
}

impl View {
    /// Lines get numbers from this one on.
    fn new(folder: Arc<dyn Folder>, from: u64) -> Self {
        Self { folder, file: None, said: false, base: from, end: from, cuts: Vec::new() }
    }

    /// Says a failure once; `true`: the view has to be written anew.
    fn note(&mut self, result: io::Result<()>) -> bool {
        let failed = result.is_err();
        if let Err(error) = result
            && !self.said
        {
            tracing::warn!(
                "cannot write {VIEW_FILE}: {error}; messages are safe, the view is behind until this works again"
            );
        }
        self.said = failed;
        failed
    }

    /// Takes up changes. An error: the disk failed, or it is better to begin anew.
    fn take(&mut self, index: &impl Index, ids: &BTreeSet<MessageId>) -> io::Result<()> {
        let mut text = String::with_capacity(ids.len() * 24);
        let result = self.change(index, ids, &mut text);
        if result.is_err() {
            // These numbers were given out.
            self.end += text.len() as u64;
        }
        result
    }

    fn change(&mut self, index: &impl Index, ids: &BTreeSet<MessageId>, text: &mut String) -> io::Result<()> {
        let mut lines = self.look(index, ids, text);
        let mut cuts: Vec<Range> = Vec::new();
        for number in index.cluster().take_stale_lines().into_iter().filter(|number| *number >= self.base) {
            cuts.push((number, self.line_at(number)?.len() as u64));
        }
        lines.sort_unstable_by_key(|line| line.number);
        for Line { id, number, text: wanted } in lines {
            let before = self.line_at(number)?;
            let same = before == wanted.as_bytes();
            let next = if same { number } else { self.end + text.len() as u64 };
            let keeps = !wanted.is_empty() && index.cluster().place_line(&id, |_, _| Some(next));
            if !same || !keeps {
                cuts.push((number, before.len() as u64));
            }
            if !same && keeps {
                text.push_str(&wanted);
            }
        }
        if cuts.is_empty() {
            return self.append(text);
        }
        let remembered = self.cuts.len() + cuts.len();
        if remembered > MAX_CUTS && remembered as u64 > index.cluster().len() / 4 {
            return Err(io::Error::other("too many lines have changed"));
        }
        cuts.sort_unstable();
        self.copy_without(&cuts, text)?;
        self.remember(cuts);
        Ok(())
    }

    /// Looks messages up. The lines of those that have none yet are added to `text`; the others are given, and are
    /// noted as having none.
    fn look(&self, index: &impl Index, ids: &BTreeSet<MessageId>, text: &mut String) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut ids = ids.iter().peekable();
        while ids.peek().is_some() {
            let mut cluster = index.cluster();
            for id in ids.by_ref().take(LOOKS) {
                cluster.place_line(id, |number, holders| {
                    let number = number.filter(|number| *number >= self.base);
                    let to = self.end + text.len() as u64;
                    match (number, holders) {
                        (None, None) => None,
                        (None, Some(holders)) => {
                            line(text, id, holders);
                            Some(to)
                        }
                        (Some(number), holders) => {
                            let mut wanted = String::new();
                            holders.into_iter().for_each(|holders| line(&mut wanted, id, holders));
                            lines.push(Line { id: id.clone(), number, text: wanted });
                            None
                        }
                    }
                });
            }
        }
        lines
    }

    /// Where a byte is in the file.
    fn place(&self, number: u64) -> u64 {
        let before = self.cuts.partition_point(|(cut, _)| *cut < number);
        let gone = before.checked_sub(1).map_or(0, |last| self.cuts[last].1);
        number - self.base - gone
    }

    /// A line as it is in the file, with its end.
    fn line_at(&self, number: u64) -> io::Result<Vec<u8>> {
        let file = self.file.as_ref().ok_or_else(not_open)?;
        let mut buffer = vec![0; MAX_LINE];
        let some = file.read_at(&mut buffer, self.place(number))?;
        let end = buffer[..some].iter().position(|&byte| byte == b'\n');
        buffer.truncate(end.ok_or_else(|| io::Error::other("a line has no end"))? + 1);
        Ok(buffer)
    }

    fn append(&mut self, text: &str) -> io::Result<()> {
        let file = self.file.as_mut().ok_or_else(not_open)?;
        file.append(&[IoSlice::new(text.as_bytes())])?;
        self.end += text.len() as u64;
        Ok(())
    }

    /// Puts a copy of the file without these lines, and with `text` at its end, in its place.
    fn copy_without(&mut self, cuts: &[Range], text: &str) -> io::Result<()> {
        let mut file = self.beside()?;
        let mut copied = 0;
        let mut buffer = vec![0; CHUNK];
        let from = self.file.as_ref().ok_or_else(not_open)?;
        let whole = (self.place(self.end), 0);
        for (at, length) in cuts.iter().map(|&(number, length)| (self.place(number), length)).chain([whole]) {
            while copied < at {
                let most = (at - copied).min(CHUNK as u64) as usize;
                let some = from.read_at(&mut buffer[..most], copied)?;
                if some == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                file.append(&[IoSlice::new(&buffer[..some])])?;
                copied += some as u64;
            }
            copied += length;
        }
        file.append(&[IoSlice::new(text.as_bytes())])?;
        self.folder.rename(BESIDE, VIEW_FILE)?;
        self.file = Some(file);
        self.end += text.len() as u64;
        Ok(())
    }

    fn remember(&mut self, cuts: Vec<Range>) {
        let mut gone = 0;
        let mut before = 0;
        let old = std::mem::take(&mut self.cuts).into_iter().map(|(number, upto)| {
            let length = upto - before;
            before = upto;
            (number, length)
        });
        let mut all: Vec<Range> = old.chain(cuts).collect();
        all.sort_unstable();
        for (_, length) in &mut all {
            gone += *length;
            *length = gone;
        }
        self.cuts = all;
    }

    fn beside(&self) -> io::Result<Box<dyn DiskFile>> {
        match self.folder.remove(BESIDE) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.folder.create_new(BESIDE)
    }

    /// Writes all of it.
    fn rewrite(&mut self, index: &impl Index) -> io::Result<()> {
        self.file = None;
        // Numbers are not used twice: lines of the file before are told by theirs.
        (self.base, self.cuts) = (self.end, Vec::new());
        let mut text = String::new();
        let result = self.beside().and_then(|file| self.write_all(file, index, &mut text));
        self.end += text.len() as u64;
        self.file = Some(result?);
        Ok(())
    }

    fn write_all(
        &mut self,
        mut file: Box<dyn DiskFile>,
        index: &impl Index,
        text: &mut String,
    ) -> io::Result<Box<dyn DiskFile>> {
        for part in 0..SHARDS {
            let mut slice = 0;
            // The lock is let go between two slices, so that no request waits for long.
            while let Some(mut cluster) = Some(index.cluster()).filter(|cluster| slice < cluster.mapping().slices(part))
            {
                cluster.place_lines(part, slice, |id, holders| {
                    let number = self.end + text.len() as u64;
                    line(text, id, holders);
                    number
                });
                drop(cluster);
                slice += 1;
                if text.len() >= CHUNK {
                    file.append(&[IoSlice::new(text.as_bytes())])?;
                    self.end += text.len() as u64;
                    text.clear();
                }
            }
        }
        file.append(&[IoSlice::new(text.as_bytes())])?;
        self.folder.rename(BESIDE, VIEW_FILE)?;
        Ok(file)
    }
}

fn not_open() -> io::Error {
    io::Error::other("not open")
}

fn line(text: &mut String, id: &MessageId, holders: &Holders) {
    let _ = write!(text, "{}:", Names::default().stem(id));
    for (i, node) in holders.iter().enumerate() {
        let _ = write!(text, "{}{node}", if i == 0 { "" } else { "," });
    }
    text.push('\n');
}

/// The nodes that a view names: a leader that has lost its log has to hear each of them. What is no line of a view
/// names none. No view: none.
pub(super) fn named_nodes(folder: &dyn Folder) -> io::Result<BTreeSet<NodeId>> {
    let file = match folder.open(VIEW_FILE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other?,
    };
    let mut nodes = BTreeSet::new();
    let mut buffer = vec![0; CHUNK];
    let (mut at, mut kept) = (0, 0);
    loop {
        let some = file.read_at(&mut buffer[kept..], at)?;
        at += some as u64;
        let filled = kept + some;
        let end = buffer[..filled].iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        let lines = buffer[..end].split(|&byte| byte == b'\n');
        lines.filter_map(|line| std::str::from_utf8(line).ok()).for_each(|line| nodes_of(line, &mut nodes));
        if some == 0 {
            return Ok(nodes);
        }
        // What is longer than any line is no view's.
        kept = if filled - end == buffer.len() { 0 } else { filled - end };
        buffer.copy_within(end..end + kept, 0);
    }
}

fn nodes_of(line: &str, nodes: &mut BTreeSet<NodeId>) {
    let Some((_, holders)) = line.trim_end_matches('\r').rsplit_once(':') else { return };
    let holders: Vec<Option<u32>> = holders.split(',').map(|node| node.parse().ok().filter(|node| *node > 0)).collect();
    if holders.len() <= crate::types::MAX_TOLERANCE && holders.iter().all(Option::is_some) {
        nodes.extend(holders.into_iter().flatten().map(NodeId));
    }
}

#[cfg(test)]
mod tests;
