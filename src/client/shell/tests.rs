//! The command line and the pipe against servers that follow a script.

use tokio::io::AsyncWriteExt as _;

use super::super::tests::{Listener, nobody, register, serve};
use super::*;

const PAPER: Paper = Paper { columns: 80, color: false, utf8: false };
const PLAIN: Style = Style { json: false, terminal: false, paper: PAPER };
const JSON: Style = Style { json: true, terminal: false, paper: PAPER };

/// Runs one command with `stdin`; gives the exit code and stdout.
async fn shot(addr: &str, words: &[&str], stdin: &[u8], style: Style) -> (u8, String) {
    let command = words.iter().map(OsString::from).collect();
    let timeout = Duration::from_secs(60);
    let settings = Settings { json: style.json, command, ..Settings::new(addr, timeout) };
    let mut out = Vec::new();
    let code = one_shot(&settings, stdin, style, &mut out).await.unwrap();
    (code, String::from_utf8_lossy(&out).into_owned())
}

/// A server that wants this request and gives this reply; runs the command against it.
async fn shot_at(request: &'static str, reply: &'static str, words: &[&str], style: Style) -> (u8, String) {
    let (addr, server) = serve(async move |listener: Listener| {
        let mut peer = listener.accept().await;
        peer.expect(request).await;
        peer.send(format!("{reply}\n")).await;
    })
    .await;
    let result = shot(&addr, words, b"", style).await;
    server.await.unwrap();
    result
}

fn done(code: u8, out: &str) -> (u8, String) {
    (code, out.to_owned())
}

#[tokio::test]
async fn one_command_gives_its_reply_and_exit_code() {
    for (words, request, reply, wanted) in [
        (&["SET", "1", "hello", "world"][..], "SET 1 hello world", "OK", done(0, "OK\n")),
        (&["set 1 hello"], "SET 1 hello", "OK", done(0, "OK\n")),
        (&["SET", "1", ""], "SET 1 ", "OK", done(0, "OK\n")),
        (&["SET", "1", "x\r"], "SET 1 x\r\r", "OK", done(0, "OK\n")),
        (&["SET", "1", "x"], "SET 1 x", "ERROR TOO_FEW_NODES need 3 live nodes, have 2", done(1, "")),
        (&["GET", "1"], "GET 1", "VALUE hello", done(0, "hello\n")),
        (&["GET", "1"], "GET 1", "ERROR NOT_FOUND no message with this id", done(3, "")),
        (&["GET", "1"], "GET 1", "ERROR UNAVAILABLE node 1 is missing", done(1, "")),
        (&["WHERE", "1"], "WHERE 1", "NODES 1,3", done(0, "NODES 1,3\n")),
        (&["WHERE", "1"], "WHERE 1", "ERROR NOT_FOUND no message with this id", done(1, "")),
        (&["SOMETHING", "new"], "SOMETHING new", "WELL done", done(0, "WELL done\n")),
    ] {
        assert_eq!(shot_at(request, reply, words, PLAIN).await, wanted, "{words:?}");
    }
}

#[tokio::test]
async fn json_goes_to_stdout_with_errors_too() {
    for (words, request, reply, wanted) in [
        (&["SET", "1", "x"][..], "SET 1 x", "OK", done(0, "{\"ok\":true}\n")),
        (&["GET", "1"], "GET 1", "VALUE \"hi\"", done(0, "{\"value\":\"\\\"hi\\\"\"}\n")),
        (
            &["GET", "1"],
            "GET 1",
            "ERROR NOT_FOUND none",
            done(3, "{\"error\":{\"code\":\"NOT_FOUND\",\"message\":\"none\"}}\n"),
        ),
        (&["COUNT"], "COUNT", "COUNT 9000", done(0, "{\"count\":9000}\n")),
    ] {
        assert_eq!(shot_at(request, reply, words, JSON).await, wanted, "{words:?}");
    }
}

#[tokio::test]
async fn a_terminal_gets_no_control_characters() {
    let style = Style { terminal: true, ..PLAIN };
    let shown = shot_at("GET 1", "VALUE \u{1b}[2Jx", &["GET", "1"], style).await;
    assert_eq!(shown, done(0, "\\u{1b}[2Jx\n"));
    let raw = shot_at("GET 1", "VALUE \u{1b}[2Jx", &["GET", "1"], PLAIN).await;
    assert_eq!(raw, done(0, "\u{1b}[2Jx\n"));
}

