//! Every disk call of every path, as the last one before the end of the process or the power, and as one that fails.
//!
//! A path is a row of a table: `node` for copies, `convert` for changing their layout, `identity` for a node's own file, `leader` for the log and its view.
//! The counts are printed: `cargo test --test crash_points -- --nocapture`.

mod convert;
mod harness;
mod identity;
mod leader;
mod node;
