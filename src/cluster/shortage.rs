//! Why there are too few nodes for a copy, in words: who is full, who refuses, who is down.

use super::registry::{Node, Registry};
use crate::error::name_nodes;
use crate::types::{NodeId, NodeState};

/// Nodes whose reason is told; of more only the number is.
const NAMED: usize = 3;

/// What is missed, and what would help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// `need 2 live nodes, have 3, of which 2 are full (node 1: No space left on device)`.
    pub what: String,
    /// What to do.
    pub help: &'static str,
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; nothing was written, {} and try again", self.what, self.help)
    }
}

impl Registry {
    /// Why copies for `need` nodes find no place.
    pub fn shortage(&self, need: usize) -> Shortage {
        let alive = |node: &&Node| node.session.is_some() && node.state != NodeState::Down && !node.leaving;
        let full: Vec<&Node> = self.nodes().iter().filter(alive).filter(|node| node.is_full()).collect();
        let refuses = |node: &&Node| !node.is_full() && node.refusing.is_some();
        let refusing: Vec<&Node> = self.nodes().iter().filter(alive).filter(refuses).collect();
        let mut what = format!("need {need} live nodes, have ");
        let help = if full.is_empty() && refusing.is_empty() {
            what += &self.usable().min(need.saturating_sub(1)).to_string();
            "start more nodes"
        } else {
            what += &self.nodes().iter().filter(alive).count().to_string();
            let mut of = ", of which ";
            for (nodes, one, many) in [(&full, "is full", "are full"), (&refusing, "refuses copies", "refuse copies")] {
                if !nodes.is_empty() {
                    what += &format!("{of}{} {}", nodes.len(), if nodes.len() == 1 { one } else { many });
                    what += &reasons(nodes);
                    of = " and ";
                }
            }
            if full.is_empty() { "mend their disks or add nodes" } else { "make room or add nodes" }
        };
        let down: Vec<NodeId> =
            self.nodes().iter().filter(|node| !alive(node) && !node.leaving).map(|node| node.member.id).collect();
        match down.len() {
            0 => {}
            1..=NAMED => {
                let are = if down.len() == 1 { "is" } else { "are" };
                what += &format!(" ({} {are} down)", name_nodes(&down));
            }
            many => what += &format!(" ({many} nodes are down)"),
        }
        Shortage { what, help }
    }
}

/// ` (node 1: No space left on device)`: what is known of why, for some of them.
fn reasons(nodes: &[&Node]) -> String {
    let told = nodes.iter().take(NAMED).map(|node| {
        let why = node.refuses_as().map_or(String::new(), |why| format!(": {why}"));
        format!("node {}{why}", node.member.id)
    });
    let more = if nodes.len() > NAMED { ", and others" } else { "" };
    format!(" ({}{more})", told.collect::<Vec<_>>().join(", "))
}
