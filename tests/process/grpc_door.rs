//! The gRPC door has the bounds of the text door: password, room, stop, long messages.

use std::time::Duration;

use hatokuse::wire::family::family_service_client::FamilyServiceClient;
use hatokuse::wire::family::{self, ChatMessage, Empty, GetRequest, StoreRequest, ToNode};
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Register, eventually, folder, tell, tells};

type Client = FamilyServiceClient<Channel>;

async fn connect(addr: &str) -> Client {
    FamilyServiceClient::connect(format!("http://{addr}")).await.unwrap()
}

fn storing(message_id: i32, body: Vec<u8>) -> StoreRequest {
    StoreRequest { chat_message: Some(ChatMessage { message_id, body: body.into(), ..Default::default() }), ttl_ms: 0 }
}

fn by_number(message_id: i32) -> GetRequest {
    GetRequest { message_id, ..Default::default() }
}

fn by_name(id: &str) -> GetRequest {
    GetRequest { id: id.to_owned(), ..Default::default() }
}

#[test]
fn a_password_guards_this_door_too() {
    let home = folder();
    std::fs::write(home.path().join("password"), "open sesame\n").unwrap();
    std::fs::write(home.path().join("tolerance.conf"), "tolerance=1\n").unwrap();
    let file = home.path().join("password");
    let args = ["leader", "--port", "0", "--grpc-port", "0", "--local-nodes", "1", "--password-file"];
    let args: Vec<&str> = args.into_iter().chain(file.to_str()).collect();
    let leader = crate::support::Server::start(home.path(), &args);
    let ready = leader.says("leader ready");
    let addr = ready.split("nodes=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    // Nodes are no clients.
    leader.says("node 1 joined");
    tell(async {
        let mut client = connect(&addr).await;
        let with = |name: &'static str, value: &str| {
            let mut request = Request::new(storing(1, b"x".to_vec()));
            request.metadata_mut().insert(name, value.parse().unwrap());
            request
        };
        let refused = client.store_message(storing(1, b"x".to_vec())).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        tells(refused.message(), &["NOAUTH", "authorization: Bearer", "nothing was done"]);
        for request in [with("password", "open"), with("authorization", "open sesame")] {
            assert_eq!(client.store_message(request).await.unwrap_err().code(), Code::Unauthenticated);
        }
        let get = client.get_message(by_number(1)).await.unwrap_err();
        let list = client.list_messages(Empty {}).await.unwrap_err();
        let nodes = client.list_nodes(Empty {}).await.unwrap_err();
        assert!([get, list, nodes].iter().all(|refused| refused.code() == Code::Unauthenticated));
        for request in [with("authorization", "Bearer open sesame"), with("password", "open sesame")] {
            let stored = client.store_message(request).await.unwrap().into_inner();
            assert!(stored.success, "{stored:?}");
        }
    });
}

#[test]
fn what_a_client_gave_up_takes_its_room_until_it_is_decided() {
    const BYTES: usize = 512 << 10;
    let register = Register::with(1, 1, folder(), |builder| builder.leader_args(["--http-port", "0"]));
    register.set("1", "x");
    register.pause_node(1).unwrap();
    let in_flight = || {
        let mut wire = register.wire();
        wire.send("*2\r\n$4\r\nINFO\r\n$6\r\nmemory\r\n");
        loop {
            if let Some(bytes) = wire.line().trim().strip_prefix("in_flight_bytes:") {
                return bytes.parse::<usize>().unwrap();
            }
        }
    };
    tell(async {
        let client = connect(register.grpc_addr()).await;
        let calls = (0..8).map(|n| {
            let mut client = client.clone();
            let mut request = Request::new(storing(n, vec![b'x'; BYTES]));
            request.set_timeout(Duration::from_secs(2));
            async move { client.store_message(request).await }
        });
        let ended = futures::future::join_all(calls).await;
        assert!(ended.iter().all(Result::is_err), "their node stands still");
    });
    // Those that came to the leader in time.
    assert!(in_flight() >= BYTES, "{}", in_flight());
    register.resume_node(1).unwrap();
    eventually("all of it to be decided", || (in_flight() == 0).then_some(()));
}

