//! The library against servers that follow a script, byte by byte where it matters.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::connection::Replies;
use super::*;
use crate::error::Refusal;
use crate::protocol::text::{CommandDecoder, encode_reply};
use crate::protocol::{Decoded, Reply};

/// A server's side of the listening socket.
pub(super) struct Listener(TcpListener);

impl Listener {
    pub(super) async fn accept(&self) -> Peer {
        let (stream, _) = self.0.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        Peer(BufReader::new(stream))
    }
}

/// A server's side of one connection.
pub(super) struct Peer(BufReader<TcpStream>);

impl Peer {
    /// The next line with its end; empty after the last.
    pub(super) async fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).await.unwrap();
        String::from_utf8_lossy(&line).into_owned()
    }

    pub(super) async fn expect(&mut self, line: &str) {
        assert_eq!(self.line().await, format!("{line}\n"));
    }

    /// The client has left, and nothing came before that.
    pub(super) async fn expect_end(&mut self) {
        assert_eq!(self.line().await, "");
    }

    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Takes a request, gives its reply, until the client leaves; at most one at a time.
    async fn be_a_register(mut self) {
        let mut messages = HashMap::new();
        let mut decoder = CommandDecoder::new(1 << 20);
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        loop {
            let reply = match decoder.decode(&mut input) {
                Decoded::Need if self.0.read_buf(&mut input).await.unwrap() == 0 => return,
                Decoded::Need => continue,
                Decoded::Item(Command::Set { id, payload }) => {
                    messages.insert(id, payload);
                    Reply::Done
                }
                Decoded::Item(Command::Get(id)) => match messages.get(&id) {
                    Some(payload) => Reply::Value(payload.clone()),
                    None => Reply::Refused(Refusal::NotFound),
                },
                Decoded::Item(Command::Exit) => Reply::Bye,
                Decoded::Item(_) => Reply::Pong { crlf: false },
                Decoded::Bad(refusal) => Reply::Refused(refusal),
            };
            encode_reply(&reply, &mut output);
            self.0.write_all_buf(&mut output).await.unwrap();
            if reply == Reply::Bye {
                return;
            }
        }
    }
}

/// Runs `script` as a server; gives its address, and what to await to see its assertions hold.
pub(super) async fn serve<F, T>(script: impl FnOnce(Listener) -> F) -> (String, JoinHandle<T>)
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    (addr, tokio::spawn(script(Listener(listener))))
}

/// A server that keeps what it is sent, for one connection.
pub(super) async fn register() -> (String, JoinHandle<()>) {
    serve(async |listener: Listener| listener.accept().await.be_a_register().await).await
}

/// An address that nobody listens on.
pub(super) async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Long enough that no test depends on it.
const AMPLE: Duration = Duration::from_secs(60);

async fn client(addr: &str) -> Client {
    Client::builder().timeout(AMPLE).connect(addr).await.unwrap()
}

