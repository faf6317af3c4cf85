//! The flags of each subcommand, and the settings that they mean.

mod backup;
mod group;
mod login;
mod tls;

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use clap::builder::BoolishValueParser as YesOrNo;

pub(super) use self::backup::{BackupArgs, RestoreArgs};
use self::group::GroupArgs;
use self::login::LoginArgs;
use self::tls::{ClientTlsArgs, ClusterTlsArgs, LeaderTlsArgs};
use super::values::{
    Addresses, duration, duration_or_never, hosts_and_ports, listen_host, message_size, own_address, read_password,
    read_secret,
};
use crate::config::{ByteSize, DEFAULT_TOLERANCE, MAX_CLIENTS};
use crate::local_nodes::LocalLogs;
use crate::protocol::text::Dialect;
use crate::tls::Role;
use crate::types::{IoMode, Layout, NodeId};
use crate::{bench, client, leader, node};

#[derive(Debug, Args)]
pub(super) struct LeaderArgs {
    /// Address to listen on, for clients and nodes
    #[arg(long, env = "HATOKUSE_HOST", default_value = "127.0.0.1", value_parser = listen_host)]
    host: IpAddr,
    /// Port for clients (0: any free one; off: none, where there is --tls-port)
    #[arg(long, env = "HATOKUSE_PORT", default_value = "6666", value_name = "PORT|off")]
    port: leader::http::Port,
    /// Port for nodes and other gRPC callers (0: any free one)
    #[arg(long, env = "HATOKUSE_GRPC_PORT", default_value_t = 5550)]
    grpc_port: u16,
    /// Port for metrics, health and the web page (0: any free one; off: none) [default: 7666, if it is free]
    #[arg(long, env = "HATOKUSE_HTTP_PORT", value_name = "PORT|off")]
    http_port: Option<leader::http::Port>,
    /// Address to listen on for HTTP
    #[arg(long, env = "HATOKUSE_HTTP_HOST", default_value = "127.0.0.1", value_parser = listen_host)]
    http_host: IpAddr,
    /// File whose first line has to be shown for metrics and the page (a bearer's token, or a browser's password); health needs none
    #[arg(long, env = "HATOKUSE_HTTP_TOKEN_FILE", value_name = "FILE")]
    http_token_file: Option<PathBuf>,
    /// Folder that holds leader_metadata
    #[arg(long, env = "HATOKUSE_DATA_DIR", default_value = ".")]
    data_dir: PathBuf,
    /// On how many nodes a message is kept, whatever --tolerance-conf says
    #[arg(long, env = "HATOKUSE_TOLERANCE", value_parser = clap::value_parser!(u8).range(1..=7))]
    tolerance: Option<u8>,
    /// File that says on how many nodes a message is kept; this name is looked for in --data-dir first
    #[arg(long, env = "HATOKUSE_TOLERANCE_CONF", default_value = "tolerance.conf", value_name = "FILE")]
    tolerance_conf: PathBuf,
    /// When a record of the leader's log counts as written
    #[arg(long, env = "HATOKUSE_IO_MODE", default_value = "buffered")]
    io_mode: IoMode,
    /// Largest message that is taken, up to 64MiB
    #[arg(long, env = "HATOKUSE_MAX_MESSAGE", default_value = "1MiB", value_parser = message_size)]
    max_message: ByteSize,
    /// Clients connected at once; one more is told BUSY. Fewer, where this process may have fewer files open
    #[arg(long, env = "HATOKUSE_MAX_CLIENTS", default_value_t = MAX_CLIENTS, value_parser = clap::value_parser!(u32).range(1..))]
    max_clients: u32,
    /// Cut off a client that asks nothing for this long (0: never)
    #[arg(long, env = "HATOKUSE_IDLE_TIMEOUT", default_value = "0", value_parser = duration_or_never)]
    idle_timeout: Duration,
    /// Cut off a client whose line neither ends nor grows by 1 KiB a second in this time
    #[arg(long, env = "HATOKUSE_LINE_TIMEOUT", default_value = "30s", value_parser = duration)]
    line_timeout: Duration,
    /// Cut off a client that takes less than 1 KiB a second of its replies in this time
    #[arg(long, env = "HATOKUSE_WRITE_DEADLINE", default_value = "30s", value_parser = duration)]
    write_deadline: Duration,
    /// Bytes of unfinished requests held for all clients together; who holds the most is cut off. Less, where there is
    /// less memory
    #[arg(long, env = "HATOKUSE_MAX_PARTIAL_BYTES", default_value = "64MiB")]
    max_partial_bytes: ByteSize,
    /// Open ports to others than this machine with neither TLS nor users, where only those whom you trust reach them
    #[arg(long, env = "HATOKUSE_INSECURE", value_parser = YesOrNo::new())]
    insecure: bool,
    /// File whose first line is the password of user default (AUTH), beside those that it has by ACL SETUSER; without either none is asked for
    #[arg(long, env = "HATOKUSE_PASSWORD_FILE", value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Let FLUSHALL and FLUSHDB of the Redis protocol delete every message
    #[arg(long, env = "HATOKUSE_ALLOW_FLUSH", value_parser = YesOrNo::new())]
    allow_flush: bool,
    /// Run a line of text that has not ended once no more of it has come for this long (such as 50ms), as the original's
    /// client needs it. The danger: a connection that stalls in the middle of a line has its first half run
    #[arg(long, env = "HATOKUSE_UNTERMINATED", value_parser = duration, value_name = "TIME")]
    unterminated: Option<Duration>,
    /// How a GET of the text protocol is answered: own with VALUE and the message, course with OK in place of VALUE, for load clients of the
    /// course that the original was written for (hatokuse's own client and bench do not read it)
    #[arg(long, env = "HATOKUSE_DIALECT", default_value = "own", value_name = "own|course")]
    dialect: Dialect,
    /// Time between two reports
    #[arg(long, env = "HATOKUSE_REPORT_EVERY", default_value = "10s", value_parser = duration)]
    report_every: Duration,
    /// Grace before the copies of a node that is down are made again on others
    #[arg(long, env = "HATOKUSE_REPAIR_AFTER", default_value = "30s", value_parser = duration)]
    repair_after: Duration,
    /// Even out the copies by itself, gently, when one node has held less than half of its share for longer than --repair-after, as one that
    /// was added does
    #[arg(long, env = "HATOKUSE_AUTO_REBALANCE", value_parser = YesOrNo::new())]
    auto_rebalance: bool,
    /// Memory for messages that were read, so that the next GETs of them ask no node (0: none)
    #[arg(long, env = "HATOKUSE_CACHE", default_value = "64MiB", value_name = "SIZE")]
    cache: ByteSize,
    /// Rewrite mapping.log without what is outdated when it is this long, and each time that it has doubled
    #[arg(long, env = "HATOKUSE_REWRITE_LOG_FROM", default_value = "64MiB", value_name = "SIZE")]
    rewrite_log_from: ByteSize,
    #[command(flatten)]
    group: GroupArgs,
    /// Start this many leaders as child processes, of which one leads, on ports --port, --grpc-port, --http-port, 5560 and up (any, with
    /// --port 0), to try it
    #[arg(long, env = "HATOKUSE_LOCAL_PEERS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=5))]
    local_peers: u32,
    /// Start this many nodes as well, as child processes on ports 5555 and up (any, with --port 0)
    #[arg(long, env = "HATOKUSE_LOCAL_NODES", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=64))]
    local_nodes: u32,
    /// How copies lie on the disks of these nodes
    #[arg(long, env = "HATOKUSE_LAYOUT", default_value = "text")]
    layout: Layout,
    /// Read settings from this file, by the names of these flags (off: from none)
    /// [default: /etc/hatokuse/leader.toml, if it is there]
    #[arg(long, env = "HATOKUSE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the settings, print each with where it comes from, and start nothing
    #[arg(long, env = "HATOKUSE_CHECK_CONFIG", value_parser = YesOrNo::new())]
    pub(super) check_config: bool,
    /// Stop when standard input ends (for programs that start this one)
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
    #[command(flatten)]
    tls: LeaderTlsArgs,
    #[command(flatten)]
    cluster_tls: ClusterTlsArgs,
}

