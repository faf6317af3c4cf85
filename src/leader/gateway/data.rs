//! What the data commands of Redis do to messages, as plain functions over the ids that they name.
//!
//! Nothing here waits or knows a socket: the messages are handed in, and what is to be written is handed back, by
//! [`Ids`]. A command alone and one of a transaction are the same here. The texts of errors are Redis's.

mod counters;

use bytes::Bytes;

use super::OK;
use super::deadlines::{Form, GetEx, Only, SetOptions, Until};
use super::refused::{NOT_AN_INTEGER, SYNTAX, error};
use super::{bits, lcs};
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
        DataOp::MsetNx | DataOp::SetNx | DataOp::MsetEx => Need::Version,
        DataOp::DelEx | DataOp::DelIfEq => Need::Message,
        DataOp::BitCount | DataOp::BitPos | DataOp::BitOp | DataOp::BitField | DataOp::BitFieldRo => Need::Message,
        DataOp::Set if words.iter().skip(3).any(|word| needs_message(word)) => Need::Message,
        DataOp::Set => Need::Version,
        DataOp::Get | DataOp::Mget | DataOp::GetBit | DataOp::GetRange | DataOp::Lcs => Need::Message,
        DataOp::GetEx | DataOp::GetDel | DataOp::GetSet | DataOp::Append | DataOp::SetBit | DataOp::SetRange => {
            Need::Message
        }
        DataOp::Incr | DataOp::IncrBy | DataOp::IncrByFloat | DataOp::Decr | DataOp::DecrBy | DataOp::IncrEx => {
            Need::Message
        }
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
            DataOp::DelIfEq => self.delete_where(Some((&self.words[2], true))),
            DataOp::BitCount => bits::count(self.words, &self.ids.get(key).unwrap_or_default())?,
            DataOp::BitPos => bits::find(self.words, self.ids.get(key).as_deref())?,
            DataOp::BitOp => self.join_bits()?,
            DataOp::BitField | DataOp::BitFieldRo => self.bit_field(op == DataOp::BitFieldRo)?,
            DataOp::GetBit => {
                let (byte, by) = bits::bit_place(&self.words[2], bits::MOST_READ)?;
                let message = self.ids.get(key).unwrap_or_default();
                Value::Integer(message.get(byte).map_or(0, |byte| byte >> by & 1).into())
            }
            DataOp::SetBit => self.set_bit()?,
            DataOp::Lcs => {
                let message = |place: usize| self.ids.get(&self.keys[place]).unwrap_or_default();
                lcs::common(self.words, &message(0), &message(1))?
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
            DataOp::MsetEx => self.set_all_until()?,
            DataOp::Append => {
                let more = &self.words[2];
                self.fits(self.ids.length(key).unwrap_or(0) + more.len())?;
                self.edit(0, |message| {
                    message.extend_from_slice(more);
                    Value::Integer(message.len() as i64)
                })?
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
            DataOp::IncrEx => self.add_within()?,
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

    /// Changes the message of the first id where it is, after it was made at least so long; it ends when it did.
    fn edit(&mut self, least: usize, edit: impl FnOnce(&mut Vec<u8>) -> Value) -> Result<Value> {
        let key = &self.keys[0];
        // Nothing that is taken may fail: a message may be over a limit that was lowered.
        self.fits(self.ids.length(key).unwrap_or(0))?;
        let expires = self.ids.expires(key);
        let mut message = self.ids.take(key).map_or_else(Vec::new, Vec::from);
        message.resize(message.len().max(least), 0);
        let told = edit(&mut message);
        self.change(message.into(), expires)?;
        Ok(told)
    }

    /// Keeps a message of the first id as long as it says; one whose time has passed is deleted.
    fn put_until(&mut self, message: Bytes, until: Until) {
        self.put_at(0, message, until);
    }

    fn put_at(&mut self, place: usize, message: Bytes, until: Until) {
        let key = &self.keys[place];
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
        let same = match self.words.get(2).map(|word| word.to_ascii_uppercase()).as_deref() {
            None => None,
            Some(b"IFEQ") if self.words.len() == 4 => Some(true),
            Some(b"IFNE") if self.words.len() == 4 => Some(false),
            Some(_) => return error(SYNTAX),
        };
        Ok(self.delete_where(same.map(|same| (&self.words[3], same))))
    }

    /// Deletes a message, if there is one that is, or is not, the one that is told; tells whether it did.
    fn delete_where(&mut self, compare: Option<(&Bytes, bool)>) -> Value {
        let key = &self.keys[0];
        let compares = |message: Payload| compare.is_none_or(|(wanted, same)| (message == *wanted) == same);
        let does = self.ids.get(key).is_some_and(compares);
        if does {
            self.ids.delete(key);
        }
        Value::Integer(does.into())
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

    /// MSETEX: keeps all messages for the same time, if all of the ids have one, or none.
    fn set_all_until(&mut self) -> Result<Value> {
        let end = 2 + 2 * self.keys.len();
        let options = SetOptions::of(&self.words[end..], self.ids.now(), "msetex")?;
        if options.give || options.compare.is_some() {
            return error(SYNTAX);
        }
        self.words[2..end].iter().skip(1).step_by(2).try_for_each(|message| self.fits(message.len()))?;
        let there = self.keys.iter().filter(|id| self.ids.exists(id)).count();
        if options.only_new && there > 0 || options.only_old && there < self.keys.len() {
            return Ok(Value::Integer(0));
        }
        for place in 0..self.keys.len() {
            self.put_at(place, self.words[3 + 2 * place].clone(), options.until.unwrap_or(Until::Never));
        }
        Ok(Value::Integer(1))
    }

    /// BITOP: the first id gets what the messages of the others are together.
    fn join_bits(&mut self) -> Result<Value> {
        let messages: Vec<Bytes> = self.keys[1..].iter().map(|id| self.ids.get(id).unwrap_or_default()).collect();
        let joined = bits::join(self.words, &messages)?;
        let length = joined.len() as i64;
        match joined.is_empty() {
            true => self.ids.delete(&self.keys[0]),
            false => self.keep(0, joined.into())?,
        }
        Ok(Value::Integer(length))
    }

    fn bit_field(&mut self, reads_only: bool) -> Result<Value> {
        let steps = bits::Steps::read(self.words, reads_only, self.max_message)?;
        match steps.reach() {
            Some(reach) => self.edit(reach, |message| steps.run(message)),
            None => Ok(steps.run(&mut self.ids.get(&self.keys[0]).map_or_else(Vec::new, Vec::from))),
        }
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
        self.edit(end, |message| {
            message[start..end].copy_from_slice(part);
            Value::Integer(message.len() as i64)
        })
    }

    fn set_bit(&mut self) -> Result<Value> {
        let (byte, by) = bits::bit_place(&self.words[2], self.max_message)?;
        let bit = bits::bit(&self.words[3])?;
        self.edit(byte + 1, |message| {
            let before = message[byte] >> by & 1;
            message[byte] = message[byte] & !(1 << by) | bit << by;
            Value::Integer(before.into())
        })
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
mod tests;
