//! What a group of leaders agrees on: records of one append, and in whose name they are appended.
//!
//! Bytes: format, epoch (u32), run (u64), number (u64), then each record behind its length (u32); little-endian.

use crate::cluster::state::{Event, State};
use crate::leader::journal::Record;
use crate::seeded::{self, Bug};
use crate::types::Epoch;

/// The format that this build writes; it reads no later one.
const FORMAT: u8 = 1;

/// Format, epoch, run and number.
const HEAD: usize = 1 + 4 + 8 + 8;

/// Whose an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Author {
    /// The epoch in whose name it is appended; of a beginning: the one that begins.
    pub(super) epoch: Epoch,
    /// The process that appended it; random.
    pub(super) run: u64,
    /// Its number in that process.
    pub(super) number: u64,
}

/// An entry of the log that the group agrees on.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) author: Author,
    /// What becomes true.
    pub(super) events: Vec<Event>,
    /// The other records: beginnings, and how far what is before is believed.
    pub(super) marks: Vec<Record>,
}

impl Entry {
    /// The bytes of an entry of these records, each of which `encode` appends.
    pub(super) fn encode<'a, T: 'a>(
        author: Author,
        records: impl Iterator<Item = &'a T>,
        encode: impl Fn(&T, &mut Vec<u8>),
    ) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + records.size_hint().0 * 64);
        out.push(FORMAT);
        out.extend_from_slice(&author.epoch.0.to_le_bytes());
        out.extend_from_slice(&author.run.to_le_bytes());
        out.extend_from_slice(&author.number.to_le_bytes());
        for record in records {
            let at = out.len();
            out.extend_from_slice(&[0; 4]);
            encode(record, &mut out);
            let length = (out.len() - at - 4) as u32;
            out[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
        out
    }

    /// # Errors
    /// Why it cannot be read.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let short = || "it is too short".to_owned();
        let (head, mut rest) = bytes.split_first_chunk::<HEAD>().ok_or_else(short)?;
        if head[0] != FORMAT {
            return Err(format!("its format is {}, and this version knows {FORMAT}: use a newer hatokuse", head[0]));
        }
        let number = |at: usize| head[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let epoch = head[1..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let author = Author { epoch: Epoch(epoch), run: number(5), number: number(13) };
        let mut entry = Self { author, events: Vec::new(), marks: Vec::new() };
        while !rest.is_empty() {
            let (length, behind) = rest.split_first_chunk().ok_or_else(short)?;
            let (record, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(short)?;
            match Record::decode(record)? {
                Record::Event(event) => entry.events.push(event),
                mark => entry.marks.push(mark),
            }
            rest = behind;
        }
        Ok(entry)
    }

    /// Ends of intents that went along, and what was appended.
    pub(super) fn parts(&self) -> (&[Event], &[Event]) {
        let ends = self.events.iter().take_while(|event| matches!(event, Event::Concluded(_) | Event::Dropped(_)));
        self.events.split_at(ends.count())
    }

    /// Whether it becomes true where this is true already. What a leader of an ended epoch appends late does not, and an
    /// epoch begins once: so two peers that both believe to lead cannot mix what they do. Every replica decides the same.
    pub(super) fn is_admitted(&self, state: &State) -> bool {
        let begins = self.marks.iter().any(|record| matches!(record, Record::Began { .. }));
        let (last, epoch) = (state.last().map(|last| last.epoch), self.author.epoch);
        match begins {
            true => last.is_none_or(|last| epoch > last),
            // Before the first epoch begins it is known, at most, on how many nodes a message is to be kept.
            false => last.unwrap_or_default() == epoch || seeded::active(Bug::EndedEpochWrites),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::knowledge::Trust;
    use crate::types::{IoMode, Leadership, Uuid};

    fn author(epoch: u32) -> Author {
        Author { epoch: Epoch(epoch), run: 7, number: 1 << 40 }
    }

    fn began(epoch: u32) -> Record {
        let leadership = Leadership { cluster_id: Uuid([1; 16]), epoch: Epoch(epoch) };
        let (boot_id, io_mode) = (String::new(), IoMode::Unbuffered);
        Record::Began { leadership, run: 7, boot_id, io_mode, trust: Trust::Whole }
    }

    #[test]
    fn what_is_encoded_is_decoded_and_nothing_else() {
        let events = vec![Event::Tolerance(2), Event::Time(9)];
        let records: Vec<Record> = [began(3)].into_iter().chain(events.iter().cloned().map(Record::Event)).collect();
        let bytes = Entry::encode(author(3), records.iter(), Record::encode);
        assert_eq!(Entry::decode(&bytes), Ok(Entry { author: author(3), events, marks: vec![began(3)] }));
        for cut in 1..4 {
            assert!(Entry::decode(&bytes[..bytes.len() - cut]).is_err());
        }
        assert!(Entry::decode(&[]).is_err());
        let mut newer = bytes;
        newer[0] = 2;
        assert!(Entry::decode(&newer).unwrap_err().contains("newer"));
    }

    #[test]
    fn only_the_last_epoch_writes_and_each_begins_once() {
        let mut state = State::new(1);
        let begin = |epoch| Entry { author: author(epoch), events: vec![], marks: vec![began(epoch)] };
        let tolerance = |epoch| Entry { author: author(epoch), events: vec![Event::Tolerance(2)], marks: vec![] };
        assert!(tolerance(0).is_admitted(&state) && !tolerance(1).is_admitted(&state));
        assert!(begin(1).is_admitted(&state));
        let leadership = Leadership { cluster_id: Uuid([1; 16]), epoch: Epoch(4) };
        state.apply(&Event::Began { leadership, run: 7, hears_all: false });
        for (epoch, begins, writes) in [(0, false, false), (3, false, false), (4, false, true), (5, true, false)] {
            assert_eq!(begin(epoch).is_admitted(&state), begins, "{epoch}");
            assert_eq!(tolerance(epoch).is_admitted(&state), writes, "{epoch}");
        }
    }
}
