//! The charts of the page: the last ten minutes as drawings that stretch, with labels beside them that do not.

use std::fmt::Write as _;

use crate::dashboard::words::{age, latency, rate};
use crate::telemetry::served::{Second, Seconds};
use crate::types::RateView;

/// Seconds that a chart goes back, and the units that its drawing is wide.
const WIDTH: f64 = 600.0;

/// Units that a drawing is high.
const HEIGHT: f64 = 100.0;

/// Seconds that share a point. They are those of the clock, not of the last moment: points move, and do not change.
const STEP: u64 = 5;

/// Some seconds of the past.
#[derive(Debug, Default)]
struct Point {
    /// Where on the drawing it is.
    x: f64,
    writes: Drawn,
    reads: Drawn,
}

/// What is drawn of one operation.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Drawn {
    per_second: f64,
    /// Nothing where nothing was done.
    latencies: Option<(f64, f64)>,
}

impl Drawn {
    /// The mean rate, the mean of the medians by their weight, and the worst 99th percentile.
    fn of<'a>(rates: impl Iterator<Item = &'a RateView> + Clone) -> Self {
        let seconds = rates.clone().count().max(1) as f64;
        let all: f64 = rates.clone().map(|rate| rate.per_second).sum();
        let medians: f64 = rates.clone().map(|rate| rate.per_second * rate.p50_ms).sum();
        let worst = rates.map(|rate| rate.p99_ms).fold(0.0, f64::max);
        Self { per_second: all / seconds, latencies: (all > 0.0).then(|| (medians / all, worst)) }
    }
}

fn points(seconds: &Seconds) -> Vec<Point> {
    let all: Vec<&Second> = seconds.iter().collect();
    let (now, mut at) = (seconds.ended(), seconds.ended() - all.len() as u64);
    let mut points = Vec::new();
    let mut rest = &all[..];
    while !rest.is_empty() {
        let (some, later) = rest.split_at(((STEP - at % STEP) as usize).min(rest.len()));
        let middle = at as f64 + some.len() as f64 / 2.0;
        points.push(Point {
            x: WIDTH - (now as f64 - middle),
            writes: Drawn::of(some.iter().map(|second| &second.writes)),
            reads: Drawn::of(some.iter().map(|second| &second.reads)),
        });
        (at, rest) = (at + some.len() as u64, later);
    }
    points
}

/// What the last moment was like: the figures that stand beside the charts.
pub(super) fn latest(seconds: &Seconds) -> Second {
    let last = || seconds.iter().rev().take(STEP as usize);
    let rate = |drawn: Drawn| {
        let (p50_ms, p99_ms) = drawn.latencies.unwrap_or_default();
        RateView { per_second: drawn.per_second, p50_ms, p99_ms, errors: 0 }
    };
    let writes = rate(Drawn::of(last().map(|second| &second.writes)));
    let reads = rate(Drawn::of(last().map(|second| &second.reads)));
    Second { writes, reads, not_found: last().map(|second| second.not_found).sum() }
}

/// One line of a chart.
struct Line {
    name: &'static str,
    /// Its value now.
    now: Option<f64>,
    /// How it looks, see the page's style.
    class: &'static str,
    values: Vec<Option<f64>>,
}

