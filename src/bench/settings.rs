//! What a bench was asked for, whether that can work, and what it means.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::dialect::Dialect;
use super::report::Asked;
use super::workload::{Choice, Distribution, Mix, Order, Sizes};
use crate::config::ByteSize;
use crate::tls::Dialer;
use crate::types::{Credentials, IoMode, MessageId};

/// Where a bench goes unless it is told.
const USUAL_ADDR: &str = "127.0.0.1:6666";

/// Operations, or keys to read, where nothing is asked for.
pub const COUNT: u64 = 9000;

/// YCSB's exponent.
pub const THETA: f64 = 0.99;

/// Longer than any message that a server takes.
const LONGEST: usize = 512 << 20;

/// With `--verify` one bit is kept for each key that may be overwritten.
const MOST_REMEMBERED: u64 = 1 << 33;

/// What a bench does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Op {
    /// Write.
    Set,
    /// Read what was written before.
    Get,
    /// Some of each, by `--mix`.
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
    /// Of the nodes, as typed.
    pub layout: String,
    /// Grace before the copies of a node that is down are made again.
    pub repair_after: Duration,
}

/// What `hatokuse bench` was asked for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The server's address for clients, or several with commas between; not used with `local`.
    pub addr: String,
    /// How it is spoken to.
    pub protocol: Dialect,
    /// Who this is, if the server asks for it.
    pub credentials: Option<Credentials>,
    /// What encrypts connections, if they are to be.
    pub tls: Option<Dialer>,
    /// Operations in all; not with `duration`.
    pub count: Option<u64>,
    /// How long to measure, instead of a count.
    pub duration: Option<Duration>,
    /// How long to run before that.
    pub warmup: Duration,
    /// Requests a second of an open loop.
    pub rate: Option<u64>,
    /// Connections.
    pub connections: usize,
    /// Requests in flight on each.
    pub pipeline: usize,
    /// Bytes a message.
    pub sizes: Sizes,
    /// What to do.
    pub op: Op,
    /// SETs to GETs, of `Op::Mixed`.
    pub mix: Option<Mix>,
    /// Keys to choose from.
    pub keys: Option<u64>,
    /// How they are chosen.
    pub distribution: Option<Distribution>,
    /// Zipf's exponent.
    pub theta: Option<f64>,
    /// What every id starts with.
    pub key_prefix: String,
    /// Makes messages and chance.
    pub seed: u64,
    /// Read back and compare.
    pub verify: bool,
    /// Remove what the run wrote, when all is measured.
    pub clean: bool,
    /// Replicas that Redis has to confirm.
    pub wait: u32,
    /// How long messages stay; until they are deleted, if nothing is said.
    pub ttl: Option<Duration>,
    /// Report as JSON.
    pub json: bool,
    /// Where a page is written to.
    pub html: Option<PathBuf>,
    /// Start a cluster for this run.
    pub local: Option<Local>,
}

impl Settings {
    /// Operations to end with, unless a time does.
    pub fn count(&self) -> Option<u64> {
        self.duration.is_none().then(|| self.count.unwrap_or(COUNT))
    }

    /// What the measured phase does.
    pub fn order(&self) -> Order {
        let choice = |usual| Choice {
            keys: self.keys.or(self.count().filter(|count| *count > 0)).unwrap_or(COUNT),
            distribution: self.distribution.unwrap_or(usual),
            theta: self.theta.unwrap_or(THETA),
        };
        let chosen = self.keys.is_some() || self.distribution.is_some();
        let mix = self.mix.unwrap_or(Mix { sets: 1, gets: 1 });
        match self.op {
            Op::Set if chosen => Order::Overwrite(choice(Distribution::Sequential)),
            Op::Set => Order::Write,
            Op::Get => Order::Read(choice(Distribution::Shuffled)),
            Op::Mixed if chosen => Order::Mixed(mix, choice(Distribution::Uniform)),
            Op::Mixed => Order::MixedNew(mix),
        }
    }

    /// Why this cannot work, in words that say what would.
    pub fn impossible(&self) -> Option<String> {
        self.bad_time().or_else(|| self.bad_choice()).or_else(|| self.bad_place())
    }

