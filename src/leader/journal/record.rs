//! What the log's records say, and their bytes. A record that was ever written is read for ever: a new kind gets a new number.

use crate::cluster::knowledge::Trust;
use crate::cluster::mapping::Commit;
use crate::cluster::state::Event;
use crate::seeded::{self, Bug};
use crate::types::{
    CopyRecord, Deadline, Epoch, Holders, IoMode, Leadership, MAX_TOLERANCE, Member, MessageId, NodeId, Removed, Uuid,
    Version,
};

/// A record of the log: something that is true of the register, or of this file alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Something became true.
    Event(Event),
    /// A leader began to lead, and this is how it writes into this file. Always synced.
    Began {
        /// Its cluster and epoch.
        leadership: Leadership,
        /// Random, one a leader process.
        run: u64,
        /// The boot of the machine that it runs in.
        boot_id: String,
        /// Whether every batch is synced from here on.
        io_mode: IoMode,
        /// How far it believed what is before.
        trust: Trust,
    },
    /// All that nodes had reported is in the log: it is whole again, and nodes were told of commits up to this
    /// version. Always synced.
    Whole(Version),
    /// What the boot-time clock of the machine showed when the register's time was this: a leader that is started again
    /// in the same boot goes on from there, whatever wall clocks show.
    Clock {
        /// The register's time, in milliseconds since 1970.
        unix_ms: u64,
        /// Since the boot that the last `Began` names, in milliseconds.
        since_boot_ms: u64,
    },
    /// The leader ended after writing everything. Always synced.
    Closed,
}

/// Whether an event is put on stable storage even in buffered mode. That a deletion is forgotten is: a power cut may
/// bring back what a member has removed, and then this says that it is old. So is that a transaction never becomes
/// true: what was true before is written again behind it.
pub(super) fn is_synced(event: &Event) -> bool {
    match event {
        Event::Commit(_)
        | Event::Commits(_)
        | Event::Prepared { .. }
        | Event::Intent(_)
        | Event::Concluded(_)
        | Event::Dropped(_) => false,
        Event::Began { .. } => !seeded::active(Bug::EpochNotSynced),
        _ => true,
    }
}

/// Appends the bytes of an event's record: a kind, then fixed fields in little endian, then text to the end. A beginning
/// has to say something of the file, too: that it believes all that is before, and leaves nothing to the page cache.
pub(in crate::leader) fn encode(event: &Event, out: &mut Vec<u8>) {
    match event {
        Event::Began { leadership, run, hears_all } => {
            let trust = if *hears_all { Trust::Nothing } else { Trust::Whole };
            encode_began(*leadership, *run, "", IoMode::Unbuffered, trust, out);
        }
        Event::Member(member) => {
            out.push(2);
            out.extend_from_slice(&member.id.0.to_le_bytes());
            out.extend_from_slice(&member.uuid.0);
            out.extend_from_slice(member.address.as_bytes());
        }
        Event::Commit(commit) => {
            out.push(if commit.record.expires.is_some() { 15 } else { 3 });
            encode_commit(commit, out);
        }
        Event::Intent(intent) => {
            out.push(if intent.record.expires.is_some() { 22 } else { 21 });
            encode_commit(intent, out);
        }
        Event::Concluded(versions) => encode_versions(23, versions, out),
        Event::Dropped(versions) => encode_versions(24, versions, out),
        Event::Forgotten { id, version } => {
            out.push(6);
            out.extend_from_slice(&version.0.to_le_bytes());
            out.extend_from_slice(id.as_bytes());
        }
        Event::Horizon(version) => {
            out.push(7);
            out.extend_from_slice(&version.0.to_le_bytes());
        }
        Event::Draining { node, on } => {
            out.extend_from_slice(&[8, u8::from(*on)]);
            out.extend_from_slice(&node.0.to_le_bytes());
        }
        Event::Commits(commits) => {
            let until = commits.iter().any(|commit| commit.record.expires.is_some());
            out.push(if until { 16 } else { 9 });
            for commit in commits {
                encode_copies(&commit.record, &commit.holders, out);
                if until {
                    out.extend_from_slice(&Deadline::number(commit.record.expires).to_le_bytes());
                }
                encode_short_id(&commit.id, out);
            }
        }
        Event::Prepared { name, writes } => {
            out.push(10);
            out.extend_from_slice(&name.0.to_le_bytes());
            for (id, version) in writes {
                out.extend_from_slice(&version.0.to_le_bytes());
                encode_short_id(id, out);
            }
        }
        Event::Aborted { name } => {
            out.push(11);
            out.extend_from_slice(&name.0.to_le_bytes());
        }
        Event::Removed(Removed { id, uuid }) => {
            out.push(12);
            out.extend_from_slice(&id.0.to_le_bytes());
            out.extend_from_slice(&uuid.0);
        }
        Event::Tolerance(tolerance) => out.extend_from_slice(&[14, *tolerance]),
        Event::Time(unix_ms) => {
            out.push(17);
            out.extend_from_slice(&unix_ms.to_le_bytes());
        }
        Event::User { name, rules } => {
            out.push(if rules.is_some() { 19 } else { 20 });
            // A name has at most 64 bytes.
            out.push(name.len() as u8);
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(rules.as_deref().unwrap_or_default());
        }
    }
}

