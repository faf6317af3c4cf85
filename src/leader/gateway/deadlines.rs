//! When messages end by themselves: the times of SET, GETEX, EXPIRE and their kin, as Redis 7.2 reads them, texts of errors too.

use std::slice::Iter;
use std::time::Duration;

use bytes::Bytes;

use super::refused::{NOT_AN_INTEGER, SYNTAX};
use crate::protocol::resp::{Words, number};
use crate::protocol::table::DataOp;
use crate::types::Deadline;

/// How a command says a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    /// Milliseconds in its unit.
    unit: i64,
    /// Since 1970; else from now on.
    absolute: bool,
}

/// The forms of a time, as options name them.
const OPTIONS: [(&[u8], Form); 4] = [
    (b"EX", Form { unit: 1000, absolute: false }),
    (b"PX", Form { unit: 1, absolute: false }),
    (b"EXAT", Form { unit: 1000, absolute: true }),
    (b"PXAT", Form { unit: 1, absolute: true }),
];

impl Form {
    /// That of an option, if the word is one.
    fn of(word: &[u8]) -> Option<Self> {
        OPTIONS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name)).map(|(_, form)| *form)
    }

    /// That of a command of its own.
    pub(super) fn of_command(op: DataOp) -> Self {
        Self {
            unit: if matches!(op, DataOp::PExpire | DataOp::PExpireAt | DataOp::PSetEx) { 1 } else { 1000 },
            absolute: matches!(op, DataOp::ExpireAt | DataOp::PExpireAt),
        }
    }

    /// Milliseconds since 1970, which may be in the past (0 and below for what is before 1970); `positive`: zero and less
    /// are refused.
    pub(super) fn read(self, word: &[u8], now: u64, positive: bool, command: &str) -> Result<i64, String> {
        let number = number(word).ok_or(NOT_AN_INTEGER)?;
        let base = if self.absolute { 0 } else { now as i64 };
        let at = number.checked_mul(self.unit).and_then(|ms| ms.checked_add(base));
        match at.filter(|_| !positive || number > 0) {
            Some(at) => Ok(at),
            None => Err(format!("ERR invalid expire time in '{command}' command")),
        }
    }
}

/// The time of a SET with nothing but that, from now on; nothing: it is none, or one that is refused.
pub(super) fn plain_time(option: &[u8], word: &[u8]) -> Option<Duration> {
    let form = Form::of(option).filter(|form| !form.absolute)?;
    // Whatever the time is now, in this millennium.
    let ms = number(word)?.checked_mul(form.unit).filter(|ms| (1..i64::MAX / 2).contains(ms))?;
    Some(Duration::from_millis(ms as u64))
}

/// What becomes of the time of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// It stays as it is.
    Kept,
    /// It has none.
    Never,
    /// Milliseconds since 1970.
    At(i64),
}

impl Until {
    /// The deadline from now on; `Err`: it has passed, and the message is to go.
    pub(super) fn deadline(self, before: Option<Deadline>, now: u64) -> Result<Option<Deadline>, ()> {
        match self {
            Self::Kept => Ok(before),
            Self::Never => Ok(None),
            Self::At(at) => match u64::try_from(at).ok().filter(|at| *at > now).and_then(Deadline::at) {
                Some(deadline) => Ok(Some(deadline)),
                None => Err(()),
            },
        }
    }
}

/// What SET is told beside its message.
#[derive(Debug, Default)]
pub(super) struct SetOptions {
    /// Only if the id has no message.
    pub(super) only_new: bool,
    /// Only if it has one.
    pub(super) only_old: bool,
    /// Only if its message is this one, or (`false`) is not.
    pub(super) compare: Option<(Bytes, bool)>,
    /// The message before is the answer.
    pub(super) give: bool,
    /// Its time; nothing: it has none.
    pub(super) until: Option<Until>,
}

impl SetOptions {
    /// Those of `SET id message ...`. As in Redis, all options are looked at before the number of any.
    pub(super) fn read(words: &Words, now: u64) -> Result<Self, String> {
        Self::of(&words[3..], now, "set")
    }

