//! The Redis protocol, versions 2 and 3 (RESP2, RESP3): requests are arrays of byte strings, replies are values.
//!
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>. Lengths are checked before anything is kept for
//! them, and what is kept grows only with the bytes that came. The texts of faults are Redis's own, which clients know.

use std::fmt::Write as _;

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

/// The words of a request, the command's name first; there is at least one.
pub type Words = SmallVec<[Bytes; 4]>;

/// The longest line that tells a length, or is a request of its own.
const LONGEST_LINE: usize = 64 << 10;

/// The most words of one request.
const MOST_WORDS: i64 = 1 << 20;

/// Bytes that one request may have, besides what its longest word may have: 65,536 pairs of an id and a message find room.
const SPARE_BYTES: usize = 32 << 20;

/// The longest word that is read past when it is over the limit; a length above it is no length (as in Redis).
const LONGEST_PASSED: usize = 512 << 20;

/// What a word costs besides its bytes: its place in the list, and what an allocation takes.
pub const WORD_COST: usize = 96;

/// Words of up to so many bytes are copied out of the buffer that they came in, which many of them would keep else; longer
/// ones are, where they are less than a quarter of it.
const COPIED: usize = 4 << 10;

/// Bytes of the words of a request that is too long which are kept, to say which one it was.
const SHOWN: usize = 64;

/// Words, and bytes of each, that a client may send before it has given the password, as in Redis.
const STRANGER: (i64, usize) = (10, 16 << 10);

/// After these bytes nobody knows where the next request begins: the connection closes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The number of words is none, or too large.
    #[error("Protocol error: invalid multibulk length")]
    WordCount,
    /// The length of a word is none, or too large.
    #[error("Protocol error: invalid bulk length")]
    WordLength,
    /// A word begins otherwise.
    #[error("Protocol error: expected '$', got '{0}'")]
    NotAWord(char),
    /// More words than a client may send before its password.
    #[error("Protocol error: unauthenticated multibulk length")]
    StrangeCount,
    /// A longer word than a client may send before its password.
    #[error("Protocol error: unauthenticated bulk length")]
    StrangeLength,
    /// The line of a number of words does not end.
    #[error("Protocol error: too big mbulk count string")]
    LongCount,
    /// The line of a length does not end.
    #[error("Protocol error: too big bulk count string")]
    LongLength,
    /// A request on a line of its own does not end.
    #[error("Protocol error: too big inline request")]
    LongLine,
    /// Quotes that are not closed, or closed in the middle of a word.
    #[error("Protocol error: unbalanced quotes in request")]
    Quotes,
    /// A line, or a word, ends otherwise than in CR and LF.
    #[error("Protocol error: expected CR LF; nothing after it was run")]
    LineEnd,
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Its words.
    Words(Words),
    /// A word of it, or all of it, is over the limit: it was read past and not kept.
    TooLong {
        /// The name of the command.
        name: Bytes,
        /// Bytes of the word, or of all words.
        length: usize,
        /// The most that there may be.
        limit: usize,
    },
}

/// Reads requests from a byte stream that may be split anywhere.
#[derive(Debug)]
pub struct RequestDecoder {
    /// Words up to this are kept.
    longest_word: usize,
    /// The client has not given its password.
    stranger: bool,
    words: Words,
    /// Words of the request that are still to come; 0 between requests.
    missing: usize,
    /// The length of the word that is coming.
    length: Option<usize>,
    /// Bytes of the words so far.
    kept: usize,
    /// Bytes at the front of the buffer that are known to hold no line end.
    scanned: usize,
    /// The request is over the limit: what is too long of it, and the limit.
    too_long: Option<(usize, usize)>,
    /// Bytes of the word that is coming which are read past.
    passing: usize,
}

impl RequestDecoder {
    /// A decoder that takes words of up to `longest_word` bytes.
    pub fn new(longest_word: usize) -> Self {
        let words = Words::new();
        Self {
            longest_word,
            stranger: false,
            words,
            missing: 0,
            length: None,
            kept: 0,
            scanned: 0,
            too_long: None,
            passing: 0,
        }
    }

    /// Says whether the client still has to give its password.
    pub fn set_stranger(&mut self, stranger: bool) {
        self.stranger = stranger;
    }

    /// Whether a request has begun and not ended, after [`decode`](Self::decode) wanted more.
    pub fn is_inside_request(&self, buffer: &BytesMut) -> bool {
        self.missing > 0 || !buffer.is_empty()
    }

