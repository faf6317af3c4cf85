//! The flags of TLS: of a leader's port for clients, of clients, and of the processes of a cluster.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{anyhow, ensure};
use clap::Args;
use clap::builder::BoolishValueParser as YesOrNo;

use crate::leader::process::Encrypted;
use crate::tls::{Acceptor, ClientCerts, ClientFiles, Cluster, Dialer, Files, Mode, Role};

/// What a client is asked for.
#[derive(Debug, Args)]
#[command(next_help_heading = "TLS")]
pub(in crate::cli) struct ClientTlsArgs {
    /// Speak TLS to the server, whose certificate has to be of the host that is called
    #[arg(long, env = "HATOKUSE_TLS", value_parser = YesOrNo::new())]
    tls: bool,
    /// Authorities that are believed, PEM [default: those of the system]
    #[arg(long, env = "HATOKUSE_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Certificate to show, PEM
    #[arg(long, env = "HATOKUSE_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, env = "HATOKUSE_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
}

impl ClientTlsArgs {
    /// What encrypts connections, if they are to be.
    pub(in crate::cli) fn dialer(self) -> anyhow::Result<Option<Dialer>> {
        let Self { tls, tls_ca, tls_cert, tls_key } = self;
        if !tls {
            let named = tls_ca.is_some() || tls_cert.is_some() || tls_key.is_some();
            ensure!(!named, "--tls-ca, --tls-cert and --tls-key need --tls");
            return Ok(None);
        }
        ensure!(tls_cert.is_some() == tls_key.is_some(), "--tls-cert and --tls-key go together");
        let files = ClientFiles { ca: tls_ca, cert: tls_cert, key: tls_key };
        Dialer::new(files).map(Some).map_err(|why| anyhow!(why))
    }
}

/// What a leader serves its clients with.
#[derive(Debug, Args)]
#[command(next_help_heading = "TLS for clients")]
pub(in crate::cli) struct LeaderTlsArgs {
    /// Port for clients that speak TLS (0: any free one) [default: none]
    #[arg(long, env = "HATOKUSE_TLS_PORT", value_name = "PORT")]
    pub(super) tls_port: Option<u16>,
    /// Certificate of the leader and those between it and an authority, PEM; looked at every 10 s, and at SIGHUP
    #[arg(long, env = "HATOKUSE_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM, readable by nobody else
    #[arg(long, env = "HATOKUSE_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Authorities of clients' certificates, PEM
    #[arg(long, env = "HATOKUSE_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// What these have revoked, PEM
    #[arg(long, env = "HATOKUSE_TLS_CRL", value_name = "FILE")]
    tls_crl: Option<PathBuf>,
    /// Whether clients have to show a certificate: no, optional, required [default: required with --tls-ca, no without]
    #[arg(long, env = "HATOKUSE_TLS_CLIENTS", value_name = "no|optional|required")]
    tls_clients: Option<ClientCerts>,
    /// Serve metrics, health and the page by HTTPS, with the same certificates
    #[arg(long, env = "HATOKUSE_HTTP_TLS", value_parser = YesOrNo::new())]
    pub(super) http_tls: bool,
}

