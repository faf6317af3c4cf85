//! Threads, sockets and the clock as they are.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio_stream::wrappers::TcpListenerStream;

use super::world::{Notes, path};
use crate::durable::os::OsDisk;
use crate::durable::sim::MemDisk;
use crate::durable::{Disk, DiskFile, Folder, Listed, Space};
use crate::raft::{Addresses, Group, GrpcPeers, NotAppended, PeerId, Settings};
use crate::stop::Stop;
use crate::wire::Grpc;

/// A folder whose syncs wait while they are told to.
#[derive(Debug, Clone)]
struct Slow {
    folder: Arc<dyn Folder>,
    hangs: Arc<AtomicBool>,
}

#[derive(Debug)]
struct SlowFile(Box<dyn DiskFile>, Arc<AtomicBool>);

impl Slow {
    fn file(&self, file: io::Result<Box<dyn DiskFile>>) -> io::Result<Box<dyn DiskFile>> {
        file.map(|file| Box::new(SlowFile(file, self.hangs.clone())) as Box<dyn DiskFile>)
    }
}

impl Folder for Slow {
    fn path(&self) -> PathBuf {
        self.folder.path()
    }
    fn create_new(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.file(self.folder.create_new(name))
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.file(self.folder.open(name))
    }
    fn edit(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.file(self.folder.edit(name))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.folder.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.folder.remove(name)
    }
    fn list(&self) -> io::Result<Vec<Listed>> {
        self.folder.list()
    }
    fn sync(&self) -> io::Result<()> {
        self.folder.sync()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.folder.sync_all()
    }
    fn syncs_as_a_whole(&self) -> io::Result<bool> {
        self.folder.syncs_as_a_whole()
    }
    fn lock(&self, name: &str) -> io::Result<Box<dyn std::fmt::Debug + Send + Sync>> {
        self.folder.lock(name)
    }
    fn space(&self) -> io::Result<Space> {
        self.folder.space()
    }
    fn folds_case(&self) -> io::Result<bool> {
        self.folder.folds_case()
    }
}

