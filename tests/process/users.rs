//! Users from outside: who is let in, and what each may do, at every door.

use std::fs;
use std::path::Path;

use hatokuse::protocol::table::{COMMANDS, Op, Spec};
use hatokuse::wire::family::family_service_client::FamilyServiceClient;
use hatokuse::wire::family::{ChatMessage, Empty, GetRequest, StoreRequest};
use tonic::{Code, Request};

use crate::http::http;
use crate::resp::Redis;
use crate::support::{
    Register, Server, Wire, eventually, folder, hatokuse, lone_leader, refused_leader, run, tell, tells,
};

/// A register with users beside the one that is there from the start: `app` has the ids `app:*`, and `ops` the orders.
fn register(more: &[&str]) -> Register {
    let more: Vec<String> = ["--http-port", "0"].iter().chain(more).map(|flag| (*flag).to_owned()).collect();
    let register = Register::with(2, 2, folder(), |builder| builder.leader_args(more));
    let mut admin = Redis::to(register.addr());
    for (words, reply) in [
        ("SET app:1 one", "+OK"),
        ("SET other:1 secret", "+OK"),
        ("ACL SETUSER app on >app-word ~app:* +@all -@admin", "+OK"),
        ("ACL SETUSER reader on >reader-word %R~app:* +@read +@connection", "+OK"),
        ("ACL SETUSER ops on >ops-word +@admin +@observe +ping", "+OK"),
    ] {
        assert_eq!(admin.say(words), reply, "{words}");
    }
    register
}

fn as_user(addr: &str, name: &str) -> Redis {
    let mut redis = Redis::to(addr);
    assert_eq!(redis.say(&format!("AUTH {name} {name}-word")), "+OK");
    redis
}

fn is_denied(reply: &str) -> bool {
    reply.starts_with("-NOPERM")
}

#[test]
fn users_are_as_they_were_after_a_kill_and_in_a_log_that_was_written_anew() {
    let mut register = register(&["--rewrite-log-from", "1KiB"]);
    let list = |register: &Register| Redis::to(register.addr()).say("ACL LIST");
    let mut admin = Redis::to(register.addr());
    assert_eq!(admin.say("ACL SETUSER gone on >x"), "+OK");
    assert_eq!(admin.say("ACL DELUSER gone nobody"), ":1");
    let before = list(&register);
    tells(&before, &["user app on #$argon2id$", "~app:* +@all -@admin", "%R~app:* -@all +@read +@connection"]);
    register.fill("app:more", 300, "x");
    register.kill_leader().unwrap();
    register.start_leader().unwrap();
    eventually("the same users", || (list(&register) == before).then_some(()));
    assert_eq!(as_user(register.addr(), "app").say("ACL WHOAMI"), "\"app\"");
    // What a start writes anew has them, too.
    register.stop_leader().unwrap();
    register.start_leader().unwrap();
    eventually("the same users", || (list(&register) == before).then_some(()));
    let mut app = as_user(register.addr(), "app");
    eventually("the message", || (app.say("GET app:1") == "\"one\"").then_some(()));
    assert!(is_denied(&app.say("GET other:1")));
}

