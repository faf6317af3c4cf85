//! A node's copies: every way of writing, settling and starting. A new one is a row of [`rows`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hatokuse::durable::sim::{Fault, MemDisk, Op, Survives, errno};
use hatokuse::durable::{Disk, Folder};
use hatokuse::node::files::TextStore;
use hatokuse::node::scan::OpenError;
use hatokuse::node::segments::SegmentStore;
use hatokuse::node::store::{Body, INVENTORY_PARTS, Put, PutOutcome, ReadFault, Settle, Store};
use hatokuse::types::{CopyRecord, Epoch, IoMode, Listed, MessageId, Version};

use crate::harness::{Counts, Ending, crashes, errors, is_full, synced};

/// One call of the store: what is settled, and what is put.
type Step = (Vec<Settle>, Vec<Put>);

/// One path: what was done long before, and what is done while the disk fails.
struct Row {
    name: &'static str,
    before: Vec<Step>,
    path: Vec<Step>,
    /// Files that a run left behind, or a person, before the path begins.
    left: &'static [(&'static str, &'static str)],
}

fn rows() -> Vec<Row> {
    let row = |name, before, path| Row { name, before, path, left: &[] };
    let one = || (vec![], vec![put("a", 1, "one")]);
    let staged = || (vec![], vec![put("a", 2, "two, and longer")]);
    // Contents that differ by version: an index log cannot tell two versions of one content apart.
    let many = |from: u32| {
        (0..5).map(|n| put(&format!("m{n}"), from + n, &format!("{from}").repeat(n as usize * 50 + 1))).collect()
    };
    let trash = |text, version| Settle { trash: true, ..settle(text, version, false) };
    let left = &[
        (".staged-0000000100000009-z", "torn"),
        (".record-probe", ""),
        (".trash-3-y", "old"),
        (".aside-2-y", "aside"),
        ("empty.txt", ""),
        ("strange", "nobody's"),
    ][..];
    vec![
        row("SET, first time", vec![], vec![one()]),
        row("SET, empty message", vec![], vec![(vec![], vec![put("a", 1, "")])]),
        row("SET, hashed name", vec![], vec![(vec![], vec![put(&"ü".repeat(100), 1, "long")])]),
        row("SET over a foreign file", vec![], vec![(vec![], vec![put("f", 1, "ours")])]),
        row("adoption of a foreign file", vec![], vec![(vec![], vec![adopt("f", 1, "foreign")])]),
        row("overwrite, not settled", vec![one()], vec![staged()]),
        row("overwrite, settled", vec![one()], vec![staged(), (vec![settle("a", 2, true)], vec![])]),
        row("overwrite of what is staged", vec![one(), staged()], vec![(vec![], vec![put("a", 3, "three")])]),
        row("settling", vec![one(), staged()], vec![(vec![settle("a", 2, true)], vec![])]),
        row(
            "settle and put in one batch",
            vec![one(), staged()],
            vec![(vec![settle("a", 2, true)], vec![put("a", 3, "3")])],
        ),
        row("batch of several, first time", vec![], vec![(vec![], many(1))]),
        row("batch of several, overwrite", vec![(vec![], many(1))], vec![(vec![], many(10))]),
        row("drop", vec![one(), staged()], vec![(vec![settle("a", 2, false)], vec![])]),
        row("drop of the visible copy only", vec![one(), staged()], vec![(vec![settle("a", 1, false)], vec![])]),
        row("drop into the trash", vec![one()], vec![(vec![trash("a", 1)], vec![])]),
        row("DEL, not settled", vec![one()], vec![(vec![], vec![delete("a", 2)])]),
        row("DEL, settled", vec![one()], vec![(vec![], vec![delete("a", 2)]), (vec![settle("a", 2, true)], vec![])]),
        row(
            "DEL of what is not here",
            vec![],
            vec![(vec![], vec![delete("a", 2)]), (vec![settle("a", 2, true)], vec![])],
        ),
        row(
            "DEL forgotten",
            vec![one(), (vec![], vec![delete("a", 2)]), (vec![settle("a", 2, true)], vec![])],
            vec![(vec![settle("a", 2, false)], vec![])],
        ),
        row(
            "SET after a DEL",
            vec![one(), (vec![], vec![delete("a", 2)]), (vec![settle("a", 2, true)], vec![])],
            vec![(vec![], vec![put("a", 3, "again")]), (vec![settle("a", 3, true)], vec![])],
        ),
        row("garbage", vec![(vec![], many(1))], garbage(&many)),
        Row { name: "start", before: vec![one(), staged()], path: vec![], left },
    ]
}

