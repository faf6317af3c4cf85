//! Tokio's watch, whose waiters wake in the order in which they came: its own wakes them by lot, from a generator that
//! cannot be seeded.

use std::pin::pin;
use std::sync::Arc;

use openraft::async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft::{OptionalSend, OptionalSync};
use tokio::sync::{Notify, watch};

/// The kind of channel.
#[derive(Debug)]
pub(in crate::raft) struct OrderedWatch;

/// Wakes those who wait, also when it goes.
#[derive(Clone)]
struct Bell(Arc<Notify>);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

/// The writing end. Its fields go in this order: the last one to go closes the channel, and then says so.
pub(in crate::raft) struct Sender<T> {
    value: watch::Sender<T>,
    bell: Bell,
}

/// The reading end.
pub(in crate::raft) struct Receiver<T> {
    value: watch::Receiver<T>,
    bell: Arc<Notify>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), bell: self.bell.clone() }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), bell: self.bell.clone() }
    }
}

impl Watch for OrderedWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = watch::Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = watch::channel(init);
        let bell = Arc::<Notify>::default();
        (Sender { value: sender, bell: Bell(bell.clone()) }, Receiver { value: receiver, bell })
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<OrderedWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.value.send(value).map_err(|error| SendError(error.0))?;
        self.bell.0.notify_waiters();
        Ok(())
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        let modified = self.value.send_if_modified(modify);
        if modified {
            self.bell.0.notify_waiters();
        }
        modified
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.value.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver { value: self.value.subscribe(), bell: self.bell.0.clone() }
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<OrderedWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            let mut rung = pin!(self.bell.notified());
            // Before the look: what comes between is not missed.
            rung.as_mut().enable();
            if self.value.borrow().has_changed() {
                self.value.mark_unchanged();
                return Ok(());
            }
            self.value.has_changed().map_err(|_| RecvError(()))?;
            rung.await;
        }
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.value.borrow()
    }

    fn borrow_and_update(&mut self) -> watch::Ref<'_, T> {
        self.value.borrow_and_update()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_first_wakes_first_and_hears_of_the_end() {
        let (sender, receiver) = OrderedWatch::channel(0);
        let order = Arc::new(crate::lock::Lock::new(Vec::new()));
        let waiters: Vec<_> = (0..32)
            .map(|n| {
                let (mut receiver, order) = (receiver.clone(), order.clone());
                tokio::spawn(async move {
                    while receiver.changed().await.is_ok() {
                        order.lock().push((n, *receiver.borrow_watched()));
                    }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        for value in 1..3 {
            assert!(sender.send_if_modified(|now| std::mem::replace(now, value) != value));
            assert!(!sender.send_if_modified(|_| false));
            tokio::task::yield_now().await;
        }
        let wanted: Vec<_> = (1..3).flat_map(|value| (0..32).map(move |n| (n, value))).collect();
        assert_eq!(*order.lock(), wanted);
        let other = sender.clone();
        drop(sender);
        other.send(3).unwrap();
        // What was not seen is seen before the end is.
        drop(other);
        for waiter in waiters {
            waiter.await.unwrap();
        }
        assert_eq!(order.lock().len(), 96);
        drop(receiver);
    }
}
