//! The driver against a real socket with a fake server behind it.

use super::super::dial::ask;
use super::super::dialect::Dialect;
use super::super::fake::{Fake, Fault};
use super::super::workload::{Choice, Distribution, Mix, Order, Sizes};
use super::*;
use crate::lock::Lock;
use crate::types::Endpoints;

fn values(size: usize) -> Values {
    Values::new("k-", 1, Sizes::only(size))
}

fn target(addr: String) -> Target {
    Target {
        endpoints: Lock::new(Endpoints::new(&addr)),
        patience: Duration::from_millis(400),
        credentials: None,
        tls: None,
        pids: Vec::new(),
    }
}

fn rules(dialect: Dialect, connections: usize, pipeline: usize) -> Rules {
    Rules { dialect, connections, pipeline, pace: None, wait: 0, warm: 0, end: None }
}

/// Runs phases against a fake server with this fault.
fn phases(fault: Fault, rules: Rules, size: usize, plans: Vec<Plan>) -> Vec<Outcome> {
    let fake = Fake::start(fault);
    let one = |plan| drive(&target(fake.addr()), rules.clone(), &values(size), plan, &mut Progress::hidden()).unwrap();
    plans.into_iter().map(one).collect()
}

#[test]
fn what_was_written_is_read_back() {
    for dialect in [Dialect::Text, Dialect::Resp] {
        for (connections, pipeline, size) in [(1, 1, 0), (3, 1, 1), (4, 16, 100), (2, 5000, 9), (3, 7, 300_000)] {
            let count = if size > 1000 { 40 } else { 1000 };
            let shuffled = Choice { keys: count, distribution: Distribution::Shuffled, theta: 1.0 };
            let plans = vec![
                Plan::new(Order::Write, Some(count), 1),
                Plan::new(Order::Read(shuffled), Some(count), 1),
                Plan::read_all(count),
                Plan::new(Order::MixedNew(Mix { sets: 1, gets: 1 }), Some(count), 1),
                Plan::load(0),
            ];
            let all = phases(Fault::None, rules(dialect, connections, pipeline), size, plans);
            let ended: Vec<_> = all.iter().map(|o| (o.sets.right(), o.gets.right(), o.errors())).collect();
            let half = count / 2;
            assert_eq!(ended, [(count, 0, 0), (0, count, 0), (0, count, 0), (half, half, 0), (0, 0, 0)], "{all:?}");
            assert!(all[0].sets.quantile(1.0) <= all[0].elapsed);
        }
    }
}

#[test]
fn wrong_bytes_and_refusals_are_errors() {
    let plans = || vec![Plan::load(100), Plan::read_all(100)];
    let [text, resp] = [Dialect::Text, Dialect::Resp].map(|dialect| rules(dialect, 2, 8));
    for rules in [&text, &resp] {
        let all = phases(Fault::WrongValue(7), rules.clone(), 20, plans());
        assert_eq!((all[0].errors(), all[1].errors(), all[1].gets.right()), (0, 1, 99));
        let error = all[1].first_error.as_deref().unwrap();
        assert!(error.starts_with("GET k-7: not the message that this seed and size give, but 20 bytes: "), "{error}");
    }
    for (rules, refused, missing) in [
        (text, "SET k-7: ERROR BUSY ", "GET k-7: ERROR NOT_FOUND "),
        (resp, "SET k-7: -ERR no room", "GET k-7: no such key"),
    ] {
        let all = phases(Fault::Refuse(7), rules, 20, plans());
        assert_eq!((all[0].errors(), all[0].sets.right(), all[1].errors()), (1, 99, 1));
        assert!(all[0].first_error.as_deref().unwrap().starts_with(refused));
        assert!(all[1].first_error.as_deref().unwrap().starts_with(missing));
    }
}

#[test]
fn the_wrong_protocol_is_seen_at_once() {
    // A text server says ERROR to an array; the fake one answers it, so an HTTP-like stranger stands in.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let stranger = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 100]);
        let _ = stream.write_all(b"ERROR BAD_COMMAND unknown command\n");
        // Until the bench hangs up: closing with unread bytes would take the answer back.
        while matches!(stream.read(&mut [0; 100]), Ok(1..)) {}
    });
    let rules = rules(Dialect::Resp, 1, 1);
    let outcome = drive(&target(addr), rules, &values(5), Plan::load(3), &mut Progress::hidden()).unwrap();
    assert_eq!((outcome.sets.errors, outcome.sets.right()), (1, 0));
    assert_eq!(outcome.first_error.unwrap(), "connection: something that is no reply of the Redis protocol");
    stranger.join().unwrap();
}