/// Every message overwritten and settled, again and again, and some of them let go of: segments are taken back meanwhile.
fn garbage(many: &dyn Fn(u32) -> Vec<Put>) -> Vec<Step> {
    let settles = |from: u32| (0..5).map(move |n| settle(&format!("m{n}"), from + n, true)).collect::<Vec<_>>();
    let forget = |n: u32, from: u32| Settle { lasting: true, ..settle(&format!("m{n}"), from + n, false) };
    vec![
        (vec![], many(10)),
        (settles(10), many(20)),
        ([settles(20), vec![forget(1, 20), forget(3, 20)]].concat(), vec![put("m1", 1, "again")]),
    ]
}

fn id(text: &str) -> MessageId {
    text.parse().unwrap()
}

fn v(sequence: u32) -> Version {
    Version::new(Epoch(1), sequence)
}

fn put(text: &str, sequence: u32, content: &str) -> Put {
    let body = Body::Bytes(content.as_bytes().to_vec().into());
    Put { id: id(text), record: CopyRecord::of(v(sequence), content.as_bytes()), body }
}

fn adopt(text: &str, sequence: u32, content: &str) -> Put {
    Put { body: Body::Adopt, ..put(text, sequence, content) }
}

fn delete(text: &str, sequence: u32) -> Put {
    Put { id: id(text), record: CopyRecord::tombstone(v(sequence)), body: Body::Deleted }
}

fn settle(text: &str, sequence: u32, keep: bool) -> Settle {
    Settle { id: id(text), version: v(sequence), keep, trash: false, lasting: false }
}

/// Contents by id and version.
type Contents = BTreeMap<(MessageId, Version), Vec<u8>>;

/// What a caller was told, and what it asked for.
#[derive(Debug, Default, Clone)]
struct Told {
    /// Acknowledged, and not given up since.
    stored: Contents,
    /// Acknowledged before the path began, of ids that the path does not settle: no power cut may harm it.
    old: Contents,
    /// Everything that was ever asked for: nothing else may be served.
    asked: Contents,
    /// What was put into the trash.
    trash: Vec<Vec<u8>>,
    /// Said to be gone, and not asked for again since.
    gone: BTreeSet<(MessageId, Version)>,
}

/// How copies lie on the disk of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Attributes,
    /// Attributes, and a journal in unbuffered mode: the file system syncs as a whole.
    Journal,
    IndexLog,
    /// Segments of so many bytes, so that sealing and taking back are parts of paths.
    Segments(u64),
}

const LAYOUTS: [Layout; 6] = [
    Layout::Attributes,
    Layout::Journal,
    Layout::IndexLog,
    Layout::Segments(1),
    Layout::Segments(150),
    Layout::Segments(1 << 14),
];

struct Setup {
    io_mode: IoMode,
    layout: Layout,
}

impl Setup {
    fn in_segments(&self) -> bool {
        matches!(self.layout, Layout::Segments(_))
    }
}

const PATH: &str = "/storage_node_1";

fn folder(disk: &MemDisk) -> std::io::Result<Arc<dyn Folder>> {
    disk.folder(Path::new(PATH))
}

fn open(disk: &MemDisk, setup: &Setup) -> Result<Box<dyn Store>, OpenError> {
    let failed = |source| OpenError::Disk { what: "opening", file: String::new(), source };
    let folder = folder(disk).map_err(failed)?;
    Ok(match setup.layout {
        Layout::Segments(bytes) => Box::new(SegmentStore::open_sized(folder, setup.io_mode, bytes)?.0),
        _ => Box::new(TextStore::open(Arc::new(disk.clone()), folder, setup.io_mode)?.0),
    })
}

