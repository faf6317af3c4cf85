//! Samples become a report, and a report becomes text for people or JSON for programs.
//!
//! Rates and latencies count right answers only: an error that comes quickly
//! must not make a register look fast. Nothing here prints, or reads a clock.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

use super::workload::Sizes;
use crate::telemetry::grouped;

pub mod charts;
pub mod compare;
pub mod html;

/// Longer than any answer is waited for.
const LONGEST_NS: u64 = 600_000_000_000;

/// Characters of a full bar.
const BAR: usize = 20;

/// What was seen of one kind of request.
#[derive(Debug, Clone)]
pub struct Samples {
    latency_ns: Histogram<u64>,
    /// Right answers in each second since the warm-up ended.
    per_second: Vec<u64>,
    /// Requests whose answer was wrong, or never came.
    pub errors: u64,
}

impl Samples {
    /// Nothing seen yet.
    pub fn new() -> Self {
        // Fixed bounds: recording never allocates.
        let latency_ns = Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("1 < longest, 3 digits");
        Self { latency_ns, per_second: Vec::new(), errors: 0 }
    }

    /// One right answer, and when it came, counted from the end of the warm-up.
    pub fn record(&mut self, latency: Duration, at: Duration) {
        self.latency_ns.saturating_record(latency.as_nanos() as u64);
        let second = at.as_secs() as usize;
        if second >= self.per_second.len() {
            self.per_second.resize(second + 1, 0);
        }
        self.per_second[second] += 1;
    }

    /// Right answers.
    pub fn right(&self) -> u64 {
        self.latency_ns.len()
    }

    /// Requests that ended, rightly or not.
    pub fn ended(&self) -> u64 {
        self.right() + self.errors
    }

    /// The latency that this part of the right answers did not exceed.
    pub fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.latency_ns.value_at_quantile(quantile))
    }

    /// One line of the report. `elapsed` is that of the phase.
    pub fn result(&self, op: &'static str, elapsed: Duration) -> OpResult {
        let seconds = elapsed.as_secs_f64();
        OpResult {
            op,
            count: self.ended(),
            errors: self.errors,
            elapsed_s: seconds,
            ops_per_s: if seconds > 0.0 { self.right() as f64 / seconds } else { 0.0 },
            latency_ms: Latency {
                p50: millis(self.quantile(0.5)),
                p90: millis(self.quantile(0.9)),
                p99: millis(self.quantile(0.99)),
                p999: millis(self.quantile(0.999)),
                max: millis(Duration::from_nanos(self.latency_ns.max())),
            },
            per_second: self.per_second.clone(),
            steps: self.steps(),
            curve: self.curve(),
        }
    }

    /// Latency over quantile, closer and closer to 1, as far as there are answers to tell them apart.
    fn curve(&self) -> Vec<(f64, f64)> {
        let mut curve = Vec::new();
        let mut rest = 1.0f64;
        while self.right() > 0 && rest * self.right() as f64 >= 0.5 {
            curve.push((1.0 - rest, millis(self.quantile(1.0 - rest))));
            // Ten points a decade.
            rest *= 0.1f64.powf(0.1);
        }
        curve
    }

    /// Right answers by latency, in steps that double, from the first to the last that has any.
    fn steps(&self) -> Vec<(Duration, u64)> {
        let mut steps = Vec::new();
        let (mut below, mut upper) = (0, 15_625);
        while self.right() > 0 && below <= self.latency_ns.max() {
            let count = self.latency_ns.count_between(below, upper - 1);
            if count > 0 || !steps.is_empty() {
                steps.push((Duration::from_nanos(upper), count));
            }
            (below, upper) = (upper, upper * 2);
        }
        steps
    }
}

impl Default for Samples {
    fn default() -> Self {
        Self::new()
    }
}

