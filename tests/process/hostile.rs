//! Clients that are careless or mean ill: each is cut off, and told why.

use crate::support::{Server, Wire, code, folder, tells};

/// A leader without nodes; gives its address for clients.
fn leader(folder: &std::path::Path, more: &[&str]) -> (Server, String) {
    let args = [&["leader", "--port", "0", "--grpc-port", "0"], more].concat();
    let server = Server::start(folder, &args);
    let ready = server.says("leader ready");
    let addr = ready.split("clients=").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address").to_owned();
    (server, addr)
}

#[test]
fn an_idle_client_is_told_and_cut_off() {
    let home = folder();
    let (_leader, addr) = leader(home.path(), &["--idle-timeout", "200ms"]);
    let mut wire = Wire::to(&addr);
    assert_eq!(wire.ask("PING"), "+PONG");
    tells(&wire.rest(), &["ERROR BUSY", "--idle-timeout"]);
}

#[test]
fn an_unfinished_line_is_cut_off_even_one_that_is_swallowed() {
    let home = folder();
    let (_leader, addr) = leader(home.path(), &["--line-timeout", "200ms", "--max-message", "10"]);
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
    let (_leader, addr) = leader(home.path(), &["--max-partial-bytes", "64KiB"]);
    let mut wire = Wire::to(&addr);
    wire.send([b"SET 1 ", &[b'x'; 100_000][..]].concat());
    tells(&wire.rest(), &["ERROR BUSY", "unfinished lines"]);
    assert_eq!(Wire::to(&addr).ask("PING"), "+PONG", "the bytes were given back");
}

#[test]
fn one_client_too_many_is_told() {
    let home = folder();
    let (_leader, addr) = leader(home.path(), &["--max-clients", "1"]);
    let mut first = Wire::to(&addr);
    assert_eq!(first.ask("PING"), "+PONG");
    tells(&Wire::to(&addr).rest(), &["ERROR BUSY", "--max-clients"]);
    assert_eq!(first.ask("PING"), "+PONG");
}
