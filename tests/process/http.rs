//! The HTTP port and gRPC health, on real processes: what is told, who is refused, and what it may cost.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use serde_json::Value;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::resp::Redis;
use crate::support::{PATIENCE, Register, Server, eventually, eventually_same, folder, refused_leader, tell, tells};

const FAMILY: &str = "family.FamilyService";

/// A cluster whose leader has an HTTP port.
pub(crate) fn register(nodes: u32, tolerance: usize) -> Register {
    Register::with(nodes, tolerance, folder(), |builder| builder.leader_args(["--http-port", "0"]))
}

/// Where the leader said last that its HTTP port is.
pub(crate) fn http(register: &Register) -> String {
    eventually("the HTTP port", || {
        let said = register.leader_stderr();
        let line = said.lines().rev().find_map(|line| line.split_once("leader http="))?;
        // The leader before this one had another.
        TcpStream::connect(line.1.trim()).ok().map(|_| line.1.trim().to_owned())
    })
}

pub(crate) fn connect(addr: &str) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What the server said to one request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends bytes, and reads the answer up to the end of the connection.
pub(crate) fn send(addr: &str, request: &str) -> Answer {
    let mut stream = connect(addr);
    stream.write_all(request.as_bytes()).unwrap();
    read(&mut stream)
}

fn read(stream: &mut TcpStream) -> Answer {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let all = String::from_utf8(all).unwrap();
    let (head, body) = all.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {all:?}"));
    let (first, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    Answer {
        status: first.split(' ').nth(1).unwrap().parse().unwrap(),
        headers: headers.split("\r\n").filter_map(header).collect(),
        body: body.to_owned(),
    }
}

pub(crate) fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

#[test]
fn a_token_opens_all_but_health_to_those_who_show_it() {
    let home = folder();
    std::fs::write(home.path().join("token"), "s3cret:x\nanother line\n").unwrap();
    let token = home.path().join("token").display().to_string();
    let register =
        Register::with(1, 1, home, |builder| builder.leader_args(["--http-port", "0", "--http-token-file", &token]));
    let addr = http(&register);
    for path in ["/livez", "/healthz", "/readyz", "/readyz?leader"] {
        eventually_same(path, &200, || get(&addr, path).status);
    }
    let paths = ["/", "/metrics", "/api/status", "/api/history", "/api/message/1", "/events", "/nothing"];
    for path in paths {
        let answer = get(&addr, path);
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.headers["www-authenticate"].starts_with("Basic "), "{answer:?}");
    }
    let with = |shown: &str| {
        let header = format!("\r\nAuthorization: {shown}\r\n\r\n");
        send(&addr, &request("GET", "/metrics").replacen("\r\n\r\n", &header, 1)).status
    };
    // The last two are `any:s3cret:x`, and `s3cret:x` alone.
    for (shown, status) in [
        ("Bearer s3cret:x", 200),
        ("bearer s3cret:x", 200),
        ("Bearer s3cret", 401),
        ("Bearer ", 401),
        ("Basic", 401),
        ("Basic !!!", 401),
        ("Digest s3cret:x", 401),
        ("Basic YW55OnMzY3JldDp4", 200),
        ("Basic czNjcmV0Ong=", 401),
    ] {
        assert_eq!(with(shown), status, "{shown}");
    }
    assert_eq!(with("Bearer s3cret:x\r\nAuthorization: Bearer s3cret:x"), 401, "one that is shown twice is none");
    assert!(!register.leader_stderr().contains("s3cret"));
}

pub(crate) fn get(addr: &str, path: &str) -> Answer {
    send(addr, &request("GET", path))
}

