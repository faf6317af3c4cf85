//! Several leaders and their nodes on this machine, as child processes.

use anyhow::{Context as _, ensure};

use crate::leader::http;
use crate::leader::process::Settings;
use crate::local_nodes::Plan;
use crate::process::{Signals, watch_stdin};
use crate::stop::Stop;

/// Runs several leaders and their nodes as child processes, to try it, until it is told to stop.
pub(in crate::leader) fn run_local(settings: &Settings) -> anyhow::Result<()> {
    ensure!(settings.peers.is_none(), "--local-peers starts all leaders by itself: leave --peer and --peers away");
    let port = settings.port.context("--local-peers serve clients without TLS too: leave --port off away")?;
    for (port, flag) in [(settings.tls_port, "--tls-port"), (settings.sentinel_port, "--sentinel-port")] {
        ensure!(port.is_none(), "--local-peers would all have one {flag}: start leaders by themselves");
    }
    let around = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let stop = Stop::new();
    if settings.stop_with_stdin {
        watch_stdin(stop.clone());
    }
    let signals = around.block_on(async { Signals::take() })?;
    let _hang_up = {
        let _inside = around.enter();
        signals.attend(&stop)
    };
    let http_port = match settings.http_port {
        Some(http::Port::Off) => None,
        Some(http::Port::At(port)) => Some(port),
        None => Some(http::DEFAULT_PORT),
    };
    let plan = Plan {
        peers: settings.local_peers,
        nodes: settings.local_nodes,
        host: settings.host,
        port,
        grpc_port: settings.grpc_port,
        http_port,
        data_dir: settings.data_dir.clone(),
        io_mode: settings.io_mode,
        layout: settings.layout,
        logs: settings.local_logs,
    };
    let all = plan.start()?;
    around.block_on(stop.requested());
    drop(all);
    Ok(())
}
