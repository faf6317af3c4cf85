//! The leader as a process: listeners, threads, signals, screen.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::telemetry::EventRing;
use crate::types::IoMode;

/// What `hatokuse leader` was asked for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address to listen on, for clients and nodes.
    pub host: IpAddr,
    /// Port for clients; 0 for any.
    pub port: u16,
    /// Port for nodes; 0 for any.
    pub grpc_port: u16,
    /// Holds `leader_metadata`.
    pub data_dir: PathBuf,
    /// Says the tolerance.
    pub tolerance_conf: PathBuf,
    /// Of the log, and of local nodes.
    pub io_mode: IoMode,
    /// Largest message, bytes.
    pub max_message: usize,
    /// Time between two reports.
    pub report_every: Duration,
    /// Child nodes to start.
    pub local_nodes: u32,
    /// End when standard input does.
    pub stop_with_stdin: bool,
    /// Draw a screen on standard output, instead of printing lines.
    pub screen: bool,
}

/// Runs a leader until it is told to stop.
pub fn run(_settings: Settings, _events: EventRing) -> anyhow::Result<()> {
    Ok(())
}
