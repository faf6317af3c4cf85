//! Who speaks to whom, and who has been heard of.
//!
//! A folder has a uuid that lies in its file `peer`. A vote that was lost with a folder would be given a second time:
//! a known peer that comes with another folder is refused, by who sends and by who receives, and an empty folder
//! takes no part in elections but for the founding.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use prost::Message as _;
use tokio::time::Instant;

use super::types::{Member, Membership, PeerId};
use super::{Addresses, convert, proto, small};
use crate::durable::Folder;
use crate::lock::Lock;
use crate::seeded::{self, Bug};
use crate::types::Uuid;

/// The version of the messages that this build speaks.
const FORMAT: u32 = 1;

/// The file's name, and how it begins.
const FILE: &str = "peer";
const MAGIC: [u8; 8] = *b"HTKSPEER";

/// This peer among the others; shared by all that speak.
#[derive(Debug)]
pub(super) struct Identity {
    disk: Arc<dyn Folder>,
    pub(super) me: PeerId,
    pub(super) folder: Uuid,
    pub(super) addresses: Addresses,
    /// Held while the file is written: the first messages of a group come together.
    writing: Lock<()>,
    seen: Lock<Seen>,
}

/// What of it changes, and is in the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Kept {
    group: Option<Uuid>,
    /// It was told to go on alone, and has not been started without being told to since.
    alone: bool,
    /// It was removed from its group.
    removed: bool,
}

#[derive(Debug, Default)]
struct Seen {
    kept: Kept,
    /// A peer has said that this one was removed.
    told_removed: bool,
    /// As the log (or a snapshot) says.
    members: BTreeMap<PeerId, Member>,
    /// As they said themselves.
    folders: BTreeMap<PeerId, Uuid>,
    heard: BTreeMap<PeerId, Instant>,
    addresses: BTreeMap<PeerId, Addresses>,
    /// Who has said last that it leads, and in which term.
    claims: Option<(u64, PeerId)>,
    refused: BTreeMap<PeerId, String>,
    /// Who has handed over to this peer, since it last began to lead.
    handed_over: Option<PeerId>,
}

impl Identity {
    /// Reads whose the folder is, or makes it this peer's. `has_state`: there is a log, a vote or a snapshot in it.
    pub(super) fn open(
        disk: Arc<dyn Folder>,
        me: PeerId,
        addresses: Addresses,
        has_state: bool,
    ) -> Result<Self, String> {
        let path = disk.path().join(FILE).display().to_string();
        let (folder, kept) = match small::read(&*disk, FILE, MAGIC)? {
            Some(content) => {
                let bad = |why: String| format!("{path} makes no sense: {why}");
                let read = proto::Identity::decode(&*content).map_err(|error| bad(error.to_string()))?;
                if read.peer != me {
                    return Err(format!(
                        "{path} is of peer {}, and this is peer {me}: correct the number or the folder",
                        read.peer
                    ));
                }
                let folder = convert::read_uuid(&read.folder).map_err(bad)?.ok_or_else(|| bad("no id".to_owned()))?;
                let group = convert::read_uuid(&read.group).map_err(bad)?;
                (folder, Kept { group, alone: read.alone, removed: read.removed })
            }
            None if has_state => {
                return Err(format!(
                    "{path} is missing, though there is a log or a vote beside it: restore the file, or let this peer go and add a new one"
                ));
            }
            None => {
                let folder = Uuid::random(&mut fastrand::Rng::new());
                let kept = Kept::default();
                save(&*disk, me, folder, kept).map_err(|error| format!("writing {path} failed: {error}"))?;
                (folder, kept)
            }
        };
        let seen = Seen { kept, ..Seen::default() };
        Ok(Self { disk, me, folder, addresses, writing: Lock::new(()), seen: Lock::new(seen) })
    }

    /// The group that the folder is of, once it is of one.
    pub(super) fn group(&self) -> Option<Uuid> {
        self.seen.lock().kept.group
    }

    /// Belongs to this group from now on; on stable storage when it returns. For good: another group is refused then.
    pub(super) fn join(&self, group: Uuid) -> io::Result<()> {
        self.keep(|kept| Kept { group: kept.group.or(Some(group)), ..kept })
    }

    /// Whether it was told to go on alone, and has not been started without being told to since.
    pub(super) fn is_alone(&self) -> bool {
        self.seen.lock().kept.alone
    }

    /// Belongs to a new group, whatever it was of.
    pub(super) fn begin_anew(&self, group: Uuid) -> io::Result<()> {
        self.keep(|_| Kept { group: Some(group), ..Kept::default() })
    }