/// Checks that a page of metrics is well formed; gives its samples by name and labels as written.
fn samples(page: &str) -> BTreeMap<String, f64> {
    assert!(page.ends_with("# EOF\n"), "{page}");
    let mut kinds = BTreeMap::new();
    let mut samples = BTreeMap::new();
    for line in page.lines().filter(|line| *line != "# EOF") {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} comes twice");
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let bare = name.split('{').next().unwrap();
            let family = kinds.iter().any(|(family, kind)| match kind.as_str() {
                "counter" => bare == format!("{family}_total"),
                "info" => bare == format!("{family}_info"),
                "histogram" => ["_bucket", "_sum", "_count"].iter().any(|end| bare == format!("{family}{end}")),
                _ => bare == family,
            });
            assert!(family, "{line} has no kind");
            assert!(samples.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{name} comes twice");
        }
    }
    samples
}

pub(crate) fn metrics(addr: &str) -> BTreeMap<String, f64> {
    samples(&openmetrics(addr).body)
}

/// The page of metrics, as a scraper gets it that prefers OpenMetrics.
fn openmetrics(addr: &str) -> Answer {
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n\r\n";
    send(addr, &request("GET", "/metrics").replacen("\r\n\r\n", &format!("\r\n{accept}"), 1))
}

/// What gRPC health says of a service.
fn health(addr: &str, service: &str) -> ServingStatus {
    tell(async {
        let channel = tonic::transport::Endpoint::new(format!("http://{addr}")).unwrap().connect().await.unwrap();
        let request = HealthCheckRequest { service: service.to_owned() };
        match HealthClient::new(channel).check(request).await.unwrap().into_inner().status {
            1 => ServingStatus::Serving,
            2 => ServingStatus::NotServing,
            _ => ServingStatus::Unknown,
        }
    })
}

