//! Certificates for those who have no authority of their own: one is made, and signs those of processes and clients.
//!
//! The keys are ECDSA on P-256, which rustls, OpenSSL, Go and BoringSSL all take.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::ServerName;
use x509_parser::time::ASN1Time;

use super::identity::{Identity, Role, is_name};

/// Clocks of other machines may be this much behind.
const BEFORE: Duration = Duration::from_secs(3600);

const DAY: Duration = Duration::from_secs(86_400);

/// What the name of an authority begins with; that of its cluster follows.
const AUTHORITY_OF: &str = "hatokuse authority of ";

/// Files that were written.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key, which its owner alone can read.
    pub key: PathBuf,
}

/// Makes an authority in a folder, `ca.pem` and `ca-key.pem`, for the certificates of a cluster.
pub fn authority(folder: &Path, cluster: &str, days: u32) -> anyhow::Result<Written> {
    ensure!(is_name(cluster), "{cluster:?} cannot name a cluster: letters, digits, '.', '_' and '-', up to 64");
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let key = KeyPair::generate()?;
    let mut params = params(&format!("{AUTHORITY_OF}{cluster}"), days)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    write(folder, "ca", &params.self_signed(&key)?.pem(), &key)
}

/// Makes a certificate, signed by the authority of the folder. `hosts` are the names and addresses that others call it by.
pub fn certificate(folder: &Path, role: Role, hosts: &[String], days: u32) -> anyhow::Result<Written> {
    let read = |name: &str| {
        let path = folder.join(name);
        let missing =
            || format!("cannot read {}; make an authority with: hatokuse cert ca {}", path.display(), folder.display());
        fs::read_to_string(&path).with_context(missing)
    };
    let (ca, ca_key) = (read("ca.pem")?, read("ca-key.pem")?);
    let cluster = cluster_of(&ca)?;
    let issuer = Issuer::from_ca_cert_pem(&ca, KeyPair::from_pem(&ca_key)?)?;
    let (file, is_client) = match &role {
        Role::Node(id) => (format!("node-{id}"), false),
        Role::Peer(id) => (format!("peer-{id}"), false),
        Role::Client(name) => {
            ensure!(is_name(name), "{name:?} cannot name a client: letters, digits, '.', '_' and '-', up to 64");
            (format!("client-{name}"), true)
        }
    };
    let name = match &role {
        // Programs know a client by this.
        Role::Client(name) => name.clone(),
        role => format!("hatokuse {role} of {cluster}"),
    };
    let mut params = params(&name, days)?;
    let identity = Identity { cluster, role };
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    for host in hosts {
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => {
                let is_name = matches!(ServerName::try_from(host.as_str()), Ok(ServerName::DnsName(_)));
                ensure!(is_name, "{host:?} is no name of a machine, and no address");
                SanType::DnsName(host.clone().try_into()?)
            }
        });
    }
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if !is_client {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    let key = KeyPair::generate()?;
    write(folder, &file, &params.signed_by(&key, &issuer)?.pem(), &key)
}

fn params(name: &str, days: u32) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    params.distinguished_name = names;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let at = |time: Duration| Ok::<_, anyhow::Error>(ASN1Time::from_timestamp(time.as_secs() as i64)?.to_datetime());
    params.not_before = at(now.saturating_sub(BEFORE))?;
    params.not_after = at(now + DAY * days)?;
    Ok(params)
}

/// The cluster that an authority was made for.
fn cluster_of(ca: &str) -> anyhow::Result<String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(ca.as_bytes()).context("ca.pem is not PEM")?;
    let certificate = pem.parse_x509().context("ca.pem is no certificate")?;
    let name = certificate.subject().iter_common_name().find_map(|name| name.as_str().ok());
    match name.and_then(|name| name.strip_prefix(AUTHORITY_OF)) {
        Some(cluster) if is_name(cluster) => Ok(cluster.to_owned()),
        _ => bail!(
            "ca.pem was not made by hatokuse cert ca; sign with the tool that it was made by, with the alternative \
                    name URI:hatokuse://<cluster>/<node|peer|client>/<id>"
        ),
    }
}

/// Writes both; what is there already stays.
fn write(folder: &Path, name: &str, cert: &str, key: &KeyPair) -> anyhow::Result<Written> {
    let (cert_path, key_path) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}-key.pem")));
    for path in [&cert_path, &key_path] {
        ensure!(
            !path.try_exists()?,
            "{} is there already, and nothing is overwritten; remove it, or name another folder",
            path.display()
        );
    }
    create(&key_path, 0o600, &key.serialize_pem())?;
    create(&cert_path, 0o644, cert)?;
    Ok(Written { cert: cert_path, key: key_path })
}

fn create(path: &Path, mode: u32, text: &str) -> anyhow::Result<()> {
    let written: io::Result<()> = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    })();
    written.with_context(|| format!("cannot write {}", path.display()))
}
