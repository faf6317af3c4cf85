//! The words of HANDOVER and PEER, which mean the same in both protocols.

use super::Command;
use crate::types::PeerId;

/// The longest name of a host, and a port behind it.
const LONGEST_ADDRESS: usize = 253 + 6;

const HAND_OVER: &str = "HANDOVER wants the number of a peer, or nothing: HANDOVER [<peer>]";
const ADD: &str = "PEER ADD wants the number of a peer and where the others reach it: PEER ADD <peer> <host:port>";
const REMOVE: &str = "PEER REMOVE wants the number of a peer: PEER REMOVE <peer>";
const PEER: &str = "PEER wants ADD or REMOVE: PEER ADD <peer> <host:port>, PEER REMOVE <peer>";

/// Reads what stands behind HANDOVER.
///
/// # Errors
/// What it wants.
pub fn hand_over<T: AsRef<[u8]>>(words: &[T]) -> Result<Command, String> {
    match words {
        [] => Ok(Command::HandOver(None)),
        [peer] => Ok(Command::HandOver(Some(number(peer.as_ref(), HAND_OVER)?))),
        _ => Err(HAND_OVER.to_owned()),
    }
}

/// Reads what stands behind PEER.
///
/// # Errors
/// What it wants.
pub fn change<T: AsRef<[u8]>>(words: &[T]) -> Result<Command, String> {
    let is = |name: &[u8]| words.first().is_some_and(|word| word.as_ref().eq_ignore_ascii_case(name));
    match &words[1.min(words.len())..] {
        [peer, address] if is(b"ADD") => {
            let (peer, address) = (number(peer.as_ref(), ADD)?, std::str::from_utf8(address.as_ref()));
            let address = address.ok().filter(|address| is_address(address));
            let address = address.ok_or_else(|| format!("{ADD}, with a port from 1 to 65535"))?;
            Ok(Command::AddPeer { peer, address: address.to_owned() })
        }
        [peer] if is(b"REMOVE") => Ok(Command::RemovePeer(number(peer.as_ref(), REMOVE)?)),
        _ if is(b"ADD") => Err(ADD.to_owned()),
        _ if is(b"REMOVE") => Err(REMOVE.to_owned()),
        _ => Err(PEER.to_owned()),
    }
}

/// A number as it is written out, of those that `--peers` takes.
fn number(word: &[u8], usage: &str) -> Result<PeerId, String> {
    let number = std::str::from_utf8(word).ok().and_then(|word| word.parse::<u32>().ok());
    let number = number.filter(|number| *number > 0 && word == number.to_string().as_bytes());
    number.map(PeerId::from).ok_or_else(|| format!("{usage}; a peer's number is 1 to {}", u32::MAX))
}

/// Whether this is a host, or its address, and a port.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_port = port.parse::<u16>().is_ok_and(|number| number > 0 && number.to_string() == port);
    let is_of_a_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.contains(':') && host.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, ':' | '.')),
        None => !host.is_empty() && host.chars().all(is_of_a_name),
    };
    text.len() <= LONGEST_ADDRESS && is_port && is_host
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, String> {
        let words: Vec<&str> = line.split(' ').collect();
        if words[0] == "PEER" { change(&words[1..]) } else { hand_over(&words[1..]) }
    }

    #[test]
    fn orders_are_read() {
        let add = |peer, address: &str| Ok(Command::AddPeer { peer, address: address.to_owned() });
        for (line, wanted) in [
            ("HANDOVER", Ok(Command::HandOver(None))),
            ("HANDOVER 2", Ok(Command::HandOver(Some(2)))),
            ("PEER ADD 4 host-d.example:5560", add(4, "host-d.example:5560")),
            ("PEER add 4294967295 [::1]:1", add(4_294_967_295, "[::1]:1")),
            ("PEER Remove 3", Ok(Command::RemovePeer(3))),
        ] {
            assert_eq!(read(line), wanted, "{line}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_order_is_said() {
        for (line, part) in [
            ("HANDOVER x", "HANDOVER [<peer>]; a peer's number is 1 to 4294967295"),
            ("HANDOVER 0", "a peer's number"),
            ("HANDOVER 1 2", "HANDOVER wants"),
            ("HANDOVER ", "HANDOVER wants"),
            ("PEER", "PEER wants ADD or REMOVE"),
            ("PEER 4", "PEER wants ADD or REMOVE"),
            ("PEER ADD", "PEER ADD wants"),
            ("PEER ADD 4", "PEER ADD wants"),
            ("PEER ADD 04 h:1", "a peer's number"),
            ("PEER ADD 4294967296 h:1", "a peer's number"),
            ("PEER ADD 4 h", "a port from 1 to 65535"),
            ("PEER ADD 4 h:0", "a port"),
            ("PEER ADD 4 h:+1", "a port"),
            ("PEER ADD 4 h:65536", "a port"),
            ("PEER ADD 4 :1", "PEER ADD wants"),
            ("PEER ADD 4 ::1:5560", "PEER ADD wants"),
            ("PEER ADD 4 http://h:1", "PEER ADD wants"),
            ("PEER ADD 4 h:1 x", "PEER ADD wants"),
            ("PEER REMOVE", "PEER REMOVE wants"),
            ("PEER REMOVE 3 FORCE", "PEER REMOVE wants"),
        ] {
            let why = read(line).unwrap_err();
            assert!(why.contains(part), "{line}: {why}");
        }
        assert!(read(&format!("PEER ADD 4 {}:1", "h".repeat(300))).is_err());
    }
}
