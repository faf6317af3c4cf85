//! Reading.

use mlua::{Lua, Table, Value};

use super::{DEEPEST, Settings, refused};

/// The value of a text.
pub(super) fn text(lua: &Lua, text: &[u8], settings: Settings) -> mlua::Result<Value> {
    Parser { lua, text, at: 0, depth: 0, settings }.whole()
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