/// Lets a store do what it does beside calls, until there is nothing left; false: it stopped for good.
fn tidy(store: &dyn Store) -> bool {
    for _ in 0..1000 {
        match store.tend() {
            Ok(pause) if pause < Duration::from_millis(100) => {}
            ended => return ended.is_ok(),
        }
    }
    panic!("there is no end to it");
}

fn inventory(store: &dyn Store) -> Vec<Listed> {
    (0..INVENTORY_PARTS).flat_map(|part| store.inventory(part)).collect()
}

impl Told {
    /// Runs the steps; false: the store stopped for good.
    fn run(&mut self, store: &dyn Store, steps: &[Step]) -> bool {
        for (settles, puts) in steps {
            for settle in settles {
                let goes = |of: &MessageId, version: Version| {
                    *of == settle.id && (version < settle.version || (!settle.keep && version == settle.version))
                };
                if settle.trash {
                    let gone = self.stored.iter().filter(|((id, version), _)| goes(id, *version));
                    self.trash.extend(gone.map(|(_, content)| content.clone()));
                }
                self.stored.retain(|(id, version), _| !goes(id, *version));
                self.old.retain(|(id, _), _| *id != settle.id);
            }
            for put in puts {
                let content = match &put.body {
                    Body::Bytes(content) => content.to_vec(),
                    Body::Adopt => b"foreign".to_vec(),
                    Body::Deleted => Vec::new(),
                };
                self.asked.insert((put.id.clone(), put.record.version), content);
            }
            let Ok(report) = store.write(settles, puts) else { return false };
            assert_eq!(report.outcomes.len(), puts.len());
            for (settle, _) in settles.iter().zip(&report.settled).filter(|(_, done)| **done) {
                let goes = |version: Version| version < settle.version || (!settle.keep && version == settle.version);
                let gone = self.asked.keys().filter(|(id, version)| *id == settle.id && goes(*version)).cloned();
                self.gone.extend(gone);
            }
            for put in puts {
                self.gone.remove(&(put.id.clone(), put.record.version));
            }
            let lives = tidy(store);
            for (put, outcome) in puts.iter().zip(report.outcomes) {
                if outcome == PutOutcome::Stored {
                    let key = (put.id.clone(), put.record.version);
                    self.stored.insert(key.clone(), self.asked[&key].clone());
                }
            }
            if !lives {
                return false;
            }
        }
        true
    }
}

impl Row {
    /// The disk before the path, all of it synced, and what was told until then.
    fn prepare(&self, setup: &Setup) -> (MemDisk, Told) {
        let disk = MemDisk::new();
        disk.set_keeps_records(setup.layout != Layout::IndexLog);
        disk.set_syncs_as_a_whole(setup.layout == Layout::Journal);
        disk.plant(Path::new(PATH), "f.txt", b"foreign");
        let mut told = Told::default();
        assert!(told.run(&*open(&disk, setup).unwrap(), &self.before));
        for (name, content) in self.left {
            disk.plant(Path::new(PATH), name, content.as_bytes());
        }
        told.old = told.stored.clone();
        (synced(&disk), told)
    }

    fn enumerate(&self, setup: &Setup) -> Counts {
        let (before, told_before) = self.prepare(setup);
        let check =
            |disk: &MemDisk, told: &Told, ending: Ending, what: &str| self.check(disk, told, ending, setup, what);
        let mut counts = crashes(
            &before,
            |disk| {
                let mut told = told_before.clone();
                if let Ok(store) = open(disk, setup) {
                    told.run(&*store, &self.path);
                }
                told
            },
            check,
        );
        counts.add(errors(
            &before,
            |disk, fault, what| self.go_on(disk, told_before.clone(), setup, fault, what),
            check,
        ));
        for errno in [28, 30] {
            self.stay_full(&before, told_before.clone(), setup, errno);
            counts.errors += 1;
        }
        counts
    }

