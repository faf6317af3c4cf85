//! Scripts, locks and messages that end, while whoever leads of three leaders is killed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::peers::{insist, others, start};
use crate::resp::Redis;
use crate::scripts::{eval, hold_a_lock, move_around};
use crate::support::{eventually, folder};
use crate::tools::group::Group;

/// Kills whoever leads, waits until another one does, and starts it again.
fn another_leads(group: &mut Group) {
    let leader = group.wait_leader();
    group.kill_peer(leader);
    eventually("another leader", || group.leader().filter(|next| *next != leader));
    group.start_peer(leader, &[]);
}

/// The addresses of three peers.
fn addresses(group: &Group) -> [String; 3] {
    [1, 2, 3].map(|peer| group.clients(peer))
}

#[test]
fn a_script_is_one_step_whoever_leads() {
    let home = folder();
    let mut group = start(home.path(), 3, 3);
    ["a", "b", "c"].iter().for_each(|id| assert_eq!(insist(&group, 1, &format!("SET {id} 1000")), "OK"));
    let all = addresses(&group);
    move_around(&all.each_ref().map(String::as_str), || another_leads(&mut group));
}

#[test]
fn nobody_else_is_inside_a_lock_whoever_leads() {
    let home = folder();
    let mut group = start(home.path(), 3, 3);
    let all = addresses(&group);
    let take_turns = |entered: &AtomicUsize| {
        for _ in 0..4 {
            let before = entered.load(Ordering::Relaxed);
            eventually("the lock to go round", || (entered.load(Ordering::Relaxed) > before + 20).then_some(()));
            another_leads(&mut group);
        }
    };
    hold_a_lock(&all.each_ref().map(String::as_str), take_turns);
}

#[test]
fn what_a_leader_knew_of_scripts_and_times_the_next_one_tells_truly() {
    let home = folder();
    let mut group = start(home.path(), 3, 3);
    let leader = group.wait_leader();
    let standby = others(&group, leader)[0];
    // By a standby, which relays.
    let mut redis = Redis::to(&group.clients(standby));
    let set = "return redis.call('set', KEYS[1], ARGV[1], 'EX', ARGV[2])";
    assert_eq!(eval(&mut redis, set, &["long"], &["x", "1000"]), "+OK");
    assert_eq!(eval(&mut redis, set, &["short"], &["x", "4"]), "+OK");
    let began = Instant::now();
    let sha = redis.ask(&[b"SCRIPT", b"LOAD", set.as_bytes()]);
    let call = format!("EVALSHA {} 1 other x 100", sha.trim_matches('"'));
    let left = |told: String| told.strip_prefix(':').and_then(|number| number.parse::<i64>().ok());
    let before = left(redis.say("PTTL long")).unwrap();
    group.kill_peer(leader);
    eventually("another leader", || group.leader().filter(|next| *next != leader));
    let mut redis = eventually("the next one", || {
        let mut redis = Redis::try_to(&group.clients(standby))?;
        redis.try_ask(&[b"GET", b"long"]).filter(|told| told == "\"x\"").map(|_| redis)
    });
    let after = left(redis.say("PTTL long")).unwrap();
    let passed = began.elapsed().as_millis() as i64;
    assert!(after <= before && after >= 1_000_000 - passed - 1000, "{before} ms, {passed} ms later {after}");
    // It is gone for readers within a second after its end, and not before.
    assert!(redis.say("GET short") == "\"x\"" || began.elapsed() >= Duration::from_secs(4));
    eventually("its end", || (redis.say("GET short") == "$-1").then_some(()));
    assert!(began.elapsed() >= Duration::from_millis(3900), "{:?}", began.elapsed());
    assert_eq!(redis.say(&call), "-NOSCRIPT No matching script. Please use EVAL.");
    assert_eq!(eval(&mut redis, set, &["other"], &["x", "100"]), "+OK");
    assert_eq!(redis.say(&call), "+OK");
    // Compare and set.
    assert_eq!(redis.say("SET other y IFEQ z"), "$-1");
    assert_eq!(redis.say("SET other y IFEQ x"), "+OK");
}
