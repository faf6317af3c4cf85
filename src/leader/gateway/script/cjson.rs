//! JSON for scripts, as the cjson 2.1 of Redis 7.0 reads and writes it, with its settings and texts of errors
//! (<https://www.kyne.com.au/~mark/software/lua-cjson-manual.html>): an empty table is an object, a list with many holes is
//! refused, `cjson.null` stands for null, and `01`, `0x10`, `NaN` and `inf` are read as numbers.

use std::cell::Cell;
use std::rc::Rc;

use mlua::{Lua, MultiValue, Table, Value};

use crate::protocol::resp::decimal;

/// Tables within tables, whatever a script sets: there is a stack below (Redis: what Lua's stack takes, some 2,600).
const DEEPEST: i64 = 2000;

/// Bytes of a text: a table that stands in another many times is as many in the text.
const LONGEST: usize = 32 << 20;

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
        Encoder(own.get()).value(only("encode", &values)?, 0, &mut out)?;
        lua.create_string(out)
    };
    table.set("encode", lua.create_function(encode)?)?;
    let own = settings.clone();
    let decode = move |lua: &Lua, values: MultiValue| {
        let value = only("decode", &values)?;
        let Some(text) = lua.coerce_string(value.clone())? else {
            return refused(&format!("bad argument #1 to 'decode' (string expected, got {})", value.type_name()));
        };
        Parser { lua, text: &text.as_bytes(), at: 0, depth: 0, settings: own.get() }.whole()
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

/// A part of a text.
enum Token {
    Object,
    ObjectEnd,
    List,
    ListEnd,
    Colon,
    Comma,
    Text(Vec<u8>),
    Number(f64),
    Boolean(bool),
    Null,
    End,
    /// What is wrong there.
    Wrong(&'static str),
}

impl Token {
    /// As errors name it.
    fn name(&self) -> &'static str {
        match self {
            Self::Object => "T_OBJ_BEGIN",
            Self::ObjectEnd => "T_OBJ_END",
            Self::List => "T_ARR_BEGIN",
            Self::ListEnd => "T_ARR_END",
            Self::Colon => "T_COLON",
            Self::Comma => "T_COMMA",
            Self::Text(_) => "T_STRING",
            Self::Number(_) => "T_NUMBER",
            Self::Boolean(_) => "T_BOOLEAN",
            Self::Null => "T_NULL",
            Self::End => "T_END",
            Self::Wrong(why) => why,
        }
    }
}

/// Makes values of Lua of a text. A zero byte is its end.
struct Parser<'a> {
    lua: &'a Lua,
    text: &'a [u8],
    at: usize,
    depth: i64,
    settings: Settings,
}