#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    /// This node's number, its own among all nodes of the register
    #[arg(long, env = "HATOKUSE_ID", value_parser = clap::value_parser!(u32).range(1..))]
    id: u32,
    /// Port to listen on (0: any free one)
    #[arg(long, env = "HATOKUSE_PORT")]
    port: u16,
    /// When a copy counts as written
    #[arg(long, env = "HATOKUSE_IO_MODE", default_value = "buffered")]
    io_mode: IoMode,
    /// How copies lie on disk
    #[arg(long, env = "HATOKUSE_LAYOUT", default_value = "text")]
    layout: Layout,
    /// Change a folder of the other layout to --layout before serving; may be interrupted and goes on
    #[arg(long, env = "HATOKUSE_CONVERT", value_parser = YesOrNo::new())]
    convert: bool,
    /// The leader's address for nodes; with several leaders those of all of them, with commas between
    #[arg(long, env = "HATOKUSE_LEADER", default_value = "127.0.0.1:5550", value_parser = hosts_and_ports, value_name = "HOST:PORT,...")]
    leader: Addresses,
    /// Address to listen on
    #[arg(long, env = "HATOKUSE_HOST", default_value = "127.0.0.1", value_parser = listen_host)]
    host: IpAddr,
    /// Open the port to others than this machine without TLS, where only those whom you trust reach it
    #[arg(long, env = "HATOKUSE_INSECURE", value_parser = YesOrNo::new())]
    insecure: bool,
    /// Where the leader reaches this node [default: as bound; with --host 0.0.0.0 the address that the leader sees]
    #[arg(long, env = "HATOKUSE_ADVERTISE", value_parser = own_address, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Folder that holds `storage_node_<ID>`
    #[arg(long, env = "HATOKUSE_DATA_DIR", default_value = ".")]
    data_dir: PathBuf,
    /// Time between two reports
    #[arg(long, env = "HATOKUSE_REPORT_EVERY", default_value = "5s", value_parser = duration)]
    report_every: Duration,
    /// Read settings from this file, by the names of these flags (off: from none)
    /// [default: /etc/hatokuse/node.toml, if it is there]
    #[arg(long, env = "HATOKUSE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the settings, print each with where it comes from, and start nothing
    #[arg(long, env = "HATOKUSE_CHECK_CONFIG", value_parser = YesOrNo::new())]
    pub(super) check_config: bool,
    /// Stop when standard input ends (for programs that start this one)
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
    #[command(flatten)]
    cluster_tls: ClusterTlsArgs,
}

