//! docs/reference.md says what the program says: its tables of flags and commands are made of `--help` and of the command
//! table, and every error code has its row.
//!
//! `UPDATE_REFERENCE=1 cargo test --test reference` writes the tables anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use hatokuse::protocol::table::{COMMANDS, Spec};

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn reference() -> PathBuf {
    folder().join("docs/reference.md")
}

/// What `--help` says of one flag.
#[derive(Debug, Default, PartialEq)]
struct Flag {
    /// `--addr <HOST:PORT>`.
    name: String,
    text: String,
    values: Vec<String>,
    variable: String,
    default: String,
}

/// The flags that `hatokuse <command> --help` lists, in its order, and its usage line.
fn flags(command: &str) -> (Vec<Flag>, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_hatokuse"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HATOKUSE_")) {
        program.env_remove(name);
    }
    let output = program.args([command, "--help"]).output().expect("the program runs");
    assert!(output.status.success(), "{command} --help");
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    let usage = help.lines().find(|line| line.starts_with("Usage:")).expect("a usage line").to_owned();
    (read_help(&help), usage)
}

fn read_help(help: &str) -> Vec<Flag> {
    let mut flags: Vec<Flag> = Vec::new();
    let mut listing_values = false;
    for line in help.lines() {
        let indent = line.len() - line.trim_start().len();
        let text = line.trim();
        let name = text.strip_prefix("-h, ").or(text.strip_prefix("-V, ")).unwrap_or(text);
        if indent < 8 && name.starts_with("--") {
            flags.push(Flag { name: name.to_owned(), ..Flag::default() });
            listing_values = false;
            continue;
        }
        let Some(flag) = flags.last_mut().filter(|_| indent >= 8 && !text.is_empty()) else { continue };
        let bracket = |what: &str| text.strip_prefix(what).and_then(|rest| rest.strip_suffix(']'));
        if let Some(variable) = bracket("[env: ") {
            flag.variable = variable.trim_end_matches('=').to_owned();
        } else if let Some(default) = bracket("[default: ") {
            flag.default = default.to_owned();
        } else if text == "Possible values:" {
            listing_values = true;
        } else if listing_values {
            // `- text: For people`, which may go on in the next line.
            let value = text.strip_prefix("- ").and_then(|rest| rest.split(':').next());
            flag.values.extend(value.map(|value| format!("`{value}`")));
        } else {
            let _ = write!(flag.text, "{}{text}", if flag.text.is_empty() { "" } else { " " });
        }
    }
    for flag in &mut flags {
        // A default that depends on something is part of the text.
        if let Some(at) = flag.text.find(" [default: ") {
            flag.default = flag.text[at + " [default: ".len()..].trim_end_matches(']').to_owned();
            flag.text.truncate(at);
        }
        if !flag.values.is_empty() {
            flag.text = format!("{}: {}", flag.text, flag.values.join(", "));
        }
    }
    flags.retain(|flag| !["--help", "--version"].contains(&flag.name.as_str()));
    flags
}

/// The flags that every command has.
const EVERYWHERE: [&str; 3] = ["--log-format", "--log-file", "--plain"];

fn is_everywhere(flag: &Flag) -> bool {
    EVERYWHERE.iter().any(|name| flag.name.split(' ').next() == Some(name))
}

fn flag_table<'a>(flags: impl Iterator<Item = &'a Flag>, usage: &str) -> String {
    let mut table = "| flag | default | what it does |\n|---|---|---|\n".to_owned();
    for flag in flags {
        let required = usage.contains(&format!(" {}", flag.name));
        let default = match flag.default.as_str() {
            "" if required => "required".to_owned(),
            "" => String::new(),
            default => format!("`{default}`"),
        };
        let name = flag.name.replace('|', "\\|");
        let _ = writeln!(table, "| `{name}` | {default} | {} |", flag.text.replace('|', "\\|"));
        let long = flag.name.split(' ').next().unwrap_or_default().trim_start_matches("--");
        assert_eq!(flag.variable, format!("HATOKUSE_{}", long.to_uppercase().replace('-', "_")), "said once for all");
    }
    table
}

fn command_table<'a>(commands: impl Iterator<Item = &'a Spec>) -> String {
    let mut table = "| command | words | what it does |\n|---|---|---|\n".to_owned();
    for spec in commands {
        let least = spec.arity.unsigned_abs();
        let words = if spec.arity < 0 { format!("{least} or more") } else { least.to_string() };
        let _ = writeln!(table, "| `{}` | {words} | {} |", spec.name, spec.summary);
    }
    table
}

fn line_table() -> String {
    let mut table = "| line | what it does |\n|---|---|\n".to_owned();
    for spec in COMMANDS {
        if let Some(line) = spec.line {
            let _ = writeln!(table, "| `{line}` | {} |", spec.summary);
        }
    }
    table
}