/// All charts.
pub(super) fn charts(seconds: &Seconds) -> String {
    let points = points(seconds);
    let now = latest(seconds);
    let drawn = |rate: RateView| Drawn {
        per_second: rate.per_second,
        latencies: (rate.per_second > 0.0).then_some((rate.p50_ms, rate.p99_ms)),
    };
    let now = Point { x: WIDTH, writes: drawn(now.writes), reads: drawn(now.reads) };
    let line = |name, class, value: &dyn Fn(&Point) -> Option<f64>| Line {
        name,
        now: value(&now).filter(|_| !points.is_empty()),
        class,
        values: points.iter().map(value).collect(),
    };
    let rates = [
        line("GET", "get", &|point| Some(point.reads.per_second)),
        line("SET", "set", &|point| Some(point.writes.per_second)),
    ];
    let times = |op: fn(&Point) -> Drawn, median, worst| {
        [
            line("p99", worst, &move |point| op(point).latencies.map(|(_, p99)| p99)),
            line("p50", median, &move |point| op(point).latencies.map(|(p50, _)| p50)),
        ]
    };
    let mut html = String::new();
    chart(&mut html, "Requests a second", "wide", &points, &rates, rate);
    chart(&mut html, "SET latency", "", &points, &times(|point| point.writes, "set", "set worst"), milliseconds);
    chart(&mut html, "GET latency", "", &points, &times(|point| point.reads, "get", "get worst"), milliseconds);
    html
}

/// A latency with a blank before its unit, as text has it.
fn milliseconds(ms: f64) -> String {
    let text = latency(ms);
    match text.strip_suffix("ms") {
        Some(number) => format!("{number} ms"),
        None => text,
    }
}

fn chart(html: &mut String, title: &str, class: &str, points: &[Point], lines: &[Line], show: fn(f64) -> String) {
    let most = lines.iter().flat_map(|line| line.values.iter().flatten()).copied().fold(0.0, f64::max);
    let top = round_up(most);
    let shown = |value: Option<f64>| value.map_or_else(|| "\u{2013}".to_owned(), show);
    // Lines are drawn from back to front, and named from front to back.
    let named = || lines.iter().rev();
    let tips: Vec<String> = (0..points.len())
        .map(|i| {
            let values: Vec<String> = named().map(|line| format!("{} {}", line.name, shown(line.values[i]))).collect();
            format!("{} ago: {}", age((WIDTH - points[i].x).round()), values.join(", "))
        })
        .collect();
    let xs: Vec<String> = points.iter().map(|point| format!("{:.1}", point.x)).collect();
    let _ = write!(
        html,
        "<figure class=\"card chart {class}\" data-x=\"{}\" data-tips=\"{}\"><figcaption><h2>{title}</h2><ul class=\"legend\">",
        xs.join("|"),
        tips.join("|"),
    );
    for line in named() {
        let now = shown(line.now);
        let _ = write!(
            html,
            "<li><svg class=\"swatch {}\" viewBox=\"0 0 16 8\" aria-hidden=\"true\"><path class=\"line\" d=\"M1 4h14\"/></svg>{} <b>{now}</b></li>",
            line.class, line.name
        );
    }
    let summary: Vec<String> = named().map(|line| format!("{} now {}", line.name, shown(line.now))).collect();
    let _ = write!(
        html,
        "</ul><output class=\"tip\"></output></figcaption><div class=\"plot\"><div class=\"y\"><span>{}</span><span>{}</span><span>0</span></div>\
         <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{title} over the last 10 minutes: {}, at most {}\">\
         <path class=\"grid\" d=\"M0 0H{WIDTH}M0 {}H{WIDTH}\"/><path class=\"grid faint\" d=\"M150 0V{HEIGHT}M300 0V{HEIGHT}M450 0V{HEIGHT}\"/>\
         <path class=\"base\" d=\"M0 {HEIGHT}H{WIDTH}\"/>",
        show(top),
        show(top / 2.0),
        summary.join(", "),
        show(most),
        HEIGHT / 2.0,
    );
    for line in lines {
        draw(html, points, line, top);
    }
    html.push_str(
        "<path class=\"here\" d=\"\"/></svg></div><div class=\"x\"><span>10 min ago</span><span>5 min</span><span>now</span></div></figure>",
    );
}

