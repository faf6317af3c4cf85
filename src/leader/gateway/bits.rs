//! Bits of messages, as Redis counts, finds, joins and changes them. The first bit is the highest of the first byte.

use bytes::Bytes;

use super::refused::{NOT_AN_INTEGER, SYNTAX, error};
use crate::protocol::resp::{Value, Words, number};

type Result<T> = std::result::Result<T, String>;

/// Bytes up to which bits can be asked for, as in Redis: behind a message there are zeros. What is written has to fit into
/// a message.
pub(super) const MOST_READ: usize = 512 << 20;

/// The place of a bit: its byte, and how far to the left it stands there.
pub(super) fn bit_place(word: &[u8], limit: usize) -> Result<(usize, u32)> {
    let place = number(word).and_then(|place| usize::try_from(place).ok()).filter(|place| place / 8 < limit);
    let place = place.ok_or(OUT_OF_RANGE)?;
    Ok((place / 8, 7 - (place % 8) as u32))
}

const OUT_OF_RANGE: &str = "ERR bit offset is not an integer or out of range";

/// The bit that a word says.
pub(super) fn bit(word: &[u8]) -> Result<u8> {
    match word {
        b"0" => Ok(0),
        b"1" => Ok(1),
        _ => error("ERR bit is not an integer or out of range"),
    }
}

/// A range of bits, both ends in it; nothing: it is empty.
type Range = Option<(usize, usize)>;

/// The bits that `start end [BYTE|BIT]` mean in a message of so many bytes; whether an end was said. A place before the
/// message is its beginning.
fn range(words: &[Bytes], bytes: usize) -> Result<(Range, bool)> {
    let integer = |place: usize| words.get(place).map(|word| number(word).ok_or(NOT_AN_INTEGER)).transpose();
    let unit = match words.get(2).map(|word| word.to_ascii_uppercase()).as_deref() {
        None | Some(b"BYTE") => 8,
        Some(b"BIT") => 1,
        Some(_) => return error(SYNTAX),
    };
    if words.len() > 3 {
        return error(SYNTAX);
    }
    let (start, end) = (integer(0)?.unwrap_or(0), integer(1)?);
    let length = (bytes * 8 / unit) as i64;
    let given = end.is_some();
    let end = end.unwrap_or(-1);
    let from_end = |place: i64| if place < 0 { (length.saturating_add(place)).max(0) } else { place };
    let (start, end) = (from_end(start), from_end(end).min(length - 1));
    let bits = || (start as usize * unit, end as usize * unit + unit - 1);
    Ok(((start <= end).then(bits), given))
}

/// The bits of a byte, whose place is told, that are in a range.
fn masked(mut bits: u8, byte: usize, (first, last): (usize, usize)) -> u8 {
    if byte == first / 8 {
        bits &= 0xff >> (first % 8);
    }
    if byte == last / 8 {
        bits &= 0xff << (7 - last % 8);
    }
    bits
}

/// BITCOUNT: how many bits of a range are set.
pub(super) fn count(words: &Words, message: &[u8]) -> Result<Value> {
    if words.len() == 3 {
        return error(SYNTAX);
    }
    let place = |place: usize| words.get(place).and_then(|word| number(word)).unwrap_or(0);
    // Redis counts none where the end is before the start, even where both are before the message; BITPOS looks there.
    let backwards = place(3) < place(2) && place(2) < 0;
    let range = range(&words[2..], message.len())?.0.filter(|_| !backwards);
    let Some(range @ (first, last)) = range else { return Ok(Value::Integer(0)) };
    let count: u64 =
        (first / 8..=last / 8).map(|byte| u64::from(masked(message[byte], byte, range).count_ones())).sum();
    Ok(Value::Integer(count as i64))
}

