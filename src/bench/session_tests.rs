//! Sessions on simulated time, without sockets: whole stalls in no time, bytes split anywhere.

use proptest::prelude::*;

use super::super::workload::{Mix, Order, Sizes};
use super::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

fn rules(dialect: Dialect, connections: usize, pipeline: usize) -> Rules {
    Rules { dialect, connections, pipeline, pace: None, wait: 0, warm: 0, end: None }
}

fn load(rules: Rules, order: Order, count: Option<u64>, size: usize) -> (Load, Vec<Session>) {
    let plan = Plan::new(order, count, 1);
    let sessions = (0..rules.connections).map(|number| Session::new(number, &plan)).collect();
    (Load::new(rules, Values::new("k-", 1, Sizes::only(size)), plan), sessions)
}

/// The replies to everything that a session has to send, all right; the socket takes it.
fn answers(session: &mut Session, load: &Load) -> Vec<u8> {
    let taken = session.outgoing().len();
    session.advance(taken);
    let mut out = Vec::new();
    for flight in &session.in_flight {
        match (flight.ask, load.rules.dialect) {
            (Ask::Operation(Operation { kind: Kind::Set, .. }), Dialect::Text) => out.extend_from_slice(b"OK\n"),
            (Ask::Operation(Operation { kind: Kind::Set, .. }), Dialect::Resp) => out.extend_from_slice(b"+OK\r\n"),
            (Ask::Operation(Operation { index, .. }), Dialect::Text) => {
                out.extend_from_slice(b"VALUE ");
                load.values.put_message(index, &mut out);
                out.push(b'\n');
            }
            (Ask::Operation(Operation { index, .. }), Dialect::Resp) => {
                out.extend_from_slice(format!("${}\r\n", load.values.size(index)).as_bytes());
                load.values.put_message(index, &mut out);
                out.extend_from_slice(b"\r\n");
            }
            (Ask::Wait, _) => out.extend_from_slice(b":2\r\n"),
        }
    }
    out
}

/// All replies at once; nothing was answered before.
fn answer_all(session: &mut Session, load: &mut Load, now: u64) {
    let bytes = answers(session, load);
    session.receive(load, &bytes, now).unwrap();
}

/// A server that answers within a millisecond and stands still from 1 s to 2 s; time goes in steps of a millisecond.
fn through_a_stall(pace: Option<Pace>) -> Load {
    let rules = Rules { pace, end: Some(4 * SECOND), ..rules(Dialect::Text, 4, 1) };
    let (mut load, mut sessions) = load(rules, Order::Write, None, 10);
    let mut now = 0;
    while !sessions.iter().all(Session::is_finished) {
        for session in &mut sessions {
            session.fill(&mut load, now);
            if !(SECOND..2 * SECOND).contains(&now) && !session.outgoing().is_empty() || now == 2 * SECOND {
                answer_all(session, &mut load, now);
            }
        }
        now += MS;
        assert!(now < 10 * SECOND);
    }
    load
}

#[test]
fn an_open_loop_charges_a_stall_to_every_request_that_was_due_in_it() {
    // 1,000 requests a second for 4 s; those due between 1 s and 2 s wait for its end.
    let load = through_a_stall(Some(Pace(1000)));
    assert_eq!((load.sets.right(), load.sets.errors, load.unsent()), (4000, 0, 0));
    // Four lanes of one request in flight work the backlog off at 4 a millisecond while 1 falls due: about 333 ms more.
    let late = |ms: u64| {
        let quantiles = (0..4000).map(|n| load.sets.quantile(f64::from(n) / 4000.0));
        quantiles.filter(|latency| *latency >= Duration::from_millis(ms)).count()
    };
    assert!(load.sets.quantile(1.0) >= Duration::from_millis(990), "{:?}", load.sets.quantile(1.0));
    assert!(load.sets.quantile(1.0) <= Duration::from_millis(1010), "{:?}", load.sets.quantile(1.0));
    assert!((600..=760).contains(&late(500)), "half of the stall's requests and some of its backlog: {}", late(500));
    assert!(load.sets.quantile(0.5) <= Duration::from_millis(1), "the others are not charged");
}

