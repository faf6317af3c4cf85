//! What can be typed, and what it means: subcommands to exit codes, and (in `args`) flags to settings.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::builder::BoolishValueParser as YesOrNo;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use self::args::{BackupArgs, BenchArgs, ClientArgs, LeaderArgs, NodeArgs, RestoreArgs};
use self::cert::CertArgs;
use crate::local_nodes::LocalLogs;
use crate::protocol::table;
use crate::settings_file::File;
use crate::telemetry::EventRing;
use crate::{VERSION, backup, bench, client, environment, leader, logs, node, terminal};

mod args;
mod cert;
mod values;
mod words;

/// Done.
pub const EXIT_OK: u8 = 0;
/// A server answered ERROR, a bench saw errors, a server could not start or had to stop.
pub const EXIT_FAILED: u8 = 1;
/// Wrong usage, or settings that cannot be used.
pub const EXIT_USAGE: u8 = 2;
/// `client GET` of a message that does not exist.
pub const EXIT_NOT_FOUND: u8 = 3;
/// No connection, or no answer in time.
pub const EXIT_NO_ANSWER: u8 = 4;

/// A fault-tolerant, distributed disk register: small messages by id, kept on several machines' disks.
#[derive(Debug, Parser)]
#[command(name = "hatokuse", version = VERSION, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Try it:\n  hatokuse leader --local-nodes 4\n  printf 'SET 1 hello\\nGET 1\\n' | nc -q1 127.0.0.1 6666"
)]
pub struct Cli {
    /// How log lines on stderr look
    #[arg(long, global = true, help_heading = "Logs and screen", env = "HATOKUSE_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Write log lines to this file as well
    #[arg(long, global = true, help_heading = "Logs and screen", env = "HATOKUSE_LOG_FILE", value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Print plain lines instead of a screen, and no colour
    #[arg(long, global = true, help_heading = "Logs and screen", env = "HATOKUSE_PLAIN", value_parser = YesOrNo::new())]
    plain: bool,
    #[command(subcommand)]
    command: Command,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take SET and GET from clients, and place messages on nodes
    #[command(
        after_help = "Examples:\n  hatokuse leader\n  hatokuse leader --local-nodes 4 --io-mode unbuffered\n  hatokuse leader --host 0.0.0.0 --data-dir /var/lib/hatokuse-leader"
    )]
    Leader(Box<LeaderArgs>),
    /// Keep copies of messages on this machine's disk
    #[command(
        after_help = "Examples:\n  hatokuse node --id 1 --port 5555 --io-mode unbuffered\n  hatokuse node --id 2 --port 5556 --leader 192.0.2.1:5550 --host 0.0.0.0 --advertise 192.0.2.2:5556\n  hatokuse node --id 1 --port 5555 --layout log --convert"
    )]
    Node(NodeArgs),
    /// Talk to a leader: a prompt, a pipe, or one command
    #[command(after_help = client_help())]
    Client(ClientArgs),
    /// Measure a register under load
    #[command(
        after_help = "Examples:\n  hatokuse bench --count 9000\n  hatokuse bench --local-nodes 6 --tolerance 3 --count 9000 --verify --json\n  hatokuse bench --op get --connections 32 --pipeline 64\n  hatokuse bench --rate 5000 --duration 10s --warmup 2s --html report.html\n  hatokuse bench --op mixed --mix 20:80 --keys 100000 --distribution zipf --size 50-4096\n  hatokuse bench --protocol resp --addr 127.0.0.1:6379 --wait 2 --json >> redis.json\n  hatokuse bench --compare redis.json hatokuse.json"
    )]
    Bench(BenchArgs),
    /// Write a running register, as it is at one moment, into a folder or a stream
    #[command(after_help = "Examples:\n  hatokuse backup /backups/monday\n  hatokuse backup - | zstd > monday.hkb.zst")]
    Backup(BackupArgs),
    /// Load a backup into a register, whatever its nodes and tolerance
    #[command(
        after_help = "Examples:\n  hatokuse restore /backups/monday --verify\n  hatokuse restore /backups/monday --dry-run\n  zstd -dc monday.hkb.zst | hatokuse restore - --merge"
    )]
    Restore(RestoreArgs),
    /// Make certificates for TLS, if you have no authority of your own
    #[command(
        after_help = "Examples:\n  hatokuse cert ca certs --cluster main\n  hatokuse cert peer certs --id 1 --host leader.example.org\n  hatokuse cert node certs --id 1\n  hatokuse cert client certs --name backup\n\nca-key.pem signs whatever is put before it: keep it away from the machines of the cluster."
    )]
    Cert(CertArgs),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    Man {
        /// The folder
        dir: PathBuf,
    },
}

