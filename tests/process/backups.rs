//! Backups of one moment, and what is restored from them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use hatokuse::archive::{Item, Reader};

use crate::resp::{Redis, story};
use crate::support::{Register, flip_byte, folder, hatokuse, lone_leader, run, tells, visible};

const ACCOUNTS: usize = 40;
const AMOUNT: i64 = 100;

/// Runs a command of the program, which has to end with this code; gives what it said.
#[track_caller]
fn ends(code: i32, output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

fn back_up(addr: &str, to: &Path) -> Output {
    hatokuse(&["backup", to.to_str().unwrap(), "--addr", addr]).output().expect("it runs")
}

fn restore(addr: &str, from: &Path, more: &[&str]) -> Output {
    hatokuse(&["restore", from.to_str().unwrap(), "--addr", addr]).args(more).output().expect("it runs")
}

/// What a backup holds, by id.
fn content(backup: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let (mut reader, mut all) = (Reader::default(), BTreeMap::new());
    let mut buffer = BytesMut::from(&std::fs::read(backup.join("messages-0001.hkb")).expect("its file")[..]);
    while let Some(item) = reader.read(&mut buffer).expect("a whole backup") {
        if let Item::Message((id, .., message)) = item {
            let message = message.expect("a message that is not lost").to_vec();
            assert!(all.insert(id.as_bytes().to_vec(), message).is_none(), "{id:?} is there twice");
        }
    }
    reader.finish(&buffer).expect("its end");
    all
}

/// What all accounts hold together.
fn sum(content: &BTreeMap<Vec<u8>, Vec<u8>>) -> i64 {
    let of = |n: usize| content.get(format!("account{n}").as_bytes()).expect("an account");
    (0..ACCOUNTS).map(|n| std::str::from_utf8(of(n)).unwrap().parse::<i64>().unwrap()).sum()
}

/// Moves amounts between accounts, and a token from id to id, until it is told to stop.
fn move_amounts(addr: &str, token: usize, stop: &AtomicBool) -> u64 {
    let (mut redis, mut moves) = (Redis::to(addr), 0);
    while !stop.load(Ordering::Relaxed) {
        let (from, to) = (fastrand::usize(..ACCOUNTS), fastrand::usize(..ACCOUNTS));
        let amount = fastrand::u8(1..9);
        for queued in [
            "MULTI".to_owned(),
            format!("DECRBY account{from} {amount}"),
            format!("INCRBY account{to} {amount}"),
            format!("RENAME token{token}:{moves} token{token}:{}", moves + 1),
        ] {
            let reply = redis.say(&queued);
            assert!(reply == "+OK" || reply == "+QUEUED", "{queued}: {reply}");
        }
        let reply = redis.say("EXEC");
        assert!(reply.starts_with('*') || reply.starts_with('['), "{reply}");
        moves += 1;
    }
    moves
}

#[test]
fn a_backup_under_load_is_of_one_moment_and_restores_anywhere() {
    let register = Register::start(3, 2);
    let mut redis = Redis::to(register.addr());
    for n in 0..ACCOUNTS {
        assert_eq!(redis.say(&format!("SET account{n} {AMOUNT}")), "+OK");
    }
    register.fill("filler", 6000, "some message that is not changed");
    let movers = 3;
    (0..movers).for_each(|n| assert_eq!(redis.say(&format!("SET token{n}:0 here")), "+OK"));
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..movers)
        .map(|n| {
            let (addr, stop) = (register.addr().to_owned(), stop.clone());
            std::thread::spawn(move || move_amounts(&addr, n, &stop))
        })
        .collect();
    let home = folder();
    let backups: Vec<_> = (0..3).map(|n| home.path().join(format!("backup{n}"))).collect();
    for backup in &backups {
        let said = ends(0, &back_up(register.addr(), backup));
        tells(&said, &["backed up", "as of version"]);
        let content = content(backup);
        assert_eq!(sum(&content), ACCOUNTS as i64 * AMOUNT, "the amounts are those of one moment");
        for n in 0..movers {
            let name = format!("token{n}:").into_bytes();
            assert_eq!(content.keys().filter(|id| id.starts_with(&name)).count(), 1, "one token at any moment");
        }
        assert_eq!(content.len(), ACCOUNTS + 6000 + movers);
    }
    stop.store(true, Ordering::Relaxed);
    assert!(threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>() > 0);

    let other = Register::start(4, 3);
    tells(&ends(0, &restore(other.addr(), &backups[2], &["--verify"])), &["restored 6,043 messages", "all read back"]);
    assert_eq!(other.ask("COUNT"), "COUNT 6043");
    other.check("filler", 6000, "some message that is not changed");
    assert_eq!(other.holders("account0").len(), 3, "it is kept as this register keeps messages");
    let again = home.path().join("again");
    ends(0, &back_up(other.addr(), &again));
    assert_eq!(content(&again), content(&backups[2]));
}

