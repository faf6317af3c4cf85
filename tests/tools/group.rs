//! A register with several leaders, of real processes: peers, and nodes that know all of them.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Ports of a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) peer: u16,
    pub(crate) clients: u16,
    pub(crate) nodes: u16,
    pub(crate) http: u16,
}

impl Ports {
    fn of(peer: u16) -> Self {
        Self { peer: 5560 + peer, clients: 6660 + peer, nodes: 5550 + peer, http: 7660 + peer }
    }
}

/// Peers 1 and up, nodes 1 and up. All are killed when this goes.
#[derive(Debug)]
pub(crate) struct Group {
    program: PathBuf,
    home: PathBuf,
    pub(crate) ports: Vec<Ports>,
    pub(crate) host: String,
    more: Vec<String>,
    node_args: Vec<String>,
    peers: Vec<Option<Child>>,
    nodes: Vec<Option<Child>>,
}

/// An address of this machine's loopback that is nobody else's: peers have to know one another's ports before any has one.
fn own_host() -> Ipv4Addr {
    static GROUPS: AtomicU32 = AtomicU32::new(0);
    let (process, group) = (std::process::id() % (1 << 14), GROUPS.fetch_add(1, Ordering::Relaxed) % (1 << 9));
    Ipv4Addr::from(0x7f80_0000 | process << 9 | group).max(Ipv4Addr::new(127, 128, 0, 1))
}

impl Group {
    /// Starts so many peers, of which the first founds the group, and so many nodes.
    pub(crate) fn start(program: &Path, home: &Path, (peers, nodes): (usize, usize), more: &[&str]) -> Self {
        let mut group = Self::prepare(program, home, (peers, nodes), more);
        group.start_peer(1, &["--found"]);
        (2..=peers).for_each(|peer| group.start_peer(peer, &[]));
        (1..=nodes).for_each(|node| group.start_node(node));
        group.wait_leader();
        group
    }

    /// Starts nothing yet.
    pub(crate) fn prepare(program: &Path, home: &Path, (peers, nodes): (usize, usize), more: &[&str]) -> Self {
        let ports = (1..=peers as u16).map(Ports::of);
        Self {
            program: program.to_owned(),
            home: home.to_owned(),
            ports: ports.collect(),
            host: own_host().to_string(),
            more: more.iter().map(|&flag| flag.to_owned()).collect(),
            node_args: Vec::new(),
            peers: (0..peers).map(|_| None).collect(),
            nodes: (0..nodes).map(|_| None).collect(),
        }
    }

    /// More flags of nodes that start from now on.
    pub(crate) fn with_node_args(mut self, args: &[&str]) -> Self {
        self.node_args = args.iter().map(|&flag| flag.to_owned()).collect();
        self
    }

    /// One peer more, which is started like the others, and is of the group when it was added; gives its number.
    pub(crate) fn one_more(&mut self) -> usize {
        let number = self.ports.len() as u16 + 1;
        self.ports.push(Ports::of(number));
        self.peers.push(None);
        self.peers.len()
    }

    /// Where the others reach a peer.
    pub(crate) fn peer(&self, peer: usize) -> String {
        format!("{}:{}", self.host, self.ports[peer - 1].peer)
    }