/// BITPOS: the first bit of a range that is the one that is asked for, or -1. Behind a message there are zeros without end,
/// unless an end was said. Nothing: there is no message.
pub(super) fn find(words: &Words, message: Option<&[u8]>) -> Result<Value> {
    let wanted = match number(&words[2]) {
        Some(wanted @ (0 | 1)) => wanted == 1,
        Some(_) => return error("ERR The bit argument must be 1 or 0."),
        None => return error(NOT_AN_INTEGER),
    };
    let (range, given) = range(&words[3..], message.map_or(0, <[u8]>::len))?;
    let Some(message) = message else { return Ok(Value::Integer(if wanted { -1 } else { 0 })) };
    let Some(range @ (first, last)) = range else { return Ok(Value::Integer(-1)) };
    for (byte, bits) in message.iter().enumerate().take(last / 8 + 1).skip(first / 8) {
        let bits = masked(if wanted { *bits } else { !bits }, byte, range);
        if bits != 0 {
            return Ok(Value::Integer((byte * 8) as i64 + i64::from(bits.leading_zeros())));
        }
    }
    Ok(Value::Integer(if wanted || given { -1 } else { message.len() as i64 * 8 }))
}

/// BITOP: what the operation of `words` makes of these messages, each as long as the longest.
pub(super) fn join(words: &Words, messages: &[Bytes]) -> Result<Vec<u8>> {
    let work: fn(u8, u8) -> u8 = match words[1].to_ascii_uppercase().as_slice() {
        b"AND" => |a, b| a & b,
        b"OR" => |a, b| a | b,
        b"XOR" => |a, b| a ^ b,
        b"NOT" if messages.len() == 1 => return Ok(messages[0].iter().map(|byte| !byte).collect()),
        b"NOT" => return error("ERR BITOP NOT must be called with a single source key."),
        _ => return error(SYNTAX),
    };
    let length = messages.iter().map(Bytes::len).max().unwrap_or(0);
    let mut all = messages[0].to_vec();
    all.resize(length, 0);
    for message in &messages[1..] {
        let (same, rest) = all.split_at_mut(message.len());
        same.iter_mut().zip(message.iter()).for_each(|(to, byte)| *to = work(*to, *byte));
        rest.iter_mut().for_each(|to| *to = work(*to, 0));
    }
    Ok(all)
}

/// A field of a message: so many bits from a place on, with a sign or without.
#[derive(Debug, Clone, Copy)]
struct Field {
    signed: bool,
    bits: usize,
    /// The first bit.
    at: usize,
}

/// What a number that does not fit becomes.
#[derive(Debug, Clone, Copy)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

/// One step of BITFIELD.
#[derive(Debug, Clone, Copy)]
enum Step {
    Get(Field),
    Set(Field, i64, Overflow),
    Add(Field, i64, Overflow),
}

/// The steps of a BITFIELD.
#[derive(Debug)]
pub(super) struct Steps(Vec<Step>);

impl Steps {
    /// Reads them; messages have up to `limit` bytes.
    pub(super) fn read(words: &Words, reads_only: bool, limit: usize) -> Result<Self> {
        let (mut steps, mut rest, mut overflow) = (Vec::new(), words[2..].iter(), Overflow::Wrap);
        while let Some(word) = rest.next() {
            let name = word.to_ascii_uppercase();
            if name == b"OVERFLOW" {
                overflow = match rest.next().ok_or(SYNTAX)?.to_ascii_uppercase().as_slice() {
                    b"WRAP" => Overflow::Wrap,
                    b"SAT" => Overflow::Saturate,
                    b"FAIL" => Overflow::Fail,
                    _ => return error("ERR Invalid OVERFLOW type specified"),
                };
                continue;
            }
            if !matches!(name.as_slice(), b"GET" | b"SET" | b"INCRBY") {
                return error(SYNTAX);
            }
            let (kind, place) = (rest.next().ok_or(SYNTAX)?, rest.next().ok_or(SYNTAX)?);
            if name == b"GET" {
                steps.push(Step::Get(Field::read(kind, place, MOST_READ.max(limit))?));
                continue;
            }
            let field = Field::read(kind, place, limit)?;
            if reads_only {
                return error("ERR BITFIELD_RO only supports the GET subcommand");
            }
            let value = number(rest.next().ok_or(SYNTAX)?).ok_or(NOT_AN_INTEGER)?;
            steps.push(if name == b"SET" {
                Step::Set(field, value, overflow)
            } else {
                Step::Add(field, value, overflow)
            });
        }
        Ok(Self(steps))
    }

