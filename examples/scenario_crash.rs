//! Tolerance 2, four nodes, 1000 messages: they spread evenly, and one node may die.
//!
//!     cargo build && cargo run --example scenario_crash

#![allow(clippy::print_stdout)]

mod common;

use common::{check_copies, get_all, set_all, start};

fn main() -> anyhow::Result<()> {
    let mut cluster = start(4, 2)?;
    set_all(&cluster, 1..=1000)?;
    check_copies(&cluster, &[(1, 500), (2, 500), (3, 500), (4, 500)])?;

    println!("killing node 2");
    cluster.kill_node(2)?;
    get_all(&cluster, 1..=1000)?;
    set_all(&cluster, 1001..=1200)?;
    get_all(&cluster, 1..=1200)?;
    println!("one crash of four: nothing was lost, and writes went on");
    Ok(())
}
