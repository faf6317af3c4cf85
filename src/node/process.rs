//! A node as a process: its listener, threads, signals, screen.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::telemetry::EventRing;
use crate::types::{IoMode, NodeId};

/// What `hatokuse node` was asked for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its number.
    pub id: NodeId,
    /// Address to listen on.
    pub host: IpAddr,
    /// Port to listen on; 0 for any.
    pub port: u16,
    /// When a copy counts as written.
    pub io_mode: IoMode,
    /// The leader's address for nodes.
    pub leader: String,
    /// Where the leader reaches this node; as bound if not said.
    pub advertise: Option<String>,
    /// Holds `storage_node_<id>`.
    pub data_dir: PathBuf,
    /// Time between two reports.
    pub report_every: Duration,
    /// End when standard input does.
    pub stop_with_stdin: bool,
    /// Draw a screen on standard output, instead of printing lines.
    pub screen: bool,
}

/// Runs a node until it is told to stop.
pub fn run(_settings: Settings, _events: EventRing) -> anyhow::Result<()> {
    Ok(())
}
