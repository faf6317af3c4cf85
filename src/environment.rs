//! What the environment says of settings, before the command line is read: which variables count, and which are somebody
//! else's.
//!
//! Kubernetes puts variables of its own beside ours wherever a Service has this program's name: `HATOKUSE_PORT` is
//! `tcp://10.43.7.7:6666` then. An empty variable is one that is not set, as everywhere.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, Error};

/// What every variable of ours starts with.
const PREFIX: &str = "HATOKUSE_";

/// Ours, and no setting: a bug on purpose, in builds that have any.
const NO_SETTINGS: [&str; 1] = ["HATOKUSE_BUG"];

/// A name that is this much like another (0 to 1) was probably meant to be it.
const ALIKE: f64 = 0.8;

/// Takes variables that are not for us away from a command and its subcommands; tells of those that may surprise.
pub fn tidy(command: Command, set: &[(OsString, OsString)]) -> (Command, Vec<String>) {
    let known: BTreeSet<String> = variables(&command).collect();
    let notes = set.iter().filter_map(|(name, value)| note(name.to_str()?, value, &known)).collect();
    let mine = |arg: Arg| match arg.get_env().map(value_of(set)) {
        Some(Some(value)) if value.is_empty() || is_service_address(&value) => arg.env(None::<&str>),
        _ => arg,
    };
    let command = command.mut_args(mine).mut_subcommands(|sub| sub.mut_args(mine));
    (command, notes)
}

/// Takes away variables that conflict with flags of this command line: a flag beats a variable.
pub fn yield_to_flags(command: Command, args: &[OsString]) -> Command {
    let quiet = command.clone().ignore_errors(true);
    let Ok(matches) = quiet.try_get_matches_from(args) else { return command };
    let Some((name, matches)) = matches.subcommand() else { return command };
    let Some(sub) = command.find_subcommand(name) else { return command };
    let beaten: BTreeSet<String> = sub
        .get_arguments()
        .filter(|arg| is_flag(arg, matches))
        .flat_map(|arg| conflicts(sub, arg))
        .filter(|other| !is_flag_id(other, matches))
        .collect();
    let name = name.to_owned();
    let yielding = |arg: Arg| if beaten.contains(arg.get_id().as_str()) { arg.env(None::<&str>) } else { arg };
    command.mut_subcommand(name, |sub| sub.mut_args(yielding))
}

/// The variable that a bad value came from, if it came from one, as a sentence.
pub fn blamed(error: &Error, command: &Command, set: &[(OsString, OsString)]) -> Option<String> {
    let (Some(ContextValue::String(flag)), Some(ContextValue::String(value))) =
        (error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue))
    else {
        return None;
    };
    let long = flag.split_whitespace().next()?.strip_prefix("--")?;
    let mut args = command.get_arguments().chain(command.get_subcommands().flat_map(Command::get_arguments));
    let name = args.find(|arg| arg.get_long() == Some(long))?.get_env()?;
    let said = value_of(set)(name)?;
    (said == OsStr::new(value)).then(|| format!("the value is that of the variable {}", name.to_string_lossy()))
}

fn value_of(set: &[(OsString, OsString)]) -> impl Fn(&OsStr) -> Option<OsString> + Copy + '_ {
    |name| set.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
}

fn variables(command: &Command) -> impl Iterator<Item = String> + '_ {
    let args = command.get_arguments().chain(command.get_subcommands().flat_map(Command::get_arguments));
    args.filter_map(|arg| arg.get_env()?.to_str().map(str::to_owned))
}

fn is_flag(arg: &Arg, matches: &ArgMatches) -> bool {
    is_flag_id(arg.get_id().as_str(), matches)
}

fn is_flag_id(id: &str, matches: &ArgMatches) -> bool {
    matches.try_contains_id(id).unwrap_or(false) && matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// What cannot stand beside a flag, whichever of the two says so.
fn conflicts(command: &Command, arg: &Arg) -> Vec<String> {
    let has = |of: &Arg, other: &Arg| command.get_arg_conflicts_with(of).iter().any(|c| c.get_id() == other.get_id());
    let others = command.get_arguments().filter(|other| has(arg, other) || has(other, arg));
    others.map(|other| other.get_id().to_string()).collect()
}

fn note(name: &str, value: &OsStr, known: &BTreeSet<String>) -> Option<String> {
    if !name.starts_with(PREFIX) || NO_SETTINGS.contains(&name) {
        return None;
    }
    if is_service_address(value) {
        // That of a port of the service is nobody's setting.
        return known.contains(name).then(|| {
            format!(
                "{name}={} is ignored: that is what Kubernetes sets beside a Service of such a name \
                 (enableServiceLinks: false in the pod keeps it away)",
                value.to_string_lossy()
            )
        });
    }
    if known.contains(name) || is_of_a_service(name) {
        return None;
    }
    let nearest =
        known.iter().map(|other| (strsim::jaro_winkler(&other[PREFIX.len()..], &name[PREFIX.len()..]), other));
    let advice = match nearest.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((alike, other)) if alike >= ALIKE => format!("did you mean {other}?"),
        _ => "--help shows the variable of each flag".to_owned(),
    };
    Some(format!("there is no variable {name}: {advice}"))
}

/// `tcp://10.43.7.7:6666`: where a port of a Service is.
fn is_service_address(value: &OsStr) -> bool {
    let schemes = ["tcp://", "udp://", "sctp://"];
    value.to_str().is_some_and(|value| schemes.iter().any(|scheme| value.starts_with(scheme)))
}