/// How one kind of request went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OpResult {
    /// `set` or `get`.
    pub op: &'static str,
    /// Requests that ended, rightly or not.
    pub count: u64,
    /// Those that did not end rightly.
    pub errors: u64,
    /// Length of the phase.
    #[serde(serialize_with = "rounded")]
    pub elapsed_s: f64,
    /// Right answers a second.
    #[serde(serialize_with = "rounded")]
    pub ops_per_s: f64,
    /// Of right answers.
    pub latency_ms: Latency,
    /// Right answers in each second.
    pub per_second: Vec<u64>,
    /// Right answers by latency, for people.
    #[serde(skip)]
    pub steps: Vec<(Duration, u64)>,
    /// Quantiles and their latency in milliseconds, for the picture.
    #[serde(skip)]
    pub curve: Vec<(f64, f64)>,
}

/// Percentiles, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Latency {
    #[serde(serialize_with = "rounded")]
    pub p50: f64,
    #[serde(serialize_with = "rounded")]
    pub p90: f64,
    #[serde(serialize_with = "rounded")]
    pub p99: f64,
    #[serde(serialize_with = "rounded")]
    pub p999: f64,
    #[serde(serialize_with = "rounded")]
    pub max: f64,
}

/// What the leader's STATUS says of the register, where it could be asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Register {
    /// Copies a message.
    pub tolerance: u64,
    /// Messages, of this run and of others.
    pub messages: u64,
    /// IO modes of its nodes, each once.
    pub io_modes: Vec<String>,
    /// Layouts of its nodes, each once.
    pub layouts: Vec<String>,
}

/// Messages of the run that are, or were, in a register that lives on.
#[derive(Debug, Clone, PartialEq)]
pub struct Left {
    /// How many: the ids from 0 on.
    pub ids: u64,
    /// What they begin with.
    pub prefix: String,
    /// The command that removes them; none: they were removed.
    pub remove: Option<String>,
}

/// What the run was asked for, beside what the contract has at the top.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Asked {
    /// `set`, `get` or `mixed`.
    pub op: &'static str,
    /// Operations, if it was to end with those.
    pub count: Option<u64>,
    /// Seconds, if it was to end with those.
    pub duration_s: Option<f64>,
    /// Seconds before that, which are in no result.
    pub warmup_s: f64,
    /// Requests a second of an open loop.
    pub rate: Option<u64>,
    /// Keys to choose from; nothing: new ones all the time.
    pub keys: Option<u64>,
    /// How they are chosen, with Zipf's exponent.
    pub distribution: Option<String>,
    /// SETs to GETs.
    pub mix: Option<String>,
    /// The shortest message; `size` is the longest.
    pub size_min: usize,
    /// Where messages and chance come from.
    pub seed: u64,
    /// Replicas that Redis is asked to wait for.
    pub wait: u32,
    /// How long messages stay, if not until they are deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

/// The machine that the bench ran on.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Machine {
    /// What this process may use.
    pub cores: usize,
    /// Its name.
    pub cpu: String,
    /// Memory.
    pub memory_mib: u64,
    /// Its release.
    pub kernel: String,
}

/// CPU time for each operation that ended.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Cpu {
    /// Microseconds of the bench itself.
    #[serde(serialize_with = "rounded")]
    pub bench_us: f64,
    /// Microseconds of leader and nodes together, where the bench started them.
    pub servers_us: Option<f64>,
}

/// How a bench went; serializes as contract section 4 says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The leader.
    pub addr: String,
    /// `text` or `resp`.
    pub protocol: &'static str,
    /// Connections.
    pub connections: usize,
    /// Requests in flight on each.
    pub pipeline: usize,
    /// Bytes of the longest message.
    pub size: usize,
    /// One a kind of request.
    pub results: Vec<OpResult>,
    /// Values that were read back right; nothing if that was not asked for.
    pub verified: Option<u64>,
    /// Copies on each node.
    pub nodes: BTreeMap<u32, u64>,
    /// What went wrong first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
    /// What was asked for.
    pub settings: Asked,
    /// Requests of an open loop that were due and never sent: the rate was too much.
    pub unsent: u64,
    /// What an operation cost.
    pub cpu_per_op: Cpu,
    /// Where it ran.
    pub machine: Machine,
    /// Version of the bench.
    pub version: &'static str,
    /// When it ended, UTC.
    pub date: String,
    /// Values that should have been read back right.
    #[serde(skip)]
    pub to_verify: u64,
    /// For people only.
    #[serde(skip)]
    pub register: Option<Register>,
    /// What is left of it, for people only.
    #[serde(skip)]
    pub left: Option<Left>,
}

