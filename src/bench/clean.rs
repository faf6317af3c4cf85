//! Removes what a run wrote, where that was asked for: on one connection, unmeasured.

use std::io::{self, BufRead as _, BufReader, Write as _};

use super::dial::{Target, connect};
use super::dialect::Dialect;
use super::workload::Values;
use crate::error::printable;

/// Requests that leave together: few enough that neither side's buffers fill.
const BATCH: u64 = 250;

/// Deletes the ids below `count`, whoever wrote them.
pub(super) fn clean(target: &Target, dialect: Dialect, values: &Values, count: u64) -> io::Result<()> {
    let mut stream = BufReader::new(connect(target, dialect)?);
    let (mut id, mut requests, mut reply) = (Vec::new(), Vec::new(), String::new());
    for begin in (0..count).step_by(BATCH as usize) {
        let end = count.min(begin + BATCH);
        requests.clear();
        for index in begin..end {
            id.clear();
            values.put_id(index, &mut id);
            match dialect {
                Dialect::Text => requests.extend_from_slice(b"DEL "),
                Dialect::Resp => requests.extend(format!("*2\r\n$3\r\nDEL\r\n${}\r\n", id.len()).bytes()),
            }
            requests.extend_from_slice(&id);
            requests.extend_from_slice(if dialect == Dialect::Text { b"\n" } else { b"\r\n" });
        }
        stream.get_mut().write_all(&requests)?;
        stream.get_mut().flush()?;
        for _ in begin..end {
            reply.clear();
            stream.read_line(&mut reply)?;
            match reply.trim_end() {
                "" => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed it")),
                right if right == "OK" || right.starts_with(':') => {}
                other => return Err(io::Error::other(printable(other.as_bytes(), 200))),
            }
        }
    }
    Ok(())
}
