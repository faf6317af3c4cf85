//! STATUS, and the tables that people read of it and of WHERE.
//!
//! Invariant: on 40 columns and more no line is wider than the paper, no number in
//! a table is ever cut, and colour only repeats what a word says. Knows no socket.

use ratatui::style::Color;
use serde::Deserialize;

use super::group::Peer;
use super::render::inked;
use crate::dashboard::health::{Facts, Health, color_of};
use crate::dashboard::words;
use crate::telemetry::grouped;
use crate::terminal::Paper;
use crate::types::{Deadline, NodeId, NodeState};

/// The longest bar of a node's share.
const BAR: usize = 16;

/// Longer addresses give way to other columns: an IPv4 address with its port, and a bit.
const USUAL_ADDRESS: usize = 24;

/// What STATUS says, as far as it is shown; what an older leader does not say yet has a default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) epoch: u32,
    pub(super) tolerance: usize,
    pub(super) uptime_s: f64,
    pub(super) messages: u64,
    /// SETs and GETs since the leader's start.
    #[serde(default)]
    pub(super) sets: Option<u64>,
    #[serde(default)]
    pub(super) gets: Option<u64>,
    pub(super) under_replicated: u64,
    pub(super) lost: u64,
    #[serde(default)]
    pub(super) waiting_for: Option<String>,
    #[serde(default)]
    pub(super) repair: Repair,
    pub(super) nodes: Vec<Node>,
    /// Where there are several leaders.
    #[serde(default)]
    pub(super) peers: Vec<Peer>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Repair {
    pub(super) pending: u64,
    pub(super) done: u64,
    pub(super) per_s: f64,
    pub(super) eta_s: Option<f64>,
    pub(super) rebalancing: bool,
    pub(super) blocked: Vec<Blocked>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Blocked {
    pub(super) messages: u64,
    pub(super) why: String,
    pub(super) help: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) address: String,
    pub(super) state: NodeState,
    #[serde(default)]
    pub(super) full: bool,
    #[serde(default)]
    pub(super) reason: Option<String>,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) io_mode: String,
    pub(super) layout: String,
}

