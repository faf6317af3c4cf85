#!/usr/bin/env bash
# Guess: the maximum of a histogram is a value that was recorded, and no quantile is above it.
# Seen: hdrhistogram 7.6.0 with three digits. One value of 1,000,001 is recorded; the maximum and the last quantile are 1,000,447, the top of its bucket, and the minimum is 999,936, the bottom: with a
# single value they differ. A report that calls it the slowest request has to keep that one beside the histogram.
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
hdrhistogram = { version = "=7.6.0", default-features = false }
TOML
cat >src/main.rs <<'RS'
fn main() {
    let mut histogram = hdrhistogram::Histogram::<u64>::new(3).unwrap();
    histogram.record(1_000_001).unwrap();
    println!("min {} max {} last quantile {}", histogram.min(), histogram.max(), histogram.value_at_quantile(1.0));
}
RS
cargo run --quiet | tee seen
diff - seen <<'SEEN'
min 999936 max 1000447 last quantile 1000447
SEEN
echo "as found"
