//! Which file a message lives in: ids to names and back.
//!
//! The invariant: different ids never share a name, and a name is one plain
//! component that does not begin with a dot. Nothing here touches a disk.

use std::fmt::Write;

use crate::types::MessageId;

/// The longest name, without its `.txt`, where the file system has such names.
pub const MAX_STEM_BYTES: usize = 200;

/// What every message's file ends in.
pub const SUFFIX: &str = ".txt";

/// Stands before the hash of an id that is too long to be spelt out. No encoded id holds it,
/// as there a `%` is always followed by two hex digits.
const HASH_MARK: &str = "%~";

/// Bytes of the mark and the hash behind it.
const HASH_BYTES: usize = HASH_MARK.len() + 32;

/// What a stem says of its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// This is the id.
    Id(MessageId),
    /// The name holds a hash only; the copy's record holds the id.
    AskTheRecord,
}

/// The names of a folder: from which length on they hold a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    longest: usize,
}

impl Default for Names {
    fn default() -> Self {
        Self { longest: MAX_STEM_BYTES }
    }
}

impl Names {
    /// Those of a folder whose longest name, without its `.txt`, has so many bytes; nothing if there is no room for a hash.
    pub fn up_to(longest: usize) -> Option<Self> {
        (longest >= HASH_BYTES).then(|| Self { longest: longest.min(MAX_STEM_BYTES) })
    }

    /// Bytes of the longest, without its `.txt`.
    pub fn longest(self) -> usize {
        self.longest
    }

    /// The name of the id's file, without its `.txt`.
    ///
    /// Bytes other than `A-Za-z0-9_-` and a dot that is not the first become `%` and two upper-case hex digits.
    pub fn stem(self, id: &MessageId) -> String {
        let (mut stem, prefix) = encode(id.as_bytes(), self.longest - HASH_BYTES);
        if stem.len() > self.longest {
            stem.truncate(prefix);
            write!(stem, "{HASH_MARK}{:032x}", xxhash_rust::xxh3::xxh3_128(id.as_bytes())).expect("a string takes all");
        }
        stem
    }

    /// The id that a stem was made from; nothing for a stem that [`Names::stem`] makes of no id.
    pub fn id_of(self, stem: &str) -> Option<Decoded> {
        if let Some((prefix, hash)) = stem.split_once(HASH_MARK) {
            let plausible = prefix.len() <= self.longest - HASH_BYTES
                && decode(prefix).is_some()
                && !prefix.starts_with('.')
                && hash.len() == 32
                && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            return plausible.then_some(Decoded::AskTheRecord);
        }
        let id = MessageId::from_bytes(&decode(stem)?).ok()?;
        // `%41` and `A` decode to the same: only the one that would be written counts.
        (self.stem(&id) == stem).then_some(Decoded::Id(id))
    }
}

/// Whether a stem holds a hash, and not its id.
pub fn is_hashed(stem: &str) -> bool {
    stem.contains(HASH_MARK)
}

