//! stub
pub mod gate;
pub mod process;
pub mod replication;