impl SlowFile {
    fn wait(&self) {
        while self.1.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl DiskFile for SlowFile {
    fn append(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.0.append(parts)
    }
    fn write_at(&mut self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.0.write_at(parts, offset)
    }
    fn read_all(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        self.0.read_all(limit)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.truncate(length)
    }
    fn set_record(&mut self, record: &[u8]) -> io::Result<()> {
        self.0.set_record(record)
    }
    fn record(&self) -> io::Result<Option<Vec<u8>>> {
        self.0.record()
    }
    fn sync(&self) -> io::Result<()> {
        self.wait();
        self.0.sync()
    }
    fn sync_data(&self) -> io::Result<()> {
        self.wait();
        self.0.sync_data()
    }
}

struct Real {
    groups: BTreeMap<PeerId, Group<Notes>>,
    notes: BTreeMap<PeerId, Arc<Notes>>,
    addresses: BTreeMap<PeerId, String>,
    servers: BTreeMap<PeerId, Stop>,
}

impl Real {
    async fn new() -> Self {
        Self { groups: BTreeMap::new(), notes: BTreeMap::new(), addresses: BTreeMap::new(), servers: BTreeMap::new() }
    }

    async fn start(&mut self, peer: PeerId, folder: Arc<dyn Folder>, boot: String, snapshot_log_bytes: u64) {
        let asked = self.addresses.get(&peer).cloned().unwrap_or_else(|| "127.0.0.1:0".to_owned());
        let until = Instant::now() + Duration::from_secs(5);
        let listener = loop {
            // The server of before may not have let go of it yet.
            match tokio::net::TcpListener::bind(&asked).await {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < until, "{asked}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let address = listener.local_addr().unwrap().to_string();
        let mut settings = Settings::new(peer, Addresses { peer: address.clone(), ..Addresses::default() }, boot);
        settings.snapshot_log_bytes = snapshot_log_bytes;
        let (notes, network) = (Arc::new(Notes::default()), Arc::new(GrpcPeers::new(Grpc { tls: None })));
        let group = Group::open(settings, folder, notes.clone(), network, Stop::new()).await.unwrap();
        let server = tonic::transport::Server::builder().add_service(group.service(move |_, from| {
            let own = || tonic::Status::permission_denied("it is this peer");
            (from != peer).then_some(()).ok_or_else(own)
        }));
        let stop = Stop::new();
        self.servers.insert(peer, stop.clone());
        // Without a word to those that are connected, they would go on to talk to the old one.
        let ended = async move { stop.requested().await };
        let serving = server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), ended);
        tokio::spawn(async move { drop(serving.await) });
        self.addresses.insert(peer, address);
        self.groups.insert(peer, group);
        self.notes.insert(peer, notes);
    }

    async fn leader(&self) -> PeerId {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            for (peer, group) in &self.groups {
                if group.leading().borrow().leads.is_some() {
                    return *peer;
                }
            }
            assert!(Instant::now() < until, "nobody leads");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn come_together(&self, count: usize) {
        let until = Instant::now() + Duration::from_secs(20);
        while !self.notes.values().all(|notes| notes.all().len() == count) {
            assert!(
                Instant::now() < until,
                "{:?}",
                self.notes.values().map(|notes| notes.all().len()).collect::<Vec<_>>()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_peers_over_grpc_on_real_disks() {
    let (disk, folders) = (OsDisk::new(), tempfile::tempdir().unwrap());
    let folder = |peer: PeerId| disk.folder(&folders.path().join(peer.to_string())).unwrap();
    let mut real = Real::new().await;
    for peer in 1..=3 {
        real.start(peer, folder(peer), disk.boot_id(), 1 << 20).await;
    }
    real.groups[&1].found(real.addresses.clone()).await.unwrap();
    let leader = real.leader().await;
    let begun = Instant::now();
    let writers: Vec<_> = (0..32)
        .map(|writer| {
            let group = real.groups[&leader].clone();
            tokio::spawn(async move {
                for number in 0..50 {
                    group.append(format!("{writer}-{number}-{}", "x".repeat(2000)).into_bytes()).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    eprintln!("1,600 entries of 2 kB by 32 writers: {:?}", begun.elapsed());
    let begun = Instant::now();
    for number in 0..50 {
        real.groups[&leader].append(vec![number; 100]).await.unwrap();
    }
    eprintln!("50 entries one after the other: {:?}", begun.elapsed());
    // An entry that is longer than gRPC takes without being told.
    real.groups[&leader].append(vec![7; 20 << 20]).await.unwrap();
    real.come_together(1651).await;

    let gone = 1 + leader % 3;
    real.servers.remove(&gone).unwrap().request();
    real.groups.remove(&gone).unwrap().close().await;
    real.notes.remove(&gone);
    tokio::time::sleep(Duration::from_millis(100)).await;
    for number in 0..40_u8 {
        real.groups[&leader].append(vec![number; 200_000]).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(real.groups[&leader].status().snapshot.is_some());
    real.start(gone, folder(gone), disk.boot_id(), 1 << 20).await;
    real.come_together(1691).await;
    let handed = real.groups[&leader].hand_over(None).await.unwrap();
    assert_ne!(handed, leader);
    for group in real.groups.values() {
        group.close().await;
        assert!(matches!(group.append("x").await, Err(NotAppended::NotLeading | NotAppended::Unknown(_))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_hangs_steps_down_and_comes_back() {
    let disks: Vec<MemDisk> = (0..3).map(|_| MemDisk::new()).collect();
    let hangs: Vec<Arc<AtomicBool>> = (0..3).map(|_| Arc::default()).collect();
    let mut real = Real::new().await;
    for peer in 1..=3 {
        let place = peer as usize - 1;
        let slow = Slow { folder: disks[place].folder(path()).unwrap(), hangs: hangs[place].clone() };
        real.start(peer, Arc::new(slow), disks[place].boot_id(), 64 << 20).await;
    }
    real.groups[&1].found(real.addresses.clone()).await.unwrap();
    let old = real.leader().await;
    real.groups[&old].append("a").await.unwrap();
    hangs[old as usize - 1].store(true, Ordering::Relaxed);
    let begun = Instant::now();
    // The others are a majority: it is committed, or unknown, but never refused.
    let pending = tokio::spawn({
        let group = real.groups[&old].clone();
        async move { group.append("b").await }
    });
    let mut standing = real.groups[&old].leading();
    standing.wait_for(|standing| standing.leads.is_none() && standing.hangs).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(real.groups[&old].append("x").await, Err(NotAppended::NotLeading));
    let pending = pending.await.unwrap();
    assert_ne!(pending, Err(NotAppended::NotLeading));
    let group = real.groups.remove(&old).unwrap();
    let new = real.leader().await;
    real.groups[&new].append("c").await.unwrap();
    eprintln!("hung disk to the next acknowledged entry: {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5));
    // Its engine waits for the disk; that another one leads it is told all the same.
    let knows = standing.wait_for(|standing| standing.leader.as_ref().is_some_and(|(leader, _)| *leader == new));
    tokio::time::timeout(Duration::from_secs(5), knows).await.expect("who leads is known").unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    hangs[old as usize - 1].store(false, Ordering::Relaxed);
    real.groups.insert(old, group);
    let count = real.notes[&new].all().len();
    real.come_together(count).await;
    assert!(!standing.borrow().hangs || standing.wait_for(|standing| !standing.hangs).await.is_ok());
    for group in real.groups.values() {
        group.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_lost_its_last_entries_does_not_go_on_in_its_term() {
    let mut disks: Vec<MemDisk> = (0..3).map(|_| MemDisk::new()).collect();
    let hangs: Vec<Arc<AtomicBool>> = (0..3).map(|_| Arc::default()).collect();
    let mut real = Real::new().await;
    let slow = |disks: &[MemDisk], peer: PeerId| {
        let place = peer as usize - 1;
        Arc::new(Slow { folder: disks[place].folder(path()).unwrap(), hangs: hangs[place].clone() })
    };
    for peer in 1..=3 {
        real.start(peer, slow(&disks, peer), disks[peer as usize - 1].boot_id(), 64 << 20).await;
    }
    real.groups[&1].found(real.addresses.clone()).await.unwrap();
    let old = real.leader().await;
    real.groups[&old].append("a").await.unwrap();
    real.come_together(1).await;
    // The others have it on their disks, and that is a majority; the leader's own disk does not get to it.
    hangs[old as usize - 1].store(true, Ordering::Relaxed);
    let group = real.groups[&old].clone();
    let pending = tokio::spawn(async move { group.append("b").await });
    let others: Vec<_> = real.notes.iter().filter(|(peer, _)| **peer != old).map(|(_, notes)| notes.clone()).collect();
    let until = Instant::now() + Duration::from_secs(5);
    while !others.iter().all(|notes| notes.all().len() == 2) {
        assert!(Instant::now() < until, "the others have not applied it: {:?}", pending.await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let place = old as usize - 1;
    disks[place] = disks[place].after_power_cut_with(|_| crate::durable::sim::Survives::Nothing);
    real.servers.remove(&old).unwrap().request();
    real.groups.remove(&old).unwrap().close().await;
    hangs[place].store(false, Ordering::Relaxed);
    real.start(old, slow(&disks, old), disks[place].boot_id(), 64 << 20).await;
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        assert!(Instant::now() < until, "nobody takes it");
        let leader = real.leader().await;
        if real.groups[&leader].append("c").await.is_ok() {
            break;
        }
    }
    let until = Instant::now() + Duration::from_secs(20);
    let expected = [b"a".to_vec(), b"b".to_vec(), b"c".to_vec()];
    while !real.notes.values().all(|notes| notes.all() == expected) {
        assert!(Instant::now() < until, "{:?}", real.notes.values().map(|notes| notes.all()).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for group in real.groups.values() {
        group.close().await;
    }
}
