//! Replies as Lua values and Lua values as replies, as Redis 7 converts them
//! (<https://redis.io/docs/latest/develop/programmability/lua-api/#data-type-conversion>).

use std::cell::Cell;

use mlua::{Lua, Table, Value as LuaValue};

use crate::leader::gateway::multi::MOST_REPLY_BYTES;
use crate::protocol::resp::{Value, decimal};

/// Tables within tables of a script's value; deeper ones are cut off with an error (Redis: what Lua's stack takes).
const DEEPEST: usize = 128;

/// A reply as a script sees it, in this version of the protocol.
pub(super) fn to_lua(lua: &Lua, value: Value, version: u8) -> mlua::Result<LuaValue> {
    let new = version == 3;
    let string = |text: &[u8]| lua.create_string(text).map(LuaValue::String);
    let named = |name: &str, value: LuaValue| lua.create_table_from([(name, value)]).map(LuaValue::Table);
    match value {
        Value::Simple(text) => named("ok", string(text.as_bytes())?),
        Value::Status(text) => named("ok", string(text.as_bytes())?),
        Value::Error(text) => named("err", string(text.as_bytes())?),
        // All numbers of Lua 5.1 are of 53 bits.
        Value::Integer(number) => Ok(LuaValue::Number(number as f64)),
        Value::Bulk(bytes) => string(&bytes),
        Value::Nil | Value::NilArray => Ok(if new { LuaValue::Nil } else { LuaValue::Boolean(false) }),
        Value::Text(text) if new => {
            let of = [("string", string(text.as_bytes())?), ("format", string(b"txt")?)];
            named("verbatim_string", LuaValue::Table(lua.create_table_from(of)?))
        }
        Value::Text(text) => string(text.as_bytes()),
        Value::Boolean(is) => Ok(LuaValue::Boolean(is)),
        Value::Double(text) if new => named("double", LuaValue::Number(text.parse().unwrap_or(f64::NAN))),
        Value::Double(text) => string(text.as_bytes()),
        Value::BigNumber(text) if new => named("big_number", string(text.as_bytes())?),
        Value::BigNumber(text) => string(text.as_bytes()),
        Value::Set(values) if new => {
            let set = lua.create_table()?;
            for value in values {
                set.raw_set(to_lua(lua, value, version)?, true)?;
            }
            named("set", LuaValue::Table(set))
        }
        Value::Map(pairs) if new => {
            let map = lua.create_table()?;
            for (name, value) in pairs {
                map.raw_set(to_lua(lua, name, version)?, to_lua(lua, value, version)?)?;
            }
            named("map", LuaValue::Table(map))
        }
        Value::Array(values) | Value::Set(values) | Value::Push(values) | Value::Replies(values) => {
            list(lua, values, version)
        }
        Value::Map(pairs) => list(lua, pairs.into_iter().flat_map(|(name, value)| [name, value]).collect(), version),
    }
}

fn list(lua: &Lua, values: Vec<Value>, version: u8) -> mlua::Result<LuaValue> {
    let table = lua.create_table_with_capacity(values.len(), 0)?;
    for (place, value) in values.into_iter().enumerate() {
        table.raw_set(place + 1, to_lua(lua, value, version)?)?;
    }
    Ok(LuaValue::Table(table))
}

/// The reply that the value of a script is, which wants replies of this version of the protocol.
pub(super) fn from_lua(value: &LuaValue, version: u8) -> mlua::Result<Value> {
    Maker { new: version == 3, left: Cell::new(MOST_REPLY_BYTES) }.value(value, 0)
}

/// A number as the C compilers of x86 convert it.
fn whole(number: f64) -> i64 {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if (-LIMIT..LIMIT).contains(&number) { number as i64 } else { i64::MIN }
}

/// Makes replies.
struct Maker {
    /// Those of version 3 have booleans.
    new: bool,
    /// Bytes that the reply may still take: tables that stand in it many times are as many in the reply.
    left: Cell<usize>,
}

impl Maker {
    fn take(&self, bytes: usize) -> mlua::Result<()> {
        let too_long = || mlua::Error::runtime(format!("its reply takes more than {MOST_REPLY_BYTES} bytes"));
        self.left.set(self.left.get().checked_sub(bytes).ok_or_else(too_long)?);
        Ok(())
    }

    /// The text that a value is, if it is one.
    fn text(&self, value: &LuaValue) -> mlua::Result<Option<String>> {
        let Some(text) = value.as_string() else { return Ok(None) };
        self.take(text.as_bytes().len())?;
        Ok(Some(text.to_string_lossy()))
    }

    fn value(&self, value: &LuaValue, depth: usize) -> mlua::Result<Value> {
        self.take(size_of::<Value>())?;
        if depth > DEEPEST {
            return Ok(Value::Error("ERR reached lua stack limit".to_owned()));
        }
        Ok(match value {
            LuaValue::Integer(number) => Value::Integer(*number),
            LuaValue::Number(number) => Value::Integer(whole(*number)),
            LuaValue::String(text) => {
                self.take(text.as_bytes().len())?;
                Value::Bulk(bytes::Bytes::copy_from_slice(&text.as_bytes()))
            }
            LuaValue::Boolean(is) if self.new => Value::Boolean(*is),
            LuaValue::Boolean(true) => Value::Integer(1),
            LuaValue::Table(table) => self.of_table(table, depth)?,
            _ => Value::Nil,
        })
    }

    fn of_table(&self, table: &Table, depth: usize) -> mlua::Result<Value> {
        let field = |name: &str| table.raw_get::<LuaValue>(name);
        if let Some(why) = self.text(&field("err")?)? {
            return Ok(Value::Error(one_line(&why)));
        }
        if let Some(status) = self.text(&field("ok")?)? {
            return Ok(Value::Status(one_line(&status)));
        }
        match field("double")? {
            LuaValue::Integer(number) => return Ok(Value::Double(number.to_string())),
            LuaValue::Number(number) => return Ok(Value::Double(decimal(number, 17))),
            _ => {}
        }
        if let LuaValue::Table(pairs) = field("map")? {
            let mut map = Vec::new();
            for pair in pairs.pairs::<LuaValue, LuaValue>() {
                let (name, value) = pair?;
                map.push((self.value(&name, depth + 1)?, self.value(&value, depth + 1)?));
            }
            return Ok(Value::Map(map));
        }
        if let LuaValue::Table(set) = field("set")? {
            let names = set.pairs::<LuaValue, LuaValue>().map(|pair| self.value(&pair?.0, depth + 1));
            return Ok(Value::Set(names.collect::<mlua::Result<_>>()?));
        }
        if let Some(number) = self.text(&field("big_number")?)? {
            return Ok(Value::BigNumber(one_line(&number)));
        }
        if let LuaValue::Table(verbatim) = field("verbatim_string")?
            && let Some(text) = self.text(&verbatim.raw_get("string")?)?
        {
            return Ok(Value::Text(text));
        }
        let mut values = Vec::new();
        for place in 1.. {
            match table.raw_get::<LuaValue>(place)? {
                LuaValue::Nil => break,
                value => values.push(self.value(&value, depth + 1)?),
            }
        }
        Ok(Value::Array(values))
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}
