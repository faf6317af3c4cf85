//! Replies as `hatokuse client` shows them: as they came, made safe for a terminal, or as JSON.
//!
//! Invariant: one reply is one line, and no byte of a message commands a terminal.
//! Never asks which request a reply belongs to: every form can be told from its line.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use ratatui::style::Color;
use serde_json::{Value, json};

use super::shell::Settings;
use crate::protocol::text::{ReplyLine, decode_finding, decode_nodes, decode_verified};
use crate::protocol::{Finding, Verified};
use crate::terminal::{self, Paper};
use crate::types::Deadline;

/// How replies are shown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Style {
    /// As JSON objects.
    pub(super) json: bool,
    /// To a person's terminal, which control characters would reach otherwise.
    pub(super) terminal: bool,
    /// What that terminal shows.
    pub(super) paper: Paper,
}

impl Style {
    /// For standard output as it is now: a terminal's size may have changed since the last reply.
    pub(super) fn here(settings: &Settings) -> Self {
        let terminal = io::stdout().is_terminal();
        let paper = if terminal { terminal::paper(settings.plain) } else { Paper::default() };
        Self { json: settings.json, terminal, paper }
    }

    /// Whether a person reads it, rather than a program.
    pub(super) fn is_for_people(self) -> bool {
        self.terminal && !self.json
    }
}

/// Writes a reply as one line.
pub(super) fn write_reply(reply: &ReplyLine, style: Style, out: &mut impl Write) -> io::Result<()> {
    if style.json {
        return writeln!(out, "{}", json(reply));
    }
    let (word, color, rest) = match reply {
        ReplyLine::Ok => ("OK", Some(Color::Green), Cow::Borrowed(&b""[..])),
        ReplyLine::Value(message) => ("VALUE ", None, Cow::Borrowed(&message[..])),
        ReplyLine::Error { code, explanation } => {
            ("ERROR", Some(Color::Red), Cow::Owned(format!(" {code} {explanation}").into_bytes()))
        }
        ReplyLine::Other(line) => split_word(line),
    };
    let color = color.filter(|_| style.terminal);
    out.write_all(inked(word, color, style.paper).as_bytes())?;
    write_bare(&rest, style, out)
}

/// The first word of a line where it has a colour, and the rest.
fn split_word(line: &[u8]) -> (&'static str, Option<Color>, Cow<'_, [u8]>) {
    let verified = std::str::from_utf8(line).ok().and_then(decode_verified);
    let well = verified.is_none_or(|verified| verified.bad + verified.unknown == 0);
    for (word, color) in [
        ("+PONG", Color::Green),
        ("VERIFIED", if well { Color::Green } else { Color::Red }),
        ("COPY", Color::Red),
        ("NODE", Color::Red),
    ] {
        if let Some(rest) = line.strip_prefix(word.as_bytes())
            && (rest.is_empty() || rest[0] == b' ')
        {
            return (word, Some(color), Cow::Borrowed(rest));
        }
    }
    ("", None, Cow::Borrowed(line))
}

/// `text` in a colour, where there are colours.
pub(super) fn inked(text: &str, color: Option<Color>, paper: Paper) -> Cow<'_, str> {
    let code = match color {
        Some(Color::Red) => 31,
        Some(Color::Green) => 32,
        Some(Color::Yellow) => 33,
        Some(Color::Cyan) => 36,
        _ => return Cow::Borrowed(text),
    };
    if paper.color { Cow::Owned(format!("\x1b[{code}m{text}\x1b[0m")) } else { Cow::Borrowed(text) }
}

/// Writes the bytes of a message and a line feed.
pub(super) fn write_bare(message: &[u8], style: Style, out: &mut impl Write) -> io::Result<()> {
    if style.terminal {
        return writeln!(out, "{}", escape(message));
    }
    out.write_all(message)?;
    out.write_all(b"\n")
}

