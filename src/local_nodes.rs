//! `leader --local-nodes N`: nodes as child processes of the leader, gone when it is; and with `--local-peers N` leaders, too.

mod peers;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;

pub use self::peers::{LocalPeers, Plan};
use crate::types::{IoMode, Layout};

/// The first local node's port.
const FIRST_PORT: u32 = 5555;

/// How long a child may take to finish what it has begun.
const PATIENCE: Duration = Duration::from_secs(4);

/// A node that ended is started again after so long, and each time after twice that, up to [`LONGEST_PAUSE`]. Not at once:
/// who has killed it wants to see what happens, and one that cannot start must not be tried again and again.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// One that has run for so long has started well.
const STARTED_WELL: Duration = Duration::from_secs(60);

/// How often there is a look at who has ended.
const LOOK: Duration = Duration::from_millis(200);

/// Child nodes 1 to N. Each stops when its standard input ends, which happens however the leader dies.
#[derive(Debug)]
pub struct LocalNodes {
    stop: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

/// Where the log lines of local nodes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalLogs {
    /// They become events of the leader: under a screen, which they would tear, and beside a `--log-file`.
    Relayed,
    /// To the leader's stderr, as they are.
    Text,
    /// As [`Self::Text`], as JSON.
    Json,
}

/// How a node is started.
#[derive(Debug)]
struct Recipe {
    binary: PathBuf,
    any_port: bool,
    io_mode: IoMode,
    layout: Layout,
    data_dir: PathBuf,
    leaders: Vec<SocketAddr>,
    logs: LocalLogs,
}

/// Starts a process.
type Start = Box<dyn Fn() -> anyhow::Result<Child> + Send>;

/// Whether a node of this number was removed from the register, which lets it in no more.
pub type IsRemoved = Arc<dyn Fn(u32) -> bool + Send + Sync>;

/// One process, while it runs and while it does not.
struct Kept {
    name: String,
    /// What helps if it cannot start.
    remedy: String,
    start: Start,
    /// It is of no use any more.
    is_removed: Box<dyn Fn() -> bool + Send>,
    child: Option<Child>,
    since: Instant,
    pause: Duration,
}

impl Kept {
    fn start(name: String, remedy: String, start: Start) -> anyhow::Result<Self> {
        let child = Some(start()?);
        let is_removed = Box::new(|| false);
        Ok(Self { name, remedy, start, is_removed, child, since: Instant::now(), pause: FIRST_PAUSE })
    }
}

impl LocalNodes {
    /// Starts the nodes, on ports 5555 and up or on any. They find the leader by themselves.
    pub fn start(
        count: u32,
        any_port: bool,
        (io_mode, layout): (IoMode, Layout),
        data_dir: &Path,
        leaders: Vec<SocketAddr>,
        logs: LocalLogs,
        is_removed: &IsRemoved,
    ) -> anyhow::Result<Self> {
        if count == 0 {
            return Ok(Self { stop: None, keeper: None });
        }
        let binary = own_binary()?;
        let data_dir = data_dir.to_owned();
        let recipe = Arc::new(Recipe { binary, any_port, io_mode, layout, data_dir, leaders, logs });
        let one = |id| {
            let starts = recipe.clone();
            let kept =
                Kept::start(format!("local node {id}"), recipe.told_port(id), Box::new(move || starts.start(id)));
            let is_removed = is_removed.clone();
            Ok(Kept { is_removed: Box::new(move || is_removed(id)), ..kept? })
        };
        Self::keep((1..=count).map(one).collect::<anyhow::Result<_>>()?)
    }

    fn keep(kept: Vec<Kept>) -> anyhow::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let keeper = std::thread::Builder::new().name("local nodes".to_owned());
        let keeper = keeper.spawn(move || keep(kept, &stopped))?;
        Ok(Self { stop: Some(stop), keeper: Some(keeper) })
    }
}

