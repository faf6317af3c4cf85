//! The log layout on good disks, damaged ones, and over the life of its segments.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::durable::Disk;
use crate::durable::os::OsDisk;
use crate::durable::sim::{Fault, MemDisk};
use crate::node::conformance::{conformance, delete, inventory, put, settle};

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

#[test]
fn garbage_is_reclaimed_and_a_hint_spares_a_start_most_of_its_reading() {
    for io_mode in MODES {
        let disk = MemDisk::new();
        let (store, _) = open(&disk, io_mode, 4096);
        let content = |id: u32, round: u32| format!("{id} in round {round}, ").repeat(10);
        let mut sequence = 0;
        for round in 0..40 {
            for id in 0..20 {
                // Some are written once and never again.
                if id >= 10 || round == 0 {
                    sequence += 1;
                    store.write(&[], &[put(&format!("m{id}"), sequence, content(id, round).as_bytes())]).unwrap();
                    store.write(&[settle(&format!("m{id}"), sequence, true)], &[]).unwrap();
                }
            }
            tidy(&store);
        }
        let bytes = |ending: &str| -> usize {
            let files = disk.peek(path()).into_iter().filter(|(name, _)| name.ends_with(ending));
            files.map(|(_, content)| content.unwrap().len()).sum()
        };
        let live = 20 * content(10, 10).len();
        let room = if io_mode == IoMode::Unbuffered { 16 << 10 } else { 0 };
        assert!(bytes(".log") < 3 * live + 2 * 4096 + room, "{} bytes for {live}", bytes(".log"));
        let reading = |disk: &MemDisk| {
            let disk = disk.after_kill();
            let (again, found) = open(&disk, io_mode, 4096);
            assert_eq!((inventory(&again), found), (inventory(&store), Found { messages: 20, ..Found::default() }));
            for entry in inventory(&again) {
                assert!(again.read(&entry.id, entry.record.version).is_ok());
            }
            disk
        };
        let hints: Vec<_> = disk.peek(path()).into_keys().filter(|name| name.ends_with(".hint")).collect();
        assert!(!hints.is_empty());
        reading(&disk);
        // A bad one is passed over, and made anew.
        let harms: [fn(&mut Vec<u8>); 2] = [|bytes| bytes[20] ^= 1, |bytes| bytes.truncate(30)];
        for harm in harms {
            let without = disk.after_kill();
            without.rot(path(), &hints[0], harm);
            assert_eq!(reading(&without).peek(path())[&hints[0]], disk.peek(path())[&hints[0]]);
        }
        // With its hint, a sealed segment whose record of what is gone has rotted brings nothing back.
        let rotted = disk.after_kill();
        let sealed = hints[0].replace(".hint", ".log");
        rotted.rot(path(), &sealed, |bytes| bytes[16..].fill(0));
        let (again, _) = open(&rotted, io_mode, 4096);
        assert_eq!(inventory(&again), inventory(&store));
    }
}

#[test]
fn the_last_room_is_left_to_what_makes_room() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk, IoMode::Buffered, 1000);
    let puts: Vec<Put> = (0..50).map(|n| put(&format!("m{n}"), n + 1, &[b'x'; 100])).collect();
    for put in &puts {
        store.write(&[], std::slice::from_ref(put)).unwrap();
    }
    disk.set_space(1000, 1 << 30);
    let again = [puts[7].clone(), put("m7", 60, b"newer"), put("new", 61, b"x")];
    // It is asked after so many bytes, or where a segment begins.
    let outcomes = || store.write(&[], &again).unwrap().outcomes;
    store.writer().look_at = 0;
    assert_eq!(outcomes(), [PutOutcome::Stored, PutOutcome::Stored, PutOutcome::Full], "what is smaller always fits");
    assert_eq!(store.write(&[], &[delete("m8", 70)]).unwrap().outcomes, [PutOutcome::Stored]);
    assert_eq!(store.read(&puts[7].id, puts[7].record.version).unwrap(), &[b'x'; 100][..]);
    let settles: Vec<_> = (20..40).map(|n| settle(&format!("m{n}"), n + 1, false)).collect();
    assert_eq!(store.write(&settles, &[]).unwrap().settled, [true; 20]);
    let bytes = || {
        let segments = disk.peek(path()).into_iter().filter(|(name, _)| name.ends_with(".log"));
        segments.map(|(_, content)| content.map_or(0, |content| content.len())).sum::<usize>()
    };
    let before = bytes();
    tidy(&store);
    assert!(bytes() + 1000 < before, "{} of {before} are left, and less than half was garbage", bytes());
    disk.set_space(1 << 20, 1 << 30);
    assert_eq!(outcomes(), [PutOutcome::Stale, PutOutcome::Stored, PutOutcome::Stored]);
    let again = open(&disk.after_kill(), IoMode::Buffered, 1000).0;
    assert_eq!(inventory(&again), inventory(&store));
}

