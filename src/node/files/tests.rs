//! The text layout on good disks, bad disks, and disks that stop at every call.
#![allow(clippy::print_stdout, reason = "the counts of what was tried are part of the result")]

use std::collections::BTreeMap;
use std::path::Path;

use super::scan::TRASH;
use super::*;
use crate::durable::os::OsDisk;
use crate::durable::sim::{Fault, MemDisk, Op, Survives, errno};
use crate::node::conformance::{conformance, delete, id, inventory, put, settle, v};
use crate::node::store::Body;

fn path() -> &'static Path {
    Path::new("/storage_node_1")
}

fn try_open(disk: &MemDisk, io_mode: IoMode) -> Result<(TextStore, Found), OpenError> {
    let folder =
        disk.folder(path()).map_err(|source| OpenError::Disk { what: "opening", file: String::new(), source })?;
    TextStore::open(Arc::new(disk.clone()), folder, io_mode)
}

fn open(disk: &MemDisk, io_mode: IoMode) -> (TextStore, Found) {
    try_open(disk, io_mode).unwrap()
}

#[test]
fn the_suite_passes_on_every_disk() {
    for io_mode in [IoMode::Buffered, IoMode::Unbuffered] {
        for keeps in [true, false] {
            conformance(|| {
                let disk = MemDisk::new();
                disk.set_keeps_records(keeps);
                open(&disk, io_mode).0
            });
        }
        let mut dirs = Vec::new();
        conformance(|| {
            let dir = tempfile::tempdir().unwrap();
            let disk = Arc::new(OsDisk::new());
            let folder = disk.folder(dir.path()).unwrap();
            dirs.push(dir);
            TextStore::open(disk, folder, io_mode).unwrap().0
        });
    }
}

#[test]
fn a_reopened_store_has_everything() {
    for keeps in [true, false] {
        let disk = MemDisk::new();
        disk.set_keeps_records(keeps);
        let (store, _) = open(&disk, IoMode::Buffered);
        let long = "ü".repeat(100);
        store.write(&[], &[put("a", 1, b"one"), put("b", 2, b"two"), put(&long, 3, b""), put("a/c", 4, b"x")]).unwrap();
        store.write(&[], &[put("a", 5, b"one"), put("b", 6, b"six")]).unwrap();
        store.write(&[settle("b", 6, true), settle("a/c", 4, false)], &[]).unwrap();
        let (again, found) = open(&disk.after_kill(), IoMode::Buffered);
        assert_eq!(inventory(&again), inventory(&store), "attributes: {keeps}");
        assert_eq!(again.totals(), store.totals());
        assert_eq!(found, Found { messages: 3, staged: 1, ..Found::default() });
    }
}

#[test]
fn names_are_as_the_contract_says() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk, IoMode::Buffered);
    store.write(&[], &[put("7", 1, b"hello"), put("a/b", 2, b"x")]).unwrap();
    store.write(&[], &[put("7", 3, b"newer")]).unwrap();
    let names: Vec<_> = disk.peek(path()).into_keys().collect();
    assert_eq!(names, [".staged-0000000100000003-7", "7.txt", "a%2Fb.txt"]);
    assert_eq!(disk.peek(path())["7.txt"].as_deref(), Some(&b"hello"[..]));
}

