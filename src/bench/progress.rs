//! Tells people on stderr how far a phase is: a bar on a terminal, else a line each 10 %.
//!
//! Never writes to stdout, which belongs to the report.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::report::short_time;
use super::session::Load;
use crate::telemetry::grouped;

/// When a phase is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// With so many requests.
    Count(u64),
    /// After this time, warm-up included.
    Time(Duration),
}

/// The progress of one phase.
#[derive(Debug)]
pub(super) struct Progress {
    name: &'static str,
    goal: Goal,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    /// Tenths that were told of.
    Lines(u64),
    Nothing,
}

impl Progress {
    /// A bar or lines, by what stderr is.
    pub(super) fn on_stderr(name: &'static str, goal: Goal) -> Self {
        let (total, template) = match goal {
            Goal::Count(count) => {
                (count, " {prefix:<8} [{bar:36}] {human_pos}/{human_len} {percent}%  eta {eta}\n          {msg}")
            }
            Goal::Time(time) => (time.as_millis() as u64, " {prefix:<8} [{bar:36}] {percent}%\n          {msg}"),
        };
        // A terminal that cannot move its cursor shows no bar.
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let shown = if std::io::stderr().is_terminal() && !dumb {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            // The template is a constant; the default one is as good if it were wrong.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("#>-"));
            }
            bar.set_prefix(name);
            Shown::Bar(bar)
        } else {
            Shown::Lines(0)
        };
        Self { name, goal, shown }
    }

    /// Tells nobody.
    pub(super) fn hidden() -> Self {
        Self { name: "", goal: Goal::Count(0), shown: Shown::Nothing }
    }

    /// What has ended so far, and how long it took, warm-up included.
    pub(super) fn update(&mut self, load: &Load, elapsed: Duration) {
        let (done, total) = match self.goal {
            Goal::Count(count) => (load.sets.ended() + load.gets.ended(), count),
            Goal::Time(time) => (elapsed.min(time).as_millis() as u64, time.as_millis() as u64),
        };
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_position(done);
                bar.set_message(line(load, elapsed));
            }
            Shown::Lines(told) => {
                let tenths = done * 10 / total.max(1);
                if tenths > *told {
                    *told = tenths;
                    let rest = line(load, elapsed);
                    let requests = grouped(load.sets.ended() + load.gets.ended());
                    // Nobody to tell is no reason to stop measuring.
                    let _ = writeln!(
                        std::io::stderr().lock(),
                        "bench: {} {}% {requests} requests  {rest}",
                        self.name,
                        tenths * 10,
                    );
                }
            }
            Shown::Nothing => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn line(load: &Load, elapsed: Duration) -> String {
    let (sets, gets) = (&load.sets, &load.gets);
    let measured = elapsed.saturating_sub(Duration::from_nanos(load.rules.warm));
    if measured.is_zero() {
        return "warming up".to_owned();
    }
    let rate = (sets.ended() + gets.ended()) as f64 / measured.as_secs_f64().max(1e-3);
    let busier = if sets.right() >= gets.right() { sets } else { gets };
    format!(
        "{}/s   p50 {}   p99 {}   errors {}",
        grouped(rate as u64),
        short_time(busier.quantile(0.5)),
        short_time(busier.quantile(0.99)),
        grouped(sets.errors + gets.errors)
    )
}
