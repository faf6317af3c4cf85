//! Contract section 5, with the generated client.

use std::collections::BTreeSet;

use hatokuse::wire::family::family_service_client::FamilyServiceClient;
use hatokuse::wire::family::{ChatMessage, Empty, GetRequest, NodeInfo, StoreRequest, StoreResponse};
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::resp::Redis;
use crate::support::{Register, code, eventually, folder, tell, tells, visible};

type Client = FamilyServiceClient<Channel>;

async fn connect(addr: &str) -> Client {
    FamilyServiceClient::connect(format!("http://{addr}")).await.unwrap()
}

/// A message as the original's programs send it.
fn numbered(message_id: i32, message: &str) -> ChatMessage {
    ChatMessage { message_id, message: message.to_owned(), ..Default::default() }
}

fn named(id: &str, body: &'static [u8]) -> ChatMessage {
    ChatMessage { id: id.to_owned(), body: body.into(), ..Default::default() }
}

async fn store(client: &mut Client, message: ChatMessage) -> StoreResponse {
    client.store_message(StoreRequest { chat_message: Some(message), ttl_ms: 0 }).await.unwrap().into_inner()
}

fn by_number(message_id: i32) -> GetRequest {
    GetRequest { message_id, ..Default::default() }
}

fn by_name(id: &str) -> GetRequest {
    GetRequest { id: id.to_owned(), ..Default::default() }
}

async fn all<T>(mut stream: Streaming<T>) -> Vec<T> {
    let mut items = Vec::new();
    while let Some(item) = stream.message().await.unwrap() {
        items.push(item);
    }
    items
}

fn ids(nodes: &[NodeInfo]) -> Vec<i32> {
    nodes.iter().map(|node| node.node_id).collect()
}

#[test]
fn the_leader_speaks_the_originals_calls() {
    let register = Register::start(3, 2);
    tell(async {
        let mut leader = connect(register.grpc_addr()).await;
        let stored = store(&mut leader, numbered(42, "merhaba")).await;
        assert!(stored.success && stored.error.is_empty(), "{stored:?}");
        let holders: Vec<i32> = register.holders("42").iter().map(|&id| id as i32).collect();
        assert_eq!(ids(&stored.stored_nodes), holders);
        assert!(stored.stored_nodes.iter().all(|node| node.address.contains(':')));
        assert_eq!(register.get("42"), "merhaba");

        let got = leader.get_message(by_number(42)).await.unwrap().into_inner();
        let message = got.chat_message.unwrap();
        assert!(got.found);
        assert_eq!((message.message_id, message.message.as_str(), &message.body[..]), (42, "merhaba", &b"merhaba"[..]));
        assert_eq!(ids(&got.nodes), holders);
        let missing = leader.get_message(by_number(43)).await.unwrap().into_inner();
        assert!(!missing.found && missing.chat_message.is_none(), "{missing:?}");

        // Zero and negative numbers are ids as well; so is what only the text protocol wrote.
        for id in [0, -7, i32::MAX] {
            assert!(store(&mut leader, numbered(id, "edge")).await.success);
            assert_eq!(register.get(&id.to_string()), "edge");
        }
        register.set("word", "by text");
        let got = leader.get_message(by_name("word")).await.unwrap().into_inner();
        assert_eq!(got.chat_message.unwrap().body, "by text");
        assert_eq!(ids(&all(leader.list_nodes(Empty {}).await.unwrap().into_inner()).await), [1, 2, 3]);
        let mut seen: Vec<(String, String)> = all(leader.list_messages(Empty {}).await.unwrap().into_inner())
            .await
            .into_iter()
            .map(|message| (message.id, message.message))
            .collect();
        seen.sort();
        let wanted = [("-7", "edge"), ("0", "edge"), ("2147483647", "edge"), ("42", "merhaba"), ("word", "by text")];
        assert_eq!(seen, wanted.map(|(id, message)| (id.to_owned(), message.to_owned())));
    });
}

