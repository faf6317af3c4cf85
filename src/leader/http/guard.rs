//! Who is answered on an HTTP port, of a leader and of a standby alike.

use std::net::IpAddr;

use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};

use super::super::gateway::is_password;
use super::super::users;
use super::reply::{Body, text};

/// What a request has to name and to show.
#[derive(Debug, Clone)]
pub(in crate::leader) struct Guard {
    /// Whoever names this port by a name is refused, unless that is localhost.
    local: bool,
    /// What has to be shown for anything but health.
    token: Option<String>,
}

impl Guard {
    /// Of a port at this address, open only to those who show the token, if there is one.
    pub(in crate::leader) fn new(address: IpAddr, token: Option<String>) -> Self {
        Self { local: address.is_loopback(), token }
    }

    /// Whether there is a token.
    pub(super) fn asks_for_token(&self) -> bool {
        self.token.is_some()
    }

    /// The answer to a request that is none of ours.
    pub(super) fn judge<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD: this port changes nothing\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Some(response);
        }
        let mut hosts = request.headers().get_all(header::HOST).iter();
        match (hosts.next().map(|host| host.to_str().unwrap_or_default()), hosts.next()) {
            (Some(_), Some(_)) => Some(text(StatusCode::BAD_REQUEST, "more than one Host\n")),
            (None, _) if request.version() == Version::HTTP_11 => Some(text(StatusCode::BAD_REQUEST, "no Host\n")),
            (Some(host), None) if self.local && !is_local(host) => Some(text(
                StatusCode::MISDIRECTED_REQUEST,
                "this port is for this machine: name it localhost or by its address (a proxy has to send such a Host)\n",
            )),
            _ if !self.lets_in(request) => {
                // Browsers ask for a name as well, which may be any.
                Some(asks_who("this port asks for the token of --http-token-file\n"))
            }
            _ => None,
        }
    }

    /// Whether this request shows the token, or needs none: as a bearer's, or as the password of any name.
    fn lets_in<B>(&self, request: &Request<B>) -> bool {
        let Some(token) = self.token.as_deref() else { return true };
        if matches!(request.uri().path(), "/livez" | "/healthz" | "/readyz") {
            return true;
        }
        let mut shown = request.headers().get_all(header::AUTHORIZATION).iter();
        let (Some(shown), None) = (shown.next(), shown.next()) else { return false };
        let Some((scheme, value)) = shown.to_str().ok().and_then(|shown| shown.split_once(' ')) else { return false };
        if scheme.eq_ignore_ascii_case("bearer") {
            return is_password(token, value.trim().as_bytes());
        }
        basic(request).is_some_and(|(_, password)| is_password(token, &password))
    }
}

/// Asks for a name and a password.
pub(super) fn asks_who(why: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::UNAUTHORIZED, why);
    let asks = HeaderValue::from_static("Basic realm=\"hatokuse\", charset=\"UTF-8\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, asks);
    response
}

/// The name and the password that a request gives.
pub(super) fn basic<B>(request: &Request<B>) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut shown = request.headers().get_all(header::AUTHORIZATION).iter();
    let (Some(shown), None) = (shown.next(), shown.next()) else { return None };
    let (scheme, value) = shown.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("basic") { users::basic(value.as_bytes()) } else { None }
}

/// Whether a `Host` is an address, or localhost: no name that somebody could point here.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    address.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_name_this_machine() {
        for host in ["localhost", "LocalHost:7666", "127.0.0.1:7666", "127.8.9.1", "[::1]:7666", "[::1]", "192.0.2.1"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["example.com", "example.com:7666", "localhost.example.com", "127.0.0.1.example.com", "", ":7666"] {
            assert!(!is_local(host), "{host}");
        }
    }
}
