//! What programs ask beyond SET and GET, of healthy nodes: counters, snapshots, walks, and their bounds.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hatokuse::cluster::knowledge::Trust;
use hatokuse::durable::Disk as _;
use hatokuse::durable::sim::errno;
use hatokuse::error::Refusal;
use hatokuse::leader::METADATA_FOLDER;
use hatokuse::leader::coordinator::Coordinator;
use hatokuse::leader::journal;
use hatokuse::leader::transaction::{MOST_BYTES, MOST_IDS, Need, Transaction};
use hatokuse::protocol::{Command, Reply};
use hatokuse::telemetry::served::Protocol;
use hatokuse::types::{IoMode, MessageId, Payload};
use tokio::time::sleep;

use crate::machines::{Crash, NODES, Sim, TOLERANCE};
use crate::{s, simulate};

fn id(text: &str) -> MessageId {
    text.parse().unwrap()
}

/// A healthy register, and its leader.
async fn healthy() -> (Sim, Arc<Coordinator>) {
    let sim = Sim::start(1, IoMode::Buffered).await;
    sleep(s(5.0)).await;
    let leader = sim.net.leader().unwrap().coordinator;
    (sim, leader)
}

async fn set(leader: &Arc<Coordinator>, text: &str, message: &'static str) {
    let (id, message) = (id(text), Payload::from_static(message.as_bytes()));
    leader.transact([(id.clone(), Need::Nothing)], move |all| all.set(&id, message, None)).await.unwrap();
}

fn count(transaction: &mut Transaction, id: &MessageId) -> u64 {
    let before = transaction.get(id).map_or(0, |count| std::str::from_utf8(count).unwrap().parse().unwrap());
    transaction.set(id, (before + 1).to_string().into(), None);
    before + 1
}

#[test]
fn no_step_of_a_counter_is_lost() {
    simulate(async {
        let (_sim, leader) = healthy().await;
        let one = |_| {
            let (leader, id) = (leader.clone(), id("counter"));
            tokio::spawn(async move {
                leader.transact([(id.clone(), Need::Message)], move |all| count(all, &id)).await.unwrap()
            })
        };
        let tasks: Vec<_> = (0..200).map(one).collect();
        let mut seen = BTreeSet::new();
        for task in tasks {
            seen.insert(task.await.unwrap());
        }
        assert_eq!(seen, (1..=200).collect());
    });
}

#[test]
fn what_waits_for_one_id_goes_together_in_order() {
    simulate(async {
        let (_sim, leader) = healthy().await;
        set(&leader, "hot", "0").await;
        let hot = id("hot");
        let before = leader.version(&hot).await.unwrap().unwrap();
        // Polled in this order: the first goes alone, and all others wait for it.
        let write = |n: u64| {
            let hot = hot.clone();
            leader.transact([(hot.clone(), Need::Message)], move |all| {
                let seen = all.get(&hot).map(|message| String::from_utf8_lossy(message).into_owned());
                all.set(&hot, n.to_string().into(), None);
                seen.unwrap()
            })
        };
        let seen = futures::future::join_all((1..=100).map(write)).await;
        let expected: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(seen.into_iter().map(Result::unwrap).collect::<Vec<_>>(), expected);
        // Plain SETs of one connection.
        let sets = (200..300_u64).map(|n| Ok(Command::Set { id: hot.clone(), payload: n.to_string().into() }));
        let (replies, _room) = leader.execute(&mut sets.collect(), Protocol::Text).await;
        assert!(replies.len() == 100 && replies.iter().all(|reply| *reply == Reply::Done), "{replies:?}");
        assert_eq!(leader.read_many(std::slice::from_ref(&hot)).await.unwrap().0, [Some(Payload::from_static(b"299"))]);
        let writes = leader.version(&hot).await.unwrap().unwrap().0 - before.0;
        assert!((4..=8).contains(&writes), "{writes} writes for 200 that were asked for");
    });
}