#[test]
fn a_closed_loop_hides_a_stall_which_is_why_there_is_an_open_one() {
    let load = through_a_stall(None);
    let slow = 4.0 / load.sets.right() as f64;
    assert!(load.sets.quantile(1.0) >= Duration::from_millis(990));
    assert!(load.sets.quantile(1.0 - 2.0 * slow) <= Duration::from_millis(1), "one request a connection saw it");
}

#[test]
fn a_pace_counts_what_it_lets_fall_due() {
    for rate in [1, 3, 1000, 999_999_937] {
        let pace = Pace(rate);
        for at in [0, 1, SECOND / 3, SECOND, 7 * SECOND + 1] {
            let before = pace.before(at);
            assert!(before == 0 || pace.due(before - 1) < at, "{rate} {at}");
            assert!(pace.due(before) >= at.min(pace.due(before)) && pace.due(before + 1) >= at, "{rate} {at}");
        }
    }
    assert_eq!((Pace(1000).due(5), Pace(1000).before(5 * MS), Pace(1000).before(5 * MS + 1)), (5 * MS, 5, 6));
}

#[test]
fn what_is_due_and_not_sent_in_time_is_counted() {
    let rules = Rules { pace: Some(Pace(1000)), end: Some(SECOND), ..rules(Dialect::Text, 2, 3) };
    let (mut load, mut sessions) = load(rules, Order::Write, None, 10);
    // Nothing is answered until long after the end: of 1,000 requests only the first three of each were sent.
    sessions.iter_mut().for_each(|session| session.fill(&mut load, SECOND));
    let late = SECOND + DRAIN.as_nanos() as u64;
    for session in &mut sessions {
        answer_all(session, &mut load, late);
        session.fill(&mut load, late);
        assert!(session.is_finished());
    }
    assert_eq!((load.sets.right(), load.unsent()), (6, 994));
}

#[test]
fn a_warm_up_is_run_and_not_recorded() {
    let rules = Rules { warm: 10 * MS, end: Some(20 * MS), ..rules(Dialect::Text, 1, 1) };
    let (mut load, mut sessions) = load(rules, Order::Write, None, 5);
    for now in (0..).map(|step| step * MS) {
        sessions[0].fill(&mut load, now);
        if sessions[0].is_finished() {
            assert_eq!(now, 20 * MS);
            break;
        }
        answer_all(&mut sessions[0], &mut load, now);
    }
    assert_eq!((load.replies, load.sets.right(), load.measured), (20, 10, 10));
    // An error in it is an error all the same.
    let rules = Rules { warm: 10 * MS, ..load.rules.clone() };
    let (mut load, mut sessions) = self::load(rules, Order::Write, None, 5);
    sessions[0].fill(&mut load, 0);
    sessions[0].receive(&mut load, b"ERROR BUSY no\n", MS).unwrap();
    assert_eq!((load.sets.errors, load.first_error.as_deref()), (1, Some("SET k-0: ERROR BUSY no")));
}

#[test]
fn a_pipeline_is_filled_in_halves() {
    let (mut load, mut sessions) = load(rules(Dialect::Text, 1, 8), Order::Write, Some(100), 5);
    let session = &mut sessions[0];
    let mut filled = Vec::new();
    session.fill(&mut load, 0);
    let taken = session.outgoing().len();
    session.advance(taken);
    for _ in 0..8 {
        filled.push(session.in_flight.len());
        session.receive(&mut load, b"OK\n", 1).unwrap();
        session.fill(&mut load, 1);
    }
    assert_eq!(filled, [8, 7, 6, 5, 8, 7, 6, 5]);
}