fn assert_unusable<T: std::fmt::Debug>(result: Result<T, Error>) {
    match result {
        Err(error @ Error::Unusable { .. }) => assert_eq!(error.certainty(), Certainty::SurelyNot),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_call_reads_its_reply() {
    let (addr, server) = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        for (request, reply) in [
            ("SET 1 hello world", "OK"),
            ("GET 1", "VALUE hello world"),
            ("GET 2", "ERROR NOT_FOUND no message with this id"),
            ("GET 3", "ERROR UNAVAILABLE node 2 is missing"),
            ("WHERE 1", "NODES 1,3 expires 2026-11-30T12:00:00.000Z"),
            ("WHERE 2", "ERROR NOT_FOUND no message with this id"),
            ("COUNT", "COUNT 9000"),
            ("STATUS", r#"{"tolerance":3,"nodes":[{"id":1}]}"#),
            ("PING", "+PONG"),
        ] {
            peer.expect(request).await;
            peer.send(format!("{reply}\n")).await;
        }
        peer.expect_end().await;
    })
    .await;
    let mut client = client(&addr).await;
    client.set("1", "hello world").await.unwrap();
    assert_eq!(client.get("1").await.unwrap().as_deref(), Some(&b"hello world"[..]));
    assert_eq!(client.get("2").await.unwrap(), None);
    assert!(matches!(client.get("3").await, Err(Error::Refused { code, .. }) if code == "UNAVAILABLE"));
    assert_eq!(client.where_is("1").await.unwrap(), [NodeId(1), NodeId(3)]);
    assert_eq!(client.where_is("2").await.unwrap(), []);
    assert_eq!(client.count().await.unwrap(), 9000);
    assert_eq!(client.status().await.unwrap()["nodes"][0]["id"], 1);
    client.ping().await.unwrap();
    drop(client);
    server.await.unwrap();
}

#[tokio::test]
async fn a_connection_pipelines_and_keeps_the_order() {
    let (addr, server) = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        for n in 0..100 {
            peer.expect(&format!("GET {n}")).await;
        }
        for n in 0..100 {
            peer.send(format!("VALUE {n}\n")).await;
        }
    })
    .await;
    let mut connection = Connection::open(&addr, AMPLE).await.unwrap();
    for n in 0..100 {
        connection.send(&Command::Get(n.to_string().parse().unwrap())).unwrap();
    }
    connection.flush().await.unwrap();
    let (_sender, mut receiver) = connection.split();
    for n in 0..100 {
        assert_eq!(receiver.next_reply().await.unwrap(), ReplyLine::Value(n.to_string().into()));
    }
    assert!(matches!(receiver.next_reply().await, Err(Error::Closed)));
    server.await.unwrap();
}

proptest! {
    #[test]
    fn replies_may_be_split_at_any_byte(
        messages in proptest::collection::vec("[a-z\r ]{0,20}", 1..6),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
    ) {
        let mut bytes = BytesMut::new();
        for message in &messages {
            encode_reply(&Reply::Value(Bytes::copy_from_slice(message.as_bytes())), &mut bytes);
            encode_reply(&Reply::Done, &mut bytes);
            encode_reply(&Reply::Refused(Refusal::NotFound), &mut bytes);
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut replies = Replies::default();
        let mut all = Vec::new();
        for piece in cuts.windows(2) {
            replies.bytes.extend_from_slice(&bytes[piece[0]..piece[1]]);
            all.extend(std::iter::from_fn(|| replies.next()));
        }
        prop_assert_eq!(all.len(), 3 * messages.len());
        for (message, three) in messages.iter().zip(all.chunks(3)) {
            prop_assert_eq!(&three[0], &ReplyLine::Value(Bytes::copy_from_slice(message.as_bytes())));
            prop_assert_eq!(&three[1], &ReplyLine::Ok);
            let refused = matches!(&three[2], ReplyLine::Error { code, .. } if code == "NOT_FOUND");
            prop_assert!(refused);
        }
    }
}

#[tokio::test]
async fn a_late_answer_is_given_to_nobody() {
    let (addr, server) = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        peer.expect("SET 1 a").await;
        peer.expect_end().await;
    })
    .await;
    let mut client =
        Client::connect_with(&addr, Options { timeout: Duration::from_millis(20), tls: None }).await.unwrap();
    let error = client.set("1", "a").await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert_eq!(error.certainty(), Certainty::Maybe);
    assert_unusable(client.get("2").await);
    assert_unusable(client.batch().get("2").run().await);
    assert_unusable(client.check());
    drop(client);
    server.await.unwrap();
}

#[tokio::test]
async fn a_dropped_call_leaves_the_connection_unusable() {
    let (addr, server) = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        peer.expect("GET 1").await;
        peer.send("VALUE one\n").await;
        peer.expect_end().await;
    })
    .await;
    let mut client = client(&addr).await;
    tokio::select! {
        biased;
        _ = client.get("1") => panic!("the server has not even accepted yet"),
        () = async {} => {}
    }
    assert_unusable(client.get("2").await);
    drop(client);
    // The request may or may not have left before the call was dropped.
    server.abort();
}

