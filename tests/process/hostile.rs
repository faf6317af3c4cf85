//! Clients that are careless or mean ill: each is cut off, and told why.

use crate::support::{Wire, code, folder, lone_leader, tells};

#[test]
fn an_idle_client_is_told_and_cut_off() {
    let home = folder();
    let (_leader, addr) = lone_leader(home.path(), &["--idle-timeout", "200ms"]);
    let mut wire = Wire::to(&addr);
    assert_eq!(wire.ask("PING"), "+PONG");
    tells(&wire.rest(), &["ERROR BUSY", "--idle-timeout"]);
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
    wire.send([b'x'; 1000]);
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
    assert_eq!(first.ask("PING"), "+PONG");
}
