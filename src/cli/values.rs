//! How the values of flags are read: times, sizes, addresses, passwords. What can never work is refused here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use crate::config::ByteSize;
use crate::types::MAX_MESSAGE_BYTES;

/// The longest time that is taken: clocks can add it to now, and nobody means a longer one.
const MOST_DAYS: u64 = 36_500;

/// A time longer than nothing.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if has_unit_m(text) {
        let minutes = text.replace('M', "m");
        return Err(format!(
            "M would be months here: write {minutes} for minutes, or days, such as 150d (only sizes have an M, of MiB)"
        ));
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be longer than nothing".to_owned()),
        Ok(duration) if duration.as_secs() > MOST_DAYS * 86_400 => {
            Err(format!("is longer than {MOST_DAYS} days, which is the most"))
        }
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write for example 10s or 500ms")),
    }
}

/// Whether a number of this time has the unit `M` alone.
fn has_unit_m(text: &str) -> bool {
    text.split(|c: char| !c.is_alphabetic()).any(|unit| unit == "M")
}

/// A time, or 0.
pub(super) fn duration_or_never(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { duration(text) }
}

/// A size that a message may have.
pub(super) fn message_size(text: &str) -> Result<ByteSize, String> {
    match text.parse()? {
        size if size > ByteSize(MAX_MESSAGE_BYTES) => {
            Err(format!("must be at most {}, which is what a frame to a node can hold", ByteSize(MAX_MESSAGE_BYTES)))
        }
        size => Ok(size),
    }
}

/// An address of this machine to listen on; a name is looked up.
pub(super) fn listen_host(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse() {
        return Ok(address);
    }
    if bare.eq_ignore_ascii_case("localhost") {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    let is_name = !bare.is_empty() && bare.chars().all(is_of_a_name) && !looks_like_ipv4(bare);
    if !is_name {
        return Err("is no address of a machine: write for example 127.0.0.1, or 0.0.0.0 for all of this machine's; \
                    the port has a flag of its own"
            .to_owned());
    }
    let found: Vec<IpAddr> = (bare, 0)
        .to_socket_addrs()
        .map_err(|error| format!("cannot be looked up: {error}; write an address of this machine"))?
        .map(|address| address.ip())
        .collect();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| "has no address; write one of this machine".to_owned())
}

/// `HOST:PORT`, where something can be reached.
pub(super) fn host_and_port(text: &str) -> Result<String, String> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.split('/').next().unwrap_or_default();
        return Err(format!("begins with {scheme}://: write only a host and a port, such as {rest}"));
    }
    if text.parse::<Ipv6Addr>().is_ok() && !text.starts_with('[') {
        let as_meant = match text.rsplit_once(':') {
            Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() && port.parse::<u16>().is_ok() => {
                format!("[{host}]:{port}")
            }
            _ => format!("[{text}]:5555"),
        };
        return Err(format!("is an IPv6 address alone: in front of a port it stands in brackets, such as {as_meant}"));
    }
    let Some((host, port)) = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()) else {
        return Err("is no HOST:PORT: write a host or its address, a colon and a port".to_owned());
    };
    match port.parse::<u16>() {
        Ok(0) => return Err("has port 0, where nobody can be reached".to_owned()),
        Ok(_) => {}
        Err(_) => return Err("is no HOST:PORT: the port is a number from 1 to 65535".to_owned()),
    }
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_right = match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None if host.contains(':') => {
            return Err(format!(
                "has more than one colon: an IPv6 address stands in brackets, such as [{host}]:{port}"
            ));
        }
        None if looks_like_ipv4(host) => host.parse::<Ipv4Addr>().is_ok(),
        None => host.chars().all(is_of_a_name),
    };
    if is_right {
        Ok(text.to_owned())
    } else {
        Err(format!("is no HOST:PORT: {host:?} is neither a name nor an address"))
    }
}

/// Addresses with commas between: one setting, in a file too.
#[derive(Debug, Clone)]
pub(super) struct Addresses(pub(super) Vec<String>);

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// `HOST:PORT`, or several with commas between.
pub(super) fn hosts_and_ports(text: &str) -> Result<Addresses, String> {
    text.split(',').map(|one| host_and_port(one.trim())).collect::<Result<_, _>>().map(Addresses)
}

/// Leaders with their numbers.
#[derive(Debug, Clone)]
pub(super) struct Peers(pub(super) Vec<(u64, String)>);

/// `1=host:5560,2=host:5560`.
pub(super) fn peers(text: &str) -> Result<Peers, String> {
    text.split(',').map(|one| peer(one.trim())).collect::<Result<_, _>>().map(Peers)
}

