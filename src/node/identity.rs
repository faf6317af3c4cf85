//! Who a node is, and whom it has served: one small file, `.hatokuse`, in its folder.
//!
//! It is on stable storage before anything that depends on it is said. The
//! highest epoch never goes down in it. A leader whose epoch the disk does not take
//! may read here, and nothing else: a restart would have forgotten it.

mod pair;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use self::pair::Pair;
use crate::durable::{self, Folder};
use crate::file_names::Names;
use crate::lock::Lock;
use crate::seeded::{self, Bug};
use crate::types::{
    Epoch, Fence, Layout, Leadership, Member, NodeId, Refusing, Removed, Uuid, Version, is_beyond_reason,
};
use crate::wire::MemberList;

/// The file's name.
pub const IDENTITY_FILE: &str = ".hatokuse";

/// Holds the newest version that a leader called committed, in decimal and with a checksum. It is not synced: that
/// it is a second behind, or gone after a power cut, only means that a leader with an old log is not told so.
pub const COMMITTED_FILE: &str = ".committed";

/// The first line's word and format version.
const HEADER: &str = "hatokuse-node 1";

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The node's number.
    pub id: NodeId,
    /// The folder's own name.
    pub uuid: Uuid,
    /// How copies lie in it.
    pub layout: String,
    /// Where the records of its text copies are, once that is known: `attributes` or `log`.
    pub records: Option<String>,
    /// Which names its files have.
    pub names: Names,
    /// The cluster it belongs to and the highest epoch it has seen, with the leader process that had it.
    pub seen: Option<(Leadership, u64)>,
    /// The members of the cluster, as the leader last told.
    pub members: Vec<Member>,
    /// Folders that are none any more, for ever.
    pub removed: Vec<Removed>,
}

impl Identity {
    /// A new folder's, of the text layout.
    pub fn new(id: NodeId, uuid: Uuid) -> Self {
        let layout = Layout::Text.to_string();
        Self {
            id,
            uuid,
            layout,
            records: None,
            names: Names::default(),
            seen: None,
            members: Vec::new(),
            removed: Vec::new(),
        }
    }

    /// Reads the folder's identity, if it has one.
    pub fn read(folder: &dyn Folder, id: NodeId) -> io::Result<Option<Self>> {
        let shown = folder.path().join(IDENTITY_FILE).display().to_string();
        let Some(text) = pair::read(folder)? else { return Ok(None) };
        let identity = Self::decode(&text).map_err(|why| bad(format!("{shown} cannot be used: {why}")))?;
        if identity.id != id {
            let of = identity.id;
            return Err(bad(format!("{shown} is of node {of}, not of node {id}: start it with its own --id")));
        }
        Ok(Some(identity))
    }

    /// From here on the folder is of this layout. Blocks.
    pub fn keep_as(self, folder: &dyn Folder, layout: Layout) -> io::Result<()> {
        let identity = Self { layout: layout.to_string(), ..self };
        pair::replace(folder, &identity.encode())
    }

    /// The file's text.
    pub fn encode(&self) -> String {
        let mut text = format!("{HEADER}\nid={}\nuuid={}\nlayout={}\n", self.id, self.uuid, self.layout);
        if let Some(records) = &self.records {
            let _ = writeln!(text, "records={records}");
        }
        if self.names != Names::default() {
            let _ = writeln!(text, "names={}", self.names.longest());
        }
        if let Some((leadership, run)) = self.seen {
            let _ = write!(text, "cluster={}\nepoch={}\nrun={run}\n", leadership.cluster_id, leadership.epoch);
        }
        for member in &self.members {
            let _ = writeln!(text, "member={} {} {}", member.id, member.uuid, member.address);
        }
        for removed in &self.removed {
            let _ = writeln!(text, "removed={} {}", removed.id, removed.uuid);
        }
        let crc = crc32c::crc32c(text.as_bytes());
        let _ = writeln!(text, "crc={crc:08x}");
        text
    }

