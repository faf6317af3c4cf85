//! A node's screen, line and final report.
//!
//! Invariant: all three say the same of the same view. The row about syncing is
//! there only where something is synced.

use ratatui::Frame;
use ratatui::style::Color;
use ratatui::text::{Line, Span};

use super::{Health, Part, Rows, Ui, words};
use crate::telemetry::grouped;
use crate::types::{IoMode, NodeReport};

const KEYS: &str = " q quit   r refresh   ? help";

const HELP: &[&str] = &[
    "hatokuse node",
    "",
    "REGISTERED  the leader counts on this node",
    "WAITING     the leader has not accepted it yet; it keeps trying",
    "DEGRADED    writes failed, or copies were found damaged, since the start",
    "",
    "queue, write, sync: where the slowest 1 % of write batches spent their time",
    "buffered    a kill of the process loses nothing, a power cut may",
    "unbuffered  a power cut loses nothing either",
    "",
    "r  fetch the data now and clear the screen    ?  this help",
    "q  (or Ctrl-C) stop the node",
    "Times of day are UTC.",
];

/// Draws a node's screen; `clock` is the time of day of the view.
pub fn node_frame(view: &NodeReport, clock: &str, ui: &Ui, frame: &mut Frame<'_>) {
    if ui.help {
        return super::help(frame, HELP, ui);
    }
    let columns = usize::from(frame.area().width);
    let room = super::body_height(frame);
    let mut parts = parts(view, clock, columns, ui);
    super::squeeze(&mut parts, room, 1);
    let left = room.saturating_sub(super::height(&parts));
    // One row stays empty above the keys where it costs nothing.
    let rows = if left >= 5 { left - 1 } else { left };
    parts.push(Part { rank: 1, rows: super::last_events(&view.events, rows, columns, ui) });
    super::paint(frame, &parts, KEYS, ui);
}

fn parts(view: &NodeReport, clock: &str, columns: usize, ui: &Ui) -> Vec<Part> {
    let (messages, seconds, foreign, damaged) = view.recovered;
    let io = match view.io_mode {
        IoMode::Buffered => "buffered (page cache)",
        IoMode::Unbuffered => "unbuffered (synced before it counts)",
    };
    let layout = ui.foreign(&view.layout);
    let settings = format!(" io {io}   layout {layout}   dir {}", ui.foreign(&view.folder));
    let health = vec![
        super::title("disk health", columns, ui),
        Line::from(vec![
            Span::raw(" "),
            super::alarm("write errors", view.write_errors, Color::Red, ui),
            Span::raw("   "),
            super::alarm("bad checksums", view.bad_checksums, Color::Red, ui),
        ]),
        Line::from(vec![
            Span::raw(format!(
                " found at start: {} in {seconds:.2}s, foreign files {}, ",
                words::plural(messages, "message"),
                grouped(foreign)
            )),
            super::alarm("damaged", damaged, Color::Red, ui),
        ]),
    ];
    let name = format!("hatokuse node {}", view.id);
    vec![
        Part {
            rank: 0,
            rows: vec![
                super::header(&name, &view.version, view.uptime_s, view.every_s, clock, columns, ui),
                super::state(&state_of(view), columns, ui),
            ],
        },
        Part { rank: 5, rows: vec![Line::raw(settings)] },
        Part { rank: 1, rows: stored(view, columns, ui) },
        Part {
            rank: 2,
            rows: vec![
                super::traffic_title(view.every_s, &view.store_history, columns, ui),
                super::traffic("store/s", &view.stores, &view.store_history, columns, ui),
                super::traffic("read/s", &view.reads, &view.read_history, columns, ui),
            ],
        },
        Part { rank: 4, rows: phases(view, columns, ui) },
        Part { rank: 3, rows: health },
    ]
}

