//! Small commands that tools of Redis ask as a matter of course: answered as far as there is a true answer, else refused.

use std::time::{SystemTime, UNIX_EPOCH};

use super::OK;
use super::help;
use super::refused::{NOT_AN_INTEGER, SYNTAX, error};
use super::session::Session;
use crate::protocol::resp::{Value, Words, number};
use crate::protocol::table::{Spec, ToolOp};
use crate::types::MessageId;

/// Above this Redis keeps a string apart from what says that it is one.
const EMBEDDED: usize = 44;

/// What the index keeps of a message beside its id: record, holders, place (docs/scale.md).
const ENTRY: usize = 40;

impl Session {
    /// Carries out one of them.
    pub(super) async fn small_word(&mut self, op: ToolOp, spec: &Spec, words: &Words) -> Result<Value, String> {
        let sub = words.get(1).map(|word| word.to_ascii_uppercase()).unwrap_or_default();
        if sub == b"HELP" && words.len() == 2 && !matches!(op, ToolOp::LastSave | ToolOp::Wait) {
            return Ok(help::of(spec.name, help::tools(op)));
        }
        Ok(match (op, sub.as_slice(), words.len()) {
            // Everything that was answered is kept: the last time is now.
            (ToolOp::LastSave, ..) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Value::Integer(now.as_secs() as i64)
            }
            (ToolOp::Role, ..) if self.taken.seat.is_sentinel => self.group().sentinel_role(),
            (ToolOp::Role, ..) => self.group().role(),
            // What was answered has all of its copies: there is nothing to wait for.
            (ToolOp::Wait, ..) => {
                number(&words[1]).ok_or(NOT_AN_INTEGER)?;
                match number(&words[2]) {
                    Some(0..) => Value::Integer(self.coordinator.cluster().tolerance() as i64),
                    Some(_) => return error("ERR timeout is negative"),
                    None => return error("ERR timeout is not an integer or out of range"),
                }
            }
            // No command is noted as slow.
            (ToolOp::SlowLog, b"GET", 2 | 3) | (ToolOp::Module, b"LIST", 2) => Value::Array(Vec::new()),
            (ToolOp::SlowLog, b"LEN", 2) => Value::Integer(0),
            (ToolOp::SlowLog, b"RESET", 2) => OK,
            (ToolOp::Latency, b"LATEST", 2) | (ToolOp::Latency, b"HISTORY", 3) => Value::Array(Vec::new()),
            (ToolOp::Latency, b"RESET", _) => Value::Integer(0),
            (ToolOp::Latency, b"HISTOGRAM", _) => Value::Map(Vec::new()),
            (ToolOp::Function, b"LIST", _) => Value::Array(Vec::new()),
            (ToolOp::Function, b"FLUSH", 2 | 3) => OK,
            (ToolOp::Function, b"LOAD" | b"RESTORE" | b"DELETE", _) => return error("ERR there are no functions here"),
            (ToolOp::Object, b"ENCODING", 3) => {
                self.about(&words[2], |length, number| match (number, length) {
                    (true, _) => Value::text("int"),
                    (_, ..=EMBEDDED) => Value::text("embstr"),
                    _ => Value::text("raw"),
                })
                .await?
            }
            (ToolOp::Object, b"REFCOUNT", 3) => self.about(&words[2], |_, _| Value::Integer(1)).await?,
            (ToolOp::Object, b"IDLETIME" | b"FREQ", 3) => return error("ERR when messages are read is not noted here"),
            (ToolOp::Memory, b"USAGE", 3 | 5) => {
                let id = words[2].len();
                self.about(&words[2], |length, _| Value::Integer((ENTRY + id + length) as i64)).await?
            }
            _ => return error(SYNTAX),
        })
    }

    /// What there is to say of a message of such a length, which is an integer or not; nil: there is none.
    async fn about(&mut self, id: &[u8], tell: impl FnOnce(usize, bool) -> Value) -> Result<Value, String> {
        let id = MessageId::from_bytes(id).map_err(|why| format!("ERR {why}"))?;
        let records = self.coordinator.records(std::slice::from_ref(&id)).await.map_err(|why| self.told(why))?;
        let Some(length) = records[0].map(|record| record.bytes() as usize) else { return Ok(Value::Nil) };
        // The longest integer has 20 characters.
        let number = match length {
            1..=20 => {
                let read = self.coordinator.read_many_for(Some(&self.share), &[id]).await;
                let (messages, _room) = read.map_err(|why| self.told(why))?;
                messages[0].as_ref().is_some_and(|message| crate::protocol::resp::number(message).is_some())
            }
            _ => false,
        };
        Ok(tell(length, number))
    }
}
