//! TLS on real processes: clients that speak it and those that do not, certificates that change, and clusters whose
//! processes show one another who they are.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use hatokuse::tls::{Blocking, ClientFiles, Dialer, Mode, Role, issue};
use rcgen::{CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber};
use rustix::process::Signal;
use x509_parser::pem::parse_x509_pem;
use x509_parser::time::ASN1Time;

use crate::resp::Redis;
use crate::support::{PATIENCE, Register, Server, Wire, eventually, folder, hatokuse, refused_leader, run, tells};

/// A folder with an authority, the certificates of a leader and two nodes, and one of a client.
pub(crate) fn certificates(home: &Path) -> PathBuf {
    let certs = home.join("certs");
    issue::authority(&certs, "main", 1).unwrap();
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    for role in [Role::Peer(1), Role::Node(1), Role::Node(2)] {
        issue::certificate(&certs, role, &hosts, 1).unwrap();
    }
    issue::certificate(&certs, Role::Client("app".to_owned()), &[], 1).unwrap();
    certs
}

fn path(certs: &Path, name: &str) -> String {
    certs.join(name).display().to_string()
}

/// The flags of a leader that serves clients with TLS.
fn served(certs: &Path) -> [String; 6] {
    let flags = ["--tls-port", "0", "--tls-cert", "peer-1.pem", "--tls-key", "peer-1-key.pem"];
    flags.map(|flag| if flag.ends_with(".pem") { path(certs, flag) } else { flag.to_owned() })
}

/// Where the leader said last that its TLS port is.
fn tls(register: &Register) -> String {
    eventually("the TLS port", || {
        let said = register.leader_stderr();
        Some(said.lines().rev().find_map(|line| line.split_once("leader tls="))?.1.trim().to_owned())
    })
}

fn dialer(certs: &Path, client: Option<&str>) -> Dialer {
    let of = |end: &str| client.map(|name| certs.join(format!("client-{name}{end}.pem")));
    Dialer::new(ClientFiles { ca: Some(certs.join("ca.pem")), cert: of(""), key: of("-key") }).unwrap()
}

fn dial(addr: &str, certs: &Path, client: Option<&str>) -> std::io::Result<Blocking> {
    let stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    dialer(certs, client).encrypt_blocking(addr, stream)
}

/// One line, and what comes until a line ends.
fn ask(stream: &mut Blocking, line: &str) -> std::io::Result<String> {
    stream.write_all(format!("{line}\n").as_bytes())?;
    stream.flush()?;
    let (mut said, mut byte) = (String::new(), [0]);
    while !said.ends_with('\n') {
        stream.read_exact(&mut byte)?;
        said.push(char::from(byte[0]));
    }
    Ok(said.trim_end().to_owned())
}