#[test]
fn foreign_files_are_adopted_or_put_aside() {
    let disk = MemDisk::new();
    for (name, content) in [("a.txt", "mine"), ("b.txt", "other"), ("empty.txt", ""), ("%41.txt", "x"), ("readme", "x")]
    {
        disk.plant(path(), name, content.as_bytes());
    }
    disk.plant_odd(path(), "link.txt");
    disk.plant_odd(path(), ".git");
    let (store, found) = open(&disk, IoMode::Unbuffered);
    assert_eq!((found.foreign, found.messages, found.damaged, found.ignored.len()), (2, 0, 0, 4), "{found:?}");
    let entries = inventory(&store);
    assert_eq!(entries[0].record, CopyRecord::of(Version::FOREIGN, b"mine"));
    assert_eq!(store.read(&id("a"), Version::FOREIGN).unwrap(), "mine");
    let adopt = |put: Put| Put { body: Body::Adopt, ..put };
    let puts =
        [adopt(put("a", 1, b"mine")), adopt(put("b", 2, b"wrong")), put("b", 3, b"new"), put("link", 4, b"file")];
    use PutOutcome::{Failed, Stored};
    assert_eq!(store.write(&[settle("b", 9, false)], &puts).unwrap().outcomes, [Stored, Failed, Stored, Stored]);
    let files = disk.peek(path());
    assert_eq!(files[".aside-1-b"].as_deref(), Some(&b"other"[..]), "never destroyed");
    assert!(files.contains_key(".aside-0-empty") && files[".aside-2-link"].is_none());
    // Dropped in while the node runs.
    disk.plant(path(), "late.txt", b"dropped");
    assert_eq!(store.write(&[], &[put("late", 5, b"ours")]).unwrap().outcomes, [Stored]);
    let (again, _) = open(&disk.after_power_cut_with(|_| Survives::Nothing), IoMode::Unbuffered);
    for (text, version, content) in [("a", 1, "mine"), ("b", 3, "new"), ("link", 4, "file"), ("late", 5, "ours")] {
        assert_eq!(again.read(&id(text), v(version)).unwrap(), content);
    }
}

#[test]
fn damage_is_told_and_healed() {
    for keeps in [true, false] {
        let disk = MemDisk::new();
        disk.set_keeps_records(keeps);
        let (store, _) = open(&disk, IoMode::Buffered);
        store.write(&[], &[put("a", 1, b"hello"), put("b", 2, b"hello"), put("c", 3, b"hello")]).unwrap();
        disk.rot(path(), "a.txt", |bytes| bytes[2] ^= 1);
        disk.rot(path(), "b.txt", |bytes| bytes.push(b'!'));
        disk.rot(path(), "c.txt", |bytes| bytes.truncate(1));
        for text in ["a", "b", "c"] {
            let version = store.newest(&id(text)).unwrap().version;
            assert_eq!(store.read(&id(text), version), Err(ReadFault::Damaged));
            assert_eq!(store.read(&id(text), version), Err(ReadFault::Damaged), "remembered");
        }
        assert_eq!((store.totals(), store.newest(&id("a"))), (Totals::default(), None));
        let after = disk.after_kill();
        let (store, found) = open(&after, IoMode::Buffered);
        assert_eq!(found.damaged, 3);
        assert!(inventory(&store).iter().all(|entry| entry.damaged && entry.record.version >= v(1)));
        assert_eq!(
            store.write(&[settle("b", 2, false)], &[put("a", 1, b"hello")]).unwrap().outcomes,
            [PutOutcome::Stored]
        );
        assert_eq!(store.read(&id("a"), v(1)).unwrap(), "hello");
        assert_eq!(inventory(&store).len(), 2);
        let kept = after.peek(path()).into_values().filter(|content| content.as_deref() == Some(&b"hello!"[..]));
        assert_eq!(kept.count(), 1, "a damaged file is never destroyed");
    }
}

#[test]
fn a_number_that_nobody_counted_up_to_does_not_come_round() {
    for prefix in [".aside-", TRASH] {
        let disk = MemDisk::new();
        disk.plant(path(), &format!("{prefix}{}-x", u64::MAX), b"planted");
        disk.plant(path(), ".aside-0-a", b"put aside before");
        disk.plant(path(), "a.txt", b"foreign");
        let (store, _) = open(&disk, IoMode::Buffered);
        assert_eq!(store.write(&[], &[put("a", 1, b"ours")]).unwrap().outcomes, [PutOutcome::Stored]);
        let contents: Vec<_> = disk.peek(path()).into_values().flatten().collect();
        for kept in ["planted", "put aside before", "foreign", "ours"] {
            assert!(contents.iter().any(|content| content == kept.as_bytes()), "{kept} is gone");
        }
    }
}