#[tokio::test]
async fn an_answer_that_does_not_fit_ends_the_use() {
    let (addr, server) = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        peer.expect("GET 1").await;
        peer.send("220 mail.example ready\n").await;
        peer.expect_end().await;
        let mut peer = listener.accept().await;
        peer.expect("SET 1 a").await;
        peer.send("HTTP/1.1 400 Bad Request\n").await;
        peer.expect_end().await;
    })
    .await;
    let mut first = client(&addr).await;
    let error = first.get("1").await.unwrap_err();
    assert!(matches!(&error, Error::Protocol { got, .. } if got.starts_with("220")), "{error}");
    assert_unusable(first.set("1", "a").await);
    drop(first);
    // Who answers is known: no register has written anything.
    let mut second = client(&addr).await;
    let error = second.set("1", "a").await.unwrap_err();
    assert!(matches!(error, Error::NotALeader { .. }) && error.certainty() == Certainty::SurelyNot, "{error}");
    assert_unusable(second.set("1", "a").await);
    drop(second);
    server.await.unwrap();
}

#[tokio::test]
async fn busy_is_tried_again_and_nothing_else() {
    let (addr, server) = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        for reply in ["ERROR BUSY too much in flight", "ERROR BUSY too much in flight", "OK"] {
            peer.expect("SET 1 a").await;
            peer.send(format!("{reply}\n")).await;
        }
        for code in ["UNKNOWN", "TOO_FEW_NODES", "TOO_LARGE", "BAD_COMMAND", "A_NEW_ONE"] {
            peer.expect(&format!("SET 2 {code}")).await;
            peer.send(format!("ERROR {code} why\n")).await;
        }
        peer.expect("GET 3").await;
        peer.send("ERROR BUSY too much in flight\n").await;
        peer.expect_end().await;
    })
    .await;
    let mut client = client(&addr).await;
    client.set("1", "a").await.unwrap();
    for wanted in ["UNKNOWN", "TOO_FEW_NODES", "TOO_LARGE", "BAD_COMMAND", "A_NEW_ONE"] {
        let error = client.set("2", wanted).await.unwrap_err();
        assert!(matches!(&error, Error::Refused { code, .. } if code == wanted), "{error}");
    }
    assert!(matches!(client.get("3").await, Err(Error::Refused { code, .. }) if code == "BUSY"));
    drop(client);
    server.await.unwrap();
}

#[tokio::test]
async fn busy_is_not_tried_for_ever() {
    let (addr, server) = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        for _ in 0..=BUSY_RETRIES {
            peer.expect("SET 1 a").await;
            peer.send("ERROR BUSY too much in flight\n").await;
        }
        peer.expect("PING").await;
        peer.send("+PONG\n").await;
    })
    .await;
    let mut client = client(&addr).await;
    let error = client.set("1", "a").await.unwrap_err();
    assert!(matches!(&error, Error::Refused { code, .. } if code == "BUSY"), "{error}");
    client.ping().await.unwrap();
    server.await.unwrap();
}

#[tokio::test]
async fn busy_before_hanging_up_stays_surely_not() {
    let (addr, server) = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        peer.expect("SET 1 a").await;
        peer.send("ERROR BUSY too many connections\n").await;
    })
    .await;
    let mut client = client(&addr).await;
    let error = client.set("1", "a").await.unwrap_err();
    assert!(matches!(&error, Error::Refused { code, .. } if code == "BUSY"), "{error}");
    assert_eq!(error.certainty(), Certainty::SurelyNot);
    assert_unusable(client.set("1", "a").await);
    server.await.unwrap();
}

#[tokio::test]
async fn a_greeting_that_refuses_is_told() {
    let (addr, server) = serve(async |listener: Listener| {
        listener.accept().await.send("ERROR BUSY too many connections\n").await;
    })
    .await;
    let mut client = client(&addr).await;
    server.await.unwrap();
    client.connection.receiver.wait_readable().await;
    let error = client.set("1", "a").await.unwrap_err();
    assert!(matches!(&error, Error::Refused { code, .. } if code == "BUSY"), "{error}");
    assert_unusable(client.get("1").await);
}