#[test]
fn text_ids_and_bytes_pass_through_grpc() {
    let register = Register::with(2, 2, folder(), |builder| builder.leader_args(["--max-message", "1KiB"]));
    tell(async {
        let mut leader = connect(register.grpc_addr()).await;
        assert!(store(&mut leader, named("a/b \u{fc}".replace(' ', "").as_str(), b"\xff\x00")).await.success);
        let got = leader.get_message(by_name("a/b\u{fc}")).await.unwrap().into_inner();
        let message = got.chat_message.unwrap();
        assert_eq!(
            (message.id.as_str(), &message.body[..], message.message.as_str()),
            ("a/b\u{fc}", &b"\xff\x00"[..], "")
        );
        // A message of several lines is read here, and only here.
        assert!(store(&mut leader, named("lines", b"one\nOK\n")).await.success);
        assert!(register.ask("GET lines").starts_with("ERROR NOT_A_LINE "));
        let got = leader.get_message(by_name("lines")).await.unwrap().into_inner();
        assert_eq!(got.chat_message.unwrap().body, "one\nOK\n");

        // Bad ids and sizes have their codes.
        for (message, code) in [
            (named("a b", b"x"), "BAD_COMMAND"),
            (named(&"x".repeat(1025), b"x"), "BAD_COMMAND"),
            (named("a\0", b"x"), "BAD_COMMAND"),
            (numbered(1, &"x".repeat(1025)), "TOO_LARGE"),
        ] {
            let refused = store(&mut leader, message).await;
            assert!(!refused.success && refused.error.starts_with(code), "{refused:?}");
        }
        let refused = leader.store_message(StoreRequest::default()).await.unwrap().into_inner();
        assert!(!refused.success && refused.error.starts_with("BAD_COMMAND"), "{refused:?}");
        let bad = leader.get_message(by_name("a b")).await.unwrap_err();
        assert_eq!(bad.code(), Code::InvalidArgument);
        assert!(store(&mut leader, numbered(1, &"x".repeat(1024))).await.success);
    });
}

