//! The log layout from outside: the same register on segments, and folders that remember how they are written.

use std::path::Path;

use crate::support::{Register, Server, eventually, flip_byte, folder, tells, visible};

fn with_logs(nodes: u32, tolerance: usize, home: tempfile::TempDir) -> Register {
    Register::with(nodes, tolerance, home, |builder| builder.node_args(["--layout", "log"]))
}

fn refused(home: &Path, layout: &str) -> String {
    let args = ["node", "--id", "1", "--port", "0", "--leader", "127.0.0.1:1", "--layout", layout];
    Server::start(home, &args).must_be_refused()
}

#[test]
fn a_register_on_segments_keeps_overwrites_and_forgets() {
    let mut register = with_logs(3, 2, folder());
    register.fill("m", 300, "first");
    register.fill("m", 100, "second");
    let gone = register.ask_all((0..50).map(|n| format!("DEL m{n}")));
    assert!(gone.iter().all(|reply| reply == "OK"), "{gone:?}");
    let check = |register: &Register| {
        let read = register.read("m", 300);
        for (n, reply) in read.into_iter().enumerate() {
            match n {
                0..50 => assert!(reply.starts_with("ERROR NOT_FOUND"), "m{n}: {reply}"),
                50..100 => assert_eq!(reply, format!("VALUE second {n}")),
                _ => assert_eq!(reply, format!("VALUE first {n}")),
            }
        }
    };
    check(&register);
    let status = register.status().unwrap();
    assert!(status["nodes"].as_array().unwrap().iter().all(|node| node["layout"] == "log"), "{status}");
    assert_eq!(visible(&register.node_dir(1)).into_iter().collect::<Vec<_>>(), ["segment-00000001.log"]);
    // Everything is killed, and comes back; then the leader has to find out from the nodes.
    register.kill_leader().unwrap();
    (1..=3).for_each(|node| register.kill_node(node).unwrap());
    register.start_nodes(&[1, 2, 3]).unwrap();
    register.start_leader().unwrap();
    register.wait_up(3).unwrap();
    check(&register);
    register.kill_leader().unwrap();
    std::fs::remove_dir_all(register.metadata()).unwrap();
    register.start_leader().unwrap();
    register.wait_up(3).unwrap();
    check(&register);
}

#[test]
fn damage_in_a_segment_costs_one_copy_for_a_while() {
    let mut register = with_logs(3, 2, folder());
    register.fill("m", 100, "sound");
    let node = register.holders("m50")[0];
    register.kill_node(node).unwrap();
    let segment = register.node_dir(node).join("segment-00000001.log");
    let bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(8).position(|some| some == b"sound 50").unwrap();
    flip_byte(&segment, at);
    register.start_nodes(&[node]).unwrap();
    register.wait_up(3).unwrap();
    register.check("m", 100, "sound");
    let said = register.node_stderr(node);
    assert!(said.contains("the copy of m50") && said.contains("damaged"), "{said}");
    // It is made again, here or elsewhere.
    eventually("it to be healed", || {
        let status = register.status().unwrap();
        (status["under_replicated"] == 0 && status["lost"] == 0).then_some(())
    });
    register.check("m", 100, "sound");
}

#[test]
fn a_folder_remembers_its_layout() {
    let home = folder();
    let mut register = with_logs(1, 1, home);
    register.set("1", "x");
    assert!(register.stop_node(1).unwrap().success());
    let dir = register.node_dir(1);
    let home = dir.parent().unwrap();
    tells(&refused(home, "text"), &["storage_node_1/.hatokuse", "layout log", "--layout log"]);
    // Without its identity, too.
    [".hatokuse", ".hatokuse.spare"].iter().for_each(|name| std::fs::remove_file(dir.join(name)).unwrap());
    tells(&refused(home, "text"), &["segment-00000001.log", "--layout log"]);

    let home = folder();
    let dir = home.path().join("storage_node_1");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("7.txt"), "from before").unwrap();
    tells(&refused(home.path(), "log"), &["7.txt", "--layout text"]);
    assert_eq!(visible(&dir).into_iter().collect::<Vec<_>>(), ["7.txt"]);
}

#[test]
fn a_conversion_that_is_killed_again_and_again_goes_on() {
    let home = folder();
    let start = |more: &'static [&'static str]| {
        Register::with(1, 1, folder(), |builder| builder.dir(home.path()).node_args(more))
    };
    let stop = |mut register: Register| {
        assert!(register.stop_node(1).unwrap().success() && register.stop_leader().unwrap().success());
    };
    let register = start(&[]);
    register.fill("m", 1500, "first");
    register.fill("m", 300, "second");
    stop(register);
    let node = home.path().join("storage_node_1");
    for layout in ["log", "text"] {
        let convert = ["--layout", layout, "--convert"];
        let args = [&["node", "--id", "1", "--port", "0", "--leader", "127.0.0.1:1"], &convert[..]].concat();
        for n in 0..20 {
            let server = Server::start(home.path(), &args);
            // At any moment, that is: at no condition.
            std::thread::sleep(std::time::Duration::from_millis(n * 12 + fastrand::u64(..12)));
            drop(server); // kills it
        }
        // Whatever it came to, the next start ends it; and the register has all its messages.
        let register = start(if layout == "log" { &["--layout", "log", "--convert"] } else { &["--convert"] });
        register.check("m", 300, "second");
        let read = register.read("m", 1500).into_iter().enumerate().skip(300);
        read.for_each(|(n, reply)| assert_eq!(reply, format!("VALUE first {n}")));
        assert_eq!(register.status().unwrap()["nodes"][0]["layout"], layout);
        let texts = visible(&node).into_iter().filter(|name| name.ends_with(".txt")).count();
        assert_eq!((texts, node.join(".converting").exists()), (if layout == "log" { 0 } else { 1500 }, false));
        stop(register);
    }
}
