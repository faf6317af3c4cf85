//! One lasting trouble makes one line, and then at most a line a minute with a count.

use std::collections::BTreeMap;
use std::time::Duration;

/// How often a trouble that goes on is said again.
const EVERY: Duration = Duration::from_secs(60);

/// Troubles that are told apart; the one that was said the longest ago makes room for a new one.
const MOST: usize = 64;

/// What was said when.
#[derive(Debug, Default)]
pub struct Repeats(BTreeMap<String, (Duration, u64)>);

impl Repeats {
    /// The trouble of this name occurred. If it is to be said: how many times it went unsaid since it was.
    pub fn note(&mut self, name: &str, now: Duration) -> Option<Unsaid> {
        if let Some((said, unsaid)) = self.0.get_mut(name) {
            if now.saturating_sub(*said) < EVERY {
                *unsaid += 1;
                return None;
            }
            *said = now;
            return Some(Unsaid(std::mem::take(unsaid)));
        }
        if self.0.len() >= MOST {
            let oldest = self.0.iter().min_by_key(|(_, (said, _))| *said).map(|(name, _)| name.clone());
            oldest.map(|name| self.0.remove(&name));
        }
        self.0.insert(name.to_owned(), (now, 0));
        Some(Unsaid(0))
    }
}

/// How many lines were left out, for the end of the one that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsaid(pub u64);

impl std::fmt::Display for Unsaid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => Ok(()),
            n => write!(f, " (and {n} times more since this was last said)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_trouble_is_said_once_and_then_counted() {
        // (second, name, said with so many left out)
        let rows = [
            (0, "a", Some(0)),
            (1, "a", None),
            (1, "b", Some(0)),
            (59, "a", None),
            (60, "a", Some(2)),
            (61, "b", Some(0)),
            (119, "a", None),
            (500, "a", Some(1)),
        ];
        let mut repeats = Repeats::default();
        for (at, name, said) in rows {
            assert_eq!(repeats.note(name, Duration::from_secs(at)).map(|unsaid| unsaid.0), said, "{name} at {at}");
        }
        assert_eq!((Unsaid(0).to_string(), Unsaid(7).to_string().contains("7 times")), (String::new(), true));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut repeats = Repeats::default();
        (0..1000).for_each(|n| assert!(repeats.note(&n.to_string(), Duration::from_secs(n)).is_some()));
        assert_eq!(repeats.0.len(), MOST);
        assert_eq!(repeats.note("999", Duration::from_secs(1000)), None);
    }
}
