//! Programs that tests need and a fresh machine may lack.

use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Makes sure that a program is there, as root on Debian by installing the package that has it. Elsewhere whoever calls
/// the program says that it is missing.
pub(crate) fn needs(program: &str, package: &str) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let is_there = || {
        let mut found = Command::new("sh");
        found.args(["-c", "command -v \"$0\"", program]).stdout(Stdio::null());
        found.status().is_ok_and(|status| status.success())
    };
    if is_there() || !rustix::process::geteuid().is_root() {
        return;
    }
    eprintln!("installing {package}: a test needs {program}");
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
