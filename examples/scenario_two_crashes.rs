//! Tolerance 3, six nodes, 9000 messages: any two nodes may die, and no GET fails.
//!
//!     cargo build && cargo run --example scenario_two_crashes

#![allow(clippy::print_stdout)]

mod common;

use common::{check_copies, get_all, set_all, start, wait_exactly_up};

fn main() -> anyhow::Result<()> {
    let mut cluster = start(6, 3)?;
    set_all(&cluster, 1..=9000)?;
    check_copies(&cluster, &[1, 2, 3, 4, 5, 6].map(|id| (id, 4500)))?;

    // There are fifteen pairs; these three have every node die once.
    for pair in [[1, 2], [3, 5], [4, 6]] {
        println!("killing nodes {} and {}", pair[0], pair[1]);
        for id in pair {
            cluster.kill_node(id)?;
        }
        get_all(&cluster, 1..=9000)?;
        wait_exactly_up(&cluster, 4)?;
        cluster.start_nodes(&pair)?;
        wait_exactly_up(&cluster, 6)?;
        println!("both are back");
    }
    println!("two crashes of six: no GET failed");
    Ok(())
}
