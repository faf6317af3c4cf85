#!/usr/bin/env bash
# Guess: a cache with room for 64 MiB keeps an item of 8 MiB.
# Seen: quick_cache 0.7.0. The room is divided among shards (four times as many as the machine has cores, if nothing is said), and an item that weighs more than a shard may hold is not kept; `insert` does not say so.
# With eight shards 7 MiB are kept and 8 MiB are not; with one, 62 MiB are. A cache of bytes has to choose its shards by its largest item.
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
quick_cache = { version = "=0.7.0", default-features = false }
TOML
cat >src/main.rs <<'RS'
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

#[derive(Clone)]
struct Bytes;

impl Weighter<u32, u64> for Bytes {
    fn weight(&self, _: &u32, bytes: &u64) -> u64 {
        *bytes
    }
}

fn main() {
    for shards in [1, 8] {
        let options = OptionsBuilder::new().estimated_items_capacity(1000).weight_capacity(64 << 20).shards(shards).build().unwrap();
        for mib in [1, 7, 8, 32, 62] {
            let cache: Cache<u32, u64, Bytes> =
                Cache::with_options(options.clone(), Bytes, DefaultHashBuilder::default(), DefaultLifecycle::default());
            cache.insert(1, mib << 20);
            println!("{shards} shards, {mib} MiB: {}", if cache.get(&1).is_some() { "kept" } else { "not kept" });
        }
    }
}
RS
cargo run --quiet | tee seen
diff - seen <<'SEEN'
1 shards, 1 MiB: kept
1 shards, 7 MiB: kept
1 shards, 8 MiB: kept
1 shards, 32 MiB: kept
1 shards, 62 MiB: kept
8 shards, 1 MiB: kept
8 shards, 7 MiB: kept
8 shards, 8 MiB: not kept
8 shards, 32 MiB: not kept
8 shards, 62 MiB: not kept
SEEN
echo "as found"
