//! The end of a connection that was called.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::material::{Files, Material};
use super::renewal::{Renewed, Renews};
use super::{ClientCerts, Stream, explain, provider};
use crate::lock::Lock;
use crate::telemetry::repeats::Repeats;

/// A handshake that takes longer has failed.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What every TLS connection begins with: a record of a handshake (RFC 8446, 5.1).
pub const FIRST_BYTE: u8 = 0x16;

/// What is told to who speaks no TLS where it has to be spoken.
const SPEAKS_TLS: &[u8] = b"-ERR this port speaks TLS\r\n";

/// The same as HTTP.
const SPEAKS_HTTPS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 42\r\n\
    Connection: close\r\n\r\nthis port speaks TLS: write https:// here\n";

/// What serves the handshakes of a port.
pub(super) type Configuration = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// Takes connections, and encrypts them.
#[derive(Clone)]
pub struct Acceptor {
    configuration: Configuration,
    /// Who speaks no TLS is taken as well.
    takes_plain: bool,
    /// What is said to him otherwise.
    refusal: &'static [u8],
    said: Arc<Lock<Repeats>>,
    since: Instant,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("takes_plain", &self.takes_plain).finish_non_exhaustive()
    }
}

impl Acceptor {
    pub(super) fn new(configuration: Configuration, takes_plain: bool) -> Self {
        Self { configuration, takes_plain, refusal: SPEAKS_TLS, said: Arc::default(), since: Instant::now() }
    }

    /// One for clients, and what keeps its files in view.
    pub fn for_clients(files: Files, certs: ClientCerts) -> Result<(Self, Arc<dyn Renews>), String> {
        let renewed = Arc::new(Renewed::new(files, move |material: &Material| server(material, certs))?);
        let configurations = renewed.clone();
        Ok((Self::new(Arc::new(move || configurations.now()), false), renewed))
    }

    /// The same for a port of HTTP.
    pub fn for_http(&self) -> Self {
        Self { refusal: SPEAKS_HTTPS, ..self.clone() }
    }

    /// Encrypts a connection that was accepted. An error is the other side's, who was told as far as possible.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        let peer = stream.peer_addr()?;
        let accepted = timeout(HANDSHAKE, self.shake_hands(stream)).await;
        let accepted = accepted.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long")));
        // Who comes and goes without a word only looks whether somebody is there.
        if let Err(error) = &accepted
            && error.kind() != io::ErrorKind::UnexpectedEof
        {
            // By kinds: who knocks at a door decides on every word of it.
            if let Some(unsaid) = self.said.lock().note(&error.to_string(), self.since.elapsed()) {
                tracing::info!("a TLS handshake with {peer} failed: {error}{unsaid}");
            }
        }
        accepted
    }

    async fn shake_hands(&self, stream: TcpStream) -> io::Result<Stream> {
        let mut first = [0];
        match stream.peek(&mut first).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if first[0] == FIRST_BYTE => {}
            _ if self.takes_plain => return Ok(stream.into()),
            _ => {
                Stream::from(stream).part(self.refusal).await;
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it spoke no TLS, and was told so"));
            }
        }
        let acceptor = TlsAcceptor::from((self.configuration)());
        let accepted = acceptor.accept(stream).await.map_err(explain)?;
        Ok(Stream::Tls(Box::new(accepted.into())))
    }
}

/// How a server shakes hands with these certificates.
pub(super) fn server(material: &Material, certs: ClientCerts) -> Result<ServerConfig, String> {
    let own = material.own.clone().ok_or("a certificate and its key are needed")?;
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let builder = match certs {
        ClientCerts::No => builder.with_no_client_auth(),
        _ => {
            let roots = material.roots.clone().ok_or("the authority of the others is needed")?;
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            let mut verifier = verifier.with_crls(material.revoked.iter().cloned());
            if certs == ClientCerts::Optional {
                verifier = verifier.allow_unauthenticated();
            }
            // Which authorities there are need not be told to everybody.
            let verifier = verifier.clear_root_hint_subjects().allow_unknown_revocation_status();
            builder.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
        }
    };
    let mut server = builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(own)));
    if certs != ClientCerts::No {
        // A session that goes on shows no certificate again, though it may have been revoked meanwhile.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
    }
    Ok(server)
}