const STATUS: &str = r#"{"version":"1","epoch":7,"tolerance":2,"uptime_s":1.5,"messages":1,"under_replicated":0,"lost":0,"nodes":[{"id":1,"address":"a:1","state":"up","messages":1,"bytes":5,"io_mode":"buffered","layout":"text"},{"id":3,"address":"a:3","state":"up","messages":1,"bytes":5,"io_mode":"buffered","layout":"text"}]}"#;

#[tokio::test]
async fn people_get_tables_and_programs_the_line() {
    let people = Style { terminal: true, ..PLAIN };
    let (code, shown) = shot_at("STATUS", STATUS, &["STATUS"], people).await;
    assert!(code == 0 && shown.starts_with(" HEALTHY  "), "{shown}");
    assert!(shown.contains("\n ID  ADDRESS  STATE") && shown.contains("\n  3  a:3      up"), "{shown}");
    let json = Style { json: true, ..people };
    for style in [PLAIN, JSON, json] {
        assert_eq!(shot_at("STATUS", STATUS, &["STATUS"], style).await, done(0, &format!("{STATUS}\n")));
    }
    let other = r#"{"a":"newer one"}"#;
    assert_eq!(shot_at("STATUS", other, &["STATUS"], people).await, done(0, &format!("{other}\n")));

    let (addr, server) = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        peer.expect("WHERE 1").await;
        peer.send("NODES 1,3\n").await;
        peer.expect("STATUS").await;
        peer.send(format!("{STATUS}\n")).await;
    })
    .await;
    let (code, shown) = shot(&addr, &["WHERE", "1"], b"", people).await;
    assert!(code == 0 && shown.starts_with(" HEALTHY  2 copies, 2 on nodes that are up"), "{shown}");
    server.await.unwrap();
    let alone = shot_at("WHERE 1", "NODES 1,3", &["WHERE", "1"], people).await;
    assert_eq!(alone, done(0, "NODES 1,3\n"), "where the leader says no more");
}

#[tokio::test]
async fn wrong_usage_is_told_before_connecting() {
    let addr = nobody().await;
    for words in [
        &["SET"][..],
        &["SET", "1"],
        &["SET", "a\tb", "x"],
        &["SET", "1", "two\nlines"],
        &["GET"],
        &["GET", "1", "2"],
        &["PING", "x"],
        &[""],
    ] {
        assert_eq!(shot(&addr, words, b"", PLAIN).await, done(2, ""), "{words:?}");
    }
    assert_eq!(shot(&addr, &["SET", "1", "-"], b"two\nlines\n", PLAIN).await, done(2, ""));
    assert_eq!(shot(&addr, &["PING"], b"", PLAIN).await, done(4, ""), "and this one finds nobody");
}

#[tokio::test]
async fn a_dash_reads_the_message_from_stdin() {
    for (stdin, request) in [
        (&b"hello\n"[..], "SET 1 hello"),
        (b"hello", "SET 1 hello"),
        (b"hello\r\n", "SET 1 hello"),
        (b"hello\r", "SET 1 hello\r\r"),
        (b"", "SET 1 "),
        (b"-", "SET 1 -"),
        (b" blanks ", "SET 1  blanks "),
    ] {
        let (addr, server) = serve(async move |listener: Listener| {
            let mut peer = listener.accept().await;
            peer.expect(request).await;
            peer.send("OK\n").await;
        })
        .await;
        assert_eq!(shot(&addr, &["SET", "1", "-"], stdin, PLAIN).await, done(0, "OK\n"));
        server.await.unwrap();
    }
}

/// Sends `input` through a pipe; gives the exit code and stdout.
async fn piped(addr: &str, input: &[u8], timeout: Duration, style: Style) -> (u8, String) {
    let mut client = Client::builder().timeout(AMPLE).connect(addr).await.unwrap();
    client.options.timeout = timeout;
    let mut out = Vec::new();
    let code = pipe::run(client, input, style, &mut out).await.unwrap();
    (code, String::from_utf8_lossy(&out).into_owned())
}

const AMPLE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_pipe_has_a_reply_for_each_line() {
    let (addr, server) = register().await;
    let (code, out) = piped(&addr, b"SET 1 hello\r\nGET 1\n\nPING\nget 1", AMPLE, PLAIN).await;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["OK", "VALUE hello"]);
    assert!(lines[2].starts_with("ERROR BAD_COMMAND"), "{out}");
    assert_eq!(lines[3..], ["+PONG", "VALUE hello"]);
    assert_eq!(code, 1, "there was an ERROR");
    server.await.unwrap();
}

