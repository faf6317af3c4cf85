//! JSON for scripts, as the cjson 2.1 of Redis 7.0 reads and writes it, with its settings and texts of errors
//! (<https://www.kyne.com.au/~mark/software/lua-cjson-manual.html>): an empty table is an object, a list with many holes is
//! refused, `cjson.null` stands for null, and `01`, `0x10`, `NaN` and `inf` are read as numbers.

mod decode;
mod encode;

use std::cell::Cell;
use std::rc::Rc;

use mlua::{Lua, MultiValue, Table, Value};

/// Tables within tables, whatever a script sets: there is a stack below (Redis: what Lua's stack takes, some 2,600).
const DEEPEST: i64 = 2000;

/// What a script can set. It holds until its end: in Redis other scripts find it so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// A list with many holes becomes an object.
    sparse_convert: bool,
    /// It has many, if so many times the places that are taken are fewer than all; 0: any number is allowed.
    sparse_ratio: i64,
    /// It may have so many places, whatever is taken.
    sparse_safe: i64,
    encode_depth: i64,
    decode_depth: i64,
    /// What becomes of NaN and infinite numbers.
    encode_invalid: usize,
    decode_invalid: bool,
    /// Digits of a number.
    precision: i64,
    /// Which memory is kept is nothing that a script sees.
    keep_buffer: bool,
}

/// Those of `encode_invalid_numbers`.
const INVALID: [&str; 3] = ["off", "on", "null"];

impl Default for Settings {
    fn default() -> Self {
        Self {
            sparse_convert: false,
            sparse_ratio: 2,
            sparse_safe: 10,
            encode_depth: 1000,
            decode_depth: 1000,
            encode_invalid: 0,
            decode_invalid: true,
            precision: 14,
            keep_buffer: true,
        }
    }
}

/// The settings of the library that all scripts of an interpreter see.
pub(super) type Shared = Rc<Cell<Settings>>;

/// The library.
pub(super) fn table(lua: &Lua, settings: &Shared) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.set("_NAME", "cjson")?;
    table.set("_VERSION", "2.1.0")?;
    table.set("null", Value::NULL)?;
    table.set("new", lua.create_function(|lua, ()| self::table(lua, &Shared::default()))?)?;
    let own = settings.clone();
    let encode = move |lua: &Lua, values: MultiValue| {
        let mut out = Vec::new();
        encode::value(own.get(), only("encode", &values)?, &mut out)?;
        lua.create_string(out)
    };
    table.set("encode", lua.create_function(encode)?)?;
    let own = settings.clone();
    let decode = move |lua: &Lua, values: MultiValue| {
        let value = only("decode", &values)?;
        let Some(text) = lua.coerce_string(value.clone())? else {
            return refused(&format!("bad argument #1 to 'decode' (string expected, got {})", value.type_name()));
        };
        decode::text(lua, &text.as_bytes(), own.get())
    };
    table.set("decode", lua.create_function(decode)?)?;
    set_settings(lua, &table, settings)?;
    Ok(table)
}

/// The functions that give settings, and change them where they are told to.
fn set_settings(lua: &Lua, table: &Table, settings: &Shared) -> mlua::Result<()> {
    type Change = fn(&Options<'_>, &mut Settings) -> mlua::Result<Vec<Value>>;
    let all: [(&'static str, usize, Change); 7] = [
        ("encode_max_depth", 1, |options, all| Ok(vec![options.whole(0, &mut all.encode_depth, 1, MOST)?])),
        ("decode_max_depth", 1, |options, all| Ok(vec![options.whole(0, &mut all.decode_depth, 1, MOST)?])),
        ("encode_number_precision", 1, |options, all| Ok(vec![options.whole(0, &mut all.precision, 1, 14)?])),
        ("encode_keep_buffer", 1, |options, all| Ok(vec![options.switch(0, &mut all.keep_buffer)?])),
        ("decode_invalid_numbers", 1, |options, all| Ok(vec![options.switch(0, &mut all.decode_invalid)?])),
        ("encode_invalid_numbers", 1, |options, all| {
            if let Some(chosen) = options.choice(0, &INVALID)? {
                all.encode_invalid = chosen;
            }
            options.shown(&INVALID, all.encode_invalid).map(|value| vec![value])
        }),
        ("encode_sparse_array", 3, |options, all| {
            let convert = options.switch(0, &mut all.sparse_convert)?;
            let ratio = options.whole(1, &mut all.sparse_ratio, 0, MOST)?;
            Ok(vec![convert, ratio, options.whole(2, &mut all.sparse_safe, 0, MOST)?])
        }),
    ];
    for (name, most, change) in all {
        let own = settings.clone();
        let run = move |lua: &Lua, values: MultiValue| {
            let options = Options { lua, name, values: &values };
            if values.len() > most {
                return options.wrong(most, "found too many arguments");
            }
            let mut changed = own.get();
            let told = change(&options, &mut changed);
            own.set(changed);
            Ok(MultiValue::from_iter(told?))
        };
        table.set(name, lua.create_function(run)?)?;
    }
    Ok(())
}

const MOST: i64 = i32::MAX as i64;

/// What a script gives to a function of settings; nil changes nothing.
struct Options<'a> {
    lua: &'a Lua,
    name: &'static str,
    values: &'a MultiValue,
}

impl Options<'_> {
    fn get(&self, place: usize) -> Option<&Value> {
        self.values.get(place).filter(|value| !value.is_nil())
    }

    fn wrong<T>(&self, place: usize, why: &str) -> mlua::Result<T> {
        refused(&format!("bad argument #{} to '{}' ({why})", place + 1, self.name))
    }

    fn whole(&self, place: usize, setting: &mut i64, least: i64, most: i64) -> mlua::Result<Value> {
        if let Some(value) = self.get(place) {
            let Some(number) = self.lua.coerce_number(value.clone())? else {
                return self.wrong(place, &format!("number expected, got {}", value.type_name()));
            };
            let number = number as i64;
            if !(least..=most).contains(&number) {
                // Redis names the first one, whichever it is.
                return self.wrong(0, &format!("expected integer between {least} and {most}"));
            }
            *setting = number;
        }
        Ok(Value::Integer(*setting))
    }

    fn switch(&self, place: usize, setting: &mut bool) -> mlua::Result<Value> {
        if let Some(chosen) = self.choice(place, &INVALID[..2])? {
            *setting = chosen == 1;
        }
        Ok(Value::Boolean(*setting))
    }

    fn choice(&self, place: usize, options: &[&str]) -> mlua::Result<Option<usize>> {
        let Some(value) = self.get(place) else { return Ok(None) };
        if let Value::Boolean(on) = value {
            return Ok(Some(usize::from(*on)));
        }
        let Some(text) = self.lua.coerce_string(value.clone())? else {
            return self.wrong(place, &format!("string expected, got {}", value.type_name()));
        };
        match options.iter().position(|option| text.as_bytes() == option.as_bytes()) {
            None => self.wrong(place, &format!("invalid option '{}'", text.to_string_lossy())),
            chosen => Ok(chosen),
        }
    }

    /// The first two are said as no and yes.
    fn shown(&self, options: &[&str], chosen: usize) -> mlua::Result<Value> {
        match chosen {
            0 | 1 => Ok(Value::Boolean(chosen == 1)),
            _ => self.lua.create_string(options[chosen]).map(Value::String),
        }
    }
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
