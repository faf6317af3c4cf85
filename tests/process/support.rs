//! What the stories share: clusters, connections, servers that are not part of a cluster, waiting.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use hatokuse::bench::launcher::{Builder, Cluster};
use tempfile::TempDir;

use crate::tools::tls_of_clusters;

/// How long anything may take that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_hatokuse");

/// A folder in memory, where there is such a thing: durability is not the point of most stories, and files cost less there.
pub(crate) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("hatokuse-test-").tempdir_in(parent).expect("a folder")
}

/// A cluster with its folder.
pub(crate) struct Register {
    cluster: Cluster,
    /// Goes after the processes that use it.
    home: TempDir,
}

impl Register {
    /// Starts a cluster with so many nodes and such a tolerance.
    pub(crate) fn start(nodes: u32, tolerance: usize) -> Self {
        Self::with(nodes, tolerance, folder(), |builder| builder)
    }

    /// Starts a cluster in a folder that may hold something, with more to say about it.
    pub(crate) fn with(nodes: u32, tolerance: usize, home: TempDir, more: impl FnOnce(Builder) -> Builder) -> Self {
        let builder = Cluster::builder(BINARY).nodes(nodes).tolerance(tolerance).dir(home.path()).patience(PATIENCE);
        // What nodes have is the point of most stories, and the cache would answer for them.
        let builder = builder.env("HATOKUSE_CACHE", "0");
        let builder = builder.cluster_tls(tls_of_clusters());
        let cluster = more(builder).start().expect("the cluster starts");
        Self { cluster, home }
    }

    /// One line, one reply, on a connection of its own.
    pub(crate) fn ask(&self, line: &str) -> String {
        self.request(line).unwrap_or_else(|error| panic!("{line}: {error:#}"))
    }

    /// Stores a message that has to be taken.
    pub(crate) fn set(&self, id: &str, message: &str) {
        assert_eq!(self.ask(&format!("SET {id} {message}")), "OK", "SET {id}");
    }

    /// Reads a message that has to be there.
    pub(crate) fn get(&self, id: &str) -> String {
        let reply = self.ask(&format!("GET {id}"));
        reply.strip_prefix("VALUE ").unwrap_or_else(|| panic!("GET {id}: {reply}")).to_owned()
    }

    /// The holders of a message, ascending.
    pub(crate) fn holders(&self, id: &str) -> Vec<u32> {
        let reply = self.ask(&format!("WHERE {id}"));
        let nodes = reply.strip_prefix("NODES ").unwrap_or_else(|| panic!("WHERE {id}: {reply}"));
        let nodes = nodes.split_once(" expires ").map_or(nodes, |(nodes, _)| nodes);
        nodes.split(',').map(|node| node.parse().expect("a node")).collect()
    }

    /// Requests that leave together, and their replies.
    pub(crate) fn ask_all(&self, lines: impl IntoIterator<Item = String>) -> Vec<String> {
        let mut wire = self.wire();
        let lines: Vec<String> = lines.into_iter().collect();
        let mut replies = Vec::new();
        for some in lines.chunks(500) {
            wire.send(some.iter().map(|line| line.clone() + "\n").collect::<String>());
            replies.extend(some.iter().map(|_| wire.line()));
        }
        replies
    }

    /// Stores `<prefix>0` to `<prefix><count - 1>`, each with `<value> <number>`.
    pub(crate) fn fill(&self, prefix: &str, count: usize, value: &str) {
        let replies = self.ask_all((0..count).map(|n| format!("SET {prefix}{n} {value} {n}")));
        assert!(replies.iter().all(|reply| reply == "OK"), "{replies:?}");
    }

    /// What GET says of `<prefix>0` to `<prefix><count - 1>`.
    pub(crate) fn read(&self, prefix: &str, count: usize) -> Vec<String> {
        self.ask_all((0..count).map(|n| format!("GET {prefix}{n}")))
    }

    /// Checks what `fill` stored.
    pub(crate) fn check(&self, prefix: &str, count: usize, value: &str) {
        for (n, reply) in self.read(prefix, count).into_iter().enumerate() {
            assert_eq!(reply, format!("VALUE {value} {n}"), "{prefix}{n}");
        }
    }

    /// A raw connection to the leader.
    pub(crate) fn wire(&self) -> Wire {
        Wire::to(self.addr())
    }

    /// The leader's folder.
    pub(crate) fn metadata(&self) -> PathBuf {
        self.home.path().join("leader_metadata")
    }

    /// The file of a copy, named by the id's stem.
    pub(crate) fn copy(&self, node: u32, stem: &str) -> PathBuf {
        self.node_dir(node).join(format!("{stem}.txt"))
    }

    /// Waits until this node is in this state, as the leader sees it.
    pub(crate) fn wait_state(&self, node: u32, state: &str) {
        let is = |status: &serde_json::Value| {
            status["nodes"].as_array().is_some_and(|all| all.iter().any(|n| n["id"] == node && n["state"] == state))
        };
        self.wait_status(&format!("node {node} {state}"), is).expect("the state");
    }
}

impl Deref for Register {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for Register {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

/// A raw connection: bytes out, lines in.
pub(crate) struct Wire {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Wire {
    /// Connects.
    pub(crate) fn to(addr: &str) -> Self {
        let stream = TcpStream::connect(addr).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        Self { stream, reader }
    }

    /// The socket, for what is done to it beside reading and writing.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the leader takes it");
    }

    /// The next reply line without its end, byte for byte.
    pub(crate) fn bytes(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).expect("a reply in time");
        assert_eq!(line.pop(), Some(b'\n'), "the connection ended inside a line: {:?}", String::from_utf8_lossy(&line));
        line
    }

