//! Operations on the 32 bits of numbers, as scripts for Redis have them (the names and rules of the BitOp library for
//! Lua 5.1, <https://bitop.luajit.org/api.html>).

use mlua::{Lua, MultiValue, Table, Value};

/// The 32 bits that a number stands for: it is taken modulo 2 to the power of 32.
fn bits(number: f64) -> u32 {
    const ALL: f64 = 4_294_967_296.0;
    number.round_ties_even().rem_euclid(ALL) as u32
}

/// Results are signed.
fn signed(bits: u32) -> i32 {
    bits.cast_signed()
}

/// The arguments of a function, as Lua's own libraries check them.
struct Arguments<'a>(&'a Lua, &'a str, MultiValue);

impl Arguments<'_> {
    /// The bits of the one at this place, counted from 0.
    fn bits(&self, place: usize) -> mlua::Result<u32> {
        Ok(bits(self.number(place)?))
    }

    fn number(&self, place: usize) -> mlua::Result<f64> {
        let Self(lua, name, values) = self;
        let value = values.get(place);
        let number = value.map(|value| lua.coerce_number(value.clone())).transpose()?.flatten();
        number.ok_or_else(|| {
            let got = value.map_or("no value", Value::type_name);
            let place = place + 1;
            mlua::Error::runtime(format!("bad argument #{place} to '{name}' (number expected, got {got})"))
        })
    }
}

/// The library.
pub(super) fn table(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let one = |name: &'static str, work: fn(u32) -> u32| {
        let run = move |lua: &Lua, args| Ok(signed(work(Arguments(lua, name, args).bits(0)?)));
        table.set(name, lua.create_function(run)?)
    };
    one("tobit", |number| number)?;
    one("bnot", |number| !number)?;
    one("bswap", u32::swap_bytes)?;
    let all = |name: &'static str, work: fn(u32, u32) -> u32| {
        let fold = move |lua: &Lua, args| {
            let args = Arguments(lua, name, args);
            let first = args.bits(0)?;
            (1..args.2.len()).try_fold(first, |all, place| Ok(work(all, args.bits(place)?))).map(signed)
        };
        table.set(name, lua.create_function(fold)?)
    };
    all("band", |a, b| a & b)?;
    all("bor", |a, b| a | b)?;
    all("bxor", |a, b| a ^ b)?;
    let by = |name: &'static str, work: fn(u32, u32) -> u32| {
        let shift = move |lua: &Lua, args| {
            let args = Arguments(lua, name, args);
            Ok(signed(work(args.bits(0)?, args.bits(1)? & 31)))
        };
        table.set(name, lua.create_function(shift)?)
    };
    by("lshift", |number, by| number << by)?;
    by("rshift", |number, by| number >> by)?;
    by("arshift", |number, by| (signed(number) >> by).cast_unsigned())?;
    by("rol", u32::rotate_left)?;
    by("ror", u32::rotate_right)?;
    let in_digits = |lua: &Lua, args| {
        let args = Arguments(lua, "tohex", args);
        let digits = if args.2.len() > 1 { Some(args.number(1)?) } else { None };
        Ok(hex(args.bits(0)?, digits))
    };
    table.set("tohex", lua.create_function(in_digits)?)?;
    Ok(table)
}

/// The last so many digits; in capitals, if their number is negative.
fn hex(bits: u32, digits: Option<f64>) -> String {
    let digits = digits.unwrap_or(8.0);
    let count = (digits.abs() as usize).min(8);
    let all = if digits < 0.0 { format!("{bits:08X}") } else { format!("{bits:08x}") };
    all[8 - count..].to_owned()
}