impl Parser<'_> {
    fn whole(mut self) -> mlua::Result<Value> {
        if self.text.len() >= 2 && self.text[..2].contains(&0) {
            return refused("JSON parser does not support UTF-16 or UTF-32");
        }
        let first = self.next();
        let value = self.value(first)?;
        match self.next() {
            (Token::End, _) => Ok(value),
            other => unexpected("the end", &other),
        }
    }

    /// The byte so far ahead; 0 behind the text.
    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    /// The next part, and where it is, or where it is wrong.
    fn next(&mut self) -> (Token, usize) {
        while matches!(self.peek(0), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        let begin = self.at;
        let rest = self.text.get(begin..).unwrap_or_default();
        let byte = self.peek(0);
        let (token, length) = match byte {
            0 => (Token::End, 0),
            b'{' => (Token::Object, 1),
            b'}' => (Token::ObjectEnd, 1),
            b'[' => (Token::List, 1),
            b']' => (Token::ListEnd, 1),
            b':' => (Token::Colon, 1),
            b',' => (Token::Comma, 1),
            b'"' => {
                let token = self.text().map_or_else(Token::Wrong, Token::Text);
                let at = if matches!(token, Token::Wrong(_)) { self.at } else { begin };
                return (token, at);
            }
            b'-' | b'0'..=b'9' if !self.settings.decode_invalid && is_invalid(rest) => (Token::Wrong(NO_NUMBER), 0),
            b'-' | b'0'..=b'9' => number(rest),
            _ if rest.starts_with(b"true") => (Token::Boolean(true), 4),
            _ if rest.starts_with(b"false") => (Token::Boolean(false), 5),
            _ if rest.starts_with(b"null") => (Token::Null, 4),
            b'+' | b'i' | b'I' | b'n' | b'N' if self.settings.decode_invalid && is_invalid(rest) => number(rest),
            _ => (Token::Wrong("invalid token"), 0),
        };
        self.at += length;
        (token, begin)
    }

    /// A text in quotes.
    fn text(&mut self) -> Result<Vec<u8>, &'static str> {
        let mut text = Vec::new();
        self.at += 1;
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'"', _) => break,
                (0, _) => return Err("unexpected end of string"),
                (b'\\', b'u') => {
                    let Some((letter, length)) = escaped(&self.text[self.at..]) else {
                        return Err("invalid unicode escape code");
                    };
                    text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                    self.at += length;
                }
                (b'\\', escape) => {
                    text.push(match escape {
                        b'"' | b'\\' | b'/' => escape,
                        b'b' => 8,
                        b't' => b'\t',
                        b'n' => b'\n',
                        b'f' => 12,
                        b'r' => b'\r',
                        _ => return Err("invalid escape code"),
                    });
                    self.at += 2;
                }
                (byte, _) => {
                    text.push(byte);
                    self.at += 1;
                }
            }
        }
        self.at += 1;
        Ok(text)
    }

    fn value(&mut self, token: (Token, usize)) -> mlua::Result<Value> {
        Ok(match token {
            (Token::Text(text), _) => Value::String(self.lua.create_string(text)?),
            (Token::Number(number), _) => Value::Number(number),
            (Token::Boolean(is), _) => Value::Boolean(is),
            (Token::Null, _) => Value::NULL,
            (Token::Object, _) => self.object()?,
            (Token::List, _) => self.list()?,
            other => return unexpected("value", &other),
        })
    }

    /// Goes into a table.
    fn descend(&mut self) -> mlua::Result<Table> {
        self.depth += 1;
        if self.depth > self.settings.decode_depth.min(DEEPEST) {
            let (depth, at) = (self.depth, self.at);
            return refused(&format!("Found too many nested data structures ({depth}) at character {at}"));
        }
        self.lua.create_table()
    }

    fn object(&mut self) -> mlua::Result<Value> {
        let table = self.descend()?;
        let mut token = self.next();
        if !matches!(token.0, Token::ObjectEnd) {
            loop {
                let (Token::Text(name), _) = token else { return unexpected("object key string", &token) };
                match self.next() {
                    (Token::Colon, _) => {}
                    other => return unexpected("colon", &other),
                }
                token = self.next();
                table.raw_set(self.lua.create_string(name)?, self.value(token)?)?;
                match self.next() {
                    (Token::ObjectEnd, _) => break,
                    (Token::Comma, _) => token = self.next(),
                    other => return unexpected("comma or object end", &other),
                }
            }
        }
        self.depth -= 1;
        Ok(Value::Table(table))
    }

    fn list(&mut self) -> mlua::Result<Value> {
        let table = self.descend()?;
        let mut token = self.next();
        if !matches!(token.0, Token::ListEnd) {
            for place in 1.. {
                table.raw_set(place, self.value(token)?)?;
                match self.next() {
                    (Token::ListEnd, _) => break,
                    (Token::Comma, _) => token = self.next(),
                    other => return unexpected("comma or array end", &other),
                }
            }
        }
        self.depth -= 1;
        Ok(Value::Table(table))
    }
}

fn unexpected<T>(wanted: &str, (found, at): &(Token, usize)) -> mlua::Result<T> {
    refused(&format!("Expected {wanted} but found {} at character {}", found.name(), at + 1))
}

/// The letter that `\uXXXX` stands for, or two of them, and how many bytes that takes.
fn escaped(text: &[u8]) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
        digits.iter().try_fold(0, |all, digit| Some(all << 4 | char::from(*digit).to_digit(16)?))
    };
    let first = unit(0)?;
    match first {
        0xd800..=0xdbff => {
            let second = unit(6).filter(|second| (0xdc00..=0xdfff).contains(second))?;
            Some((char::from_u32(0x10000 + ((first & 0x3ff) << 10 | second & 0x3ff))?, 12))
        }
        _ => Some((char::from_u32(first)?, 6)),
    }
}

