//! The metrics page, as OpenMetrics text (`exposition` knows the older one too). `docs/monitoring.md` says what each of them means.

mod machine;
mod peers;
mod standby;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use self::machine::{Process, space};
pub(super) use self::standby::Standby;
use super::super::coordinator::{Coordinator, ScriptsNow};
use super::super::replication::NodeTimes;
use super::super::users::Denials;
use crate::VERSION;
use crate::durable::Space;
use crate::error::CODES;
use crate::telemetry::served::{BUCKET_MICROS, Operation, Protocol, ServedView, TimesView};
use crate::tls::Renews;
use crate::types::{ClusterView, NodeId, NodeState, NodeView};

/// The page of this moment.
pub(super) fn page(
    view: &ClusterView,
    leader: &Coordinator,
    data_dir: &Path,
    certificates: &[Arc<dyn Renews>],
    denials: &Denials,
) -> String {
    let cells = Protocol::ALL.into_iter().flat_map(|via| Operation::ALL.map(|op| (via, op)));
    let scripts = &leader.meters.scripts;
    let facts = Facts {
        view: view.clone(),
        served: cells.map(|(via, op)| (via, op, leader.meters.served.view(via, op))).collect(),
        node_times: leader.links.times().into_iter().flat_map(times_of).collect(),
        cuts: leader.meters.cuts.counts(),
        denied: denials.counts(),
        scripts: scripts.counts(),
        scripts_now: scripts.now(),
        ready: leader.not_ready().is_none(),
        cache: leader.cache.view(),
        disk: space(data_dir),
        process: Process::look(),
        certificates: states(certificates),
    };
    written(facts)
}

/// The page that these facts make.
fn written(facts: impl Encode) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Once(Mutex::new(facts))));
    let mut text = String::new();
    // Writing into a String does not fail.
    let _ = encode(&mut text, &registry);
    text
}

fn states(certificates: &[Arc<dyn Renews>]) -> Vec<CertificateState> {
    certificates.iter().map(|one| (one.what(), one.state())).collect()
}

