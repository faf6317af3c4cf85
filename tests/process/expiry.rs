//! Messages that end by themselves: on every door, over restarts, lost logs and backups.

use std::time::Duration;

use hatokuse::client::Client;
use hatokuse::wire::family::family_service_client::FamilyServiceClient;
use hatokuse::wire::family::{ChatMessage, StoreRequest};

use crate::resp::{Redis, story};
use crate::support::{Register, code, eventually, folder, hatokuse, tell, visible};

/// The milliseconds that TTL tells.
#[track_caller]
fn left(register: &Register, id: &str) -> u64 {
    let reply = register.ask(&format!("TTL {id}"));
    let left = reply.strip_prefix("TTL ").and_then(|left| left.strip_suffix("ms"));
    left.and_then(|left| left.parse().ok()).unwrap_or_else(|| panic!("TTL {id}: {reply}"))
}

fn wait_until_gone(register: &Register, id: &str) {
    eventually(id, || (code(&register.ask(&format!("GET {id}"))) == "ERROR NOT_FOUND").then_some(()));
}

#[test]
fn messages_end_on_every_door_and_leave_no_file() {
    for layout in ["text", "log"] {
        let register = Register::with(3, 2, folder(), |builder| builder.node_args(["--layout", layout]));
        register.set("stays", "x");
        assert_eq!(register.ask("SETEX line 100ms a message"), "OK");
        assert_eq!(Redis::to(register.addr()).say("SET redis y PX 100"), "+OK");
        tell(async {
            let mut client = Client::connect(register.addr()).await.unwrap();
            client.set_for("library", "z", Duration::from_millis(100)).await.unwrap();
            client.set_for("longer", "z", Duration::from_secs(1000)).await.unwrap();
            let time = client.ttl("longer").await.unwrap().unwrap();
            assert!(time <= Duration::from_secs(1000) && time > Duration::from_secs(900), "{time:?}");
            assert!(client.expire("longer", None).await.unwrap() && !client.expire("none", None).await.unwrap());
            assert_eq!(client.ttl("longer").await.unwrap(), Some(Duration::MAX));
            assert_eq!(client.ttl("none").await.unwrap(), None);
            let mut leader = FamilyServiceClient::connect(format!("http://{}", register.grpc_addr())).await.unwrap();
            let message = ChatMessage { id: "grpc".to_owned(), message: "w".to_owned(), ..Default::default() };
            let stored = leader.store_message(StoreRequest { chat_message: Some(message), ttl_ms: 100 }).await.unwrap();
            assert!(stored.into_inner().success);
        });
        for id in ["line", "redis", "library", "grpc"] {
            wait_until_gone(&register, id);
        }
        assert_eq!((register.get("stays"), register.get("longer")), ("x".to_owned(), "z".to_owned()));
        // Nobody reads this one.
        assert_eq!(register.ask("SETEX unread 100ms x"), "OK");
        eventually("the sweep", || (register.ask("COUNT") == "COUNT 2").then_some(()));
        if layout == "text" {
            let files = || (1..=3).map(|node| visible(&register.node_dir(node)).len()).sum::<usize>();
            eventually("its files to go", || (files() == 4).then_some(()));
        }
        let ended = |status: &serde_json::Value| status["expired"] == 5 && status["expiring"] == 0;
        register.wait_status("how many ended", ended).unwrap();
        assert_eq!(register.ask("EXPIRE stays 1h"), "OK");
        let (plain, ends) = (register.ask("WHERE longer"), register.ask("WHERE stays"));
        assert_eq!(plain.split(' ').count(), 2, "{plain}");
        let deadline = ends.split_once(" expires ").map(|(nodes, at)| (nodes.starts_with("NODES "), at.len()));
        assert_eq!(deadline, Some((true, "2026-11-30T12:00:00.000Z".len())), "{ends}");
        if layout == "text" {
            let copy = register.copy(register.holders("stays")[0], "stays");
            // The node may be writing it still, and then has it again.
            let finding = eventually("a missing copy to be found", || {
                let _ = std::fs::remove_file(&copy);
                let line = register.ask("VERIFY");
                line.starts_with("COPY stays ").then_some(line)
            });
            assert!(finding.ends_with(&ends[ends.len() - " expires 2026-11-30T12:00:00.000Z".len()..]), "{finding}");
        }
        assert_eq!(register.ask("PERSIST stays"), "OK");
        assert!(!register.ask("WHERE stays").contains("expires"));
        assert_eq!(register.ask("TTL stays"), "TTL never");
        assert_eq!([code(&register.ask("EXPIRE none 1h")), code(&register.ask("TTL none"))], ["ERROR NOT_FOUND"; 2]);
    }
}

#[test]
fn a_time_to_live_never_grows_and_survives_a_lost_log() {
    for layout in ["text", "log"] {
        let mut register = Register::with(3, 2, folder(), |builder| builder.node_args(["--layout", layout]));
        assert_eq!(register.ask("SETEX long 1000s kept"), "OK");
        assert_eq!(register.ask("SETEX short 3s x"), "OK");
        let mut before = left(&register, "long");
        for round in 0..4 {
            register.kill_leader().unwrap();
            if round == 2 {
                // All that is known of it now is in the records of the copies.
                std::fs::remove_dir_all(register.metadata()).unwrap();
            }
            if round == 3 {
                (1..=3).for_each(|node| register.restart_node(node).unwrap());
            }
            register.start_leader().unwrap();
            register.wait_up(3).unwrap();
            eventually("answers", || register.ask("TTL long").starts_with("TTL ").then_some(()));
            let now = left(&register, "long");
            assert!(now <= before && now > 900_000, "{layout}, round {round}: {before} ms, then {now} ms");
            before = now;
        }
        wait_until_gone(&register, "short");
        assert_eq!(register.get("long"), "kept");
        // What is copied again is copied with its deadline.
        let holder = register.holders("long")[0];
        assert_eq!(register.ask(&format!("DRAIN {holder}")), "OK");
        eventually("its copy to move", || (!register.holders("long").contains(&holder)).then_some(()));
        assert!(left(&register, "long") <= before);
        assert_eq!(register.ask("VERIFY"), "VERIFIED messages=1 intact=2 bad=0 unknown=0");
    }
}

