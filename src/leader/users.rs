//! Users: who there is, who is let in, and what was denied.
//!
//! What is true of users is in the log; here it lies ready to be asked, and is made anew whenever it changes. A
//! connection keeps who it is as a [`Login`], which notices changes by their count.

mod change;
mod denials;
mod logins;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::hmac;
use tokio::sync::Mutex;

pub use self::denials::{Context, Denial, Denials, Reason};
use self::logins::Logins;
pub use self::logins::NotLetIn;
use crate::acl::{BadRule, DEFAULT, User, UserName};
use crate::lock::Lock;
use crate::protocol::table::{Access, Spec};
use crate::seeded::{self, Bug};
use crate::types::MessageId;

/// All users, and what is needed to let them in.
#[derive(Debug)]
pub struct Users {
    all: Lock<BTreeMap<UserName, Made>>,
    /// How often that changed.
    changes: AtomicU64,
    /// The password of `--password-file`, as it was hashed with a key of this process: user `default` has it beside its own.
    file: Option<hmac::Tag>,
    /// Clients may show certificates, by which users without a password are let in.
    certificates: bool,
    /// One change at a time.
    changing: Mutex<()>,
    logins: Logins,
    /// What was denied of late.
    pub denials: Denials,
}

/// A user, and the rules in the log that have made it.
#[derive(Debug, Clone)]
struct Made {
    rules: Vec<u8>,
    user: Arc<User>,
}

/// Who a connection is.
#[derive(Debug, Clone)]
pub struct Login {
    name: UserName,
    user: Arc<User>,
    changes: u64,
}

impl Login {
    /// Its name.
    pub fn name(&self) -> &UserName {
        &self.name
    }

    /// What it may do.
    pub fn user(&self) -> &Arc<User> {
        &self.user
    }

    /// Leaves only the ids that it may read.
    pub fn retain_readable(&self, ids: &mut Vec<MessageId>) {
        if !self.user.has_all_keys() {
            ids.retain(|id| self.user.may(id.as_bytes(), Access::READ));
        }
    }

    /// Looks whether what it may do has changed. `false`: there is no such user any more.
    pub fn refresh(&mut self, users: &Users) -> bool {
        let changes = users.changes();
        if self.changes == changes {
            return true;
        }
        let Some(user) = users.get(&self.name) else { return false };
        (self.user, self.changes) = (user, changes);
        true
    }
}

/// The name of the user that is there from the start.
pub(super) fn default_name() -> UserName {
    DEFAULT.parse().unwrap_or_else(|_| unreachable!("it is a name"))
}

impl Users {
    /// Those of a register without any, but for the one that is there from the start: it may do everything, and has the
    /// password of `--password-file`, or none.
    pub fn new(password: Option<&str>, certificates: bool) -> Self {
        let logins = Logins::default();
        let users = Self {
            all: Lock::default(),
            changes: AtomicU64::new(0),
            file: password.map(|password| logins.tag_of_file(password.as_bytes())),
            certificates,
            changing: Mutex::new(()),
            logins,
            denials: Denials::default(),
        };
        users.load(&BTreeMap::new());
        users
    }

    /// Takes what the log says of them. What cannot be read makes a user that nobody is, and that may do nothing.
    pub fn load(&self, logged: &BTreeMap<String, Vec<u8>>) {
        let mut all = self.all.lock();
        let mut before = std::mem::take(&mut *all);
        for (name, rules) in logged {
            let Ok(parsed) = name.parse::<UserName>() else { continue };
            let as_before = before.remove(&parsed).filter(|made| made.rules == *rules);
            let made = as_before.unwrap_or_else(|| {
                let user = self.made(&parsed, User::read(rules));
                Made { rules: rules.clone(), user: Arc::new(user) }
            });
            all.insert(parsed, made);
        }
        let first = || Made { rules: Vec::new(), user: Arc::new(self.made(&default_name(), Ok(User::almighty()))) };
        all.entry(default_name()).or_insert_with(first);
        self.changes.fetch_add(1, Ordering::Release);
    }

    fn made(&self, name: &UserName, read: Result<User, BadRule>) -> User {
        let mut user = read.unwrap_or_else(|why| {
            tracing::error!("user {name} is disabled, as its rules in the log cannot be read ({why}): set them anew");
            if seeded::active(Bug::UnreadableIsAlmighty) { User::almighty() } else { User::fresh() }
        });
        // Whoever gave a password file does not mean that any password is right.
        if self.file.is_some() && name.as_str() == DEFAULT && user.takes_any_password() {
            user.forget_passwords();
        }
        user
    }

    fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// One of them.
    pub fn get(&self, name: &UserName) -> Option<Arc<User>> {
        self.all.lock().get(name).map(|made| made.user.clone())
    }

    /// The one of this name, as a client writes it.
    pub fn find(&self, name: &[u8]) -> Option<Arc<User>> {
        self.get(&UserName::from_bytes(name).ok()?)
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<(UserName, Arc<User>)> {
        self.all.lock().iter().map(|(name, made)| (name.clone(), made.user.clone())).collect()
    }

    /// Who a connection is before it has said so; nobody, where that takes a password.
    pub fn anonymous(&self) -> Option<Login> {
        self.login(&default_name()).filter(|login| login.user.takes_any_password())
    }

    /// Who shows a valid certificate of this name: that user, or nobody if it is off; and where there is no user of that name,
    /// who shows none.
    pub fn of_certificate(&self, name: &str) -> Option<Login> {
        let name = name.parse().ok().filter(|name: &UserName| name.as_str() != DEFAULT && self.certificates);
        match name.filter(|name| self.get(name).is_some()) {
            Some(name) => self.login(&name),
            None => self.anonymous(),
        }
    }

    /// Somebody who has proven to be this user, if it is let in.
    fn login(&self, name: &UserName) -> Option<Login> {
        // First, so that no change is missed.
        let changes = self.changes();
        let user = self.get(name).filter(|user| user.is_enabled())?;
        Some(Login { name: name.clone(), user, changes })
    }

    /// Whether anybody may do everything without saying who he is.
    pub fn are_open(&self) -> bool {
        self.anonymous().is_some()
    }

    /// Whether one of these could give itself all rights again.
    fn has_admin<'a>(&self, mut users: impl Iterator<Item = (&'a UserName, &'a User)>) -> bool {
        users.any(|(name, user)| {
            let has_file = name.as_str() == DEFAULT && self.file.is_some();
            let gets_in = user.takes_any_password() || !user.passwords().is_empty() || has_file || self.certificates;
            user.is_enabled() && gets_in && user.may_run(acl_command(), Some(b"SETUSER"))
        })
    }
}

/// The name and the password that stand behind `Basic`, in HTTP and in gRPC's metadata (RFC 7617).
pub(super) fn basic(value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let pair = BASE64_STANDARD.decode(value.trim_ascii()).ok()?;
    let at = pair.iter().position(|byte| *byte == b':')?;
    Some((pair[..at].to_vec(), pair[at + 1..].to_vec()))
}

/// The command by which users are changed.
fn acl_command() -> &'static Spec {
    crate::protocol::table::find(b"ACL").unwrap_or_else(|| unreachable!("it is in the table"))
}

#[cfg(test)]
mod tests;