/// Of which flags, when they end, and how often they were renewed.
type CertificateState = (&'static str, (Option<Duration>, u64));

/// Everything that the page is made of.
#[derive(Debug)]
struct Facts {
    view: ClusterView,
    served: Vec<(Protocol, Operation, ServedView)>,
    node_times: Vec<(NodeId, Operation, TimesView)>,
    /// Clients that were cut off, by the reason.
    cuts: [(&'static str, u64); 3],
    /// What users were denied, by the reason.
    denied: [(&'static str, u64); 3],
    /// By how they ended.
    scripts: [(&'static str, u64); 4],
    scripts_now: ScriptsNow,
    ready: bool,
    cache: Option<crate::types::CacheView>,
    /// Of the leader's log.
    disk: Option<Space>,
    process: Process,
    certificates: Vec<CertificateState>,
}

/// What makes a page.
trait Encode: fmt::Debug + Send + 'static {
    /// Writes all of it.
    fn encode(&self, page: &mut Page<'_>) -> fmt::Result;
}

/// A collector has to be shareable, and a page is made once.
#[derive(Debug)]
struct Once<F>(Mutex<F>);

impl<F: Encode> Collector for Once<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let facts = self.0.lock().map_err(|_| fmt::Error)?;
        facts.encode(&mut Page(encoder))
    }
}

impl Encode for Facts {
    fn encode(&self, page: &mut Page<'_>) -> fmt::Result {
        page.build()?;
        page.leader(self)?;
        page.peers(&self.view)?;
        page.scripts(self)?;
        page.messages(&self.view)?;
        page.repair(&self.view)?;
        page.nodes(&self.view)?;
        page.node_times(&self.node_times)?;
        page.requests(&self.served)?;
        page.cache(self)?;
        page.certificates(&self.certificates)?;
        page.machine(self.disk.as_ref(), &self.process)
    }
}

fn times_of((node, times): (NodeId, Arc<NodeTimes>)) -> [(NodeId, Operation, TimesView); 2] {
    [(node, Operation::Read, times.reads.view()), (node, Operation::Write, times.writes.view())]
}

fn histogram(family: &mut MetricEncoder<'_>, labels: &Labels, times: &TimesView) -> fmt::Result {
    let ends = BUCKET_MICROS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = ends.zip(times.buckets.iter().copied()).collect();
    let count = times.buckets.iter().sum();
    family.encode_family(labels)?.encode_histogram::<NoLabelSet>(times.sum_s, count, &buckets, None)
}

type Labels = Vec<(&'static str, String)>;

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn gauges(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn info(&mut self, name: &str, help: &str, all: impl IntoIterator<Item = Labels>) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        all.into_iter().try_for_each(|labels| metric.encode_info(&labels))
    }

    fn build(&mut self) -> fmt::Result {
        let (version, commit) = VERSION.split_once(' ').unwrap_or((VERSION, ""));
        let commit = commit.trim_matches(['(', ')']).to_owned();
        self.info("hatokuse_build", "This build", [vec![("version", version.to_owned()), ("commit", commit)]])
    }

    fn leader(&mut self, facts: &Facts) -> fmt::Result {
        let view = &facts.view;
        self.gauge("hatokuse_uptime_seconds", "Time since the leader started", view.uptime_s)?;
        self.gauge(
            "hatokuse_ready",
            "Whether messages can be written and read (1) or not (0)",
            f64::from(facts.ready),
        )?;
        self.gauge("hatokuse_epoch", "This life of the leader; 0 while it has none yet", f64::from(view.epoch.0))?;
        self.gauge("hatokuse_tolerance", "Copies that a message should have", view.tolerance as f64)?;
        self.gauge("hatokuse_clients", "Open client connections", view.clients as f64)?;
        self.gauge("hatokuse_in_flight_bytes", "Bytes of requests under way", view.in_flight.0 as f64)?;
        self.gauge(
            "hatokuse_in_flight_limit_bytes",
            "Beyond this who holds the most is cut off, or the request is refused as BUSY",
            view.in_flight.1 as f64,
        )?;
        let mut family =
            self.0.encode_descriptor("hatokuse_clients_cut", "Clients that were cut off", None, MetricType::Counter)?;
        for (reason, count) in facts.cuts {
            let labels: Labels = vec![("reason", reason.to_owned())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let mut family = self.0.encode_descriptor(
            "hatokuse_denied",
            "Requests that users may not make, and wrong passwords",
            None,
            MetricType::Counter,
        )?;
        for (reason, count) in facts.denied {
            let labels: Labels = vec![("reason", reason.to_owned())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }

    fn scripts(&mut self, facts: &Facts) -> fmt::Result {
        let mut family =
            self.0.encode_descriptor("hatokuse_scripts", "Scripts, by how they ended", None, MetricType::Counter)?;
        for (result, count) in facts.scripts {
            let labels: Labels = vec![("result", result.to_owned())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let ScriptsNow { running, stuck, known } = facts.scripts_now;
        self.gauge("hatokuse_scripts_running", "Threads that are at work on a script", running as f64)?;
        self.gauge(
            "hatokuse_scripts_stuck",
            "Threads that were given up, as their script cannot be interrupted where it is",
            stuck as f64,
        )?;
        self.gauge("hatokuse_scripts_cached", "Scripts that EVALSHA knows", known as f64)
    }

    fn messages(&mut self, view: &ClusterView) -> fmt::Result {
        self.gauge("hatokuse_messages", "Messages", view.messages as f64)?;
        self.gauge("hatokuse_message_bytes", "Bytes of all messages, each counted once", view.bytes as f64)?;
        self.gauge("hatokuse_copies_live", "Intact copies on nodes that are not down", view.copies_live as f64)?;
        self.gauge("hatokuse_copies_wanted", "Messages times tolerance", view.copies_wanted as f64)?;
        self.gauge(
            "hatokuse_under_replicated_messages",
            "Messages with fewer live copies than tolerance, but at least one",
            view.under_replicated as f64,
        )?;
        self.gauge(
            "hatokuse_tombstones",
            "Deletions that not all members have confirmed, each kept like a message",
            view.tombstones as f64,
        )?;
        self.gauge("hatokuse_expiring_messages", "Messages that end by themselves", view.expiring as f64)?;
        self.counter("hatokuse_expired", "Messages that ended by themselves", view.expired as f64)?;
        self.gauge(
            "hatokuse_clock_offset_seconds",
            "How far the median of the wall clocks of leader and nodes is ahead of the register's time",
            view.clock_off_ms as f64 / 1e3,
        )?;
        self.gauge("hatokuse_lost_messages", "Messages that no holder has an intact copy of", view.lost as f64)
    }

    fn repair(&mut self, view: &ClusterView) -> fmt::Result {
        let repair = &view.repair;
        let blocked: u64 = repair.blocked.iter().map(|blocked| blocked.messages).sum();
        self.gauge(
            "hatokuse_repair_pending_messages",
            "Messages that are to be put right, and can be",
            repair.pending as f64,
        )?;
        self.gauge("hatokuse_repair_blocked_messages", "Messages that cannot be put right now", blocked as f64)?;
        self.gauge(
            "hatokuse_repair_done_messages",
            "Messages put right since there last was nothing to do",
            repair.done as f64,
        )?;
        self.gauge("hatokuse_repair_rate", "Messages put right a second", repair.per_s)?;
        self.gauge("hatokuse_rebalancing", "Whether copies are being evened out", f64::from(repair.rebalancing))
    }

    fn nodes(&mut self, view: &ClusterView) -> fmt::Result {
        let states = [NodeState::Up, NodeState::Suspect, NodeState::Down, NodeState::Draining];
        let count = |state| view.nodes.iter().filter(|node| node.state == state).count() as f64;
        self.gauges(
            "hatokuse_nodes",
            "Members by state",
            states.map(|state| (vec![("state", state.to_string())], count(state))),
        )?;
        let name = |id: NodeId| vec![("node", id.to_string())];
        let each = |value: &dyn Fn(&NodeView) -> Option<f64>| {
            let values: Vec<_> = view.nodes.iter().filter_map(|node| Some((name(node.id), value(node)?))).collect();
            values
        };
        self.gauges(
            "hatokuse_node_up",
            "Whether a node is up or draining (1), or not (0)",
            each(&|node: &NodeView| Some(f64::from(matches!(node.state, NodeState::Up | NodeState::Draining)))),
        )?;
        self.gauges(
            "hatokuse_node_full",
            "Whether a node has no room for copies (1) or has (0)",
            each(&|node: &NodeView| Some(f64::from(node.refusing.as_ref().is_some_and(|refusing| refusing.full)))),
        )?;
        self.gauges(
            "hatokuse_node_refuses",
            "Whether a node refused the last copy that it was to keep, for want of room or another reason (1), or not (0)",
            each(&|node: &NodeView| Some(f64::from(node.refusing.is_some()))),
        )?;
        self.gauges("hatokuse_node_messages", "Copies on a node", each(&|node: &NodeView| Some(node.messages as f64)))?;
        self.gauges("hatokuse_node_bytes", "Bytes of these copies", each(&|node: &NodeView| Some(node.bytes as f64)))?;
        self.gauges(
            "hatokuse_node_disk_free_bytes",
            "Free bytes of a node's disk, as it last reported",
            each(&|node: &NodeView| node.disk.map(|disk| disk.free as f64)),
        )?;
        // A node of an older version reports no more than that.
        let known = |node: &NodeView| node.disk.filter(|disk| disk.size > 0);
        self.gauges(
            "hatokuse_node_disk_size_bytes",
            "Size of that disk",
            each(&|node: &NodeView| known(node).map(|disk| disk.size as f64)),
        )?;
        self.gauges(
            "hatokuse_node_disk_free_inodes",
            "Files that can still be made there",
            each(&|node: &NodeView| known(node).map(|disk| disk.free_files as f64)),
        )?;
        self.gauges(
            "hatokuse_node_disk_inodes",
            "Files that it can hold; 0 where there is no such limit",
            each(&|node: &NodeView| known(node).map(|disk| disk.files as f64)),
        )?;
        self.gauges(
            "hatokuse_node_silent_seconds",
            "Time since a node's last heartbeat",
            each(&|node: &NodeView| Some(node.seen_s)),
        )?;
        let described = view.nodes.iter().map(|node| {
            let (address, io_mode) = (node.address.clone(), node.io_mode.clone());
            vec![
                ("node", node.id.to_string()),
                ("address", address),
                ("io_mode", io_mode),
                ("layout", node.layout.clone()),
            ]
        });
        self.info("hatokuse_node", "Where a node is, and how it stores", described)
    }

    fn requests(&mut self, served: &[(Protocol, Operation, ServedView)]) -> fmt::Result {
        let labels =
            |via: Protocol, op: Operation| vec![("op", op.name().to_owned()), ("protocol", via.name().to_owned())];
        let mut family =
            self.0.encode_descriptor("hatokuse_requests", "Requests, by how they ended", None, MetricType::Counter)?;
        for (via, op, view) in served {
            let good = (*op != Operation::Other).then_some(("ok", view.good));
            // From the start, all of them: a rate does not see the first burst of a counter that was not there.
            let mut refused: BTreeMap<&str, u64> = CODES.iter().map(|code| (*code, 0)).collect();
            refused.extend(view.refused.iter().map(|(code, n)| (*code, *n)));
            for (result, n) in good.into_iter().chain(refused) {
                let mut labels = labels(*via, *op);
                labels.push(("result", result.to_ascii_lowercase()));
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&n, None)?;
            }
        }
        let mut family = self.0.encode_descriptor(
            "hatokuse_request_duration_seconds",
            "Time from a request to its answer; refusals but NOT_FOUND left out",
            None,
            MetricType::Histogram,
        )?;
        for (via, op, view) in served.iter().filter(|(_, op, _)| *op != Operation::Other) {
            histogram(&mut family, &labels(*via, *op), &view.times)?;
        }
        Ok(())
    }

    fn node_times(&mut self, times: &[(NodeId, Operation, TimesView)]) -> fmt::Result {
        let mut family = self.0.encode_descriptor(
            "hatokuse_node_duration_seconds",
            "Time that a node took for what it was sent at one go",
            None,
            MetricType::Histogram,
        )?;
        times.iter().try_for_each(|(node, op, times)| {
            let labels = vec![("node", node.to_string()), ("op", op.name().to_owned())];
            histogram(&mut family, &labels, times)
        })
    }

    /// Of both kinds, whether there are some or not: what never ends needs no renewal.
    fn certificates(&mut self, all: &[CertificateState]) -> fmt::Result {
        let of = |kind: &str| all.iter().find(|(what, _)| *what == kind).map(|(_, state)| *state);
        let kinds = ["tls", "cluster"].map(|kind| (vec![("of", kind.to_owned())], of(kind)));
        let ends = kinds.iter().map(|(labels, state)| {
            let end = state.and_then(|(end, _)| end);
            (labels.clone(), end.map_or(f64::INFINITY, |end| end.as_secs_f64()))
        });
        self.gauges("hatokuse_tls_not_after_seconds", "When the certificates of these flags end, since 1970", ends)?;
        let mut family = self.0.encode_descriptor(
            "hatokuse_tls_renewals",
            "How often they were renewed since the start",
            None,
            MetricType::Counter,
        )?;
        for (labels, state) in &kinds {
            let times = state.map_or(0, |(_, times)| times);
            family.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&times, None)?;
        }
        Ok(())
    }

    fn cache(&mut self, facts: &Facts) -> fmt::Result {
        let cache = facts.cache.clone().unwrap_or_default();
        self.counter("hatokuse_cache_hits", "GETs answered from memory", cache.hits as f64)?;
        self.counter("hatokuse_cache_misses", "GETs that the cache did not have", cache.misses as f64)?;
        self.gauge("hatokuse_cache_messages", "Messages in the cache", cache.messages as f64)?;
        self.gauge("hatokuse_cache_bytes", "Memory that they take", cache.bytes as f64)?;
        self.gauge("hatokuse_cache_limit_bytes", "Memory that they may take; 0 without --cache", cache.max_bytes as f64)
    }
}
