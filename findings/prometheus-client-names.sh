#!/usr/bin/env bash
# Guess: what a counter is registered as is its name in the text, and its help is the text that was given.
# Seen: prometheus-client 0.25.0. A counter that is registered with the name `requests_total` comes out as `requests_total_total`, and a help that ends in a full stop gets another. Nothing is refused.
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
prometheus-client = "=0.25.0"
TOML
cat >src/main.rs <<'RS'
use prometheus_client::{encoding::text::encode, metrics::counter::Counter, registry::Registry};

fn main() {
    let requests: Counter = Counter::default();
    let mut registry = Registry::default();
    registry.register("requests_total", "Requests that were answered.", requests.clone());
    requests.inc();
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    print!("{text}");
}
RS
cargo run --quiet | tee seen
diff - seen <<'SEEN'
# HELP requests_total Requests that were answered..
# TYPE requests_total counter
requests_total_total 1
# EOF
SEEN
echo "as found"
