//! `hatokuse bench`: load a register, measure it, and check what it says.
//!
//! This file orders the steps: launch, load, measure, read back, report.
//! Standard output carries the report and nothing else.

mod child;
mod connection;
mod drive;
#[cfg(test)]
mod fake;
pub mod launcher;
mod progress;
pub mod report;
pub mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;

use self::drive::{Outcome, PATIENCE, Target};
use self::launcher::Cluster;
use self::progress::Progress;
use self::report::{Register, Report};
use self::workload::{Plan, Values};
use crate::types::{IoMode, MessageId};

/// Everything was right.
const EXIT_OK: u8 = 0;
/// Errors were seen, or a value was not as written.
const EXIT_FAILED: u8 = 1;
/// Settings that cannot work.
const EXIT_USAGE: u8 = 2;
/// No connection.
const EXIT_NO_ANSWER: u8 = 4;

/// What a bench does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Op {
    /// Write.
    Set,
    /// Read what was written before.
    Get,
    /// Half of each.
    Mixed,
}

/// A cluster that lives for one run.
#[derive(Debug, Clone)]
pub struct Local {
    /// Nodes.
    pub nodes: usize,
    /// Copies a message.
    pub tolerance: usize,
    /// Of leader and nodes.
    pub io_mode: IoMode,
    /// Grace before the copies of a node that is down are made again.
    pub repair_after: Duration,
}

/// What `hatokuse bench` was asked for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The leader's address for clients; not used with `local`.
    pub addr: String,
    /// Operations in all.
    pub count: u64,
    /// Connections.
    pub connections: usize,
    /// Requests in flight on each.
    pub pipeline: usize,
    /// Bytes a message.
    pub size: usize,
    /// What to do.
    pub op: Op,
    /// What every id starts with.
    pub key_prefix: String,
    /// Makes messages and the order of reads.
    pub seed: u64,
    /// Read back and compare.
    pub verify: bool,
    /// Report as JSON.
    pub json: bool,
    /// Start a cluster for this run.
    pub local: Option<Local>,
}

/// Runs the bench; gives the exit code.
pub fn run(settings: Settings) -> anyhow::Result<u8> {
    if let Some(reason) = impossible(&settings) {
        tell(&reason);
        return Ok(EXIT_USAGE);
    }
    // Lives until the end of this function, and its processes with it.
    let cluster = settings.local.as_ref().map(launch).transpose()?;
    let addr = cluster.as_ref().map_or(settings.addr.clone(), |cluster| cluster.addr().to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::select! {
            result = measure(&settings, &addr) => result,
            // Returning is what stops a local cluster and removes its folder.
            _ = tokio::signal::ctrl_c() => Err(Stop::Because(anyhow::anyhow!("interrupted before the end"))),
        }
    });
    let report = match measured {
        Ok(report) => report,
        Err(Stop::NoConnection(error)) => {
            tell(&format!(
                "no connection to {addr}: {error}; is the leader running? Start one with `hatokuse leader \
                 --local-nodes 4`, name another with --addr HOST:PORT, or add --local-nodes 4 to this command"
            ));
            return Ok(EXIT_NO_ANSWER);
        }
        Err(Stop::Because(error)) => return Err(error),
    };
    let text = if settings.json { report.json() + "\n" } else { report.text() };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    if report.is_clean() {
        return Ok(EXIT_OK);
    }
    let first = report.first_error.as_deref().unwrap_or("see the report");
    tell(&format!("not everything was right; first: {first}"));
    Ok(EXIT_FAILED)
}

/// Why a bench ended without a report.
#[derive(Debug)]
enum Stop {
    NoConnection(std::io::Error),
    Because(anyhow::Error),
}

fn impossible(settings: &Settings) -> Option<String> {
    let longest = format!("{}{}", settings.key_prefix, settings.count.saturating_sub(1));
    if let Err(reason) = MessageId::parse(longest.as_bytes()) {
        return Some(format!("--key-prefix {:?} makes no ids: {reason}", settings.key_prefix));
    }
    let local = settings.local.as_ref()?;
    (local.nodes < local.tolerance)
        .then(|| format!("--tolerance {0} wants at least {0} nodes; give --local-nodes {0} or more", local.tolerance))
}

