//! The leader's screen, line and final report.
//!
//! Invariant: all three say the same of the same view. When rows are short the
//! events go first, and the state of the register goes last.

use std::cmp::Reverse;

use ratatui::Frame;
use ratatui::style::Color;
use ratatui::text::{Line, Span};

use super::health::{Facts, Health, color_of};
use super::{Part, Rows, Sort, Ui, peers, words};
use crate::telemetry::grouped;
use crate::types::{ClusterView, NodeState, NodeView};

const KEYS: &str = " q quit   s sort   n next page   r refresh   ? help";

const HELP: &[&str] = &[
    "hatokuse leader",
    "",
    "HEALTHY   every node is up, and every message has all its copies",
    "DEGRADED  a node is not up, or messages are short of a copy: it says which",
    "WAITING   the leader does not know all yet, and holds some answers back",
    "",
    "COPIES    on nodes that are up, of those there should be",
    "MESSAGES  copies that the leader counts on a node",
    "SHARE     of the copies on nodes that are not down",
    "P99       of a node's write batches in the last period",
    "SEEN      time since a node's last heartbeat",
    "PEERS     other leaders, where there are some; -12 is entries of the log behind",
    "",
    "s  sort nodes by id, state, messages, p99     n  next page of nodes",
    "r  fetch the data now and clear the screen    ?  this help",
    "q  (or Ctrl-C) stop the leader",
    "Times of day are UTC.",
];

/// Below this many rows, nodes that need pages leave no room for events.
const ROOMY: usize = 24;

/// Draws the leader's screen; `clock` is the time of day of the view.
pub fn leader_frame(view: &ClusterView, clock: &str, ui: &Ui, frame: &mut Frame<'_>) {
    if ui.help {
        return super::help(frame, HELP, ui);
    }
    let columns = usize::from(frame.area().width);
    let room = super::body_height(frame);
    let mut parts = parts(view, clock, columns, ui);

    // The table: a title, the names of its columns, and as many nodes as there is room for.
    let nodes = view.nodes.len().max(1);
    super::squeeze(&mut parts, room.saturating_sub(2 + nodes.min(4)), 4);
    super::squeeze(&mut parts, room, 3);
    // Events give way first, then this.
    let mut repair = repair(view, columns, ui);
    let spare = room.saturating_sub(super::height(&parts) + 2 + nodes.min(4));
    repair.truncate(if spare < 2 { 0 } else { spare });
    let left = room.saturating_sub(super::height(&parts) + repair.len());
    let for_events = if view.events.is_empty() || left < 3 {
        0
    } else {
        events_room(left - 2, nodes, room + 1 >= ROOMY).min(view.events.len() + 1)
    };
    if left >= 3 {
        let rows = (left - 2 - for_events).min(nodes);
        parts.push(Part { rank: 1, rows: table(view, rows, columns, ui) });
        parts.push(Part { rank: 1, rows: repair });
        parts.push(Part { rank: 1, rows: super::last_events(&view.events, for_events, columns, ui) });
    }
    super::paint(frame, &parts, KEYS, ui);
}

/// Rows for events and their title, out of `left` that `nodes` want too.
fn events_room(left: usize, nodes: usize, roomy: bool) -> usize {
    match left.saturating_sub(nodes) {
        // One row stays empty above the keys where it costs nothing.
        spare @ 5.. => spare - 1,
        spare @ 2.. => spare,
        // Nodes that need pages anyway would hide the events on any usual screen: they share it.
        _ if roomy && nodes > left && left >= 8 => 4,
        _ => 0,
    }
}

