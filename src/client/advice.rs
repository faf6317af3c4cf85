//! What helps somebody who typed a command that this client cannot run, or reached something that is no register.
//!
//! Never asks anybody: it knows the command table and what other servers begin their answers with.

use crate::protocol::Command;
use crate::protocol::table::{self, Spec};
use crate::protocol::text::ReplyLine;

const KEYS: &str = "\
A message is the rest of its line, byte for byte. Words in any case.
Tab completes, Ctrl-C clears the line, Ctrl-D leaves.";

/// Columns that are left of a line before a summary is put below its command instead of beside it.
const LEAST_SUMMARY: usize = 24;

/// What HELP says, in so many columns: of one command, or of all that are written as lines.
pub(super) fn help(of: Option<&str>, columns: usize) -> String {
    let Some(word) = of else {
        let written = || table::COMMANDS.iter().filter_map(|spec| Some((spec.line?, spec.summary)));
        let wide = written().map(|(line, _)| line.len()).max().unwrap_or(0);
        let beside = columns >= wide + 2 + LEAST_SUMMARY;
        let indent = if beside { wide + 2 } else { 2 };
        let rows: String = written()
            .map(|(line, summary)| {
                let begin = if beside { format!("{line:<wide$}  ") } else { format!("{line}\n  ") };
                format!("{begin}{}\n", wrapped(summary, columns.saturating_sub(indent), indent))
            })
            .collect();
        let keys: Vec<String> = KEYS.lines().map(|line| wrapped(line, columns, 0)).collect();
        return rows + &keys.join("\n");
    };
    let about = match table::find(word.as_bytes()) {
        Some(Spec { line: Some(line), summary, .. }) => format!("{line}  {summary}"),
        Some(spec) => format!("{} is of the Redis protocol only (redis-cli speaks it): {}", spec.name, spec.summary),
        None => {
            let hint = table::nearest(word.as_bytes()).map_or(String::new(), |name| format!(", did you mean {name}?"));
            format!("there is no command {word}{hint}; HELP lists them all")
        }
    };
    wrapped(&about, columns, 0)
}

/// Text in lines of at most `columns`, broken at blanks; all but the first are indented.
fn wrapped(text: &str, columns: usize, indent: usize) -> String {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > columns {
            lines.push(std::mem::take(&mut line));
        } else if !line.is_empty() || word.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines.join(&format!("\n{:indent$}", ""))
}

/// What to do instead, where the first word is of the Redis protocol only.
pub(super) fn only_redis(line: &[u8], addr: &str) -> Option<String> {
    let line = String::from_utf8_lossy(line);
    let only_there = |spec: &&Spec| spec.line.is_none() && spec.op != table::Op::OtherProtocol;
    let spec = table::find(line.split(' ').next()?.as_bytes()).filter(only_there)?;
    let (host, port) = addr.rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']);
    // What a shell would read in another way is not to be copied from here.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b" -_.:,+/@%=".contains(&byte);
    let line = if line.bytes().all(is_plain) { format!(" {line}") } else { String::new() };
    Some(format!(
        "{} is of the Redis protocol, which the same port speaks: redis-cli -h {host} -p {port}{line}; nothing was sent",
        spec.name
    ))
}

/// Who it is that answers like this, if that is no leader's port for clients.
pub(super) fn stranger(bytes: &[u8]) -> Option<&'static str> {
    let is_redis = match bytes {
        [b'-', code @ ..] => code.first().is_some_and(u8::is_ascii_uppercase),
        [b'$' | b'*' | b':', digits @ ..] => digits.first().is_some_and(|byte| byte.is_ascii_digit() || *byte == b'-'),
        _ => bytes.strip_prefix(b"+OK").is_some_and(|rest| rest.trim_ascii().is_empty()),
    };
    // The first frame of HTTP/2: its length in three bytes, kind 4, flags, stream 0.
    let is_grpc = bytes.len() >= 9 && bytes[3] == 4 && bytes[5..9] == [0; 4];
    if bytes.starts_with(b"-ERR this port speaks TLS") {
        Some("it speaks TLS: call it with --tls, and --tls-ca FILE for an authority of your own")
    } else if bytes.starts_with(b"HTTP/") {
        Some("it answers HTTP: 7666 is the port of the page, clients use 6666")
    } else if is_grpc {
        Some("it answers gRPC: 5550 is the port for nodes, clients use 6666")
    } else if is_redis {
        Some("it speaks the Redis protocol only: for a Redis server use redis-cli")
    } else if bytes.starts_with(b"SSH-") {
        Some("it answers SSH: clients use the leader's port 6666")
    } else {
        None
    }
}

