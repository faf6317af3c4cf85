//! The log cut, flipped, refused and poisoned at every place.
#![allow(clippy::print_stdout, reason = "the counts of what was tried are part of the result")]

use std::path::Path;

use super::frame::OWN_PART;
use super::*;
use crate::durable::Disk;
use crate::durable::sim::{Fault, MemDisk, Op, Survives, errno};

const MAGIC: [u8; 8] = *b"testlog1";
const NAME: &str = "test.log";

fn folder(disk: &MemDisk) -> Arc<dyn Folder> {
    disk.folder(Path::new("/log")).unwrap()
}

type Loaded = (RecordLog, Vec<(u64, Vec<u8>)>, Option<Torn>);

fn open(disk: &MemDisk, power_cut: bool) -> Result<Loaded, LogError> {
    let mut records = Vec::new();
    let mut visit = |offset, payload: &[u8]| {
        records.push((offset, payload.to_vec()));
        Ok(())
    };
    let opened = RecordLog::open(folder(disk), NAME, MAGIC, &mut visit, &|damage| judge(damage, power_cut))?;
    Ok((opened.log, records, opened.torn))
}

fn payloads(records: &[(u64, Vec<u8>)]) -> Vec<&[u8]> {
    records.iter().map(|(_, payload)| payload.as_slice()).collect()
}

fn content(disk: &MemDisk) -> Vec<u8> {
    disk.peek(Path::new("/log"))[NAME].clone().unwrap()
}

fn disk_with(content: &[u8]) -> MemDisk {
    let disk = MemDisk::new();
    disk.plant(Path::new("/log"), NAME, content);
    disk
}

/// Three batches; the first two synced.
fn sample() -> (MemDisk, Vec<(u64, Vec<u8>)>) {
    let disk = MemDisk::new();
    let (mut log, _, _) = open(&disk, false).unwrap();
    log.append([&b"one"[..], b"two"]).unwrap();
    log.sync().unwrap();
    log.append([&[7; 40][..]]).unwrap();
    log.sync().unwrap();
    log.append([&b"four"[..], b"five"]).unwrap();
    let (_, records, torn) = open(&disk, false).unwrap();
    assert_eq!(payloads(&records), [&b"one"[..], b"two", &[7; 40], b"four", b"five"]);
    assert_eq!(torn, None);
    (disk, records)
}

#[test]
fn a_log_cut_anywhere_keeps_the_records_before_the_cut() {
    let (disk, records) = sample();
    let whole = content(&disk);
    for cut in HEADER as usize..=whole.len() {
        let disk = disk_with(&whole[..cut]);
        let (mut log, found, torn) = open(&disk, false).unwrap();
        let expected: Vec<_> =
            records.iter().filter(|(offset, payload)| *offset as usize + 8 + payload.len() <= cut).cloned().collect();
        assert_eq!(found, expected, "cut at {cut}");
        if let Some(torn) = torn {
            assert_eq!(torn.bytes + torn.offset, cut as u64);
            let saved = disk.peek(Path::new("/log"))[&format!(".{NAME}.torn-{}", torn.offset)].clone();
            assert_eq!(saved.unwrap(), whole[torn.offset as usize..cut]);
        }
        log.append([&b"after"[..]]).unwrap();
        let (_, again, torn) = open(&disk, false).unwrap();
        assert_eq!(again.len(), expected.len() + 1);
        assert_eq!(torn, None);
    }
    for cut in 0..HEADER as usize {
        assert!(matches!(open(&disk_with(&whole[..cut]), true), Err(LogError::Damaged { offset: 0, .. })));
    }
    println!("{} places to cut", whole.len());
}

#[test]
fn a_flipped_byte_is_refused_by_offset() {
    let (disk, records) = sample();
    let whole = content(&disk);
    let last = records.last().unwrap().0 as usize;
    let durable = records[3].0 as usize - 16; // the marker before the third batch
    for place in HEADER as usize..last {
        let mut flipped = whole.clone();
        flipped[place] ^= 0x10;
        match open(&disk_with(&flipped), false) {
            Err(LogError::Damaged { offset, file }) => {
                assert!(offset as usize <= place && file == "/log/test.log");
            }
            other => panic!("flip at {place}: {other:?}"),
        }
        // After a power cut, what had been synced must still be there; the rest may be a hole.
        let result = open(&disk_with(&flipped), true);
        assert_eq!(result.is_err(), place < durable, "flip at {place}");
    }
    for place in 0..HEADER as usize {
        let mut flipped = whole.clone();
        flipped[place] ^= 0x10;
        let error = open(&disk_with(&flipped), true).unwrap_err();
        assert_eq!(matches!(error, LogError::Foreign { .. }), place < 8, "{error}");
    }
    println!("{} places to flip", whole.len());
}

