//! Which ids a user may name.

use std::fmt::Write as _;

use bytes::Bytes;

use super::rule::BadRule;
use crate::protocol::glob::Pattern;
use crate::protocol::table::Access;

/// Patterns that one user has.
const MOST_PATTERNS: usize = 256;

/// Ids that match this may be read, or written, or both.
#[derive(Debug, Clone)]
struct Allowed {
    written: Bytes,
    pattern: Pattern,
    access: Access,
}

/// The ids that a user may name.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys {
    all: bool,
    patterns: Vec<Allowed>,
}

impl PartialEq for Keys {
    fn eq(&self, other: &Self) -> bool {
        let parts = |keys: &Self| keys.patterns.iter().map(|one| (one.written.clone(), one.access)).collect::<Vec<_>>();
        self.all == other.all && parts(self) == parts(other)
    }
}

impl Keys {
    /// Every id, or none.
    pub(super) fn all_or_none(all: bool) -> Self {
        Self { all, patterns: Vec::new() }
    }

    /// Whether these are all.
    pub(super) fn are_all(&self) -> bool {
        self.all
    }

    /// Ids that match may be read, or written.
    pub(super) fn add(&mut self, pattern: &Bytes, access: Access) -> Result<(), BadRule> {
        if self.all {
            return Err(BadRule::AfterAllKeys);
        }
        let same = self.patterns.iter_mut().find(|one| one.written == *pattern);
        let had = same.as_ref().map_or(Access::LOOK, |same| same.access);
        let access = Access { read: had.read || access.read, write: had.write || access.write };
        if access == Access::BOTH && pattern == "*" {
            *self = Self::all_or_none(true);
            return Ok(());
        }
        if let Some(same) = same {
            same.access = access;
            return Ok(());
        }
        if self.patterns.len() >= MOST_PATTERNS {
            return Err(BadRule::TooMany(MOST_PATTERNS));
        }
        self.patterns.push(Allowed { written: pattern.clone(), pattern: Pattern::new(pattern), access });
        Ok(())
    }

    /// Whether this may be done to an id. As in Redis, one pattern has to allow all of it.
    pub(super) fn allow(&self, id: &[u8], wanted: Access) -> bool {
        let allows = |one: &Allowed| {
            (one.access.read || !wanted.read) && (one.access.write || !wanted.write) && one.pattern.matches(id)
        };
        self.all || self.patterns.iter().any(allows)
    }

    /// Appends its rules.
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        if self.all {
            to.extend_from_slice(b"~*");
        }
        for (place, one) in self.patterns.iter().enumerate() {
            let mut sign = String::new();
            match one.access {
                Access { read: true, write: true } => sign.push('~'),
                // A string takes everything.
                Access { read, .. } => drop(write!(sign, "%{}~", if read { 'R' } else { 'W' })),
            }
            to.extend_from_slice(if place > 0 { b" " } else { b"" });
            to.extend_from_slice(sign.as_bytes());
            to.extend_from_slice(&one.written);
        }
    }
}