    /// Reads the file's text; the error says what is wrong with it.
    pub fn decode(text: &str) -> Result<Self, String> {
        let first = text.lines().next().unwrap_or_default();
        if first != HEADER && first.starts_with("hatokuse-node ") {
            return Err(format!("it was written by a newer hatokuse ({first:?}): use that version or a later one"));
        }
        let (body, tail) = text.rsplit_once("crc=").ok_or("it has no checksum")?;
        if tail.trim_end() != format!("{:08x}", crc32c::crc32c(body.as_bytes())) {
            return Err("its checksum does not match".to_owned());
        }
        let all = |key: &str| {
            let key = key.to_owned();
            body.lines().filter_map(move |line| line.strip_prefix(&key)?.strip_prefix('='))
        };
        let one = |key: &str| all(key).next().ok_or(format!("it has no {key}"));
        let number = |key: &str| one(key)?.parse::<u64>().map_err(|_| format!("its {key} is no number"));
        let uuid = |text: &str| Uuid::from_hex(text).ok_or(format!("{text:?} is no uuid"));
        let seen = match all("cluster").next() {
            None => None,
            Some(cluster) => {
                let epoch = u32::try_from(number("epoch")?).map_err(|_| "its epoch is too large")?;
                Some((Leadership { cluster_id: uuid(cluster)?, epoch: Epoch(epoch) }, number("run")?))
            }
        };
        let member = |line: &str| {
            let mut fields = line.splitn(3, ' ');
            let id = fields.next().and_then(|id| id.parse().ok()).ok_or("a member has no id")?;
            let uuid = uuid(fields.next().unwrap_or_default())?;
            Ok::<_, String>(Member { id: NodeId(id), uuid, address: fields.next().unwrap_or_default().to_owned() })
        };
        let names =
            |longest: &str| longest.parse().ok().and_then(Names::up_to).ok_or("its names have no room for a hash");
        let removed = |line: &str| {
            let (id, uuid_text) = line.split_once(' ').ok_or("a removed member has no uuid")?;
            let id = NodeId(id.parse().map_err(|_| "a removed member has no id")?);
            Ok::<_, String>(Removed { id, uuid: uuid(uuid_text)? })
        };
        Ok(Self {
            id: NodeId(u32::try_from(number("id")?).map_err(|_| "its id is too large")?),
            uuid: uuid(one("uuid")?)?,
            layout: one("layout")?.to_owned(),
            records: all("records").next().map(str::to_owned),
            names: all("names").next().map_or(Ok(Names::default()), names)?,
            seen,
            members: all("member").map(member).collect::<Result<_, _>>()?,
            removed: all("removed").map(removed).collect::<Result<_, _>>()?,
        })
    }
}

/// Why a leader's word does not count here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fenced {
    /// The highest epoch seen.
    pub epoch: Epoch,
    /// For people.
    pub reason: String,
}

/// The identity in memory and on disk, with the session that may command this node.
#[derive(Debug)]
pub struct IdentityFile {
    folder: Arc<dyn Folder>,
    state: Lock<State>,
    /// Held by whoever writes the file: frames are checked meanwhile.
    writing: Lock<Pair>,
    committed: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// What is known. Of the leader that was seen last the disk may not know yet.
    identity: Identity,
    /// Whom the disk says that this node has seen last.
    noted: Option<(Leadership, u64)>,
    /// The session whose frames count now.
    current: Option<Session>,
}

#[derive(Debug)]
struct Session {
    fence: Fence,
    /// Why its leader was not noted when it began. It stays one that only reads: its leader counts on nothing else.
    reads_only: Option<Refusing>,
}

impl IdentityFile {
    /// Reads the folder's identity, or makes one with `uuid`; either way it is of this layout. Blocks.
    pub fn open(folder: Arc<dyn Folder>, id: NodeId, uuid: Uuid, layout: Layout) -> io::Result<Self> {
        let shown = folder.path().join(IDENTITY_FILE).display().to_string();
        let identity = match Identity::read(&*folder, id)? {
            Some(identity) => {
                if identity.layout != layout.to_string() {
                    let other = &identity.layout;
                    return Err(bad(format!(
                        "{shown} says that the copies in this folder are in layout {other}: start this node with --layout {other}, or add --convert to have it changed to {layout}"
                    )));
                }
                identity
            }
            None => {
                refuse_copies_of_another(&*folder, layout)?;
                let identity = Identity { layout: layout.to_string(), ..Identity::new(id, uuid) };
                durable::replace(folder.as_ref(), IDENTITY_FILE, identity.encode().as_bytes())?;
                identity
            }
        };
        let pair = Lock::new(Pair::of(folder.as_ref(), &identity.encode())?);
        let committed = read_committed(folder.as_ref()).filter(|version| could_be_committed(&identity, *version));
        let committed = AtomicU64::new(committed.unwrap_or_default().0);
        let state = Lock::new(State { noted: identity.seen, identity, current: None });
        Ok(Self { folder, state, writing: pair, committed })
    }