    /// Bytes that are kept of an unfinished request, besides those in the buffer.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// Takes the next request off the front of `buffer`; nothing: more bytes are needed.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Asked>, ProtocolError> {
        loop {
            if self.missing == 0 {
                match buffer.first() {
                    None => return Ok(None),
                    Some(b'*') => {
                        let Some(line) = self.line(buffer, true, ProtocolError::LongCount)? else { return Ok(None) };
                        let count = number(&line[1..]).filter(|count| *count <= MOST_WORDS);
                        if self.stranger && count.is_some_and(|count| count > STRANGER.0) {
                            return Err(ProtocolError::StrangeCount);
                        }
                        // None and less than none are requests for nothing.
                        self.missing = count.ok_or(ProtocolError::WordCount)?.max(0) as usize;
                    }
                    Some(_) => {
                        let Some(line) = self.line(buffer, false, ProtocolError::LongLine)? else { return Ok(None) };
                        let words = split_line(&line)?;
                        if !words.is_empty() {
                            return Ok(Some(Asked::Words(words)));
                        }
                    }
                }
                continue;
            }
            let Some(length) = self.length else {
                if !self.begin_word(buffer)? {
                    return Ok(None);
                }
                continue;
            };
            if !self.end_word(buffer, length)? {
                return Ok(None);
            }
            if self.missing == 0 {
                self.kept = 0;
                let words = std::mem::take(&mut self.words);
                return Ok(Some(match self.too_long.take() {
                    Some((length, limit)) => {
                        Asked::TooLong { name: words.into_iter().next().unwrap_or_default(), length, limit }
                    }
                    None => Asked::Words(words),
                }));
            }
        }
    }

    /// Reads the length of the next word; `false`: more bytes are needed.
    fn begin_word(&mut self, buffer: &mut BytesMut) -> Result<bool, ProtocolError> {
        if let Some(&other) = buffer.first().filter(|first| **first != b'$') {
            let shown = if other.is_ascii_graphic() { char::from(other) } else { '?' };
            return Err(ProtocolError::NotAWord(shown));
        }
        let Some(line) = self.line(buffer, true, ProtocolError::LongLength)? else { return Ok(false) };
        let length = number(&line[1..]).and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| *length <= LONGEST_PASSED).ok_or(ProtocolError::WordLength)?;
        if self.stranger && length > STRANGER.1 {
            return Err(ProtocolError::StrangeLength);
        }
        let (most, all) = (self.longest_word + SPARE_BYTES, self.kept + length + WORD_COST);
        if length > self.longest_word {
            self.too_long.get_or_insert((length, self.longest_word));
        } else if all > most {
            self.too_long.get_or_insert((all, most));
        }
        if self.too_long.is_some() {
            // What was kept of it is of no use any more but its name.
            self.words.truncate(1);
            self.kept = 0;
        }
        (self.length, self.passing) = (Some(length), length);
        Ok(true)
    }

    /// Takes the rest of the word that is coming; `false`: more bytes are needed.
    fn end_word(&mut self, buffer: &mut BytesMut, length: usize) -> Result<bool, ProtocolError> {
        let is_name = self.words.is_empty() && length <= SHOWN;
        if self.too_long.is_some() && !is_name {
            let passed = self.passing.min(buffer.len());
            buffer.advance(passed);
            self.passing -= passed;
            if self.passing > 0 || buffer.len() < 2 {
                return Ok(false);
            }
            if self.words.is_empty() {
                self.words.push(Bytes::new());
            }
        } else {
            if buffer.len() < length + 2 {
                return Ok(false);
            }
            self.words.push(take(buffer, length));
            self.kept += length + WORD_COST;
        }
        if buffer[..2] != *b"\r\n" {
            return Err(ProtocolError::LineEnd);
        }
        buffer.advance(2);
        self.length = None;
        self.missing -= 1;
        Ok(true)
    }

    /// The next line without its end.
    fn line(
        &mut self,
        buffer: &mut BytesMut,
        strict: bool,
        too_long: ProtocolError,
    ) -> Result<Option<BytesMut>, ProtocolError> {
        match buffer[self.scanned..].iter().position(|&byte| byte == b'\n') {
            Some(at) => {
                let mut line = buffer.split_to(self.scanned + at);
                buffer.advance(1);
                self.scanned = 0;
                match line.last() {
                    Some(b'\r') => line.truncate(line.len() - 1),
                    // Half understood, the words of such a request would be run as others.
                    _ if strict => return Err(ProtocolError::LineEnd),
                    _ => {}
                }
                Ok(Some(line))
            }
            None if buffer.len() > LONGEST_LINE => Err(too_long),
            None => {
                self.scanned = buffer.len();
                Ok(None)
            }
        }
    }
}

