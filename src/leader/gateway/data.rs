//! What the data commands of Redis do to messages, as plain functions over the ids that they name.
//!
//! Nothing here waits or knows a socket: the messages are handed in, and what is to be written is handed back, by
//! [`Ids`]. A command alone and one of a transaction are the same here. The texts of errors are Redis's.

use bytes::Bytes;

use super::OK;
use super::deadlines::{Form, GetEx, Only, SetOptions, Until};
use super::refused::{NOT_AN_INTEGER, SYNTAX, error};
use super::{floats, strings};
use crate::leader::transaction::Need;
use crate::protocol::resp::{Value, Words, number};
use crate::protocol::table::DataOp;
use crate::seeded::{self, Bug};
use crate::types::{Deadline, MessageId, Payload};

/// Messages by id, as they are at one moment, and what becomes of them.
pub(super) trait Ids {
    /// The message of an id, for commands whose [`need`] is the message.
    fn get(&self, id: &MessageId) -> Option<Payload>;
    /// The length of a message, if there is one.
    fn length(&self, id: &MessageId) -> Option<usize>;
    /// Whether an id has a message.
    fn exists(&self, id: &MessageId) -> bool {
        self.length(id).is_some()
    }
    /// The message of an id, to be changed and set again.
    fn take(&mut self, id: &MessageId) -> Option<Payload>;
    /// When the message of an id ends by itself, if it does.
    fn expires(&self, id: &MessageId) -> Option<Deadline>;
    /// The register's time, in milliseconds since 1970.
    fn now(&self) -> u64;
    /// Keeps a message until this deadline, if there is one.
    fn set(&mut self, id: &MessageId, payload: Payload, expires: Option<Deadline>);
    /// Deletes a message.
    fn delete(&mut self, id: &MessageId);
}

/// What a command needs to know of its ids.
pub(super) fn need(op: DataOp, words: &Words) -> Need {
    match op {
        DataOp::Mset => Need::Nothing,
        DataOp::Exists | DataOp::Touch | DataOp::Type | DataOp::Strlen => Need::Version,
        DataOp::Ttl | DataOp::Pttl | DataOp::ExpireTime | DataOp::PExpireTime => Need::Version,
        DataOp::SetEx | DataOp::PSetEx => Need::Nothing,
        // A deadline is part of a version: the message is written anew with another one.
        DataOp::Expire | DataOp::PExpire | DataOp::ExpireAt | DataOp::PExpireAt | DataOp::Persist => Need::Message,
        DataOp::Del => Need::Deletion,
        DataOp::MsetNx | DataOp::SetNx => Need::Version,
        DataOp::DelEx => Need::Message,
        DataOp::Set if words.iter().skip(3).any(|word| needs_message(word)) => Need::Message,
        DataOp::Set => Need::Version,
        DataOp::Get | DataOp::Mget | DataOp::GetBit | DataOp::GetRange | DataOp::Lcs => Need::Message,
        DataOp::GetEx | DataOp::GetDel | DataOp::GetSet | DataOp::Append | DataOp::SetBit | DataOp::SetRange => {
            Need::Message
        }
        DataOp::Incr | DataOp::IncrBy | DataOp::IncrByFloat | DataOp::Decr | DataOp::DecrBy => Need::Message,
        DataOp::Copy | DataOp::Rename | DataOp::RenameNx => Need::Message,
    }
}

fn needs_message(option: &[u8]) -> bool {
    [&b"GET"[..], b"IFEQ", b"IFNE"].iter().any(|name| option.eq_ignore_ascii_case(name))
}

const NOT_A_FLOAT: &str = "ERR value is not a valid float";
const OVERFLOW: &str = "ERR increment or decrement would overflow";
const NO_SUCH_KEY: &str = "ERR no such key";

type Result<T> = std::result::Result<T, String>;

