//! `hatokuse cert`: certificates for those who have no authority of their own.

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::tls::Role;
use crate::tls::issue::{self, Written};

#[derive(Debug, Args)]
pub(super) struct CertArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make an authority: DIR/ca.pem, which everybody has to have, and DIR/ca-key.pem, which nobody else may have
    Ca {
        /// Folder of the files, which is made
        dir: PathBuf,
        /// Name of the cluster that its certificates are for
        #[arg(long, default_value = "main", value_name = "NAME")]
        cluster: String,
        /// Days that it is valid
        #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Make the certificate of a node: `DIR/node-<ID>.pem` and its key
    Node(ProcessArgs),
    /// Make the certificate of a leader: `DIR/peer-<ID>.pem` and its key; it serves --tls-cert and --cluster-cert
    Peer(ProcessArgs),
    /// Make the certificate of a client: `DIR/client-<NAME>.pem` and its key
    Client {
        /// Folder of the authority
        dir: PathBuf,
        /// Name of the client
        #[arg(long)]
        name: String,
        /// Days that it is valid
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
}

#[derive(Debug, Args)]
struct ProcessArgs {
    /// Folder of the authority
    dir: PathBuf,
    /// Number of the process
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    id: u32,
    /// Name or address that clients call it by; may be given many times [default: localhost, 127.0.0.1, ::1]
    #[arg(long = "host", value_name = "NAME|ADDRESS")]
    hosts: Vec<String>,
    /// Days that it is valid
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

impl ProcessArgs {
    fn issue(mut self, role: impl FnOnce(u32) -> Role) -> anyhow::Result<Written> {
        if self.hosts.is_empty() {
            self.hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        }
        issue::certificate(&self.dir, role(self.id), &self.hosts, self.days)
    }
}

impl CertArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let written = match self.what {
            What::Ca { dir, cluster, days } => issue::authority(&dir, &cluster, days)?,
            What::Node(args) => args.issue(Role::Node)?,
            What::Peer(args) => args.issue(Role::Peer)?,
            What::Client { dir, name, days } => issue::certificate(&dir, Role::Client(name), &[], days)?,
        };
        writeln!(std::io::stdout(), "{}\n{}", written.cert.display(), written.key.display())?;
        Ok(())
    }
}
