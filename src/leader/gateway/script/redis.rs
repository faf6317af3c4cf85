//! The functions of the table `redis` that run no command: what they take and say is what Redis 7.0.15 does.

use std::rc::Rc;

use mlua::{Lua, MultiValue, Table, Value};

use super::Sha;
use super::interpreter::{Current, LONGEST_LOGGED, failure, words};
use crate::protocol::table;

/// How writes of a script may be replicated: bits for the log and for replicas.
const REPLICATION: i64 = 3;

/// The functions.
pub(super) fn table(lua: &Lua, current: &Rc<Current>) -> mlua::Result<Table> {
    let own = lua.create_table()?;
    own.set("error_reply", lua.create_function(|lua, args| reply(lua, &args, "err", error_text))?)?;
    own.set("status_reply", lua.create_function(|lua, args| reply(lua, &args, "ok", <[u8]>::to_vec))?)?;
    own.set(
        "sha1hex",
        lua.create_function(|lua, args: MultiValue| {
            let value = only(lua, &args, "wrong number of arguments")?;
            // What is no text counts as an empty one.
            let text = lua.coerce_string(value.clone())?;
            Ok(Sha::of(text.as_ref().map(|text| text.as_bytes()).as_deref().unwrap_or_default()).to_string())
        })?,
    )?;
    let logs = current.clone();
    own.set(
        "log",
        lua.create_function(move |lua, args: MultiValue| {
            if args.len() < 2 {
                return Err(refused(lua, "redis.log() requires two arguments or more."));
            }
            let Some(level) = lua.coerce_number(args[0].clone())? else {
                return Err(refused(lua, "First argument must be a number (log level)."));
            };
            if !(0..=3).contains(&(level as i64)) {
                return Err(refused(lua, "Invalid debug level."));
            }
            logs.log(level as i64, &line(lua, args.iter().skip(1))?);
            Ok(())
        })?,
    )?;
    let asks = current.clone();
    own.set(
        "setresp",
        lua.create_function(move |lua, args: MultiValue| {
            let value = only(lua, &args, "redis.setresp() requires one argument.")?;
            match lua.coerce_number(value.clone())?.map(|version| version as i64) {
                Some(version @ (2 | 3)) => asks.speak(version as u8),
                _ => return Err(refused(lua, "RESP version must be 2 or 3.")),
            }
            Ok(())
        })?,
    )?;
    // A script is one record of the log: how it is replicated is nothing to choose.
    own.set(
        "set_repl",
        lua.create_function(|lua, args: MultiValue| {
            let value = only(lua, &args, "redis.set_repl() requires two arguments.")?;
            let flags = lua.coerce_number(value.clone())?.unwrap_or_default() as i64;
            if flags & !REPLICATION != 0 {
                let why = "Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.";
                return Err(refused(lua, why));
            }
            Ok(())
        })?,
    )?;
    let asks = current.clone();
    own.set(
        "acl_check_cmd",
        lua.create_function(move |lua, args: MultiValue| {
            let words = words(&args).map_err(|why| failure(lua, why))?;
            let Some(spec) = table::find(&words[0]) else {
                return Err(refused(lua, "Invalid command passed to redis.acl_check_cmd()"));
            };
            Ok(asks.may(spec, &words))
        })?,
    )?;
    Ok(own)
}

fn refused(lua: &Lua, why: &str) -> mlua::Error {
    failure(lua, format!("ERR {why}"))
}

/// The one value that a function wants.
fn only<'a>(lua: &Lua, args: &'a MultiValue, why: &str) -> mlua::Result<&'a Value> {
    args.front().filter(|_| args.len() == 1).ok_or_else(|| refused(lua, why))
}

/// A table with one field; wrong arguments make it an error's, which is not raised.
fn reply(lua: &Lua, args: &MultiValue, field: &str, told: fn(&[u8]) -> Vec<u8>) -> mlua::Result<Table> {
    match args.front() {
        Some(Value::String(text)) if args.len() == 1 => {
            lua.create_table_from([(field, lua.create_string(told(&text.as_bytes()))?)])
        }
        _ => lua.create_table_from([("err", "ERR wrong number or type of arguments")]),
    }
}

/// An error begins with a class.
fn error_text(text: &[u8]) -> Vec<u8> {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    if text.contains(&b' ') { text.to_vec() } else { [b"ERR ", text].concat() }
}

/// The texts among these, as far as they are shown: together they may be longer than a script's memory.
fn line<'a>(lua: &Lua, args: impl Iterator<Item = &'a Value>) -> mlua::Result<Vec<u8>> {
    let mut line = Vec::new();
    for (place, value) in args.enumerate() {
        let Some(text) = lua.coerce_string(value.clone())? else { continue };
        if place > 0 {
            line.push(b' ');
        }
        // One byte more than is shown tells that there were more.
        line.extend(text.as_bytes().iter().take((LONGEST_LOGGED + 1).saturating_sub(line.len())));
    }
    line.truncate(LONGEST_LOGGED + 1);
    Ok(line)
}
