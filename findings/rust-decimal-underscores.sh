#!/usr/bin/env bash
# Guess: a decimal number has digits, a sign and a point; `FromStr` refuses the rest.
# Seen: rust_decimal 1.43.0. Underscores are passed over wherever they stand behind the first digit. A protocol whose numbers come from other people has to look first: Redis, for one, refuses them.
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
rust_decimal = { version = "=1.43.0", default-features = false, features = ["std"] }
TOML
cat >src/main.rs <<'RS'
use std::str::FromStr;

fn main() {
    for text in ["1_000", "1__0.0_5", "1_", "_1"] {
        match rust_decimal::Decimal::from_str(text) {
            Ok(number) => println!("{text} is {number}"),
            Err(_) => println!("{text} is refused"),
        }
    }
}
RS
cargo run --quiet | tee seen
diff - seen <<'SEEN'
1_000 is 1000
1__0.0_5 is 10.05
1_ is 1
_1 is refused
SEEN
echo "as found"
