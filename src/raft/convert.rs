//! Between the engine's types and the messages of `proto/peers.proto`, which are also what lies on disks.
//!
//! What comes in is checked: a message that says nothing sensible is an error with a reason, never a panic.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse};
use openraft::vote::RaftVote as _;

use super::proto;
use super::types::{Entry, EntryPayload, LeaderId, LogId, Member, Membership, Payload, PeerId, Types, Vote};
use crate::types::Uuid;

/// Why a message makes no sense.
pub(super) type Nonsense = String;

/// The longest address that is believed.
const LONGEST_ADDRESS: usize = 512;

/// Terms and indices beyond this are not believed.
const MOST: u64 = 1 << 56;

/// The most peers that a group is believed to have.
const MOST_MEMBERS: usize = 64;

pub(super) fn log_id(id: &LogId) -> proto::LogId {
    proto::LogId { term: id.leader_id.term, peer: id.leader_id.node_id, index: id.index }
}

pub(super) fn read_log_id(id: &proto::LogId) -> LogId {
    LogId { leader_id: LeaderId { term: id.term, node_id: id.peer }, index: id.index }
}

/// A place that a log can have come to. A number near the end of all numbers is one that nothing can follow.
fn believed(id: Option<&proto::LogId>) -> Result<Option<LogId>, Nonsense> {
    match id.map(read_log_id) {
        Some(id) if id.index > MOST || id.leader_id.term > MOST => Err("a place in the log beyond reason".to_owned()),
        id => Ok(id),
    }
}

pub(super) fn vote(vote: &Vote) -> proto::Vote {
    let leader = vote.leader_id();
    proto::Vote { term: leader.term, peer: leader.node_id, committed: vote.is_committed() }
}

pub(super) fn read_vote(vote: &proto::Vote) -> Vote {
    Vote::from_leader_id(LeaderId { term: vote.term, node_id: vote.peer }, vote.committed)
}

pub(super) fn needed_vote(vote: Option<&proto::Vote>) -> Result<Vote, Nonsense> {
    match vote.map(read_vote) {
        Some(vote) if vote.leader_id.term > MOST => Err("a term beyond reason".to_owned()),
        vote => vote.ok_or_else(|| "a message without a vote".to_owned()),
    }
}

/// The vote of who leads: a majority has granted it.
pub(super) fn leaders_vote(vote: Option<&proto::Vote>) -> Result<Vote, Nonsense> {
    let vote = needed_vote(vote)?;
    if vote.committed { Ok(vote) } else { Err("a leader that nobody has elected".to_owned()) }
}

/// Sixteen bytes, or none.
pub(super) fn uuid(uuid: Option<Uuid>) -> Bytes {
    uuid.map(|uuid| Bytes::copy_from_slice(&uuid.0)).unwrap_or_default()
}

pub(super) fn read_uuid(bytes: &[u8]) -> Result<Option<Uuid>, Nonsense> {
    match (bytes.is_empty(), Uuid::from_bytes(bytes)) {
        (true, _) => Ok(None),
        (false, Some(uuid)) => Ok(Some(uuid)),
        (false, None) => Err(format!("an id of {} bytes", bytes.len())),
    }
}

pub(super) fn membership(membership: &Membership) -> proto::Membership {
    let voters = membership.get_joint_config().iter();
    let members = membership.nodes().map(|(peer, member)| proto::Member {
        peer: *peer,
        address: member.address.clone(),
        folder: uuid(member.folder),
    });
    proto::Membership {
        voters: voters.map(|voters| proto::Voters { peers: voters.iter().copied().collect() }).collect(),
        members: members.collect(),
    }
}

pub(super) fn read_membership(read: &proto::Membership) -> Result<Membership, Nonsense> {
    if read.members.len() > MOST_MEMBERS || read.voters.len() > 8 {
        return Err("a group of far too many peers".to_owned());
    }
    let mut members = BTreeMap::new();
    for member in &read.members {
        if member.address.len() > LONGEST_ADDRESS || member.address.chars().any(char::is_control) {
            return Err("a peer with a senseless address".to_owned());
        }
        let folder = read_uuid(&member.folder)?;
        members.insert(member.peer, Member { address: member.address.clone(), folder });
    }
    let voters: Vec<BTreeSet<PeerId>> = read.voters.iter().map(|set| set.peers.iter().copied().collect()).collect();
    if voters.is_empty() && members.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(voters, members).map_err(|error| error.to_string())
}

/// An entry but for its payload, which is long: it is written and sent beside it.
pub(super) fn entry_head(entry: &Entry) -> (proto::Entry, Bytes) {
    let (members, normal, payload) = match &entry.payload {
        EntryPayload::Blank => (None, false, Bytes::new()),
        EntryPayload::Normal(payload) => (None, true, payload.0.clone()),
        EntryPayload::Membership(members) => (Some(membership(members)), false, Bytes::new()),
    };
    (proto::Entry { id: Some(log_id(&entry.log_id)), members, normal, payload: Bytes::new() }, payload)
}