#[derive(Debug, Args)]
pub(super) struct ClientArgs {
    /// The leader's address for clients; with several leaders those of all of them, with commas between
    #[arg(long, env = "HATOKUSE_ADDR", default_value = "127.0.0.1:6666", value_parser = hosts_and_ports, value_name = "HOST:PORT,...")]
    addr: Addresses,
    /// Print replies as JSON, one object a line
    #[arg(long, env = "HATOKUSE_JSON", value_parser = YesOrNo::new())]
    json: bool,
    /// How long to wait for a connection or an answer
    #[arg(long, env = "HATOKUSE_TIMEOUT", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Show a line about the register each time this has passed, for example 1s
    #[arg(long, env = "HATOKUSE_WATCH", value_parser = duration, value_name = "TIME")]
    watch: Option<Duration>,
    /// One command, for example: SET 1 hello
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<std::ffi::OsString>,
    #[command(flatten)]
    login: LoginArgs,
    #[command(flatten)]
    tls: ClientTlsArgs,
}

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// The server's address for clients; with several leaders those of all of them, with commas between
    #[arg(long, env = "HATOKUSE_ADDR", default_value = "127.0.0.1:6666", value_parser = hosts_and_ports, value_name = "HOST:PORT,...")]
    addr: Addresses,
    /// How to speak to it; resp measures any Redis server
    #[arg(long, env = "HATOKUSE_PROTOCOL", default_value = "text")]
    protocol: bench::Dialect,
    /// Operations in all [default: 9000, unless --duration is given]
    #[arg(long, env = "HATOKUSE_COUNT", conflicts_with = "duration")]
    count: Option<u64>,
    /// How long to measure, instead of --count
    #[arg(long, env = "HATOKUSE_DURATION", value_parser = duration)]
    duration: Option<Duration>,
    /// How long to run before what is measured begins (0: not at all)
    #[arg(long, env = "HATOKUSE_WARMUP", default_value = "0", value_parser = duration_or_never)]
    warmup: Duration,
    /// Open loop: requests a second over all connections, latency counted from when each was due
    #[arg(long, env = "HATOKUSE_RATE", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: Option<u64>,
    /// Connections
    #[arg(long, env = "HATOKUSE_CONNECTIONS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Requests in flight on each connection
    #[arg(long, env = "HATOKUSE_PIPELINE", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pipeline: u32,
    /// Bytes of each message, or a range: 50-4096
    #[arg(long, env = "HATOKUSE_SIZE", default_value = "100", value_name = "SIZE|MIN-MAX")]
    size: bench::workload::Sizes,
    /// What to do
    #[arg(long, env = "HATOKUSE_OP", default_value = "set")]
    op: bench::Op,
    /// SETs to GETs of --op mixed [default: 1:1]
    #[arg(long, env = "HATOKUSE_MIX", value_name = "SETS:GETS")]
    mix: Option<bench::workload::Mix>,
    /// Choose ids among this many [default: a new id for each SET; as many as --count, or 9000, for GETs]
    #[arg(long, env = "HATOKUSE_KEYS", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    keys: Option<u64>,
    /// How ids are chosen [default: sequential for SET, shuffled for GET, uniform for mixed with --keys]
    #[arg(long, env = "HATOKUSE_DISTRIBUTION")]
    distribution: Option<bench::workload::Distribution>,
    /// Exponent of --distribution zipf [default: 0.99]
    #[arg(long, env = "HATOKUSE_THETA")]
    theta: Option<f64>,
    /// What every id starts with
    #[arg(long, env = "HATOKUSE_KEY_PREFIX", default_value = "bench-")]
    key_prefix: String,
    /// Makes messages, their sizes and the choice of ids
    #[arg(long, env = "HATOKUSE_SEED", default_value_t = 1)]
    seed: u64,
    /// Read back every value written, and compare
    #[arg(long, env = "HATOKUSE_VERIFY", value_parser = YesOrNo::new())]
    verify: bool,
    /// Remove the messages of this run when all is measured; otherwise they stay, and the report says which
    #[arg(long, env = "HATOKUSE_CLEAN", value_parser = YesOrNo::new())]
    clean: bool,
    /// Redis: a SET ends when WAIT says that this many replicas have it
    #[arg(long, env = "HATOKUSE_WAIT", default_value_t = 0, value_name = "REPLICAS")]
    wait: u32,
    /// Have each message end by itself after this long; GETs of what has ended are errors
    #[arg(long, env = "HATOKUSE_TTL", value_parser = duration)]
    ttl: Option<Duration>,
    /// Print the report as JSON
    #[arg(long, env = "HATOKUSE_JSON", value_parser = YesOrNo::new())]
    json: bool,
    /// Write the report as a page too
    #[arg(long, env = "HATOKUSE_HTML", value_name = "FILE")]
    html: Option<PathBuf>,
    /// Measure nothing; compare two files of --json lines, several runs by their medians
    #[arg(long, env = "HATOKUSE_COMPARE", num_args = 2, value_delimiter = ',', value_names = ["A", "B"])]
    pub(super) compare: Option<Vec<PathBuf>>,
    /// Start a throw-away cluster with this many nodes for this run
    #[arg(long, env = "HATOKUSE_LOCAL_NODES", value_parser = clap::value_parser!(u32).range(1..=64))]
    local_nodes: Option<u32>,
    /// Tolerance of that cluster
    #[arg(long, env = "HATOKUSE_TOLERANCE", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=7))]
    tolerance: u32,
    /// IO mode of that cluster
    #[arg(long, env = "HATOKUSE_IO_MODE", default_value = "buffered")]
    io_mode: IoMode,
    /// How copies lie on that cluster's disks
    #[arg(long, env = "HATOKUSE_LAYOUT", default_value = "text")]
    layout: Layout,
    /// Grace of that cluster before the copies of a node that is down are made again
    #[arg(long, env = "HATOKUSE_REPAIR_AFTER", default_value = "30s", value_parser = duration)]
    repair_after: Duration,
    #[command(flatten)]
    login: LoginArgs,
    #[command(flatten)]
    tls: ClientTlsArgs,
}

