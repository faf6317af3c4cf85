//! `tolerance.conf` and the sizes that people write, parsed from text.

use std::fmt;
use std::str::FromStr;

use crate::types::MAX_TOLERANCE;

/// Copies a message where nothing is configured.
pub const DEFAULT_TOLERANCE: usize = 2;

/// Clients at once, if nothing else is asked for.
pub const MAX_CLIENTS: u32 = 20_000;

/// Why a `tolerance.conf` cannot be used: the line, and what is right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTolerance {
    /// No line sets the key.
    #[error("no line says tolerance=N; write for example tolerance=2")]
    Missing,
    /// A line that is neither blank, nor a comment, nor `tolerance=N`.
    #[error("line {line}: {text:?} is not tolerance=N with N from 1 to {MAX_TOLERANCE}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What stands there.
        text: String,
    },
    /// The key is set twice.
    #[error("line {line}: tolerance is set a second time; keep one of the lines")]
    Twice {
        /// Counted from 1.
        line: usize,
    },
}

/// Reads `tolerance.conf`: `tolerance=N`, N from 1 to 7; blank lines, `#` comments, CRLF and a BOM are allowed.
pub fn parse_tolerance(text: &str) -> Result<usize, BadTolerance> {
    let mut found = None;
    for (i, raw) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = raw.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let bad = || BadTolerance::Line { line: i + 1, text: raw.chars().take(80).collect() };
        let (key, value) = line.split_once('=').ok_or_else(bad)?;
        if key.trim() != "tolerance" {
            return Err(bad());
        }
        let value = value.trim();
        if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let tolerance = value.parse().ok().filter(|n| (1..=MAX_TOLERANCE).contains(n)).ok_or_else(bad)?;
        if found.replace(tolerance).is_some() {
            return Err(BadTolerance::Twice { line: i + 1 });
        }
    }
    found.ok_or(BadTolerance::Missing)
}

/// A number of bytes, read as people write it: `4096`, `64KiB`, `1MiB`, `10MB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let scale: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            _ => return Err(format!("{text:?} is not a size; write for example 4096, 64KiB or 1MiB")),
        };
        let number: u64 =
            number.parse().map_err(|_| format!("{text:?} is not a size; write for example 4096, 64KiB or 1MiB"))?;
        number.checked_mul(scale).map(Self).ok_or_else(|| format!("{text:?} is too large"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (scale, unit) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
            if self.0 >= scale && self.0.is_multiple_of(scale) {
                return write!(f, "{}{unit}", self.0 / scale);
            }
        }
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerance_is_read_as_people_write_it() {
        for text in ["tolerance=3", "tolerance=3\n", "\u{feff}# copies\r\n\r\n tolerance = 3 # three\r\n"] {
            assert_eq!(parse_tolerance(text), Ok(3), "{text:?}");
        }
        for n in 1..=7 {
            assert_eq!(parse_tolerance(&format!("tolerance={n}")), Ok(n));
        }
    }

    #[test]
    fn illegal_tolerance_names_its_line() {
        assert_eq!(parse_tolerance(""), Err(BadTolerance::Missing));
        assert_eq!(parse_tolerance("# tolerance=2\n"), Err(BadTolerance::Missing));
        for bad in ["0", "8", "abc", "", "-1", "+2", "2.5", "99999999999999999999"] {
            let text = format!("\ntolerance={bad}\n");
            assert!(matches!(parse_tolerance(&text), Err(BadTolerance::Line { line: 2, .. })), "{bad:?}");
        }
        assert!(matches!(parse_tolerance("replicas=2"), Err(BadTolerance::Line { line: 1, .. })));
        assert_eq!(parse_tolerance("tolerance=2\ntolerance=2"), Err(BadTolerance::Twice { line: 2 }));
    }

    #[test]
    fn sizes_round_trip() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("64KiB", 65536), ("1MiB", 1 << 20), ("10MB", 10_000_000)] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)));
            let shown = ByteSize(bytes).to_string();
            assert_eq!(shown.parse(), Ok(ByteSize(bytes)));
        }
        assert!("12 parsecs".parse::<ByteSize>().is_err());
        assert!("99999999999GiB".parse::<ByteSize>().is_err());
    }
}
