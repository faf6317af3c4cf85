//! `hatokuse bench`: load a register, measure it, and check what it says.
//!
//! This file orders the steps: launch, load, measure, read back, report.
//! Standard output carries the report and nothing else. The parts, from thought to hands:
//!
//! - `workload`: which request comes next and what its reply must be, from a seed;
//! - `dialect`: both as bytes, in the text protocol and in Redis's;
//! - `session`: one connection without its socket: closed and open loop, latencies, checks;
//! - `drive`: sockets and clock, one thread for all connections, which `dial` makes; `clean` removes what a run wrote;
//! - `report`: figures as text, JSON, a page, and two runs compared.
//!
//! docs/bench.md says what is measured and how; the load generator must stay cheap,
//! because it shares its cores with what it measures.

mod child;
mod clean;
mod dial;
mod dialect;
mod drive;
#[cfg(test)]
mod fake;
pub mod launcher;
mod machine;
mod progress;
pub mod report;
mod session;
pub mod settings;
pub mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use self::dial::Target;
pub use self::dialect::Dialect;
use self::drive::{Outcome, PATIENCE};
use self::launcher::Cluster;
use self::progress::{Goal, Progress};
use self::report::{Cpu, Left, Register, Report, compare, html};
use self::session::{Pace, Rules};
pub use self::settings::{Local, Op, Settings};
use self::workload::{Order, Plan, Values};
use crate::VERSION;
use crate::lock::Lock;
use crate::types::Endpoints;

/// Everything was right.
const EXIT_OK: u8 = 0;
/// Errors were seen, or a value was not as written.
const EXIT_FAILED: u8 = 1;
/// Settings that cannot work.
const EXIT_USAGE: u8 = 2;
/// No connection, or no answer to anything.
const EXIT_NO_ANSWER: u8 = 4;

/// Runs the bench; gives the exit code.
pub fn run(settings: Settings) -> anyhow::Result<u8> {
    if let Some(reason) = settings.impossible() {
        tell(&reason);
        return Ok(EXIT_USAGE);
    }
    // Lives until the end of this function, and its processes with it.
    let cluster = settings.local.as_ref().map(launch).transpose()?;
    let addr = cluster.as_ref().map_or(settings.addr.clone(), |cluster| cluster.addr().to_owned());
    let pids = cluster.as_ref().map(Cluster::pids).unwrap_or_default();
    // A throw-away cluster asks for none.
    let credentials = settings.credentials.clone().filter(|_| cluster.is_none());
    let tls = settings.tls.clone().filter(|_| cluster.is_none());
    let endpoints = Lock::new(Endpoints::new(&addr));
    let target = Target { endpoints, patience: PATIENCE, credentials, tls, pids };
    let report = match until_ctrl_c({
        let settings = settings.clone();
        move || measure(&settings, &target)
    })? {
        Ok(report) => report,
        Err(Stop::NoConnection(error)) if error.kind() == ErrorKind::PermissionDenied => {
            tell(&format!("{addr}: {error}; look into --user and --password-file"));
            return Ok(EXIT_FAILED);
        }
        Err(Stop::NoConnection(error)) => {
            let missed = if error.kind() == ErrorKind::TimedOut { "no answer from" } else { "no connection to" };
            tell(&format!(
                "{missed} {addr}: {error}; is the leader running? Start one with `hatokuse leader \
                 --local-nodes 4`, name another with --addr HOST:PORT, or add --local-nodes 4 to this command"
            ));
            return Ok(EXIT_NO_ANSWER);
        }
        Err(Stop::Because(error)) => return Err(error),
    };
    let text = if settings.json { report.json() + "\n" } else { report.text() };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    if let Some(path) = &settings.html {
        std::fs::write(path, html::page(&report)).with_context(|| format!("{} was not written", path.display()))?;
    }
    if report.is_clean() {
        return Ok(EXIT_OK);
    }
    let first = report.first_error.as_deref().unwrap_or("see the report");
    tell(&format!("not everything was right; first: {first}"));
    Ok(EXIT_FAILED)
}

