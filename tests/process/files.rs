//! Contract section 3: what lies on disk, for people with an editor and scripts with grep.

use std::collections::BTreeMap;

use crate::support::{Register, eventually_same, folder, mapping, visible};

#[test]
fn every_message_is_a_file_of_its_own_byte_for_byte() {
    let mut register = Register::start(3, 2);
    // (id, the name of its file)
    let names = [
        ("1", "1"),
        ("a_B-9.txt", "a_B-9.txt"),
        ("-rf", "-rf"),
        (".", "%2E"),
        ("../x", "%2E.%2Fx"),
        ("a:1,2", "a%3A1%2C2"),
        ("%2e", "%252e"),
        ("CON", "CON"),
        ("con", "con"),
        ("\u{fc}", "%C3%BC"),
        ("u\u{308}", "u%CC%88"),
        ("empty", "empty"),
    ];
    let mut wanted: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut wire = register.wire();
    for (id, stem) in names {
        let message = if id == "empty" { Vec::new() } else { [id.as_bytes(), b" \xff\x00\t\r "].concat() };
        wire.send([b"SET ", id.as_bytes(), b" ", message.as_slice(), b"\n"].concat());
        assert_eq!(wire.line(), "OK", "{id}");
        wanted.insert(format!("{stem}.txt"), message);
    }
    for (id, stem) in names {
        let holders = register.holders(id);
        assert_eq!(holders.len(), 2, "{id}");
        for node in 1..=3 {
            let content = || std::fs::read(register.copy(node, stem)).ok();
            let expected = holders.contains(&node).then(|| wanted[&format!("{stem}.txt")].clone());
            eventually_same(&format!("{id} on node {node}"), &expected, content);
        }
    }
    // Beside them lie names with a dot, and nothing else; that holds after a clean stop as well.
    let all = |register: &Register| (1..=3).flat_map(|node| visible(&register.node_dir(node))).collect::<Vec<_>>();
    let mut before = all(&register);
    for node in 1..=3 {
        assert!(register.stop_node(node).unwrap().success());
    }
    let mut after = all(&register);
    before.sort();
    after.sort();
    assert_eq!(after, before);
    let twice: Vec<String> = wanted.keys().flat_map(|name| [name.clone(), name.clone()]).collect();
    assert_eq!(after, twice);
}

#[test]
fn long_ids_share_no_file_and_survive_everything() {
    let mut register = Register::start(2, 2);
    let ids: Vec<String> = ["a", "b", "\u{11f}"].iter().map(|end| "\u{11f}".repeat(99) + end).collect();
    for (n, id) in ids.iter().enumerate() {
        register.set(id, &format!("long {n}"));
    }
    let names = visible(&register.node_dir(1));
    assert_eq!(names, visible(&register.node_dir(2)));
    assert_eq!(names.len(), 3, "{names:?}");
    for name in &names {
        assert!(name.len() <= 204 && name.starts_with("%C4%9F") && name.contains("%~"), "{name}");
    }
    for name in &names {
        let content = std::fs::read_to_string(register.node_dir(1).join(name)).unwrap();
        assert!(content.starts_with("long "), "{content}");
    }
    // Only the copies know these ids: a leader without its folder learns them from the nodes.
    register.kill_leader().unwrap();
    std::fs::remove_dir_all(register.metadata()).unwrap();
    register.start_leader().unwrap();
    register.wait_up(2).unwrap();
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(register.get(id), format!("long {n}"));
    }
}

#[test]
fn overwrites_leave_exactly_as_many_files_as_the_tolerance_says() {
    let register = Register::start(4, 2);
    for round in 1..=4 {
        register.fill("m", 60, &format!("round {round}"));
    }
    let contents = || {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for node in 1..=4 {
            for name in visible(&register.node_dir(node)) {
                // One that is let go of at this moment is not there any more.
                if let Ok(content) = std::fs::read_to_string(register.node_dir(node).join(&name)) {
                    found.entry(name).or_default().push(content);
                }
            }
        }
        found
    };
    let wanted = (0..60).map(|n| (format!("m{n}.txt"), vec![format!("round 4 {n}"); 2])).collect();
    eventually_same("two copies of each, all new", &wanted, contents);
    let hidden = || {
        let names = (1..=4).flat_map(|node| std::fs::read_dir(register.node_dir(node)).unwrap());
        names.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".staged")).count()
    };
    eventually_same("nothing staged is left", &0, hidden);
    register.check("m", 60, "round 4");
}

#[test]
fn an_unbuffered_register_has_its_files_like_any_other() {
    let io_mode = hatokuse::types::IoMode::Unbuffered;
    let mut register = Register::with(3, 2, folder(), |builder| builder.io_mode(io_mode));
    register.fill("u", 40, "first");
    register.fill("u", 40, "second");
    register.check("u", 40, "second");
    register.kill_leader().unwrap();
    (1..=3).for_each(|node| register.kill_node(node).unwrap());
    register.start_leader().unwrap();
    register.start_nodes(&[1, 2, 3]).unwrap();
    register.wait_up(3).unwrap();
    register.check("u", 40, "second");
    let status = register.status().unwrap();
    assert!(status["nodes"].as_array().unwrap().iter().all(|node| node["io_mode"] == "unbuffered"), "{status}");
}

#[test]
fn the_mapping_tells_who_holds_what() {
    let mut register = Register::start(4, 3);
    let ids: Vec<String> = (0..50).map(|n| format!("k{n}")).chain(["a:1,2".into(), "\u{fc}".into()]).collect();
    for id in &ids {
        register.set(id, "x");
    }
    let lines = |register: &Register| {
        let stem = |id: &str| id.replace(':', "%3A").replace(',', "%2C").replace('\u{fc}', "%C3%BC");
        let line = |id: &String| {
            let holders: Vec<String> = register.holders(id).iter().map(u32::to_string).collect();
            assert_eq!(holders.len(), 3);
            format!("{}:{}", stem(id), holders.join(","))
        };
        let mut lines: Vec<String> = ids.iter().map(line).collect();
        lines.sort();
        lines
    };
    eventually_same("the mapping", &lines(&register), || mapping(&register.metadata()));
    // Overwrites while a node is away move holders; the mapping has one line a message all the same.
    register.kill_node(4).unwrap();
    register.wait_state(4, "down");
    for id in &ids {
        register.set(id, "y");
    }
    let wanted = lines(&register);
    eventually_same("the mapping after moves", &wanted, || mapping(&register.metadata()));
    // Exact at a clean stop, with what was written last.
    register.set("last", "z");
    let mut wanted = [wanted, vec!["last:1,2,3".to_owned()]].concat();
    wanted.sort();
    assert!(register.stop_leader().unwrap().success());
    assert_eq!(mapping(&register.metadata()), wanted);
    // It is only a view: without it, nothing is missed.
    std::fs::remove_file(register.metadata().join("message_mapping.txt")).unwrap();
    register.start_leader().unwrap();
    eventually_same("the mapping anew", &wanted, || mapping(&register.metadata()));
}
