//! Contract section 2 over a raw socket.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use crate::support::{Register, code, folder};

#[test]
fn every_command_has_its_reply() {
    let register = Register::start(3, 2);
    let mut wire = register.wire();
    assert_eq!(wire.ask("PING"), "+PONG");
    assert_eq!(wire.ask("COUNT"), "COUNT 0");
    assert_eq!(wire.ask("GET 1"), "ERROR NOT_FOUND no message with this id");
    assert_eq!(wire.code("WHERE 1"), "ERROR NOT_FOUND");
    assert_eq!(wire.ask("SET 1 hello  world "), "OK");
    assert_eq!(wire.ask("GET 1"), "VALUE hello  world ");
    let holders = register.holders("1");
    assert!(holders.len() == 2 && holders[0] < holders[1] && holders[1] <= 3, "{holders:?}");
    assert_eq!(wire.ask("COUNT"), "COUNT 1");
    // Nothing after the blank is a message, too; and every word comes in any case, every line with CRLF or LF.
    assert_eq!(wire.ask("set 1 "), "OK");
    assert_eq!(wire.ask("gEt 1\r"), "VALUE ");
    assert_eq!(wire.ask("SET 2 one CR goes\r"), "OK");
    assert_eq!(wire.ask("get 2"), "VALUE one CR goes");
    assert_eq!(wire.ask("SET 2 one CR stays\r\r"), "OK");
    assert_eq!(wire.ask("get 2"), "VALUE one CR stays\r");
    assert_eq!(wire.ask("count\r"), "COUNT 2");
    assert_eq!(wire.ask("ping"), "+PONG");
    let help = wire.ask("Help");
    assert!(["SET", "GET", "WHERE", "COUNT", "STATUS", "PING", "EXIT"].iter().all(|word| help.contains(word)));

    let status: serde_json::Value = serde_json::from_str(&wire.ask("status")).unwrap();
    let has = |value: &serde_json::Value, keys: &[&str]| {
        let seen: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        assert!(keys.iter().all(|key| seen.contains(key)), "{seen:?}");
    };
    has(&status, &["version", "epoch", "tolerance", "uptime_s", "messages", "under_replicated", "lost", "nodes"]);
    assert_eq!((&status["messages"], &status["tolerance"], &status["lost"]), (&2.into(), &2.into(), &0.into()));
    assert_eq!(status["nodes"].as_array().unwrap().len(), 3);
    has(&status["nodes"][0], &["id", "address", "state", "messages", "bytes", "io_mode", "layout"]);
    assert_eq!((&status["nodes"][0]["io_mode"], &status["nodes"][0]["layout"]), (&"buffered".into(), &"text".into()));

    wire.send("exit\n");
    assert_eq!(wire.rest(), "BYE\n");
    let mut wire = register.wire();
    wire.send("QUIT\r\n");
    assert_eq!(wire.rest(), "BYE\n");
}

#[test]
fn replies_come_in_order_and_later_commands_see_earlier_ones() {
    let register = Register::start(3, 2);
    let mut wire = register.wire();
    wire.send(concat!(
        "SET a 1\nGET a\nPING\nSET a 2\nSET b 1\nGET a\nWHERE a\nGET b\nNONSENSE\nCOUNT\nSET b 2\nSET a 3\n",
        "GET c\nGET b\nGET a\nSET a 4\nSET a 5\nGET a\nEXIT\n"
    ));
    let replies = wire.rest();
    let replies: Vec<&str> = replies.lines().collect();
    let ends = ["VALUE 2", "VALUE 1", "COUNT 2", "VALUE 2", "VALUE 3", "VALUE 5", "BYE"];
    let seen = [5, 7, 9, 13, 14, 17, 18].map(|at| replies[at]);
    assert_eq!(seen, ends, "{replies:?}");
    assert_eq!(replies[..4], ["OK", "VALUE 1", "+PONG", "OK"], "{replies:?}");
    assert!(replies[6].starts_with("NODES "), "{replies:?}");
    assert!(replies[8].starts_with("ERROR BAD_COMMAND ") && replies[12].starts_with("ERROR NOT_FOUND "), "{replies:?}");
    assert_eq!(replies.len(), 19);
}

#[test]
fn nothing_after_exit_is_run() {
    let register = Register::start(2, 2);
    let mut wire = register.wire();
    wire.send("SET before 1\nEXIT\nSET after 1\n");
    assert_eq!(wire.rest(), "OK\nBYE\n");
    assert_eq!(register.ask("GET before"), "VALUE 1");
    assert_eq!(code(&register.ask("GET after")), "ERROR NOT_FOUND");
}