    /// Those among these words, which end this command.
    pub(super) fn of(words: &[Bytes], now: u64, command: &str) -> Result<Self, String> {
        let (mut options, mut time, mut rest) = (Self::default(), None, words.iter());
        while let Some(word) = rest.next() {
            let is_conditional = options.only_new || options.only_old || options.compare.is_some();
            match word.to_ascii_uppercase().as_slice() {
                b"NX" if !is_conditional || options.only_new => options.only_new = true,
                b"XX" if !is_conditional || options.only_old => options.only_old = true,
                name @ (b"IFEQ" | b"IFNE") if !is_conditional => {
                    options.compare = Some((rest.next().ok_or(SYNTAX)?.clone(), name == b"IFEQ"));
                }
                b"GET" => options.give = true,
                b"KEEPTTL" if time.is_none() => options.until = Some(Until::Kept),
                _ if options.until.is_none() => time = Some(Said::read(time, word, &mut rest)?),
                _ => return Err(SYNTAX.to_owned()),
            }
        }
        if let Some(time) = time {
            options.until = Some(time.until(now, command)?);
        }
        Ok(options)
    }
}

/// A time that was said: its form, and the word for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said<'a>(Form, &'a Bytes);

impl<'a> Said<'a> {
    /// That of an option and the word behind it; one of the same form may be said before, and counts no more.
    pub(super) fn read(before: Option<Self>, word: &Bytes, rest: &mut Iter<'a, Bytes>) -> Result<Self, String> {
        let form = Form::of(word).filter(|form| before.is_none_or(|before| before.0 == *form)).ok_or(SYNTAX)?;
        Ok(Self(form, rest.next().ok_or(SYNTAX)?))
    }

    pub(super) fn until(self, now: u64, command: &str) -> Result<Until, String> {
        Ok(Until::At(self.0.read(self.1, now, true, command)?))
    }
}

/// What GETEX does to the time, as far as words go; the number is read by [`GetEx::until`], if there is a message.
#[derive(Debug)]
pub(super) struct GetEx<'a> {
    time: Option<Said<'a>>,
    persist: bool,
}

impl<'a> GetEx<'a> {
    /// The options behind the id.
    pub(super) fn read(words: &'a Words) -> Result<Self, String> {
        let (mut options, mut rest) = (Self { time: None, persist: false }, words[2..].iter());
        while let Some(word) = rest.next() {
            match word.eq_ignore_ascii_case(b"PERSIST") {
                true if options.time.is_none() => options.persist = true,
                false if !options.persist => options.time = Some(Said::read(options.time, word, &mut rest)?),
                _ => return Err(SYNTAX.to_owned()),
            }
        }
        Ok(options)
    }

    /// What becomes of the time.
    pub(super) fn until(&self, now: u64) -> Result<Until, String> {
        match self.time {
            Some(time) => time.until(now, "getex"),
            None if self.persist => Ok(Until::Never),
            None => Ok(Until::Kept),
        }
    }
}

/// On which times EXPIRE and its kin may be put over the one that is there.
#[derive(Debug, Default)]
pub(super) struct Only {
    never: bool,
    ending: bool,
    later: bool,
    sooner: bool,
}

impl Only {
    /// The options behind the time.
    pub(super) fn read(words: &Words) -> Result<Self, String> {
        let mut only = Self::default();
        for word in &words[3..] {
            match word.to_ascii_uppercase().as_slice() {
                b"NX" => only.never = true,
                b"XX" => only.ending = true,
                b"GT" => only.later = true,
                b"LT" => only.sooner = true,
                _ => return Err(format!("ERR Unsupported option {}", String::from_utf8_lossy(word))),
            }
        }
        if only.never && (only.ending || only.later || only.sooner) {
            return Err("ERR NX and XX, GT or LT options at the same time are not compatible".to_owned());
        }
        if only.later && only.sooner {
            return Err("ERR GT and LT options at the same time are not compatible".to_owned());
        }
        Ok(only)
    }

