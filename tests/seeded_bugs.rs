//! The tests tested: every bug of `src/seeded.rs` breaks a rule of the failure model, and the suites must find it.
//!
//! For each bug the suites that are fast and the same every time run as processes that have it, until one fails:
//! `cargo test --features seeded-bugs --test seeded_bugs -- --nocapture`. `ALL=1` goes on to the end and says of
//! every suite whether it finds the bug; `BUG=<name>` takes that one only.
#![cfg(feature = "seeded-bugs")]
#![allow(clippy::print_stdout, reason = "which suite finds which bug is the result")]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hatokuse::seeded;

/// A suite that is not through by then hangs, which no suite does without a bug.
const LIMIT: Duration = Duration::from_secs(180);

/// A suite: its test binary, what to pass it, and from which seed how many are played.
struct Suite {
    binary: &'static str,
    arguments: &'static [&'static str],
    from: u64,
    seeds: u64,
}

/// What costs least comes first.
const SUITES: &[Suite] = &[
    Suite { binary: "hatokuse", arguments: &[], from: 0, seeds: 0 },
    Suite { binary: "simulation", arguments: &["campaign"], from: 1, seeds: 40 },
    Suite { binary: "crash_points", arguments: &[], from: 0, seeds: 0 },
    Suite { binary: "simulation", arguments: &["campaign"], from: 41, seeds: 460 },
];

/// Builds the suites with the feature; their programs by name.
fn build() -> BTreeMap<String, PathBuf> {
    let built = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["test", "--locked", "--features", "seeded-bugs", "--no-run", "--message-format=json"])
        .args(["--lib", "--test", "simulation", "--test", "crash_points"])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(built.status.success(), "the suites cannot be built");
    let lines = built.stdout.split(|&byte| byte == b'\n');
    let messages = lines.filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
    let program = |message: serde_json::Value| {
        let test = message["profile"]["test"].as_bool()?;
        let name = message["target"]["name"].as_str()?.to_owned();
        test.then_some((name, PathBuf::from(message["executable"].as_str()?)))
    };
    messages.filter_map(program).collect()
}

/// Runs a suite with a bug, or with none; what failed in it, if anything did.
fn run(suite: &Suite, program: &Path, bug: Option<&str>) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("output");
    let output = File::create(&path).unwrap();
    let mut command = Command::new(program);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(suite.arguments);
    command.env("FROM", suite.from.to_string()).env("SEEDS", suite.seeds.to_string()).env("STOP", "1");
    match bug {
        Some(bug) => command.env(seeded::VARIABLE, bug),
        None => command.env_remove(seeded::VARIABLE),
    };
    let output = (output.try_clone().unwrap(), output);
    let mut child = command.stdin(Stdio::null()).stdout(output.0).stderr(output.1).spawn().unwrap();
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            return Some("does not end".to_owned());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
    if suite.seeds > 0 {
        let seed = text.lines().find_map(|line| line.trim().strip_prefix("SEED=")?.split(' ').next());
        return Some(seed.map_or_else(|| format!("{status}"), |seed| format!("seed {seed}")));
    }
    let mut failed: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED")).collect();
    failed.sort_unstable();
    let first = failed.first().copied().unwrap_or("no test of its own");
    Some(if failed.len() > 1 { format!("{first} and {} more", failed.len() - 1) } else { first.to_owned() })
}

#[test]
fn every_bug_is_found() {
    let programs = build();
    let all = std::env::var("ALL").is_ok();
    let only = std::env::var("BUG").ok();
    for suite in SUITES {
        let failed = run(suite, &programs[suite.binary], None);
        assert_eq!(failed, None, "{} fails without any bug", suite.binary);
    }
    let mut missed = Vec::new();
    for (bug, rule, _) in seeded::ALL {
        let name = bug.name();
        if only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let mut found = Vec::new();
        for suite in SUITES {
            let skip = suite.from > 1 && found.iter().any(|finding: &String| finding.starts_with("simulation"));
            if let Some(failed) = (!skip).then(|| run(suite, &programs[suite.binary], Some(&name))).flatten() {
                found.push(format!("{}: {failed}", suite.binary));
                if !all {
                    break;
                }
            }
        }
        println!("rule {rule:>2}  {name:<24} {}", found.join("; "));
        if found.is_empty() {
            missed.push(name);
        }
    }
    assert!(missed.is_empty(), "no suite finds {missed:?}");
}

#[test]
fn every_rule_is_broken_by_a_bug() {
    for rule in 1..=10 {
        assert!(seeded::ALL.iter().any(|(_, of, _)| *of == rule), "rule {rule}");
    }
    assert!(seeded::ALL.len() >= 20, "{}", seeded::ALL.len());
}
