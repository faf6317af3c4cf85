//! An append-only log of checksummed records, in one file.
//!
//! A header (magic, format version, checksum), then frames: length, CRC-32C of
//! length and payload, payload. A batch is appended by one call. After a sync the
//! next batch begins with a marker that says how far the log was on stable storage;
//! it tells the torn end that a power cut leaves from damage in the middle. What
//! is torn is cut off and kept beside; damage in the middle is never passed over.
//! After a failed sync nothing more is written: nobody knows what the disk holds.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::{DiskFile, Folder};

/// The version of the framing.
const FORMAT: u32 = 1;

/// Magic, format version, CRC-32C of both.
const HEADER: usize = 16;

/// Length and checksum.
const FRAME: usize = 8;

/// The largest payload; a length beyond it is damage.
pub const MAX_RECORD: usize = 64 << 10;

/// The first byte of a marker; records of a caller start with others, below 0xF0.
const MARKER: u8 = 0xFF;

/// Bytes read at once when a log is opened.
const CHUNK: usize = 1 << 20;

/// Bytes behind a bad place that are searched for later records.
const SEARCH: u64 = 64 << 20;

/// A log that is open for appending.
#[derive(Debug)]
pub struct RecordLog {
    folder: Arc<dyn Folder>,
    name: String,
    magic: [u8; 8],
    file: Box<dyn DiskFile>,
    length: u64,
    /// How far the log is on stable storage.
    durable: u64,
    /// How far the last marker says so.
    marked: u64,
    poisoned: Option<String>,
}

/// A log that was read.
#[derive(Debug)]
pub struct Opened {
    /// Ready for more.
    pub log: RecordLog,
    /// The torn end that was cut off.
    pub torn: Option<Torn>,
}

/// A torn end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// Where it began.
    pub offset: u64,
    /// How long it was.
    pub bytes: u64,
}

/// A place that holds no whole record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where it begins.
    pub offset: u64,
    /// Bytes from there to the end.
    pub bytes_after: u64,
    /// A whole record stands somewhere behind it.
    pub later_records: bool,
    /// A later marker says that this place had been on stable storage.
    pub proven_durable: bool,
}

/// What to do about a [`Damage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is a torn end: cut it off.
    Cut,
    /// It is damage in the middle: do not open the log.
    Refuse,
}

/// The usual verdict. Without a power cut the page cache kept all writes in order, so whole
/// records behind a bad place prove damage; after one, only a marker does.
pub fn judge(damage: &Damage, power_cut_possible: bool) -> Verdict {
    if damage.proven_durable || (damage.later_records && !power_cut_possible) { Verdict::Refuse } else { Verdict::Cut }
}

/// Why a log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Damage in the middle.
    #[error(
        "{file} is damaged at offset {offset}, and good records stand behind it: nothing was changed; restore the file from a backup, or move it away, and the leader rebuilds it from its nodes"
    )]
    Damaged {
        /// Which file.
        file: String,
        /// Where.
        offset: u64,
    },
    /// Not a log of this kind.
    #[error("{file} is no log of this kind: nothing was changed; move it away if it is not needed")]
    Foreign {
        /// Which file.
        file: String,
    },
    /// Written by a later version.
    #[error("{file} has format {found}, this hatokuse reads {FORMAT}: use the version that wrote it, or a later one")]
    Newer {
        /// Which file.
        file: String,
        /// Its format version.
        found: u32,
    },
    /// A whole record that its reader does not understand.
    #[error("{file} holds at offset {offset} {reason}")]
    Record {
        /// Which file.
        file: String,
        /// Where.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// A record that is too large to be written.
    #[error("{file}: a record of {bytes} bytes is over the limit of {MAX_RECORD}")]
    TooLarge {
        /// Which file.
        file: String,
        /// Its payload.
        bytes: usize,
    },
    /// The disk refused; the log is as it was.
    #[error("{file}: {source}; the log is as it was before, and is tried again with the next write")]
    Io {
        /// Which file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// A sync failed, or a failed write could not be taken back.
    #[error("{file} cannot be trusted any more: {reason}")]
    Poisoned {
        /// Which file.
        file: String,
        /// Why.
        reason: String,
    },
}

impl LogError {
    /// Whether no later write can succeed.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Poisoned { .. })
    }
}

/// What reads records: their offsets and payloads. An error ends the reading.
pub type Visit<'a> = dyn FnMut(u64, &[u8]) -> Result<(), String> + 'a;

