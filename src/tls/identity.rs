//! Whom a certificate of a cluster names.

use std::fmt;
use std::str::FromStr;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// The scheme of the names.
const SCHEME: &str = "hatokuse://";

/// A process of a cluster, or a program that may speak to one: a URI among the alternative names of its certificate.
///
/// `hatokuse://<cluster>/node/<id>`, `hatokuse://<cluster>/peer/<id>` or `hatokuse://<cluster>/client/<name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name of the cluster: certificates of one authority may be of several.
    pub cluster: String,
    /// Who it is there.
    pub role: Role,
}

/// Who somebody is in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The node of this number.
    Node(u32),
    /// The leader process of this number.
    Peer(u32),
    /// A program, or a person.
    Client(String),
}

/// Whether this can be part of such a name: letters, digits, `.`, `_` and `-`, up to 64.
pub(super) fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}

impl FromStr for Identity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not {SCHEME}<cluster>/<node|peer|client>/<id>");
        let mut parts = text.strip_prefix(SCHEME).ok_or_else(wrong)?.split('/');
        let (Some(cluster), Some(kind), Some(id), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        if !is_name(cluster) || !is_name(id) {
            return Err(wrong());
        }
        // Only one way of writing a number names it.
        let number =
            || id.parse().ok().filter(|number: &u32| *number > 0 && number.to_string() == id).ok_or_else(wrong);
        let role = match kind {
            "node" => Role::Node(number()?),
            "peer" => Role::Peer(number()?),
            "client" => Role::Client(id.to_owned()),
            _ => return Err(wrong()),
        };
        Ok(Self { cluster: cluster.to_owned(), role })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.cluster, self.role)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node/{id}"),
            Self::Peer(id) => write!(f, "peer/{id}"),
            Self::Client(name) => write!(f, "client/{name}"),
        }
    }
}

impl Identity {
    /// Whom this certificate names; the error says that it names nobody, or several.
    pub(super) fn of(certificate: &[u8]) -> Result<Self, String> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|error| error.to_string())?;
        let mut names = uris(&parsed).filter(|name| name.starts_with(SCHEME));
        match (names.next(), names.next()) {
            (Some(name), None) => name.parse(),
            (None, _) => Err(format!("no alternative name of it begins with {SCHEME}")),
            (Some(_), Some(_)) => Err(format!("several alternative names of it begin with {SCHEME}")),
        }
    }
}

/// The name by which the certificate of a client names a user: the last part of `hatokuse://<cluster>/client/<name>`, or
/// its common name where it has no such name. That it is valid was checked.
pub fn user_of(certificate: &[u8]) -> Option<String> {
    match Identity::of(certificate) {
        Ok(Identity { role: Role::Client(name), .. }) => return Some(name),
        Ok(_) => return None,
        Err(_) => {}
    }
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    if uris(&parsed).any(|name| name.starts_with(SCHEME)) {
        return None;
    }
    let mut names = parsed.subject().iter_common_name();
    match (names.next(), names.next()) {
        (Some(name), None) => name.as_str().ok().map(str::to_owned),
        _ => None,
    }
}

fn uris<'a>(certificate: &'a X509Certificate<'a>) -> impl Iterator<Item = &'a str> {
    let names = certificate.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
    names.into_iter().flatten().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_written_in_one_way() {
        for text in ["hatokuse://main/node/1", "hatokuse://a.b_c-D/peer/4294967295", "hatokuse://main/client/backup.1"]
        {
            assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
        }
        for wrong in [
            "",
            "hatokuse://main/node/0",
            "hatokuse://main/node/01",
            "hatokuse://main/node/+1",
            "hatokuse://main/node/4294967296",
            "hatokuse://main/node/1/",
            "hatokuse://main/node",
            "hatokuse://main/king/1",
            "hatokuse:///node/1",
            "hatokuse://main/client/",
            "hatokuse://main/client/a b",
            "hatokuse://ma%69n/node/1",
            "https://main/node/1",
            "HATOKUSE://main/node/1",
        ] {
            assert!(wrong.parse::<Identity>().is_err(), "{wrong}");
        }
    }
}