    /// Runs the path over a failing call, and sees to it that what was told can be read and the store goes on.
    fn go_on(&self, disk: &MemDisk, mut told: Told, setup: &Setup, fault: Fault, what: &str) -> Told {
        // Whatever could not be read at the start, it does not start with less.
        let Ok(store) = open(disk, setup) else { return told };
        let what = format!("{}, {what}", self.name);
        let lives = told.run(&*store, &self.path);
        if is_full(fault) {
            told.trash.clear(); // it makes room
        }
        for ((id, version), content) in &told.stored {
            let mut read = store.read(id, *version);
            if let Err(ReadFault::Unknown(_)) = read {
                read = store.read(id, *version);
            }
            // A store that stopped for good may have lost track; its node answers nothing any more.
            assert!(!lives || read.as_deref() == Ok(content.as_slice()), "{what}: {id} {version} is {read:?}");
        }
        if lives {
            told.asked.insert((id("again"), v(90)), b"again".to_vec());
            let put = put("again", 90, "again");
            let outcomes = store.write(&[], std::slice::from_ref(&put)).map(|report| report.outcomes);
            let retried = match outcomes {
                // The fault may have waited until now.
                Ok(outcomes) if outcomes != [PutOutcome::Stored] => store.write(&[], &[put]).map(|r| r.outcomes),
                other => other,
            };
            match retried {
                Ok(outcomes) => assert_eq!(outcomes, [PutOutcome::Stored], "{what}: it does not go on"),
                Err(_) => return told,
            }
            told.stored.insert((id("again"), v(90)), b"again".to_vec());
        }
        told
    }

    /// The disk takes nothing from the path's beginning to its end, and then takes again.
    fn stay_full(&self, before: &MemDisk, mut told: Told, setup: &Setup, errno: i32) {
        let disk = before.after_kill();
        let store = open(&disk, setup).unwrap();
        disk.set_failing(Some(errno));
        let lives = told.run(&*store, &self.path);
        for ((id, version), content) in &told.stored {
            assert_eq!(store.read(id, *version).as_deref(), Ok(content.as_slice()), "{}: full, and {id}", self.name);
        }
        disk.set_failing(None);
        told.trash.clear();
        if lives {
            let outcomes = store.write(&[], &[put("again", 90, "again")]).unwrap().outcomes;
            assert_eq!(outcomes, [PutOutcome::Stored], "{}: there is room again", self.name);
            told.asked.insert((id("again"), v(90)), b"again".to_vec());
        }
        self.check(&disk.after_kill(), &told, Ending::Kill, setup, "full for a while");
    }

    /// What a node lists after a start in unbuffered mode is on its disk, and not only in what is left of the life before.
    fn check_that_it_lasts(&self, disk: &MemDisk, store: &dyn Store, setup: &Setup, what: &str) {
        if setup.io_mode == IoMode::Buffered {
            return;
        }
        let cut = disk.after_power_cut_with(|_| Survives::Nothing);
        let again = open(&cut, setup).unwrap_or_else(|error| panic!("{what}, then a power cut: {error}"));
        for Listed { id, record, .. } in inventory(store).iter().filter(|entry| !entry.damaged) {
            let read = again.read(id, record.version);
            assert_eq!(
                read,
                store.read(id, record.version),
                "{what}: {id} {} was listed, then a power cut",
                record.version
            );
        }
    }