#[tokio::test]
async fn a_closed_connection_is_noticed_before_anything_is_sent() {
    let (addr, server) = serve(async |listener: Listener| drop(listener.accept().await)).await;
    let mut client = client(&addr).await;
    server.await.unwrap();
    client.connection.receiver.wait_readable().await;
    assert_unusable(client.set("1", "a").await);
}

#[tokio::test]
async fn a_connection_that_closes_on_a_request_may_have_done_it() {
    let (addr, server) = serve(async |listener: Listener| listener.accept().await.expect("SET 1 a").await).await;
    let mut client = client(&addr).await;
    let error = client.set("1", "a").await.unwrap_err();
    assert!(matches!(error, Error::Closed) && error.certainty() == Certainty::Maybe, "{error}");
    assert_unusable(client.ping().await);
    server.await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_a_line_is_never_sent() {
    let (addr, server) = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        peer.expect("PING").await;
        peer.send("+PONG\n").await;
        peer.expect_end().await;
    })
    .await;
    let mut client = client(&addr).await;
    assert!(matches!(client.set("1", "a\nb").await, Err(Error::MessageHasLineBreak)));
    assert!(matches!(client.add_peer(4, "h:1\nFLUSHALL").await, Err(Error::MessageHasLineBreak)));
    assert!(matches!(client.set("a b", "x").await, Err(Error::BadId { .. })));
    assert!(matches!(client.get("").await, Err(Error::BadId { .. })));
    let batch = client.batch().set("1", "a").set("2", "x\n").get("a\nGET b");
    assert!(matches!(batch.run().await, Err(Error::MessageHasLineBreak)), "the first that is wrong is told");
    client.ping().await.unwrap();
    drop(client);
    server.await.unwrap();
}

#[tokio::test]
async fn messages_come_back_byte_for_byte() {
    let (addr, server) = register().await;
    let mut client = client(&addr).await;
    for message in [&b""[..], b"\r", b"x\r", b"x\r\r", b" two  blanks ", b"\xff\x00\x1b[2J", b"-"] {
        client.set("1", message).await.unwrap();
        assert_eq!(client.get("1").await.unwrap().as_deref(), Some(message));
    }
    drop(client);
    server.await.unwrap();
}

#[tokio::test]
async fn a_batch_is_answered_in_order() {
    let (addr, server) = register().await;
    let mut client = client(&addr).await;
    assert_eq!(client.batch().run().await.unwrap(), []);
    let too_large = vec![b'x'; (1 << 20) + 1];
    let batch = client.batch().get("1").set("1", "a").get("1").set("1", too_large).set("1", "b\r").get("1");
    assert_eq!(batch.len(), 6);
    let answers = batch.run().await.unwrap();
    assert_eq!(answers[..3], [Answer::NotFound, Answer::Stored, Answer::Value("a".into())]);
    assert!(matches!(&answers[3], Answer::Refused { code, .. } if code == "TOO_LARGE"));
    assert_eq!(answers[3].certainty(), Some(Certainty::SurelyNot));
    assert_eq!(answers[4..], [Answer::Stored, Answer::Value("b\r".into())]);
    client.ping().await.unwrap();
    drop(client);
    server.await.unwrap();
}

#[tokio::test]
async fn a_batch_larger_than_all_buffers_does_not_deadlock() {
    // The server reads nothing while it writes, so whoever writes all before reading is stuck.
    const MESSAGES: usize = 2000;
    let (addr, server) = register().await;
    let mut client = client(&addr).await;
    let message = Bytes::from(vec![b'x'; 16 * 1024]);
    let mut batch = client.batch();
    for n in 0..MESSAGES {
        let id = n.to_string();
        batch = batch.set(&id, message.clone()).get(&id);
    }
    let answers = batch.run().await.unwrap();
    assert_eq!(answers.len(), 2 * MESSAGES);
    for pair in answers.chunks(2) {
        assert_eq!(pair, [Answer::Stored, Answer::Value(message.clone())]);
    }
    drop(client);
    server.await.unwrap();
}

