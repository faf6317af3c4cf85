//! What the two IO modes do, as the kernel sees it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use hatokuse::types::IoMode;

use crate::support::{Register, eventually, folder};

/// strace over all processes of a register, in one file.
struct Trace {
    strace: Child,
    file: PathBuf,
}

/// A system call: its text with the names of files, when it began and when it ended, in lines of the trace.
#[derive(Debug)]
struct Call {
    text: String,
    began: usize,
    ended: usize,
}

impl Trace {
    /// Attaches; nothing (and the reason on stderr) where there is no strace.
    fn start(register: &Register, nodes: u32, file: &Path) -> Option<Self> {
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-s", "64", "-e"]);
        command.arg("trace=fsync,fdatasync,syncfs,sync,sync_file_range,msync,read,recvfrom,readv,recvmsg,write,writev,sendto,sendmsg");
        command.arg("-o").arg(file).stderr(Stdio::null());
        command.arg("-p").arg(register.leader_pid().unwrap().to_string());
        for node in 1..=nodes {
            command.arg("-p").arg(register.node_pid(node).unwrap().to_string());
        }
        let strace = match command.spawn() {
            Ok(strace) => strace,
            Err(error) if std::env::var_os("CI").is_none() => {
                eprintln!("SKIPPED: strace does not start: {error}");
                return None;
            }
            Err(error) => panic!("strace is needed in CI: {error}"),
        };
        let mut trace = Self { strace, file: file.to_owned() };
        // It sees a request and its answer: it is attached to the thread pools, too.
        eventually("strace to see requests", || {
            register.ask("GET probe");
            assert!(trace.strace.try_wait().unwrap().is_none(), "strace ended");
            let text = trace.text();
            (text.contains("GET probe") && text.contains("ERROR NOT_FOUND")).then_some(())
        });
        Some(trace)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.file).unwrap_or_default()).into_owned()
    }

    /// Detaches, and gives all calls in the order of their beginning.
    fn finish(mut self) -> Vec<Call> {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.strace), rustix::process::Signal::INT)
            .unwrap();
        self.strace.wait().unwrap();
        let mut calls: Vec<Call> = Vec::new();
        for (at, line) in self.text().lines().enumerate() {
            let Some((pid, text)) = line.split_once(' ') else { continue };
            let text = text.trim_start();
            if text.starts_with("<... ") {
                let open = calls
                    .iter_mut()
                    .rev()
                    .find(|call| call.ended == usize::MAX && call.text.starts_with(&format!("{pid} ")));
                if let Some(call) = open {
                    call.text += text;
                    call.ended = at;
                }
                continue;
            }
            let ended = if text.contains("<unfinished ...>") { usize::MAX } else { at };
            calls.push(Call { text: format!("{pid} {text}"), began: at, ended });
        }
        calls
    }
}

impl Call {
    fn is_sync(&self) -> bool {
        ["fsync(", "fdatasync(", "syncfs(", "sync(", "sync_file_range(", "msync("]
            .iter()
            .any(|name| self.text.split_once(' ').is_some_and(|(_, text)| text.starts_with(name)))
    }

    fn is_answer(&self) -> bool {
        self.text.contains("\"OK\\n\"")
    }

    /// The leader has read this request.
    fn asks(&self, id: &str) -> bool {
        self.text.contains(&format!("\"SET {id} "))
    }
}

/// The calls between the arrival of each SET and its OK, and those that ended before that.
fn between<'a>(calls: &'a [Call], id: &str) -> Vec<&'a Call> {
    let arrived = calls.iter().find(|call| call.asks(id)).expect("the request").began;
    let answered = calls.iter().find(|call| call.began > arrived && call.is_answer()).expect("the answer").began;
    calls.iter().filter(|call| call.began > arrived && call.ended < answered).collect()
}

#[test]
fn unbuffered_means_that_everything_is_synced_before_the_ok() {
    // In memory a file system syncs as a whole: text copies are safe in the journal before their files are synced.
    synced_before_the_ok("text", ".journal-");
}

#[test]
fn unbuffered_means_that_segments_are_synced_before_the_ok() {
    synced_before_the_ok("log", "segment-");
}

/// `kept`: how the file begins that makes a copy safe.
fn synced_before_the_ok(layout: &str, kept: &str) {
    let register =
        Register::with(2, 2, folder(), |builder| builder.io_mode(IoMode::Unbuffered).node_args(["--layout", layout]));
    register.set("warm", "up");
    let file = register.dir().join(".trace");
    let Some(trace) = Trace::start(&register, 2, &file) else { return };
    for round in ["new", "overwritten"] {
        register.set("durable", round);
    }
    register.set("last", "x");
    let calls = trace.finish();
    let all_synced = |synced: Vec<&str>, what: &str| {
        let is_synced = |part: &str| synced.iter().any(|text| text.contains(part));
        for node in 1..=2 {
            assert!(is_synced(&format!("/storage_node_{node}/{kept}")), "{what}, the copy on {node}: {synced:#?}");
        }
        assert!(is_synced("/leader_metadata/mapping.log>"), "{what}, the log: {synced:#?}");
    };
    for id in ["durable", "last"] {
        let calls = between(&calls, id);
        all_synced(calls.iter().filter(|call| call.is_sync()).map(|call| call.text.as_str()).collect(), id);
    }
    // The overwrite as well: from the second request on.
    let second = calls.iter().filter(|call| call.asks("durable")).nth(1).expect("the second request").began;
    let rest: Vec<&Call> = calls.iter().skip_while(|call| call.began < second).collect();
    let answered = rest.iter().find(|call| call.is_answer()).expect("its answer").began;
    let synced = rest.iter().filter(|call| call.is_sync() && call.ended < answered);
    all_synced(synced.map(|call| call.text.as_str()).collect(), "the overwrite");
}

#[test]
fn buffered_means_that_nothing_is_synced_for_a_set() {
    let register = Register::start(2, 2);
    register.set("warm", "up");
    let file = register.dir().join(".trace");
    let Some(trace) = Trace::start(&register, 2, &file) else { return };
    for n in 0..5 {
        register.set(&format!("quick{n}"), "x");
    }
    let calls = trace.finish();
    for n in 0..5 {
        let id = format!("quick{n}");
        let arrived = calls.iter().find(|call| call.asks(&id)).expect("the request").began;
        let answered = calls.iter().find(|call| call.began > arrived && call.is_answer()).expect("the answer").began;
        let synced = calls.iter().filter(|call| call.is_sync() && call.ended > arrived && call.began < answered);
        let synced: Vec<&Call> = synced.collect();
        assert!(synced.is_empty(), "{synced:#?}");
    }
}