#[test]
fn newer_formats_and_strange_records_are_refused() {
    let (disk, _) = sample();
    let mut newer = content(&disk);
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer[..12]);
    newer[12..16].copy_from_slice(&crc.to_le_bytes());
    let error = open(&disk_with(&newer), false).unwrap_err();
    assert!(error.to_string().contains("upgrade"), "{error}");
    let mut refuse = |_: u64, _: &[u8]| Err("no such kind".to_owned());
    let error = RecordLog::open(folder(&disk), NAME, MAGIC, &mut refuse, &|_| Verdict::Cut).unwrap_err();
    assert!(matches!(error, LogError::BadRecord { offset: HEADER, .. }), "{error}");
}

#[test]
fn records_have_bounds() {
    let disk = MemDisk::new();
    let (mut log, _, _) = open(&disk, false).unwrap();
    assert!(log.is_empty());
    for bad in [0, MAX_RECORD + 1] {
        assert!(matches!(log.append([&vec![1; bad][..]]), Err(LogError::Length { .. })));
    }
    assert_eq!(log.append([&vec![1; MAX_RECORD][..]]).unwrap(), HEADER);
    log.append(std::iter::empty()).unwrap();
    let (log, records, _) = open(&disk, false).unwrap();
    assert_eq!((records.len(), records[0].1.len()), (1, MAX_RECORD));
    assert_eq!(log.len(), HEADER + 8 + MAX_RECORD as u64);
}

#[test]
fn power_cuts_lose_only_what_was_not_synced() {
    let mut cuts = 0;
    for seed in 0..800 {
        let chance = &mut fastrand::Rng::with_seed(seed);
        let disk = MemDisk::new();
        let (mut log, _, _) = open(&disk, false).unwrap();
        if seed >= 400 {
            log.keep_room();
        }
        let (mut written, mut synced): (Vec<Vec<u8>>, usize) = (Vec::new(), 0);
        for _ in 0..chance.usize(1..12) {
            let batch: Vec<Vec<u8>> = (0..chance.usize(1..5))
                .map(|_| (0..chance.usize(1..60)).map(|_| chance.u8(..) & 3).collect())
                .collect();
            log.append(batch.iter().map(Vec::as_slice)).unwrap();
            written.extend(batch);
            if chance.bool() {
                log.sync().unwrap();
                synced = written.len();
            }
        }
        let after = disk.after_power_cut(chance);
        let (mut log, records, torn) = open(&after, true).unwrap();
        cuts += usize::from(torn.is_some());
        assert!(records.len() >= synced, "seed {seed}");
        assert!(records.iter().zip(&written).all(|((_, found), put)| found == put), "seed {seed}");
        log.append([&b"next"[..]]).unwrap();
        log.sync().unwrap();
        let twice = after.after_power_cut_with(|_| Survives::Nothing);
        assert_eq!(open(&twice, true).unwrap().1.len(), records.len() + 1, "seed {seed}");
    }
    println!("800 power cuts, {cuts} with a torn end");
    assert!(cuts > 100);
}

#[test]
fn a_hole_before_later_records_is_a_torn_end_only_after_a_power_cut() {
    let disk = MemDisk::new();
    let (mut log, _, _) = open(&disk, false).unwrap();
    log.append([&b"synced"[..]]).unwrap();
    log.sync().unwrap();
    log.append([&b"hole"[..]]).unwrap();
    log.append([&b"later"[..]]).unwrap();
    let unsynced = disk.unsynced();
    assert_eq!(unsynced, 2);
    let after = disk.after_power_cut_with(|n| if n == 0 { Survives::Nothing } else { Survives::Whole });
    assert!(matches!(open(&after.after_kill(), false), Err(LogError::Damaged { .. })));
    let (_, records, torn) = open(&after, true).unwrap();
    assert_eq!(payloads(&records), [b"synced"]);
    assert!(torn.is_some());
}