/// Takes bytes off the front of a buffer: a part of it if it is a large one, else a copy, which keeps no buffer.
pub(super) fn take(buffer: &mut BytesMut, length: usize) -> Bytes {
    if length <= COPIED || length < buffer.capacity() / 4 {
        let word = Bytes::copy_from_slice(&buffer[..length]);
        buffer.advance(length);
        return word;
    }
    buffer.split_to(length).freeze()
}

/// A number as it is written out: no sign but `-`, no zeros before it, no blanks.
pub fn number(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    let plain = matches!(text, [b'0'] | [b'-', b'1'..=b'9', ..] | [b'1'..=b'9', ..]);
    plain.then_some(number)
}

/// The words of a request on a line of its own, with the quotes of a shell.
fn split_line(line: &[u8]) -> Result<Words, ProtocolError> {
    let mut words = Words::new();
    let mut at = 0;
    loop {
        while line.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        if at == line.len() {
            return Ok(words);
        }
        let mut word = Vec::new();
        match line[at] {
            quote @ (b'"' | b'\'') => at = quoted(line, at + 1, quote, &mut word)?,
            _ => {
                while let Some(&byte) = line.get(at).filter(|byte| !byte.is_ascii_whitespace()) {
                    if byte == b'"' || byte == b'\'' {
                        at = quoted(line, at + 1, byte, &mut word)?;
                        break;
                    }
                    word.push(byte);
                    at += 1;
                }
            }
        }
        words.push(word.into());
    }
}

/// Reads up to the closing quote; gives the place behind it, where a blank or the end has to follow.
fn quoted(line: &[u8], mut at: usize, quote: u8, word: &mut Vec<u8>) -> Result<usize, ProtocolError> {
    let hex = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    loop {
        match *line.get(at).ok_or(ProtocolError::Quotes)? {
            byte if byte == quote => {
                let ends = line.get(at + 1).is_none_or(u8::is_ascii_whitespace);
                return if ends { Ok(at + 1) } else { Err(ProtocolError::Quotes) };
            }
            b'\\' if quote == b'"' => {
                let escaped = *line.get(at + 1).ok_or(ProtocolError::Quotes)?;
                if let (b'x', Some(high), Some(low)) = (escaped, hex(line.get(at + 2)), hex(line.get(at + 3))) {
                    word.push((high << 4 | low) as u8);
                    at += 4;
                    continue;
                }
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => other,
                });
                at += 2;
            }
            b'\\' if line.get(at + 1) == Some(&b'\'') => {
                word.push(b'\'');
                at += 2;
            }
            byte => {
                word.push(byte);
                at += 1;
            }
        }
    }
}

/// A reply. What version 2 has no form for goes in the nearest one that it has.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A short text without line breaks.
    Simple(&'static str),
    /// A text without line breaks that is not known beforehand.
    Status(String),
    /// A class word and an explanation.
    Error(String),
    /// A number.
    Integer(i64),
    /// A number with a fraction, as it is written; text in version 2.
    Double(String),
    /// A number of any size; its text in version 2.
    BigNumber(String),
    /// Yes or no; a number in version 2.
    Boolean(bool),
    /// Bytes.
    Bulk(Bytes),
    /// No such thing.
    Nil,
    /// No such list: a transaction that was not run.
    NilArray,
    /// A list.
    Array(Vec<Value>),
    /// Pairs; a list of names and values in version 2.
    Map(Vec<(Value, Value)>),
    /// A list without order.
    Set(Vec<Value>),
    /// Text for people.
    Text(String),
    /// A message to who has subscribed; a list in version 2.
    Push(Vec<Value>),
    /// Several replies, one behind the other.
    Replies(Vec<Value>),
}