fn stored(view: &NodeReport, columns: usize, ui: &Ui) -> Rows {
    let largest = view.largest.as_ref().map_or(String::new(), |(bytes, id)| {
        format!("   LARGEST {} (id {})", words::size(*bytes), words::cut(&ui.foreign(id), 24, ui.utf8))
    });
    let messages = format!(" MESSAGES {}   BYTES {}{largest}", grouped(view.messages), words::size(view.bytes));
    let disk = match view.disk {
        Some(disk) => {
            let files = (disk.files > 0).then(|| format!("   FILES LEFT {}", grouped(disk.free_files)));
            let (free, size) = (words::size(disk.free), words::size(disk.size));
            format!(" DISK FREE {free} of {size}{}", files.unwrap_or_default())
        }
        None => " DISK FREE -".to_owned(),
    };
    vec![super::title("stored", columns, ui), Line::raw(messages), Line::raw(disk)]
}

fn phases(view: &NodeReport, columns: usize, ui: &Ui) -> Rows {
    let mut phases = vec![("queue", view.queue_p99_ms), ("write", view.write_p99_ms)];
    phases.extend(view.sync_p99_ms.map(|ms| ("sync", ms)));
    let slowest = phases.iter().map(|&(_, ms)| ms).fold(0.0, f64::max);
    let mut rows = vec![super::title("where a write batch spends its time (p99)", columns, ui)];
    rows.extend(phases.into_iter().map(|(name, ms)| {
        let bar = if slowest > 0.0 {
            words::bar(ms / slowest, columns.saturating_sub(18).min(40), ui.utf8)
        } else {
            String::new()
        };
        // Nothing to compare with in the empty part: the longest bar is the slowest phase.
        let bar = bar.trim_end_matches(['.', '░']).to_owned();
        Line::from(vec![
            Span::raw(format!(" {name:<6} {:>7}  ", words::latency(ms))),
            Span::styled(bar, ui.style(Color::Cyan)),
        ])
    }));
    rows
}

fn state_of(view: &NodeReport) -> Health {
    let rtt = view.rtt_ms.map_or(String::new(), |ms| format!(" (rtt {})", words::latency(ms)));
    let listening = format!("listening {}", view.listening);
    if !view.registered {
        let reason = format!("for leader {}, still trying, {listening}", view.leader);
        return Health { word: "WAITING", color: Color::Yellow, reason };
    }
    let leader = format!("leader {}{rtt}", view.leader);
    let mut faults = Vec::new();
    if view.write_errors > 0 {
        faults.push(words::plural(view.write_errors, "write error"));
    }
    if view.bad_checksums > 0 {
        faults.push(words::plural(view.bad_checksums, "bad checksum"));
    }
    if faults.is_empty() {
        return Health { word: "REGISTERED", color: Color::Green, reason: format!("{leader}, {listening}") };
    }
    let reason = format!("{} since start; registered, {leader}, {listening}", faults.join(", "));
    Health { word: "DEGRADED", color: Color::Red, reason }
}

/// The whole report of a period on one line, for pipes and files.
pub fn node_line(view: &NodeReport) -> String {
    let disk = view.disk.map_or("-".to_owned(), |disk| words::size(disk.free));
    format!(
        "{}  node {}  {} ({})  {}  {}  errors {}  bad checksums {}  disk free {disk}",
        state_of(view).plain(),
        view.id,
        words::plural(view.messages, "message"),
        words::size(view.bytes),
        super::traffic_plain("store/s", &view.stores),
        super::traffic_plain("read/s", &view.reads),
        grouped(view.stores.errors + view.reads.errors),
        grouped(view.bad_checksums)
    )
}

/// What stays in the scrollback when the screen has gone.
pub fn node_final(view: &NodeReport) -> String {
    format!(
        "hatokuse node {} {}, up {}\n{}\n{} ({}) in {}, io {}, write errors {}, bad checksums {}\n",
        view.id,
        words::foreign(&view.version, true),
        words::age(view.uptime_s),
        state_of(view).plain(),
        words::plural(view.messages, "message"),
        words::size(view.bytes),
        words::foreign(&view.folder, true),
        view.io_mode,
        grouped(view.write_errors),
        grouped(view.bad_checksums)
    )
}
