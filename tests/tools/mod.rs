//! Programs that tests need and a fresh machine may lack.

#[allow(dead_code, reason = "not every test program does everything with it")]
pub(crate) mod group;

use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Makes sure that a program is there, as root on Debian by installing the package that has it. Elsewhere whoever calls
/// the program says that it is missing.
pub(crate) fn needs(program: &str, package: &str) {
    unless_there(Command::new("sh").args(["-c", "command -v \"$0\"", program]), package);
}

/// As [`needs`], of a module of Debian's own Python.
#[allow(dead_code, reason = "not every test program has a script")]
pub(crate) fn needs_module(module: &str, package: &str) {
    unless_there(Command::new("/usr/bin/python3").args(["-c", &format!("import {module}")]), package);
}

fn unless_there(look: &mut Command, package: &str) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    look.stdout(Stdio::null()).stderr(Stdio::null());
    if look.status().is_ok_and(|status| status.success()) || !rustix::process::geteuid().is_root() {
        return;
    }
    eprintln!("installing {package}, which a test needs");
    let apt = |args: &[&str]| {
        let mut apt = Command::new("apt-get");
        // Another test program may be installing something.
        apt.args(["-q", "-o", "DPkg::Lock::Timeout=300"]).args(args).env("DEBIAN_FRONTEND", "noninteractive");
        apt.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
    };
    let install = || apt(&["install", "-y", "--no-install-recommends", package]);
    if !install() {
        apt(&["update"]);
        install();
    }
}

/// Whether the processes of all clusters speak TLS to one another in this run: docs/testing.md.
pub(crate) fn tls_of_clusters() -> Option<hatokuse::tls::Mode> {
    let mode = std::env::var("TEST_CLUSTER_TLS").ok()?;
    Some(mode.parse().expect("TEST_CLUSTER_TLS is prefer or require"))
}