#[test]
fn clients_speak_tls_beside_those_that_do_not_and_both_are_told_of_the_wrong_port() {
    let home = folder();
    let certs = certificates(home.path());
    let register = Register::with(2, 2, home, |builder| {
        let more = ["--http-port".to_owned(), "0".to_owned(), "--http-tls".to_owned()];
        builder.leader_args(served(&certs).into_iter().chain(more))
    });
    let addr = tls(&register);
    let mut stream = dial(&addr, &certs, None).unwrap();
    assert_eq!(ask(&mut stream, "SET a hello").unwrap(), "OK");
    assert_eq!(register.get("a"), "hello");
    // More than one record, both ways, in both protocols.
    let large = "x".repeat(1 << 20);
    assert_eq!(ask(&mut stream, &format!("SET large {large}")).unwrap(), "OK");
    assert_eq!(ask(&mut stream, "GET large").unwrap(), format!("VALUE {large}"));
    let ca = path(&certs, "ca.pem");
    let program = |args: &[&str]| {
        let args = [args, &["--addr", &addr, "--tls", "--tls-ca", &ca]].concat();
        run(&mut hatokuse(&args), b"")
    };
    for protocol in ["text", "resp"] {
        let done =
            program(&["bench", "--count", "500", "--pipeline", "64", "--protocol", protocol, "--verify", "--json"]);
        assert!(done.status.success(), "{done:?}");
        tells(&String::from_utf8_lossy(&done.stdout), &["\"errors\":0", "\"verified\":500"]);
    }
    let backup = register.dir().join("backup").display().to_string();
    assert!(program(&["backup", &backup]).status.success());
    // Bytes in the clear, of both protocols; and a handshake where none is meant.
    for plain in ["SET b x\n", "*1\r\n$4\r\nPING\r\n", "GET / HTTP/1.1\r\n\r\n"] {
        let mut wire = Wire::to(&addr);
        wire.send(plain);
        assert_eq!(wire.rest(), "-ERR this port speaks TLS\r\n");
    }
    // However much comes behind it, and as HTTP where that is spoken.
    let mut wire = Wire::to(&addr);
    wire.send("SET b x\n".repeat(1000));
    wire.send("SET b x\n".repeat(1000));
    assert_eq!(wire.rest(), "-ERR this port speaks TLS\r\n");
    let told = run(&mut hatokuse(&["client", "--addr", &addr, "GET", "a"]), b"");
    tells(&String::from_utf8_lossy(&told.stderr), &["speaks TLS", "--tls"]);
    tells(&dial(register.addr(), &certs, None).unwrap_err().to_string(), &["speaks no TLS"]);
    tells(&register.ask("GET b"), &["NOT_FOUND"]);
    // A client that believes another authority, and one that calls by a name which is not in the certificate.
    let other = folder();
    let others = certificates(other.path());
    tells(&dial(&addr, &others, None).unwrap_err().to_string(), &["no authority"]);
    let port = addr.rsplit_once(':').unwrap().1;
    let named = hatokuse(&["client", "--addr", &format!("127.0.0.2:{port}"), "--tls", "--tls-ca", &ca, "GET", "a"]);
    let mut named = named;
    let done = run(&mut named, b"");
    assert_eq!(done.status.code(), Some(4), "{done:?}");
    // The page is encrypted too.
    let http = crate::http::http(&register);
    let mut plain = Wire::to(&http);
    plain.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let told = plain.rest();
    assert!(
        told.starts_with("HTTP/1.1 400 ") && told.ends_with("\r\n\r\nthis port speaks TLS: write https:// here\n"),
        "{told}"
    );
    assert!(
        told.contains(&format!("Content-Length: {}\r\n", "this port speaks TLS: write https:// here\n".len())),
        "{told}"
    );
    let mut page = dial(&http, &certs, None).unwrap();
    page.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    page.flush().unwrap();
    let mut said = String::new();
    let _ = page.read_to_string(&mut said);
    tells(&said, &["200 OK", "hatokuse_tls_not_after_seconds{of=\"tls\"}"]);
}

#[test]
fn who_has_to_show_a_certificate_is_not_served_without() {
    let home = folder();
    let certs = certificates(home.path());
    let ca = ["--tls-ca".to_owned(), path(&certs, "ca.pem")];
    let register = Register::with(1, 1, home, |builder| builder.leader_args(served(&certs).into_iter().chain(ca)));
    let addr = tls(&register);
    assert_eq!(ask(&mut dial(&addr, &certs, Some("app")).unwrap(), "PING").unwrap(), "+PONG");
    let told = dial(&addr, &certs, None).and_then(|mut stream| ask(&mut stream, "PING")).unwrap_err();
    tells(&told.to_string(), &["wants a certificate"]);
    let ca = path(&certs, "ca.pem");
    let args = ["client", "--addr", &addr, "--tls", "--tls-ca", &ca, "SET", "1", "x"];
    let done = run(&mut hatokuse(&args), b"");
    assert_ne!(done.status.code(), Some(0));
    tells(&String::from_utf8_lossy(&done.stderr), &["wants a certificate", "nothing was written", "--tls-cert"]);
    let other = folder();
    let others = certificates(other.path());
    // It believes the server, and shows what a stranger has signed.
    let files = ClientFiles {
        ca: Some(certs.join("ca.pem")),
        cert: Some(others.join("client-app.pem")),
        key: Some(others.join("client-app-key.pem")),
    };
    let stream = TcpStream::connect(&addr).unwrap();
    let told = Dialer::new(files).unwrap().encrypt_blocking(&addr, stream);
    assert!(told.and_then(|mut stream| ask(&mut stream, "PING")).is_err());
}

