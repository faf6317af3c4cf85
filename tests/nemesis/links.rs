//! Links of this machine's loopback that are cut, in one direction or both, by the packet filter.
//!
//! A connection that a node opens has any port, so that what a node sends is told by its group: `wrapper` starts
//! each node in one of its own. What is dropped is dropped where it is sent, as only there the group is known.
//!
//! Rules live in a chain of their own that goes with this value; nobody else's rules are touched.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::faults::Fault;

/// The chain of this process.
#[derive(Debug)]
pub(crate) struct Links {
    chain: String,
    /// What each rule of the chain, in order, belongs to.
    rules: Vec<Fault>,
}

impl Links {
    /// Or why no link can be cut.
    pub(crate) fn open() -> Result<Self, String> {
        remove_chains_of_the_dead()?;
        let links = Self { chain: format!("{PREFIX}{}", std::process::id()), rules: Vec::new() };
        iptables(&["-N", &links.chain])?;
        iptables(&["-I", "OUTPUT", "-o", "lo", "-p", "tcp", "-j", &links.chain])?;
        Ok(links)
    }

    /// Makes a program in this folder that is `binary`, but runs every node, and every peer, in a group of its own.
    pub(crate) fn wrapper(folder: &Path, binary: &str) -> PathBuf {
        let script = format!(
            r#"#!/bin/sh
for word; do
    [ "$before" = --id ] && exec setpriv --regid $(({first} + word)) --clear-groups "{binary}" "$@"
    [ "$before" = --peer ] && exec setpriv --regid $(({first} + {PEERS} + word)) --clear-groups "{binary}" "$@"
    before=$word
done
exec "{binary}" "$@"
"#,
            first = first_group()
        );
        let path = folder.join("hatokuse");
        std::fs::write(&path, script).expect("a script");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a program");
        path
    }

    /// From now on nothing that this node sends arrives anywhere.
    pub(crate) fn silence(&mut self, fault: Fault, node: u32) {
        self.drop_all(fault, &["-m", "owner", "--gid-owner", &(first_group() + node).to_string()]);
    }

    /// From now on nothing that this peer sends arrives anywhere, or at these ports.
    pub(crate) fn silence_peer(&mut self, fault: Fault, peer: usize, ports: Option<&[u16]>) {
        let group = (first_group() + PEERS + peer as u32).to_string();
        let Some(ports) = ports else {
            return self.drop_all(fault, &["-m", "owner", "--gid-owner", &group]);
        };
        for port in ports {
            self.drop_all(fault, &["-p", "tcp", "--dport", &port.to_string(), "-m", "owner", "--gid-owner", &group]);
        }
    }

    /// From now on nothing arrives at this port, or nothing from it, or both.
    pub(crate) fn cut(&mut self, fault: Fault, port: &str, to: bool, from: bool) {
        for (side, _) in [("--dport", to), ("--sport", from)].iter().filter(|(_, cut)| *cut) {
            self.drop_all(fault, &["-p", "tcp", side, port]);
        }
    }

    fn drop_all(&mut self, fault: Fault, which: &[&str]) {
        iptables(&[&["-A", &self.chain], which, &["-j", "DROP"]].concat()).expect("a rule");
        self.rules.push(fault);
    }

    /// Everything arrives again; gives the kinds of cuts that really stopped something.
    pub(crate) fn mend(&mut self) -> Vec<Fault> {
        if self.rules.is_empty() {
            return Vec::new();
        }
        let listing = iptables(&["-nvxL", &self.chain]).expect("the rules");
        // Two lines of heading; packets are in the first column.
        let packets = listing.lines().skip(2).map(|line| line.split_whitespace().next().unwrap_or("0") != "0");
        let mut faults: Vec<_> =
            packets.zip(self.rules.drain(..)).filter(|(some, _)| *some).map(|(_, fault)| fault).collect();
        faults.dedup();
        iptables(&["-F", &self.chain]).expect("no rules");
        faults
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        // Best effort: the next run removes what stays.
        let _ = remove(&self.chain);
    }
}

const PREFIX: &str = "hatokuse-";

/// Groups of peers come behind those of nodes.
const PEERS: u32 = 50;

/// Node `n` runs in this group plus `n`. Other runs at the same time have others, and no user is in any.
fn first_group() -> u32 {
    1_000_000 + std::process::id() % 1_000_000 * 100
}

/// A run that was killed could not clean up.
fn remove_chains_of_the_dead() -> Result<(), String> {
    let listing = iptables(&["-S"])?;
    let chains = listing.lines().filter_map(|line| line.strip_prefix("-N ")?.strip_prefix(PREFIX));
    for pid in chains.filter(|pid| !Path::new("/proc").join(pid).exists()) {
        remove(&format!("{PREFIX}{pid}"))?;
    }
    Ok(())
}

fn remove(chain: &str) -> Result<(), String> {
    iptables(&["-D", "OUTPUT", "-o", "lo", "-p", "tcp", "-j", chain])?;
    iptables(&["-F", chain])?;
    iptables(&["-X", chain]).map(drop)
}

/// What it printed, or why it did not work.
fn iptables(args: &[&str]) -> Result<String, String> {
    let output =
        Command::new("iptables").arg("-w").args(args).output().map_err(|error| format!("iptables: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("iptables {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}
