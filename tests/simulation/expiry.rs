//! Messages that end by themselves, while leaders die and wall clocks are wrong: see `Wall`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hatokuse::durable::sim::{MemDisk, errno};
use hatokuse::error::Refusal;
use hatokuse::leader::coordinator::Coordinator;
use hatokuse::leader::transaction::{Need, Transaction};
use hatokuse::protocol::{Command, Reply};
use hatokuse::telemetry::served::Protocol;
use hatokuse::types::{Deadline, IoMode, MessageId};
use tokio::time::{Instant, sleep, sleep_until};

use crate::machines::{Crash, NODES, Sim, TOLERANCE, Wall};
use crate::{s, simulate, simulate_for};

fn id(n: u64) -> MessageId {
    format!("id{n}").parse().unwrap()
}

async fn set_for(leader: &Arc<Coordinator>, n: u64, time: Duration) {
    let of = id(n);
    let set = move |all: &mut Transaction| {
        all.set(&of, n.to_string().into(), Deadline::at(all.now() + time.as_millis() as u64));
    };
    leader.transact([(id(n), Need::Nothing)], set).await.unwrap();
}

async fn ask(leader: &Arc<Coordinator>, command: Command) -> Reply {
    let mut queue = VecDeque::from([Ok(command)]);
    leader.execute(&mut queue, Protocol::Text).await.0.remove(0)
}

#[test]
fn nothing_ends_early_and_what_has_ended_stays_gone_over_leaders_and_clocks_that_jump() {
    for io_mode in [IoMode::Buffered, IoMode::Unbuffered] {
        simulate(async {
            let mut sim = Sim::with_walls(7, io_mode, (Wall::Ahead, BTreeMap::new())).await;
            sleep(s(5.0)).await;
            let began = Instant::now();
            let leader = sim.net.leader().unwrap().coordinator;
            // Each ends a second after the one before it.
            for n in 1..40 {
                set_for(&leader, n, Duration::from_secs(n)).await;
            }
            let mut left = u64::MAX;
            for round in 0..4 {
                let leader = sim.net.leader().unwrap().coordinator;
                for _ in 0..40 {
                    let n = (began.elapsed().as_millis() / 1000) as u64;
                    // A hundredth is what time may be drawn by.
                    for early in n + 2..40 {
                        let reply = ask(&leader, Command::Get(id(early))).await;
                        let until = Duration::from_secs(early) * 98 / 100;
                        let is_early = matches!(reply, Reply::Refused(_)) && began.elapsed() < until;
                        assert!(!is_early, "round {round}: id{early} is {reply:?} after {:?}", began.elapsed());
                    }
                    for late in 1..n.saturating_sub(1) {
                        let reply = ask(&leader, Command::Get(id(late))).await;
                        assert!(matches!(reply, Reply::Refused(_)), "round {round}: id{late} is {reply:?}");
                    }
                    if let Reply::Ttl(Some(now)) = ask(&leader, Command::Ttl(id(39))).await {
                        assert!(now <= left, "round {round}: {left} ms were left, and now {now}");
                        left = now;
                    }
                    sleep(s(0.05)).await;
                }
                sim.crash_leader(if round % 2 == 0 { Crash::Kill } else { Crash::PowerCut });
                sim.start_leader().await.unwrap();
                sleep(s(5.0)).await;
            }
            sleep_until(began + s(60.0)).await;
            let leader = sim.net.leader().unwrap().coordinator;
            assert_eq!(leader.cluster().len(), 0, "the sweep leaves none");
        });
    }
}