/// Examples, and the commands that there are.
fn client_help() -> String {
    const EXAMPLES: &str = "Examples:\n  hatokuse client\n  hatokuse client SET 1 hello\n  hatokuse client GET 1\n  \
        hatokuse client SET 1 - < message.txt\n  hatokuse client STATUS --json\n  hatokuse client --watch 1s\n  \
        printf 'SET 1 hello\\nGET 1\\n' | hatokuse client";
    let commands: String = table::lines().map(|line| format!("\n  {line}")).collect();
    format!("{EXAMPLES}\n\nCommands (HELP tells of them at the prompt):{commands}")
}

impl Command {
    fn checks_config(&self) -> bool {
        match self {
            Self::Leader(args) => args.check_config,
            Self::Node(args) => args.check_config,
            _ => false,
        }
    }
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let set: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let (command, notes) = environment::tidy(Cli::command(), &set);
    let args = words::flags_first(&command, args);
    let command = environment::yield_to_flags(command, &args);
    let file = match File::find(&command, &args) {
        Ok(file) => file,
        Err(bad) => {
            say(&notes);
            eprintln!("hatokuse: {bad}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let command = file.apply(command);
    let parsed = command.clone().try_get_matches_from(args);
    let parsed = parsed.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return refuse(&error, &notes, environment::blamed(&error, &command, &set)),
    };
    if cli.command.checks_config() {
        say(&notes);
        return check_config(cli, &file, &command, &matches);
    }
    match run(cli, &notes, file.asks_for("report-every", &matches)) {
        Ok(code) => ExitCode::from(code),
        Err(error) if is_broken_pipe(&error) => ExitCode::from(EXIT_OK),
        Err(error) => {
            eprintln!("hatokuse: {}", in_one_line(&error));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Tells what the environment has that may surprise.
fn say(notes: &[String]) {
    notes.iter().for_each(|note| eprintln!("hatokuse: {note}"));
}

/// Shows help, or what is wrong with a command line.
fn refuse(error: &clap::Error, notes: &[String], blame: Option<String>) -> ExitCode {
    if error.use_stderr() {
        say(notes);
    }
    // Nobody is there to be told that it cannot be told.
    let _ = error.print();
    if let Some(blame) = blame {
        eprintln!("\n{blame}");
    }
    ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { EXIT_OK })
}

/// Prints the settings in effect; says what is wrong with what they name.
fn check_config(cli: Cli, file: &File, command: &clap::Command, matches: &clap::ArgMatches) -> ExitCode {
    let Some((name, matches)) = matches.subcommand() else { return ExitCode::from(EXIT_USAGE) };
    // Built, subcommands have the flags that all share.
    let mut command = command.clone();
    command.build();
    let lines = command.find_subcommand(name).map(|command| file.effective(command, matches)).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    let written = lines.iter().try_for_each(|line| writeln!(out, "{line}")).and_then(|()| out.flush());
    let checked = match cli.command {
        Command::Leader(args) => args.check(),
        Command::Node(args) => args.settings(false, false).map(drop),
        _ => Ok(()),
    };
    match (written, checked) {
        (_, Err(error)) if !is_broken_pipe(&error) => {
            eprintln!("hatokuse: {}", in_one_line(&error));
            ExitCode::from(EXIT_USAGE)
        }
        _ => ExitCode::from(EXIT_OK),
    }
}

/// `reports` says whether the report was asked for.
fn run(cli: Cli, notes: &[String], reports: bool) -> anyhow::Result<u8> {
    // A journal keeps every line, and most of these are the same.
    let reports = reports || !logs::is_journal(std::io::stdout());
    let screen = !cli.plain && terminal::takes_screen();
    let log = |screen: bool, role: &'static str, node: Option<u32>| -> anyhow::Result<EventRing> {
        let ring = EventRing::new();
        let who = logs::Who { role, node };
        let look = logs::Look { json: cli.log_format == LogFormat::Json, plain: cli.plain, who };
        logs::init(look, cli.log_file.as_deref(), screen, ring.clone())?;
        notes.iter().for_each(|note| tracing::warn!("{note}"));
        Ok(ring)
    };
    match cli.command {
        Command::Leader(args) => {
            let events = log(screen, "leader", None)?;
            let local_logs = match cli.log_format {
                _ if screen || cli.log_file.is_some() => LocalLogs::Relayed,
                LogFormat::Json => LocalLogs::Json,
                LogFormat::Text => LocalLogs::Text,
            };
            leader::process::run(args.settings(screen, reports, local_logs)?, events).map(|()| EXIT_OK)
        }
        Command::Node(args) => {
            let events = log(screen, "node", Some(args.id()))?;
            node::process::run(args.settings(screen, reports)?, events).map(|()| EXIT_OK)
        }
        Command::Client(args) => {
            say(notes);
            client::shell::run(args.settings(cli.plain)?)
        }
        Command::Bench(args) => {
            log(false, "bench", None)?;
            match args.compare.as_deref() {
                Some([a, b]) => bench::compare(a, b),
                _ => bench::run(args.settings()?),
            }
        }
        Command::Backup(args) => Ok(exit_code(backup::back_up(&args.settings(cli.plain)?))),
        Command::Restore(args) => Ok(exit_code(backup::restore(&args.settings(cli.plain)?))),
        Command::Cert(args) => args.run().map(|()| EXIT_OK),
        Command::Completions { shell } => {
            // Into memory first: written straight to a reader that has left, it would panic.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "hatokuse", &mut script);
            std::io::stdout().lock().write_all(&script)?;
            Ok(EXIT_OK)
        }
        Command::Man { dir } => {
            let written = std::fs::create_dir_all(&dir)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), &dir))
                .and_then(|()| finish_manual(&dir));
            written
                .with_context(|| format!("cannot write manual pages into {}: name another folder", dir.display()))?;
            Ok(EXIT_OK)
        }
    }
}