const NO_NUMBER: &str = "invalid number";

/// Whether a text begins with what JSON has no numbers for, and C does.
fn is_invalid(text: &[u8]) -> bool {
    if text.starts_with(b"+") {
        return true;
    }
    match text.strip_prefix(b"-").unwrap_or(text) {
        [b'0', next, ..] => next.eq_ignore_ascii_case(&b'x') || next.is_ascii_digit(),
        text => begins(text, b"inf") || begins(text, b"nan"),
    }
}

fn begins(text: &[u8], word: &[u8]) -> bool {
    text.get(..word.len()).is_some_and(|text| text.eq_ignore_ascii_case(word))
}

/// The number at the beginning of a text as strtod(3) reads it, and its length.
fn number(text: &[u8]) -> (Token, usize) {
    let unsigned = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
    let sign = text.len() - unsigned.len();
    let found = if begins(unsigned, b"infinity") {
        Some((f64::INFINITY, 8))
    } else if begins(unsigned, b"inf") {
        Some((f64::INFINITY, 3))
    } else if begins(unsigned, b"nan") {
        Some((f64::NAN, 3))
    } else {
        hexadecimal(unsigned).or_else(|| plain(unsigned))
    };
    match found {
        Some((number, length)) => (Token::Number(if text.starts_with(b"-") { -number } else { number }), sign + length),
        None => (Token::Wrong(NO_NUMBER), 0),
    }
}

/// How many of the bytes at the beginning are such.
fn count(text: &[u8], is: impl Fn(&u8) -> bool) -> usize {
    text.iter().take_while(|byte| is(byte)).count()
}

/// Where the digits of a number end that may have a point; nothing: there are none.
fn digits(text: &[u8], is: fn(&u8) -> bool) -> Option<usize> {
    let whole = count(text, is);
    let behind = text[whole..].strip_prefix(b".").map(|rest| count(rest, is));
    (whole + behind.unwrap_or(0) > 0).then_some(whole + behind.map_or(0, |digits| digits + 1))
}

/// An exponent at the beginning of a text, behind its letter, and its length with that.
fn exponent(text: &[u8], letter: u8) -> Option<(i32, usize)> {
    let (_, rest) = text.split_first().filter(|(first, _)| first.eq_ignore_ascii_case(&letter))?;
    let sign = usize::from(matches!(rest.first(), Some(b'-' | b'+')));
    let digits = count(&rest[sign..], u8::is_ascii_digit);
    let value = std::str::from_utf8(&rest[sign..sign + digits]).ok().filter(|digits| !digits.is_empty())?;
    let value = value.parse::<i32>().unwrap_or(i32::MAX);
    Some((if rest[0] == b'-' { -value } else { value }, 1 + sign + digits))
}

fn plain(text: &[u8]) -> Option<(f64, usize)> {
    let end = digits(text, u8::is_ascii_digit)?;
    let length = end + exponent(&text[end..], b'e').map_or(0, |(_, length)| length);
    Some((std::str::from_utf8(&text[..length]).ok()?.parse().ok()?, length))
}

/// Of more than 53 bits the last digit may be rounded otherwise than by C.
fn hexadecimal(text: &[u8]) -> Option<(f64, usize)> {
    let rest = text.strip_prefix(b"0x").or_else(|| text.strip_prefix(b"0X"))?;
    let end = digits(rest, u8::is_ascii_hexdigit)?;
    let (mut value, mut scale, mut behind) = (0.0, 1.0, false);
    for byte in &rest[..end] {
        match char::from(*byte).to_digit(16) {
            Some(digit) if behind => {
                scale /= 16.0;
                value += f64::from(digit) * scale;
            }
            Some(digit) => value = value * 16.0 + f64::from(digit),
            None => behind = true,
        }
    }
    let (power, length) = exponent(&rest[end..], b'p').unwrap_or((0, 0));
    Some((value * 2.0_f64.powi(power), 2 + end + length))
}