fn launch(local: &Local) -> anyhow::Result<Cluster> {
    let binary = std::env::current_exe().context("where this program lies could not be found")?;
    Cluster::builder(binary)
        .nodes(local.nodes as u32)
        .tolerance(local.tolerance)
        .io_mode(local.io_mode)
        .leader_args(["--repair-after".to_owned(), format!("{}ms", local.repair_after.as_millis())])
        .start()
        .context("the local cluster did not start")
}

async fn measure(settings: &Settings, addr: &str) -> Result<Report, Stop> {
    let values = Values::new(&settings.key_prefix, settings.seed, settings.size);
    let target = Target {
        addr: addr.to_owned(),
        connections: settings.connections,
        pipeline: settings.pipeline,
        patience: PATIENCE,
    };
    let count = settings.count;
    if settings.op == Op::Get {
        load(&target, &values, count).await?;
    }
    let name = match settings.op {
        Op::Set => "SET",
        Op::Get => "GET",
        Op::Mixed => "SET+GET",
    };
    let plan = Plan::measured(settings.op, count, settings.seed);
    let mut outcome = phase(&target, &values, plan, name).await?;
    // An error that belongs to no request must show all the same.
    let alone = std::mem::take(&mut outcome.connection_errors);
    (if settings.op == Op::Get { &mut outcome.gets } else { &mut outcome.sets }).errors += alone;

    let mut results = Vec::new();
    if settings.op != Op::Get {
        results.push(outcome.sets.result("set", outcome.elapsed));
    }
    if settings.op != Op::Set {
        results.push(outcome.gets.result("get", outcome.elapsed));
    }
    let mut first_error = outcome.first_error;
    let to_verify = if settings.op == Op::Mixed { count.div_ceil(2) } else { count };
    let mut verified = None;
    if settings.verify {
        let read = phase(&target, &values, Plan::read_back(to_verify), "verify").await?;
        verified = Some(read.gets.right());
        first_error = first_error.or(read.first_error);
    }
    let (nodes, register) = ask_status(addr).await;
    Ok(Report {
        addr: addr.to_owned(),
        protocol: "text",
        connections: settings.connections,
        pipeline: settings.pipeline,
        size: settings.size,
        results,
        verified,
        nodes,
        first_error,
        to_verify,
        register,
    })
}

async fn phase(target: &Target, values: &Values, plan: Plan, name: &'static str) -> Result<Outcome, Stop> {
    let progress = Progress::on_stderr(name, plan.total());
    drive::drive(target, values, plan, progress).await.map_err(Stop::NoConnection)
}

/// Sees to it that every id holds its message before reads are measured.
async fn load(target: &Target, values: &Values, count: u64) -> Result<(), Stop> {
    // Both ends right: an earlier run with the same prefix, seed and size got through.
    let one = Target { connections: 1, ..target.clone() };
    let probe = drive::drive(&one, values, Plan::probe(count), Progress::hidden()).await.map_err(Stop::NoConnection)?;
    if probe.errors() == 0 {
        return Ok(());
    }
    let loaded = phase(target, values, Plan::load(count), "loading").await?;
    if loaded.errors() == 0 {
        return Ok(());
    }
    Err(Stop::Because(anyhow::anyhow!(
        "{} of {count} messages could not be stored for the reads; first: {}",
        loaded.errors(),
        loaded.first_error.unwrap_or_default()
    )))
}

/// Copies per node and what else STATUS says; empty if the server has no such command.
async fn ask_status(addr: &str) -> (BTreeMap<u32, u64>, Option<Register>) {
    match drive::ask(addr, "STATUS", PATIENCE).await {
        Ok(line) => read_status(&line).unwrap_or_default(),
        Err(_) => Default::default(),
    }
}

