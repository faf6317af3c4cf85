//! The lane that carries beats: by their answers the leader knows that its nodes let in no other one yet.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::lane::{Owner, to};
use crate::cluster::lease::RENEW_EVERY;
use crate::leader::every;
use crate::types::{Epoch, LEASE};
use crate::wire::Lane;
use crate::wire::family::{self, FromNode, from_node, to_node};

impl Owner {
    /// Beats for as long as the link lives. Who sends to `last` wants the promise of the node given back, and hears
    /// when it is.
    pub(super) async fn beat(self, mut lane: Lane, mut last: mpsc::UnboundedReceiver<oneshot::Sender<()>>) {
        let mut sent: BTreeMap<u64, Instant> = BTreeMap::new();
        let mut released: Option<(u64, oneshot::Sender<()>)> = None;
        let (mut seq, mut tick) = (0, every(RENEW_EVERY));
        loop {
            let ping = tokio::select! {
                biased;
                () = self.cut.cancelled() => break,
                frame = lane.frames_in.recv() => {
                    let Some(FromNode { seq, body: Some(body) }) = frame else { break };
                    match body {
                        from_node::Body::Fenced(fenced) => {
                            self.events.fenced(self.node, Epoch(fenced.epoch_seen), &fenced.reason);
                            break;
                        }
                        from_node::Body::Pong(pong) => {
                            let sent = sent.remove(&seq).filter(|_| !pong.lease_refused);
                            if let Some(sent) = sent {
                                self.events.answered(self.node, sent, pong.unix_ms);
                            }
                            if let Some((_, done)) = released.take_if(|(last, _)| *last == seq) {
                                let _ = done.send(());
                            }
                        }
                        _ => {}
                    }
                    continue;
                }
                Some(done) = last.recv() => {
                    released = Some((seq + 1, done));
                    family::Ping { lease: false, release: true }
                }
                _ = tick.tick(), if released.is_none() => family::Ping { lease: true, release: false },
            };
            seq += 1;
            if ping.lease {
                // What comes after that is of no use.
                sent.retain(|_, sent| sent.elapsed() < LEASE);
                sent.insert(seq, Instant::now());
            }
            // Where nothing moves, one more that waits would only be late.
            let _ = lane.frames_out.try_send(to(self.fence, seq, to_node::Body::Ping(ping)));
        }
        // One lane without the others is no link.
        self.cut.cancel();
    }
}
