//! The Redis door: what tools and libraries send that is neither right nor wrong by the letter, and what one client may
//! take of what all share.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use crate::resp::{Redis, request, story};
use crate::support::{PATIENCE, Register, Wire, code, eventually, folder, lone_leader, tells};

/// What the leader says to these bytes, until it closes or has said so much.
fn said(addr: &str, bytes: &[u8], most: usize) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut said = vec![0; most];
    let mut length = 0;
    while length < most {
        match stream.read(&mut said[length..]) {
            Ok(0) | Err(_) => break,
            Ok(more) => length += more,
        }
    }
    String::from_utf8_lossy(&said[..length]).into_owned()
}

#[test]
fn what_is_surely_refused_is_said_when_it_is_queued_and_exec_runs_nothing() {
    let register = Register::start(1, 1);
    let mut redis = Redis::to(register.addr());
    let (long_id, long) = ("k".repeat(1025), "x".repeat((1 << 20) + 1));
    let (longer, limit) = ("x".repeat(2 << 20), 1 << 20);
    let wrong: [&[&str]; 9] = [
        &["SET", &long_id, "1"],
        &["SET", "", "1"],
        &["SET", "big", &long],
        &["MSET", "a", "1", "big", &longer],
        &["SETEX", "a", "5", &long],
        &["FLUSHALL"],
        &["CONFIG", "SET", "maxmemory", "1"],
        &["SELECT", "3"],
        &["NOSUCH"],
    ];
    for words in wrong {
        assert_eq!(redis.say("MULTI"), "+OK");
        let reply = redis.ask(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
        assert!(reply.starts_with("-ERR "), "{:?}: {reply}", words[0]);
        assert_eq!(redis.say("SET other 1"), "+QUEUED");
        assert!(redis.say("EXEC").starts_with("-EXECABORT "), "{:?}", words[0]);
        assert_eq!(redis.say("EXISTS other"), ":0", "{:?}", words[0]);
    }
    // Over the limit by much, outside: the limit is named, and the connection lives.
    let reply = redis.ask(&[b"SET", b"big", longer.as_bytes()]);
    tells(&reply, &["-ERR", &limit.to_string(), "--max-message"]);
    story(&mut redis, &[("PING", "+PONG"), ("EXISTS big", ":0")]);
}

#[test]
fn many_ids_go_together_and_what_never_can_is_told_so() {
    let register = Register::start(1, 1);
    let mut redis = Redis::to(register.addr());
    let ids: Vec<String> = (0..5000).map(|n| format!("many{n}")).collect();
    let words: Vec<&[u8]> =
        std::iter::once("MSET").chain(ids.iter().flat_map(|id| [id.as_str(), "v"])).map(str::as_bytes).collect();
    assert_eq!(redis.ask(&words), "+OK");
    let with = |name: &'static str| -> Vec<&[u8]> {
        std::iter::once(name).chain(ids.iter().map(String::as_str)).map(str::as_bytes).collect()
    };
    assert_eq!(redis.ask(&with("EXISTS")), ":5000");
    assert_eq!(redis.ask(&with("MGET")).matches("\"v\"").count(), 5000);
    assert_eq!(redis.say("MULTI"), "+OK");
    for id in &ids {
        assert_eq!(redis.say(&format!("DEL {id}")), "+QUEUED");
    }
    assert_eq!(redis.say("EXEC").matches(":1").count(), 5000);
    // Its reply would have more bytes than any has: that does not change in a moment.
    assert_eq!(redis.ask(&[b"SET", b"big", &vec![b'x'; 1 << 20]]), "+OK");
    assert_eq!(redis.say("MULTI"), "+OK");
    for _ in 0..65 {
        assert_eq!(redis.say("GET big"), "+QUEUED");
    }
    assert_eq!(redis.say("SET written 1"), "+QUEUED");
    tells(&redis.say("EXEC"), &["-ERR ", "nothing was written"]);
    assert_eq!(redis.say("EXISTS written"), ":0");
}

