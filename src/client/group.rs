//! PEERS, and the table that people read of it. Knows no socket.

use ratatui::style::Color;
use serde::Deserialize;

use super::status::{Column, plain, sentence, table};
use crate::dashboard::words;
use crate::telemetry::grouped;
use crate::terminal::Paper;
use crate::types::PeerId;

/// What PEERS says, as far as it is shown.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Peers {
    me: PeerId,
    term: u64,
    last: Option<u64>,
    peers: Vec<Peer>,
}

/// One of them. A newer leader may know of further roles.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    address: String,
    role: String,
    matched: Option<u64>,
    silent_ms: Option<u64>,
    #[serde(default)]
    refuses: Option<String>,
    #[serde(default)]
    leads_since_ms: Option<u64>,
    #[serde(default)]
    why: Option<String>,
}

impl Peer {
    /// What it is; what needs somebody is louder than what does not, without colours too.
    pub(super) fn word(&self) -> String {
        match (&*self.role, &self.refuses) {
            ("unreachable", _) => "UNREACHABLE".to_owned(),
            (_, Some(_)) => "REFUSES".to_owned(),
            (role, None) => words::foreign(role, false),
        }
    }

    fn color(&self) -> Color {
        match (&*self.role, &self.refuses) {
            ("unreachable", _) | (_, Some(_)) => Color::Red,
            ("leader" | "standby", None) => Color::Green,
            _ => Color::Yellow,
        }
    }
}

impl Peers {
    /// Reads the line; `None` if it is something else.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// The whole of it, as lines with their ends.
    pub(super) fn table(&self, paper: Paper) -> String {
        let of = |name, right, text: &dyn Fn(&Peer) -> String| Column {
            name,
            right,
            rank: 0,
            cells: self.peers.iter().map(text).collect(),
            colors: Vec::new(),
        };
        let mut role = of("ROLE", false, &Peer::word);
        role.colors = self.peers.iter().map(Peer::color).collect();
        let count = |last: Option<u64>| last.map_or(0, |last| last.saturating_add(1));
        let silent = |peer: &Peer| peer.silent_ms.map_or("never".to_owned(), |ms| words::age(ms as f64 / 1e3));
        let columns = vec![
            of("PEER", true, &|peer| peer.id.to_string()),
            of("ADDRESS", false, &|peer| words::foreign(&peer.address, paper.utf8)),
            role,
            of("BEHIND", true, &|peer| grouped(count(self.last).saturating_sub(count(peer.matched)))),
            Column { rank: 1, ..of("HEARD", true, &silent) },
        ];
        let entries = grouped(count(self.last));
        let mut lines =
            vec![plain(&format!(" answered by peer {}   term {}   entries {entries}", self.me, self.term), paper)];
        for peer in &self.peers {
            let led = peer.leads_since_ms.zip(peer.why.as_ref());
            let led = led.map(|(ms, why)| format!("peer {} for {}, as {why}", peer.id, words::age(ms as f64 / 1e3)));
            lines.extend(led.map(|led| sentence("LEADS", Color::Green, &led, paper)));
            let why = peer.refuses.iter().map(|why| format!("peer {}: {why}", peer.id));
            lines.extend(why.map(|why| sentence("REFUSES", Color::Red, &why, paper)));
        }
        lines.push(String::new());
        lines.extend(table(columns, paper));
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::status::Status;

    const PAPER: Paper = Paper { columns: 80, color: false, utf8: false };

    const LINE: &str = r#"{"me":1,"term":5,"leader":1,"last":1200,"committed":1200,"applied":1200,"peers":[
        {"id":1,"address":"h1:5560","role":"leader","matched":1200,"silent_ms":0,"applied":1200,"leads_since_ms":41000,"why":"peer 3 did not answer"},
        {"id":2,"address":"h2:5560","role":"standby","matched":1198,"silent_ms":40,"refuses":"peer 2 came with another folder"},
        {"id":3,"address":"\u001b[2J:1","role":"unreachable","matched":null,"silent_ms":null}]}"#;

    #[test]
    fn peers_are_a_table() {
        let wanted = "
 answered by peer 1   term 5   entries 1,201
 LEADS  peer 1 for 41s, as peer 3 did not answer
 REFUSES  peer 2: peer 2 came with another folder

 PEER  ADDRESS    ROLE         BEHIND  HEARD
    1  h1:5560    leader            0   0.0s
    2  h2:5560    REFUSES           2   0.0s
    3  ?[2J:1     UNREACHABLE   1,201  never
";
        let table = Peers::parse(LINE.as_bytes()).unwrap().table(PAPER);
        assert!(!table.contains('\u{1b}'), "{table}");
        let columns =
            |text: &str| text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
        let (seen, wanted): (Vec<Vec<String>>, Vec<Vec<String>>) =
            (columns(&table), columns(wanted.trim_start_matches('\n')));
        assert_eq!(seen[..7], wanted[..7], "{table}");
        assert!(seen[7].ends_with(&wanted[7][2..]), "{table}");
        for columns in [40, 60] {
            let table = Peers::parse(LINE.as_bytes()).unwrap().table(Paper { columns, ..PAPER });
            assert!(table.lines().all(|line| line.len() <= columns), "{table}");
        }
        assert_eq!(Peers::parse(b"{}"), None);
    }

    #[test]
    fn status_says_what_each_peer_is() {
        let peers = &LINE[LINE.find("\"peers\"").unwrap()..];
        let line = format!(
            r#"{{"version":"1","epoch":1,"tolerance":2,"uptime_s":1,"messages":0,"under_replicated":0,"lost":0,"nodes":[],{peers}"#
        );
        let table = Status::parse(line.as_bytes()).unwrap().table(PAPER);
        assert!(table.contains(" peer 1 leader   peer 2 REFUSES   peer 3 UNREACHABLE\n"), "{table}");
    }
}
