//! The group of leaders, where there are several: on the screen, on the plain line, and at the end.

use ratatui::style::Color;
use ratatui::text::{Line, Span};

use super::{Ui, words};
use crate::telemetry::grouped;
use crate::types::{GroupView, PeerRole, PeerView};

/// The group of leaders: with the addresses of all peers, and why the one that leads does, where there is room for them.
pub(super) fn line(group: &GroupView, columns: usize, ui: &Ui) -> Line<'static> {
    let line = |is_wide: bool, says_why: bool| {
        let mut spans = vec![Span::raw(format!(" peers of term {} ", group.term))];
        for peer in &group.peers {
            let address = if is_wide { format!(" {}", ui.foreign(&peer.address)) } else { String::new() };
            let color = match peer.role {
                PeerRole::Unreachable => Color::Red,
                _ if peer.refuses.is_some() => Color::Red,
                PeerRole::Learner => Color::Yellow,
                PeerRole::Leader | PeerRole::Standby => Color::Green,
            };
            spans.push(Span::raw(format!("  {}{address} ", peer.id)));
            spans.push(Span::styled(words_of(group, peer), ui.style(color)));
            let led = peer.led.iter().filter(|_| says_why);
            let led = led.map(|led| format!(" for {} ({})", words::age(led.leads_since_ms as f64 / 1e3), led.why));
            spans.extend(led.map(Span::raw));
        }
        Line::from(spans)
    };
    let wide = [(true, true), (true, false), (false, true)].into_iter().map(|(wide, why)| line(wide, why));
    { wide }.find(|line| line.width() <= columns).unwrap_or_else(|| line(false, false))
}

/// What a peer is, and how far behind.
fn words_of(group: &GroupView, peer: &PeerView) -> String {
    // What needs somebody is louder than what does not, in monochrome too.
    let word = match peer.role {
        PeerRole::Unreachable => "UNREACHABLE".to_owned(),
        _ if peer.refuses.is_some() => "REFUSES".to_owned(),
        PeerRole::Leader => return "leads".to_owned(),
        role => role.to_string(),
    };
    match group.behind(peer) {
        0 => word,
        behind => format!("{word} -{}", grouped(behind)),
    }
}

/// How many of them there are to lead, of how many.
pub(super) fn plain(group: &GroupView) -> String {
    let here = group.peers.iter().filter(|peer| peer.role != PeerRole::Unreachable && peer.refuses.is_none());
    format!("  peers {}/{}", here.count(), group.peers.len())
}

/// A line for each, with its end.
pub(super) fn last(group: &GroupView) -> String {
    let line = |peer: &PeerView| {
        format!("peer {}  {}  {}\n", peer.id, words::foreign(&peer.address, true), words_of(group, peer))
    };
    group.peers.iter().map(line).collect()
}
