//! How a message ends by itself: by a deletion that the log has, and that is conditional on the version that had the deadline.
//!
//! Nobody is told that it is gone before that. So replicas need no clock, what was gone once stays gone, and an order that
//! comes late does nothing to a newer message. Readers that find a deadline passed have the deletion made first; for what
//! nobody reads `upkeep::expire` does.

use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use tokio::time::{Instant, timeout};

use super::coordinator::{Coordinator, OUTCOME};
use super::journal::NotLogged;
use super::register_time::FAR;
use super::set::not_in_time;
use super::transaction::{Need, Transaction};
use crate::cluster::state::Event;
use crate::error::Refusal;
use crate::protocol::{Command, Reply};
use crate::seeded::{self, Bug};
use crate::telemetry::served::{Operation, Protocol};
use crate::types::{CopyRecord, Deadline, MessageId};

/// Deletions on their way at once: as many as a round likes to have.
const AT_ONCE: usize = 256;

impl Coordinator {
    /// Deletes those of these messages whose deadline has come.
    pub(super) async fn end_due(self: &Arc<Self>, ids: &[MessageId]) -> Result<(), Refusal> {
        // Whoever has the lock of an id sees to it, whatever he came for.
        for some in ids.chunks(AT_ONCE) {
            let ends = some.iter().map(|id| {
                let sown = seeded::active(Bug::EndsWhatIsThere).then(|| id.clone());
                let delete = |all: &mut Transaction| sown.into_iter().for_each(|id| all.delete(&id));
                self.decide(id.clone(), Need::Deletion, delete)
            });
            try_join_all(ends).await?;
        }
        Ok(())
    }

    /// Whether the deadline of a message has come, or cannot be told yet: then nobody is told of it as it is.
    pub(super) fn may_have_ended(&self, record: &CopyRecord) -> bool {
        let looks = record.expires.is_some() && !seeded::active(Bug::ShownUntilSwept);
        looks && (!self.time.is_settled() || self.time.has_come(record.expires))
    }

    /// Has those of these messages deleted whose deadline has come, before anybody is told of them; waits until it is known
    /// what time it is.
    pub(super) async fn end_those_due(self: &Arc<Self>, ids: &[MessageId]) -> Result<(), Refusal> {
        self.know_time().await?;
        let due: Vec<MessageId> = {
            let cluster = self.cluster();
            let expires = |id: &MessageId| cluster.mapping().get(id).and_then(|found| found.record.expires);
            ids.iter().filter(|id| self.time.has_come(expires(id))).cloned().collect()
        };
        self.end_due(&due).await
    }

    /// Has the register's time run, once the clocks of those are known whom a leader has to hear before it writes.
    pub(super) fn settle_time(&self) {
        if self.time.is_settled() {
            return;
        }
        let is_known = {
            let cluster = self.cluster();
            // One of a version that keeps no deadlines does not say what time it is either.
            let mut linked = cluster.registry.nodes().iter().filter(|node| node.is_linked() && node.traits.deadlines);
            // Never by the leader's own clock alone: of two that differ the one behind counts.
            cluster.has_heard_enough()
                && self.time.has_heard_any()
                && linked.all(|node| self.time.has_heard(node.member.id))
        };
        if is_known && let Some(ahead) = self.time.settle() {
            self.tell_gap(ahead);
            self.notify();
        }
    }

    /// Carries out a command of the text protocol that has to do with time.
    pub(super) async fn timed(self: &Arc<Self>, command: Command, via: Protocol) -> Result<Reply, Refusal> {
        let began = Instant::now();
        let op = if matches!(command, Command::Ttl(_)) { Operation::Read } else { Operation::Write };
        let done = self.run_timed(command).await;
        self.meters.served.note(via, op, began.elapsed(), [done.as_ref().err().map(Refusal::code)]);
        done
    }

    async fn run_timed(self: &Arc<Self>, command: Command) -> Result<Reply, Refusal> {
        self.know_time().await?;
        match command {
            Command::SetFor { id, time, payload } => {
                let of = id.clone();
                let set = move |all: &mut Transaction| all.set(&of, payload, Deadline::after(all.now(), time));
                self.transact([(id, Need::Nothing)], set).await.map(|()| Reply::Done)
            }
            Command::Expire { id, time } => {
                let of = id.clone();
                let expire = move |all: &mut Transaction| {
                    let message = all.get(&of).cloned()?;
                    let expires = time.and_then(|time| Deadline::after(all.now(), time));
                    // One that stays as it is needs no write.
                    if all.expires(&of) != expires {
                        all.set(&of, message, expires);
                    }
                    Some(Reply::Done)
                };
                self.transact([(id, Need::Message)], expire).await?.ok_or(Refusal::NotFound)
            }
            Command::Ttl(id) => {
                let record = self.records(&[id]).await?[0].ok_or(Refusal::NotFound)?;
                let left = |deadline: Deadline| deadline.unix_ms().saturating_sub(self.time.now());
                Ok(Reply::Ttl(record.expires.map(left)))
            }
            other => Err(Refusal::BadCommand(format!("{other:?} has nothing to do with time"))),
        }
    }

