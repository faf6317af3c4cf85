//! The client library: set, get, a batch, and what an error says of a write.
//!
//!     cargo build && cargo run --example library                      # a register of its own
//!     cargo run --example library -- 127.0.0.1:6666                   # one that runs already

#![allow(clippy::print_stdout)]

mod common;

use anyhow::ensure;
use common::{check, start};
use hatokuse::client::{Answer, Client};

fn main() -> anyhow::Result<()> {
    let (own, addr) = match std::env::args().nth(1) {
        Some(addr) => (None, addr),
        None => {
            let cluster = start(3, 2)?;
            let addr = cluster.addr().to_owned();
            (Some(cluster), addr)
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(use_it(&addr))?;
    drop(own);
    Ok(())
}

async fn use_it(addr: &str) -> anyhow::Result<()> {
    let mut client = Client::connect(addr).await?;

    // Ok means: on as many nodes as the register's tolerance says.
    client.set("greeting", "Merhaba Dünya").await?;
    let greeting = client.get("greeting").await?;
    check("what was set is got", greeting, Some("Merhaba Dünya".into()))?;
    check("what nobody set", client.get("no-such-id").await?, None)?;

    // Many requests in one go, answered in order; later ones see earlier ones.
    let mut batch = client.batch();
    for n in 0..1000 {
        batch = batch.set(&format!("sensor-{n}"), format!("{n} degrees"));
    }
    let answers = batch.get("sensor-7").run().await?;
    ensure!(answers[..1000].iter().all(|answer| *answer == Answer::Stored), "some write of the batch was refused");
    check("a read after 1000 writes of one batch", &answers[1000], &Answer::Value("7 degrees".into()))?;

    // An error knows whether the write may have happened all the same.
    match client.set("an id with blanks", "x").await {
        Ok(()) => anyhow::bail!("an id with blanks was taken"),
        Err(error) => println!("ok  a bad id is refused: {error} ({:?})", error.certainty()),
    }
    Ok(())
}
