use super::*;
use crate::leader::sentinel::Standby;
use crate::leader::sentinel::tests::{leaderless, view};

/// What a standby answers to these bytes, and what becomes of the connection.
fn said(view: impl Fn() -> View, bytes: &[u8]) -> (String, Flow) {
    let (mut talk, mut buffer, mut out) = (Talk::new(false), BytesMut::from(bytes), BytesMut::new());
    let flow = talk.answer(&mut buffer, &mut out, view);
    (String::from_utf8_lossy(&out).into_owned(), flow)
}

fn standby() -> View {
    view(2, Standby::Redirect, None)
}

fn request(line: &str) -> Vec<u8> {
    let words: Vec<&str> = line.split(' ').collect();
    let words = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect::<String>();
    format!("*{}\r\n{words}", line.split(' ').count()).into_bytes()
}

fn answer(line: &str) -> String {
    let (said, flow) = said(standby, &request(line));
    assert_eq!(flow == Flow::Close, line == "QUIT", "{line}");
    said.trim_end().replace("\r\n", " ")
}

const ELSEWHERE: &str = "this peer is a standby: peer 1 leads, clients go to h1:6666; nothing was written";

#[test]
fn lines_of_text_are_told_where_to_go() {
    let (said_, flow) = said(standby, b"SET a 1\nGET a\nNONSENSE\nPING\nAUTH x\n");
    assert_eq!((said_, flow), (format!("ERROR UNAVAILABLE {ELSEWHERE}\n").repeat(5), Flow::On));
    assert_eq!(said(standby, b"GET a\nEXIT\nGET a\n"), (format!("ERROR UNAVAILABLE {ELSEWHERE}\nBYE\n"), Flow::Close));
    let long = [b"SET a ", &[b'x'; 3 * LONGEST][..], b"\nGET a\n"].concat();
    assert_eq!(said(standby, &long).0, format!("ERROR UNAVAILABLE {ELSEWHERE}\n").repeat(2));
    let (none, _) = said(leaderless, b"GET a\n");
    assert_eq!(
        none,
        "ERROR UNAVAILABLE this peer is a standby, and no leader is known; nothing was written, try again\n"
    );
    assert_eq!(said(standby, b"POST / HTTP/1.1\r\n"), (String::new(), Flow::Close));
}

#[test]
fn what_has_to_do_with_messages_is_for_the_leader() {
    for line in
        ["SET a 1", "GET a", "MULTI", "EVAL x 0", "NONSENSE", "GET", "CLIENT KILL TYPE normal", "ACL LIST", "DRAIN 1"]
    {
        assert_eq!(answer(line), format!("-READONLY {ELSEWHERE}"), "{line}");
    }
    let (none, _) = said(leaderless, &request("SET a 1"));
    assert!(none.starts_with("-LOADING this peer is a standby, and no leader is known"), "{none}");
    let long =
        [&b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$100000\r\n"[..], &[b'x'; 100_000], b"\r\n", &request("PING")].concat();
    assert_eq!(said(standby, &long), (format!("-READONLY {ELSEWHERE}\r\n+PONG\r\n"), Flow::On));
    let many = [format!("*{}\r\n", 100_000).into_bytes(), "$1\r\na\r\n".repeat(20_000).into_bytes()].concat();
    assert_eq!(said(standby, &many), (format!("-READONLY {ELSEWHERE}\r\n"), Flow::Close));
}

#[test]
fn what_those_ask_who_look_for_the_leader_is_answered() {
    for (line, part) in [
        ("PING", "+PONG"),
        ("PING x", "$1 x"),
        ("SENTINEL get-master-addr-by-name main", "*2 $2 h1 $4 6666"),
        ("SENTINEL get-master-addr-by-name other", "*-1"),
        ("ROLE", "*5 $5 slave $2 h1 :6666 $9 connected :119"),
        ("AUTH user word", "+OK"),
        ("CLIENT SETNAME x", "+OK"),
        ("CLIENT SETINFO lib-name x", "+OK"),
        ("SELECT 0", "+OK"),
        ("SUBSCRIBE +switch-master", "*3 $9 subscribe $14 +switch-master :1"),
        ("RESET", "+RESET"),
        ("QUIT", "+OK"),
        ("COMMAND COUNT", ":"),
    ] {
        assert!(answer(line).starts_with(part), "{line}: {}", answer(line));
    }
    assert!(answer("INFO").contains("role:slave master_host:h1 ") && !answer("INFO").contains("# Sentinel"));
    assert!(answer("INFO replication").starts_with('$') && answer("INFO sentinel").contains("master0:name=main,"));
    assert!(
        answer("HELLO 3 AUTH user word SETNAME x").starts_with("%6 $6 server ")
            && answer("HELLO 4").starts_with("-NOPROTO")
    );
    assert!(answer("HELLO").contains("$4 role $7 replica"));
    // Version 2 reads messages once it has subscribed.
    let both = [request("SUBSCRIBE +switch-master"), request("ROLE"), request("PING")].concat();
    let (told, _) = said(standby, &both);
    assert!(told.contains("-ERR Can't execute 'role'") && told.ends_with("*2\r\n$4\r\npong\r\n$0\r\n\r\n"), "{told}");
    // A line of CR LF whose word only Redis knows.
    assert!(said(standby, b"info replication\r\n").0.contains("role:slave"));
}

#[test]
fn who_has_subscribed_is_told_when_another_one_leads() {
    let mut client = Client::new(false);
    let mut out = BytesMut::new();
    client.answer(&crate::leader::sentinel::tests::words("SUBSCRIBE +switch-master"), &mut out, &standby);
    out.clear();
    client.tell(&standby(), 3, &mut out);
    let told = String::from_utf8_lossy(&out).replace("\r\n", " ");
    assert_eq!(told, "*3 $7 message $14 +switch-master $21 main ::1 6668 h1 6666 ");
    out.clear();
    client.tell(&standby(), 1, &mut out);
    assert!(out.is_empty(), "the same one leads");
}
