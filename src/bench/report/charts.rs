//! Charts of a report as SVG, by hand: a few scales, lines and bars, no library and no script.
//!
//! Colours are classes (`set`, `get`, `bar`, `grid`, `axis`) that the page gives for light and dark.
//! Every foreign word goes through [`escape`]. Pure: numbers in, text out.

use std::fmt::Write as _;
use std::time::Duration;

use super::short_time;
use crate::telemetry::grouped;

/// The drawing area of a chart in its own units, and what its labels take of it.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 40.0;

/// Seconds of a run that are shown as points too.
const DOTS: usize = 40;

/// Text that is safe between tags and in attributes; control characters are shown as such.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    out
}

/// A line to draw: its name (`set` or `get`, and its class) and its points.
pub type Line<'a> = (&'a str, Vec<(f64, f64)>);

/// Where numbers lie on the paper.
#[derive(Debug, Clone, Copy)]
struct Scale {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        let part = (value - self.from) / (self.to - self.from).max(f64::MIN_POSITIVE);
        self.start + part.clamp(0.0, 1.0) * (self.end - self.start)
    }
}

/// Latency in milliseconds over quantiles, which are spread out towards 1: 0, 90, 99, 99.9 % are equally far apart.
pub fn latency(lines: &[Line<'_>]) -> String {
    let nines = |quantile: f64| -(1.0 - quantile).max(1e-12).log10();
    let points = || lines.iter().flat_map(|line| &line.1);
    let most_nines = points().map(|point| nines(point.0)).fold(1.0, f64::max);
    let least = points().map(|point| point.1).filter(|ms| *ms > 0.0).fold(f64::MAX, f64::min);
    let most = points().map(|point| point.1).fold(0.0, f64::max);
    if most <= 0.0 {
        return note("No right answer, no latency.");
    }
    let x = Scale { from: 0.0, to: most_nines, start: LEFT, end: WIDTH - RIGHT };
    let y = Scale { from: decade_below(least), to: decade_above(most), start: HEIGHT - BOTTOM, end: TOP };
    let mut out = open("Latency by percentile, both axes logarithmic", HEIGHT);
    for (value, label) in log_ticks(y.from, y.to) {
        put_grid(&mut out, y.at(value), &label);
    }
    for decade in 0..=(most_nines + 1e-6).floor() as i32 {
        let percent = 100.0 - 100.0 / 10f64.powi(decade);
        let label = format!("{percent:.*}%", (decade - 2).max(0) as usize);
        put_column(&mut out, x.at(f64::from(decade)), &label);
    }
    put_column(&mut out, x.at(2f64.log10()), "50%");
    put_axis_title(&mut out, "percentile of right answers");
    for (name, points) in lines {
        let placed = points.iter().filter(|point| point.1 > 0.0);
        let placed: Vec<_> = placed.map(|point| (x.at(nines(point.0)), y.at(point.1.log10()))).collect();
        put_line(&mut out, name, &placed, false);
    }
    out + "</svg>"
}

/// Right answers a second over the seconds of the run.
pub fn rate(lines: &[Line<'_>]) -> String {
    let points = || lines.iter().flat_map(|line| &line.1);
    let seconds = points().map(|point| point.0).fold(0.0, f64::max);
    let most = points().map(|point| point.1).fold(0.0, f64::max);
    if most <= 0.0 {
        return note("The run has no whole second: give it longer with --duration 10s.");
    }
    let step = nice_step(most / 4.0);
    let x = Scale { from: 0.0, to: seconds.max(1.0), start: LEFT, end: WIDTH - RIGHT };
    let y = Scale { from: 0.0, to: (most / step).ceil() * step, start: HEIGHT - BOTTOM, end: TOP };
    let mut out = open("Right answers a second over time", HEIGHT);
    for number in 0..=(y.to / step).round() as u32 {
        let value = f64::from(number) * step;
        put_grid(&mut out, y.at(value), &grouped(value.round() as u64));
    }
    let every = nice_step(seconds / 10.0).max(1.0);
    for number in 0..=(seconds / every).floor() as u32 {
        put_column(&mut out, x.at(f64::from(number) * every), &format!("{}", f64::from(number) * every));
    }
    put_axis_title(&mut out, "seconds since the warm-up");
    for (name, points) in lines {
        let placed: Vec<_> = points.iter().map(|point| (x.at(point.0), y.at(point.1))).collect();
        put_line(&mut out, name, &placed, true);
    }
    out + "</svg>"
}

/// One bar a node, with what all of them would hold if they held the same.
pub fn copies<'a>(nodes: impl Iterator<Item = (&'a u32, &'a u64)>) -> String {
    let nodes: Vec<_> = nodes.collect();
    let most = nodes.iter().map(|node| *node.1).max().unwrap_or(0);
    if most == 0 {
        return note("The server does not tell what its nodes hold.");
    }
    let mean = nodes.iter().map(|node| *node.1 as f64).sum::<f64>() / nodes.len() as f64;
    let (row, label) = (26.0, 90.0);
    let x = Scale { from: 0.0, to: most as f64, start: LEFT + 10.0, end: WIDTH - RIGHT - label };
    let mut out = open("Copies on each node", row * nodes.len() as f64 + 8.0);
    for (number, (id, count)) in nodes.into_iter().enumerate() {
        let (top, end) = (row * number as f64 + 4.0, x.at(*count as f64));
        let (width, middle, bar) = ((end - x.start).max(1.0), top + row / 2.0, row - 8.0);
        let off = (*count as f64 / mean - 1.0) * 100.0;
        let _ = write!(
            out,
            r#"<text class="tick" x="{LEFT}" y="{:.1}" text-anchor="end">node {id}</text><rect class="bar" x="{:.1}" y="{:.1}" width="{width:.1}" height="{bar:.1}" rx="2"/><text class="tick" x="{:.1}" y="{:.1}">{} <tspan class="quiet">{off:+.1}%</tspan></text>"#,
            middle + 4.0,
            x.start,
            top + 4.0,
            end + 6.0,
            middle + 4.0,
            grouped(*count)
        );
    }
    out + "</svg>"
}

fn note(text: &str) -> String {
    format!(r#"<p class="quiet">{}</p>"#, escape(text))
}

fn open(label: &str, height: f64) -> String {
    let label = escape(label);
    format!(r#"<svg role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {height}"><title>{label}</title>"#)
}

/// A horizontal line, named at its left.
fn put_grid(out: &mut String, y: f64, label: &str) {
    let (right, label) = (WIDTH - RIGHT, escape(label));
    let _ = write!(
        out,
        r#"<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1}" y2="{y:.1}"/><text class="tick" x="{}" y="{:.1}" text-anchor="end">{label}</text>"#,
        LEFT - 8.0,
        y + 4.0
    );
}

/// A vertical line, named below it.
fn put_column(out: &mut String, x: f64, label: &str) {
    let (bottom, label) = (HEIGHT - BOTTOM, escape(label));
    let _ = write!(
        out,
        r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{bottom}"/><text class="tick" x="{x:.1}" y="{}" text-anchor="middle">{label}</text>"#,
        bottom + 16.0
    );
}

fn put_axis_title(out: &mut String, text: &str) {
    let (x, y, text) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 6.0, escape(text));
    let _ = write!(out, r#"<text class="tick quiet" x="{x}" y="{y}" text-anchor="middle">{text}</text>"#);
}

fn put_line(out: &mut String, name: &str, points: &[(f64, f64)], dots: bool) {
    let name = escape(name);
    let path: String = points.iter().map(|(x, y)| format!("{x:.1},{y:.1} ")).collect();
    let _ = write!(out, r#"<polyline class="line {name}" points="{}"/>"#, path.trim_end());
    if dots && points.len() <= DOTS {
        for (x, y) in points {
            let _ = write!(out, r#"<circle class="dot {name}" cx="{x:.1}" cy="{y:.1}" r="2.5"/>"#);
        }
    }
}

/// 1, 2 or 5 times a power of ten, not smaller than this.
fn nice_step(at_least: f64) -> f64 {
    let power = 10f64.powf(at_least.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|part| part * power).find(|step| *step >= at_least).unwrap_or(power * 10.0)
}

/// The next 1, 2 or 5 of a decade below, as a logarithm.
fn decade_below(value: f64) -> f64 {
    let power = value.log10().floor();
    let part = [5.0, 2.0, 1.0].into_iter().find(|part| part * 10f64.powf(power) <= value).unwrap_or(1.0);
    power + f64::log10(part)
}

/// The next 1, 2 or 5 of a decade above, as a logarithm; never the same as below.
fn decade_above(value: f64) -> f64 {
    nice_step(value * 1.0001).log10()
}

/// 1, 2 and 5 of each decade in between, or 1 alone where there are many; in milliseconds, named as times.
fn log_ticks(from: f64, to: f64) -> Vec<(f64, String)> {
    let parts: &[f64] = if to - from > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let decades = from.floor() as i32..=to.ceil() as i32;
    let all = decades.flat_map(|decade| parts.iter().map(move |part| part * 10f64.powi(decade)));
    let inside = all.filter(|ms| (from - 1e-9..=to + 1e-9).contains(&ms.log10()));
    inside.map(|ms| (ms.log10(), short_time(Duration::from_secs_f64(ms / 1e3)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_only_text() {
        assert_eq!(escape(r#"<b onclick="x('&')">"#), "&lt;b onclick=&quot;x(&#39;&amp;&#39;)&quot;&gt;");
        assert_eq!(escape("a\u{0}\u{1b}[31m\nü"), "a\u{fffd}\u{fffd}[31m\u{fffd}ü");
    }

    #[test]
    fn percentiles_are_equally_far_apart() {
        let curve = vec![(0.0, 0.1), (0.9, 1.0), (0.99, 10.0), (0.999, 100.0)];
        let picture = latency(&[("set", curve)]);
        assert!(picture.contains(r#"<polyline class="line set" points="64.0,260.0 290.7,"#), "{picture}");
        for label in [">0%<", ">50%<", ">90%<", ">99%<", ">99.9%<", ">100us<", ">100ms<"] {
            assert!(picture.contains(label), "{label}: {picture}");
        }
        assert!(latency(&[("set", Vec::new())]).contains("no latency"));
    }

    #[test]
    fn rates_start_at_nothing() {
        let picture = rate(&[("get", vec![(1.0, 900.0), (2.0, 1000.0)])]);
        assert!(picture.contains(">0<") && picture.contains(">1,000<") && picture.contains("line get"), "{picture}");
        assert!(picture.contains("404.0,38.6 744.0,14.0"), "{picture}");
        assert!(rate(&[("set", Vec::new())]).contains("no whole second"));
    }

    #[test]
    fn every_node_has_its_bar() {
        let nodes = std::collections::BTreeMap::from([(1, 100), (2, 300), (7, 0)]);
        let picture = copies(nodes.iter());
        assert_eq!(picture.matches("<rect").count(), 3);
        assert!(picture.contains("node 7") && picture.contains("-25.0%") && picture.contains("+125.0%"), "{picture}");
        assert!(copies(std::collections::BTreeMap::new().iter()).contains("does not tell"));
    }

    #[test]
    fn scales_have_round_numbers() {
        assert_eq!([0.3, 1.0, 3.0, 70.0, 101.0].map(nice_step), [0.5, 1.0, 5.0, 100.0, 200.0]);
        let names = |from: f64, to: f64| log_ticks(from, to).into_iter().map(|tick| tick.1).collect::<Vec<_>>();
        assert_eq!(names(decade_below(0.3), decade_above(3.0)), ["200us", "500us", "1.0ms", "2.0ms", "5.0ms"]);
        assert_eq!(names(-2.0, 2.0), ["10us", "100us", "1.0ms", "10ms", "100ms"]);
    }
}
