//! Conversion from one layout to the other: wherever it ends, the layout that the folder names has everything.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hatokuse::durable::sim::MemDisk;
use hatokuse::durable::{Disk, Folder};
use hatokuse::node::convert::{ConvertError, convert, finish};
use hatokuse::node::files::TextStore;
use hatokuse::node::identity::{Identity, IdentityFile};
use hatokuse::node::segments::SegmentStore;
use hatokuse::node::store::{Body, INVENTORY_PARTS, Put, PutOutcome, Settle, Store};
use hatokuse::types::{CopyRecord, Epoch, IoMode, Layout, MessageId, NodeId, Uuid, Version};

use crate::harness::{Ending, crashes, errors, synced};

const ID: NodeId = NodeId(1);

/// Every copy, by id and version: its record, and its content.
type Copies = BTreeMap<(MessageId, Version), (CopyRecord, Vec<u8>)>;

fn folder(disk: &MemDisk) -> std::io::Result<Arc<dyn Folder>> {
    disk.folder(Path::new("/storage_node_1"))
}

fn open(disk: &MemDisk, layout: Layout) -> Box<dyn Store> {
    let folder = folder(disk).unwrap();
    match layout {
        Layout::Text => Box::new(TextStore::open(Arc::new(disk.clone()), folder, IoMode::Unbuffered).unwrap().0),
        Layout::Log => Box::new(SegmentStore::open(folder, IoMode::Unbuffered).unwrap().0),
    }
}

fn layout_of(disk: &MemDisk) -> Layout {
    let identity = Identity::read(&*folder(disk).unwrap(), ID).unwrap().unwrap();
    if identity.layout == "log" { Layout::Log } else { Layout::Text }
}

fn put(text: &str, sequence: u32, body: Option<&str>) -> Put {
    let (id, version) = (text.parse().unwrap(), Version::new(Epoch(1), sequence));
    match body {
        Some(content) => {
            let content = content.as_bytes().to_vec();
            Put { id, record: CopyRecord::of(version, &content), body: Body::Bytes(content.into()) }
        }
        None => Put { id, record: CopyRecord::tombstone(version), body: Body::Deleted },
    }
}

/// A folder with visible, staged and deleted copies, all of it synced.
fn filled(layout: Layout, attributes: bool) -> MemDisk {
    let disk = MemDisk::new();
    disk.set_keeps_records(attributes);
    IdentityFile::open(folder(&disk).unwrap(), ID, Uuid([1; 16]), layout).unwrap();
    let store = open(&disk, layout);
    let long = "ü".repeat(100);
    let first = [put("a", 1, Some("one")), put("b", 2, Some("")), put(&long, 3, Some("long")), put("gone", 4, None)];
    let second = [put("a", 5, Some("newer, not settled")), put("b", 6, None), put("c", 7, Some("c"))];
    for puts in [&first[..], &second] {
        assert!(store.write(&[], puts).unwrap().outcomes.iter().all(|outcome| *outcome == PutOutcome::Stored));
    }
    let settle = Settle {
        id: "gone".parse().unwrap(),
        version: first[3].record.version,
        keep: true,
        trash: false,
        lasting: true,
    };
    store.write(&[settle], &[]).unwrap();
    drop(store);
    synced(&disk)
}

fn copies(store: &dyn Store) -> Copies {
    let entries = (0..INVENTORY_PARTS).flat_map(|part| store.inventory(part));
    let copy = |entry: hatokuse::types::Listed| {
        assert!(!entry.damaged, "{entry:?}");
        let content = store.read(&entry.id, entry.record.version).unwrap().to_vec();
        ((entry.id, entry.record.version), (entry.record, content))
    };
    entries.map(copy).collect()
}

fn run(disk: &MemDisk, to: Layout) -> Result<(), ConvertError> {
    let failed = |source| ConvertError::Disk { folder: String::new(), source };
    let (folder, disk): (_, Arc<dyn Disk>) = (folder(disk).map_err(failed)?, Arc::new(disk.clone()));
    convert(&disk, &folder, ID, to, &mut |_, _| {})
}

#[test]
fn a_conversion_that_ends_anywhere_loses_nothing_and_goes_on() {
    for (from, to, attributes) in
        [(Layout::Text, Layout::Log, true), (Layout::Text, Layout::Log, false), (Layout::Log, Layout::Text, true)]
    {
        let before = filled(from, attributes);
        let all = copies(&*open(&before.after_kill(), from));
        assert_eq!(all.len(), 7);
        let check = |disk: &MemDisk, done: &Result<(), ConvertError>, ending: Ending, what: &str| {
            let what = format!("{from} to {to}, attributes {attributes}, {what}: {done:?}");
            if ending == Ending::OneLost && !attributes {
                return; // see the rows of `node`: what no journalled file system does
            }
            // A start without --convert, of whatever layout the folder has.
            let plain = disk.after_kill();
            let (folder, any): (_, Arc<dyn Disk>) = (folder(&plain).unwrap(), Arc::new(plain.clone()));
            finish(&any, &folder, ID).unwrap_or_else(|error| panic!("{what}: {error}"));
            let layout = layout_of(&plain);
            assert!(done.is_err() || layout == to, "{what}");
            assert_eq!(copies(&*open(&plain, layout)), all, "{what}: then without --convert, as {layout}");
            // And one that goes on.
            let goes_on = disk.after_kill();
            run(&goes_on, to).unwrap_or_else(|error| panic!("{what}: going on: {error}"));
            assert_eq!((layout_of(&goes_on), copies(&*open(&goes_on, to))), (to, all.clone()), "{what}: gone on");
            let left = goes_on.peek(Path::new("/storage_node_1"));
            let old = |name: &String| match from {
                Layout::Text => name.ends_with(".txt") || name.starts_with(".staged"),
                Layout::Log => name.starts_with("segment-"),
            };
            assert!(!left.keys().any(|name| old(name) || name == ".converting"), "{what}: {:?}", left.keys());
        };
        let mut counts = crashes(&before, |disk| run(disk, to), check);
        counts.add(errors(&before, |disk, _, _| run(disk, to), check));
        counts.say(&format!("converting {from} to {to}, attributes {attributes}"));
    }
}

#[test]
fn what_is_no_copy_is_not_carried_over_and_not_removed() {
    let path = Path::new("/storage_node_1");
    let disk = filled(Layout::Text, true);
    disk.plant(path, "foreign.txt", b"somebody's");
    let refused = run(&disk, Layout::Log).unwrap_err().to_string();
    assert!(refused.contains("foreign") && refused.contains("--layout text"), "{refused}");
    assert_eq!((layout_of(&disk), disk.peek(path).contains_key(".converting")), (Layout::Text, false));
    let folder = folder(&disk).unwrap();
    folder.remove("foreign.txt").unwrap();
    disk.rot(path, "c.txt", |bytes| bytes[0] ^= 1);
    run(&disk, Layout::Log).unwrap();
    assert_eq!(disk.peek(path)["c.txt"].as_deref(), Some(&b"b"[..]), "a damaged copy stays");
    assert_eq!(copies(&*open(&disk, Layout::Log)).len(), 6);
    // And there and back again.
    run(&disk, Layout::Text).unwrap();
    run(&disk, Layout::Log).unwrap();
    assert_eq!(copies(&*open(&disk, Layout::Log)).len(), 6);
}
