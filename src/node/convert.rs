//! From one layout to the other: `node --convert`.
//!
//! The invariant: at every moment the layout that the identity names has everything. All copies are written in the
//! new layout beside the old one, and synced; then the identity, replaced whole, says the new layout; only then the old
//! copies go, each because the new layout has it. `.converting` says which layout is being made: until the identity
//! agrees, what there is of that layout is a beginning that is thrown away; once it does, what there is of the other one is
//! left to remove. What is no whole copy is not carried over, and not removed either.

use std::io;
use std::sync::Arc;

use super::files::TextStore;
use super::identity::Identity;
use super::scan::{OpenError, SPARE};
use super::segments::{SegmentStore, segments_in};
use super::store::{Body, Fatal, INVENTORY_PARTS, Put, PutOutcome, ReadFault, Settle, Store};
use super::{records, reserve};
use crate::durable::{self, Disk, Folder};
use crate::types::{IoMode, Layout, Listed, NodeId, Version};

/// Says which layout is being made.
pub const MARKER: &str = ".converting";

/// Copies of one write.
const BATCH: usize = 256;

/// Why a folder cannot be converted. Nothing is lost, and the next try goes on.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The disk refused a call.
    #[error("converting {folder} failed: {source}; check the disk, then start again: the conversion goes on")]
    Disk {
        /// The folder.
        folder: String,
        /// Why.
        source: io::Error,
    },
    /// A layout cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A sync failed.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// There is something that would not be carried over, or not come through.
    #[error("{folder} is not converted: {why}")]
    Refused {
        /// The folder.
        folder: String,
        /// What is in the way, and what helps.
        why: String,
    },
}

/// Copies that were carried over so far, of how many.
pub type Progress<'a> = dyn FnMut(u64, u64) + 'a;

struct Conversion<'a> {
    disk: &'a Arc<dyn Disk>,
    folder: &'a Arc<dyn Folder>,
    progress: &'a mut Progress<'a>,
}

/// Converts a folder to `to`, or goes on with what an earlier start began. A new folder needs nothing.
pub fn convert<'a>(
    disk: &'a Arc<dyn Disk>,
    folder: &'a Arc<dyn Folder>,
    id: NodeId,
    to: Layout,
    progress: &'a mut Progress<'a>,
) -> Result<(), ConvertError> {
    let mut conversion = Conversion { disk, folder, progress };
    conversion.finish(id)?;
    let Some(identity) = conversion.identity(id)? else { return Ok(()) };
    if identity.layout == to.to_string() {
        return Ok(());
    }
    conversion.begin(to)?;
    let (old, new) = (conversion.open(other(to))?, conversion.open(to)?);
    conversion.carry_over(&*old, &*new)?;
    folder.sync_all().map_err(conversion.failed())?;
    identity.keep_as(&**folder, to).map_err(conversion.failed())?;
    drop((old, new));
    conversion.finish(id)
}

/// Goes on with the end of a conversion, if one was interrupted there.
pub fn finish(disk: &Arc<dyn Disk>, folder: &Arc<dyn Folder>, id: NodeId) -> Result<(), ConvertError> {
    Conversion { disk, folder, progress: &mut |_, _| {} }.finish(id)
}

fn other(layout: Layout) -> Layout {
    match layout {
        Layout::Text => Layout::Log,
        Layout::Log => Layout::Text,
    }
}

/// What there is of a copy in a store, of any version; foreign files are nobody's.
fn recorded(store: &dyn Store, part: usize) -> impl Iterator<Item = Listed> {
    store.inventory(part).into_iter().filter(|entry| entry.record.version != Version::FOREIGN)
}

fn whole(store: &dyn Store, part: usize) -> Vec<Listed> {
    let mut entries: Vec<Listed> = recorded(store, part).filter(|entry| !entry.damaged).collect();
    // The older of two copies of an id is the visible one in either layout.
    entries.sort_by(|a, b| (&a.id, a.record.version).cmp(&(&b.id, b.record.version)));
    entries
}

