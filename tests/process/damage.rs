//! Copies that rot, shrink, grow or vanish: never shown, answered by another holder, and lost only when none is left.

use std::path::Path;

use crate::support::{Register, code, eventually, flip_byte};

/// Ways to harm a copy.
type Harm = (&'static str, fn(&Path));

const HARMS: [Harm; 6] = [
    ("a flipped bit", |file| flip_byte(file, 3)),
    ("cut short", |file| std::fs::write(file, "sound").unwrap()),
    ("emptied", |file| std::fs::write(file, "").unwrap()),
    ("longer", |file| std::fs::write(file, "sound copy and more").unwrap()),
    ("of the same length", |file| std::fs::write(file, "SOUND COPY").unwrap()),
    ("gone", |file| std::fs::remove_file(file).unwrap()),
];

#[test]
fn a_damaged_copy_is_never_returned() {
    let register = Register::start(3, 2);
    for (n, (what, harm)) in HARMS.iter().enumerate() {
        let id = format!("m{n}");
        register.set(&id, "sound copy");
        let holders = register.holders(&id);
        harm(&register.copy(holders[0], &id));
        for _ in 0..6 {
            assert_eq!(register.get(&id), "sound copy", "{what}");
        }
        assert_eq!(register.status().unwrap()["lost"], 0, "{what}");
        harm_all(&register, &id, *harm);
        for _ in 0..3 {
            assert_eq!(code(&register.ask(&format!("GET {id}"))), "ERROR LOST", "{what}");
        }
        assert_eq!(register.status().unwrap()["lost"], 1, "{what}");
        // It can be written again.
        register.set(&id, "written again");
        assert_eq!(register.get(&id), "written again", "{what}");
        assert_eq!(register.status().unwrap()["lost"], 0, "{what}");
    }
}

fn harm_all(register: &Register, id: &str, harm: fn(&Path)) {
    for node in register.holders(id) {
        let file = register.copy(node, id);
        if std::fs::read(&file).is_ok_and(|content| content == b"sound copy") {
            harm(&file);
        }
    }
}

#[test]
fn damage_is_found_at_a_restart_as_well() {
    let mut register = Register::start(3, 2);
    for (n, _) in HARMS.iter().enumerate() {
        register.set(&format!("one{n}"), "sound copy");
        register.set(&format!("all{n}"), "sound copy");
    }
    let ids = HARMS.iter().enumerate().flat_map(|(n, _)| [format!("one{n}"), format!("all{n}")]);
    let holders: Vec<(String, Vec<u32>)> = ids.map(|id| (id.clone(), register.holders(&id))).collect();
    register.kill_leader().unwrap();
    (1..=3).for_each(|node| register.kill_node(node).unwrap());
    for (id, nodes) in &holders {
        let (_, harm) = HARMS[id[3..].parse::<usize>().unwrap()];
        let few = if id.starts_with("one") { 1 } else { 2 };
        nodes.iter().take(few).for_each(|&node| harm(&register.copy(node, id)));
    }
    register.start_nodes(&[1, 2, 3]).unwrap();
    register.start_leader().unwrap();
    register.wait_up(3).unwrap();
    for (n, (what, _)) in HARMS.iter().enumerate() {
        assert_eq!(register.get(&format!("one{n}")), "sound copy", "{what}");
        assert_eq!(code(&register.ask(&format!("GET all{n}"))), "ERROR LOST", "{what}");
    }
    eventually("the count", || (register.status().unwrap()["lost"] == HARMS.len()).then_some(()));
    // Nor does a leader that knows nothing believe a damaged copy.
    register.kill_leader().unwrap();
    std::fs::remove_dir_all(register.metadata()).unwrap();
    register.start_leader().unwrap();
    register.wait_up(3).unwrap();
    for (n, (what, _)) in HARMS.iter().enumerate() {
        assert_eq!(register.get(&format!("one{n}")), "sound copy", "{what}");
        let reply = register.ask(&format!("GET all{n}"));
        assert!(reply.starts_with("ERROR "), "{what}: {reply}");
    }
}

/// Replaces a copy by a file of this content that has no record.
fn replace(file: &Path, content: &str) {
    let _ = std::fs::remove_file(file);
    std::fs::write(file, content).unwrap();
}

#[test]
fn a_file_of_the_right_bytes_is_the_message_whatever_its_record_says() {
    let mut register = Register::start(2, 1);
    for id in ["gone", "rotten", "other", "linked", "linked2"] {
        register.set(id, "sound copy");
    }
    let copies: Vec<(&str, u32)> =
        ["gone", "rotten", "other"].map(|id| (id, register.holders(id)[0])).into_iter().collect();
    let get = |register: &Register, id: &str| register.ask(&format!("GET {id}"));
    for (id, node) in &copies {
        std::fs::write(register.copy(*node, id), "SOUND COPY").unwrap();
        assert_eq!(code(&get(&register, id)), "ERROR LOST");
    }
    // A good copy is put into a folder while its node is stopped: one in its place, one on a node that is no holder.
    let holder = |id: &str| copies.iter().find(|(other, _)| *other == id).unwrap().1;
    for node in 1..=2 {
        register.stop_node(node).unwrap();
    }
    replace(&register.copy(holder("gone"), "gone"), "sound copy");
    replace(&register.copy(3 - holder("rotten"), "rotten"), "sound copy");
    replace(&register.copy(holder("other"), "other"), "something else");
    // A tool that finds files of one content makes one file of two, which has one record.
    let (one, two) = (register.holders("linked")[0], register.holders("linked2")[0]);
    let file = register.copy(two, "linked2");
    std::fs::remove_file(&file).unwrap();
    std::fs::hard_link(register.copy(one, "linked"), &file).unwrap();
    for node in 1..=2 {
        register.start_node(node).unwrap();
    }
    register.wait_up(2).unwrap();
    for id in ["gone", "rotten", "linked", "linked2"] {
        eventually(id, || (get(&register, id) == "VALUE sound copy").then_some(()));
    }
    assert_eq!(code(&get(&register, "other")), "ERROR LOST", "it has other bytes");
    assert_eq!(register.status().unwrap()["lost"], 1);
    for id in ["linked", "linked2"] {
        let _ = register.get(id);
    }
}