impl LeaderTlsArgs {
    /// What encrypts the connections of clients.
    pub(super) fn encrypted(&self) -> anyhow::Result<Option<Encrypted>> {
        let wanted = self.tls_port.is_some() || self.http_tls;
        let Self { tls_cert, tls_key, tls_ca, tls_crl, tls_clients, .. } = self;
        if !wanted {
            let named = [tls_cert, tls_key, tls_ca, tls_crl].iter().any(|file| file.is_some());
            ensure!(!named, "--tls-cert and the other files of TLS need --tls-port (or --http-tls)");
            return Ok(None);
        }
        ensure!(tls_cert.is_some() && tls_key.is_some(), "--tls-port and --http-tls need --tls-cert and --tls-key");
        let by_default = if tls_ca.is_some() { ClientCerts::Required } else { ClientCerts::No };
        let certs = tls_clients.unwrap_or(by_default);
        ensure!(
            certs == ClientCerts::No || tls_ca.is_some(),
            "--tls-clients needs --tls-ca, by which their certificates are judged"
        );
        let judged = tls_ca.is_some() || tls_crl.is_some();
        ensure!(
            certs != ClientCerts::No || !judged,
            "--tls-ca and --tls-crl are for the certificates of clients, which --tls-clients no (and --tls-crl without --tls-ca) leaves \
             unasked"
        );
        let files = Files {
            prefix: "tls",
            cert: tls_cert.clone(),
            key: tls_key.clone(),
            ca: tls_ca.clone(),
            crl: tls_crl.clone(),
        };
        let (acceptor, renews) = Acceptor::for_clients(files, certs).map_err(|why| anyhow!(why))?;
        let asks_for_certificates = certs != ClientCerts::No;
        Ok(Some(Encrypted { acceptor, asks_for_certificates, renews }))
    }
}

/// How the processes of a cluster speak to one another.
#[derive(Debug, Args)]
#[command(next_help_heading = "TLS between leader and nodes")]
pub(in crate::cli) struct ClusterTlsArgs {
    /// Certificate of this process, with the name `hatokuse://<cluster>/<node|peer>/<id>`, PEM; looked at every 10 s, and at
    /// SIGHUP
    #[arg(long, env = "HATOKUSE_CLUSTER_CERT", value_name = "FILE")]
    cluster_cert: Option<PathBuf>,
    /// Its key, PEM, readable by nobody else
    #[arg(long, env = "HATOKUSE_CLUSTER_KEY", value_name = "FILE")]
    cluster_key: Option<PathBuf>,
    /// Authorities of the cluster's certificates, PEM
    #[arg(long, env = "HATOKUSE_CLUSTER_CA", value_name = "FILE")]
    cluster_ca: Option<PathBuf>,
    /// What these have revoked, PEM
    #[arg(long, env = "HATOKUSE_CLUSTER_CRL", value_name = "FILE")]
    cluster_crl: Option<PathBuf>,
    /// Whether this process speaks TLS to the others: off (it calls without, and takes both), prefer (it tries), require
    /// (nothing else) [default: require with --cluster-cert]
    #[arg(long, env = "HATOKUSE_CLUSTER_TLS", value_name = "off|prefer|require")]
    cluster_tls: Option<Mode>,
}

impl ClusterTlsArgs {
    /// Whether nothing but TLS is spoken.
    pub(super) fn is_required(&self) -> bool {
        self.cluster_tls.unwrap_or(Mode::Require) == Mode::Require && self.cluster_cert.is_some()
    }

    /// What encrypts what this process says to others of the cluster.
    pub(super) fn cluster(self, role: Role) -> anyhow::Result<Option<Arc<Cluster>>> {
        let Self { cluster_cert, cluster_key, cluster_ca, cluster_crl, cluster_tls } = self;
        let files = [&cluster_cert, &cluster_key, &cluster_ca];
        if files.iter().all(|file| file.is_none()) {
            ensure!(
                matches!(cluster_tls, None | Some(Mode::Off)) && cluster_crl.is_none(),
                "--cluster-tls needs --cluster-cert, --cluster-key and --cluster-ca; hatokuse cert makes them"
            );
            return Ok(None);
        }
        ensure!(
            files.iter().all(|file| file.is_some()),
            "--cluster-cert, --cluster-key and --cluster-ca go together; hatokuse cert makes them"
        );
        let files = Files { prefix: "cluster", cert: cluster_cert, key: cluster_key, ca: cluster_ca, crl: cluster_crl };
        let mode = cluster_tls.unwrap_or(Mode::Require);
        Cluster::new(files, mode, role).map(Some).map_err(|why| anyhow!(why))
    }
}