/// Prints how two files of `--json` lines compare; gives the exit code.
pub fn compare(a: &Path, b: &Path) -> anyhow::Result<u8> {
    let read = |path: &Path| {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
        compare::Set::read(&name, &text)
    };
    match read(a).and_then(|a| Ok((a, read(b)?))) {
        Ok((a, b)) => {
            std::io::stdout().lock().write_all(compare::table(&a, &b).as_bytes())?;
            Ok(EXIT_OK)
        }
        Err(reason) => {
            tell(&reason);
            Ok(EXIT_USAGE)
        }
    }
}

/// Why a bench ended without a report.
#[derive(Debug)]
enum Stop {
    NoConnection(std::io::Error),
    Because(anyhow::Error),
}

/// Works on a thread of its own: returning is what stops a local cluster and removes its folder.
fn until_ctrl_c<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("bench".to_owned()).spawn(move || drop(done.send(work())))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Process 1 of a container ends by no signal that it does not take.
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            result = result => return result.context("the bench failed inside"),
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        anyhow::bail!("interrupted before the end; what it has written by then stays in the register")
    })
}

fn launch(local: &Local) -> anyhow::Result<Cluster> {
    let binary = std::env::current_exe().context("where this program lies could not be found")?;
    Cluster::builder(binary)
        .nodes(local.nodes as u32)
        .tolerance(local.tolerance)
        .io_mode(local.io_mode)
        .leader_args(["--repair-after".to_owned(), format!("{}ms", local.repair_after.as_millis())])
        .node_args(["--layout", &local.layout])
        .start()
        .context("the local cluster did not start")
}

fn measure(settings: &Settings, target: &Target) -> Result<Report, Stop> {
    let values = Values::new(&settings.key_prefix, settings.seed, settings.sizes)
        .ending(settings.ttl.map(|ttl| ttl.as_millis() as u64));
    let warm = settings.warmup.as_nanos() as u64;
    let rules = Rules {
        dialect: settings.protocol,
        connections: settings.connections,
        pipeline: settings.pipeline,
        pace: settings.rate.map(Pace),
        wait: settings.wait,
        warm,
        end: settings.duration.map(|duration| warm.saturating_add(duration.as_nanos() as u64)),
    };
    let order = settings.order();
    load(target, &rules, &values, order.needs())?;
    let mut plan = Plan::new(order, settings.count(), settings.seed);
    if settings.verify && matches!(order, Order::Overwrite(_)) {
        plan = plan.remember();
    }
    let name = match settings.op {
        Op::Set => "SET",
        Op::Get => "GET",
        Op::Mixed => "SET+GET",
    };
    let mut outcome = phase(target, rules.clone(), &values, plan, name)?;
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
    let ids = match order {
        Order::Write | Order::MixedNew(_) => outcome.plan.sets_given(),
        Order::Overwrite(choice) | Order::Read(choice) | Order::Mixed(_, choice) => choice.keys,
    };
    let cpu_per_op = cpu_per_op(&outcome, settings.local.is_some());
    let mut first_error = outcome.first_error;
    let (mut verified, mut to_verify) = (None, 0);
    if settings.verify {
        let plan = match order {
            Order::Write | Order::MixedNew(_) => Plan::read_all(outcome.plan.sets_given()),
            Order::Overwrite(_) => Plan::read_these(outcome.plan.written()),
            Order::Read(choice) | Order::Mixed(_, choice) => Plan::read_all(choice.keys),
        };
        to_verify = plan.left().unwrap_or(0);
        let read = phase(target, rules.unmeasured(), &values, plan, "verify")?;
        verified = Some(read.gets.right());
        first_error = first_error.or(read.first_error);
    }
    // Before anything is removed: these are the figures of what was written.
    let (nodes, register) = ask_status(target);
    let left = left(settings, target, &values, ids)?;
    let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    Ok(Report {
        addr: target.endpoints.lock().to_string(),
        protocol: settings.protocol.name(),
        connections: settings.connections,
        pipeline: settings.pipeline,
        size: settings.sizes.max,
        results,
        verified,
        nodes,
        first_error,
        settings: settings.asked(),
        unsent: outcome.unsent,
        cpu_per_op,
        machine: machine::describe(),
        version: VERSION,
        date,
        to_verify,
        register,
        left,
    })
}

