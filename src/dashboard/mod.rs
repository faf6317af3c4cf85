//! What the servers' screens look like: plain values in, cells of a buffer out.
//!
//! Invariants: the same values and size give the same screen; the first line of
//! state says healthy or why not; colour only repeats what a word says; text
//! from outside is escaped; no size is too small. It never reads a clock, the
//! environment or a terminal: `terminal.rs` does, and hands it in.

pub mod health;
mod leader;
mod node;
mod peers;
pub mod words;

use ratatui::Frame;
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};

use crate::telemetry::grouped;
use crate::types::{ClusterView, EventLine, NodeReport, RateView};

use health::Health;
pub use leader::{leader_final, leader_frame, leader_line};
pub use node::{node_final, node_frame, node_line};

/// How one kind of view is shown: as a screen, as a line a period, and at the end.
#[derive(Debug)]
pub struct Look<V> {
    /// Draws a frame: view, time of day, what the user chose, where to.
    pub frame: fn(&V, &str, &Ui, &mut Frame<'_>),
    /// One line without its end.
    pub line: fn(&V) -> String,
    /// The lines that stay in the scrollback after a screen, each with its end.
    pub last: fn(&V) -> String,
}

/// The leader's.
pub const LEADER: Look<ClusterView> = Look { frame: leader_frame, line: leader_line, last: leader_final };

/// A node's.
pub const NODE: Look<NodeReport> = Look { frame: node_frame, line: node_line, last: node_final };

/// What the terminal can do, and what its user has chosen so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ui {
    /// Whether to colour.
    pub color: bool,
    /// Whether the terminal shows more than ASCII.
    pub utf8: bool,
    /// How the leader's nodes are ordered.
    pub sort: Sort,
    /// The page of nodes; past the last one comes the first.
    pub page: usize,
    /// Whether the help covers the screen.
    pub help: bool,
    /// Whether `q` was pressed, and the question is asked whether it was meant.
    pub leaving: bool,
}

/// How the leader's nodes are ordered; ties by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sort {
    /// Ascending by id.
    #[default]
    Id,
    /// Down first, then suspect.
    State,
    /// Most messages first.
    Messages,
    /// Slowest first.
    P99,
}

/// A key, as far as screens care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// One that prints.
    Char(char),
    /// Escape.
    Escape,
    /// Ctrl-C, which is a key like any other while a screen is up.
    Interrupt,
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// The same data drawn anew.
    Redraw,
    /// The end of the server.
    Quit,
    /// New data.
    Refresh,
}

impl Ui {
    /// Nothing chosen yet.
    pub fn new(color: bool, utf8: bool) -> Self {
        Self { color, utf8, sort: Sort::Id, page: 0, help: false, leaving: false }
    }

    /// Takes a key, and says what follows.
    pub fn key(&mut self, key: Key) -> Action {
        if std::mem::take(&mut self.leaving) {
            let sure = matches!(key, Key::Interrupt | Key::Char('q' | 'Q' | 'y' | 'Y'));
            return if sure { Action::Quit } else { Action::Redraw };
        }
        match key {
            Key::Interrupt => return Action::Quit,
            // A letter is pressed by accident, or meant to leave the screen: it ends the server.
            Key::Char('q' | 'Q') => self.leaving = true,
            Key::Char('?') => self.help = !self.help,
            Key::Escape if self.help => self.help = false,
            Key::Char('r') => return Action::Refresh,
            Key::Char('s') if !self.help => {
                self.sort = self.sort.next();
                self.page = 0;
            }
            Key::Char('n') if !self.help => self.page = self.page.wrapping_add(1),
            _ => return Action::None,
        }
        Action::Redraw
    }

    fn style(&self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    fn foreign(&self, text: &str) -> String {
        words::foreign(text, self.utf8)
    }
}

impl Sort {
    fn next(self) -> Self {
        match self {
            Self::Id => Self::State,
            Self::State => Self::Messages,
            Self::Messages => Self::P99,
            Self::P99 => Self::Id,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::State => "state",
            Self::Messages => "messages",
            Self::P99 => "p99",
        }
    }
}

/// In place of the keys, once `q` was pressed.
const STOP_QUESTION: &str = " this stops the server: y or q again stops it, any other key does not";

type Rows = Vec<Line<'static>>;

/// A part of a screen; when rows are short, the highest `rank` goes first, and 0 stays.
struct Part {
    rank: u8,
    rows: Rows,
}

fn height(parts: &[Part]) -> usize {
    parts.iter().map(|part| part.rows.len()).sum()
}

/// Drops parts of rank `least` and up, highest first, until the rest fits into `room`.
fn squeeze(parts: &mut Vec<Part>, room: usize, least: u8) {
    while height(parts) > room {
        let Some(worst) = parts.iter().map(|p| p.rank).filter(|&r| r >= least && r > 0).max() else { return };
        parts.retain(|part| part.rank != worst);
    }
}

/// Rows that are left above the footer.
fn body_height(frame: &Frame<'_>) -> usize {
    usize::from(frame.area().height).saturating_sub(1)
}

/// Puts `parts` from the top and `footer` on the last row; what has no room is left out.
fn paint(frame: &mut Frame<'_>, parts: &[Part], footer: &str, ui: &Ui) {
    let area = frame.area();
    if area.is_empty() {
        return;
    }
    let rows = parts.iter().flat_map(|part| &part.rows);
    let last = area.bottom() - 1;
    for (y, line) in (area.top()..area.bottom()).zip(rows) {
        // The last row belongs to the keys, unless it is the only one.
        if y < last || area.height == 1 {
            frame.buffer_mut().set_line(area.x, y, line, area.width);
            if line.width() > usize::from(area.width) {
                // A number that is cut off must not pass for a smaller one.
                frame.buffer_mut()[(area.right() - 1, y)].set_char(if ui.utf8 { '…' } else { '~' });
            }
        }
    }
    if area.height > 1 || ui.leaving {
        let footer = if ui.leaving { STOP_QUESTION } else { footer };
        frame.buffer_mut().set_line(area.x, last, &Line::raw(footer), area.width);
    }
}

/// Name and version at the left, up, every and the clock at the right, as far as there is room.
fn header(name: &str, version: &str, up_s: f64, every_s: f64, clock: &str, columns: usize, ui: &Ui) -> Line<'static> {
    let left = format!(" {name} {}", ui.foreign(version));
    let (up, every) = (format!("up {}", words::age(up_s)), format!("every {}", words::interval(every_s)));
    let rights = [format!("{up}    {every}    {clock}  "), format!("{up}  {clock} "), format!("{clock} ")];
    for right in rights {
        let taken = words::width(&left) + words::width(&right);
        if taken + 2 <= columns {
            return Line::raw(format!("{left}{}{right}", " ".repeat(columns - taken)));
        }
    }
    Line::raw(words::cut(&left, columns, ui.utf8))
}