/// A list of the authority in a folder that revokes this certificate, and ends in so many seconds.
fn revoke(certs: &Path, name: &str, ends_in: i64) -> String {
    let read = |name: &str| fs::read_to_string(certs.join(name)).unwrap();
    let (_, pem) = parse_x509_pem(read(name).as_bytes()).map(|(rest, pem)| (rest.to_vec(), pem)).unwrap();
    let serial = pem.parse_x509().unwrap().raw_serial().to_vec();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let at = |time: i64| ASN1Time::from_timestamp(time).unwrap().to_datetime();
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: at(now - 60),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: at(now - 3600),
        next_update: at(now + ends_in),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), KeyPair::from_pem(&read("ca-key.pem")).unwrap()).unwrap();
    let to = certs.join("crl.pem");
    fs::write(&to, list.signed_by(&issuer).unwrap().pem().unwrap()).unwrap();
    to.display().to_string()
}

#[test]
fn a_certificate_that_was_revoked_opens_nothing_from_the_next_look_on() {
    let home = folder();
    let certs = certificates(home.path());
    issue::certificate(&certs, Role::Client("lost".to_owned()), &[], 1).unwrap();
    let list = revoke(&certs, "client-lost.pem", 3600);
    let more = ["--tls-ca".to_owned(), path(&certs, "ca.pem"), "--tls-crl".to_owned(), list];
    let register = Register::with(1, 1, home, |builder| builder.leader_args(served(&certs).into_iter().chain(more)));
    let addr = tls(&register);
    let ping = |client| dial(&addr, &certs, Some(client)).and_then(|mut stream| ask(&mut stream, "PING"));
    assert_eq!(ping("app").unwrap(), "+PONG");
    tells(&ping("lost").unwrap_err().to_string(), &["revoked"]);
    // A list that has ended still counts, and its end is said.
    revoke(&certs, "client-app.pem", -60);
    register.signal_leader(Signal::HUP).unwrap();
    eventually("the new list", || ping("app").err());
    tells(&register.leader_stderr(), &["crl.pem (--tls-crl)", "ended at"]);
    assert_eq!(ping("lost").unwrap(), "+PONG", "the new list says nothing of it");
}

#[test]
fn what_the_files_of_a_leader_must_not_be_is_said_and_it_does_not_start() {
    let home = folder();
    let certs = certificates(home.path());
    let flags = served(&certs);
    let with = |more: &[&str]| {
        let all: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        refused_leader(home.path(), &all)
    };
    tells(&with(&["--tls-clients", "required"]), &["--tls-clients", "--tls-ca"]);
    tells(&with(&["--cluster-tls", "require"]), &["--cluster-cert", "hatokuse cert"]);
    let (cert, key, ca) = (path(&certs, "node-2.pem"), path(&certs, "node-2-key.pem"), path(&certs, "ca.pem"));
    let cluster = ["--cluster-cert", &cert, "--cluster-key", &key, "--cluster-ca", &ca];
    tells(&with(&cluster), &["node-2.pem", "node/2", "peer/1"]);
    let as_peer = [path(&certs, "peer-1.pem"), path(&certs, "peer-1-key.pem")];
    let local =
        ["--cluster-cert", &as_peer[0], "--cluster-key", &as_peer[1], "--cluster-ca", &ca, "--local-nodes", "2"];
    tells(&with(&local), &["--local-nodes", "--cluster-tls prefer"]);
    let off = run(&mut hatokuse(&["leader", "--port", "off"]), b"");
    assert_eq!(off.status.code(), Some(1));
    tells(&String::from_utf8_lossy(&off.stderr), &["--tls-port"]);
    tells(&refused_leader(home.path(), &["--tls-port", "0"]), &["--tls-cert", "--tls-key"]);
    tells(&refused_leader(home.path(), &["--tls-cert", &as_peer[0]]), &["--tls-port"]);
    fs::copy(certs.join("node-1-key.pem"), certs.join("peer-1-key.pem")).unwrap();
    tells(&with(&[]), &["peer-1-key.pem (--tls-key)", "not the key of"]);
}