#[test]
fn rights_hold_in_the_redis_protocol_however_it_is_asked() {
    let register = register(&[]);
    let mut app = as_user(register.addr(), "app");
    // By itself, and behind others that go together with it.
    assert_eq!(
        app.together(&["GET app:1", "GET other:1", "SET app:2 x", "SET other:2 x", "INCR other:3", "INCR app:3"]),
        [
            "\"one\"",
            "-NOPERM this user has no permissions to access one of the keys used as arguments",
            "+OK",
            "-NOPERM this user has no permissions to access one of the keys used as arguments",
            "-NOPERM this user has no permissions to access one of the keys used as arguments",
            ":1",
        ]
    );
    assert_eq!(app.say("DRAIN 1"), "-NOPERM this user has no permissions to run the 'drain' command");
    assert_eq!(app.say("CONFIG GET *"), "-NOPERM this user has no permissions to run the 'config|get' command");
    for line in
        ["MGET app:1 other:1", "MSET app:1 x other:1 y", "COPY other:1 app:9", "RENAME app:1 other:9", "WATCH other:1"]
    {
        assert!(is_denied(&app.say(line)), "{line}");
    }
    // Only what may be read is shown.
    assert_eq!(app.say("KEYS other:*"), "[]");
    let shown = app.say("SCAN 0 COUNT 1000");
    assert!(shown.contains("app:1") && !shown.contains("other"), "{shown}");
    assert!((0..50).all(|_| app.say("RANDOMKEY").starts_with("\"app:")));
    // What is denied breaks a transaction, and is noted as what it is.
    assert_eq!(app.say("MULTI"), "+OK");
    assert!(is_denied(&app.say("SET other:1 x")));
    tells(&app.say("EXEC"), &["EXECABORT"]);
    // Scripts: the ids that they name, and what they do to them.
    assert!(is_denied(&app.ask(&[b"EVAL", b"return redis.call('GET', KEYS[1])", b"1", b"other:1"])));
    let mut reader = as_user(register.addr(), "reader");
    assert!(is_denied(&reader.ask(&[b"EVAL_RO", b"return 1", b"0"])), "scripts have to be allowed by name");
    let mut admin = Redis::to(register.addr());
    assert_eq!(admin.say("ACL SETUSER reader +eval"), "+OK");
    assert!(is_denied(&reader.ask(&[b"EVAL", b"return redis.call('GET', KEYS[1])", b"1", b"app:1"])));
    assert_eq!(admin.say("ACL SETUSER reader ~app:* -@write"), "+OK");
    assert_eq!(reader.ask(&[b"EVAL", b"return redis.call('GET', KEYS[1])", b"1", b"app:1"]), "\"one\"");
    tells(
        &reader.ask(&[b"EVAL", b"return redis.call('SET', KEYS[1], 'x')", b"1", b"app:1"]),
        &["The user executing the script can't run"],
    );
    let asks = b"return redis.acl_check_cmd('GET', 'app:1') and not redis.acl_check_cmd('GET', 'other:1') and 1 or 0";
    assert_eq!(reader.ask(&[b"EVAL", asks, b"0"]), ":1");
    tells(
        &admin.say("ACL LOG"),
        &["\"lua\"", "\"multi\"", "\"toplevel\"", "\"key\"", "\"command\"", "\"other:1\"", "\"drain\""],
    );
    assert_eq!(admin.say("GET other:1"), "\"secret\"", "nothing of it was done");
}

#[test]
fn what_was_queued_is_looked_at_again_when_it_is_run() {
    let register = register(&[]);
    let (mut app, mut admin) = (as_user(register.addr(), "app"), Redis::to(register.addr()));
    for line in ["MULTI", "SET app:1 two", "SET app:2 two"] {
        app.say(line);
    }
    assert_eq!(admin.say("ACL SETUSER app resetkeys ~app:2"), "+OK");
    let done = app.say("EXEC");
    tells(&done, &["-NOPERM ACLs rules changed between", "no permission to touch the specified keys"]);
    assert!(done.ends_with("+OK]"), "{done}");
    assert_eq!(admin.say("GET app:1"), "\"one\"");
    // Whose user is deleted is cut off, with what it has queued.
    app.say("MULTI");
    app.say("SET app:2 three");
    assert_eq!(admin.say("ACL DELUSER app"), ":1");
    assert_eq!(app.try_ask(&[b"EXEC"]), None);
    assert_eq!(admin.say("GET app:2"), "\"two\"");
    tells(&Redis::to(register.addr()).say("AUTH app app-word"), &["WRONGPASS"]);
}

#[test]
fn rights_hold_in_the_text_protocol() {
    let register = register(&[]);
    let mut wire = Wire::to(register.addr());
    wire.send("AUTH app app-word\nGET app:1\nGET other:1\nSET other:1 x\nSETEX other:1 10s x\nDRAIN 1\nSTATUS\n");
    assert_eq!(wire.line().trim_end(), "OK");
    assert_eq!(wire.line().trim_end(), "VALUE one");
    for (what, id) in [("GET", "other:1"), ("SET", "other:1"), ("SETEX", "other:1")] {
        tells(&wire.line(), &["ERROR DENIED", "user app", what, id, "nothing was done"]);
    }
    tells(&wire.line(), &["ERROR DENIED", "may not run DRAIN"]);
    tells(&wire.line(), &["{", "\"epoch\":1"]);
    // Who logs in anew has the rights of that one.
    wire.send("AUTH ops ops-word\nGET app:1\nVERIFY\n");
    assert_eq!(wire.line().trim_end(), "OK");
    tells(&wire.line(), &["ERROR DENIED"]);
    tells(&wire.line(), &["VERIFIED"]);
    assert_eq!(wire.code("AUTH ops wrong"), "ERROR WRONGPASS");
    assert_eq!(wire.ask("AUTH whatever"), "OK", "the one from the start has no password");
    assert_eq!(wire.ask("GET other:1"), "VALUE secret");
}

