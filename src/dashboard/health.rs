//! The sentence that says whether the register is healthy, and why not: the same on the leader's screen, in its lines
//! and at the client's prompt.

use ratatui::style::Color;

use super::words;
use crate::types::{NodeId, NodeState};

/// What the sentence is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Copies a message.
    pub tolerance: usize,
    /// Messages with too few of them.
    pub under_replicated: u64,
    /// Messages without any.
    pub lost: u64,
    /// Why some answers are held back.
    pub waiting_for: Option<&'a str>,
    /// The members.
    pub nodes: Vec<(NodeId, NodeState)>,
    /// Those that take no copies, with a word for it and the reason.
    pub refusing: Vec<(NodeId, &'static str, &'a str)>,
}

/// How well things are, in a word, and why not better.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// HEALTHY, DEGRADED, WAITING.
    pub word: &'static str,
    /// The word's.
    pub color: Color,
    /// What is wrong, or what is right.
    pub reason: String,
}

/// The colour that goes with the word of a state.
pub fn color_of(state: NodeState) -> Color {
    match state {
        NodeState::Up => Color::Green,
        NodeState::Suspect | NodeState::Draining => Color::Yellow,
        NodeState::Down => Color::Red,
    }
}

impl Health {
    /// Judges the facts: what people have to act on comes first.
    pub fn of(facts: &Facts<'_>) -> Self {
        let up = facts.nodes.iter().filter(|(_, state)| *state == NodeState::Up).count();
        let mut reasons = Vec::new();
        if facts.lost > 0 {
            reasons.push(format!("{} lost", words::plural(facts.lost, "message")));
        }
        for state in [NodeState::Down, NodeState::Suspect] {
            let ids: Vec<_> = facts.nodes.iter().filter(|(_, s)| *s == state).map(|(id, _)| id.to_string()).collect();
            match ids.len() {
                0 => {}
                1 => reasons.push(format!("node {} {state}", ids[0])),
                2..=4 => reasons.push(format!("nodes {} {state}", ids.join(", "))),
                many => reasons.push(format!("{many} nodes {state}")),
            }
        }
        for (id, word, why) in facts.refusing.iter().take(3) {
            let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
            reasons.push(format!("node {id} {word}{why}"));
        }
        if facts.refusing.len() > 3 {
            reasons.push(format!("{} more take no copies", facts.refusing.len() - 3));
        }
        let refusing = |id: &NodeId| facts.refusing.iter().any(|(other, ..)| other == id);
        let take = facts.nodes.iter().filter(|(id, state)| *state == NodeState::Up && !refusing(id)).count();
        if up < facts.tolerance {
            reasons.push(format!("SET needs {} nodes up, {up} are", facts.tolerance));
        } else if take < facts.tolerance {
            reasons.push(format!("SET needs {} nodes that take copies, {take} do", facts.tolerance));
        }
        if facts.under_replicated > 0 {
            reasons.push(format!("{} short of a copy", words::plural(facts.under_replicated, "message")));
        }
        if let Some(waiting) = facts.waiting_for {
            reasons.insert(0, format!("for {waiting}"));
            return Self { word: "WAITING", color: Color::Yellow, reason: reasons.join("; ") };
        }
        if reasons.is_empty() {
            let reason = "every message has all its copies".to_owned();
            return Self { word: "HEALTHY", color: Color::Green, reason };
        }
        let bad = facts.lost > 0 || facts.nodes.iter().any(|(_, state)| *state == NodeState::Down);
        let color = if bad { Color::Red } else { Color::Yellow };
        Self { word: "DEGRADED", color, reason: reasons.join("; ") }
    }

    /// As part of a line without colours.
    pub(super) fn plain(&self) -> String {
        if self.reason.is_empty() {
            return self.word.to_owned();
        }
        format!("{} ({})", self.word, words::foreign(&self.reason, true))
    }
}
