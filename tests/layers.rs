//! Who may import whom: the tiers of the source, read off its `use` lines.
//!
//! Every file of `src` belongs to a room, and every room says below what it
//! imports. A new import across rooms fails here until somebody decides that it
//! should be, which is the point.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A room, its tier, and the rooms that it may import from.
///
/// Tiers: 0 words, 1 thought (no runtime, files, sockets or clock), 2 hands, 3 roles (never one
/// another), 4 stage, 5 door. The test below holds every import to a lower tier or the same one,
/// except for those of `UPWARD`.
const ROOMS: &[(&str, u8, &[&str])] = &[
    ("types", 0, &[]),
    ("lock", 0, &[]),
    ("error", 0, &["types"]),
    ("seeded", 0, &[]),
    ("config", 1, &["types"]),
    ("file_names", 1, &["types"]),
    ("telemetry", 1, &["lock", "types"]),
    ("archive", 1, &["types"]),
    ("protocol", 1, &["error", "types"]),
    ("acl", 1, &["protocol"]),
    ("cluster", 1, &["error", "seeded", "types"]),
    ("dashboard", 1, &["telemetry", "types"]),
    ("bench/workload", 1, &[]),
    ("bench/dialect", 1, &["bench/workload"]),
    ("bench/report", 1, &["bench/workload", "telemetry"]),
    ("bench/session", 1, &["bench/dialect", "bench/report", "bench/workload", "error"]),
    ("clock", 2, &[]),
    ("durable", 2, &["lock", "seeded"]),
    ("wire", 2, &["tls", "types"]),
    ("raft", 2, &["durable", "lock", "seeded", "stop", "tls", "types", "wire"]),
    ("settings_file", 2, &[]),
    ("environment", 2, &[]),
    ("stop", 2, &[]),
    ("logs", 2, &["lock", "telemetry", "types"]),
    ("terminal", 2, &["dashboard", "logs", "telemetry"]),
    ("tls", 2, &["lock", "stop", "telemetry"]),
    ("process", 2, &["lock", "logs", "stop", "terminal", "tls", "wire"]),
    ("local_nodes", 2, &["types"]),
    (
        "leader",
        3,
        &[
            "acl",
            "clock",
            "cluster",
            "config",
            "dashboard",
            "durable",
            "error",
            "file_names",
            "local_nodes",
            "lock",
            "process",
            "protocol",
            "raft",
            "seeded",
            "stop",
            "telemetry",
            "terminal",
            "tls",
            "types",
            "VERSION",
            "wire",
        ],
    ),
    (
        "node",
        3,
        &[
            "clock",
            "dashboard",
            "durable",
            "file_names",
            "lock",
            "process",
            "seeded",
            "stop",
            "telemetry",
            "terminal",
            "tls",
            "types",
            "VERSION",
            "wire",
        ],
    ),
    ("backup", 3, &["archive", "durable", "error", "protocol", "telemetry", "tls", "types"]),
    ("client", 3, &["dashboard", "error", "logs", "protocol", "telemetry", "terminal", "tls", "types"]),
    (
        "bench",
        4,
        &[
            "bench/dialect",
            "bench/report",
            "bench/session",
            "bench/workload",
            "config",
            "error",
            "lock",
            "seeded",
            "telemetry",
            "tls",
            "types",
            "VERSION",
        ],
    ),
    (
        "cli",
        5,
        &[
            "backup",
            "bench",
            "client",
            "config",
            "environment",
            "leader",
            "local_nodes",
            "logs",
            "node",
            "protocol",
            "settings_file",
            "telemetry",
            "terminal",
            "tls",
            "types",
            "VERSION",
        ],
    ),
    ("main", 5, &["cli"]),
];

/// Imports that go up, each with its reason. There are none; add one here only with a reason.
const UPWARD: &[(&str, &str, &str)] = &[];

/// What files of thought never name: they are handed time, chance and bytes.
const FORBIDDEN_TO_THOUGHT: &[&str] = &[
    "tokio",
    "std::fs",
    "std::net",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "SystemTime::now",
    "fastrand::Rng::new()",
    "rustix",
];

/// The parts of `bench` that are thought: rooms of their own, with the files below them.
const BENCH_THOUGHT: &[&str] = &["bench/dialect", "bench/report", "bench/session", "bench/workload"];

/// Rooms of thought under their full name of files, relative to `src`.
fn room_of(path: &str) -> &str {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let part = BENCH_THOUGHT
        .iter()
        .find(|part| path.strip_prefix(**part).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    part.copied().unwrap_or_else(|| path.split('/').next().unwrap_or(path))
}

/// All Rust files below `src`, with their paths relative to it.
fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, all: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, all);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                all.push(path);
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&src, &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(path).unwrap())
    };
    paths.into_iter().map(read).collect()
}

/// A file that is compiled for tests only: such a file may import what it likes.
fn is_test_file(path: &str) -> bool {
    path.ends_with("tests.rs") || path.contains("/tests/") || ["bench/fake.rs", "node/conformance.rs"].contains(&path)
}

