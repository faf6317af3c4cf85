//! The tests tested: every bug of `src/seeded.rs` breaks a rule of the failure model, and what is to find it must.
//!
//! `cargo test --features seeded-bugs --test seeded_bugs -- --nocapture` runs, for each bug, its finder as a process
//! that has the bug (it has to fail) and as one that has none (it has to pass), and prints a table. The simulation
//! plays seeds from 1 on until one fails. `BUG=<name>` takes that bug only; `SEEDS=200` lets the simulation look for
//! every bug, in so many seeds; `ALL=1` takes every suite as a whole: for a bug whose finder has ceased to find it.
#![cfg(feature = "seeded-bugs")]
#![allow(clippy::print_stdout, reason = "what finds which bug is the result")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hatokuse::seeded::{self, Bug, CAMPAIGNS, Sown};

/// A suite that is not through by then hangs, which no suite does without a bug.
const LIMIT: Duration = Duration::from_secs(180);

/// The most seeds that the simulation plays for a bug that it is to find.
const SEEDS: u64 = 500;

/// What failed.
enum Found {
    /// The first seed that did.
    Seed(u64),
    /// A test, or more.
    Tests(String),
    /// It did not come to an end.
    Hung,
}

/// The test binaries, built with the feature.
struct Suites(BTreeMap<String, PathBuf>);

impl Suites {
    fn build() -> Self {
        let built = Command::new(env!("CARGO"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["test", "--locked", "--features", "seeded-bugs", "--no-run", "--message-format=json"])
            .args(["--lib", "--test", "simulation", "--test", "crash_points", "--test", "process"])
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
        Self(messages.filter_map(program).collect())
    }

    /// Runs one test of a suite, or all of them.
    fn tests(&self, bug: Option<Bug>, suite: &str, test: Option<&str>) -> Option<Found> {
        let (text, passed) = match self.run(bug, suite, &test.map_or(vec![], |test| vec!["--exact", test]), &[]) {
            Ok(output) => output,
            Err(hung) => return Some(hung),
        };
        assert!(test.is_none() || text.contains("running 1 test"), "{suite} has no test {test:?}");
        let failed = text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
        let failed: BTreeSet<&str> = failed.collect();
        (!passed).then(|| match (failed.first(), failed.len()) {
            (Some(first), 1) => Found::Tests((*first).to_owned()),
            (Some(first), count) => Found::Tests(format!("{first} and {} more", count - 1)),
            (None, _) => Found::Tests("the end of the process".to_owned()),
        })
    }

    /// Lets the simulation play seeds until one fails.
    fn seeds(&self, bug: Option<Bug>, campaign: &str, from: u64, count: u64) -> Option<Found> {
        let settings = [("FROM", from.to_string()), ("SEEDS", count.to_string()), ("STOP", "1".to_owned())];
        let (text, passed) = match self.run(bug, "simulation", &["--exact", campaign], &settings) {
            Ok(output) => output,
            Err(hung) => return Some(hung),
        };
        let failed = text.lines().filter_map(|line| line.trim().strip_prefix("SEED=")?.split(' ').next()?.parse().ok());
        match failed.min() {
            Some(seed) => Some(Found::Seed(seed)),
            None => (!passed).then(|| Found::Tests(campaign.to_owned())),
        }
    }

    /// Runs a program; gives what it printed and whether it ended well.
    fn run(
        &self,
        bug: Option<Bug>,
        suite: &str,
        arguments: &[&str],
        settings: &[(&str, String)],
    ) -> Result<(String, bool), Found> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("output");
        let output = File::create(&path).unwrap();
        let mut command = Command::new(&self.0[suite]);
        command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).envs(settings.iter().cloned());
        match bug {
            // What a property finds of a sown bug is no case to keep.
            Some(bug) => command.env(seeded::VARIABLE, bug.name()).env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1"),
            None => command.env_remove(seeded::VARIABLE),
        };
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let mut child = command.spawn().unwrap();
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if began.elapsed() > LIMIT {
                child.kill().unwrap();
                child.wait().unwrap();
                return Err(Found::Hung);
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        Ok((text, status.success()))
    }