#[test]
fn a_stop_is_told_first_and_finishes_what_is_under_way() {
    let mut register = Register::start(1, 1);
    register.set("1", "x");
    tell(async {
        let mut client = connect(register.grpc_addr()).await;
        let channel =
            Channel::from_shared(format!("http://{}", register.grpc_addr())).unwrap().connect().await.unwrap();
        let service = "family.FamilyService".to_owned();
        let request = tonic_health::pb::HealthCheckRequest { service };
        let mut watch = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
        while watch.message().await.unwrap().unwrap().status() != ServingStatus::Serving {}
        register.pause_node(1).unwrap();
        let mut writer = client.clone();
        let write = tokio::spawn(async move { writer.store_message(storing(7, b"late".to_vec())).await });
        // It is under way when one after it can be told of.
        tokio::time::sleep(Duration::from_millis(200)).await;
        register.signal_leader(rustix::process::Signal::TERM).unwrap();
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        let refused = client.store_message(storing(8, b"more".to_vec())).await.unwrap().into_inner();
        assert!(refused.error.starts_with("UNAVAILABLE the leader stops"), "{refused:?}");
        register.resume_node(1).unwrap();
        let stored = write.await.unwrap().unwrap().into_inner();
        assert!(stored.success, "{stored:?}");
    });
    eventually("its end", || (!register.leader_is_running()).then_some(()));
    register.start_leader().unwrap();
    register.wait_up(1).unwrap();
    assert_eq!(register.get("7"), "late");
}

#[test]
fn long_messages_are_read_by_everybody() {
    let register = Register::with(1, 1, folder(), |builder| builder.leader_args(["--max-message", "64MiB"]));
    tell(async {
        let mut client = connect(register.grpc_addr()).await.max_encoding_message_size(usize::MAX);
        // Whoever has the usual limit of 4 MiB.
        for length in [1 << 20, (1 << 20) + 1, 2_200_000, 3 << 20] {
            let stored = client.store_message(storing(5, vec![b'x'; length])).await.unwrap().into_inner();
            assert!(stored.success, "{stored:?}");
            let text = client.get_message(by_number(5)).await.unwrap().into_inner().chat_message.unwrap();
            let bytes = client.get_message(by_name("5")).await.unwrap().into_inner().chat_message.unwrap();
            assert_eq!((text.message.len(), bytes.body.len()), (length, length));
        }
        let mut client = client.max_decoding_message_size(usize::MAX);
        let stored = client.store_message(storing(6, vec![b'y'; 16 << 20])).await.unwrap().into_inner();
        assert!(stored.success, "{stored:?}");
        let got = client.get_message(by_name("6")).await.unwrap().into_inner().chat_message.unwrap();
        assert!(got.body.len() == 16 << 20 && got.message.is_empty());
        // What is longer than a request may be is not even read.
        let refused = client.store_message(storing(6, vec![b'y'; 66 << 20])).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange);
    });
}

#[test]
fn what_the_originals_schema_cannot_say_is_refused() {
    let register = Register::start(1, 1);
    tell(async {
        let mut client = connect(register.grpc_addr()).await;
        for (id, body) in [(6, b"\xff\xfe".to_vec()), (7, Vec::new())] {
            assert!(client.store_message(storing(id, body)).await.unwrap().into_inner().success);
        }
        let refused = client.get_message(by_number(6)).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        tells(refused.message(), &["no UTF-8", "`body`"]);
        let got = client.get_message(by_name("6")).await.unwrap().into_inner().chat_message.unwrap();
        assert_eq!(&got.body[..], b"\xff\xfe");
        let got = client.get_message(by_number(7)).await.unwrap().into_inner();
        assert!(got.found && got.chat_message.unwrap().message.is_empty());
        // Forms that say different things.
        let message = |message_id, id: &str, text: &str, body: &'static [u8]| {
            let (id, message) = (id.to_owned(), text.to_owned());
            let message = ChatMessage { message_id, id, message, body: body.into(), ..Default::default() };
            StoreRequest { chat_message: Some(message), ttl_ms: 0 }
        };
        for request in [message(1, "2", "x", b""), message(1, "", "x", b"y")] {
            assert_eq!(client.store_message(request).await.unwrap_err().code(), Code::InvalidArgument);
        }
        let several = GetRequest { message_id: 1, id: "2".to_owned(), ..Default::default() };
        assert_eq!(client.get_message(several).await.unwrap_err().code(), Code::InvalidArgument);
        assert!(client.store_message(message(1, "1", "x", b"x")).await.unwrap().into_inner().success);
        assert_eq!(register.get("1"), "x");
    });
}

