//! TLS: certificates out of files, which are looked at again while a process runs, and connections that are encrypted
//! with them.
//!
//! `material` reads and checks what the files hold, `renewal` follows their changes, `acceptor` and `dialer` are the two
//! ends of a connection, `identity` is whom a certificate of the cluster names, and `issue` makes certificates for those
//! who have no authority of their own. Nothing here knows what is said on a connection.

mod acceptor;
mod blocking;
mod cluster;
mod dialer;
mod explain;
mod identity;
pub mod issue;
mod material;
mod renewal;
mod stream;

use std::str::FromStr;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use self::acceptor::{Acceptor, FIRST_BYTE};
pub use self::blocking::Blocking;
pub use self::cluster::{Callee, Cluster, Mode};
pub use self::dialer::{ClientFiles, Dialer};
pub use self::explain::{explain, is_refusal};
pub use self::identity::{Identity, Role, user_of};
pub use self::material::Files;
pub use self::renewal::{Renews, watch};
pub use self::stream::Stream;

/// Whether clients have to show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCerts {
    /// They are not asked for one.
    No,
    /// They are asked, and may have none; one that is not valid is refused.
    Optional,
    /// Who has none is refused.
    Required,
}

impl FromStr for ClientCerts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "no" => Ok(Self::No),
            "optional" => Ok(Self::Optional),
            "required" => Ok(Self::Required),
            _ => Err("must be no, optional or required".to_owned()),
        }
    }
}

/// The one implementation of ciphers that is used. It is named wherever it is needed: a default of the process would be
/// taken from whoever sets one first.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
mod tests;
