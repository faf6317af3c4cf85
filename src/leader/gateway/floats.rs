//! Numbers with a fraction, as Redis adds them: in the extended precision of x86 (64 bits of mantissa), read as strtold(3)
//! reads them and written as `%.17Lf` without the zeros at its end. `floats.txt` holds what a Redis 7.0.15 answered.

use std::cmp::Ordering;

/// The longest text that is read as a number (Redis's `MAX_LONG_DOUBLE_CHARS`).
const LONGEST: usize = 5 * 1024;

/// Exponents of ten beyond which a number of [`LONGEST`] digits is infinite, or nothing.
const MOST_TENS: i64 = 11_000;

/// The largest exponent of two of a number with 64 bits before the point, and the smallest of one that is not nothing.
const LARGEST: i64 = 16_383 - 63;
const SMALLEST: i64 = -16_446;

/// Digits behind the point.
const DIGITS: usize = 17;

/// What a text can mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Finite(Float),
    Infinite,
}

/// `bits` times two to the power of `exponent`; the highest bit is set, or it is zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Float {
    negative: bool,
    bits: u64,
    exponent: i64,
}

const ZERO: Float = Float { negative: false, bits: 0, exponent: 0 };

/// The sum as Redis writes it; nothing: it is no number, or infinite.
pub(super) fn sum(a: Number, b: Number) -> Option<String> {
    let (Number::Finite(a), Number::Finite(b)) = (a, b) else { return None };
    add(a, b).map(|sum| sum.into_text())
}

/// A finite number.
pub(super) fn finite(text: &[u8]) -> Option<Float> {
    match read(text)? {
        Number::Finite(float) => Some(float),
        Number::Infinite => None,
    }
}

/// Reads a number; nothing: the text is none.
pub(super) fn read(text: &[u8]) -> Option<Number> {
    if text.len() >= LONGEST {
        return None;
    }
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if text.eq_ignore_ascii_case(b"inf") || text.eq_ignore_ascii_case(b"infinity") {
        return Some(Number::Infinite);
    }
    let float = match text {
        [b'0', b'x' | b'X', rest @ ..] => read_hex(rest)?,
        _ => read_decimal(text)?,
    };
    Some(Number::Finite(Float { negative, ..float }))
}

/// The digits before and behind the point, and the exponent behind `mark`, if it is there.
fn split(text: &[u8], mark: u8, is_digit: fn(&u8) -> bool) -> Option<(Vec<u8>, usize, i64)> {
    let whole = text.iter().take_while(|byte| is_digit(byte)).count();
    let (mut digits, mut rest) = (text[..whole].to_vec(), &text[whole..]);
    let mut behind = 0;
    if let [b'.', fraction @ ..] = rest {
        behind = fraction.iter().take_while(|byte| is_digit(byte)).count();
        digits.extend_from_slice(&fraction[..behind]);
        rest = &fraction[behind..];
    }
    let exponent = match rest {
        [] => 0,
        [e, rest @ ..] if e.eq_ignore_ascii_case(&mark) => {
            let (sign, number) = match rest {
                [b'-', number @ ..] => (-1, number),
                [b'+', number @ ..] => (1, number),
                number => (1, number),
            };
            if number.is_empty() || !number.iter().all(u8::is_ascii_digit) {
                return None;
            }
            let most = |sum: i64, digit: &u8| (sum * 10 + i64::from(digit - b'0')).min(1 << 40);
            sign * number.iter().fold(0, most)
        }
        _ => return None,
    };
    (!digits.is_empty()).then_some((digits, behind, exponent))
}

fn read_hex(text: &[u8]) -> Option<Float> {
    let (digits, behind, exponent) = split(text, b'p', u8::is_ascii_hexdigit)?;
    let (mut bits, mut dropped, mut lost) = (0_u128, 0, false);
    for digit in digits {
        let digit = u128::from(char::from(digit).to_digit(16)?);
        if bits >> 120 == 0 {
            bits = bits << 4 | digit;
        } else {
            dropped += 4;
            lost |= digit != 0;
        }
    }
    let float = round(bits, lost, exponent - 4 * behind as i64 + dropped)?;
    (bits == 0 || float.bits != 0).then_some(float)
}