impl Report {
    /// Whether every request ended rightly and every value was found as written.
    pub fn is_clean(&self) -> bool {
        self.results.iter().all(|result| result.errors == 0)
            && self.verified.is_none_or(|verified| verified == self.to_verify)
    }

    /// One line of JSON.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and strings always serialize")
    }

    /// For people, without colour, ending in a line end.
    pub fn text(&self) -> String {
        // Writing to a String cannot fail.
        let mut out = String::new();
        let way = match self.settings.rate {
            Some(rate) => format!("open loop at {}/s", grouped(rate)),
            None => "closed loop".to_owned(),
        };
        let connections = plural(self.connections as u64, "connection");
        let _ = writeln!(
            out,
            "hatokuse bench  {}   {}   {}\n{way}, {connections} x {} in flight",
            self.version, self.addr, self.date, self.pipeline
        );
        let _ = write!(out, "messages of {} B, {} protocol", self.sizes_in_words(), self.protocol);
        if let Some(register) = &self.register {
            let nodes = plural(self.nodes.len() as u64, "node");
            let (io_modes, layouts) = (register.io_modes.join("+"), register.layouts.join("+"));
            let _ = write!(out, ", tolerance {}, {nodes}, io {io_modes}, layout {layouts}", register.tolerance);
        }
        out.push('\n');
        if let Some(line) = self.choice_in_words() {
            let _ = writeln!(out, "{line}");
        }
        self.put_results(&mut out);
        if self.unsent > 0 {
            let unsent = grouped(self.unsent);
            let _ = writeln!(out, "unsent    {unsent} requests were due and not sent: the server does not keep up");
        }
        let _ = write!(out, "cpu/op    bench {:.1}us", self.cpu_per_op.bench_us);
        if let Some(servers) = self.cpu_per_op.servers_us {
            let _ = write!(out, ", leader and nodes {servers:.1}us");
        }
        out.push('\n');
        if let Some(verified) = self.verified {
            let _ = writeln!(out, "verified  {} of {} read back equal", grouped(verified), grouped(self.to_verify));
        }
        if let Some(error) = &self.first_error {
            let _ = writeln!(out, "first error: {error}");
        }
        for result in self.results.iter().filter(|result| !result.steps.is_empty()) {
            put_steps(&mut out, result);
        }
        self.put_nodes(&mut out);
        if let Some(left) = &self.left {
            let (ids, prefix, last) = (plural(left.ids, "message"), &left.prefix, left.ids.saturating_sub(1));
            let all = self.results.iter().all(|result| result.errors == 0);
            let up_to = if all { "" } else { "up to " };
            let stay = if self.settings.ttl_ms.is_some() {
                "end by themselves; this removes them now"
            } else {
                "stay in the register; this removes them"
            };
            let _ = match &left.remove {
                None => writeln!(out, "removed   {ids}, {prefix}0 to {prefix}{last}"),
                Some(remove) => {
                    writeln!(out, "left      {up_to}{ids}, {prefix}0 to {prefix}{last}, {stay}:\n          {remove}")
                }
            };
        }
        out
    }

    /// `100`, or `50 to 4,096`.
    fn sizes_in_words(&self) -> String {
        let (min, max) = (self.settings.size_min as u64, self.size as u64);
        if min == max { grouped(max) } else { format!("{} to {}", grouped(min), grouped(max)) }
    }

    /// What was chosen beyond the usual, if anything was.
    fn choice_in_words(&self) -> Option<String> {
        let asked = &self.settings;
        let mut words = Vec::new();
        words.extend(asked.keys.map(|keys| plural(keys, "key")));
        words.extend(asked.distribution.clone());
        words.extend(asked.mix.as_ref().map(|mix| format!("set:get {mix}")));
        words.extend((asked.warmup_s > 0.0).then(|| format!("after {} s of warm-up", asked.warmup_s)));
        words.extend((asked.wait > 0).then(|| format!("WAIT {}", asked.wait)));
        words.extend(
            asked.ttl_ms.map(|ms| format!("each for {}", humantime::format_duration(Duration::from_millis(ms)))),
        );
        (!words.is_empty()).then(|| words.join(", "))
    }

    fn put_results(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "{:<4}{:>11} {:>8} {:>9} {:>8} {:>6} {:>6} {:>6} {:>6} {:>6}",
            "", "ops", "errors", "ops/s", "MiB/s", "p50", "p90", "p99", "p99.9", "max"
        );
        for result in &self.results {
            let latency = &result.latency_ms;
            let _ = write!(
                out,
                "{:<4}{:>11} {:>8} {:>9} {:>8.2}",
                result.op.to_uppercase(),
                grouped(result.count),
                grouped(result.errors),
                grouped(result.ops_per_s.round() as u64),
                result.ops_per_s * Sizes { min: self.settings.size_min, max: self.size }.mean() / f64::from(1 << 20),
            );
            for ms in [latency.p50, latency.p90, latency.p99, latency.p999, latency.max] {
                let _ = write!(out, " {:>6}", short_time(Duration::from_secs_f64(ms / 1e3)));
            }
            out.push('\n');
        }
    }

    fn put_nodes(&self, out: &mut String) {
        let Some(register) = self.register.as_ref().filter(|_| !self.nodes.is_empty()) else { return };
        let expected = (register.messages * register.tolerance) as f64 / self.nodes.len() as f64;
        let _ = writeln!(out, "copies per node  (expected {} each)", grouped(expected.round() as u64));
        let most = self.nodes.values().copied().max().unwrap_or(0);
        for (id, copies) in &self.nodes {
            let off = if expected > 0.0 { (*copies as f64 / expected - 1.0) * 100.0 } else { 0.0 };
            let _ = writeln!(out, "{id:>7} {:>9}  {:<BAR$}  {off:+.1}%", grouped(*copies), bar(*copies, most));
        }
    }
}

