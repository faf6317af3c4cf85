//! stub
pub mod process;