#[test]
fn rights_hold_for_grpc_and_http() {
    let register = register(&[]);
    let http = http(&register);
    assert_eq!(Redis::to(register.addr()).say("ACL SETUSER default resetpass >boss"), "+OK");
    let basic = |pair: &str| format!("Basic {}", base64(pair));
    tell(async {
        let mut client = FamilyServiceClient::connect(format!("http://{}", register.grpc_addr())).await.unwrap();
        let named = |id: &str| GetRequest { id: id.to_owned(), ..Default::default() };
        let with = |request: GetRequest, metadata: &[(&'static str, &str)]| {
            let mut request = Request::new(request);
            for (name, value) in metadata {
                request.metadata_mut().insert(*name, value.parse().unwrap());
            }
            request
        };
        let app = basic("app:app-word");
        let right = client.get_message(with(named("app:1"), &[("authorization", &app)])).await.unwrap().into_inner();
        assert!(right.found);
        let right = with(named("app:1"), &[("user", "app"), ("password", "app-word")]);
        assert!(client.get_message(right).await.unwrap().into_inner().found);
        for (metadata, code) in [
            (vec![("authorization", app.as_str())], Code::PermissionDenied),
            (vec![("user", "app"), ("authorization", "Bearer app-word")], Code::PermissionDenied),
            (vec![("user", "app"), ("password", "wrong")], Code::Unauthenticated),
            (vec![("password", "app-word")], Code::Unauthenticated),
            (vec![], Code::Unauthenticated),
        ] {
            let refused = client.get_message(with(named("other:1"), &metadata)).await.unwrap_err();
            assert_eq!(refused.code(), code, "{metadata:?} {refused}");
        }
        let mut store = Request::new(StoreRequest {
            chat_message: Some(ChatMessage { id: "other:1".to_owned(), body: "x".into(), ..Default::default() }),
            ttl_ms: 0,
        });
        store.metadata_mut().insert("authorization", app.parse().unwrap());
        assert_eq!(client.store_message(store).await.unwrap_err().code(), Code::PermissionDenied);
        let mut list = Request::new(Empty {});
        list.metadata_mut().insert("authorization", app.parse().unwrap());
        let mut listed = client.list_messages(list).await.unwrap().into_inner();
        let mut ids = Vec::new();
        while let Some(message) = listed.message().await.unwrap() {
            ids.push(message.id);
        }
        assert_eq!(ids, ["app:1"]);
        let mut nodes = Request::new(Empty {});
        nodes.metadata_mut().insert("authorization", basic("reader:reader-word").parse().unwrap());
        assert_eq!(client.list_nodes(nodes).await.unwrap_err().code(), Code::PermissionDenied);
    });
    for (who, path, status) in [
        (None, "/api/message/app:1", 401),
        (Some("app:wrong"), "/api/message/app:1", 401),
        (Some("app:app-word"), "/api/message/app:1", 200),
        (Some("app:app-word"), "/api/message/other:1", 403),
        (Some("app:app-word"), "/api/message/other%3A1", 403),
        (Some("app:app-word"), "/?id=other:1&part=found", 403),
        (Some("app:app-word"), "/?id=app:1&part=found", 200),
        (Some("default:boss"), "/api/message/other:1", 200),
        (None, "/?id=other:1", 401),
        (None, "/", 200),
        (None, "/metrics", 200),
    ] {
        let header = who.map(|pair| format!("Authorization: {}\r\n", basic(pair))).unwrap_or_default();
        let answer = get_with(&http, path, &header);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{who:?} {path}: {answer}");
    }
    let metrics = get_with(&http, "/metrics", "");
    assert!(!metrics.contains("hatokuse_denied_total{reason=\"key\"} 0\n"), "{metrics}");
    tells(&metrics, &["hatokuse_denied_total{reason=\"key\"} "]);
    // What gRPC refused: 2 of GET, a SET and a list of nodes; two passwords; and one who gave none.
    let refused = |result: &str, count: u32| {
        let sample = format!("hatokuse_requests_total{{op=\"other\",protocol=\"grpc\",result=\"{result}\"}} {count}\n");
        tells(&metrics, &[&sample]);
    };
    refused("denied", 4);
    refused("wrongpass", 2);
    refused("noauth", 1);
}

/// What is answered to a request with this header.
fn get_with(addr: &str, path: &str, header: &str) -> String {
    let mut wire = Wire::to(addr);
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n"));
    wire.rest()
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.encode(text)
}

/// What ACL DRYRUN says of a request, and what becomes of it, for every command, with a forbidden id at each place; and
/// without the right to run it.
#[test]
fn a_dry_run_says_what_becomes_of_it() {
    let (register, mut asked) = (Register::start(1, 1), 0);
    let addr = register.addr().to_owned();
    let mut admin = Redis::to(&addr);
    assert_eq!(admin.say("ACL SETUSER half on >half-word +@all -@connection -@scripting -@admin ~own:*"), "+OK");
    assert_eq!(admin.say("ACL SETUSER whole on >whole-word +@all ~own:*"), "+OK");
    for spec in COMMANDS.iter().filter(|spec| spec.is_of_redis() && spec.op != Op::OtherProtocol) {
        for words in requests_of(spec) {
            let mut variants = vec![words.clone()];
            if let Ok(places) = spec.key_places(&words) {
                for place in places {
                    let mut other = words.clone();
                    other[place] = "others:1".to_owned();
                    variants.push(other);
                }
            }
            for words in variants {
                for user in ["half", "whole"] {
                    let bytes: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
                    let dry = admin.ask(&[&[&b"ACL"[..], b"DRYRUN", user.as_bytes()], bytes.as_slice()].concat());
                    let real = as_user(&addr, user).try_ask(&bytes).unwrap_or_default();
                    let is_dry = dry.starts_with("\"This user has no permissions");
                    assert!(is_dry || dry == "+OK", "{user} {words:?}: {dry}");
                    assert_eq!(is_dry, is_denied(&real), "{user} {words:?}: {dry} and {real}");
                    asked += 1;
                }
            }
        }
    }
    assert!(asked > 400, "{asked}");
}

/// Requests of a command, whose ids are all `own:1`.
fn requests_of(spec: &Spec) -> Vec<Vec<String>> {
    let line = |rest: &str| format!("{} {rest}", spec.name).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    if !spec.subcommands.is_empty() {
        let words = |(name, arity): &(&str, i32)| {
            line(&format!("{name} {}", "own:1 ".repeat(arity.unsigned_abs() as usize - 2)))
        };
        // Those end what is asked, or are the ones that are asked with.
        return spec.subcommands.iter().filter(|(name, _)| !matches!(*name, "REPLY" | "KILL")).map(words).collect();
    }
    let rest = match spec.name {
        "EVAL" | "EVALSHA" | "EVAL_RO" | "EVALSHA_RO" => "x 2 own:1 own:1".to_owned(),
        "MSETEX" => "2 own:1 x own:1 y".to_owned(),
        "BITOP" => "AND own:1 own:1 own:1".to_owned(),
        "SET" => return vec![line("own:1 x"), line("own:1 x GET"), line("own:1 x IFEQ y")],
        "BITFIELD" => return vec![line("own:1 GET u8 0"), line("own:1 SET u8 0 1")],
        _ => "own:1 ".repeat((spec.arity.unsigned_abs() as usize - 1).max(if spec.keys.1 < 0 { 2 } else { 0 })),
    };
    vec![line(&rest)]
}

#[test]
fn nobody_is_locked_out_for_good() {
    let home = folder();
    let (_leader, addr) = lone_leader(home.path(), &[]);
    let mut admin = Redis::to(&addr);
    for last in [
        "ACL SETUSER default off",
        "ACL SETUSER default -acl",
        "ACL SETUSER default resetpass",
        "ACL SETUSER default reset",
    ] {
        tells(&admin.say(last), &["-ERR", "nobody could change users", "nothing was changed"]);
    }
    assert_eq!(admin.say("ACL SETUSER boss on >boss-word +acl"), "+OK");
    assert_eq!(admin.say("ACL SETUSER default off"), "+OK");
    assert_eq!(admin.say("PING"), "+PONG", "who is connected stays, as in Redis");
    tells(&Redis::to(&addr).say("PING"), &["-NOAUTH"]);
    let mut boss = as_user(&addr, "boss");
    for last in
        ["ACL DELUSER boss", "ACL SETUSER boss off", "ACL SETUSER boss -acl|setuser", "ACL SETUSER boss resetpass"]
    {
        tells(&boss.say(last), &["-ERR", "nobody could change users"]);
    }
    tells(&boss.say("ACL DELUSER default"), &["cannot be removed"]);
}

#[test]
fn rules_that_are_wrong_change_nothing_and_say_which() {
    let home = folder();
    let (_leader, addr) = lone_leader(home.path(), &[]);
    let mut admin = Redis::to(&addr);
    for (rules, told) in [
        ("on +nosuch", "modifier '+nosuch': Unknown command"),
        ("on +@nosuch", "modifier '+@nosuch': Unknown command"),
        ("on &*", "modifier '&*': there are no channels"),
        ("on (+get", "modifier '(+get': selectors are not supported"),
        ("on #abc", "modifier '#***': The password hash must be exactly 64"),
        ("on <never", "modifier '<***': The password you are trying to remove"),
        ("on +select|0", "first-arg"),
        ("what", "modifier 'what': Syntax error"),
    ] {
        tells(&admin.say(&format!("ACL SETUSER new {rules}")), &["-ERR Error in ACL SETUSER", told]);
    }
    assert_eq!(admin.say("ACL GETUSER new"), "$-1");
    tells(&admin.ask(&[b"ACL", b"SETUSER", b"a b"]), &["can't contain spaces"]);
    tells(&admin.say("ACL CAT nosuch"), &["Unknown category 'nosuch'"]);
    tells(&admin.say("ACL SAVE"), &["-ERR there is no ACL file"]);
    tells(&admin.say("ACL DRYRUN nobody GET a"), &["User 'nobody' not found"]);
    tells(&admin.say("ACL DRYRUN default nosuch a"), &["Command 'nosuch' not found"]);
    tells(&admin.say("ACL DRYRUN default GET"), &["wrong number of arguments for 'get'"]);
    assert_eq!(admin.say("ACL GENPASS 5").len(), 4);
    assert_eq!(admin.say("ACL GENPASS").len(), 66);
    tells(&admin.say("ACL GENPASS 0"), &["must be the number of bits"]);
}

/// Not in a line of the log, an error, a file, or what others see.
#[test]
fn passwords_are_nowhere_to_be_read() {
    let home = folder();
    fs::write(home.path().join("file"), "of-the-file\n").unwrap();
    let (leader, addr) = lone_leader(home.path(), &["--password-file", "file", "--http-port", "0"]);
    let mut admin = Redis::to(&addr);
    assert_eq!(admin.say("AUTH of-the-file"), "+OK");
    let mut told = Vec::new();
    for line in [
        "ACL SETUSER app on >hush-hush ~* +@all",
        "ACL SETUSER app <hush-wrong",
        "ACL SETUSER app >hush-more +nosuch",
        "ACL SETUSER default >hush-hush",
        "AUTH app hush-guess",
        "AUTH app hush-hush",
        "ACL LOG",
        "ACL LIST",
        "ACL GETUSER app",
        "CLIENT LIST",
        "INFO",
        "AUTH hush-hush hush-hush hush-hush",
    ] {
        told.push(admin.say(line));
    }
    tells(&told[3], &["--password-file"]);
    let mut wire = Wire::to(&addr);
    told.push(wire.ask("AUTH app hush-guess"));
    told.push(wire.ask("AUTH hush-guess"));
    // Where they stand at the wrong place they are told to nobody but who wrote them.
    tells(&admin.say("ACL SETUSER carol on hush-without-sign"), &["hush-without-sign"]);
    admin.ask(&[b"ACL", b"SETUSER", b"carol on >hush-quoted"]);
    let page = get_with(&http_of(&leader), "/", "");
    assert!(!page.contains("SETUSER"), "the page asks nobody who he is");
    told.push(page);
    leader.stop();
    told.push(leader.said());
    let files = files_under(home.path());
    assert!(files.len() > 2);
    for text in told.iter().map(String::as_bytes).chain(files.iter().map(Vec::as_slice)) {
        let text = String::from_utf8_lossy(text);
        assert!(!text.contains("hush-"), "{text}");
    }
    // What was ordered is to be read, and by whom.
    tells(
        &leader.said(),
        &["user default at 127.0.0.1:", "ACL SETUSER app on >*** ~* +@all", "gave a wrong password for user app"],
    );
}

fn http_of(leader: &Server) -> String {
    leader.says("leader http=").split_once("leader http=").unwrap().1.trim().to_owned()
}

fn files_under(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_under(&path) } else { vec![fs::read(&path).unwrap()] }).collect()
}

