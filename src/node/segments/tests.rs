//! The log layout on good disks, damaged ones, and over the life of its segments.

use std::path::Path;

use super::*;
use crate::durable::Disk;
use crate::durable::os::OsDisk;
use crate::durable::sim::MemDisk;
use crate::node::conformance::{conformance, inventory, put, settle};

const MODES: [IoMode; 2] = [IoMode::Buffered, IoMode::Unbuffered];

fn path() -> &'static Path {
    Path::new("/n")
}

fn open(disk: &MemDisk, io_mode: IoMode, segment_bytes: u64) -> (SegmentStore, Found) {
    SegmentStore::open_sized(disk.folder(path()).unwrap(), io_mode, segment_bytes).unwrap()
}

/// Lets the store do all that there is to do, and says how many slices that took.
fn tidy(store: &SegmentStore) -> usize {
    let mut slices = 0;
    while store.tend().unwrap() < Duration::from_millis(100) {
        slices += 1;
        assert!(slices < 100_000, "there is no end to it");
    }
    slices
}

#[test]
fn the_suite_passes_on_every_disk() {
    for io_mode in MODES {
        for segment_bytes in [1, 300, SEGMENT_BYTES] {
            conformance(|| open(&MemDisk::new(), io_mode, segment_bytes).0);
        }
        let mut dirs = Vec::new();
        conformance(|| {
            let dir = tempfile::tempdir().unwrap();
            let folder = OsDisk::new().folder(dir.path()).unwrap();
            dirs.push(dir);
            SegmentStore::open(folder, io_mode).unwrap().0
        });
    }
}

#[test]
fn a_reopened_store_has_everything() {
    for segment_bytes in [1, SEGMENT_BYTES] {
        let disk = MemDisk::new();
        let (store, _) = open(&disk, IoMode::Buffered, segment_bytes);
        store.write(&[], &[put("a", 1, b"one"), put("b", 2, b"two")]).unwrap();
        store.write(&[], &[put("a", 3, b"three"), put("b", 4, b"four")]).unwrap();
        store.write(&[settle("a", 3, true), settle("b", 9, false)], &[put("b", 1, b"again")]).unwrap();
        for tidied in [false, true] {
            if tidied {
                tidy(&store);
            }
            let (again, found) = open(&disk.after_kill(), IoMode::Buffered, segment_bytes);
            assert_eq!((inventory(&again), again.totals()), (inventory(&store), store.totals()));
            assert_eq!(found, Found { messages: 2, ..Found::default() });
        }
    }
}

#[test]
fn damage_costs_the_records_that_it_hit() {
    let name = "segment-00000001.log";
    for sealed in [false, true] {
        let disk = MemDisk::new();
        let (store, _) = open(&disk, IoMode::Unbuffered, if sealed { 200 } else { SEGMENT_BYTES });
        let mut contents: Vec<String> = (0..4).map(|n| format!("{n}{n}{n}").repeat(20)).collect();
        let mut puts: Vec<Put> =
            (0..4).map(|n| put(&format!("m{n}"), n + 1, contents[n as usize].as_bytes())).collect();
        store.write(&[], &puts).unwrap();
        puts.push(put("m4", 9, b"after them"));
        store.write(&[], &puts).unwrap();
        contents.push("after them".to_owned());
        let length = disk.peek(path())[name].as_ref().unwrap().len();
        for place in 0..length {
            let after = disk.after_kill();
            after.rot(path(), name, |bytes| bytes[place] ^= 0x20);
            let (store, found) = open(&after, IoMode::Unbuffered, 200);
            let what = format!("byte {place}, sealed: {sealed}: {found:?}");
            let read = |put: &Put| store.read(&put.id, put.record.version);
            let all = puts.iter().zip(&contents);
            let bad: Vec<_> = all.filter(|(put, content)| read(put).as_deref() != Ok(content.as_bytes())).collect();
            assert!(bad.len() <= 1 && (bad.is_empty() || !found.ignored.is_empty()), "{what}");
            for (put, _) in bad {
                assert!(matches!(read(put), Err(ReadFault::Damaged | ReadFault::Absent)), "{what}");
                assert_eq!(
                    store.write(&[], std::slice::from_ref(put)).unwrap().outcomes,
                    [PutOutcome::Stored],
                    "{what}"
                );
            }
            assert!(inventory(&store).iter().all(|entry| !entry.damaged), "{what}");
        }
    }
}
