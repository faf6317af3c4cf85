//! The web page: one file with its style and script, and parts that are drawn here, for the first look as for every
//! later second. It says nothing that a browser would have to work out, and needs no script to be read.

mod peers;

use std::fmt::{self, Write as _};

use super::api::{Found, Message};
use super::charts::charts;
use crate::dashboard::words::{age, interval, rate, size};
use crate::error::name_nodes;
use crate::leader::coordinator::ScriptsNow;
use crate::telemetry::served::Seconds;
use crate::telemetry::{escaped, grouped};
use crate::types::{ClusterView, NodeId, NodeState, Refusing};

/// The page, with `{{name}}` where parts go.
const PAGE: &str = include_str!("page.html");

/// Events that are shown.
const EVENTS: usize = 25;

/// A node that was heard this lately needs no figure, which would change every second.
const HEARD_NOW: f64 = 2.5;

/// What the parts are drawn from.
#[derive(Debug)]
pub(super) struct Look<'a> {
    pub(super) view: &'a ClusterView,
    pub(super) seconds: &'a Seconds,
    /// Why messages cannot be written now.
    pub(super) not_ready: Option<String>,
    pub(super) scripts: ScriptsNow,
}

/// The parts that change by the second: the ids of their elements, and what is in them.
pub(super) fn parts(look: &Look<'_>) -> [(&'static str, String); 9] {
    let view = look.view;
    let mut health = health(view, look.not_ready.as_deref());
    health.notes.extend(stuck(look.scripts));
    [
        ("title", health.title()),
        ("health", health.html()),
        ("figures", figures(view)),
        ("charts", charts(look.seconds)),
        ("nodes", nodes(view)),
        ("peers", view.group.as_ref().map_or_else(String::new, peers::section)),
        ("repair", repair(view)),
        ("events", events(view)),
        ("about", about(look)),
    ]
}

/// The whole page, with the answer to a look-up if there was one.
pub(super) fn page(look: &Look<'_>, nonce: &str, asked: Option<(&[u8], &Found)>) -> String {
    let mut page = PAGE.replace("{{nonce}}", nonce);
    let id = asked.map_or_else(String::new, |(id, _)| Safe(&String::from_utf8_lossy(id)).to_string());
    let found = asked.map_or_else(String::new, |(_, found)| self::found(found));
    for (name, html) in parts(look).into_iter().chain([("id", id), ("found", found)]) {
        page = page.replacen(&format!("{{{{{name}}}}}"), &html, 1);
    }
    page
}

/// Text from outside: no markup, nothing that steers how it is read.
struct Safe<'a>(&'a str);

impl fmt::Display for Safe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in escaped(self.0).chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // The page's own marks are replaced one after the other: none may come in from outside.
                '{' => f.write_str("&#123;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Good,
    Fair,
    Bad,
}

impl Level {
    fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Fair => "fair",
            Self::Bad => "bad",
        }
    }
}

/// How the register is, in a sentence, and what is being done about it.
#[derive(Debug, PartialEq)]
struct Health {
    level: Level,
    sentence: String,
    notes: Vec<String>,
}

fn messages(n: u64) -> String {
    match n {
        1 => "1 message".to_owned(),
        n => format!("{} messages", grouped(n)),
    }
}

fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(n), if n == 1 { one } else { many })
}

fn in_state(view: &ClusterView, state: NodeState) -> Vec<NodeId> {
    view.nodes.iter().filter(|node| node.state == state).map(|node| node.id).collect()
}

