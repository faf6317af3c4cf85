//! In buffered mode nobody waits for the disk, and so nobody hears when it does not take what was written.
//!
//! Every half minute (`EVERY`) all files are synced, only to hear that; the system does it about as often by itself. After an error every
//! copy is read from the disk, and a node that has lost some says so and ends: when it is started again it lists them as
//! what they are, and they are healed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Node;
use super::store::{INVENTORY_PARTS, ReadFault, Store};
use crate::durable::Folder;
use crate::stop::Stop;
use crate::types::Version;

/// How often it is asked.
const EVERY: Duration = Duration::from_secs(30);

/// Listens until the stop.
pub async fn listen(node: Arc<Node>, folder: Arc<dyn Folder>, stop: Stop) {
    while stop.unless(sleep(EVERY)).await.is_some() {
        let (folder, store) = (folder.clone(), node.store().clone());
        let heard = tokio::task::spawn_blocking(move || hear(&*folder, &*store)).await;
        if let Ok(Some((error, lost))) = heard {
            tracing::error!("what was written did not reach the disk: {error}; {lost} copies are not on it");
            if lost > 0 {
                return stop.fail(format!(
                    "{lost} copies did not reach the disk ({error}): check it, then start this node again, and they are made again from others"
                ));
            }
        }
    }
}

/// What the file system says, and how many copies are not on the disk; nothing: all is well, or it cannot be asked as a whole.
fn hear(folder: &dyn Folder, store: &dyn Store) -> Option<(std::io::Error, usize)> {
    if !folder.syncs_as_a_whole().unwrap_or(false) {
        return None;
    }
    let error = folder.sync_all().err()?;
    let all = (0..INVENTORY_PARTS).flat_map(|part| store.inventory(part));
    let own = all.filter(|entry| !entry.damaged && entry.record.version != Version::FOREIGN);
    let bad = |fault| matches!(fault, Err(ReadFault::Damaged | ReadFault::Absent));
    // One that was let go of meanwhile is not there to be read, and not listed any more.
    let lost = own.filter(|entry| bad(store.check(&entry.id, entry.record.version)));
    let lost = lost.filter(|entry| store.newest(&entry.id).is_none_or(|newest| newest.version <= entry.record.version));
    Some((error, lost.count()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::Disk;
    use crate::durable::sim::{Fault, MemDisk, Op, errno};
    use crate::node::conformance::put;
    use crate::node::files::TextStore;
    use crate::types::IoMode;
    use std::path::Path;

    #[test]
    fn a_failed_write_back_is_heard_and_what_it_lost_is_counted() {
        let disk = MemDisk::new();
        let folder = disk.folder(Path::new("/n")).unwrap();
        let store = TextStore::open(Arc::new(disk.clone()), folder.clone(), IoMode::Buffered).unwrap().0;
        store.write(&[], &[put("a", 1, b"one"), put("b", 2, b"two")]).unwrap();
        assert!(hear(&*folder, &store).is_none());
        for lost in 0..2 {
            if lost > 0 {
                disk.rot(Path::new("/n"), "a.txt", |bytes| bytes.clear());
            }
            disk.fault_next(Op::SyncAll, Fault::Fail(errno::EIO));
            let (error, found) = hear(&*folder, &store).unwrap();
            assert_eq!((error.raw_os_error(), found), (Some(errno::EIO), lost));
        }
    }
}