#[tokio::test]
async fn a_batch_that_breaks_may_have_happened() {
    let (addr, server) = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        peer.expect("SET 1 a").await;
        peer.expect("SET 2 b").await;
        peer.send("OK\n").await;
    })
    .await;
    let mut client = client(&addr).await;
    let error = client.batch().set("1", "a").set("2", "b").run().await.unwrap_err();
    assert!(matches!(error, Error::Closed) && error.certainty() == Certainty::Maybe, "{error}");
    assert_unusable(client.ping().await);
    server.await.unwrap();
}

#[test]
fn every_code_has_its_certainty() {
    for (code, certainty) in [
        ("BAD_COMMAND", Certainty::SurelyNot),
        ("TOO_LARGE", Certainty::SurelyNot),
        ("TOO_FEW_NODES", Certainty::SurelyNot),
        ("BUSY", Certainty::SurelyNot),
        ("UNKNOWN", Certainty::Maybe),
        ("A_CODE_OF_TOMORROW", Certainty::Maybe),
    ] {
        let error = Error::Refused { code: code.to_owned(), explanation: String::new() };
        assert_eq!(error.certainty(), certainty, "{code}");
    }
    let text = Error::Refused { code: "NEW".to_owned(), explanation: "why".to_owned() }.to_string();
    assert_eq!(text, "NEW: why; a write may have happened: read the id before you write it again");
}

#[tokio::test]
async fn nobody_there_is_told_with_what_to_do() {
    let addr = nobody().await;
    let error = Client::connect(&addr).await.unwrap_err();
    assert_eq!(error.certainty(), Certainty::SurelyNot);
    assert_eq!(
        error.to_string(),
        format!(
            "cannot reach {addr} (connection refused): is the leader running, and is that its address? name another with --addr HOST:PORT or HATOKUSE_ADDR; to try one on this machine: hatokuse leader --local-nodes 4"
        )
    );
    let error = Client::connect("no port").await.unwrap_err();
    assert!(error.to_string().contains("HOST:PORT"), "{error}");
}

#[tokio::test]
async fn verify_gives_findings_as_they_come_and_the_sum() {
    let (addr, server) = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        peer.expect("VERIFY").await;
        peer.send("COPY a 1 MISSING expires 2026-11-30T12:00:00.000Z\nNODE 2 UNKNOWN copies=1\n").await;
        peer.send("VERIFIED messages=2 intact=2 bad=1 unknown=1\n").await;
        peer.expect("DEL a").await;
        peer.send("OK\n").await;
        peer.expect("DRAIN 3").await;
        peer.send("ERROR TOO_FEW_NODES need 3 live nodes, have 2\n").await;
        peer.expect("REBALANCE STOP").await;
        peer.send("OK\n").await;
        peer.expect("PEERS").await;
        peer.send("{\"me\":1}\n").await;
        peer.expect("HANDOVER 2").await;
        peer.send("ERROR UNAVAILABLE peer 2 cannot be reached; nothing was changed\n").await;
        peer.expect("PEER ADD 4 h:5560").await;
        peer.send("OK\n").await;
        peer.expect("PEER REMOVE 2").await;
        peer.send("OK\n").await;
    })
    .await;
    let mut client = client(&addr).await;
    let mut found = Vec::new();
    let verified = client.verify(|finding| found.push(finding)).await.unwrap();
    assert_eq!(verified, Verified { messages: 2, intact: 2, bad: 1, unknown: 1 });
    let (fault, expires) = (CopyFault::Missing, crate::types::Deadline::at(1_796_040_000_000));
    let missing = Finding::Copy { id: "a".parse().unwrap(), node: NodeId(1), fault, expires };
    assert_eq!(found, [missing, Finding::Away { node: NodeId(2), copies: 1 }]);
    client.delete("a").await.unwrap();
    let refused = client.drain(NodeId(3), true).await.unwrap_err();
    assert_eq!(refused.certainty(), Certainty::SurelyNot);
    client.rebalance(false).await.unwrap();
    assert_eq!(client.peers().await.unwrap()["me"], 1);
    let refused = client.hand_over(Some(2)).await.unwrap_err();
    assert_eq!(refused.certainty(), Certainty::SurelyNot);
    client.add_peer(4, "h:5560").await.unwrap();
    client.remove_peer(2).await.unwrap();
    server.await.unwrap();
}
