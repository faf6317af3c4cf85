//! Slips of people: the wrong port, a word of another protocol, keys typed ahead, a Ctrl-C in the middle.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};

use crate::http::{http, register};
use crate::support::{BINARY, Register, Server, eventually, folder, hatokuse, run, tells};

/// Exit code, stdout and stderr.
fn client(addr: &str, args: &[&str], input: &[u8]) -> (i32, String, String) {
    let output = run(hatokuse(&["client", "--addr", addr]).args(args), input);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("an exit code"), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_wrong_port_is_told_with_the_right_one() {
    let register = register(1, 1);
    let page = http(&register);
    for (addr, told) in [(page.as_str(), "7666"), (register.grpc_addr(), "5550")] {
        for (args, input) in [(&["GET", "1"][..], ""), (&["SET", "1", "a"], ""), (&[], "GET 1\nGET 2\n")] {
            let (code, out, error) = client(addr, args, input.as_bytes());
            assert_eq!((code, out.as_str()), (4, ""), "{addr} {args:?}: {error}");
            tells(&error, &[told, "clients use 6666"]);
        }
    }
    let home = folder();
    let args = ["node", "--id", "7", "--port", "0", "--leader", register.addr()];
    let said = Server::start(home.path(), &args).says("cannot register");
    tells(&said, &["no leader's port for nodes", "5550", "6666"]);
}

#[test]
fn a_word_of_another_protocol_or_a_slip_is_told_what_helps() {
    let register = Register::start(1, 1);
    let (code, out, error) = client(register.addr(), &["INCR", "visits"], b"");
    assert_eq!((code, out.as_str()), (2, ""), "{error}");
    let port = register.addr().rsplit(':').next().unwrap();
    tells(&error, &[&format!("redis-cli -h 127.0.0.1 -p {port} INCR visits")]);
    let (code, _, error) = client(register.addr(), &["GTE", "1"], b"");
    assert_eq!(code, 1);
    tells(&error, &["BAD_COMMAND", "did you mean GET?"]);
    let (code, out, _) = client(register.addr(), &["HELP", "SET"], b"");
    assert!(code == 0 && out.starts_with("SET <id> <message>"), "{out}");
    let (code, out, _) = client(register.addr(), &["STATUS", "--json"], b"");
    assert!(code == 0 && out.starts_with("{\"version\""), "{out}");
    let (code, _, error) = client(register.addr(), &["SET", "nl", "-"], b"a\nb");
    assert_eq!(code, 2);
    tells(&error, &["Redis protocol", "nothing was sent"]);
}

#[test]
fn who_interrupts_a_write_is_told_that_it_may_have_happened() {
    let register = Register::start(1, 1);
    let ask = |args: &[&str]| {
        let mut command = hatokuse(&["client", "--addr", register.addr(), "--timeout", "60s"]);
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let interrupted = |child: Child| {
        let pid = Pid::from_child(&child);
        // Once it waits for its answer, Ctrl-C is its own.
        let status = format!("/proc/{}/status", child.id());
        eventually("the handler", || {
            let status = std::fs::read_to_string(&status).ok()?;
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?.trim().to_owned();
            (u64::from_str_radix(&caught, 16).ok()? & 2 != 0).then_some(())
        });
        kill_process(pid, Signal::INT).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    register.signal_leader(Signal::STOP).unwrap();
    let (code, error) = interrupted(ask(&["SET", "1", "a"]));
    assert_eq!(code, Some(4), "{error}");
    tells(&error, &["may have happened", "read the id"]);
    let (_, error) = interrupted(ask(&["GET", "1"]));
    assert!(error.contains("interrupted") && !error.contains("may have"), "{error}");
    register.signal_leader(Signal::CONT).unwrap();
}

/// The prompt in a terminal, as `script` makes one.
struct Prompt {
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Prompt {
    fn start(addr: &str) -> Self {
        let mut command = Command::new("script");
        command.args(["-qec", &format!("{BINARY} client --addr {addr}"), "/dev/null"]);
        command.env("TERM", "xterm").env_remove("XDG_STATE_HOME").env_remove("HOME");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("script of util-linux");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut out, to) = (child.stdout.take().unwrap(), shown.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = out.read(&mut bytes) {
                to.lock().unwrap().extend_from_slice(&bytes[..n]);
            }
        });
        let prompt = Self { child, shown };
        prompt.shows("hatokuse> ", 1);
        prompt
    }

    fn types(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Waits until this was shown so often.
    fn shows(&self, text: &str, times: usize) {
        eventually(text, || {
            let shown = String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned();
            (shown.matches(text).count() >= times).then_some(())
        });
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_byte_that_is_no_utf8_ends_no_prompt() {
    let register = Register::start(1, 1);
    let mut prompt = Prompt::start(register.addr());
    prompt.types(b"SET lat \xe7\r");
    prompt.shows("no UTF-8", 1);
    prompt.types(b"PING\r");
    prompt.shows("PONG", 1);
    assert_eq!(register.ask("COUNT"), "COUNT 0", "what was typed with it is not run");
}

#[test]
fn what_is_typed_ahead_is_run() {
    let register = Register::start(1, 1);
    let mut prompt = Prompt::start(register.addr());
    prompt.types(b"SET 1 a\rSET 2 b\rSET 3 c\rSET 4 d\rCOUNT\r");
    prompt.shows("COUNT 4", 1);
}
