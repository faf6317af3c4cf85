//! Compiles `proto/` without a protoc, and notes the git commit for `--version`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/family.proto");
    let descriptors = protox::compile(["family.proto"], ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("family.bin"), descriptors.encode_to_vec())?;
    tonic_build::configure().bytes(".").compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=proto/peers.proto");
    tonic_build::configure().bytes(".").compile_fds(protox::compile(["peers.proto"], ["proto"])?)?;
    println!("cargo:rustc-env=HATOKUSE_COMMIT={}", commit());
    Ok(())
}

/// The short commit of this checkout, or what `HATOKUSE_COMMIT` says where there is none (in an image), or "unknown".
fn commit() -> String {
    println!("cargo:rerun-if-env-changed=HATOKUSE_COMMIT");
    if let Some(commit) = std::env::var("HATOKUSE_COMMIT").ok().filter(|commit| !commit.is_empty()) {
        return commit;
    }
    // The reflog grows with every commit, in a plain checkout and in a linked one.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}
