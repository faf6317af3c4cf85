//! The command line: client, bench, and what helps with both.

use std::process::{Output, Stdio};

use crate::support::{PATIENCE, Register, Server, eventually, folder, hatokuse, lone_leader, run};

/// Exit code, stdout and stderr.
fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("an exit code"), text(&output.stdout), text(&output.stderr))
}

fn client(addr: &str, args: &[&str], input: &[u8]) -> (i32, String, String) {
    told(&run(hatokuse(&["client", "--addr", addr]).args(args), input))
}

/// An address where nobody listens.
fn nobody() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn one_command_one_answer_one_exit_code() {
    let mut register = Register::start(2, 2);
    let addr = register.addr().to_owned();
    let ask = |args: &[&str]| client(&addr, args, b"");
    let quiet = |code: i32, out: &str| (code, out.to_owned(), String::new());
    assert_eq!(ask(&["SET", "1", "hello", "world"]), quiet(0, "OK\n"));
    assert_eq!(ask(&["GET", "1"]), quiet(0, "hello world\n"));
    assert_eq!(ask(&["get", "1"]), quiet(0, "hello world\n"));
    assert_eq!(ask(&["WHERE", "1"]), quiet(0, "NODES 1,2\n"));
    assert_eq!(ask(&["COUNT"]), quiet(0, "COUNT 1\n"));
    assert_eq!(ask(&["PING"]), quiet(0, "+PONG\n"));
    // A message that begins like a flag, and bytes from stdin.
    assert_eq!(ask(&["SET", "flag", "--json"]), quiet(0, "OK\n"));
    assert_eq!(ask(&["GET", "flag"]), quiet(0, "--json\n"));
    assert_eq!(client(&addr, &["SET", "bytes", "-"], b"\xff from stdin \r\r\n"), quiet(0, "OK\n"));
    let mut wire = register.wire();
    wire.send("GET bytes\n");
    assert_eq!(wire.bytes(), b"VALUE \xff from stdin \r");
    assert_eq!(client(&addr, &["SET", "none", "-"], b""), quiet(0, "OK\n"));
    assert_eq!(ask(&["GET", "none"]), quiet(0, "\n"));

    let (code, out, error) = ask(&["GET", "missing"]);
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(error.contains("NOT_FOUND"), "{error}");
    for wrong in [
        &["GET"][..],
        &["GET", "a", "b"],
        &["SET", "1"],
        &[""],
        &["GET", &"x".repeat(1025)],
        &["SET", "1", "a\nb"],
        &["SET", "a b", "c"],
    ] {
        let (code, out, error) = ask(wrong);
        assert_eq!((code, out.as_str()), (2, ""), "{wrong:?}: {error}");
        assert!(error.starts_with("hatokuse client: ") && error.lines().count() == 1, "{wrong:?}: {error}");
    }
    let (code, _, error) = client(&addr, &["SET", "two", "-"], b"two\nlines\n");
    assert!(code == 2 && error.contains("line"), "{code}: {error}");
    let (code, _, error) = ask(&["FROB"]);
    assert!(code == 1 && error.contains("BAD_COMMAND"), "{code}: {error}");
    register.kill_node(1).unwrap();
    register.wait_state(1, "down");
    let (code, out, error) = ask(&["SET", "1", "x"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(error.contains("TOO_FEW_NODES"), "{error}");

    let (code, out, error) = client(&nobody(), &["PING"], b"");
    assert_eq!((code, out.as_str()), (4, ""));
    assert!(error.lines().count() == 1 && error.contains("leader"), "it says what to do: {error}");
    register.signal_leader(rustix::process::Signal::STOP).unwrap();
    let (code, _, error) = ask(&["--timeout", "300ms", "GET", "1"]);
    assert_eq!(code, 4, "no answer in time: {error}");
    register.signal_leader(rustix::process::Signal::CONT).unwrap();
}

#[test]
fn a_pipe_of_commands_is_answered_line_by_line() {
    let register = Register::start(2, 2);
    let addr = register.addr();
    let (code, out, error) = client(addr, &[], b"SET 1 a\nGET 1\n\nCOUNT\nGET 1");
    assert_eq!((code, error.as_str()), (1, ""));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((lines[0], lines[1], lines[3], lines[4], lines.len()), ("OK", "VALUE a", "COUNT 1", "VALUE a", 5));
    assert!(lines[2].starts_with("ERROR BAD_COMMAND "), "{out}");
    assert_eq!(client(addr, &[], b""), (0, String::new(), String::new()));
    let (code, out, error) = client(addr, &[], b"PING\nEXIT\nSET 2 x\n");
    assert_eq!((code, out.as_str()), (0, "+PONG\nBYE\n"));
    assert!(error.contains("not run: 1"), "{error}");
    assert_eq!(register.ask("COUNT"), "COUNT 1");
    let (code, out, _) = client(addr, &["--json"], b"GET 1\nGET none\n");
    assert_eq!(code, 1);
    for line in out.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    assert_eq!(client(&nobody(), &[], b"PING\n").0, 4);
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let register = Register::start(2, 2);
    register.set("1", &"x".repeat(10_000));
    let mut command = hatokuse(&["client", "--addr", register.addr()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    // Its end may come before all of this is taken.
    let _ = std::io::Write::write_all(&mut stdin, "GET 1\n".repeat(100).as_bytes());
    drop(stdin);
    let (code, _, error) = told(&child.wait_with_output().unwrap());
    assert_eq!((code, error.as_str()), (0, ""));
    for args in [&["completions", "bash"][..], &["leader", "--config", "off", "--check-config"], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = hatokuse(args).stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let (code, _, error) = told(&ended);
        assert_eq!((code, error.as_str()), (0, ""), "{args:?}");
    }
}

#[test]
fn a_bench_measures_verifies_and_says_so_in_json() {
    let mut bench =
        hatokuse(&["bench", "--local-nodes", "3", "--tolerance", "2", "--count", "600", "--verify", "--json"]);
    bench.args(["--connections", "4", "--pipeline", "8", "--size", "64", "--op", "mixed"]);
    let (code, out, error) = told(&run(&mut bench, b""));
    assert_eq!(code, 0, "{error}");
    assert_eq!(out.lines().count(), 1);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["protocol"], &report["connections"]), (&"text".into(), &4.into()));
    assert_eq!((&report["pipeline"], &report["size"], &report["verified"]), (&8.into(), &64.into(), &300.into()));
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.iter().map(|result| result["op"].as_str().unwrap()).collect::<Vec<_>>(), ["set", "get"]);
    for result in results {
        assert_eq!((&result["count"], &result["errors"]), (&300.into(), &0.into()));
        assert!(result["elapsed_s"].is_f64() && result["ops_per_s"].is_f64(), "{result}");
        for percentile in ["p50", "p90", "p99", "p999", "max"] {
            assert!(result["latency_ms"][percentile].is_number(), "{result}");
        }
    }
    let copies: u64 = report["nodes"].as_object().unwrap().values().map(|copies| copies.as_u64().unwrap()).sum();
    assert_eq!(copies, 600, "{report}");
    assert!(report["addr"].as_str().unwrap().starts_with("127.0.0.1:"));
}

#[test]
fn a_bench_that_goes_wrong_has_its_exit_code() {
    let mut register = Register::start(2, 2);
    let bench = |addr: &str, more: &[&str]| {
        told(&run(hatokuse(&["bench", "--addr", addr, "--count", "50", "--connections", "2"]).args(more), b""))
    };
    let (code, out, error) = bench(register.addr(), &["--json"]);
    assert_eq!(code, 0, "{error}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["verified"], serde_json::Value::Null);
    assert_eq!(bench(register.addr(), &["--op", "get"]).0, 0);
    register.kill_node(1).unwrap();
    register.wait_state(1, "down");
    let (code, out, error) = bench(register.addr(), &["--json"]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("TOO_FEW_NODES"), "{error}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["results"][0]["errors"], 50);
    let (code, out, error) = bench(&nobody(), &[]);
    assert_eq!((code, out.as_str()), (4, ""), "{error}");
    assert!(error.contains("hatokuse leader"), "{error}");
    for wrong in [&["--op", "frob"][..], &["--local-nodes", "2", "--tolerance", "3"], &["--key-prefix", "a b"]] {
        assert_eq!(bench(register.addr(), wrong).0, 2, "{wrong:?}");
    }
}

#[test]
fn wrong_usage_is_two_and_names_what_is_right() {
    for wrong in [
        &[][..],
        &["frob"],
        &["node"],
        &["node", "--id", "1"],
        &["node", "--id", "0", "--port", "0"],
        &["node", "--id", "4294967296", "--port", "0"],
        &["node", "--id", "1", "--port", "65536"],
        &["leader", "--max-message", "12 parsecs"],
        &["leader", "--max-message", "65MiB"],
        &["leader", "--report-every", "0s"],
        &["leader", "--local-nodes", "65"],
        &["leader", "--io-mode", "fast"],
        &["leader", "extra"],
        &["bench", "--connections", "0"],
        &["bench", "--addr", "nowhere"],
        &["client", "--addr", "127.0.0.1:65536", "PING"],
        &["node", "--id", "1", "--port", "0", "--leader", ":5550"],
        &["node", "--id", "1", "--port", "0", "--advertise", "nonsense"],
    ] {
        let (code, out, error) = told(&run(&mut hatokuse(wrong), b""));
        assert_eq!((code, out.as_str()), (2, ""), "{wrong:?}");
        assert!(error.contains("Usage") || error.contains("--help"), "{wrong:?}: {error}");
    }
    // A variable is read like its flag, and a flag beats it.
    let mut command = hatokuse(&["node", "--port", "0"]);
    assert_eq!(run(command.env("HATOKUSE_ID", "0"), b"").status.code(), Some(2));
    // Yes and no as people write them.
    for (value, shown) in [("1", "true"), ("yes", "true"), ("true", "true"), ("0", "false"), ("off", "false")] {
        let mut command = hatokuse(&["node", "--id", "1", "--port", "0", "--config", "off", "--check-config"]);
        let (code, out, error) = told(&run(command.env("HATOKUSE_PLAIN", value), b""));
        assert!(code == 0 && out.contains(&format!("plain = {shown}  # environment")), "{value}: {out}{error}");
        let (code, _, error) = told(&run(hatokuse(&["node"]).env("HATOKUSE_CONVERT", "perhaps"), b""));
        assert!(code == 2 && error.contains("perhaps"), "{error}");
    }
}

#[test]
fn version_completions_and_manual_pages() {
    let (code, out, _) = told(&run(&mut hatokuse(&["--version"]), b""));
    assert_eq!(code, 0);
    assert!(out.starts_with(&format!("hatokuse {}", env!("CARGO_PKG_VERSION"))), "{out}");
    let commit = out.trim().rsplit(['(', ' ']).next().unwrap().trim_end_matches(')');
    assert!(commit == "unknown" || commit.len() >= 7 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{out}");
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, error) = told(&run(&mut hatokuse(&["completions", shell]), b""));
        assert!(code == 0 && error.is_empty() && out.contains("hatokuse") && out.contains("tolerance-conf"), "{shell}");
    }
    let home = crate::support::folder();
    let pages = home.path().join("man");
    assert_eq!(run(&mut hatokuse(&["man", pages.to_str().unwrap()]), b"").status.code(), Some(0));
    let (code, _, error) = told(&run(&mut hatokuse(&["man", "/proc/none"]), b""));
    assert!(code == 1 && error.contains("/proc/none: name another folder"), "{error}");
    let names = crate::support::visible(&pages);
    for page in ["hatokuse.1", "hatokuse-leader.1", "hatokuse-node.1", "hatokuse-client.1", "hatokuse-bench.1"] {
        assert!(names.contains(page), "{names:?}");
        let text = std::fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains(".SH ENVIRONMENT\n") && text.contains(".SH EXAMPLES\n"), "{page}: {text}");
    }
    for command in ["leader", "node", "client", "bench"] {
        let (code, out, _) = told(&run(&mut hatokuse(&[command, "--help"]), b""));
        assert!(code == 0 && out.contains("HATOKUSE_") && out.contains("Examples:"), "{command}: {out}");
    }
}

#[test]
fn operators_ask_with_the_client_as_well() {
    let register = Register::start(3, 2);
    let addr = register.addr().to_owned();
    let ask = |args: &[&str]| client(&addr, args, b"");
    let quiet = |code: i32, out: &str| (code, out.to_owned(), String::new());
    register.fill("m", 5, "sound");
    assert_eq!(ask(&["DEL", "m0"]), quiet(0, "OK\n"));
    assert_eq!(ask(&["VERIFY"]), quiet(0, "VERIFIED messages=4 intact=8 bad=0 unknown=0\n"));
    // What is found is one line each, also among other commands of a pipe, and tells by the exit code.
    let holder = register.holders("m3")[0];
    std::fs::remove_file(register.copy(holder, "m3")).unwrap();
    let found = format!("COPY m3 {holder} MISSING\nVERIFIED messages=4 intact=7 bad=1 unknown=0\n");
    let both = client(&addr, &[], b"VERIFY\nGET m4\n");
    assert_eq!(both, quiet(1, &format!("{found}VALUE sound 4\n")));
    let (code, json, _) = client(&addr, &["--json", "VERIFY"], b"");
    assert!(code <= 1 && json.lines().last().unwrap().starts_with("{\"verified\":{"), "{code}: {json}");
    assert_eq!(ask(&["DRAIN", "3"]), quiet(0, "OK\n"));
    let (code, _, error) = ask(&["DRAIN", "2"]);
    assert!(code == 1 && error.contains("TOO_FEW_NODES"), "{code}: {error}");
    assert_eq!(ask(&["UNDRAIN", "3"]), quiet(0, "OK\n"));
    assert_eq!(ask(&["REBALANCE"]), quiet(0, "OK\n"));
    assert_eq!(ask(&["REBALANCE", "STOP"]), quiet(0, "OK\n"));
    let (code, _, error) = ask(&["DRAIN", "all"]);
    assert!(code == 2 && error.contains("DRAIN wants the number of a node"), "{code}: {error}");
}

#[test]
fn a_password_file_opens_the_door_for_every_kind_of_client() {
    let home = folder();
    let (right, wrong) = (home.path().join("password"), home.path().join("wrong"));
    std::fs::write(&right, "se cret\r\nnot this\n").unwrap();
    std::fs::write(&wrong, "secret\n").unwrap();
    let (right, wrong) = (right.to_str().unwrap(), wrong.to_str().unwrap());
    let (_leader, addr) = lone_leader(home.path(), &["--password-file", right]);
    for (args, input) in [(&["PING"][..], &b""[..]), (&[], b"PING\n")] {
        let with = |file: &str| client(&addr, &[&["--password-file", file], args].concat(), input);
        assert_eq!(with(right), (0, "+PONG\n".to_owned(), String::new()));
        let (code, out, error) = with(wrong);
        assert!(code == 1 && out.is_empty() && error.contains("WRONGPASS"), "{code}: {out} {error}");
    }
    let (code, _, error) = client(&addr, &["PING"], b"");
    assert!(code == 1 && error.contains("NOAUTH"), "{code}: {error}");
    let mut by_variable = hatokuse(&["client", "--addr", &addr, "PING"]);
    assert_eq!(told(&run(by_variable.env("HATOKUSE_PASSWORD_FILE", right), b"")).0, 0);
    for (file, protocol, reason) in
        [(right, "text", "TOO_FEW_NODES"), (right, "resp", "NOREPLICAS"), (wrong, "resp", "WRONGPASS")]
    {
        let mut bench =
            hatokuse(&["bench", "--addr", &addr, "--count", "3", "--connections", "1", "--protocol", protocol]);
        let (code, _, error) = told(&run(bench.args(["--password-file", file]), b""));
        assert!(code == 1 && error.contains(reason), "{protocol}, {code}: {error}");
    }
    let (code, _, error) = client(&addr, &["--password-file", "/nowhere", "PING"], b"");
    assert!(code == 1 && error.contains("/nowhere"), "{code}: {error}");
}

#[test]
fn a_watch_is_a_line_an_interval_until_it_is_told_to_stop() {
    let register = Register::start(2, 2);
    register.set("1", "a");
    let watch = |more: &[&str]| {
        let mut command = hatokuse(&["client", "--addr", register.addr(), "--watch", "20ms"]);
        command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut child = watch(&["STATUS"]);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap())).map(Result::unwrap);
    let heading = lines.next().unwrap();
    assert!(heading.starts_with("UTC ") && heading.ends_with(" REPAIR"), "{heading}");
    for delta in ["-", "0", "0"] {
        let line = lines.next().unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!((words[1], words[2], words[3], words[6]), ("HEALTHY", "1", delta, "2/2"), "{line}");
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let mut child = watch(&["--json"]);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let status: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(status["sets"], 1);
    drop(lines);
    let (code, _, error) = told(&child.wait_with_output().unwrap());
    assert_eq!((code, error.as_str()), (0, ""), "its reader has left");
    assert_eq!(client(register.addr(), &["--watch", "1s", "GET", "1"], b"").0, 2);
}

#[test]
fn a_file_of_settings_stands_below_variables_and_flags() {
    let home = folder();
    std::fs::write(home.path().join("my.toml"), "# mine\nid = 7\nport = 5001\nio-mode = \"unbuffered\"\n").unwrap();
    let check = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = hatokuse(&["node", "--check-config"]);
        command.current_dir(home.path()).envs(variables.iter().copied()).args(args);
        told(&run(&mut command, b""))
    };
    let (code, out, error) =
        check(&["--config", "my.toml", "--host", "127.0.0.2"], &[("HATOKUSE_PORT", "5002"), ("HATOKUSE_HOST", "::1")]);
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    let lines = [
        "id = 7  # my.toml:2",
        "port = 5002  # environment",
        "io-mode = unbuffered  # my.toml:4",
        "host = 127.0.0.2  # flag",
        "layout = text  # default",
    ];
    lines.iter().for_each(|line| assert!(out.lines().any(|told| told == *line), "{line} in {out}"));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1, "nothing was started");
    std::fs::write(home.path().join("bad.toml"), "id = 7\nprot = 5001\n").unwrap();
    let (code, _, error) = check(&[], &[("HATOKUSE_CONFIG", "bad.toml")]);
    assert_eq!((code, error.contains("bad.toml:2: ") && error.contains("\"port\"")), (2, true), "{error}");
    let (code, _, error) = check(&["--config", "none.toml"], &[]);
    assert_eq!((code, error.contains("none.toml: cannot be read")), (2, true), "{error}");
    let (code, _, error) = check(&["--config", "off"], &[]);
    assert_eq!((code, error.contains("--id")), (2, true), "{error}");
}