fn put_steps(out: &mut String, result: &OpResult) {
    let _ = writeln!(out, "{} latency, up to", result.op.to_uppercase());
    let most = result.steps.iter().map(|step| step.1).max().unwrap_or(0);
    for (upper, count) in &result.steps {
        let _ = writeln!(out, "{:>7}  {:<BAR$} {:>9}", short_time(*upper), bar(*count, most), grouped(*count));
    }
}

/// As much of a bar as `part` is of `whole`; anything at all shows.
fn bar(part: u64, whole: u64) -> String {
    let length = (part as f64 / whole.max(1) as f64 * BAR as f64).round() as usize;
    "#".repeat(if part > 0 { length.max(1) } else { 0 })
}

/// `450us`, `3.4ms`, `11ms`, `1.2s`: what fits in six characters.
pub fn short_time(time: Duration) -> String {
    let ms = millis(time);
    if ms < 0.9995 {
        format!("{:.0}us", ms * 1e3)
    } else if ms < 9.95 {
        format!("{ms:.1}ms")
    } else if ms < 999.5 {
        format!("{ms:.0}ms")
    } else {
        format!("{:.1}s", ms / 1e3)
    }
}

fn plural(number: u64, word: &str) -> String {
    format!("{} {word}{}", grouped(number), if number == 1 { "" } else { "s" })
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Three decimals: a microsecond of the latencies.
fn rounded<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((number * 1e3).round() / 1e3)
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