impl Value {
    /// Text as bytes.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Bulk(text.into().into())
    }

    /// Bytes that it takes when it is sent, about.
    pub fn size(&self) -> usize {
        const HEAD: usize = 16;
        HEAD + match self {
            Self::Bulk(bytes) => bytes.len(),
            Self::Error(text) | Self::Text(text) | Self::Status(text) | Self::BigNumber(text) => text.len(),
            Self::Double(text) => text.len(),
            Self::Simple(text) => text.len(),
            Self::Array(values) | Self::Set(values) | Self::Push(values) | Self::Replies(values) => {
                values.iter().map(Self::size).sum()
            }
            Self::Map(pairs) => pairs.iter().map(|(name, value)| name.size() + value.size()).sum(),
            Self::Integer(_) | Self::Boolean(_) | Self::Nil | Self::NilArray => 0,
        }
    }

    /// Appends only the begin of a list, and gives its parts; or else all of it.
    pub fn encode_begin(self, version: u8, out: &mut BytesMut) -> Vec<Self> {
        match self {
            Self::Array(values) => {
                line(out, '*', values.len() as i64);
                values
            }
            other => {
                other.encode(version, out);
                Vec::new()
            }
        }
    }

    /// Appends the reply in this version of the protocol, 2 or 3.
    pub fn encode(&self, version: u8, out: &mut BytesMut) {
        match self {
            Self::Simple(text) => put(out, &[b"+", text.as_bytes(), b"\r\n"]),
            Self::Status(text) => put(out, &[b"+", text.as_bytes(), b"\r\n"]),
            Self::Double(text) if version == 3 => put(out, &[b",", text.as_bytes(), b"\r\n"]),
            Self::Double(text) => bulk(text.as_bytes(), out),
            Self::BigNumber(text) if version == 3 => put(out, &[b"(", text.as_bytes(), b"\r\n"]),
            Self::BigNumber(text) => bulk(text.as_bytes(), out),
            Self::Boolean(is) if version == 3 => put(out, &[if *is { b"#t\r\n" } else { b"#f\r\n" }]),
            Self::Boolean(is) => line(out, ':', (*is).into()),
            Self::Error(text) => {
                let text: String = text.chars().map(|c| if c == '\r' || c == '\n' { ' ' } else { c }).collect();
                put(out, &[b"-", text.as_bytes(), b"\r\n"]);
            }
            Self::Integer(number) => line(out, ':', *number),
            Self::Bulk(bytes) => bulk(bytes, out),
            Self::Nil => put(out, &[if version == 3 { b"_\r\n" } else { b"$-1\r\n" }]),
            Self::NilArray => put(out, &[if version == 3 { b"_\r\n" } else { b"*-1\r\n" }]),
            Self::Array(values) => many('*', values, version, out),
            Self::Set(values) => many(if version == 3 { '~' } else { '*' }, values, version, out),
            Self::Map(pairs) => {
                let (mark, length) = if version == 3 { ('%', pairs.len()) } else { ('*', pairs.len() * 2) };
                line(out, mark, length as i64);
                for (name, value) in pairs {
                    name.encode(version, out);
                    value.encode(version, out);
                }
            }
            Self::Text(text) if version == 3 => {
                line(out, '=', text.len() as i64 + 4);
                put(out, &[b"txt:", text.as_bytes(), b"\r\n"]);
            }
            Self::Text(text) => bulk(text.as_bytes(), out),
            Self::Push(values) => many(if version == 3 { '>' } else { '*' }, values, version, out),
            Self::Replies(values) => values.iter().for_each(|value| value.encode(version, out)),
        }
    }
}

/// A number with so many digits at most, as `%.17g` and `%.14g` of C write it.
pub fn decimal(number: f64, digits: usize) -> String {
    if number.is_nan() {
        return if number.is_sign_negative() { "-nan" } else { "nan" }.to_owned();
    }
    if number.is_infinite() {
        return if number < 0.0 { "-inf" } else { "inf" }.to_owned();
    }
    let scientific = format!("{number:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let without_zeros = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if exponent < -4 || exponent >= digits as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", without_zeros(mantissa), exponent.abs());
    }
    without_zeros(&format!("{number:.*}", (digits as i32 - 1 - exponent).max(0) as usize))
}

/// What comes before so many bytes, which a line end follows.
pub fn bulk_head(length: usize) -> String {
    format!("${length}\r\n")
}

/// Appends bytes as a reply.
pub fn bulk(bytes: &[u8], out: &mut BytesMut) {
    line(out, '$', bytes.len() as i64);
    out.reserve(bytes.len() + 2);
    put(out, &[bytes, b"\r\n"]);
}

fn many(mark: char, values: &[Value], version: u8, out: &mut BytesMut) {
    line(out, mark, values.len() as i64);
    values.iter().for_each(|value| value.encode(version, out));
}

fn line(out: &mut BytesMut, mark: char, number: i64) {
    // A buffer in memory takes everything.
    let _ = write!(out, "{mark}{number}\r\n");
}

