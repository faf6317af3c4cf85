//! What is said of requests that are not carried out, in the words that clients of Redis know.

use bytes::Bytes;

use super::rights::full_name;
use super::script;
use crate::acl::Denied;
use crate::cluster::Cluster;
use crate::error::Refusal;
use crate::leader::coordinator::Coordinator;
use crate::protocol::resp::{Words, number};
use crate::protocol::table::{Op, Spec, WrongCount};

pub(in crate::leader) const SYNTAX: &str = "ERR syntax error";
pub(super) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";

pub(super) fn error<T>(text: &str) -> Result<T, String> {
    Err(text.to_owned())
}

pub(super) fn wrong_number(name: &str) -> String {
    format!("ERR wrong number of arguments for '{}' command", name.to_lowercase())
}

/// What is said of a wrong number of ids.
pub(super) fn wrong_count(spec: &Spec, why: WrongCount) -> String {
    let text = match (spec.op, why) {
        (Op::Data(_), WrongCount::TooMany) => "ERR wrong number of key-value pairs",
        (Op::Data(_), _) => "ERR invalid numkeys value",
        (_, WrongCount::NotANumber) => NOT_AN_INTEGER,
        (_, WrongCount::TooFew) => "ERR Number of keys can't be negative",
        (_, WrongCount::TooMany) => "ERR Number of keys can't be greater than number of args",
    };
    text.to_owned()
}

/// What is said of a request that its user may not have run.
pub(super) fn denial(spec: &Spec, words: &Words, denied: Denied) -> String {
    match denied {
        Denied::Command => {
            let name = full_name(spec, words.get(1).map(|word| &**word));
            format!("NOPERM this user has no permissions to run the '{name}' command")
        }
        Denied::Key(_) => "NOPERM this user has no permissions to access one of the keys used as arguments".to_owned(),
    }
}

/// There is one database, number 0.
pub(super) fn select(word: &[u8]) -> Result<(), String> {
    match number(word) {
        Some(0) => Ok(()),
        Some(_) => error("ERR DB index is out of range"),
        None => error(NOT_AN_INTEGER),
    }
}

pub(super) fn unknown_subcommand(command: &str, words: &Words) -> String {
    let shown = crate::error::printable(&words[1], 128);
    format!("ERR unknown subcommand '{shown}'. Try {command} HELP.")
}

pub(super) fn unknown(words: &Words) -> String {
    let shown = |word: &Bytes| crate::error::printable(word, 128);
    let mut text = format!("ERR unknown command '{}', with args beginning with: ", shown(&words[0]));
    for word in &words[1..] {
        if text.len() > 256 {
            break;
        }
        text.push_str(&format!("'{}' ", shown(word)));
    }
    text
}

/// A refusal with the class word that clients of Redis know, if there is one.
pub(super) fn told(coordinator: &Coordinator, refusal: Refusal) -> String {
    format!("{} {refusal}", class(&refusal, || unavailable(&coordinator.cluster())))
}

/// The class word of what cannot be told: as a Redis that still reads its file, while the leader does not know its
/// messages yet; as one whose cluster is broken, when another leader may know better.
fn unavailable(cluster: &Cluster) -> &'static str {
    if cluster.waiting_for().is_some() {
        "LOADING"
    } else if cluster.unsure().is_some() {
        "CLUSTERDOWN"
    } else {
        "TRYAGAIN"
    }
}

/// The class word of a refusal; `unavailable` is that of what cannot be told.
pub(super) fn class(refusal: &Refusal, unavailable: impl FnOnce() -> &'static str) -> &'static str {
    match refusal {
        Refusal::BadCommand(_) | Refusal::TooLarge { .. } | Refusal::NotALine | Refusal::OtherProtocol => "ERR",
        Refusal::TooFewNodes { .. } => "NOREPLICAS",
        Refusal::Busy(script::BUSY) => "BUSY",
        Refusal::Busy(_) => "OOM",
        Refusal::Unavailable(_) => unavailable(),
        Refusal::NoAuth => "NOAUTH",
        Refusal::WrongPassword => "WRONGPASS",
        Refusal::Denied(_) => "NOPERM",
        Refusal::Unknown(_) | Refusal::Lost(_) | Refusal::NotFound => refusal.code(),
    }
}