impl RecordLog {
    /// Reads a log from its start, showing each record to `visit`, and opens it for appending. Makes
    /// an empty one where there is none. `judge` is asked about the first bad place after all records before it were shown.
    pub fn open(
        folder: Arc<dyn Folder>,
        name: &str,
        magic: [u8; 8],
        visit: &mut Visit<'_>,
        judge: &dyn Fn(&Damage) -> Verdict,
    ) -> Result<Opened, LogError> {
        let shown = folder.path().join(name).display().to_string();
        let failed = |source| LogError::Io { file: shown.clone(), source };
        let file = match folder.open(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                super::replace(folder.as_ref(), name, &header(magic)).map_err(failed)?;
                folder.open(name).map_err(failed)?
            }
            Err(error) => return Err(failed(error)),
        };
        let mut head = [0; HEADER];
        let length = file.len().map_err(failed)?;
        read_exact_at(file.as_ref(), &mut head, 0).map_err(failed)?;
        check_header(&head, magic, &shown)?;
        let mut scan = Scan { file: file.as_ref(), length, offset: HEADER as u64, buffer: Vec::new(), start: 0 };
        let mut marked = 0;
        let damage = loop {
            let offset = scan.offset;
            match scan.next().map_err(failed)? {
                Next::End => break None,
                Next::Bad => break Some(scan.damage(offset).map_err(failed)?),
                Next::Frame(payload) => match marker(payload) {
                    Some(durable) => marked = durable,
                    None => visit(offset, payload).map_err(|reason| LogError::Record {
                        file: shown.clone(),
                        offset,
                        reason,
                    })?,
                },
            }
        };
        let mut log = Self { folder, name: name.to_owned(), magic, file, length, durable: 0, marked, poisoned: None };
        let torn = match damage {
            None => None,
            Some(damage) => {
                if judge(&damage) == Verdict::Refuse {
                    return Err(LogError::Damaged { file: shown, offset: damage.offset });
                }
                log.cut(&damage).map_err(failed)?;
                Some(Torn { offset: damage.offset, bytes: damage.bytes_after })
            }
        };
        Ok(Opened { log, torn })
    }

    /// Cuts off a torn end, after a copy of it was put beside the log as far as that works.
    fn cut(&mut self, damage: &Damage) -> io::Result<()> {
        let keep = || -> io::Result<()> {
            let mut bytes = vec![0; damage.bytes_after.min(SEARCH) as usize];
            read_exact_at(self.file.as_ref(), &mut bytes, damage.offset)?;
            let beside = format!(".{}.torn-{}", self.name, damage.offset);
            let _ = self.folder.remove(&beside);
            self.folder.create_new(&beside)?.append(&[IoSlice::new(&bytes)])
        };
        let _ = keep();
        self.file.truncate(damage.offset)?;
        self.file.sync()?;
        self.length = damage.offset;
        Ok(())
    }

    /// Bytes in the log.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether there is no record in it.
    pub fn is_empty(&self) -> bool {
        self.length <= HEADER as u64
    }

    fn shown(&self) -> String {
        self.folder.path().join(&self.name).display().to_string()
    }

    fn usable(&self) -> Result<(), LogError> {
        match &self.poisoned {
            None => Ok(()),
            Some(reason) => Err(LogError::Poisoned { file: self.shown(), reason: reason.clone() }),
        }
    }

    fn poison(&mut self, reason: String) -> LogError {
        self.poisoned = Some(reason.clone());
        LogError::Poisoned { file: self.shown(), reason }
    }

    /// Appends records as one write. After an error none of them is in the log.
    pub fn append<'a>(&mut self, records: impl Iterator<Item = &'a [u8]>) -> Result<(), LogError> {
        self.usable()?;
        let mut batch = Vec::new();
        if self.durable > self.marked {
            let mut payload = [0; 9];
            payload[0] = MARKER;
            payload[1..].copy_from_slice(&self.durable.to_le_bytes());
            frame(&payload, &mut batch);
        }
        for record in records {
            if record.is_empty() || record.len() > MAX_RECORD {
                return Err(LogError::TooLarge { file: self.shown(), bytes: record.len() });
            }
            frame(record, &mut batch);
        }
        if let Err(source) = self.file.append(&[IoSlice::new(&batch)]) {
            // A part may be there: later good records must never stand behind it.
            if let Err(error) = self.file.truncate(self.length) {
                return Err(self.poison(format!("a write failed ({source}), and could not be taken back ({error})")));
            }
            return Err(LogError::Io { file: self.shown(), source });
        }
        self.length += batch.len() as u64;
        self.marked = self.durable;
        Ok(())
    }

    /// Puts everything appended on stable storage. After an error nothing can be appended any more.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.usable()?;
        match self.file.sync_data() {
            Ok(()) => {
                self.durable = self.length;
                Ok(())
            }
            Err(error) => Err(self.poison(format!("a sync failed ({error})"))),
        }
    }

    /// Replaces all records by these, at once or not at all, and goes on appending to the new file.
    pub fn replace_with<'a>(&mut self, records: impl Iterator<Item = &'a [u8]>) -> Result<(), LogError> {
        self.usable()?;
        let mut content = header(self.magic).to_vec();
        for record in records {
            frame(record, &mut content);
        }
        let result =
            super::replace(self.folder.as_ref(), &self.name, &content).and_then(|()| self.folder.open(&self.name));
        match result {
            Ok(file) => {
                self.file = file;
                self.length = content.len() as u64;
                (self.durable, self.marked) = (self.length, 0);
                Ok(())
            }
            // Which of the two files now has the name is not known.
            Err(error) => Err(self.poison(format!("it could not be rewritten ({error})"))),
        }
    }
}