#[test]
fn a_failed_sync_is_final() {
    let disk = MemDisk::new();
    let (mut log, _, _) = open(&disk, false).unwrap();
    log.append([&b"a"[..]]).unwrap();
    disk.fault_next(Op::Sync, Fault::Fail(errno::EIO));
    assert!(matches!(log.sync(), Err(LogError::Io { .. })));
    assert!(matches!(log.sync(), Err(LogError::Poisoned { .. })));
    assert!(matches!(log.append([&b"b"[..]]), Err(LogError::Poisoned { .. })));
    assert!(matches!(log.replace_with([&b"b"[..]]), Err(LogError::Poisoned { .. })));
}

/// A log without room, and one with it; each has the record `a`.
fn without_and_with_room() -> impl Iterator<Item = (MemDisk, RecordLog)> {
    [false, true].into_iter().map(|room| {
        let disk = MemDisk::new();
        let (mut log, _, _) = open(&disk, false).unwrap();
        if room {
            log.keep_room();
        }
        log.append([&b"a"[..]]).unwrap();
        assert_eq!(content(&disk).len() as u64 > log.len(), room);
        (disk, log)
    })
}

#[test]
fn a_full_disk_leaves_no_half_batch() {
    for (disk, mut log) in without_and_with_room() {
        disk.fault_next(Op::Append, Fault::Short(errno::ENOSPC));
        assert!(log.append([&b"b"[..]]).unwrap_err().is_full());
        log.append([&b"c"[..]]).unwrap();
        assert_eq!(payloads(&open(&disk, false).unwrap().1), [b"a", b"c"]);
        disk.fault_next(Op::Append, Fault::Short(errno::ENOSPC));
        disk.fault_next(Op::Truncate, Fault::Fail(errno::EIO));
        assert!(log.append([&b"d"[..]]).is_err());
        assert!(matches!(log.append([&b"e"[..]]), Err(LogError::Poisoned { .. })));
        assert_eq!(payloads(&open(&disk, false).unwrap().1), [b"a", b"c"]);
    }
}

#[test]
fn a_torn_end_that_cannot_be_cut_now_is_cut_later() {
    for (disk, mut log) in without_and_with_room() {
        let fail = || {
            disk.fault_next(Op::Append, Fault::Short(errno::EDQUOT));
            disk.fault_next(Op::Truncate, Fault::Fail(errno::EDQUOT));
        };
        fail();
        assert!(log.append([&b"b"[..]]).unwrap_err().is_full() && !log.is_poisoned());
        // A start reads what there is, and cuts before it appends.
        let again = disk.after_kill();
        again.fault_next(Op::Truncate, Fault::Fail(errno::EDQUOT));
        let (mut opened, records, torn) = open(&again, false).unwrap();
        assert!(payloads(&records) == [b"a"] && torn.is_some());
        again.fault_next(Op::Truncate, Fault::Fail(errno::EDQUOT));
        assert!(opened.append([&b"c"[..]]).unwrap_err().is_full());
        for (disk, log) in [(&again, &mut opened), (&disk, &mut log)] {
            log.append([&b"d"[..]]).unwrap();
            assert_eq!(payloads(&open(disk, false).unwrap().1), [b"a", b"d"]);
        }
    }
}

#[test]
fn what_a_failed_sync_left_is_written_again() {
    for (disk, mut log) in without_and_with_room() {
        log.sync().unwrap();
        log.append([&b"b"[..]]).unwrap();
        log.append([&b"c"[..]]).unwrap();
        disk.fault_next(Op::Sync, Fault::Unwritten(errno::EIO));
        assert!(log.sync().is_err());
        // The next life reads everything, and a sync without more proves nothing.
        let disk = disk.after_kill();
        let (mut log, records, _) = open(&disk, false).unwrap();
        assert_eq!(payloads(&records), [b"a", b"b", b"c"]);
        let lost = disk.after_power_cut_with(|_| Survives::Whole);
        assert_eq!(payloads(&open(&lost, true).unwrap().1), [b"a"]);
        // A disk that takes nothing is asked again.
        disk.fault_next(Op::Append, Fault::Fail(errno::ENOSPC));
        assert!(log.sync().is_err() && !log.is_poisoned());
        log.append([&b"d"[..]]).unwrap();
        log.sync().unwrap();
        let after = disk.after_power_cut_with(|_| Survives::Nothing);
        assert_eq!(payloads(&open(&after, false).unwrap().1), [b"a", b"b", b"c", b"d"]);
    }
}

