//! Commands over all ids: KEYS, SCAN and FLUSHALL. Each goes through the ids in bounded steps, and lets others in between.

use std::collections::VecDeque;
use std::sync::Arc;

use super::glob;
use super::session::{bytes_of, error, told};
use crate::leader::coordinator::{Coordinator, Request};
use crate::protocol::resp::{Value, Words, number};
use crate::protocol::{Command, Reply};
use crate::telemetry::served::Protocol;
use crate::types::MessageId;

/// Ids that KEYS and FLUSHALL look at in one step.
const STEP: usize = 1000;

/// Bytes of ids that one answer of KEYS may have.
const MOST_KEYS_BYTES: usize = 64 << 20;

/// Ids that one step of SCAN looks at, whatever COUNT says.
const MOST_SCANNED: usize = 4096;

/// All ids that match a pattern.
pub(super) async fn keys(coordinator: &Arc<Coordinator>, pattern: &[u8]) -> Result<Value, String> {
    let (mut found, mut bytes, mut cursor) = (Vec::new(), 0, 0);
    loop {
        let (next, ids) = coordinator.scan(cursor, STEP).await.map_err(|why| told(coordinator, why))?;
        for id in ids.into_iter().filter(|id| glob::matches(pattern, id.as_bytes())) {
            bytes += id.as_bytes().len();
            found.push(bytes_of(&id));
        }
        if bytes > MOST_KEYS_BYTES {
            return error("ERR too many ids match: go through them with SCAN");
        }
        cursor = next;
        if cursor == 0 {
            return Ok(Value::Array(found));
        }
        tokio::task::yield_now().await;
    }
}

/// One step through the ids.
pub(super) async fn scan(coordinator: &Arc<Coordinator>, words: &Words) -> Result<Value, String> {
    let cursor = std::str::from_utf8(&words[1]).ok().and_then(|text| text.parse().ok());
    let cursor: u64 = cursor.ok_or("ERR invalid cursor")?;
    let (mut pattern, mut count, mut type_is_ours) = (None, 10, true);
    let mut options = words[2..].iter();
    while let Some(option) = options.next() {
        let value = options.next().ok_or("ERR syntax error")?;
        match option.to_ascii_uppercase().as_slice() {
            b"MATCH" => pattern = Some(value),
            b"COUNT" => match number(value) {
                Some(1..) => count = number(value).unwrap_or(1) as usize,
                Some(_) => return error("ERR syntax error"),
                None => return error("ERR value is not an integer or out of range"),
            },
            b"TYPE" => type_is_ours = value.eq_ignore_ascii_case(b"string"),
            _ => return error("ERR syntax error"),
        }
    }
    let (next, ids) = coordinator.scan(cursor, count.min(MOST_SCANNED)).await.map_err(|why| told(coordinator, why))?;
    let matching = |id: &MessageId| pattern.is_none_or(|pattern| glob::matches(pattern, id.as_bytes()));
    let ids = ids.iter().filter(|id| type_is_ours && matching(id)).map(bytes_of).collect();
    Ok(Value::Array(vec![Value::text(next.to_string()), Value::Array(ids)]))
}

/// Deletes every message; `allowed`: the leader was started so.
pub(super) async fn flush(coordinator: &Arc<Coordinator>, words: &Words, allowed: bool) -> Result<(), String> {
    match words.get(1).map(|word| word.to_ascii_uppercase()).as_deref() {
        None | Some(b"SYNC" | b"ASYNC") if words.len() <= 2 => {}
        _ => return error("ERR syntax error"),
    }
    if !allowed {
        return error(
            "ERR FLUSHALL deletes every message; nothing was deleted: start the leader with --allow-flush if that is meant",
        );
    }
    let mut cursor = 0;
    loop {
        let (next, ids) = coordinator.scan(cursor, STEP).await.map_err(|why| told(coordinator, why))?;
        let mut deletes: VecDeque<Request> = ids.into_iter().map(|id| Ok(Command::Delete(id))).collect();
        while !deletes.is_empty() {
            let (replies, _room) = coordinator.execute(&mut deletes, Protocol::Resp).await;
            let refused = replies.into_iter().find_map(|reply| match reply {
                Reply::Refused(refusal) => Some(told(coordinator, refusal)),
                _ => None,
            });
            refused.map_or(Ok(()), Err)?;
        }
        cursor = next;
        if cursor == 0 {
            return Ok(());
        }
    }
}
