//! What is asked of several messages, or of all: snapshots, versions, and a walk over the ids.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::coordinator::{Coordinator, LAPSE, REQUEST_COST};
use super::shares::{Room, Share};
use super::transaction::{LOOKED_AT, MOST_BYTES, Need, check_ids};
use crate::cluster::Located;
use crate::error::Refusal;
use crate::protocol::Reply;
use crate::types::{CopyRecord, MessageId, Payload, Version};

/// How long an answer waits for a version that is being completed.
pub(super) const COMPLETION: Duration = Duration::from_secs(2);

/// A snapshot that writers disturb is tried so often before it makes them wait.
const TRIES: usize = 3;

/// Ids that a step of a walk gives at most.
const STEP: usize = 4096;

impl Coordinator {
    /// How many messages there are, as soon as that can be told.
    pub async fn count(&self) -> Result<u64, Refusal> {
        let began = Instant::now();
        loop {
            let changes = self.changes();
            let counted = self.cluster().count();
            match counted {
                Ok(count) => return Ok(count),
                Err(reason) => self.wait(changes, self.patient_until(began), reason).await?,
            }
        }
    }

    /// What is known of messages at one instant, without asking any node: version and length, or that there is none.
    pub async fn records(self: &Arc<Self>, ids: &[MessageId]) -> Result<Vec<Option<CopyRecord>>, Refusal> {
        let began = Instant::now();
        loop {
            let changes = self.changes();
            match self.look_at_one_instant(ids).await {
                Ok(records) if records.iter().flatten().any(|record| self.may_have_ended(record)) => {
                    self.end_those_due(ids).await?;
                }
                Ok(records) => {
                    self.served.store(true, Ordering::Relaxed);
                    return Ok(records);
                }
                Err(reason) => self.wait(changes, self.patient_until(began), reason).await?,
            }
        }
    }

    /// Waits until the leader may speak from its own knowledge: nothing of what it has told until then was overtaken by
    /// another one.
    pub(super) async fn vouch(&self) -> Result<(), Refusal> {
        let began = Instant::now();
        loop {
            let changes = self.changes();
            let Some(reason) = self.cluster().unsure() else { return Ok(()) };
            self.wait(changes, self.patient_until(began), reason).await?;
        }
    }

    /// The version of a message, or that there is none: for whoever wants to know later whether it is still the same.
    pub async fn version(self: &Arc<Self>, id: &MessageId) -> Result<Option<Version>, Refusal> {
        let records = self.records(std::slice::from_ref(id)).await?;
        Ok(records[0].map(|record| record.version))
    }

    /// What is known of ids at one instant: few at once, and many in slices, again and again until nothing has changed in
    /// between. Versions only grow: what they are before and after it, they were all the time.
    async fn look_at_one_instant(&self, ids: &[MessageId]) -> Result<Vec<Option<CopyRecord>>, String> {
        if ids.len() <= LOOKED_AT {
            return self.look(ids);
        }
        let mut before = self.look_in_slices(ids).await?;
        for _ in 0..TRIES {
            let after = self.look_in_slices(ids).await?;
            if after == before {
                return Ok(after);
            }
            before = after;
        }
        self.look(ids)
    }

    async fn look_in_slices(&self, ids: &[MessageId]) -> Result<Vec<Option<CopyRecord>>, String> {
        let mut all = Vec::with_capacity(ids.len());
        for some in ids.chunks(LOOKED_AT) {
            all.extend(self.look(some)?);
            if all.len() < ids.len() {
                tokio::task::yield_now().await;
            }
        }
        Ok(all)
    }

    fn look(&self, ids: &[MessageId]) -> Result<Vec<Option<CopyRecord>>, String> {
        let cluster = self.cluster();
        let record = |id| match cluster.look_up(id) {
            Located::Here { record, .. } => Ok(Some(record)),
            Located::NotFound => Ok(None),
            Located::Hidden(reason) => Err(reason),
        };
        ids.iter().map(record).collect()
    }

    /// Messages as they were at one instant, with the room that they take.
    pub async fn read_many(self: &Arc<Self>, ids: &[MessageId]) -> Result<(Vec<Option<Payload>>, Room), Refusal> {
        self.read_many_for(None, ids).await
    }

