//! What things are called: messages, nodes, folders and clusters.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// The longest message id, in bytes.
pub const MAX_ID_BYTES: usize = 1024;

/// Ids of up to so many bytes are kept inline, so that the usual id costs no allocation.
const INLINE_ID_BYTES: usize = 24;

/// The number of a leader process in the group of them. It is never used again for another folder.
pub type PeerId = u64;

/// A message's id: 1 to [`MAX_ID_BYTES`] bytes. The text protocol takes those that are UTF-8 without blanks and control characters
/// ([`MessageId::parse`]); other doors may take any ([`MessageId::from_bytes`]).
///
/// It is shown as it is, except for the bytes that could forge a line or disturb a terminal: these become `%` and two
/// upper-case hex digits, and so does a `%` that would read as one of them. [`MessageId::from_shown`] reads it back.
#[derive(PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(SmallVec<[u8; INLINE_ID_BYTES]>);

impl Clone for MessageId {
    fn clone(&self) -> Self {
        // The vector's own clone goes byte by byte.
        Self(SmallVec::from_slice(&self.0))
    }
}

/// Why some bytes are no message id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// No bytes at all.
    #[error("the id is empty")]
    Empty,
    /// More than [`MAX_ID_BYTES`].
    #[error("the id is longer than {MAX_ID_BYTES} bytes")]
    TooLong,
    /// Not UTF-8.
    #[error("the id is not valid UTF-8")]
    NotUtf8,
    /// Holds a blank, a control character or a line separator.
    #[error("the id holds a blank or a control character")]
    BadCharacter,
}

impl MessageId {
    /// Reads an id from a line of text.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadId> {
        let id = Self::from_bytes(bytes)?;
        let text = std::str::from_utf8(bytes).map_err(|_| BadId::NotUtf8)?;
        if text.chars().any(is_hidden) {
            return Err(BadId::BadCharacter);
        }
        Ok(id)
    }

    /// Takes any 1 to [`MAX_ID_BYTES`] bytes as an id.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadId> {
        match bytes.len() {
            0 => Err(BadId::Empty),
            1..=MAX_ID_BYTES => Ok(Self::known(bytes)),
            _ => Err(BadId::TooLong),
        }
    }

    /// Reads an id back from the form in which it is shown.
    pub fn from_shown(text: &str) -> Result<Self, BadId> {
        let (text, mut bytes, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
        while let Some(&byte) = text.get(at) {
            let escaped = escaped_byte(&text[at..]);
            bytes.push(escaped.unwrap_or(byte));
            at += if escaped.is_some() { 3 } else { 1 };
        }
        let id = Self::from_bytes(&bytes)?;
        // Only the form that would be shown counts: no two of them mean the same id.
        if id.to_string().as_bytes() == text { Ok(id) } else { Err(BadId::BadCharacter) }
    }

    /// An id whose length was checked before.
    pub(crate) fn known(bytes: &[u8]) -> Self {
        Self(SmallVec::from_slice(bytes))
    }

    /// The id as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Whether a character of an id has no place in a line of text.
fn is_hidden(c: char) -> bool {
    c.is_whitespace() || c.is_control()
}

/// The byte that `%` and two upper-case hex digits stand for, where some text begins with them.
fn escaped_byte(text: &[u8]) -> Option<u8> {
    let digit = |&byte: &u8| char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_lowercase());
    let [b'%', high, low, ..] = text else { return None };
    Some((digit(high)? << 4 | digit(low)?) as u8)
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escape =
            |f: &mut fmt::Formatter<'_>, bytes: &[u8]| bytes.iter().try_for_each(|byte| write!(f, "%{byte:02X}"));
        for chunk in self.0.utf8_chunks() {
            let valid = chunk.valid();
            for (at, c) in valid.char_indices() {
                if is_hidden(c) || escaped_byte(&valid.as_bytes()[at..]).is_some() {
                    escape(f, &valid.as_bytes()[at..at + c.len_utf8()])?;
                } else {
                    f.write_char(c)?;
                }
            }
            escape(f, chunk.invalid())?;
        }
        Ok(())
    }
}

