//! Two sets of runs side by side: a table of their figures and the ratios between them.
//!
//! A set is the text of one file: what `--json` prints, a run after another. Of several runs the
//! medians are compared, figure by figure. Pure: text in, text out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;

use super::short_time;
use crate::telemetry::grouped;

/// The part of a report that is compared.
#[derive(Debug, Deserialize)]
struct Run {
    protocol: String,
    connections: u64,
    pipeline: u64,
    size: u64,
    results: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    op: String,
    errors: u64,
    ops_per_s: f64,
    latency_ms: BTreeMap<String, f64>,
}

/// Runs with the same settings.
#[derive(Debug)]
pub struct Set {
    name: String,
    runs: Vec<Run>,
}

impl Set {
    /// Reads what `--json` printed, once or several times; a failure names the file and what is wrong, and where.
    pub fn read(name: &str, text: &str) -> Result<Self, String> {
        let mut runs: Vec<Run> = Vec::new();
        for (number, run) in serde_json::Deserializer::from_str(text).into_iter::<Run>().enumerate() {
            let run = run.map_err(|error| format!("{name}: not what `hatokuse bench --json` prints: {error}"))?;
            let at = format!("{name}, run {}", number + 1);
            if run.results.is_empty() {
                return Err(format!("{at}: a report without results"));
            }
            if let Some(first) = runs.first().filter(|first| first.settings() != run.settings()) {
                let (one, other) = (first.settings(), run.settings());
                return Err(format!("{at}: {other}, unlike those before, {one}: keep other runs in another file"));
            }
            runs.push(run);
        }
        if runs.is_empty() {
            return Err(format!("{name}: empty; write it with `hatokuse bench --json >> {name}`"));
        }
        Ok(Self { name: name.to_owned(), runs })
    }

    fn settings(&self) -> String {
        self.runs[0].settings()
    }

    fn ops(&self) -> Vec<&str> {
        self.runs[0].results.iter().map(|row| row.op.as_str()).collect()
    }

    /// The median over the runs of a figure of an operation, if all have it.
    fn median(&self, op: &str, figure: impl Fn(&Row) -> Option<f64>) -> Option<f64> {
        let of = |run: &Run| figure(run.results.iter().find(|row| row.op == op)?);
        let mut all: Vec<f64> = self.runs.iter().map(of).collect::<Option<_>>()?;
        all.sort_by(f64::total_cmp);
        let middle = all.len() / 2;
        Some(if all.len() % 2 == 1 { all[middle] } else { (all[middle - 1] + all[middle]) / 2.0 })
    }

    fn errors(&self) -> u64 {
        self.runs.iter().flat_map(|run| &run.results).map(|row| row.errors).sum()
    }
}

impl Run {
    fn settings(&self) -> String {
        let Self { protocol, connections, pipeline, size, .. } = self;
        format!("{connections} x {pipeline} in flight, {size} B, {protocol}")
    }
}

/// The table, ending in a line end. A ratio is the second by the first.
pub fn table(a: &Set, b: &Set) -> String {
    // Writing to a String cannot fail.
    let mut out = String::new();
    for (letter, set) in [('A', a), ('B', b)] {
        let runs = if set.runs.len() == 1 { "1 run".to_owned() } else { format!("medians of {} runs", set.runs.len()) };
        let _ = writeln!(out, "{letter}  {}  ({}; {runs})", set.name, set.settings());
    }
    let _ = writeln!(out, "{:<12}{:>12}{:>12}{:>9}", "", "A", "B", "B/A");
    let mut ops = a.ops();
    ops.extend(b.ops().into_iter().filter(|op| !a.ops().contains(op)));
    for op in ops {
        let rate = |set: &Set| set.median(op, |row| Some(row.ops_per_s));
        let per_second = |rate: f64| grouped(rate.round() as u64);
        put_row(&mut out, &format!("{} /s", op.to_uppercase()), [rate(a), rate(b)], per_second);
        for name in ["p50", "p90", "p99", "p999", "max"] {
            let latency = |set: &Set| set.median(op, |row| row.latency_ms.get(name).copied());
            let millis = |ms: f64| short_time(std::time::Duration::from_secs_f64(ms.max(0.0) / 1e3));
            let label = if name == "p999" { "p99.9" } else { name };
            put_row(&mut out, &format!("{} {label}", op.to_uppercase()), [latency(a), latency(b)], millis);
        }
    }
    for (letter, set) in [('A', a), ('B', b)].into_iter().filter(|(_, set)| set.errors() > 0) {
        let _ = writeln!(out, "{letter} has {} errors: its figures are of right answers only", grouped(set.errors()));
    }
    out
}