#[test]
fn a_malformed_line_costs_one_error_and_nothing_else() {
    let register = Register::start(2, 2);
    let mut wire = register.wire();
    let long = |n: usize| format!("GET {}", "x".repeat(n));
    let lines: Vec<Vec<u8>> = [
        "",
        " ",
        "\r",
        " PING",
        "PING ",
        "PING 1",
        "FROB 1",
        "SETX 1 x",
        "SET",
        "SET ",
        "SET 1",
        "SET  1 x",
        "SET  ",
        "GET",
        "GET ",
        "GET 1 2",
        "GET 1 ",
        "GET  1",
        "WHERE",
        "WHERE 1 2",
        "COUNT 1",
        "STATUS x",
        "EXIT now",
        "GET a\tb",
        "GET a\0b",
        "SET \0 x",
        "GET \u{a0}",
        "GET a\u{7f}",
        "GET \u{1b}[2J",
        "GET \u{2028}x",
        "\u{feff}PING",
    ]
    .iter()
    .map(|line| line.as_bytes().to_vec())
    .chain([
        long(1025).into_bytes(),
        long(1300).into_bytes(),
        b"GET \xff".to_vec(),
        b"GET a\x80".to_vec(),
        b"\xff\xfe".to_vec(),
    ])
    .collect();
    for line in &lines {
        let reply = wire.ask(line);
        assert_eq!(code(&reply), "ERROR BAD_COMMAND", "{:?}: {reply}", String::from_utf8_lossy(line));
        assert!(reply.len() > 30 && !reply.contains(char::is_control), "it says what is right: {reply:?}");
        assert_eq!(wire.ask("PING"), "+PONG", "after {:?}", String::from_utf8_lossy(line));
    }
    // All of them at once, too.
    wire.send(lines.join(&b'\n'));
    wire.send("\nPING\n");
    let replies: Vec<String> = lines.iter().map(|_| code(&wire.line())).collect();
    assert!(replies.iter().all(|reply| reply == "ERROR BAD_COMMAND"), "{replies:?}");
    assert_eq!(wire.line(), "+PONG");
    assert_eq!(wire.ask("COUNT"), "COUNT 0");
}

#[test]
fn hostile_ids_are_ids_like_any_other() {
    let register = Register::start(2, 2);
    let mut wire = register.wire();
    let longest = "x".repeat(1024);
    let unicode = "\u{11f}".repeat(100);
    let ids = [
        "../x",
        "/etc/passwd",
        "a/b",
        ".",
        "..",
        "...",
        ".lock",
        ".node",
        "CON",
        "con",
        "nul",
        "a:1,2",
        "%2e",
        "%2E",
        "%",
        "x.txt",
        "x",
        "-rf",
        "--",
        "~",
        "*",
        "a\\b",
        "'\"$(id)`",
        "\u{fc}",
        "u\u{308}",
        "\u{1f54a}",
        "\u{202e}x",
        &longest,
        &unicode,
        "message_mapping",
    ];
    for id in ids {
        assert_eq!(wire.ask(format!("SET {id} message of <{id}>")), "OK", "{id}");
    }
    for id in ids {
        assert_eq!(wire.ask(format!("GET {id}")), format!("VALUE message of <{id}>"), "{id}");
        assert_eq!(wire.ask(format!("WHERE {id}")), "NODES 1,2", "{id}");
    }
    assert_eq!(wire.ask("COUNT"), format!("COUNT {}", ids.len()));
    // Nothing was written beside the folders.
    let beside = crate::support::visible(register.dir());
    let expected = ["leader_metadata", "storage_node_1", "storage_node_2", "tolerance.conf"];
    assert_eq!(beside, expected.map(str::to_owned).into());
}

#[test]
fn messages_are_kept_byte_for_byte() {
    let register = Register::start(2, 2);
    let mut wire = register.wire();
    let every: Vec<u8> = (0..=255).filter(|&byte| byte != b'\n').chain([b'x']).collect();
    wire.send([b"SET every ", every.as_slice(), b"\n"].concat());
    assert_eq!(wire.line(), "OK");
    wire.send("GET every\n");
    assert_eq!(wire.bytes(), [b"VALUE ", every.as_slice()].concat());
}

#[test]
fn half_a_line_is_never_run() {
    let register = Register::start(2, 2);
    register.set("5", "before");
    let mut wire = register.wire();
    wire.send("SET 6 whole\nSET 5 hel");
    assert_eq!(wire.finish(), "OK\n");
    for half in ["SET 5 h", "SET 5 ", "SET 7 x\r"] {
        let mut wire = register.wire();
        wire.send(half);
        assert_eq!(wire.finish(), "", "{half:?}");
    }
    assert_eq!(register.get("5"), "before");
    assert_eq!(register.ask("COUNT"), "COUNT 2");
}

