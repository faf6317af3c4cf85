//! How somebody proves to be a user: by a password.
//!
//! A password takes long to check, so that it takes long to guess; a thread of its own does it, which gives way to those
//! that serve. Of one that was right a keyed hash is remembered, by which it is right again at once, as long as its user
//! has the same passwords: programs that connect often, and gRPC, which gives it with each call, wait once.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ring::hmac;
use ring::rand::SystemRandom;
use tokio::time::{Instant, sleep};

use super::{Login, Users};
use crate::acl::{DEFAULT, PasswordHash, User, UserName};
use crate::leader::heavy::Heavy;
use crate::lock::Lock;
use crate::seeded::{self, Bug};
use crate::telemetry::repeats::Repeats;

/// Passwords that wait to be checked; more are turned away.
const MOST_WAITING: usize = 256;

/// Right passwords that are remembered.
const MOST_REMEMBERED: usize = 4096;

/// Wrong passwords of one address that cost it nothing; each further one makes it wait twice as long as the one before.
const FREE: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// After so long without one they are forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Attempts of an address that has given wrong ones which are under way at once, their pauses with them.
const MOST_OF_ADDRESS: usize = 8;

/// Addresses that are told apart.
const MOST_ADDRESSES: usize = 4096;

/// Why somebody was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotLetIn {
    /// There is no such user, or it has another password, or is off: which of them nobody is told.
    Wrong,
    /// Too many attempts failed that came from this address, or too many passwords wait to be checked.
    TooMany,
}

impl fmt::Display for NotLetIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wrong => "invalid username-password pair or user is disabled.",
            Self::TooMany => {
                "too many passwords are being checked, or were wrong: nothing was done, try again in a moment"
            }
        })
    }
}

/// Attempts, and what is remembered of them.
#[derive(Debug)]
pub(super) struct Logins {
    key: hmac::Key,
    right: Lock<HashSet<[u8; 32]>>,
    hashing: Heavy,
    waiting: AtomicUsize,
    addresses: Lock<BTreeMap<IpAddr, Attempts>>,
    said: Lock<Repeats>,
    /// A hash of no password, which takes as long to check where there is no such user.
    nobody: std::sync::OnceLock<Option<PasswordHash>>,
    began: Instant,
}

/// Of one address.
#[derive(Debug, Clone, Copy)]
struct Attempts {
    failed: u32,
    under_way: usize,
    last: Instant,
}

impl Default for Logins {
    fn default() -> Self {
        // Without random bytes there is no TLS and no salt either: the process could not have come so far.
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Self {
            key: key.unwrap_or_else(|_| unreachable!("the system has no random bytes")),
            right: Lock::default(),
            hashing: Heavy::start("passwords"),
            waiting: AtomicUsize::new(0),
            addresses: Lock::default(),
            said: Lock::default(),
            nobody: std::sync::OnceLock::new(),
            began: Instant::now(),
        }
    }
}

/// An attempt of an address, until it is dropped.
struct Attempt<'a>(&'a Logins, IpAddr);

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(attempts) = self.0.addresses.lock().get_mut(&self.1) {
            attempts.under_way -= 1;
        }
    }
}

/// The addresses that one customer usually has are one.
fn family_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

impl Logins {
    /// What is kept of the password of a file.
    pub(super) fn tag_of_file(&self, password: &[u8]) -> hmac::Tag {
        hmac::sign(&self.key, password)
    }

    /// What is remembered of a right password, as long as its user has the same ones.
    fn tag(&self, user: &User, name: &[u8], password: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        if !seeded::active(Bug::PasswordRememberedForGood) {
            user.passwords().iter().for_each(|hash| context.update(hash.to_string().as_bytes()));
        }
        // Neither can be in a hash.
        context.update(b"\0");
        context.update(name);
        context.update(b"\0");
        context.update(password);
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }

    fn remember(&self, tag: [u8; 32]) {
        let mut right = self.right.lock();
        if right.len() >= MOST_REMEMBERED {
            right.clear();
        }
        right.insert(tag);
    }

