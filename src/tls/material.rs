//! What the files of a process hold: its certificates and key, and whom it believes.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};
use x509_parser::x509::X509Version;
use xxhash_rust::xxh3::Xxh3;

use super::provider;

/// More than this is no file of certificates.
const LARGEST: u64 = 16 << 20;

/// The files that say who a process is, and whom it believes, by the flags that name them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// What the flags begin with: `tls` or `cluster`.
    pub prefix: &'static str,
    /// Its certificate and those between it and an authority, PEM.
    pub cert: Option<PathBuf>,
    /// The key of that certificate, PEM.
    pub key: Option<PathBuf>,
    /// The authorities that are believed, PEM.
    pub ca: Option<PathBuf>,
    /// What these have revoked, PEM.
    pub crl: Option<PathBuf>,
}

/// What is said of a file that begins like PEM, and does not go on like it.
const NOT_PEM: &str = "it is no whole PEM: a part of it is cut off, or is not base64";

/// What they hold, as bytes.
pub(super) struct Contents([Option<Vec<u8>>; 4]);

impl Contents {
    /// Tells them from others.
    pub(super) fn digest(&self) -> u128 {
        let mut state = Xxh3::new();
        for part in &self.0 {
            state.update(&part.as_ref().map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
            state.update(part.as_deref().unwrap_or_default());
        }
        state.digest128()
    }
}

/// What they hold, checked.
#[derive(Debug)]
pub(super) struct Material {
    /// Who the process is; nothing for a client that shows no certificate.
    pub(super) own: Option<Arc<CertifiedKey>>,
    /// Whom it believes.
    pub(super) roots: Option<Arc<RootCertStore>>,
    pub(super) revoked: Vec<CertificateRevocationListDer<'static>>,
    /// When the first of its own certificates ends, since 1970.
    pub(super) not_after: Option<Duration>,
}

impl Files {
    /// How the file of a flag is named where something is wrong with it.
    fn shown(&self, flag: &str, path: &Path) -> String {
        format!("{} (--{}-{flag})", path.display(), self.prefix)
    }

    /// Reads them all.
    pub(super) fn contents(&self) -> Result<Contents, String> {
        let read = |flag: &str, path: &Option<PathBuf>| {
            let path = path.as_deref()?;
            let is_secret = flag == "key";
            Some(read(path, is_secret).map_err(|why| format!("cannot use {}: {why}", self.shown(flag, path))))
        };
        let read = |flag, path| read(flag, path).transpose();
        let own = [read("cert", &self.cert)?, read("key", &self.key)?];
        let [cert, key] = own;
        Ok(Contents([cert, key, read("ca", &self.ca)?, read("crl", &self.crl)?]))
    }

    /// Checks what was read: that it is what it should be, that certificates are in force now, and that the key is of the
    /// first of them.
    pub(super) fn check(&self, contents: &Contents) -> Result<Material, String> {
        let Contents([cert, key, ca, crl]) = contents;
        let shown = |flag: &str, path: &Option<PathBuf>| self.shown(flag, path.as_deref().unwrap_or(Path::new("")));
        let cannot = |flag, path, why: String| format!("cannot use {}: {why}", shown(flag, path));
        let (mut own, mut not_after) = (None, None);
        if let (Some(cert), Some(key)) = (cert, key) {
            let chain = certificates(cert).map_err(|why| cannot("cert", &self.cert, why))?;
            not_after = Some(in_force(&chain, now()).map_err(|why| cannot("cert", &self.cert, why))?);
            let key = private_key(key).map_err(|why| cannot("key", &self.key, why))?;
            let pair = CertifiedKey::from_der(chain, key, &provider());
            own = Some(Arc::new(pair.map_err(|error| match error {
                Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    cannot("key", &self.key, format!("it is not the key of {}", shown("cert", &self.cert)))
                }
                Error::General(why) => cannot(
                    "key",
                    &self.key,
                    format!("{why}; keys are RSA of 2,048 bits and more, ECDSA on P-256 or P-384, or Ed25519"),
                ),
                error => cannot("key", &self.key, error.to_string()),
            })?));
        }
        let roots = ca.as_deref().map(authorities).transpose().map_err(|why| cannot("ca", &self.ca, why))?;
        let revoked = crl.as_deref().map(revocations).transpose().map_err(|why| cannot("crl", &self.crl, why))?;
        if let Some(ended) = revoked.iter().flatten().filter_map(|list| ended(list, now())).min() {
            tracing::warn!(
                "{} ended at {}: what it revokes still counts, and what was revoked since is not known; renew it",
                shown("crl", &self.crl),
                humantime::format_rfc3339_seconds(UNIX_EPOCH + ended)
            );
        }
        Ok(Material { own, roots: roots.map(Arc::new), revoked: revoked.unwrap_or_default(), not_after })
    }
}

