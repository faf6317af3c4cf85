//! The leaders of a register that has several.

use std::fmt::Write as _;

use super::{HEARD_NOW, Safe};
use crate::dashboard::words::age;
use crate::telemetry::grouped;
use crate::types::{GroupView, LedView, PeerId, PeerRole};

/// The group of leaders, with its heading: there may be none.
pub(super) fn section(group: &GroupView) -> String {
    let mut html = format!(
        "<section class=\"card\"><h2>Leaders <small>term {}{}</small></h2><div class=\"peers\"><table><thead><tr><th>Peer</th><th>Role</th>\
         <th class=\"n\">Behind</th><th class=\"n wide\">Last heard</th></tr></thead><tbody>",
        group.term,
        Safe(&led(group)),
    );
    for peer in &group.peers {
        // In the colours of nodes.
        let (class, role) = match (peer.role, &peer.refuses) {
            (PeerRole::Unreachable, _) => ("down", "unreachable".to_owned()),
            (_, Some(why)) => ("down", format!("takes no part: {why}")),
            (PeerRole::Leader, None) => ("up", "leads".to_owned()),
            (PeerRole::Standby, None) => ("up", "standby".to_owned()),
            (PeerRole::Learner, None) => ("suspect", "no vote yet".to_owned()),
        };
        let heard = match peer.silent_ms.map(|ms| ms as f64 / 1e3) {
            None => "never".to_owned(),
            Some(silent) if silent < HEARD_NOW => "now".to_owned(),
            Some(silent) => format!("{} ago", age(silent)),
        };
        let _ = write!(
            html,
            "<tr class=\"{class}\"><td><b>{id}</b> <small>{address}</small></td><td><span class=\"state\">{role}</span></td>\
             <td class=\"n\">{behind}</td><td class=\"n wide\">{heard}</td></tr>",
            id = peer.id,
            address = Safe(&peer.address),
            role = Safe(&role),
            behind = grouped(group.behind(peer)),
        );
    }
    html.push_str("</tbody></table></div></section>");
    html
}

/// Since when the one that leads does, and why.
fn led(group: &GroupView) -> String {
    let leads = group.peers.iter().filter_map(|peer| Some((peer.id, peer.led.as_ref()?)));
    let line = |(id, led): (PeerId, &LedView)| {
        format!(": peer {id} has led for {}, as {}", age(led.leads_since_ms as f64 / 1e3), led.why)
    };
    leads.map(line).collect()
}