    /// The next reply line as text.
    pub(crate) fn line(&mut self) -> String {
        String::from_utf8(self.bytes()).expect("text")
    }

    /// One request, one reply.
    pub(crate) fn ask(&mut self, line: impl AsRef<[u8]>) -> String {
        self.send([line.as_ref(), b"\n"].concat());
        self.line()
    }

    /// The first two words of the reply.
    pub(crate) fn code(&mut self, line: impl AsRef<[u8]>) -> String {
        code(&self.ask(line))
    }

    /// Closes our direction, and gives what still comes.
    pub(crate) fn finish(mut self) -> String {
        self.stream.shutdown(Shutdown::Write).expect("shut");
        let mut rest = String::new();
        self.reader.read_to_string(&mut rest).expect("the end of the connection");
        rest
    }

    /// What still comes until the leader closes.
    pub(crate) fn rest(mut self) -> String {
        let mut rest = String::new();
        self.reader.read_to_string(&mut rest).expect("the end of the connection");
        rest
    }
}

/// A leader without nodes; gives its address for clients.
pub(crate) fn lone_leader(folder: &Path, more: &[&str]) -> (Server, String) {
    let args = [&["leader", "--port", "0", "--grpc-port", "0"], more].concat();
    let server = Server::start(folder, &args);
    let ready = server.says("leader ready");
    let addr = ready.split("clients=").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address").to_owned();
    (server, addr)
}

/// `ERROR CODE` of an error reply, `OK` or `VALUE` of another.
pub(crate) fn code(reply: &str) -> String {
    let words = if reply.starts_with("ERROR ") { 2 } else { 1 };
    reply.split(' ').take(words).collect::<Vec<_>>().join(" ")
}

/// Waits until `look` gives something.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until two values are the same.
pub(crate) fn eventually_same<T: PartialEq + Debug>(what: &str, wanted: &T, mut look: impl FnMut() -> T) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look();
        if seen == *wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: wanted {wanted:?}, saw {seen:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The names in a folder that do not begin with a dot.
pub(crate) fn visible(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
    names.filter(|name| !name.starts_with('.')).collect()
}

/// The lines of message_mapping.txt, sorted.
pub(crate) fn mapping(metadata: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(metadata.join("message_mapping.txt")).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Changes one byte of a file, far from its ends, and keeps the rest.
pub(crate) fn flip_byte(file: &Path, at: usize) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(file).expect("the file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], at as u64).expect("a byte");
}

/// A command of the program, without settings of whoever runs the tests.
pub(crate) fn hatokuse(args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"HATOKUSE_")) {
        // A bug on purpose is for every process, in a build that has any.
        if !(cfg!(feature = "seeded-bugs") && name == hatokuse::seeded::VARIABLE) {
            command.env_remove(name);
        }
    }
    command.env("HATOKUSE_HTTP_PORT", "off");
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs a command to its end with this as its standard input.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    // Whether it reads all of it is its own affair.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("the writer");
    output
}

/// A server outside of any cluster, for those that are refused. Killed when dropped.
pub(crate) struct Server {
    child: Child,
    said: PathBuf,
}

impl Server {
    /// Starts it; what it says goes into a file in `folder`.
    pub(crate) fn start(folder: &Path, args: &[&str]) -> Self {
        Self::start_with(folder, args, |_| {})
    }

    /// As [`Server::start`], with a change to the command.
    pub(crate) fn start_with(folder: &Path, args: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let said = folder.join(format!(".said-{}", fastrand::u64(..)));
        let log = std::fs::File::create(&said).expect("a file");
        let mut command = hatokuse(args);
        change(&mut command);
        command.arg("--plain").arg("--stop-with-stdin").current_dir(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        Self { child: command.spawn().expect("it starts"), said }
    }

    /// What it said on stderr so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap_or_default()
    }

    /// Waits until it said this; gives the line.
    pub(crate) fn says(&self, text: &str) -> String {
        let line = || self.said().lines().find(|line| line.contains(text)).map(str::to_owned);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = line() {
                return line;
            }
            assert!(Instant::now() < deadline, "waited for {text:?}; it said:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM.
    pub(crate) fn stop(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("a signal");
    }

    /// Waits for its end.
    pub(crate) fn ends(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("its status") {
                return status;
            }
            assert!(Instant::now() < deadline, "it goes on; it said:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// It ends by itself with exit code 1 and one clear last line; gives that.
    pub(crate) fn must_be_refused(mut self) -> String {
        let status = self.ends();
        let said = self.said();
        assert_eq!(status.code(), Some(1), "it said:\n{said}");
        assert!(!said.contains("ready"), "it said:\n{said}");
        let last = said.lines().last().unwrap_or_default().to_owned();
        let why = last.strip_prefix("hatokuse: ").unwrap_or_else(|| panic!("no last line tells why; it said:\n{said}"));
        let begin: String = why.chars().take(40).collect();
        assert_eq!(why.matches(&begin).count(), 1, "it tells that once: {last}");
        last
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a leader that is expected not to; gives its last line.
pub(crate) fn refused_leader(folder: &Path, more: &[&str]) -> String {
    let args = [&["leader", "--port", "0", "--grpc-port", "0"], more].concat();
    Server::start(folder, &args).must_be_refused()
}

/// Starts a node that is expected not to.
pub(crate) fn refused_node(folder: &Path, id: u32, leader: &str) -> String {
    Server::start(folder, &["node", "--id", &id.to_string(), "--port", "0", "--leader", leader]).must_be_refused()
}

/// Checks that a line holds all these parts.
#[track_caller]
pub(crate) fn tells(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{line:?} should say {part:?}");
    }
}

/// Runs a story that awaits.
pub(crate) fn tell<T>(story: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(story)
}