    /// How long the message has to be for what they write; nothing: they write nothing.
    pub(super) fn reach(&self) -> Option<usize> {
        let end = |step: &Step| match step {
            Step::Get(_) => None,
            Step::Set(field, ..) | Step::Add(field, ..) => Some((field.at + field.bits).div_ceil(8)),
        };
        self.0.iter().filter_map(end).max()
    }

    /// Takes them, on a message that is long enough for what they write.
    pub(super) fn run(&self, message: &mut [u8]) -> Value {
        let one = |step: &Step| match *step {
            Step::Get(field) => Value::Integer(field.get(message) as i64),
            Step::Set(field, value, overflow) => {
                let value = if field.signed { i128::from(value) } else { i128::from(value.cast_unsigned()) };
                let Some(value) = field.fit(value, overflow) else { return Value::Nil };
                let before = field.get(message);
                field.set(message, value);
                Value::Integer(before as i64)
            }
            Step::Add(field, by, overflow) => {
                let Some(value) = field.fit(field.get(message) + i128::from(by), overflow) else { return Value::Nil };
                field.set(message, value);
                Value::Integer(value as i64)
            }
        };
        Value::Array(self.0.iter().map(one).collect())
    }
}

impl Field {
    fn read(kind: &[u8], place: &[u8], limit: usize) -> Result<Self> {
        const WRONG: &str =
            "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.";
        let (signed, most) = match kind.first() {
            Some(b'i') => (true, 64),
            Some(b'u') => (false, 63),
            _ => return error(WRONG),
        };
        let bits = number(&kind[1..]).filter(|bits| (1..=most).contains(bits)).ok_or(WRONG)? as usize;
        let (counted, place) = place.strip_prefix(b"#").map_or((1, place), |place| (bits, place));
        let at =
            number(place).and_then(|place| usize::try_from(place).ok()).and_then(|place| place.checked_mul(counted));
        let at =
            at.filter(|at| at.checked_add(bits).is_some_and(|end| end.div_ceil(8) <= limit)).ok_or(OUT_OF_RANGE)?;
        Ok(Self { signed, bits, at })
    }

    fn range(&self) -> (i128, i128) {
        let all = 1_i128 << self.bits;
        if self.signed { (-(all >> 1), (all >> 1) - 1) } else { (0, all - 1) }
    }

    /// The number as it is kept; nothing: it does not fit, and that fails.
    fn fit(&self, value: i128, overflow: Overflow) -> Option<i128> {
        let (least, most) = self.range();
        match overflow {
            _ if (least..=most).contains(&value) => Some(value),
            Overflow::Fail => None,
            Overflow::Saturate => Some(value.clamp(least, most)),
            Overflow::Wrap => Some((value - least).rem_euclid(1 << self.bits) + least),
        }
    }

    /// The number that is there; behind the message there are zeros.
    fn get(&self, message: &[u8]) -> i128 {
        let bit = |place: usize| message.get(place / 8).map_or(0, |byte| byte >> (7 - place % 8) & 1);
        let value = (self.at..self.at + self.bits).fold(0_i128, |all, place| all << 1 | i128::from(bit(place)));
        let (_, most) = self.range();
        if value > most { value - (1 << self.bits) } else { value }
    }