    /// Takes the time that most clocks show, though it is far ahead of the register's: an operator says that they are right.
    pub(super) async fn accept_clock(self: &Arc<Self>) -> Result<(), Refusal> {
        self.know_time().await?;
        let far = |ms: u64| humantime::format_duration(Duration::from_secs(ms / 1000)).to_string();
        let (now, ahead) = self.time.accept().map_err(|ahead| {
            let behind = ahead.unsigned_abs();
            Refusal::BadCommand(match ahead < 0 && behind > FAR.as_millis() as u64 {
                true => format!(
                    "the clocks are {} behind the register's time, which never goes back: what has ended would be there again; \
                     nothing was changed, and times to live stay right: set the clocks, or give deadlines as times to live",
                    far(behind)
                ),
                false => "the clocks are within a minute of the register's time, which follows them by itself; nothing was \
                          changed"
                    .to_owned(),
            })
        })?;
        tracing::info!(
            "CLOCK ACCEPT: the register's time goes {} ahead, and what has ended by it is deleted",
            far(ahead)
        );
        let leader = self.clone();
        // It goes on if its client has gone. What was said by the new time before this is noted is noted with it.
        let order = self.tasks.spawn(async move { leader.ledger().append(&[Event::Time(now)]).await });
        match timeout(OUTCOME, order).await {
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err(error))) => Err(Refusal::Unknown(error.to_string())),
            Ok(Err(_)) => Err(Refusal::Unknown("the leader failed while it wrote".to_owned())),
            Err(_) => Err(not_in_time()),
        }
    }

    /// Has the log say how far the register's time is, beside the boot-time clock, if it is time for that: always at the end,
    /// if any message has a deadline.
    pub(super) async fn note_time(&self, at_the_end: bool) -> Result<(), NotLogged> {
        let noted = self.time.to_note();
        let last = at_the_end && self.time.is_settled() && self.cluster().mapping().deadlines() > 0;
        if noted.is_none() && !last {
            return Ok(());
        }
        let (unix_ms, since_boot_ms) = self.time.beside_boot();
        self.ledger().note_time(unix_ms, since_boot_ms).await
    }

    /// Says once that the clocks are too far off to be followed, and once that they are not any more.
    pub(super) fn watch_clocks(&self, said: &mut bool) {
        let off = self.time.is_far_off();
        match off {
            Some(off) if !*said => tracing::warn!(
                "the clocks of most machines are {} {} the register's time, which does not follow them, and goes on as it was: set \
                 them right, or, if they are, take their time with CLOCK ACCEPT",
                humantime::format_duration(Duration::from_secs(off.unsigned_abs() / 1000)),
                if off > 0 { "ahead of" } else { "behind" }
            ),
            None if *said => tracing::info!("the clocks of most machines are right again"),
            _ => {}
        }
        *said = off.is_some();
    }

    /// Says how many messages end at once because of the time that passed while nothing ran.
    fn tell_gap(&self, ahead: Duration) {
        let cluster = self.cluster();
        if ahead < FAR || cluster.mapping().deadlines() == 0 || cluster.state().time() == 0 {
            return;
        }
        tracing::info!(
            "{} has passed since the log was last told the time: what has ended meanwhile is deleted",
            humantime::format_duration(Duration::from_secs(ahead.as_secs()))
        );
    }

    /// That fewer nodes are up than a message needs: what an operator can act on is said first.
    fn too_few_to_write(&self) -> Option<Refusal> {
        let cluster = self.cluster();
        let (need, live) = (cluster.tolerance(), cluster.registry.usable());
        (live < need).then(|| Refusal::TooFewNodes(cluster.registry.shortage(need).to_string()))
    }

    /// Waits until the register's time runs: before that no deadline can be given.
    pub(super) async fn know_time(&self) -> Result<(), Refusal> {
        let began = Instant::now();
        while !self.time.is_settled() {
            let changes = self.changes();
            self.settle_time();
            if !self.time.is_settled() {
                let reason = "the register's time is not known before the clocks of enough nodes are".to_owned();
                let waited = self.wait(changes, self.patient_until(began), reason).await;
                waited.map_err(|late| self.too_few_to_write().unwrap_or(late))?;
            }
        }
        Ok(())
    }
}
