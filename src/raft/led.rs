//! Why a peer comes to lead, as far as it has seen itself.

use tokio::time::Instant;

use super::group::Led;
use super::types::PeerId;

/// What a peer has seen of who led before.
#[derive(Debug, Default)]
pub(super) struct Before {
    leader: Option<PeerId>,
    /// In which term this peer led at the last look.
    leads: Option<u64>,
    /// The disk of this peer hung when it led last.
    hung: bool,
}

/// What a peer sees at one look.
#[derive(Debug)]
pub(super) struct Look {
    /// This peer.
    pub(super) me: PeerId,
    /// Who leads, as far as it is known.
    pub(super) leader: Option<PeerId>,
    /// In which term this peer does.
    pub(super) leads: Option<u64>,
    /// The disk of this peer hangs.
    pub(super) hangs: bool,
}

impl Before {
    /// Looks once more. Where this peer has begun to lead, says in which term and why: `handed_over` tells who has handed
    /// over to it, and `is_silent` whether a peer has not been heard of for long enough to be taken for dead.
    pub(super) fn look(
        &mut self,
        look: &Look,
        handed_over: impl FnOnce() -> Option<PeerId>,
        is_silent: impl FnOnce(PeerId) -> bool,
    ) -> Option<Led> {
        let led = look.leads.filter(|_| self.leads != look.leads).map(|term| {
            let why = match (handed_over(), self.leader) {
                (Some(peer), _) => format!("peer {peer} handed over"),
                (None, None) => "nobody led since it started".to_owned(),
                (None, Some(peer)) if peer == look.me && self.hung => "its disk answers again".to_owned(),
                (None, Some(peer)) if peer == look.me => "most others answer it again".to_owned(),
                (None, Some(peer)) if is_silent(peer) => format!("peer {peer} did not answer"),
                (None, Some(peer)) => format!("peer {peer} led no more"),
            };
            Led { term, since: Instant::now(), why }
        });
        if self.leads.is_some() && look.leads.is_none() {
            (self.leader, self.hung) = (Some(look.me), look.hangs);
        }
        if look.leader.is_some_and(|leader| leader != look.me) {
            self.leader = look.leader;
        }
        self.leads = look.leads;
        led
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What peer 1 says after these looks, each of who leads, and whether its own disk hangs.
    fn why(looks: &[(Option<PeerId>, bool)], handed_over: Option<PeerId>, silent: bool) -> String {
        let mut before = Before::default();
        let mut why = String::new();
        for (term, (leader, hangs)) in looks.iter().enumerate() {
            let leads = (*leader == Some(1)).then_some(term as u64);
            let look = Look { me: 1, leader: *leader, leads, hangs: *hangs };
            if let Some(led) = before.look(&look, || handed_over, |_| silent) {
                assert_eq!(Some(led.term), leads);
                why = led.why;
            }
        }
        why
    }

    #[test]
    fn a_peer_knows_why_it_leads() {
        let (me, other, none, hung) = ((Some(1), false), (Some(2), false), (None, false), (None, true));
        for (looks, handed_over, silent, wanted) in [
            (&[none, me][..], None, true, "nobody led since it started"),
            (&[other, none, me], None, true, "peer 2 did not answer"),
            (&[other, none, me], None, false, "peer 2 led no more"),
            (&[other, me], Some(2), false, "peer 2 handed over"),
            (&[me, none, me], None, true, "most others answer it again"),
            (&[me, hung, none, me], None, true, "its disk answers again"),
            (&[me, hung, other, none, me], None, true, "peer 2 did not answer"),
        ] {
            assert_eq!(why(looks, handed_over, silent), wanted, "{looks:?}");
        }
    }

    #[test]
    fn it_is_said_once_a_term() {
        let mut before = Before::default();
        let look = |leads| Look { me: 1, leader: Some(1), leads, hangs: false };
        let mut begins = |leads| before.look(&look(leads), || None, |_| false).is_some();
        assert_eq!([begins(Some(3)), begins(Some(3)), begins(Some(4)), begins(None)], [true, false, true, false]);
    }
}
