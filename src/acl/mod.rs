//! Users, and what each may do: a part of the commands, on a part of the ids.
//!
//! A [`User`] is made by [rules](Rule), one after the other, as Redis has them; its text is rules again, which make the
//! same one. That text is what the log keeps and what every replica reads, so that nothing of a user is true that is not
//! written there. [`User::check`] is the one place where a request is held against the rights: each door asks it before
//! a request is run, and again where it was queued.
//!
//! What cannot be read, of a newer version or a damaged one, makes no user: nobody may do anything by it.

mod commands;
mod keys;
mod password;
mod rule;
mod user;

pub use self::password::{PasswordHash, Salt};
pub use self::rule::{BadRule, Rule};
pub use self::user::{Denied, User, UserName};

/// The user that a connection is before it says who it is.
pub const DEFAULT: &str = "default";

#[cfg(test)]
mod tests;
