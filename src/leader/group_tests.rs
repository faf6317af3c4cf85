use tokio::time::Instant;

use super::*;
use crate::raft::Led;

/// A peer that has the log up to this entry.
fn peer(id: PeerId, role: PeerRole, matched: Option<u64>) -> PeerView {
    PeerView {
        id,
        address: format!("h{id}:5560"),
        role,
        matched,
        silent_ms: Some(0),
        refuses: None,
        applied: None,
        led: None,
    }
}

/// Peer 1 leads with these others; all but learners have votes.
fn group(others: Vec<PeerView>) -> (GroupView, BTreeSet<PeerId>) {
    let last = Some(5000);
    let peers: Vec<PeerView> = std::iter::once(peer(1, PeerRole::Leader, last)).chain(others).collect();
    let voters = peers.iter().filter(|peer| peer.role != PeerRole::Learner).map(|peer| peer.id).collect();
    (
        GroupView {
            me: 1,
            term: 5,
            leader: Some(1),
            last,
            committed: last,
            applied: last,
            peers,
            ..GroupView::default()
        },
        voters,
    )
}

fn standby(id: PeerId, matched: u64) -> PeerView {
    peer(id, PeerRole::Standby, Some(matched))
}

fn gone(id: PeerId) -> PeerView {
    peer(id, PeerRole::Unreachable, Some(100))
}

fn refusing(id: PeerId) -> PeerView {
    PeerView { refuses: Some("another folder".to_owned()), ..standby(id, 5000) }
}

#[test]
fn who_leads_next_is_who_could() {
    let learner = peer(4, PeerRole::Learner, Some(5000));
    for (others, to, wanted) in [
        (vec![standby(2, 4990), standby(3, 5000)], None, Ok(3)),
        (vec![standby(2, 5000), standby(3, 5000)], None, Ok(2)),
        (vec![standby(2, 4990), standby(3, 5000)], Some(2), Ok(2)),
        (vec![standby(2, 4000), gone(3)], None, Ok(2)),
        (vec![standby(2, 3999), gone(3)], None, Err("peer 2 is 1001 entries behind, peer 3 cannot be reached")),
        (vec![standby(2, 3999), standby(3, 5000)], Some(2), Err("peer 2 is 1001 entries behind; nothing was changed")),
        (vec![standby(2, 5000), gone(3)], Some(3), Err("peer 3 cannot be reached; nothing was changed")),
        (vec![refusing(2)], None, Err("peer 2 takes no part: another folder; nothing was changed")),
        (vec![standby(2, 5000), learner.clone()], Some(4), Err("peer 4 has no vote yet")),
        (vec![learner], None, Err("peer 4 has no vote yet")),
        (vec![standby(2, 5000)], Some(1), Err("peer 1 leads already")),
        (vec![standby(2, 5000)], Some(9), Err("there is no peer 9; peers: 1, 2")),
        (vec![], None, Err("there is no other peer; nothing was changed")),
    ] {
        let (group, _) = group(others);
        match (successor(&group, to), wanted) {
            (Ok(peer), Ok(wanted)) => assert_eq!(peer, wanted, "{group:?}"),
            (Err(why), Err(part)) => assert!(why.to_string().contains(part), "{why}: {part}"),
            (other, wanted) => panic!("{other:?} instead of {wanted:?}: {group:?}"),
        }
    }
    let (mut group, _) = group(vec![standby(2, 5000)]);
    group.leader = Some(2);
    assert!(successor(&group, Some(2)).is_err());
}

