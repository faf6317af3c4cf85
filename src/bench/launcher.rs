//! A local cluster of real processes: the one launcher of bench, examples and process tests.
//!
//! Synchronous, so that tests need no runtime. Ports are chosen by the system
//! and read back; readiness is awaited, never guessed by sleeping. When the
//! cluster is dropped its processes are killed and its temporary folder is
//! removed; when this process is killed, theirs end with the stdin it held.
//!
//! Never touches a process that it did not start.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use serde_json::Value;

use super::child::{Process, Tail};
use crate::tls::{Mode, Role, issue};
use crate::types::IoMode;

/// How long starting, stopping and settling may take, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(20);

/// Time between two looks at STATUS.
const POLL: Duration = Duration::from_millis(10);

/// Days that certificates of a cluster are valid.
const DAYS: u32 = 7;

/// What a cluster is to be like.
#[derive(Debug, Clone)]
pub struct Builder {
    binary: PathBuf,
    nodes: u32,
    tolerance: usize,
    io_mode: IoMode,
    dir: Option<PathBuf>,
    keep: bool,
    leader_args: Vec<OsString>,
    node_args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    patience: Duration,
    cluster_tls: Option<Mode>,
}

impl Builder {
    /// How many nodes to start with, numbered from 1 (default 4).
    pub fn nodes(mut self, nodes: u32) -> Self {
        self.nodes = nodes;
        self
    }

    /// What `tolerance.conf` says (default 2).
    pub fn tolerance(mut self, tolerance: usize) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Of leader and nodes (default buffered).
    pub fn io_mode(mut self, io_mode: IoMode) -> Self {
        self.io_mode = io_mode;
        self
    }

    /// A folder for everything, made if it is missing and never removed (default a temporary one).
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Whether the temporary folder stays.
    pub fn keep(mut self, keep: bool) -> Self {
        self.keep = keep;
        self
    }

    /// Further arguments for the leader, at every start.
    pub fn leader_args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.leader_args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Further arguments for every node, at every start.
    pub fn node_args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.node_args.extend(args.into_iter().map(Into::into));
        self
    }

    /// A variable for every process.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// How long starting, stopping and settling may take (default 20 s).
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Leader and nodes speak TLS to one another, with certificates that are made for them.
    pub fn cluster_tls(mut self, mode: Option<Mode>) -> Self {
        self.cluster_tls = mode;
        self
    }

    /// Starts the leader and the nodes, and waits until they are all up.
    pub fn start(mut self) -> anyhow::Result<Cluster> {
        // The children run in the folder, so that nothing they do lands elsewhere.
        self.binary = std::path::absolute(&self.binary)?;
        let (dir, temporary) = match &self.dir {
            Some(dir) => (std::path::absolute(dir)?, false),
            None => (fresh_dir()?, !self.keep),
        };
        std::fs::create_dir_all(&dir).with_context(|| format!("{} could not be made", dir.display()))?;
        let mut cluster = Cluster {
            builder: self,
            dir,
            temporary,
            leader: None,
            leader_tail: Tail::default(),
            addr: "127.0.0.1:0".to_owned(),
            grpc_addr: "127.0.0.1:0".to_owned(),
            nodes: BTreeMap::new(),
        };
        cluster.set_tolerance(cluster.builder.tolerance)?;
        cluster.start_leader()?;
        let ids: Vec<u32> = (1..=cluster.builder.nodes).collect();
        cluster.start_nodes(&ids)?;
        if !ids.is_empty() {
            cluster.wait_up(ids.len())?;
        }
        Ok(cluster)
    }
}

/// One node, running or not.
#[derive(Debug, Default)]
struct Node {
    process: Option<Process>,
    tail: Tail,
    /// Where it listened first, and will again; 0 before that.
    port: u16,
}

/// A leader and its nodes as processes of this machine.
#[derive(Debug)]
pub struct Cluster {
    builder: Builder,
    dir: PathBuf,
    temporary: bool,
    leader: Option<Process>,
    leader_tail: Tail,
    addr: String,
    grpc_addr: String,
    nodes: BTreeMap<u32, Node>,
}

impl Cluster {
    /// A cluster of this `hatokuse` binary.
    pub fn builder(binary: impl Into<PathBuf>) -> Builder {
        Builder {
            binary: binary.into(),
            nodes: 4,
            tolerance: 2,
            io_mode: IoMode::Buffered,
            dir: None,
            keep: false,
            leader_args: Vec::new(),
            node_args: Vec::new(),
            env: Vec::new(),
            patience: PATIENCE,
            cluster_tls: None,
        }
    }