#[test]
fn a_list_gives_everything_once_however_long_it_is() {
    let register = Register::start(2, 2);
    register.fill("m", 5000, "x");
    tell(async {
        let mut client = connect(register.grpc_addr()).await;
        let mut listed = client.list_messages(Empty {}).await.unwrap().into_inner();
        let mut ids = std::collections::BTreeSet::new();
        while let Some(message) = listed.message().await.unwrap() {
            assert!(message.body.starts_with(b"x ") && ids.insert(message.id));
        }
        assert_eq!(ids.len(), 5000);
    });
}

#[test]
fn reflection_knows_health() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let register = Register::start(1, 1);
    tell(async {
        let channel =
            Channel::from_shared(format!("http://{}", register.grpc_addr())).unwrap().connect().await.unwrap();
        let symbol = MessageRequest::FileContainingSymbol("grpc.health.v1.Health".to_owned());
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(symbol) };
        let asked = tokio_stream::once(request);
        let mut told = ServerReflectionClient::new(channel).server_reflection_info(asked).await.unwrap().into_inner();
        let told = told.message().await.unwrap().unwrap().message_response.unwrap();
        assert!(matches!(told, MessageResponse::FileDescriptorResponse(_)), "{told:?}");
    });
}

#[test]
fn a_stranger_on_a_nodes_lane_commands_nothing() {
    let register = Register::start(1, 1);
    register.set("1", "x");
    let address = register.status().unwrap()["nodes"][0]["address"].as_str().unwrap().to_owned();
    let fence = family::Fence { cluster_id: vec![7; 16].into(), epoch: 9, run: 1, session: 1 };
    let write = family::to_node::Body::Write(family::WriteBatch::default());
    let frames = (0..100).map(|seq| ToNode { fence: Some(fence.clone()), seq, body: Some(write.clone()) });
    tell(async {
        let mut node = connect(&address).await;
        let mut answers = node.lane(tokio_stream::iter(frames.collect::<Vec<_>>())).await.unwrap().into_inner();
        match answers.message().await.unwrap().unwrap().body.unwrap() {
            family::from_node::Body::Fenced(fenced) => tells(&fenced.reason, &["ahead of the Hello"]),
            other => panic!("{other:?}"),
        }
        assert!(answers.message().await.unwrap().is_none(), "the lane ends");
    });
    register.set("1", "y");
}

/// Answers that nobody takes, at the leader's door and at a node's: others are served.
#[test]
fn answers_that_nobody_takes_leave_room_for_those_of_others() {
    let register = Register::with(1, 1, folder(), |builder| builder.leader_args(["--cache", "0"]));
    let body = "x".repeat(1_000_000);
    register.fill("m", 20, &body);
    let said = register.node_stderr(1);
    let node = said.split("ready grpc=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    for addr in [register.grpc_addr(), &node] {
        tell(async {
            let mut untaken = Vec::new();
            for _ in 0..3 {
                let mut client = connect(addr).await;
                for _ in 0..60 {
                    // It has no window for more than the first of them.
                    untaken.extend(client.list_messages(Empty {}).await.ok());
                }
                untaken.extend(client.list_messages(Empty {}).await.ok());
            }
            let mut honest = connect(addr).await;
            for round in 0..3 {
                for n in 0..20 {
                    let found = honest.get_message(by_name(&format!("m{n}"))).await;
                    let found = found.unwrap_or_else(|error| panic!("{addr}, round {round}: {error}")).into_inner();
                    assert_eq!(found.chat_message.unwrap().body.len(), body.len() + 1 + n.to_string().len());
                }
            }
            drop(untaken);
        });
    }
    register.check("m", 20, &body);
}
