//! Disks that are full, read-only, or no folders at all.

use hatokuse::types::IoMode;

use crate::mounts::{Hanging, Mount};
use crate::support::{Register, Server, code, eventually, folder, refused_leader, refused_node, tells};

#[test]
fn a_disk_that_hangs_under_the_leader_is_told_and_reads_go_on() {
    let home = folder();
    let Some(disk) = Hanging::ext4(&home.path().join("leader_metadata"), &home.path().join("image")) else { return };
    let register = Register::with(2, 2, home, |builder| builder);
    // Goes before those who wait for it.
    let disk = disk;
    register.fill("m", 10, "x");
    assert!(disk.freeze("--freeze"));
    let mut wire = register.wire();
    wire.send("SET later y\n");
    let waits = |status: &serde_json::Value| status["waiting_for"].as_str().is_some_and(|why| why.contains("log"));
    register.wait_status("the hung log is told", waits).unwrap();
    let told = || register.leader_stderr().contains("the disk of the leader's log does not answer");
    eventually("a line about it", || told().then_some(()));
    register.check("m", 10, "x");
    assert_eq!(code(&register.ask("GET later")), "ERROR NOT_FOUND");
    assert!(disk.freeze("--unfreeze"));
    assert_eq!(wire.line(), "OK");
    register.wait_status("all is well", |status| status["waiting_for"].is_null()).unwrap();
    assert_eq!(register.get("later"), "y");
    drop(register);
}

#[test]
fn a_disk_that_hangs_under_a_node_takes_no_reads_from_it() {
    let home = folder();
    let Some(disk) = Hanging::ext4(&home.path().join("storage_node_1"), &home.path().join("image")) else { return };
    let register = Register::with(2, 1, home, |builder| builder.leader_args(["--cache", "0"]));
    // Goes before those who wait for it.
    let disk = disk;
    register.fill("m", 10, "x");
    assert!(disk.freeze("--freeze"));
    // Written to the node that hangs, until it is late with its answers and others are asked.
    let mut wire = register.wire();
    wire.send("SET one y\nSET two y\n");
    register.wait_state(1, "suspect");
    let began = register.status().unwrap()["uptime_s"].as_f64().unwrap();
    // For longer than it takes to be down.
    let passed = |status: &serde_json::Value| {
        assert_ne!(status["nodes"][0]["state"], "down", "{status}");
        register.check("m", 10, "x");
        status["uptime_s"].as_f64().unwrap() > began + 5.0
    };
    register.wait_status("time to pass", passed).unwrap();
    assert_eq!((wire.line(), wire.line()), ("OK".to_owned(), "OK".to_owned()));
    assert!(disk.freeze("--unfreeze"));
    register.wait_up(2).unwrap();
    register.check("m", 10, "x");
    drop(register);
}

#[test]
fn a_file_where_the_folder_should_be_is_named() {
    let home = folder();
    std::fs::write(home.path().join("leader_metadata"), "a file").unwrap();
    std::fs::write(home.path().join("storage_node_1"), "a file").unwrap();
    tells(&refused_leader(home.path(), &[]), &["cannot use ./leader_metadata", "check"]);
    tells(&refused_node(home.path(), 1, "127.0.0.1:1"), &["cannot use ./storage_node_1", "check"]);
    assert_eq!(std::fs::read_to_string(home.path().join("leader_metadata")).unwrap(), "a file");
    assert_eq!(std::fs::read_to_string(home.path().join("storage_node_1")).unwrap(), "a file");
    let below = Server::start(home.path(), &["node", "--id", "2", "--port", "0", "--data-dir", "leader_metadata/x"]);
    tells(&below.must_be_refused(), &["cannot use leader_metadata/x/storage_node_2", "check"]);
}

#[test]
fn a_read_only_folder_is_named() {
    let home = folder();
    let Some(mount) = Mount::tmpfs(&home.path().join("disk"), "size=1m") else { return };
    let disk = home.path().join("disk");
    // Once with nothing there, once with folders that were used before.
    for used in [false, true] {
        if used {
            let mut register = Register::with(1, 1, folder(), |builder| builder.dir(&disk));
            register.set("1", "x");
            assert!(register.stop_node(1).unwrap().success() && register.stop_leader().unwrap().success());
        }
        mount.remount("ro");
        let leader = ["leader", "--port", "0", "--grpc-port", "0", "--data-dir", "disk"];
        tells(&Server::start(home.path(), &leader).must_be_refused(), &["leader_metadata", "check"]);
        let node = ["node", "--id", "1", "--port", "0", "--data-dir", "disk"];
        tells(&Server::start(home.path(), &node).must_be_refused(), &["storage_node_1", "check"]);
        mount.remount("rw");
    }
}

