//! Real processes under a nemesis, and real file systems under power cuts; what clients were told is checked.
//!
//! Clients write, read and delete a few ids as fast as they can while processes are killed and paused, links are
//! cut and the leader's folder is lost. Every request and every answer enters a history, and the checker must find
//! an order of all of them. docs/testing.md says how to run longer campaigns.

#[path = "../checker/mod.rs"]
#[allow(dead_code, reason = "the simulation asks it for more")]
mod checker;
mod faults;
mod links;
mod load;
mod peers;
mod power;
#[path = "../tools/mod.rs"]
mod tools;

use std::io::Write as _;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hatokuse::bench::launcher::Cluster;
use hatokuse::types::IoMode;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::faults::Nemesis;
use crate::links::Links;
use crate::load::Load;
use crate::power::Volume;
use crate::tools::tls_of_clusters;

/// How long anything may take that a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
const BINARY: &str = env!("CARGO_BIN_EXE_hatokuse");

/// Clients at once.
const CLIENTS: u32 = 8;

const NODES: u32 = 5;
const TOLERANCE: usize = 2;

/// One of these tests at a time: each wants the whole machine.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A figure for whoever reads the log. Straight to stderr, because tests that pass are otherwise not heard.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// A number from the environment.
fn setting<T: FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is no such value")),
        Err(_) => default,
    }
}

/// In memory, where there is such a thing.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("hatokuse-nemesis-").tempdir_in(parent).expect("a folder")
}

