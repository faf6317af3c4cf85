//! Starts that must not succeed: one clear line, exit code 1, and nothing changed.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::{Register, Server, eventually, folder, refused_leader, refused_node, tells};

/// Every file below a folder with its content, but for locks and what servers said.
fn snapshot(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            all.extend(
                snapshot(&entry.path()).into_iter().map(|(inner, content)| (format!("{name}/{inner}"), content)),
            );
        } else if name != ".lock" && !name.starts_with(".said-") {
            all.push((name, fs::read(entry.path()).unwrap()));
        }
    }
    all.sort();
    all
}

#[test]
fn a_tolerance_that_makes_no_sense_stops_the_start_and_names_the_line() {
    let home = folder();
    let conf = home.path().join("tolerance.conf");
    // (content, what the line names)
    let table: [(&[u8], &[&str]); 12] = [
        (b"tolerance=0\n", &["line 1", "tolerance=0"]),
        (b"# copies\n\ntolerance=8\n", &["line 3", "tolerance=8"]),
        (b"tolerance=abc", &["line 1", "abc"]),
        (b"tolerance=\n", &["line 1"]),
        (b"tolerance=-1\n", &["line 1", "-1"]),
        (b"tolerance=2.5\n", &["line 1"]),
        (b"tolerance=2\ntolerance=3\n", &["line 2", "second time"]),
        (b"replicas=2\n", &["line 1", "replicas"]),
        (b"tolerance=2\ntoler", &["line 2", "toler"]),
        (b"", &["tolerance=2"]),
        (b"\n# tolerance=2\n", &["tolerance=2"]),
        (b"tolerance=\xff\xfe2", &["line 1"]),
    ];
    for (content, parts) in table {
        fs::write(&conf, content).unwrap();
        let line = refused_leader(home.path(), &[]);
        tells(&line, &["tolerance.conf"]);
        tells(&line, parts);
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(!home.path().join("leader_metadata").exists(), "nothing was made");
    }
    fs::remove_file(&conf).unwrap();
    fs::create_dir(&conf).unwrap();
    tells(&refused_leader(home.path(), &[]), &["tolerance.conf", "cannot be read"]);
    fs::remove_dir(&conf).unwrap();
    mknodat(CWD, &conf, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    tells(&refused_leader(home.path(), &[]), &["tolerance.conf", "not a regular file"]);
    fs::remove_file(&conf).unwrap();
    // A BOM, CRLF and comments are fine; without the file it is two, which is said, or else what it was last.
    let three = Some("\u{feff}# copies\r\n\r\n tolerance = 3 # three\r\n");
    for (content, tolerance) in [(None, 2), (three, 3), (None, 3)] {
        match content {
            Some(content) => fs::write(&conf, content).unwrap(),
            None => drop(fs::remove_file(&conf)),
        }
        let leader = Server::start(home.path(), &["leader", "--port", "0", "--grpc-port", "0"]);
        let ready = leader.says("leader ready");
        if content.is_none() {
            tells(&leader.says("tolerance.conf"), &["not there", &format!("{tolerance} nodes")]);
        }
        let addr = ready.split("clients=").nth(1).unwrap().split(' ').next().unwrap();
        let status: serde_json::Value = serde_json::from_str(&crate::support::Wire::to(addr).ask("STATUS")).unwrap();
        assert_eq!(status["tolerance"], tolerance);
    }
}

#[test]
fn a_second_leader_on_a_folder_must_be_refused() {
    let register = Register::start(2, 2);
    register.set("1", "x");
    tells(&refused_leader(register.dir(), &[]), &["leader_metadata", "in use by another leader", "--data-dir"]);
    register.set("2", "y");
    assert_eq!((register.get("1"), register.get("2")), ("x".to_owned(), "y".to_owned()));
}

#[test]
fn a_second_node_on_a_folder_must_be_refused() {
    let mut register = Register::start(2, 2);
    let line = refused_node(register.dir(), 1, register.grpc_addr());
    tells(&line, &["storage_node_1", "in use by another process", "--data-dir"]);
    assert!(register.node_is_running(1));
    register.set("1", "x");
}

#[test]
fn a_number_belongs_to_one_folder() {
    let mut register = Register::start(2, 2);
    register.fill("m", 10, "x");
    // The same number from another folder, while the first runs, and while it does not.
    let other = folder();
    for round in 0..2 {
        let line = refused_node(other.path(), 1, register.grpc_addr());
        tells(&line, &["refuses this node", "number 1 belongs to another folder", "--id"]);
        if round == 0 {
            register.kill_node(1).unwrap();
            register.wait_state(1, "down");
        }
    }
    register.start_node(1).unwrap();
    register.wait_up(2).unwrap();
    register.check("m", 10, "x");
}

#[test]
fn a_copied_folder_must_be_refused() {
    let mut register = Register::start(2, 2);
    register.fill("m", 10, "x");
    let other = folder();
    let copy = |name: &str| {
        let to = other.path().join(name);
        let done = std::process::Command::new("cp").arg("-a").arg(register.node_dir(1)).arg(&to).status().unwrap();
        assert!(done.success());
    };
    // Under its own number, beside the original: two processes for one number.
    copy("storage_node_1");
    let line = refused_node(other.path(), 1, register.grpc_addr());
    tells(&line, &["copy of this folder", "node 1"]);
    // Under another number: the folder itself knows better.
    copy("storage_node_3");
    tells(&refused_node(other.path(), 3, register.grpc_addr()), &["is of node 1, not of node 3", "--id"]);
    assert!(register.node_is_running(1));
    register.check("m", 10, "x");
    // The swapped number of a folder of this register, too.
    register.kill_node(2).unwrap();
    fs::rename(register.node_dir(2), other.path().join("storage_node_9")).unwrap();
    tells(&refused_node(other.path(), 9, register.grpc_addr()), &["is of node 2, not of node 9"]);
}

#[test]
fn a_node_of_another_register_must_be_refused() {
    let mut theirs = Register::start(2, 2);
    theirs.fill("theirs", 5, "x");
    theirs.kill_node(2).unwrap();
    let ours = Register::start(1, 1);
    ours.fill("ours", 5, "y");
    let before = snapshot(&theirs.node_dir(2));
    let line = refused_node(theirs.dir(), 2, ours.grpc_addr());
    tells(&line, &["belongs to cluster", "the leader of its cluster"]);
    assert_eq!(snapshot(&theirs.node_dir(2)), before, "its folder is as it was");
    theirs.start_node(2).unwrap();
    theirs.wait_up(2).unwrap();
    theirs.check("theirs", 5, "x");
    assert_eq!(ours.ask("COUNT"), "COUNT 5");
}

#[test]
fn a_leader_that_lost_its_folder_and_met_a_new_node_first_tells_the_way_back() {
    let mut register = Register::start(2, 2);
    register.fill("m", 10, "x");
    register.kill_leader().unwrap();
    (1..=2).for_each(|node| register.kill_node(node).unwrap());
    std::fs::remove_dir_all(register.metadata()).unwrap();
    register.start_leader().unwrap();
    let new = Server::start(register.dir(), &["node", "--id", "3", "--port", "0", "--leader", register.grpc_addr()]);
    new.says("registered with the leader");
    let line = refused_node(register.dir(), 1, register.grpc_addr());
    tells(&line, &["nothing was ever written to this leader's cluster", "move its leader_metadata away"]);
    drop(new);
    register.kill_leader().unwrap();
    std::fs::rename(register.metadata(), register.dir().join("moved away")).unwrap();
    register.start_leader().unwrap();
    register.start_nodes(&[1, 2]).unwrap();
    register.wait_up(2).unwrap();
    register.check("m", 10, "x");
}

#[test]
fn a_port_in_use_is_named() {
    let home = folder();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let parts = |flag| [format!("127.0.0.1:{port}"), "in use".to_owned(), flag];
    let told = |line: String, flag: &str| tells(&line, &parts(flag.to_owned()).each_ref().map(String::as_str));
    let leader = |args: &[&str], flag: &str| {
        told(Server::start(home.path(), &[&["leader"], args].concat()).must_be_refused(), flag);
    };
    leader(&["--port", &port, "--grpc-port", "0"], "--port");
    leader(&["--port", "0", "--grpc-port", &port], "--grpc-port");
    told(Server::start(home.path(), &["node", "--id", "1", "--port", &port]).must_be_refused(), "--port");
    assert!(!home.path().join("leader_metadata").exists() && !home.path().join("storage_node_1").exists());
}

#[test]
fn a_log_of_a_later_version_must_be_refused_with_a_hint() {
    let mut register = Register::start(2, 2);
    register.fill("m", 5, "x");
    assert!(register.stop_leader().unwrap().success());
    let log = register.metadata().join("mapping.log");
    let good = fs::read(&log).unwrap();
    // The header: 8 bytes of magic, the format, a checksum over both.
    let mut newer = good.clone();
    newer[8..12].copy_from_slice(&77u32.to_le_bytes());
    let crc = crc32c::crc32c(&newer[..12]);
    newer[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(&log, &newer).unwrap();
    let line = refused_leader(register.dir(), &[]);
    tells(&line, &["mapping.log", "format 77", "upgrade hatokuse"]);
    assert_eq!(fs::read(&log).unwrap(), newer, "nothing was changed");
    // Something else altogether.
    fs::write(&log, b"-----BEGIN CERTIFICATE-----\n").unwrap();
    tells(&refused_leader(register.dir(), &[]), &["mapping.log", "not a log of this kind", "move it away"]);
    fs::write(&log, &good).unwrap();
    register.start_leader().unwrap();
    register.wait_up(2).unwrap();
    register.check("m", 5, "x");
}

#[test]
fn a_damaged_identity_must_be_refused() {
    let mut register = Register::start(2, 2);
    register.fill("m", 5, "x");
    register.kill_node(1).unwrap();
    let before = snapshot(&register.node_dir(1));
    let files = [".hatokuse", ".hatokuse.spare"].map(|name| register.node_dir(1).join(name));
    let good = fs::read(&files[0]).unwrap();
    assert!(good.starts_with(b"hatokuse-node ") && fs::read(&files[1]).unwrap() == good);
    let mut bad = good.clone();
    bad[40] ^= 1;
    files.iter().for_each(|file| fs::write(file, &bad).unwrap());
    tells(&refused_node(register.dir(), 1, register.grpc_addr()), &["storage_node_1", "checksum"]);
    files.iter().for_each(|file| fs::write(file, &good).unwrap());
    assert_eq!(snapshot(&register.node_dir(1)), before);
    // One of the two suffices.
    fs::write(&files[0], &bad).unwrap();
    register.start_node(1).unwrap();
    register.wait_up(2).unwrap();
    register.check("m", 5, "x");
}

#[test]
fn fewer_copies_wait_for_members_that_another_leader_may_have() {
    let mut register = Register::start(2, 2);
    register.set("x", "two copies");
    register.kill_node(2).unwrap();
    register.wait_state(2, "down");
    register.set_tolerance(1).unwrap();
    register.wait_status("tolerance 1", |status| status["tolerance"] == 1).unwrap();
    // For as long as its last answer holds others back, there is no other.
    eventually("the lease to end", || register.ask("SET other y").starts_with("ERROR").then_some(()));
    let refused = register.ask("SET x one");
    tells(
        &refused,
        &["ERROR UNAVAILABLE", "fewer copies", "node 2 did not", "REMOVE <node> FORCE", "nothing was written"],
    );
    assert_eq!(register.get("x"), "two copies");
    assert_eq!(register.ask("REMOVE 2 FORCE"), "OK");
    register.set("x", "one");
    assert_eq!(register.get("x"), "one");
}

#[test]
fn a_live_change_of_tolerance_counts_from_then_on() {
    let register = Register::start(4, 2);
    register.set("two", "x");
    register.set_tolerance(3).unwrap();
    register.signal_leader(rustix::process::Signal::HUP).unwrap();
    register.wait_status("tolerance 3", |status| status["tolerance"] == 3).unwrap();
    register.set("three", "x");
    assert_eq!((register.holders("two").len(), register.holders("three").len()), (2, 3));
    // Without a signal as well.
    register.set_tolerance(1).unwrap();
    register.wait_status("tolerance 1", |status| status["tolerance"] == 1).unwrap();
    register.set("one", "x");
    assert_eq!(register.holders("one").len(), 1);
    register.set("three", "y");
    assert_eq!(register.holders("three").len(), 1);
    // What is illegal changes nothing, and is said.
    let conf = register.dir().join("tolerance.conf");
    for (n, content) in ["tolerance=0", "tolerance=8", "tolerance=abc", "", "tolerance="].iter().enumerate() {
        fs::write(&conf, content).unwrap();
        register.signal_leader(rustix::process::Signal::HUP).unwrap();
        let warned = || register.leader_stderr().matches("tolerance stays 1").count() > n;
        eventually("a warning", || warned().then_some(()));
        assert_eq!(register.status().unwrap()["tolerance"], 1, "{content:?}");
    }
    fs::remove_file(&conf).unwrap();
    register.signal_leader(rustix::process::Signal::HUP).unwrap();
    eventually("a warning", || {
        register.leader_stderr().contains("tolerance stays 1, after a restart too").then_some(())
    });
    register.set("one", "y");
    assert_eq!(register.status().unwrap()["tolerance"], 1, "a file that is gone says nothing");
    fs::write(&conf, "tolerance=2").unwrap();
    register.wait_status("tolerance 2", |status| status["tolerance"] == 2).unwrap();
}
