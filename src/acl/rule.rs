//! The rules that make a user, as they are written.

use bytes::Bytes;

use crate::protocol::table::{Category, Leaf, leaves};

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// `on`, `off`: whether anybody may log in as this user.
    Enabled(bool),
    /// `nopass`: any password is right.
    AnyPassword,
    /// `resetpass`: none is.
    NoPassword,
    /// `>password`.
    Add(Bytes),
    /// `<password`.
    Remove(Bytes),
    /// `#hash`, of argon2id or (as Redis keeps them) SHA-256.
    AddHash(String),
    /// `!hash`.
    RemoveHash(String),
    /// `allkeys`, `~*`.
    AllKeys,
    /// `resetkeys`.
    NoKeys,
    /// `~pattern`, `%R~pattern`, `%W~pattern`, `%RW~pattern`.
    Keys {
        /// Of ids that may be read.
        read: bool,
        /// Of ids that may be written.
        write: bool,
        /// As written.
        pattern: Bytes,
    },
    /// `allcommands` and `+@all`, `nocommands` and `-@all`.
    AllCommands(bool),
    /// `+@category`, `-@category`.
    Category(Category, bool),
    /// `+command`, `-command`: with all its subcommands, where it has some; `+command|subcommand`.
    Command {
        /// In lower case.
        name: String,
        /// It may be run.
        allow: bool,
    },
    /// `reset`: as a user is that has just been made.
    Reset,
    /// What has no meaning here and takes nothing away, as tools write it: `resetchannels`, `sanitize-payload`.
    Nothing,
}

/// Why something is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRule {
    /// It cannot be read.
    #[error("Syntax error")]
    Syntax,
    /// There is no such command, or no such category.
    #[error("Unknown command or category name in ACL")]
    Unknown,
    /// `+command|argument`, where the argument is none of its subcommands.
    #[error("Allowing first-arg of a subcommand is not supported")]
    FirstArgument,
    /// A pattern that is longer than any id could need.
    #[error("a pattern of ids has up to {} bytes", MOST_PATTERN_BYTES)]
    LongPattern,
    /// Rules for channels.
    #[error(
        "there are no channels with rules here, as whoever may run SUBSCRIBE is told of a change of the leader and of nothing else: leave it away"
    )]
    Channels,
    /// Rules in brackets.
    #[error("selectors are not supported: make another user instead")]
    Selector,
    /// It would have no effect.
    #[error(
        "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. Try \
         'resetkeys' to start with an empty list of patterns"
    )]
    AfterAllKeys,
    /// More of them than are kept.
    #[error("a user has up to {0} of them")]
    TooMany(usize),
    /// A password to be removed is none.
    #[error("The password you are trying to remove from the user does not exist")]
    NoSuchPassword,
    /// Another reason.
    #[error("{0}")]
    Other(String),
}

/// An id has 1,024 bytes, and each may be escaped.
const MOST_PATTERN_BYTES: usize = 2048;

/// The longest password.
const MOST_PASSWORD_BYTES: usize = 4096;

impl Rule {
    /// Whether it changes which passwords are right.
    pub fn is_about_passwords(&self) -> bool {
        use Rule::*;
        matches!(self, AnyPassword | NoPassword | Add(_) | Remove(_) | AddHash(_) | RemoveHash(_) | Reset)
    }

    /// Reads one.
    ///
    /// # Errors
    /// Why it is none; it never holds the word itself, which may be a password.
    pub fn read(word: &[u8]) -> Result<Self, BadRule> {
        let lower = word.to_ascii_lowercase();
        Ok(match lower.as_slice() {
            b"on" => Self::Enabled(true),
            b"off" => Self::Enabled(false),
            b"nopass" => Self::AnyPassword,
            b"resetpass" => Self::NoPassword,
            b"allkeys" | b"~*" => Self::AllKeys,
            b"resetkeys" => Self::NoKeys,
            b"allcommands" | b"+@all" => Self::AllCommands(true),
            b"nocommands" | b"-@all" => Self::AllCommands(false),
            b"reset" => Self::Reset,
            b"resetchannels" | b"sanitize-payload" | b"skip-sanitize-payload" | b"clearselectors" => Self::Nothing,
            b"allchannels" => return Err(BadRule::Channels),
            _ => match word {
                [b'>', password @ ..] => Self::Add(password_of(password)?),
                [b'<', password @ ..] => Self::Remove(password_of(password)?),
                [b'#', hash @ ..] => Self::AddHash(text_of(hash)?),
                [b'!', hash @ ..] => Self::RemoveHash(text_of(hash)?),
                [b'~', pattern @ ..] => keys(true, true, pattern)?,
                [b'%', rest @ ..] => permissions(rest)?,
                [b'&', ..] => return Err(BadRule::Channels),
                [b'(', ..] => return Err(BadRule::Selector),
                [sign @ (b'+' | b'-'), b'@', name @ ..] => {
                    Self::Category(Category::find(name).ok_or(BadRule::Unknown)?, *sign == b'+')
                }
                [sign @ (b'+' | b'-'), name @ ..] => command(name, *sign == b'+')?,
                _ => return Err(BadRule::Syntax),
            },
        })
    }
}

fn password_of(password: &[u8]) -> Result<Bytes, BadRule> {
    if password.len() > MOST_PASSWORD_BYTES {
        return Err(BadRule::Other(format!("a password has up to {MOST_PASSWORD_BYTES} bytes")));
    }
    Ok(Bytes::copy_from_slice(password))
}

fn text_of(bytes: &[u8]) -> Result<String, BadRule> {
    String::from_utf8(bytes.to_vec()).map_err(|_| BadRule::Syntax)
}

fn permissions(word: &[u8]) -> Result<Rule, BadRule> {
    let end = word.iter().position(|byte| *byte == b'~').ok_or(BadRule::Syntax)?;
    let (letters, pattern) = (word[..end].to_ascii_uppercase(), &word[end + 1..]);
    match letters.as_slice() {
        b"R" => keys(true, false, pattern),
        b"W" => keys(false, true, pattern),
        b"RW" | b"WR" => keys(true, true, pattern),
        _ => Err(BadRule::Syntax),
    }
}

/// A pattern has to stand in the list of rules as one word.
fn keys(read: bool, write: bool, pattern: &[u8]) -> Result<Rule, BadRule> {
    if pattern.len() > MOST_PATTERN_BYTES {
        return Err(BadRule::LongPattern);
    }
    if pattern.iter().any(|byte| byte.is_ascii_whitespace() || matches!(byte, 0 | 0x0b)) {
        return Err(BadRule::Syntax);
    }
    Ok(Rule::Keys { read, write, pattern: Bytes::copy_from_slice(pattern) })
}

fn command(name: &[u8], allow: bool) -> Result<Rule, BadRule> {
    let name = String::from_utf8(name.to_ascii_lowercase()).map_err(|_| BadRule::Unknown)?;
    if leaves().any(|leaf| leaf.is_named(&name)) {
        return Ok(Rule::Command { name, allow });
    }
    let has_subcommands = |leaf: &Leaf| !leaf.spec.subcommands.is_empty();
    let parts: Vec<&str> = name.split('|').collect();
    let of = |command: &str| leaves().find(|leaf| leaf.is_named(command));
    Err(match (parts.as_slice(), of(parts[0])) {
        ([_, ""], Some(_)) => BadRule::Syntax,
        ([_, _], Some(leaf)) if !has_subcommands(&leaf) => BadRule::FirstArgument,
        ([_, _, _], Some(leaf)) if has_subcommands(&leaf) => BadRule::FirstArgument,
        _ => BadRule::Unknown,
    })
}