#[test]
fn a_pipeline_is_answered_though_it_is_sent_whole_before_it_is_read() {
    let register = Register::start(1, 1);
    let mut redis = Redis::to(register.addr());
    let value = [b'v'; 2000];
    assert_eq!(redis.ask(&[b"SET", b"k", &value]), "+OK");
    // Its replies have far more bytes than sockets hold.
    const GETS: usize = 20_000;
    let mut stream = TcpStream::connect(register.addr()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&request(&[b"GET", b"k"]).repeat(GETS)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), GETS * (b"$2000\r\n".len() + value.len() + 2));
}

#[test]
fn who_holds_most_is_cut_and_told_so() {
    let home = folder();
    let (_leader, addr) = lone_leader(home.path(), &["--max-partial-bytes", "300KiB"]);
    let mut greedy = Wire::to(&addr);
    greedy.send([b"SET 1 ", &[b'x'; 200 << 10][..]].concat());
    let mut honest = Wire::to(&addr);
    assert_eq!(honest.ask("PING"), "+PONG");
    // In two pieces, so that the first one surely waits for the second. It would be too much for both.
    honest.send([b"GET ", &[b'y'; 150 << 10][..]].concat());
    tells(&greedy.rest(), &["ERROR BUSY", "unfinished"]);
    honest.send("\n");
    assert_eq!(code(&honest.line()), "ERROR BAD_COMMAND");
    assert_eq!(honest.ask("PING"), "+PONG");
}

#[test]
fn a_client_that_reads_nothing_neither_outlives_a_kill_nor_holds_up_the_end() {
    let mut register = Register::start(1, 1);
    let mut redis = Redis::to(register.addr());
    assert_eq!(redis.ask(&[b"SET", b"big", &vec![b'x'; 1 << 20]]), "+OK");
    let deaf = || {
        let mut stream = TcpStream::connect(register.addr()).unwrap();
        stream.write_all(&request(&[b"GET", b"big"]).repeat(64)).unwrap();
        stream
    };
    let (killed, _left) = (deaf(), deaf());
    let own = killed.local_addr().unwrap().to_string();
    eventually("the leader has taken it", || redis.say("CLIENT LIST").contains(&own).then_some(()));
    assert_eq!(redis.say(&format!("CLIENT KILL ADDR {own}")), ":1");
    while redis.say("CLIENT LIST").contains(&own) {
        std::thread::yield_now();
    }
    assert!(register.stop_leader().unwrap().success(), "a clean end, though one does not read");
}