    fn set(&self, message: &mut [u8], value: i128) {
        for (place, shift) in (self.at..self.at + self.bits).zip((0..self.bits).rev()) {
            let (byte, by) = (&mut message[place / 8], 7 - place % 8);
            *byte = *byte & !(1 << by) | ((value >> shift & 1) as u8) << by;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_bits_have_a_bound() {
        assert_eq!(bit_place(b"9", 10), Ok((1, 6)));
        assert!(bit_place(b"80", 10).is_err() && bit_place(b"-1", 10).is_err() && bit_place(b"x", 10).is_err());
        assert!(bit(b"2").is_err() && bit(b"").is_err());
    }

    /// Bit after bit, of all ranges of a small message.
    #[test]
    fn counts_and_first_bits_are_those_that_are_seen_one_by_one() {
        let message = [0b1010_0001, 0b0000_0000, 0b0111_1110, 0b1111_1111];
        let set = |place: usize| message[place / 8] >> (7 - place % 8) & 1 == 1;
        for start in 0..34 {
            for end in 0..34 {
                let inside: Vec<usize> = (start..=end).filter(|place| *place < 32).collect();
                let line = format!("BITCOUNT a {start} {end} BIT");
                let wanted = inside.iter().filter(|place| set(**place)).count() as i64;
                assert_eq!(count(&super::super::words(&line), &message), Ok(Value::Integer(wanted)), "{line}");
                for one in [true, false] {
                    let line = format!("BITPOS a {} {start} {end} BIT", u8::from(one));
                    let wanted = inside.iter().find(|place| set(**place) == one).map_or(-1, |place| *place as i64);
                    let found = find(&super::super::words(&line), Some(&message));
                    assert_eq!(found, Ok(Value::Integer(wanted)), "{line}");
                }
            }
        }
    }

    /// What a Redis 7.0.15 answered.
    #[test]
    fn ranges_before_a_message_are_those_of_redis() {
        let found = |line: &str, message: &[u8]| find(&super::super::words(line), Some(message));
        for (line, message, place) in [
            ("BITPOS a 1 -100 -100", &[0xff, 0xff][..], 0),
            ("BITPOS a 0 -100 -100", &[0xff, 0xff], -1),
            ("BITPOS a 1 -5 -100", &[0x61], 1),
            ("BITPOS a 0 -1 -3", &[0x61], 0),
            ("BITPOS a 1 -1 -3", &[0, 0xff, 0], -1),
            ("BITPOS a 1 -2 -4", &[0, 0xff, 0], -1),
            ("BITPOS a 0 -3 -100 BYTE", &[0, 0xff, 0], 0),
            ("BITPOS a 0 -2 -100 BIT", &[0x61], -1),
            ("BITPOS a 1 -8 -100 BIT", &[0xff], 0),
            ("BITPOS a 1 -100 -100", &[], -1),
        ] {
            assert_eq!(found(line, message), Ok(Value::Integer(place)), "{line} {message:?}");
        }
        for (line, bits) in [("BITCOUNT a -100 -100", 8), ("BITCOUNT a -1 -100", 0), ("BITCOUNT a -5 -100", 0)] {
            assert_eq!(count(&super::super::words(line), &[0xff, 0xff]), Ok(Value::Integer(bits)), "{line}");
        }
    }

    /// Wherever a Redis of the usual settings looks (512 MiB), however long messages may be here.
    #[test]
    fn bits_behind_a_message_are_zeros_up_to_where_redis_looks() {
        for place in ["4294967295", "100"] {
            assert!(bit_place(place.as_bytes(), MOST_READ).is_ok());
            let line = format!("BITFIELD a GET u8 {place}");
            let steps = Steps::read(&super::super::words(&line), false, 10);
            let far = place != "100";
            assert_eq!(steps.map(|steps| steps.run(&mut [0xff])).is_err(), far, "{line}");
        }
        assert_eq!(bit_place(b"4294967296", MOST_READ), Err(OUT_OF_RANGE.to_owned()));
        let wide = Steps::read(&super::super::words("BITFIELD a GET u8 4294967288 GET u8 0"), false, 10).unwrap();
        assert_eq!(wide.run(&mut [0xff]), Value::Array(vec![Value::Integer(0), Value::Integer(255)]));
        assert!(Steps::read(&super::super::words("BITFIELD a SET u8 80 1"), false, 10).is_err());
    }

    #[test]
    fn fields_hold_what_was_set() {
        for bits in 1..=64 {
            for signed in [true, false] {
                if bits == 64 && !signed {
                    continue;
                }
                let field = Field { signed, bits, at: 5 };
                let (least, most) = field.range();
                for value in [least, most, 0, most / 3, least / 3] {
                    let mut message = [0xa5; 10];
                    field.set(&mut message, value);
                    assert_eq!(field.get(&message), value, "{field:?}");
                    field.set(&mut message, Field { signed, ..field }.get(&[0xa5; 10]));
                    assert_eq!(message, [0xa5; 10], "{field:?} touches nothing else");
                }
                assert_eq!(field.fit(most + 1, Overflow::Wrap), Some(least));
                assert_eq!(field.fit(least - 1, Overflow::Wrap), Some(most));
                assert_eq!(field.fit(least - 1, Overflow::Saturate), Some(least));
                assert_eq!(field.fit(most + 1, Overflow::Fail), None);
            }
        }
    }
}