fn read_status(line: &str) -> Option<(BTreeMap<u32, u64>, Option<Register>)> {
    let status: serde_json::Value = serde_json::from_str(line).ok()?;
    let mut copies = BTreeMap::new();
    let mut io_modes = BTreeSet::new();
    for node in status["nodes"].as_array()? {
        copies.insert(u32::try_from(node["id"].as_u64()?).ok()?, node["messages"].as_u64()?);
        io_modes.extend(node["io_mode"].as_str().map(str::to_owned));
    }
    let register = Register {
        tolerance: status["tolerance"].as_u64()?,
        messages: status["messages"].as_u64()?,
        io_modes: io_modes.into_iter().collect(),
    };
    Some((copies, Some(register)))
}

/// A line on stderr; nobody listening is no reason to fail.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "hatokuse bench: {text}");
}

#[cfg(test)]
mod tests {
    use super::fake::{Fake, Fault};
    use super::*;

    fn settings(op: Op) -> Settings {
        Settings {
            addr: String::new(),
            count: 101,
            connections: 3,
            pipeline: 4,
            size: 30,
            op,
            key_prefix: "k-".to_owned(),
            seed: 1,
            verify: true,
            json: true,
            local: None,
        }
    }

    fn measured(fault: Fault, op: Op) -> Report {
        fake::run(async move {
            let fake = Fake::start(fault).await;
            measure(&settings(op), &fake.addr()).await.unwrap()
        })
    }

    #[test]
    fn every_op_is_measured_and_verified() {
        for (op, counts, messages) in [
            (Op::Set, vec![("set", 101)], 101),
            (Op::Get, vec![("get", 101)], 101),
            (Op::Mixed, vec![("set", 51), ("get", 50)], 51),
        ] {
            let report = measured(Fault::None, op);
            assert!(report.is_clean(), "{report:?}");
            assert_eq!(report.results.iter().map(|r| (r.op, r.count)).collect::<Vec<_>>(), counts);
            assert_eq!(report.verified, Some(messages));
            assert_eq!(report.nodes, [(1, messages), (2, messages)].into());
            assert_eq!(report.register.unwrap().io_modes, ["buffered"]);
        }
    }

    #[test]
    fn a_wrong_value_is_seen_by_the_verification_alone() {
        let report = measured(Fault::WrongValue(50), Op::Set);
        assert_eq!((report.results[0].errors, report.verified), (0, Some(100)));
        assert!(!report.is_clean());
        assert!(report.first_error.unwrap().starts_with("GET k-50: "));
    }

    #[test]
    fn reads_are_not_loaded_twice() {
        fake::run(async {
            let fake = Fake::start(Fault::Refuse(50)).await;
            // What stands there already must not be written again, or this would be refused.
            for index in [0, 100] {
                let mut line = bytes::BytesMut::from(format!("SET k-{index} ").as_bytes());
                Values::new("k-", 1, 30).put_message(index, &mut line);
                let line = String::from_utf8(line.to_vec()).unwrap();
                assert_eq!(drive::ask(&fake.addr(), &line, PATIENCE).await.unwrap(), "OK");
            }
            let report = measure(&settings(Op::Get), &fake.addr()).await.unwrap();
            assert_eq!((report.results[0].count, report.results[0].errors), (101, 99));
            // With other messages the ids have to be loaded, and that fails here.
            let other = Settings { seed: 2, ..settings(Op::Get) };
            let Err(Stop::Because(error)) = measure(&other, &fake.addr()).await else { panic!("should not load") };
            assert!(error.to_string().starts_with("1 of 101 messages could not be stored"), "{error}");
        });
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let local = |nodes| Some(Local { nodes, tolerance: 3, io_mode: IoMode::Buffered, repair_after: Duration::MAX });
        assert!(impossible(&settings(Op::Set)).is_none());
        assert!(impossible(&Settings { local: local(3), ..settings(Op::Set) }).is_none());
        assert!(impossible(&Settings { local: local(2), ..settings(Op::Set) }).is_some());
        assert!(impossible(&Settings { key_prefix: "a b".to_owned(), ..settings(Op::Set) }).is_some());
        assert!(impossible(&Settings { key_prefix: "x".repeat(198), ..settings(Op::Set) }).is_some());
    }

    #[test]
    fn a_status_without_the_expected_fields_is_no_status() {
        for line in ["", "ERROR BAD_COMMAND", "{}", r#"{"nodes":[{}]}"#] {
            assert!(read_status(line).is_none(), "{line}");
        }
    }
}