/// Every generated part with its name.
fn parts() -> Vec<(String, String)> {
    let mut parts = vec![("lines".to_owned(), line_table())];
    let mut groups: Vec<&str> = Vec::new();
    for spec in COMMANDS {
        if !groups.contains(&spec.group) {
            groups.push(spec.group);
        }
    }
    for group in groups {
        parts.push((
            format!("redis {group}"),
            command_table(COMMANDS.iter().filter(|spec| spec.is_of_redis() && spec.group == group)),
        ));
    }
    for command in ["leader", "node", "client", "backup", "restore", "bench"] {
        let (flags, usage) = flags(command);
        if command == "leader" {
            parts.push(("flags everywhere".to_owned(), flag_table(flags.iter().filter(|f| is_everywhere(f)), &usage)));
        }
        let own = flags.iter().filter(|flag| !is_everywhere(flag));
        parts.push((format!("flags {command}"), flag_table(own, &usage)));
    }
    parts
}

/// The text between the marks of a part.
fn between<'a>(text: &'a str, part: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let (begin, end) = (format!("<!-- {part} -->\n"), format!("<!-- end of {part} -->\n"));
    let from = text.find(&begin)? + begin.len();
    let to = from + text[from..].find(&end)?;
    Some((&text[..from], &text[from..to], &text[to..]))
}

#[test]
fn the_reference_lists_the_flags_and_commands_that_there_are() {
    let mut text = std::fs::read_to_string(reference()).expect("docs/reference.md");
    let mut differ = Vec::new();
    for (part, wanted) in parts() {
        let (before, seen, after) =
            between(&text, &part).unwrap_or_else(|| panic!("docs/reference.md has no marks of \"{part}\""));
        if seen != wanted {
            text = format!("{before}{wanted}{after}");
            differ.push(part);
        }
    }
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(reference(), text).expect("docs/reference.md is written");
        return;
    }
    assert!(
        differ.is_empty(),
        "docs/reference.md is behind in {differ:?}; write it anew with: UPDATE_REFERENCE=1 cargo test --test reference"
    );
}

#[test]
fn every_error_code_has_a_row_with_its_remedy() {
    let source = std::fs::read_to_string(folder().join("src/error.rs")).expect("src/error.rs");
    let body = source.split("pub fn code(").nth(1).and_then(|rest| rest.split("\n    }\n").next()).expect("fn code");
    let codes: Vec<&str> = body.split('"').skip(1).step_by(2).collect();
    assert!(codes.contains(&"TOO_FEW_NODES") && codes.len() > 8, "{codes:?}");
    let text = std::fs::read_to_string(reference()).expect("docs/reference.md");
    for code in codes {
        let row = text.lines().find(|line| line.starts_with(&format!("| `{code}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/reference.md has no row for the error {code}"));
        assert_eq!(
            row.split(" | ").count(),
            5,
            "code, code in Redis's protocol, cause, whether it happened, remedy: {row}"
        );
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut documents: Vec<PathBuf> =
        ["README.md", "README.tr.md", "CHANGELOG.md"].map(|name| folder().join(name)).into();
    documents.extend(std::fs::read_dir(folder().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let mut links = 0;
    for document in documents.iter().filter(|path| path.extension().is_some_and(|ending| ending == "md")) {
        let text = std::fs::read_to_string(document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            assert!(target.exists(), "{}: {link}", document.display());
            if !heading.is_empty() && target.extension().is_some_and(|ending| ending == "md") {
                let there = std::fs::read_to_string(&target).unwrap();
                let headings: Vec<String> = there.lines().filter(|line| line.starts_with('#')).map(anchor).collect();
                assert!(
                    headings.iter().any(|one| one == heading),
                    "{}: {link} not in {headings:?}",
                    document.display()
                );
            }
            links += 1;
        }
    }
    assert!(links > 20, "{links}");
}

/// A heading's anchor, as forges make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn help_is_read_as_it_is_printed() {
    let help = "Usage: hatokuse x --id <ID>\n\nOptions:\n      --id <ID>\n          Which\n          one\n\n          [env: HATOKUSE_ID=]\n\n      --mode <MODE>\n          How [default: by chance]\n\n          Possible values:\n          - a: the first\n            of all\n          - b: another\n\n          [env: HATOKUSE_MODE=]\n          [default: a]\n\n  -h, --help\n          Print help\n";
    let flag = |name: &str, text: &str, variable: &str, default: &str| Flag {
        name: name.into(),
        text: text.into(),
        variable: variable.into(),
        default: default.into(),
        ..Flag::default()
    };
    let mut seen = read_help(help);
    assert_eq!(seen.remove(0), flag("--id <ID>", "Which one", "HATOKUSE_ID", ""));
    assert_eq!(seen[0].text, "How: `a`, `b`");
    assert_eq!((seen[0].default.as_str(), seen.len()), ("by chance", 1));
}