#[test]
fn a_disk_without_a_byte_takes_deletions_and_smaller_messages() {
    for io_mode in MODES {
        let disk = MemDisk::new();
        let (store, _) = open(&disk, io_mode, SEGMENT_BYTES);
        let puts: Vec<Put> = (0..200).map(|n| put(&format!("m{n}"), n + 1, &[b'x'; 100])).collect();
        store.write(&[], &puts).unwrap();
        tidy(&store);
        disk.fill(crate::durable::sim::errno::ENOSPC);
        let large = || put("large", 500, &[b'x'; 300_000]);
        let written = |puts: &[Put]| store.write(&[], puts).unwrap().outcomes;
        // What does not fit costs nobody else of its batch anything.
        let batch = [large(), delete("m0", 301), put("m1", 302, b"shorter"), put("m2", 303, &[b'y'; 101])];
        use PutOutcome::{Full, Stored};
        assert_eq!(written(&batch), [Full, Stored, Stored, Full]);
        for n in 3..200 {
            assert_eq!(written(&[delete(&format!("m{n}"), 300 + n)]), [Stored], "{n}");
            assert_eq!(store.write(&[settle(&format!("m{n}"), 300 + n, true)], &[]).unwrap().settled, [true]);
        }
        assert_eq!((written(&[large()]), store.totals().messages), (vec![Full], 3));
        disk.heal();
        assert_eq!(written(&[large()]), [Stored]);
        let again =
            open(&disk.after_power_cut_with(|_| crate::durable::sim::Survives::Whole), io_mode, SEGMENT_BYTES).0;
        assert_eq!(inventory(&again), inventory(&store));
    }
}

#[test]
fn what_is_left_of_a_disk_is_counted_for_a_batch_as_a_whole() {
    let disk = MemDisk::new();
    disk.set_space(3000, 1 << 30);
    let (store, _) = open(&disk, IoMode::Buffered, 1000);
    // 2,000 bytes are kept, and small messages have 1,000 of these.
    let puts: Vec<Put> = (0..20).map(|n| put(&format!("m{n}"), n + 1, &[b'x'; 300])).collect();
    let outcomes = store.write(&[], &puts).unwrap().outcomes;
    let stored = outcomes.iter().filter(|outcome| **outcome == PutOutcome::Stored).count();
    assert!((4..=6).contains(&stored), "{outcomes:?}");
    assert!(outcomes[stored..].iter().all(|outcome| *outcome == PutOutcome::Full), "{outcomes:?}");
}

#[test]
fn what_fits_of_a_batch_of_deletions_is_kept() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk, IoMode::Buffered, SEGMENT_BYTES);
    let puts: Vec<Put> = (0..8).map(|n| put(&format!("m{n}"), n + 1, b"x")).collect();
    store.write(&[], &puts).unwrap();
    let deletes: Vec<Put> = (0..8).map(|n| delete(&format!("m{n}"), 10 + n)).collect();
    disk.leave(100, crate::durable::sim::errno::ENOSPC);
    let outcomes = store.write(&[], &deletes).unwrap().outcomes;
    assert!(outcomes.contains(&PutOutcome::Stored) && outcomes.contains(&PutOutcome::Full), "{outcomes:?}");
    let again = open(&disk.after_kill(), IoMode::Buffered, SEGMENT_BYTES).0;
    assert_eq!(inventory(&again), inventory(&store));
}

/// Copies by id and version.
type Model = BTreeMap<(String, u32), Vec<u8>>;

struct Life {
    disk: MemDisk,
    store: SegmentStore,
    io_mode: IoMode,
    model: Model,
    chance: fastrand::Rng,
    sequence: u32,
}

