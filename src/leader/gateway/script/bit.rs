//! Operations on the 32 bits of numbers, as scripts for Redis have them (the names and rules of the BitOp library for
//! Lua 5.1, <https://bitop.luajit.org/api.html>).

use mlua::{Lua, Table, Variadic};

/// The 32 bits that a number stands for: it is taken modulo 2 to the power of 32.
fn bits(number: f64) -> u32 {
    const ALL: f64 = 4_294_967_296.0;
    number.round_ties_even().rem_euclid(ALL) as u32
}

/// Results are signed.
fn signed(bits: u32) -> i32 {
    bits.cast_signed()
}

/// The library.
pub(super) fn table(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let one = |name: &str, work: fn(u32) -> u32| {
        table.set(name, lua.create_function(move |_, number: f64| Ok(signed(work(bits(number)))))?)
    };
    one("tobit", |number| number)?;
    one("bnot", |number| !number)?;
    one("bswap", u32::swap_bytes)?;
    let all = |name: &str, work: fn(u32, u32) -> u32| {
        let fold = move |_: &Lua, (first, rest): (f64, Variadic<f64>)| {
            Ok(signed(rest.iter().fold(bits(first), |all, number| work(all, bits(*number)))))
        };
        table.set(name, lua.create_function(fold)?)
    };
    all("band", |a, b| a & b)?;
    all("bor", |a, b| a | b)?;
    all("bxor", |a, b| a ^ b)?;
    let by = |name: &str, work: fn(u32, u32) -> u32| {
        let shift = move |_: &Lua, (number, by): (f64, f64)| Ok(signed(work(bits(number), bits(by) & 31)));
        table.set(name, lua.create_function(shift)?)
    };
    by("lshift", |number, by| number << by)?;
    by("rshift", |number, by| number >> by)?;
    by("arshift", |number, by| (signed(number) >> by).cast_unsigned())?;
    by("rol", u32::rotate_left)?;
    by("ror", u32::rotate_right)?;
    table
        .set("tohex", lua.create_function(|_, (number, digits): (f64, Option<f64>)| Ok(hex(bits(number), digits)))?)?;
    Ok(table)
}

/// The last so many digits; in capitals, if their number is negative.
fn hex(bits: u32, digits: Option<f64>) -> String {
    let digits = digits.unwrap_or(8.0);
    let count = (digits.abs() as usize).min(8);
    let all = if digits < 0.0 { format!("{bits:08X}") } else { format!("{bits:08x}") };
    all[8 - count..].to_owned()
}