/// Whether a reply is of a form that this command can have.
pub(super) fn fits(command: &Command, reply: &ReplyLine) -> bool {
    let begins = match command {
        Command::Where(_) => &["NODES "][..],
        Command::Count => &["COUNT "],
        Command::Ttl(_) => &["TTL "],
        Command::Status | Command::Peers => &["{"],
        Command::Ping { .. } => &["+PONG"],
        Command::Help => &["commands: "],
        Command::Exit => &["BYE"],
        Command::Verify => &["COPY ", "NODE ", "VERIFIED "],
        Command::Get(_) => return matches!(reply, ReplyLine::Value(_) | ReplyLine::Error { .. }),
        _ => return matches!(reply, ReplyLine::Ok | ReplyLine::Error { .. }),
    };
    match reply {
        ReplyLine::Other(line) => begins.iter().any(|begin| line.starts_with(begin.as_bytes())),
        reply => matches!(reply, ReplyLine::Error { .. }),
    }
}

/// Whether a command changes something.
pub(super) fn writes(command: &Command) -> bool {
    use Command::{
        AcceptClock, AddPeer, Delete, Drain, Expire, HandOver, Rebalance, Remove, RemovePeer, Set, SetFor, Undrain,
    };
    let of_time = matches!(command, SetFor { .. } | Expire { .. } | AcceptClock);
    let of_peers = matches!(command, HandOver(_) | AddPeer { .. } | RemovePeer(_));
    of_time
        || of_peers
        || matches!(command, Set { .. } | Delete(_) | Drain(_) | Undrain(_) | Remove { .. } | Rebalance(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_the_command_table() {
        let all = help(None, 200);
        for spec in table::COMMANDS {
            let (line, about) = (spec.line.unwrap_or(spec.name), help(Some(&spec.name.to_lowercase()), 200));
            assert!(about.contains(spec.name) && about.contains(spec.summary), "{about}");
            assert_eq!(
                all.lines().any(|row| row.starts_with(line) && row.ends_with(spec.summary)),
                spec.line.is_some()
            );
        }
        assert!(help(Some("FROB"), 80).contains("no command FROB"));
        assert!(help(Some("GTE"), 80).contains("did you mean GET?"));
    }

    #[test]
    fn help_fits_any_width() {
        for columns in [30, 40, 60] {
            for line in help(None, columns).lines() {
                assert!(line.len() <= columns, "{columns}: {line:?}");
            }
        }
        assert_eq!(wrapped("a bb ccc", 4, 2), "a bb\n  ccc");
    }

    #[test]
    fn words_of_redis_are_told_where_they_work() {
        let told = only_redis(b"INCR visits", "10.0.0.1:7000").unwrap();
        assert!(told.contains("redis-cli -h 10.0.0.1 -p 7000 INCR visits"), "{told}");
        assert!(only_redis(b"mset a 1", "[::1]:6666").unwrap().contains("-h ::1 -p 6666 mset a 1"));
        let told = only_redis(b"APPEND log it's $5", "[::1]:6666").unwrap();
        assert!(told.ends_with("redis-cli -h ::1 -p 6666; nothing was sent"), "{told}");
        for line in [&b"SET a 1"[..], b"FROB", b"POST / HTTP/1.1", b""] {
            assert_eq!(only_redis(line, "x:1"), None, "{line:?}");
        }
    }

    #[test]
    fn who_is_no_register_is_known_by_its_answer() {
        for (answer, part) in [
            (&b"HTTP/1.1 400 Bad Request"[..], "7666"),
            (b"\0\0\x1e\x04\0\0\0\0\0\0\x03", "5550"),
            (b"-ERR unknown command", "redis-cli"),
            (b"+OK", "redis-cli"),
            (b"$5", "redis-cli"),
            (b"*-1", "redis-cli"),
            (b"SSH-2.0-OpenSSH_9.2", "SSH"),
        ] {
            assert!(stranger(answer).is_some_and(|told| told.contains(part)), "{answer:?}");
        }
        for ours in [&b"+PONG"[..], b"OK", b"VALUE HTTP/", b"BYE", b"{}", b"", b"- a"] {
            assert_eq!(stranger(ours), None, "{ours:?}");
        }
        let other = |line: &'static str| ReplyLine::Other(line.into());
        let get = Command::Get("1".parse().unwrap());
        assert!(fits(&Command::Count, &other("COUNT 1")) && !fits(&Command::Count, &other("220 mail ready")));
        assert!(!fits(&get, &other("220")) && !fits(&get, &ReplyLine::Ok) && fits(&get, &ReplyLine::Value("".into())));
    }
}