fn parts(view: &ClusterView, clock: &str, columns: usize, ui: &Ui) -> Vec<Part> {
    let health = health(view);
    let facts = Line::from(vec![
        Span::raw(format!(" tolerance {}   nodes {}/{} up   ", view.tolerance, up(view), view.nodes.len())),
        super::alarm("short of a copy", view.under_replicated, Color::Yellow, ui),
        Span::raw("   "),
        super::alarm("lost", view.lost, Color::Red, ui),
    ]);
    let http = view.addresses.http.as_ref().map(|http| format!("   http {}", ui.foreign(http)));
    let addresses = format!(
        " clients {}   nodes {}{}   epoch {}",
        ui.foreign(&view.addresses.clients),
        ui.foreign(&view.addresses.nodes),
        http.unwrap_or_default(),
        view.epoch
    );
    let totals = format!(
        " MESSAGES {}   COPIES {}/{} live   BYTES {}   CLIENTS {}",
        grouped(view.messages),
        grouped(view.copies_live),
        grouped(view.copies_wanted),
        words::size(view.bytes),
        grouped(view.clients as u64)
    );
    let (in_flight, most) = view.in_flight;
    let rest = format!(
        " not found {}   in flight {} (max {})",
        grouped(view.not_found),
        words::size(in_flight),
        words::size(most)
    );
    let name = "hatokuse leader";
    vec![
        Part {
            rank: 0,
            rows: vec![
                super::header(name, &view.version, view.uptime_s, view.every_s, clock, columns, ui),
                super::state(&health, columns, ui),
            ],
        },
        Part { rank: 3, rows: vec![facts] },
        Part { rank: 4, rows: view.group.iter().map(|group| peers::line(group, columns, ui)).collect() },
        Part { rank: 6, rows: vec![Line::raw(addresses)] },
        Part { rank: 4, rows: vec![super::title("totals", columns, ui), Line::raw(totals)] },
        Part {
            rank: 5,
            rows: vec![
                super::traffic_title(view.every_s, &view.set_history, columns, ui),
                super::traffic("SET/s", &view.sets, &view.set_history, columns, ui),
                super::traffic("GET/s", &view.gets, &view.get_history, columns, ui),
                Line::raw(rest),
            ],
        },
    ]
}

/// How far repair is, and what it cannot do; nothing where all is well.
fn repair(view: &ClusterView, columns: usize, ui: &Ui) -> Vec<Line<'static>> {
    let repair = &view.repair;
    let mut lines = Vec::new();
    if repair.pending > 0 {
        let all = repair.done + repair.pending;
        let part = repair.done as f64 / all as f64;
        let eta = repair.eta_s.map_or(String::new(), |eta| format!("  eta {}", words::age(eta)));
        lines.push(Line::raw(format!(
            " messages {}/{}  {}  {:.0}%  {}/s{eta}",
            grouped(repair.done),
            grouped(all),
            words::bar(part, 20, ui.utf8),
            part * 100.0,
            words::rate(repair.per_s)
        )));
    } else if repair.rebalancing {
        lines.push(Line::raw(format!(" evening out  {} moved  {}/s", grouped(repair.done), words::rate(repair.per_s))));
    }
    if let Some(node) = repair.uneven {
        lines.push(Line::raw(format!(" node {node} holds less than half of its share: REBALANCE evens copies out")));
    }
    lines.extend(repair.blocked.iter().take(3).map(|blocked| {
        let count = words::plural(blocked.messages, "message");
        let text = format!(" {count} wait: {}; {}", blocked.why, blocked.help);
        Line::styled(words::cut(&text, columns, ui.utf8), ui.style(Color::Yellow))
    }));
    if !lines.is_empty() {
        lines.insert(0, super::title("repair", columns, ui));
    }
    lines
}

fn up(view: &ClusterView) -> usize {
    view.nodes.iter().filter(|node| node.state == NodeState::Up).count()
}

fn health(view: &ClusterView) -> Health {
    let refusing = view.nodes.iter().filter(|node| node.state != NodeState::Down);
    let refusing =
        refusing.filter_map(|node| node.refusing.as_ref().map(|why| (node.id, why.word(), why.why.as_str())));
    Health::of(&Facts {
        tolerance: view.tolerance,
        under_replicated: view.under_replicated,
        lost: view.lost,
        waiting_for: view.waiting_for.as_deref(),
        nodes: view.nodes.iter().map(|node| (node.id, node.state)).collect(),
        refusing: refusing.collect(),
    })
}

/// Copies that shares are counted of: those on nodes that are not down.
fn shared(view: &ClusterView) -> u64 {
    view.nodes.iter().filter(|n| n.state != NodeState::Down).map(|n| n.messages).sum()
}

fn share(node: &NodeView, shared: u64) -> f64 {
    if shared == 0 || node.state == NodeState::Down { 0.0 } else { node.messages as f64 / shared as f64 }
}

