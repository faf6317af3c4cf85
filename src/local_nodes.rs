//! `leader --local-nodes N`: nodes as child processes of the leader, gone when it is.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

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
    ///
    /// Under a `screen` what they say becomes events of the leader: on its stderr it would tear the screen.
    pub fn start(
        count: u32,
        any_port: bool,
        (io_mode, layout): (IoMode, Layout),
        data_dir: &Path,
        leader: SocketAddr,
        screen: bool,
        json_logs: bool,
    ) -> anyhow::Result<Self> {
        let mut nodes = Self { children: Vec::new() };
        if count == 0 {
            return Ok(nodes);
        }
        let binary =
            std::env::current_exe().context("local nodes cannot start: this program's own file is not known")?;
        for id in 1..=count {
            let port = if any_port { 0 } else { FIRST_PORT + id - 1 };
            let mut command = Command::new(&binary);
            for (name, _) in std::env::vars_os() {
                let name = name.to_string_lossy();
                // Neither settings nor the service manager's words are for them.
                if name.starts_with("HATOKUSE_") || ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"].contains(&&*name)
                {
                    command.env_remove(&*name);
                }
            }
            command.args(["node", "--config", "off", "--plain", "--stop-with-stdin", "--report-every", "1day"]);
            command.args(["--id", &id.to_string(), "--port", &port.to_string(), "--io-mode", &io_mode.to_string()]);
            command.args(["--layout", &layout.to_string()]);
            // What becomes events of the leader is read as text.
            command.args(["--log-format", if json_logs && !screen { "json" } else { "text" }]);
            command.args(["--leader", &leader.to_string(), "--host", &leader.ip().to_string()]);
            command.arg("--data-dir").arg(data_dir);
            // Its own group: Ctrl-C in a terminal stops the leader, and the leader stops its nodes when it is done with them.
            command.process_group(0);
            let stderr = if screen { Stdio::piped() } else { Stdio::inherit() };
            let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(stderr).spawn();
            let mut child = child.with_context(|| {
                format!("local node {id} cannot start: {} with its output to /dev/null", binary.display())
            })?;
            if let Some(said) = child.stderr.take() {
                std::thread::Builder::new().name(format!("log of {id}")).spawn(move || relay(id, said))?;
            }
            nodes.children.push(child);
        }
        Ok(nodes)
    }
}

/// Passes on what a node says until its end; reads whatever comes, as a full pipe would stop the node.
fn relay(node: u32, said: impl Read) {
    for line in BufReader::new(said).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        match level_and_text(&line) {
            ("ERROR", text) => tracing::error!("node {node}: {text}"),
            ("WARN", text) => tracing::warn!("node {node}: {text}"),
            (_, ready) if ready.starts_with("node ") => tracing::info!("{ready}"),
            (_, text) => tracing::info!("node {node}: {text}"),
        }
    }
}

/// The parts of a log line; other lines, such as that it is ready, are information.
fn level_and_text(line: &str) -> (&str, &str) {
    let logged = line.split_once("Z ").and_then(|(_, rest)| rest.trim_start().split_once(' '));
    match logged {
        Some((level @ ("ERROR" | "WARN" | "INFO" | "DEBUG" | "TRACE"), text)) => (level, text),
        _ => ("INFO", line),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_has_a_level_and_a_text() {
        for (line, parts) in [
            ("2026-11-23T12:41:07.123Z  WARN the disk is slow", ("WARN", "the disk is slow")),
            ("2026-11-23T12:41:07.123Z  INFO found 0 messages", ("INFO", "found 0 messages")),
            ("2026-11-23T12:41:07.123Z ERROR h2: broken", ("ERROR", "h2: broken")),
            ("node 1 ready grpc=127.0.0.1:5555", ("INFO", "node 1 ready grpc=127.0.0.1:5555")),
            ("thread 'x' panicked at Z x", ("INFO", "thread 'x' panicked at Z x")),
            ("", ("INFO", "")),
        ] {
            assert_eq!(level_and_text(line), parts);
        }
    }
}
