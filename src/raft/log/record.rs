//! What the records of the log file say: a byte for the kind, then a message of `proto/peers.proto`.

use bytes::Bytes;
use prost::Message as _;

use crate::raft::types::{Entry, LogId};
use crate::raft::{convert, proto};

/// An entry: u32 length of its head, the head, and its payload.
const ENTRY: u8 = 1;
/// Everything behind this place is void; without one, everything is.
const CUT: u8 = 2;
/// The file begins behind this place.
const BEGIN: u8 = 3;
/// The machine was started since the last record; the rest is the name of its boot.
const BOOT: u8 = 4;

/// A record in two parts, so that a payload is not copied.
pub(super) type Parts = (Vec<u8>, Bytes);

/// What a record says.
#[derive(Debug)]
pub(super) enum Record {
    Entry(Entry),
    Cut(Option<LogId>),
    Begin(Option<LogId>),
    Boot(String),
}

pub(super) fn entry(entry: &Entry) -> Parts {
    let (head, payload) = convert::entry_head(entry);
    let mut record = Vec::with_capacity(5 + head.encoded_len());
    record.push(ENTRY);
    record.extend((head.encoded_len() as u32).to_le_bytes());
    record.extend(head.encode_to_vec());
    (record, payload)
}

pub(super) fn cut(after: Option<LogId>) -> Parts {
    place(CUT, after)
}

pub(super) fn begin(purged: Option<LogId>) -> Parts {
    place(BEGIN, purged)
}

pub(super) fn boot(name: &str) -> Parts {
    ([&[BOOT], name.as_bytes()].concat(), Bytes::new())
}

fn place(kind: u8, place: Option<LogId>) -> Parts {
    let place = place.as_ref().map(|place| convert::log_id(place).encode_to_vec());
    let mut record = vec![kind, u8::from(place.is_some())];
    record.extend(place.unwrap_or_default());
    (record, Bytes::new())
}

pub(super) fn read(record: &[u8]) -> Result<Record, String> {
    let (kind, rest) = record.split_first().ok_or("an empty record")?;
    match *kind {
        ENTRY => {
            let (length, rest) = rest.split_at_checked(4).ok_or("an entry that is cut short")?;
            let length = length.try_into().map(u32::from_le_bytes).unwrap_or(u32::MAX);
            let (head, payload) = rest.split_at_checked(length as usize).ok_or("an entry that is cut short")?;
            let head = proto::Entry::decode(head).map_err(|error| error.to_string())?;
            let payload = Bytes::copy_from_slice(payload);
            convert::read_entry(proto::Entry { payload, ..head }).map(Record::Entry)
        }
        CUT => read_place(rest).map(Record::Cut),
        BEGIN => read_place(rest).map(Record::Begin),
        BOOT => Ok(Record::Boot(String::from_utf8_lossy(rest).into_owned())),
        other => Err(format!("it is of kind {other}, which this program does not know")),
    }
}

fn read_place(rest: &[u8]) -> Result<Option<LogId>, String> {
    match rest.split_first() {
        Some((0, [])) => Ok(None),
        Some((1, place)) => {
            let place = proto::LogId::decode(place).map_err(|error| error.to_string())?;
            Ok(Some(convert::read_log_id(&place)))
        }
        _ => Err("a place that is none".to_owned()),
    }
}