impl Conversion<'_> {
    fn failed(&self) -> impl FnOnce(io::Error) -> ConvertError + use<> {
        let folder = self.folder.path().display().to_string();
        move |source| ConvertError::Disk { folder, source }
    }

    fn refused(&self, why: impl Into<String>) -> ConvertError {
        ConvertError::Refused { folder: self.folder.path().display().to_string(), why: why.into() }
    }

    fn identity(&self, id: NodeId) -> Result<Option<Identity>, ConvertError> {
        Identity::read(&**self.folder, id).map_err(self.failed())
    }

    fn open(&self, layout: Layout) -> Result<Box<dyn Store>, ConvertError> {
        // Everything is synced at once, in the end.
        let (folder, io_mode) = (self.folder.clone(), IoMode::Buffered);
        Ok(match layout {
            Layout::Text => Box::new(TextStore::open(self.disk.clone(), folder, io_mode)?.0),
            Layout::Log => Box::new(SegmentStore::open(folder, io_mode)?.0),
        })
    }

    /// Which layout is being made, or was made and has not everything to itself.
    fn marker(&self) -> Result<Option<Layout>, ConvertError> {
        let text = match self.folder.open(MARKER) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.and_then(|mut file| file.read_all(64)).map_err(self.failed())?,
        };
        match String::from_utf8_lossy(&text).trim() {
            "text" => Ok(Some(Layout::Text)),
            "log" => Ok(Some(Layout::Log)),
            _ => Err(self.refused(format!("{MARKER} names no layout; was it written by another version?"))),
        }
    }

    fn remove(&self, name: &str) -> Result<(), ConvertError> {
        match self.folder.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed()(error)),
            _ => Ok(()),
        }
    }

    /// Removes what an interrupted conversion left of the layout that the identity does not name.
    fn finish(&mut self, id: NodeId) -> Result<(), ConvertError> {
        let Some(made) = self.marker()? else { return Ok(()) };
        let Some(identity) = self.identity(id)? else { return Ok(()) };
        let is_done = identity.layout == made.to_string();
        match (if is_done { other(made) } else { made }, is_done) {
            (Layout::Text, _) => self.remove_texts(is_done)?,
            (Layout::Log, _) => self.remove_segments()?,
        }
        self.folder.sync().map_err(self.failed())?;
        self.remove(MARKER)?;
        self.folder.sync().map_err(self.failed())
    }

    /// Lets go of text copies: of those that are in segments now, or of all that an unfinished conversion wrote.
    fn remove_texts(&self, is_done: bool) -> Result<(), ConvertError> {
        let text = self.open(Layout::Text)?;
        let log = if is_done { Some(self.open(Layout::Log)?) } else { None };
        for part in 0..INVENTORY_PARTS {
            let kept = log.as_ref().map(|log| whole(&**log, part));
            let has = |entry: &Listed| {
                let same = |other: &Listed| (&other.id, other.record) == (&entry.id, entry.record);
                kept.as_ref().is_none_or(|kept| {
                    let from = kept.partition_point(|other| other.id < entry.id);
                    kept[from..].iter().take_while(|other| other.id == entry.id).any(same)
                })
            };
            let settle = |entry: &Listed| Settle {
                id: entry.id.clone(),
                version: entry.record.version,
                keep: false,
                trash: false,
                lasting: false,
            };
            let settles: Vec<Settle> = whole(&*text, part).iter().filter(|entry| has(entry)).map(settle).collect();
            for settles in settles.chunks(BATCH) {
                let report = text.write(settles, &[])?;
                if report.settled.contains(&false) {
                    let why = report.error.unwrap_or_default();
                    return Err(self.refused(format!("some files cannot be removed: {why}; start again")));
                }
            }
        }
        if (0..INVENTORY_PARTS).all(|part| recorded(&*text, part).next().is_none()) {
            drop(text);
            for entry in self.folder.list().map_err(self.failed())? {
                if entry.name.starts_with(SPARE) {
                    self.remove(&entry.name)?;
                }
            }
            self.remove(records::LOG_NAME)?;
        }
        Ok(())
    }

    fn remove_segments(&self) -> Result<(), ConvertError> {
        for (name, hint, damaged) in segments_in(&**self.folder).map_err(self.failed())? {
            if damaged {
                self.folder.rename(&name, &format!(".damaged-{name}")).map_err(self.failed())?;
            } else {
                self.remove(&name)?;
            }
            self.remove(&hint)?;
        }
        self.remove(reserve::MOVING_FILE)?;
        self.remove(reserve::RESERVE_FILE)
    }

    /// Looks whether all of it can be carried over, and marks the beginning.
    fn begin(&self, to: Layout) -> Result<(), ConvertError> {
        match to {
            Layout::Log => {
                let mut listed = segments_in(&**self.folder).map_err(self.failed())?.into_iter();
                if let Some((name, ..)) = listed.next() {
                    return Err(
                        self.refused(format!("{name} is there already, and nobody knows from where: move it away"))
                    );
                }
                let text = self.open(Layout::Text)?;
                let foreign = |entry: &Listed| entry.record.version == Version::FOREIGN;
                let mut foreign = (0..INVENTORY_PARTS).flat_map(|part| text.inventory(part)).filter(foreign);
                if let Some(Listed { id, .. }) = foreign.next() {
                    return Err(self.refused(format!(
                        "the file of {id}, and {} others, are no messages yet: start the node with --layout text once, so that they become some, or move them away",
                        foreign.count()
                    )));
                }
            }
            Layout::Text => {}
        }
        durable::replace(&**self.folder, MARKER, format!("{to}\n").as_bytes()).map_err(self.failed())
    }

    /// Writes every whole copy of one store into the other, and sees that they are there.
    fn carry_over(&mut self, old: &dyn Store, new: &dyn Store) -> Result<(), ConvertError> {
        let total = (0..INVENTORY_PARTS).map(|part| whole(old, part).len() as u64).sum();
        let mut done = 0;
        for part in 0..INVENTORY_PARTS {
            for entries in whole(old, part).chunks(BATCH) {
                let mut puts = Vec::with_capacity(entries.len());
                for Listed { id, record, .. } in entries {
                    let body = match old.read(id, record.version) {
                        _ if record.is_tombstone() => Body::Deleted,
                        Ok(content) => Body::Bytes(content),
                        // Its damage is known from now on, and it stays where it is.
                        Err(ReadFault::Damaged | ReadFault::Absent) => continue,
                        Err(ReadFault::Unknown(why)) => return Err(self.refused(format!("{why}; check the disk"))),
                    };
                    puts.push(Put { id: id.clone(), record: *record, body });
                }
                let report = new.write(&[], &puts)?;
                if let Some(at) = report.outcomes.iter().position(|outcome| *outcome != PutOutcome::Stored) {
                    let (id, why) = (&puts[at].id, report.error.unwrap_or_default());
                    return Err(self.refused(format!("{id} could not be written: {why}")));
                }
                done += entries.len() as u64;
                (self.progress)(done, total);
            }
        }
        let key = |entry: Listed| (entry.id, entry.record);
        let all = |store, part| whole(store, part).into_iter().map(key).collect::<Vec<_>>();
        if (0..INVENTORY_PARTS).any(|part| all(old, part) != all(new, part)) {
            return Err(self.refused("what was written is not what there was; this is a bug: please report it"));
        }
        Ok(())
    }
}
