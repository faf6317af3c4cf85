//! `leader --local-peers N --local-nodes M`: a register with several leaders on this machine, to try it.

use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::{IsRemoved, Kept, LocalLogs, LocalNodes, own_binary, without_settings};
use crate::types::{IoMode, Layout};

/// The first peer's port for the others.
const FIRST_PORT: u16 = 5560;

/// In the data folder: the ports that leaders were given for one another, a line each.
const PORTS: &str = "peer_ports.txt";

/// Settings that each peer has of its own. All of them have a value.
const OWN: [&str; 8] =
    ["--local-peers", "--local-nodes", "--port", "--grpc-port", "--http-port", "--data-dir", "--peer", "--peers"];

/// What is to be started.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Leaders.
    pub peers: u32,
    /// Nodes.
    pub nodes: u32,
    /// Where all of them listen.
    pub host: IpAddr,
    /// The first leader's port for clients; the others have the next ones. 0: any, and so are all others.
    pub port: u16,
    /// The first leader's port for nodes.
    pub grpc_port: u16,
    /// The first leader's port for HTTP; nothing: none has one.
    pub http_port: Option<u16>,
    /// Holds their folders.
    pub data_dir: PathBuf,
    /// Of nodes.
    pub io_mode: IoMode,
    /// Of nodes.
    pub layout: Layout,
    /// Where lines of nodes go.
    pub logs: LocalLogs,
}

/// The leaders and nodes; all of them end when this is dropped.
#[derive(Debug)]
pub struct LocalPeers {
    _nodes: LocalNodes,
    _peers: LocalNodes,
}

/// Ports of a peer: for the others, clients, nodes and HTTP.
struct Ports {
    peer: u16,
    clients: u16,
    nodes: u16,
    http: Option<u16>,
}

impl Plan {
    fn ports(&self) -> std::io::Result<Vec<Ports>> {
        if self.port > 0 {
            let one = |n| Ports {
                peer: FIRST_PORT + n,
                clients: self.port + n,
                nodes: self.grpc_port + n,
                http: self.http_port.map(|port| port + n),
            };
            return Ok((0..self.peers as u16).map(one).collect());
        }
        // The group knows where its peers are: they stay there.
        let file = self.data_dir.join(PORTS);
        let known = std::fs::read_to_string(&file).unwrap_or_default();
        let mut known = known.lines().filter_map(|line| line.parse::<u16>().ok());
        // Held until all are known, so that no two are the same.
        let mut held = Vec::new();
        let mut free = || {
            let listener = TcpListener::bind((self.host, 0))?;
            let port = listener.local_addr()?.port();
            held.push(listener);
            Ok::<_, std::io::Error>(port)
        };
        let mut one = |_| {
            Ok(Ports {
                peer: known.next().map_or_else(&mut free, Ok)?,
                clients: 0,
                nodes: free()?,
                http: self.http_port.map(|_| 0),
            })
        };
        let all: Vec<Ports> = (0..self.peers).map(&mut one).collect::<std::io::Result<_>>()?;
        std::fs::create_dir_all(&self.data_dir)?;
        std::fs::write(file, all.iter().map(|ports| format!("{}\n", ports.peer)).collect::<String>())?;
        Ok(all)
    }

    /// Where peer `n`, from 1 on, has its folder.
    pub fn folder(&self, n: u32) -> PathBuf {
        self.data_dir.join(format!("peer_{n}"))
    }

    /// Starts all of it: leaders by the arguments of this process, but for what each has of its own.
    ///
    /// # Errors
    /// A process cannot be started.
    pub fn start(&self) -> anyhow::Result<LocalPeers> {
        let ports = self.ports()?;
        let host = if self.host.is_ipv6() { format!("[{}]", self.host) } else { self.host.to_string() };
        let list: Vec<String> =
            ports.iter().enumerate().map(|(n, ports)| format!("{}={host}:{}", n + 1, ports.peer)).collect();
        let args = common(std::env::args_os().skip(1));
        let binary = own_binary()?;
        let mut kept = Vec::new();
        for (n, ports) in (1..).zip(&ports) {
            let http = ports.http.map_or_else(|| "off".to_owned(), |port| port.to_string());
            let own: Vec<OsString> = [
                ("--peer", n.to_string()),
                ("--peers", list.join(",")),
                ("--port", ports.clients.to_string()),
                ("--grpc-port", ports.nodes.to_string()),
                ("--http-port", http),
                ("--local-peers", "0".to_owned()),
                ("--local-nodes", "0".to_owned()),
            ]
            .into_iter()
            .flat_map(|(flag, value)| [flag.into(), value.into()])
            .chain(["--data-dir".into(), self.folder(n).into_os_string(), "--stop-with-stdin".into()])
            .collect();
            let (binary, args) = (binary.clone(), args.clone());
            // The first founds the group, once: started again it belongs to one.
            let founds = n == 1;
            let group = self.folder(n).join("leader_metadata").join("group").join("peer");
            let start = move || {
                let mut command = Command::new(&binary);
                without_settings(&mut command, |_| false);
                command.args(&args).args(&own);
                if founds && !group.exists() {
                    command.arg("--found");
                }
                command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
                Ok(command.spawn()?)
            };
            kept.push(Kept::start(format!("local leader {n}"), String::new(), Box::new(start))?);
        }
        let leaders = ports.iter().map(|ports| SocketAddr::new(self.host, ports.nodes)).collect();
        let how = (self.io_mode, self.layout);
        // That is known to whoever leads.
        let is_removed: IsRemoved = Arc::new(|_| false);
        let nodes =
            LocalNodes::start(self.nodes, self.port == 0, how, &self.data_dir, leaders, self.logs, &is_removed)?;
        Ok(LocalPeers { _nodes: nodes, _peers: LocalNodes::keep(kept)? })
    }
}

/// The arguments without those that each peer has of its own.
fn common(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args = args.into_iter();
    let mut kept = Vec::new();
    while let Some(arg) = args.next() {
        let (flag, has_value) = match arg.to_str().and_then(|arg| arg.split_once('=')) {
            Some((flag, _)) => (OsStr::new(flag), true),
            None => (arg.as_os_str(), false),
        };
        if !OWN.iter().any(|own| flag == *own) {
            kept.push(arg);
        } else if !has_value {
            args.next();
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_peer_has_of_its_own_is_left_out() {
        let args = ["leader", "--local-peers", "3", "--port=0", "--tolerance", "2", "--data-dir", "x", "--insecure"];
        let kept = common(args.map(OsString::from));
        assert_eq!(kept, ["leader", "--tolerance", "2", "--insecure"].map(OsString::from));
    }
}