fn sorted(view: &ClusterView, sort: Sort) -> Vec<&NodeView> {
    let mut nodes: Vec<&NodeView> = view.nodes.iter().collect();
    nodes.sort_by_key(|node| node.id);
    match sort {
        Sort::Id => {}
        Sort::State => nodes.sort_by_key(|node| Reverse(node.state)),
        Sort::Messages => nodes.sort_by_key(|node| Reverse(node.messages)),
        Sort::P99 => nodes.sort_by(|a, b| b.p99_ms.unwrap_or(-1.0).total_cmp(&a.p99_ms.unwrap_or(-1.0))),
    }
    nodes
}

/// The texts of one node's row, in the order of the columns.
struct Cells {
    id: String,
    address: String,
    state: String,
    messages: String,
    part: f64,
    p99: String,
    disk: String,
    seen: String,
}

impl Cells {
    fn of(node: &NodeView, shared: u64, ui: &Ui) -> Self {
        Self {
            id: node.id.to_string(),
            address: ui.foreign(&node.address),
            // What needs somebody is louder than what does not, in monochrome too.
            state: match (node.state, &node.refusing) {
                (NodeState::Down, _) => "DOWN".to_owned(),
                (NodeState::Up, Some(refusing)) => refusing.word().to_owned(),
                (state, _) => state.to_string(),
            },
            messages: grouped(node.messages),
            part: share(node, shared),
            p99: node.p99_ms.map_or("-".to_owned(), words::latency),
            disk: node.disk.map_or("-".to_owned(), |disk| words::size(disk.free)),
            seen: words::age(node.seen_s),
        }
    }
}

/// How wide the columns are; `None` and 0 are left out.
struct Widths {
    id: usize,
    address: usize,
    messages: usize,
    bar: Option<usize>,
    disk: usize,
}

const STATE: usize = 7;
const P99: usize = 6;
const SEEN: usize = 6;
const DISK: usize = 10;
/// A bar's blank and percentage.
const PERCENT: usize = 5;

impl Widths {
    fn of(cells: &[Cells], columns: usize) -> Self {
        let most = |least: usize, len: fn(&Cells) -> usize| cells.iter().map(len).max().unwrap_or(0).max(least);
        let (id, messages) = (most(2, |c| c.id.len()), most(8, |c| c.messages.len()));
        let address = most(7, |c| words::width(&c.address));
        let must = 1 + id + 2 + 2 + STATE + 2 + messages + 2 + P99 + 2 + SEEN;
        let room = columns.saturating_sub(must);
        // SHARE goes first, then DISK; a long address is cut only after that.
        let (disk, share) = (DISK + 2, PERCENT + 4 + 2);
        let usual = address.min(21);
        if room >= usual + disk + share {
            let bar = (room - usual - disk - 2 - PERCENT).min(24);
            let address = (room - disk - bar - 2 - PERCENT).min(address);
            return Self { id, address, messages, bar: Some(bar), disk: DISK };
        }
        let disk = if room >= usual + disk { DISK } else { 0 };
        let left = if disk > 0 { room - disk - 2 } else { room };
        Self { id, address: address.min(left.max(7)), messages, bar: None, disk }
    }
}

fn table(view: &ClusterView, rows: usize, columns: usize, ui: &Ui) -> Rows {
    let rows = rows.max(1);
    let pages = view.nodes.len().div_ceil(rows).max(1);
    let page = ui.page % pages;
    let mut name = format!("nodes (sort: {})", ui.sort.word());
    if pages > 1 {
        let first = page * rows;
        let last = (first + rows).min(view.nodes.len());
        name = format!("{name}, {} to {last} of {}, page {} of {pages}", first + 1, view.nodes.len(), page + 1);
    }
    if view.nodes.is_empty() {
        return vec![
            super::title(&name, columns, ui),
            Line::raw(" none has joined yet; start one: hatokuse node --id 1 --port 5555"),
        ];
    }
    let shared = shared(view);
    let nodes = sorted(view, ui.sort);
    let all: Vec<Cells> = nodes.iter().map(|node| Cells::of(node, shared, ui)).collect();
    // Of all nodes, so that columns stay where they are from page to page.
    let widths = Widths::of(&all, columns);
    let mut lines = vec![super::title(&name, columns, ui), heading(&widths, ui)];
    lines.extend(nodes.iter().zip(&all).skip(page * rows).take(rows).map(|(node, cells)| {
        let takes = node.state != NodeState::Up || node.refusing.is_none();
        row(cells, if takes { color_of(node.state) } else { Color::Yellow }, &widths, ui)
    }));
    lines
}