    /// The same for a connection, whose share the room is of.
    pub(super) async fn read_many_for(
        self: &Arc<Self>,
        share: Option<&Share>,
        ids: &[MessageId],
    ) -> Result<(Vec<Option<Payload>>, Room), Refusal> {
        check_ids(ids.iter())?;
        let began = Instant::now();
        for _ in 0..TRIES {
            let before = self.records(ids).await?;
            let here = ids.iter().zip(&before).filter_map(|(id, record)| Some((id.clone(), (*record)?)));
            let here: Vec<(MessageId, CopyRecord)> = here.collect();
            let read = self.messages(share, &here).await;
            // Versions only grow: what they are after it they were all the time. What one instant does not show
            // may be what an error came from.
            if self.look_in_slices(ids).await.is_ok_and(|after| after == before) {
                let (messages, room) = read.inspect_err(|_| self.note_gets(began, 0, 0, 1))?;
                let mut messages = messages.into_iter();
                let all: Vec<_> = before.iter().map(|record| record.and_then(|_| messages.next().flatten())).collect();
                self.note_gets(
                    began,
                    ids.len() as u64,
                    before.iter().filter(|record| record.is_none()).count() as u64,
                    0,
                );
                return Ok((all, room));
            }
        }
        let wanted = ids.to_vec();
        let all = self.transact(ids.iter().map(|id| (id.clone(), Need::Message)), move |transaction| {
            wanted.iter().map(|id| transaction.get(id).cloned()).collect::<Vec<_>>()
        });
        let all = all.await?;
        let bytes = all.iter().flatten().map(Payload::len).sum();
        let room = self.room_of(share, bytes)?;
        self.note_gets(began, ids.len() as u64, all.iter().filter(|message| message.is_none()).count() as u64, 0);
        Ok((all, room))
    }

    /// Reads messages that are there, each as it is when its turn comes; with the room that they take.
    pub(super) async fn messages(
        self: &Arc<Self>,
        share: Option<&Share>,
        wanted: &[(MessageId, CopyRecord)],
    ) -> Result<(Vec<Option<Payload>>, Room), Refusal> {
        let bytes: usize = wanted.iter().map(|(_, record)| record.bytes() as usize).sum();
        if bytes > MOST_BYTES {
            return Err(Refusal::BadCommand(format!(
                "these messages have {bytes} bytes, and at most {MOST_BYTES} are read at once; nothing was done, ask for \
                 fewer"
            )));
        }
        let room = self.room_of(share, bytes + wanted.len() * REQUEST_COST)?;
        let mut all: Vec<Option<Payload>> =
            wanted.iter().map(|(id, record)| self.cache.get(id, record.version)).collect();
        let absent = wanted.iter().enumerate().filter(|(at, _)| all[*at].is_none());
        let absent = absent.map(|(at, (id, record))| (at, id.clone(), record.bytes() as usize)).collect();
        for (at, reply) in self.fetch_all(absent).await {
            match reply {
                Reply::Value(payload) => all[at] = Some(payload),
                Reply::Refused(Refusal::NotFound) => {}
                Reply::Refused(refusal) => return Err(refusal),
                other => return Err(Refusal::Unavailable(format!("an answer that fits no GET: {other:?}"))),
            }
        }
        Ok((all, room))
    }

    fn room_of(&self, share: Option<&Share>, bytes: usize) -> Result<Room, Refusal> {
        let room = share.map_or_else(|| self.room(bytes), |share| share.room(bytes));
        room.ok_or_else(|| self.too_much(bytes))
    }

    /// The refusal of what there is no room for: now, or ever.
    pub(super) fn too_much(&self, bytes: usize) -> Refusal {
        let limit = self.pot().size().limit;
        if bytes <= limit {
            return Refusal::Busy("too many bytes are under way in the leader");
        }
        Refusal::BadCommand(format!(
            "it takes {bytes} bytes, and the leader has room for {limit} in all; nothing was written"
        ))
    }

    /// Goes on with a walk over all ids that began with 0, for about `count` of them; gives where the next step goes
    /// on (0: it is over). What is there from the beginning to the end of a walk is given, and only once; the walk
    /// does not outlive the leader. A step takes bounded time.
    pub async fn scan(self: &Arc<Self>, cursor: u64, count: usize) -> Result<(u64, Vec<MessageId>), Refusal> {
        let began = Instant::now();
        loop {
            let changes = self.changes();
            let reason = {
                let cluster = self.cluster();
                match cluster.unsure_of_all() {
                    None => return Ok(cluster.mapping().scan(cursor, count.clamp(1, STEP))),
                    Some(reason) => reason,
                }
            };
            self.wait(changes, self.joining_until().max(began + LAPSE), reason).await?;
        }
    }

    /// Some id, by `chance`; nothing if there is none. Those that follow a gap in the index come more often.
    pub async fn random_id(self: &Arc<Self>, chance: u64) -> Result<Option<MessageId>, Refusal> {
        let start = self.cluster().mapping().cursor_by_chance(chance);
        for mut cursor in [start, 0] {
            loop {
                let (next, mut ids) = self.scan(cursor, 1).await?;
                if let Some(id) = ids.pop() {
                    return Ok(Some(id));
                }
                if next == 0 {
                    break;
                }
                cursor = next;
                tokio::task::yield_now().await;
            }
        }
        Ok(None)
    }
}