fn refusing(view: &ClusterView) -> impl Iterator<Item = (NodeId, &Refusing)> {
    let here = view.nodes.iter().filter(|node| node.state != NodeState::Down);
    here.filter_map(|node| Some((node.id, node.refusing.as_ref()?)))
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn health(view: &ClusterView, not_ready: Option<&str>) -> Health {
    let down = in_state(view, NodeState::Down);
    let out: Vec<NodeId> = refusing(view).map(|(node, _)| node).collect();
    let copies = counted(view.tolerance as u64, "copy", "copies");
    let nodes = counted(view.nodes.len() as u64, "node", "nodes");
    let all = if view.messages == 1 {
        "The 1 message has".to_owned()
    } else {
        format!("All {} have", messages(view.messages))
    };
    let (level, sentence) = if let Some(reason) = &view.waiting_for {
        (Level::Bad, format!("Answers are held back: {reason}."))
    } else if let Some(reason) = not_ready {
        (Level::Bad, format!("Messages cannot be written: {reason}."))
    } else if view.lost > 0 {
        let verb = if view.lost == 1 { "is" } else { "are" };
        (Level::Bad, format!("{} {verb} lost: no node has an intact copy.", messages(view.lost)))
    } else if view.under_replicated > 0 {
        let verb = if view.under_replicated == 1 { "has" } else { "have" };
        let (some, all) = (grouped(view.under_replicated), messages(view.messages));
        (Level::Fair, format!("{some} of {all} {verb} fewer than {copies}."))
    } else if view.messages == 0 {
        (
            Level::Good,
            format!("No messages yet. {} are ready to keep them, each on {}.", capital(&nodes), view.tolerance),
        )
    } else if !down.is_empty() {
        let verb = if down.len() == 1 { "is" } else { "are" };
        (Level::Fair, format!("{all} {copies}, but {} {verb} down.", name_nodes(&down)))
    } else if !out.is_empty() {
        let take = if out.len() == 1 { "takes no more" } else { "take no more" };
        (Level::Fair, format!("{all} {copies}, but {} {take}.", name_nodes(&out)))
    } else {
        (Level::Good, format!("{all} {copies} on {nodes}."))
    };
    Health { level, sentence, notes: notes(view, &down) }
}

/// What stands out, and what is being done.
fn notes(view: &ClusterView, down: &[NodeId]) -> Vec<String> {
    let mut notes = Vec::new();
    let repair = &view.repair;
    if view.under_replicated > 0 && !down.is_empty() {
        let silent = view.nodes.iter().filter(|node| down.contains(&node.id)).map(|node| node.seen_s);
        let since = silent.fold(f64::INFINITY, f64::min);
        let are = if down.len() == 1 { "is" } else { "are" };
        notes.push(format!("{} {are} down, last heard {} ago.", capital(&name_nodes(down)), age(since)));
        if repair.pending == 0 && repair.blocked.is_empty() {
            let stays = if down.len() == 1 { "it stays" } else { "they stay" };
            notes.push(format!("The copies are made again on other nodes if {stays} away."));
        }
    }
    if repair.pending > 0 {
        notes.push(progress(view));
    }
    for blocked in &repair.blocked {
        notes.push(format!("{} wait: {}. {}.", messages(blocked.messages), blocked.why, capital(&blocked.help)));
    }
    let draining = in_state(view, NodeState::Draining);
    if !draining.is_empty() {
        let left: u64 =
            view.nodes.iter().filter(|node| node.state == NodeState::Draining).map(|node| node.messages).sum();
        notes.push(match left {
            0 => format!("{} is empty and can be stopped.", capital(&name_nodes(&draining))),
            left => format!(
                "{} is being emptied: {} to go.",
                capital(&name_nodes(&draining)),
                counted(left, "copy", "copies")
            ),
        });
    }
    for (node, refusing) in refusing(view) {
        let why = if refusing.why.is_empty() { String::new() } else { format!(": {}", refusing.why) };
        let what = if refusing.full { "is full" } else { "refuses copies" };
        notes.push(format!("Node {node} {what}{why}."));
    }
    let late = in_state(view, NodeState::Suspect);
    if !late.is_empty() {
        notes.push(format!("{} answers late.", capital(&name_nodes(&late))));
    }
    if repair.rebalancing {
        notes.push("Copies are being evened out.".to_owned());
    }
    if let Some(node) = repair.uneven {
        notes.push(format!("Node {node} holds less than half of its share: REBALANCE evens copies out."));
    }
    notes
}

fn progress(view: &ClusterView) -> String {
    let repair = &view.repair;
    let mut text = format!("Being put right: {} done, {} to go", grouped(repair.done), grouped(repair.pending));
    if let Some(eta) = repair.eta_s {
        let _ = write!(text, ", {} a second, about {} left", rate(repair.per_s), interval(eta.ceil()));
    }
    text.push('.');
    text
}

impl Health {
    fn html(&self) -> String {
        let mut html = format!(
            "<p class=\"sentence {}\"><span class=\"dot\" aria-hidden=\"true\"></span>{}</p>",
            self.level.class(),
            Safe(&self.sentence)
        );
        for note in &self.notes {
            let _ = write!(html, "<p class=\"note\">{}</p>", Safe(note));
        }
        html
    }

    fn title(&self) -> String {
        let mark = match self.level {
            Level::Good => "",
            Level::Fair => "(!) ",
            Level::Bad => "(!!) ",
        };
        format!("{mark}hatokuse")
    }
}

fn figures(view: &ClusterView) -> String {
    let mut html = String::new();
    let mut figure = |name: &str, value: String, unit: &str| {
        let _ = write!(html, "<div><dt>{name}</dt><dd>{value} <small>{unit}</small></dd></div>");
    };
    // While nodes are still to be heard, what the leader knows of is no count.
    let count = if view.is_settled { grouped(view.messages) } else { "not known yet".to_owned() };
    let ends = if view.expiring == 0 { String::new() } else { format!("{} end by themselves", grouped(view.expiring)) };
    figure("Messages", count, &ends);
    let bytes = if view.is_settled { size(view.bytes) } else { "\u{2013}".to_owned() };
    let (number, unit) = bytes.split_once(' ').unwrap_or((&bytes, ""));
    figure("Content", number.to_owned(), unit);
    figure("SET", rate(view.sets.per_second), "/s");
    figure("GET", rate(view.gets.per_second), "/s");
    figure("Clients", grouped(view.clients as u64), "");
    html
}

fn nodes(view: &ClusterView) -> String {
    if view.nodes.is_empty() {
        return "<p class=\"empty\">No node has joined yet.</p>".to_owned();
    }
    let all: u64 = view.nodes.iter().map(|node| node.messages).sum();
    let most = view.nodes.iter().map(|node| node.messages).max().unwrap_or_default();
    let mut html = "<table><thead><tr><th>Node</th><th>State</th><th class=\"n\">Copies</th><th class=\"n\">Share</th>\
        <th class=\"bar\"><span class=\"hidden\">Share as a bar</span></th><th class=\"n wide\">Content</th>\
        <th class=\"n wide\">Disk free</th><th class=\"n wide\">Last heard</th></tr></thead><tbody>"
        .to_owned();
    for node in &view.nodes {
        let part = |of: u64| if of == 0 { 0.0 } else { 100.0 * node.messages as f64 / of as f64 };
        let io_mode = if node.io_mode.is_empty() { String::new() } else { format!(" \u{b7} {}", node.io_mode) };
        let heard = if node.seen_s < HEARD_NOW { "now".to_owned() } else { format!("{} ago", age(node.seen_s)) };
        let _ = write!(
            html,
            "<tr class=\"{state}\"><td><b>{id}</b> <small>{address}{io_mode}</small></td><td><span class=\"state\">{shown}</span></td>\
             <td class=\"n\">{copies}</td><td class=\"n\">{share:.1}&thinsp;%</td>\
             <td class=\"bar\"><svg viewBox=\"0 0 100 6\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect class=\"all\" width=\"100\" height=\"6\"/>\
             <rect class=\"part\" width=\"{bar:.1}\" height=\"6\"/></svg></td>\
             <td class=\"n wide\">{bytes}</td><td class=\"n wide\">{free}</td><td class=\"n wide\">{heard}</td></tr>",
            state = node.state,
            shown = match (node.state, &node.refusing) {
                (NodeState::Up, Some(refusing)) => refusing.word().to_owned(),
                (state, _) => state.to_string(),
            },
            id = node.id,
            address = Safe(&node.address),
            io_mode = Safe(&io_mode),
            copies = grouped(node.messages),
            share = part(all),
            bar = part(most),
            bytes = size(node.bytes),
            free = node.disk.map_or_else(|| "\u{2013}".to_owned(), |disk| size(disk.free)),
        );
    }
    html.push_str("</tbody></table>");
    html
}

fn repair(view: &ClusterView) -> String {
    let repair = &view.repair;
    if repair.pending == 0 && repair.blocked.is_empty() {
        let text = if view.under_replicated == 0 { "Nothing to repair." } else { "Nothing is being copied yet." };
        return format!("<p class=\"empty\">{text}</p>");
    }
    let all = repair.done + repair.pending;
    let done = if all == 0 { 0.0 } else { 100.0 * repair.done as f64 / all as f64 };
    let mut html = String::new();
    if repair.pending > 0 {
        let _ = write!(
            html,
            "<svg class=\"progress\" viewBox=\"0 0 100 6\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{done:.0} percent\">\
             <rect class=\"all\" width=\"100\" height=\"6\"/><rect class=\"part\" width=\"{done:.1}\" height=\"6\"/></svg><p>{}</p>",
            Safe(&progress(view))
        );
    }
    for blocked in &repair.blocked {
        let ids: Vec<String> =
            blocked.ids.iter().take(5).map(|id| format!("<code>{}</code>", Safe(&id.to_string()))).collect();
        let _ = write!(
            html,
            "<p><b>{} wait</b>: {}. {}.</p><p class=\"ids\">{}</p>",
            messages(blocked.messages),
            Safe(&blocked.why),
            Safe(&capital(&blocked.help)),
            ids.join(" ")
        );
    }
    html
}

fn events(view: &ClusterView) -> String {
    let mut html = String::from("<ol>");
    for event in view.events.iter().rev().take(EVENTS) {
        let _ = write!(
            html,
            "<li class=\"{}\"><time>{}</time> <span>{}</span></li>",
            Safe(&event.level.to_ascii_lowercase()),
            Safe(&event.time),
            Safe(&event.text)
        );
    }
    html.push_str("</ol>");
    html
}

/// What keeps a core from everybody.
fn stuck(scripts: ScriptsNow) -> Option<String> {
    match scripts.stuck {
        0 => None,
        1 => Some("1 script has not come to an end since it was given up, and takes a core.".to_owned()),
        n => Some(format!("{n} scripts have not come to an end since they were given up, and take a core each.")),
    }
}

fn about(look: &Look<'_>) -> String {
    let view = look.view;
    let mut html = format!(
        "{} \u{b7} epoch {} \u{b7} up {} \u{b7} clients {} \u{b7} nodes {}",
        Safe(&view.version),
        view.epoch,
        age(view.uptime_s),
        Safe(&view.addresses.clients),
        Safe(&view.addresses.nodes)
    );
    if view.expired > 0 {
        let _ = write!(html, " \u{b7} {} ended by themselves", messages(view.expired));
    }
    let scripts = look.scripts;
    if scripts.known > 0 || scripts.running > 0 {
        let known = counted(scripts.known as u64, "script", "scripts");
        let _ = write!(html, " \u{b7} {known} known, {} at work", scripts.running);
    }
    html
}

/// The answer to a look-up.
pub(super) fn found(found: &Found) -> String {
    match found {
        Found::Here(message) => here(message),
        Found::Nowhere => "<p>There is no message with this id.</p>".to_owned(),
        Found::Unknown(reason) => format!("<p>This cannot be told now: {}.</p>", Safe(reason)),
        Found::BadId(reason) => format!("<p>That is no id: {}.</p>", Safe(reason)),
    }
}

fn here(message: &Message) -> String {
    // As the sentence at the top counts them: what a dead node has, nobody can read.
    let is_live = |state: Option<NodeState>| state.is_some_and(|state| state != NodeState::Down);
    let live = message.holders.iter().filter(|holder| holder.intact && is_live(holder.state)).count();
    let ends = message.expires.as_ref();
    let ends = ends.map_or_else(String::new, |at| format!("<div><dt>Ends</dt><dd>{}</dd></div>", Safe(at)));
    let mut html = format!(
        "<dl><div><dt>Size</dt><dd>{}</dd></div><div><dt>Version</dt><dd>{}</dd></div><div><dt>Copies</dt><dd>{} of {}</dd></div>{}</dl><ul class=\"holders\">",
        counted(u64::from(message.bytes), "byte", "bytes"),
        message.version,
        live,
        message.tolerance,
        ends
    );
    for holder in &message.holders {
        let state = holder.state.map_or_else(|| "gone".to_owned(), |state| state.to_string());
        let intact = if holder.intact { "" } else { ", its copy is missing or damaged" };
        let _ = write!(
            html,
            "<li class=\"{state}\">Node <b>{}</b> <span class=\"state\">{state}</span>{intact}</li>",
            holder.node
        );
    }
    html.push_str("</ul>");
    html
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