fn read_decimal(text: &[u8]) -> Option<Float> {
    let (digits, behind, exponent) = split(text, b'e', u8::is_ascii_digit)?;
    let tens = exponent - behind as i64;
    if digits.iter().all(|digit| *digit == b'0') {
        return Some(ZERO);
    }
    if tens.abs() > MOST_TENS {
        return None;
    }
    let (mut above, mut below) = (Big::default(), Big(vec![1]));
    for digit in digits {
        above.scale(10, u32::from(digit - b'0'));
    }
    let scaled = if tens < 0 { &mut below } else { &mut above };
    (0..tens.unsigned_abs()).for_each(|_| scaled.scale(10, 0));
    // So many bits that the quotient has 66 or 67 before the point: enough to round by, with what is left.
    let shift = 66 - (above.bits() - below.bits());
    if shift > 0 {
        above.shift(shift as usize)
    } else {
        below.shift(shift.unsigned_abs() as usize)
    }
    let quotient = above.divide(below);
    let float = round(quotient, !above.is_zero(), -shift)?;
    (float.bits != 0).then_some(float)
}

/// The nearest number, of two that are as near the even one; `lost`: there was a little more. Nothing: it is infinite.
fn round(bits: u128, lost: bool, exponent: i64) -> Option<Float> {
    if bits == 0 {
        return Some(ZERO);
    }
    let (mut bits, mut exponent) = (bits, exponent);
    let spare = 64 - i64::from(bits.leading_zeros());
    if spare <= 0 {
        bits <<= -spare;
    } else {
        let (half, rest) = (1_u128 << (spare - 1), bits & ((1 << spare) - 1));
        bits >>= spare;
        let up = match rest.cmp(&half) {
            Ordering::Greater => true,
            Ordering::Equal => lost || bits & 1 == 1,
            Ordering::Less => false,
        };
        bits += u128::from(up);
    }
    exponent += spare;
    if bits >> 64 != 0 {
        (bits, exponent) = (bits >> 1, exponent + 1);
    }
    if exponent > LARGEST {
        return None;
    }
    let is_nothing = exponent + 63 < SMALLEST || exponent + 63 == SMALLEST && bits == 1 << 63;
    Some(if is_nothing { ZERO } else { Float { negative: false, bits: bits as u64, exponent } })
}

/// The sum; nothing: it is infinite.
pub(super) fn add(a: Float, b: Float) -> Option<Float> {
    let (large, small) =
        if b.bits == 0 || a.bits != 0 && (a.exponent, a.bits) >= (b.exponent, b.bits) { (a, b) } else { (b, a) };
    if small.bits == 0 {
        return Some(large);
    }
    // 63 bits behind those of the larger one are enough to round rightly, if what is behind them is known to be there.
    let apart = (large.exponent - small.exponent) as u32;
    let aligned = u128::from(small.bits) << 63;
    let (shifted, lost) = match apart {
        0..=127 => (aligned >> apart, apart > 63 && aligned & ((1 << apart) - 1) != 0),
        _ => (0, true),
    };
    let (whole, shifted) = (u128::from(large.bits) << 63, shifted | u128::from(lost));
    let sum = if large.negative == small.negative { whole + shifted } else { whole - shifted };
    let negative = large.negative && sum != 0;
    round(sum, false, large.exponent - 63).map(|sum| Float { negative, ..sum })
}

impl Float {
    /// With the other sign.
    pub(super) fn negated(self) -> Self {
        Self { negative: !self.negative && self.bits != 0, ..self }
    }

    /// Whether it is less than another.
    pub(super) fn is_below(self, other: Self) -> bool {
        // A difference that is infinite has the sign of the larger one.
        add(self, other.negated()).map_or(self.negative, |difference| difference.negative)
    }

    /// As Redis writes it.
    pub(super) fn into_text(self) -> String {
        let (mut whole, mut fraction) = (Big(vec![]), 0_u128);
        if self.exponent >= 0 {
            whole.add(self.bits);
            whole.shift(self.exponent as usize);
        } else {
            let behind = self.exponent.unsigned_abs() as u32;
            let before = self.bits.checked_shr(behind).unwrap_or(0);
            let rest = if behind < 64 { self.bits & ((1 << behind) - 1) } else { self.bits };
            let mut before = before;
            // Of fewer bits than 2^121: behind more it is nothing.
            let scaled = u128::from(rest) * 10_u128.pow(DIGITS as u32);
            if behind < 123 {
                fraction = scaled >> behind;
                let (lost, half) = (scaled & ((1 << behind) - 1), 1_u128 << (behind - 1));
                fraction += u128::from(lost > half || lost == half && fraction & 1 == 1);
                if fraction == 10_u128.pow(DIGITS as u32) {
                    (before, fraction) = (before + 1, 0);
                }
            }
            whole.add(before);
        }
        let mut text = whole.into_text();
        if fraction > 0 {
            let digits = format!("{fraction:017}");
            text = format!("{text}.{}", digits.trim_end_matches('0'));
        }
        if self.negative && text != "0" { format!("-{text}") } else { text }
    }
}

