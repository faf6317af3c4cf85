use tokio::task::JoinHandle;

use super::super::tests::{Listener, Peer, nobody, serve};
use super::super::{Answer, Certainty};
use super::*;

/// Long enough that no test depends on it.
const AMPLE: Duration = Duration::from_secs(60);

const NO_LEADER: &str =
    "ERROR UNAVAILABLE no leader: peers 1 of 1,2,3 can be reached; nothing was written, try again\n";

/// Takes a connection of one of several addresses, which proves that it answers.
async fn accept(listener: &Listener) -> Peer {
    let mut peer = listener.accept().await;
    peer.expect("PING").await;
    peer.send("+PONG\n").await;
    peer
}

async fn client(all: &[&str]) -> Client {
    Client::builder().timeout(AMPLE).connect(&all.join(",")).await.unwrap()
}

/// A server that answers each of these requests so, on one connection, and closes it.
async fn answers(all: &'static [(&str, &str)]) -> (String, JoinHandle<()>) {
    serve(async move |listener: Listener| {
        let mut peer = accept(&listener).await;
        for (request, reply) in all {
            peer.expect(request).await;
            peer.send(reply).await;
        }
    })
    .await
}

#[tokio::test]
async fn the_first_that_answers_is_used() {
    let standby = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        peer.expect("PING").await;
        peer.send(NO_LEADER).await;
    });
    let ((lost, standby), gone) = (standby.await, nobody().await);
    let (good, server) = answers(&[("GET 1", "VALUE a\n")]).await;
    let mut client = client(&[&gone, &lost, &good, &gone]).await;
    assert_eq!(client.address(), good);
    assert_eq!(client.get("1").await.unwrap().unwrap(), "a");
    standby.await.unwrap();
    server.await.unwrap();
}

#[tokio::test]
async fn where_none_answers_all_are_named() {
    let (lost, standby) = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        peer.expect("PING").await;
        peer.send(NO_LEADER).await;
    })
    .await;
    // It takes the connection, and says nothing.
    let (silent, quiet) = serve(async |listener: Listener| {
        let mut peer = listener.accept().await;
        peer.expect("PING").await;
        peer.expect_end().await;
    })
    .await;
    let gone = nobody().await;
    let all = format!("{gone},{silent},{lost}");
    let error = Client::builder().timeout(Duration::from_millis(500)).connect(&all).await.unwrap_err();
    assert_eq!(error.certainty(), Certainty::SurelyNot);
    let said = error.to_string();
    let no_leader = "no leader: peers 1 of 1,2,3 can be reached";
    for part in [
        format!("{gone} (connection refused)"),
        format!("{silent} (no answer within "),
        format!("{lost} ({no_leader}); nothing was written"),
    ] {
        assert!(said.contains(&part), "{part} in {said}");
    }
    standby.await.unwrap();
    quiet.await.unwrap();
}

#[tokio::test]
async fn what_was_not_sent_goes_to_the_next_by_itself() {
    let (first, one) = answers(&[("SET 1 a", "OK\n")]).await;
    let (second, other) = answers(&[("SET 1 b", "OK\n"), ("SET 1 c", "OK\n")]).await;
    let mut client = client(&[&first, &second]).await;
    client.set("1", "a").await.unwrap();
    one.await.unwrap();
    client.connection.receiver.wait_end().await;
    client.set("1", "b").await.unwrap();
    assert_eq!(client.address(), second);
    let answers = client.batch().set("1", "c").run().await.unwrap();
    assert_eq!(answers, [Answer::Stored]);
    other.await.unwrap();
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_never_sent_again() {
    let (first, one) = answers(&[("SET 1 a", "")]).await;
    let (second, other) = answers(&[("GET 1", "VALUE a\n"), ("SET 1 b", "")]).await;
    let mut client = client(&[&first, &second]).await;
    let error = client.set("1", "a").await.unwrap_err();
    assert!(matches!(error, Error::Closed) && error.certainty() == Certainty::Maybe, "{error}");
    one.await.unwrap();
    assert_eq!(client.get("1").await.unwrap().unwrap(), "a");
    assert!(matches!(client.set("1", "b").await, Err(Error::Closed)));
    other.await.unwrap();
}

#[tokio::test]
async fn a_read_whose_answer_is_lost_is_asked_elsewhere() {
    let (first, one) = answers(&[("GET 1", "")]).await;
    let (second, other) = answers(&[("GET 1", "VALUE a\n"), ("GET 2", "")]).await;
    let mut client = client(&[&first, &second]).await;
    assert_eq!(client.get("1").await.unwrap().unwrap(), "a");
    one.await.unwrap();
    // Nobody is left.
    let error = client.get("2").await.unwrap_err();
    assert!(matches!(&error, Error::NoneAnswers { tried } if tried.len() == 2), "{error}");
    other.await.unwrap();
}

#[tokio::test]
async fn a_standby_that_loses_its_leader_is_left_for_another() {
    let (first, one) = answers(&[("SET 1 a", NO_LEADER)]).await;
    let (second, other) = answers(&[("SET 1 a", "OK\n")]).await;
    let mut client = client(&[&first, &second]).await;
    client.set("1", "a").await.unwrap();
    assert_eq!(client.address(), second);
    one.await.unwrap();
    other.await.unwrap();
}

#[tokio::test]
async fn who_has_logged_in_does_so_everywhere() {
    let (first, one) = answers(&[("AUTH ali s3cret", "OK\n")]).await;
    let (second, other) = answers(&[("AUTH ali s3cret", "OK\n"), ("GET 1", "VALUE a\n")]).await;
    let mut client = client(&[&first, &second]).await;
    client.authenticate_as("ali", "s3cret").await.unwrap();
    assert_eq!(client.get("1").await.unwrap().unwrap(), "a");
    one.await.unwrap();
    other.await.unwrap();
}

#[tokio::test]
async fn with_one_address_nothing_is_proved_and_nothing_sent_again() {
    let (addr, server) = serve(async |listener: Listener| {
        listener.accept().await.expect("GET 1").await;
    })
    .await;
    let mut client = client(&[&addr]).await;
    assert!(matches!(client.get("1").await, Err(Error::Closed)));
    assert!(matches!(client.get("1").await, Err(Error::Unusable { .. })));
    server.await.unwrap();
}