    /// The newest version that a leader called committed, as far as is known.
    pub fn committed(&self) -> Version {
        Version(self.committed.load(Ordering::Relaxed))
    }

    /// The leader says what is committed; nothing can be in an epoch that this node has not seen. Blocks.
    pub fn note_committed(&self, version: Version) -> io::Result<()> {
        if !could_be_committed(&self.state().identity, version) {
            return Err(bad(format!("version {version} is of a later epoch than this node has seen: it is not noted")));
        }
        if self.committed.fetch_max(version.0, Ordering::Relaxed) >= version.0 {
            return Ok(());
        }
        let number = version.0.to_string();
        let text = format!("{number} {:08x}\n", crc32c::crc32c(number.as_bytes()));
        durable::write_beside(self.folder.as_ref(), COMMITTED_FILE, text.as_bytes())?;
        durable::put_in_place(self.folder.as_ref(), COMMITTED_FILE)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock()
    }

    /// What is known now.
    pub fn get(&self) -> Identity {
        self.state().identity.clone()
    }

    /// Writes the file, then what is known.
    fn write(&self, pair: &mut Pair, identity: Identity) -> io::Result<()> {
        pair.write(self.folder.as_ref(), &identity.encode())?;
        let mut state = self.state();
        (state.noted, state.identity) = (identity.seen, identity);
        Ok(())
    }

    /// A leader opens a lane: its session becomes the one that counts, unless a later one does.
    /// A higher epoch is on stable storage when this returns. An error: it is not, and nothing has changed. Blocks.
    pub fn admit(&self, fence: Fence) -> io::Result<Result<(), Fenced>> {
        let mut pair = self.writing.lock();
        if let Err(fenced) = self.admits(fence) {
            return Ok(Err(fenced));
        }
        let seen = Some((fence.leadership, fence.run));
        let identity = Identity { seen, ..self.get() };
        if self.state().noted != seen {
            if seeded::active(Bug::EpochSeenNotKept) {
                let mut state = self.state();
                (state.identity, state.noted) = (identity, seen);
            } else {
                self.write(&mut pair, identity)?;
            }
        }
        self.begin(fence, None);
        Ok(Ok(()))
    }

    /// As [`admit`](Self::admit), where the disk did not take the epoch, and `why`: as long as this process lives older
    /// leaders are refused all the same. Nobody may count on more than that, and on what is read. Blocks.
    pub fn admit_to_read(&self, fence: Fence, why: Refusing) -> Result<(), Fenced> {
        let _one_at_a_time = self.writing.lock();
        self.admits(fence)?;
        self.state().identity.seen = Some((fence.leadership, fence.run));
        self.begin(fence, Some(why));
        Ok(())
    }

    fn begin(&self, fence: Fence, not_noted: Option<Refusing>) {
        let mut state = self.state();
        let before = state.current.take().filter(|session| session.fence == fence);
        let reads_only = before.and_then(|session| session.reads_only).or(not_noted);
        state.current = Some(Session { fence, reads_only });
    }

    /// Tries once more to note the leader that was seen last. Blocks.
    pub fn note_seen(&self) -> io::Result<()> {
        let mut pair = self.writing.lock();
        if self.is_noted() {
            return Ok(());
        }
        self.write(&mut pair, self.get())
    }

    /// Whether the disk knows the leader that was seen last.
    pub fn is_noted(&self) -> bool {
        let state = self.state();
        state.noted == state.identity.seen
    }

    /// Why the session that counts now only reads, if it does.
    pub fn reads_only(&self) -> Option<Refusing> {
        self.state().current.as_ref().and_then(|session| session.reads_only.clone())
    }

    /// The same of a session with this fence, if it is the one that counts now.
    pub fn reads_only_for(&self, fence: Fence) -> Option<Refusing> {
        let state = self.state();
        state.current.as_ref().filter(|session| session.fence == fence)?.reads_only.clone()
    }