#[test]
fn replicas_are_waited_for() {
    let rules = Rules { wait: 2, ..rules(Dialect::Resp, 3, 4) };
    let all = phases(Fault::Replicas(2), rules.clone(), 9, vec![Plan::load(100)]);
    assert_eq!((all[0].sets.right(), all[0].errors()), (100, 0));
    let all = phases(Fault::Replicas(1), rules, 9, vec![Plan::load(100)]);
    assert_eq!((all[0].sets.right(), all[0].errors()), (0, 100));
    assert_eq!(all[0].first_error.as_deref(), Some("WAIT 2: :1"));
}

#[test]
fn an_open_loop_sends_what_is_due() {
    // Far from what any machine does not keep up with; the count ends it.
    let rules = Rules { pace: Some(super::super::session::Pace(2000)), ..rules(Dialect::Text, 3, 4) };
    let all = phases(Fault::None, rules.clone(), 9, vec![Plan::load(200)]);
    assert_eq!((all[0].sets.right(), all[0].errors(), all[0].unsent), (200, 0, 0));
    assert!(all[0].elapsed >= Duration::from_micros(99_500), "request 199 is due then: {:?}", all[0].elapsed);
    // A connection that breaks leaves its share unsent, and that is told.
    let all = phases(Fault::HangUpAt(5), rules, 9, vec![Plan::load(200)]);
    assert_eq!((all[0].sets.right() + all[0].sets.errors + all[0].unsent), 200);
    assert!(all[0].unsent > 100, "{all:?}");
}

#[test]
fn a_lost_connection_counts_what_it_left_open() {
    // The connection breaks instead of answering request 10: that one and what was sent behind it are lost.
    let all = phases(Fault::HangUpAt(10), rules(Dialect::Text, 1, 8), 5, vec![Plan::load(100)]);
    assert_eq!(all[0].sets.right(), 10);
    assert!((1..=8).contains(&all[0].errors()), "{all:?}");
    assert!(all[0].first_error.as_deref().unwrap().starts_with("connection: "));
}

#[test]
fn of_several_addresses_another_connection_takes_over() {
    let (good, gone) = (Fake::start(Fault::HangUpAt(10)), Fake::start(Fault::None).addr());
    for dialect in [Dialect::Text, Dialect::Resp] {
        let target = target(format!("{gone},{}", good.addr()));
        let outcome =
            drive(&target, rules(dialect, 2, 1), &values(5), Plan::load(100), &mut Progress::hidden()).unwrap();
        // What a connection left open is an error; what comes after it goes out on the next one.
        assert_eq!(outcome.sets.right() + outcome.sets.errors, 100, "{outcome:?}");
        assert!(outcome.sets.right() >= 80 && outcome.sets.errors >= 5, "{outcome:?}");
    }
}

#[test]
fn where_none_of_several_answers_all_are_named() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (silent_at, gone) = (silent.local_addr().unwrap(), Fake::start(Fault::None).addr());
    let target = target(format!("{gone},{silent_at}"));
    let error = connect(&target, Dialect::Text).unwrap_err().to_string();
    for part in ["none answers: ", &format!("{gone} (Connection refused"), &format!("{silent_at} (")] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn silence_ends_a_phase() {
    let all = phases(Fault::SilentAt(10), rules(Dialect::Text, 1, 8), 5, vec![Plan::load(100)]);
    assert_eq!(all[0].sets.right(), 10);
    let open = all[0].errors();
    assert!((4..=8).contains(&open), "{all:?}");
    assert!(all[0].first_error.as_deref().unwrap().contains(&format!("{open} requests were left unanswered")));
}

#[test]
fn no_connection_at_all_is_a_failure() {
    let addr = Fake::start(Fault::None).addr();
    let rules = rules(Dialect::Text, 2, 1);
    let error = drive(&target(addr), rules, &values(1), Plan::load(1), &mut Progress::hidden()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_single_question_gets_its_line() {
    let fake = Fake::start(Fault::None);
    assert_eq!(ask(&target(fake.addr()), "GET nothing").unwrap(), "ERROR NOT_FOUND no message with this id");
}