    /// A restart: what was told is there, what was not is there wholly or not at all, nothing torn is served.
    fn check(&self, disk: &MemDisk, told: &Told, ending: Ending, setup: &Setup, what: &str) {
        let Setup { io_mode, layout } = setup;
        let what = format!("{}, {io_mode}, {layout:?}, {what}", self.name);
        let store = open(disk, setup).unwrap_or_else(|error| panic!("{what}: {error}"));
        let must = match (ending, io_mode) {
            (Ending::Kill, _) | (_, IoMode::Unbuffered) => &told.stored,
            // Other nodes have it: fewer than all of them lose power in this mode.
            _ => &told.old,
        };
        for ((id, version), content) in must {
            let read = store.read(id, *version);
            assert_eq!(
                read.as_deref(),
                Ok(content.as_slice()),
                "{what}: {id} {version}; {:?}",
                disk.peek(Path::new(PATH))
            );
        }
        for entry in inventory(&*store) {
            let read = store.read(&entry.id, entry.record.version);
            if entry.damaged {
                assert_eq!(read, Err(ReadFault::Damaged), "{what}: {entry:?}");
                continue;
            }
            let content = read.unwrap_or_else(|fault| panic!("{what}: {entry:?} is {fault:?}"));
            let is_gone = told.gone.contains(&(entry.id.clone(), entry.record.version));
            let holds = ending == Ending::Kill || *io_mode == IoMode::Unbuffered;
            assert!(!is_gone || !holds, "{what}: {entry:?} was said to be gone");
            if entry.record.version == Version::FOREIGN {
                // A copy that lost its record, and nothing else, looks foreign. That needs a file system that keeps a
                // file's later length and not its earlier attribute; none with a journal does.
                let lost = ending == Ending::OneLost;
                assert!(
                    lost || (entry.id.as_bytes(), &content[..]) == (b"f", b"foreign"),
                    "{what}: {entry:?} is served"
                );
                continue;
            }
            let asked = told.asked.get(&(entry.id.clone(), entry.record.version));
            assert_eq!(asked.map(Vec::as_slice), Some(&content[..]), "{what}: {entry:?} is torn");
        }
        if ending != Ending::OneLost {
            let files: Vec<Vec<u8>> = disk.peek(Path::new(PATH)).into_values().flatten().collect();
            for kept in told.trash.iter().map(Vec::as_slice).chain([&b"foreign"[..]]) {
                // Segments have no trash: what is let go of stays until its segment is taken back.
                let is_there =
                    files.iter().any(|content| content == kept) || (setup.in_segments() && kept != b"foreign");
                assert!(is_there, "{what}: {kept:?} was destroyed");
            }
        }
        self.check_that_it_lasts(disk, &*store, setup, &what);
        let report = store.write(&[], &[put("after", 99, "after"), put("a", 99, "newest")]).unwrap();
        assert_eq!(report.outcomes, [PutOutcome::Stored; 2], "{what}: {:?}", report.error);
        let again = disk.after_power_cut_with(|_| Survives::Nothing);
        if *io_mode == IoMode::Unbuffered {
            let read = open(&again, setup).unwrap().read(&id("after"), v(99));
            assert_eq!(read.as_deref(), Ok(&b"after"[..]), "{what}: then a power cut");
        }
    }
}

#[test]
fn no_crash_and_no_error_on_a_nodes_path_loses_or_tears_a_copy() {
    for row in rows() {
        let mut counts = Counts::default();
        for io_mode in [IoMode::Buffered, IoMode::Unbuffered] {
            for layout in LAYOUTS {
                counts.add(row.enumerate(&Setup { io_mode, layout }));
            }
        }
        counts.say(row.name);
    }
}

#[test]
fn a_late_settle_publishes_nothing_older() {
    let disk = MemDisk::new();
    let store = open(&disk, &Setup { io_mode: IoMode::Buffered, layout: Layout::Attributes }).unwrap();
    for (sequence, content) in [(1, "one"), (2, "two"), (3, "three")] {
        assert_eq!(store.write(&[], &[put("a", sequence, content)]).unwrap().outcomes, [PutOutcome::Stored]);
    }
    // Version 2 outlives the settle of version 3.
    disk.fault_next(Op::Remove, Fault::Fail(errno::EIO));
    assert_eq!(store.write(&[settle("a", 3, true)], &[]).unwrap().settled, [false]);
    assert_eq!(store.read(&id("a"), v(2)).as_deref(), Ok(&b"two"[..]));
    assert_eq!(store.write(&[settle("a", 2, true)], &[]).unwrap().settled, [true]);
    assert_eq!(store.read(&id("a"), v(3)).as_deref(), Ok(&b"three"[..]));
    assert_eq!(disk.peek(Path::new(PATH))["a.txt"].as_deref(), Some(&b"three"[..]));
}