impl Status {
    /// Reads the line; `None` if it is something else.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    pub(super) fn health(&self) -> Health {
        Health::of(&Facts {
            tolerance: self.tolerance,
            under_replicated: self.under_replicated,
            lost: self.lost,
            waiting_for: self.waiting_for.as_deref(),
            nodes: self.nodes.iter().map(|node| (node.id, node.state)).collect(),
            refusing: self.nodes.iter().filter_map(Node::refusing).collect(),
        })
    }

    pub(super) fn up(&self) -> usize {
        self.nodes.iter().filter(|node| node.state == NodeState::Up).count()
    }

    /// The whole of it, as lines with their ends.
    pub(super) fn table(&self, paper: Paper) -> String {
        let health = self.health();
        let version = words::foreign(&self.version, paper.utf8);
        let mut lines = vec![
            sentence(health.word, health.color, &health.reason, paper),
            plain(&self.totals(), paper),
            plain(&format!(" leader {version}   up {}   epoch {}", words::age(self.uptime_s), self.epoch), paper),
        ];
        if !self.peers.is_empty() {
            let peers: Vec<String> =
                self.peers.iter().map(|peer| format!("peer {} {}", peer.id, peer.word())).collect();
            lines.push(plain(&peers.join("   "), paper));
        }
        if !self.repair.is_idle() {
            lines.push(plain(&format!(" repair {}", self.repair.progress()), paper));
        }
        for blocked in &self.repair.blocked {
            let count = words::plural(blocked.messages, "message");
            lines.push(sentence(
                "waiting",
                Color::Yellow,
                &format!("{count}: {}; {}", blocked.why, blocked.help),
                paper,
            ));
        }
        if self.nodes.is_empty() {
            lines.push(plain(" no node has joined yet; start one: hatokuse node --id 1 --port 5555", paper));
        } else {
            lines.push(String::new());
            lines.extend(table(self.columns(paper), paper));
        }
        lines.join("\n") + "\n"
    }

    fn totals(&self) -> String {
        let mut totals = format!(
            " tolerance {}   nodes {}/{} up   messages {}   short of a copy {}   lost {}",
            self.tolerance,
            self.up(),
            self.nodes.len(),
            grouped(self.messages),
            grouped(self.under_replicated),
            grouped(self.lost)
        );
        totals.push_str(if self.repair.is_idle() { "   repair idle" } else { "" });
        totals
    }

    /// A row for each node; what gives way first on narrow paper has the highest rank.
    fn columns(&self, paper: Paper) -> Vec<Column> {
        let shared: u64 = self.nodes.iter().filter(|n| n.state != NodeState::Down).map(|n| n.messages).sum();
        let share = |node: &Node| match node.state {
            NodeState::Down => 0.0,
            _ if shared == 0 => 0.0,
            _ => node.messages as f64 / shared as f64,
        };
        let mut columns = self.identity(self.nodes.iter(), paper);
        let of = |name, right, rank, text: &dyn Fn(&Node) -> String| Column {
            name,
            right,
            rank,
            cells: self.nodes.iter().map(text).collect(),
            colors: Vec::new(),
        };
        columns.push(of("MESSAGES", true, 0, &|node| grouped(node.messages)));
        columns.push(of("SHARE", true, 4, &|node| format!("{:.0}%", share(node) * 100.0)));
        let mut bar = of("", false, 5, &|node| words::bar(share(node), BAR, paper.utf8));
        bar.colors = vec![Color::Cyan; bar.cells.len()];
        columns.push(bar);
        columns.push(of("BYTES", true, 2, &|node| words::size(node.bytes)));
        columns.push(of("IO MODE", false, 1, &|node| words::foreign(&node.io_mode, paper.utf8)));
        columns.push(of("LAYOUT", false, 3, &|node| words::foreign(&node.layout, paper.utf8)));
        columns
    }

    /// Who a node is and how it is.
    fn identity<'a>(&self, nodes: impl Iterator<Item = &'a Node> + Clone, paper: Paper) -> Vec<Column> {
        let of = |name, right, text: fn(&Node, bool) -> String| Column {
            name,
            right,
            rank: 0,
            cells: nodes.clone().map(|node| text(node, paper.utf8)).collect(),
            colors: Vec::new(),
        };
        let mut state = of("STATE", false, |node, _| match node.state {
            // What needs somebody is louder than what does not, without colours too.
            NodeState::Down => "DOWN".to_owned(),
            NodeState::Up => node.refusing().map_or("up", |(_, word, _)| word).to_owned(),
            state => state.to_string(),
        });
        let color = |node: &Node| match node.state {
            NodeState::Up if node.refusing().is_some() => Color::Yellow,
            state => color_of(state),
        };
        state.colors = nodes.clone().map(color).collect();
        vec![
            of("ID", true, |node, _| node.id.to_string()),
            of("ADDRESS", false, |node, utf8| words::foreign(&node.address, utf8)),
            state,
        ]
    }

    /// The holders of one message, as lines with their ends.
    pub(super) fn holders(&self, holders: &[NodeId], expires: Option<Deadline>, paper: Paper) -> String {
        let nodes = self.nodes.iter().filter(|node| holders.contains(&node.id));
        let up = nodes.clone().filter(|node| matches!(node.state, NodeState::Up | NodeState::Draining)).count();
        let copies = if holders.len() == 1 { "1 copy".to_owned() } else { format!("{} copies", holders.len()) };
        let (word, color) = match up {
            0 => ("UNREACHABLE", Color::Red),
            up if up < holders.len() || up < self.tolerance => ("DEGRADED", Color::Yellow),
            _ => ("HEALTHY", Color::Green),
        };
        let mut lines = vec![sentence(
            word,
            color,
            &format!("{copies}, {up} on nodes that are up; tolerance {}", self.tolerance),
            paper,
        )];
        lines.extend(expires.map(|deadline| format!(" expires  {deadline}")));
        lines.push(String::new());
        lines.extend(table(self.identity(nodes, paper), paper));
        lines.join("\n") + "\n"
    }
}

