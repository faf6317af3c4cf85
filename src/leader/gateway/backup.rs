//! BACKUP: everything as it was at one moment, in steps that the client asks for. It belongs to its connection, and ends
//! with it.

use super::refused::error;
use super::session::{Session, bytes_of};
use crate::leader::backup::Backup;
use crate::protocol::resp::{Value, Words};
use crate::types::Deadline;

impl Session {
    /// BEGIN fixes the moment and tells of it, NEXT gives the next messages (none: that were all), STOP ends it early.
    pub(super) async fn back_up(&mut self, words: &Words) -> Result<Value, String> {
        match words[1].to_ascii_uppercase().as_slice() {
            b"BEGIN" => {
                // One of this connection would stand in its own way.
                self.backup = None;
                let backup = Backup::begin(&self.coordinator).await.map_err(|why| self.told(why))?;
                let moment = backup.moment;
                self.backup = Some(Box::new(backup));
                let number = |number: u64| Value::Integer(number as i64);
                let mut told = vec![
                    Value::text(moment.cluster_id.to_string()),
                    number(moment.version.0),
                    number(moment.tolerance as u64),
                    number(moment.messages),
                    number(moment.bytes),
                ];
                // A version that would not know what to do with these does not take it.
                told.extend((moment.expiring > 0).then(|| number(moment.expiring)));
                Ok(Value::Array(told))
            }
            b"NEXT" => {
                let Some(backup) = &mut self.backup else { return error("ERR BACKUP NEXT comes after BACKUP BEGIN") };
                let copied = match backup.next().await {
                    Ok(copied) => copied,
                    Err(refusal) => {
                        self.backup = None;
                        return Err(self.told(refusal));
                    }
                };
                if copied.is_empty() {
                    self.backup = None;
                }
                let values = copied.into_iter().flat_map(|copied| {
                    let message = copied.message.map_or(Value::Nil, Value::Bulk);
                    let version = Value::Integer(copied.version.0 as i64);
                    let until = |at: Deadline| Value::Array(vec![version.clone(), Value::Integer(at.unix_ms() as i64)]);
                    let version = copied.expires.map_or(version.clone(), until);
                    [bytes_of(&copied.id), version, message]
                });
                Ok(Value::Array(values.collect()))
            }
            b"STOP" => {
                self.backup = None;
                Ok(Value::Simple("OK"))
            }
            _ => error("ERR BACKUP takes BEGIN, NEXT or STOP"),
        }
    }
}