#[test]
fn who_compares_versions_sees_that_another_of_the_group_has_written() {
    simulate(async {
        let (_sim, leader) = healthy().await;
        set(&leader, "a", "0").await;
        let a = id("a");
        let version = leader.version(&a).await.unwrap();
        let add = |_| {
            let a = a.clone();
            leader.transact([(a.clone(), Need::Message)], move |all| {
                let unchanged = all.version(&a) == version;
                if unchanged {
                    count(all, &a);
                }
                unchanged
            })
        };
        let done = futures::future::join_all((0..10).map(add)).await;
        assert_eq!(done.into_iter().filter(|done| *done == Ok(true)).count(), 1);
    });
}

#[test]
fn a_group_that_cannot_be_written_is_refused_to_all_of_it() {
    simulate(async {
        let (mut sim, leader) = healthy().await;
        set(&leader, "a", "0").await;
        (1..=NODES).for_each(|node| assert!(sim.crash_node(node, Crash::Kill)));
        sleep(s(20.0)).await;
        let sets = (0..10_u64).map(|n| Ok(Command::Set { id: id("a"), payload: n.to_string().into() }));
        let (replies, _room) = leader.execute(&mut sets.collect(), Protocol::Text).await;
        let refused = |reply: &Reply| matches!(reply, Reply::Refused(Refusal::TooFewNodes { .. }));
        assert!(replies.len() == 10 && replies.iter().all(refused), "{replies:?}");
    });
}

#[test]
fn what_no_disk_takes_is_surely_nowhere() {
    simulate(async {
        let (sim, leader) = healthy().await;
        sim.nodes.values().for_each(|machine| machine.disk.set_failing(Some(errno::EROFS)));
        // The refusals of one write come one after the other, over links of different lengths.
        for n in 0..20 {
            let mut queue = VecDeque::from([Ok(Command::Set { id: id(&format!("id{n}")), payload: "x".into() })]);
            let (replies, _room) = leader.execute(&mut queue, Protocol::Text).await;
            let refused = |reply: &Reply| matches!(reply, Reply::Refused(Refusal::TooFewNodes { .. }));
            assert!(replies.iter().all(refused), "{replies:?}");
        }
    });
}

#[test]
fn the_end_of_a_leader_is_the_last_that_its_log_says() {
    for wait in 0..8 {
        simulate(async {
            let (mut sim, leader) = healthy().await;
            for n in 0..300 {
                set(&leader, &format!("id{n}"), "x").await;
            }
            // Repair has all of them to copy once more.
            leader.cluster().set_tolerance(TOLERANCE + 1);
            sleep(s(0.2 + 0.01 * f64::from(wait))).await;
            let left = leader.cluster().repair_view().pending;
            assert!((1..=300).contains(&left), "{left} of 300 are left");
            sim.stop_leader().await;
            sleep(s(10.0)).await;
            let disk = sim.leader.disk.after_kill();
            let folder = disk.folder(&Path::new("/data").join(METADATA_FOLDER)).unwrap();
            // After a power cut, only a log that was closed is known to have its end.
            let log = journal::open(&folder, "the boot after a power cut", 1).unwrap();
            assert_eq!(log.trust, Trust::Whole, "stopped with {left} left");
        });
    }
}

#[test]
fn what_leaders_with_a_copy_of_the_log_commit_does_not_hide_what_it_lacks() {
    let mut hidden = 0;
    for after in 0..40 {
        simulate(async {
            let (mut sim, leader) = healthy().await;
            set(&leader, "a", "before").await;
            let backup = sim.leader.disk.after_kill();
            set(&leader, "a", "after").await;
            sim.crash_leader(Crash::Kill);
            sim.leader.disk = backup;
            sim.start_leader().await.unwrap();
            let leader = sim.net.leader().unwrap().coordinator;
            let newer = tokio::spawn({
                let leader = leader.clone();
                async move { set(&leader, "b", "x").await }
            });
            while leader.cluster().registry.linked().next().is_none() {
                sleep(s(0.001)).await;
            }
            // It may die after it has committed what is newer than what its log lacks, and before that is completed.
            sleep(Duration::from_millis(after)).await;
            hidden += u32::from(newer.is_finished() && leader.cluster().uncommitted_len() > 0);
            newer.abort();
            sim.crash_leader(Crash::Kill);
            sim.start_leader().await.unwrap();
            let leader = sim.net.leader().unwrap().coordinator;
            let mut queue = VecDeque::from([Ok(Command::Get(id("a")))]);
            let (replies, _room) = leader.execute(&mut queue, Protocol::Text).await;
            assert!(matches!(&replies[..], [Reply::Value(body)] if **body == *b"after"), "{after} ms: {replies:?}");
        });
    }
    assert!(hidden > 0, "it never died in between");
}