/// The most memory that a process ever had, bytes.
fn peak_memory(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("its peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("a number") << 10
}

#[test]
fn the_limit_is_exact_and_a_line_without_end_costs_no_memory() {
    let register = Register::with(2, 2, folder(), |builder| builder.leader_args(["--max-message", "64KiB"]));
    let mut wire = register.wire();
    let message = |n: usize| format!("SET big {}", "x".repeat(n));
    assert_eq!(wire.ask(message(64 << 10)), "OK");
    let reply = wire.ask(message((64 << 10) + 1));
    assert_eq!(code(&reply), "ERROR TOO_LARGE", "{reply}");
    assert!(reply.contains("65536"), "it names the limit: {reply}");
    assert_eq!(wire.ask("GET big").len(), 6 + (64 << 10), "the message before is as it was");
    assert_eq!(wire.ask(message(64 << 10) + "\r"), "OK", "the CR does not count");

    let before = peak_memory(register.leader_pid().unwrap());
    for (start, wanted) in [("SET big ", "ERROR TOO_LARGE"), ("GET ", "ERROR BAD_COMMAND"), ("", "ERROR BAD_COMMAND")] {
        wire.send(start);
        let piece = vec![b'y'; 1 << 20];
        (0..64).for_each(|_| wire.send(&piece));
        wire.send("\nPING\n");
        assert_eq!(code(&wire.line()), wanted, "{start:?}");
        assert_eq!(wire.line(), "+PONG", "the connection lives on");
    }
    let grown = peak_memory(register.leader_pid().unwrap()) - before;
    assert!(grown < 16 << 20, "the leader grew by {grown} bytes for lines of 64 MiB");
}

#[test]
fn a_hundred_thousand_requests_at_once_are_answered_one_by_one() {
    const REQUESTS: usize = 100_000;
    let register = Register::start(3, 2);
    let mut known: BTreeMap<usize, usize> = BTreeMap::new();
    let (mut requests, mut wanted) = (String::new(), Vec::new());
    for n in 0..REQUESTS {
        let (id, value) = (n % 977, n);
        let (request, reply) = match n % 10 {
            0 => {
                known.insert(id, value);
                (format!("SET {id} v{value}\n"), "OK".to_owned())
            }
            1 => ("COUNT\n".to_owned(), format!("COUNT {}", known.len())),
            2 => ("PING\n".to_owned(), "+PONG".to_owned()),
            _ => match known.get(&(id / 7 * 7)) {
                Some(value) => (format!("GET {}\n", id / 7 * 7), format!("VALUE v{value}")),
                None => (format!("GET {}\n", id / 7 * 7), "ERROR NOT_FOUND no message with this id".to_owned()),
            },
        };
        requests.push_str(&request);
        wanted.push(reply);
    }
    let mut wire = register.wire();
    let mut out = wire.stream().try_clone().unwrap();
    let writer = std::thread::spawn(move || out.write_all(requests.as_bytes()).unwrap());
    for (n, wanted) in wanted.iter().enumerate() {
        assert_eq!(wire.line(), *wanted, "request {n}");
    }
    writer.join().unwrap();
}

#[test]
fn a_client_that_never_reads_costs_nobody_else_anything() {
    let register = Register::start(2, 2);
    register.set("x", &"x".repeat(10_000));
    let before = peak_memory(register.leader_pid().unwrap());
    let mut deaf = Vec::new();
    for _ in 0..4 {
        let wire = register.wire();
        wire.stream().set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        // Until the leader takes no more of them.
        while wire.stream().write_all("GET x\n".repeat(10_000).as_bytes()).is_ok() {}
        deaf.push(wire);
        register.set("y", "z");
        assert_eq!(register.get("y"), "z");
    }
    let grown = peak_memory(register.leader_pid().unwrap()) - before;
    assert!(grown < 128 << 20, "the leader grew by {grown} bytes for clients that never read");
}

#[test]
fn too_few_nodes_and_what_then() {
    let mut register = Register::start(2, 2);
    register.set("1", "kept");
    register.kill_node(2).unwrap();
    register.wait_state(2, "down");
    let replies = register.ask_all(["SET 1 lost".to_owned(), "SET 2 x".to_owned(), "GET 1".to_owned()]);
    for reply in &replies[..2] {
        assert!(reply.starts_with("ERROR TOO_FEW_NODES need 2 live nodes, have 1"), "{reply}");
    }
    assert_eq!(replies[2], "VALUE kept", "a failed write never harms the value before it");
    assert_eq!(code(&register.ask("GET 2")), "ERROR NOT_FOUND");
    register.start_node(2).unwrap();
    register.wait_up(2).unwrap();
    register.set("1", "again");
    assert_eq!(register.get("1"), "again");
}

#[test]
fn in_the_dialect_of_the_course_a_get_is_answered_with_ok() {
    let register = Register::with(1, 1, folder(), |builder| builder.leader_args(["--dialect", "course"]));
    assert_eq!(register.ask("SET 1 hello world"), "OK");
    assert_eq!(register.ask("GET 1"), "OK hello world");
    assert!(register.ask("GET 2").starts_with("ERROR NOT_FOUND"));
}