/// Text for a terminal: control characters and bytes that are not UTF-8 in their escaped form.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                let _ = write!(shown, "{}", c.escape_default());
            } else {
                shown.push(c);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// A reply as one JSON object on one line.
///
/// `{"ok":true}`, `{"value":"..."}` (`{"value_base64":"..."}` where the message is not UTF-8),
/// `{"nodes":[1,3]}` (with `"expires"` where the message ends by itself), `{"count":9000}`, `{"copy":{...}}` and `{"verified":{...}}` of VERIFY, STATUS as it is, `{"error":{"code":"..","message":".."}}`,
/// and `{"text":"..."}` for any other line.
fn json(reply: &ReplyLine) -> String {
    let object = match reply {
        ReplyLine::Ok => json!({"ok": true}),
        ReplyLine::Value(message) => match std::str::from_utf8(message) {
            Ok(text) => json!({"value": text}),
            Err(_) => json!({"value_base64": base64(message)}),
        },
        ReplyLine::Error { code, explanation } => json!({"error": {"code": code, "message": explanation}}),
        ReplyLine::Other(line) => match String::from_utf8_lossy(line).as_ref() {
            "+PONG" | "BYE" => json!({"ok": true}),
            // Not parsed and written anew: its fields keep their order.
            text if text.starts_with('{') && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() => {
                return without_controls(text);
            }
            text => numbers(text).unwrap_or_else(|| json!({"text": text})),
        },
    };
    without_controls(&object.to_string())
}

/// The forms with a word and fields.
fn numbers(line: &str) -> Option<Value> {
    // A message that stays has no such field.
    let ending = |mut object: Value, expires: Option<Deadline>| {
        if let (Value::Object(fields), Some(deadline)) = (&mut object, expires) {
            fields.insert("expires".to_owned(), json!(deadline.to_string()));
        }
        object
    };
    if let Some((nodes, expires)) = decode_nodes(line) {
        return Some(ending(json!({"nodes": nodes}), expires));
    }
    match decode_finding(line) {
        Some(Finding::Copy { id, node, fault, expires }) => {
            let fault = format!("{fault:?}").to_ascii_lowercase();
            return Some(json!({"copy": ending(json!({"id": id, "node": node, "fault": fault}), expires)}));
        }
        Some(Finding::Away { node, copies }) => return Some(json!({"away": {"node": node, "copies": copies}})),
        None => {}
    }
    if let Some(Verified { messages, intact, bad, unknown }) = decode_verified(line) {
        let sums = json!({"messages": messages, "intact": intact, "bad": bad, "unknown": unknown});
        return Some(json!({"verified": sums}));
    }
    let count: u64 = line.strip_prefix("COUNT ")?.parse().ok()?;
    Some(json!({"count": count}))
}

/// JSON lets DEL and U+0080 to U+009F stand in strings as they are, and terminals obey some of them.
fn without_controls(json: &str) -> String {
    if !json.contains(char::is_control) {
        return json.to_owned();
    }
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_control() {
            let _ = write!(safe, "\\u{:04x}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Base64 with the usual alphabet and padding (RFC 4648): too little to take a library for.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            if digit <= three.len() {
                text.push(char::from(ALPHABET[(bits >> (18 - 6 * digit)) as usize & 63]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn shown(reply: &ReplyLine, json: bool, terminal: bool) -> String {
        let mut out = Vec::new();
        write_reply(reply, Style { json, terminal, ..Style::default() }, &mut out).unwrap();
        String::from_utf8_lossy(&out).into_owned()
    }

    fn other(line: &'static str) -> ReplyLine {
        ReplyLine::Other(Bytes::from_static(line.as_bytes()))
    }

    #[test]
    fn every_reply_has_its_json() {
        let value = |bytes: &'static [u8]| ReplyLine::Value(Bytes::from_static(bytes));
        let error = ReplyLine::Error { code: "BUSY".into(), explanation: "later \"please\"".into() };
        for (reply, wanted) in [
            (ReplyLine::Ok, r#"{"ok":true}"#),
            (value("Merhaba Dünya".as_bytes()), r#"{"value":"Merhaba Dünya"}"#),
            (value(b""), r#"{"value":""}"#),
            (value(b"\xff\x00"), r#"{"value_base64":"/wA="}"#),
            (value("\u{9b}2J\u{7f}\u{1b}\r".as_bytes()), r#"{"value":"\u009b2J\u007f\u001b\r"}"#),
            (error, r#"{"error":{"code":"BUSY","message":"later \"please\""}}"#),
            (other("NODES 1,3"), r#"{"nodes":[1,3]}"#),
            (
                other("NODES 1,3 expires 2026-11-30T12:00:00.000Z"),
                r#"{"expires":"2026-11-30T12:00:00.000Z","nodes":[1,3]}"#,
            ),
            (
                other("COPY a 3 DAMAGED expires 2026-11-30T12:00:00.000Z"),
                r#"{"copy":{"expires":"2026-11-30T12:00:00.000Z","fault":"damaged","id":"a","node":3}}"#,
            ),
            (other("NODES x"), r#"{"text":"NODES x"}"#),
            (other("COUNT 9000"), r#"{"count":9000}"#),
            (other(r#"{"version":"1","epoch":7}"#), r#"{"version":"1","epoch":7}"#),
            (other("COPY a/b 3 MISSING"), r#"{"copy":{"fault":"missing","id":"a/b","node":3}}"#),
            (other("NODE 3 UNKNOWN copies=4350"), r#"{"away":{"copies":4350,"node":3}}"#),
            (
                other("VERIFIED messages=1 intact=2 bad=0 unknown=4"),
                r#"{"verified":{"bad":0,"intact":2,"messages":1,"unknown":4}}"#,
            ),
            (other("{no json"), r#"{"text":"{no json"}"#),
            (other("+PONG"), r#"{"ok":true}"#),
            (other("commands: SET"), r#"{"text":"commands: SET"}"#),
        ] {
            assert_eq!(shown(&reply, true, false), format!("{wanted}\n"));
        }
    }

    #[test]
    fn no_control_character_reaches_a_terminal() {
        let reply = ReplyLine::Value(Bytes::from_static(b"a\x1b[2J\r\xff\xc2\x9bx\tD\xc3\xbcnya"));
        assert_eq!(shown(&reply, false, true), "VALUE a\\u{1b}[2J\\r\\xff\\u{9b}x\\tDünya\n");
        let mut out = Vec::new();
        write_reply(&reply, Style::default(), &mut out).unwrap();
        assert_eq!(out, b"VALUE a\x1b[2J\r\xff\xc2\x9bx\tD\xc3\xbcnya\n", "elsewhere bytes stay as they are");
    }

    #[test]
    fn words_have_colours_where_a_terminal_has_them() {
        let paper = Paper { color: true, ..Paper::default() };
        let colored = |reply: &ReplyLine, json, terminal| {
            let mut out = Vec::new();
            write_reply(reply, Style { json, terminal, paper }, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let error = ReplyLine::Error { code: "BUSY".into(), explanation: "later\u{1b}[2J".into() };
        for (reply, wanted) in [
            (&ReplyLine::Ok, "\u{1b}[32mOK\u{1b}[0m\n"),
            (&error, "\u{1b}[31mERROR\u{1b}[0m BUSY later\\u{1b}[2J\n"),
            (&other("+PONG"), "\u{1b}[32m+PONG\u{1b}[0m\n"),
            (&other("COPY 1 2 MISSING"), "\u{1b}[31mCOPY\u{1b}[0m 1 2 MISSING\n"),
            (&other("NODE 2 UNKNOWN copies=1"), "\u{1b}[31mNODE\u{1b}[0m 2 UNKNOWN copies=1\n"),
            (&other("COPYING"), "COPYING\n"),
            (
                &other("VERIFIED messages=1 intact=2 bad=0 unknown=4"),
                "\u{1b}[31mVERIFIED\u{1b}[0m messages=1 intact=2 bad=0 unknown=4\n",
            ),
        ] {
            assert_eq!(colored(reply, false, true), wanted);
            assert!(!colored(reply, false, false).contains("\u{1b}[0m"), "a pipe is no terminal");
            assert!(!colored(reply, true, true).contains('\u{1b}'), "JSON is JSON");
        }
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
