//! Files that the register did not write: adopted, left alone, never destroyed, never believed over its own.

use std::os::unix::fs::{FileTypeExt as _, symlink};
use std::path::Path;

use crate::support::{Register, code, eventually, eventually_same, folder, mapping, visible};

fn write(folder: &Path, name: &str, content: &str) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(name), content).unwrap();
}

#[test]
fn files_that_a_node_finds_become_messages() {
    let home = folder();
    let node = home.path().join("storage_node_1");
    write(&node, "hello.txt", "from an editor");
    write(&node, "a%3Ab.txt", "encoded");
    // What a node leaves that was killed while it made a copy looks like this: nobody wrote an empty message.
    write(&node, "empty.txt", "");
    write(&node, "lines.txt", "one\nOK\nVALUE forged");
    for (name, content) in [("%3a.txt", "no name of ours"), ("notes.md", "no message"), (".x.txt", "hidden")] {
        write(&node, name, content);
    }
    let register = Register::with(3, 2, home, |builder| builder);
    eventually_same("three messages", &"COUNT 3".to_owned(), || register.ask("COUNT"));
    assert_eq!(register.get("hello"), "from an editor");
    assert_eq!(register.get("a:b"), "encoded");
    assert_eq!(register.wire().code("GET empty"), "ERROR NOT_FOUND");
    assert!(register.node_dir(1).join(".aside-0-empty").exists());
    // Its line breaks cannot forge an answer.
    let mut wire = register.wire();
    assert_eq!(wire.code("GET lines"), "ERROR NOT_A_LINE");
    assert_eq!(wire.ask("PING"), "+PONG");
    for id in ["hello", "a:b", "lines"] {
        let holders = register.holders(id);
        assert!(holders.len() == 2 && holders.contains(&1), "{id}: {holders:?}");
        let other = holders.into_iter().find(|&node| node != 1).unwrap();
        let stem = id.replace(':', "%3A");
        let copy = || std::fs::read(register.copy(other, &stem)).ok();
        eventually_same(id, &std::fs::read(register.copy(1, &stem)).ok(), copy);
    }
    eventually("the mapping", || (mapping(&register.metadata()).len() == 3).then_some(()));
    let line = mapping(&register.metadata()).into_iter().find(|line| line.starts_with("hello:")).unwrap();
    let holders = register.holders("hello");
    assert_eq!(line, format!("hello:{},{}", holders[0], holders[1]));
    // What is no message is left alone.
    assert_eq!(std::fs::read_to_string(register.node_dir(1).join("notes.md")).unwrap(), "no message");
    assert_eq!(std::fs::read_to_string(register.node_dir(1).join("%3a.txt")).unwrap(), "no name of ours");
    assert_eq!(std::fs::read_to_string(register.node_dir(1).join(".x.txt")).unwrap(), "hidden");
    // An adopted message is one like any other.
    register.set("hello", "from a client");
    assert_eq!(register.get("hello"), "from a client");
}

#[test]
fn found_files_of_more_bytes_than_a_frame_holds_become_messages() {
    let home = folder();
    let node = home.path().join("storage_node_1");
    std::fs::create_dir_all(&node).unwrap();
    for n in 0..24 {
        std::fs::File::create(node.join(format!("{n}.txt"))).unwrap().set_len(6 << 20).unwrap();
    }
    // With two nodes, each of them is fetched from the one and sent to the other.
    let register = Register::with(2, 2, home, |builder| builder.leader_args(["--max-message", "8MiB"]));
    eventually_same("all messages", &"COUNT 24".to_owned(), || register.ask("COUNT"));
    assert_eq!(register.get("7").len(), 6 << 20);
}

#[test]
fn a_found_file_never_beats_a_message_that_is_known() {
    let mut register = Register::start(3, 2);
    register.set("k", "known");
    let holders = register.holders("k");
    let other = (1..=3).find(|node| !holders.contains(node)).unwrap();
    // One appears on a node that is no holder, and one takes the place of a holder's copy, under its very name.
    register.stop_node(other).unwrap();
    write(&register.node_dir(other), "k.txt", "foreign");
    register.start_node(other).unwrap();
    let replaced = holders[0];
    register.stop_node(replaced).unwrap();
    std::fs::remove_file(register.copy(replaced, "k")).unwrap();
    write(&register.node_dir(replaced), "k.txt", "foreign");
    register.start_node(replaced).unwrap();
    register.wait_up(3).unwrap();
    let settled = |node: u32, text: &str| eventually(text, || register.node_stderr(node).contains(text).then_some(()));
    settled(other, "1 foreign files");
    settled(replaced, "1 foreign files");
    for _ in 0..20 {
        assert_eq!(register.get("k"), "known");
    }
    // Not even when the leader has to learn everything anew.
    register.kill_leader().unwrap();
    std::fs::remove_dir_all(register.metadata()).unwrap();
    register.start_leader().unwrap();
    register.wait_up(3).unwrap();
    for _ in 0..20 {
        assert_eq!(register.get("k"), "known");
    }
    // A new message goes beside what is in the way; what was there is put aside, not destroyed.
    for round in 0..3 {
        register.set("k", &format!("new {round}"));
        assert_eq!(register.get("k"), format!("new {round}"));
    }
    let kept = |node: u32| {
        let entries = std::fs::read_dir(register.node_dir(node)).unwrap();
        let mut files = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        files.any(|path| std::fs::read(path).is_ok_and(|content| content == b"foreign"))
    };
    assert!(kept(other) && kept(replaced), "what was foreign is still there under some name");
}