#[test]
fn a_leader_begins_another_epoch_before_the_versions_of_one_are_used_up() {
    simulate(async {
        // Of a seed whose epochs are short.
        let mut sim = Sim::start(4, IoMode::Buffered).await;
        sleep(s(5.0)).await;
        let leader = sim.net.leader().unwrap().coordinator;
        for n in 0..1000 {
            // None of them fails, or has an unknown outcome.
            let one = |k: u32| {
                let (leader, id) = (leader.clone(), format!("id{n}.{k}"));
                async move { set(&leader, &id, "x").await }
            };
            futures::future::join_all((0..3).map(one)).await;
        }
        let leadership = leader.cluster().leadership().unwrap();
        assert!(leadership.epoch.0 > 5, "{leadership:?}");
        assert_eq!(leader.cluster().len(), 3000);
        sim.stop_leader().await;
        sim.start_leader().await.unwrap();
        let again = sim.net.leader().unwrap().coordinator.cluster().leadership().unwrap();
        assert_eq!(again.epoch.0, leadership.epoch.0 + 1);
        sim.heal().await;
    });
}

#[test]
fn a_write_without_an_outcome_is_unknown_and_may_appear_later() {
    simulate(async {
        let (_sim, leader) = healthy().await;
        set(&leader, "a", "before").await;
        // Whoever has the turn does not come to an end, as with a log whose disk hangs.
        let hung = leader.key_locks.enter(&id("a"));
        let mut queue = [Ok(Command::Set { id: id("a"), payload: "after".into() })].into();
        let (replies, _room) = leader.execute(&mut queue, Protocol::Text).await;
        assert!(matches!(replies[..], [Reply::Refused(Refusal::Unknown(_))]), "{replies:?}");
        let a = id("a");
        let refused = leader.transact([(id("a"), Need::Message)], move |all| count_bytes(all, &a)).await;
        assert!(matches!(refused, Err(Refusal::Unknown(_))), "{refused:?}");
        assert!(leader.in_flight() > 0, "what waits takes its room");
        let get = async || leader.read_many(&[id("a")]).await.unwrap().0[0].clone().unwrap();
        assert_eq!(get().await, "before");
        drop(hung);
        sleep(s(1.0)).await;
        assert_eq!(get().await, "after");
        assert_eq!(leader.in_flight(), 0);
    });
}

fn count_bytes(transaction: &mut Transaction, id: &MessageId) -> usize {
    transaction.get(id).map_or(0, Payload::len)
}

