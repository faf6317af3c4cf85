//! Files as they are found, and handshakes over real sockets.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use x509_parser::time::ASN1Time;

use super::issue::{self, Written};
use super::*;

/// An authority in a folder of its own.
fn authority(cluster: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    issue::authority(folder.path(), cluster, 1).unwrap();
    folder
}

fn issued(folder: &TempDir, role: Role) -> Written {
    issue::certificate(folder.path(), role, &["localhost".to_owned(), "127.0.0.1".to_owned()], 1).unwrap()
}

fn files(pair: &Written, ca: &Path) -> Files {
    Files {
        prefix: "tls",
        cert: Some(pair.cert.clone()),
        key: Some(pair.key.clone()),
        ca: Some(ca.to_owned()),
        crl: None,
    }
}

fn ca(folder: &TempDir) -> PathBuf {
    folder.path().join("ca.pem")
}

/// Why these are refused.
fn refused(files: &Files) -> String {
    let checked = files.contents().and_then(|contents| files.check(&contents).map(drop));
    checked.expect_err("they are wrong")
}

#[test]
fn what_is_wrong_with_files_is_said_with_the_flag_and_the_file() {
    let folder = authority("main");
    let (good, other) = (issued(&folder, Role::Peer(1)), issued(&folder, Role::Peer(2)));
    let good = files(&good, &ca(&folder));
    assert!(good.check(&good.contents().unwrap()).is_ok());
    let write = |name: &str, text: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Some(path)
    };
    // Certificates of other times.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let dated = |from: i64, to: i64| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = ASN1Time::from_timestamp(now + from).unwrap().to_datetime();
        params.not_after = ASN1Time::from_timestamp(now + to).unwrap().to_datetime();
        let cert = params.self_signed(&key).unwrap();
        let (cert, key) = (cert.pem(), key.serialize_pem());
        Files { cert: write("dated.pem", cert.as_bytes()), key: write("dated-key.pem", key.as_bytes()), ..good.clone() }
    };
    let tells = |files: &Files, parts: &[&str]| {
        let said = refused(files);
        parts.iter().for_each(|part| assert!(said.contains(part), "{part}: {said}"));
        assert!(!said.contains('\n'), "{said}");
    };
    tells(&dated(-20, -10), &["dated.pem (--tls-cert)", "expired at 20"]);
    tells(&dated(1000, 2000), &["dated.pem (--tls-cert)", "not yet valid", "clock"]);
    let of_other = Files { key: Some(other.key.clone()), ..good.clone() };
    tells(&of_other, &["peer-2-key.pem (--tls-key)", "not the key of", "peer-1.pem (--tls-cert)"]);
    let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    tells(
        &Files { key: write("e.pem", encrypted), ..good.clone() },
        &["e.pem (--tls-key)", "encrypted", "openssl pkey"],
    );
    tells(&Files { key: write("n.pem", b"none"), ..good.clone() }, &["n.pem (--tls-key)", "BEGIN PRIVATE KEY"]);
    tells(&Files { cert: write("n.pem", b"none"), ..good.clone() }, &["n.pem (--tls-cert)", "BEGIN CERTIFICATE"]);
    tells(&Files { ca: write("n.pem", b""), ..good.clone() }, &["n.pem (--tls-ca)", "no certificate"]);
    tells(&Files { crl: write("n.pem", b""), ..good.clone() }, &["n.pem (--tls-crl)", "no list"]);
    let half = b"-----BEGIN CERTIFICATE-----\nMIIB\n";
    tells(&Files { cert: write("h.pem", half), ..good.clone() }, &["h.pem (--tls-cert)", "cut off"]);
    let missing = Files { cert: Some("/nowhere/c.pem".into()), ..good.clone() };
    tells(&missing, &["/nowhere/c.pem (--tls-cert)", "No such file"]);
    tells(&Files { ca: Some(folder.path().to_owned()), ..good.clone() }, &["--tls-ca", "no file"]);
    // A key that everybody can read is none.
    fs::set_permissions(good.key.as_ref().unwrap(), fs::Permissions::from_mode(0o644)).unwrap();
    tells(&good, &["peer-1-key.pem (--tls-key)", "mode 644", "chmod 600"]);
    fs::set_permissions(good.key.as_ref().unwrap(), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(good.contents().is_ok(), "a group may: that is how secrets are mounted");
}