    /// All that is needed to go on alone is there.
    pub(super) fn note_alone(&self) -> io::Result<()> {
        self.keep(|kept| Kept { alone: true, ..kept })
    }

    /// It was started without being told to be alone.
    pub(super) fn forget_alone(&self) -> io::Result<()> {
        self.keep(|kept| Kept { alone: false, ..kept })
    }

    /// Whether it was removed from its group, as its folder says.
    pub(super) fn is_removed(&self) -> bool {
        self.seen.lock().kept.removed
    }

    /// Whether another peer has said that this one was removed.
    pub(super) fn was_told_removed(&self) -> bool {
        self.seen.lock().told_removed
    }

    /// It was removed from its group, for good.
    pub(super) fn note_removed(&self) -> io::Result<()> {
        self.keep(|kept| Kept { removed: true, ..kept })
    }

    /// Changes what is in the file; on stable storage when it returns.
    fn keep(&self, change: impl FnOnce(Kept) -> Kept) -> io::Result<()> {
        let _turn = self.writing.lock();
        let before = self.seen.lock().kept;
        let after = change(before);
        if after != before {
            save(&*self.disk, self.me, self.folder, after)?;
            self.seen.lock().kept = after;
        }
        Ok(())
    }

    /// Takes up what the log says of the peers. Which folder a peer has is never forgotten again.
    pub(super) fn note(&self, membership: &Membership) {
        let mut seen = self.seen.lock();
        for (peer, member) in membership.nodes() {
            let known = seen.members.entry(*peer).or_default();
            known.address.clone_from(&member.address);
            known.folder = known.folder.or(member.folder);
        }
    }

    /// What every message to a peer begins with.
    pub(super) fn envelope(&self, to: PeerId) -> proto::Envelope {
        let seen = self.seen.lock();
        proto::Envelope {
            format: FORMAT,
            group: convert::uuid(seen.kept.group),
            from: self.me,
            to,
            folder: convert::uuid(Some(self.folder)),
            known: convert::uuid(seen.folder_of(to)),
        }
    }

    /// Whether what came in this envelope may be read; gives the sender and its group.
    pub(super) fn admit(&self, envelope: Option<&proto::Envelope>) -> Result<(PeerId, Uuid), String> {
        let envelope = envelope.ok_or("a message without an envelope")?;
        if envelope.format != FORMAT {
            return Err(format!(
                "it speaks format {} and this peer format {FORMAT}: upgrade the older one",
                envelope.format
            ));
        }
        if envelope.to != self.me {
            return Err(format!("this is peer {}, and peer {} was called: check --peers", self.me, envelope.to));
        }
        let from = envelope.from;
        if from == self.me {
            return Err(format!("another process calls itself peer {from}"));
        }
        let group = convert::read_uuid(&envelope.group)?.ok_or("it belongs to no group yet")?;
        let folder = convert::read_uuid(&envelope.folder)?.ok_or("it does not say its folder")?;
        if convert::read_uuid(&envelope.known)?.is_some_and(|known| known != self.folder) {
            return Err(forgotten(self.me));
        }
        let mut seen = self.seen.lock();
        if seen.kept.group.is_some_and(|own| own != group) {
            return Err(format!("peer {from} belongs to another group of leaders: check --peers"));
        }
        if seen.folder_of(from).is_some_and(|known| known != folder) {
            return Err(forgotten(from));
        }
        seen.heard.insert(from, Instant::now());
        Ok((from, group))
    }

    /// Looks at who has answered, and at whether it refused.
    pub(super) fn answered(&self, by: PeerId, response: &proto::Response) -> Result<(), String> {
        let folder = convert::read_uuid(&response.folder)?.ok_or("it does not say its folder")?;
        let mut seen = self.seen.lock();
        if seen.folder_of(by).is_some_and(|known| known != folder) {
            return Err(seen.refuse(by, forgotten(by)));
        }
        if response.removed {
            seen.told_removed = true;
            return Err(format!("peer {by} says that this peer was removed"));
        }
        if !response.refused.is_empty() {
            let why = response.refused.chars().filter(|c| !c.is_control()).take(300).collect();
            return Err(seen.refuse(by, why));
        }
        seen.refused.remove(&by);
        seen.folders.insert(by, folder);
        seen.heard.insert(by, Instant::now());
        Ok(())
    }

