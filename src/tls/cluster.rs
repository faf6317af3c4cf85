//! Connections between the processes of a cluster, each of which shows the other who it is.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::acceptor::{Acceptor, server};
use super::dialer::server_name;
use super::explain::{explain, speaks_no_tls};
use super::identity::{Identity, Role};
use super::material::{Files, Material};
use super::renewal::{Renewed, Renews};
use super::{ClientCerts, Stream, provider};

/// Whether the processes of a cluster encrypt what they say to one another. The middle one is for the way from the first
/// to the last, one process after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They call without; who calls may do either where there is a certificate.
    Off,
    /// They try it first, and go on without where the other side cannot.
    Prefer,
    /// Nobody is spoken to without it.
    Require,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "prefer" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            _ => Err("must be off, prefer or require".to_owned()),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Prefer => "prefer",
            Self::Require => "require",
        })
    }
}

/// What gRPC is called in a handshake.
const ALPN: &[u8] = b"h2";

/// How this process speaks to others of its cluster.
#[derive(Debug)]
pub struct Cluster {
    mode: Mode,
    renewed: Arc<Renewed<Configurations>>,
}

struct Configurations {
    server: Arc<ServerConfig>,
    /// Without its verifier, which differs by whom it calls.
    client: ClientConfig,
    verifier: Arc<WebPkiServerVerifier>,
    own: Identity,
}

impl Cluster {
    /// Reads the files for the first time; the certificate has to name who this process is.
    pub fn new(files: Files, mode: Mode, role: Role) -> Result<Arc<Self>, String> {
        let shown =
            files.cert.as_deref().map(|cert| format!("{} (--cluster-cert)", cert.display())).unwrap_or_default();
        let first = OnceLock::new();
        let make = move |material: &Material| {
            let made = Configurations::new(material).map_err(|why| format!("cannot use {shown}: {why}"))?;
            let (own, cluster) = (&made.own, first.get_or_init(|| made.own.cluster.clone()));
            if own.role != role || own.cluster != *cluster {
                return Err(format!(
                    "cannot use {shown}: it is of {} of {}, and this process is {role} of {cluster}",
                    own.role, own.cluster
                ));
            }
            Ok(made)
        };
        Ok(Arc::new(Self { mode, renewed: Arc::new(Renewed::new(files, make)?) }))
    }

    /// Who this process is to the others, and whether it speaks to them by TLS alone.
    pub fn said(&self) -> String {
        format!("to others of its cluster this is {} (--cluster-tls {})", self.renewed.now().own, self.mode)
    }

    /// What keeps its files in view.
    pub fn renews(&self) -> Arc<dyn Renews> {
        self.renewed.clone()
    }

    /// For the port that others of the cluster call.
    pub fn acceptor(&self) -> Acceptor {
        let renewed = self.renewed.clone();
        Acceptor::new(Arc::new(move || renewed.now().server.clone()), self.mode != Mode::Require)
    }

    /// Who has called, as its certificate says: one of this cluster. Nothing: it came without one, where it may.
    pub fn caller(&self, stream: &Stream) -> io::Result<Option<Identity>> {
        let Some(certificate) = stream.certificate() else { return Ok(None) };
        let denied = |why: String| io::Error::new(io::ErrorKind::PermissionDenied, why);
        let caller =
            Identity::of(certificate).map_err(|why| denied(format!("its certificate is of nobody here: {why}")))?;
        let own = &self.renewed.now().own.cluster;
        match caller.cluster == *own {
            true => Ok(Some(caller)),
            false => Err(denied(format!("it is {caller}, and this is the cluster {own}"))),
        }
    }

    /// Calls another process of the cluster, which has to be who it is taken for. A connection that is open by then is
    /// encrypted if need be.
    pub async fn call(&self, address: &str, who: Callee) -> io::Result<Stream> {
        if self.mode == Mode::Off {
            return connect(address).await.map(Stream::from);
        }
        let configurations = self.renewed.now();
        let mut client = configurations.client.clone();
        let verifier =
            Named { chain: configurations.verifier.clone(), cluster: configurations.own.cluster.clone(), who };
        client.dangerous().set_certificate_verifier(Arc::new(verifier));
        let connector = TlsConnector::from(Arc::new(client));
        match connector.connect(server_name(address)?, connect(address).await?).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream.into()))),
            Err(error) if self.mode == Mode::Prefer && speaks_no_tls(&error) => {
                connect(address).await.map(Stream::from)
            }
            Err(error) => Err(explain(error)),
        }
    }
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Configurations {
    fn new(material: &Material) -> Result<Self, String> {
        let mut server = server(material, ClientCerts::Required)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        let (Some(pair), Some(roots)) = (material.own.clone(), material.roots.clone()) else {
            return Err("a certificate, its key and the authority of the others are needed".to_owned());
        };
        let own = Identity::of(&pair.cert[0])?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider());
        let verifier = verifier.with_crls(material.revoked.iter().cloned()).allow_unknown_revocation_status();
        let verifier = verifier.build().map_err(|error| error.to_string())?;
        let chain = Named { chain: verifier.clone(), cluster: own.cluster.clone(), who: Callee::of(&own.role) };
        chain.check(&pair.cert[0], &pair.cert[1..], UnixTime::now()).map_err(|error| {
            format!("no authority of --cluster-ca has signed it, or a certificate between them is missing: {error}")
        })?;
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(chain));
        let mut client = builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair)));
        client.alpn_protocols = vec![ALPN.to_vec()];
        // A session that goes on is not asked again who it is.
        client.resumption = Resumption::disabled();
        Ok(Self { server: Arc::new(server), client, verifier, own })
    }
}

/// Whom a process means to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callee {
    /// The node of this number.
    Node(u32),
    /// A leader.
    Peer,
    /// Not anybody else's business.
    Any,
}

impl Callee {
    fn of(role: &Role) -> Self {
        match role {
            Role::Node(id) => Self::Node(*id),
            Role::Peer(_) => Self::Peer,
            Role::Client(_) => Self::Any,
        }
    }

    fn is(self, role: &Role) -> bool {
        match (self, role) {
            (Self::Node(id), Role::Node(other)) => id == *other,
            (Self::Peer, Role::Peer(_)) | (Self::Any, _) => true,
            _ => false,
        }
    }
}

impl fmt::Display for Callee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node/{id}"),
            Self::Peer => f.write_str("a peer"),
            Self::Any => f.write_str("anybody"),
        }
    }
}

/// Believes a certificate of the cluster's authority that names whom it was meant for. Names of machines do not count:
/// a process is who it is wherever it runs.
#[derive(Debug)]
struct Named {
    chain: Arc<WebPkiServerVerifier>,
    cluster: String,
    who: Callee,
}

impl Named {
    fn check(&self, end: &CertificateDer<'_>, between: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        // The name of the machine is looked at last: whoever fails there is believed in everything else.
        let any_name = ServerName::try_from("cluster.invalid").map_err(|error| Error::General(error.to_string()))?;
        match self.chain.verify_server_cert(end, between, &any_name, &[], now) {
            Ok(_) => {}
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {}
            Err(error) => return Err(error),
        }
        let found =
            Identity::of(end).map_err(|why| Error::General(format!("its certificate is of nobody here: {why}")))?;
        match found.cluster == self.cluster && self.who.is(&found.role) {
            true => Ok(()),
            false => Err(Error::General(format!("it is {found}, and {} of {} was called", self.who, self.cluster))),
        }
    }
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end, between, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