#[test]
fn the_trash_keeps_the_newest_and_makes_room() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk, IoMode::Buffered);
    let trashed = |disk: &MemDisk| -> Vec<String> {
        disk.peek(path()).into_keys().filter(|name| name.starts_with(TRASH)).collect()
    };
    let throw = |store: &TextStore, n: u32| {
        store.write(&[], &[put(&format!("m{n}"), n, b"old")]).unwrap();
        let settle = Settle { trash: true, ..settle(&format!("m{n}"), n, false) };
        assert_eq!(store.write(&[settle], &[]).unwrap().settled, [true]);
        assert_eq!(store.read(&id(&format!("m{n}")), v(n)), Err(ReadFault::Absent));
    };
    (1..=1005).for_each(|n| throw(&store, n));
    assert_eq!(trashed(&disk).len(), 1000);
    assert!(!trashed(&disk).contains(&format!("{TRASH}4-m5")) && trashed(&disk).contains(&format!("{TRASH}5-m6")));
    assert_eq!(disk.peek(path())[&format!("{TRASH}1004-m1005")].as_deref(), Some(&b"old"[..]));
    // It is known after a restart, numbered on, and gives way when the disk is full.
    let disk = disk.after_kill();
    let (store, found) = open(&disk, IoMode::Buffered);
    assert_eq!((found.messages, inventory(&store).len()), (0, 0));
    throw(&store, 2000);
    assert!(trashed(&disk).contains(&format!("{TRASH}1005-m2000")) && trashed(&disk).len() == 1000);
    disk.fault_next(Op::Append, Fault::Fail(errno::ENOSPC));
    assert_eq!(store.write(&[], &[put("x", 3000, b"x")]).unwrap().outcomes, [PutOutcome::Full]);
    assert!(trashed(&disk).is_empty());
}

#[test]
fn what_a_member_confirms_is_gone_for_good() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk, IoMode::Buffered);
    store.write(&[], &[put("a", 1, b"one")]).unwrap();
    disk.folder(path()).unwrap().sync_all().unwrap();
    let back = || {
        let after = disk.after_power_cut_with(|_| Survives::Nothing);
        inventory(&open(&after, IoMode::Buffered).0).len()
    };
    assert_eq!(store.write(&[settle("a", 2, false)], &[]).unwrap().settled, [true]);
    assert_eq!(back(), 1, "buffered mode promises no more");
    let lasting = Settle { lasting: true, ..settle("a", 2, false) };
    assert_eq!(store.write(&[lasting], &[]).unwrap().settled, [true]);
    assert_eq!(back(), 0);
}

#[test]
fn a_copy_that_waits_is_told_of_and_passed_by_nobody() {
    let (store, _) = open(&MemDisk::new(), IoMode::Buffered);
    let visible = || store.totals().messages;
    store.write(&[], &[put("a", 1, b"one")]).unwrap();
    assert!(!store.is_unpublished(&id("a"), v(1)));
    store.write(&[], &[put("a", 2, b"two")]).unwrap();
    assert!(store.is_unpublished(&id("a"), v(2)));
    // The first one is let go of before the second one is told to be committed, as late words about a deletion do.
    store.write(&[settle("a", 1, false)], &[put("a", 3, b"three")]).unwrap();
    assert_eq!(visible(), 0, "nobody knows yet which of them is committed");
    assert!(store.is_unpublished(&id("a"), v(3)));
    store.write(&[settle("a", 2, true)], &[]).unwrap();
    assert_eq!((visible(), store.read(&id("a"), v(2)).unwrap()), (1, "two".into()));
    assert!(!store.is_unpublished(&id("a"), v(2)));
    store.write(&[], &[delete("a", 4)]).unwrap();
    assert!(!store.is_unpublished(&id("a"), v(4)), "a tombstone never gets a name");
}

#[test]
fn unknown_is_not_absent() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk, IoMode::Buffered);
    store.write(&[], &[put("a", 1, b"hello")]).unwrap();
    for errno in [errno::EIO, errno::EMFILE, errno::EACCES] {
        disk.fault_next(Op::Open, Fault::Fail(errno));
        assert!(matches!(store.read(&id("a"), v(1)), Err(ReadFault::Unknown(_))));
        disk.fault_next(Op::List, Fault::Fail(errno));
        assert!(matches!(try_open(&disk, IoMode::Buffered), Err(OpenError::Disk { .. })));
    }
    assert_eq!(store.read(&id("a"), v(1)).unwrap(), "hello");
    disk.folder(path()).unwrap().remove("a.txt").unwrap();
    assert_eq!(store.read(&id("a"), v(1)), Err(ReadFault::Absent));
    assert_eq!(store.write(&[], &[put("a", 1, b"hello")]).unwrap().outcomes, [PutOutcome::Stored]);
    assert_eq!(store.read(&id("a"), v(1)).unwrap(), "hello", "gone files are made again, not answered from memory");
}

