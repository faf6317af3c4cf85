//! Parsers of text: requests, replies, file names, tolerance.conf, a node's identity.

use bytes::BytesMut;
use hatokuse::config::{BadTolerance, ByteSize, parse_tolerance};
use hatokuse::file_names::{Decoded as Name, Names};
use hatokuse::node::identity::Identity;
use hatokuse::protocol::text::{
    CommandDecoder, ReplyLine, decode_finding, decode_reply, decode_verified, encode_command, encode_reply,
};
use hatokuse::protocol::{Command, Decoded, Reply};
use hatokuse::types::{MAX_TOLERANCE, Member, MessageId, NodeId, Uuid};
use hatokuse::wire::family;

use super::Script;

/// Requests that arrive in pieces of `step` bytes.
fn requests(bytes: &[u8], limit: usize, step: usize) -> Vec<Decoded<Command>> {
    let mut decoder = CommandDecoder::new(limit);
    let (mut buffer, mut all) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step.max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Decoded::Need => break,
                other => all.push(other),
            }
        }
        assert!(buffer.len() <= decoder.line_limit(), "a line costs more than its bound");
    }
    all
}

fn code_or_command(decoded: &Decoded<Command>) -> Result<Command, &'static str> {
    match decoded {
        Decoded::Item(command) => Ok(command.clone()),
        Decoded::Bad(refusal) => Err(refusal.code()),
        Decoded::Need => unreachable!("not kept"),
    }
}

/// Requests: any split gives the same, what was read is written and read again, a refusal is one line.
pub(super) fn line(data: &[u8]) {
    let mut script = Script(data);
    let (limit, step) = (usize::from(script.byte()), usize::from(script.byte()));
    let bytes = script.0;
    let all = requests(bytes, limit, bytes.len());
    let pieces = requests(bytes, limit, step);
    // A line over the limit is refused before its end has come: only the code of a refusal is a promise.
    let seen = |all: &[Decoded<Command>]| all.iter().map(code_or_command).collect::<Vec<_>>();
    assert_eq!(seen(&all), seen(&pieces), "in pieces of {step}, limit {limit}");
    for request in all {
        let mut out = BytesMut::new();
        match request {
            Decoded::Item(command) => {
                encode_command(&command, &mut out);
                assert_eq!(requests(&out, limit, out.len()), [Decoded::Item(command)]);
            }
            Decoded::Bad(refusal) => {
                encode_reply(&Reply::Refused(refusal.clone()), &mut out);
                let read = decode_reply(&mut out);
                assert!(matches!(read, Some(ReplyLine::Error { code, .. }) if code == refusal.code()));
                assert!(out.is_empty(), "more than one line");
            }
            Decoded::Need => unreachable!("not kept"),
        }
    }
}

/// Replies as a client reads them: no byte is lost or made up, findings and sums come back as they were written.
pub(super) fn reply(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    let mut again = Vec::new();
    while let Some(line) = decode_reply(&mut buffer) {
        match &line {
            ReplyLine::Ok => again.extend_from_slice(b"OK"),
            ReplyLine::Value(value) => again.extend([b"VALUE ", &value[..]].concat()),
            ReplyLine::Error { code, explanation } => {
                assert!(!code.contains(' '));
                let length = data[again.len()..].iter().position(|&byte| byte == b'\n').unwrap();
                let text = String::from_utf8_lossy(&data[again.len()..again.len() + length]).into_owned();
                let plain = format!("ERROR {code} {explanation}");
                assert!(text == plain || text == format!("ERROR {code}") && explanation.is_empty());
                again.extend_from_slice(&data[again.len()..again.len() + length]);
            }
            ReplyLine::Other(bytes) => again.extend_from_slice(bytes),
        }
        again.push(b'\n');
        if let ReplyLine::Other(bytes) = line
            && let Ok(text) = std::str::from_utf8(&bytes)
        {
            words(text);
        }
    }
    assert!(!buffer.contains(&b'\n'));
    again.extend_from_slice(&buffer);
    assert_eq!(again, data);
    // Whatever a message holds, it is one line, and comes back if it has no line break.
    let mut out = BytesMut::new();
    encode_reply(&Reply::Value(data.to_vec().into()), &mut out);
    match decode_reply(&mut out) {
        Some(ReplyLine::Value(value)) => assert_eq!(value, data),
        Some(ReplyLine::Error { code, .. }) => assert!(code == "NOT_A_LINE" && data.contains(&b'\n')),
        other => panic!("{other:?}"),
    }
    assert!(out.is_empty());
}