#[test]
fn ids_of_any_bytes_are_kept_like_others() {
    let mut register = Register::start(2, 2);
    let longest = [0xff; 1024];
    let forger = b"x 1 MISSING\nOK";
    let keys: [&'static [u8]; 5] = [b"a b", forger, b"\0", b"\xc3\x28", longest.to_vec().leak()];
    let written = |key: &[u8]| [b"of ", key].concat();
    let wanted: BTreeSet<(Vec<u8>, Vec<u8>)> = keys.iter().map(|key| (key.to_vec(), written(key))).collect();
    let check = |register: &Register| {
        tell(async {
            let mut leader = connect(register.grpc_addr()).await;
            for key in keys {
                let request = GetRequest { key: key.into(), ..Default::default() };
                let got = leader.get_message(request).await.unwrap().into_inner();
                assert_eq!(got.chat_message.unwrap().body, written(key), "{key:?}");
            }
            let listed = all(leader.list_messages(Empty {}).await.unwrap().into_inner()).await;
            assert_eq!(listed.into_iter().map(|m| (m.key.to_vec(), m.body.to_vec())).collect::<BTreeSet<_>>(), wanted);
        });
    };
    tell(async {
        let mut leader = connect(register.grpc_addr()).await;
        for key in keys {
            let message = ChatMessage { key: key.into(), body: written(key).into(), ..Default::default() };
            assert!(store(&mut leader, message).await.success, "{key:?}");
        }
        let long = ChatMessage { key: vec![1; 1025].into(), ..Default::default() };
        assert!(store(&mut leader, long).await.error.starts_with("BAD_COMMAND"));
    });
    check(&register);
    // With its log a leader knows them from there, and without it from the nodes, which know them from their files.
    register.kill_leader().unwrap();
    register.start_leader().unwrap();
    register.wait_up(2).unwrap();
    check(&register);
    register.kill_leader().unwrap();
    (1..=2).for_each(|node| register.kill_node(node).unwrap());
    std::fs::remove_dir_all(register.metadata()).unwrap();
    register.start_leader().unwrap();
    register.start_nodes(&[1, 2]).unwrap();
    register.wait_up(2).unwrap();
    check(&register);
    let names = visible(&register.node_dir(1));
    assert!(names.contains("a%20b.txt") && names.contains("%00.txt") && names.contains("%C3%28.txt"), "{names:?}");
    // What names an id stays one line.
    std::fs::remove_file(register.copy(1, "x%201%20MISSING%0AOK")).unwrap();
    let mut wire = register.wire();
    assert_eq!(wire.ask("VERIFY"), "COPY x%201%20MISSING%0AOK 1 MISSING");
    assert!(wire.line().starts_with("VERIFIED messages=5 "));
}

#[test]
fn a_node_reads_for_anyone_and_writes_for_nobody() {
    let register = Register::start(2, 2);
    register.set("7", "seven");
    register.set("word", "text");
    let status = register.status().unwrap();
    let address = status["nodes"][0]["address"].as_str().unwrap().to_owned();
    tell(async {
        let mut node = connect(&address).await;
        let refused = store(&mut node, numbered(7, "overwritten")).await;
        assert!(!refused.success && refused.error.contains("only the leader writes"), "{refused:?}");
        let got = node.get_message(by_number(7)).await.unwrap().into_inner();
        assert!(got.found);
        assert_eq!(got.chat_message.unwrap().message, "seven");
        assert!(!node.get_message(by_number(8)).await.unwrap().into_inner().found);
        let messages = all(node.list_messages(Empty {}).await.unwrap().into_inner()).await;
        let mut seen: Vec<&str> = messages.iter().map(|message| message.message.as_str()).collect();
        seen.sort();
        assert_eq!(seen, ["seven", "text"]);
        // What was deleted is gone from here too, whatever the node keeps as proof of that.
        assert_eq!(register.ask("DEL 7"), "OK");
        let got = node.get_message(by_number(7)).await.unwrap().into_inner();
        assert!(!got.found && got.chat_message.is_none(), "{got:?}");
        let messages = all(node.list_messages(Empty {}).await.unwrap().into_inner()).await;
        assert_eq!(messages.iter().map(|message| message.id.as_str()).collect::<Vec<_>>(), ["word"]);
        let refused = node.register_node(hatokuse::wire::family::RegisterNodeRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
    });
}

#[test]
fn a_node_of_the_original_is_told_what_to_do() {
    let register = Register::start(1, 1);
    tell(async {
        let mut leader = connect(register.grpc_addr()).await;
        let info = NodeInfo { node_id: 9, address: "127.0.0.1:1".to_owned(), ..Default::default() };
        let request = hatokuse::wire::family::RegisterNodeRequest { node_info: Some(info), ..Default::default() };
        let answer = leader.register_node(request).await.unwrap().into_inner();
        assert!(!answer.success && answer.error.contains("run hatokuse node instead"), "{answer:?}");
    });
    assert_eq!(register.status().unwrap()["nodes"].as_array().unwrap().len(), 1);
}

#[test]
fn a_node_of_a_newer_format_is_told_to_wait_for_a_newer_leader() {
    let register = Register::start(1, 1);
    tell(async {
        let mut leader = connect(register.grpc_addr()).await;
        let info = NodeInfo { node_id: 9, address: "127.0.0.1:1".to_owned(), ..Default::default() };
        let format = hatokuse::wire::FORMAT + 1;
        let request =
            hatokuse::wire::family::RegisterNodeRequest { node_info: Some(info), format, ..Default::default() };
        let answer = leader.register_node(request).await.unwrap().into_inner();
        assert!(!answer.success && !answer.retry && answer.error.contains("upgrade the leader"), "{answer:?}");
    });
    assert_eq!(register.status().unwrap()["nodes"].as_array().unwrap().len(), 1);
}

#[test]
fn a_leader_that_may_not_speak_says_nothing_of_all_messages() {
    let mut register = Register::start(4, 2);
    register.fill("m", 20, "x");
    (3..=4).for_each(|node| register.kill_node(node).unwrap());
    // Two of four answer, and a leader from a copy of the log would make do with the others.
    eventually("the end of its lease", || (code(&register.ask("COUNT")) == "ERROR UNAVAILABLE").then_some(()));
    tells(&register.ask("VERIFY"), &["ERROR UNAVAILABLE", "nodes 3, 4", "nothing was checked"]);
    tells(&Redis::to(register.addr()).say("BACKUP BEGIN"), &["CLUSTERDOWN", "nodes 3, 4"]);
    tell(async {
        let mut leader = connect(register.grpc_addr()).await;
        let mut messages = leader.list_messages(Empty {}).await.unwrap().into_inner();
        let refused = messages.message().await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        tells(refused.message(), &["UNAVAILABLE", "nodes 3, 4", "try again"]);
    });
}