fn put_row(out: &mut String, label: &str, pair: [Option<f64>; 2], shown: impl Fn(f64) -> String) {
    let cell = |figure: Option<f64>| figure.map_or("-".to_owned(), &shown);
    let ratio = match pair {
        [Some(a), Some(b)] if a > 0.0 => format!("{:.2}", b / a),
        _ => "-".to_owned(),
    };
    let _ = writeln!(out, "{label:<12}{:>12}{:>12}{ratio:>9}", cell(pair[0]), cell(pair[1]));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(op: &str, rate: f64, p99: f64, errors: u64, pipeline: u64) -> String {
        format!(
            r#"{{"addr":"x","protocol":"text","connections":4,"pipeline":{pipeline},"size":100,"results":[{{"op":"{op}","count":9,"errors":{errors},"elapsed_s":1.0,"ops_per_s":{rate},"latency_ms":{{"p50":0.5,"p90":1.0,"p99":{p99},"p999":3.0,"max":4.0}}}}],"verified":null,"nodes":{{}}}}"#
        )
    }

    fn set(name: &str, lines: &[String]) -> Set {
        Set::read(name, &(lines.join("\n") + "\n")).unwrap()
    }

    #[test]
    fn medians_and_their_ratios() {
        let a = set("a.json", &[1000.0, 9000.0, 2000.0].map(|rate| line("set", rate, 2.0, 0, 1)));
        let b = set("b.json", &[3000.0, 5000.0].map(|rate| line("set", rate, 1.0, 3, 1)));
        assert_eq!(
            table(&a, &b),
            "\
A  a.json  (4 x 1 in flight, 100 B, text; medians of 3 runs)
B  b.json  (4 x 1 in flight, 100 B, text; medians of 2 runs)
                       A           B      B/A
SET /s             2,000       4,000     2.00
SET p50            500us       500us     1.00
SET p90            1.0ms       1.0ms     1.00
SET p99            2.0ms       1.0ms     0.50
SET p99.9          3.0ms       3.0ms     1.00
SET max            4.0ms       4.0ms     1.00
B has 6 errors: its figures are of right answers only
"
        );
    }

    #[test]
    fn what_only_one_has_has_no_ratio() {
        let table = table(&set("a", &[line("set", 0.0, 1.0, 0, 1)]), &set("b", &[line("get", 7.0, 1.0, 0, 1)]));
        assert!(table.contains("SET /s                 0           -        -\n"), "{table}");
        assert!(table.contains("GET /s                 -           7        -\n"), "{table}");
    }

    #[test]
    fn bad_files_are_named_with_what_is_wrong() {
        let good = line("set", 1.0, 1.0, 0, 1);
        let no_results = good.replace(r#""results":["#, r#""other":["#);
        let other = line("set", 1.0, 1.0, 0, 8);
        for (text, wanted) in [
            ("", "f: empty"),
            ("hello", "f: not what `hatokuse bench --json` prints: expected value at line 1 column 1"),
            ("{}", "missing field `protocol`"),
            (&no_results, "missing field `results`"),
            (&good.replace(r#""errors":0"#, r#""errors":"no""#), "invalid type: string \"no\""),
            (
                &format!("{good}\n\n{{"),
                "f: not what `hatokuse bench --json` prints: EOF while parsing an object at line 3",
            ),
            (&format!("{good}\n{other}"), "f, run 2: 4 x 8 in flight, 100 B, text, unlike those before"),
        ] {
            let error = Set::read("f", text).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
        let empty = r#"{"protocol":"text","connections":1,"pipeline":1,"size":1,"results":[]}"#;
        assert_eq!(Set::read("f", empty).unwrap_err(), "f, run 1: a report without results");
    }
}