    /// Runs what is to find a bug.
    fn finder(&self, sown: &Sown) -> Option<Found> {
        match (sown.suite, sown.test) {
            ("simulation", campaign) if CAMPAIGNS.contains(&campaign) => self.seeds(Some(sown.bug), campaign, 1, SEEDS),
            (suite, test) => self.tests(Some(sown.bug), suite, Some(test)),
        }
    }

    /// A test that fails anyhow, or a seed that does, finds nothing.
    fn is_sound(&self, sown: &Sown, found: &Found) -> bool {
        match found {
            Found::Seed(seed) => self.seeds(None, sown.test, *seed, 1).is_none(),
            _ => CAMPAIGNS.contains(&sown.test) || self.tests(None, sown.suite, Some(sown.test)).is_none(),
        }
    }

    /// Everything that any suite has to say of a bug.
    fn all(&self, bug: Bug, seeds: u64) -> String {
        let suites = ["hatokuse", "crash_points", "process"];
        let tests = suites.iter().map(|suite| (*suite, self.tests(Some(bug), suite, None)));
        let lives = CAMPAIGNS.iter().map(|campaign| ("simulation", self.seeds(Some(bug), campaign, 1, seeds)));
        let all = tests.chain(lives);
        let all = all.filter_map(|(suite, found)| Some(format!("{suite}: {}", found?.tell())));
        all.collect::<Vec<_>>().join("; ")
    }
}

impl Found {
    fn tell(&self) -> String {
        match self {
            Self::Seed(seed) => format!("seed {seed}"),
            Self::Tests(tests) => format!("`{tests}`"),
            Self::Hung => "does not end".to_owned(),
        }
    }
}

/// The lives in which a bug may show: those of a group, if it is one of several leaders.
fn campaign_of(sown: &Sown) -> &'static str {
    CAMPAIGNS[usize::from(sown.rule == 13)]
}

#[test]
fn every_bug_is_found() {
    let suites = Suites::build();
    let only = std::env::var("BUG").ok();
    let seeds: Option<u64> = std::env::var("SEEDS").ok().map(|seeds| seeds.parse().expect("SEEDS is a number"));
    let mut missed = Vec::new();
    println!("| rule | bug | what it does | found by | seeds | s |\n|---|---|---|---|---|---|");
    for sown in seeded::ALL.iter().filter(|sown| only.as_ref().is_none_or(|only| *only == sown.bug.name())) {
        let (name, began) = (sown.bug.name(), Instant::now());
        let found = suites.finder(sown);
        let took = began.elapsed().as_secs_f64();
        let told = found.as_ref().map_or("**nothing**".to_owned(), Found::tell);
        let seeds = match (&found, seeds) {
            (Some(Found::Seed(seed)), _) => seed.to_string(),
            (_, None) => String::new(),
            (_, Some(seeds)) => match suites.seeds(Some(sown.bug), campaign_of(sown), 1, seeds) {
                Some(Found::Seed(seed)) => seed.to_string(),
                Some(found) => found.tell(),
                None => format!("over {seeds}"),
            },
        };
        println!("| {} | `{name}` | {} | {}: {told} | {seeds} | {took:.1} |", sown.rule, sown.what.trim(), sown.suite);
        if std::env::var_os("ALL").is_some() {
            println!("{name}: {}", suites.all(sown.bug, SEEDS));
        }
        if !found.is_some_and(|found| suites.is_sound(sown, &found)) {
            missed.push(name);
        }
    }
    assert!(missed.is_empty(), "not found, or by what fails without the bug too: {missed:?}");
}

#[test]
fn every_rule_is_broken_by_a_bug() {
    for rule in 1..=13 {
        assert!(seeded::ALL.iter().any(|sown| sown.rule == rule), "rule {rule}");
    }
    assert!(seeded::ALL.len() >= 20, "{}", seeded::ALL.len());
}