/// The first line of state: a coloured word, and why.
fn state(health: &Health, columns: usize, ui: &Ui) -> Line<'static> {
    let word = format!(" {}", health.word);
    let reason = words::cut(&ui.foreign(&health.reason), columns.saturating_sub(word.len() + 2), ui.utf8);
    Line::from(vec![Span::styled(word, ui.style(health.color)), Span::raw("  "), Span::raw(reason)])
}

/// A rule with the name of what follows.
fn title(name: &str, columns: usize, ui: &Ui) -> Line<'static> {
    let rule = if ui.utf8 { "─" } else { "-" };
    let rest = columns.saturating_sub(words::width(name) + 4);
    Line::styled(format!("{} {name} {}", rule.repeat(2), rule.repeat(rest)), ui.style(Color::Cyan))
}

/// A label in front of a number that should be 0: yellow or red where it is not.
fn alarm(label: &str, n: u64, color: Color, ui: &Ui) -> Span<'static> {
    Span::styled(format!("{label} {}", grouped(n)), if n == 0 { Style::new() } else { ui.style(color) })
}

/// Columns of a traffic row around its sparkline.
const TRAFFIC_FRAME: usize = 52;

/// How many periods a traffic row has room for.
fn spark_columns(columns: usize) -> usize {
    columns.saturating_sub(TRAFFIC_FRAME)
}

/// `traffic, last 5m00s`: as much as the sparklines show.
fn traffic_title(every_s: f64, history: &[u64], columns: usize, ui: &Ui) -> Line<'static> {
    let shown = history.len().min(spark_columns(columns));
    if shown < 2 {
        return title("traffic", columns, ui);
    }
    title(&format!("traffic, last {}", words::interval(every_s * shown as f64)), columns, ui)
}

/// One kind of work: its rate now and before, its latencies, its errors.
fn traffic(label: &str, rate: &RateView, history: &[u64], columns: usize, ui: &Ui) -> Line<'static> {
    let spark = words::sparkline(history, spark_columns(columns), ui.utf8);
    let spark = if spark.is_empty() { spark } else { format!("{spark} ") };
    let latency = |ms: f64| if rate.per_second > 0.0 { words::latency(ms) } else { "-".to_owned() };
    Line::from(vec![
        Span::raw(format!(" {label:<7} {:>7}  ", words::rate(rate.per_second))),
        Span::styled(spark, ui.style(Color::Cyan)),
        Span::raw(format!("p50 {:>6}  p99 {:>6}  ", latency(rate.p50_ms), latency(rate.p99_ms))),
        alarm("errors", rate.errors, Color::Red, ui),
    ])
}

/// One kind of work on a plain line.
fn traffic_plain(label: &str, rate: &RateView) -> String {
    let p99 = if rate.per_second > 0.0 { words::latency(rate.p99_ms) } else { "-".to_owned() };
    format!("{label} {} p99 {p99}", words::rate(rate.per_second))
}

/// The newest `events` in at most `rows` rows with their title; nothing where no event fits.
fn last_events(events: &[EventLine], rows: usize, columns: usize, ui: &Ui) -> Rows {
    let shown = &events[events.len().saturating_sub(rows.saturating_sub(1))..];
    if shown.is_empty() {
        return Rows::new();
    }
    let event = |event: &EventLine| {
        let color = match event.level.as_str() {
            "ERROR" => Some(Color::Red),
            "WARN" => Some(Color::Yellow),
            _ => None,
        };
        let level = format!("{:<5}", ui.foreign(&event.level));
        let level = Span::styled(level, color.map(|c| ui.style(c)).unwrap_or_default());
        let text = words::cut(&ui.foreign(&event.text), columns.saturating_sub(17), ui.utf8);
        Line::from(vec![Span::raw(format!(" {} ", ui.foreign(&event.time))), level, Span::raw(format!(" {text}"))])
    };
    std::iter::once(title("last events", columns, ui)).chain(shown.iter().map(event)).collect()
}

/// Covers the screen with `lines`.
fn help(frame: &mut Frame<'_>, lines: &[&str], ui: &Ui) {
    let rows = lines.iter().map(|line| Line::raw(format!(" {line}"))).collect();
    paint(frame, &[Part { rank: 0, rows }], " ? or Esc back   q quit", ui);
}

#[cfg(test)]
mod tests;
