//! `hatokuse client STATUS --json`: flags behind a command's words are flags, where they cannot be a part of it.

use std::ffi::{OsStr, OsString};

use clap::{Arg, Command};

use crate::protocol::table::{self, DataOp, Op, ServerOp};

/// The subcommand that takes the words of another language.
const CLIENT: &str = "client";

/// Moves flags that follow a whole command of the client in front of it. What follows `SET <id>` is a message, and what
/// follows `--` stays what it is.
pub(super) fn flags_first(command: &Command, args: Vec<OsString>) -> Vec<OsString> {
    let Some(client) = command.find_subcommand(CLIENT) else { return args };
    let flags: Vec<&Arg> = client.get_arguments().chain(command.get_arguments()).collect();
    let Some(name) = first_word(&flags, &args, 1).filter(|&at| args[at] == CLIENT) else { return args };
    let Some(begin) = first_word(&flags, &args, name + 1) else { return args };
    let Some(words) = words_of(&args[begin]) else { return args };
    let mut rest = args[begin..].iter().enumerate();
    let (mut moved, mut kept) = (Vec::new(), Vec::new());
    while let Some((at, arg)) = rest.next() {
        match flag(&flags, arg).filter(|_| at >= words) {
            Some(takes_value) => {
                moved.push(arg.clone());
                moved.extend(rest.next_if_value(takes_value));
            }
            None if arg == "--" => {
                kept.push(arg.clone());
                kept.extend(rest.by_ref().map(|(_, arg)| arg.clone()));
            }
            None => kept.push(arg.clone()),
        }
    }
    [&args[..begin], &moved, &kept].concat()
}

trait NextIfValue {
    /// The value of a flag that takes one from the next word.
    fn next_if_value(&mut self, takes_value: bool) -> Option<OsString>;
}

impl<'a, I: Iterator<Item = (usize, &'a OsString)>> NextIfValue for I {
    fn next_if_value(&mut self, takes_value: bool) -> Option<OsString> {
        if takes_value { self.next().map(|(_, arg)| arg.clone()) } else { None }
    }
}

/// The first word from `from` on that is no flag and no value of one.
fn first_word(flags: &[&Arg], args: &[OsString], from: usize) -> Option<usize> {
    let mut at = from;
    while at < args.len() {
        match flag(flags, &args[at]) {
            Some(takes_value) => at += 1 + usize::from(takes_value),
            None if args[at].as_encoded_bytes().starts_with(b"-") => return None,
            None => return Some(at),
        }
    }
    None
}

/// Whether an argument is one of these flags, and whether its value is the next one.
fn flag(flags: &[&Arg], arg: &OsStr) -> Option<bool> {
    let text = arg.to_str()?;
    if ["--help", "-h"].contains(&text) {
        return Some(false);
    }
    let (long, has_value) = match text.strip_prefix("--")?.split_once('=') {
        Some((long, _)) => (long, true),
        None => (text.strip_prefix("--")?, false),
    };
    let known = flags.iter().find(|flag| flag.get_long() == Some(long))?;
    Some(known.get_action().takes_values() && !has_value)
}

/// How many words a command has at least, if what follows them is no part of it.
fn words_of(word: &OsStr) -> Option<usize> {
    let spec = table::find(word.to_str()?.as_bytes())?;
    let takes_any_text = matches!(spec.op, Op::Data(DataOp::Set) | Op::Server(ServerOp::Auth));
    let line = spec.line.filter(|_| !takes_any_text)?;
    Some(line.split(' ').filter(|word| !word.starts_with('[')).count())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn flags_behind_a_whole_command_are_flags() {
        let command = super::super::Cli::command();
        for (typed, read) in [
            ("client STATUS --json", "client --json STATUS"),
            ("--plain client --timeout 1s GET 1 --addr x:1", "--plain client --timeout 1s --addr x:1 GET 1"),
            ("client GET x --timeout=1s --json", "client --timeout=1s --json GET x"),
            ("client REBALANCE STOP --json", "client --json REBALANCE STOP"),
            ("client STATUS --help", "client --help STATUS"),
            // These are ids and messages.
            ("client GET --json", "client GET --json"),
            ("client SET 1 --json", "client SET 1 --json"),
            ("client SET 1 a --json b", "client SET 1 a --json b"),
            ("client AUTH a --json", "client AUTH a --json"),
            ("client GET x --other", "client GET x --other"),
            ("client STATUS -- --json", "client STATUS -- --json"),
            ("client FROB --json", "client FROB --json"),
            // And these are no client's.
            ("bench --count 1 --json", "bench --count 1 --json"),
            ("leader", "leader"),
            ("", ""),
        ] {
            let words = |line: &str| -> Vec<OsString> {
                std::iter::once("hatokuse").chain(line.split_whitespace()).map(OsString::from).collect()
            };
            assert_eq!(flags_first(&command, words(typed)), words(read), "{typed}");
        }
    }
}
