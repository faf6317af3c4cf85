//! Settings from a file, `/etc/hatokuse/leader.toml` or `node.toml`: a flag beats its variable, a variable beats the file,
//! the file beats the default.
//!
//! A key is a flag's long name, so there is no second list of settings: what the file says becomes the default of that
//! flag, and the flag's own parser looks at it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, Id};
use toml::de::{DeTable, DeValue};

/// Where the files are that nobody has to name.
const FOLDER: &str = "/etc/hatokuse";

/// The subcommands that read a file.
const READERS: [&str; 2] = ["leader", "node"];

/// In the place of a file: none is read.
const OFF: &str = "off";

/// Why a file cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {what}", path.display(), Line(*line))]
pub struct BadFile {
    path: PathBuf,
    /// Counted from 1, if it is about one.
    line: Option<usize>,
    what: String,
}

struct Line(Option<usize>);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// What a file sets.
#[derive(Debug, Default)]
pub struct File {
    path: PathBuf,
    /// By the flag's long name: its line, and the value as a flag would have it.
    set: BTreeMap<String, (usize, String)>,
}

impl File {
    /// Finds and reads the file that this command line asks for; none is read for subcommands that take none.
    pub fn find(command: &Command, args: &[OsString]) -> Result<Self, BadFile> {
        let quiet = command.clone().ignore_errors(true);
        let Ok(matches) = quiet.try_get_matches_from(args) else { return Ok(Self::default()) };
        let Some((name, matches)) = matches.subcommand().filter(|(name, _)| READERS.contains(name)) else {
            return Ok(Self::default());
        };
        let named = matches.get_one::<PathBuf>("config").cloned();
        let is_named = named.is_some();
        let path = named.unwrap_or_else(|| Path::new(FOLDER).join(format!("{name}.toml")));
        if path.as_os_str() == OFF {
            return Ok(Self::default());
        }
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_named => return Ok(Self::default()),
            Err(error) => return Err(BadFile { path, line: None, what: format!("cannot be read: {error}") }),
        };
        let Some(subcommand) = command.find_subcommand(name) else { return Ok(Self::default()) };
        let flags: Vec<&Arg> = subcommand.get_arguments().chain(command.get_arguments()).collect();
        let set = read(&text, &flags).map_err(|(line, what)| BadFile { path: path.clone(), line, what })?;
        Ok(Self { path, set })
    }

    /// Makes what the file says the defaults of a command and its subcommands.
    pub fn apply(&self, command: Command) -> Command {
        let defaults = |arg: Arg| match arg.get_long().and_then(|long| self.set.get(long)) {
            Some((_, value)) => arg.default_value(value.clone()).required(false),
            None => arg,
        };
        let in_reader = |sub: Command| if READERS.contains(&sub.get_name()) { sub.mut_args(defaults) } else { sub };
        command.mut_args(defaults).mut_subcommands(in_reader)
    }

    /// The settings in effect, each with where it comes from, a line each, as `--check-config` shows them.
    pub fn effective(&self, command: &Command, matches: &ArgMatches) -> Vec<String> {
        let flags = command.get_arguments().filter(|arg| !arg.is_hide_set() && arg.get_long() != Some("check-config"));
        flags.filter_map(|arg| self.line(arg, arg.get_long()?, matches)).collect()
    }

    /// Whether a flag of the subcommand was set at all: on the command line, by its variable, or in the file.
    pub fn asks_for(&self, long: &str, matches: &ArgMatches) -> bool {
        let id = long.replace('-', "_");
        let source = matches.subcommand().and_then(|(_, matches)| {
            matches.try_contains_id(&id).unwrap_or(false).then(|| matches.value_source(&id)).flatten()
        });
        self.set.contains_key(long) || matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    }

    fn line(&self, arg: &Arg, long: &str, matches: &ArgMatches) -> Option<String> {
        let id = arg.get_id().as_str();
        let Some(source) = matches.value_source(id) else {
            // A default that depends on something is said in the help.
            let help = arg.get_help()?.to_string();
            let default = help.split_once("[default: ")?.1.strip_suffix(']')?.to_owned();
            return Some(format!("{long} = {default}  # default"));
        };
        let value: Vec<String> = match arg.get_action() {
            ArgAction::SetTrue => vec![matches.get_flag(id).to_string()],
            _ => matches.get_raw(id)?.map(|value| value.to_string_lossy().into_owned()).collect(),
        };
        let from = match (source, self.set.get(long)) {
            (ValueSource::CommandLine, _) => "flag".to_owned(),
            (ValueSource::EnvVariable, _) => "environment".to_owned(),
            (_, Some((line, _))) => format!("{}:{line}", self.path.display()),
            _ => "default".to_owned(),
        };
        Some(format!("{long} = {}  # {from}", value.join(" ")))
    }
}

