//! MessagePack for scripts, with the names and rules of the cmsgpack library that Redis gives them: a table whose keys are
//! 1 to n is an array, any other one a map; numbers that are whole are integers; what has no form is nil, and so is a table
//! inside of sixteen others. The format: <https://github.com/msgpack/msgpack/blob/master/spec.md>, without its
//! extensions and `bin`.

use mlua::{Lua, MultiValue, Table, Value};
use rmp::{Marker, encode};

/// Tables within tables that are packed.
const DEEPEST_PACKED: usize = 16;

/// Tables within tables that are unpacked; deeper ones are refused (Redis: what Lua's stack takes).
const DEEPEST: usize = 1000;

/// Bytes of a text: a table that stands in another many times is as many in the text.
const LONGEST: usize = 32 << 20;

/// Values that one call gives at most: what Lua's stack takes.
const MOST_RESULTS: usize = 7900;

/// The library.
pub(super) fn table(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.set("_NAME", "cmsgpack")?;
    table.set("_VERSION", "lua-cmsgpack 0.4.0")?;
    table.set(
        "pack",
        lua.create_function(|lua, values: MultiValue| {
            if values.is_empty() {
                return refused("bad argument #0 to 'pack' (MessagePack pack needs input.)");
            }
            let mut out = Vec::new();
            values.iter().try_for_each(|value| pack(value, 0, &mut out))?;
            lua.create_string(out)
        })?,
    )?;
    let all = |lua: &Lua, args: MultiValue| unpack(lua, &Arguments(lua, "unpack", &args), 0, 0);
    table.set("unpack", lua.create_function(all)?)?;
    let one = |lua: &Lua, args: MultiValue| {
        let args = Arguments(lua, "unpack_one", &args);
        unpack(lua, &args, 1, args.whole(1)?.unwrap_or(0))
    };
    table.set("unpack_one", lua.create_function(one)?)?;
    let limit = |lua: &Lua, args: MultiValue| {
        let args = Arguments(lua, "unpack_limit", &args);
        let Some(most) = args.whole(1)? else { return args.wrong(1, "number") };
        unpack(lua, &args, most, args.whole(2)?.unwrap_or(0))
    };
    table.set("unpack_limit", lua.create_function(limit)?)?;
    Ok(table)
}

fn refused<T>(why: &str) -> mlua::Result<T> {
    Err(mlua::Error::runtime(why))
}

/// The arguments of a function, as Lua's own libraries check them.
struct Arguments<'a>(&'a Lua, &'static str, &'a MultiValue);

impl Arguments<'_> {
    /// The whole number at this place, counted from 0, if there is one.
    fn whole(&self, place: usize) -> mlua::Result<Option<i64>> {
        match self.2.get(place) {
            None | Some(Value::Nil) => Ok(None),
            Some(value) => match self.0.coerce_number(value.clone())? {
                Some(number) => Ok(Some(number as i64)),
                None => self.wrong(place, "number"),
            },
        }
    }

    fn text(&self) -> mlua::Result<mlua::LuaString> {
        let text = self.2.front().map(|value| self.0.coerce_string(value.clone())).transpose()?.flatten();
        text.map_or_else(|| self.wrong(0, "string"), Ok)
    }

    fn wrong<T>(&self, place: usize, wanted: &str) -> mlua::Result<T> {
        let got = self.2.get(place).map_or("no value", Value::type_name);
        refused(&format!("bad argument #{} to '{}' ({wanted} expected, got {got})", place + 1, self.1))
    }
}

/// Writing into a vector does not fail.
fn pack(value: &Value, depth: usize, out: &mut Vec<u8>) -> mlua::Result<()> {
    if out.len() > LONGEST {
        return refused(&format!("Cannot pack, more than {LONGEST} bytes"));
    }
    match value {
        Value::Boolean(is) => drop(encode::write_bool(out, *is)),
        Value::Integer(whole) => drop(encode::write_sint(out, *whole)),
        Value::Number(number) => pack_number(*number, out),
        Value::String(text) => {
            drop(encode::write_str_len(out, text.as_bytes().len() as u32));
            out.extend_from_slice(&text.as_bytes());
        }
        Value::Table(table) if depth < DEEPEST_PACKED => pack_table(table, depth + 1, out)?,
        _ => drop(encode::write_nil(out)),
    }
    Ok(())
}

/// The shortest form in which a number is what it was.
fn pack_number(number: f64, out: &mut Vec<u8>) {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    let single = number as f32;
    if number.trunc() == number && (-LIMIT..LIMIT).contains(&number) {
        drop(encode::write_sint(out, number as i64));
    } else if f64::from(single) == number {
        drop(encode::write_f32(out, single));
    } else {
        drop(encode::write_f64(out, number));
    }
}

fn pack_table(table: &Table, depth: usize, out: &mut Vec<u8>) -> mlua::Result<()> {
    let (mut most, mut count, mut is_list) = (0, 0, true);
    for pair in table.pairs::<Value, Value>() {
        count += 1;
        match pair?.0 {
            Value::Integer(place) if (1..=i64::from(i32::MAX)).contains(&place) => most = most.max(place),
            _ => is_list = false,
        }
    }
    if is_list && most == count {
        drop(encode::write_array_len(out, count as u32));
        return (1..=count).try_for_each(|place| pack(&table.raw_get(place)?, depth, out));
    }
    drop(encode::write_map_len(out, count as u32));
    for pair in table.pairs::<Value, Value>() {
        let (name, value) = pair?;
        pack(&name, depth, out)?;
        pack(&value, depth, out)?;
    }
    Ok(())
}

