//! What a peer has seen of the register's time, so that it can go on from there when it leads.
//!
//! The leader notes in the log how far that has come, and the machines of the others have boot-time clocks of their own: what
//! was noted has run on since it was seen (a heartbeat later at most, and to take over takes longer). A file beside the log says the same to the next process, in the same boot of
//! the machine. It is not synced: another boot's is of no use.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::clock::Clock;
use crate::durable::executor::Executor;
use crate::durable::{self, Folder};
use crate::leader::register_time::Then;
use crate::lock::Lock;
use crate::stop::Stop;

/// The file, and how often it is written at most.
const FILE: &str = "time";
const WRITE_EVERY: Duration = Duration::from_millis(500);

/// It has two numbers and a boot's id.
const MOST_BYTES: usize = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct SeenTime {
    clock: Arc<dyn Clock>,
    last: Lock<Option<Then>>,
}

impl SeenTime {
    /// Nothing was seen yet on the machine with this clock.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, last: Lock::default() }
    }

    fn since_boot_ms(&self) -> u64 {
        self.clock.since_boot().as_millis() as u64
    }

    /// It was noted that the time is at least this, in milliseconds since 1970. What was seen before may be further by now.
    pub(super) fn see(&self, unix_ms: u64) {
        let since_boot_ms = self.since_boot_ms();
        let seen = Then { unix_ms, since_boot_ms, is_exact: false };
        let mut last = self.last.lock();
        let by_now = |then: &Then| then.unix_ms.saturating_add(since_boot_ms.saturating_sub(then.since_boot_ms));
        if last.as_ref().is_none_or(|last| by_now(last) < seen.unix_ms) {
            *last = Some(seen);
        }
    }

    /// What was seen last.
    pub(super) fn last(&self) -> Option<Then> {
        *self.last.lock()
    }

    /// Takes what an earlier process in the same boot has seen. Blocks.
    pub(super) fn recall(&self, folder: &dyn Folder, boot: &str) {
        match read(folder, boot) {
            Ok(then) => *self.last.lock() = then.filter(|then| then.since_boot_ms <= self.since_boot_ms()),
            Err(error) => tracing::debug!("what was seen of the register's time cannot be read: {error}"),
        }
    }

    /// Writes down what was seen, whenever that has changed.
    pub(super) async fn keep(self: Arc<Self>, folder: Arc<dyn Folder>, boot: String, executor: Executor, stop: Stop) {
        let mut written = None;
        while stop.unless(sleep(WRITE_EVERY)).await.is_some() {
            let Some(last) = self.last().filter(|last| written != Some(*last)) else { continue };
            written = Some(last);
            let (folder, line) = (folder.clone(), format!("{} {} {boot}\n", last.unix_ms, last.since_boot_ms));
            let wrote = executor.run(move || write(&*folder, &line)).await;
            if let Err(error) = wrote {
                tracing::debug!("what was seen of the register's time cannot be written: {error}");
            }
        }
    }
}

fn write(folder: &dyn Folder, line: &str) -> io::Result<()> {
    durable::write_beside(folder, FILE, line.as_bytes())?;
    durable::put_in_place(folder, FILE)
}

fn read(folder: &dyn Folder, boot: &str) -> io::Result<Option<Then>> {
    let mut file = match folder.open(FILE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let line = file.read_all(MOST_BYTES)?;
    let line = String::from_utf8_lossy(&line);
    let mut words = line.trim_end().splitn(3, ' ');
    let mut number = || words.next().and_then(|word| word.parse().ok());
    let (Some(unix_ms), Some(since_boot_ms)) = (number(), number()) else { return Ok(None) };
    let is_same = words.next() == Some(boot);
    Ok(is_same.then_some(Then { unix_ms, since_boot_ms, is_exact: false }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::durable::Disk as _;
    use crate::durable::sim::MemDisk;

    #[derive(Debug, Default)]
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn unix_ms(&self) -> u64 {
            0
        }

        fn since_boot(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::Relaxed))
        }
    }

    fn then(unix_ms: u64, since_boot_ms: u64) -> Option<Then> {
        Some(Then { unix_ms, since_boot_ms, is_exact: false })
    }

    #[test]
    fn what_was_seen_runs_on_and_an_old_mark_that_comes_late_changes_nothing() {
        let hand = Arc::new(Hand::default());
        let seen = SeenTime::new(hand.clone());
        assert_eq!(seen.last(), None);
        hand.0.store(50, Ordering::Relaxed);
        seen.see(1000);
        assert_eq!(seen.last(), then(1000, 50));
        hand.0.store(550, Ordering::Relaxed);
        // It is 1500 by now.
        seen.see(1500);
        assert_eq!(seen.last(), then(1000, 50));
        seen.see(1501);
        assert_eq!(seen.last(), then(1501, 550));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_process_in_the_same_boot_knows_it() {
        let disk = MemDisk::new();
        let folder = disk.folder(Path::new("/metadata")).unwrap();
        let hand = Arc::new(Hand(AtomicU64::new(50)));
        let (seen, stop) = (Arc::new(SeenTime::new(hand.clone())), Stop::new());
        let keeping = seen.clone().keep(folder.clone(), "this boot".to_owned(), Executor::Inline, stop.clone());
        let keeping = tokio::spawn(keeping);
        seen.see(1000);
        sleep(WRITE_EVERY * 2).await;
        stop.request();
        keeping.await.unwrap();
        let next = SeenTime::new(hand.clone());
        next.recall(&*folder, "another boot");
        assert_eq!(next.last(), None);
        next.recall(&*folder, "this boot");
        assert_eq!(next.last(), then(1000, 50));
        // A clock that is behind is of another boot, whatever that is called.
        let odd = SeenTime::new(Arc::new(Hand::default()));
        odd.recall(&*folder, "this boot");
        assert_eq!(odd.last(), None);
        for senseless in ["", "1", "1 x this boot", "999999999999999999999 1 this boot"] {
            write(&*folder, senseless).unwrap();
            next.recall(&*folder, "this boot");
            assert_eq!(next.last(), None, "{senseless:?}");
        }
    }
}
