//! Writing.

use mlua::{Table, Value};

use super::{DEEPEST, INVALID, Settings, refused};
use crate::protocol::resp::decimal;

/// Bytes of a text: a table that stands in another many times is as many in the text.
const LONGEST: usize = 32 << 20;

/// Appends the text of a value.
pub(super) fn value(settings: Settings, value: &Value, out: &mut Vec<u8>) -> mlua::Result<()> {
    Encoder(settings).value(value, 0, out)
}

/// Writes values.
struct Encoder(Settings);

impl Encoder {
    fn value(&self, value: &Value, depth: i64, out: &mut Vec<u8>) -> mlua::Result<()> {
        if out.len() > LONGEST {
            return refused(&format!("Cannot serialise, more than {LONGEST} bytes"));
        }
        match value {
            Value::Nil => out.extend_from_slice(b"null"),
            Value::LightUserData(pointer) if pointer.0.is_null() => out.extend_from_slice(b"null"),
            Value::Boolean(true) => out.extend_from_slice(b"true"),
            Value::Boolean(false) => out.extend_from_slice(b"false"),
            Value::Integer(whole) => self.number(*whole as f64, out)?,
            Value::Number(number) => self.number(*number, out)?,
            Value::String(text) => encode_text(&text.as_bytes(), out),
            Value::Table(table) => self.table(table, depth + 1, out)?,
            Value::LightUserData(_) => return refused("Cannot serialise userdata: type not supported"),
            other => return refused(&format!("Cannot serialise {}: type not supported", other.type_name())),
        }
        Ok(())
    }

    fn number(&self, value: f64, out: &mut Vec<u8>) -> mlua::Result<()> {
        let text = match INVALID[self.0.encode_invalid] {
            "off" if !value.is_finite() => return refused("Cannot serialise number: must not be NaN or Inf"),
            "null" if !value.is_finite() => "null".to_owned(),
            _ if value.is_nan() => "nan".to_owned(),
            _ => decimal(value, self.0.precision as usize),
        };
        out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// How many places a table has as a list; nothing: it is none.
    fn length(&self, table: &Table) -> mlua::Result<Option<i64>> {
        let (mut most, mut count) = (0, 0);
        for pair in table.pairs::<Value, Value>() {
            match pair?.0 {
                Value::Integer(place) if place > 0 => (most, count) = (most.max(place), count + 1),
                _ => return Ok(None),
            }
        }
        let Settings { sparse_ratio: ratio, sparse_safe: safe, sparse_convert, .. } = self.0;
        if ratio > 0 && most > i64::saturating_mul(count, ratio) && most > safe {
            return match sparse_convert {
                true => Ok(None),
                false => refused("Cannot serialise table: excessively sparse array"),
            };
        }
        Ok(Some(most).filter(|most| *most > 0))
    }

    fn table(&self, table: &Table, depth: i64, out: &mut Vec<u8>) -> mlua::Result<()> {
        if depth > self.0.encode_depth.min(DEEPEST) {
            return refused(&format!("Cannot serialise, excessive nesting ({depth})"));
        }
        if let Some(length) = self.length(table)? {
            out.push(b'[');
            for place in 1..=length {
                if place > 1 {
                    out.push(b',');
                }
                self.value(&table.raw_get(place)?, depth, out)?;
            }
            out.push(b']');
            return Ok(());
        }
        out.push(b'{');
        let mut first = true;
        for pair in table.pairs::<Value, Value>() {
            let (name, value) = pair?;
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            match &name {
                Value::String(text) => encode_text(&text.as_bytes(), out),
                Value::Integer(_) | Value::Number(_) => {
                    out.push(b'"');
                    self.value(&name, depth, out)?;
                    out.push(b'"');
                }
                Value::LightUserData(_) => {
                    return refused("Cannot serialise userdata: table key must be a number or string");
                }
                other => {
                    let kind = other.type_name();
                    return refused(&format!("Cannot serialise {kind}: table key must be a number or string"));
                }
            }
            out.push(b':');
            self.value(&value, depth, out)?;
        }
        out.push(b'}');
        Ok(())
    }
}

fn encode_text(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for &byte in text {
        match byte {
            b'"' | b'\\' | b'/' => out.extend_from_slice(&[b'\\', byte]),
            8 => out.extend_from_slice(b"\\b"),
            9 => out.extend_from_slice(b"\\t"),
            10 => out.extend_from_slice(b"\\n"),
            12 => out.extend_from_slice(b"\\f"),
            13 => out.extend_from_slice(b"\\r"),
            0..=31 | 127 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}