#[test]
fn a_start_that_meets_an_error_fails_or_finds_everything() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk, IoMode::Buffered);
    store.write(&[], &[put("a", 1, b"one"), put("b", 2, b"two")]).unwrap();
    let mut refused = 0;
    for call in 0.. {
        let disk = disk.after_kill();
        disk.fault_at(call, Fault::Fail(errno::EIO));
        match try_open(&disk, IoMode::Buffered) {
            Ok((store, _)) => assert_eq!(inventory(&store).len(), 2, "call {call} failed"),
            Err(_) => refused += 1,
        }
        if disk.calls() <= call {
            break;
        }
    }
    assert!(refused > 0);
}

#[test]
fn what_a_crash_leaves_is_never_taken_for_a_strangers_file() {
    for (keeps, whole) in KINDS {
        for (io_mode, fault) in [IoMode::Buffered, IoMode::Unbuffered]
            .into_iter()
            .flat_map(|mode| [Fault::CrashBefore, Fault::CrashAfter].map(|fault| (mode, fault)))
        {
            for call in 0.. {
                let disk = MemDisk::new();
                disk.set_syncs_as_a_whole(whole);
                disk.set_keeps_records(keeps);
                let (store, _) = open(&disk, io_mode);
                disk.fault_at(disk.calls() + call, fault);
                let _ = store.write(&[], &[put("a", 1, b"hello")]);
                let (_, found) = open(&disk.after_kill(), io_mode);
                assert_eq!(found.foreign, 0, "attributes {keeps}, {io_mode}, {fault:?} at call {call}");
                if !disk.crashed() {
                    break;
                }
            }
        }
    }
}

#[test]
fn refusals_say_what_to_do() {
    let disk = MemDisk::new();
    disk.set_folds_case(true);
    assert!(try_open(&disk, IoMode::Buffered).unwrap_err().to_string().contains("--data-dir"));
    disk.set_folds_case(false);
    let mut newer = vec![9; 17];
    newer.extend(crc32c::crc32c_append(crc32c::crc32c(&newer), b"a").to_le_bytes());
    disk.folder(path()).unwrap().create_new("a.txt").unwrap().set_record(&newer).unwrap();
    assert!(try_open(&disk, IoMode::Buffered).unwrap_err().to_string().contains("upgrade"));
}

#[test]
fn a_disk_without_a_byte_takes_deletions_and_smaller_messages() {
    for (keeps, errno, io_mode) in [
        (true, errno::ENOSPC, IoMode::Buffered),
        (true, errno::EDQUOT, IoMode::Unbuffered),
        (false, errno::ENOSPC, IoMode::Unbuffered),
    ] {
        let disk = MemDisk::new();
        disk.set_keeps_records(keeps);
        let (store, _) = open(&disk, io_mode);
        store.keep_spares(4);
        let puts: Vec<Put> = (0..20).map(|n| put(&format!("m{n}"), n + 1, &[b'x'; 100])).collect();
        store.write(&[], &puts).unwrap();
        disk.fill(errno);
        let written = |puts: &[Put]| store.write(&[], puts).unwrap().outcomes;
        assert_eq!(written(&[put("new", 30, b"new")]), [PutOutcome::Full]);
        assert_eq!(
            written(&[put("m0", 31, b"shorter"), put("m1", 32, &[b'y'; 101])]),
            [PutOutcome::Stored, PutOutcome::Full]
        );
        assert_eq!(store.read(&id("m0"), v(31)).unwrap(), "shorter");
        assert_eq!(store.write(&[settle("m0", 31, true)], &[]).unwrap().settled, [true]);
        for n in 2..5 {
            assert_eq!(written(&[delete(&format!("m{n}"), 40 + n)]), [PutOutcome::Stored], "{errno} {n}");
            assert_eq!(store.write(&[settle(&format!("m{n}"), 40 + n, true)], &[]).unwrap().settled, [true]);
        }
        assert_eq!(store.totals().messages, 17);
        disk.heal();
        store.tend().unwrap();
        let spares = disk.peek(path()).keys().filter(|name| name.starts_with(crate::node::scan::SPARE)).count();
        assert_eq!(spares, 4, "they are put by again");
        let (again, _) = open(&disk.after_power_cut_with(|_| Survives::Whole), io_mode);
        assert_eq!(inventory(&again), inventory(&store));
    }
}