fn heading(widths: &Widths, ui: &Ui) -> Line<'static> {
    let Widths { id, address, messages, bar, disk } = *widths;
    let share = bar.map_or(String::new(), |bar| format!("  {:<1$}", "SHARE", bar + PERCENT));
    let disk = if disk > 0 { format!("  {:>disk$}", "DISK FREE") } else { String::new() };
    Line::raw(format!(
        " {:>id$}  {}  {:<STATE$}  {:>messages$}{share}  {:>P99$}{disk}  {:>SEEN$}",
        "ID",
        words::fit("ADDRESS", address, ui.utf8),
        "STATE",
        "MESSAGES",
        "P99",
        "SEEN"
    ))
}

fn row(cells: &Cells, color: Color, widths: &Widths, ui: &Ui) -> Line<'static> {
    let Widths { id, address, messages, bar, disk } = *widths;
    let mut spans = vec![
        Span::raw(format!(" {:>id$}  {}  ", cells.id, words::fit(&cells.address, address, ui.utf8))),
        Span::styled(format!("{:<STATE$}", cells.state), ui.style(color)),
        Span::raw(format!("  {:>messages$}", cells.messages)),
    ];
    if let Some(bar) = bar {
        spans.push(Span::styled(format!("  {}", words::bar(cells.part, bar, ui.utf8)), ui.style(Color::Cyan)));
        spans.push(Span::raw(format!(" {:>3.0}%", cells.part * 100.0)));
    }
    let disk = if disk > 0 { format!("  {:>disk$}", cells.disk) } else { String::new() };
    spans.push(Span::raw(format!("  {:>P99$}{disk}  {:>SEEN$}", cells.p99, cells.seen)));
    Line::from(spans)
}

/// The whole report of a period on one line, for pipes and files.
pub fn leader_line(view: &ClusterView) -> String {
    let copies: String = sorted(view, Sort::Id)
        .iter()
        .map(|node| {
            let mark = match (node.state, &node.refusing) {
                (NodeState::Up, None) => String::new(),
                (NodeState::Up, Some(refusing)) => format!(" ({})", refusing.word()),
                (state, _) => format!(" ({state})"),
            };
            format!(" {}={}{mark}", node.id, grouped(node.messages))
        })
        .collect();
    let peers = view.group.as_ref().map_or_else(String::new, peers::plain);
    format!(
        "{}  {}{peers}  nodes {}/{} up  copies{}  {}  {}  errors {}",
        health(view).plain(),
        words::plural(view.messages, "message"),
        up(view),
        view.nodes.len(),
        if copies.is_empty() { " none" } else { &copies },
        super::traffic_plain("SET/s", &view.sets),
        super::traffic_plain("GET/s", &view.gets),
        grouped(view.sets.errors + view.gets.errors)
    )
}

/// What stays in the scrollback when the screen has gone.
pub fn leader_final(view: &ClusterView) -> String {
    let shared = shared(view);
    let mut text = format!(
        "hatokuse leader {}, up {}\n{}\n{} ({}), tolerance {}, copies {}/{} live, short of a copy {}, lost {}\n",
        words::foreign(&view.version, true),
        words::age(view.uptime_s),
        health(view).plain(),
        words::plural(view.messages, "message"),
        words::size(view.bytes),
        view.tolerance,
        grouped(view.copies_live),
        grouped(view.copies_wanted),
        grouped(view.under_replicated),
        grouped(view.lost)
    );
    for node in sorted(view, Sort::Id) {
        let (address, copies) = (words::foreign(&node.address, true), grouped(node.messages));
        let percent = share(node, shared) * 100.0;
        text.push_str(&format!("node {}  {address}  {}  copies {copies}  share {percent:.0}%\n", node.id, node.state));
    }
    text.extend(view.group.iter().map(peers::last));
    text
}
