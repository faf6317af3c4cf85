//! How numbers, times, sizes and foreign text are written on screens and in reports.
//!
//! Invariant: what comes out has no control characters, and numbers are never
//! cut: a column grows rather than show a wrong figure.

use ratatui::text::Span;

use crate::telemetry::{escaped, grouped};

/// Operations a second: whole ones, or one decimal where there are few.
pub fn rate(per_second: f64) -> String {
    if per_second > 0.0 && per_second < 9.95 {
        format!("{per_second:.1}")
    } else {
        grouped(per_second.max(0.0).round() as u64)
    }
}

/// Bytes as `41.2 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be shown as 1024.0 of the smaller unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A latency in milliseconds: `0.05ms`, `4.1ms`, `125ms`, `1.5s`.
pub fn latency(ms: f64) -> String {
    match ms.max(0.0) {
        ms if ms < 0.995 => format!("{ms:.2}ms"),
        ms if ms < 9.95 => format!("{ms:.1}ms"),
        ms if ms < 999.5 => format!("{ms:.0}ms"),
        ms => age(ms / 1000.0),
    }
}

/// Seconds as people say them: `1.2s`, `41s`, `3m05s`, `2h14m`, `3d04h`.
pub fn age(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    if seconds < 9.95 {
        return format!("{seconds:.1}s");
    }
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

/// A setting in seconds: as [`age`], but `5s` instead of `5.0s`.
pub fn interval(seconds: f64) -> String {
    let text = age(seconds);
    text.strip_suffix(".0s").map(|whole| format!("{whole}s")).unwrap_or(text)
}

/// `1 message`, `2 messages`.
pub fn plural(n: u64, one: &str) -> String {
    format!("{} {one}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// Text from outside, fit for a screen: escaped, and ASCII only where the terminal has no more.
pub fn foreign(text: &str, utf8: bool) -> String {
    let clean = escaped(text);
    if utf8 || clean.is_ascii() {
        return clean;
    }
    let mut ascii = String::with_capacity(clean.len());
    for c in clean.chars() {
        if c.is_ascii() { ascii.push(c) } else { ascii.extend(c.escape_default()) }
    }
    ascii
}

/// Columns that `text` takes on a terminal.
pub fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// `text` in at most `columns`, with a mark where something was cut off.
pub fn cut(text: &str, columns: usize, utf8: bool) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    if columns == 0 {
        return String::new();
    }
    let mut short = String::new();
    for c in text.chars() {
        let longer = short.len();
        short.push(c);
        if width(&short) > columns - 1 {
            short.truncate(longer);
            break;
        }
    }
    short.push(if utf8 { '…' } else { '~' });
    short
}

/// `text` cut or filled with blanks to exactly `columns`.
pub fn fit(text: &str, columns: usize, utf8: bool) -> String {
    let mut text = cut(text, columns, utf8);
    let blanks = columns.saturating_sub(width(&text));
    text.extend(std::iter::repeat_n(' ', blanks));
    text
}

/// The newest of `values` as one character each, oldest left, the largest one highest.
pub(super) fn sparkline(values: &[u64], columns: usize, utf8: bool) -> String {
    let levels: &[char] =
        if utf8 { &['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'] } else { &['.', ':', '|'] };
    let shown = &values[values.len().saturating_sub(columns)..];
    let top = shown.iter().copied().max().unwrap_or(0).max(1);
    let mut line = " ".repeat(columns - shown.len());
    line.extend(shown.iter().map(|&v| levels[(v as f64 / top as f64 * (levels.len() - 1) as f64).round() as usize]));
    line
}

/// A bar that is `part` (0 to 1) full; anything above nothing shows.
pub fn bar(part: f64, columns: usize, utf8: bool) -> String {
    let part = part.clamp(0.0, 1.0);
    let mut full = (part * columns as f64).round() as usize;
    if part > 0.0 && full == 0 && columns > 0 {
        full = 1;
    }
    let (on, off) = if utf8 { ("█", "░") } else { ("#", ".") };
    on.repeat(full) + &off.repeat(columns - full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (u64::MAX, "18,446,744,073,709,551,615")] {
            assert_eq!(grouped(n), text);
        }
        for (n, text) in [(0.0, "0"), (0.34, "0.3"), (9.96, "10"), (1284.4, "1,284"), (-1.0, "0"), (f64::NAN, "0")] {
            assert_eq!(rate(n), text, "{n}");
        }
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (43_200_000, "41.2 MiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(n), text);
        }
        assert_eq!((plural(1, "copy"), plural(2000, "message")), ("1 copy".to_owned(), "2,000 messages".to_owned()));
    }

    #[test]
    fn times() {
        for (ms, text) in
            [(0.0, "0.00ms"), (0.9, "0.90ms"), (0.999, "1.0ms"), (9.96, "10ms"), (125.0, "125ms"), (1500.0, "1.5s")]
        {
            assert_eq!(latency(ms), text, "{ms}");
        }
        for (s, text) in [
            (-1.0, "0.0s"),
            (f64::NAN, "0.0s"),
            (1.23, "1.2s"),
            (9.97, "10s"),
            (41.2, "41s"),
            (59.9, "1m00s"),
            (8040.0, "2h14m"),
            (273_600.0, "3d04h"),
        ] {
            assert_eq!(age(s), text, "{s}");
        }
        assert_eq!((interval(5.0), interval(0.5), interval(10.0)), ("5s".into(), "0.5s".into(), "10s".into()));
    }

    #[test]
    fn text_fits() {
        assert_eq!(fit("abc", 5, true), "abc  ");
        assert_eq!(fit("abcdef", 5, true), "abcd…");
        assert_eq!(fit("abcdef", 5, false), "abcd~");
        assert_eq!(fit("日本語", 4, true), "日… ", "a wide character is not halved");
        assert_eq!(fit("abc", 0, true), "");
        assert_eq!(foreign("Dünya\x1b", true), "Dünya\\u{1b}");
        assert_eq!(foreign("Dünya", false), "D\\u{fc}nya");
    }

    #[test]
    fn lines_and_bars() {
        assert_eq!(sparkline(&[9, 0, 5, 10], 3, false), ".:|", "the newest");
        assert_eq!(sparkline(&[0, 7], 4, true), "  ▁█");
        assert_eq!(sparkline(&[], 2, true), "  ");
        assert_eq!(sparkline(&[u64::MAX, 1], 0, true), "");
        assert_eq!(bar(0.5, 4, false), "##..");
        assert_eq!(bar(0.001, 4, false), "#...");
        assert_eq!(bar(7.0, 2, true), "██");
    }
}