impl Life {
    fn begin(seed: u64) -> Self {
        let mut chance = fastrand::Rng::with_seed(seed);
        let (disk, io_mode) = (MemDisk::new(), MODES[chance.usize(..2)]);
        let store = open(&disk, io_mode, 300).0;
        Self { disk, store, io_mode, model: Model::new(), chance, sequence: 0 }
    }

    fn copies(&self) -> Model {
        let entries = inventory(&self.store).into_iter();
        let content = |entry: &Listed| self.store.read(&entry.id, entry.record.version).unwrap().to_vec();
        entries.map(|entry| ((entry.id.to_string(), entry.record.version.sequence()), content(&entry))).collect()
    }

    /// A batch by chance, and what there is after it.
    fn batch(&mut self) -> (Vec<Settle>, Vec<Put>, Model) {
        let mut after = self.model.clone();
        let (mut settles, mut puts) = (Vec::new(), Vec::new());
        for _ in 0..self.chance.usize(..3) {
            let (id, keep) = (format!("id{}", self.chance.u8(..5)), self.chance.bool());
            let known: Vec<u32> = after.keys().filter(|(other, _)| *other == id).map(|(_, version)| *version).collect();
            let version = self.chance.choice(&known).copied().unwrap_or(self.chance.u32(1..=self.sequence + 1));
            if !keep || known.contains(&version) {
                after.retain(|(other, old), _| *other != id || *old > version || (*old == version && keep));
            }
            settles.push(settle(&id, version, keep));
        }
        for _ in 0..self.chance.usize(..4) {
            self.sequence += 1;
            let id = format!("id{}", self.chance.u8(..5));
            let content = vec![self.chance.u8(..); self.chance.usize(..150)];
            puts.push(put(&id, self.sequence, &content));
            after.insert((id, self.sequence), content);
        }
        (settles, puts, after)
    }

    /// The process ends, now or at the next calls of the disk, and the power too where that may be.
    fn end(&mut self) -> MemDisk {
        if self.io_mode == IoMode::Unbuffered && self.chance.bool() {
            self.disk.after_power_cut(&mut self.chance)
        } else {
            self.disk.after_kill()
        }
    }

    fn step(&mut self) {
        match self.chance.u8(..10) {
            0..4 => {
                let (settles, puts, after) = self.batch();
                let crashes = self.chance.u8(..4) == 0;
                if crashes {
                    let fault = if self.chance.bool() { Fault::CrashBefore } else { Fault::CrashAfter };
                    self.disk.fault_at(self.disk.calls() + self.chance.u64(..8), fault);
                }
                let told = self.store.write(&settles, &puts).is_ok_and(|report| report.error.is_none());
                if crashes {
                    self.disk = self.end();
                    self.store = open(&self.disk, self.io_mode, 300).0;
                    let found = self.copies();
                    if told {
                        assert_eq!(found, after);
                    }
                    for (key, content) in &found {
                        assert!([&self.model, &after].iter().any(|known| known.get(key) == Some(content)), "{key:?}");
                    }
                    let surely = self.model.keys().filter(|key| after.contains_key(*key));
                    surely.for_each(|key| assert!(found.contains_key(key), "{key:?} is gone"));
                    self.model = found;
                } else {
                    assert!(told);
                    self.model = after;
                }
            }
            4..8 => {
                if self.chance.u8(..4) == 0 {
                    self.disk.fault_at(self.disk.calls() + self.chance.u64(..12), Fault::CrashBefore);
                }
                for _ in 0..self.chance.usize(..6) {
                    let _ = self.store.tend();
                }
                if self.disk.crashed() {
                    self.restart();
                } else {
                    self.disk.heal();
                }
            }
            8 => self.restart(),
            _ => {}
        }
        assert_eq!(self.copies(), self.model);
        let bytes = self.model.iter().filter(|(_, content)| !content.is_empty()).map(|(_, content)| content.len());
        assert!(bytes.sum::<usize>() as u64 >= self.store.totals().bytes);
    }

    fn restart(&mut self) {
        self.disk = self.end();
        self.store = open(&self.disk, self.io_mode, 300).0;
    }
}

#[test]
fn a_life_of_chance_is_that_of_its_model() {
    for seed in 0..400 {
        let told = std::panic::catch_unwind(|| {
            let mut life = Life::begin(seed);
            (0..80).for_each(|_| life.step());
        });
        assert!(told.is_ok(), "seed {seed}");
    }
}