#[test]
fn a_peer_is_added_once_and_where_nobody_is() {
    let (mut group, voters) = group(vec![standby(2, 5000), peer(4, PeerRole::Learner, None)]);
    group.removed = [3].into();
    let add = |peer, address| may_add(&group, &voters, peer, address).map_err(|why| why.to_string());
    assert_eq!(add(5, "h5:5560"), Ok(()));
    assert_eq!(add(4, "h4:5560"), Ok(()), "it goes on");
    for (peer, address, part) in [
        (2, "h2:5560", "there is a peer 2 already"),
        (1, "x:1", "there is a peer 1 already"),
        (4, "x:1", "peer 4 was added as h4:5560: PEER REMOVE 4, and add another number"),
        (3, "h3:5560", "peer 3 was removed, and its number is not used again: take another one, as 5,"),
        (5, "h2:5560", "h2:5560 is where peer 2 is"),
    ] {
        let why = add(peer, address).unwrap_err();
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn a_peer_is_removed_where_most_of_the_others_are_there() {
    let learner = peer(4, PeerRole::Learner, None);
    for (others, removed, part) in [
        (vec![standby(2, 5000), standby(3, 5000)], 2, ""),
        (vec![standby(2, 5000), gone(3)], 3, ""),
        (vec![standby(2, 5000)], 2, ""),
        // Peers 1 and 3 would stay, and 1 alone is not most of them.
        (vec![standby(2, 5000), gone(3)], 2, "of the 2 peers that would stay 1 can be reached"),
        (vec![standby(2, 5000), refusing(3)], 2, "which is no majority; nothing was changed"),
        // What has no vote is nobody's majority.
        (vec![standby(2, 5000), gone(3), learner.clone()], 4, ""),
        (vec![standby(2, 5000), gone(3), learner], 2, "which is no majority"),
        // The one that leads, if there is one to lead then.
        (vec![standby(2, 5000), standby(3, 5000)], 1, ""),
        (vec![standby(2, 5000)], 1, ""),
        (vec![standby(2, 3999)], 1, "peer 2 is 1001 entries behind; nothing was changed"),
        (vec![standby(2, 5000), gone(3)], 1, "of the 2 peers that would stay 1 can be reached"),
        (vec![], 1, "peer 1 is the only one that has a vote"),
        (vec![peer(4, PeerRole::Learner, Some(5000))], 1, "peer 1 is the only one that has a vote"),
        (vec![standby(2, 5000)], 9, "there is no peer 9; peers: 1, 2"),
        (vec![standby(2, 5000)], 7, "peer 7 was removed already"),
    ] {
        let (mut group, voters) = group(others);
        group.removed = [7].into();
        match may_remove(&group, &voters, removed) {
            Ok(next) => assert!(part.is_empty() && next.is_some() == (removed == 1), "{removed}: {next:?}"),
            Err(why) => assert!(!part.is_empty() && why.to_string().contains(part), "{removed}: {why}"),
        }
    }
}

#[test]
fn it_is_said_what_so_many_leaders_do_not_bear() {
    assert!(frail(1).unwrap().contains("nobody takes over"));
    assert!(frail(2).unwrap().contains("as few may fail as with 1: 2 of them have to be up"));
    assert!(frail(4).unwrap().contains("as few may fail as with 3: 3 of them have to be up"));
    assert_eq!((frail(3), frail(5)), (None, None));
}

#[test]
fn the_group_is_told_as_one_line_of_json() {
    let of = |id, role, matched, silent_for| PeerStatus {
        id,
        address: format!("h{id}:5560"),
        role,
        matched,
        silent_for,
        refuses: (id == 3).then(|| "another folder".to_owned()),
        clients: None,
    };
    let status = Status {
        me: 1,
        term: 5,
        last: Some(120),
        committed: Some(120),
        applied: Some(119),
        snapshot: None,
        behind: 0,
        led: Some(Led { term: 5, since: Instant::now(), why: "peer 3 did not answer".to_owned() }),
        disk_late: Duration::ZERO,
        peers: vec![
            of(3, Role::Unreachable, None, None),
            of(1, Role::Leader, Some(120), Some(Duration::ZERO)),
            of(2, Role::Standby, Some(118), Some(Duration::from_millis(40))),
        ],
        removed: Default::default(),
    };
    let mut group = view(status);
    group.peers[0].led.iter_mut().for_each(|led| led.leads_since_ms = 7);
    let removed = GroupView { removed: [9, 4].into(), ..group.clone() };
    assert!(serde_json::to_string(&removed).unwrap().ends_with(r#"],"removed":[4,9]}"#));
    assert_eq!(
        serde_json::to_string(&group).unwrap(),
        r#"{"me":1,"term":5,"leader":1,"last":120,"committed":120,"applied":119,"peers":[{"id":1,"address":"h1:5560","role":"leader","matched":120,"silent_ms":0,"applied":119,"leads_since_ms":7,"why":"peer 3 did not answer"},{"id":2,"address":"h2:5560","role":"standby","matched":118,"silent_ms":40},{"id":3,"address":"h3:5560","role":"unreachable","matched":null,"silent_ms":null,"refuses":"another folder"}]}"#
    );
    let behind: Vec<u64> = group.peers.iter().map(|peer| group.behind(peer)).collect();
    assert_eq!(behind, [0, 2, 121]);
}
