//! What honest clients wait while others misbehave, a node hangs, or thousands of messages are copied again: p99
//! beside that of a quiet register, which it may triple.
//!
//!     ulimit -n 20000
//!     cargo build --release && TMPDIR=/dev/shm cargo run --release --example hostile [-- STAGE...]
//!
//! Stages are crowd, reader, paused and repair (all of them). Fails if a bar is missed or an answer is wrong.

#![allow(clippy::print_stdout)]

mod common;

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use common::{binary, set_all};
use hatokuse::bench::launcher::Cluster;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Of the crowd.
const IDLE: usize = 10_000;
const SLOW: usize = 1_000;

/// Requests of the client that reads no reply.
const UNREAD: usize = 1_000_000;

/// Of half of them one node is a holder.
const MESSAGES: u64 = 20_000;

/// How long a stage is watched that does not end by itself.
const WATCHED: Duration = Duration::from_secs(10);

/// How many times its quiet value p99 may be.
const BAR: f64 = 3.0;

fn main() -> anyhow::Result<()> {
    raise_file_limit()?;
    let stages: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |stage: &str| stages.is_empty() || stages.iter().any(|name| name == stage);
    let builder = Cluster::builder(binary()?).nodes(4).tolerance(2).patience(Duration::from_secs(60));
    let mut cluster = builder.leader_args(["--repair-after", "2s"]).start()?;
    set_all(&cluster, 1..=MESSAGES)?;
    let honest = Honest::start(cluster.addr());
    let mut missed = Vec::new();
    println!(
        "{:<10}{:>42}{:>42}",
        "", "SET p50, p99, slowest (ms), p99 to quiet", "GET p50, p99, slowest (ms), p99 to quiet"
    );
    for stage in ["crowd", "reader", "paused", "repair"] {
        if !wanted(stage) {
            continue;
        }
        let quiet = honest.watch(a_while)?;
        show("quiet", &quiet, &quiet);
        let harmed = match stage {
            "crowd" => crowd(&cluster, &honest)?,
            "reader" => reader(&cluster, &honest)?,
            "paused" => paused(&cluster, &honest)?,
            _ => repair(&mut cluster, &honest)?,
        };
        if !show(stage, &harmed, &quiet) {
            missed.push(stage);
        }
    }
    honest.finish()?;
    ensure!(missed.is_empty(), "p99 was more than {BAR} times that of a quiet register: {missed:?}");
    Ok(())
}

/// Ten thousand clients that say nothing and a thousand that send one byte a second.
fn crowd(cluster: &Cluster, honest: &Honest) -> anyhow::Result<[Latencies; 2]> {
    let connect = || TcpStream::connect(cluster.addr()).context("a connection; is `ulimit -n` high enough?");
    let idle: Vec<TcpStream> = (0..IDLE).map(|_| connect()).collect::<anyhow::Result<_>>()?;
    let slow: Vec<TcpStream> = (0..SLOW).map(|_| connect()).collect::<anyhow::Result<_>>()?;
    let line = b"SET one-byte-a-second takes-its-time";
    let stop = Arc::new(AtomicBool::new(false));
    let dripping = std::thread::spawn({
        let stop = stop.clone();
        move || {
            for byte in line.iter().cycle() {
                for mut stream in &slow {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // Whoever is cut off for it says no more.
                    let _ = stream.write_all(&[*byte]);
                    std::thread::sleep(Duration::from_secs(1) / SLOW as u32);
                }
            }
        }
    });
    let harmed = honest.watch(a_while);
    stop.store(true, Ordering::Relaxed);
    dripping.join().expect("the slow clients");
    drop(idle);
    harmed
}

