//! Commands over all ids: KEYS, SCAN and FLUSHALL. Each goes through the ids in bounded steps, and lets others in between.

use std::collections::VecDeque;
use std::sync::Arc;

use super::refused::{NOT_AN_INTEGER, SYNTAX, error, told};
use super::session::{Session, bytes_of};
use crate::leader::coordinator::{Coordinator, Request};
use crate::protocol::glob::Pattern;
use crate::protocol::resp::{Value, Words, number};
use crate::protocol::{Command, Reply};
use crate::telemetry::served::Protocol;
use crate::types::MessageId;

/// Ids that KEYS and FLUSHALL look at in one step.
const STEP: usize = 1000;

/// Ids that are drawn for a RANDOMKEY before it goes through them.
const GUESSES: usize = 16;

/// Bytes that one answer of KEYS may have.
const MOST_KEYS_BYTES: usize = 64 << 20;

/// Ids that one step of SCAN looks at, whatever COUNT says.
const MOST_SCANNED: usize = 4096;

/// The longest pattern: an id has 1,024 bytes.
const LONGEST_PATTERN: usize = 8 << 10;

/// Steps of comparing that a thread which serves may take at one go.
const QUICK: usize = 50_000;

/// Where a cursor has the mark of the leader's run, and how many bits: behind the place in the index, and so that all of
/// it is a number that every language has.
const RUN_AT: u32 = 38;
const RUN_BITS: u32 = 14;

/// The refusal of FLUSHALL.
pub(super) const NO_FLUSH: &str = "ERR FLUSHALL and FLUSHDB delete every message; nothing was deleted: start the leader with --allow-flush if that is meant";

/// The mark of this run of the leader: a cursor of another one means another place.
pub(super) fn mark_of_run() -> u64 {
    fastrand::u64(1..1 << RUN_BITS) << RUN_AT
}

/// What is asked of SCAN.
#[derive(Debug)]
struct Scan {
    place: u64,
    pattern: Option<Pattern>,
    count: usize,
    type_is_ours: bool,
}

fn pattern_of(word: &[u8]) -> Result<Pattern, String> {
    if word.len() > LONGEST_PATTERN {
        return Err(format!("ERR the pattern has {} bytes, and at most {LONGEST_PATTERN} are taken", word.len()));
    }
    Ok(Pattern::new(word))
}

fn read_scan(words: &Words, run: u64) -> Result<Scan, String> {
    let cursor = std::str::from_utf8(&words[1]).ok().and_then(|text| text.parse().ok());
    let cursor: u64 = cursor.ok_or("ERR invalid cursor")?;
    let place = cursor & ((1 << RUN_AT) - 1);
    if cursor != 0 && cursor - place != run {
        return error("ERR this is the cursor of another run of the leader, or none: begin again with SCAN 0");
    }
    let mut scan = Scan { place, pattern: None, count: 10, type_is_ours: true };
    let mut options = words[2..].iter();
    while let Some(option) = options.next() {
        let value = options.next().ok_or(SYNTAX)?;
        match option.to_ascii_uppercase().as_slice() {
            b"MATCH" => scan.pattern = Some(pattern_of(value)?),
            b"COUNT" => match number(value) {
                Some(count @ 1..) => scan.count = usize::try_from(count).unwrap_or(MOST_SCANNED).min(MOST_SCANNED),
                Some(_) => return error(SYNTAX),
                None => return error(NOT_AN_INTEGER),
            },
            b"TYPE" => scan.type_is_ours = value.eq_ignore_ascii_case(b"string"),
            _ => return error(SYNTAX),
        }
    }
    Ok(scan)
}

impl Session {
    /// All ids that match a pattern.
    pub(super) async fn keys(&mut self, pattern: &[u8]) -> Result<Value, String> {
        let pattern = pattern_of(pattern)?;
        let (mut found, mut bytes, mut cursor) = (Vec::new(), 0, 0);
        let mut room = self.share.empty();
        loop {
            let (next, ids) = self.walk(cursor, STEP).await?;
            let ids = self.matching(&pattern, ids).await?;
            found.extend(ids.iter().map(bytes_of));
            bytes += found[found.len() - ids.len()..].iter().map(|id| id.size() + size_of::<Value>()).sum::<usize>();
            if bytes > MOST_KEYS_BYTES {
                return error("ERR too many ids match: go through them with SCAN");
            }
            if !room.set(bytes) {
                return Err(self.told(self.coordinator.too_much(bytes)));
            }
            cursor = next;
            if cursor == 0 {
                self.room = Some(room);
                return Ok(Value::Array(found));
            }
            tokio::task::yield_now().await;
        }
    }

