//! Clients that are careless or mean ill: each is cut off, and told why.

use std::io::Write as _;

use crate::support::{Register, Wire, code, folder, lone_leader, tells};

#[test]
fn an_idle_client_is_cut_off_without_a_word_that_it_would_take_for_the_next_reply() {
    let home = folder();
    let (_leader, addr) = lone_leader(home.path(), &["--idle-timeout", "200ms"]);
    let mut wire = Wire::to(&addr);
    assert_eq!(wire.ask("PING"), "+PONG");
    assert_eq!(wire.rest(), "");
    assert_eq!(Wire::to(&addr).rest(), "", "nor one that has said nothing");
    let mut of_redis = Wire::to(&addr);
    of_redis.send("*1\r\n$4\r\nPING\r\n");
    assert_eq!(of_redis.rest(), "+PONG\r\n");
}

#[test]
fn an_unfinished_line_is_cut_off_even_one_that_is_swallowed() {
    let home = folder();
    let (_leader, addr) = lone_leader(home.path(), &["--line-timeout", "200ms", "--max-message", "10"]);
    let mut wire = Wire::to(&addr);
    wire.send("PING\nSET 1 hel");
    assert_eq!(wire.line(), "+PONG");
    tells(&wire.rest(), &["ERROR BAD_COMMAND", "not finished within 200ms", "not run"]);
    let mut wire = Wire::to(&addr);
    wire.send([b'x'; 2000]);
    assert_eq!(code(&wire.line()), "ERROR BAD_COMMAND");
    tells(&wire.rest(), &["not finished within 200ms"]);
}

#[test]
fn unfinished_lines_have_a_bound_over_all_clients() {
    let home = folder();
    let (_leader, addr) = lone_leader(home.path(), &["--max-partial-bytes", "64KiB"]);
    let mut wire = Wire::to(&addr);
    wire.send([b"SET 1 ", &[b'x'; 100_000][..]].concat());
    tells(&wire.rest(), &["ERROR BUSY", "unfinished lines"]);
    assert_eq!(Wire::to(&addr).ask("PING"), "+PONG", "the bytes were given back");
}

#[test]
fn one_client_too_many_is_told() {
    let home = folder();
    let (_leader, addr) = lone_leader(home.path(), &["--max-clients", "1"]);
    let mut first = Wire::to(&addr);
    assert_eq!(first.ask("PING"), "+PONG");
    tells(&Wire::to(&addr).rest(), &["ERROR BUSY", "--max-clients"]);
    let mut of_redis = Wire::to(&addr);
    of_redis.send("*1\r\n$4\r\nPING\r\n");
    assert_eq!(of_redis.rest(), "-ERR max number of clients reached\r\n");
    let mut of_text = Wire::to(&addr);
    of_text.send("PING\n");
    tells(&of_text.rest(), &["ERROR BUSY", "--max-clients"]);
    assert_eq!(first.ask("PING"), "+PONG");
}

#[test]
fn a_client_that_reads_no_replies_is_cut_off_and_costs_others_nothing() {
    let home = folder();
    let (_leader, addr) = lone_leader(home.path(), &["--write-deadline", "300ms"]);
    // More replies than sockets hold: at some point the leader waits for this client, and takes no more requests of it.
    let greedy = Wire::to(&addr);
    let mut stream = greedy.stream().try_clone().unwrap();
    let asking = std::thread::spawn(move || {
        let line = b"HELP\n".repeat(100_000);
        (0..100).find_map(|_| stream.write_all(&line).err())
    });
    let mut honest = Wire::to(&addr);
    let mut answered = 0;
    while !asking.is_finished() {
        assert_eq!(honest.ask("PING"), "+PONG");
        answered += 1;
    }
    let cut = asking.join().unwrap().expect("ten million requests were taken, and none of their replies read");
    assert!(cut.kind() != std::io::ErrorKind::WouldBlock, "it was cut off, and not merely kept waiting: {cut}");
    assert!(answered > 0);
}

#[test]
fn a_slow_client_that_goes_on_is_served_beside_those_that_do_not() {
    let register = Register::start(2, 2);
    let mut crowd: Vec<Wire> = (0..300).map(|_| register.wire()).collect();
    for (n, wire) in crowd.iter_mut().enumerate().filter(|(n, _)| n % 2 == 0) {
        wire.send(format!("SET crowd-{n} never-fini"));
    }
    let (mut slow, mut quick) = (register.wire(), register.wire());
    for byte in "SET slow a message that comes one byte at a time\nGET slow\n".bytes() {
        slow.send([byte]);
        // Others are served meanwhile, so that this byte was surely read alone.
        assert_eq!(quick.ask("SET quick x"), "OK");
    }
    assert_eq!(slow.line(), "OK");
    assert_eq!(slow.line(), "VALUE a message that comes one byte at a time");
    // Half a line is no request.
    crowd.into_iter().for_each(|wire| assert_eq!(wire.finish(), ""));
    for n in (0..300).step_by(2) {
        assert_eq!(quick.code(format!("GET crowd-{n}")), "ERROR NOT_FOUND");
    }
}