impl Serialize for MessageId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl FromStr for MessageId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        Self::parse(text.as_bytes())
    }
}

/// A node's number, chosen by its operator: 1 to 4294967295.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A 128-bit name that no two things share; shown as hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// A random one.
    pub fn random(chance: &mut fastrand::Rng) -> Self {
        Self(chance.u128(1..).to_be_bytes())
    }

    /// From the 16 bytes that the wire and the disk carry.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// From 32 hex digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.is_ascii() {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(|n| Self(n.to_be_bytes()))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked() {
        for good in ["1", "a/b", "../x", ".", "CON", "Dünya", &"x".repeat(MAX_ID_BYTES), "a:1,2", "%2e", "-rf"] {
            assert_eq!(MessageId::parse(good.as_bytes()).unwrap().as_bytes(), good.as_bytes());
        }
        let bad: [(&[u8], BadId); 8] = [
            (b"", BadId::Empty),
            (&[b'x'; MAX_ID_BYTES + 1], BadId::TooLong),
            (b"\xff\xfe", BadId::NotUtf8),
            (b"a b", BadId::BadCharacter),
            (b"a\tb", BadId::BadCharacter),
            (b"a\0b", BadId::BadCharacter),
            ("a\u{85}b".as_bytes(), BadId::BadCharacter),
            ("a\u{2028}b".as_bytes(), BadId::BadCharacter),
        ];
        for (bytes, reason) in bad {
            assert_eq!(MessageId::parse(bytes), Err(reason), "{bytes:?}");
        }
    }

    #[test]
    fn any_bytes_are_an_id_and_are_shown_on_one_line() {
        let table: [(&[u8], &str); 10] = [
            (b"plain", "plain"),
            ("Dünya".as_bytes(), "Dünya"),
            (b"a b", "a%20b"),
            (b"a%20b", "a%2520b"),
            (b"50%", "50%"),
            (b"%2", "%2"),
            (b"%e2", "%e2"),
            (b"x\nCOPY y 1 MISSING", "x%0ACOPY%20y%201%20MISSING"),
            (b"%\xff\0", "%%FF%00"),
            ("\u{2028}\u{9b}".as_bytes(), "%E2%80%A8%C2%9B"),
        ];
        for (bytes, shown) in table {
            let id = MessageId::from_bytes(bytes).unwrap();
            assert_eq!((id.to_string().as_str(), MessageId::from_shown(shown)), (shown, Ok(id)));
        }
        let longest = [0xff; MAX_ID_BYTES];
        assert_eq!(MessageId::from_bytes(&longest).unwrap().as_bytes(), longest);
        assert_eq!(MessageId::from_bytes(b""), Err(BadId::Empty));
        assert_eq!(MessageId::from_bytes(&[0; MAX_ID_BYTES + 1]), Err(BadId::TooLong));
        assert!(
            ["a b", "%41", "", &"x".repeat(MAX_ID_BYTES + 1)].iter().all(|text| MessageId::from_shown(text).is_err())
        );
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_of_an_id_is_read_back(bytes in proptest::collection::vec(proptest::num::u8::ANY, 1..=200)) {
            let id = MessageId::from_bytes(&bytes).unwrap();
            let shown = id.to_string();
            proptest::prop_assert!(!shown.chars().any(is_hidden));
            proptest::prop_assert_eq!(MessageId::from_shown(&shown), Ok(id));
        }

        #[test]
        fn escapes_and_half_escapes_are_told_apart(text in "[%%%02aAfF ]{1,20}") {
            let id = MessageId::from_bytes(text.as_bytes()).unwrap();
            proptest::prop_assert_eq!(MessageId::from_shown(&id.to_string()), Ok(id));
        }
    }

    #[test]
    fn uuids_round_trip() {
        let uuid = Uuid::random(&mut fastrand::Rng::with_seed(7));
        assert_eq!(Uuid::from_hex(&uuid.to_string()), Some(uuid));
        assert_eq!(Uuid::from_bytes(&uuid.0), Some(uuid));
        assert_eq!(Uuid::from_hex("abc"), None);
    }
}