#[test]
fn certificates_are_renewed_under_load_and_no_request_fails() {
    let home = folder();
    let certs = certificates(home.path());
    let second = folder();
    let renewed = certificates(second.path());
    let register = Register::with(2, 2, home, |builder| builder.leader_args(served(&certs)));
    let addr = tls(&register);
    let mut before = dial(&addr, &certs, None).unwrap();
    assert_eq!(ask(&mut before, "SET a 1").unwrap(), "OK");
    // Who believes both authorities sees nothing of a roll-over.
    let both = [fs::read(certs.join("ca.pem")).unwrap(), fs::read(renewed.join("ca.pem")).unwrap()].concat();
    fs::write(second.path().join("ca.pem"), both).unwrap();
    let put = |name: &str, from: &Path| {
        let next = certs.join("next");
        fs::copy(from, &next).unwrap();
        fs::rename(&next, certs.join(name)).unwrap();
    };
    let old: Vec<_> = ["peer-1.pem", "peer-1-key.pem"].map(|name| fs::read(certs.join(name)).unwrap()).into();
    for round in 0..20 {
        for (name, kept) in ["peer-1.pem", "peer-1-key.pem"].into_iter().zip(&old) {
            let from = second.path().join("from");
            match round % 2 {
                0 => fs::copy(renewed.join(name), &from).map(drop).unwrap(),
                _ => fs::write(&from, kept).unwrap(),
            }
            put(name, &from);
            // Between the two, and after them.
            register.signal_leader(Signal::HUP).unwrap();
            let mut now = dial(&addr, second.path(), None).unwrap();
            assert_eq!(ask(&mut now, "GET a").unwrap(), "VALUE 1");
        }
        eventually("the renewal", || dial(&addr, if round % 2 == 0 { &renewed } else { &certs }, None).ok());
        assert_eq!(ask(&mut before, "GET a").unwrap(), "VALUE 1");
    }
    tells(&register.leader_stderr(), &["were renewed, valid until"]);
}

#[test]
fn processes_of_a_cluster_take_only_those_whose_certificate_says_who_they_are() {
    let mut register = Register::with(2, 2, folder(), |builder| builder.cluster_tls(Some(Mode::Require)));
    register.fill("a", 100, "v");
    register.check("a", 100, "v");
    register.kill_node(1).unwrap();
    register.check("a", 100, "v");
    register.restart_node(1).unwrap();
    register.wait_up(2).unwrap();
    register.kill_leader().unwrap();
    register.start_leader().unwrap();
    register.wait_up(2).unwrap();
    register.check("a", 100, "v");
    let certs = register.certificates();
    // One without a certificate, one of another authority, one whose certificate is another node's.
    let other = folder();
    let others = other.path().join("certs");
    issue::authority(&others, "main", 1).unwrap();
    issue::certificate(&others, Role::Node(3), &[], 1).unwrap();
    let leader = register.grpc_addr().to_owned();
    let node = |id: &str, more: &[&str]| {
        let args = [&["node", "--id", id, "--port", "0", "--leader", &leader], more].concat();
        Server::start(other.path(), &args)
    };
    node("3", &[]).says("speaks TLS");
    let flags = |cert: &Path, ca: &Path, name: &str| {
        let file = |end: &str| path(cert, &format!("{name}{end}.pem"));
        [
            "--cluster-cert".to_owned(),
            file(""),
            "--cluster-key".to_owned(),
            file("-key"),
            "--cluster-ca".to_owned(),
            path(ca, "ca.pem"),
        ]
    };
    let of_others = flags(&others, &others, "node-3");
    let of_others: Vec<&str> = of_others.iter().map(String::as_str).collect();
    node("3", &of_others).says("no authority");
    let of_first = flags(&certs, &certs, "node-1");
    let of_first: Vec<&str> = of_first.iter().map(String::as_str).collect();
    tells(&node("3", &of_first).must_be_refused(), &["node/1", "node/3"]);
    // A client's certificate reads, and is nobody who joins or leads.
    assert!(
        run(&mut hatokuse(&["cert", "client", &certs.display().to_string(), "--name", "app"]), b"").status.success()
    );
    assert_eq!(register.status().unwrap()["nodes"].as_array().unwrap().len(), 2);
}