#[test]
fn what_is_no_plain_file_is_no_message_and_is_not_followed() {
    let home = folder();
    let (node, secret) = (home.path().join("storage_node_1"), home.path().join("secret"));
    std::fs::create_dir_all(node.join("dir.txt")).unwrap();
    std::fs::write(&secret, "secret").unwrap();
    symlink(&secret, node.join("link.txt")).unwrap();
    symlink(home.path().join("nowhere"), node.join("dangling.txt")).unwrap();
    let fifo = std::process::Command::new("mkfifo").arg(node.join("fifo.txt")).status().unwrap();
    assert!(fifo.success());
    write(&node, "plain.txt", "plain");
    let mut register = Register::with(2, 2, home, |builder| builder);
    eventually_same("the plain one", &"COUNT 1".to_owned(), || register.ask("COUNT"));
    let ids = ["link", "dangling", "fifo", "dir"];
    for id in ids {
        assert_eq!(code(&register.ask(&format!("GET {id}"))), "ERROR NOT_FOUND", "{id}");
    }
    // Messages of these names are kept all the same, and nothing is written through a link.
    for id in ids {
        register.set(id, &format!("message {id}"));
        assert_eq!(register.get(id), format!("message {id}"));
    }
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "secret");
    assert!(!register.dir().join("nowhere").exists());
    for id in ids {
        let copy = register.copy(1, id);
        assert!(copy.symlink_metadata().unwrap().is_file(), "{id} is a file now");
        assert_eq!(std::fs::read_to_string(copy).unwrap(), format!("message {id}"));
    }
    let entries = || std::fs::read_dir(register.node_dir(1)).unwrap().map(|entry| entry.unwrap().file_type().unwrap());
    assert!(entries().any(|kind| kind.is_fifo()), "what was in the way was put aside");
    assert!(entries().any(|kind| kind.is_symlink()) && entries().any(|kind| kind.is_dir()));
    register.restart_node(1).unwrap();
    register.wait_up(2).unwrap();
    for id in ids {
        assert_eq!(register.get(id), format!("message {id}"));
    }
}

#[test]
fn the_folders_of_the_original_register_are_served_as_they_are() {
    let home = folder();
    for node in [1, 2] {
        for id in 0..30 {
            // As it placed them: on two of three nodes.
            if id % 3 != node {
                write(&home.path().join(format!("storage_node_{node}")), &format!("{id}.txt"), &format!("old {id}"));
            }
        }
    }
    for id in (0..30).filter(|id| id % 3 != 0) {
        write(&home.path().join("storage_node_3"), &format!("{id}.txt"), &format!("old {id}"));
    }
    let holders = |id: u32| ["1,2", "2,3", "1,3"][id as usize % 3];
    let lines: String = (0..30).map(|id| format!("{id}:{}\n", holders(id))).collect();
    write(&home.path().join("leader_metadata"), "message_mapping.txt", &lines);
    let mut register = Register::with(3, 2, home, |builder| builder);
    eventually_same("all messages", &"COUNT 30".to_owned(), || register.ask("COUNT"));
    register.check("", 30, "old");
    for id in 0..30 {
        assert_eq!(register.ask(&format!("WHERE {id}")), format!("NODES {}", holders(id)), "{id}");
    }
    register.set("7", "new");
    // From here on it is a register of ours, log and all.
    assert!(register.stop_leader().unwrap().success());
    register.start_leader().unwrap();
    register.wait_up(3).unwrap();
    assert_eq!(register.get("7"), "new");
    assert_eq!(register.get("8"), "old 8");
    assert_eq!(visible(&register.node_dir(1)).len(), register.copies().unwrap()[&1] as usize);
}
