//! Writes a leader's folder with a log of so many messages, to measure starts with: how long, and in how much memory.
//!
//!     cargo run --release --example make_log -- DIR [MESSAGES] [NODES]
//!     hatokuse leader --data-dir DIR
//!
//! The log is what a leader that was killed leaves behind: nothing says that it ended.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use hatokuse::cluster::knowledge::Trust;
use hatokuse::cluster::mapping::Commit;
use hatokuse::cluster::state::Event;
use hatokuse::durable::os::OsDisk;
use hatokuse::durable::{Disk, Folder};
use hatokuse::leader::journal::{self, Record};
use hatokuse::types::{CopyRecord, Epoch, Holders, IoMode, Leadership, Member, NodeId, Uuid, Version};

const TOLERANCE: u32 = 3;

/// Records of one batch.
const BATCH: u32 = 16_384;

#[expect(clippy::print_stdout, reason = "a program's output")]
fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().context("usage: make_log DIR [MESSAGES] [NODES]")?;
    let messages: u32 = args.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let nodes: u32 = args.next().map_or(Ok(TOLERANCE), |text| text.parse())?;
    let disk = OsDisk::new();
    let folder: Arc<dyn Folder> = disk.folder(&Path::new(&dir).join("leader_metadata"))?;
    let mut log = journal::open(&folder, &disk.boot_id(), 1)?.log;
    let mut append = |records: &mut dyn Iterator<Item = Record>| -> anyhow::Result<()> {
        let encode = |record: Record| {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            bytes
        };
        let records: Vec<Vec<u8>> = records.map(encode).collect();
        log.append(records.iter().map(Vec::as_slice))?;
        Ok(())
    };
    let leadership = Leadership { cluster_id: Uuid([7; 16]), epoch: Epoch(1) };
    let (boot_id, io_mode) = (disk.boot_id(), IoMode::Unbuffered);
    append(&mut [Record::Began { leadership, run: 1, boot_id, io_mode, trust: Trust::Whole }].into_iter())?;
    let member = |n: u32| {
        let uuid = Uuid(u128::from(n).to_be_bytes());
        Record::Event(Event::Member(Member {
            id: NodeId(n),
            uuid,
            address: format!("127.0.0.1:{}", 20_000 + n % 10_000),
        }))
    };
    append(&mut (1..=nodes).map(member))?;
    // As placement deals them out: the next nodes in turn.
    let commit = |n: u32| {
        let record = CopyRecord { version: Version::new(leadership.epoch, n), length: 100, crc: n, expires: None };
        let mut holders: Holders = (0..TOLERANCE.min(nodes)).map(|k| NodeId((n * TOLERANCE + k) % nodes + 1)).collect();
        holders.sort_unstable();
        Record::Event(Event::Commit(Commit { id: format!("m{n:08}").parse().expect("an id"), record, holders }))
    };
    for first in (0..messages).step_by(BATCH as usize) {
        append(&mut (first..messages.min(first + BATCH)).map(commit))?;
    }
    log.sync()?;
    println!("{} bytes of log, {messages} messages on {nodes} nodes", log.len());
    Ok(())
}
