//! The door: reads the command line, and turns how it went into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    hatokuse::cli::main()
}