/// `HATOKUSE_SERVICE_HOST`, `HATOKUSE_LEADER_SERVICE_PORT_GRPC`, `HATOKUSE_PORT_6666_TCP_ADDR`: of a Service.
fn is_of_a_service(name: &str) -> bool {
    let is_port = |rest: &str| {
        let mut parts = rest.split('_');
        let number = parts.next().is_some_and(|port| port.parse::<u16>().is_ok());
        let protocol = parts.next().is_some_and(|protocol| ["TCP", "UDP", "SCTP"].contains(&protocol));
        let detail = parts.next().is_none_or(|detail| ["PROTO", "PORT", "ADDR"].contains(&detail));
        number && protocol && detail && parts.next().is_none()
    };
    let after = |part: &str| name.match_indices(part).map(|(at, _)| &name[at + part.len()..]).collect::<Vec<_>>();
    name.ends_with("_SERVICE_HOST")
        || after("_SERVICE_PORT").iter().any(|rest| rest.is_empty() || rest.starts_with('_'))
        || after("_PORT_").into_iter().any(is_port)
}

#[cfg(test)]
mod tests {
    use clap::ArgAction;

    use super::*;

    fn command() -> Command {
        let count = Arg::new("count").long("count").env("HATOKUSE_COUNT").conflicts_with("duration");
        let port = Arg::new("port").long("port").env("HATOKUSE_PORT").value_parser(clap::value_parser!(u16));
        let json = Arg::new("json").long("json").env("HATOKUSE_JSON").action(ArgAction::SetTrue);
        let bench = Command::new("bench")
            .arg(count)
            .arg(port)
            .arg(json)
            .arg(Arg::new("duration").long("duration").env("HATOKUSE_DURATION"));
        Command::new("t").subcommand(bench)
    }

    fn set(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    fn env_of(command: &Command, id: &str) -> bool {
        let sub = command.find_subcommand("bench").unwrap();
        sub.get_arguments().find(|arg| arg.get_id() == id).unwrap().get_env().is_some()
    }

    #[test]
    fn what_is_empty_or_a_services_is_not_for_us() {
        let (tidied, notes) =
            tidy(command(), &set(&[("HATOKUSE_PORT", "tcp://10.0.0.1:6666"), ("HATOKUSE_COUNT", "")]));
        assert!(!env_of(&tidied, "port") && !env_of(&tidied, "count") && env_of(&tidied, "duration"));
        assert!(notes.len() == 1 && notes[0].contains("HATOKUSE_PORT=tcp://10.0.0.1:6666 is ignored"), "{notes:?}");
    }

    #[test]
    fn an_unknown_variable_is_told_with_the_nearest() {
        for (name, told) in [
            ("HATOKUSE_DURATOIN", "did you mean HATOKUSE_DURATION?"),
            ("HATOKUSE_PROT", "did you mean HATOKUSE_PORT?"),
            ("HATOKUSE_XYZ", "--help"),
        ] {
            let (_, notes) = tidy(command(), &set(&[(name, "1")]));
            assert!(notes.len() == 1 && notes[0].contains(told), "{notes:?}");
        }
        for quiet in [
            "HATOKUSE_SERVICE_HOST",
            "HATOKUSE_SERVICE_PORT",
            "HATOKUSE_SERVICE_PORT_CLIENTS",
            "HATOKUSE_LEADER_SERVICE_HOST",
            "HATOKUSE_PORT_6666_TCP_PROTO",
            "HATOKUSE_PORT_6666_TCP",
            "HATOKUSE_LEADER_PORT_5550_TCP_ADDR",
            "HATOKUSE_BUG",
            "OTHER_PORT",
        ] {
            assert_eq!(tidy(command(), &set(&[(quiet, "1")])).1, Vec::<String>::new(), "{quiet}");
        }
        assert_eq!(tidy(command(), &set(&[("HATOKUSE_PORT_6666_TCP", "tcp://10.0.0.1:6666")])).1.len(), 0);
    }

    #[test]
    fn a_flag_beats_a_variable_that_conflicts_with_it() {
        let args = |words: &[&str]| words.iter().map(|word| OsString::from(*word)).collect::<Vec<_>>();
        let given = yield_to_flags(command(), &args(&["t", "bench", "--count", "5"]));
        assert!(!env_of(&given, "duration") && env_of(&given, "count"));
        let given = yield_to_flags(command(), &args(&["t", "bench", "--duration", "5s"]));
        assert!(env_of(&given, "duration") && !env_of(&given, "count"));
        // Two flags that conflict are a mistake, and stay one.
        let both = args(&["t", "bench", "--count", "5", "--duration", "5s"]);
        assert!(yield_to_flags(command(), &both).try_get_matches_from(both).is_err());
    }

    #[test]
    fn a_bad_value_is_told_with_its_variable() {
        let error = command().try_get_matches_from(["t", "bench", "--port", "x"]).unwrap_err();
        let blame = blamed(&error, &command(), &set(&[("HATOKUSE_PORT", "x")]));
        assert_eq!(blame.as_deref(), Some("the value is that of the variable HATOKUSE_PORT"));
        assert_eq!(blamed(&error, &command(), &set(&[("HATOKUSE_PORT", "7")])), None);
    }
}
