//! The flags of `backup` and `restore`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser as YesOrNo;

use super::login::LoginArgs;
use super::tls::ClientTlsArgs;
use super::{Addresses, duration, hosts_and_ports};
use crate::backup;

#[derive(Debug, Args)]
pub(in crate::cli) struct BackupArgs {
    /// A new or empty folder, or - for standard output
    #[arg(value_name = "DIR|-")]
    to: PathBuf,
    /// The leader's address for clients; with several leaders those of all of them, with commas between
    #[arg(long, env = "HATOKUSE_ADDR", default_value = "127.0.0.1:6666", value_parser = hosts_and_ports, value_name = "HOST:PORT,...")]
    addr: Addresses,
    /// How long to wait for a connection
    #[arg(long, env = "HATOKUSE_TIMEOUT", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    login: LoginArgs,
    #[command(flatten)]
    tls: ClientTlsArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RestoreArgs {
    /// The folder of a backup, or - for standard input
    #[arg(value_name = "DIR|-")]
    from: PathBuf,
    /// The leader's address for clients; with several leaders those of all of them, with commas between
    #[arg(long, env = "HATOKUSE_ADDR", default_value = "127.0.0.1:6666", value_parser = hosts_and_ports, value_name = "HOST:PORT,...")]
    addr: Addresses,
    /// Leave ids alone that have a message already, instead of refusing a register that holds any
    #[arg(long, env = "HATOKUSE_MERGE", value_parser = YesOrNo::new(), conflicts_with = "overwrite")]
    merge: bool,
    /// Put the messages of the backup in the place of those that are there
    #[arg(long, env = "HATOKUSE_OVERWRITE", value_parser = YesOrNo::new())]
    overwrite: bool,
    /// Read back every message written, and compare
    #[arg(long, env = "HATOKUSE_VERIFY", value_parser = YesOrNo::new())]
    verify: bool,
    /// Check the whole backup, and write nothing
    #[arg(long, env = "HATOKUSE_DRY_RUN", value_parser = YesOrNo::new())]
    dry_run: bool,
    /// How long to wait for a connection
    #[arg(long, env = "HATOKUSE_TIMEOUT", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    login: LoginArgs,
    #[command(flatten)]
    tls: ClientTlsArgs,
}

impl BackupArgs {
    pub(in crate::cli) fn settings(self, plain: bool) -> anyhow::Result<backup::Settings> {
        Ok(backup::Settings {
            to: Some(self.to).filter(|to| !backup::is_stream(to)),
            addr: self.addr.to_string(),
            tls: self.tls.dialer()?,
            timeout: self.timeout,
            credentials: self.login.credentials()?,
            plain,
        })
    }
}

impl RestoreArgs {
    pub(in crate::cli) fn settings(self, plain: bool) -> anyhow::Result<backup::RestoreSettings> {
        let existing = match (self.merge, self.overwrite) {
            (true, _) => backup::Existing::Keep,
            (_, true) => backup::Existing::Overwrite,
            _ => backup::Existing::Refuse,
        };
        Ok(backup::RestoreSettings {
            from: Some(self.from).filter(|from| !backup::is_stream(from)),
            addr: self.addr.to_string(),
            tls: self.tls.dialer()?,
            timeout: self.timeout,
            credentials: self.login.credentials()?,
            existing,
            verify: self.verify,
            dry_run: self.dry_run,
            plain,
        })
    }
}