fn own_binary() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("local processes cannot start: this program's own file is not known")
}

/// Neither settings nor the service manager's words are for children.
fn without_settings(command: &mut Command, also: impl Fn(&str) -> bool) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if also(&name) || ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"].contains(&&*name) {
            command.env_remove(&*name);
        }
    }
}

impl Recipe {
    fn start(&self, id: u32) -> anyhow::Result<Child> {
        let port = if self.any_port { 0 } else { FIRST_PORT + id - 1 };
        let mut command = Command::new(&self.binary);
        without_settings(&mut command, |name| name.starts_with("HATOKUSE_"));
        command.args(["node", "--config", "off", "--plain", "--stop-with-stdin", "--report-every", "1day"]);
        command.args(["--id", &id.to_string(), "--port", &port.to_string(), "--io-mode", &self.io_mode.to_string()]);
        command.args(["--layout", &self.layout.to_string()]);
        // What becomes events of the leader is read as text.
        command.args(["--log-format", if self.logs == LocalLogs::Json { "json" } else { "text" }]);
        let leaders: Vec<String> = self.leaders.iter().map(SocketAddr::to_string).collect();
        command.args(["--leader", &leaders.join(",")]);
        if let Some(leader) = self.leaders.first() {
            command.args(["--host", &leader.ip().to_string()]);
        }
        command.arg("--data-dir").arg(&self.data_dir);
        // Its own group: Ctrl-C in a terminal stops the leader, and the leader stops its nodes when it is done with them.
        command.process_group(0);
        let stderr = if self.logs == LocalLogs::Relayed { Stdio::piped() } else { Stdio::inherit() };
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(stderr).spawn();
        let mut child = child.with_context(|| {
            format!("local node {id} cannot start: {} with its output to /dev/null", self.binary.display())
        })?;
        if let Some(said) = child.stderr.take() {
            std::thread::Builder::new().name(format!("log of {id}")).spawn(move || relay(id, said))?;
        }
        Ok(child)
    }

    fn told_port(&self, id: u32) -> String {
        if self.any_port {
            return String::new();
        }
        let port = FIRST_PORT + id - 1;
        format!(
            " (if its port {port} is taken: stop what has it, or start the leader with --port 0, with which all ports are free ones)"
        )
    }
}

/// Starts processes again that have ended, until the leader stops; then stops them all.
fn keep(mut all: Vec<Kept>, stopped: &mpsc::Receiver<()>) {
    while matches!(stopped.recv_timeout(LOOK), Err(mpsc::RecvTimeoutError::Timeout)) {
        for kept in &mut all {
            let ended = kept.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() && (kept.is_removed)() {
                tracing::info!("{} was removed, and is not started again", kept.name);
                kept.child = None;
                kept.pause = Duration::MAX;
            } else if let Some(how) = ended {
                kept.child = None;
                if kept.since.elapsed() >= STARTED_WELL {
                    kept.pause = FIRST_PAUSE;
                }
                let Kept { name, remedy, pause, .. } = kept;
                let seconds = pause.as_secs();
                tracing::warn!("{name} has ended ({how}), and is started again in {seconds} s{remedy}");
                kept.since = Instant::now();
            } else if kept.child.is_none() && kept.since.elapsed() >= kept.pause {
                kept.pause = (kept.pause * 2).min(LONGEST_PAUSE);
                kept.since = Instant::now();
                match (kept.start)() {
                    Ok(child) => {
                        tracing::info!("{} is started again", kept.name);
                        kept.child = Some(child);
                    }
                    Err(error) => tracing::warn!("{error:#}"),
                }
            }
        }
    }
    end(all.into_iter().filter_map(|kept| kept.child).collect());
}

fn end(mut children: Vec<Child>) {
    for child in &mut children {
        drop(child.stdin.take());
    }
    let until = Instant::now() + PATIENCE;
    for child in &mut children {
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for LocalNodes {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
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