/// A client that asks a million times and reads nothing.
fn reader(cluster: &Cluster, honest: &Honest) -> anyhow::Result<[Latencies; 2]> {
    let before = memory(cluster)?;
    let mut most = before;
    let mut sent = 0;
    let harmed = honest.watch(|| {
        let stream = TcpStream::connect(cluster.addr())?;
        stream.set_nonblocking(true)?;
        let lines = "GET 1\n".repeat(UNREAD);
        let began = Instant::now();
        while began.elapsed() < WATCHED {
            match (&stream).write(&lines.as_bytes()[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
                Err(_) => break,
            }
            most = most.max(memory(cluster)?);
        }
        Ok(())
    })?;
    println!(
        "          {} of {UNREAD} requests were taken; the leader's memory: {before} MiB, then {most} MiB",
        sent / 6
    );
    Ok(harmed)
}

/// One node of four hangs.
fn paused(cluster: &Cluster, honest: &Honest) -> anyhow::Result<[Latencies; 2]> {
    let harmed = honest.watch(|| {
        cluster.pause_node(3)?;
        a_while()
    });
    cluster.resume_node(3)?;
    cluster.wait_up(4)?;
    cluster.wait_status("every message healed", |status| status["repair"]["pending"] == 0)?;
    harmed
}

/// One node is killed; watched from when its messages begin to be copied again until they all are.
fn repair(cluster: &mut Cluster, honest: &Honest) -> anyhow::Result<[Latencies; 2]> {
    cluster.kill_node(2)?;
    let mut pending = 0;
    cluster.wait_status("repair", |status| {
        pending = status["repair"]["pending"].as_u64().unwrap_or_default();
        pending > 0
    })?;
    let began = Instant::now();
    let harmed =
        honest.watch(|| cluster.wait_status("every message healed", |status| status["repair"]["pending"] == 0))?;
    println!("          {pending} messages and more were copied again in {:.1} s", began.elapsed().as_secs_f64());
    cluster.start_node(2)?;
    cluster.wait_up(4)?;
    Ok(harmed)
}

fn a_while() -> anyhow::Result<()> {
    std::thread::sleep(WATCHED);
    Ok(())
}

// ---- the honest clients ----------------------------------------------------

/// Latencies of one kind of request, ascending; some at least.
struct Latencies(Vec<Duration>);

impl Latencies {
    /// In milliseconds.
    fn quantile(&self, share: f64) -> f64 {
        let at = ((self.0.len() - 1) as f64 * share).round() as usize;
        self.0[at].as_secs_f64() * 1e3
    }
}

/// One client that writes and one that reads, each one request at a time.
struct Honest {
    seen: [Arc<Mutex<Vec<Duration>>>; 2],
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Honest {
    fn start(addr: &str) -> Self {
        let seen = <[Arc<Mutex<Vec<Duration>>>; 2]>::default();
        let stop = Arc::new(AtomicBool::new(false));
        let start = |kind: usize| {
            let (addr, seen, stop) = (addr.to_owned(), seen[kind].clone(), stop.clone());
            std::thread::spawn(move || ask_on(&addr, kind == 0, &seen, &stop))
        };
        let threads = vec![start(0), start(1)];
        Self { seen, stop, threads }
    }

    /// What they waited while this was done.
    fn watch(&self, what: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<[Latencies; 2]> {
        let take = |seen: &Arc<Mutex<Vec<Duration>>>| {
            let mut taken = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
            taken.sort_unstable();
            Latencies(taken)
        };
        // What they waited before is another stage's.
        let _ = self.seen.each_ref().map(take);
        what()?;
        let seen = self.seen.each_ref().map(take);
        ensure!(seen.iter().all(|seen| !seen.0.is_empty()), "an honest client got no answer at all");
        Ok(seen)
    }

    fn finish(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().try_for_each(|thread| thread.join().expect("an honest client"))
    }
}

fn ask_on(addr: &str, writes: bool, seen: &Mutex<Vec<Duration>>, stop: &AtomicBool) -> anyhow::Result<()> {
    let stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    let mut wire = BufReader::new(stream);
    let mut reply = String::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let id = n % MESSAGES + 1;
        let line = if writes { format!("SET honest-{id} x\n") } else { format!("GET {id}\n") };
        let asked = Instant::now();
        wire.get_mut().write_all(line.as_bytes())?;
        reply.clear();
        wire.read_line(&mut reply)?;
        ensure!(reply == "OK\n" || reply.starts_with("VALUE "), "{line}: {reply}");
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(asked.elapsed());
    }
    Ok(())
}

/// Prints a line; whether p99 is within its bar.
fn show(stage: &str, [set, get]: &[Latencies; 2], quiet: &[Latencies; 2]) -> bool {
    let mut within = true;
    let mut line = format!("{stage:<10}");
    for (these, quiet) in [(set, &quiet[0]), (get, &quiet[1])] {
        let ([p50, p99, slowest], before) = ([0.5, 0.99, 1.0].map(|share| these.quantile(share)), quiet.quantile(0.99));
        within &= p99 <= BAR * before;
        line += &format!("{p50:>14.2} {p99:>8.2} {slowest:>9.2} {:>8.2}", p99 / before);
    }
    println!("{line}{}", if within { "" } else { "  MISSED" });
    within
}

/// Resident memory of the leader, in MiB.
fn memory(cluster: &Cluster) -> anyhow::Result<u64> {
    let pid = cluster.leader_pid().context("the leader runs")?;
    let mut text = String::new();
    std::fs::File::open(format!("/proc/{pid}/status"))?.read_to_string(&mut text)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? >> 10)
}

fn raise_file_limit() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let enough = limit.maximum.is_none_or(|most| most > (IDLE + SLOW + 100) as u64);
    ensure!(enough, "`ulimit -Hn` is {:?}: too few for {} connections", limit.maximum, IDLE + SLOW);
    Ok(())
}
