//! Compiles `proto/family.proto` without a protoc, and notes the git commit for `--version`.

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
    println!("cargo:rustc-env=HATOKUSE_COMMIT={}", commit());
    Ok(())
}

/// The short commit of this checkout, or "unknown" outside of one.
fn commit() -> String {
    if Path::new(".git/HEAD").exists() {
        println!("cargo:rerun-if-changed=.git/HEAD");
    }
    Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "unknown".to_owned(), |hash| hash.trim().to_owned())
}