#[test]
fn metrics_tell_what_was_done() {
    let register = register(3, 2);
    let addr = http(&register);
    register.set("1", "hello");
    register.set("2", "hello");
    assert_eq!(register.get("1"), "hello");
    assert!(register.ask("GET 9").starts_with("ERROR NOT_FOUND"));
    assert_eq!(register.ask("DEL 2"), "OK");
    assert!(register.ask("NONSENSE").starts_with("ERROR BAD_COMMAND"));
    let mut wire = register.wire();
    assert_eq!(wire.ask("PING"), "+PONG");
    tell(async {
        use hatokuse::wire::family::family_service_client::FamilyServiceClient;
        use hatokuse::wire::family::{ChatMessage, StoreRequest};
        let message = ChatMessage { message_id: 7, message: "x".to_owned(), ..Default::default() };
        let mut leader = FamilyServiceClient::connect(format!("http://{}", register.grpc_addr())).await.unwrap();
        let stored = leader.store_message(StoreRequest { chat_message: Some(message), ttl_ms: 0 }).await.unwrap();
        assert!(stored.into_inner().success);
    });

    let page = openmetrics(&addr);
    assert_eq!(page.status, 200);
    assert_eq!(page.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = get(&addr, "/metrics");
    assert_eq!(text.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(text.body.contains("\n# TYPE hatokuse_requests_total counter\n"), "{}", text.body);
    assert!(!text.body.contains(" info\n") && !text.body.contains("# EOF"), "{}", text.body);
    let samples = samples(&page.body);
    for (name, value) in [
        ("hatokuse_messages", 2.0),
        ("hatokuse_message_bytes", 6.0),
        ("hatokuse_copies_live", 4.0),
        ("hatokuse_copies_wanted", 4.0),
        ("hatokuse_under_replicated_messages", 0.0),
        ("hatokuse_lost_messages", 0.0),
        ("hatokuse_tolerance", 2.0),
        ("hatokuse_ready", 1.0),
        ("hatokuse_nodes{state=\"up\"}", 3.0),
        ("hatokuse_nodes{state=\"down\"}", 0.0),
        ("hatokuse_node_up{node=\"2\"}", 1.0),
        ("hatokuse_requests_total{op=\"write\",protocol=\"text\",result=\"ok\"}", 3.0),
        ("hatokuse_requests_total{op=\"write\",protocol=\"grpc\",result=\"ok\"}", 1.0),
        ("hatokuse_requests_total{op=\"read\",protocol=\"text\",result=\"ok\"}", 1.0),
        ("hatokuse_requests_total{op=\"read\",protocol=\"text\",result=\"not_found\"}", 1.0),
        ("hatokuse_requests_total{op=\"other\",protocol=\"text\",result=\"bad_command\"}", 1.0),
        ("hatokuse_requests_total{op=\"write\",protocol=\"resp\",result=\"busy\"}", 0.0),
        ("hatokuse_request_duration_seconds_count{op=\"write\",protocol=\"text\"}", 3.0),
        ("hatokuse_request_duration_seconds_bucket{le=\"+Inf\",op=\"read\",protocol=\"text\"}", 2.0),
        ("hatokuse_clients", 1.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name} in {}", page.body);
    }
    assert!(samples["hatokuse_disk_free_bytes"] > 0.0 && samples["process_cpu_seconds_total"] > 0.0);
    let free = || metrics(&addr).get("hatokuse_node_disk_free_bytes{node=\"1\"}").copied();
    assert!(eventually("a heartbeat", free) > 0.0);
    let reported = metrics(&addr);
    for (free, all) in [("disk_free_bytes", "disk_size_bytes"), ("disk_free_inodes", "disk_inodes")] {
        let [free, all] = [free, all].map(|name| reported[&format!("hatokuse_node_{name}{{node=\"1\"}}")]);
        assert!(0.0 < all && free <= all, "{free} of {all}");
    }
    let writes: f64 = (1..=3)
        .map(|node| samples[&format!("hatokuse_node_duration_seconds_count{{node=\"{node}\",op=\"write\"}}")])
        .sum();
    assert!(writes >= 4.0, "each copy is in a batch to its node: {writes}");
    let copies: f64 = (1..=3).map(|node| samples[&format!("hatokuse_node_messages{{node=\"{node}\"}}")]).sum();
    assert_eq!(copies, 4.0);
    let mut redis = Redis::to(register.addr());
    for script in ["return 1", "return redis.call('get', KEYS[1])", "error('x')"] {
        redis.ask(&[b"EVAL", script.as_bytes(), b"1", b"1"]);
    }
    let samples = metrics(&addr);
    for (result, count) in [("ok", 2.0), ("failed", 1.0), ("ended", 0.0), ("busy", 0.0)] {
        assert_eq!(samples[&format!("hatokuse_scripts_total{{result=\"{result}\"}}")], count, "{result}");
    }
    let gauges = ["running", "stuck", "cached"].map(|what| samples[&format!("hatokuse_scripts_{what}")]);
    assert_eq!(gauges, [0.0, 0.0, 3.0]);
}

#[test]
fn readiness_and_health_follow_the_nodes() {
    let mut register = register(2, 2);
    let addr = http(&register);
    let ready = || get(&addr, "/readyz");
    eventually_same("ready", &200, || ready().status);
    eventually_same("serving", &ServingStatus::Serving, || health(register.grpc_addr(), FAMILY));
    let node = register.status().unwrap()["nodes"][0]["address"].as_str().unwrap().to_owned();
    assert_eq!(health(&node, FAMILY), ServingStatus::Serving);

    register.kill_node(1).unwrap();
    eventually_same("not ready", &503, || ready().status);
    assert_eq!(ready().body, "not ready: need 2 live nodes, have 1 (node 1 is down)\n");
    assert_eq!(get(&addr, "/readyz?leader").status, 503);
    assert_eq!(get(&addr, "/livez").status, 200, "it lives all the same");
    assert_eq!(get(&addr, "/healthz").status, 200);
    eventually_same("not serving", &ServingStatus::NotServing, || health(register.grpc_addr(), FAMILY));
    assert_eq!(health(register.grpc_addr(), ""), ServingStatus::Serving, "the server itself answers");
    assert_eq!(metrics(&addr)["hatokuse_ready"], 0.0);

    register.start_node(1).unwrap();
    eventually_same("ready again", &200, || ready().status);
    eventually_same("serving again", &ServingStatus::Serving, || health(register.grpc_addr(), FAMILY));
}

/// Which services reflection of this version lists at an address.
macro_rules! listed {
    ($version:ident, $addr:expr) => {
        tell(async {
            use pb::server_reflection_response::MessageResponse;
            use tonic_reflection::pb::$version as pb;
            let channel =
                tonic::transport::Endpoint::new(format!("http://{}", $addr)).unwrap().connect().await.unwrap();
            let request = pb::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(pb::server_reflection_request::MessageRequest::ListServices(String::new())),
            };
            let mut client = pb::server_reflection_client::ServerReflectionClient::new(channel);
            let mut told = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
            match told.message().await.unwrap().unwrap().message_response.unwrap() {
                MessageResponse::ListServicesResponse(list) => {
                    list.service.into_iter().map(|service| service.name).collect::<Vec<String>>()
                }
                other => panic!("{other:?}"),
            }
        })
    };
}

#[test]
fn reflection_shows_the_services_on_leader_and_node() {
    let register = register(1, 1);
    let node = register.status().unwrap()["nodes"][0]["address"].as_str().unwrap().to_owned();
    for addr in [register.grpc_addr().to_owned(), node] {
        for names in [listed!(v1, addr), listed!(v1alpha, addr)] {
            assert!(names.iter().any(|name| name == FAMILY), "{names:?}");
        }
    }
}

#[test]
fn a_message_is_looked_up_without_its_content() {
    let mut register = register(3, 2);
    let addr = http(&register);
    register.set("a/b", "secret");
    register.set("Dünya", "secret");
    for (path, id) in [("a%2Fb", "a/b"), ("a/b", "a/b"), ("D%C3%BCnya", "Dünya")] {
        let answer = get(&addr, &format!("/api/message/{path}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        let message = answer.json();
        let holders: Vec<u64> =
            message["holders"].as_array().unwrap().iter().map(|h| h["node"].as_u64().unwrap()).collect();
        let wanted: Vec<u64> = register.holders(id).into_iter().map(u64::from).collect();
        assert_eq!((message["id"].as_str(), message["bytes"].as_u64(), holders), (Some(id), Some(6), wanted));
        assert_eq!((&message["holders"][0]["state"], &message["holders"][0]["intact"]), (&"up".into(), &true.into()));
        assert!(!answer.body.contains("secret"));
    }
    for (path, status, code) in [
        ("nothing", 404, "NOT_FOUND"),
        ("", 400, "BAD_COMMAND"),
        ("a%20b", 404, "NOT_FOUND"),
        ("%FF%00", 404, "NOT_FOUND"),
        (&"x".repeat(1025), 400, "BAD_COMMAND"),
    ] {
        let answer = get(&addr, &format!("/api/message/{path}"));
        assert_eq!((answer.status, answer.json()["error"].as_str()), (status, Some(code)), "{answer:?}");
    }

    // A leader that does not know yet says so, and not that there is none.
    register.kill_leader().unwrap();
    (1..=3).for_each(|node| register.kill_node(node).unwrap());
    std::fs::remove_dir_all(register.metadata()).unwrap();
    register.start_leader().unwrap();
    let answer = get(&http(&register), "/api/message/a%2Fb");
    assert_eq!((answer.status, answer.json()["error"].as_str()), (503, Some("UNAVAILABLE")), "{answer:?}");
    tells(&get(&http(&register), "/readyz").body, &["not ready: need 2 live nodes, have 0"]);
}

#[test]
fn status_and_history_are_json() {
    let register = register(2, 1);
    let addr = http(&register);
    register.set("1", "x");
    let mut status = get(&addr, "/api/status").json();
    let mut same = register.status().unwrap();
    for status in [&mut status, &mut same] {
        assert!(status["uptime_s"].take().as_f64().unwrap() > 0.0);
    }
    assert_eq!(status, same, "the STATUS of the text protocol");

    let total = |figures: &Value| figures.as_array().unwrap().iter().filter_map(Value::as_f64).sum::<f64>();
    let history = eventually("a second with the SET in it", || {
        let history = get(&addr, "/api/history").json();
        (total(&history["write"]["per_second"]) > 0.0).then_some(history)
    });
    let seconds = history["seconds"].as_u64().unwrap() as usize;
    assert!((1..=600).contains(&seconds));
    for figure in ["per_second", "p50_ms", "p99_ms", "errors"] {
        assert_eq!(history["read"][figure].as_array().unwrap().len(), seconds);
        assert_eq!(history["write"][figure].as_array().unwrap().len(), seconds);
    }
    assert!(total(&history["write"]["p99_ms"]) > 0.0);
    assert_eq!(total(&history["read"]["per_second"]), 0.0);
}

#[test]
fn events_tell_the_state_by_the_second() {
    let register = register(2, 2);
    let mut stream = connect(&http(&register));
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    assert!(head[0].contains("200") && head.contains(&"content-type: text/event-stream".to_owned()), "{head:?}");
    let mut messages = lines.filter_map(|line| {
        let status: Value = serde_json::from_str(line.strip_prefix("data: ")?).ok()?;
        status["messages"].as_u64()
    });
    assert_eq!(messages.next(), Some(0), "the first comes at once");
    register.fill("m", 5, "x");
    assert_eq!(messages.find(|n| *n > 0), Some(5));
}

#[test]
fn the_page_is_whole_as_it_is_sent() {
    let register = register(3, 2);
    let addr = http(&register);
    eventually("a page that knows the nodes", || {
        get(&addr, "/").body.contains("No messages yet. 3 nodes are ready to keep them, each on 2.").then_some(())
    });
    register.set("a/b", "secret");
    register.fill("m", 8, "x");
    let page = get(&addr, "/?id=a%2Fb");
    assert_eq!((page.status, page.headers["content-type"].as_str()), (200, "text/html; charset=utf-8"));
    tells(&page.body, &["All 9 messages have 2 copies on 3 nodes.", "value=\"a/b\"", "<dd>6 bytes</dd>", "2 of 2"]);
    assert!(!page.body.contains("secret") && !page.body.contains("{{"));
    for node in register.holders("a/b") {
        tells(&page.body, &[&format!("Node <b>{node}</b> <span class=\"state\">up</span>")]);
    }
    // Its script and style are marked by a word of their own for each page; nothing else runs.
    let nonce = |page: &Answer| {
        let policy = &page.headers["content-security-policy"];
        tells(policy, &["default-src 'none'", "frame-ancestors 'none'", "connect-src 'self'"]);
        assert!(!policy.contains("unsafe"), "{policy}");
        let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned();
        assert_eq!(page.body.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
        nonce
    };
    assert_ne!(nonce(&page), nonce(&get(&addr, "/")));

    let evil = get(&addr, "/?id=%3Cscript%3Ealert(1)%3C/script%3E%22%27");
    assert!(!evil.body.contains("<script>") && evil.body.contains("&lt;script&gt;"), "{}", evil.body);
    assert_eq!(get(&addr, "/?id=nobody&part=found").body, "<p>There is no message with this id.</p>");
    // Any bytes are an id: written as it is shown, or as it is.
    tell(async {
        use hatokuse::wire::family::family_service_client::FamilyServiceClient;
        use hatokuse::wire::family::{ChatMessage, StoreRequest};
        let message = ChatMessage { key: "with blanks".into(), body: "x".into(), ..Default::default() };
        let mut leader = FamilyServiceClient::connect(format!("http://{}", register.grpc_addr())).await.unwrap();
        let stored = leader.store_message(StoreRequest { chat_message: Some(message), ttl_ms: 0 }).await.unwrap();
        assert!(stored.into_inner().success);
    });
    for id in ["with%2520blanks", "with+blanks", "with%20blanks"] {
        tells(&get(&addr, &format!("/?id={id}&part=found")).body, &["<dd>1 byte</dd>"]);
    }
    tells(&get(&addr, &format!("/?id={}&part=found", "x".repeat(1025))).body, &["That is no id"]);
}

#[test]
fn what_is_no_request_of_ours_is_refused() {
    let register = register(1, 1);
    let addr = http(&register);
    let port = addr.rsplit_once(':').unwrap().1;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "SET"] {
        let path = if method == "CONNECT" { "localhost:80" } else { "/metrics" };
        let answer = send(&addr, &request(method, path));
        assert_eq!((answer.status, answer.headers["allow"].as_str()), (405, "GET, HEAD"), "{method}: {answer:?}");
    }
    // A page of somebody else's, whose name points here, is not answered.
    for (host, status) in [
        ("evil.example", 421),
        ("evil.example:7666", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
        ("localhost", 200),
        (&format!("127.0.0.1:{port}"), 200),
        (&format!("[::1]:{port}"), 200),
    ] {
        let answer = send(&addr, &format!("GET /api/status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        assert_eq!(answer.status, status, "{host}: {answer:?}");
        assert_eq!(answer.body.contains("\"nodes\""), status == 200);
    }
    for (raw, status) in [
        ("GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(), 400),
        ("GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(), 400),
        ("GET /livez HTTP/1.0\r\n\r\n".to_owned(), 200),
        ("SET 1 hello\r\n\r\n".to_owned(), 400),
        ("\x16\x03\x01\x02\r\n\r\n".to_owned(), 400),
        (format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(9000)), 431),
        (format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(9000)), 431),
        (format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: 1\r\n".repeat(100)), 431),
        (request("GET", "/nothing"), 404),
        (request("GET", "/../etc/passwd"), 404),
        (request("GET", "/metrics/"), 404),
        (request("GET", "//metrics"), 404),
    ] {
        let answer = send(&addr, &raw);
        assert_eq!(answer.status, status, "{raw:?}: {answer:?}");
    }
    let head = send(&addr, &request("HEAD", "/metrics"));
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.headers["content-length"].parse::<usize>().unwrap() > 1000);
    for path in ["/metrics", "/api/status", "/nothing", "/api/message/x"] {
        let answer = get(&addr, path);
        tells(&answer.headers["content-security-policy"], &["default-src 'none'", "frame-ancestors 'none'"]);
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    }
}

#[test]
fn scrapers_that_never_read_and_callers_that_never_ask_are_cut_off() {
    let register = register(2, 2);
    let addr = http(&register);
    // One asks for far more than any buffer holds, and reads nothing.
    let mut deaf = connect(&addr);
    let more = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2000);
    // It may be cut off while it still asks.
    let _ = deaf.write_all(more.as_bytes());
    // As many as there are places say nothing at all.
    let mut idle: Vec<TcpStream> = (0..63).map(|_| connect(&addr)).collect();
    eventually("a place too few, which one more is told", || {
        let mut one = connect(&addr);
        let _ = one.write_all(request("GET", "/livez").as_bytes());
        let mut first = [0; 12];
        // Its place may have been the last one.
        one.read_exact(&mut first).ok()?;
        (first == *b"HTTP/1.1 503").then_some(()).or_else(|| {
            idle.push(connect(&addr));
            None
        })
    });
    // None of it is felt by clients.
    register.fill("m", 100, "x");
    register.check("m", 100, "x");

    for mut one in idle {
        let mut rest = Vec::new();
        // Cut off, with or without a word.
        let _ = one.read_to_end(&mut rest);
    }
    eventually("the deaf one is cut off", || deaf.write_all(b"GET /livez HTTP/1.1\r\n").err());
    eventually_same("places are free again", &200, || match connect_and_get(&addr) {
        Some(answer) => answer.status,
        None => 0,
    });
    let busy = metrics(&addr);
    assert_eq!(busy["hatokuse_requests_total{op=\"write\",protocol=\"text\",result=\"ok\"}"], 100.0);
}

/// As [`get`] of `/livez`, where the connection may be refused.
fn connect_and_get(addr: &str) -> Option<Answer> {
    let mut stream = connect(addr);
    stream.write_all(request("GET", "/livez").as_bytes()).ok()?;
    let mut all = String::new();
    stream.read_to_string(&mut all).ok()?;
    let status = all.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, headers: BTreeMap::new(), body: String::new() })
}

#[test]
fn readers_of_events_leave_places_for_others() {
    let register = register(1, 1);
    let addr = http(&register);
    let watch = || {
        let mut stream = connect(&addr);
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        (String::from_utf8(first.to_vec()).unwrap(), stream)
    };
    let mut watchers: Vec<_> = (0..32).map(|_| watch()).collect();
    assert!(watchers.iter().all(|(first, _)| first == "HTTP/1.1 200"));
    assert_eq!(watch().0, "HTTP/1.1 503", "one more is told so");
    assert_eq!(get(&addr, "/metrics").status, 200);
    watchers.pop();
    eventually_same("the place of one that went", &"HTTP/1.1 200".to_owned(), || watch().0);
}

#[test]
fn the_port_is_chosen_off_or_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let line = refused_leader(folder().path(), &["--http-port", &port]);
    tells(&line, &[&port, "HTTP", "in use", "--http-port"]);

    let home = folder();
    let args = ["leader", "--port", "0", "--grpc-port", "0"];
    let mut off = Server::start(home.path(), &[&args[..], &["--http-port", "off"]].concat());
    off.says("leader ready");
    off.stop();
    assert!(off.ends().success());
    assert!(!off.said().contains("http="), "{}", off.said());

    // The usual port may be another's, which nobody asked for: that stops no leader. (Somebody else may have it now.)
    let _usual = TcpListener::bind("127.0.0.1:7666");
    let mut usual = Server::start_with(home.path(), &args, |command| {
        command.env_remove("HATOKUSE_HTTP_PORT");
    });
    tells(&usual.says("no metrics"), &["127.0.0.1:7666", "in use", "--http-port"]);
    usual.says("leader ready");
    usual.stop();
    assert!(usual.ends().success());
}

/// The names of metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    words.filter(|word| word.starts_with("hatokuse_") || word.starts_with("process_")).map(str::to_owned).collect()
}

#[test]
fn examples_and_documentation_name_metrics_that_there_are() {
    let register = register(1, 1);
    let addr = http(&register);
    register.set("1", "x");
    let names = || {
        let all = metrics(&addr);
        let names: BTreeSet<String> = all.keys().map(|name| name.split('{').next().unwrap().to_owned()).collect();
        names.contains("hatokuse_node_disk_free_bytes").then_some(names)
    };
    let names = eventually("a heartbeat", names);
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let board = read("examples/grafana/hatokuse.json");
    let panels: Value = serde_json::from_str(&board).unwrap();
    assert!(panels["panels"].as_array().unwrap().len() > 10);
    for text in [&board, &read("examples/prometheus/alerts.yml")] {
        let used = named(text);
        assert!(used.len() > 5, "{used:?}");
        let unknown: Vec<_> = used.difference(&names).collect();
        assert!(unknown.is_empty(), "no such metrics: {unknown:?}");
    }
    // The documentation has all of them, and no others. A histogram has one name for its three.
    let histograms = ["hatokuse_request_duration_seconds", "hatokuse_node_duration_seconds"];
    let parts = histograms.map(|name| ["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}"))).concat();
    // What a standby shows and a leader does not.
    let standbys = ["hatokuse_relayed_connections", "hatokuse_relayed_total"].map(str::to_owned);
    let mut wanted: BTreeSet<String> = names.into_iter().filter(|name| !parts.contains(name)).collect();
    wanted.extend(histograms.map(str::to_owned).into_iter().chain(standbys));
    assert_eq!(named(&read("docs/monitoring.md")), wanted);
}
