//! What programs ask beyond SET and GET, of healthy nodes: counters, snapshots, walks, and their bounds.

use std::collections::BTreeSet;
use std::sync::Arc;

use hatokuse::leader::coordinator::Coordinator;
use hatokuse::leader::transaction::{MOST_BYTES, MOST_IDS, Need, Transaction};
use hatokuse::types::{IoMode, MessageId, Payload};
use tokio::time::sleep;

use crate::machines::Sim;
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
    leader.transact([(id.clone(), Need::Nothing)], move |all| all.set(&id, message)).await.unwrap();
}

fn count(transaction: &mut Transaction, id: &MessageId) -> u64 {
    let before = transaction.get(id).map_or(0, |count| std::str::from_utf8(count).unwrap().parse().unwrap());
    transaction.set(id, (before + 1).to_string().into());
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
fn a_transaction_sees_what_it_wrote_and_can_think_better_of_it() {
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
            all.set(&y, message.clone());
            all.set(&z, message);
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
        let discard = {
            let b = b.clone();
            move |all: &mut Transaction| {
                all.delete(&b);
                all.discard();
                all.exists(&b)
            }
        };
        assert_eq!(leader.transact(needs(), discard).await, Ok(true));
        let unchanged = leader.records(&all).await.unwrap();
        assert_eq!(unchanged, records, "nothing was written");
        assert_eq!(leader.len(), 2);
        // Deleting what is not there, beside what is, is a write of one id.
        let (x, y) = (a.clone(), b.clone());
        let delete = move |all: &mut Transaction| [&x, &y].into_iter().for_each(|id| all.delete(id));
        leader.transact([(a, Need::Nothing), (b, Need::Nothing)], delete).await.unwrap();
        assert_eq!(leader.len(), 1);
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
            leader.transact(needs, move |all| ids.iter().for_each(|id| all.set(id, vec![0; bytes].into())))
        };
        write(ids(MOST_IDS), 1).await.unwrap();
        assert_eq!(leader.len(), MOST_IDS as u64);
        assert_eq!(write(ids(MOST_IDS + 1), 1).await.unwrap_err().code(), "BAD_COMMAND");
        let all = leader.read_many(&ids(MOST_IDS)).await.unwrap().0;
        assert!(all.iter().all(|message| message.as_deref() == Some(&[0])));
        assert_eq!(leader.read_many(&ids(MOST_IDS + 1)).await.unwrap_err().code(), "BAD_COMMAND");
        // A few large ones: at the bound, and above it.
        write(ids(4), MOST_BYTES / 4).await.unwrap();
        assert!(leader.read_many(&ids(4)).await.is_ok());
        assert_eq!(write(ids(5), MOST_BYTES / 4).await.unwrap_err().code(), "BUSY");
        write(vec![id("many4")], 1 << 10).await.unwrap();
        assert_eq!(leader.read_many(&ids(5)).await.unwrap_err().code(), "BUSY");
        assert_eq!(leader.in_flight(), 0, "no room is kept");
    });
}