fn encode_commit(commit: &Commit, out: &mut Vec<u8>) {
    encode_copies(&commit.record, &commit.holders, out);
    Deadline::push(commit.record.expires, out);
    out.extend_from_slice(commit.id.as_bytes());
}

fn encode_versions(kind: u8, versions: &[Version], out: &mut Vec<u8>) {
    out.push(kind);
    versions.iter().for_each(|version| out.extend_from_slice(&version.0.to_le_bytes()));
}

fn encode_began(leadership: Leadership, run: u64, boot_id: &str, io_mode: IoMode, trust: Trust, out: &mut Vec<u8>) {
    out.push(1);
    out.extend_from_slice(&leadership.cluster_id.0);
    out.extend_from_slice(&leadership.epoch.0.to_le_bytes());
    out.extend_from_slice(&run.to_le_bytes());
    out.push(match io_mode {
        IoMode::Buffered => 0,
        IoMode::Unbuffered => 1,
    });
    out.push(match trust {
        Trust::Whole => 0,
        Trust::MayLackItsEnd => 1,
        Trust::Nothing => 2,
    });
    out.extend_from_slice(boot_id.as_bytes());
}

impl Record {
    /// Whether it is put on stable storage even in buffered mode.
    pub(super) fn is_synced(&self) -> bool {
        match self {
            Self::Event(event) => is_synced(event),
            Self::Began { .. } => !seeded::active(Bug::EpochNotSynced),
            Self::Whole(_) | Self::Closed => true,
            Self::Clock { .. } => false,
        }
    }

    /// Appends the record's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Event(event) => encode(event, out),
            Self::Began { leadership, run, boot_id, io_mode, trust } => {
                encode_began(*leadership, *run, boot_id, *io_mode, *trust, out);
            }
            Self::Whole(version) => {
                out.push(4);
                out.extend_from_slice(&version.0.to_le_bytes());
            }
            Self::Clock { unix_ms, since_boot_ms } => {
                out.push(18);
                out.extend_from_slice(&unix_ms.to_le_bytes());
                out.extend_from_slice(&since_boot_ms.to_le_bytes());
            }
            Self::Closed => out.push(5),
        }
    }

    /// Reads a record's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut fields = Fields(bytes);
        let event = |event| Ok(Self::Event(event));
        match fields.array::<1>()?[0] {
            1 => Ok(Self::Began {
                leadership: Leadership { cluster_id: Uuid(fields.array()?), epoch: Epoch(fields.u32()?) },
                run: u64::from_le_bytes(fields.array()?),
                io_mode: match fields.array::<1>()?[0] {
                    0 => IoMode::Buffered,
                    1 => IoMode::Unbuffered,
                    other => return Err(format!("unknown io mode {other}")),
                },
                trust: match fields.array::<1>()?[0] {
                    // Some logs of earlier builds have 3: more was found on nodes than in the log. Inventories say so too.
                    0 | 3 => Trust::Whole,
                    1 => Trust::MayLackItsEnd,
                    2 => Trust::Nothing,
                    other => return Err(format!("unknown trust {other}")),
                },
                boot_id: fields.text()?.to_owned(),
            }),
            2 => event(Event::Member(Member {
                id: NodeId(fields.u32()?),
                uuid: Uuid(fields.array()?),
                address: fields.text()?.to_owned(),
            })),
            kind @ (3 | 15) => event(Event::Commit(fields.commit(kind == 15)?)),
            kind @ (21 | 22) => event(Event::Intent(fields.commit(kind == 22)?)),
            23 => event(Event::Concluded(fields.versions()?)),
            24 => event(Event::Dropped(fields.versions()?)),
            4 => Ok(Self::Whole(fields.version()?)),
            5 => Ok(Self::Closed),
            6 => {
                let version = fields.version()?;
                let id = MessageId::from_bytes(fields.0).map_err(|bad| bad.to_string())?;
                event(Event::Forgotten { id, version })
            }
            7 => event(Event::Horizon(fields.version()?)),
            8 => event(Event::Draining { on: fields.array::<1>()?[0] != 0, node: NodeId(fields.u32()?) }),
            kind @ (9 | 16) => {
                let mut commits = Vec::new();
                while !fields.0.is_empty() {
                    let (record, holders) = fields.copies()?;
                    let record = if kind == 16 { record.until(fields.deadline()?) } else { record };
                    commits.push(Commit { id: fields.short_id()?, record, holders });
                }
                event(Event::Commits(commits))
            }
            10 => {
                let (name, mut writes) = (fields.version()?, Vec::new());
                while !fields.0.is_empty() {
                    let version = fields.version()?;
                    writes.push((fields.short_id()?, version));
                }
                event(Event::Prepared { name, writes })
            }
            11 => event(Event::Aborted { name: fields.version()? }),
            12 => event(Event::Removed(Removed { id: NodeId(fields.u32()?), uuid: Uuid(fields.array()?) })),
            17 => event(Event::Time(u64::from_le_bytes(fields.array()?))),
            kind @ (19 | 20) => {
                let length = fields.array::<1>()?[0].into();
                let (name, rest) = fields.0.split_at_checked(length).ok_or("a record that is too short")?;
                let name = std::str::from_utf8(name).map_err(|_| "a record with bad text")?.to_owned();
                event(Event::User { name, rules: (kind == 19).then(|| rest.to_vec()) })
            }
            18 => Ok(Self::Clock {
                unix_ms: u64::from_le_bytes(fields.array()?),
                since_boot_ms: u64::from_le_bytes(fields.array()?),
            }),
            14 => match fields.array::<1>()?[0] {
                tolerance if (1..=MAX_TOLERANCE).contains(&tolerance.into()) => event(Event::Tolerance(tolerance)),
                other => Err(format!("a tolerance of {other}")),
            },
            other => Err(format!("a record of kind {other}, which this version does not know; use a newer hatokuse")),
        }
    }
}