fn header(magic: [u8; 8]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&magic);
    header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    let crc = crc32c::crc32c(&header[..12]);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    header
}

fn check_header(head: &[u8; HEADER], magic: [u8; 8], file: &str) -> Result<(), LogError> {
    if *head == header(magic) {
        return Ok(());
    }
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if head[..8] != magic {
        return Err(LogError::Foreign { file: file.to_owned() });
    }
    if crc32c::crc32c(&head[..12]) == word(12) {
        return Err(LogError::Newer { file: file.to_owned(), found: word(8) });
    }
    Err(LogError::Damaged { file: file.to_owned(), offset: 0 })
}

fn frame(payload: &[u8], out: &mut Vec<u8>) {
    let length = (payload.len() as u32).to_le_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&frame_crc(length, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

fn frame_crc(length: [u8; 4], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length), payload)
}

/// What a marker says; nothing if this is a caller's record.
fn marker(payload: &[u8]) -> Option<u64> {
    match payload {
        [MARKER, durable @ ..] => durable.try_into().ok().map(u64::from_le_bytes),
        _ => None,
    }
}

/// The payload of the frame at the start of `bytes`, if a whole and sound one stands there.
fn read_frame(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let size = u32::from_le_bytes(*length) as usize;
    if size == 0 || size > MAX_RECORD {
        return None;
    }
    let payload = rest.get(..size)?;
    (frame_crc(*length, payload) == u32::from_le_bytes(*crc)).then_some(payload)
}

fn read_exact_at(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64)? {
            0 => return Ok(()),
            read => done += read,
        }
    }
    Ok(())
}

/// A pass over a log's frames.
struct Scan<'a> {
    file: &'a dyn DiskFile,
    length: u64,
    /// Of the next frame, in the file.
    offset: u64,
    /// Bytes of the file; those from `start` on are not used up.
    buffer: Vec<u8>,
    start: usize,
}

enum Next<'a> {
    Frame(&'a [u8]),
    End,
    Bad,
}

impl Scan<'_> {
    fn next(&mut self) -> io::Result<Next<'_>> {
        if self.offset >= self.length {
            return Ok(Next::End);
        }
        if self.buffer.len() - self.start < FRAME + MAX_RECORD {
            self.fill()?;
        }
        match read_frame(&self.buffer[self.start..]).map(<[u8]>::len) {
            None => Ok(Next::Bad),
            Some(size) => {
                let from = self.start + FRAME;
                self.start = from + size;
                self.offset += (FRAME + size) as u64;
                Ok(Next::Frame(&self.buffer[from..from + size]))
            }
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let have = self.buffer.len();
        let at = self.offset + have as u64;
        let more = CHUNK.min(self.length.saturating_sub(at) as usize);
        self.buffer.resize(have + more, 0);
        read_exact_at(self.file, &mut self.buffer[have..], at)
    }

    /// Looks behind a bad place for whole records, byte by byte.
    fn damage(&mut self, offset: u64) -> io::Result<Damage> {
        let bytes_after = self.length - offset;
        let mut rest = vec![0; bytes_after.min(SEARCH) as usize];
        read_exact_at(self.file, &mut rest, offset)?;
        let mut damage = Damage { offset, bytes_after, later_records: false, proven_durable: false };
        let mut at = 1;
        while at < rest.len() && !damage.proven_durable {
            match read_frame(&rest[at..]) {
                Some(payload) => {
                    damage.later_records = true;
                    damage.proven_durable |= marker(payload).is_some_and(|durable| durable > offset);
                    at += FRAME + payload.len();
                }
                None => at += 1,
            }
        }
        Ok(damage)
    }
}