#[test]
fn what_is_written_while_a_backup_is_made_is_not_in_it() {
    let register = Register::start(3, 2);
    let mut redis = Redis::to(register.addr());
    for n in 0..20 {
        assert_eq!(redis.say(&format!("SET kept{n} old{n}")), "+OK");
    }
    let mut taker = Redis::to(register.addr());
    assert!(taker.say("BACKUP BEGIN").contains(" :20 "));
    tells(&redis.say("BACKUP BEGIN"), &["OOM", "another backup is under way"]);
    story(
        &mut redis,
        &[
            ("SET kept0 new", "+OK"),
            ("SET kept0 newer", "+OK"),
            ("DEL kept1", ":1"),
            ("DEL kept2", ":1"),
            ("SET kept2 again", "+OK"),
            ("SET other new", "+OK"),
            ("RENAME kept3 renamed", "+OK"),
            ("MSET kept4 a kept5 b other2 c", "+OK"),
            ("APPEND kept6 more", ":8"),
            ("GET kept0", "\"newer\""),
            ("GET kept6", "\"old6more\""),
        ],
    );
    let mut all = String::new();
    loop {
        let some = taker.say("BACKUP NEXT");
        if some == "[]" {
            break;
        }
        all.push_str(&some);
    }
    for n in 0..20 {
        assert_eq!(all.matches(&format!("\"old{n}\"")).count(), 1, "{all}");
    }
    tells(&taker.say("BACKUP NEXT"), &["comes after BACKUP BEGIN"]);
    assert!(!["new", "again", "other", "renamed", "more"].iter().any(|word| all.contains(word)), "{all}");
    assert!(redis.say("BACKUP BEGIN").contains(" :21 "), "the next one begins, and has what is there now");
    // It ends with its connection.
    drop(redis);
    crate::support::eventually("another backup", || taker.say("BACKUP BEGIN").contains(" :21 ").then_some(()));
}

#[test]
fn a_backup_gives_way_where_nobody_takes_what_is_overwritten() {
    let register = Register::start(3, 2);
    let mut redis = Redis::to(register.addr());
    let message = "x".repeat(1 << 20);
    (0..70).for_each(|n| assert_eq!(redis.say(&format!("SET big{n} {message}")), "+OK"));
    let mut taker = Redis::to(register.addr());
    taker.say("BACKUP BEGIN");
    (0..70).for_each(|n| assert_eq!(redis.say(&format!("SET big{n} small")), "+OK", "writes do not wait for it"));
    tells(&taker.say("BACKUP NEXT"), &["the backup was given up", "faster than the receiver takes", "quieter time"]);
    assert!(taker.say("BACKUP BEGIN").contains(" :70 "));
}

