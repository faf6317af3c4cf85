//! What a standby knows of itself, and nothing of what only the one that leads does.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::NoLabelSet;
use prometheus_client::metrics::MetricType;

use super::machine::{Process, space};
use super::peers::Own;
use super::{CertificateState, Encode, Labels, Page, states, written};
use crate::durable::Space;
use crate::leader::relayed::Relayed;
use crate::raft::Status;
use crate::tls::Renews;

/// Everything that a standby's page is made of.
#[derive(Debug)]
pub(in super::super) struct Standby {
    uptime: Duration,
    status: Status,
    /// By the way that they came: connections that are relayed now, and those that were since the start.
    relayed: Vec<(&'static str, u64, u64)>,
    /// Of its log.
    disk: Option<Space>,
    process: Process,
    certificates: Vec<CertificateState>,
}

impl Standby {
    /// As it is at this moment. It may have to wait for a disk.
    pub(in super::super) fn look(
        uptime: Duration,
        status: Status,
        relayed: &Relayed,
        data_dir: &Path,
        certificates: &[Arc<dyn Renews>],
    ) -> Self {
        Self {
            uptime,
            status,
            relayed: relayed.counts(),
            disk: space(data_dir),
            process: Process::look(),
            certificates: states(certificates),
        }
    }

    /// The page.
    pub(in super::super) fn page(self) -> String {
        written(self)
    }
}

impl Encode for Standby {
    fn encode(&self, page: &mut Page<'_>) -> fmt::Result {
        page.build()?;
        page.gauge("hatokuse_uptime_seconds", "Time since this process started", self.uptime.as_secs_f64())?;
        let Status { me, term, last, committed, applied, disk_late, behind, .. } = self.status;
        page.own(&Own { term, leads: false, last, committed, applied, disk_late })?;
        page.lags([(vec![("peer", me.to_string())], behind as f64)])?;
        page.relayed(&self.relayed)?;
        page.certificates(&self.certificates)?;
        page.machine(self.disk.as_ref(), &self.process)
    }
}

impl Page<'_> {
    fn relayed(&mut self, ways: &[(&'static str, u64, u64)]) -> fmt::Result {
        let of = |way: &str| -> Labels { vec![("way", way.to_owned())] };
        self.gauges(
            "hatokuse_relayed_connections",
            "Connections that this standby relays to the peer that leads",
            ways.iter().map(|(way, now, _)| (of(way), *now as f64)),
        )?;
        let mut family = self.0.encode_descriptor(
            "hatokuse_relayed",
            "Connections that this peer has relayed",
            None,
            MetricType::Counter,
        )?;
        for (way, _, all) in ways {
            family.encode_family(&of(way))?.encode_counter::<NoLabelSet, _, u64>(all, None)?;
        }
        Ok(())
    }
}