    fn bad_time(&self) -> Option<String> {
        let (warmup, duration) = (humantime::format_duration(self.warmup), self.duration?);
        (self.warmup > duration).then(|| {
            let duration = humantime::format_duration(duration);
            format!(
                "--warmup {warmup} is longer than --duration {duration}, which begins after it; make --duration longer"
            )
        })
    }

    fn bad_choice(&self) -> Option<String> {
        let zipf = self.distribution == Some(Distribution::Zipf);
        if self.mix.is_some() && self.op != Op::Mixed {
            return Some("--mix needs --op mixed".to_owned());
        }
        if self.theta.is_some() && !zipf {
            return Some("--theta needs --distribution zipf".to_owned());
        }
        if self.theta.is_some_and(|theta| !(0.01..=10.0).contains(&theta)) {
            return Some("--theta goes from 0.01 to 10; YCSB has 0.99".to_owned());
        }
        if self.wait > 0 && (self.protocol == Dialect::Text || self.op == Op::Get) {
            return Some(
                "--wait is Redis's WAIT after SETs: it needs --protocol resp and --op set or mixed".to_owned(),
            );
        }
        if self.ttl.is_some_and(|ttl| self.op == Op::Get || ttl < Duration::from_millis(1)) {
            return Some("--ttl is for what is written, and at least 1ms: it needs --op set or mixed".to_owned());
        }
        if self.sizes.max > LONGEST {
            return Some("--size goes up to 512MiB".to_owned());
        }
        if self.verify && matches!(self.order(), Order::Overwrite(choice) if choice.keys > MOST_REMEMBERED) {
            return Some(format!("--verify can remember up to {MOST_REMEMBERED} --keys"));
        }
        let keys = self.keys.or(self.count()).map_or(u64::MAX, |keys| keys.saturating_sub(1));
        // After a warm-up new ids go on beyond the count.
        let last = if self.warmup > Duration::ZERO && self.keys.is_none() { u64::MAX } else { keys };
        let longest = format!("{}{last}", self.key_prefix);
        let reason = MessageId::parse(longest.as_bytes()).err()?;
        Some(format!("--key-prefix {:?} makes no ids: {reason}", self.key_prefix))
    }

    fn bad_place(&self) -> Option<String> {
        if let Some(path) = &self.html {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            if path.is_dir() || parent.is_some_and(|parent| !parent.is_dir()) {
                return Some(format!("--html {}: name a file in a folder that exists", path.display()));
            }
        }
        let local = self.local.as_ref()?;
        (local.nodes < local.tolerance).then(|| {
            format!("--tolerance {0} wants at least {0} nodes; give --local-nodes {0} or more", local.tolerance)
        })
    }

    /// The command that removes the ids below `ids` that a run with these settings wrote; what is usual is left out.
    pub fn to_remove(&self, ids: u64) -> String {
        let mut command = format!("hatokuse bench --op get --keys {ids} --count 1 --clean");
        let Sizes { min, max } = self.sizes;
        // With the same size and seed the messages are known again, and not written anew.
        for (flag, value, usual) in [
            ("--addr", self.addr.clone(), USUAL_ADDR),
            ("--protocol", self.protocol.name().to_owned(), "text"),
            ("--size", format!("{min}-{max}"), "100-100"),
            ("--seed", self.seed.to_string(), "1"),
            ("--key-prefix", self.key_prefix.clone(), "bench-"),
        ] {
            if value != usual {
                let _ = write!(command, " {flag} {value}");
            }
        }
        command
    }

