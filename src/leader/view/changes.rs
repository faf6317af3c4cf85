//! Ids whose lines may have to change, on their way to whoever keeps the view.

use std::sync::MutexGuard;

use tokio::sync::Notify;

use crate::lock::Lock;
use crate::types::MessageId;

/// The most that wait. While a disk hangs more may come: they are not remembered, and the view is written anew.
const MOST: usize = 1 << 20;

/// What has changed since it was taken last. Many add to it, and one takes it.
#[derive(Debug, Default)]
pub struct Changes {
    waiting: Lock<Waiting>,
    wake: Notify,
}

/// What one look takes.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// In the order in which they changed; an id can be there many times.
    pub(super) ids: Vec<MessageId>,
    /// There were more than are remembered.
    pub(super) too_many: bool,
}

impl Changes {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }

    /// These are new, were deleted, or have other holders.
    pub(crate) fn add(&self, ids: Vec<MessageId>) {
        if ids.is_empty() {
            return;
        }
        {
            let mut waiting = self.waiting();
            if waiting.too_many || waiting.ids.len() + ids.len() > MOST {
                *waiting = Waiting { ids: Vec::new(), too_many: true };
            } else {
                waiting.ids.extend(ids);
            }
        }
        self.wake.notify_one();
    }

    /// Waits until something was added; at times it was taken already.
    pub(super) async fn come(&self) {
        self.wake.notified().await;
    }

    /// Takes what there is.
    pub(super) fn take(&self) -> Waiting {
        std::mem::take(&mut self.waiting())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded() {
        let changes = Changes::default();
        let some = vec![MessageId::from_bytes(b"x").unwrap(); MOST / 4];
        (0..4).for_each(|_| changes.add(some.clone()));
        let all = changes.take();
        assert_eq!((all.ids.len(), all.too_many), (MOST, false));
        (0..5).for_each(|_| changes.add(some.clone()));
        // What comes later is no more news.
        changes.add(vec![some[0].clone()]);
        let none = changes.take();
        assert_eq!((none.ids.len(), none.too_many), (0, true));
        assert!(!changes.take().too_many);
    }
}