#[test]
fn room_is_used_found_again_and_given_back() {
    let disk = MemDisk::new();
    let (mut log, _, _) = open(&disk, false).unwrap();
    log.keep_room();
    let record = |n: u32| n.to_le_bytes().repeat(25);
    let mut longest = 0;
    for n in 0..2000 {
        log.append([&record(n)[..]]).unwrap();
        log.sync().unwrap();
        let room = content(&disk).len() as u64 - log.len();
        assert!(room <= MOST_ROOM, "{room}");
        longest = longest.max(room);
    }
    assert!(longest >= MOST_ROOM / 2, "it grows with the log: {longest}");
    let length = content(&disk).len();
    let (mut log, found, torn) = open(&disk, false).unwrap();
    assert_eq!((found.len(), torn), (2000, None));
    log.append([&record(2000)[..]]).unwrap();
    assert_eq!(content(&disk).len(), length, "a log that keeps none uses up what is there");
    log.trim();
    assert_eq!(content(&disk).len() as u64, log.len());
    log.append([&record(2001)[..]]).unwrap();
    let (_, found, torn) = open(&disk, false).unwrap();
    assert!((0..).zip(&found).all(|(n, (_, payload))| *payload == record(n)));
    assert_eq!((found.len(), torn), (2002, None));
}

#[test]
fn a_disk_without_room_for_zeros_takes_records() {
    let disk = MemDisk::new();
    let (mut log, _, _) = open(&disk, false).unwrap();
    log.keep_room();
    for n in 0..9u8 {
        disk.fault_at(disk.calls() + 1, Fault::Short(errno::ENOSPC));
        log.append([&[n][..]]).unwrap();
        log.trim();
        log.keep_room();
    }
    assert_eq!(open(&disk, false).unwrap().1.len(), 9);
}

#[test]
fn a_disk_that_takes_nothing_for_a_while_ends_no_log() {
    let logs = [errno::EROFS, errno::ENOSPC, errno::EIO];
    for (errno, (disk, mut log)) in
        logs.into_iter().flat_map(|errno| without_and_with_room().map(move |log| (errno, log)))
    {
        disk.set_failing(Some(errno)); // cutting, too
        assert!(log.append([&b"b"[..]]).is_err());
        assert!(!log.is_poisoned(), "nothing was written, so nothing has to be cut");
        disk.set_failing(None);
        log.append([&b"c"[..]]).unwrap();
        assert_eq!(payloads(&open(&disk, false).unwrap().1), [b"a", b"c"]);
    }
}

#[test]
fn compaction_is_all_or_nothing_at_every_call() {
    let mut points = 0;
    for call in 0.. {
        let (disk, records) = sample();
        let (mut log, _, _) = open(&disk, false).unwrap();
        let before = disk.calls();
        let mut reached = false;
        for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::Fail(errno::EIO), Fault::Short(errno::ENOSPC)] {
            let twin = disk.after_kill();
            let (mut log, _, _) = open(&twin, false).unwrap();
            log.sync().unwrap();
            twin.fault_at(twin.calls() + call, fault);
            let done = log.replace_with([&b"new"[..]]).is_ok();
            reached |= !done;
            for after in [twin.after_kill(), twin.after_power_cut_with(|_| Survives::Nothing)] {
                let found = open(&after, true).unwrap().1;
                let old = found == records;
                assert!(if done { payloads(&found) == [b"new"] } else { old || payloads(&found) == [b"new"] });
                points += 1;
            }
            if !twin.crashed() && log.append([&b"more"[..]]).is_ok() {
                assert!(open(&twin, false).unwrap().1.last().unwrap().1 == b"more");
            }
        }
        log.replace_with([&b"new"[..]]).unwrap();
        if !reached && disk.calls() - before <= call {
            break;
        }
    }
    println!("{points} crash points of a compaction");
}