#[tokio::test]
async fn a_pipe_waits_for_no_round_trips() {
    let (addr, server) = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        for line in ["GET 1", "GET 2", "COUNT"] {
            peer.expect(line).await;
        }
        peer.send("VALUE a\nVALUE b\nCOUNT 2\n").await;
        peer.expect_end().await;
    })
    .await;
    let wanted = "{\"value\":\"a\"}\n{\"value\":\"b\"}\n{\"count\":2}\n";
    assert_eq!(piped(&addr, b"GET 1\nGET 2\nCOUNT\n", AMPLE, JSON).await, done(0, wanted));
    server.await.unwrap();
}

#[tokio::test]
async fn a_pipe_larger_than_all_buffers_does_not_deadlock() {
    let (addr, server) = register().await;
    let message = "x".repeat(16 * 1024);
    let input = format!("SET 1 {message}\nGET 1\n").repeat(1000);
    let (code, out) = piped(&addr, input.as_bytes(), AMPLE, PLAIN).await;
    assert_eq!((code, out.len()), (0, 1000 * ("OK\nVALUE \n".len() + message.len())));
    server.await.unwrap();
}

#[tokio::test]
async fn a_pipe_ends_with_exit_and_with_nothing() {
    let (addr, server) = register().await;
    assert_eq!(piped(&addr, b"PING\nEXIT\nPING\n", AMPLE, PLAIN).await, done(0, "+PONG\nBYE\n"));
    server.await.unwrap();
    let (addr, server) = register().await;
    assert_eq!(piped(&addr, b"", AMPLE, PLAIN).await, done(0, ""));
    server.await.unwrap();
}

#[tokio::test]
async fn a_pipe_goes_on_at_the_next_address_where_nothing_was_left_open() {
    let (first, one) = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        peer.expect("PING").await;
        peer.send("+PONG\n").await;
        peer.expect("SET 1 a").await;
        peer.send("OK\n").await;
    })
    .await;
    let (second, given) = serve(async |listener: Listener| listener).await;
    let next = given.await.unwrap();
    let addr = format!("{first},{second}");
    let client = Client::builder().timeout(AMPLE).connect(&addr).await.unwrap();
    let (input, mut typed) = tokio::io::duplex(1 << 10);
    let typing = async move {
        // The line that has begun when the connection ends is sent whole on the next one.
        typed.write_all(b"SET 1 a\nSET 2").await.unwrap();
        one.await.unwrap();
        let mut peer = next.accept().await;
        peer.expect("PING").await;
        peer.send("+PONG\n").await;
        typed.write_all(b" b\nGET 2").await.unwrap();
        drop(typed);
        for (request, reply) in [("SET 2 b", "OK\n"), ("GET 2", "VALUE b\n")] {
            peer.expect(request).await;
            peer.send(reply).await;
        }
    };
    let mut out = Vec::new();
    let (code, ()) = tokio::join!(pipe::run(client, input, PLAIN, &mut out), typing);
    assert_eq!((code.unwrap(), &out[..]), (0, &b"OK\nOK\nVALUE b\n"[..]));
}

#[tokio::test]
async fn a_pipe_without_answers_fails_after_those_that_came() {
    let (addr, server) = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        peer.expect("PING").await;
        peer.expect("SET 1 a").await;
        peer.send("+PONG\n").await;
    })
    .await;
    assert_eq!(piped(&addr, b"PING\nSET 1 a\n", AMPLE, PLAIN).await, done(4, "+PONG\n"));
    server.await.unwrap();

    let (addr, server) = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        peer.expect("PING").await;
        peer.expect_end().await;
    })
    .await;
    assert_eq!(piped(&addr, b"PING\n", Duration::from_millis(20), PLAIN).await, done(4, ""));
    server.await.unwrap();
}

/// A stdout whose reader has gone.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_closed_stdout_is_told_as_such() {
    let (addr, server) = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        peer.expect("PING").await;
        peer.send("+PONG\n").await;
        peer.expect_end().await;
    })
    .await;
    let client = Client::builder().timeout(AMPLE).connect(&addr).await.unwrap();
    let error = pipe::run(client, &b"PING\n"[..], PLAIN, &mut Gone).await.unwrap_err();
    let cause = error.downcast_ref::<io::Error>().unwrap();
    assert_eq!(cause.kind(), io::ErrorKind::BrokenPipe, "the door ends quietly for this");
    server.await.unwrap();
}
