//! What happens while a server starts: signals, and what the service manager hears.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{PATIENCE, Server, eventually, folder};

/// Enough that reading them takes a while.
const FILES: usize = 20_000;

/// A folder of node 1 that takes long to open.
fn large_folder() -> TempDir {
    let home = folder();
    let storage = home.path().join("storage_node_1");
    std::fs::create_dir(&storage).unwrap();
    for n in 0..FILES {
        std::fs::write(storage.join(format!("{n}.txt")), "hello").unwrap();
    }
    home
}

/// A server that has begun to open its folder.
fn opening(home: &Path, more: &[&str]) -> Server {
    let args = [&["node", "--id", "1", "--port", "0"], more].concat();
    let node = Server::start_with(home, &args, |_| {});
    let lock = home.join("storage_node_1/.lock");
    eventually("the folder is being opened", || lock.exists().then_some(()));
    node
}

#[test]
fn a_start_outlives_the_signals_that_mean_no_end() {
    for more in [&["--layout", "text"][..], &["--convert"]] {
        let home = large_folder();
        let mut node = opening(home.path(), more);
        node.signal(Signal::USR1);
        node.signal(Signal::HUP);
        node.says("node 1 ready");
        node.stop();
        assert!(node.ends().success());
    }
}

#[test]
fn an_end_that_is_asked_for_during_a_start_is_one() {
    let home = large_folder();
    let mut node = opening(home.path(), &[]);
    node.stop();
    assert!(node.ends().success());
    // And nothing came of it: the next start finds everything.
    let again = Server::start(home.path(), &["node", "--id", "1", "--port", "0"]);
    again.says(&format!("{FILES} foreign files"));
}

/// What was told until the server is ready.
fn told_until_ready(socket: &UnixDatagram) -> Vec<String> {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut told, mut buffer) = (Vec::new(), [0; 1024]);
    loop {
        let length = socket.recv(&mut buffer).expect("something is told");
        let lines = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if lines.lines().any(|line| line == "READY=1") {
            return told;
        }
        told.push(lines);
    }
}

#[test]
fn a_long_start_asks_the_service_manager_for_time() {
    let home = large_folder();
    let path = home.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let _node = Server::start_with(home.path(), &["node", "--id", "1", "--port", "0"], |command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    let told = told_until_ready(&socket);
    let asks = |lines: &String| lines.contains("EXTEND_TIMEOUT_USEC=") && lines.contains("STATUS=opening");
    assert!(told.iter().all(asks) && !told.is_empty(), "{told:?}");
}

#[test]
fn a_service_manager_may_listen_on_an_abstract_name() {
    let home = folder();
    let name = format!("hatokuse-test-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let _leader = Server::start_with(
        home.path(),
        &["leader", "--port", "0", "--grpc-port", "0", "--http-port", "off"],
        |command| {
            command.env("NOTIFY_SOCKET", format!("@{name}"));
        },
    );
    told_until_ready(&socket);
}
