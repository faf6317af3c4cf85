//! What the scenarios share: the binary, checks that are printed, and pipelined loading.

#![allow(clippy::print_stdout, dead_code)]

use std::fmt::{Debug, Display};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use hatokuse::bench::launcher::Cluster;

/// Requests that leave together; their replies must fit into the socket's buffers.
const BATCH: usize = 200;

/// The `hatokuse` binary: `HATOKUSE_BIN`, or the one built beside this example.
pub(crate) fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("HATOKUSE_BIN") {
        return Ok(path.into());
    }
    let example = std::env::current_exe()?;
    // target/<profile>/examples/<example>
    let path = example.parent().and_then(|dir| dir.parent()).context("this example lies in no folder")?;
    let path = path.join("hatokuse");
    ensure!(
        path.exists(),
        "{} is not built: run `cargo build` with the same profile first, or set HATOKUSE_BIN",
        path.display()
    );
    Ok(path)
}

/// Starts a register of real processes.
pub(crate) fn start(nodes: u32, tolerance: usize) -> anyhow::Result<Cluster> {
    println!("starting a leader and {nodes} nodes, tolerance {tolerance}");
    Cluster::builder(binary()?).nodes(nodes).tolerance(tolerance).start()
}

/// Prints what is so, or fails with what should be.
pub(crate) fn check<T: PartialEq + Debug>(what: impl Display, seen: T, wanted: T) -> anyhow::Result<()> {
    ensure!(seen == wanted, "{what}: wanted {wanted:?}, saw {seen:?}");
    println!("ok  {what}: {seen:?}");
    Ok(())
}

/// The message of an id; another for every id.
pub(crate) fn message(id: u64) -> String {
    format!("message {id} of the scenario")
}

/// SETs all these ids, pipelined; every one must be answered OK.
pub(crate) fn set_all(cluster: &Cluster, ids: RangeInclusive<u64>) -> anyhow::Result<()> {
    pipeline(cluster, ids, |id| format!("SET {id} {}\n", message(id)), |_| "OK".to_owned())
}

/// GETs all these ids, pipelined; every one must be answered by its message.
pub(crate) fn get_all(cluster: &Cluster, ids: RangeInclusive<u64>) -> anyhow::Result<()> {
    pipeline(cluster, ids, |id| format!("GET {id}\n"), |id| format!("VALUE {}", message(id)))
}

fn pipeline(
    cluster: &Cluster,
    ids: RangeInclusive<u64>,
    request: impl Fn(u64) -> String,
    wanted: impl Fn(u64) -> String,
) -> anyhow::Result<()> {
    let stream = TcpStream::connect(cluster.addr())?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut replies = BufReader::new(&stream).lines();
    let (first, last) = (*ids.start(), *ids.end());
    let ids: Vec<u64> = ids.collect();
    for batch in ids.chunks(BATCH) {
        let lines: String = batch.iter().map(|id| request(*id)).collect();
        (&stream).write_all(lines.as_bytes())?;
        for id in batch {
            let reply = replies.next().context("the leader closed the connection")??;
            if reply != wanted(*id) {
                bail!("{}: wanted {:?}, saw {reply:?}", request(*id).trim_end(), wanted(*id));
            }
        }
    }
    let word = request(first);
    println!("ok  {} {} of ids {first}..={last}", ids.len(), word.split(' ').next().unwrap_or_default());
    Ok(())
}

/// Waits until the leader sees exactly this many nodes up: it has noticed who went, or who came.
pub(crate) fn wait_exactly_up(cluster: &Cluster, wanted: usize) -> anyhow::Result<()> {
    cluster.wait_status(&format!("exactly {wanted} nodes up"), |status| {
        let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
        nodes.iter().filter(|node| node["state"] == "up").count() == wanted
    })
}

/// Checks the copies on every node, both as files and as the leader counts them.
pub(crate) fn check_copies(cluster: &Cluster, wanted: &[(u32, u64)]) -> anyhow::Result<()> {
    let wanted = wanted.iter().copied().collect();
    let status = cluster.status()?;
    let nodes = status["nodes"].as_array().context("STATUS names no nodes")?;
    let counted = nodes.iter().filter_map(|node| Some((node["id"].as_u64()? as u32, node["messages"].as_u64()?)));
    check("copies per node, by STATUS", &counted.collect(), &wanted)?;
    // Files may follow the answers by up to a second.
    let mut files = cluster.copies()?;
    for _ in 0..150 {
        if files == wanted {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
        files = cluster.copies()?;
    }
    check("copies per node, by files", &files, &wanted)
}
