#!/usr/bin/env bash
# Guess: `add_learner` with `blocking` waits until the new peer was reached and has the log, so that it can be given its vote.
# Seen: openraft 0.10.0-alpha.37 (with openraft-memstore of the same version). It waits until the peer is less than `replication_lag_threshold` entries behind, 5,000 by default; in a log that is shorter, a peer that nobody has ever
# reached, and that has nothing, is up to date at once. Given its vote then, it is one of three that is not there, and both of the others have to be up. Whoever adds peers has to look in the metrics whether anything of the log was matched.
# Needs cargo.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
openraft = "=0.10.0-alpha.37"
openraft-memstore = "=0.10.0-alpha.37"
tokio = { version = "1", features = ["rt", "macros", "time"] }
TOML
cat >src/main.rs <<'RS'
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{alias, Config, Raft};
use openraft_memstore::{new_mem_store, ClientRequest, IntoMemClientRequest, TypeConfig};
use tokio::time::timeout;

/// A network on which nobody is ever reached.
struct Nowhere;

fn nobody() -> Unreachable<TypeConfig> {
    Unreachable::from_string("no such host")
}

impl RaftNetworkFactory<TypeConfig> for Nowhere {
    type Network = Self;
    async fn new_client(&mut self, _: u64, _: &()) -> Self {
        Self
    }
}

impl RaftNetworkV2<TypeConfig> for Nowhere {
    type SnapshotData = std::io::Cursor<Vec<u8>>;
    async fn append_entries(
        &mut self,
        _: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(nobody().into())
    }
    async fn vote(&mut self, _: VoteRequest<TypeConfig>, _: RPCOption) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(nobody().into())
    }
    async fn full_snapshot(
        &mut self,
        _: alias::VoteOf<TypeConfig>,
        _: alias::SnapshotOf<TypeConfig, std::io::Cursor<Vec<u8>>>,
        _: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(nobody().into())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for threshold in [5000, 1] {
        let config = Config { replication_lag_threshold: threshold, ..Config::default() };
        let (log, machine) = new_mem_store();
        let raft = Raft::new(1, Arc::new(config.validate().unwrap()), Nowhere, log, machine).await.unwrap();
        raft.initialize(BTreeMap::from([(1, ())])).await.unwrap();
        raft.wait(Some(Duration::from_secs(5))).current_leader(1, "alone").await.unwrap();
        for serial in 0..100 {
            raft.client_write(ClientRequest::make_request("client", serial)).await.unwrap();
        }
        let added = timeout(Duration::from_secs(3), raft.add_learner(9, (), true)).await;
        let matched = raft.metrics().borrow_watched().replication.clone().unwrap()[&9].clone();
        println!(
            "threshold {threshold}: {}, and of 100 entries it has {matched:?}",
            if added.is_ok() { "up to date" } else { "waits" }
        );
    }
}
RS
cargo run --quiet | tee seen
diff - seen <<'SEEN'
threshold 5000: up to date, and of 100 entries it has None
threshold 1: waits, and of 100 entries it has None
SEEN
echo "as found"
