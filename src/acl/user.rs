//! One user.

use std::fmt;
use std::str::FromStr;

use super::commands::Commands;
use super::keys::Keys;
use super::password::{PasswordHash, Salt};
use super::rule::{BadRule, Rule};
use crate::protocol::table::{Access, Spec, leaf_of};

/// Passwords that one user has.
const MOST_PASSWORDS: usize = 16;

/// The longest name, bytes.
const MOST_NAME_BYTES: usize = 64;

/// The name of a user: 1 to 64 bytes of UTF-8 without white space and control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(String);

impl UserName {
    /// Reads one.
    ///
    /// # Errors
    /// Why it is none.
    pub fn from_bytes(name: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(name).map_err(|_| "Usernames have to be UTF-8".to_owned())?;
        text.parse()
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("Usernames can't contain spaces or null characters".to_owned());
        }
        if text.is_empty() || text.len() > MOST_NAME_BYTES {
            return Err(format!("Usernames have 1 to {MOST_NAME_BYTES} bytes"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a user may not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// Not run this command, or this subcommand, for anything.
    Command,
    /// Not do that to the id which is this word of the request.
    Key(usize),
}

/// A user: how it is let in, and what it may do.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    enabled: bool,
    any_password: bool,
    passwords: Vec<PasswordHash>,
    commands: Commands,
    keys: Keys,
}

impl User {
    /// One that was just made: nobody may log in as it, and it may do nothing.
    pub fn fresh() -> Self {
        Self {
            enabled: false,
            any_password: false,
            passwords: Vec::new(),
            commands: Commands::all_or_none(false),
            keys: Keys::default(),
        }
    }

    /// One that may do everything, without a password.
    pub fn almighty() -> Self {
        Self {
            enabled: true,
            any_password: true,
            passwords: Vec::new(),
            commands: Commands::all_or_none(true),
            keys: Keys::all_or_none(true),
        }
    }

    /// Reads what [`text`](Self::text) has written.
    ///
    /// # Errors
    /// It was not, or by a version that has other rules.
    pub fn read(text: &[u8]) -> Result<Self, BadRule> {
        let mut user = Self::fresh();
        for word in text.split(|byte| *byte == b' ').filter(|word| !word.is_empty()) {
            match Rule::read(word)? {
                rule @ (Rule::AllCommands(_) | Rule::Category(..) | Rule::Command { .. }) => {
                    user.commands.read(&rule)?
                }
                // Only hashes that need no work are written.
                rule => user.change(&rule, Salt::default())?,
            }
        }
        Ok(user)
    }

    /// The rules that make it, from a fresh one.
    pub fn text(&self) -> Vec<u8> {
        let mut text = if self.enabled { b"on".to_vec() } else { b"off".to_vec() };
        if self.any_password {
            text.extend_from_slice(b" nopass");
        }
        self.passwords.iter().for_each(|hash| text.extend_from_slice(format!(" #{hash}").as_bytes()));
        text.push(b' ');
        let keys = text.len();
        self.keys.write(&mut text);
        if text.len() > keys {
            text.push(b' ');
        }
        text.extend_from_slice(self.commands.to_string().as_bytes());
        text
    }

    /// Follows a rule. Those of passwords take long: a hash each. `salt` is for the first one that is added.
    ///
    /// # Errors
    /// The rule does not fit; the user may have changed in part.
    pub fn change(&mut self, rule: &Rule, salt: Salt) -> Result<(), BadRule> {
        let salt = self.passwords.iter().find_map(PasswordHash::salt).unwrap_or(salt);
        match rule {
            Rule::Enabled(on) => self.enabled = *on,
            Rule::AnyPassword => (self.any_password, self.passwords) = (true, Vec::new()),
            Rule::NoPassword => self.forget_passwords(),
            Rule::Add(password) => {
                if !self.passwords.iter().any(|hash| hash.is_of(password)) {
                    self.add(PasswordHash::of(password, salt).map_err(BadRule::Other)?)?;
                }
                self.any_password = false;
            }
            Rule::AddHash(hash) => {
                if hash.starts_with('$') {
                    self.add(hash.parse().map_err(BadRule::Other)?)?;
                } else if !self.passwords.iter().any(|known| known.is_of_sha256(hash)) {
                    self.add(PasswordHash::of_sha256(hash, salt).map_err(BadRule::Other)?)?;
                }
                self.any_password = false;
            }
            Rule::Remove(password) => self.remove(|hash| hash.is_of(password))?,
            Rule::RemoveHash(text) if text.starts_with('$') => self.remove(|hash| hash.to_string() == *text)?,
            Rule::RemoveHash(digits) => self.remove(|hash| hash.is_of_sha256(digits))?,
            Rule::AllKeys => self.keys = Keys::all_or_none(true),
            Rule::NoKeys => self.keys = Keys::all_or_none(false),
            Rule::Keys { read, write, pattern } => {
                self.keys.add(pattern, Access { read: *read, write: *write })?;
            }
            Rule::AllCommands(_) | Rule::Category(..) | Rule::Command { .. } => self.commands.change(rule)?,
            Rule::Reset => *self = Self::fresh(),
            Rule::Nothing => {}
        }
        Ok(())
    }

    fn add(&mut self, hash: PasswordHash) -> Result<(), BadRule> {
        if self.passwords.contains(&hash) {
            return Ok(());
        }
        if self.passwords.len() >= MOST_PASSWORDS {
            return Err(BadRule::TooMany(MOST_PASSWORDS));
        }
        self.passwords.push(hash);
        Ok(())
    }

    fn remove(&mut self, is: impl Fn(&PasswordHash) -> bool) -> Result<(), BadRule> {
        let before = self.passwords.len();
        self.passwords.retain(|hash| !is(hash));
        if self.passwords.len() < before { Ok(()) } else { Err(BadRule::NoSuchPassword) }
    }

    /// From here on no password is right.
    pub fn forget_passwords(&mut self) {
        (self.any_password, self.passwords) = (false, Vec::new());
    }

    /// Whether anybody may log in as this user.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Whether any password is right.
    pub fn takes_any_password(&self) -> bool {
        self.any_password
    }

    /// What is kept of its passwords.
    pub fn passwords(&self) -> &[PasswordHash] {
        &self.passwords
    }

    /// Its rules about commands, as they are written.
    pub fn commands(&self) -> String {
        self.commands.to_string()
    }

    /// Its rules about ids, as they are written.
    pub fn keys(&self) -> Vec<u8> {
        let mut text = Vec::new();
        self.keys.write(&mut text);
        text
    }

    /// Whether every id may be named.
    pub fn has_all_keys(&self) -> bool {
        self.keys.are_all()
    }

    /// Whether every command may be run.
    pub fn has_all_commands(&self) -> bool {
        self.commands.are_all()
    }

    /// Whether it may do everything, so that nothing has to be looked at.
    pub fn may_all(&self) -> bool {
        self.keys.are_all() && self.commands.are_all()
    }

    /// Whether this may be done to an id.
    pub fn may(&self, id: &[u8], access: Access) -> bool {
        self.keys.allow(id, access)
    }

    /// Whether a command, or its subcommand of this name, may be run at all.
    pub fn may_run(&self, spec: &Spec, subcommand: Option<&[u8]>) -> bool {
        // By these one says who one is, or goes.
        spec.flags.contains(&"no_auth") || leaf_of(spec, subcommand).is_some_and(|leaf| self.commands.allow(leaf.index))
    }

    /// Whether a request may be run, whose number of words fits its command. What its ids are is not looked at where that
    /// cannot be told: then it is refused for another reason.
    ///
    /// # Errors
    /// What of it may not be done.
    pub fn check<T: AsRef<[u8]>>(&self, spec: &Spec, words: &[T]) -> Result<(), Denied> {
        if self.may_all() {
            return Ok(());
        }
        if !self.may_run(spec, words.get(1).map(AsRef::as_ref)) {
            return Err(Denied::Command);
        }
        let Ok(places) = spec.key_places(words) else { return Ok(()) };
        let denied = places.enumerate().find(|(nth, place)| {
            let access = spec.access(words, *nth);
            words.get(*place).is_some_and(|word| !self.may(word.as_ref(), access))
        });
        denied.map_or(Ok(()), |(_, place)| Err(Denied::Key(place)))
    }

    /// The same for a command of the text protocol or of gRPC, which names one id at most.
    ///
    /// # Errors
    /// What of it may not be done.
    pub fn check_one(&self, spec: &Spec, id: Option<&[u8]>) -> Result<(), Denied> {
        let words = [spec.name.as_bytes(), id.unwrap_or_default()];
        if self.may_all() {
            return Ok(());
        }
        if !self.may_run(spec, None) {
            return Err(Denied::Command);
        }
        match id {
            Some(id) if !self.may(id, spec.access(&words, 0)) => Err(Denied::Key(1)),
            _ => Ok(()),
        }
    }
}