#[test]
fn a_full_disk_under_a_node_sends_its_share_elsewhere() {
    a_full_disk("text");
}

#[test]
fn a_full_disk_under_segments_sends_its_share_elsewhere() {
    a_full_disk("log");
}

fn a_full_disk(layout: &str) {
    let home = folder();
    let Some(mount) = Mount::tmpfs(&home.path().join("storage_node_1"), "size=2m") else { return };
    let register = Register::with(4, 2, home, |builder| builder.node_args(["--layout", layout]));
    let message = "x".repeat(64 << 10);
    let count = 100;
    register.fill("m", count, &message);
    let status = register.status().unwrap();
    let held = |node: usize| status["nodes"][node]["messages"].as_u64().unwrap();
    assert!(held(0) < 32, "no more than its disk takes: {status}");
    assert_eq!((0..4).map(held).sum::<u64>(), 2 * count as u64, "every message has two copies");
    register.check("m", count, &message);
    // Overwrites need room beside what is there; they find it elsewhere, too.
    register.fill("m", count, &message.replace('x', "y"));
    register.check("m", count, &message.replace('x', "y"));
    let said = register.node_stderr(1);
    assert!(said.contains("a copy was not kept"), "{said}");
    eventually("the leader to tell", || register.leader_stderr().contains("node 1 is full: ").then_some(()));
    // With room again, it takes copies again.
    mount.remount("size=64m");
    eventually("the node to take copies", || {
        register.set("again", &format!("{message} once more"));
        register.holders("again").contains(&1).then_some(())
    });
    drop(register);
}

#[test]
fn too_many_full_disks_refuse_writes_and_answer_reads() {
    let home = folder();
    let Some(one) = Mount::tmpfs(&home.path().join("storage_node_1"), "size=1m") else { return };
    let Some(two) = Mount::tmpfs(&home.path().join("storage_node_2"), "size=1m") else { return };
    let mut register = Register::with(2, 2, home, |builder| builder);
    let message = "x".repeat(100 << 10);
    let mut kept = 0;
    let refused = loop {
        let reply = register.ask(&format!("SET m{kept} {message} {kept}"));
        if reply != "OK" {
            break reply;
        }
        kept += 1;
    };
    assert!(refused.starts_with("ERROR ") && kept > 4, "{refused} after {kept}");
    register.check("m", kept, &message);
    // The id that was refused was not written, or says that nobody knows.
    let reply = register.ask(&format!("GET m{kept}"));
    let unknown = code(&refused) == "ERROR UNKNOWN";
    assert!(code(&reply) == "ERROR NOT_FOUND" || unknown, "{refused}, then {}", code(&reply));
    register.check("m", kept, &message);
    for node in 1..=2 {
        assert!(register.node_is_running(node), "{}", register.node_stderr(node));
        register.restart_node(node).unwrap();
    }
    register.wait_up(2).unwrap();
    register.check("m", kept, &message);
    // Nor does a leader that begins when there is no room for anything have less to read.
    for mount in [&one, &two] {
        mount.fill();
    }
    register.kill_leader().unwrap();
    register.start_leader().unwrap();
    register.wait_up(2).unwrap();
    register.check("m", kept, &message);
}

#[test]
fn a_disk_without_a_byte_can_be_emptied() {
    use IoMode::{Buffered, Unbuffered};
    let each = [("text", Buffered), ("text", Unbuffered), ("log", Buffered), ("log", Unbuffered)];
    let on_ext4 = each.map(|(layout, io_mode)| (layout, io_mode, false));
    for (layout, io_mode, xfs) in on_ext4.into_iter().chain([("text", Unbuffered, true), ("log", Buffered, true)]) {
        let home = folder();
        let image = home.path().join("image");
        let at = home.path().join("storage_node_1");
        let mount = if xfs { Mount::xfs(&at, &image) } else { Mount::ext4(&at, &image, 16, &["-N", "512"]) };
        let Some(mount) = mount else { return };
        let register = Register::with(1, 1, home, |builder| builder.node_args(["--layout", layout]).io_mode(io_mode));
        register.fill("m", 60, &"x".repeat(3000));
        mount.fill_up();
        let refused = register.ask(&format!("SET new {}", "y".repeat(100_000)));
        assert!(refused.starts_with("ERROR "), "{layout}, {io_mode}: {refused}");
        for n in 0..40 {
            let line = if n % 4 == 0 { format!("SET m{n} shorter") } else { format!("DEL m{n}") };
            assert_eq!(register.ask(&line), "OK", "{layout}, {io_mode}: {line}; {}", register.node_stderr(1));
        }
        for n in 0..60 {
            let wanted = match n {
                0..40 if n % 4 == 0 => "VALUE shorter".to_owned(),
                0..40 => "ERROR NOT_FOUND".to_owned(),
                _ => format!("VALUE {}", "x".repeat(3000)),
            };
            let reply = register.ask(&format!("GET m{n}"));
            assert!(reply.starts_with(&wanted), "{layout}, {io_mode}: m{n} is {reply}");
        }
    }
}