#[test]
fn what_one_file_refuses_ends_no_node() {
    for errno in [errno::EPERM, errno::EACCES, errno::EROFS, errno::ENAMETOOLONG, errno::EDQUOT] {
        let disk = MemDisk::new();
        let (store, _) = open(&disk, IoMode::Unbuffered);
        store.write(&[], &[put("a", 1, b"one"), put("b", 2, b"two")]).unwrap();
        store.write(&[], &[put("a", 3, b"three")]).unwrap();
        disk.fault_next(Op::Rename, Fault::Fail(errno));
        let report = store.write(&[settle("a", 3, true)], &[]).unwrap();
        assert!(report.settled == [false] && report.error.is_some(), "{errno}");
        assert_eq!(store.read(&id("a"), v(1)).unwrap(), "one");
        assert_eq!(store.read(&id("a"), v(3)).unwrap(), "three");
        // So does a start go on that does it again.
        let after = disk.after_kill();
        after.fault_next(Op::Rename, Fault::Fail(errno));
        assert_eq!(open(&after, IoMode::Unbuffered).0.read(&id("a"), v(3)).unwrap(), "three", "{errno}");
        disk.fault_next(Op::Rename, Fault::Fail(errno));
        let trash = Settle { trash: true, ..settle("b", 2, false) };
        let gone = errno == errno::EDQUOT;
        assert_eq!(store.write(std::slice::from_ref(&trash), &[]).unwrap().settled, [gone], "{errno}");
        // And later it is done.
        assert_eq!(store.write(&[settle("a", 3, true), trash], &[]).unwrap().settled, [true, true], "{errno}");
        assert_eq!(store.read(&id("a"), v(1)), Err(ReadFault::Absent));
    }
}

#[test]
fn a_file_system_that_is_gone_ends_the_node() {
    const ENOTCONN: i32 = 107;
    for io_mode in [IoMode::Buffered, IoMode::Unbuffered] {
        let disk = MemDisk::new();
        let (store, _) = open(&disk, io_mode);
        disk.fault_next(Op::Create, Fault::Fail(ENOTCONN));
        let fatal = store.write(&[], &[put("a", 1, b"one")]).unwrap_err();
        assert!(fatal.to_string().contains("this node stops"), "{fatal}");
    }
}

#[test]
fn records_are_looked_for_where_the_identity_says_that_they_are() {
    use crate::node::identity::IdentityFile;
    use crate::types::{Layout, NodeId, Uuid};
    for keeps in [true, false] {
        let disk = MemDisk::new();
        disk.set_keeps_records(keeps);
        let folder = disk.folder(path()).unwrap();
        let identity = IdentityFile::open(folder, NodeId(1), Uuid([1; 16]), Layout::Text).unwrap();
        let (store, _) = open(&disk, IoMode::Buffered);
        assert!(!disk.peek(path()).contains_key(".records.log"), "it is made with the first record");
        identity.note_records(store.records_kind()).unwrap();
        store.write(&[], &[put("a", 1, b"one")]).unwrap();
        // Seen through a layer that keeps no attributes, or (by a log) on a file system that does.
        let disk = disk.after_kill();
        disk.set_keeps_records(!keeps);
        match try_open(&disk, IoMode::Buffered) {
            Ok((store, _)) => assert_eq!((keeps, store.read(&id("a"), v(1)).unwrap()), (false, "one".into())),
            Err(error) => assert!(keeps && error.to_string().contains("through another layer"), "{error}"),
        }
        assert_eq!(disk.peek(path()).contains_key(".records.log"), !keeps, "nothing was made");
        disk.set_keeps_records(keeps);
        assert_eq!(open(&disk, IoMode::Buffered).0.read(&id("a"), v(1)).unwrap(), "one", "attributes: {keeps}");
    }
    // A program of before made a log without a record, which hides no attribute.
    let disk = MemDisk::new();
    let (store, _) = open(&disk, IoMode::Buffered);
    store.write(&[], &[put("a", 1, b"one")]).unwrap();
    let log =
        crate::durable::record_log::RecordLog::create(disk.folder(path()).unwrap(), ".records.log", *b"hatorec1", 64);
    drop(log.unwrap());
    assert_eq!(open(&disk, IoMode::Buffered).0.read(&id("a"), v(1)).unwrap(), "one");
}