fn encode_copies(record: &CopyRecord, holders: &[NodeId], out: &mut Vec<u8>) {
    out.extend_from_slice(&record.version.0.to_le_bytes());
    out.extend_from_slice(&record.length.to_le_bytes());
    out.extend_from_slice(&record.crc.to_le_bytes());
    out.push(holders.len() as u8);
    for node in holders {
        out.extend_from_slice(&node.0.to_le_bytes());
    }
}

/// An id that is not the end of its record, behind its length. No id has no bytes: 0 says that the length follows in two.
fn encode_short_id(id: &MessageId, out: &mut Vec<u8>) {
    let id = id.as_bytes();
    match u8::try_from(id.len()) {
        Ok(length) => out.push(length),
        Err(_) => {
            out.push(0);
            out.extend_from_slice(&(id.len() as u16).to_le_bytes());
        }
    }
    out.extend_from_slice(id);
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or("a record that is too short")?;
        self.0 = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn version(&mut self) -> Result<Version, String> {
        Ok(Version(u64::from_le_bytes(self.array()?)))
    }

    fn versions(&mut self) -> Result<Vec<Version>, String> {
        let mut versions = Vec::with_capacity(self.0.len() / 8);
        while !self.0.is_empty() {
            versions.push(self.version()?);
        }
        Ok(versions)
    }

    /// To the end of the record.
    fn commit(&mut self, until: bool) -> Result<Commit, String> {
        let (record, holders) = self.copies()?;
        let record = if until { record.until(self.deadline()?) } else { record };
        let id = MessageId::from_bytes(self.0).map_err(|bad| bad.to_string())?;
        Ok(Commit { id, record, holders })
    }

    fn deadline(&mut self) -> Result<Option<Deadline>, String> {
        Ok(Deadline::at(u64::from_le_bytes(self.array()?)))
    }

    fn copies(&mut self) -> Result<(CopyRecord, Holders), String> {
        let (version, length, crc) = (self.version()?, self.u32()?, self.u32()?);
        let record = CopyRecord { version, length, crc, expires: None };
        let count = self.array::<1>()?[0] as usize;
        if count == 0 || count > MAX_TOLERANCE {
            return Err(format!("a commit on {count} nodes"));
        }
        let holders = (0..count).map(|_| Ok(NodeId(self.u32()?))).collect::<Result<Holders, String>>()?;
        Ok((record, holders))
    }

    fn short_id(&mut self) -> Result<MessageId, String> {
        let length = match self.array::<1>()?[0] {
            0 => usize::from(u16::from_le_bytes(self.array()?)),
            short => usize::from(short),
        };
        let (id, rest) = self.0.split_at_checked(length).ok_or("a record that is too short")?;
        self.0 = rest;
        MessageId::from_bytes(id).map_err(|bad| bad.to_string())
    }

    fn text(&mut self) -> Result<&'a str, String> {
        std::str::from_utf8(std::mem::take(&mut self.0)).map_err(|_| "a record with bad text".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::LONGEST;
    use super::*;
    use crate::leader::transaction::{MOST_ID_BYTES, MOST_IDS};
    use crate::types::MAX_ID_BYTES;

    fn there_and_back(record: &Record) -> Result<Record, String> {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        Record::decode(&bytes)
    }

    fn ids() -> impl Strategy<Value = MessageId> {
        let lengths = prop_oneof![1..=300usize, Just(MAX_ID_BYTES)];
        lengths
            .prop_flat_map(|length| proptest::collection::vec(any::<u8>(), length))
            .prop_map(|bytes| MessageId::from_bytes(&bytes).unwrap())
    }

    fn commits() -> impl Strategy<Value = Commit> {
        let holders = proptest::collection::vec(any::<u32>(), 1..=MAX_TOLERANCE);
        (ids(), any::<(u64, u32, u32, bool)>(), holders).prop_map(|(id, (version, length, crc, ends), holders)| {
            let expires = Deadline::at(version).filter(|_| ends);
            let record = CopyRecord { version: Version(version), length, crc, expires };
            Commit { id, record, holders: holders.into_iter().map(NodeId).collect() }
        })
    }

    proptest! {
        #[test]
        fn records_with_ids_of_any_bytes_are_read_as_they_were_written(
            commits in proptest::collection::vec(commits(), 1..9),
            cut in any::<proptest::sample::Index>(),
        ) {
            let version = commits[0].record.version;
            let writes = commits.iter().map(|commit| (commit.id.clone(), commit.record.version)).collect();
            let events = [
                Event::Commit(commits[0].clone()),
                Event::Intent(commits[0].clone()),
                Event::Concluded(commits.iter().map(|commit| commit.record.version).collect()),
                Event::Dropped(vec![version]),
                Event::Forgotten { id: commits[0].id.clone(), version },
                Event::Prepared { name: version, writes },
                Event::Aborted { name: version },
                Event::Removed(Removed { id: NodeId(version.sequence()), uuid: Uuid([7; 16]) }),
                Event::Tolerance(1 + (version.0 % 7) as u8),
                Event::User { name: "a".repeat(version.sequence() as usize % 65), rules: Some(b"on ~\xff".to_vec()) },
                Event::User { name: "bob".to_owned(), rules: None },
                Event::Commits(commits),
            ];
            for record in events.map(Record::Event) {
                prop_assert_eq!(there_and_back(&record), Ok(record.clone()));
                let mut bytes = Vec::new();
                record.encode(&mut bytes);
                bytes.truncate(cut.index(bytes.len()));
                prop_assert_ne!(Record::decode(&bytes), Ok(record));
            }
        }

        #[test]
        fn no_bytes_are_too_strange_to_be_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(record) = Record::decode(&bytes) {
                prop_assert_eq!(there_and_back(&record), Ok(record));
            }
        }
    }

    #[test]
    fn the_largest_transaction_fits_into_a_record() {
        let record = CopyRecord { version: Version(u64::MAX), length: 1, crc: 1, expires: None };
        let id = MessageId::from_bytes(&[0xff; MOST_ID_BYTES / MOST_IDS]).unwrap();
        let commit = Commit { id, record, holders: (0..MAX_TOLERANCE as u32).map(NodeId).collect() };
        let mut bytes = Vec::new();
        encode(&Event::Commits(vec![commit; MOST_IDS]), &mut bytes);
        assert!(bytes.len() <= LONGEST, "{} bytes", bytes.len());
    }

    #[test]
    fn records_of_earlier_versions_are_read() {
        let commit = |bytes: &[u8]| Record::decode(bytes);
        let bytes = b"\x03\x07\0\0\0\x01\0\0\0\x05\0\0\0\x63\0\0\0\x02\x01\0\0\0\x02\0\0\0a/b";
        let record = CopyRecord { version: Version(1 << 32 | 7), length: 5, crc: 99, expires: None };
        let holders = [NodeId(1), NodeId(2)].into_iter().collect();
        assert_eq!(
            commit(bytes),
            Ok(Record::Event(Event::Commit(Commit { id: "a/b".parse().unwrap(), record, holders })))
        );
        assert!(commit(b"\x0d").unwrap_err().contains("use a newer hatokuse"));
    }
}
