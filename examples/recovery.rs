//! How soon a register is itself again after `kill -9`, on this machine: figures beside the bars that they are held to.
//!
//!     cargo build --release && TMPDIR=/dev/shm cargo run --release --example recovery [-- IDS]
//!
//! IDS is how many ids the leader that is killed has (a million). Fails if a bar is missed or an answer is wrong.

#![allow(clippy::print_stdout)]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use common::{binary, get_all, message, set_all};
use hatokuse::bench::launcher::Cluster;

/// Of the register that nodes are killed in.
const MESSAGES: u64 = 20_000;
const GRACE: Duration = Duration::from_secs(5);

fn main() -> anyhow::Result<()> {
    let ids = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse())?;
    let mut missed = 0;
    let mut tell = |what: &str, took: Duration, bar: u64| {
        let late = took > Duration::from_secs(bar);
        missed += usize::from(late);
        println!("{what:<68} {:>9.3} s  bar {bar} s{}", took.as_secs_f64(), if late { "  MISSED" } else { "" });
    };
    nodes_die(&mut tell)?;
    leader_dies(ids, &mut tell)?;
    ensure!(missed == 0, "{missed} bars were missed");
    Ok(())
}

/// Two of four nodes are killed, one after the other: writes, reads and repair after that.
fn nodes_die(tell: &mut impl FnMut(&str, Duration, u64)) -> anyhow::Result<()> {
    let grace = format!("{}s", GRACE.as_secs());
    let builder = Cluster::builder(binary()?).nodes(4).tolerance(2).patience(Duration::from_secs(60));
    let mut cluster = builder.leader_args(["--repair-after", &grace]).start()?;
    set_all(&cluster, 1..=MESSAGES)?;

    let mut wire = Wire::to(&cluster)?;
    let killed = Instant::now();
    cluster.kill_node(2)?;
    let (mut first, mut slowest, mut count) = (None, Duration::ZERO, 0);
    while killed.elapsed() < Duration::from_secs(2) {
        let asked = Instant::now();
        wire.expect(&format!("SET after-{count} x"), "OK")?;
        first.get_or_insert(killed.elapsed());
        slowest = slowest.max(asked.elapsed());
        count += 1;
    }
    tell("node killed, until the next SET is answered", first.context("no SET")?, 1);
    tell(&format!("the slowest of {count} SETs in the two seconds after that"), slowest, 1);
    let few = cluster.status()?["under_replicated"].as_u64().context("STATUS")?;
    cluster.wait_status("every message healed", |status| status["under_replicated"] == 0)?;
    tell(&format!("{few} messages copied again after --repair-after"), killed.elapsed().saturating_sub(GRACE), 30);
    get_all(&cluster, 1..=MESSAGES)?;

    cluster.start_node(2)?;
    cluster.wait_up(4)?;
    let mut held = Vec::new();
    for id in 1..=2_000 {
        let nodes = wire.ask(&format!("WHERE {id}"))?;
        if nodes.trim_start_matches("NODES ").split(',').any(|node| node == "3") {
            held.push(id);
        }
    }
    ensure!(held.len() > 100, "node 3 holds only {} of 2000", held.len());
    let killed = Instant::now();
    cluster.kill_node(3)?;
    let (mut first, mut slowest) = (None, Duration::ZERO);
    for &id in &held {
        let asked = Instant::now();
        wire.expect(&format!("GET {id}"), &format!("VALUE {}", message(id)))?;
        first.get_or_insert(killed.elapsed());
        slowest = slowest.max(asked.elapsed());
    }
    tell("node killed, until the next GET of what it held is answered", first.context("no GET")?, 1);
    tell(&format!("the slowest GET of {} messages that it held", held.len()), slowest, 1);
    Ok(())
}

/// The leader is killed, and comes back with its log.
fn leader_dies(ids: u64, tell: &mut impl FnMut(&str, Duration, u64)) -> anyhow::Result<()> {
    // So many files would measure the file system.
    let builder = Cluster::builder(binary()?).nodes(3).tolerance(2).patience(Duration::from_secs(120));
    let mut cluster = builder.node_args(["--layout", "log"]).start()?;
    set_all(&cluster, 1..=ids)?;
    cluster.kill_leader()?;
    let started = Instant::now();
    cluster.start_leader()?;
    let listens = started.elapsed();
    let mut wire = Wire::to(&cluster)?;
    // Answered when the nodes that have it are back.
    wire.expect(&format!("GET {ids}"), &format!("VALUE {}", message(ids)))?;
    let reads = started.elapsed();
    wire.expect("SET after x", "OK")?;
    let writes = started.elapsed();
    cluster.wait_up(3)?;
    let whole = started.elapsed();
    tell(&format!("leader with {ids} ids killed, from its start until it listens"), listens, 10);
    tell("until it answers a GET", reads, 10);
    tell("until it answers a SET", writes, 10);
    tell("until all nodes are up", whole, 10);
    for id in (1..=ids).step_by((ids / 1_000).max(1) as usize) {
        wire.expect(&format!("GET {id}"), &format!("VALUE {}", message(id)))?;
    }
    Ok(())
}

/// One connection, one request at a time.
struct Wire(BufReader<TcpStream>);

impl Wire {
    fn to(cluster: &Cluster) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(cluster.addr())?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn ask(&mut self, line: &str) -> anyhow::Result<String> {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut reply = String::new();
        self.0.read_line(&mut reply)?;
        Ok(reply.trim_end().to_owned())
    }

    fn expect(&mut self, line: &str, wanted: &str) -> anyhow::Result<()> {
        let reply = self.ask(line)?;
        ensure!(reply == wanted, "{line}: wanted {wanted:?}, saw {reply:?}");
        Ok(())
    }
}
