//! How far a long command has come: a bar for people, a line now and then for everybody else.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::Global;
use crate::output::{size, tell};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Between two looks of a caller that asks whether it is time.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Shows progress in bytes, on standard error.
pub(crate) struct Meter {
    label: &'static str,
    total: Option<u64>,
    bar: Option<ProgressBar>,
    silent: bool,
    looked: Instant,
    told: Instant,
}

impl Meter {
    /// A meter for `total` bytes, if that is known.
    pub(crate) fn new(label: &'static str, total: Option<u64>, global: &Global) -> Meter {
        let now = Instant::now();
        let bar = (!global.quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
            bar.set_style(style(total.is_some()));
            bar.set_prefix(label);
            bar
        });
        Meter { label, total, bar, silent: global.quiet, looked: now, told: now }
    }

    /// True when it is time to look again: callers ask before they work out what to show.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let due = now.saturating_duration_since(self.looked) >= LOOK_EVERY;
        if due {
            self.looked = now;
        }
        due
    }

    /// `done` bytes of `total` are done.
    pub(crate) fn show_of(&mut self, done: u64, total: u64) {
        if self.total.is_none() {
            self.total = Some(total);
            if let Some(bar) = &self.bar {
                bar.set_length(total);
                bar.set_style(style(true));
            }
        }
        self.show(done, "");
    }

    /// `done` bytes are done.
    pub(crate) fn show(&mut self, done: u64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(message.to_owned());
        } else if !self.silent && self.told.elapsed() >= LINE_EVERY {
            self.told = Instant::now();
            let of = self.total.map(|total| format!(" of {}", size(total))).unwrap_or_default();
            let colon = if message.is_empty() { "" } else { ": " };
            tell(format_args!("{} {}{of}{colon}{message}", self.label, size(done)));
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.finish();
    }
}

fn style(has_total: bool) -> ProgressStyle {
    // Figures have a line of their own: beside the bar 80 columns would cut them off.
    let template = match has_total {
        true => "{prefix} {bar:24} {binary_bytes} of {binary_total_bytes}\n{wide_msg}",
        false => "{prefix} {binary_bytes}\n{wide_msg}",
    };
    // The templates are ours: one that does not parse falls back to the plain bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