/// `1=host:5560`: a leader's number, and where the others reach it.
fn peer(text: &str) -> Result<(u64, String), String> {
    let (number, address) = text.split_once('=').ok_or("write NUMBER=HOST:PORT")?;
    let number = number.trim().parse::<u32>().ok().filter(|number| *number > 0);
    let number = number.ok_or("a leader's number is 1 to 4294967295")?;
    Ok((number.into(), host_and_port(address.trim())?))
}

/// A name of a group of leaders, as Redis Sentinel takes them.
pub(super) fn master_name(text: &str) -> Result<String, String> {
    let is_of_it = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match !text.is_empty() && text.len() <= 128 && text.chars().all(is_of_it) {
        true => Ok(text.to_owned()),
        false => Err("is no name: write up to 128 letters, digits, dots, hyphens and underscores".to_owned()),
    }
}

/// `HOST:PORT` that others can reach this machine by.
pub(super) fn own_address(text: &str) -> Result<String, String> {
    let text = host_and_port(text)?;
    let host = text.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']);
    match host.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => Err(format!(
            "names no machine: {address} is for listening on all addresses; write the one that others reach it by"
        )),
        Ok(address) if address.is_multicast() || address == IpAddr::from(Ipv4Addr::BROADCAST) => {
            Err(format!("names no single machine: {address} is for many; write the one that others reach it by"))
        }
        _ => Ok(text),
    }
}

fn is_of_a_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// Only digits and dots: meant as an address, as no name looks like that.
fn looks_like_ipv4(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// The first line of a file; a mark of the byte order before it, as some editors write it, is none of it.
pub(super) fn read_password(path: &Path) -> anyhow::Result<String> {
    read_secret("password-file", path)
}

/// The same of the file that a flag names.
pub(super) fn read_secret(flag: &str, path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read --{flag} {shown}"))?;
    match text.trim_start_matches('\u{feff}').lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => anyhow::bail!("--{flag} {shown} is empty; its first line has to be what is asked for"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_that_nobody_takes_for_others() {
        for text in ["10s", "500ms", "5m", "1h 30min", "150d", "1day"] {
            assert!(duration(text).is_ok(), "{text}");
        }
        for (text, told) in [
            ("5M", "write 5m for minutes"),
            ("1h 5M", "M would be months"),
            ("5 M", "M would be months"),
            ("10", "unit"),
            ("0s", "longer than nothing"),
            ("200years", "36500 days"),
            ("", "10s"),
        ] {
            let error = duration(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
        assert_eq!(duration_or_never("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn addresses_that_can_work_are_taken() {
        for text in ["node1:5555", "10.0.0.1:1", "[::1]:5555", "my_host.example-1.org:65535", "0.0.0.0:6666"] {
            assert_eq!(host_and_port(text).as_deref(), Ok(text));
        }
        for (text, told) in [
            ("::1:5555", "[::1]:5555"),
            ("::1", "[::1]:5555"),
            ("fe80::1:2:3:4:5:6:7:8:5555", "brackets"),
            ("http://10.0.0.1:5555/x", "such as 10.0.0.1:5555"),
            ("tcp://node1:5555", "tcp://"),
            ("node1", "HOST:PORT"),
            ("node1:", "1 to 65535"),
            ("node1:abc", "1 to 65535"),
            ("node1:70000", "1 to 65535"),
            ("node1:0", "port 0"),
            (":5555", "HOST:PORT"),
            ("a b:5555", "neither"),
            ("user@host:5555", "neither"),
            ("host/path:5555", "neither"),
            ("300.1.1.1:5555", "neither"),
            ("[::1:5555", "colon"),
            ("[node1]:5555", "neither"),
        ] {
            let error = host_and_port(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
        assert_eq!(own_address("node1:5555").as_deref(), Ok("node1:5555"));
        assert_eq!(master_name("my-master_1.x").as_deref(), Ok("my-master_1.x"));
        assert!(["", "a b", "a\n", &"x".repeat(129)].iter().all(|text| master_name(text).is_err()));
        for text in ["0.0.0.0:5555", "[::]:5555", "224.0.0.1:5555", "255.255.255.255:5555"] {
            assert!(own_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_to_listen_on_is_an_address_or_a_name() {
        for (text, address) in [
            ("127.0.0.1", "127.0.0.1"),
            ("localhost", "127.0.0.1"),
            ("LocalHost", "127.0.0.1"),
            ("[::1]", "::1"),
            ("::", "::"),
        ] {
            assert_eq!(listen_host(text), Ok(address.parse().unwrap()), "{text}");
        }
        for text in ["", "*", "127.0.0.1:6666", "300.0.0.1", "http://localhost", "no such.name"] {
            assert!(listen_host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_is_the_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        for (content, password) in
            [("secret", Some("secret")), ("\u{feff}secret\r\nmore", Some("secret")), ("\u{feff}\r\n", None), ("", None)]
        {
            std::fs::write(&file, content).unwrap();
            assert_eq!(read_password(&file).ok().as_deref(), password, "{content:?}");
        }
    }
}
