//! Loaders of what lies on disks: logs, their records, records of copies, a node's whole folder.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use hatokuse::durable::record_log::{LogError, Opened, RecordLog, judge};
use hatokuse::durable::sim::MemDisk;
use hatokuse::durable::{Disk, Folder};
use hatokuse::file_names::{Names, SUFFIX};
use hatokuse::leader::journal::Record;
use hatokuse::node::files::TextStore;
use hatokuse::node::records::{LOG_NAME, decode, encode};
use hatokuse::node::scan::staged_name;
use hatokuse::node::store::{Body, INVENTORY_PARTS, Put, PutOutcome, Store};
use hatokuse::types::{CopyRecord, IoMode, MessageId, Version};

use super::Script;

const LOG: &str = "fuzz.log";
const MAGIC: [u8; 8] = *b"fuzzlog1";

fn folder(disk: &MemDisk) -> Arc<dyn Folder> {
    disk.folder(Path::new("/fuzz")).unwrap()
}

type Records = Vec<(u64, Vec<u8>)>;

fn open(disk: &MemDisk, power_cut: bool) -> (Result<Opened, LogError>, Records) {
    let mut records = Vec::new();
    let mut visit = |offset, payload: &[u8]| {
        records.push((offset, payload.to_vec()));
        Ok(())
    };
    let opened = RecordLog::open(folder(disk), LOG, MAGIC, &mut visit, &|damage| judge(damage, power_cut));
    (opened, records)
}

fn content(disk: &MemDisk) -> Vec<u8> {
    disk.peek(Path::new("/fuzz"))[LOG].clone().unwrap()
}

/// Whether `bytes` hold this record at this place, by the format as it is written down and nothing else.
fn is_whole(bytes: &[u8], offset: u64, payload: &[u8]) -> bool {
    let length = (payload.len() as u32).to_le_bytes();
    let checked = [&offset.to_le_bytes()[..], &length, payload].concat();
    let frame = [&length[..], &crc32c::crc32c(&checked).to_le_bytes(), payload].concat();
    bytes.get(offset as usize..).is_some_and(|rest| rest.starts_with(&frame))
}

/// What was visited was whole, and a log that opens goes on from there.
fn check(disk: &MemDisk, bytes: &[u8], power_cut: bool) -> Option<Records> {
    let (opened, records) = open(disk, power_cut);
    let mut end = 16;
    for (offset, payload) in &records {
        assert!(*offset >= end && is_whole(bytes, *offset, payload), "a record at {offset} that is not there");
        end = offset + 8 + payload.len() as u64;
    }
    let Ok(Opened { mut log, .. }) = opened else {
        assert_eq!(content(disk), bytes, "a log that is refused is not touched");
        return None;
    };
    log.append([&b"after"[..]]).unwrap();
    log.sync().unwrap();
    let (again, found) = open(&disk.after_power_cut_with(|_| hatokuse::durable::sim::Survives::Nothing), true);
    assert!(again.unwrap().torn.is_none());
    assert_eq!(found[..records.len()], records);
    assert!(found.len() == records.len() + 1 && found[records.len()].1 == b"after");
    Some(records)
}

/// The log as it lies on a disk: any bytes at all, or a good log with one damaged place.
pub(super) fn record_log(data: &[u8]) {
    let mut script = Script(data);
    let mode = script.byte();
    let power_cut = mode & 2 != 0;
    let disk = MemDisk::new();
    if mode & 1 == 0 {
        let bytes = if mode & 4 == 0 { script.0.to_vec() } else { [&header(), script.0].concat() };
        disk.plant(Path::new("/fuzz"), LOG, &bytes);
        check(&disk, &bytes, power_cut);
        return;
    }
    let (cut, place, flip) = (script.u16(), script.u16(), script.byte());
    let mut log = open(&disk, false).0.unwrap().log;
    let mut written = Vec::new();
    while !script.is_over() {
        let length = usize::from(script.byte());
        if length & 0x80 != 0 {
            log.sync().unwrap();
        }
        let record = [&[length as u8], script.bytes(length & 0x7F)].concat();
        log.append([&record[..]]).unwrap();
        written.push(record);
    }
    let whole = content(&disk);
    let mut bytes = whole.clone();
    if flip != 0 && bytes.len() > 16 {
        let place = 16 + place % (bytes.len() - 16);
        bytes[place] ^= flip;
    }
    bytes.truncate((bytes.len() - cut.min(bytes.len() - 16)).max(16));
    disk.rot(Path::new("/fuzz"), LOG, |content| *content = bytes.clone());
    if let Some(records) = check(&disk, &bytes, power_cut) {
        let found: Vec<&Vec<u8>> = records.iter().map(|(_, payload)| payload).collect();
        assert!(found.len() <= written.len() && found.iter().zip(&written).all(|(a, b)| *a == b), "not a prefix");
        assert!(bytes != whole || found.len() == written.len(), "an undamaged log lost records");
    }
}