#[test]
fn transactions_see_one_time_and_what_has_ended_aborts_them() {
    let register = Register::start(3, 2);
    let (mut one, mut other) = (Redis::to(register.addr()), Redis::to(register.addr()));
    story(&mut one, &[("SET a 1 PX 60000", "+OK"), ("SET b 2 PX 100", "+OK"), ("WATCH b", "+OK")]);
    eventually("b to end", || (other.say("EXISTS b") == ":0").then_some(()));
    story(&mut one, &[("MULTI", "+OK"), ("SET c 3", "+QUEUED"), ("EXEC", "*-1"), ("EXISTS c", ":0")]);
    story(&mut one, &[("MULTI", "+OK"), ("INCR a", "+QUEUED"), ("RENAME a d", "+QUEUED"), ("PERSIST d", "+QUEUED")]);
    story(&mut one, &[("EXPIRE d 50", "+QUEUED"), ("TTL d", "+QUEUED"), ("EXEC", "[:2 +OK :1 :1 :50]")]);
    story(&mut one, &[("SET lock me NX PX 60000", "+OK"), ("SET lock you NX PX 60000", "$-1")]);
    story(&mut one, &[("DELEX lock IFEQ you", ":0"), ("DELEX lock IFEQ me", ":1"), ("GET lock", "$-1")]);
    // A reply that is gone for reasons of time is one that the log has.
    story(&mut one, &[("SET e 1 PX 1", "+OK")]);
    eventually("e to end", || (one.say("GET e") == "$-1").then_some(()));
    story(&mut one, &[("SET e 2 XX", "$-1"), ("SET e 2 KEEPTTL", "+OK"), ("TTL e", ":-1")]);
}

#[test]
fn a_backup_has_deadlines_and_gives_them_back() {
    let (register, other) = (Register::start(3, 2), Register::start(1, 1));
    let to = folder();
    let backup = to.path().join("backup");
    register.set("stays", "x");
    assert_eq!(register.ask("SETEX long 1000s y"), "OK");
    assert_eq!(register.ask("SETEX short 1500ms z"), "OK");
    let path = backup.to_str().unwrap();
    let run = |args: &[&str]| {
        let output = hatokuse(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["backup", path, "--addr", register.addr()]);
    wait_until_gone(&register, "short");
    run(&["restore", path, "--addr", other.addr(), "--verify"]);
    assert_eq!((other.get("stays"), other.get("long")), ("x".to_owned(), "y".to_owned()));
    assert_eq!(other.ask("TTL stays"), "TTL never");
    assert!(left(&other, "long") <= 1_000_000);
    assert_eq!(code(&other.ask("GET short")), "ERROR NOT_FOUND");
}

#[test]
fn no_time_is_given_before_it_is_known() {
    for round in 0..4 {
        let mut register = Register::start(3, 2);
        if round % 2 == 1 {
            assert_eq!(register.ask("SETEX kept 1000s x"), "OK");
            assert_eq!(register.ask("SETEX over 200ms 5"), "OK");
            wait_until_gone(&register, "over");
            assert_eq!(register.ask("SETEX over 200ms 5"), "OK");
            register.kill_leader().unwrap();
            std::fs::remove_dir_all(register.metadata()).unwrap();
            register.start_leader().unwrap();
            // Asked before the leader knows of it.
            let mut first = Redis::to(register.addr());
            let asked = ["GET over", "PTTL over", "EXISTS over", "PTTL kept"].map(|line| first.say(line));
            let known: Vec<&str> = asked.iter().map(String::as_str).filter(|reply| !reply.starts_with('-')).collect();
            assert!(!known.contains(&"\"5\"") && asked[2] != ":1", "{asked:?}");
            assert!(known.iter().all(|reply| reply.len() <= ":1000000".len()), "{asked:?}");
        }
        let mut redis = Redis::to(register.addr());
        // The first that is answered, in a pipeline and alone.
        eventually("an answer", || {
            let replies =
                redis.together(&["PSETEX a 60000 x", "PTTL a", "SET b y EX 60", "PTTL b", "GETEX a PX 50000"]);
            (replies[0] == "+OK" && replies[2] == "+OK").then_some(replies)
        });
        if round % 2 == 1 {
            let left = left(&register, "kept");
            assert!(left <= 1_000_000, "{left}");
            let over = redis.say("INCR over");
            assert_eq!(over, ":1", "what is over is gone for whoever changes it, too");
        }
        let deadline: u64 = redis.say("PEXPIRETIME b")[1..].parse().unwrap();
        assert!(deadline > 1_700_000_000_000, "{deadline} lies in the past");
        register.wait_status("nothing else to end", |status| status["waiting_for"].is_null()).unwrap();
        assert_eq!((redis.say("GET a"), redis.say("GET b")), ("\"x\"".to_owned(), "\"y\"".to_owned()));
    }
}