    /// Whether a leader would be let in.
    pub fn admits(&self, fence: Fence) -> Result<(), Fenced> {
        let (seen, current) = {
            let state = self.state();
            (state.identity.seen, state.current.as_ref().map(|session| session.fence))
        };
        let refuse = |epoch: Epoch, reason: String| Err(Fenced { epoch, reason });
        if let Some((seen, run)) = seen {
            if seen.cluster_id != fence.leadership.cluster_id && !seeded::active(Bug::ForeignLeaderServed) {
                let reason =
                    format!("this node belongs to cluster {}, not to {}", seen.cluster_id, fence.leadership.cluster_id);
                return refuse(seen.epoch, reason);
            }
            if seen.epoch > fence.leadership.epoch && !seeded::active(Bug::LowerEpochAccepted) {
                return refuse(
                    seen.epoch,
                    format!("this node has seen epoch {}, a later one than {}", seen.epoch, fence.leadership.epoch),
                );
            }
            if is_beyond_reason(fence.leadership.epoch, seen.epoch) {
                return refuse(
                    seen.epoch,
                    format!(
                        "epoch {} is beyond reason: this node has seen only {}",
                        fence.leadership.epoch, seen.epoch
                    ),
                );
            }
            if seen.epoch == fence.leadership.epoch && run != fence.run {
                return refuse(seen.epoch, format!("another leader process has epoch {}", seen.epoch));
            }
        }
        if let Some(current) = current
            && current.leadership == fence.leadership
            && current.session > fence.session
            && !seeded::active(Bug::LateSessionAccepted)
        {
            return refuse(fence.leadership.epoch, "a later session is open".to_owned());
        }
        Ok(())
    }

    /// Whether another leader process than that of this fence was let in.
    pub fn is_succeeded(&self, fence: Fence) -> bool {
        self.state().current.as_ref().is_some_and(|session| session.fence.run != fence.run)
    }

    /// Whether a frame with this fence counts now.
    pub fn check(&self, fence: Fence) -> Result<(), Fenced> {
        let state = self.state();
        if state.current.as_ref().is_some_and(|session| session.fence == fence) || seeded::active(Bug::FenceNotChecked)
        {
            return Ok(());
        }
        let epoch = state.identity.seen.map_or(Epoch(0), |(leadership, _)| leadership.epoch);
        Err(Fenced { epoch, reason: format!("epoch {} session {} is over", fence.leadership.epoch, fence.session) })
    }

    /// Notes where the records of the folder's copies are, for good. Blocks.
    pub fn note_records(&self, records: &str) -> io::Result<()> {
        let mut pair = self.writing.lock();
        let identity = self.get();
        if identity.records.as_deref() == Some(records) {
            return Ok(());
        }
        self.note(&mut pair, Identity { records: Some(records.to_owned()), ..identity })
    }

    /// Gives the names of the folder's files: of a new one those that fit, for good. Blocks.
    pub fn settle_names(&self, fitting: Option<Names>) -> io::Result<Names> {
        let mut pair = self.writing.lock();
        let identity = self.get();
        let is_new = identity.records.is_none() && identity.seen.is_none();
        let Some(names) = fitting.filter(|names| is_new && *names != identity.names) else { return Ok(identity.names) };
        self.note(&mut pair, Identity { names, ..identity })?;
        Ok(self.get().names)
    }

    /// Writes what more is known of the folder. A disk that takes nothing is told at the next start.
    fn note(&self, pair: &mut Pair, identity: Identity) -> io::Result<()> {
        match self.write(pair, identity) {
            Err(error) if durable::is_refused(&error) => Ok(()),
            noted => noted,
        }
    }

    /// The leader told who the members are, and who was removed; an unchanged list costs nothing, and one without
    /// members is not believed. Who was removed stays so, even if a leader with an older log knows nothing of it. Blocks.
    pub fn learn(&self, member_list: MemberList) -> io::Result<()> {
        let mut pair = self.writing.lock();
        let identity = self.get();
        let told = if member_list.members.is_empty() { identity.members.clone() } else { member_list.members };
        let removed: BTreeSet<Removed> = identity.removed.iter().copied().chain(member_list.removed).collect();
        let is_removed = |member: &Member| removed.iter().any(|removed| removed.uuid == member.uuid);
        let members: Vec<Member> = told.into_iter().filter(|member| !is_removed(member)).collect();
        let removed: Vec<Removed> = removed.into_iter().collect();
        if identity.members == members && identity.removed == removed {
            return Ok(());
        }
        self.write(&mut pair, Identity { members, removed, ..identity })
    }
}

