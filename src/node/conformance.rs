//! One suite for every layout: what each [`Store`] must do, on whatever disk.

use super::store::{Body, INVENTORY_PARTS, Put, PutOutcome, ReadFault, Settle, Store, Totals};
use crate::types::{CopyRecord, Epoch, Listed, MessageId, Version};

pub(crate) fn id(text: &str) -> MessageId {
    text.parse().unwrap()
}

pub(crate) fn v(sequence: u32) -> Version {
    Version::new(Epoch(1), sequence)
}

pub(crate) fn put(text: &str, sequence: u32, content: &[u8]) -> Put {
    let body = Body::Bytes(content.to_vec().into());
    Put { id: id(text), record: CopyRecord::of(v(sequence), content), body }
}

pub(crate) fn delete(text: &str, sequence: u32) -> Put {
    Put { id: id(text), record: CopyRecord::tombstone(v(sequence)), body: Body::Deleted }
}

pub(crate) fn settle(text: &str, sequence: u32, keep: bool) -> Settle {
    Settle { id: id(text), version: v(sequence), keep, trash: false, lasting: false }
}

pub(crate) fn inventory(store: &dyn Store) -> Vec<Listed> {
    let mut all: Vec<_> = (0..INVENTORY_PARTS).flat_map(|part| store.inventory(part)).collect();
    all.sort_by(|a, b| (&a.id, a.record.version).cmp(&(&b.id, b.record.version)));
    all
}

fn outcomes(store: &dyn Store, puts: &[Put]) -> Vec<PutOutcome> {
    store.write(&[], puts).unwrap().outcomes
}

/// Runs everything; each part starts with an empty store.
pub(crate) fn conformance<S: Store>(mut open_empty: impl FnMut() -> S) {
    copies_are_kept(&open_empty());
    newest_wins(&open_empty());
    a_newer_copy_waits_for_its_commit(&open_empty());
    removal_is_conditional(&open_empty());
    a_tombstone_stands_in_the_way_of_what_is_older(&open_empty());
    any_id_and_any_content(&open_empty());
    readers_run_beside_the_writer(&open_empty());
}

fn copies_are_kept(store: &dyn Store) {
    assert_eq!(store.totals(), Totals::default());
    assert_eq!(store.read(&id("a"), v(1)), Err(ReadFault::Absent));
    let report = store.write(&[], &[put("a", 1, b"hello"), put("b", 2, b"")]).unwrap();
    assert_eq!((report.outcomes, report.error), (vec![PutOutcome::Stored; 2], None));
    assert_eq!(store.read(&id("a"), v(1)).unwrap(), "hello");
    assert_eq!(store.read(&id("b"), v(2)).unwrap(), "");
    assert_eq!(store.read(&id("a"), v(2)), Err(ReadFault::Absent));
    assert_eq!(store.read(&id("a"), Version::FOREIGN), Err(ReadFault::Absent));
    assert_eq!(store.newest(&id("a")), Some(CopyRecord::of(v(1), b"hello")));
    assert_eq!(store.totals(), Totals { messages: 2, bytes: 5 });
    let entry = |text, sequence, content: &[u8]| Listed {
        id: id(text),
        record: CopyRecord::of(v(sequence), content),
        staged: false,
        damaged: false,
    };
    assert_eq!(inventory(store), [entry("a", 1, b"hello"), entry("b", 2, b"")]);
    assert!(store.inventory(INVENTORY_PARTS).is_empty());
}

fn newest_wins(store: &dyn Store) {
    let batch = [put("a", 5, b"five"), put("a", 5, b"five"), put("a", 5, b"other"), put("a", 4, b"four")];
    use PutOutcome::{Conflict, Failed, Stale, Stored};
    assert_eq!(outcomes(store, &batch), [Stored, Stored, Conflict, Stale]);
    assert_eq!(outcomes(store, &batch), [Stored, Stored, Conflict, Stale]);
    let adopt = Put { body: Body::Adopt, ..put("c", 6, b"x") };
    assert_eq!(outcomes(store, &[adopt]), [Failed]);
    let mut foreign = put("d", 1, b"x");
    foreign.record.version = Version::FOREIGN;
    assert_eq!(outcomes(store, &[foreign]), [Failed]);
    assert_eq!(store.read(&id("a"), v(5)).unwrap(), "five");
    assert_eq!(store.totals().messages, 1);
}

fn a_newer_copy_waits_for_its_commit(store: &dyn Store) {
    outcomes(store, &[put("a", 1, b"one")]);
    outcomes(store, &[put("a", 2, b"two"), put("a", 3, b"three")]);
    for (version, content) in [(1, "one"), (2, "two"), (3, "three")] {
        assert_eq!(store.read(&id("a"), v(version)).unwrap(), content);
    }
    let staged: Vec<_> = inventory(store).iter().map(|entry| entry.staged).collect();
    assert_eq!((staged, store.totals().messages), (vec![false, true, true], 1));
    // A version that is not here changes nothing.
    store.write(&[settle("a", 9, true), settle("x", 1, true)], &[]).unwrap();
    assert_eq!(inventory(store).len(), 3);
    store.write(&[settle("a", 2, true)], &[]).unwrap();
    assert_eq!(store.read(&id("a"), v(1)), Err(ReadFault::Absent));
    assert_eq!(store.read(&id("a"), v(2)).unwrap(), "two");
    assert_eq!(store.read(&id("a"), v(3)).unwrap(), "three");
    store.write(&[settle("a", 3, true), settle("a", 2, true)], &[]).unwrap();
    assert_eq!(store.read(&id("a"), v(3)).unwrap(), "three");
    assert_eq!((inventory(store).len(), store.totals()), (1, Totals { messages: 1, bytes: 5 }));
    // A settled version that was written in the same batch waits for the next one: settles come first.
    store.write(&[settle("a", 4, true)], &[put("a", 4, b"four")]).unwrap();
    assert!(inventory(store)[1].staged);
}