/// Up to `most` values from a place on, and where to go on; all of them, and nothing else, if both are 0.
fn unpack(lua: &Lua, args: &Arguments<'_>, most: i64, start: i64) -> mlua::Result<MultiValue> {
    let text = args.text()?;
    let text = text.as_bytes();
    let length = text.len();
    if start < 0 || most < 0 {
        // Redis gives the length for the limit, too.
        return refused(&format!("Invalid request to unpack with offset of {start} and limit of {length}."));
    }
    let Some(rest) = usize::try_from(start).ok().and_then(|start| text.get(start..)) else {
        return refused(&format!("Start offset {start} greater than input length {length}."));
    };
    let (mut reader, mut values) = (Reader { lua, rest }, MultiValue::new());
    let all = most == 0 && start == 0;
    while !reader.rest.is_empty() && (all || (values.len() as i64) < most) {
        if values.len() >= MOST_RESULTS {
            let why = "too many return values at once; use unpack_one or unpack_limit instead.";
            return refused(&format!("stack overflow ({why})"));
        }
        values.push_back(reader.value(0)?);
    }
    if !all {
        let next = if reader.rest.is_empty() { -1 } else { (length - reader.rest.len()) as i64 };
        values.push_front(Value::Integer(next));
    }
    Ok(values)
}

/// Makes values of Lua of what is read.
struct Reader<'a> {
    lua: &'a Lua,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> mlua::Result<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(bytes) else { return refused("Missing bytes in input.") };
        self.rest = rest;
        Ok(taken)
    }

    fn bytes<const N: usize>(&mut self) -> mlua::Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    /// A length of so many bytes.
    fn length<const N: usize>(&mut self) -> mlua::Result<usize> {
        Ok(self.bytes::<N>()?.iter().fold(0, |all, byte| all << 8 | usize::from(*byte)))
    }

    fn value(&mut self, depth: usize) -> mlua::Result<Value> {
        let number = |number: f64| Ok(Value::Number(number));
        match Marker::from_u8(self.bytes::<1>()?[0]) {
            Marker::Null => Ok(Value::Nil),
            Marker::True => Ok(Value::Boolean(true)),
            Marker::False => Ok(Value::Boolean(false)),
            Marker::FixPos(whole) => number(whole.into()),
            Marker::FixNeg(whole) => number(whole.into()),
            Marker::U8 => number(u8::from_be_bytes(self.bytes()?).into()),
            Marker::U16 => number(u16::from_be_bytes(self.bytes()?).into()),
            Marker::U32 => number(u32::from_be_bytes(self.bytes()?).into()),
            // Redis takes the largest ones for negative ones, too.
            Marker::U64 | Marker::I64 => number(i64::from_be_bytes(self.bytes()?) as f64),
            Marker::I8 => number(i8::from_be_bytes(self.bytes()?).into()),
            Marker::I16 => number(i16::from_be_bytes(self.bytes()?).into()),
            Marker::I32 => number(i32::from_be_bytes(self.bytes()?).into()),
            Marker::F32 => number(f32::from_be_bytes(self.bytes()?).into()),
            Marker::F64 => number(f64::from_be_bytes(self.bytes()?)),
            Marker::FixStr(length) => self.text(length.into()),
            Marker::Str8 => self.length::<1>().and_then(|length| self.text(length)),
            Marker::Str16 => self.length::<2>().and_then(|length| self.text(length)),
            Marker::Str32 => self.length::<4>().and_then(|length| self.text(length)),
            Marker::FixArray(length) => self.list(length.into(), depth),
            Marker::Array16 => self.length::<2>().and_then(|length| self.list(length, depth)),
            Marker::Array32 => self.length::<4>().and_then(|length| self.list(length, depth)),
            Marker::FixMap(length) => self.map(length.into(), depth),
            Marker::Map16 => self.length::<2>().and_then(|length| self.map(length, depth)),
            Marker::Map32 => self.length::<4>().and_then(|length| self.map(length, depth)),
            _ => refused("Bad data format in input."),
        }
    }

    fn text(&mut self, length: usize) -> mlua::Result<Value> {
        self.lua.create_string(self.take(length)?).map(Value::String)
    }

    /// A table that may stand inside of so many others.
    fn table(&self, depth: usize) -> mlua::Result<Table> {
        if depth >= DEEPEST {
            return refused("Too many nested tables in input.");
        }
        self.lua.create_table()
    }

    // The lengths that are told are not believed: a table grows by what comes.
    fn list(&mut self, length: usize, depth: usize) -> mlua::Result<Value> {
        let table = self.table(depth)?;
        for place in 1..=length {
            table.raw_set(place, self.value(depth + 1)?)?;
        }
        Ok(Value::Table(table))
    }

    fn map(&mut self, length: usize, depth: usize) -> mlua::Result<Value> {
        let table = self.table(depth)?;
        for _ in 0..length {
            match (self.value(depth + 1)?, self.value(depth + 1)?) {
                (Value::Nil, _) => return refused("table index is nil"),
                (Value::Number(number), _) if number.is_nan() => return refused("table index is NaN"),
                (name, value) => table.raw_set(name, value)?,
            }
        }
        Ok(Value::Table(table))
    }
}