/// The areas under a line, and the line: a piece for each stretch without a gap.
fn draw(html: &mut String, points: &[Point], line: &Line, top: f64) {
    let (mut stroke, mut area) = (String::new(), String::new());
    let mut begun: Option<f64> = None;
    let mut last = 0.0;
    for (point, value) in points.iter().zip(&line.values) {
        let Some(value) = value else {
            close(&mut area, begun.take(), last);
            continue;
        };
        let (x, y) = (point.x, HEIGHT - value / top * HEIGHT);
        // A point by itself is a dot: a line of no length with round ends.
        let step = if begun.is_none() { format!("M{x:.1} {y:.1}h0") } else { format!("L{x:.1} {y:.1}") };
        stroke.push_str(&step);
        let _ = match begun {
            None => write!(area, "M{x:.1} {HEIGHT}V{y:.1}"),
            Some(_) => write!(area, "L{x:.1} {y:.1}"),
        };
        begun = begun.or(Some(x));
        last = x;
    }
    close(&mut area, begun, last);
    let class = line.class;
    let _ = write!(
        html,
        "<g class=\"{class}\"><path class=\"area\" d=\"{area}\"/><path class=\"line\" d=\"{stroke}\"/></g>"
    );
}

fn close(area: &mut String, begun: Option<f64>, last: f64) {
    if begun.is_some() {
        let _ = write!(area, "L{last:.1} {HEIGHT}Z");
    }
}

/// The end of an axis: the least of 1, 2, 4, 10 times a power of ten that is not below, so that its half is round as well.
fn round_up(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let unit = 10f64.powf(most.log10().floor());
    [1.0, 2.0, 4.0, 10.0].into_iter().map(|n| n * unit).find(|end| *end >= most).unwrap_or(10.0 * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(per_second: f64, p50_ms: f64, p99_ms: f64) -> Second {
        Second { reads: RateView { per_second, p50_ms, p99_ms, errors: 0 }, ..Second::default() }
    }

    #[test]
    fn points_are_of_whole_steps_and_stay() {
        let mut seconds = Seconds::new(600);
        (0..7).for_each(|n| seconds.push(second(f64::from(n), 1.0, f64::from(n))));
        let before = points(&seconds);
        assert_eq!(before.iter().map(|point| point.x).collect::<Vec<_>>(), [595.5, 599.0]);
        assert_eq!(before[0].reads, Drawn { per_second: 2.0, latencies: Some((1.0, 4.0)) });
        (0..3).for_each(|_| seconds.push(second(100.0, 3.0, 9.0)));
        let after = points(&seconds);
        assert_eq!((after.len(), after[0].reads), (2, before[0].reads), "what is over does not change");
        assert_eq!(after[0].x, 592.5);
        // A full ring begins in the middle of a step.
        let mut seconds = Seconds::new(600);
        (0..603).for_each(|_| seconds.push(Second::default()));
        let all = points(&seconds);
        assert_eq!((all.len(), all[0].x, all[0].reads.latencies), (121, 1.0, None));
    }

    #[test]
    fn axes_end_at_round_numbers() {
        for (most, end) in [(0.0, 1.0), (0.7, 1.0), (1.0, 1.0), (1.1, 2.0), (3.0, 4.0), (5.0, 10.0), (1204.0, 2000.0)] {
            assert!((round_up(most) - end).abs() < 1e-9, "{most}");
        }
        assert!((round_up(0.03) - 0.04).abs() < 1e-9);
    }

    #[test]
    fn a_line_has_gaps_where_nothing_was_done() {
        let mut seconds = Seconds::new(600);
        for rate in [10.0, 0.0, 10.0, 10.0] {
            (0..5).for_each(|_| seconds.push(second(rate, 2.0, 4.0)));
        }
        let html = charts(&seconds);
        let p50 = html.rsplit("class=\"line\" d=\"").next().unwrap().split('"').next().unwrap();
        assert_eq!(p50, "M582.5 50.0h0M592.5 50.0h0L597.5 50.0");
        assert!(html.contains("GET latency") && html.contains("13s ago: p50 \u{2013}, p99 \u{2013}"), "{html}");
        assert!(charts(&Seconds::new(600)).contains("SET <b>\u{2013}</b>"), "nothing is known yet");
    }
}