#[test]
fn what_cannot_be_deleted_is_not_called_gone() {
    simulate(async {
        let sim = Sim::start(8, IoMode::Unbuffered).await;
        sleep(s(5.0)).await;
        let leader = sim.net.leader().unwrap().coordinator;
        set_for(&leader, 1, Duration::from_secs(5)).await;
        // They are up, and no disk takes a deletion.
        sim.nodes.values().for_each(|machine| machine.disk.set_failing(Some(errno::EROFS)));
        sleep(s(7.0)).await;
        let reply = ask(&leader, Command::Get(id(1))).await;
        assert!(matches!(&reply, Reply::Refused(why) if *why != Refusal::NotFound), "{reply:?}");
        sim.nodes.values().for_each(|machine| machine.disk.set_failing(None));
        sleep(s(15.0)).await;
        assert_eq!(ask(&leader, Command::Get(id(1))).await, Reply::Refused(Refusal::NotFound));
        assert_eq!(leader.cluster().len(), 0);
    });
}

#[test]
fn what_is_written_over_a_message_that_ends_stays() {
    simulate(async {
        let sim = Sim::start(12, IoMode::Buffered).await;
        sleep(s(5.0)).await;
        let leader = sim.net.leader().unwrap().coordinator;
        set_for(&leader, 1, Duration::from_secs(2)).await;
        // It looks at the message before its end, and writes over it long after, with the id's lock all the time.
        let write = |mut all: Transaction| async move {
            assert!(all.expires(&id(1)).is_some());
            sleep(s(8.0)).await;
            all.set(&id(1), "new".into(), None);
            Ok((all, ()))
        };
        let over = leader.transact_apart([(id(1), Need::Message)], write);
        // Who finds meanwhile that its time is over waits for that lock: the sweep, and a reader.
        let read = async {
            sleep(s(6.0)).await;
            let now = leader.time.peek();
            let expires = leader.cluster().mapping().get(&id(1)).unwrap().record.expires;
            assert!(expires.is_some_and(|deadline| deadline.unix_ms() < now));
            ask(&leader, Command::Get(id(1))).await
        };
        let (over, read) = tokio::join!(over, read);
        assert_eq!((over, read), (Ok(()), Reply::Value("new".into())));
        // Whatever had waited has had its turn.
        sleep(s(5.0)).await;
        assert_eq!(ask(&leader, Command::Get(id(1))).await, Reply::Value("new".into()));
    });
}

#[test]
fn nodes_keep_what_the_register_keeps_whatever_their_clocks_show() {
    simulate(async {
        let all = (1..=NODES).map(|node| (node, Wall::AllAhead)).collect();
        // Without a cache, so that nodes are asked.
        let sim = Sim::with_walls(13, IoMode::Buffered, (Wall::AllAhead, all)).await;
        sleep(s(5.0)).await;
        let leader = sim.net.leader().unwrap().coordinator;
        set_for(&leader, 1, Duration::from_secs(86_400)).await;
        // By then all clocks went ahead by ten years, which the register does not follow.
        sleep(s(80.0)).await;
        assert!(leader.time.is_far_off().is_some());
        assert_eq!(ask(&leader, Command::Get(id(1))).await, Reply::Value("1".into()));
        let copies: usize = (1..=NODES).map(|node| sim.held(node)).sum();
        assert_eq!(copies, TOLERANCE);
    });
}