#[test]
fn orders_are_written_down_with_who_gave_them() {
    let register = register(&[]);
    let mut ops = as_user(register.addr(), "ops");
    assert_eq!(ops.say("DRAIN 9"), "-ERR there is no node 9; members: nodes 1, 2");
    assert_eq!(ops.say("REBALANCE"), "+OK");
    let mut wire = Wire::to(register.addr());
    assert_eq!(wire.ask("AUTH ops ops-word"), "OK");
    assert_eq!(wire.ask("REBALANCE STOP"), "OK");
    tells(&wire.ask("REMOVE 9 FORCE"), &["ERROR BAD_COMMAND"]);
    eventually("the lines", || {
        let said = register.leader_stderr();
        [
            "user ops at 127.0.0.1:",
            ": DRAIN 9: ERR there is no node 9",
            ": REBALANCE\n",
            ": REBALANCE STOP\n",
            ": REMOVE 9 FORCE: BAD_COMMAND",
        ]
        .iter()
        .all(|part| said.contains(part))
        .then_some(())
    });
}

#[test]
fn programs_of_hatokuse_log_in_as_a_user() {
    let register = register(&[]);
    let dir = register.dir().to_owned();
    let file = |name: &str| {
        let path = dir.join(format!("{name}.password"));
        fs::write(&path, format!("{name}-word\n")).unwrap();
        path.display().to_string()
    };
    assert_eq!(Redis::to(register.addr()).say("ACL SETUSER default resetpass >boss"), "+OK");
    let addr = register.addr().to_owned();
    let program = |args: &[&str]| run(&mut hatokuse(&[args, &["--addr", &addr]].concat()), b"");
    let app = file("app");
    let got =
        run(&mut hatokuse(&["client", "--addr", &addr, "--user", "app", "--password-file", &app, "GET", "app:1"]), b"");
    assert_eq!(String::from_utf8_lossy(&got.stdout).trim(), "one");
    let got = run(
        &mut hatokuse(&["client", "--addr", &addr, "--user", "app", "--password-file", &app, "GET", "other:1"]),
        b"",
    );
    tells(&String::from_utf8_lossy(&got.stderr), &["DENIED"]);
    for protocol in ["text", "resp"] {
        let done = program(&[
            "bench",
            "--count",
            "100",
            "--user",
            "app",
            "--password-file",
            &app,
            "--key-prefix",
            "app:",
            "--protocol",
            protocol,
        ]);
        assert!(done.status.success(), "{done:?}");
    }
    let backup = dir.join("backup").display().to_string();
    let refused = program(&["backup", &backup, "--user", "app", "--password-file", &app]);
    tells(&String::from_utf8_lossy(&refused.stderr), &["NOPERM", "backup"]);
    let done = program(&["backup", &backup, "--user", "ops", "--password-file", &file("ops")]);
    assert!(done.status.success(), "{done:?}");
    let refused = program(&["client", "--user", "app", "PING"]);
    tells(&String::from_utf8_lossy(&refused.stderr), &["--user needs the --password-file"]);
}