#[test]
fn a_certificate_of_a_cluster_is_of_who_it_says_and_nothing_is_overwritten() {
    let folder = authority("blue");
    let pair = issued(&folder, Role::Node(7));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&pair.key), mode(&folder.path().join("ca-key.pem"))), (0o600, 0o600));
    let before = fs::read(&pair.cert).unwrap();
    let again = issue::certificate(folder.path(), Role::Node(7), &[], 1).unwrap_err();
    assert!(again.to_string().contains("nothing is overwritten"), "{again}");
    assert!(issue::authority(folder.path(), "blue", 1).is_err());
    assert_eq!(fs::read(&pair.cert).unwrap(), before);
    assert!(issue::authority(folder.path(), "a/b", 1).is_err());
    assert!(issue::certificate(folder.path(), Role::Client("a b".to_owned()), &[], 1).is_err());

    let of = |files: Files, role: Role| Cluster::new(Files { prefix: "cluster", ..files }, Mode::Require, role);
    assert!(of(files(&pair, &ca(&folder)), Role::Node(7)).is_ok());
    let said = of(files(&pair, &ca(&folder)), Role::Node(8)).unwrap_err();
    assert!(said.contains("node-7.pem (--cluster-cert)") && said.contains("it is of node/7 of blue"), "{said}");
    let other = authority("blue");
    let said = of(files(&pair, &ca(&other)), Role::Node(7)).unwrap_err();
    assert!(said.contains("(--cluster-cert)") && said.contains("no authority of --cluster-ca"), "{said}");
}

/// What comes of a call: both ends, as each sees it.
async fn call(
    server: &Arc<Cluster>,
    client: &Cluster,
    who: Callee,
) -> (io::Result<Option<Identity>>, io::Result<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let (server, acceptor) = (server.clone(), server.acceptor());
    let served = tokio::spawn(async move {
        // Who calls may try it twice.
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            match acceptor.accept(stream).await {
                Ok(mut stream) => {
                    let caller = server.caller(&stream);
                    let _ = stream.write_all(b"x").await;
                    let _ = stream.flush().await;
                    return caller;
                }
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
                Err(_) => {}
            }
        }
    });
    let called = async {
        let mut stream = client.call(&addr, who).await?;
        if matches!(stream, Stream::Plain(_)) {
            stream.write_all(b"P").await?;
        }
        stream.read_exact(&mut [0]).await?;
        Ok(matches!(stream, Stream::Tls(_)))
    };
    let called = tokio::time::timeout(Duration::from_secs(10), called).await.unwrap();
    if called.is_err() {
        // It may have let go before anything came.
        served.abort();
    }
    (served.await.unwrap_or_else(|_| Err(io::ErrorKind::ConnectionAborted.into())), called)
}

#[tokio::test]
async fn both_ends_see_who_the_other_is_and_take_nobody_else() {
    let folder = authority("main");
    let of = |folder: &TempDir, role: Role, mode| {
        Cluster::new(Files { prefix: "cluster", ..files(&issued(folder, role.clone()), &ca(folder)) }, mode, role)
            .unwrap()
    };
    let (node, peer) = (of(&folder, Role::Node(1), Mode::Require), of(&folder, Role::Peer(1), Mode::Require));
    let (caller, called) = call(&node, &peer, Callee::Node(1)).await;
    assert_eq!(caller.unwrap().unwrap().to_string(), "hatokuse://main/peer/1");
    assert!(called.unwrap(), "it is encrypted");
    // Another node is at that address, or a node where a leader should be.
    for who in [Callee::Node(2), Callee::Peer] {
        let error = call(&node, &peer, who).await.1.unwrap_err();
        assert!(error.to_string().contains("it is hatokuse://main/node/1"), "{error}");
    }
    // The authority of others, and another cluster of the same authority.
    let strangers = authority("main");
    let stranger = of(&strangers, Role::Peer(1), Mode::Require);
    let (caller, called) = call(&node, &stranger, Callee::Node(1)).await;
    assert!(caller.is_err() && called.unwrap_err().to_string().contains("no authority"));
}