impl Node {
    /// That it takes no copies: a word for it, and the reason.
    fn refusing(&self) -> Option<(NodeId, &'static str, &str)> {
        let why = self.reason.as_deref().unwrap_or_default();
        let word = if self.full { "full" } else { "refuses" };
        (self.state != NodeState::Down && (self.full || self.reason.is_some())).then_some((self.id, word, why))
    }
}

impl Repair {
    pub(super) fn is_idle(&self) -> bool {
        self.pending == 0 && !self.rebalancing
    }

    /// How far it is and how long it will take, in eight columns.
    pub(super) fn in_short(&self) -> String {
        if self.pending == 0 {
            return "evening".to_owned();
        }
        let percent = self.done as f64 / (self.done + self.pending) as f64 * 100.0;
        let eta = self.eta_s.map_or(String::new(), |eta| format!(" {}", words::age(eta)));
        format!("{percent:.0}%{eta}")
    }

    /// How far it is, in a few words.
    pub(super) fn progress(&self) -> String {
        if self.pending == 0 {
            return format!("evening out, {} moved, {}/s", grouped(self.done), words::rate(self.per_s));
        }
        let all = self.done + self.pending;
        let percent = self.done as f64 / all as f64 * 100.0;
        let eta = self.eta_s.map_or(String::new(), |eta| format!(", eta {}", words::age(eta)));
        format!("{}/{} ({percent:.0}%), {}/s{eta}", grouped(self.done), grouped(all), words::rate(self.per_s))
    }
}

/// A coloured word and what it means, which may take several lines.
pub(super) fn sentence(word: &str, color: Color, text: &str, paper: Paper) -> String {
    let text = words::foreign(text, paper.utf8);
    let indent = words::width(word) + 3;
    let mut lines = String::new();
    let mut column = indent;
    for part in text.split(' ') {
        let wide = words::width(part) + 1;
        if column > indent && column + wide > paper.columns {
            lines.push_str(&format!("\n{}", " ".repeat(indent)));
            column = indent;
        }
        lines.push_str(if column > indent { " " } else { "" });
        lines.push_str(&words::cut(part, paper.columns.saturating_sub(indent), paper.utf8));
        column += wide;
    }
    format!(" {}  {lines}", inked(word, Some(color), paper))
}

/// Facts that are three blanks apart, on as many lines as they need.
pub(super) fn plain(facts: &str, paper: Paper) -> String {
    let mut lines: Vec<String> = Vec::new();
    for fact in facts.trim_start().split("   ") {
        match lines.last_mut() {
            Some(line) if words::width(line) + 3 + words::width(fact) <= paper.columns => {
                line.push_str("   ");
                line.push_str(fact);
            }
            _ => lines.push(words::cut(&format!(" {fact}"), paper.columns, paper.utf8)),
        }
    }
    lines.join("\n")
}

pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) right: bool,
    /// 0 stays; the highest goes first.
    pub(super) rank: u8,
    pub(super) cells: Vec<String>,
    /// One for each cell, or none.
    pub(super) colors: Vec<Color>,
}

impl Column {
    fn width(&self) -> usize {
        self.cells.iter().map(|cell| words::width(cell)).max().unwrap_or(0).max(self.name.len())
    }
}