/// What is left of a run in a register that lives on: `ids` messages, unless they are removed here.
fn left(settings: &Settings, target: &Target, values: &Values, ids: u64) -> Result<Option<Left>, Stop> {
    if settings.local.is_some() || ids == 0 {
        return Ok(None);
    }
    if !settings.clean {
        return Ok(Some(Left { ids, prefix: settings.key_prefix.clone(), remove: Some(settings.to_remove(ids)) }));
    }
    clean::clean(target, settings.protocol, values, ids)
        .with_context(|| format!("the run is over, but not all of its {ids} messages could be removed"))
        .map_err(Stop::Because)?;
    Ok(Some(Left { ids, prefix: settings.key_prefix.clone(), remove: None }))
}

/// What an operation cost, shared out over all that ended.
fn cpu_per_op(outcome: &Outcome, servers: bool) -> Cpu {
    let ended = (outcome.sets.ended() + outcome.gets.ended()).max(1) as f64;
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / ended;
    Cpu { bench_us: micros(outcome.cpu.0), servers_us: servers.then(|| micros(outcome.cpu.1)) }
}

fn phase(target: &Target, rules: Rules, values: &Values, plan: Plan, name: &'static str) -> Result<Outcome, Stop> {
    let goal = match (rules.end, plan.left()) {
        (Some(end), _) => Goal::Time(Duration::from_nanos(end)),
        (None, left) => Goal::Count(left.unwrap_or(0)),
    };
    let mut progress = Progress::on_stderr(name, goal);
    answered(target, drive::drive(target, rules, values, plan, &mut progress))
}

/// A server that takes connections and answers nothing is as good as none.
fn answered(target: &Target, outcome: std::io::Result<Outcome>) -> Result<Outcome, Stop> {
    let outcome = outcome.map_err(Stop::NoConnection)?;
    if outcome.silent {
        let why = format!("nothing came back for {:?}", target.patience);
        return Err(Stop::NoConnection(std::io::Error::new(ErrorKind::TimedOut, why)));
    }
    Ok(outcome)
}