    /// Members whose folder the log does not know yet, and they have said it.
    pub(super) fn unlogged(&self, membership: &Membership) -> BTreeMap<PeerId, Member> {
        let seen = self.seen.lock();
        let unknown = membership.nodes().filter(|(_, member)| member.folder.is_none());
        let said = unknown.filter_map(|(peer, member)| {
            let folder = if *peer == self.me { Some(self.folder) } else { seen.folders.get(peer).copied() };
            folder.map(|folder| (*peer, Member { folder: Some(folder), ..member.clone() }))
        });
        said.collect()
    }

    /// A peer says that it leads in this term.
    pub(super) fn claims(&self, peer: PeerId, term: u64) {
        let mut seen = self.seen.lock();
        seen.claims = seen.claims.max(Some((term, peer)));
    }

    /// Who says that it leads, of all that have said so in the latest term.
    pub(super) fn claimant(&self) -> Option<PeerId> {
        self.seen.lock().claims.map(|(_, peer)| peer)
    }

    pub(super) fn set_addresses(&self, of: PeerId, addresses: Addresses) {
        self.seen.lock().addresses.insert(of, addresses);
    }

    /// What a peer is told of the others.
    pub(super) fn known_to(&self, peer: PeerId) -> Vec<proto::Known> {
        let seen = self.seen.lock();
        let others = seen.addresses.iter().filter(|(other, _)| **other != peer && **other != self.me);
        others.map(|(peer, known)| proto::Known { peer: *peer, addresses: Some(known.clone().into()) }).collect()
    }

    /// Takes up what `from` knows of the others that are members. What makes no sense is passed over.
    pub(super) fn learn(&self, from: PeerId, others: Vec<proto::Known>) {
        let mut seen = self.seen.lock();
        for proto::Known { peer, addresses } in others {
            if peer == self.me || peer == from || !seen.members.contains_key(&peer) {
                continue;
            }
            if let Some(Ok(addresses)) = addresses.map(Addresses::try_from) {
                seen.addresses.insert(peer, addresses);
            }
        }
    }

    /// Where a peer is reached, as far as it has told or the log says.
    pub(super) fn addresses_of(&self, peer: PeerId) -> Addresses {
        if peer == self.me {
            return self.addresses.clone();
        }
        let seen = self.seen.lock();
        let logged = || Addresses {
            peer: seen.members.get(&peer).map(|member| member.address.clone()).unwrap_or_default(),
            ..Addresses::default()
        };
        seen.addresses.get(&peer).cloned().unwrap_or_else(logged)
    }

    /// This one has this peer lead.
    pub(super) fn handed_over_by(&self, peer: PeerId) {
        self.seen.lock().handed_over = Some(peer);
    }

    /// Who has handed over to this peer; said once.
    pub(super) fn take_hand_over(&self) -> Option<PeerId> {
        self.seen.lock().handed_over.take()
    }

    /// When a peer was heard of last, and why it refused last, if it did.
    pub(super) fn contact(&self, peer: PeerId) -> (Option<Instant>, Option<String>) {
        let seen = self.seen.lock();
        (seen.heard.get(&peer).copied(), seen.refused.get(&peer).cloned())
    }
}

impl Seen {
    fn folder_of(&self, peer: PeerId) -> Option<Uuid> {
        if seeded::active(Bug::PeerEmptiedVotes) {
            return None;
        }
        self.members.get(&peer).and_then(|member| member.folder)
    }

    /// Remembers why, and says it when it is new.
    fn refuse(&mut self, by: PeerId, why: String) -> String {
        if self.refused.get(&by) != Some(&why) {
            tracing::warn!("peer {by} takes no part: {why}");
            self.refused.insert(by, why.clone());
        }
        why
    }
}

/// Whose a folder is, if it is any peer's.
pub(super) fn peer_of(disk: &dyn Folder) -> Result<Option<PeerId>, String> {
    let Some(content) = small::read(disk, FILE, MAGIC)? else { return Ok(None) };
    let read = proto::Identity::decode(&*content);
    let bad = |error| format!("{} makes no sense: {error}", disk.path().join(FILE).display());
    read.map(|read| Some(read.peer)).map_err(bad)
}

fn forgotten(peer: PeerId) -> String {
    format!(
        "peer {peer} came with another folder: it has forgotten its vote; give it its folder back, or remove it and add a peer of a new number"
    )
}

fn save(disk: &dyn Folder, me: PeerId, folder: Uuid, kept: Kept) -> io::Result<()> {
    let Kept { group, alone, removed } = kept;
    let (group, folder) = (convert::uuid(group), convert::uuid(Some(folder)));
    let identity = proto::Identity { group, peer: me, folder, alone, removed };
    small::write(disk, FILE, MAGIC, &identity.encode_to_vec())
}