#[test]
fn a_port_that_others_reach_is_refused_without_tls_and_without_users() {
    let home = folder();
    fs::write(home.path().join("file"), "word\n").unwrap();
    let refused = refused_leader(home.path(), &["--host", "0.0.0.0"]);
    tells(&refused, &["whoever reaches 0.0.0.0:", "may read and write everything", "--password-file", "--insecure"]);
    let refused = refused_leader(home.path(), &["--http-host", "0.0.0.0", "--http-port", "0"]);
    tells(&refused, &["sees ids, addresses and figures", "--http-token-file", "--insecure"]);
    let node = ["node", "--id", "1", "--port", "0", "--host", "0.0.0.0"];
    let refused = Server::start(home.path(), &node).must_be_refused();
    tells(&refused, &["can pass for the leader", "--cluster-cert", "--insecure"]);
    // Users are enough for clients, but nodes are none of them.
    let refused = refused_leader(home.path(), &["--host", "0.0.0.0", "--password-file", "file"]);
    tells(&refused, &["can pass for a node", "--cluster-cert", "--insecure"]);
    let (leader, _) = lone_leader(home.path(), &["--host", "0.0.0.0", "--insecure"]);
    for open in ["may read and write everything", "can pass for a node"] {
        tells(&leader.says(open), &["whoever reaches 0.0.0.0:", "networks that you trust alone"]);
    }
    drop(leader);
    // Users that are in the log count as well.
    let (leader, addr) = lone_leader(home.path(), &[]);
    let mut admin = Redis::to(&addr);
    assert_eq!(admin.say("ACL SETUSER default resetpass >word"), "+OK");
    drop(leader);
    let refused = refused_leader(home.path(), &["--host", "0.0.0.0"]);
    assert!(!refused.contains("may read and write everything"), "{refused}");
}
