//! Tolerance 2, three nodes, 500 messages, then a fourth node joins: the next 500 even it out.
//!
//!     cargo build && cargo run --example scenario_join

#![allow(clippy::print_stdout)]

mod common;

use common::{check, check_copies, get_all, set_all, start};

fn main() -> anyhow::Result<()> {
    let mut cluster = start(3, 2)?;
    set_all(&cluster, 1..=500)?;
    let mut before: Vec<u64> = cluster.status()?["nodes"]
        .as_array()
        .map(|nodes| nodes.iter().filter_map(|node| node["messages"].as_u64()).collect())
        .unwrap_or_default();
    before.sort_unstable();
    check("1000 copies on three nodes", before, vec![333, 333, 334])?;

    println!("node 4 joins");
    cluster.start_node(4)?;
    cluster.wait_up(4)?;
    set_all(&cluster, 501..=1000)?;
    check_copies(&cluster, &[(1, 500), (2, 500), (3, 500), (4, 500)])?;
    get_all(&cluster, 1..=1000)?;
    println!("the new node took its share");
    Ok(())
}
