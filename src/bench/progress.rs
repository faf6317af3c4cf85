//! Tells people on stderr how far a phase is: a bar on a terminal, else a line each 10 %.
//!
//! Never writes to stdout, which belongs to the report.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::report::{Samples, short_time};
use crate::telemetry::grouped;

/// The progress of one phase.
#[derive(Debug)]
pub(super) struct Progress {
    name: &'static str,
    total: u64,
    started: Instant,
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
    pub(super) fn on_stderr(name: &'static str, total: u64) -> Self {
        let shown = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            // The template is a constant; the default one is as good if it were wrong.
            if let Ok(style) = ProgressStyle::with_template(
                " {prefix:<8} [{bar:36}] {human_pos}/{human_len} {percent}%  eta {eta}\n          {msg}",
            ) {
                bar.set_style(style.progress_chars("#>-"));
            }
            bar.set_prefix(name);
            Shown::Bar(bar)
        } else {
            Shown::Lines(0)
        };
        Self { name, total, started: Instant::now(), shown }
    }

    /// Tells nobody.
    pub(super) fn hidden() -> Self {
        Self { name: "", total: 0, started: Instant::now(), shown: Shown::Nothing }
    }

    /// What has ended so far.
    pub(super) fn update(&mut self, sets: &Samples, gets: &Samples) {
        let done = sets.ended() + gets.ended();
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_position(done);
                bar.set_message(line(done, self.started.elapsed(), sets, gets));
            }
            Shown::Lines(told) => {
                let tenths = done * 10 / self.total.max(1);
                if tenths > *told {
                    *told = tenths;
                    let rest = line(done, self.started.elapsed(), sets, gets);
                    // Nobody to tell is no reason to stop measuring.
                    let _ = writeln!(
                        std::io::stderr().lock(),
                        "bench: {} {}% {}/{}  {rest}",
                        self.name,
                        tenths * 10,
                        grouped(done),
                        grouped(self.total)
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

fn line(done: u64, elapsed: Duration, sets: &Samples, gets: &Samples) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-3);
    let busier = if sets.right() >= gets.right() { sets } else { gets };
    format!(
        "{}/s   p50 {}   p99 {}   errors {}",
        grouped(rate as u64),
        short_time(busier.quantile(0.5)),
        short_time(busier.quantile(0.99)),
        grouped(sets.errors + gets.errors)
    )
}