    fn begin(&self, from: IpAddr) -> Result<Attempt<'_>, NotLetIn> {
        let from = family_of(from);
        let mut addresses = self.addresses.lock();
        addresses.retain(|_, attempts| attempts.under_way > 0 || attempts.last.elapsed() < FORGOTTEN);
        if addresses.len() >= MOST_ADDRESSES && !addresses.contains_key(&from) {
            let idle = addresses.iter().filter(|(_, attempts)| attempts.under_way == 0);
            let oldest = idle.min_by_key(|(_, attempts)| attempts.last).map(|(address, _)| *address);
            addresses.remove(&oldest.ok_or(NotLetIn::TooMany)?);
        }
        let attempts =
            addresses.entry(from).or_insert_with(|| Attempts { failed: 0, under_way: 0, last: Instant::now() });
        if attempts.failed > FREE && attempts.under_way >= MOST_OF_ADDRESS {
            return Err(NotLetIn::TooMany);
        }
        attempts.under_way += 1;
        Ok(Attempt(self, from))
    }

    /// Notes a wrong password; gives how long its sender has to wait.
    fn note_wrong(&self, attempt: &Attempt<'_>) -> Duration {
        let mut addresses = self.addresses.lock();
        let Some(attempts) = addresses.get_mut(&attempt.1) else { return Duration::ZERO };
        attempts.failed = attempts.failed.saturating_add(1);
        attempts.last = Instant::now();
        match attempts.failed.checked_sub(FREE + 1) {
            None => Duration::ZERO,
            Some(times) => FIRST_PAUSE.saturating_mul(1 << times.min(16)).min(LONGEST_PAUSE),
        }
    }

    /// Whether a password is that of a user, away from the threads that serve.
    async fn check(&self, user: Option<Arc<User>>, password: Vec<u8>) -> Result<bool, NotLetIn> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= MOST_WAITING {
            return Err(NotLetIn::TooMany);
        }
        let hashes = user.map(|user| user.passwords().to_vec()).filter(|hashes| !hashes.is_empty());
        let nobody = match &hashes {
            Some(_) => None,
            None => self.nobody.get_or_init(|| PasswordHash::of(b"", [0; 16]).ok()).clone(),
        };
        let check = move || match hashes {
            Some(hashes) => PasswordHash::any_is_of(&hashes, &password),
            None => {
                // It is of nobody: this takes as long as if it were.
                let _ = nobody.is_some_and(|hash| hash.is_of(&password));
                false
            }
        };
        self.hashing.run(check).await.ok_or(NotLetIn::TooMany)
    }

    /// Does what hashes passwords, where that is done.
    pub(super) async fn apart<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
        self.hashing.run(work).await
    }
}

impl Users {
    /// Whoever comes from this address says that it is this user, and gives this password.
    ///
    /// # Errors
    /// It is not let in. Where many attempts have failed, that is told after a pause.
    pub async fn log_in(&self, name: &[u8], password: &[u8], from: IpAddr) -> Result<Login, NotLetIn> {
        let parsed = UserName::from_bytes(name).ok();
        let find = || parsed.as_ref().and_then(|name| self.login(name));
        let login = find();
        if let Some(login) = &login {
            let file = self.file.as_ref().filter(|_| name == DEFAULT.as_bytes());
            let is_of_file = file.is_some_and(|tag| hmac::verify(&self.logins.key, password, tag.as_ref()).is_ok());
            let tag = self.logins.tag(&login.user, name, password);
            if login.user.takes_any_password() || is_of_file || self.logins.right.lock().contains(&tag) {
                return Ok(login.clone());
            }
        }
        let attempt = self.logins.begin(from)?;
        let checked = login.map(|login| login.user);
        if self.logins.check(checked.clone(), password.to_vec()).await?
            && let Some(checked) = checked
            && let Some(login) = find()
            // It may have changed, or be another one of that name, since the password was put in line.
            && login.user.passwords() == checked.passwords()
        {
            self.logins.remember(self.logins.tag(&login.user, name, password));
            return Ok(login);
        }
        let said = self.logins.said.lock().note(&from.to_string(), self.logins.began.elapsed());
        if let Some(unsaid) = said {
            // What is no user's name may be a password.
            let known = parsed.filter(|name| self.get(name).is_some());
            let whose =
                known.map_or_else(|| "of a user that there is not".to_owned(), |name| format!("for user {name}"));
            tracing::warn!("somebody at {from} gave a wrong password {whose}{unsaid}");
        }
        sleep(self.logins.note_wrong(&attempt)).await;
        Err(NotLetIn::Wrong)
    }
}
