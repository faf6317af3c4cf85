//! What clients want done to one id: jobs, those that wait for it together at one go.
//!
//! Each sees what those before it have done, and only what the last one leaves is written. Nobody can have seen what was
//! between: all of them are answered after that one write, so that they happened one after the other in that instant.
//! If it fails, none has happened, or all may have.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::coordinator::Coordinator;
use super::key_locks::{Joined, KeyGuard};
use super::set::Turn;
use super::transaction::{Decided, Need, Transaction};
use super::write::Asker;
use crate::error::Refusal;
use crate::protocol::Reply;
use crate::types::{Change, MessageId};

/// Something that a client wants done to an id.
#[derive(Debug)]
pub(super) enum Job {
    /// It is to be changed, whatever it has.
    Write {
        /// Who hears what became of it.
        asker: Asker,
        /// To what.
        change: Change,
    },
    /// It is to be looked at, and written if need be.
    Decide(Box<dyn Decide>),
}

/// Looks at an id and decides what to write, and is told what became of that.
pub(super) trait Decide: Send + std::fmt::Debug {
    /// What it wants to know.
    fn need(&self) -> Need;
    /// Looks, decides, and writes; gives the transaction back, or why it cannot decide.
    fn decide(&mut self, transaction: Transaction) -> BoxFuture<'_, Result<Transaction, Refusal>>;
    /// All of it is true, or was refused; then perhaps before `decide` was called.
    fn end(self: Box<Self>, end: Result<(), Refusal>);
}

/// Decides by a function, and sends on what it gave and whether it wrote.
pub(super) struct Decision<R, F> {
    pub(super) need: Need,
    pub(super) decide: Option<F>,
    pub(super) decided: Option<(R, u64)>,
    pub(super) told: oneshot::Sender<Result<(R, u64), Refusal>>,
}

impl<R, F> std::fmt::Debug for Decision<R, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decision").field("need", &self.need).finish_non_exhaustive()
    }
}

impl<R, F, D> Decide for Decision<R, F>
where
    R: Send,
    F: FnOnce(Transaction) -> D + Send,
    D: Future<Output = Decided<R>> + Send,
{
    fn need(&self) -> Need {
        self.need
    }

    fn decide(&mut self, mut transaction: Transaction) -> BoxFuture<'_, Result<Transaction, Refusal>> {
        async move {
            let Some(decide) = self.decide.take() else { return Ok(transaction) };
            let before = transaction.begin_step();
            let (transaction, told) = decide(transaction).await?;
            self.decided = Some((told, transaction.writes() - before));
            Ok(transaction)
        }
        .boxed()
    }

    fn end(self: Box<Self>, end: Result<(), Refusal>) {
        let Self { decided, told, .. } = *self;
        let end = end.and_then(|()| decided.ok_or_else(|| Refusal::Unknown("it was not worked on".to_owned())));
        // One that has gone does not hear it.
        let _ = told.send(end);
    }
}

impl Job {
    /// Who asked for a plain write.
    pub(super) fn asker(&self) -> Option<&Asker> {
        match self {
            Self::Write { asker, .. } => Some(asker),
            Self::Decide(_) => None,
        }
    }

    fn need(&self) -> Need {
        match self {
            Self::Write { .. } => Need::Nothing,
            Self::Decide(decision) => decision.need(),
        }
    }

    async fn decide(&mut self, id: &MessageId, mut transaction: Transaction) -> Result<Transaction, Refusal> {
        match self {
            Self::Write { change, .. } => {
                transaction.begin_step();
                transaction.write(id, change.clone());
                Ok(transaction)
            }
            Self::Decide(decision) => decision.decide(transaction).await,
        }
    }

    fn end(self, end: Result<(), Refusal>) {
        match self {
            Self::Write { asker, .. } => asker.tell(end.map_or_else(Reply::Refused, |()| Reply::Done)),
            Self::Decide(decision) => decision.end(end),
        }
    }
}

impl Coordinator {
    /// Does a job, alone or with others for the same id.
    pub(super) fn take_job(self: &Arc<Self>, id: MessageId, job: Job) {
        let leader = self.clone();
        match self.key_locks.join(&id, job) {
            Joined::Entered(guard, job) => drop(self.tasks.spawn(leader.work_on(id, guard, vec![job]))),
            Joined::Wait(turn) => self.wait_for(id, turn),
            Joined::With => {}
        }
    }

    /// Does the jobs of a group when their turn has come.
    pub(super) fn wait_for(self: &Arc<Self>, id: MessageId, turn: oneshot::Receiver<(KeyGuard, Vec<Job>)>) {
        let leader = self.clone();
        self.tasks.spawn(async move {
            if let Ok((guard, jobs)) = turn.await {
                leader.work_on(id, guard, jobs).await;
            }
        });
    }

    async fn work_on(self: Arc<Self>, id: MessageId, guard: KeyGuard, mut jobs: Vec<Job>) {
        if jobs.iter().all(|job| job.asker().is_some()) {
            self.take_turns([overwritten(id, guard, jobs)]);
            return;
        }
        let need = jobs.iter().map(Job::need).max().unwrap_or(Need::Nothing);
        let (of, all) = (&id, &mut jobs);
        let decide = async move |mut transaction| {
            for job in all {
                transaction = job.decide(of, transaction).await?;
            }
            Ok((transaction, ()))
        };
        let end = self.run([(id.clone(), need)].into(), Some(vec![guard]), decide).await;
        let end = end.map(|_| ());
        jobs.into_iter().for_each(|job| job.end(end.clone()));
    }
}

/// Writes of an id, each over the one before: only the last is carried out.
pub(super) fn overwritten(id: MessageId, guard: KeyGuard, jobs: impl IntoIterator<Item = Job>) -> Turn {
    let (mut askers, mut last) = (SmallVec::new(), Change::Delete);
    for job in jobs {
        if let Job::Write { asker, change } = job {
            askers.push(asker);
            last = change;
        }
    }
    Turn { askers, id, change: last, guard }
}