/// How a backup or its restoring ends; messages that were lost before are no success.
fn exit_code(done: Result<backup::Outcome, backup::Error>) -> u8 {
    match done {
        Ok(backup::Outcome { lost: 0 }) => EXIT_OK,
        Ok(_) => EXIT_FAILED,
        Err(error) => {
            eprintln!("hatokuse: {error}");
            if error.is_no_answer() { EXIT_NO_ANSWER } else { EXIT_FAILED }
        }
    }
}

/// Adds to manual pages what their generator leaves out, and names by what it is what it calls EXTRA.
fn finish_manual(dir: &Path) -> std::io::Result<()> {
    const ENVIRONMENT: &str = ".SH ENVIRONMENT\nEvery flag has a variable: that of \\-\\-data\\-dir is HATOKUSE_DATA_DIR. \
        A flag beats its variable, a variable beats the default.\n.SH EXAMPLES\n";
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let is_ours = |name: &str| name.starts_with("hatokuse") && name.ends_with(".1");
        if path.file_name().and_then(|name| name.to_str()).is_some_and(is_ours) {
            std::fs::write(&path, std::fs::read_to_string(&path)?.replace(".SH EXTRA\n", ENVIRONMENT))?;
        }
    }
    Ok(())
}

/// An error with its causes, each told once: some tell their cause in their own words already.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !line.contains(&cause) {
            line = if line.is_empty() { cause } else { format!("{line}: {cause}") };
        }
    }
    line
}

/// Whether the reader of our output has gone, which ends any program quietly.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_variable() {
        for command in Cli::command().get_subcommands() {
            for flag in command.get_arguments().filter(|a| a.get_long().is_some() && !a.is_hide_set()) {
                let long = flag.get_long().unwrap_or_default();
                if ["help", "version"].contains(&long) {
                    continue;
                }
                let variable = format!("HATOKUSE_{}", long.to_uppercase().replace('-', "_"));
                assert_eq!(
                    flag.get_env().and_then(|v| v.to_str()),
                    Some(variable.as_str()),
                    "{} --{long}",
                    command.get_name()
                );
            }
        }
    }
}