#[test]
fn a_compacted_log_goes_on() {
    let (disk, _) = sample();
    let (mut log, _, _) = open(&disk, false).unwrap();
    log.replace_with((0..100_000).map(|_| &b"twenty bytes of text"[..])).unwrap();
    log.append([&b"after"[..]]).unwrap();
    let (log, records, torn) = open(&disk, false).unwrap();
    assert_eq!((records.len(), torn), (100_001, None));
    assert_eq!(log.durable(), HEADER + 100_000 * 28, "the marker says so");
}

#[test]
fn a_million_records_open_fast_and_a_long_search_ends() {
    let dir = tempfile::tempdir().unwrap();
    let disk = crate::durable::os::OsDisk::new();
    let folder = disk.folder(dir.path()).unwrap();
    let open = |visit: &mut Visit<'_>| RecordLog::open(folder.clone(), NAME, MAGIC, visit, &|_| Verdict::Refuse);
    let mut log = open(&mut |_, _| Ok(())).unwrap().log;
    let record = [3; 42];
    for _ in 0..1000 {
        log.append((0..1000).map(|_| &record[..])).unwrap();
    }
    let start = std::time::Instant::now();
    let mut count = 0;
    open(&mut |_, _| {
        count += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(count, 1_000_000);
    println!("1,000,000 records of 42 bytes opened in {:?}", start.elapsed());

    // Everywhere a plausible length, nowhere a record.
    let hostile: Vec<u8> = (0..8u32 << 20).map(|n| if n % 4 < 2 { 0xFF } else { 0 }).collect();
    let mut file = folder.edit(NAME).unwrap();
    file.append(&[IoSlice::new(&hostile)]).unwrap();
    let start = std::time::Instant::now();
    assert!(matches!(open(&mut |_, _| Ok(())), Err(LogError::Damaged { .. })));
    println!("8 MiB of hostile bytes searched in {:?}", start.elapsed());
}

#[test]
fn long_bodies_are_written_from_where_they_lie_and_damage_costs_one_record() {
    let disk = MemDisk::new();
    let open = |disk: &MemDisk| {
        let mut none = |_: u64, _: &[u8]| Ok(());
        RecordLog::open_with(folder(disk), NAME, MAGIC, 1 << 20, &mut none, &|damage| judge(damage, false))
    };
    let bodies = [vec![1; 10], vec![2; 200_000], vec![], vec![3; OWN_PART], vec![4; 5]];
    let mut log = open(&disk).unwrap().log;
    let first = log.append_parts(bodies.iter().map(|body| (&b"head"[..], body.as_slice()))).unwrap();
    let all = |disk: &MemDisk| {
        let (file, mut met) = (folder(disk).open(NAME).unwrap(), Vec::new());
        let mut from = Some(FIRST_FRAME);
        while let Some(at) = from {
            from = walk(&*file, 1 << 20, at, 1, &mut |offset, what| {
                met.push((offset, if let Met::Record(payload) = what { Some(payload.to_vec()) } else { None }));
            })
            .unwrap();
        }
        met
    };
    let mut expected = Vec::new();
    let mut offset = first;
    for body in &bodies {
        expected.push((offset, Some([b"head", body.as_slice()].concat())));
        offset += FRAME_BYTES + 4 + body.len() as u64;
    }
    assert_eq!((all(&disk), log.len()), (expected.clone(), offset));
    // Room behind the last record hides nothing of it.
    disk.rot(Path::new("/log"), NAME, |bytes| bytes.extend([0; 5000]));
    assert_eq!(all(&disk), expected);
    // Rot in each record in turn, in its head and in its content.
    for (place, (offset, payload)) in expected.iter().enumerate() {
        let length = FRAME_BYTES as usize + payload.as_ref().unwrap().len();
        for at in [0, 4, length - 1] {
            let rotten = disk.after_kill();
            rotten.rot(Path::new("/log"), NAME, |bytes| bytes[*offset as usize + at] ^= 1);
            let met = all(&rotten);
            let whole: Vec<_> = met.iter().filter(|(_, payload)| payload.is_some()).cloned().collect();
            let mut left = expected.clone();
            left.remove(place);
            assert_eq!(whole, left, "byte {at} of record {place}");
            assert_eq!(met.len(), expected.len(), "and it is told");
        }
    }
}