impl LeaderArgs {
    /// Looks into the files that the settings name.
    pub(super) fn check(self) -> anyhow::Result<()> {
        let source = self.tolerance_source();
        let said = source.read()?;
        let from = match said.tolerance {
            Some(_) => said.by,
            None => format!("default, as there is no {}; or what the log says", source.shown()),
        };
        writeln!(std::io::stdout(), "tolerance = {}  # {from}", said.tolerance.unwrap_or(DEFAULT_TOLERANCE))?;
        self.settings(false, false, LocalLogs::Text).map(drop)
    }

    fn tolerance_source(&self) -> leader::tolerance::Source {
        leader::tolerance::Source::new(self.tolerance.map(usize::from), &self.tolerance_conf, &self.data_dir)
    }

    pub(super) fn settings(
        self,
        screen: bool,
        reports: bool,
        local_logs: LocalLogs,
    ) -> anyhow::Result<leader::process::Settings> {
        let tolerance = self.tolerance_source();
        let password = self.password_file.as_deref().map(read_password).transpose()?;
        let port = match self.port {
            leader::http::Port::At(port) => Some(port),
            leader::http::Port::Off => None,
        };
        ensure!(
            port.is_some() || self.tls.tls_port.is_some(),
            "--port off leaves clients no way in; give a --tls-port"
        );
        ensure!(
            self.local_nodes == 0 || !self.cluster_tls.is_required(),
            "--local-nodes have no certificates: start nodes with their own, or write --cluster-tls prefer"
        );
        ensure!(
            self.local_peers == 0 || !self.group.is_advertised(),
            "--local-peers are reached where they listen: leave --advertise-clients away"
        );
        ensure!(
            self.local_peers == 0 || !self.group.leaves(),
            "--local-peers are several leaders: leave --leave-group away"
        );
        Ok(leader::process::Settings {
            host: self.host,
            peers: self.group.peers()?,
            leaves_group: self.group.leaves(),
            port,
            tls_port: self.tls.tls_port,
            sentinel_port: self.group.sentinel_port(),
            tls: self.tls.encrypted()?,
            http_tls: self.tls.http_tls,
            insecure: self.insecure,
            http_token: self.http_token_file.as_deref().map(|file| read_secret("http-token-file", file)).transpose()?,
            cluster_tls: self.cluster_tls.cluster(Role::Peer(self.group.number()))?,
            grpc_port: self.grpc_port,
            http_port: self.http_port,
            http_host: self.http_host,
            data_dir: self.data_dir,
            tolerance,
            io_mode: self.io_mode,
            clients: leader::gateway::Settings {
                max_message: self.max_message.0 as usize,
                limits: leader::gateway::Limits {
                    max_clients: self.max_clients as usize,
                    idle_timeout: self.idle_timeout,
                    line_timeout: self.line_timeout,
                    write_deadline: self.write_deadline,
                    max_partial_bytes: self.max_partial_bytes.0 as usize,
                },
                password,
                allow_flush: self.allow_flush,
                unterminated: self.unterminated,
                dialect: self.dialect,
                sentinel: self.group.sentinel(),
            },
            report_every: self.report_every,
            repair_after: self.repair_after,
            auto_rebalance: self.auto_rebalance,
            cache_bytes: self.cache.0,
            rewrite_log_from: self.rewrite_log_from.0,
            local_peers: self.local_peers,
            local_nodes: self.local_nodes,
            layout: self.layout,
            stop_with_stdin: self.stop_with_stdin,
            screen,
            reports,
            local_logs,
        })
    }
}

