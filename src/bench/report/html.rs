//! A report as one page that needs nothing else: no script, no font, no picture from elsewhere.
//!
//! Light and dark as the reader's system has it, and readable as plain text where styles are
//! not shown. Every word that comes from outside is escaped. Pure: a report in, text out.

use std::fmt::Write as _;
use std::time::Duration;

use super::charts::{self, Line, escape};
use super::{OpResult, Report, short_time};
use crate::telemetry::grouped;

const STYLE: &str = "\
:root{color-scheme:light dark;--page:#fbfbfa;--ink:#1c1f23;--quiet:#676d75;--rule:#dcdfe3;--set:#1f6fb2;--get:#c2570c;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--page:#15181c;--ink:#e7e9ec;--quiet:#9aa1aa;--rule:#343a42;--set:#6cb2ee;--get:#f2a25c;--bad:#ff8a80}}
body{margin:0 auto;max-width:52rem;padding:1.5rem 1rem 3rem;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.35rem;margin:0}h2{font-size:1.05rem;margin:2.2rem 0 .5rem}p{margin:.3rem 0}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .5rem;border-bottom:1px solid var(--rule);text-align:right;vertical-align:top}
th{font-weight:600;color:var(--quiet)}td:first-child,th:first-child,.words td{text-align:left;padding-left:0}
.words td:first-child{color:var(--quiet);white-space:nowrap;width:11rem}.words td{overflow-wrap:anywhere}
.scroll{overflow-x:auto}svg{width:100%;height:auto;display:block}.scroll svg{min-width:34rem}
@media (max-width:40rem){.results tr{display:block;margin-bottom:1rem}.results tr:first-child{display:none}
.results td{display:flex;justify-content:space-between;padding:.2rem 0}.results td::before{content:attr(data-is);color:var(--quiet)}}
.quiet{color:var(--quiet)}tspan.quiet,text.quiet{fill:var(--quiet)}.bad{color:var(--bad);overflow-wrap:anywhere}
.grid{stroke:var(--rule);stroke-width:1}.tick{fill:var(--ink);font-size:12px}
.line{fill:none;stroke-width:2;stroke-linejoin:round}.line.set{stroke:var(--set)}.line.get{stroke:var(--get)}
.dot.set,.bar{fill:var(--set)}.dot.get{fill:var(--get)}
.key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}.key.set{background:var(--set)}.key.get{background:var(--get)}
";

/// The page.
pub fn page(report: &Report) -> String {
    // Writing to a String cannot fail.
    let mut out = String::from("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    let _ = write!(
        out,
        "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>hatokuse bench {0}</title><style>{STYLE}</style></head>\n<body><h1>hatokuse bench</h1><p class=\"quiet\">{0}, {1}</p>\n",
        escape(&report.addr),
        escape(&headline(report))
    );
    put_trouble(&mut out, report);
    put_results(&mut out, &report.results);
    let curves: Vec<Line<'_>> = report.results.iter().map(|result| (result.op, result.curve.clone())).collect();
    let _ = writeln!(out, "<h2>Latency by percentile</h2>{}", legend(report) + &in_scroll(&charts::latency(&curves)));
    let rates: Vec<Line<'_>> = report.results.iter().map(|result| (result.op, whole_seconds(result))).collect();
    let _ = writeln!(out, "<h2>Right answers a second</h2>{}", legend(report) + &in_scroll(&charts::rate(&rates)));
    let _ = writeln!(out, "<h2>Copies on each node</h2>{}", in_scroll(&charts::copies(report.nodes.iter())));
    put_words(&mut out, "Settings", settings(report));
    put_words(&mut out, "Machine", machine(report));
    out + "</body></html>\n"
}

fn headline(report: &Report) -> String {
    let way = report.settings.rate.map_or("closed loop".to_owned(), |rate| format!("open loop at {}/s", grouped(rate)));
    let connections = super::plural(report.connections as u64, "connection");
    let (sizes, protocol) = (report.sizes_in_words(), report.protocol);
    format!("{way}, {connections} x {} in flight, messages of {sizes} B, {protocol} protocol", report.pipeline)
}

fn put_trouble(out: &mut String, report: &Report) {
    if let Some(error) = &report.first_error {
        let _ = writeln!(out, "<p class=\"bad\">First error: {}</p>", escape(error));
    }
    if report.unsent > 0 {
        let unsent = grouped(report.unsent);
        let _ =
            writeln!(out, "<p class=\"bad\">{unsent} requests were due and not sent: the server does not keep up.</p>");
    }
}

fn put_results(out: &mut String, results: &[OpResult]) {
    const HEADS: [&str; 9] = ["", "operations", "errors", "a second", "p50", "p90", "p99", "p99.9", "max"];
    out.push_str("<h2>Results</h2><table class=\"results\"><tr>");
    for head in HEADS {
        let _ = write!(out, "<th>{head}</th>");
    }
    out.push_str("</tr>");
    for result in results {
        let latency = &result.latency_ms;
        let times = [latency.p50, latency.p90, latency.p99, latency.p999, latency.max];
        let times = times.map(|ms| short_time(Duration::from_secs_f64(ms / 1e3)));
        let rate = format!("<b>{}</b>", grouped(result.ops_per_s.round() as u64));
        let counts = [result.op.to_uppercase(), grouped(result.count), grouped(result.errors), rate];
        out.push_str("<tr>");
        // Where there is no room for columns each value is a row, and names itself.
        for (head, value) in HEADS.iter().zip(counts.into_iter().chain(times)) {
            let _ = write!(out, "<td data-is=\"{head}\">{value}</td>");
        }
        out.push_str("</tr>");
    }
    out.push_str("</table>\n");
}

