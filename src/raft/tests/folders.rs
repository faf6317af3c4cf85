//! Who is who: emptied folders, other groups, founding.

use std::time::Duration;

use tokio::time::sleep;

use super::world::{World, address, texts};
use crate::durable::Disk;
use crate::durable::os::OsDisk;
use crate::durable::sim::MemDisk;
use crate::raft::Addresses;
use crate::raft::identity::Identity;
use crate::types::Uuid;

#[tokio::test(start_paused = true)]
async fn an_emptied_folder_is_refused_and_never_votes() {
    let mut world = World::founded(3).await;
    world.append("a").await;
    // By then the log says which folders there are.
    sleep(Duration::from_secs(2)).await;
    let leader = world.leader().await;
    let emptied = 1 + leader % 3;
    let third = 1 + emptied % 3;
    world.kill(emptied, None).await;
    world.start(emptied, MemDisk::new()).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    assert!(world.notes(emptied).is_empty() && !world.group(emptied).is_founded());
    let status = world.group(leader).status();
    let seen = status.peers.iter().find(|peer| peer.id == emptied).unwrap();
    assert!(seen.refuses.as_ref().is_some_and(|why| why.contains("forgotten its vote")), "{status:#?}");
    // The other two are a majority; with one of them gone the emptied one does not make another.
    world.append("b").await;
    world.kill(leader, None).await;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(world.group(third).leading().borrow().leads, None);
    world.restart(leader).await.unwrap();
    world.append("c").await;
    world.kill(emptied, None).await;
    assert_eq!(texts(&world.settled().await), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn an_emptied_peer_does_not_vote_before_the_log_knows_its_folder() {
    let mut world = World::empty(3).await;
    // Peer 3 is never heard of at the founding, so that nobody knows its folder.
    world.isolate(3, true);
    world.found().await;
    world.append("a").await;
    let leader = world.leader().await;
    world.kill(leader, None).await;
    world.isolate(3, false);
    sleep(Duration::from_secs(30)).await;
    for peer in (1..=3).filter(|peer| *peer != leader) {
        assert_eq!(world.group(peer).leading().borrow().leads, None);
    }
    world.restart(leader).await.unwrap();
    world.append("b").await;
    assert_eq!(texts(&world.settled().await), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_group_is_founded_once() {
    let mut world = World::founded(3).await;
    world.append("a").await;
    let peers = || (1..=3).map(|peer| (peer, address(peer))).collect();
    for peer in 1..=3 {
        let refused = world.group(peer).found(peers()).await.unwrap_err();
        assert!(refused.0.contains("there is a group already"), "{refused}");
        world.kill(peer, None).await;
        world.restart(peer).await.unwrap();
        assert!(world.group(peer).found(peers()).await.is_err(), "after a restart");
    }
    let others = [(2, address(2))].into();
    let lone = World::empty(1).await;
    assert!(lone.group(1).found(others).await.unwrap_err().0.contains("not among"));
    sleep(Duration::from_secs(60)).await;
    assert!(!lone.group(1).is_founded() && lone.group(1).leading().borrow().leads.is_none(), "nobody founds by itself");
}

#[tokio::test(start_paused = true)]
async fn nobody_founds_a_group_beside_another() {
    let mut world = World::founded(3).await;
    world.append("a").await;
    // It comes back without its folder, and is told to found as it was the first time.
    world.kill(1, None).await;
    world.start(1, MemDisk::new()).await.unwrap();
    let peers = || (1..=3).map(|peer| (peer, address(peer))).collect();
    let refused = world.group(1).found(peers()).await.unwrap_err();
    assert!(refused.0.contains("is of a group already") && !world.group(1).is_founded(), "{refused}");
    // One that answers is enough, and one that does not is not waited for.
    world.kill(2, None).await;
    assert!(world.group(1).found(peers()).await.is_err());
    world.kill(3, None).await;
    world.group(1).found(peers()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn peers_of_two_groups_do_not_mix() {
    let mut one = World::founded(3).await;
    let other = World::founded(3).await;
    one.append("a").await;
    other.append("b").await;
    // A peer of the other group in place of this one's.
    let disk = other.peers[&2].disk.after_kill();
    one.kill(2, None).await;
    let own = one.peers[&2].disk.clone();
    one.start(2, disk).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    one.append("c").await;
    assert!(!texts(&one.notes(2)).contains(&"a".to_owned()));
    one.kill(2, None).await;
    one.start(2, own).await.unwrap();
    assert_eq!(texts(&one.settled().await), ["a", "c"]);
}

#[tokio::test(start_paused = true)]
async fn senseless_messages_are_refused_and_end_nothing() {
    use prost::Message as _;

    use crate::raft::proto::{self, Request, request::Body};
    let world = World::empty(1).await;
    let bytes = |byte| bytes::Bytes::from(vec![byte; 16]);
    let envelope = proto::Envelope { format: 1, group: bytes(7), from: 2, to: 1, folder: bytes(8), known: bytes(9) };
    let envelope = proto::Envelope { known: Default::default(), ..envelope };
    let vote = |term| Some(proto::Vote { term, peer: 2, committed: true });
    let id = |index| Some(proto::LogId { term: 1, peer: 2, index });
    let member = proto::Member { peer: 2, address: "b:1".to_owned(), folder: bytes(8) };
    let members = proto::Membership { voters: vec![proto::Voters { peers: vec![2] }], members: vec![member] };
    let entry = |index, members| proto::Entry { id: id(index), members, normal: false, payload: Default::default() };
    let payload = proto::Entry { normal: true, payload: bytes(3), ..entry(1, None) };
    let entries = vec![entry(0, Some(members)), payload, entry(2, None)];
    let known = proto::Addresses { clients: "c:1".to_owned(), ..Default::default() };
    let others = vec![proto::Known { peer: 3, addresses: Some(known) }];
    let append = proto::Append { vote: vote(1), previous: None, entries, committed: None, leader: None, others };
    let ask = || proto::AskVote {
        vote: Some(proto::Vote { term: 2, peer: 2, committed: false }),
        last: id(2),
        handed_over: false,
    };
    let hand_over = proto::HandOver { vote: vote(1), to: 1, last: id(2) };
    let bodies = [Body::Append(append), Body::Vote(ask()), Body::PreVote(ask()), Body::HandOver(hand_over)];
    let mut chance = fastrand::Rng::with_seed(11);
    let (mut answered, mut refused) = (0, 0);
    for round in 0..20_000 {
        let request = Request { envelope: Some(envelope.clone()), body: Some(bodies[round % 4].clone()) };
        let mut bytes = request.encode_to_vec();
        for _ in 0..chance.usize(..4) {
            let place = chance.usize(..bytes.len());
            match chance.u8(..3) {
                0 => bytes[place] = chance.u8(..),
                1 => bytes[place] ^= 1 << chance.u8(..8),
                _ => drop(bytes.remove(place)),
            }
        }
        let Ok(request) = Request::decode(&*bytes) else { continue };
        // To be told that what is not here is committed is the word of a leader.
        if matches!(&request.body, Some(Body::Append(append)) if append.committed.is_some()) {
            continue;
        }
        let answer = world.group(1).port().answer(request).await;
        if answer.refused.is_empty() {
            answered += 1
        } else {
            refused += 1
        }
        assert!(world.peers[&1].stop.failure().is_none(), "{:?}", world.peers[&1].stop.failure());
    }
    assert!(answered > 100 && refused > 100, "{answered} {refused}");
}

#[test]
fn the_first_messages_of_a_group_may_come_together() {
    let home = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let folder = OsDisk::new().folder(&home.path().join(round.to_string())).unwrap();
        let open = || Identity::open(folder.clone(), 1, Addresses::default(), false).unwrap();
        let (identity, group) = (open(), Uuid([round; 16]));
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| identity.join(group).unwrap());
            }
        });
        assert_eq!((identity.group(), open().group()), (Some(group), Some(group)));
    }
}