#[test]
fn a_file_of_the_right_bytes_is_adopted_whatever_its_record_says() {
    let disk = MemDisk::new();
    let (store, _) = open(&disk, IoMode::Buffered);
    store.write(&[], &[put("a", 1, b"one"), put("b", 2, b"two")]).unwrap();
    disk.rot(path(), "a.txt", |bytes| *bytes = b"other".to_vec());
    disk.rot(path(), "b.txt", |bytes| *bytes = b"wrong".to_vec());
    let (store, found) = open(&disk.after_kill(), IoMode::Unbuffered);
    assert_eq!(found.damaged, 2);
    let adopt = |put: Put| Put { body: Body::Adopt, ..put };
    use PutOutcome::{Failed, Stored};
    let puts = [adopt(put("a", 1, b"other")), adopt(put("b", 2, b"two")), adopt(put("c", 3, b"none"))];
    assert_eq!(store.write(&[], &puts).unwrap().outcomes, [Stored, Failed, Failed]);
    assert_eq!(store.read(&id("a"), v(1)).unwrap(), "other");
}

#[test]
fn a_full_or_read_only_disk_still_serves_reads() {
    for errno in [errno::ENOSPC, errno::EROFS] {
        let disk = MemDisk::new();
        let (store, _) = open(&disk, IoMode::Buffered);
        store.write(&[], &[put("a", 1, b"hello")]).unwrap();
        disk.set_failing(Some(errno));
        let report = store.write(&[], &[put("a", 2, b"x"), put("b", 3, b"y")]).unwrap();
        let full = errno == errno::ENOSPC;
        assert_eq!(report.outcomes, [if full { PutOutcome::Full } else { PutOutcome::Failed }; 2]);
        assert!(report.error.is_some());
        let (again, found) = open(&disk, IoMode::Buffered);
        assert_eq!((found.messages, again.read(&id("a"), v(1)).unwrap().len()), (1, 5));
        disk.set_failing(None);
        assert_eq!(store.write(&[], &[put("b", 3, b"y")]).unwrap().outcomes, [PutOutcome::Stored], "without a restart");
    }
}

#[test]
fn a_failed_sync_or_rename_is_fatal() {
    let with_journal = [Op::Sync, Op::Rename].map(|op| (op, true));
    for (op, whole) in [Op::Sync, Op::SyncFolder, Op::Rename].map(|op| (op, false)).into_iter().chain(with_journal) {
        let disk = MemDisk::new();
        disk.set_syncs_as_a_whole(whole);
        let (store, _) = open(&disk, IoMode::Unbuffered);
        store.write(&[], &[put("a", 1, b"one")]).unwrap();
        store.write(&[], &[put("a", 2, b"two")]).unwrap();
        disk.fault_next(op, Fault::Fail(errno::EIO));
        let fatal = store.write(&[settle("a", 2, true)], &[put("b", 3, b"x")]).unwrap_err();
        assert!(fatal.to_string().contains("this node stops"), "{fatal}");
        assert!(inventory(&store).iter().all(|entry| entry.id != id("b")), "not safe, not listed");
    }
}

#[test]
fn a_failed_sync_of_the_index_log_is_fatal_too() {
    let disk = MemDisk::new();
    disk.set_keeps_records(false);
    let (store, _) = open(&disk, IoMode::Unbuffered);
    disk.fault_next(Op::Sync, Fault::Fail(errno::EIO));
    let fatal = store.write(&[], &[put("a", 1, b"one")]).unwrap_err();
    assert!(fatal.to_string().contains("this node stops"), "{fatal}");
    assert!(store.write(&[], &[put("b", 2, b"two")]).is_err(), "and no later OK");
}

/// What a script was told: for each id what must be readable, oldest settled value first.
#[derive(Debug, Default, Clone)]
struct Told {
    stored: BTreeMap<(String, u32), Vec<u8>>,
}