#[test]
fn what_is_no_whole_backup_is_refused_before_anything_is_written() {
    let register = Register::start(3, 2);
    register.fill("m", 300, "a message");
    let mut redis = Redis::to(register.addr());
    assert_eq!(redis.ask(&[b"SET", b"any \n\xff bytes", b"\r\n\0"]), "+OK");
    assert_eq!(redis.ask(&[b"SET", b"empty", b""]), "+OK");
    let home = folder();
    let whole = home.path().join("whole");
    tells(&ends(0, &back_up(register.addr(), &whole)), &["backed up 302 messages"]);
    assert_eq!(visible(&whole).into_iter().collect::<Vec<_>>(), ["MANIFEST", "messages-0001.hkb"]);
    tells(&ends(1, &back_up(register.addr(), &whole)), &["is not empty", "name a new folder"]);

    let other = Register::start(3, 1);
    let refused = |name: &str, change: &dyn Fn(&Path), parts: &[&str]| {
        let broken = home.path().join(name);
        std::fs::create_dir(&broken).unwrap();
        for file in visible(&whole) {
            std::fs::copy(whole.join(&file), broken.join(&file)).unwrap();
        }
        change(&broken);
        tells(&ends(1, &restore(other.addr(), &broken, &[])), parts);
        assert_eq!(other.ask("COUNT"), "COUNT 0", "{name}");
    };
    let flip = |file: &'static str, at| move |broken: &Path| flip_byte(&broken.join(file), at);
    refused("flipped", &flip("messages-0001.hkb", 5000), &["messages-0001.hkb", "damaged at byte 49", "nothing was"]);
    refused("list", &flip("MANIFEST", 60), &["MANIFEST", "damaged"]);
    refused("no list", &|broken| std::fs::remove_file(broken.join("MANIFEST")).unwrap(), &["no MANIFEST", "cut off"]);
    let cut = |broken: &Path| {
        let file = std::fs::OpenOptions::new().write(true).open(broken.join("messages-0001.hkb")).unwrap();
        file.set_len(1000).unwrap();
    };
    refused("cut", &cut, &["messages-0001.hkb", "has 1000 bytes"]);
    refused("no file", &|broken| std::fs::remove_file(broken.join("messages-0001.hkb")).unwrap(), &["cannot read"]);

    let stream = run(&mut hatokuse(&["backup", "-", "--addr", register.addr()]), b"");
    ends(0, &stream);
    let cut = run(&mut hatokuse(&["restore", "-", "--dry-run"]), &stream.stdout[..stream.stdout.len() - 9]);
    tells(&ends(1, &cut), &["standard input", "was cut off at byte"]);
    tells(&ends(0, &run(&mut hatokuse(&["restore", "-", "--dry-run"]), &stream.stdout)), &["whole: 302 messages"]);
    let restored = run(&mut hatokuse(&["restore", "-", "--verify", "--addr", other.addr()]), &stream.stdout);
    tells(&ends(0, &restored), &["restored 302 messages"]);
    let mut there = Redis::to(other.addr());
    assert_eq!(there.ask(&[b"STRLEN", b"any \n\xff bytes"]), ":3");
    assert_eq!(there.ask(&[b"STRLEN", b"empty"]), ":0");
    assert_eq!(there.ask(&[b"EXISTS", b"empty"]), ":1");

    // What is there already is kept, unless it is said what is to become of it.
    assert_eq!(there.say("SET m0 mine"), "+OK");
    assert_eq!(there.say("DEL m1"), ":1");
    tells(&ends(1, &restore(other.addr(), &whole, &[])), &["holds 301 messages", "--merge", "--overwrite"]);
    tells(&ends(0, &restore(other.addr(), &whole, &["--merge"])), &["restored 1 message", "301 left as they were"]);
    story(&mut there, &[("GET m0", "\"mine\""), ("GET m1", "\"a message 1\"")]);
    ends(0, &restore(other.addr(), &whole, &["--overwrite", "--verify"]));
    assert_eq!(there.say("GET m0"), "\"a message 0\"");
}

#[test]
fn a_backup_without_an_answer_says_so() {
    let home = folder();
    let to = home.path().join("backup");
    tells(&ends(4, &back_up("127.0.0.1:1", &to)), &["cannot talk to the leader at 127.0.0.1:1", "--addr"]);
    assert!(!to.exists(), "and leaves nothing behind");
    // A leader that knows its messages of nobody yet waits, and then says for whom.
    let (_leader, addr) = lone_leader(home.path(), &[]);
    tells(&ends(1, &back_up(&addr, &to)), &["the leader at", "said:"]);
    tells(&ends(2, &hatokuse(&["restore", "x", "--merge", "--overwrite"]).output().unwrap()), &["--overwrite"]);
}