/// A whole number of any length, its lowest digits (of 32 bits) first, none of them zero at the end.
#[derive(Debug, Default)]
struct Big(Vec<u32>);

impl Big {
    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn bits(&self) -> i64 {
        let top = self.0.last().map_or(0, |top| 32 - top.leading_zeros());
        (self.0.len() as i64 - 1).max(0) * 32 + i64::from(top)
    }

    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    /// Times `by`, and `more`.
    fn scale(&mut self, by: u32, more: u32) {
        let mut carry = u64::from(more);
        for digit in &mut self.0 {
            let product = u64::from(*digit) * u64::from(by) + carry;
            (*digit, carry) = (product as u32, product >> 32);
        }
        if carry > 0 {
            self.0.push(carry as u32);
        }
    }

    fn add(&mut self, number: u64) {
        debug_assert!(self.is_zero());
        self.0 = vec![number as u32, (number >> 32) as u32];
        self.trim();
    }

    /// Times two to the power of `bits`.
    fn shift(&mut self, bits: usize) {
        if self.is_zero() {
            return;
        }
        self.scale(1 << (bits % 32), 0);
        self.0.splice(0..0, std::iter::repeat_n(0, bits / 32));
    }

    fn halve(&mut self) {
        let mut carry = 0;
        for digit in self.0.iter_mut().rev() {
            (*digit, carry) = (*digit >> 1 | carry << 31, *digit & 1);
        }
        self.trim();
    }

    fn is_less(&self, other: &Self) -> bool {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev())) == Ordering::Less
    }

    fn subtract(&mut self, other: &Self) {
        let mut borrow = 0;
        for (at, digit) in self.0.iter_mut().enumerate() {
            let less = i64::from(other.0.get(at).copied().unwrap_or(0)) + borrow;
            let rest = i64::from(*digit) - less;
            borrow = i64::from(rest < 0);
            *digit = rest as u32;
        }
        self.trim();
    }

    /// The quotient, of 68 bits at most; what is left is the remainder.
    fn divide(&mut self, mut by: Self) -> u128 {
        const BITS: usize = 67;
        by.shift(BITS);
        let mut quotient = 0;
        for _ in 0..=BITS {
            quotient <<= 1;
            if !self.is_less(&by) {
                self.subtract(&by);
                quotient |= 1;
            }
            by.halve();
        }
        quotient
    }

    fn into_text(mut self) -> String {
        const NINE: u64 = 1_000_000_000;
        let mut parts = Vec::new();
        while !self.is_zero() {
            let mut rest = 0;
            for digit in self.0.iter_mut().rev() {
                let all = rest << 32 | u64::from(*digit);
                (*digit, rest) = ((all / NINE) as u32, all % NINE);
            }
            self.trim();
            parts.push(rest);
        }
        let Some(first) = parts.pop() else { return "0".to_owned() };
        parts.iter().rev().fold(first.to_string(), |text, part| text + &format!("{part:09}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line: a number, another one, and what INCRBYFLOAT of Redis 7.0.15 (x86-64) made of them.
    const COMPARED: &str = include_str!("floats.txt");

    #[test]
    fn sums_are_those_of_redis() {
        let mut seen = 0;
        for line in COMPARED.lines() {
            let [a, b, redis] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let unquote = |text: &str| -> Vec<u8> { text.replace("\\s", " ").replace("\\0", "\0").into_bytes() };
            let ours = match (read(&unquote(a)), read(&unquote(b))) {
                (Some(a), Some(b)) => sum(a, b).unwrap_or_else(|| "infinite".to_owned()),
                _ => "no number".to_owned(),
            };
            assert_eq!(ours, redis, "{a} + {b}");
            seen += 1;
        }
        assert!(seen > 300, "{seen}");
    }

    #[test]
    fn long_texts_are_read_in_bounded_time() {
        let digits = "9".repeat(LONGEST - 1);
        assert!(read(digits.as_bytes()).is_none(), "infinite, which no text but inf is");
        assert!(read(format!("0.{}", &digits[2..]).as_bytes()).is_some());
        assert!(read(&[b'1'; LONGEST]).is_none());
    }
}