#[test]
fn a_small_disk_can_be_filled_and_emptied_again_and_again() {
    for (layout, bytes, least) in [("text", 2000, 100), ("log", 2000, 500), ("log", 100, 5000)] {
        let home = folder();
        let at = home.path().join("storage_node_1");
        let Some(_mount) = Mount::tmpfs(&at, "size=2m") else { return };
        let register = Register::with(1, 1, home, |builder| builder.node_args(["--layout", layout]));
        let content = "x".repeat(bytes);
        let set = |n: usize| format!("SET m{n} {content}");
        for round in 0..2 {
            let what = format!("{layout}, {bytes} bytes, round {round}");
            eventually("there is room again", || (register.ask(&set(0)) == "OK").then_some(()));
            let mut asked = 0;
            while register.ask_all((asked..asked + 100).map(set)).iter().all(|reply| reply == "OK") {
                asked += 100;
            }
            assert!(asked > least, "{what}: only {asked} messages found room");
            let said = || register.ask("STATUS").contains(r#""full":true"#).then_some(());
            eventually("it is said", said);
            // Faster than segments are reclaimed beside it.
            let replies = register.ask_all((0..asked).map(|n| format!("DEL m{n}")));
            assert!(replies.iter().all(|reply| reply == "OK"), "{what}: {replies:?}");
            let left = std::fs::read_dir(&at).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
            let begun: Vec<String> = left.filter(|name| name.ends_with(".hint.new")).collect();
            assert!(begun.is_empty(), "{what}: {begun:?} were only begun");
        }
    }
}

#[test]
fn a_full_btrfs_takes_new_leaders() {
    for fill in [Mount::fill, Mount::crowd] {
        let home = folder();
        let image = home.path().join("image");
        let Some(mount) = Mount::btrfs(&home.path().join("storage_node_1"), &image) else { return };
        let mut register = Register::with(1, 1, home, |builder| builder.leader_args(["--cache", "0"]));
        register.fill("m", 20, &"x".repeat(3000));
        fill(&mount);
        for _ in 0..2 {
            register.kill_leader().unwrap();
            register.start_leader().unwrap();
            register.wait_up(1).unwrap_or_else(|why| panic!("{why}; {}", register.node_stderr(1)));
            register.check("m", 20, &"x".repeat(3000));
        }
        register.restart_node(1).unwrap();
        register.wait_up(1).unwrap();
        register.check("m", 20, &"x".repeat(3000));
        drop(register);
    }
}

#[test]
fn a_full_disk_under_the_leader_refuses_writes_and_answers_reads() {
    let home = folder();
    let Some(mount) = Mount::tmpfs(&home.path().join("leader_metadata"), "size=64k") else { return };
    let mut register = Register::with(2, 2, home, |builder| builder);
    let mut kept = 0;
    let refused = loop {
        let reply = register.ask(&format!("SET {}{kept} x {kept}", "m".repeat(150)));
        if reply != "OK" {
            break reply;
        }
        kept += 1;
    };
    assert!(refused.starts_with("ERROR UNKNOWN "), "{refused} after {kept}");
    let prefix = "m".repeat(150);
    if register.leader_is_running() {
        register.check(&prefix, kept, "x");
        mount.remount("size=8m");
        eventually("writes", || (register.ask("SET after y") == "OK").then_some(()));
    } else {
        mount.remount("size=8m");
        register.kill_leader().unwrap();
        register.start_leader().unwrap();
        register.wait_up(2).unwrap();
        register.set("after", "y");
    }
    register.check(&prefix, kept, "x");
    assert_eq!(register.get("after"), "y");
    register.kill_leader().unwrap();
    register.start_leader().unwrap();
    register.wait_up(2).unwrap();
    register.check(&prefix, kept, "x");
    assert_eq!(register.get("after"), "y");
    drop(register);
}
