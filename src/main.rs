//! The door: reads the command line, and turns how it went into an exit code.

use std::process::ExitCode;

/// musl's own allocator takes half of all time, see `docs/guide.md`.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    hatokuse::cli::main()
}