/// Every kind of write; what may no longer be there is struck out before the call that may remove it.
fn script(store: &TextStore, told: &mut Told, ever: &mut BTreeMap<(String, u32), Vec<u8>>) -> Result<(), Fatal> {
    type Step = (Vec<Settle>, Vec<Put>);
    let long = "ü".repeat(100);
    let steps: [Step; 12] = [
        (vec![], vec![put("a", 1, b"a-one"), put("b", 2, b"b-two"), put(&long, 3, b"long")]),
        (vec![], vec![put("a", 4, b"a-four, and longer"), put("f", 5, b"over a foreign file")]),
        (vec![settle("a", 4, true)], vec![put("c", 6, b""), put("b", 7, b"b-seven")]),
        (vec![settle("b", 7, false)], vec![put("a", 8, b"a-eight")]),
        (vec![], vec![put("a", 9, b"a-nine")]),
        (vec![settle("a", 9, true), settle("c", 6, false)], vec![put("c", 10, b"c-ten"), put("d", 11, b"d")]),
        (vec![settle("d", 11, true)], vec![put("b", 12, b"b-twelve")]),
        (vec![], vec![delete("a", 13), delete("new", 13)]),
        (vec![settle("a", 13, true)], vec![put("e", 14, b"e")]),
        (vec![Settle { trash: true, ..settle("b", 12, false) }], vec![put("a", 15, b"a-again")]),
        (vec![settle("a", 15, true)], vec![delete("e", 16)]),
        (vec![settle("e", 16, false)], vec![]),
    ];
    for (settles, puts) in steps {
        for settle in &settles {
            told.stored.retain(|(text, version), _| {
                *text != settle.id.to_string() || *version > settle.version.sequence() - u32::from(settle.keep)
            });
        }
        for put in &puts {
            let content = if let Body::Bytes(content) = &put.body { content.to_vec() } else { Vec::new() };
            ever.insert((put.id.to_string(), put.record.version.sequence()), content);
        }
        let report = store.write(&settles, &puts)?;
        if settles.len() == 2 {
            store.tend()?;
        }
        for (put, outcome) in puts.iter().zip(report.outcomes) {
            if outcome == PutOutcome::Stored {
                let key = (put.id.to_string(), put.record.version.sequence());
                told.stored.insert(key.clone(), ever[&key].clone());
            }
        }
    }
    Ok(())
}

/// Whether the file system keeps attributes, and whether it syncs as a whole.
const KINDS: [(bool, bool); 3] = [(true, true), (true, false), (false, false)];

fn prepared(keeps: bool, whole: bool) -> MemDisk {
    let disk = MemDisk::new();
    disk.set_syncs_as_a_whole(whole);
    disk.set_keeps_records(keeps);
    disk.plant(path(), "f.txt", b"foreign");
    disk
}

/// Everything told is readable, and nothing is served that was never written.
fn check(disk: &MemDisk, io_mode: IoMode, told: &Told, ever: &BTreeMap<(String, u32), Vec<u8>>, what: &str) {
    let (store, _) = open(disk, io_mode);
    for ((text, version), content) in &told.stored {
        let read = store.read(&id(text), v(*version));
        assert_eq!(read.as_deref(), Ok(content.as_slice()), "{what}: {text} {version}; {:?}", disk.peek(path()).keys());
    }
    for entry in inventory(&store) {
        if entry.damaged {
            continue;
        }
        let content = store.read(&entry.id, entry.record.version).unwrap();
        if entry.record.version == Version::FOREIGN {
            assert_eq!(
                (entry.id.as_bytes(), &content[..]),
                (&b"f"[..], &b"foreign"[..]),
                "{what}: only what was foreign before"
            );
        } else {
            let key = (entry.id.to_string(), entry.record.version.sequence());
            assert_eq!(ever.get(&key).map(Vec::as_slice), Some(&content[..]), "{what}: torn");
        }
    }
    // And it goes on.
    let report = store.write(&[], &[put("after", 99, b"after"), put("a", 99, b"newest")]).unwrap();
    assert_eq!(report.outcomes, [PutOutcome::Stored; 2], "{what}: {:?}", report.error);
}