fn header() -> [u8; 16] {
    let mut header = [0; 16];
    header[..8].copy_from_slice(&MAGIC);
    header[8] = 1;
    let crc = crc32c::crc32c(&header[..12]);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// The record of a copy: what is read is written and read again, belongs to one id, and no flipped bit passes.
pub(super) fn copy_record(data: &[u8]) {
    let mut script = Script(data);
    let place = script.u16();
    let length = usize::from(script.byte());
    let id = MessageId::from_bytes(script.bytes(length)).ok();
    for named in [id.as_ref(), None] {
        if let Ok((id, record)) = decode(script.0, named) {
            assert!(named.is_none_or(|named| *named == id));
            assert_eq!(decode(&encode(&id, record, named.is_none()), named), Ok((id, record)));
        }
    }
    let Some(id) = id else { return };
    let mut field = [0; 16];
    script.0.iter().take(16).enumerate().for_each(|(n, byte)| field[n] = *byte);
    let number = |at: usize| u32::from_le_bytes(field[at..at + 4].try_into().unwrap());
    let version = Version(u64::from(number(0)) << 32 | u64::from(number(4)));
    let record = CopyRecord { version, length: number(8), crc: number(12), expires: None };
    for hashed in [false, true] {
        let named = (!hashed).then_some(&id);
        let mut bytes = encode(&id, record, hashed);
        assert_eq!(decode(&bytes, named), Ok((id.clone(), record)));
        let at = place / 8 % bytes.len();
        bytes[at] ^= 1 << (place % 8);
        assert!(decode(&bytes, named).is_err(), "bit {place}");
    }
}

/// A record of the leader's log: what is read is written and read again.
pub(super) fn journal_event(data: &[u8]) {
    if let Ok(event) = Record::decode(data) {
        let mut written = Vec::new();
        event.encode(&mut written);
        assert_eq!(Record::decode(&written).as_ref(), Ok(&event));
        assert!(written.len() <= data.len(), "more was read than was there");
    }
}

/// A node's folder with any files in it: it opens or is refused, nothing torn is served, nothing is destroyed, and
/// it takes new copies.
pub(super) fn node_folder(data: &[u8]) {
    let mut script = Script(data);
    let path = Path::new("/fuzz");
    let (disk, mode) = (MemDisk::new(), script.byte());
    disk.set_keeps_records(mode & 1 == 0);
    let io_mode = if mode & 2 == 0 { IoMode::Buffered } else { IoMode::Unbuffered };
    while !script.is_over() {
        let (kind, length) = (script.byte(), usize::from(script.byte() & 0x1F));
        let name = String::from_utf8_lossy(script.bytes(length)).replace(['/', '\0'], "_");
        let id = name.parse::<MessageId>();
        let stem = id.as_ref().map_or(name.clone(), |id| Names::default().stem(id));
        let (version, length) = (Version(u64::from(script.byte() & 7)), usize::from(script.byte() & 0x3F));
        let content = script.bytes(length);
        let name = match kind % 8 {
            0..=2 => format!("{stem}{SUFFIX}"),
            3 | 4 => staged_name(version, &stem),
            5 => LOG_NAME.to_owned(),
            6 => format!(".trash-{}-{stem}", version.0),
            _ => name,
        };
        let folder = folder(&disk);
        if name.is_empty() || name == "." || name == ".." || folder.open(&name).is_ok() {
            continue;
        }
        let mut file = folder.create_new(&name).unwrap();
        if kind & 0x80 != 0
            && let Ok(id) = &id
        {
            let record =
                if kind & 0x40 != 0 { CopyRecord::tombstone(version) } else { CopyRecord::of(version, content) };
            let _ = file.set_record(&encode(id, record, stem.contains("%~")));
        } else if kind & 0x40 != 0 {
            let _ = file.set_record(content);
        }
        let content = if kind & 0x20 != 0 { &content[..content.len() / 2] } else { content };
        file.append(&[IoSlice::new(content)]).unwrap();
    }
    let before = disk.peek(path);
    let Ok((store, _)) = TextStore::open(Arc::new(disk.clone()), folder(&disk), io_mode) else { return };
    let listed: Vec<_> = (0..INVENTORY_PARTS).flat_map(|part| store.inventory(part)).filter(|e| !e.damaged).collect();
    for entry in &listed {
        let content = store.read(&entry.id, entry.record.version).expect("listed as intact");
        // Two files of one version can only be planted, and then either may be read.
        let same = listed.iter().filter(|e| (&e.id, e.record.version) == (&entry.id, entry.record.version));
        assert!(same.into_iter().any(|entry| entry.record.matches(&content)), "{entry:?}");
    }
    let after = disk.peek(path);
    let ours = |name: &str| name == LOG_NAME || name.starts_with(".staged-") || name == ".record-probe";
    for (name, content) in before.iter().filter(|(name, _)| !ours(name)) {
        assert!(after.values().any(|found| found == content), "{name} is gone");
    }
    let (id, record): (MessageId, _) = ("fuzz".parse().unwrap(), CopyRecord::of(Version(1 << 40), b"new"));
    let put = Put { id: id.clone(), record, body: Body::Bytes(b"new"[..].into()) };
    assert_eq!(store.write(&[], &[put]).unwrap().outcomes, [PutOutcome::Stored]);
    assert_eq!(store.read(&id, record.version).unwrap(), "new");
}
