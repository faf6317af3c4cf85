//! Ids as file names, injectively: different ids never share a file.
//!
//! `[A-Za-z0-9_-][A-Za-z0-9._-]*` stands as it is; every other byte is
//! percent-encoded in upper case, and so is a leading dot. A stem that would be
//! longer than 200 bytes is cut and ends in `%~` and a hash of the id, which no
//! encoded name can hold, since `%` is always followed by two hex digits there.

use std::fmt::Write as _;

use xxhash_rust::xxh3::xxh3_128;

use crate::types::MessageId;

/// The longest stem, bytes: with a prefix for staged copies and `.txt` it stays below the 255 of every file system.
pub const MAX_STEM: usize = 200;

/// `%~` and 32 hex digits.
const HASH_BYTES: usize = 34;

/// What a stem says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// The stem of this id.
    Id(MessageId),
    /// The stem of an id that only the copy's record knows.
    Hashed,
}

/// The name of an id's file, without `.txt`.
pub fn stem(id: &MessageId) -> String {
    let mut stem = String::with_capacity(id.as_bytes().len() + 4);
    let mut cut = 0;
    for (i, &byte) in id.as_bytes().iter().enumerate() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' || (byte == b'.' && i > 0) {
            stem.push(char::from(byte));
        } else {
            let _ = write!(stem, "%{byte:02X}");
        }
        if stem.len() <= MAX_STEM - HASH_BYTES {
            cut = stem.len();
        }
    }
    if stem.len() > MAX_STEM {
        stem.truncate(cut);
        let _ = write!(stem, "%~{:032x}", xxh3_128(id.as_bytes()));
    }
    stem
}

/// What a stem says; nothing if it is not the stem of any id.
pub fn parse_stem(text: &str) -> Option<Named> {
    if is_hashed(text) {
        return Some(Named::Hashed);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let (digits, tail) = rest.split_first_chunk::<2>()?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(byte);
        }
    }
    let id = MessageId::parse(&bytes).ok()?;
    // Only the one spelling that we would write: `%2e` is no name of `.`.
    (stem(&id) == text).then_some(Named::Id(id))
}

/// Whether a stem names its id by a hash.
pub fn is_hashed(text: &str) -> bool {
    text.len() > HASH_BYTES && text.len() <= MAX_STEM && text[text.len() - HASH_BYTES..].starts_with("%~")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_ids() {
        let long = "x".repeat(200);
        let table = [
            ("1", "1"),
            ("a_B-9.txt", "a_B-9.txt"),
            ("-rf", "-rf"),
            ("CON", "CON"),
            (".", "%2E"),
            ("..", "%2E."),
            ("../x", "%2E.%2Fx"),
            ("/abs", "%2Fabs"),
            ("a:1,2", "a%3A1%2C2"),
            ("%2e", "%252e"),
            ("ü", "%C3%BC"),
            (&long, &long),
        ];
        for (id, name) in table {
            let id: MessageId = id.parse().unwrap();
            assert_eq!(stem(&id), name);
            assert_eq!(parse_stem(name), Some(Named::Id(id)));
        }
        for name in ["", "%2e", "%2E%2E", "a%", "a%4", "a%41", "a b", ".x", "%zz", "a\u{fc}"] {
            assert_eq!(parse_stem(name), None, "{name:?}");
        }
    }

    #[test]
    fn long_names_are_hashed() {
        let [one, other] = ["ü".repeat(99) + "a", "ü".repeat(99) + "b"].map(|id| id.parse::<MessageId>().unwrap());
        assert_ne!(stem(&one), stem(&other));
        assert_eq!(parse_stem(&stem(&one)), Some(Named::Hashed));
    }

    proptest! {
        #[test]
        fn names_are_injective_and_safe(one in "[^\\s\\p{Cc}]{1,66}", other in "[.%a-bA/ü~0-9]{1,66}") {
            let ids = [one, other].map(|id| id.parse::<MessageId>());
            let [Ok(one), Ok(other)] = ids else { return Ok(()) };
            let names = [stem(&one), stem(&other)];
            prop_assert_eq!(one == other, names[0] == names[1]);
            for (id, name) in [one, other].into_iter().zip(names) {
                prop_assert!(name.len() <= MAX_STEM && !name.starts_with('.') && !name.contains(['/', '\0']));
                prop_assert!(name.is_ascii());
                match parse_stem(&name) {
                    Some(Named::Id(back)) => prop_assert_eq!(back, id),
                    Some(Named::Hashed) => prop_assert!(is_hashed(&name)),
                    None => prop_assert!(false, "{} is no stem", name),
                }
            }
        }
    }
}