    /// One step through the ids: it ends when so many were looked at as COUNT says, or all.
    pub(super) async fn scan(&mut self, words: &Words) -> Result<Value, String> {
        let Scan { mut place, pattern, count, type_is_ours } = read_scan(words, self.door.run)?;
        let mut all = Vec::new();
        loop {
            let (next, ids) = self.walk(place, count - all.len()).await?;
            all.extend(ids);
            place = next;
            if place == 0 || all.len() >= count {
                break;
            }
            tokio::task::yield_now().await;
        }
        let ids = match pattern {
            _ if !type_is_ours => Vec::new(),
            Some(pattern) => self.matching(&pattern, all).await?,
            None => {
                self.rights.readable(&mut all);
                all
            }
        };
        let next = if place == 0 { 0 } else { place | self.door.run };
        Ok(Value::Array(vec![Value::text(next.to_string()), Value::Array(ids.iter().map(bytes_of).collect())]))
    }

    /// A step of a walk, of which there is one at a time: many who walk hold up one another, and nobody else.
    async fn walk(&self, cursor: u64, count: usize) -> Result<(u64, Vec<MessageId>), String> {
        // It is never closed.
        let _turn = self.door.walk.acquire().await;
        self.coordinator.scan(cursor, count).await.map_err(|why| self.told(why))
    }

    /// Any id that may be read: where these are few, the next one behind some place.
    pub(super) async fn random_id(&self) -> Result<Option<MessageId>, String> {
        for _ in 0..GUESSES {
            let id = self.coordinator.random_id(fastrand::u64(..)).await.map_err(|why| self.told(why))?;
            let mut readable = Vec::from_iter(id);
            let found = !readable.is_empty();
            self.rights.readable(&mut readable);
            if !found || !readable.is_empty() {
                return Ok(readable.pop());
            }
        }
        let mut cursor = 0;
        loop {
            let (next, mut ids) = self.walk(cursor, STEP).await?;
            self.rights.readable(&mut ids);
            if let Some(at) = ids.len().checked_sub(1) {
                return Ok(Some(ids.swap_remove(fastrand::usize(..=at))));
            }
            cursor = next;
            if cursor == 0 {
                return Ok(None);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Those that match; where that takes long, away from the threads that serve.
    async fn matching(&self, pattern: &Pattern, mut ids: Vec<MessageId>) -> Result<Vec<MessageId>, String> {
        self.rights.readable(&mut ids);
        if ids.iter().map(|id| pattern.most_steps(id.as_bytes().len())).sum::<usize>() <= QUICK {
            ids.retain(|id| pattern.matches(id.as_bytes()));
            return Ok(ids);
        }
        let pattern = pattern.clone();
        let matching = move || {
            ids.retain(|id| pattern.matches(id.as_bytes()));
            ids
        };
        self.door.heavy.run(matching).await.ok_or_else(|| "ERR the leader cannot work on it now".to_owned())
    }
}

/// Deletes every message; `allowed`: the leader was started so.
pub(super) async fn flush(coordinator: &Arc<Coordinator>, words: &Words, allowed: bool) -> Result<(), String> {
    match words.get(1).map(|word| word.to_ascii_uppercase()).as_deref() {
        None | Some(b"SYNC" | b"ASYNC") if words.len() <= 2 => {}
        _ => return error(SYNTAX),
    }
    if !allowed {
        return error(NO_FLUSH);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_of_another_run_is_refused() {
        let run = mark_of_run();
        let scan = |cursor: u64| {
            let words = [b"SCAN".to_vec(), cursor.to_string().into_bytes()];
            read_scan(&words.into_iter().map(Into::into).collect(), run).map(|scan| scan.place)
        };
        assert!(run < 1 << 52, "every language has this number");
        assert_eq!(scan(0), Ok(0));
        assert_eq!(scan(run | 63 << 32 | 7), Ok(63 << 32 | 7));
        for strange in [1, 63 << 32 | 7, (run ^ 1 << RUN_AT) | 7, u64::MAX] {
            assert!(scan(strange).unwrap_err().contains("SCAN 0"), "{strange}");
        }
    }
}