impl NodeArgs {
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn settings(self, screen: bool, reports: bool) -> anyhow::Result<node::process::Settings> {
        Ok(node::process::Settings {
            tls: self.cluster_tls.cluster(Role::Node(self.id))?,
            insecure: self.insecure,
            id: NodeId(self.id),
            host: self.host,
            port: self.port,
            io_mode: self.io_mode,
            layout: self.layout,
            convert: self.convert,
            leaders: self.leader.0,
            advertise: self.advertise,
            data_dir: self.data_dir,
            report_every: self.report_every,
            stop_with_stdin: self.stop_with_stdin,
            screen,
            reports,
        })
    }
}

impl ClientArgs {
    pub(super) fn settings(self, plain: bool) -> anyhow::Result<client::shell::Settings> {
        Ok(client::shell::Settings {
            addr: self.addr.to_string(),
            json: self.json,
            plain,
            timeout: self.timeout,
            tls: self.tls.dialer()?,
            credentials: self.login.credentials()?,
            watch: self.watch,
            command: self.command,
        })
    }
}

impl BenchArgs {
    pub(super) fn settings(self) -> anyhow::Result<bench::Settings> {
        Ok(bench::Settings {
            credentials: self.login.credentials()?,
            tls: self.tls.dialer()?,
            addr: self.addr.to_string(),
            protocol: self.protocol,
            count: self.count,
            duration: self.duration,
            warmup: self.warmup,
            rate: self.rate,
            connections: self.connections as usize,
            pipeline: self.pipeline as usize,
            sizes: self.size,
            op: self.op,
            mix: self.mix,
            keys: self.keys,
            distribution: self.distribution,
            theta: self.theta,
            key_prefix: self.key_prefix,
            seed: self.seed,
            verify: self.verify,
            clean: self.clean,
            wait: self.wait,
            ttl: self.ttl,
            json: self.json,
            html: self.html,
            local: self.local_nodes.map(|nodes| bench::Local {
                nodes: nodes as usize,
                tolerance: self.tolerance as usize,
                io_mode: self.io_mode,
                layout: self.layout.to_string(),
                repair_after: self.repair_after,
            }),
        })
    }
}