#[test]
fn a_cluster_goes_over_to_tls_one_process_after_the_other_and_nothing_is_refused() {
    let home = folder();
    let certs = certificates(home.path());
    let mut leader = Server::start(home.path(), &["leader", "--port", "0", "--grpc-port", "0", "--tolerance", "2"]);
    let ready = leader.says("leader ready");
    let value = |name: &str| {
        let (_, rest) = ready.split_once(&format!("{name}=")).unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    };
    let (clients, nodes) = (value("clients"), value("nodes"));
    let flags = |name: &str, mode: &str| -> Vec<String> {
        let pair =
            [path(&certs, &format!("{name}.pem")), path(&certs, &format!("{name}-key.pem")), path(&certs, "ca.pem")];
        let [cert, key, ca] = pair;
        ["--cluster-cert", &cert, "--cluster-key", &key, "--cluster-ca", &ca, "--cluster-tls", mode]
            .map(str::to_owned)
            .into()
    };
    let start = |args: &[&str], more: Vec<String>| {
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        Server::start(home.path(), &[args, &more].concat())
    };
    let mut running: Vec<Server> = Vec::new();
    for id in ["1", "2"] {
        running.push(start(&["node", "--id", id, "--port", "0", "--leader", &nodes], Vec::new()));
    }
    let write = |n: usize| {
        eventually("a write", || {
            let reply = Wire::to(&clients).ask(format!("SET id{n} v"));
            (reply == "OK").then_some(())
        });
    };
    write(0);
    let mut step = 0;
    for mode in ["prefer", "require"] {
        leader.stop();
        leader.ends();
        let port = |addr: &str| addr.rsplit_once(':').unwrap().1.to_owned();
        let args = ["leader", "--port", &port(&clients), "--grpc-port", &port(&nodes), "--tolerance", "2"];
        // The leader prefers it until the last node has it.
        leader = start(&args, flags("peer-1", "prefer"));
        leader.says("leader ready");
        step += 1;
        write(step);
        for (at, node) in running.iter_mut().enumerate() {
            node.stop();
            node.ends();
            let (id, name) = ((at + 1).to_string(), format!("node-{}", at + 1));
            *node = start(&["node", "--id", &id, "--port", "0", "--leader", &nodes], flags(&name, mode));
            step += 1;
            write(step);
        }
    }
    for n in 0..=step {
        let reply = eventually("a read", || {
            Some(Wire::to(&clients).ask(format!("GET id{n}"))).filter(|r| r.starts_with("VALUE"))
        });
        assert_eq!(reply, "VALUE v");
    }
}

#[test]
fn who_shows_a_certificate_is_the_user_of_its_name() {
    let home = folder();
    let certs = certificates(home.path());
    issue::certificate(&certs, Role::Client("stranger".to_owned()), &[], 1).unwrap();
    let register = Register::with(1, 1, home, |builder| {
        let asks = ["--tls-ca".to_owned(), path(&certs, "ca.pem"), "--tls-clients".to_owned(), "optional".to_owned()];
        builder.leader_args(served(&certs).into_iter().chain(asks))
    });
    let addr = tls(&register);
    let mut admin = Redis::to(register.addr());
    for rules in ["ACL SETUSER app on ~app:* +@all", "ACL SETUSER ops on >word +@all ~*", "ACL SETUSER default off"] {
        assert_eq!(admin.say(rules), "+OK");
    }
    let mut app = dial(&addr, &certs, Some("app")).unwrap();
    assert_eq!(ask(&mut app, "SET app:1 x").unwrap(), "OK");
    tells(&ask(&mut app, "GET other").unwrap(), &["ERROR DENIED", "user app"]);
    assert_eq!(ask(&mut app, "AUTH ops word").unwrap(), "OK");
    tells(&ask(&mut app, "GET other").unwrap(), &["NOT_FOUND"]);
    // A certificate is no password: who has none of a user's, or is none, says who he is.
    for who in [Some("stranger"), None] {
        tells(&ask(&mut dial(&addr, &certs, who).unwrap(), "GET app:1").unwrap(), &["ERROR NOAUTH"]);
    }
    assert_eq!(admin.say("ACL SETUSER app off"), "+OK");
    tells(&ask(&mut dial(&addr, &certs, Some("app")).unwrap(), "GET app:1").unwrap(), &["ERROR NOAUTH"]);
}