    /// Whether this time (milliseconds since 1970) may be put over the one before; never is later than all.
    pub(super) fn admits(&self, at: i64, before: Option<Deadline>) -> bool {
        let before = before.map(|deadline| deadline.unix_ms() as i64);
        !(self.never && before.is_some()
            || self.ending && before.is_none()
            || self.later && before.is_none_or(|before| at <= before)
            || self.sooner && before.is_some_and(|before| at >= before))
    }
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    #[test]
    fn times_are_read_as_redis_reads_them() {
        let now = 1_000_000;
        for (line, until) in [
            ("SET a x", Ok(None)),
            ("SET a x EX 10", Ok(Some(Until::At(1_010_000)))),
            ("SET a x px 10 NX GET", Ok(Some(Until::At(1_000_010)))),
            ("SET a x EXAT 10", Ok(Some(Until::At(10_000)))),
            ("SET a x KEEPTTL", Ok(Some(Until::Kept))),
            ("SET a x EX 10 PX 5", Err(SYNTAX)),
            ("SET a x EX 10 KEEPTTL", Err(SYNTAX)),
            ("SET a x KEEPTTL EX 10", Err(SYNTAX)),
            ("SET a x EX", Err(SYNTAX)),
            ("SET a x EX 10 EX 20", Ok(Some(Until::At(1_020_000)))),
            ("SET a x EX abc XX NX", Err(SYNTAX)),
            ("SET a x PXAT 0 EXAT 0", Err(SYNTAX)),
            ("SET a x NX XX", Err(SYNTAX)),
            ("SET a x NX IFEQ y", Err(SYNTAX)),
            ("SET a x IFEQ", Err(SYNTAX)),
            ("SET a x EX 1.5", Err(NOT_AN_INTEGER)),
            ("SET a x EX 0", Err("ERR invalid expire time in 'set' command")),
            ("SET a x PX -1", Err("ERR invalid expire time in 'set' command")),
            ("SET a x EX 9223372036854775807", Err("ERR invalid expire time in 'set' command")),
            ("SET a x PX 9223372036854775807", Err("ERR invalid expire time in 'set' command")),
        ] {
            let read = SetOptions::read(&words(line), now).map(|options| options.until);
            assert_eq!(read, until.map_err(str::to_owned), "{line}");
        }
        for (line, until) in [
            ("GETEX a", Ok(Until::Kept)),
            ("GETEX a PERSIST", Ok(Until::Never)),
            ("GETEX a PX 5", Ok(Until::At(1_000_005))),
            ("GETEX a PERSIST EX 5", Err(SYNTAX)),
            ("GETEX a KEEPTTL", Err(SYNTAX)),
            ("GETEX a EX abc PERSIST", Err(SYNTAX)),
            ("GETEX a PX 1 PX 2", Ok(Until::At(1_000_002))),
            ("GETEX a EX 0", Err("ERR invalid expire time in 'getex' command")),
        ] {
            let words = words(line);
            let read = GetEx::read(&words).and_then(|options| options.until(now));
            assert_eq!(read, until.map_err(str::to_owned), "{line}");
        }
    }

    #[test]
    fn a_plain_time_is_one_that_cannot_be_refused() {
        let ms = |option: &str, word: &str| plain_time(option.as_bytes(), word.as_bytes()).map(|time| time.as_millis());
        assert_eq!([ms("EX", "10"), ms("px", "7")], [Some(10_000), Some(7)]);
        for (option, word) in
            [("EXAT", "10"), ("EX", "0"), ("PX", "-1"), ("EX", "9223372036854775807"), ("EX", "x"), ("NX", "1")]
        {
            assert_eq!(ms(option, word), None, "{option} {word}");
        }
    }

    #[test]
    fn a_time_goes_over_the_one_before_where_it_may() {
        let at = |ms| Deadline::at(ms);
        for (line, new, before, admits) in [
            ("EXPIRE a 5", 5, None, true),
            ("EXPIRE a 5 NX", 5, at(9), false),
            ("EXPIRE a 5 NX", 5, None, true),
            ("EXPIRE a 5 XX", 5, None, false),
            ("EXPIRE a 5 GT", 5, None, false),
            ("EXPIRE a 5 GT", 5, at(5), false),
            ("EXPIRE a 5 gt", 6, at(5), true),
            ("EXPIRE a 5 LT", 6, None, true),
            ("EXPIRE a 5 LT XX", 6, None, false),
            ("EXPIRE a 5 LT", 5, at(5), false),
        ] {
            assert_eq!(Only::read(&words(line)).unwrap().admits(new, before), admits, "{line} over {before:?}");
        }
        for (line, why) in
            [("EXPIRE a 5 NX GT", "NX and XX"), ("EXPIRE a 5 GT LT", "GT and LT"), ("EXPIRE a 5 AB", "AB")]
        {
            assert!(Only::read(&words(line)).unwrap_err().contains(why), "{line}");
        }
    }
}
