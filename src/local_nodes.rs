//! `leader --local-nodes N`: nodes as child processes of the leader, gone when it is.

use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::types::{IoMode, Layout};

/// The first local node's port.
const FIRST_PORT: u32 = 5555;

/// How long a child may take to finish what it has begun.
const PATIENCE: Duration = Duration::from_secs(4);

/// Child nodes 1 to N. Each stops when its standard input ends, which happens however the leader dies.
#[derive(Debug)]
pub struct LocalNodes {
    children: Vec<Child>,
}

impl LocalNodes {
    /// Starts the nodes, on ports 5555 and up or on any. They find the leader by themselves.
    pub fn start(
        count: u32,
        any_port: bool,
        (io_mode, layout): (IoMode, Layout),
        data_dir: &Path,
        leader: SocketAddr,
    ) -> io::Result<Self> {
        let mut nodes = Self { children: Vec::new() };
        let binary = if count > 0 { std::env::current_exe()? } else { return Ok(nodes) };
        for id in 1..=count {
            let port = if any_port { 0 } else { FIRST_PORT + id - 1 };
            let mut command = Command::new(&binary);
            for (name, _) in std::env::vars_os() {
                if name.to_string_lossy().starts_with("HATOKUSE_") {
                    command.env_remove(name);
                }
            }
            command.args(["node", "--plain", "--stop-with-stdin", "--report-every", "1day"]);
            command.args(["--id", &id.to_string(), "--port", &port.to_string(), "--io-mode", &io_mode.to_string()]);
            command.args(["--layout", &layout.to_string()]);
            command.args(["--leader", &leader.to_string(), "--host", &leader.ip().to_string()]);
            command.arg("--data-dir").arg(data_dir);
            // Its own group: Ctrl-C in a terminal stops the leader, and the leader stops its nodes when it is done with them.
            command.process_group(0);
            let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn()?;
            nodes.children.push(child);
        }
        Ok(nodes)
    }
}

impl Drop for LocalNodes {
    fn drop(&mut self) {
        for child in &mut self.children {
            drop(child.stdin.take());
        }
        let until = Instant::now() + PATIENCE;
        for child in &mut self.children {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
