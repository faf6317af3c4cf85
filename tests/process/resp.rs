//! The Redis protocol over a raw socket: what clients of Redis meet, and what they must never meet.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use crate::support::{PATIENCE, Register, Wire, code, folder, lone_leader};

/// A connection that sends requests as arrays, and reads replies as text.
pub(crate) struct Redis(TcpStream);

impl Redis {
    pub(crate) fn to(addr: &str) -> Self {
        Self::try_to(addr).expect("a connection")
    }

    /// A connection, if there is a leader.
    pub(crate) fn try_to(addr: &str) -> Option<Self> {
        let stream = TcpStream::connect(addr).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Some(Self(stream))
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).expect("the leader takes it");
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.0.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\r' => {
                    assert_eq!(self.byte()?, b'\n');
                    return Ok(String::from_utf8(line).expect("text"));
                }
                byte => line.push(byte),
            }
        }
    }

    /// The next reply: parts of an array in brackets, strings as they are written in a source.
    #[track_caller]
    pub(crate) fn reply(&mut self) -> String {
        self.try_reply().expect("a reply in time")
    }

    fn try_reply(&mut self) -> io::Result<String> {
        let line = self.line()?;
        let length = || line[1..].parse::<i64>().expect("a length");
        let mut parts = |count: i64| (0..count).map(|_| self.try_reply()).collect::<io::Result<Vec<_>>>();
        Ok(match line.as_bytes()[0] {
            b'$' | b'=' if length() >= 0 => {
                let mut bytes = vec![0; length() as usize + 2];
                self.0.read_exact(&mut bytes)?;
                assert!(bytes.ends_with(b"\r\n"));
                format!("\"{}\"", bytes[..bytes.len() - 2].escape_ascii())
            }
            b'*' | b'~' if length() >= 0 => format!("[{}]", parts(length())?.join(" ")),
            b'%' => format!("{{{}}}", parts(length() * 2)?.join(" ")),
            b'>' => format!(">[{}]", parts(length())?.join(" ")),
            _ => line,
        })
    }

    /// As `ask`; nothing: the connection broke.
    pub(crate) fn try_ask(&mut self, words: &[&[u8]]) -> Option<String> {
        self.0.write_all(&request(words)).ok()?;
        self.try_reply().ok()
    }

    /// A request of these words, and its reply.
    pub(crate) fn ask(&mut self, words: &[&[u8]]) -> String {
        self.send(request(words));
        self.reply()
    }

    /// Requests that leave together, and their replies.
    pub(crate) fn together(&mut self, lines: &[&str]) -> Vec<String> {
        let words = |line: &&str| request(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        self.send(lines.iter().flat_map(words).collect::<Vec<u8>>());
        lines.iter().map(|_| self.reply()).collect()
    }

    /// A request of words without blanks, and its reply.
    pub(crate) fn say(&mut self, line: &str) -> String {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.ask(&words)
    }

    /// Whether the leader has closed, after what it still said.
    fn rest(mut self) -> String {
        let mut rest = Vec::new();
        // A reset is an end as well: it has read what we sent only in part.
        let _ = self.0.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

pub(crate) fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).into_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

#[track_caller]
pub(crate) fn story(redis: &mut Redis, lines: &[(&str, &str)]) {
    for (line, reply) in lines {
        assert_eq!(redis.say(line), *reply, "{line}");
    }
}

#[test]
fn both_protocols_share_the_port_and_the_messages() {
    let register = Register::start(3, 2);
    let mut redis = Redis::to(register.addr());
    story(
        &mut redis,
        &[
            ("SET a 1", "+OK"),
            ("GET a", "\"1\""),
            ("GET none", "$-1"),
            ("DEL a none a", ":1"),
            ("SET a 2 NX", "+OK"),
            ("SET a 3 NX", "$-1"),
            ("SET a 3 XX GET", "\"2\""),
            ("INCR a", ":4"),
            ("INCRBYFLOAT a 0.5", "\"4.5\""),
            ("APPEND a x", ":4"),
            ("STRLEN a", ":4"),
            ("MSET b 1 c 2", "+OK"),
            ("MGET a b none", "[\"4.5x\" \"1\" $-1]"),
            ("RENAME b d", "+OK"),
            ("EXISTS b d d", ":2"),
            ("COPY c e", ":1"),
            ("DBSIZE", ":4"),
            ("SETBIT bits 1 1", ":0"),
            ("GET bits", "\"@\""),
            ("TYPE a", "+string"),
            ("TTL a", ":-1"),
            ("WHERE none", "$-1"),
        ],
    );
    assert_eq!(register.get("a"), "4.5x");
    // A line of text, then arrays: it turns when the first array comes, and stays.
    redis = Redis::to(register.addr());
    redis.send([b"PING\nGET c\n".as_slice(), &request(&[b"GET", b"c"]), b"PING\r\nGET c\r\n"].concat());
    let mut seen = vec![0; b"+PONG\nVALUE 2\n$1\r\n2\r\n+PONG\r\n$1\r\n2\r\n".len()];
    redis.0.read_exact(&mut seen).unwrap();
    assert_eq!(seen, b"+PONG\nVALUE 2\n$1\r\n2\r\n+PONG\r\n$1\r\n2\r\n");
    // A Redis client that asks with a line of its own reads the answer, too.
    let mut redis = Redis::to(register.addr());
    redis.send("PING\r\nPING\r\n");
    assert_eq!((redis.reply(), redis.reply()), ("+PONG".to_owned(), "+PONG".to_owned()));
}

#[test]
fn ids_and_messages_are_any_bytes() {
    let register = Register::start(2, 2);
    let mut redis = Redis::to(register.addr());
    let every: Vec<u8> = (0..=255).collect();
    let id: Vec<u8> = (0..1024).map(|n| (n * 7) as u8).collect();
    assert_eq!(redis.ask(&[b"SET", &id, &every]), "+OK");
    assert_eq!(redis.ask(&[b"GET", &id]), format!("\"{}\"", every.escape_ascii()));
    assert_eq!(redis.ask(&[b"SET", b"lines", b"a\nb"]), "+OK");
    assert_eq!(code(&register.ask("GET lines")), "ERROR NOT_A_LINE");
    for bad in [&b""[..], &[b'x'; 1025]] {
        assert!(redis.ask(&[b"SET", bad, b"x"]).starts_with("-ERR the id is "));
        assert!(redis.ask(&[b"GET", bad]).starts_with("-ERR the id is "));
    }
    assert_eq!(redis.say("DBSIZE"), ":2");
}

#[test]
fn transactions_are_all_or_nothing_and_notice_what_changed() {
    let register = Register::start(3, 2);
    let (mut one, mut other) = (Redis::to(register.addr()), Redis::to(register.addr()));
    story(
        &mut one,
        &[
            ("EXEC", "-ERR EXEC without MULTI"),
            ("DISCARD", "-ERR DISCARD without MULTI"),
            ("MULTI", "+OK"),
            ("MULTI", "-ERR MULTI calls can not be nested"),
            ("WATCH a", "-ERR WATCH inside MULTI is not allowed"),
            ("SET a 1", "+QUEUED"),
            ("INCR a", "+QUEUED"),
            ("GET a", "+QUEUED"),
            ("PING", "+QUEUED"),
        ],
    );
    assert_eq!(other.say("GET a"), "$-1", "nothing happens before EXEC");
    assert_eq!(one.say("EXEC"), "[+OK :2 \"2\" +PONG]");
    story(&mut one, &[("MULTI", "+OK"), ("SET a x", "+QUEUED"), ("DISCARD", "+OK"), ("GET a", "\"2\"")]);
    story(&mut one, &[("WATCH a", "+OK"), ("MULTI", "+OK"), ("SET a mine", "+QUEUED")]);
    assert_eq!(other.say("SET a other"), "+OK");
    assert_eq!(one.say("EXEC"), "*-1");
    assert_eq!(one.say("GET a"), "\"other\"");
    // One wrong command, and none is run; one that fails while it runs does not stop the others, as in Redis.
    assert_eq!(one.say("MULTI"), "+OK");
    assert!(one.say("NONSENSE").starts_with("-ERR unknown command"));
    assert_eq!(one.say("SET a never"), "+QUEUED");
    assert_eq!(one.say("EXEC"), "-EXECABORT Transaction discarded because of previous errors.");
    for line in ["CLIENT foo", "CONFIG GET", "OBJECT ENCODING", "SELECT abc", "MEMORY USAGE", "COMMAND frob"] {
        assert_eq!(one.say("MULTI"), "+OK");
        assert!(one.say(line).starts_with("-ERR "), "{line}");
        assert_eq!(one.say("EXEC"), "-EXECABORT Transaction discarded because of previous errors.", "{line}");
    }
    // An EXEC that cannot be run ends the transaction.
    story(&mut one, &[("MULTI", "+OK"), ("SET a never", "+QUEUED")]);
    assert_eq!(
        one.say("EXEC x"),
        "-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command"
    );
    assert_eq!(one.say("EXEC"), "-ERR EXEC without MULTI");
    assert!(!one.say("COMMAND LIST").contains("verify"), "it is of the text protocol");
    story(&mut one, &[("MULTI", "+OK"), ("INCR a", "+QUEUED"), ("SET b 1", "+QUEUED")]);
    assert_eq!(one.say("EXEC"), "[-ERR value is not an integer or out of range +OK]");
    assert_eq!(other.say("MGET a b"), "[\"other\" \"1\"]");
}

#[test]
fn counters_lose_no_step() {
    const EACH: usize = 200;
    let register = Register::start(3, 2);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut redis = Redis::to(register.addr());
                redis.send(request(&[b"INCR", b"n"]).repeat(EACH));
                let seen: Vec<i64> = (0..EACH).map(|_| redis.reply()[1..].parse().unwrap()).collect();
                assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "replies come in order");
            });
        }
    });
    assert_eq!(register.get("n"), (4 * EACH).to_string());
}