/// As wide as its labels can be read, and moved aside where a screen is narrower.
fn in_scroll(chart: &str) -> String {
    format!("<div class=\"scroll\">{chart}</div>")
}

/// Which colour is what, where there is more than one.
fn legend(report: &Report) -> String {
    if report.results.len() < 2 {
        return String::new();
    }
    let keys = report
        .results
        .iter()
        .map(|result| format!("<span class=\"key {0}\"></span>{1}&emsp;", result.op, result.op.to_uppercase()));
    format!("<p>{}</p>", keys.collect::<String>())
}

/// The rate at the end of each second; the last one, which was not whole, is left out.
fn whole_seconds(result: &OpResult) -> Vec<(f64, f64)> {
    let whole = (result.elapsed_s + 0.001) as usize;
    let seconds = result.per_second.iter().take(whole).enumerate();
    seconds.map(|(second, count)| ((second + 1) as f64, *count as f64)).collect()
}

fn put_words(out: &mut String, title: &str, rows: Vec<(&str, String)>) {
    let _ = write!(out, "<h2>{title}</h2><table class=\"words\">");
    for (name, value) in rows {
        let _ = write!(out, "<tr><td>{name}</td><td>{}</td></tr>", escape(&value));
    }
    out.push_str("</table>\n");
}

fn settings(report: &Report) -> Vec<(&'static str, String)> {
    let asked = &report.settings;
    let seconds = |seconds: f64| format!("{seconds} s");
    let mut rows = vec![("operation", asked.op.to_owned())];
    rows.extend(asked.count.map(|count| ("count", grouped(count))));
    rows.extend(asked.duration_s.map(|duration| ("duration", seconds(duration))));
    rows.extend((asked.warmup_s > 0.0).then(|| ("warm-up", seconds(asked.warmup_s))));
    rows.extend(asked.rate.map(|rate| ("rate", format!("{}/s, latency from the intended start", grouped(rate)))));
    rows.extend(asked.mix.clone().map(|mix| ("SETs to GETs", mix)));
    rows.push(("keys", asked.keys.map_or("new ones".to_owned(), grouped)));
    rows.extend(asked.distribution.clone().map(|distribution| ("distribution", distribution)));
    rows.push(("message bytes", report.sizes_in_words()));
    rows.push(("seed", asked.seed.to_string()));
    rows.extend((asked.wait > 0).then(|| ("WAIT", asked.wait.to_string())));
    if let Some(verified) = report.verified {
        rows.push(("read back equal", format!("{} of {}", grouped(verified), grouped(report.to_verify))));
    }
    if let Some(register) = &report.register {
        rows.push(("tolerance", register.tolerance.to_string()));
        rows.push(("nodes", report.nodes.len().to_string()));
        rows.push(("io mode", register.io_modes.join(", ")));
        rows.push(("layout", register.layouts.join(", ")));
    }
    rows
}

fn machine(report: &Report) -> Vec<(&'static str, String)> {
    let (machine, cpu) = (&report.machine, &report.cpu_per_op);
    let mut rows = vec![("date", report.date.clone()), ("hatokuse", report.version.to_owned())];
    rows.push(("kernel", machine.kernel.clone()));
    rows.push(("cores", format!("{} {}", machine.cores, machine.cpu)));
    rows.push(("memory", format!("{} MiB", grouped(machine.memory_mib))));
    rows.push(("CPU of the bench", format!("{:.2} µs an operation", cpu.bench_us)));
    rows.extend(cpu.servers_us.map(|us| ("CPU of the servers", format!("{us:.1} µs an operation"))));
    rows
}

#[cfg(test)]
mod tests {
    use super::super::tests::{report, samples};
    use super::*;

    #[test]
    fn a_page_has_everything_and_asks_for_nothing() {
        let both = ["set", "get"].map(|op| samples(0).result(op, Duration::from_millis(2500)));
        let page = page(&report(both.to_vec()));
        assert!(
            !page.contains("http") && !page.contains("<script") && !page.contains("src=") && !page.contains("url(")
        );
        for part in ["prefers-color-scheme:dark", "class=\"key get\"", "node 10", "1,048,576", "<th>p99.9", "tolerance"]
        {
            assert!(page.contains(part), "{part}");
        }
        assert_eq!(page.matches("<svg").count(), 3);
        // Seconds 0 and 1 are whole, the last half is not.
        assert_eq!(whole_seconds(&both[0]), [(1.0, 499.0), (2.0, 500.0)]);
    }

    #[test]
    fn nothing_foreign_becomes_a_tag() {
        let mut report = report(vec![samples(1).result("set", Duration::from_secs(1))]);
        let evil = "\"><script>alert(1)</script>'&";
        report.addr = evil.to_owned();
        report.first_error = Some(evil.to_owned());
        report.settings.distribution = Some(evil.to_owned());
        report.machine.cpu = evil.to_owned();
        report.machine.kernel = evil.to_owned();
        report.register.as_mut().unwrap().io_modes = vec![evil.to_owned()];
        let page = page(&report);
        assert!(!page.contains("<script") && !page.contains("\">'"), "{page}");
        assert_eq!(page.matches("&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&#39;&amp;").count(), 7);
    }
}
