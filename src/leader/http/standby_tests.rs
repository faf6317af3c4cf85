use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::*;
use crate::raft::Addresses;

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_few_bytes_say_whose_a_request_is() {
    for (bytes, wanted) in [
        ("", Whose::Unclear),
        ("G", Whose::Unclear),
        ("GET /", Whose::Unclear),
        ("GET /metrics", Whose::Unclear),
        ("HEAD /read", Whose::Unclear),
        ("GET /metrics HTTP/1.1\r\n", Whose::Own),
        ("GET /readyz?leader", Whose::Own),
        ("HEAD /healthz ", Whose::Own),
        ("GET /livez ", Whose::Own),
        ("GET / ", Whose::Leader),
        ("GET /metricsx", Whose::Leader),
        ("GET /readyz/", Whose::Leader),
        ("GET /events", Whose::Leader),
        ("POST /metrics ", Whose::Leader),
        ("get /metrics ", Whose::Leader),
        ("\u{16}\u{3}\u{1}", Whose::Leader),
        ("\r\nGET /metrics ", Whose::Leader),
    ] {
        assert_eq!(whose(bytes.as_bytes()), wanted, "{bytes:?}");
    }
    // Whatever comes, this much of it tells.
    assert_ne!(whose(&b"GET /metrics HTTP/1.1"[..13]), Whose::Unclear);
}

#[test]
fn a_query_may_ask_for_the_leader() {
    for (query, asks) in [("leader", true), ("leader=1", true), ("x&leader", true), ("", false), ("leaders", false)] {
        assert_eq!(asks_for_leader(query), asks, "{query}");
    }
}

/// Peer 2, which sees this.
fn standby(standing: Standing, token: Option<&str>) -> Arc<Standby> {
    let status = || Status {
        me: 2,
        term: 7,
        last: Some(90),
        committed: Some(80),
        applied: Some(70),
        snapshot: None,
        disk_late: Duration::ZERO,
        behind: 5,
        led: None,
        peers: Vec::new(),
        removed: Default::default(),
    };
    let relayed = Arc::new(Relayed::default());
    drop(relayed.begin(crate::leader::relayed::Way::Nodes));
    Arc::new(Standby {
        me: 2,
        guard: Guard::new([127, 0, 0, 1].into(), token.map(str::to_owned)),
        began: Instant::now(),
        standing: watch::channel(standing).1,
        status: Box::new(status),
        relayed,
        data_dir: "/".into(),
        certificates: Vec::new(),
    })
}

/// What it does with a connection on which this comes: gives it back with what was read, or says this.
async fn ask(standby: &Arc<Standby>, request: &str) -> Result<String, Vec<u8>> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (connection, _) = listener.accept().await.unwrap();
    let answering = tokio::spawn(standby.clone().answer(connection));
    // A part of it after the other.
    for part in request.as_bytes().chunks(3) {
        client.write_all(part).await.unwrap();
        client.flush().await.unwrap();
    }
    if let Some((_, read)) = timeout(PATIENCE, answering).await.unwrap().unwrap() {
        return Err(read);
    }
    let mut said = String::new();
    timeout(PATIENCE, client.read_to_string(&mut said)).await.unwrap().unwrap();
    Ok(said)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

fn led_by(peer: PeerId, clients: &str) -> Standing {
    let addresses = Addresses { clients: clients.to_owned(), ..Addresses::default() };
    Standing { leader: Some((peer, addresses)), voters: [1, 2, 3].into(), ..Standing::default() }
}

#[tokio::test]
async fn it_is_ready_while_who_leads_can_be_reached() {
    let leader = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let clients = leader.local_addr().unwrap().to_string();
    let led = standby(led_by(1, &clients), None);
    let none = Standing { voters: [1, 2, 3].into(), reachable: [2].into(), ..Standing::default() };
    for (standby, path, status, body) in [
        (&led, "/readyz", 200, "ok\n"),
        (&led, "/readyz?leader", 503, "not ready: peer 1 leads\n"),
        (&standby(led_by(1, "127.0.0.1:1"), None), "/readyz", 503, "not ready: peer 1 leads and cannot be reached\n"),
        (&standby(led_by(2, &clients), None), "/readyz", 503, "not ready: this peer leads, and does not serve yet\n"),
        (&standby(none.clone(), None), "/readyz", 503, "not ready: no leader: peers 2 of 1,2,3 can be reached\n"),
        (&standby(none.clone(), None), "/readyz?leader", 503, "not ready: no leader: peers 2 of 1,2,3"),
        (&standby(none.clone(), None), "/livez", 200, "ok\n"),
        (&standby(none, None), "/healthz", 200, "ok\n"),
    ] {
        let said = ask(standby, &get(path)).await.unwrap();
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {said}");
        assert!(said.contains(body) && said.contains("connection: close"), "{path}: {said}");
    }
}

#[tokio::test]
async fn its_metrics_are_its_own() {
    let standby = standby(led_by(1, ""), None);
    let page = ask(&standby, &get("/metrics")).await.unwrap();
    for line in [
        "hatokuse_peer_term 7.0",
        "hatokuse_peer_leads 0.0",
        "hatokuse_peer_last_index 90.0",
        "hatokuse_peer_committed_index 80.0",
        "hatokuse_peer_applied_index 70.0",
        "hatokuse_peer_disk_late_seconds 0.0",
        "hatokuse_peer_lag_entries{peer=\"2\"} 5.0",
        "hatokuse_relayed_connections{way=\"nodes\"} 0.0",
        "hatokuse_relayed_total{way=\"nodes\"} 1",
        "hatokuse_relayed_total{way=\"clients\"} 0",
    ] {
        assert!(page.lines().any(|seen| seen == line), "{line} in {page}");
    }
    for name in
        ["hatokuse_build_info", "process_cpu_seconds_total", "hatokuse_uptime_seconds", "hatokuse_disk_free_bytes"]
    {
        assert!(page.contains(name), "{name} in {page}");
    }
    for name in ["hatokuse_ready", "hatokuse_messages", "hatokuse_node_up", "hatokuse_requests", "hatokuse_peers"] {
        assert!(!page.contains(name), "{name} in {page}");
    }
}

#[tokio::test]
async fn it_lets_in_whom_the_leader_lets_in() {
    let standby = standby(led_by(1, ""), Some("s3cret"));
    let with = |headers: &str| format!("GET /metrics HTTP/1.1\r\n{headers}\r\n");
    for (request, status) in [
        (get("/metrics"), 401),
        (with("Host: localhost\r\nAuthorization: Bearer s3cret\r\n"), 200),
        (get("/livez"), 200),
        (with("Host: example.com\r\n"), 421),
        (with(""), 400),
    ] {
        let said = ask(&standby, &request).await.unwrap();
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {said}");
    }
}

#[tokio::test]
async fn all_else_is_given_back_with_what_was_read_of_it() {
    let standby = standby(led_by(1, ""), None);
    for request in ["GET / HTTP/1.1\r\n", "garbage", "\u{16}\u{3}\u{1}\u{0}", "GET /events HTTP/1.1\r\n"] {
        let read = ask(&standby, request).await.unwrap_err();
        assert!(!read.is_empty() && request.as_bytes().starts_with(&read), "{request:?}: {read:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_sends_too_slowly_is_left() {
    let standby = standby(led_by(1, ""), None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (connection, _) = listener.accept().await.unwrap();
    let began = Instant::now();
    client.write_all(b"GET /met").await.unwrap();
    assert!(standby.answer(connection).await.is_none());
    assert!(began.elapsed() <= HEADER_TIME + Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(client.read(&mut [0]).await.unwrap_or(0), 0);
}
