//! JSON for scripts, with the names and rules of the cjson library that Redis gives them
//! (<https://www.kyne.com.au/~mark/software/lua-cjson-manual.html>): an empty table is an object, numbers have 14 digits,
//! a list with many holes is refused, and `cjson.null` stands for null.

use mlua::{Lua, MultiValue, Table, Value};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::protocol::resp::decimal;

/// Tables within tables; deeper ones are refused.
const DEEPEST: usize = 1000;

/// Bytes of a text: a table that stands in another many times is as many in the text.
const LONGEST: usize = 32 << 20;

/// A list may have so many places, or else half of them are to be taken.
const SAFE_LENGTH: i64 = 10;

/// The library.
pub(super) fn table(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.set("null", Value::NULL)?;
    // Which memory is kept is nothing that a script sees.
    table.set("encode_keep_buffer", lua.create_function(|_, keeps: Option<bool>| Ok(keeps.unwrap_or(true)))?)?;
    table.set(
        "encode",
        lua.create_function(|lua, values: MultiValue| {
            let mut out = Vec::new();
            encode(only("encode", &values)?, 0, &mut out)?;
            lua.create_string(out)
        })?,
    )?;
    table.set(
        "decode",
        lua.create_function(|lua, values: MultiValue| {
            let value = only("decode", &values)?;
            let Some(text) = lua.coerce_string(value.clone())? else {
                return refused(&format!("bad argument #1 to 'decode' (string expected, got {})", value.type_name()));
            };
            decode(lua, &text.as_bytes())
        })?,
    )?;
    Ok(table)
}

/// The one value that a function wants.
fn only<'a>(name: &str, values: &'a MultiValue) -> mlua::Result<&'a Value> {
    match values.front() {
        Some(value) if values.len() == 1 => Ok(value),
        _ => refused(&format!("bad argument #1 to '{name}' (expected 1 argument)")),
    }
}

fn refused<T>(why: &str) -> mlua::Result<T> {
    Err(mlua::Error::runtime(why))
}

fn encode(value: &Value, depth: usize, out: &mut Vec<u8>) -> mlua::Result<()> {
    if out.len() > LONGEST {
        return refused(&format!("Cannot serialise, more than {LONGEST} bytes"));
    }
    match value {
        Value::Nil => out.extend_from_slice(b"null"),
        Value::LightUserData(pointer) if pointer.0.is_null() => out.extend_from_slice(b"null"),
        Value::Boolean(true) => out.extend_from_slice(b"true"),
        Value::Boolean(false) => out.extend_from_slice(b"false"),
        Value::Integer(whole) => encode_number(*whole as f64, out)?,
        Value::Number(number) => encode_number(*number, out)?,
        Value::String(text) => encode_text(&text.as_bytes(), out),
        Value::Table(table) => encode_table(table, depth + 1, out)?,
        other => return refused(&format!("Cannot serialise {}: type not supported", other.type_name())),
    }
    Ok(())
}

fn encode_number(value: f64, out: &mut Vec<u8>) -> mlua::Result<()> {
    if !value.is_finite() {
        return refused("Cannot serialise number: must not be NaN or Inf");
    }
    out.extend_from_slice(decimal(value, 14).as_bytes());
    Ok(())
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

/// How many places a table has as a list; nothing: it is none.
fn length(table: &Table) -> mlua::Result<Option<i64>> {
    let (mut most, mut count) = (0, 0);
    for pair in table.pairs::<Value, Value>() {
        match pair?.0 {
            Value::Integer(place) if place > 0 => (most, count) = (most.max(place), count + 1),
            _ => return Ok(None),
        }
    }
    if most > count * 2 && most > SAFE_LENGTH {
        return refused("Cannot serialise table: excessively sparse array");
    }
    Ok(Some(most).filter(|most| *most > 0))
}

fn encode_table(table: &Table, depth: usize, out: &mut Vec<u8>) -> mlua::Result<()> {
    if depth > DEEPEST {
        return refused(&format!("Cannot serialise, excessive depth ({depth})"));
    }
    if let Some(length) = length(table)? {
        out.push(b'[');
        for place in 1..=length {
            if place > 1 {
                out.push(b',');
            }
            encode(&table.raw_get(place)?, depth, out)?;
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
            Value::Integer(whole) => encode_text(decimal(*whole as f64, 14).as_bytes(), out),
            Value::Number(key) => encode_text(decimal(*key, 14).as_bytes(), out),
            _ => return refused("Cannot serialise table: table key must be a number or string"),
        }
        out.push(b':');
        encode(&value, depth, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn decode(lua: &Lua, text: &[u8]) -> mlua::Result<Value> {
    let mut from = serde_json::Deserializer::from_slice(text);
    let value = Into(lua).deserialize(&mut from).and_then(|value| from.end().map(|()| value));
    value.map_err(|why| mlua::Error::runtime(format!("this is no JSON: {why}")))
}

/// Makes a value of Lua of what is read.
#[derive(Clone, Copy)]
struct Into<'a>(&'a Lua);

impl<'de> DeserializeSeed<'de> for Into<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Into<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::NULL)
    }

    fn visit_bool<E>(self, is: bool) -> Result<Value, E> {
        Ok(Value::Boolean(is))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        self.0.create_string(text).map(Value::String).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let table = self.0.create_table().map_err(A::Error::custom)?;
        let mut place = 0;
        while let Some(value) = from.next_element_seed(self)? {
            place += 1;
            table.raw_set(place, value).map_err(A::Error::custom)?;
        }
        Ok(Value::Table(table))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let table = self.0.create_table().map_err(A::Error::custom)?;
        while let Some(name) = from.next_key::<String>()? {
            let value = from.next_value_seed(self)?;
            table.raw_set(name, value).map_err(A::Error::custom)?;
        }
        Ok(Value::Table(table))
    }
}