#[test]
fn a_transaction_sees_what_it_wrote() {
    simulate(async {
        let (_sim, leader) = healthy().await;
        let (a, b, c) = (id("a"), id("b"), id("c"));
        set(&leader, "a", "one").await;
        let version = leader.version(&a).await.unwrap();
        let needs = || [(a.clone(), Need::Message), (b.clone(), Need::Version), (c.clone(), Need::Nothing)];
        let (x, y, z) = (a.clone(), b.clone(), c.clone());
        let rename = move |all: &mut Transaction| {
            assert_eq!((all.version(&x), all.length(&x), all.exists(&y)), (version, Some(3), false));
            let message = all.get(&x).cloned().unwrap();
            all.delete(&x);
            all.set(&y, message.clone(), None);
            all.set(&z, message, None);
            assert!(all.get(&x).is_none() && all.get(&y).is_some() && all.length(&z) == Some(3));
        };
        leader.transact(needs(), rename).await.unwrap();
        let all = [a.clone(), b.clone(), a.clone(), c.clone()];
        let one = || Some(Payload::from_static(b"one"));
        assert_eq!(leader.read_many(&all).await.unwrap().0, [None, one(), None, one()]);
        let records = leader.records(&all).await.unwrap();
        assert_eq!(
            records.iter().map(|record| record.map(|record| record.bytes())).collect::<Vec<_>>(),
            [None, Some(3), None, Some(3)]
        );
        assert_eq!(leader.cluster().len(), 2);
        // Deleting what is not there, beside what is, is a write of one id.
        let (x, y) = (a.clone(), b.clone());
        let delete = move |all: &mut Transaction| [&x, &y].into_iter().for_each(|id| all.delete(id));
        leader.transact([(a, Need::Nothing), (b, Need::Nothing)], delete).await.unwrap();
        assert_eq!(leader.cluster().len(), 1);
    });
}

#[test]
fn a_walk_gives_every_id_and_chance_gives_one_of_them() {
    simulate(async {
        let (_sim, leader) = healthy().await;
        assert_eq!((leader.scan(0, 10).await.unwrap(), leader.random_id(7).await.unwrap()), ((0, vec![]), None));
        let texts: BTreeSet<String> = (0..50).map(|n| format!("id{n}")).collect();
        for text in &texts {
            set(&leader, text, "x").await;
        }
        let (mut cursor, mut seen) = (0, BTreeSet::new());
        loop {
            let (next, ids) = leader.scan(cursor, 7).await.unwrap();
            assert!(ids.len() <= 7);
            assert!(ids.iter().all(|id| seen.insert(id.to_string())), "{ids:?} came twice");
            if next == 0 {
                break;
            }
            cursor = next;
        }
        assert_eq!(seen, texts);
        let mut chance = fastrand::Rng::with_seed(1);
        let mut drawn = BTreeSet::new();
        for _ in 0..100 {
            drawn.insert(leader.random_id(chance.u64(..)).await.unwrap().unwrap().to_string());
        }
        assert!(drawn.is_subset(&texts) && drawn.len() > 10, "{drawn:?}");
    });
}

#[test]
fn transactions_are_bounded() {
    simulate(async {
        let (_sim, leader) = healthy().await;
        let ids = |count: usize| (0..count).map(|n| id(&format!("many{n}"))).collect::<Vec<_>>();
        let write = |ids: Vec<MessageId>, bytes: usize| {
            let needs: Vec<_> = ids.iter().map(|id| (id.clone(), Need::Nothing)).collect();
            leader.transact(needs, move |all| ids.iter().for_each(|id| all.set(id, vec![0; bytes].into(), None)))
        };
        write(ids(MOST_IDS), 1).await.unwrap();
        assert_eq!(leader.cluster().len(), MOST_IDS as u64);
        assert_eq!(write(ids(MOST_IDS + 1), 1).await.unwrap_err().code(), "BAD_COMMAND");
        let all = leader.read_many(&ids(MOST_IDS)).await.unwrap().0;
        assert!(all.iter().all(|message| message.as_deref() == Some(&[0])));
        assert_eq!(leader.read_many(&ids(MOST_IDS + 1)).await.unwrap_err().code(), "BAD_COMMAND");
        // A few large ones: at the bound, and above it.
        write(ids(4), MOST_BYTES / 4).await.unwrap();
        assert!(leader.read_many(&ids(4)).await.is_ok());
        assert_eq!(write(ids(5), MOST_BYTES / 4).await.unwrap_err().code(), "BAD_COMMAND", "it never succeeds");
        write(vec![id("many4")], 1 << 10).await.unwrap();
        assert_eq!(leader.read_many(&ids(5)).await.unwrap_err().code(), "BAD_COMMAND");
        assert_eq!(leader.in_flight(), 0, "no room is kept");
    });
}
