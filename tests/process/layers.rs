//! Folders that are seen through another file system, and calls that fail there.

use std::path::PathBuf;
use std::process::Command;

use hatokuse::bench::launcher::Builder;
use hatokuse::types::IoMode;
use tempfile::TempDir;

use crate::mounts::Mount;
use crate::support::{Register, eventually, eventually_same, folder, refused_node, tells};

#[test]
fn a_folder_is_not_taken_through_a_layer_that_hides_its_records() {
    let home = folder();
    let mut register = Register::with(2, 2, home, |builder| builder);
    register.fill("m", 20, "x");
    register.kill_node(1).unwrap();
    register.wait_state(1, "down");
    let below = register.node_dir(1);
    let elsewhere = folder();
    let at = elsewhere.path().join("storage_node_1");
    let Some(layer) = Mount::bindfs(&below, &at, &["--xattr-none"]) else { return };
    let line = refused_node(elsewhere.path(), 1, register.grpc_addr());
    tells(&line, &["extended attributes", "through another layer", "on the folder itself"]);
    drop(layer);
    // And it has changed nothing.
    register.start_node(1).unwrap();
    register.wait_up(2).unwrap();
    register.check("m", 20, "x");
    assert_eq!(register.ask("VERIFY"), "VERIFIED messages=20 intact=40 bad=0 unknown=0");
}

#[test]
fn a_node_whose_file_system_goes_away_ends_and_says_why() {
    let home = folder();
    let at = home.path().join("storage_node_1");
    let Some(_layer) = Mount::bindfs(&home.path().join("below"), &at, &[]) else { return };
    let mut register = Register::with(3, 2, home, |builder| builder);
    register.fill("m", 20, "x");
    let killed = Command::new("pkill").args(["-9", "-f", &format!("bindfs .*{}", at.display())]).status().unwrap();
    assert!(killed.success());
    register.fill("n", 30, "y");
    eventually("the node's end", || (!register.node_is_running(1)).then_some(()));
    tells(&register.node_stderr(1), &["not connected", "this node stops"]);
    register.check("m", 20, "x");
    register.check("n", 30, "y");
}

#[test]
fn ids_that_are_longer_than_a_layers_names_are_written_again_and_deleted() {
    let home = folder();
    let at = home.path().join("storage_node_1");
    let Some(_layer) = Mount::encfs(&home.path().join("below"), &at) else { return };
    let mut register = Register::with(1, 1, home, |builder| builder);
    let ids: Vec<String> = [20, 120, 145, 150, 171, 176, 200, 250, 1024].iter().map(|&n| "i".repeat(n)).collect();
    for turn in ["one", "two", "three"] {
        ids.iter().for_each(|id| register.set(id, turn));
        ids.iter().for_each(|id| assert_eq!(register.get(id), turn, "{} bytes", id.len()));
        register.restart_node(1).unwrap();
        register.wait_up(1).unwrap();
    }
    ids.iter().for_each(|id| assert_eq!(register.get(id), "three", "{} bytes", id.len()));
    ids.iter().for_each(|id| assert_eq!(register.ask(&format!("DEL {id}")), "OK", "{} bytes", id.len()));
    assert_eq!(register.ask("COUNT"), "COUNT 0");
}

/// A register whose node 1 has its folder behind a layer with rules.
pub(crate) struct Faulty {
    pub(crate) register: Register,
    _layer: Mount,
    rules: PathBuf,
    /// The folder below goes last.
    _below: TempDir,
}

impl Faulty {
    pub(crate) fn start(nodes: u32, tolerance: usize, layout: &str) -> Option<Self> {
        let (home, beside) = (folder(), folder());
        let (below, rules) = (beside.path().join("below"), beside.path().join("rules"));
        let layer = Mount::faulty(&below, &home.path().join("storage_node_1"), &rules)?;
        let more = |builder: Builder| builder.node_args(["--layout", layout]).io_mode(IoMode::Unbuffered);
        let register = Register::with(nodes, tolerance, home, more);
        Some(Self { register, _layer: layer, rules, _below: beside })
    }

    /// From now on calls fail so, and no others.
    pub(crate) fn fails(&self, rules: &str) {
        let beside = self.rules.with_extension("new");
        std::fs::write(&beside, rules).unwrap();
        std::fs::rename(beside, &self.rules).unwrap();
    }

    /// The node has ended by itself, and has said why in one line.
    fn ended(&mut self, why: &str) {
        eventually("the node's end", || (!self.register.node_is_running(1)).then_some(()));
        let said = self.register.node_stderr(1);
        let lines: Vec<_> = said.lines().filter(|line| line.starts_with("hatokuse: ")).collect();
        assert!(lines.len() == 1 && lines[0].contains(why), "{said}");
    }