#[test]
fn crashes_at_every_call_lose_nothing() {
    let (mut kills, mut cuts) = (0, 0);
    for (keeps, whole) in KINDS {
        for io_mode in [IoMode::Buffered, IoMode::Unbuffered] {
            for call in 0.. {
                let mut ended = false;
                for fault in [Fault::CrashBefore, Fault::CrashAfter] {
                    let disk = prepared(keeps, whole);
                    disk.fault_at(call, fault);
                    let (mut told, mut ever) = (Told::default(), BTreeMap::new());
                    if let Ok((store, _)) = try_open(&disk, io_mode) {
                        let _ = script(&store, &mut told, &mut ever);
                    }
                    ended |= !disk.crashed();
                    let what = format!("attributes {keeps}, as a whole {whole}, {io_mode}, {fault:?} at call {call}");
                    check(&disk.after_kill(), io_mode, &told, &ever, &format!("{what}, killed"));
                    kills += 1;
                    if io_mode == IoMode::Unbuffered {
                        let pending = disk.unsynced();
                        for lost in 0..=pending {
                            let prefix = |n| if n < lost { Survives::Whole } else { Survives::Nothing };
                            let disk = disk.after_power_cut_with(prefix);
                            check(&disk, io_mode, &told, &ever, &format!("{what}, the first {lost} survive"));
                            cuts += 1;
                        }
                        for lost in 0..pending {
                            for fate in [Survives::Nothing, Survives::Part(100), Survives::Zeros] {
                                let single = |n| if n == lost { fate } else { Survives::Whole };
                                let after = disk.after_power_cut_with(single);
                                power_check(&after, &told, &ever, &format!("{what}, {lost} is {fate:?}"));
                                cuts += 1;
                            }
                        }
                        for seed in 0..4 {
                            let after = disk.after_power_cut(&mut fastrand::Rng::with_seed(seed));
                            power_check(&after, &told, &ever, &format!("{what}, seed {seed}"));
                            cuts += 1;
                        }
                    }
                }
                if ended {
                    break;
                }
            }
        }
    }
    println!("{kills} crashes, {cuts} power cuts");
}

/// After a power cut that reorders: what was told is there, and nothing with a record is torn.
fn power_check(disk: &MemDisk, told: &Told, ever: &BTreeMap<(String, u32), Vec<u8>>, what: &str) {
    let (store, _) = open(disk, IoMode::Unbuffered);
    for ((text, version), content) in &told.stored {
        assert_eq!(store.read(&id(text), v(*version)).as_deref(), Ok(content.as_slice()), "{what}: {text} {version}");
    }
    for entry in inventory(&store).iter().filter(|e| !e.damaged && e.record.version != Version::FOREIGN) {
        let content = store.read(&entry.id, entry.record.version).unwrap();
        let key = (entry.id.to_string(), entry.record.version.sequence());
        assert_eq!(ever.get(&key).map(Vec::as_slice), Some(&content[..]), "{what}: torn");
    }
}

#[test]
fn errors_at_every_call_lose_nothing() {
    let mut tried = 0;
    for (keeps, whole) in KINDS {
        for io_mode in [IoMode::Buffered, IoMode::Unbuffered] {
            let faults = [errno::EIO, errno::ENOSPC, errno::EMFILE, errno::EROFS].map(Fault::Fail);
            for fault in faults.into_iter().chain([Fault::Short(errno::ENOSPC)]) {
                for call in 0.. {
                    let disk = prepared(keeps, whole);
                    disk.fault_at(call, fault);
                    let (mut told, mut ever) = (Told::default(), BTreeMap::new());
                    let mut fatal = false;
                    if let Ok((store, _)) = try_open(&disk, io_mode) {
                        fatal = script(&store, &mut told, &mut ever).is_err();
                        for ((text, version), content) in told.stored.iter().filter(|_| !fatal) {
                            let read = || store.read(&id(text), v(*version));
                            let first = read();
                            // The fault may hit this very read, and is then told as what it is.
                            let read = if let Err(ReadFault::Unknown(_)) = first { read() } else { first };
                            assert_eq!(read.as_deref(), Ok(content.as_slice()));
                        }
                    }
                    let what = format!(
                        "attributes {keeps}, as a whole {whole}, {io_mode}, {fault:?} at call {call}, fatal {fatal}"
                    );
                    let reached = disk.calls() > call;
                    check(&disk.after_kill(), io_mode, &told, &ever, &what);
                    tried += 1;
                    if !reached {
                        break;
                    }
                }
            }
        }
    }
    println!("{tried} injected errors");
}
