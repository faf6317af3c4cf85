//! Requests of the Redis protocol.

use bytes::BytesMut;
use hatokuse::protocol::resp::{Asked, RequestDecoder, Value, WORD_COST};

use super::Script;

/// The requests of a stream that arrives in pieces of `step` bytes, and the fault that ended it.
fn requests(bytes: &[u8], longest: usize, stranger: bool, step: usize) -> (Vec<Vec<Vec<u8>>>, Option<String>) {
    let mut decoder = RequestDecoder::new(longest);
    decoder.set_stranger(stranger);
    let (mut buffer, mut all) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step.max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(Asked::Words(words))) => {
                    assert!(!words.is_empty(), "a request of no words");
                    all.push(words.iter().map(|word| word.to_vec()).collect());
                }
                // Written as a request of its own, which is never too long.
                Ok(Some(Asked::TooLong { length, limit, .. })) => {
                    assert!(length > limit);
                    all.push(vec![format!("too long {length} {limit}").into_bytes()]);
                }
                Ok(None) => break,
                Err(fault) => return (all, Some(fault.to_string())),
            }
        }
        // What is held is what has come, and a little for each word, whatever lengths were announced.
        assert!(decoder.kept() + buffer.len() <= bytes.len() * (WORD_COST + 1));
    }
    (all, None)
}

/// Any split gives the same requests and the same fault; what was read is written and read again; a fault is one line.
pub(super) fn request(data: &[u8]) {
    let mut script = Script(data);
    let (step, rest) = (usize::from(script.byte()), script.byte());
    let (longest, stranger) = (usize::from(rest) * 64, rest % 2 == 0);
    let bytes = script.0;
    let whole = requests(bytes, longest, stranger, bytes.len());
    assert_eq!(whole, requests(bytes, longest, stranger, step), "in pieces of {step}");
    let (all, fault) = whole;
    for words in all {
        let mut out = BytesMut::new();
        Value::Array(words.iter().map(|word| Value::Bulk(word.clone().into())).collect()).encode(2, &mut out);
        let most = words.iter().map(Vec::len).max().unwrap_or_default();
        assert_eq!(requests(&out, most, false, out.len()), (vec![words], None));
    }
    if let Some(fault) = fault {
        let mut out = BytesMut::new();
        Value::Error(format!("ERR {fault}")).encode(2, &mut out);
        assert!(out.ends_with(b"\r\n") && out.iter().filter(|byte| **byte == b'\n').count() == 1, "more than one line");
    }
}
