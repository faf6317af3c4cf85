//! The end of a connection that calls: programs that speak to a leader as its clients.

use std::io;
use std::net::TcpStream as StdTcpStream;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::explain::explain_call;
use super::material::{Files, Material};
use super::{Blocking, Stream, provider};

/// What a client believes, and what it shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// The authorities that are believed, PEM; nothing: those of the system.
    pub ca: Option<PathBuf>,
    /// Its certificate, PEM, if it shows one.
    pub cert: Option<PathBuf>,
    /// The key of that, PEM.
    pub key: Option<PathBuf>,
}

/// Encrypts connections of a client to a server, whose certificate has to be of the name that is called.
#[derive(Debug, Clone)]
pub struct Dialer(Arc<ClientConfig>);

impl Dialer {
    /// Reads the files.
    pub fn new(files: ClientFiles) -> Result<Self, String> {
        let ClientFiles { ca, cert, key } = files;
        let files = Files { prefix: "tls", cert, key, ca, crl: None };
        let material = files.check(&files.contents()?)?;
        client(&material).map(|client| Self(Arc::new(client)))
    }

    /// Encrypts a connection to `HOST:PORT`.
    pub async fn encrypt(&self, addr: &str, stream: TcpStream) -> io::Result<Stream> {
        let stream = TlsConnector::from(self.0.clone()).connect(server_name(addr)?, stream).await;
        Ok(Stream::Tls(Box::new(stream.map_err(explain_call)?.into())))
    }

    /// Encrypts a connection that blocks, to `HOST:PORT`.
    pub fn encrypt_blocking(&self, addr: &str, mut stream: StdTcpStream) -> io::Result<Blocking> {
        let mut connection = ClientConnection::new(self.0.clone(), server_name(addr)?).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).map_err(explain_call)?;
        }
        Ok(Blocking::Tls(Box::new(StreamOwned::new(connection, stream))))
    }
}

impl PartialEq for Dialer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Dialer {}

fn client(material: &Material) -> Result<ClientConfig, String> {
    let roots = match &material.roots {
        Some(roots) => roots.clone(),
        None => Arc::new(roots_of_the_system()?),
    };
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let builder = builder.with_root_certificates(roots);
    Ok(match &material.own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(own.clone()))),
        None => builder.with_no_client_auth(),
    })
}

fn roots_of_the_system() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    match roots.is_empty() {
        false => Ok(roots),
        true => Err("this system has no authorities that could be believed; name one with --tls-ca".to_owned()),
    }
}

/// The name that a certificate of `HOST:PORT` has to be of.
pub(super) fn server_name(addr: &str) -> io::Result<ServerName<'static>> {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let wrong =
        |_| io::Error::new(io::ErrorKind::InvalidInput, format!("{host:?} is no name that a certificate can be of"));
    ServerName::try_from(host.to_owned()).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_host() {
        for (addr, name) in [("localhost:6666", "localhost"), ("127.0.0.1:1", "127.0.0.1"), ("[::1]:1", "::1")] {
            assert_eq!(server_name(addr).unwrap().to_str(), name);
        }
        assert!(server_name("a b:1").is_err());
    }
}