    /// Where clients connect.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Where nodes and other gRPC callers connect.
    pub fn grpc_addr(&self) -> &str {
        &self.grpc_addr
    }

    /// The program that its processes run.
    pub fn binary(&self) -> &Path {
        &self.builder.binary
    }

    /// The folder of everything: `tolerance.conf`, `leader_metadata`, `storage_node_<id>`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of one node's copies.
    pub fn node_dir(&self, id: u32) -> PathBuf {
        self.dir.join(format!("storage_node_{id}"))
    }

    /// Rewrites `tolerance.conf`.
    pub fn set_tolerance(&self, tolerance: usize) -> anyhow::Result<()> {
        Ok(std::fs::write(self.dir.join("tolerance.conf"), format!("tolerance={tolerance}\n"))?)
    }

    /// Starts the leader, on the ports that it had before if it had any, and waits until it is ready.
    pub fn start_leader(&mut self) -> anyhow::Result<()> {
        if self.leader.as_mut().is_some_and(Process::is_running) {
            bail!("the leader runs already");
        }
        let deadline = self.deadline();
        loop {
            match self.try_start_leader(deadline) {
                // A port that was free a moment ago may be a stranger's for a moment.
                Err(error) if error.to_string().contains("in use") && Instant::now() < deadline => {
                    std::thread::sleep(POLL * 10);
                }
                result => return result,
            }
        }
    }

    fn try_start_leader(&mut self, deadline: Instant) -> anyhow::Result<()> {
        let mut command = self.command("leader");
        command.args(["--port", port_of(&self.addr), "--grpc-port", port_of(&self.grpc_addr)]);
        command.arg("--tolerance-conf").arg(self.dir.join("tolerance.conf"));
        self.add_certificate(&mut command, Role::Peer(1))?;
        command.args(&self.builder.leader_args);
        let mut process = Process::spawn(command, "leader", &self.leader_tail)?;
        let ready = process.await_ready(deadline)?;
        self.addr = value_of(&ready, "clients", "leader")?;
        self.grpc_addr = value_of(&ready, "nodes", "leader")?;
        self.leader = Some(process);
        Ok(())
    }

    /// The folder of the certificates, where there are some.
    pub fn certificates(&self) -> PathBuf {
        self.dir.join(".certificates")
    }

    /// Names the certificate of a process, which is made if it has none yet.
    fn add_certificate(&self, command: &mut Command, role: Role) -> anyhow::Result<()> {
        let Some(mode) = self.builder.cluster_tls else { return Ok(()) };
        let folder = self.certificates();
        if !folder.join("ca.pem").exists() {
            issue::authority(&folder, "main", DAYS)?;
        }
        let name = role.to_string().replace('/', "-");
        if !folder.join(format!("{name}.pem")).exists() {
            issue::certificate(&folder, role, &["localhost".to_owned(), "127.0.0.1".to_owned()], DAYS)?;
        }
        command.arg("--cluster-tls").arg(mode.to_string());
        command.arg("--cluster-ca").arg(folder.join("ca.pem"));
        command.arg("--cluster-cert").arg(folder.join(format!("{name}.pem")));
        command.arg("--cluster-key").arg(folder.join(format!("{name}-key.pem")));
        Ok(())
    }

    /// Starts a node, a new one or one that ended, and waits until it is ready (not until it is up).
    ///
    /// One that ran before gets the port it had.
    pub fn start_node(&mut self, id: u32) -> anyhow::Result<()> {
        self.start_nodes(&[id])
    }

    /// Starts several at once.
    pub fn start_nodes(&mut self, ids: &[u32]) -> anyhow::Result<()> {
        let leader = self.grpc_addr.clone();
        self.start_nodes_of(ids, &leader)
    }