pub(super) fn read_entry(read: proto::Entry) -> Result<Entry, Nonsense> {
    let log_id = believed(read.id.as_ref())?.ok_or("an entry without a place in the log")?;
    let payload = match (&read.members, read.normal) {
        (Some(_), true) => return Err("an entry of two kinds".to_owned()),
        (Some(members), false) => EntryPayload::Membership(read_membership(members)?),
        (None, true) => EntryPayload::Normal(Payload(read.payload)),
        (None, false) => EntryPayload::Blank,
    };
    Ok(Entry { log_id, payload })
}

pub(super) fn append(
    append: &AppendEntriesRequest<Types>,
    leader: proto::Addresses,
    others: Vec<proto::Known>,
) -> proto::Append {
    let entry = |entry| {
        let (head, payload) = entry_head(entry);
        proto::Entry { payload, ..head }
    };
    proto::Append {
        vote: Some(vote(&append.vote)),
        previous: append.prev_log_id.as_ref().map(log_id),
        entries: append.entries.iter().map(entry).collect(),
        committed: append.leader_commit.as_ref().map(log_id),
        leader: Some(leader),
        others,
    }
}

/// The engine takes a gap in what it is sent for a bug of its own, and ends: it is looked for here.
pub(super) fn read_append(read: proto::Append) -> Result<AppendEntriesRequest<Types>, Nonsense> {
    let vote = leaders_vote(read.vote.as_ref())?;
    let previous = believed(read.previous.as_ref())?;
    let entries = read.entries.into_iter().map(read_entry).collect::<Result<Vec<_>, _>>()?;
    let mut before = previous;
    for entry in &entries {
        let next = before.map_or(Some(0), |id| id.index.checked_add(1));
        if next != Some(entry.log_id.index) || before.is_some_and(|id| id.leader_id > entry.log_id.leader_id) {
            return Err("entries that do not follow one another".to_owned());
        }
        before = Some(entry.log_id);
    }
    if before.is_some_and(|last| last.leader_id > vote.leader_id) {
        return Err("entries of a later term than their leader's".to_owned());
    }
    let leader_commit = believed(read.committed.as_ref())?;
    Ok(AppendEntriesRequest { vote, prev_log_id: previous, entries, leader_commit })
}

pub(super) fn appended(answer: &AppendEntriesResponse<Types>) -> proto::Appended {
    match answer {
        AppendEntriesResponse::Conflict => proto::Appended { conflict: true, ..proto::Appended::default() },
        AppendEntriesResponse::HigherVote(higher) => {
            proto::Appended { higher: Some(vote(higher)), ..proto::Appended::default() }
        }
        AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_) => proto::Appended::default(),
    }
}

pub(super) fn read_appended(read: &proto::Appended) -> Result<AppendEntriesResponse<Types>, Nonsense> {
    Ok(match (&read.higher, read.conflict) {
        (Some(higher), _) => AppendEntriesResponse::HigherVote(needed_vote(Some(higher))?),
        (None, true) => AppendEntriesResponse::Conflict,
        (None, false) => AppendEntriesResponse::Success,
    })
}

pub(super) fn ask_vote(ask: &VoteRequest<Types>) -> proto::AskVote {
    proto::AskVote {
        vote: Some(vote(&ask.vote)),
        last: ask.last_log_id.as_ref().map(log_id),
        handed_over: ask.leadership_transfer,
    }
}

pub(super) fn read_ask_vote(read: &proto::AskVote) -> Result<VoteRequest<Types>, Nonsense> {
    let mut ask = VoteRequest::new(needed_vote(read.vote.as_ref())?, believed(read.last.as_ref())?);
    ask.leadership_transfer = read.handed_over;
    Ok(ask)
}

pub(super) fn voted(answer: &VoteResponse<Types>) -> proto::Voted {
    proto::Voted {
        vote: Some(vote(&answer.vote)),
        granted: answer.vote_granted,
        last: answer.last_log_id.as_ref().map(log_id),
    }
}

pub(super) fn read_voted(read: &proto::Voted) -> Result<VoteResponse<Types>, Nonsense> {
    let vote = needed_vote(read.vote.as_ref())?;
    Ok(VoteResponse::new(vote, believed(read.last.as_ref())?, read.granted))
}

pub(super) fn hand_over(request: &TransferLeaderRequest<Types>) -> proto::HandOver {
    proto::HandOver {
        vote: Some(vote(request.from_leader())),
        to: *request.to_node_id(),
        last: request.last_log_id().map(log_id),
    }
}

pub(super) fn read_hand_over(read: &proto::HandOver) -> Result<TransferLeaderRequest<Types>, Nonsense> {
    let last = believed(read.last.as_ref())?;
    Ok(TransferLeaderRequest::new(leaders_vote(read.vote.as_ref())?, read.to, last))
}