/// Why a command cannot succeed whatever the messages are: a message that is too long.
pub(super) fn surely_refused(op: DataOp, words: &Words, max_message: usize) -> Option<String> {
    let fits = |place: usize| words.get(place).map_or(Ok(()), |message| fits(message.len(), max_message));
    let refused = match op {
        DataOp::Mset | DataOp::MsetNx => pairs(words, max_message),
        DataOp::Set | DataOp::SetNx | DataOp::GetSet | DataOp::Append => fits(2),
        DataOp::SetRange | DataOp::SetEx | DataOp::PSetEx => fits(3),
        _ => Ok(()),
    };
    refused.err()
}

fn fits(length: usize, max_message: usize) -> Result<()> {
    match length <= max_message {
        true => Ok(()),
        false => Err(format!("ERR a message of {length} bytes is over the limit of {max_message} (--max-message)")),
    }
}

/// Checks that ids and messages come in pairs, and that all messages fit.
fn pairs(words: &Words, max_message: usize) -> Result<()> {
    if words.len().is_multiple_of(2) {
        return Err(format!(
            "ERR wrong number of arguments for '{}' command",
            String::from_utf8_lossy(&words[0]).to_lowercase()
        ));
    }
    words.iter().skip(2).step_by(2).try_for_each(|message| fits(message.len(), max_message))
}

/// A part of a message, which keeps nothing of the rest.
pub(super) fn get_range(words: &Words, message: &Payload) -> Result<Value> {
    let integer = |place: usize| number(&words[place]).map_or_else(|| error(NOT_AN_INTEGER), Ok);
    let (start, end) = (integer(2)?, integer(3)?);
    let length = message.len() as i64;
    if start < 0 && end < 0 && start > end {
        return Ok(Value::Bulk(Bytes::new()));
    }
    let from_end = |place: i64| if place < 0 { (length.saturating_add(place)).max(0) } else { place };
    let (start, end) = (from_end(start), from_end(end).min(length - 1));
    let part = if start > end { &[] } else { &message[start as usize..=end as usize] };
    Ok(Value::Bulk(if part.len() < message.len() / 2 { Bytes::copy_from_slice(part) } else { message.slice_ref(part) }))
}

/// Carries out a command whose number of words was checked. `keys` are the ids that its table row names, in order.
/// On an error nothing was handed to `ids`.
pub(super) fn run(op: DataOp, words: &Words, keys: &[MessageId], max_message: usize, ids: &mut dyn Ids) -> Value {
    let context = Context { words, keys, max_message, ids };
    context.run(op).unwrap_or_else(Value::Error)
}

struct Context<'a> {
    words: &'a Words,
    keys: &'a [MessageId],
    max_message: usize,
    ids: &'a mut dyn Ids,
}