#[test]
fn the_files_that_a_leader_is_told_of_are_checked() {
    let home = folder();
    let check = |conf: &str| {
        std::fs::write(home.path().join("tolerance.conf"), conf).unwrap();
        let args = ["leader", "--config", "off", "--check-config"];
        told(&run(hatokuse(&args).current_dir(home.path()), b""))
    };
    let (code, out, _) = check("tolerance=3\n");
    assert!(code == 0 && out.contains("\ntolerance = 3  # tolerance.conf\n"), "{out}");
    let (code, _, error) = check("tolerance=8\n");
    assert!(code == 2 && error.contains("line 1"), "{error}");
}

#[test]
fn a_service_manager_is_told_that_it_serves_lives_and_stops() {
    let home = folder();
    let socket = std::os::unix::net::UnixDatagram::bind(home.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = |wanted: &str| {
        let mut buffer = [0; 256];
        loop {
            let length = socket.recv(&mut buffer).expect("something is told");
            if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == wanted) {
                return;
            }
        }
    };
    let mut node = Server::start_with(home.path(), &["node", "--id", "1", "--port", "0"], |command| {
        command.env("NOTIFY_SOCKET", home.path().join("notify")).env("WATCHDOG_USEC", "100000");
    });
    hear("READY=1");
    hear("WATCHDOG=1");
    node.stop();
    hear("STOPPING=1");
    assert!(node.ends().success());
}