    /// Everything is on so many nodes, and what is on them is right.
    pub(crate) fn is_whole(&self, messages: usize, tolerance: usize) {
        let copies = messages * tolerance;
        let wanted = format!("VERIFIED messages={messages} intact={copies} bad=0 unknown=0");
        eventually_same("VERIFY", &wanted, || self.register.ask("VERIFY"));
    }
}

pub(crate) const LAYOUTS: [&str; 2] = ["text", "log"];

#[test]
fn a_sync_that_fails_ends_the_node_and_no_message_is_lost() {
    for layout in LAYOUTS {
        let Some(mut faulty) = Faulty::start(3, 2, layout) else { return };
        faulty.register.fill("m", 20, "x");
        faulty.fails("fsync * EIO");
        faulty.register.fill("n", 30, "y");
        faulty.ended("Input/output error");
        faulty.register.check("n", 30, "y");
        faulty.fails("");
        faulty.register.start_node(1).unwrap();
        faulty.register.wait_up(3).unwrap();
        faulty.register.check("m", 20, "x");
        faulty.register.check("n", 30, "y");
        faulty.is_whole(50, 2);
    }
}

#[test]
fn a_file_system_that_is_stale_ends_the_node() {
    for layout in LAYOUTS {
        let Some(mut faulty) = Faulty::start(3, 2, layout) else { return };
        faulty.register.fill("m", 20, "x");
        faulty.fails("* * ESTALE");
        faulty.register.fill("n", 30, "y");
        faulty.ended("Stale file handle");
        faulty.register.check("m", 20, "x");
        faulty.register.check("n", 30, "y");
    }
}

#[test]
fn what_one_file_refuses_is_told_and_ends_no_node() {
    for error in ["EPERM", "EACCES", "EROFS", "EDQUOT"] {
        let Some(mut faulty) = Faulty::start(1, 1, "text") else { return };
        faulty.register.fill("m", 20, "x");
        faulty.fails(&format!("rename *m3* {error}\nunlink *m3* {error}\nopen m3.txt {error}"));
        faulty.register.fill("n", 20, "y");
        faulty.register.set("m3", "z");
        let told = |status: &serde_json::Value| status["nodes"][0]["reason"].is_string();
        faulty.register.wait_status("it is told", told).unwrap();
        assert!(faulty.register.node_is_running(1), "{error}: {}", faulty.register.node_stderr(1));
        faulty.register.check("n", 20, "y");
        faulty.fails("");
        eventually("it can be written again", || (faulty.register.ask("SET m3 z 3") == "OK").then_some(()));
        faulty.register.restart_node(1).unwrap();
        faulty.register.wait_up(1).unwrap();
        assert_eq!(faulty.register.get("m3"), "z 3");
        faulty.is_whole(40, 1);
    }
}

#[test]
fn a_log_that_can_be_neither_written_nor_cut_is_still_read() {
    for error in ["EDQUOT", "ENOSPC", "EROFS"] {
        let Some(mut faulty) = Faulty::start(1, 1, "log") else { return };
        faulty.register.fill("m", 20, "x");
        let rules = ["write", "truncate", "create"].map(|call| format!("{call} segment-* {error}\n")).concat();
        faulty.fails(&rules);
        assert!(faulty.register.ask("SET new y").starts_with("ERROR "));
        faulty.register.check("m", 20, "x");
        assert!(faulty.register.node_is_running(1), "{error}: {}", faulty.register.node_stderr(1));
        faulty.register.restart_node(1).unwrap();
        faulty.register.wait_up(1).unwrap();
        faulty.register.check("m", 20, "x");
        faulty.fails("");
        eventually("it takes messages again", || (faulty.register.ask("SET new y") == "OK").then_some(()));
        faulty.register.check("m", 20, "x");
        faulty.is_whole(21, 1);
    }
}

#[test]
fn a_disk_that_does_not_say_how_much_is_free_has_room() {
    for layout in LAYOUTS {
        let Some(mut faulty) = Faulty::start(1, 1, layout) else { return };
        faulty.register.set("before", "x");
        faulty.fails("statfs * ZERO");
        faulty.register.restart_node(1).unwrap();
        faulty.register.wait_up(1).unwrap();
        faulty.register.fill("m", 20, &"x".repeat(10_000));
        faulty.register.check("m", 20, &"x".repeat(10_000));
    }
}