fn words(text: &str) {
    let written = |reply: Reply| {
        let mut out = BytesMut::new();
        encode_reply(&reply, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    };
    if let Some(finding) = decode_finding(text) {
        let again = written(Reply::Finding(finding.clone()));
        assert_eq!(decode_finding(again.trim_end_matches('\n')), Some(finding));
    }
    if let Some(verified) = decode_verified(text) {
        let again = written(Reply::Verified(verified));
        assert_eq!(decode_verified(again.trim_end_matches('\n')), Some(verified));
    }
}

/// File names: safe, reversible, and never one for two ids.
pub(super) fn file_name(data: &[u8]) {
    let mut parts = data.splitn(2, |&byte| byte == b'\n');
    let ids = [parts.next(), parts.next()].map(|part| MessageId::parse(part.unwrap_or_default()).ok());
    // The first byte says how long names may be.
    let longest = 34 + usize::from(data.first().copied().unwrap_or(u8::MAX));
    let names = Names::up_to(longest).expect("room for a hash");
    for id in ids.iter().flatten() {
        let name = names.stem(id);
        assert!(!name.is_empty() && name.len() <= names.longest() && !name.starts_with('.'), "{name}");
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.%~".contains(&b)), "{name}");
        match names.id_of(&name) {
            Some(Name::Id(back)) => assert_eq!(back, *id),
            Some(Name::AskTheRecord) => assert!(name.len() >= 34 && id.as_bytes().len() * 3 > names.longest()),
            None => panic!("{name} of {id:?} is nobody's"),
        }
    }
    if let [Some(one), Some(other)] = &ids {
        assert_eq!(one == other, names.stem(one) == names.stem(other));
    }
    let text = String::from_utf8_lossy(data);
    if let Some(Name::Id(id)) = names.id_of(&text) {
        assert_eq!(names.stem(&id), text, "two names of one id");
    }
}

/// tolerance.conf: a number from 1 to 7 or an error that names a line that is there; line ends and a BOM change nothing.
pub(super) fn tolerance(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let result = parse_tolerance(&text);
    let lines = text.lines().count();
    match &result {
        Ok(tolerance) => {
            assert!((1..=MAX_TOLERANCE).contains(tolerance));
            assert_eq!(parse_tolerance(&format!("tolerance={tolerance}\n")), Ok(*tolerance));
            let said = |line: &str| line.split('#').next().unwrap().contains(&tolerance.to_string());
            assert_eq!(text.lines().filter(|line| said(line)).count(), 1, "read from no line, or from two");
            let twice = parse_tolerance(&format!("{text}\ntolerance=1"));
            assert!(matches!(twice, Err(BadTolerance::Twice { .. })));
        }
        Err(BadTolerance::Missing) => {}
        Err(BadTolerance::Line { line, .. } | BadTolerance::Twice { line }) => assert!((1..=lines).contains(line)),
    }
    assert_eq!(parse_tolerance(&format!("\u{feff}{text}")), result, "a BOM");
    if !text.contains('\r') && !text.starts_with('\u{feff}') {
        assert_eq!(parse_tolerance(&text.replace('\n', "\r\n")), result, "CRLF");
    }
    if let Ok(size) = text.parse::<ByteSize>() {
        assert_eq!(size.to_string().parse(), Ok(size));
    }
}

/// A node's identity: what is read is written and read again, and no damage to it passes.
pub(super) fn identity(data: &[u8]) {
    let mut script = Script(data);
    let place = script.u16();
    let text = String::from_utf8_lossy(script.0);
    // A member's address comes from other processes, and must not write lines of its own.
    let member = family::Member { node_id: 3, uuid: vec![3; 16].into(), address: text.clone().into_owned() };
    if let Ok(member) = Member::try_from(&member) {
        let identity = Identity { members: vec![member], ..Identity::new(NodeId(1), Uuid([1; 16])) };
        assert_eq!(Identity::decode(&identity.encode()), Ok(identity));
    }
    // The checksum stands in the way of guessing: give the text its own.
    let body = format!("hatokuse-node 1\n{text}\n");
    for text in [text.clone().into_owned(), format!("{body}crc={:08x}\n", crc32c::crc32c(body.as_bytes()))] {
        let Ok(identity) = Identity::decode(&text) else { continue };
        let written = identity.encode();
        if !text.contains('\r') {
            assert_eq!(Identity::decode(&written), Ok(identity));
        }
        let mut damaged = written.into_bytes();
        let place = place % (damaged.len() - 1);
        damaged[place] ^= 1;
        assert!(Identity::decode(&String::from_utf8_lossy(&damaged)).is_err(), "byte {place}");
    }
}