#[test]
fn the_samples_of_settings_files_are_right() {
    let home = folder();
    for server in ["leader", "node"] {
        let sample = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("packaging/{server}.toml"));
        let said = std::fs::read_to_string(sample).unwrap();
        let setting = |line: &str| {
            let (key, _) = line.strip_prefix("# ")?.split_once(" = ")?;
            // That file is another machine's.
            (!key.contains(' ') && key != "password-file").then(|| line[2..].to_owned())
        };
        let settings: Vec<String> = said.lines().filter_map(setting).collect();
        assert!(settings.len() >= 7, "{settings:?}");
        std::fs::write(home.path().join("all.toml"), settings.join("\n")).unwrap();
        let args = [server, "--config", "all.toml", "--check-config"];
        let (code, out, error) = told(&run(hatokuse(&args).current_dir(home.path()), b""));
        assert_eq!((code, error.as_str()), (0, ""), "{server}");
        let here = out.lines().filter(|line| line.contains("# all.toml:")).count();
        assert_eq!(here, settings.len(), "{out}");
    }
}

#[test]
fn the_samples_for_tls_are_right_where_their_files_are_there() {
    let home = folder();
    let certs = crate::tls::certificates(home.path());
    std::fs::copy(certs.join("ca.pem"), certs.join("clients-ca.pem")).unwrap();
    for server in ["leader", "node"] {
        let sample = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("packaging/{server}.toml"));
        let said = std::fs::read_to_string(sample).unwrap();
        let settings: Vec<String> =
            said.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_owned).collect();
        assert!(settings.len() >= 3, "{settings:?}");
        let settings = settings.join("\n").replace("/etc/hatokuse/tls", &certs.display().to_string());
        std::fs::write(home.path().join("tls.toml"), settings).unwrap();
        let id: &[&str] = if server == "node" { &["--id", "1", "--port", "0"] } else { &[] };
        let args = [&[server, "--config", "tls.toml", "--check-config"], id].concat();
        let (code, _, error) = told(&run(hatokuse(&args).current_dir(home.path()), b""));
        assert_eq!((code, error.as_str()), (0, ""), "{server}");
    }
}

#[test]
fn a_log_file_has_what_local_nodes_say() {
    let home = folder();
    let args = ["leader", "--port", "0", "--grpc-port", "0", "--local-nodes", "1", "--log-file", "log"];
    let _leader = Server::start(home.path(), &args);
    let said = || std::fs::read_to_string(home.path().join("log")).unwrap_or_default();
    eventually("the node's line", || said().contains("node 1: registered with the leader").then_some(()));
}

#[test]
fn a_log_file_that_was_moved_away_is_made_anew() {
    let home = folder();
    let (log, old) = (home.path().join("log"), home.path().join("old"));
    let args = ["node", "--id", "1", "--port", "0", "--log-file", "log"];
    let node = Server::start(home.path(), &args);
    let holds = |path: &std::path::Path| std::fs::read_to_string(path).is_ok_and(|text| !text.is_empty());
    eventually("a line in the log file", || holds(&log).then_some(()));
    std::fs::rename(&log, &old).unwrap();
    node.signal(rustix::process::Signal::USR1);
    eventually("a line in the new log file", || holds(&log).then_some(()));
    assert!(std::fs::read_to_string(&log).unwrap().contains("opened anew"));
}
