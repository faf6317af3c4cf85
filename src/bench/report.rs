//! Samples become a report, and a report becomes text for people or JSON for programs.
//!
//! Rates and latencies count right answers only: an error that comes quickly
//! must not make a register look fast. Nothing here prints, or reads a clock.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

use crate::VERSION;
use crate::telemetry::grouped;

/// Longer than any answer is waited for.
const LONGEST_NS: u64 = 600_000_000_000;

/// Characters of a full bar.
const BAR: usize = 20;

/// What was seen of one kind of request.
#[derive(Debug, Clone)]
pub struct Samples {
    latency_ns: Histogram<u64>,
    /// Requests whose answer was wrong, or never came.
    pub errors: u64,
}

impl Samples {
    /// Nothing seen yet.
    pub fn new() -> Self {
        // Fixed bounds: recording never allocates.
        let latency_ns = Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("1 < longest, 3 digits");
        Self { latency_ns, errors: 0 }
    }

    /// One right answer.
    pub fn record(&mut self, latency: Duration) {
        self.latency_ns.saturating_record(latency.as_nanos() as u64);
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
            steps: self.steps(),
        }
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
    /// Right answers by latency, for people.
    #[serde(skip)]
    pub steps: Vec<(Duration, u64)>,
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
}

/// How a bench went; serializes as contract section 4 says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The leader.
    pub addr: String,
    /// `text`.
    pub protocol: &'static str,
    /// Connections.
    pub connections: usize,
    /// Requests in flight on each.
    pub pipeline: usize,
    /// Bytes a message.
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
    /// Values that should have been read back right.
    #[serde(skip)]
    pub to_verify: u64,
    /// For people only.
    #[serde(skip)]
    pub register: Option<Register>,
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
        let _ = writeln!(
            out,
            "hatokuse bench  {VERSION}   {}   closed loop, {} x {} in flight",
            self.addr,
            plural(self.connections as u64, "connection"),
            self.pipeline
        );
        let _ = write!(out, "messages of {} B, {} protocol", grouped(self.size as u64), self.protocol);
        if let Some(register) = &self.register {
            let nodes = plural(self.nodes.len() as u64, "node");
            let _ = write!(out, ", tolerance {}, {nodes}, io {}", register.tolerance, register.io_modes.join("+"));
        }
        out.push('\n');
        self.put_results(&mut out);
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
        out
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
                result.ops_per_s * self.size as f64 / f64::from(1 << 20),
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
mod tests {
    use super::*;

    fn samples(errors: u64) -> Samples {
        let mut samples = Samples::new();
        for ms in 1..=1000 {
            samples.record(Duration::from_millis(ms) / 100);
        }
        samples.errors = errors;
        samples
    }

    fn report(results: Vec<OpResult>) -> Report {
        Report {
            addr: "127.0.0.1:6666".to_owned(),
            protocol: "text",
            connections: 16,
            pipeline: 1,
            size: 1 << 20,
            results,
            verified: Some(1000),
            nodes: [(1, 501), (2, 500), (3, 499), (10, 500)].into(),
            first_error: None,
            to_verify: 1000,
            register: Some(Register { tolerance: 2, messages: 1000, io_modes: vec!["buffered".to_owned()] }),
        }
    }

    #[test]
    fn a_clean_report_as_text() {
        let report = report(vec![samples(0).result("set", Duration::from_millis(2500))]);
        assert!(report.is_clean());
        let text = report.text().replace(VERSION, "VERSION");
        assert_eq!(text, include_str!("golden/clean.txt"), "\n{text}");
    }

    #[test]
    fn a_report_of_trouble_as_text() {
        let mut report = report(vec![
            samples(12_345).result("set", Duration::from_secs(1)),
            Samples::new().result("get", Duration::ZERO),
        ]);
        report.first_error = Some("SET bench-7: ERROR BUSY too much".to_owned());
        report.verified = Some(999);
        report.nodes.clear();
        report.register = None;
        assert!(!report.is_clean());
        let text = report.text().replace(VERSION, "VERSION");
        assert_eq!(text, include_str!("golden/trouble.txt"), "\n{text}");
    }

    #[test]
    fn errors_and_wrong_values_are_not_clean() {
        let mut report = report(vec![samples(1).result("set", Duration::from_secs(1))]);
        assert!(!report.is_clean());
        report.results[0].errors = 0;
        assert!(report.is_clean());
        report.verified = Some(999);
        assert!(!report.is_clean());
        report.verified = None;
        assert!(report.is_clean());
    }

    #[test]
    fn json_is_as_promised() {
        let mut report = report(vec![samples(0).result("set", Duration::from_micros(1_234_567))]);
        report.verified = None;
        assert_eq!(
            report.json(),
            concat!(
                r#"{"addr":"127.0.0.1:6666","protocol":"text","connections":16,"pipeline":1,"size":1048576,"#,
                r#""results":[{"op":"set","count":1000,"errors":0,"elapsed_s":1.235,"ops_per_s":810.001,"#,
                r#""latency_ms":{"p50":5.001,"p90":9.003,"p99":9.904,"p999":9.994,"max":10.002}}],"#,
                r#""verified":null,"nodes":{"1":501,"2":500,"3":499,"10":500}}"#
            )
        );
        report.verified = Some(9);
        report.first_error = Some("it \"broke\"".to_owned());
        let value: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(value["verified"], 9);
        assert_eq!(value["first_error"], "it \"broke\"");
    }

    #[test]
    fn numbers_are_short() {
        let times = [0, 99_000, 100_000, 3_449_000, 9_960_000, 31_000_000, 999_600_000, 12_300_000_000];
        let shown: Vec<_> = times.iter().map(|ns| short_time(Duration::from_nanos(*ns))).collect();
        assert_eq!(shown, ["0us", "99us", "100us", "3.4ms", "10ms", "31ms", "1.0s", "12.3s"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