    /// The same for the leader that listens to nodes at this address, which need not be that of this cluster.
    pub fn start_nodes_of(&mut self, ids: &[u32], leader: &str) -> anyhow::Result<()> {
        let deadline = self.deadline();
        for &id in ids {
            let port = self.nodes.get(&id).map_or(0, |node| node.port);
            let mut command = self.command("node");
            command.args(["--id", &id.to_string(), "--port", &port.to_string(), "--leader", leader]);
            self.add_certificate(&mut command, Role::Node(id))?;
            command.args(&self.builder.node_args);
            let node = self.nodes.entry(id).or_default();
            if node.process.as_mut().is_some_and(Process::is_running) {
                bail!("node {id} runs already");
            }
            node.process = Some(Process::spawn(command, &format!("node {id}"), &node.tail)?);
        }
        for &id in ids {
            let Some(Node { process: Some(process), port, .. }) = self.nodes.get_mut(&id) else { continue };
            let name = format!("node {id}");
            let grpc = value_of(&process.await_ready(deadline)?, "grpc", &name)?;
            *port = port_of(&grpc).parse().with_context(|| format!("{name} is ready at {grpc:?}"))?;
        }
        Ok(())
    }

    /// SIGKILL.
    pub fn kill_node(&mut self, id: u32) -> anyhow::Result<()> {
        drop(self.take_node(id)?);
        Ok(())
    }

    /// SIGTERM, and waits for its end.
    pub fn stop_node(&mut self, id: u32) -> anyhow::Result<ExitStatus> {
        let deadline = self.deadline();
        self.take_node(id)?.stop(deadline)
    }

    /// Kills a node if it runs, and starts it on the port that it had.
    pub fn restart_node(&mut self, id: u32) -> anyhow::Result<()> {
        if self.node_is_running(id) {
            self.kill_node(id)?;
        }
        self.start_node(id)
    }

