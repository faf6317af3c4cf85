//! The log that several leader processes agree on, as the one of them sees it that leads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::entry::Entry;
use super::replica::{Replica, Verdict};
use super::{Effect, Ends, Plainly};
use crate::cluster::knowledge::Trust;
use crate::leader::journal::{NotLogged, Record};
use crate::lock::Lock;
use crate::raft::{Group, NotAppended};
use crate::seeded::{self, Bug};
use crate::stop::Stop;
use crate::types::{Epoch, IoMode, Leadership};

/// The group's log while this peer leads.
#[derive(Debug)]
pub struct Agreed {
    group: Group<Replica>,
    replica: Arc<Replica>,
    /// That of this peer, once it has begun.
    epoch: AtomicU32,
    /// Ends this peer's time as the leader.
    stop: Stop,
}

impl Agreed {
    /// Of a peer that is about to lead; `stop` is that of its time as the leader.
    pub fn new(group: Group<Replica>, replica: Arc<Replica>, stop: Stop) -> Self {
        Self { group, replica, epoch: AtomicU32::new(0), stop }
    }

    /// The group.
    pub(super) fn group(&self) -> &Group<Replica> {
        &self.group
    }

    /// Why nothing can be logged, where that is known.
    pub(super) fn refuses(&self) -> Option<&'static str> {
        self.stop.failure().map(|_| "this leader does not lead any more")
    }

    /// Has the group agree on an epoch's beginning.
    pub(super) async fn begin(&self, leadership: Leadership, run: u64, trust: Trust) -> Result<(), NotLogged> {
        let (boot_id, io_mode) = (String::new(), IoMode::Unbuffered);
        let began = Record::Began { leadership, run, boot_id, io_mode, trust };
        if seeded::active(Bug::EpochShownUnagreed) {
            self.epoch.store(leadership.epoch.0, Ordering::Release);
            let author = self.replica.begin_alone(leadership, run);
            let (group, payload) = (self.group.clone(), Entry::encode(author, [began].iter(), Record::encode));
            tokio::spawn(async move { group.append(payload).await });
            return Ok(());
        }
        self.put_in(leadership.epoch, &[began], Record::encode).await?;
        self.epoch.store(leadership.epoch.0, Ordering::Release);
        Ok(())
    }

    /// Has the group agree on marks.
    pub(super) async fn note(&self, marks: &[Record]) -> Result<(), NotLogged> {
        self.put_in(self.epoch(), marks, Record::encode).await
    }

    /// Has the group agree on records in the name of this epoch, and nothing else follows from them.
    pub(super) async fn put_in<'a, T: 'a>(
        &self,
        epoch: Epoch,
        records: &'a [T],
        encode: impl Fn(&T, &mut Vec<u8>),
    ) -> Result<(), NotLogged> {
        self.append_in(epoch, records.iter(), encode, Plainly).await.map(drop).map_err(|(error, Plainly)| error)
    }

    /// Ends of intents that the group has not been told.
    pub(super) fn ends(&self) -> Arc<Lock<Ends>> {
        self.replica.ends()
    }

    /// That of this peer, once it has begun.
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// Has the group agree on records in the name of this peer's epoch; they are applied with this effect.
    pub(super) async fn append<'a, T: 'a, E: Effect>(
        &self,
        records: impl Iterator<Item = &'a T>,
        encode: impl Fn(&T, &mut Vec<u8>),
        effect: E,
    ) -> Result<E::Output, (NotLogged, E)> {
        self.append_in(self.epoch(), records, encode, effect).await
    }

    async fn append_in<'a, T: 'a, E: Effect>(
        &self,
        epoch: Epoch,
        records: impl Iterator<Item = &'a T>,
        encode: impl Fn(&T, &mut Vec<u8>),
        effect: E,
    ) -> Result<E::Output, (NotLogged, E)> {
        let expected = self.replica.expect(epoch, effect);
        let payload = Entry::encode(expected.author, records, encode);
        let why = match self.group.append(payload).await {
            Ok(Verdict::Applied) => {
                let ended = || NotLogged("this leader does not lead any more".to_owned());
                return expected.decided().map_err(|effect| (ended(), effect));
            }
            Ok(Verdict::Void) => "another leader has taken over".to_owned(),
            // It is in no log, and nothing else is wrong.
            Err(error @ NotAppended::TooLong(_)) => {
                return expected.give_up(&self.replica).await.map_err(|effect| (NotLogged(error.to_string()), effect));
            }
            Err(error @ (NotAppended::NotLeading | NotAppended::Unknown(_))) => error.to_string(),
        };
        self.stop.fail(why.clone());
        expected.give_up(&self.replica).await.map_err(|effect| (NotLogged(why), effect))
    }
}