/// Waits until VERIFY finds nothing to complain of, and STATUS says that every message has its copies.
fn all_copies_are_good(ask: impl Fn(&str) -> Option<String>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let verified = ask("VERIFY").unwrap_or_default();
        let status = ask("STATUS").and_then(|line| serde_json::from_str(&line).ok());
        let status: serde_json::Value = status.unwrap_or_default();
        let whole = status["under_replicated"] == 0 && status["lost"] == 0;
        if verified.starts_with("VERIFIED ") && verified.ends_with(" bad=0 unknown=0") && whole {
            return;
        }
        assert!(Instant::now() < deadline, "not healed: VERIFY says {verified:?}, STATUS says {status}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn clients_that_meet_alarm_nobody() {
    let _alone = alone();
    let home = folder();
    let cluster =
        Cluster::builder(BINARY).nodes(3).tolerance(2).dir(home.path()).patience(PATIENCE).start().expect("a cluster");
    let load = Load::start(cluster.addr(), CLIENTS, setting("NEMESIS_SEED", 1));
    load.goes_on(5_000);
    let told = load.finish();
    told.read_everything(PATIENCE).check().unwrap_or_else(|violation| panic!("{violation}"));
    // A read that an overwriting overtakes is no damage, and a log that cries wolf is not read any more.
    let said = cluster.leader_stderr();
    assert!(!said.contains("no intact copy"), "{said}");
}

#[test]
fn histories_under_a_nemesis_are_linearizable() {
    let _alone = alone();
    let wanted: u64 = setting("NEMESIS_OPS", 20_000);
    let seed: u64 = setting("NEMESIS_SEED", fastrand::u64(..));
    say(&format!("nemesis: NEMESIS_SEED={seed} chooses faults and requests (threads and processes run as they like)"));
    let home = folder();
    let links = Links::open().inspect_err(|why| say(&format!("nemesis: no links are cut: {why}"))).ok();
    let program = links.as_ref().map_or_else(|| BINARY.into(), |_| Links::wrapper(home.path(), BINARY));
    let cluster = Cluster::builder(program)
        .nodes(NODES)
        .tolerance(TOLERANCE)
        .dir(home.path())
        .patience(PATIENCE)
        .leader_args(["--repair-after", "1s"])
        .node_args(["--layout", &setting("NEMESIS_LAYOUT", "text".to_owned())])
        .cluster_tls(tls_of_clusters())
        .start()
        .expect("the cluster starts");
    let load = Load::start(cluster.addr(), CLIENTS, seed);
    let began = Instant::now();
    let mut nemesis = Nemesis::new(cluster, links, seed);
    let mut rounds = 0;
    while load.told() < wanted || nemesis.owes_some() {
        nemesis.round(&load);
        rounds += 1;
    }
    let (cluster, counts) = nemesis.end(&load);
    cluster.wait_up(NODES as usize).expect("everybody comes back");
    let told = load.finish();
    let faulted = began.elapsed();
    let checked = told.read_everything(PATIENCE).check().unwrap_or_else(|violation| panic!("{violation}"));
    all_copies_are_good(|line| cluster.request(line).ok());
    say(&format!("nemesis: {counts}"));
    say(&format!(
        "nemesis: {} operations checked linearizable ({}), {rounds} rounds in {:.0} s, then healed within {:.0} s",
        checked.operations,
        told.summary(),
        faulted.as_secs_f64(),
        (began.elapsed() - faulted).as_secs_f64(),
    ));
}

#[test]
fn power_cuts_of_everything_at_once_lose_nothing_that_was_acknowledged() {
    power_cuts("text", "ext4");
}

#[test]
fn power_cuts_of_everything_at_once_lose_nothing_in_the_log_layout() {
    power_cuts("log", "ext4");
}

#[test]
fn power_cuts_on_btrfs_lose_nothing_in_the_text_layout() {
    power_cuts("text", "btrfs");
}

#[test]
fn power_cuts_on_btrfs_lose_nothing_in_the_log_layout() {
    power_cuts("log", "btrfs");
}

#[test]
fn power_cuts_on_xfs_lose_nothing_in_the_text_layout() {
    power_cuts("text", "xfs");
}

#[test]
fn power_cuts_on_xfs_lose_nothing_in_the_log_layout() {
    power_cuts("log", "xfs");
}

fn power_cuts(layout: &str, kind: &str) {
    let _alone = alone();
    let cuts: u32 = setting("POWER_CUTS", if kind == "ext4" { 5 } else { 2 });
    let seed: u64 = setting("NEMESIS_SEED", fastrand::u64(..));
    let buffered = std::env::var_os("POWER_BUFFERED").is_some();
    let io_mode = if buffered { IoMode::Buffered } else { IoMode::Unbuffered };
    let volume = match Volume::make(kind, folder()) {
        Ok(volume) => volume,
        Err(why) if rustix::process::geteuid().is_root() => panic!("power cuts: none are made: {why}"),
        Err(why) => return say(&format!("SKIPPED: power cuts: this user may make none: {why}")),
    };
    let mut cluster = Cluster::builder(BINARY)
        .nodes(4)
        .tolerance(TOLERANCE)
        .io_mode(io_mode)
        .node_args(["--layout", layout])
        .dir(volume.path().join("register"))
        .patience(PATIENCE)
        .start()
        .expect("the cluster starts");
    // What was set up is no part of the question, least of all tolerance.conf.
    volume.sync();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut load = Load::start(cluster.addr(), CLIENTS, seed);
    let mut checked = 0;
    for cut in 1..=cuts {
        load.goes_on(rng.u64(100..600));
        // Without power nobody answers any more. This cut is made from beside, and a sync that is under way in that very
        // moment may be told that it went well (of 750 in a test of the file system alone, 101 were).
        cluster.signal_leader(Signal::STOP).expect("the leader's last moment");
        volume.cut();
        cluster.kill_leader().expect("the leader's end");
        // A node that met the dead disk may have ended by itself.
        (1..=4).for_each(|node| cluster.kill_node(node).expect("a node's end"));
        let told = load.finish();
        volume.mount_again();
        if let Some(kept) = std::env::var_os("POWER_KEEP") {
            let _ = std::fs::remove_dir_all(&kept);
            faults::copy(&volume.path().join("register"), Path::new(&kept));
        }
        cluster.start_leader().expect("the leader starts again");
        cluster.start_nodes(&[1, 2, 3, 4]).expect("the nodes start again");
        cluster.wait_up(4).expect("everybody comes back");
        let history = told.read_everything(PATIENCE);
        let found =
            history.check().unwrap_or_else(|violation| panic!("{layout}, cut {cut}, NEMESIS_SEED={seed}: {violation}"));
        checked = found.operations;
        drop(history);
        all_copies_are_good(|line| cluster.request(line).ok());
        load = told.goes_on_with(CLIENTS, rng.u64(..));
    }
    let told = load.finish();
    say(&format!(
        "power cuts: {cuts} of the whole cluster, {kind}, {layout} layout, {io_mode}; 0 acknowledged messages lost; {checked} operations ({})",
        told.summary()
    ));
}

/// Nobody has told it yet that its log is old; then it must not claim that there is no such message.
#[test]
fn an_old_leaders_folder_claims_nothing_before_nodes_are_heard() {
    let _alone = alone();
    let home = folder();
    let mut cluster =
        Cluster::builder(BINARY).nodes(3).tolerance(2).dir(home.path()).patience(PATIENCE).start().expect("a cluster");
    for line in ["SET later w", "DEL later"] {
        assert_eq!(cluster.request(line).expect("a reply"), "OK");
    }
    let (folder, backup) = (home.path().join("leader_metadata"), home.path().join("backup"));
    cluster.kill_leader().expect("the leader's end");
    std::fs::rename(&folder, &backup).expect("a backup");
    faults::copy(&backup, &folder);
    cluster.start_leader().expect("the leader starts again");
    cluster.wait_up(3).expect("all nodes");
    assert_eq!(cluster.request("SET later x").expect("a reply"), "OK");
    cluster.kill_leader().expect("the leader's end");
    (1..=3).for_each(|node| cluster.kill_node(node).expect("a node's end"));
    std::fs::remove_dir_all(&folder).expect("no folder");
    std::fs::rename(&backup, &folder).expect("the backup");
    cluster.start_leader().expect("the leader starts again");
    // The first waits until nodes had time enough to join, the second is asked after that.
    for _ in 0..2 {
        let reply = cluster.request("GET later").expect("a reply");
        assert!(reply.starts_with("ERROR UNAVAILABLE "), "{reply}");
    }
    let reply = cluster.request("DEL later").expect("a reply");
    assert!(reply.starts_with("ERROR "), "{reply}");
    cluster.start_nodes(&[1, 2, 3]).expect("the nodes start again");
    cluster.wait_up(3).expect("all nodes");
    assert_eq!(cluster.request("GET later").expect("a reply"), "VALUE x");
}