fn read(path: &Path, is_secret: bool) -> Result<Vec<u8>, String> {
    // Of the file that is read, not of one that takes its name meanwhile.
    let file = File::open(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is no file".to_owned());
    }
    if is_secret && metadata.mode() & 0o007 != 0 {
        return Err(format!("others than its owner can use it (mode {:03o}); chmod 600 it", metadata.mode() & 0o777));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    match bytes.len() as u64 {
        0..=LARGEST => Ok(bytes),
        _ => Err(format!("it is larger than {} MiB", LARGEST >> 20)),
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err("it holds no certificate (no line BEGIN CERTIFICATE)".to_owned()),
        Ok(all) => Ok(all),
        Err(_) => Err(NOT_PEM.to_owned()),
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let holds = |what: &[u8]| pem.windows(what.len()).any(|part| part == what);
    if holds(b"BEGIN ENCRYPTED PRIVATE KEY") || holds(b"Proc-Type: 4,ENCRYPTED") {
        return Err("the key is encrypted, and nobody is there to type its passphrase; write it without one (openssl \
                    pkey -in KEY -out NEW), readable by its owner alone"
            .to_owned());
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| "it holds no private key (no line BEGIN PRIVATE KEY)".to_owned())
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| format!("a certificate in it cannot be an authority: {error}"))?;
    }
    Ok(roots)
}

fn revocations(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err("it holds no list (no line BEGIN X509 CRL)".to_owned()),
        Ok(all) => match all.iter().all(|list| is_of_version_2(list)) {
            true => Ok(all),
            false => {
                Err("lists have to be of version 2 (openssl ca -gencrl makes such ones where crlnumber is set)"
                    .to_owned())
            }
        },
        Err(_) => Err(NOT_PEM.to_owned()),
    }
}

fn is_of_version_2(list: &[u8]) -> bool {
    x509_parser::parse_x509_crl(list).is_ok_and(|(_, list)| list.version() == Some(X509Version::V2))
}

/// When a list has ended, if it has by now.
fn ended(list: &[u8], now: Duration) -> Option<Duration> {
    let (_, list) = x509_parser::parse_x509_crl(list).ok()?;
    let end = Duration::from_secs(u64::try_from(list.next_update()?.timestamp()).unwrap_or_default());
    (end < now).then_some(end)
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// When the first of these certificates ends; the error says which is not in force at this time.
fn in_force(chain: &[CertificateDer<'_>], now: Duration) -> Result<Duration, String> {
    let mut first = Duration::MAX;
    for certificate in chain {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|error| format!("a certificate in it cannot be read: {error}"))?;
        let at = |time: i64| Duration::from_secs(u64::try_from(time).unwrap_or_default());
        let validity = parsed.validity();
        let (begins, ends) = (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()));
        let said = |time| humantime::format_rfc3339_seconds(UNIX_EPOCH + time);
        if now > ends {
            return Err(format!("the certificate expired at {}; renew it", said(ends)));
        }
        if now < begins {
            return Err(format!(
                "the certificate is not yet valid, only from {}; check the clock of this machine, or wait",
                said(begins)
            ));
        }
        first = first.min(ends);
    }
    Ok(first)
}