#[test]
fn small_words_and_odd_lines_of_tools_are_answered() {
    let register = Register::start(1, 1);
    let addr = register.addr().to_owned();
    let mut redis = Redis::to(&addr);
    story(
        &mut redis,
        &[
            ("SET n 12", "+OK"),
            ("OBJECT ENCODING n", "\"int\""),
            ("OBJECT ENCODING none", "$-1"),
            ("OBJECT REFCOUNT n", ":1"),
            ("MEMORY USAGE none", "$-1"),
            ("SLOWLOG GET", "[]"),
            ("SLOWLOG GET 10", "[]"),
            ("SLOWLOG LEN", ":0"),
            ("SLOWLOG RESET", "+OK"),
            ("LATENCY LATEST", "[]"),
            ("LATENCY RESET", ":0"),
            ("MODULE LIST", "[]"),
            ("ROLE", "[\"master\" :0 []]"),
            ("FUNCTION LIST", "[]"),
            ("FUNCTION FLUSH", "+OK"),
            ("CLIENT TRACKING OFF", "+OK"),
            ("CLIENT GETREDIR", ":-1"),
            ("OBJECT FOO n", "-ERR unknown subcommand 'FOO'. Try OBJECT HELP."),
        ],
    );
    for refused in ["SAVE", "BGSAVE", "CLIENT TRACKING ON", "OBJECT FREQ n"] {
        assert!(redis.say(refused).starts_with("-ERR "), "{refused}");
    }
    assert!(redis.say("LASTSAVE").starts_with(':') && redis.say("MEMORY USAGE n").starts_with(':'));
    assert!(redis.say("INFO commandstats").contains(",usec="));
    // CLIENT REPLY.
    let words = |line: &str| request(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
    let all = |lines: &[&str]| lines.iter().flat_map(|line| words(line)).collect::<Vec<u8>>();
    let off = all(&["CLIENT REPLY OFF", "SET a 1", "INCR a", "CLIENT REPLY ON", "GET a"]);
    assert_eq!(said(&addr, &off, 12), "+OK\r\n$1\r\n2\r\n");
    let skip = all(&["CLIENT REPLY SKIP", "SET a 2", "GET a"]);
    assert_eq!(said(&addr, &skip, 7), "$1\r\n2\r\n");
    // What HAProxy sends, and what `redis-cli --pipe` does.
    let check = said(&addr, b"PING\r\ninfo replication\r\nQUIT\r\n", 1 << 20);
    assert!(check.starts_with("+PONG\r\n") && check.contains("role:master") && check.ends_with("+OK\r\n"), "{check}");
    let echo = [b"\r\n".as_slice(), &words("ECHO magic")].concat();
    assert_eq!(said(&addr, &echo, 11), "$5\r\nmagic\r\n");
    let inline = [b"SET p1 v1\r\nGET p1\r\n".as_slice(), &echo].concat();
    assert_eq!(said(&addr, &inline, 24), "+OK\r\n$2\r\nv1\r\n$5\r\nmagic\r\n");
    // Arrays whose lines end in LF only.
    assert!(said(&addr, b"*1\n$4\nPING\n*2\n$4\nECHO\n$4\nPING\n", 1 << 10).starts_with("-ERR Protocol error"));
    // A word of the other protocol on a line of this one.
    tells(&register.ask("INCR visits"), &["ERROR BAD_COMMAND", "redis-cli"]);
}

#[test]
fn what_comes_behind_a_right_password_is_no_strangers() {
    let home = folder();
    let file = home.path().join("password");
    std::fs::write(&file, "secret\n").unwrap();
    let (_leader, addr) = lone_leader(home.path(), &["--password-file", &file.display().to_string()]);
    let mget = request(&[&b"EXISTS"[..], b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"9", b"10", b"11"]);
    for auth in [request(&[b"AUTH", b"secret"]), request(&[b"HELLO", b"2", b"AUTH", b"default", b"secret"])] {
        let long = request(&[b"ECHO", &[b'x'; 20_000]]);
        let all = said(&addr, &[auth, mget.clone(), long, request(&[b"QUIT"])].concat(), 1 << 20);
        assert!(!all.contains("unauthenticated") && all.ends_with("+OK\r\n"), "{}", &all[..200]);
    }
    assert!(said(&addr, &mget, 1 << 10).starts_with("-ERR Protocol error: unauthenticated"));
}

#[test]
fn scan_gives_full_pages_and_refuses_a_cursor_of_another_run() {
    let mut register = Register::start(1, 1);
    register.fill("id", 2000, "v");
    let mut redis = Redis::to(register.addr());
    let (mut cursor, mut pages, mut seen) = ("0".to_owned(), 0, 0);
    loop {
        let page = redis.say(&format!("SCAN {cursor} COUNT 100"));
        let next = page.trim_start_matches("[\"").split('"').next().unwrap().to_owned();
        let ids = page.matches("\"id").count();
        assert!(next == "0" || ids == 100, "{ids} on a page that is not the last");
        (seen, pages) = (seen + ids, pages + 1);
        if pages == 5 {
            cursor.clone_from(&next);
        }
        if next == "0" {
            break;
        }
        cursor = next;
    }
    assert_eq!(seen, 2000);
    let strange = redis.say("SCAN 0 COUNT 100").trim_start_matches("[\"").split('"').next().unwrap().to_owned();
    register.kill_leader().unwrap();
    register.start_leader().unwrap();
    let mut redis = Redis::to(register.addr());
    tells(&redis.say(&format!("SCAN {strange} COUNT 100")), &["-ERR", "SCAN 0"]);
    assert!(redis.say("SCAN 0 COUNT 100").contains("\"id"));
}