#[test]
fn clocks_that_are_all_far_ahead_are_taken_by_order_only() {
    simulate(async {
        let all = (1..=NODES).map(|node| (node, Wall::AllAhead)).collect();
        let mut sim = Sim::with_walls(9, IoMode::Unbuffered, (Wall::AllAhead, all)).await;
        sleep(s(5.0)).await;
        let leader = sim.net.leader().unwrap().coordinator;
        let refused = ask(&leader, Command::AcceptClock).await;
        assert!(matches!(&refused, Reply::Refused(Refusal::BadCommand(why)) if why.contains("within a minute")));
        set_for(&leader, 1, Duration::from_secs(86_400)).await;
        let hundred_years = Duration::from_secs(100 * 31_536_000);
        set_for(&leader, 2, hundred_years).await;
        sleep(s(80.0)).await;
        let left = |reply: Reply| match reply {
            Reply::Ttl(Some(ms)) => ms / 1000,
            other => panic!("{other:?}"),
        };
        // They went ahead by ten years, and nothing ends by that.
        assert!(leader.time.is_far_off().is_some());
        assert!((86_300..=86_400).contains(&left(ask(&leader, Command::Ttl(id(1))).await)));
        assert_eq!(ask(&leader, Command::AcceptClock).await, Reply::Done);
        assert_eq!(leader.time.is_far_off(), None);
        assert_eq!(ask(&leader, Command::Get(id(1))).await, Reply::Refused(Refusal::NotFound));
        let ten_years = 10 * 31_536_000;
        let after = left(ask(&leader, Command::Ttl(id(2))).await);
        assert!(after.abs_diff(hundred_years.as_secs() - ten_years) < 200, "{after}");
        // It is in the log: the next leader goes on from there.
        sim.crash_leader(Crash::PowerCut);
        sim.start_leader().await.unwrap();
        sleep(s(10.0)).await;
        let leader = sim.net.leader().unwrap().coordinator;
        assert_eq!(ask(&leader, Command::Get(id(1))).await, Reply::Refused(Refusal::NotFound));
        assert!(left(ask(&leader, Command::Ttl(id(2))).await) <= after);
    });
}

/// How long a message stays, in milliseconds; nothing: it is gone, or does not end.
async fn left(sim: &Sim, n: u64) -> Option<u64> {
    let leader = sim.net.leader().unwrap().coordinator;
    match ask(&leader, Command::Ttl(id(n))).await {
        Reply::Ttl(left) => left,
        Reply::Refused(Refusal::NotFound) => None,
        other => panic!("id{n}: {other:?}"),
    }
}

#[test]
fn a_hundred_restarts_give_nothing_more_time() {
    simulate(async {
        let mut sim = Sim::start(10, IoMode::Unbuffered).await;
        sleep(s(5.0)).await;
        let leader = sim.net.leader().unwrap().coordinator;
        set_for(&leader, 1, Duration::from_secs(86_400)).await;
        let mut before = 86_400_000;
        for round in 0..100 {
            if round % 2 == 0 {
                sim.stop_leader().await;
            }
            sim.crash_leader(Crash::Kill);
            sim.start_leader().await.unwrap();
            sleep(s(3.0)).await;
            let now = left(&sim, 1).await.expect("a day has not passed");
            assert!(now <= before, "round {round}: {before} ms were left, and now {now}");
            before = now;
        }
        // Most clocks are wrong, and one boot knows how much of its time has passed.
        assert!(before.abs_diff(86_400_000 - 100 * 3000) < 5_000, "{before}");
    });
}

#[test]
fn a_hundred_changes_of_leader_give_nothing_more_time() {
    simulate(async {
        let mut sim = Sim::start_group(10, IoMode::Unbuffered, 3).await;
        sleep(s(5.0)).await;
        let (mut leader, here) = sim.net.leading().unwrap();
        set_for(&here.coordinator, 1, Duration::from_secs(86_400)).await;
        set_for(&here.coordinator, 2, Duration::from_secs(150)).await;
        let (mut before, mut changes) = (86_400_000, 0);
        for round in 0..100 {
            if round % 2 == 0 {
                let leader = sim.net.leader().unwrap().coordinator;
                assert_eq!(ask(&leader, Command::HandOver(None)).await, Reply::Done);
            } else {
                sim.crash_peer(leader, Crash::Kill).await;
                sim.start_peer(leader).await.unwrap();
            }
            sleep(s(3.0)).await;
            // Who was killed may lead again.
            let (next, _) = sim.net.leading().unwrap();
            changes += usize::from(next != leader);
            leader = next;
            let now = left(&sim, 1).await.expect("a day has not passed");
            assert!(now <= before, "round {round}: {before} ms were left, and now {now}");
            before = now;
            // It has 150 s, and each round takes 3.
            if !(48..52).contains(&round) {
                assert_eq!(left(&sim, 2).await.is_some(), round < 50, "round {round}");
            }
        }
        assert!(changes >= 60, "{changes}");
        assert!(before.abs_diff(86_400_000 - 100 * 3000) < 10_000, "{before}");
    });
}