impl Context<'_> {
    fn run(mut self, op: DataOp) -> Result<Value> {
        let key = &self.keys[0];
        Ok(match op {
            DataOp::Get => self.message(0),
            DataOp::Mget => Value::Array((0..self.keys.len()).map(|place| self.message(place)).collect()),
            DataOp::Exists | DataOp::Touch => self.count(|ids, id| ids.exists(id)),
            DataOp::Strlen => Value::Integer(self.ids.length(key).unwrap_or(0) as i64),
            DataOp::Type => Value::Simple(if self.ids.exists(key) { "string" } else { "none" }),
            DataOp::Ttl | DataOp::Pttl | DataOp::ExpireTime | DataOp::PExpireTime => self.time_left(op),
            DataOp::Expire | DataOp::PExpire | DataOp::ExpireAt | DataOp::PExpireAt => self.expire(op)?,
            DataOp::Persist => {
                let ended = self.ids.expires(key).is_some();
                if let Some(message) = self.ids.get(key).filter(|_| ended) {
                    self.ids.set(key, message, None);
                }
                Value::Integer(ended.into())
            }
            DataOp::GetEx => {
                let options = GetEx::read(self.words)?;
                let Some(message) = self.ids.get(key) else { return Ok(Value::Nil) };
                let until = options.until(self.ids.now())?;
                if until != Until::Kept {
                    self.put_until(message.clone(), until);
                }
                Value::Bulk(message)
            }
            DataOp::SetEx | DataOp::PSetEx => {
                let name = if op == DataOp::SetEx { "setex" } else { "psetex" };
                let at = Form::of_command(op).read(&self.words[2], self.ids.now(), true, name)?;
                self.fits(self.words[3].len())?;
                self.put_until(self.words[3].clone(), Until::At(at));
                OK
            }
            DataOp::DelEx => self.delete_if()?,
            DataOp::GetBit => {
                let (byte, by) = strings::bit_place(&self.words[2], usize::MAX)?;
                let message = self.ids.get(key).unwrap_or_default();
                Value::Integer(message.get(byte).map_or(0, |byte| byte >> by & 1).into())
            }
            DataOp::SetBit => self.set_bit()?,
            DataOp::Lcs => {
                let message = |place: usize| self.ids.get(&self.keys[place]).unwrap_or_default();
                strings::common(self.words, &message(0), &message(1))?
            }
            DataOp::GetRange => get_range(self.words, &self.ids.get(key).unwrap_or_default())?,
            DataOp::Set => self.set()?,
            DataOp::SetNx => self.set_if(!self.ids.exists(key))?,
            DataOp::GetSet => {
                let before = self.message(0);
                self.keep(0, self.words[2].clone())?;
                before
            }
            DataOp::GetDel => {
                let before = self.message(0);
                self.ids.delete(key);
                before
            }
            DataOp::Del => self.count(|ids, id| {
                let was_there = ids.exists(id);
                ids.delete(id);
                was_there
            }),
            DataOp::Mset => self.set_all()?,
            DataOp::MsetNx if self.keys.iter().any(|id| self.ids.exists(id)) => {
                self.pairs().map(|()| Value::Integer(0))?
            }
            DataOp::MsetNx => self.set_all().map(|_| Value::Integer(1))?,
            DataOp::Append => {
                self.fits(self.ids.length(key).unwrap_or(0) + self.words[2].len())?;
                let expires = self.ids.expires(key);
                let mut message = self.ids.take(key).map_or_else(Vec::new, Vec::from);
                message.extend_from_slice(&self.words[2]);
                self.change_to_length(message, expires)?
            }
            DataOp::SetRange => self.set_range()?,
            DataOp::Incr => self.add(1, 1)?,
            DataOp::Decr => self.add(1, -1)?,
            DataOp::IncrBy => self.add(self.integer(2)?, 1)?,
            DataOp::DecrBy => {
                let by = self.integer(2)?;
                if by == i64::MIN {
                    return error("ERR decrement would overflow");
                }
                self.add(by, -1)?
            }
            DataOp::IncrByFloat => self.add_decimal()?,
            DataOp::Rename => self.rename(true).map(|_| OK)?,
            DataOp::RenameNx => self.rename(false)?,
            DataOp::Copy => self.copy()?,
        })
    }

    fn message(&self, place: usize) -> Value {
        self.ids.get(&self.keys[place]).map_or(Value::Nil, Value::Bulk)
    }

    fn count(&mut self, mut is: impl FnMut(&mut dyn Ids, &MessageId) -> bool) -> Value {
        Value::Integer(self.keys.iter().filter(|id| is(self.ids, id)).count() as i64)
    }

    fn integer(&self, place: usize) -> Result<i64> {
        number(&self.words[place]).map_or_else(|| error(NOT_AN_INTEGER), Ok)
    }

    fn fits(&self, length: usize) -> Result<()> {
        fits(length, self.max_message)
    }

    /// Keeps a message that does not end by itself.
    fn keep(&mut self, place: usize, message: Bytes) -> Result<()> {
        self.fits(message.len())?;
        self.ids.set(&self.keys[place], message, None);
        Ok(())
    }

    /// Keeps another message of the first id until the same time as before.
    fn change(&mut self, message: Bytes, expires: Option<Deadline>) -> Result<()> {
        self.fits(message.len())?;
        self.ids.set(&self.keys[0], message, expires);
        Ok(())
    }

    fn change_to_length(&mut self, message: Vec<u8>, expires: Option<Deadline>) -> Result<Value> {
        let length = message.len() as i64;
        self.change(message.into(), expires)?;
        Ok(Value::Integer(length))
    }

    /// Keeps a message of the first id as long as it says; one whose time has passed is deleted.
    fn put_until(&mut self, message: Bytes, until: Until) {
        let key = &self.keys[0];
        let before = if until == Until::Kept { self.ids.expires(key) } else { None };
        match until.deadline(before, self.ids.now()) {
            Ok(expires) => self.ids.set(key, message, expires),
            Err(()) => self.ids.delete(key),
        }
    }

    /// -1: it is there and does not end; -2: it is not there.
    fn time_left(&self, op: DataOp) -> Value {
        let key = &self.keys[0];
        let at = match self.ids.expires(key) {
            Some(deadline) => deadline.unix_ms(),
            None => return Value::Integer(if self.ids.exists(key) { -1 } else { -2 }),
        };
        let left = at.saturating_sub(self.ids.now());
        Value::Integer(match op {
            DataOp::Ttl => (left + 500) / 1000,
            DataOp::Pttl => left,
            DataOp::ExpireTime => (at + 500) / 1000,
            _ => at,
        } as i64)
    }

    fn expire(&mut self, op: DataOp) -> Result<Value> {
        let name = match op {
            DataOp::Expire => "expire",
            DataOp::PExpire => "pexpire",
            DataOp::ExpireAt => "expireat",
            _ => "pexpireat",
        };
        let only = Only::read(self.words)?;
        let at = Form::of_command(op).read(&self.words[2], self.ids.now(), false, name)?;
        let key = &self.keys[0];
        let before = self.ids.expires(key);
        let Some(message) = self.ids.get(key).filter(|_| only.admits(at, before)) else { return Ok(Value::Integer(0)) };
        // One that stays as it is needs no write.
        if before.map(|deadline| deadline.unix_ms() as i64) != Some(at) {
            self.put_until(message, Until::At(at));
        }
        Ok(Value::Integer(1))
    }

    /// DELEX: deletes a message that is, or is not, the one that is told.
    fn delete_if(&mut self) -> Result<Value> {
        let key = &self.keys[0];
        let wanted = match self.words.get(2).map(|word| word.to_ascii_uppercase()).as_deref() {
            None => None,
            Some(b"IFEQ") if self.words.len() == 4 => Some(true),
            Some(b"IFNE") if self.words.len() == 4 => Some(false),
            Some(_) => return error(SYNTAX),
        };
        let Some(message) = self.ids.get(key) else { return Ok(Value::Integer(0)) };
        let does = wanted.is_none_or(|same| (message == self.words[3]) == same);
        if does {
            self.ids.delete(key);
        }
        Ok(Value::Integer(does.into()))
    }

    fn set(&mut self) -> Result<Value> {
        let SetOptions { only_new, only_old, compare, give, until } = SetOptions::read(self.words, self.ids.now())?;
        let exists = self.ids.exists(&self.keys[0]);
        let before = if give { self.message(0) } else { Value::Nil };
        let is = |wanted: &Bytes| self.ids.get(&self.keys[0]).is_some_and(|message| message == *wanted);
        let compares = compare.is_none_or(|(wanted, same)| is(&wanted) == same);
        let does = !(only_new && exists || only_old && !exists) && compares;
        if does {
            let message = self.words[2].clone();
            self.fits(message.len())?;
            self.put_until(message, until.unwrap_or(Until::Never));
        }
        Ok(if does && !give { OK } else { before })
    }

    fn set_if(&mut self, does: bool) -> Result<Value> {
        if does {
            self.keep(0, self.words[2].clone())?;
        }
        Ok(Value::Integer(does.into()))
    }

    fn pairs(&self) -> Result<()> {
        pairs(self.words, self.max_message)
    }

    fn set_all(&mut self) -> Result<Value> {
        self.pairs()?;
        for (place, id) in self.keys.iter().enumerate() {
            self.ids.set(id, self.words[2 + 2 * place].clone(), None);
        }
        Ok(OK)
    }

    fn set_range(&mut self) -> Result<Value> {
        let start = self.integer(2)?;
        let Ok(start) = usize::try_from(start) else { return error("ERR offset is out of range") };
        let part = &self.words[3];
        if part.is_empty() {
            return Ok(Value::Integer(self.ids.length(&self.keys[0]).unwrap_or(0) as i64));
        }
        let end = start.checked_add(part.len()).filter(|end| *end <= self.max_message);
        let Some(end) = end else {
            return error("ERR string exceeds maximum allowed size (--max-message)");
        };
        // Nothing that is taken may fail: a message may be over a limit that was lowered.
        self.fits(self.ids.length(&self.keys[0]).unwrap_or(0))?;
        let expires = self.ids.expires(&self.keys[0]);
        let mut message = self.ids.take(&self.keys[0]).map_or_else(Vec::new, Vec::from);
        message.resize(message.len().max(end), 0);
        message[start..end].copy_from_slice(part);
        self.change_to_length(message, expires)
    }

    fn set_bit(&mut self) -> Result<Value> {
        let (byte, by) = strings::bit_place(&self.words[2], self.max_message)?;
        let bit = strings::bit(&self.words[3])?;
        self.fits(self.ids.length(&self.keys[0]).unwrap_or(0))?;
        let expires = self.ids.expires(&self.keys[0]);
        let mut message = self.ids.take(&self.keys[0]).map_or_else(Vec::new, Vec::from);
        message.resize(message.len().max(byte + 1), 0);
        let before = message[byte] >> by & 1;
        message[byte] = message[byte] & !(1 << by) | bit << by;
        self.change(message.into(), expires)?;
        Ok(Value::Integer(before.into()))
    }

    fn add(&mut self, by: i64, sign: i64) -> Result<Value> {
        let before = match self.ids.get(&self.keys[0]) {
            Some(message) => number(&message).map_or_else(|| error(NOT_AN_INTEGER), Ok)?,
            None => 0,
        };
        let sum = by.checked_mul(sign).and_then(|by| before.checked_add(by));
        let sum = sum.map_or_else(|| error(OVERFLOW), Ok)?;
        self.change(sum.to_string().into(), self.ids.expires(&self.keys[0]))?;
        Ok(Value::Integer(sum))
    }

    fn add_decimal(&mut self) -> Result<Value> {
        let read = |text: &[u8]| floats::read(text).map_or_else(|| error(NOT_A_FLOAT), Ok);
        let before = self.ids.get(&self.keys[0]).map_or_else(|| read(b"0"), |message| read(&message))?;
        let Some(sum) = floats::sum(before, read(&self.words[2])?) else {
            return error("ERR increment would produce NaN or Infinity");
        };
        self.change(sum.clone().into(), self.ids.expires(&self.keys[0]))?;
        Ok(Value::text(sum))
    }

    fn rename(&mut self, over: bool) -> Result<Value> {
        let Some(message) = self.ids.get(&self.keys[0]) else { return error(NO_SUCH_KEY) };
        let taken = self.ids.exists(&self.keys[1]);
        if taken && !over {
            return Ok(Value::Integer(0));
        }
        if self.keys[0] != self.keys[1] {
            let expires = self.ids.expires(&self.keys[0]);
            self.ids.delete(&self.keys[0]);
            self.ids.set(&self.keys[1], message, expires.filter(|_| !seeded::active(Bug::DeadlineLostByRename)));
        }
        Ok(Value::Integer(1))
    }

    fn copy(&mut self) -> Result<Value> {
        let (mut over, mut options) = (false, self.words[3..].iter());
        while let Some(word) = options.next() {
            match word.to_ascii_uppercase().as_slice() {
                b"REPLACE" => over = true,
                b"DB" => match options.next().map(|word| number(word)) {
                    Some(Some(0)) => {}
                    Some(Some(_)) => return error("ERR DB index is out of range"),
                    Some(None) => return error(NOT_AN_INTEGER),
                    None => return error(SYNTAX),
                },
                _ => return error(SYNTAX),
            }
        }
        if self.keys[0] == self.keys[1] {
            return error("ERR source and destination objects are the same");
        }
        let Some(message) = self.ids.get(&self.keys[0]) else { return Ok(Value::Integer(0)) };
        if self.ids.exists(&self.keys[1]) && !over {
            return Ok(Value::Integer(0));
        }
        self.ids.set(&self.keys[1], message, self.ids.expires(&self.keys[0]));
        Ok(Value::Integer(1))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::words;
    use super::*;
    use crate::protocol::table;

    #[derive(Default)]
    struct Map(BTreeMap<MessageId, (Payload, Option<Deadline>)>);

    impl Ids for Map {
        fn get(&self, id: &MessageId) -> Option<Payload> {
            self.0.get(id).map(|(message, _)| message.clone())
        }
        fn length(&self, id: &MessageId) -> Option<usize> {
            self.0.get(id).map(|(message, _)| message.len())
        }
        fn take(&mut self, id: &MessageId) -> Option<Payload> {
            self.0.remove(id).map(|(message, _)| message)
        }
        fn expires(&self, id: &MessageId) -> Option<Deadline> {
            self.0.get(id)?.1
        }
        fn now(&self) -> u64 {
            1_000_000
        }
        fn set(&mut self, id: &MessageId, payload: Payload, expires: Option<Deadline>) {
            self.0.insert(id.clone(), (payload, expires));
        }
        fn delete(&mut self, id: &MessageId) {
            self.0.remove(id);
        }
    }

    /// Runs one request after the other; gives their replies as version 2 writes them, on one line each.
    fn talk(requests: &str) -> Vec<String> {
        let mut map = Map::default();
        let run = |request: &str| {
            let words = words(request);
            let spec = table::find(&words[0]).unwrap();
            assert!(spec.takes(words.len()) && spec.data().is_some(), "{request}");
            let key = |place: usize| MessageId::from_bytes(&words[place]).unwrap();
            let keys: Vec<MessageId> = spec.key_places(words.len()).map(key).collect();
            let mut out = bytes::BytesMut::new();
            super::run(spec.data().unwrap(), &words, &keys, 30, &mut map).encode(2, &mut out);
            String::from_utf8_lossy(&out).trim_end().replace("\r\n", " ")
        };
        requests.split('|').map(run).collect()
    }

    #[test]
    fn commands_do_what_clients_of_redis_expect() {
        for (requests, replies) in [
            ("SET a 1|GET a|GET b|STRLEN a|TYPE a|TYPE b", "+OK|$1 1|$-1|:1|+string|+none"),
            (
                "SET a 1 NX|SET a 2 NX|GET a|SET b 1 XX|SET a 3 xx get|SET b 4 GET|GET b",
                "+OK|$-1|$1 1|$-1|$1 1|$-1|$1 4",
            ),
            ("SET a 1 NX XX|SET a 1 nonsense|SET a 1 KEEPTTL", "-ERR syntax error|-ERR syntax error|+OK"),
            ("SETNX a 1|SETNX a 2|GETSET a 3|GETDEL a|GETDEL a|EXISTS a", ":1|:0|$1 1|$1 3|$-1|:0"),
            (
                "MSET a 1 b 2|MGET a x b|MSETNX c 1 a 2|EXISTS c|MSETNX c 1 d 2|DEL a b b x",
                "+OK|*3 $1 1 $-1 $1 2|:0|:0|:1|:2",
            ),
            ("MSET a 1 b", "-ERR wrong number of arguments for 'mset' command"),
            ("EXISTS a a|SET a 1|EXISTS a a|TOUCH a b|TTL a|PTTL b", ":0|+OK|:2|:1|:-1|:-2"),
            ("INCR n|INCRBY n 5|DECR n|DECRBY n 10|GET n", ":1|:6|:5|:-5|$2 -5"),
            (
                "SET n 9223372036854775807|INCR n|GET n",
                "+OK|-ERR increment or decrement would overflow|$19 9223372036854775807",
            ),
            (
                "SET n 01|INCR n|INCRBY x y",
                "+OK|-ERR value is not an integer or out of range|-ERR value is not an integer or out of range",
            ),
            ("DECRBY n -9223372036854775808", "-ERR decrement would overflow"),
            (
                "SET n 1|INCRBYFLOAT n -1.1|INCRBYFLOAT n 0.1|INCRBYFLOAT n 5.0e3|INCRBYFLOAT n x",
                "+OK|$4 -0.1|$1 0|$4 5000|-ERR value is not a valid float",
            ),
            (
                "APPEND a 12|APPEND a 345|GETRANGE a 1 2|GETRANGE a -2 -1|GETRANGE a 3 1|GETRANGE a -9 99",
                ":2|:5|$2 23|$2 45|$0|$5 12345",
            ),
            (
                "SETRANGE a 3 x|STRLEN a|SETRANGE a -1 x|SETRANGE a 30 x",
                ":4|:4|-ERR offset is out of range|-ERR string exceeds maximum allowed size (--max-message)",
            ),
            (
                "SET a 1|RENAME a b|GET b|RENAME a c|RENAMENX b b|SET c 2|RENAMENX b c|RENAME b b",
                "+OK|+OK|$1 1|-ERR no such key|:0|+OK|:0|+OK",
            ),
            (
                "SET a 1|COPY a b|COPY a b|SET a 2|COPY a b REPLACE DB 0|GET b|COPY a a|COPY a c DB 1",
                "+OK|:1|:0|+OK|:1|$1 2|-ERR source and destination objects are the same|-ERR DB index is out of range",
            ),
        ] {
            assert_eq!(talk(requests).join("|"), replies, "{requests}");
        }
    }

    #[test]
    fn deadlines_go_where_redis_has_them_go() {
        // The time is 1000 s.
        for (requests, replies) in [
            ("SET a 1 EX 10|TTL a|PTTL a|EXPIRETIME a|PEXPIRETIME a", "+OK|:10|:10000|:1010|:1010000"),
            ("TTL a|EXPIRETIME a|SET a 1|TTL a|PEXPIRETIME a|PERSIST a", ":-2|:-2|+OK|:-1|:-1|:0"),
            ("SETEX a 10 1|PTTL a|PSETEX a 10 2|PTTL a|GET a", "+OK|:10000|+OK|:10|$1 2"),
            ("SET a 1 PX 1499|TTL a|SET a 1 PX 1500|TTL a", "+OK|:1|+OK|:2"),
            ("SET a 1 EX 9|SET a 2|TTL a|SET a 3 EX 9|SET a 4 KEEPTTL|TTL a", "+OK|+OK|:-1|+OK|+OK|:9"),
            ("SET a 1 EX 9|INCR a|APPEND a x|SETRANGE a 0 y|SETBIT a 0 1|TTL a", "+OK|:2|:2|:2|:0|:9"),
            ("SET a 1 EX 9|INCRBYFLOAT a 1|TTL a|GETSET a 5|TTL a", "+OK|$1 2|:9|$1 2|:-1"),
            ("SET a 1 EX 9|MSET a 2|TTL a|SET a 1 EX 9|SETNX a 3|TTL a", "+OK|+OK|:-1|+OK|:0|:9"),
            ("SET a 1 EX 9|RENAME a b|TTL b|COPY b c|TTL c|PERSIST c|TTL c|TTL b", "+OK|+OK|:9|:1|:9|:1|:-1|:9"),
            ("SET a 1 EX 9|SET b 2|RENAME b a|TTL a", "+OK|+OK|+OK|:-1"),
            ("EXPIRE a 5|SET a 1|EXPIRE a 5|TTL a|EXPIRE a -1|EXISTS a", ":0|+OK|:1|:5|:1|:0"),
            ("SET a 1|EXPIREAT a 1005|TTL a|PEXPIREAT a 1000001|PTTL a|EXPIREAT a 999|GET a", "+OK|:1|:5|:1|:1|:1|$-1"),
            ("SET a 1|PEXPIRE a 5|PTTL a|PEXPIRE a 9 LT|PEXPIRE a 9 GT|PTTL a", "+OK|:1|:5|:0|:1|:9"),
            (
                "SET a 1|EXPIRE a 1.5|EXPIRE a 9223372036854775807|EXPIRE a 5 AB",
                "+OK|-ERR value is not an integer or out of range|-ERR invalid expire time in 'expire' command|-ERR Unsupported option AB",
            ),
            (
                "SETEX a 0 1|PSETEX a -5 1|EXISTS a",
                "-ERR invalid expire time in 'setex' command|-ERR invalid expire time in 'psetex' command|:0",
            ),
            (
                "SET a 1|GETEX a EX 5|TTL a|GETEX a|TTL a|GETEX a PERSIST|TTL a|GETEX b EX 5",
                "+OK|$1 1|:5|$1 1|:5|$1 1|:-1|$-1",
            ),
            ("SET a 1|GETEX a EXAT 5|EXISTS a|SET a 1 PXAT 5|EXISTS a", "+OK|$1 1|:0|+OK|:0"),
        ] {
            assert_eq!(talk(requests).join("|"), replies, "{requests}");
        }
    }

    #[test]
    fn messages_are_compared_and_swapped() {
        for (requests, replies) in [
            ("SET a 1 IFEQ 1|SET a 1|SET a 2 IFEQ 1|SET a 3 IFEQ 1|GET a", "$-1|+OK|+OK|$-1|$1 2"),
            ("SET a 1 IFNE 1|SET a 2 IFNE 1|SET a 3 IFNE 1 GET|GET a", "+OK|$-1|$1 1|$1 1"),
            ("SET a 1|SET a 2 IFEQ 1 EX 9 GET|TTL a|SET a 3 IFEQ 9 GET|GET a", "+OK|$1 1|:9|$1 2|$1 2"),
            ("DELEX a|SET a 1|DELEX a IFEQ 2|DELEX a IFEQ 1|DELEX a IFEQ 1|EXISTS a", ":0|+OK|:0|:1|:0|:0"),
            (
                "SET a 1|DELEX a IFNE 1|DELEX a IFNE 2|SET a 1|DELEX a|DELEX a IFEQ|DELEX a x y",
                "+OK|:0|:1|+OK|:1|-ERR syntax error|-ERR syntax error",
            ),
        ] {
            assert_eq!(talk(requests).join("|"), replies, "{requests}");
        }
    }

    #[test]
    fn a_message_over_a_limit_that_was_lowered_is_refused_and_not_lost() {
        let (id, message) = (MessageId::from_bytes(b"a").unwrap(), Bytes::from(vec![b'x'; 40]));
        for request in ["SETRANGE a 0 y", "SETBIT a 1 1", "APPEND a y"] {
            let kept = (message.clone(), None);
            let mut map = Map([(id.clone(), kept.clone())].into());
            let words = words(request);
            let op = table::find(&words[0]).unwrap().data().unwrap();
            let told = super::run(op, &words, std::slice::from_ref(&id), 30, &mut map);
            assert!(matches!(told, Value::Error(_)) && map.0.get(&id) == Some(&kept), "{request}: {told:?}");
        }
    }

    #[test]
    fn what_can_never_succeed_is_known_before_it_is_run() {
        let long = "x".repeat(31);
        for (request, refused) in [
            ("SET a 1".to_owned(), false),
            ("SET a 1 NX nonsense".to_owned(), false),
            ("SETEX a 5 x".to_owned(), false),
            (format!("SETEX a 5 {long}"), true),
            (format!("SET a {long}"), true),
            (format!("MSET b 1 a {long}"), true),
            ("MSET b 1 a".to_owned(), true),
            (format!("GETSET a {long}"), true),
            (format!("SETRANGE a 0 {long}"), true),
            (format!("APPEND a {long}"), true),
            (format!("INCRBY a {long}"), false),
        ] {
            let words = words(&request);
            let op = table::find(&words[0]).unwrap().data().unwrap();
            assert_eq!(surely_refused(op, &words, 30).is_some(), refused, "{request}");
        }
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let long = "x".repeat(31);
        for request in [format!("SET a {long}"), format!("MSET b 1 a {long}"), format!("APPEND a {long}")] {
            let replies = talk(&format!("{request}|EXISTS a b"));
            assert!(replies[0].contains("over the limit of 30"), "{replies:?}");
            assert_eq!(replies[1], ":0");
        }
    }
}