/// Sees to it that every id below `count` holds its message before reads are measured.
fn load(target: &Target, rules: &Rules, values: &Values, count: u64) -> Result<(), Stop> {
    if count == 0 {
        return Ok(());
    }
    // Both ends right: an earlier run with the same prefix, seed and size got through.
    let one = Rules { connections: 1, ..rules.unmeasured() };
    let probe = drive::drive(target, one, values, Plan::probe(count), &mut Progress::hidden());
    if answered(target, probe)?.errors() == 0 {
        return Ok(());
    }
    let loaded = phase(target, rules.unmeasured(), values, Plan::load(count), "loading")?;
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
fn ask_status(target: &Target) -> (BTreeMap<u32, u64>, Option<Register>) {
    match dial::ask(target, "STATUS") {
        Ok(line) => read_status(&line).unwrap_or_default(),
        Err(_) => Default::default(),
    }
}

fn read_status(line: &str) -> Option<(BTreeMap<u32, u64>, Option<Register>)> {
    let status: serde_json::Value = serde_json::from_str(line).ok()?;
    let mut copies = BTreeMap::new();
    let (mut io_modes, mut layouts) = (BTreeSet::new(), BTreeSet::new());
    for node in status["nodes"].as_array()? {
        copies.insert(u32::try_from(node["id"].as_u64()?).ok()?, node["messages"].as_u64()?);
        io_modes.extend(node["io_mode"].as_str().map(str::to_owned));
        layouts.extend(node["layout"].as_str().map(str::to_owned));
    }
    let register = Register {
        tolerance: status["tolerance"].as_u64()?,
        messages: status["messages"].as_u64()?,
        io_modes: io_modes.into_iter().collect(),
        layouts: layouts.into_iter().collect(),
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
    use super::settings::tests::settings;
    use super::workload::{Distribution, Mix, Sizes};
    use super::*;

    fn target(fake: &Fake) -> Target {
        Target {
            endpoints: Lock::new(Endpoints::new(&fake.addr())),
            patience: PATIENCE,
            credentials: None,
            tls: None,
            pids: Vec::new(),
        }
    }

    fn measured(fault: Fault, op: Op) -> Report {
        measure(&settings(op), &target(&Fake::start(fault))).unwrap()
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
    fn what_a_run_leaves_is_told_or_removed() {
        for protocol in [Dialect::Text, Dialect::Resp] {
            let fake = Fake::start(Fault::None);
            let kept = measure(&Settings { protocol, ..settings(Op::Set) }, &target(&fake)).unwrap();
            assert_eq!(kept.left.as_ref().map(|left| left.ids), Some(101));
            assert!(kept.text().contains("k-0 to k-100"), "{}", kept.text());
            let cleaned = measure(&Settings { protocol, clean: true, ..settings(Op::Get) }, &target(&fake)).unwrap();
            assert_eq!(cleaned.nodes, [(1, 101), (2, 101)].into(), "counted before they go");
            assert!(cleaned.text().contains("removed   101 messages"), "{}", cleaned.text());
            assert!(dial::ask(&target(&fake), "GET k-100").unwrap().starts_with("ERROR NOT_FOUND"));
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
        let fake = Fake::start(Fault::Refuse(50));
        // What stands there already must not be written again, or this would be refused.
        for index in [0, 100] {
            let mut line = format!("SET k-{index} ").into_bytes();
            Values::new("k-", 1, Sizes::only(30)).put_message(index, &mut line);
            let line = String::from_utf8(line).unwrap();
            assert_eq!(dial::ask(&target(&fake), &line).unwrap(), "OK");
        }
        let report = measure(&settings(Op::Get), &target(&fake)).unwrap();
        assert_eq!((report.results[0].count, report.results[0].errors), (101, 99));
        // With other messages the ids have to be loaded, and that fails here.
        let other = Settings { seed: 2, ..settings(Op::Get) };
        let Err(Stop::Because(error)) = measure(&other, &target(&fake)) else { panic!("should not load") };
        assert!(error.to_string().starts_with("1 of 101 messages could not be stored"), "{error}");
    }

    #[test]
    fn a_choice_of_keys_is_loaded_measured_and_verified() {
        let choice = Settings { keys: Some(40), distribution: Some(Distribution::Zipf), ..settings(Op::Mixed) };
        for protocol in [Dialect::Text, Dialect::Resp] {
            for op in [Op::Set, Op::Get, Op::Mixed] {
                let mix = (op == Op::Mixed).then_some(Mix { sets: 1, gets: 3 });
                let settings = Settings { protocol, op, mix, sizes: Sizes { min: 0, max: 90 }, ..choice.clone() };
                let report = measure(&settings, &target(&Fake::start(Fault::None))).unwrap();
                assert!(report.is_clean(), "{report:?}");
                let counts: Vec<_> = report.results.iter().map(|result| result.count).collect();
                assert_eq!(counts, if op == Op::Mixed { vec![26, 75] } else { vec![101] });
                // A zipf of 101 draws leaves some of 40 keys out; the others are all there.
                assert_eq!(report.verified == Some(40), op != Op::Set);
                assert_eq!((report.protocol, report.nodes.is_empty()), (protocol.name(), false));
            }
        }
    }

    #[test]
    fn a_time_ends_a_run_and_a_warm_up_is_in_no_result() {
        let [warmup, duration] = [50, 100].map(Duration::from_millis);
        let timed = Settings { count: None, duration: Some(duration), warmup, ..settings(Op::Set) };
        let report = measure(&timed, &target(&Fake::start(Fault::None))).unwrap();
        let result = &report.results[0];
        assert!(report.is_clean() && result.elapsed_s >= 0.09, "{report:?}");
        assert!(report.to_verify > result.count && result.count > 0, "what the warm-up wrote is read back too");
        let paced = Settings { rate: Some(1000), ..timed };
        let report = measure(&paced, &target(&Fake::start(Fault::None))).unwrap();
        // Requests 50 to 149 are due in the time that is measured.
        assert_eq!((report.results[0].count, report.unsent, report.settings.rate), (100, 0, Some(1000)), "{report:?}");
    }

    #[test]
    fn a_server_that_never_answers_is_no_server() {
        let fake = Fake::start(Fault::SilentAt(0));
        let target = Target { patience: Duration::from_millis(50), ..target(&fake) };
        for op in [Op::Set, Op::Get] {
            let Err(Stop::NoConnection(error)) = measure(&settings(op), &target) else { panic!("it answered") };
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        }
    }

    #[test]
    fn a_status_without_the_expected_fields_is_no_status() {
        for line in ["", "ERROR BAD_COMMAND", "{}", r#"{"nodes":[{}]}"#] {
            assert!(read_status(line).is_none(), "{line}");
        }
    }
}