#[tokio::test]
async fn who_prefers_tls_goes_on_without_and_who_requires_it_does_not() {
    let folder = authority("main");
    let (node, peer) = (issued(&folder, Role::Node(1)), issued(&folder, Role::Peer(1)));
    let of = |pair: &Written, role, mode| {
        Cluster::new(Files { prefix: "cluster", ..files(pair, &ca(&folder)) }, mode, role).unwrap()
    };
    for (server, client, encrypted) in [
        (Mode::Off, Mode::Off, Some(false)),
        (Mode::Off, Mode::Prefer, Some(true)),
        (Mode::Prefer, Mode::Off, Some(false)),
        (Mode::Require, Mode::Prefer, Some(true)),
        (Mode::Prefer, Mode::Require, Some(true)),
        (Mode::Require, Mode::Off, None),
    ] {
        let (server_end, client_end) = (of(&node, Role::Node(1), server), of(&peer, Role::Peer(1), client));
        let (_, called) = call(&server_end, &client_end, Callee::Node(1)).await;
        // What is read without TLS from who requires it is the line that says so.
        let seen = match (server, client) {
            (Mode::Require, Mode::Off) => None,
            _ => Some(called.unwrap()),
        };
        assert_eq!(seen, encrypted, "{server} {client}");
    }
    // One of before, which knows no TLS at all.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut first = [0; 3];
            let _ = stream.read_exact(&mut first).await;
            let reply: &[u8] = if &first == b"PRI" { b"HTTP/2" } else { b"\0\0\x08\x07\0\0\0\0\0" };
            let _ = stream.write_all(reply).await;
        }
    });
    let mut stream = of(&peer, Role::Peer(1), Mode::Prefer).call(&addr, Callee::Node(1)).await.unwrap();
    stream.write_all(b"PRI").await.unwrap();
    let mut reply = [0; 6];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(&reply, b"HTTP/2");
    let error = of(&peer, Role::Peer(1), Mode::Require).call(&addr, Callee::Node(1)).await.unwrap_err();
    assert!(error.to_string().contains("speaks no TLS"), "{error}");
}

#[tokio::test]
async fn certificates_are_renewed_by_what_files_hold_and_bad_ones_are_not_taken() {
    let (folder, second) = (authority("main"), authority("main"));
    let live = tempfile::tempdir().unwrap();
    let put = |pair: &Written, ca: &Path| {
        // As mounted secrets are: all files at once, by a link that is pointed elsewhere.
        for (from, name) in [(&pair.cert, "cert"), (&pair.key, "key"), (&ca.to_owned(), "ca")] {
            let temporary = live.path().join("next");
            fs::copy(from, &temporary).unwrap();
            fs::rename(&temporary, live.path().join(name)).unwrap();
        }
    };
    let (one, two) = (issued(&folder, Role::Peer(1)), issued(&second, Role::Peer(1)));
    put(&one, &ca(&folder));
    let at = |name: &str| Some(live.path().join(name));
    let files = Files { prefix: "tls", cert: at("cert"), key: at("key"), ca: at("ca"), crl: None };
    let (acceptor, renews) = Acceptor::for_clients(files, ClientCerts::No).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut byte = [0];
                while stream.read_exact(&mut byte).await.is_ok() {
                    stream.write_all(&byte).await.unwrap();
                    stream.flush().await.unwrap();
                }
            });
        }
    });
    let dialer =
        |folder: &TempDir| Dialer::new(ClientFiles { ca: Some(ca(folder)), ..ClientFiles::default() }).unwrap();
    let dial = async |folder: &TempDir| {
        let stream = TcpStream::connect(&addr).await.unwrap();
        dialer(folder).encrypt(&addr, stream).await
    };
    let mut open = dial(&folder).await.unwrap();
    assert!(dial(&second).await.is_err());
    assert!(renews.look() && renews.state().1 == 0);
    // Read between two renames: the certificate is new, and the key is not.
    fs::copy(&two.cert, live.path().join("cert")).unwrap();
    assert!(!renews.look() && renews.state().1 == 0);
    assert!(dial(&folder).await.is_ok() && dial(&second).await.is_err());
    put(&two, &ca(&second));
    assert!(renews.look() && renews.state().1 == 1 && renews.state().0.is_some());
    assert!(dial(&folder).await.is_err() && dial(&second).await.is_ok());
    // Who was there before goes on.
    open.write_all(b"x").await.unwrap();
    open.flush().await.unwrap();
    open.read_exact(&mut [0]).await.unwrap();
}
