//! Tells people on stderr how far it is: a bar on a terminal, else a line each 10 %.

use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::telemetry::grouped;

#[derive(Debug)]
pub(super) struct Progress {
    what: &'static str,
    total: u64,
    done: u64,
    tenths: u64,
    began: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// `total`: messages that are expected.
    pub(super) fn begin(what: &'static str, total: u64, plain: bool) -> Self {
        let bar = (!plain && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let template = " {prefix} [{bar:36}] {human_pos}/{human_len} {percent}%  {per_sec}  eta {eta}";
            // The template is a constant; the default one is as good if it were wrong.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("#>-"));
            }
            bar.set_prefix(what);
            bar
        });
        Self { what, total, done: 0, tenths: 0, began: Instant::now(), bar }
    }

    /// So many more.
    pub(super) fn add(&mut self, more: u64) {
        self.done += more;
        if let Some(bar) = &self.bar {
            return bar.set_position(self.done);
        }
        let tenths = self.done * 10 / self.total.max(1);
        if tenths > self.tenths && self.done < self.total {
            self.tenths = tenths;
            let rate = self.done as f64 / self.began.elapsed().as_secs_f64().max(1e-3);
            let (done, total, rate) = (grouped(self.done), grouped(self.total), grouped(rate as u64));
            say(&format!("{}: {done} of {total} messages, {rate}/s", self.what));
        }
    }

    /// Ends it with this line; `summary` gets the seconds that it took.
    pub(super) fn end(self, summary: impl FnOnce(f64) -> String) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        say(&summary(self.began.elapsed().as_secs_f64()));
    }
}

/// A line on stderr.
pub(super) fn say(line: &str) {
    // Nobody to tell is no reason to stop.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