/// A whole id in the characters of a name, and how much of that can stand before a hash.
fn encode(bytes: &[u8], most: usize) -> (String, usize) {
    let mut stem = String::with_capacity(bytes.len());
    let mut prefix = 0;
    for (place, &byte) in bytes.iter().enumerate() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || (byte == b'.' && place > 0) {
            stem.push(char::from(byte));
        } else {
            write!(stem, "%{byte:02X}").expect("a string takes all");
        }
        if stem.len() <= most {
            prefix = stem.len();
        }
    }
    (stem, prefix)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                (high << 4 | low) as u8
            }
            plain => plain,
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stem(id: &MessageId) -> String {
        Names::default().stem(id)
    }

    fn id_of(stem: &str) -> Option<Decoded> {
        Names::default().id_of(stem)
    }

    fn id(text: &str) -> MessageId {
        text.parse().unwrap()
    }

    #[test]
    fn ids_name_their_files() {
        let table = [
            ("1", "1"),
            ("a.b-c_D", "a.b-c_D"),
            ("../x", "%2E.%2Fx"),
            ("/abs", "%2Fabs"),
            ("a/b", "a%2Fb"),
            (".", "%2E"),
            ("..", "%2E."),
            ("CON", "CON"),
            ("a:1,2", "a%3A1%2C2"),
            ("%2e", "%252e"),
            ("%2E", "%252E"),
            ("x.txt", "x.txt"),
            ("-rf", "-rf"),
            ("ü", "%C3%BC"),
            ("%~", "%25%7E"),
        ];
        for (text, name) in table {
            assert_eq!(stem(&id(text)), name);
            assert_eq!(id_of(name), Some(Decoded::Id(id(text))));
        }
        let longest = "x".repeat(200);
        assert_eq!(stem(&id(&longest)), longest);
    }

    #[test]
    fn long_names_are_hashed() {
        let unicode = "ü".repeat(100);
        let name = stem(&id(&unicode));
        assert!(name.starts_with("%C3%BC") && name.len() <= MAX_STEM_BYTES);
        assert_eq!(name.split_once(HASH_MARK).unwrap().0.len() % 3, 0, "whole characters only");
        assert_eq!(id_of(&name), Some(Decoded::AskTheRecord));
        let edge = format!("{}ü", "x".repeat(194));
        assert_eq!(stem(&id(&edge)).len(), 200);
        assert_eq!(id_of(&stem(&id(&edge))), Some(Decoded::Id(id(&edge))));
        assert!(stem(&id(&format!("x{edge}"))).contains(HASH_MARK));
    }

    #[test]
    fn other_names_are_nobodys() {
        let strange = ["", "%", "%4", "%41", "%2f", "%2", "%zz", "a b", "ü", ".x", "%ff", "a/b", "%2E%2E"];
        for name in strange {
            assert_eq!(id_of(name), None, "{name}");
        }
        for hash in ["%~", "%~12", &format!("%~{}", "F".repeat(32)), &format!("%4%~{}", "f".repeat(32))] {
            assert_eq!(id_of(hash), None, "{hash}");
        }
    }

    #[test]
    fn ids_of_any_bytes_name_their_files() {
        for (bytes, name) in [(&b"\0"[..], "%00"), (b"\xff\xfe", "%FF%FE"), (b"a b\r\n", "a%20b%0D%0A")] {
            let id = MessageId::from_bytes(bytes).unwrap();
            assert_eq!((stem(&id).as_str(), id_of(name)), (name, Some(Decoded::Id(id))));
        }
        let longest = [0xff; 200].map(|byte: u8| byte);
        assert_eq!(id_of(&stem(&MessageId::from_bytes(&longest).unwrap())), Some(Decoded::AskTheRecord));
    }

    /// Text ids of awkward pieces, and any bytes.
    fn ids() -> impl Strategy<Value = MessageId> {
        let bytes = proptest::collection::vec(any::<u8>(), 1..=200);
        prop_oneof![text_ids(), bytes.prop_map(|bytes| MessageId::from_bytes(&bytes).unwrap())]
    }

    fn text_ids() -> impl Strategy<Value = MessageId> {
        // Whole pieces, so that near misses (`%2F` and `/`, long tails) are likely.
        let piece = prop_oneof![
            Just("/".to_owned()),
            Just(".".to_owned()),
            Just("%2F".to_owned()),
            Just("%~".to_owned()),
            Just("ü".repeat(40)),
            Just("x".repeat(60)),
            "[!-~]{1,3}",
            "\\PC{1,4}",
        ];
        proptest::collection::vec(piece, 1..8)
            .prop_map(|pieces| pieces.concat())
            .prop_filter_map("no id", |text| MessageId::parse(text.as_bytes()).ok())
    }

    proptest! {
        #[test]
        fn names_are_safe_and_come_back(id in ids()) {
            let stem = stem(&id);
            prop_assert!(!stem.is_empty() && stem.len() + SUFFIX.len() <= 204);
            prop_assert!(!stem.starts_with('.') && !stem.contains(['/', '\0', ':']) && stem.is_ascii());
            match id_of(&stem) {
                Some(Decoded::Id(back)) => prop_assert_eq!(back, id),
                Some(Decoded::AskTheRecord) => prop_assert!(stem.len() > 34),
                None => prop_assert!(false, "{} of {:?} does not decode", stem, id),
            }
        }

        #[test]
        fn no_two_ids_share_a_name(a in ids(), b in ids()) {
            prop_assert_eq!(a == b, stem(&a) == stem(&b));
        }

        #[test]
        fn decoding_takes_anything(text in "\\PC{0,40}") {
            if let Some(Decoded::Id(id)) = id_of(&text) {
                prop_assert_eq!(stem(&id), text);
            }
        }
    }
}