    /// What a report says of all this.
    pub fn asked(&self) -> Asked {
        let order = self.order();
        let choice = match order {
            Order::Overwrite(choice) | Order::Read(choice) | Order::Mixed(_, choice) => Some(choice),
            Order::Write | Order::MixedNew(_) => None,
        };
        let mix = match order {
            Order::Mixed(mix, _) | Order::MixedNew(mix) => Some(mix),
            _ => None,
        };
        let distribution = choice.map(|choice| match choice.distribution {
            Distribution::Zipf => format!("zipf {}", choice.theta),
            other => other.name().to_owned(),
        });
        // Every id once is what a reader expects of a count: only what was asked for is worth words.
        let usual = self.keys.is_none() && self.distribution.is_none();
        Asked {
            op: match self.op {
                Op::Set => "set",
                Op::Get => "get",
                Op::Mixed => "mixed",
            },
            count: self.count(),
            duration_s: self.duration.map(|duration| duration.as_secs_f64()),
            warmup_s: self.warmup.as_secs_f64(),
            rate: self.rate,
            keys: choice.filter(|_| !usual).map(|choice| choice.keys),
            distribution: distribution.filter(|_| !usual),
            mix: mix.map(|mix| format!("{}:{}", mix.sets, mix.gets)),
            size_min: self.sizes.min,
            seed: self.seed,
            wait: self.wait,
            ttl_ms: self.ttl.map(|ttl| ttl.as_millis() as u64),
        }
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = |text: &str| text.parse::<ByteSize>().map(|size| size.0 as usize);
        let Some((min, max)) = text.split_once('-') else { return size(text).map(Self::only) };
        let (min, max) = (size(min)?, size(max)?);
        if min > max { Err(format!("{text:?} begins above its end; write {max}-{min}")) } else { Ok(Self { min, max }) }
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let part = |text: &str| text.trim().parse::<u32>().ok().filter(|part| (1..=1000).contains(part));
        let parts = text.split_once(':').and_then(|(sets, gets)| Some(Self { sets: part(sets)?, gets: part(gets)? }));
        parts.ok_or_else(|| {
            format!("{text:?} is not SETS:GETS, each from 1 to 1000, for example 20:80; for one kind alone use --op")
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn what_removes_a_run_names_only_what_is_unusual() {
        let usual = Settings {
            addr: USUAL_ADDR.to_owned(),
            sizes: Sizes::only(100),
            key_prefix: "bench-".to_owned(),
            ..settings(Op::Set)
        };
        assert_eq!(usual.to_remove(9000), "hatokuse bench --op get --keys 9000 --count 1 --clean");
        let other = Settings { key_prefix: "k-".to_owned(), seed: 7, ..usual };
        assert!(other.to_remove(1).ends_with(" --clean --seed 7 --key-prefix k-"), "{}", other.to_remove(1));
    }

    pub(in super::super) fn settings(op: Op) -> Settings {
        Settings {
            addr: String::new(),
            protocol: Dialect::Text,
            credentials: None,
            tls: None,
            count: Some(101),
            duration: None,
            warmup: Duration::ZERO,
            rate: None,
            connections: 3,
            pipeline: 4,
            sizes: Sizes::only(30),
            op,
            mix: None,
            keys: None,
            distribution: None,
            theta: None,
            key_prefix: "k-".to_owned(),
            seed: 1,
            verify: true,
            clean: false,
            wait: 0,
            ttl: None,
            json: true,
            html: None,
            local: None,
        }
    }

    fn refused(change: impl Fn(&mut Settings)) -> String {
        let mut settings = settings(Op::Set);
        change(&mut settings);
        settings.impossible().unwrap_or_default()
    }

    #[test]
    fn settings_that_cannot_work_are_refused_and_say_what_would() {
        let local = |nodes| {
            let layout = "text".to_owned();
            Some(Local { nodes, tolerance: 3, io_mode: IoMode::Buffered, layout, repair_after: Duration::MAX })
        };
        assert_eq!(refused(|_| {}), "");
        assert_eq!(refused(|s| s.local = local(3)), "");
        assert!(refused(|s| s.local = local(2)).contains("--local-nodes 3"));
        assert!(refused(|s| s.key_prefix = "a b".to_owned()).contains("--key-prefix"));
        assert_eq!(refused(|s| s.key_prefix = "x".repeat(crate::types::MAX_ID_BYTES - 3)), "");
        assert!(refused(|s| s.key_prefix = "x".repeat(crate::types::MAX_ID_BYTES - 2)).contains("--key-prefix"));
        assert!(
            refused(|s| (s.key_prefix, s.duration) = ("x".repeat(crate::types::MAX_ID_BYTES - 10), Some(Duration::MAX))).contains("--key-prefix")
        );
        let second = Duration::from_secs(1);
        assert_eq!(refused(|s| (s.warmup, s.duration) = (second, Some(second))), "");
        assert!(refused(|s| (s.warmup, s.duration) = (second * 2, Some(second))).contains("--warmup 2s is longer"));
        assert!(refused(|s| s.mix = "2:1".parse().ok()).contains("--op mixed"));
        assert!(refused(|s| s.theta = Some(1.0)).contains("--distribution zipf"));
        for theta in [0.0, -1.0, 11.0, f64::NAN] {
            let change = |s: &mut Settings| (s.theta, s.distribution) = (Some(theta), Some(Distribution::Zipf));
            assert!(refused(change).contains("from 0.01 to 10"), "{theta}");
        }
        assert!(refused(|s| s.wait = 2).contains("--protocol resp"));
        assert_eq!(refused(|s| (s.wait, s.protocol) = (2, Dialect::Resp)), "");
        assert!(refused(|s| s.sizes.max = LONGEST + 1).contains("--size"));
        assert!(refused(|s| s.keys = Some(MOST_REMEMBERED + 1)).contains("--verify"));
        assert!(refused(|s| s.html = Some("/".into())).contains("--html /:"));
        assert!(refused(|s| s.html = Some("/nowhere/at/all.html".into())).contains("--html"));
        assert_eq!(refused(|s| s.html = Some("report.html".into())), "");
    }

    #[test]
    fn sizes_and_mixes_are_read_as_people_write_them() {
        assert_eq!("100".parse(), Ok(Sizes::only(100)));
        assert_eq!("50-4096".parse(), Ok(Sizes { min: 50, max: 4096 }));
        assert_eq!("1KiB-1KiB".parse(), Ok(Sizes::only(1024)));
        assert_eq!("9-1".parse::<Sizes>().unwrap_err(), "\"9-1\" begins above its end; write 1-9");
        for bad in ["", "-", "1-", "-1", "1-2-3", "many"] {
            assert!(bad.parse::<Sizes>().is_err(), "{bad}");
        }
        assert_eq!("20:80".parse(), Ok(Mix { sets: 20, gets: 80 }));
        for bad in ["", "1", "0:1", "1:0", "1:1:1", "-1:1", "1001:1", "a:b"] {
            assert!(bad.parse::<Mix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_said_has_a_meaning() {
        let order = |op, keys, distribution| Settings { keys, distribution, ..settings(op) }.order();
        let choice = |keys, distribution| Choice { keys, distribution, theta: THETA };
        let (half, zipf) = (Mix { sets: 1, gets: 1 }, Distribution::Zipf);
        assert_eq!(order(Op::Set, None, None), Order::Write);
        assert_eq!(order(Op::Set, Some(7), None), Order::Overwrite(choice(7, Distribution::Sequential)));
        assert_eq!(order(Op::Set, None, Some(zipf)), Order::Overwrite(choice(101, zipf)));
        assert_eq!(order(Op::Get, None, None), Order::Read(choice(101, Distribution::Shuffled)));
        assert_eq!(order(Op::Get, Some(7), Some(zipf)), Order::Read(choice(7, zipf)));
        assert_eq!(order(Op::Mixed, None, None), Order::MixedNew(half));
        assert_eq!(order(Op::Mixed, Some(7), None), Order::Mixed(half, choice(7, Distribution::Uniform)));
        let timed = Settings { count: None, duration: Some(Duration::from_secs(1)), ..settings(Op::Get) };
        assert_eq!((timed.count(), timed.order().needs()), (None, COUNT));
        assert_eq!(Settings { count: None, ..settings(Op::Set) }.count(), Some(COUNT));
    }

    #[test]
    fn a_report_tells_what_was_asked_for() {
        let asked = settings(Op::Get).asked();
        assert_eq!((asked.op, asked.count, asked.keys, asked.distribution), ("get", Some(101), None, None));
        let mix = "1:4".parse().ok();
        let asked = Settings { mix, distribution: Some(Distribution::Zipf), ..settings(Op::Mixed) }.asked();
        assert_eq!((asked.keys, asked.distribution.as_deref()), (Some(101), Some("zipf 0.99")));
        assert_eq!(asked.mix.as_deref(), Some("1:4"));
    }
}