#[test]
fn a_set_ends_when_the_replicas_have_it() {
    let waiting = |said: &[u8]| {
        let rules = Rules { wait: 2, ..rules(Dialect::Resp, 1, 2) };
        let (mut load, mut sessions) = load(rules, Order::Write, Some(2), 5);
        sessions[0].fill(&mut load, 0);
        sessions[0].receive(&mut load, b"+OK\r\n+OK\r\n", MS).unwrap();
        assert_eq!((load.sets.ended(), load.in_flight), (0, 1), "not before WAIT is answered");
        sessions[0].receive(&mut load, said, 5 * MS).unwrap();
        sessions[0].fill(&mut load, 5 * MS);
        load
    };
    let load = waiting(b":2\r\n");
    assert_eq!((load.sets.right(), load.in_flight), (2, 0));
    assert!(load.sets.quantile(0.0) >= Duration::from_millis(4), "the wait is part of the latency");
    let load = waiting(b":1\r\n");
    assert_eq!((load.sets.errors, load.first_error.as_deref()), (2, Some("WAIT 2: :1")));
    // A connection lost in between loses both.
    let rules = Rules { wait: 2, ..rules(Dialect::Resp, 1, 2) };
    let (mut load, mut sessions) = self::load(rules, Order::Write, Some(2), 5);
    sessions[0].fill(&mut load, 0);
    sessions[0].receive(&mut load, b"+OK\r\n", MS).unwrap();
    sessions[0].lose(&mut load, Some(&"gone"));
    assert_eq!((load.sets.errors, load.connection_errors, load.in_flight), (2, 0, 0));
}

#[test]
fn bytes_that_are_no_reply_are_refused() {
    let (mut load, mut sessions) = load(rules(Dialect::Text, 1, 1), Order::Write, Some(1), 5);
    sessions[0].fill(&mut load, 0);
    assert_eq!(sessions[0].receive(&mut load, b"OK\nOK\n", 1), Err("more replies than requests"));
    assert_eq!(load.sets.right(), 1);
}

proptest! {
    /// However the bytes are split, every reply is found, and the one that was changed.
    #[test]
    fn replies_may_be_split_anywhere(
        resp: bool, wait in 0u32..3, size in 0usize..60, spoil: Option<u8>, cuts in proptest::collection::vec(1usize..40, 1..60),
    ) {
        let dialect = if resp { Dialect::Resp } else { Dialect::Text };
        let wait = if resp { wait } else { 0 };
        let rules = Rules { wait, ..rules(dialect, 1, 20) };
        let (mut load, mut sessions) = load(rules, Order::MixedNew(Mix { sets: 1, gets: 1 }), Some(20), size);
        let session = &mut sessions[0];
        session.fill(&mut load, 0);
        let mut bytes = answers(session, &load);
        // One letter of one reply becomes another, ends and lengths stay.
        let spoilt = spoil.map(|at| at as usize % bytes.len()).filter(|at| bytes[*at].is_ascii_graphic());
        let spoilt = spoilt.filter(|at| !resp || !b"$:+".contains(&bytes[*at]) && !bytes[*at].is_ascii_digit());
        if let Some(at) = spoilt {
            bytes[at] = if bytes[at] == b'!' { b'?' } else { b'!' };
        }
        let mut rest = &bytes[..];
        for cut in cuts.into_iter().cycle() {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            prop_assert_eq!(session.receive(&mut load, now, 1), Ok(()));
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!((load.in_flight, load.sets.ended(), load.gets.ended()), (0, 10, 10));
        prop_assert_eq!(load.sets.errors + load.gets.errors, u64::from(spoilt.is_some()), "{:?}", load.first_error);
        let taken = session.outgoing().len();
        session.advance(taken);
        session.fill(&mut load, 1);
        prop_assert!(session.is_finished());
    }

    #[test]
    fn hostile_bytes_break_a_session_and_nothing_else(
        resp: bool, chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..10),
    ) {
        let dialect = if resp { Dialect::Resp } else { Dialect::Text };
        let (mut load, mut sessions) = load(rules(dialect, 1, 4), Order::MixedNew(Mix { sets: 1, gets: 1 }), Some(4), 9);
        sessions[0].fill(&mut load, 0);
        for chunk in chunks {
            if sessions[0].receive(&mut load, &chunk, 1).is_err() {
                break;
            }
        }
        sessions[0].lose(&mut load, None);
        prop_assert_eq!((load.in_flight, load.sets.ended() + load.gets.ended()), (0, 4));
    }
}