#[test]
fn a_log_of_three_hours_ago_brings_nothing_back_and_gives_nothing_more_time() {
    const HOUR: u64 = 3600;
    simulate_for(Duration::from_secs(5 * HOUR), async {
        let mut sim = Sim::with_walls(11, IoMode::Unbuffered, (Wall::Ahead, BTreeMap::new())).await;
        sleep(s(5.0)).await;
        let leader = sim.net.leader().unwrap().coordinator;
        set_for(&leader, 1, Duration::from_secs(HOUR)).await;
        set_for(&leader, 2, Duration::from_secs(10 * HOUR)).await;
        let old = sim.leader.disk.after_kill();
        // What the old log does not have: one that ends soon, and one that ends late.
        set_for(&leader, 3, Duration::from_secs(HOUR)).await;
        set_for(&leader, 4, Duration::from_secs(10 * HOUR)).await;
        sleep(s(3.0 * HOUR as f64)).await;
        assert_eq!((left(&sim, 1).await, left(&sim, 3).await), (None, None));
        let before = (left(&sim, 2).await.unwrap(), left(&sim, 4).await.unwrap());
        sim.crash_leader(Crash::PowerCut);
        sim.leader.disk = old;
        sim.heal().await;
        assert_eq!((left(&sim, 1).await, left(&sim, 3).await), (None, None));
        let after = (left(&sim, 2).await.expect("it is there"), left(&sim, 4).await.expect("it is there"));
        assert!(after.0 <= before.0 && after.1 <= before.1, "{before:?}, and then {after:?}");
    });
}

/// Why what ends gets a tombstone as what is deleted does, though its own copies say when they end: what they went over says
/// nothing of it, and a leader without a log knows no time but that of clocks.
#[test]
fn what_has_ended_stays_gone_whoever_comes_back_and_whatever_is_lost() {
    // Longer than healing takes: a leader that begins with the clocks' time does not come to the deadlines meanwhile.
    const TIME: Duration = Duration::from_secs(100);
    for (goes_early, loses_log) in [(true, false), (true, true), (false, true)] {
        simulate(async {
            let all = (1..=NODES).map(|node| (node, Wall::Frozen)).collect();
            let mut sim = Sim::with_walls(14, IoMode::Unbuffered, (Wall::Frozen, all)).await;
            sleep(s(5.0)).await;
            let leader = sim.net.leader().unwrap().coordinator;
            for n in 0..12 {
                assert_eq!(ask(&leader, Command::Set { id: id(n), payload: "old".into() }).await, Reply::Done);
                set_for(&leader, 12 + n, TIME).await;
            }
            // Node 1 has some of each, and goes before the first are written over, or before they end.
            assert!(sim.held(1) > 0 && (!goes_early || sim.crash_node(1, Crash::Kill)));
            for n in 0..12 {
                set_for(&leader, n, TIME).await;
            }
            sleep(TIME * 99 / 100).await;
            assert!(goes_early || sim.crash_node(1, Crash::Kill));
            sleep(TIME * 4 / 100).await;
            for n in 0..24 {
                assert_eq!(ask(&leader, Command::Get(id(n))).await, Reply::Refused(Refusal::NotFound), "id{n}");
            }
            if loses_log {
                sim.crash_leader(Crash::PowerCut);
                sim.leader.disk = MemDisk::new();
            }
            sim.heal().await;
            let leader = sim.net.leader().unwrap().coordinator;
            for n in 0..24 {
                let reply = ask(&leader, Command::Get(id(n))).await;
                let why = format!("id{n}, node 1 goes early: {goes_early}, the log is lost: {loses_log}");
                assert_eq!(reply, Reply::Refused(Refusal::NotFound), "{why}");
            }
            let copies: usize = (1..=NODES).map(|node| sim.held(node)).sum();
            let cluster = leader.cluster();
            assert_eq!((cluster.len(), cluster.deletions(), copies), (0, 0, 0));
        });
    }
}
