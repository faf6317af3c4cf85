//! What a batch does to the copies that a committed version made old, and to the one that it makes visible.

use super::super::index::{Copy, Visible};
use super::super::scan::{TRASH, staged_name};
use super::super::store::{Fatal, Settle};
use super::batch::{Batch, Renamed};
use crate::durable::is_full;
use crate::file_names::SUFFIX;
use crate::seeded::{self, Bug};
use crate::types::{MessageId, Version};

/// Files that the trash keeps; the oldest make room for the next.
const TRASH_KEPT: usize = 1000;

impl Batch<'_> {
    /// Lets go of what a committed version made old; true if nothing of that is left.
    pub(super) fn settle(&mut self, settle: &Settle) -> Result<bool, Fatal> {
        let Settle { id, version, keep, .. } = settle;
        let slot = self.store.index.get(id);
        let stem = self.store.names.stem(id);
        let visible = slot.recorded().map(|copy| copy.record.version);
        match slot.staged(*version) {
            _ if !keep => self.let_go(settle, &stem, *version),
            // Its file stays hidden; what it deletes goes.
            Some(copy) if copy.record.is_tombstone() => self.let_go(settle, &stem, Version(version.0 - 1)),
            // Publishing never goes backward.
            Some(copy)
                if visible.is_none_or(|visible| visible < *version) || seeded::active(Bug::PublishedBackward) =>
            {
                Ok(self.publish(id, copy, &stem)? && self.remove_staged(id, &stem, *version))
            }
            Some(_) => Ok(self.remove_staged(id, &stem, *version)),
            None if visible == Some(*version) => Ok(self.remove_staged(id, &stem, *version)),
            // It is not here, so that what is older stays.
            None => Ok(slot.copies().all(|copy| copy.record.version >= *version)),
        }
    }

    /// Gives a staged copy the id's name; false if somebody removed it.
    fn publish(&mut self, id: &MessageId, copy: Copy, stem: &str) -> Result<bool, Fatal> {
        let version = copy.record.version;
        let staged = staged_name(version, stem);
        if self.store.index.get(id).recorded().is_none() {
            match self.put_aside(stem)? {
                // Foreign, damaged, or dropped in: nothing of ours, and never overwritten.
                Ok(Some(_)) => self.store.index.change(id, |slot| slot.visible = None),
                Ok(None) => {}
                Err(_) => return Ok(false),
            }
        }
        let renamed = match self.rename(&staged, &format!("{stem}{SUFFIX}"))? {
            Renamed::Done => true,
            Renamed::Absent => false,
            // It waits on, and the next word about the id tries again.
            Renamed::Refused(_) => return Ok(false),
        };
        if !renamed {
            self.note(format!("{staged} is gone: somebody removed it"));
        }
        self.store.index.change(id, |slot| {
            slot.staged.retain(|other| other.record.version != version);
            if renamed {
                slot.visible = Some(Visible::Recorded(copy));
            }
        });
        Ok(renamed)
    }

    /// Lets go of every copy up to a version, damaged ones too; true if none is left.
    fn let_go(&mut self, settle: &Settle, stem: &str, upto: Version) -> Result<bool, Fatal> {
        let id = &settle.id;
        let upto = if seeded::active(Bug::DeletedUnconditionally) { Version(u64::MAX) } else { upto };
        let slot = self.store.index.get(id);
        let old = |visible: Option<Visible>| match visible {
            Some(Visible::Recorded(Copy { record, .. }) | Visible::Damaged(record)) => {
                record.version != Version::FOREIGN && record.version <= upto
            }
            _ => false,
        };
        // What does not match its record may be anybody's work: it is never destroyed.
        let trash = settle.trash || matches!(slot.visible, Some(Visible::Damaged(_)));
        if old(slot.visible) && self.discard(&format!("{stem}{SUFFIX}"), stem, trash)? {
            self.store.index.change(id, |slot| slot.visible = None);
        }
        for copy in slot.staged.iter().filter(|copy| copy.record.version <= upto) {
            let trash = settle.trash && !copy.record.is_tombstone();
            if self.discard(&staged_name(copy.record.version, stem), stem, trash)? {
                self.store.index.change(id, |slot| slot.staged.retain(|other| other.record != copy.record));
            }
        }
        let left = self.store.index.get(id);
        let done = !old(left.visible) && left.copies().all(|copy| copy.record.version > upto);
        // A record is struck out only if no file needs it any more: a damaged one without it would look foreign.
        if done && (old(slot.visible) || slot.copies().next().is_some()) {
            self.removed.push((id.clone(), upto));
        }
        Ok(done)
    }

    /// Removes a file of ours or puts it into the trash; false if it is still there.
    fn discard(&mut self, name: &str, stem: &str, trash: bool) -> Result<bool, Fatal> {
        if !trash {
            return Ok(self.remove(name));
        }
        let number = self.moved.next;
        let trashed = format!("{TRASH}{number}-{stem}");
        match self.rename(name, &trashed)? {
            Renamed::Done => {}
            Renamed::Absent => return Ok(true),
            // The trash is a kindness, and a full disk has no room for it.
            Renamed::Refused(error) => return Ok(is_full(&error) && self.remove(name)),
        }
        self.moved.next += 1;
        self.moved.trash.insert(number, trashed);
        while self.moved.trash.len() > TRASH_KEPT {
            self.empty_trash_by_one();
        }
        Ok(true)
    }

    pub(super) fn empty_trash_by_one(&mut self) {
        if let Some((_, oldest)) = self.moved.trash.pop_first() {
            // If it stays, the next start finds it again.
            self.remove(&oldest);
        }
    }

    /// Removes staged copies older than a version; true if none is left.
    fn remove_staged(&mut self, id: &MessageId, stem: &str, than: Version) -> bool {
        let mut done = true;
        for copy in self.store.index.get(id).staged.into_iter().filter(|copy| copy.record.version < than) {
            if self.remove(&staged_name(copy.record.version, stem)) {
                self.store.index.change(id, |slot| slot.staged.retain(|other| other.record != copy.record));
            } else {
                done = false;
            }
        }
        done
    }
}
