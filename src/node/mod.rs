//! stub
pub mod process;
pub mod store;