/// Names and rows, two blanks between columns; of columns for which there is no room the least useful go first.
pub(super) fn table(mut columns: Vec<Column>, paper: Paper) -> Vec<String> {
    let total = |columns: &[Column]| columns.iter().map(|column| column.width() + 2).sum::<usize>().saturating_sub(1);
    // The only text without a bound; it is cut a little before columns go, and more after that.
    let address = columns.iter().filter(|column| column.name == "ADDRESS").map(Column::width).max().unwrap_or(0);
    let slack = address.saturating_sub(USUAL_ADDRESS);
    while total(&columns) > paper.columns + slack
        && let Some(worst) = columns.iter().map(|column| column.rank).max().filter(|&rank| rank > 0)
    {
        columns.retain(|column| column.rank != worst);
    }
    let over = total(&columns).saturating_sub(paper.columns);
    let widths: Vec<usize> = columns
        .iter()
        .map(|column| column.width() - if column.name == "ADDRESS" { over.min(column.width() - 7) } else { 0 })
        .collect();
    let rows = columns.iter().map(|column| column.cells.len()).max().unwrap_or(0);
    let line = |row: Option<usize>| {
        let mut line = String::from(" ");
        for (n, (column, &wide)) in columns.iter().zip(&widths).enumerate() {
            let text = row.map_or(column.name, |row| &column.cells[row]);
            let cell = words::cut(text, wide, paper.utf8);
            let blanks = " ".repeat(wide - words::width(&cell));
            let color = row.and_then(|row| column.colors.get(row)).copied();
            let cell = inked(&cell, color, paper);
            line.push_str(if n > 0 { "  " } else { "" });
            line.push_str(&if column.right { format!("{blanks}{cell}") } else { format!("{cell}{blanks}") });
        }
        line.trim_end().to_owned()
    };
    std::iter::once(line(None)).chain((0..rows).map(|row| line(Some(row)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAPER: Paper = Paper { columns: 80, color: false, utf8: false };

    const WELL: &str = r#"{"version":"0.1.0 (abc)","epoch":7,"tolerance":2,"uptime_s":8040.0,"messages":9000,
        "sets":1,"gets":2,"under_replicated":0,"lost":0,
        "repair":{"pending":0,"done":12,"per_s":0.0,"eta_s":null,"rebalancing":false,"blocked":[]},"nodes":[
        {"id":1,"address":"127.0.0.1:5555","state":"up","messages":4500,"bytes":900000,"io_mode":"buffered","layout":"text"},
        {"id":2,"address":"127.0.0.1:5556","state":"up","messages":4500,"bytes":900000,"io_mode":"buffered","layout":"log"}]}"#;

    const ILL: &str = r#"{"version":"0.1.0 (abc)","epoch":7,"tolerance":3,"uptime_s":61,"messages":9000,
        "under_replicated":3320,"lost":1,
        "repair":{"pending":3320,"done":1180,"per_s":94.0,"eta_s":36.0,"rebalancing":false,
            "blocked":[{"messages":12,"ids":["1"],"why":"every copy is on node 3, which is down","help":"start node 3 again"}]},
        "nodes":[
        {"id":1,"address":"10.0.0.1:5555","state":"up","messages":4500,"bytes":23488102,"io_mode":"unbuffered","layout":"text"},
        {"id":3,"address":"a-rather-long-name.of-a-machine.example.org:5557","state":"down","messages":4500,"bytes":900,
         "io_mode":"unbuffered","layout":"text"},
        {"id":12,"address":"\u001b[2J:1","state":"draining","messages":1500,"bytes":900,"io_mode":"unbuffered","layout":"text"},
        {"id":13,"address":"10.0.0.9:1","state":"suspect","messages":0,"bytes":0,"io_mode":"unbuffered","layout":"text"}]}"#;

    fn read(json: &str) -> Status {
        Status::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn a_healthy_register_is_told_so_and_a_row_a_node() {
        let wanted = " HEALTHY  every message has all its copies
 tolerance 2   nodes 2/2 up   messages 9,000   short of a copy 0   lost 0
 repair idle
 leader 0.1.0 (abc)   up 2h14m   epoch 7

 ID  ADDRESS         STATE  MESSAGES  SHARE      BYTES  IO MODE   LAYOUT
  1  127.0.0.1:5555  up        4,500    50%  878.9 KiB  buffered  text
  2  127.0.0.1:5556  up        4,500    50%  878.9 KiB  buffered  log
";
        assert_eq!(read(WELL).table(PAPER), wanted);
        let wide = read(WELL).table(Paper { columns: 100, color: false, utf8: true });
        assert!(wide.contains("4,500    50%  ████████░░░░░░░░  878.9 KiB"), "{wide}");
    }

    #[test]
    fn what_is_wrong_comes_first_and_numbers_stay_whole_where_it_is_narrow() {
        let wanted = " DEGRADED  1 message lost; node 3 down; node 13 suspect; SET needs 3 nodes up,
           1 are; 3,320 messages short of a copy
 tolerance 3   nodes 1/4 up   messages 9,000   short of a copy 3,320   lost 1
 leader 0.1.0 (abc)   up 1m01s   epoch 7
 repair 1,180/4,500 (26%), 94/s, eta 36s
 waiting  12 messages: every copy is on node 3, which is down; start node 3
          again

 ID  ADDRESS                    STATE     MESSAGES     BYTES  IO MODE     LAYOUT
  1  10.0.0.1:5555              up           4,500  22.4 MiB  unbuffered  text
  3  a-rather-long-name.of-a-~  DOWN         4,500     900 B  unbuffered  text
";
        let shown = read(ILL).table(PAPER);
        assert!(shown.starts_with(wanted), "{shown}");
        for columns in [40, 60, 80, 100, 200] {
            let shown = read(ILL).table(Paper { columns, ..PAPER });
            assert!(shown.lines().all(|line| line.len() <= columns), "{columns}: {shown}");
            for number in ["1,180/4,500", "3,320", "9,000", "\n  1  ", "\n 12  ", "  DOWN         4,500"] {
                assert!(shown.contains(number), "{columns}: {number} in {shown}");
            }
        }
    }

    #[test]
    fn states_are_coloured_words_and_nothing_from_outside_steers_the_terminal() {
        let shown = read(ILL).table(Paper { columns: 120, color: true, utf8: true });
        for word in [
            "\u{1b}[31mDEGRADED\u{1b}[0m",
            "\u{1b}[32mup\u{1b}[0m",
            "\u{1b}[31mDOWN\u{1b}[0m",
            "\u{1b}[33mdraining\u{1b}[0m",
            "\u{1b}[33msuspect\u{1b}[0m",
        ] {
            assert!(shown.contains(word), "{word:?} in {shown}");
        }
        assert!(shown.contains("\\u{1b}[2J:1") && !shown.contains("\u{1b}[2J"), "{shown}");
        assert!(!read(ILL).table(PAPER).contains('\u{1b}'));
    }

    #[test]
    fn holders_are_shown_with_their_state() {
        let wanted = " DEGRADED  2 copies, 1 on nodes that are up; tolerance 3

 ID  ADDRESS                                           STATE
  1  10.0.0.1:5555                                     up
  3  a-rather-long-name.of-a-machine.example.org:5557  DOWN
";
        assert_eq!(read(ILL).holders(&[NodeId(1), NodeId(3)], None, PAPER), wanted);
        let ends = read(ILL).holders(&[NodeId(1), NodeId(3)], Deadline::at(1_796_040_000_000), PAPER);
        assert_eq!(ends, wanted.replacen("\n\n", "\n expires  2026-11-30T12:00:00.000Z\n\n", 1));
        assert!(
            read(ILL).holders(&[NodeId(3)], None, PAPER).starts_with(" UNREACHABLE  1 copy, 0 on nodes that are up")
        );
        assert!(read(WELL).holders(&[NodeId(1), NodeId(2)], None, PAPER).starts_with(" HEALTHY  2 copies, 2 on nodes"));
    }

    #[test]
    fn what_is_no_status_is_not_taken_for_one() {
        for line in ["", "{}", "OK", r#"{"version":"1","nodes":[]}"#] {
            assert_eq!(Status::parse(line.as_bytes()), None, "{line}");
        }
        let none = read(&WELL.replace(&WELL[WELL.find("\"nodes\"").unwrap()..], "\"nodes\":[]}"));
        assert!(none.table(PAPER).contains("hatokuse node --id 1"), "the first thing that a newcomer has to do");
    }
}