fn removal_is_conditional(store: &dyn Store) {
    outcomes(store, &[put("a", 3, b"three")]);
    outcomes(store, &[put("a", 4, b"four")]);
    store.write(&[settle("a", 2, false)], &[]).unwrap();
    assert_eq!(inventory(store).len(), 2, "never a newer one");
    store.write(&[settle("a", 3, false)], &[]).unwrap();
    assert_eq!(store.read(&id("a"), v(3)), Err(ReadFault::Absent));
    assert_eq!(store.read(&id("a"), v(4)).unwrap(), "four");
    store.write(&[settle("a", 4, true)], &[]).unwrap();
    assert_eq!(store.totals().messages, 1);
    store.write(&[settle("a", 4, false)], &[put("a", 1, b"again")]).unwrap();
    assert_eq!(store.read(&id("a"), v(1)).unwrap(), "again");
    assert_eq!(store.totals(), Totals { messages: 1, bytes: 5 });
}

fn a_tombstone_stands_in_the_way_of_what_is_older(store: &dyn Store) {
    use PutOutcome::{Conflict, Stale, Stored};
    outcomes(store, &[put("a", 1, b"one")]);
    assert_eq!(outcomes(store, &[delete("a", 2), delete("b", 3)]), [Stored, Stored]);
    assert_eq!(store.read(&id("a"), v(1)).unwrap(), "one", "until the deletion is committed");
    assert_eq!(store.read(&id("a"), v(2)).unwrap(), "");
    let settled = store.write(&[settle("a", 2, true), settle("b", 3, true)], &[]).unwrap().settled;
    assert_eq!(settled, [true, true]);
    assert_eq!(store.read(&id("a"), v(1)), Err(ReadFault::Absent));
    let left = inventory(store);
    assert!(left.len() == 2 && left.iter().all(|entry| entry.record.is_tombstone()), "{left:?}");
    assert_eq!(store.totals(), Totals::default());
    let late = [put("a", 1, b"one"), put("b", 3, b"message"), delete("b", 3)];
    assert_eq!(outcomes(store, &late), [Stale, Conflict, Stored]);
    // A newer message takes its place; until that is committed, the deletion stays.
    assert_eq!(outcomes(store, &[put("a", 4, b"four")]), [Stored]);
    assert_eq!(inventory(store).len(), 3);
    assert_eq!(store.write(&[settle("a", 4, true)], &[]).unwrap().settled, [true]);
    assert_eq!(store.read(&id("a"), v(4)).unwrap(), "four");
    // Forgotten: nothing is left of it.
    assert_eq!(store.write(&[settle("b", 3, false)], &[]).unwrap().settled, [true]);
    assert_eq!(inventory(store).len(), 1);
    // Whoever has something older, and not the deletion itself, does not confirm it.
    assert_eq!(store.write(&[settle("a", 9, true), settle("none", 9, true)], &[]).unwrap().settled, [false, true]);
    assert_eq!(store.write(&[settle("a", 9, false)], &[]).unwrap().settled, [true]);
    assert!(inventory(store).is_empty());
}

fn any_id_and_any_content(store: &dyn Store) {
    let long = "ü".repeat(100);
    let ids = ["../x", "/abs", "a/b", ".", "..", "CON", "con", "a:1,2", "%2e", "x.txt", "-rf", &long, &"x".repeat(200)];
    for (sequence, text) in (1..).zip(ids) {
        let content: Vec<u8> = (0..=255).cycle().take(sequence as usize * 7919).collect();
        assert_eq!(outcomes(store, &[put(text, sequence, &content)]), [PutOutcome::Stored], "{text}");
        assert_eq!(store.read(&id(text), v(sequence)).unwrap(), content);
    }
    assert_eq!(store.totals().messages, ids.len() as u64);
}

fn readers_run_beside_the_writer(store: &dyn Store) {
    outcomes(store, &[put("a", 1, b"1")]);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 2..200 {
                store.write(&[settle("a", n - 1, true)], &[put("a", n, n.to_string().as_bytes())]).unwrap();
            }
        });
        while !writer.is_finished() {
            let newest = store.newest(&id("a")).unwrap().version;
            match store.read(&id("a"), newest) {
                Ok(content) => assert_eq!(content, newest.sequence().to_string()),
                Err(fault) => assert_eq!(fault, ReadFault::Absent, "replaced meanwhile, and never damaged"),
            }
        }
    });
    assert!(inventory(store).iter().all(|entry| !entry.damaged));
}