/// The program part of a file: comments, and the test module at its end, are left out.
fn program(text: &str) -> String {
    let until = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..until].lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The first words of everything that is named from the crate's root: `a` and `b` of `crate::a::x` and `crate::{b::y, a}`.
fn imports(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, root) in text.match_indices("crate::") {
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &text[at + root.len()..];
        let word = |text: &str| text.chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect::<String>();
        match rest.strip_prefix('{') {
            None => drop(found.insert(word(rest))),
            Some(list) => {
                let mut depth = 1;
                let mut fresh = true;
                for (i, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 1 => fresh = true,
                        c if fresh && depth == 1 && !c.is_whitespace() => {
                            found.insert(word(&list[i..]));
                            fresh = false;
                        }
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
        }
    }
    found
}

/// Rooms inside `bench` are reached by `self::` and `super::` as well.
fn bench_imports(path: &str, text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    if path.starts_with("bench/") {
        for room in BENCH_THOUGHT {
            let part = room.trim_start_matches("bench/");
            if text.contains(&format!("self::{part}")) || text.contains(&format!("super::{part}")) {
                found.insert((*room).to_owned());
            }
        }
        for part in ["child", "drive", "launcher", "machine", "progress", "settings"] {
            if text.contains(&format!("super::{part}")) {
                found.insert("bench".to_owned());
            }
        }
    }
    found
}

#[test]
fn every_file_has_a_room_and_every_room_has_files() {
    let rooms: BTreeSet<&str> = ROOMS.iter().map(|(room, ..)| *room).collect();
    let sources = sources();
    let seen: BTreeSet<&str> = sources.iter().map(|(path, _)| room_of(path)).filter(|room| *room != "lib").collect();
    assert_eq!(seen, rooms, "a room is new, or gone: write it down in ROOMS, with its tier");
}

#[test]
fn rooms_import_only_what_they_may() {
    let rooms: BTreeMap<&str, (u8, &[&str])> = ROOMS.iter().map(|(room, tier, may)| (*room, (*tier, *may))).collect();
    let mut used: BTreeSet<(String, String)> = BTreeSet::new();
    let mut wrong = Vec::new();
    for (path, text) in sources().iter().filter(|(path, _)| !is_test_file(path) && path != "lib.rs") {
        let room = room_of(path);
        let (_, may) = rooms[room];
        let text = program(text);
        for import in imports(&text).into_iter().chain(bench_imports(path, &text)) {
            if import == room {
                continue;
            }
            if !may.contains(&import.as_str()) {
                wrong.push(format!("src/{path} imports {import}, which {room} may not"));
            }
            used.insert((room.to_owned(), import));
        }
    }
    for (room, _, may) in ROOMS {
        for import in may.iter().filter(|import| !used.contains(&((*room).to_owned(), (**import).to_owned()))) {
            wrong.push(format!("{room} may import {import} and never does: take it off"));
        }
    }
    // The door of the binary names its crate, not `crate`.
    wrong.retain(|line| !line.starts_with("main may import cli "));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn imports_go_down() {
    let tiers: BTreeMap<&str, u8> = ROOMS.iter().map(|(room, tier, _)| (*room, *tier)).collect();
    for (room, tier, may) in ROOMS {
        for import in *may {
            // `VERSION` is a constant of the crate's root.
            let other = tiers.get(import).copied().unwrap_or_default();
            let named = UPWARD.iter().any(|(from, to, _)| from == room && to == import);
            let roles = *tier == 3 && other == 3;
            assert!((other <= *tier && !roles) || named, "{room} (tier {tier}) imports {import} (tier {other})");
        }
    }
}

#[test]
fn thought_knows_no_runtime_no_files_no_sockets_and_no_clock() {
    let thought: BTreeSet<&str> = ROOMS.iter().filter(|(_, tier, _)| *tier <= 1).map(|(room, ..)| *room).collect();
    let mut wrong = Vec::new();
    for (path, text) in sources().iter().filter(|(path, _)| thought.contains(room_of(path)) && !is_test_file(path)) {
        let text = program(text);
        for word in FORBIDDEN_TO_THOUGHT.iter().filter(|word| text.contains(**word)) {
            wrong.push(format!("src/{path} names {word}"));
        }
        // `use std::time::{Duration, Instant};` in one.
        for line in text.lines().filter(|line| line.trim_start().starts_with("use std::time")) {
            if line.contains("Instant") || line.contains("SystemTime") {
                wrong.push(format!("src/{path} has a clock: {line}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn imports_are_read_as_they_are_written() {
    let text = "use crate::types::NodeId;\nuse crate::{VERSION, bench, leader::{self, process}, node};\nlet x = crate::error::printable;";
    let seen: Vec<String> = imports(text).into_iter().collect();
    assert_eq!(seen, ["VERSION", "bench", "error", "leader", "node", "types"]);
    assert!(imports("mycrate::types").is_empty());
}
