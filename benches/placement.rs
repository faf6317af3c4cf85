//! Placement cost.
fn main() {}
