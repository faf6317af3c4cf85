//! How a group comes to be: once, by one peer, where no other one knows of a group.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::group::{Group, Inner, NotDone};
use super::proto::Who;
use super::proto::request::Body;
use super::proto::response::Body as Answer;
use super::types::PeerId;
use super::{convert, start};
use crate::seeded::{self, Bug};
use crate::types::Uuid;

impl<M> Group<M> {
    /// Founds a group of these peers, with their addresses for one another; this one is among them. The others join when
    /// they are reached.
    ///
    /// # Errors
    /// There is any state already, another peer is of a group, or it cannot be written.
    pub async fn found(&self, peers: BTreeMap<PeerId, String>) -> Result<(), NotDone> {
        let inner = &self.inner;
        if !peers.contains_key(&inner.settings.me) {
            return Err(NotDone(format!("peer {} is not among those that found the group", inner.settings.me)));
        }
        let is_free = seeded::active(Bug::PeerFoundsTwice);
        if !is_free && (self.is_founded() || !inner.log.is_blank() || inner.machine.snapshots.current().is_some()) {
            return Err(NotDone("there is a group already: it is founded once, in empty folders".to_owned()));
        }
        // Connections live where they are dialled.
        let asking = inner.runtime.spawn(of_a_group(inner.clone(), peers.clone()));
        if let Ok(Some((peer, group))) = asking.await
            && !is_free
        {
            return Err(NotDone(format!(
                "peer {peer} is of a group already ({group}), and another one is not founded beside it"
            )));
        }
        let identity = inner.identity.clone();
        let group = Uuid::random(&mut fastrand::Rng::new());
        let joined = inner.machine.executor.run(move || identity.join(group)).await;
        joined.map_err(|error| NotDone(format!("the group's id cannot be written: {error}")))?;
        let members = start::members(&inner.identity, peers);
        inner.raft.initialize(members).await.map_err(|error| NotDone(error.to_string()))
    }
}

/// A peer that says of which group it is, if one does. Those that do not answer may not be up yet.
async fn of_a_group(inner: Arc<Inner>, peers: BTreeMap<PeerId, String>) -> Option<(PeerId, Uuid)> {
    let others = peers.into_iter().filter(|(peer, _)| *peer != inner.settings.me);
    let mut answers: FuturesUnordered<_> = others
        .map(|(peer, address)| {
            let inner = inner.clone();
            async move {
                match inner.ask(peer, &address, Some(Body::Who(Who {}))).await?.body? {
                    Answer::Group(group) => Some((peer, convert::read_uuid(&group.group).ok()??)),
                    _ => None,
                }
            }
        })
        .collect();
    while let Some(answer) = answers.next().await {
        if answer.is_some() {
            return answer;
        }
    }
    None
}
