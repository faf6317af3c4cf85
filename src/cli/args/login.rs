//! The flags of who a client is.

use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;

use super::read_password;
use crate::types::Credentials;

#[derive(Debug, Args)]
#[command(next_help_heading = "User")]
pub(in crate::cli) struct LoginArgs {
    /// User to log in as, with the password of --password-file [default: default]
    #[arg(long, env = "HATOKUSE_USER", value_name = "NAME")]
    user: Option<String>,
    /// File whose first line is that user's password, where the leader asks for one
    #[arg(long, env = "HATOKUSE_PASSWORD_FILE", value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl LoginArgs {
    pub(super) fn credentials(&self) -> anyhow::Result<Option<Credentials>> {
        let Some(file) = &self.password_file else {
            ensure!(self.user.is_none(), "--user needs the --password-file of that user");
            return Ok(None);
        };
        let name = |user: &String| !user.is_empty() && !user.contains(char::is_whitespace);
        ensure!(self.user.as_ref().is_none_or(name), "--user is no name of a user: it is empty, or has a space");
        Ok(Some(Credentials { user: self.user.clone(), password: read_password(file)? }))
    }
}
