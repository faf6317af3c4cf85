//! What programs read as JSON.

use hyper::StatusCode;
use serde::Serialize;

use super::super::coordinator::Coordinator;
use crate::cluster::Located;
use crate::telemetry::served::{Second, Seconds};
use crate::types::{BadId, MessageId, NodeId, NodeState, RateView};

/// Where a message is; its content is nobody's business here.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Message {
    pub(super) id: MessageId,
    pub(super) version: String,
    pub(super) bytes: u32,
    /// When it ends by itself, as RFC 3339 writes it, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<String>,
    /// Copies that there should be.
    pub(super) tolerance: usize,
    pub(super) holders: Vec<Holder>,
}

/// A node that keeps a copy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Holder {
    pub(super) node: NodeId,
    /// Nothing if it is no member any more.
    pub(super) state: Option<NodeState>,
    /// What the leader believes of its copy.
    pub(super) intact: bool,
}

/// What a look-up comes to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found {
    Here(Message),
    Nowhere,
    /// It cannot be told now, and why.
    Unknown(String),
    /// That is no id, and why.
    BadId(String),
}

/// An id as people type it: as it is shown, or as it is.
pub(super) fn typed(id: &[u8]) -> Result<MessageId, BadId> {
    let shown = std::str::from_utf8(id).ok().and_then(|text| MessageId::from_shown(text).ok());
    shown.map_or_else(|| MessageId::from_bytes(id), Ok)
}

/// Looks a message up in the index; asks no node.
pub(super) fn look_up(leader: &Coordinator, id: Result<MessageId, BadId>) -> Found {
    let id = match id {
        Ok(id) => id,
        Err(bad) => return Found::BadId(bad.to_string()),
    };
    let cluster = leader.cluster();
    let record = match cluster.look_up(&id) {
        Located::Here { record, .. } => record,
        Located::NotFound => return Found::Nowhere,
        Located::Hidden(reason) => return Found::Unknown(reason),
    };
    let Some(found) = cluster.mapping().get(&id) else { return Found::Nowhere };
    let holder = |&node: &NodeId| Holder {
        node,
        state: cluster.registry.get(node).map(|node| node.shown()),
        intact: found.set.has_intact(node),
    };
    Found::Here(Message {
        version: record.version.to_string(),
        bytes: record.bytes(),
        expires: record.expires.map(|deadline| deadline.to_string()),
        tolerance: cluster.tolerance(),
        holders: found.set.holders.iter().map(holder).collect(),
        id,
    })
}

/// The answer to `/api/message/ID`.
pub(super) fn message(leader: &Coordinator, id: &[u8]) -> (StatusCode, String) {
    let error = |code: &str, text: String| serde_json::json!({ "error": code, "message": text }).to_string();
    let (status, body) = match look_up(leader, MessageId::from_bytes(id)) {
        Found::Here(message) => (StatusCode::OK, serde_json::to_string(&message).unwrap_or_default()),
        Found::Nowhere => (StatusCode::NOT_FOUND, error("NOT_FOUND", "no message with this id".to_owned())),
        Found::Unknown(reason) => (StatusCode::SERVICE_UNAVAILABLE, error("UNAVAILABLE", reason)),
        Found::BadId(reason) => (StatusCode::BAD_REQUEST, error("BAD_COMMAND", reason)),
    };
    (status, body + "\n")
}

/// Every second that is remembered, oldest first: a list for each figure.
#[derive(Debug, Default, Serialize)]
struct History {
    seconds: usize,
    write: Figures,
    read: Figures,
    not_found: Vec<u64>,
}

#[derive(Debug, Default, Serialize)]
struct Figures {
    per_second: Vec<f64>,
    /// Nothing in a second without any.
    p50_ms: Vec<Option<f64>>,
    p99_ms: Vec<Option<f64>>,
    errors: Vec<u64>,
}

impl Figures {
    fn add(&mut self, rate: &RateView) {
        let any = rate.per_second > 0.0;
        self.per_second.push((rate.per_second * 10.0).round() / 10.0);
        self.p50_ms.push(any.then_some(rate.p50_ms));
        self.p99_ms.push(any.then_some(rate.p99_ms));
        self.errors.push(rate.errors);
    }
}

/// The answer to `/api/history`.
pub(super) fn history(seconds: &Seconds) -> String {
    let mut history = History { seconds: seconds.iter().len(), ..History::default() };
    for Second { writes, reads, not_found } in seconds.iter() {
        history.write.add(writes);
        history.read.add(reads);
        history.not_found.push(*not_found);
    }
    serde_json::to_string(&history).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_second_has_no_latency() {
        let mut seconds = Seconds::new(5);
        seconds.push(Second::default());
        let reads = RateView { per_second: 12.34, p50_ms: 0.5, p99_ms: 2.0, errors: 1 };
        seconds.push(Second { reads, not_found: 3, ..Second::default() });
        let json: serde_json::Value = serde_json::from_str(&history(&seconds)).unwrap();
        assert_eq!(json["seconds"], 2);
        assert_eq!(json["read"]["per_second"], serde_json::json!([0.0, 12.3]));
        assert_eq!(json["read"]["p50_ms"], serde_json::json!([null, 0.5]));
        assert_eq!((&json["read"]["errors"][1], &json["not_found"][1]), (&1.into(), &3.into()));
    }
}