#[test]
fn pipelined_commands_are_answered_in_order() {
    let register = Register::start(2, 2);
    let mut redis = Redis::to(register.addr());
    let story = [
        ("INCR n", ":1"),
        ("APPEND a x", ":1"),
        ("INCRBY n 9", ":10"),
        ("SET n 5", "+OK"),
        ("INCR n", ":6"),
        ("MSET b 1 b 2", "+OK"),
        ("INCR a", "-ERR value is not an integer or out of range"),
        ("STRLEN a", ":1"),
        ("GETDEL n", "\"6\""),
        ("EXISTS n", ":0"),
        ("INCR", "-ERR wrong number of arguments for 'incr' command"),
        ("INCR n", ":1"),
        ("GET b", "\"2\""),
        ("MSET a 1 n 7", "+OK"),
        ("DECR n", ":6"),
        ("DECR a", ":0"),
        ("MULTI", "+OK"),
        ("INCR a", "+QUEUED"),
        ("INCR n", "+QUEUED"),
        ("EXEC", "[:1 :7]"),
        ("INCR n", ":8"),
        ("INCR n", ":9"),
        ("MSET c 1 d 2", "+OK"),
        ("MSET e 3 f 4", "+OK"),
        ("INCR d", ":3"),
        ("DEL c e nobody", ":2"),
        ("EXISTS c d e f", ":2"),
        ("RENAME d c", "+OK"),
        ("MSETNX e 1 c 2", ":0"),
        ("MGET c d e f", "[\"3\" $-1 $-1 \"4\"]"),
    ];
    let words = |line: &str| request(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
    redis.send(story.iter().flat_map(|(line, _)| words(line)).collect::<Vec<u8>>());
    for (line, reply) in story {
        assert_eq!(redis.reply(), reply, "{line}");
    }
}

#[test]
fn version_three_has_forms_of_its_own() {
    let home = folder();
    let (_leader, addr) = lone_leader(home.path(), &[]);
    let mut redis = Redis::to(&addr);
    assert_eq!(redis.say("HELLO 4"), "-NOPROTO unsupported protocol version");
    assert!(redis.say("HELLO 3 SETNAME me").starts_with("{\"server\" "));
    story(&mut redis, &[("CLIENT GETNAME", "\"me\""), ("GET", "-ERR wrong number of arguments for 'get' command")]);
    assert_eq!(redis.say("CONFIG GET databases"), "{\"databases\" \"1\"}");
    assert_eq!(redis.say("RESET"), "+RESET");
    story(&mut redis, &[("CLIENT GETNAME", "$-1"), ("CONFIG GET databases", "[\"databases\" \"1\"]")]);
}

#[test]
fn what_it_cannot_do_is_refused_with_the_words_of_redis() {
    let home = folder();
    let (_leader, addr) = lone_leader(home.path(), &[]);
    let mut redis = Redis::to(&addr);
    story(
        &mut redis,
        &[
            ("FOO a b", "-ERR unknown command 'FOO', with args beginning with: 'a' 'b' "),
            ("GET", "-ERR wrong number of arguments for 'get' command"),
            ("CLIENT FOO", "-ERR unknown subcommand 'FOO'. Try CLIENT HELP."),
            ("SELECT 1", "-ERR DB index is out of range"),
        ],
    );
    assert!(redis.say("FLUSHALL").contains("--allow-flush"));
    // There are no nodes: it cannot be known what there is.
    let reply = redis.say("GET a");
    assert!(reply.starts_with("-LOADING "), "{reply}");
    let reply = redis.say("INCR a");
    assert!(reply.starts_with("-NOREPLICAS need 2 live nodes, have 0"), "{reply}");
    assert!(redis.say("INFO persistence").contains("loading:1"));
}

#[test]
fn too_few_nodes_have_a_class_of_their_own() {
    let mut register = Register::start(2, 2);
    let mut redis = Redis::to(register.addr());
    assert_eq!(redis.say("SET a 1"), "+OK");
    register.kill_node(2).unwrap();
    register.wait_state(2, "down");
    for line in ["SET a 2", "INCR a", "MSET a 1 b 2"] {
        let reply = redis.say(line);
        assert!(reply.starts_with("-NOREPLICAS need 2 live nodes, have 1"), "{line}: {reply}");
    }
    assert_eq!(redis.say("GET a"), "\"1\"");
}

#[test]
fn faults_are_told_and_end_the_connection() {
    let home = folder();
    let (_leader, addr) = lone_leader(home.path(), &["--max-message", "64KiB"]);
    for (bytes, text) in [
        ("*3000000000\r\n", "invalid multibulk length"),
        ("*1\r\n$2000000000\r\n", "invalid bulk length"),
        ("*1\r\n$-10\r\n", "invalid bulk length"),
        ("*1\r\nfoo\r\n", "expected '$', got 'f'"),
        ("*1\r\n$4\r\nPING\r\nset \"a\"\"b\r\n", "unbalanced quotes in request"),
    ] {
        let mut redis = Redis::to(&addr);
        redis.send(bytes);
        let rest = redis.rest();
        assert!(rest.ends_with(&format!("-ERR Protocol error: {text}\r\n")), "{bytes:?}: {rest:?}");
    }
    // Somebody makes a browser talk to the leader: not a word of it is answered.
    for lines in ["POST / HTTP/1.1\r\nHost: x\r\n\r\nSET a 1\r\n", "Host: x\r\nPING\n"] {
        let mut redis = Redis::to(&addr);
        redis.send(lines);
        assert_eq!(redis.rest(), "", "{lines:?}");
    }
    assert_eq!(Wire::to(&addr).ask("PING"), "+PONG");
}

#[test]
fn a_password_holds_for_both_protocols() {
    let home = folder();
    std::fs::write(home.path().join("password"), "se cret\n").unwrap();
    let (_leader, addr) = lone_leader(home.path(), &["--password-file", "password"]);
    let mut redis = Redis::to(&addr);
    story(
        &mut redis,
        &[
            ("PING", "-NOAUTH Authentication required."),
            ("WATCH a", "-NOAUTH Authentication required."),
            ("MULTI", "-NOAUTH Authentication required."),
            ("AUTH wrong", "-WRONGPASS invalid username-password pair or user is disabled."),
        ],
    );
    assert_eq!(redis.ask(&[b"AUTH", b"default", b"se cret"]), "+OK");
    assert_eq!(redis.say("PING"), "+PONG");
    let mut redis = Redis::to(&addr);
    redis.send("*11\r\n");
    assert_eq!(redis.rest(), "-ERR Protocol error: unauthenticated multibulk length\r\n");
    let mut wire = Wire::to(&addr);
    assert_eq!(wire.code("COUNT"), "ERROR NOAUTH");
    assert_eq!(wire.code("AUTH wrong"), "ERROR WRONGPASS");
    assert_eq!(wire.ask("AUTH se cret"), "OK");
    assert_eq!(wire.ask("PING"), "+PONG");
}

#[test]
fn connections_are_listed_and_ended() {
    let home = folder();
    let (_leader, addr) = lone_leader(home.path(), &[]);
    let (mut one, mut other) = (Redis::to(&addr), Redis::to(&addr));
    assert_eq!(other.say("CLIENT SETNAME other"), "+OK");
    let mut text = Wire::to(&addr);
    assert_eq!(code(&text.ask("COUNT")), "ERROR UNAVAILABLE", "there is no node");
    let list = one.say("CLIENT LIST");
    assert!(list.contains(" cmd=count "), "{list}");
    for (line, refused) in [
        ("CLIENT LIST TYPE nonsense", "-ERR Unknown client type 'nonsense'"),
        ("CLIENT KILL TYPE nonsense", "-ERR Unknown client type 'nonsense'"),
        ("CLIENT KILL USER nobody", "-ERR No such user 'nobody'"),
        ("CLIENT KILL TYPE normal SKIPME perhaps", "-ERR syntax error"),
    ] {
        assert_eq!(one.say(line), refused, "{line}");
    }
    assert!(list.contains("name=other") && list.matches("id=").count() >= 2, "{list}");
    // An unknown subcommand names this as the way out.
    for command in ["CLIENT", "CONFIG", "COMMAND"] {
        let refused = other.say(&format!("{command} NONSENSE"));
        assert!(refused.ends_with(&format!("Try {command} HELP.")), "{refused}");
        let help = other.say(&format!("{command} HELP"));
        let first = format!("[\"{command} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:\"");
        assert!(help.starts_with(&first) && help.contains("Print this help."), "{help}");
    }
    let id = other.say("CLIENT ID")[1..].to_owned();
    assert_eq!(one.say(&format!("CLIENT KILL ID {id}")), ":1");
    assert_eq!(other.rest(), "");
    assert!(!one.say("CLIENT LIST").contains("name=other"));
}

#[test]
fn flushing_is_allowed_where_the_operator_says_so() {
    let register = Register::with(2, 2, folder(), |builder| builder.leader_args(["--allow-flush"]));
    register.fill("x", 2500, "v");
    let mut redis = Redis::to(register.addr());
    let mut seen = std::collections::BTreeSet::new();
    let mut cursor = "0".to_owned();
    loop {
        let step = redis.say(&format!("SCAN {cursor} COUNT 100 MATCH x*"));
        let words: Vec<&str> = step.split(['[', ']', ' ', '"']).filter(|word| !word.is_empty()).collect();
        cursor = words[0].to_owned();
        seen.extend(words[1..].iter().map(|word| (*word).to_owned()));
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen.len(), 2500);
    story(&mut redis, &[("FLUSHALL", "+OK"), ("DBSIZE", ":0"), ("KEYS *", "[]"), ("GET x1", "$-1")]);
}

#[test]
fn a_line_without_its_end_runs_only_where_that_is_asked_for() {
    let register = Register::with(2, 2, folder(), |builder| builder.leader_args(["--unterminated", "50ms"]));
    let mut wire = register.wire();
    wire.send("SET 1 hello");
    assert_eq!(wire.line(), "OK");
    wire.send("GET 1");
    assert_eq!(wire.line(), "VALUE hello");
    // Never so in the Redis protocol, where every length is said.
    let mut redis = Redis::to(register.addr());
    redis.send("*3\r\n$3\r\nSET\r\n$1\r\n1\r\n$5\r\nhel");
    // A line of text that began after it has run by then.
    wire.send("GET 1");
    assert_eq!(wire.line(), "VALUE hello");
    redis.send("lo\r\n");
    assert_eq!(redis.reply(), "+OK");
}