    /// The value of `--peers`.
    pub(crate) fn list(&self) -> String {
        let one = |(at, ports): (usize, &Ports)| format!("{}={}:{}", at + 1, self.host, ports.peer);
        self.ports.iter().enumerate().map(one).collect::<Vec<_>>().join(",")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"HATOKUSE_")) {
            if variable != hatokuse::seeded::VARIABLE {
                command.env_remove(variable);
            }
        }
        let said = File::options().create(true).append(true).open(self.said_file(name)).expect("a file");
        command.current_dir(&self.home).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(said);
        command
    }

    fn said_file(&self, name: &str) -> PathBuf {
        self.home.join(format!("{name}.said"))
    }

    /// What a peer has said on stderr since it was first started.
    pub(crate) fn said(&self, peer: usize) -> String {
        std::fs::read_to_string(self.said_file(&format!("peer-{peer}"))).unwrap_or_default()
    }

    /// The folder of a peer.
    pub(crate) fn folder(&self, peer: usize) -> PathBuf {
        self.home.join(format!("peer-{peer}"))
    }

    /// Starts a peer with more flags than the others have; it may have run before.
    pub(crate) fn start_peer(&mut self, peer: usize, more: &[&str]) {
        let list = self.list();
        self.start_peer_of(peer, &list, more);
    }

    /// Starts a peer as if these, in the form of `--peers`, were all that there are.
    pub(crate) fn start_peer_of(&mut self, peer: usize, list: &str, more: &[&str]) {
        let Ports { clients, nodes, http, .. } = self.ports[peer - 1];
        let mut command = self.command(&format!("peer-{peer}"));
        command.args(["leader", "--config", "off", "--plain", "--stop-with-stdin"]);
        command.args(["--http-host", &self.host, "--http-port", &http.to_string()]);
        command.args(["--peer", &peer.to_string(), "--peers", list, "--host", &self.host]);
        command.args(["--port", &clients.to_string(), "--grpc-port", &nodes.to_string()]);
        command.arg("--data-dir").arg(self.folder(peer)).args(&self.more).args(more);
        self.peers[peer - 1] = Some(command.spawn().expect("a peer"));
    }

    /// Starts a node; it may have run before.
    pub(crate) fn start_node(&mut self, node: usize) {
        let leaders: Vec<String> = self.ports.iter().map(|ports| format!("{}:{}", self.host, ports.nodes)).collect();
        let mut command = self.command(&format!("node-{node}"));
        command.args(["node", "--config", "off", "--plain", "--stop-with-stdin", "--leader", &leaders.join(",")]);
        command.args(["--id", &node.to_string(), "--port", &self.node_port(node).to_string(), "--host", &self.host]);
        command.arg("--data-dir").arg(&self.home).args(&self.node_args);
        self.nodes[node - 1] = Some(command.spawn().expect("a node"));
    }

    /// Kills a peer, if it runs.
    pub(crate) fn kill_peer(&mut self, peer: usize) {
        end(&mut self.peers[peer - 1]);
    }

    /// Kills a node, if it runs.
    pub(crate) fn kill_node(&mut self, node: usize) {
        end(&mut self.nodes[node - 1]);
    }

    /// Whether this peer runs, or is paused.
    pub(crate) fn runs(&mut self, peer: usize) -> bool {
        self.peers[peer - 1].as_mut().is_some_and(|child| child.try_wait().expect("its state").is_none())
    }

    /// Waits until a peer has ended; gives its last line.
    pub(crate) fn ends(&mut self, peer: usize) -> String {
        let deadline = Instant::now() + PATIENCE;
        while self.runs(peer) {
            assert!(Instant::now() < deadline, "peer {peer} goes on; it said:\n{}", self.said(peer));
            std::thread::sleep(LOOK);
        }
        self.said(peer).lines().last().unwrap_or_default().to_owned()
    }

    /// Waits until a peer has ended by itself and in order; gives its last line.
    pub(crate) fn ends_well(&mut self, peer: usize) -> String {
        let line = self.ends(peer);
        let status = self.peers[peer - 1].as_mut().map(|child| child.wait().expect("its state"));
        assert!(status.is_some_and(|status| status.success()), "peer {peer} ended with {status:?}: {line}");
        line
    }

    /// Sends a signal to a peer.
    pub(crate) fn signal(&self, peer: usize, signal: Signal) {
        let child = self.peers[peer - 1].as_ref().expect("a peer");
        kill_process(Pid::from_child(child), signal).expect("a signal");
    }

    /// The peer that has begun to lead last, by what they say; it may have ended since.
    pub(crate) fn leader(&self) -> Option<usize> {
        let term = |line: &str| line.split_once("this peer leads (term ")?.1.split(')').next()?.parse::<u64>().ok();
        let newest = |peer: usize| Some((self.said(peer).lines().filter_map(term).max()?, peer));
        (1..=self.ports.len()).filter_map(newest).max().map(|(_, peer)| peer)
    }

    /// Waits until some peer has led.
    pub(crate) fn wait_leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(leader) = self.leader() {
                return leader;
            }
            let said = || (1..=self.ports.len()).map(|peer| self.said(peer)).collect::<String>();
            assert!(Instant::now() < deadline, "nobody leads; they said:\n{}", said());
            std::thread::sleep(LOOK);
        }
    }

    /// One request on a connection of its own; nothing where that breaks.
    pub(crate) fn ask(&self, peer: usize, line: &str) -> Option<String> {
        self.ask_all(peer, &[line.to_owned()])?.pop()
    }

    /// Requests that leave together, and a line of reply for each; nothing where the connection breaks.
    pub(crate) fn ask_all(&self, peer: usize, lines: &[String]) -> Option<Vec<String>> {
        let mut stream = TcpStream::connect(self.clients(peer)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all((lines.join("\n") + "\n").as_bytes()).ok()?;
        let mut reader = BufReader::new(stream);
        let mut whole_line = || {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            line.strip_suffix('\n').map(str::to_owned)
        };
        lines.iter().map(|_| whole_line()).collect()
    }

    /// Where leaders reach a node.
    pub(crate) fn node_port(&self, node: usize) -> u16 {
        5580 + node as u16
    }

    /// Where a peer answers HTTP.
    pub(crate) fn http(&self, peer: usize) -> String {
        format!("{}:{}", self.host, self.ports[peer - 1].http)
    }

    /// A peer's address for clients.
    pub(crate) fn clients(&self, peer: usize) -> String {
        format!("{}:{}", self.host, self.ports[peer - 1].clients)
    }
}

fn end(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.peers.iter_mut().chain(&mut self.nodes).for_each(end);
    }
}