/// The identity in a folder, for its store; nothing: there is none that can be read.
pub fn found(folder: &dyn Folder) -> Option<Identity> {
    Identity::decode(&pair::read(folder).ok()??).ok()
}

/// A folder without an identity is new, or its identity was lost, or it comes from somewhere else.
fn refuse_copies_of_another(folder: &dyn Folder, layout: Layout) -> io::Result<()> {
    let of_another = |name: &str| match layout {
        Layout::Text => name.starts_with("segment-") && name.ends_with(".log"),
        Layout::Log => name.ends_with(crate::file_names::SUFFIX) && !name.starts_with('.'),
    };
    let Some(found) = folder.list()?.into_iter().find(|entry| entry.regular && of_another(&entry.name)) else {
        return Ok(());
    };
    let other = if layout == Layout::Text { Layout::Log } else { Layout::Text };
    let (shown, name) = (folder.path().display().to_string(), found.name);
    let text = format!("{shown} holds {name}, which is of layout {other}: start this node with --layout {other}");
    Err(bad(text))
}

/// A version is given in its leader's epoch, which every node has seen that serves that leader.
fn could_be_committed(identity: &Identity, version: Version) -> bool {
    identity.seen.map_or(Epoch(0), |(leadership, _)| leadership.epoch) >= version.epoch()
}