fn put(out: &mut BytesMut, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode_all(pieces: &[&[u8]]) -> (Vec<Vec<Vec<u8>>>, Option<ProtocolError>) {
        let (mut decoder, mut buffer, mut all) = (RequestDecoder::new(1000), BytesMut::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut buffer) {
                    Ok(Some(Asked::Words(words))) => all.push(words.iter().map(|word| word.to_vec()).collect()),
                    Ok(Some(Asked::TooLong { name, length, limit })) => {
                        all.push(vec![b"too long".to_vec(), name.to_vec(), format!("{length} {limit}").into_bytes()]);
                    }
                    Ok(None) => break,
                    Err(error) => return (all, Some(error)),
                }
            }
        }
        (all, None)
    }

    fn words(bytes: &[u8]) -> Vec<Vec<String>> {
        let (all, error) = decode_all(&[bytes]);
        assert_eq!(error, None);
        let text = |word: Vec<u8>| String::from_utf8_lossy(&word).into_owned();
        all.into_iter().map(|words| words.into_iter().map(text).collect()).collect()
    }

    fn fault(bytes: &[u8]) -> String {
        decode_all(&[bytes]).1.expect("a fault").to_string()
    }

    #[test]
    fn requests_are_arrays_or_lines() {
        assert_eq!(words(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$4\r\nPING\r\n"), [vec!["GET", "a"], vec!["PING"]]);
        assert_eq!(words(b"\r\n*-10\r\n*0\r\nPING\r\n"), [["PING"]], "requests for nothing are passed over");
        assert_eq!(words(b"*2\r\n$1\r\n\n\r\n$0\r\n\r\n"), [["\n", ""]]);
        assert_eq!(words(b"set  a 'it\\'s' \"\\x41\\n\"\r\n"), [["set", "a", "it's", "A\n"]]);
        assert_eq!(words(b"*2\r\n$3\r\nGET\r\n$1\r\n"), [[""; 0]; 0], "not whole");
    }

    #[test]
    fn faults_have_the_texts_that_clients_know() {
        assert_eq!(fault(b"*3000000000\r\n"), "Protocol error: invalid multibulk length");
        assert_eq!(fault(b"*x\r\n"), "Protocol error: invalid multibulk length");
        assert_eq!(fault(b"*1\r\nfoo\r\n"), "Protocol error: expected '$', got 'f'");
        for length in ["-10", "2000000000", "blabla", "01", "+1", ""] {
            assert_eq!(fault(format!("*1\r\n${length}\r\n").as_bytes()), "Protocol error: invalid bulk length");
        }
        assert_eq!(fault(b"set \"\"\"key\"\"\" x\r\n"), "Protocol error: unbalanced quotes in request");
        assert_eq!(fault(&[b'*'; LONGEST_LINE + 1]), "Protocol error: too big mbulk count string");
        assert_eq!(fault(&[b'x'; LONGEST_LINE + 1]), "Protocol error: too big inline request");
        assert_eq!(
            fault(&[&b"*1\r\n"[..], &[b'$'; LONGEST_LINE + 1]].concat()),
            "Protocol error: too big bulk count string"
        );
    }

    #[test]
    fn lines_of_arrays_end_in_cr_and_lf() {
        for bytes in [&b"*1\n$4\nPING\n"[..], b"*1\r\n$4\nPING\n", b"*1\r\n$4\r\nPING\n\n", b"*1\r\n$3\r\nPING\r\n"] {
            assert!(fault(bytes).starts_with("Protocol error: expected CR LF"), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_is_over_the_limit_is_read_past_and_the_next_request_is_read() {
        let long = [&b"*4\r\n$4\r\nMSET\r\n$1\r\na\r\n$1001\r\n"[..], &[b'\n'; 1001], b"\r\n$1\r\nb\r\n"].concat();
        let all = [&long[..], b"*1\r\n$4\r\nPING\r\n"].concat();
        let told = [vec!["too long", "MSET", "1001 1000"], vec!["PING"]];
        assert_eq!(words(&all), told);
        let bytes: Vec<&[u8]> = all.chunks(7).collect();
        let texts = |all: Vec<Vec<Vec<u8>>>| -> Vec<Vec<String>> {
            all.into_iter().map(|words| words.into_iter().map(|w| String::from_utf8(w).unwrap()).collect()).collect()
        };
        assert_eq!(texts(decode_all(&bytes).0), told);
        // A name that is too long itself, or comes behind what is.
        let name = [&b"*1\r\n$1001\r\n"[..], &[b'x'; 1001], b"\r\nPING\r\n"].concat();
        assert_eq!(words(&name), [vec!["too long", "", "1001 1000"], vec!["PING"]]);
    }

    #[test]
    fn a_request_is_bounded_as_a_whole() {
        let mut decoder = RequestDecoder::new(SPARE_BYTES);
        let word = [format!("${SPARE_BYTES}\r\n").as_bytes(), &vec![b'x'; SPARE_BYTES], b"\r\n"].concat();
        let mut buffer = BytesMut::from(&b"*4\r\n"[..]);
        let told = (0..4).find_map(|_| {
            buffer.extend_from_slice(&word);
            assert!(decoder.kept() <= 2 * SPARE_BYTES);
            decoder.decode(&mut buffer).unwrap()
        });
        assert!(matches!(told, Some(Asked::TooLong { limit, .. }) if limit == 2 * SPARE_BYTES), "{told:?}");
        assert!(buffer.is_empty() && decoder.kept() == 0);
    }

    #[test]
    fn small_words_keep_no_large_buffer() {
        let (mut decoder, mut buffer) = (RequestDecoder::new(1 << 20), BytesMut::with_capacity(32 << 10));
        buffer.extend_from_slice(b"*2\r\n$3\r\nDEL\r\n$1\r\na\r\n");
        let place = buffer.as_ptr();
        let asked = decoder.decode(&mut buffer).unwrap();
        buffer.reserve(32 << 10);
        assert_eq!(buffer.as_ptr(), place, "nothing else holds it: {asked:?}");
    }

    #[test]
    fn numbers_are_written_as_c_writes_them() {
        for (value, digits, text) in [
            (3.3, 17, "3.2999999999999998"),
            (3.3, 14, "3.3"),
            (-1.0, 17, "-1"),
            (0.0, 17, "0"),
            (1e15, 17, "1000000000000000"),
            (1e17, 17, "1e+17"),
            (123_456_789_012_345_680.0, 17, "1.2345678901234568e+17"),
            (0.0001, 17, "0.0001"),
            (0.00001, 14, "1e-05"),
            (1e100, 14, "1e+100"),
            (100_000.5, 14, "100000.5"),
            (f64::INFINITY, 14, "inf"),
            (f64::NEG_INFINITY, 17, "-inf"),
        ] {
            assert_eq!(decimal(value, digits), text, "{value} {digits}");
        }
    }

    #[test]
    fn replies_in_both_versions() {
        let all = Value::Array(vec![
            Value::Simple("OK"),
            Value::Error("ERR a\r\nb".into()),
            Value::Integer(-7),
            Value::text("x"),
            Value::Nil,
            Value::NilArray,
            Value::Map(vec![(Value::text("k"), Value::Integer(1))]),
            Value::Set(vec![]),
            Value::Text("hi".into()),
        ]);
        let encoded = |version| {
            let mut out = BytesMut::new();
            all.encode(version, &mut out);
            String::from_utf8(out.to_vec()).unwrap()
        };
        assert_eq!(
            encoded(2),
            "*9\r\n+OK\r\n-ERR a  b\r\n:-7\r\n$1\r\nx\r\n$-1\r\n*-1\r\n*2\r\n$1\r\nk\r\n:1\r\n*0\r\n$2\r\nhi\r\n"
        );
        assert_eq!(
            encoded(3),
            "*9\r\n+OK\r\n-ERR a  b\r\n:-7\r\n$1\r\nx\r\n_\r\n_\r\n%1\r\n$1\r\nk\r\n:1\r\n~0\r\n=6\r\ntxt:hi\r\n"
        );
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            requests in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..4), 1..5),
            cuts in prop::collection::vec(0usize..200, 0..5),
        ) {
            let mut bytes = Vec::new();
            for request in &requests {
                bytes.extend_from_slice(format!("*{}\r\n", request.len()).as_bytes());
                for word in request {
                    bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
                    bytes.extend_from_slice(word);
                    bytes.extend_from_slice(b"\r\n");
                }
            }
            let mut places: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
            places.sort_unstable();
            let pieces: Vec<&[u8]> = places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decode_all(&pieces), (requests, None));
        }

        #[test]
        fn no_bytes_make_it_fail(bytes in prop::collection::vec(prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), b'0'..=b'9', any::<u8>()], 0..200)) {
            let _ = decode_all(&[&bytes]);
        }
    }
}