    /// SIGSTOP: it keeps its sockets, and says nothing any more.
    pub fn pause_node(&self, id: u32) -> anyhow::Result<()> {
        self.node(id)?.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub fn resume_node(&self, id: u32) -> anyhow::Result<()> {
        self.node(id)?.signal(Signal::CONT)
    }

    /// Sends the leader a signal, such as SIGHUP.
    pub fn signal_leader(&self, signal: Signal) -> anyhow::Result<()> {
        self.leader.as_ref().context("the leader does not run")?.signal(signal)
    }

    /// SIGKILL.
    pub fn kill_leader(&mut self) -> anyhow::Result<()> {
        drop(self.leader.take().context("the leader does not run")?);
        Ok(())
    }

    /// SIGTERM, and waits for its end.
    pub fn stop_leader(&mut self) -> anyhow::Result<ExitStatus> {
        let deadline = self.deadline();
        self.leader.take().context("the leader does not run")?.stop(deadline)
    }

    /// Whether the leader's process lives.
    pub fn leader_is_running(&mut self) -> bool {
        self.leader.as_mut().is_some_and(Process::is_running)
    }

    /// Whether this node's process lives.
    pub fn node_is_running(&mut self, id: u32) -> bool {
        self.nodes.get_mut(&id).and_then(|node| node.process.as_mut()).is_some_and(Process::is_running)
    }

    /// The leader's process id.
    pub fn leader_pid(&self) -> Option<u32> {
        self.leader.as_ref().map(Process::pid)
    }

    /// A node's process id.
    pub fn node_pid(&self, id: u32) -> Option<u32> {
        self.node(id).ok().map(Process::pid)
    }

    /// Every process of it that was started and not stopped.
    pub fn pids(&self) -> Vec<u32> {
        let nodes = self.nodes.values().filter_map(|node| node.process.as_ref());
        self.leader.iter().chain(nodes).map(Process::pid).collect()
    }

    /// What the leader said on stderr last, over all its starts.
    pub fn leader_stderr(&self) -> String {
        self.leader_tail.text()
    }

    /// What a node said on stderr last, over all its starts.
    pub fn node_stderr(&self, id: u32) -> String {
        self.nodes.get(&id).map(|node| node.tail.text()).unwrap_or_default()
    }

    /// One request line (without its end), one reply line, on a connection of its own.
    pub fn request(&self, line: &str) -> anyhow::Result<String> {
        let addr = self.addr.to_socket_addrs()?.next().context("the leader has no address")?;
        let stream = TcpStream::connect_timeout(&addr, self.builder.patience)?;
        stream.set_read_timeout(Some(self.builder.patience))?;
        stream.set_write_timeout(Some(self.builder.patience))?;
        (&stream).write_all(format!("{line}\n").as_bytes())?;
        let mut reply = String::new();
        BufReader::new(&stream).read_line(&mut reply)?;
        match reply.strip_suffix('\n') {
            Some(reply) => Ok(reply.to_owned()),
            None => bail!("the leader closed the connection instead of answering {line:?}"),
        }
    }

    /// The leader's STATUS.
    pub fn status(&self) -> anyhow::Result<Value> {
        let reply = self.request("STATUS")?;
        serde_json::from_str(&reply).with_context(|| format!("STATUS was answered by {reply:?}"))
    }

    /// Waits until at least `n` nodes are up, as the leader sees it.
    pub fn wait_up(&self, n: usize) -> anyhow::Result<()> {
        self.wait_status(&format!("{n} nodes up"), |status| count_up(status) >= n)
    }

    /// Waits until STATUS is as wanted; `what` names it in the failure.
    pub fn wait_status(&self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> anyhow::Result<()> {
        let deadline = self.deadline();
        loop {
            let status = self.status();
            if status.as_ref().is_ok_and(&mut wanted) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let seen = status.map_or_else(|error| format!("{error:#}"), |status| status.to_string());
                bail!("waited {:?} for {what}; last STATUS: {seen}\n{}", self.builder.patience, self.all_stderr());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Visible `.txt` files in the folder of each node that has one.
    pub fn copies(&self) -> anyhow::Result<BTreeMap<u32, u64>> {
        let mut copies = BTreeMap::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_prefix("storage_node_")).and_then(|id| id.parse().ok());
            if let Some(id) = id {
                copies.insert(id, count_messages(&entry.path())?);
            }
        }
        Ok(copies)
    }

    fn command(&self, role: &str) -> Command {
        let mut command = Command::new(&self.builder.binary);
        command.current_dir(&self.dir).arg(role);
        command.arg("--data-dir").arg(&self.dir);
        command.args(["--io-mode", &self.builder.io_mode.to_string(), "--plain", "--stop-with-stdin"]);
        // Settings of whoever runs a test are not meant for these.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"HATOKUSE_")) {
            // A bug on purpose is for every process, in a build that has any.
            if !(cfg!(feature = "seeded-bugs") && name == crate::seeded::VARIABLE) {
                command.env_remove(name);
            }
        }
        // Clusters run beside each other, and beside a register that is used.
        command.env("HATOKUSE_HTTP_PORT", "off");
        command.envs(self.builder.env.iter().map(|(name, value)| (name, value)));
        command
    }

    fn node(&self, id: u32) -> anyhow::Result<&Process> {
        let process = self.nodes.get(&id).and_then(|node| node.process.as_ref());
        process.with_context(|| format!("node {id} does not run"))
    }

    fn take_node(&mut self, id: u32) -> anyhow::Result<Process> {
        let process = self.nodes.get_mut(&id).and_then(|node| node.process.take());
        process.with_context(|| format!("node {id} does not run"))
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.builder.patience
    }

    fn all_stderr(&self) -> String {
        let nodes = self.nodes.values().map(|node| node.tail.text());
        std::iter::once(self.leader_stderr()).chain(nodes).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.values_mut() {
            node.process = None;
        }
        self.leader = None;
        if std::thread::panicking() {
            // A failed test should not have to be run again to learn what the servers said.
            let _ = std::io::stderr().lock().write_all(self.all_stderr().as_bytes());
        }
        if self.temporary {
            // Best effort: the system's own cleaning takes what is left.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn count_up(status: &Value) -> usize {
    let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    nodes.iter().filter(|node| node["state"] == "up").count()
}

fn count_messages(folder: &Path) -> anyhow::Result<u64> {
    let mut count = 0;
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.as_encoded_bytes();
        count += u64::from(name.ends_with(b".txt") && !name.starts_with(b"."));
    }
    Ok(count)
}

fn value_of(ready: &[(String, String)], key: &str, name: &str) -> anyhow::Result<String> {
    let found = ready.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone());
    found.with_context(|| format!("the ready line of {name} has no {key}=HOST:PORT"))
}

fn port_of(addr: &str) -> &str {
    addr.rsplit_once(':').map_or("0", |(_, port)| port)
}

/// A folder that nobody else has, readable by nobody else.
fn fresh_dir() -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    let mut tries = 0;
    loop {
        let name = format!("hatokuse-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let dir = std::env::temp_dir().join(name);
        match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && tries < 100 => tries += 1,
            Err(error) => return Err(error).with_context(|| format!("{} could not be made", dir.display())),
        }
    }
}

#[cfg(test)]
#[path = "launcher_tests.rs"]
mod tests;