type Wrong = (Option<usize>, String);

/// Reads what a file says about these flags.
fn read(text: &str, flags: &[&Arg]) -> Result<BTreeMap<String, (usize, String)>, Wrong> {
    let line_of = |at: usize| text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    let table = DeTable::parse(text)
        .map_err(|error| (error.span().map(|span| line_of(span.start)), error.message().to_owned()))?;
    let mut set = BTreeMap::new();
    for (key, value) in table.get_ref() {
        let line = line_of(key.span().start);
        let key = key.get_ref().to_string();
        let wrong = |what: String| (Some(line), what);
        let known = |arg: &&&Arg| arg.get_long() == Some(&key) && is_setting(arg);
        let Some(arg) = flags.iter().find(known) else { return Err(wrong(unknown(&key, flags))) };
        let value = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Boolean(yes) => yes.to_string(),
            _ => return Err(wrong(format!("{key} wants one value: a string, a number, true or false"))),
        };
        check(arg, &key, &value).map_err(wrong)?;
        set.insert(key, (line, value));
    }
    Ok(set)
}

/// Whether a flag can stand in a file: not what is said once and for all on a command line.
fn is_setting(arg: &Arg) -> bool {
    let settable = matches!(arg.get_action(), ArgAction::Set | ArgAction::SetTrue);
    settable && !arg.is_hide_set() && !matches!(arg.get_long(), None | Some("config" | "check-config"))
}

/// Lets the flag's own parser look at a value.
fn check(arg: &Arg, key: &str, value: &str) -> Result<(), String> {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return match value {
            "true" | "false" => Ok(()),
            _ => Err(format!("{key} is true or false, not {value:?}")),
        };
    }
    // What it needs beside it, or excludes, may stand elsewhere.
    let arg = arg.clone().requires(Resettable::<Id>::Reset).conflicts_with(Resettable::<Id>::Reset);
    let alone = Command::new("file").no_binary_name(true).arg(arg.env(None::<&str>).global(false));
    match alone.try_get_matches_from([format!("--{key}={value}")]) {
        Ok(_) => Ok(()),
        Err(error) => {
            let told = error.to_string();
            Err(told.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned())
        }
    }
}

fn unknown(key: &str, flags: &[&Arg]) -> String {
    let names = flags.iter().filter(|arg| is_setting(arg)).filter_map(|arg| arg.get_long());
    let nearest = names.max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)));
    format!("there is no setting {key:?}; the nearest is {:?}, and --help has all", nearest.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> Command {
        let port = Arg::new("port").long("port").required(true).value_parser(clap::value_parser!(u16));
        Command::new("t").arg(port).arg(Arg::new("allow").long("allow-flush").action(ArgAction::SetTrue))
    }

    fn read_as(text: &str) -> Result<BTreeMap<String, (usize, String)>, Wrong> {
        let command = flags();
        read(text, &command.get_arguments().collect::<Vec<_>>())
    }

    #[test]
    fn keys_are_flags_and_values_are_theirs() {
        let set = read_as("# of this machine\nport = 7000\nallow-flush = true\n").unwrap();
        assert_eq!(set["port"], (2, "7000".to_owned()));
        assert_eq!(set["allow-flush"], (3, "true".to_owned()));
        let matches = File { path: "x".into(), set }.apply(flags()).try_get_matches_from(["t"]).unwrap();
        assert_eq!((matches.get_one::<u16>("port"), matches.get_flag("allow")), (Some(&7000), true));
    }

    #[test]
    fn a_flag_that_needs_another_may_stand_in_a_file() {
        let needs = |name: &'static str, other: &'static str| Arg::new(name).long(name).requires(other);
        let command = Command::new("t").arg(needs("peer", "peers")).arg(needs("peers", "peer"));
        let set = read("peer = 1\npeers = \"1=a:1\"", &command.get_arguments().collect::<Vec<_>>()).unwrap();
        assert_eq!((set["peer"].1.as_str(), set["peers"].1.as_str()), ("1", "1=a:1"));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let table = [
            ("\nprot = 1", 2, "nearest is \"port\""),
            ("port = 70000", 1, "invalid value '70000' for '--port"),
            ("port = [1]", 1, "wants one value"),
            ("\n\nallow-flush = \"yes\"", 3, "true or false"),
            ("port = 1\nport = 2", 2, "duplicate"),
            ("port 7", 1, ""),
        ];
        for (text, line, told) in table {
            let (at, what) = read_as(text).unwrap_err();
            assert_eq!(at, Some(line), "{text:?}: {what}");
            assert!(what.contains(told), "{text:?}: {what}");
        }
    }
}