fn bad(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn read_committed(folder: &dyn Folder) -> Option<Version> {
    let text = folder.open(COMMITTED_FILE).and_then(|mut file| file.read_all(64)).ok()?;
    let (number, crc) = std::str::from_utf8(&text).ok()?.trim_end().split_once(' ')?;
    (crc == format!("{:08x}", crc32c::crc32c(number.as_bytes()))).then(|| number.parse().ok().map(Version))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let leadership = Leadership { cluster_id: Uuid([7; 16]), epoch: Epoch(3) };
        let member = Member { id: NodeId(2), uuid: Uuid([9; 16]), address: "127.0.0.1:5556".to_owned() };
        let removed = vec![Removed { id: NodeId(3), uuid: Uuid([5; 16]) }];
        Identity {
            seen: Some((leadership, 42)),
            members: vec![member],
            removed,
            ..Identity::new(NodeId(1), Uuid([1; 16]))
        }
    }

    #[test]
    fn who_was_removed_stays_so_whatever_an_older_leader_tells() {
        let disk: Arc<dyn crate::durable::Disk> = Arc::new(crate::durable::sim::MemDisk::new());
        let folder = || disk.folder(std::path::Path::new("/n")).unwrap();
        let open = || IdentityFile::open(folder(), NodeId(1), Uuid([1; 16]), Layout::Text).unwrap();
        let member = |id: u32, uuid: u8| Member { id: NodeId(id), uuid: Uuid([uuid; 16]), address: format!("h:{id}") };
        let file = open();
        let (ours, gone) = (member(1, 1), member(3, 3));
        file.learn(MemberList { members: vec![ours.clone(), gone.clone()], removed: vec![] }).unwrap();
        let removed = vec![Removed { id: NodeId(3), uuid: Uuid([3; 16]) }];
        // Its number belongs to another folder now.
        let told = MemberList { members: vec![ours.clone(), member(3, 4)], removed: removed.clone() };
        file.learn(told.clone()).unwrap();
        // A leader with an older log.
        file.learn(MemberList { members: vec![ours.clone(), gone], removed: vec![] }).unwrap();
        for found in [file.get(), open().get()] {
            assert_eq!((&found.members, &found.removed), (&vec![ours.clone()], &removed));
        }
        file.learn(told.clone()).unwrap();
        assert_eq!((open().get().members, open().get().removed), (told.members, removed));
    }

    #[test]
    fn a_later_epoch_is_noted_where_there_is_no_room_for_a_file() {
        use super::pair::SPARE_FILE;
        use crate::durable::sim::{Fault, MemDisk, Op, errno};

        let (disk, path) = (MemDisk::new(), std::path::Path::new("/n"));
        let open = || {
            let folder = (&disk as &dyn crate::durable::Disk).folder(path).unwrap();
            IdentityFile::open(folder, NodeId(1), Uuid([1; 16]), Layout::Text).unwrap()
        };
        let fence = |epoch| Fence {
            leadership: Leadership { epoch: Epoch(epoch), ..identity().seen.unwrap().0 },
            run: 1,
            session: 1,
        };
        let file = open();
        // Not even names can be changed.
        disk.fault_next(Op::Create, Fault::Fail(errno::ENOSPC));
        disk.fault_next(Op::Rename, Fault::Fail(errno::ENOSPC));
        for epoch in 1..4 {
            file.admit(fence(epoch)).unwrap().unwrap();
            assert_eq!(open().get().seen.unwrap().0.epoch, Epoch(epoch));
        }
        // Nothing is lost where there is none.
        let folder = (&disk as &dyn crate::durable::Disk).folder(path).unwrap();
        folder.remove(SPARE_FILE).unwrap();
        assert!(durable::is_full(&file.admit(fence(9)).unwrap_err()));
        assert_eq!((file.get(), open().get().seen.unwrap().0.epoch), (open().get(), Epoch(3)));
    }

    #[test]
    fn whichever_file_is_whole_is_read_and_the_next_write_mends_the_other() {
        use super::pair::SPARE_FILE;
        use crate::durable::sim::MemDisk;

        let (disk, path) = (MemDisk::new(), std::path::Path::new("/n"));
        let folder = (&disk as &dyn crate::durable::Disk).folder(path).unwrap();
        let open = || IdentityFile::open(folder.clone(), NodeId(1), Uuid([1; 16]), Layout::Text).unwrap();
        let fence = |epoch| Fence {
            leadership: Leadership { epoch: Epoch(epoch), ..identity().seen.unwrap().0 },
            run: 1,
            session: 1,
        };
        open().admit(fence(3)).unwrap().unwrap();
        // Damaged by a write that ended half-way.
        for (epoch, name) in [(4, SPARE_FILE), (5, IDENTITY_FILE), (6, SPARE_FILE), (7, IDENTITY_FILE)] {
            disk.rot(path, name, |bytes| bytes[..100].fill(0));
            let file = open();
            assert_eq!(file.get().seen.unwrap().0.epoch, Epoch(epoch - 1), "{name}");
            file.admit(fence(epoch)).unwrap().unwrap();
        }
        // One that is gone is what the other one says, and no new folder.
        folder.remove(IDENTITY_FILE).unwrap();
        let file = open();
        assert_eq!((file.get().seen.unwrap().0.epoch, file.get().uuid), (Epoch(7), Uuid([1; 16])));
        file.admit(fence(8)).unwrap().unwrap();
        assert!(disk.peek(path).contains_key(IDENTITY_FILE));
        // A conversion leaves none that says the older layout.
        file.get().keep_as(&*folder, Layout::Log).unwrap();
        disk.rot(path, IDENTITY_FILE, |bytes| bytes[..100].fill(0));
        assert!(Identity::read(&*folder, NodeId(1)).is_err());
        disk.rot(path, IDENTITY_FILE, |bytes| {
            *bytes = Identity { layout: "text".to_owned(), ..file.get() }.encode().into()
        });
        let file = open();
        // One that is older than the identity, as an earlier version of this program left it, is renewed by a start.
        file.admit(fence(9)).unwrap().unwrap();
        let old = Identity { seen: None, ..file.get() }.encode();
        disk.rot(path, SPARE_FILE, |bytes| bytes[..old.len()].copy_from_slice(old.as_bytes()));
        let file = open();
        disk.rot(path, IDENTITY_FILE, |bytes| bytes[..100].fill(0));
        assert_eq!(open().get(), file.get());
        let file = open();
        file.admit(fence(10)).unwrap().unwrap();
    }

    #[test]
    fn an_identity_round_trips() {
        for identity in [identity(), Identity::new(NodeId(u32::MAX), Uuid([255; 16]))] {
            assert_eq!(Identity::decode(&identity.encode()), Ok(identity));
        }
    }

    #[test]
    fn any_damage_to_an_identity_is_told() {
        let text = identity().encode();
        for at in 0..text.len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(Identity::decode(&String::from_utf8_lossy(&bytes)).is_err(), "byte {at}");
            assert!(Identity::decode(&text[..at]).is_err(), "cut at {at}");
        }
        let newer = text.replace("hatokuse-node 1", "hatokuse-node 2");
        assert!(Identity::decode(&newer).unwrap_err().contains("newer hatokuse"));
    }
}
