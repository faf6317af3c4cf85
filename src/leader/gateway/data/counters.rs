//! Messages that are numbers: INCR and its kin.

use super::{Context, NOT_A_FLOAT, OVERFLOW, Result};
use crate::leader::gateway::deadlines::{Said, Until};
use crate::leader::gateway::floats;
use crate::leader::gateway::refused::{NOT_AN_INTEGER, SYNTAX, error};
use crate::protocol::resp::{Value, Words, number};

const NO_NUMBER: &str = "ERR increment would produce NaN or Infinity";

impl Context<'_> {
    /// INCR, DECR and those by more.
    pub(super) fn add(&mut self, by: i64, sign: i64) -> Result<Value> {
        let before = self.whole()?;
        let sum = by.checked_mul(sign).and_then(|by| before.checked_add(by)).ok_or(OVERFLOW)?;
        self.change(sum.to_string().into(), self.ids.expires(&self.keys[0]))?;
        Ok(Value::Integer(sum))
    }

    /// The number that the message of the first id is; 0: there is none.
    fn whole(&self) -> Result<i64> {
        let message = self.ids.get(&self.keys[0]);
        Ok(message.map_or(Some(0), |message| number(&message)).ok_or(NOT_AN_INTEGER)?)
    }

    /// INCRBYFLOAT.
    pub(super) fn add_decimal(&mut self) -> Result<Value> {
        let read = |text: &[u8]| floats::read(text).map_or_else(|| error(NOT_A_FLOAT), Ok);
        let before = self.ids.get(&self.keys[0]).map_or_else(|| read(b"0"), |message| read(&message))?;
        let Some(sum) = floats::sum(before, read(&self.words[2])?) else { return error(NO_NUMBER) };
        self.change(sum.clone().into(), self.ids.expires(&self.keys[0]))?;
        Ok(Value::text(sum))
    }

    /// INCREX (Redis 8.8, Valkey 9.2): adds within bounds, and says when it ends; gives the number and what was added.
    pub(super) fn add_within(&mut self) -> Result<Value> {
        let options = Within::read(self.words)?;
        let until = match options.time {
            Some(time) => time.until(self.ids.now(), "increx")?,
            None if options.persist => Until::Never,
            None => Until::Kept,
        };
        let has_end = self.ids.expires(&self.keys[0]).is_some();
        let until = if options.only_unending && has_end { Until::Kept } else { until };
        let (written, told) =
            if options.decimal { self.decimal_within(&options)? } else { self.whole_within(&options)? };
        if let Some(text) = written {
            self.fits(text.len())?;
            self.put_until(text.into(), until);
        }
        Ok(told)
    }

    /// What is to be written, if anything is, and the reply.
    fn whole_within(&self, options: &Within) -> Result<(Option<String>, Value)> {
        let integer = |word: Option<&[u8]>, usual: i64| word.map_or(Some(usual), number).ok_or(NOT_AN_INTEGER);
        let by = integer(options.by, 1)?;
        let (least, most) = (integer(options.least, i64::MIN)?, integer(options.most, i64::MAX)?);
        if least > most {
            return error(BOUNDS);
        }
        let before = self.whole()?;
        let sum = i128::from(before) + i128::from(by);
        let within = sum.clamp(least.into(), most.into());
        if within != sum && !options.saturate {
            return Ok((None, pair(Value::Integer(before), Value::Integer(0))));
        }
        let added = i64::try_from(within - i128::from(before)).map_err(|_| OVERFLOW)?;
        Ok((Some(within.to_string()), pair(Value::Integer(within as i64), Value::Integer(added))))
    }

    fn decimal_within(&self, options: &Within) -> Result<(Option<String>, Value)> {
        let read = |word: &[u8]| floats::finite(word).ok_or(NOT_A_FLOAT);
        let (least, most) = (options.least.map(read).transpose()?, options.most.map(read).transpose()?);
        if let (Some(least), Some(most)) = (least, most)
            && most.is_below(least)
        {
            return error(BOUNDS);
        }
        let by = read(options.by.unwrap_or(b"1"))?;
        let before = self.ids.get(&self.keys[0]).map_or_else(|| read(b"0"), |message| read(&message))?;
        let sum = floats::add(before, by).ok_or(NO_NUMBER)?;
        let within = match (least, most) {
            (Some(least), _) if sum.is_below(least) => least,
            (_, Some(most)) if most.is_below(sum) => most,
            _ => sum,
        };
        let decimal = |number: floats::Float| Value::Double(number.into_text());
        if within != sum && !options.saturate {
            return Ok((None, pair(decimal(before), Value::Double("0".to_owned()))));
        }
        let added = floats::add(within, before.negated()).ok_or(NO_NUMBER)?;
        Ok((Some(within.into_text()), pair(decimal(within), decimal(added))))
    }
}

fn pair(number: Value, added: Value) -> Value {
    Value::Array(vec![number, added])
}

const BOUNDS: &str = "ERR LBOUND is greater than UBOUND";

/// What INCREX is told.
#[derive(Debug, Default)]
struct Within<'a> {
    by: Option<&'a [u8]>,
    decimal: bool,
    least: Option<&'a [u8]>,
    most: Option<&'a [u8]>,
    /// A sum that is out of bounds is brought to the bound, instead of being left away.
    saturate: bool,
    time: Option<Said<'a>>,
    persist: bool,
    /// The time counts only if there is none yet.
    only_unending: bool,
}

impl<'a> Within<'a> {
    fn read(words: &'a Words) -> Result<Self> {
        let (mut options, mut rest) = (Self::default(), words[2..].iter());
        while let Some(word) = rest.next() {
            let name = word.to_ascii_uppercase();
            match name.as_slice() {
                b"SATURATE" => options.saturate = true,
                b"PERSIST" if options.time.is_none() => options.persist = true,
                b"ENX" => options.only_unending = true,
                b"BYINT" | b"BYFLOAT" | b"LBOUND" | b"UBOUND" => {
                    let value = Some(&**rest.next().ok_or(SYNTAX)?);
                    let place = match name.as_slice() {
                        b"LBOUND" => &mut options.least,
                        b"UBOUND" => &mut options.most,
                        _ => {
                            options.decimal = name == b"BYFLOAT";
                            &mut options.by
                        }
                    };
                    if place.is_some() {
                        return error(SYNTAX);
                    }
                    *place = value;
                }
                _ if !options.persist => options.time = Some(Said::read(options.time, word, &mut rest)?),
                _ => return error(SYNTAX),
            }
        }
        if options.only_unending && options.time.is_none() {
            return error("ERR ENX wants a time: EX, PX, EXAT or PXAT");
        }
        Ok(options)
    }
}
