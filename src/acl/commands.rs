//! Which commands a user may run.

use std::fmt;

use super::rule::{BadRule, Rule};
use crate::protocol::table::{Category, Leaf, leaves};

/// Leaves that a set has room for.
const MOST: usize = 256;

/// Rules about commands that one user has.
const MOST_RULES: usize = 512;

/// Some of the commands, by their [`Leaf::index`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Set([u64; MOST / 64]);

impl Set {
    fn has(&self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 == 1
    }

    fn put(&mut self, index: usize, on: bool) {
        let bit = 1 << (index % 64);
        if on {
            self.0[index / 64] |= bit;
        } else {
            self.0[index / 64] &= !bit;
        }
    }
}

/// A rule about some of them, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
enum About {
    Category(Category),
    /// A command, or `command|subcommand`, in lower case.
    Command(String),
}

/// The commands that a user may run, and the rules that say so.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Commands {
    allowed: Set,
    /// All that are not named: also those that a later version will have.
    all: bool,
    rules: Vec<(bool, About)>,
}

impl Commands {
    /// Every one, or none.
    pub(super) fn all_or_none(all: bool) -> Self {
        let mut allowed = Set::default();
        leaves().for_each(|leaf| allowed.put(leaf.index, all));
        Self { allowed, all, rules: Vec::new() }
    }

    /// Whether these are all, without an exception.
    pub(super) fn are_all(&self) -> bool {
        self.all && self.rules.is_empty()
    }

    pub(super) fn allow(&self, leaf: usize) -> bool {
        self.allowed.has(leaf)
    }

    /// Takes a rule that was written, behind those that were written before it: there are none to take together.
    pub(super) fn read(&mut self, rule: &Rule) -> Result<(), BadRule> {
        match rule {
            Rule::Category(category, allow) => self.follow(*allow, About::Category(*category)),
            Rule::Command { name, allow } => self.follow(*allow, About::Command(name.clone())),
            _ => return self.change(rule),
        }
        if self.rules.len() > MOST_RULES { Err(BadRule::TooMany(MOST_RULES)) } else { Ok(()) }
    }

    /// Takes a rule about commands.
    pub(super) fn change(&mut self, rule: &Rule) -> Result<(), BadRule> {
        let (allow, about) = match rule {
            Rule::AllCommands(all) => {
                *self = Self::all_or_none(*all);
                return Ok(());
            }
            Rule::Category(category, allow) => (*allow, About::Category(*category)),
            Rule::Command { name, allow } => (*allow, About::Command(name.clone())),
            _ => return Ok(()),
        };
        let mut rules = std::mem::take(&mut self.rules);
        rules.retain(|(_, earlier)| !about.covers(earlier));
        rules.push((allow, about));
        *self = Self::all_or_none(self.all);
        rules.into_iter().for_each(|(allow, about)| self.follow(allow, about));
        if self.rules.len() > MOST_RULES { Err(BadRule::TooMany(MOST_RULES)) } else { Ok(()) }
    }

    /// What is said already is not written again; but a category may get commands that it does not have yet.
    fn follow(&mut self, allow: bool, about: About) {
        let before = self.allowed;
        leaves().filter(|leaf| about.names(leaf)).for_each(|leaf| self.allowed.put(leaf.index, allow));
        if before != self.allowed || matches!(about, About::Category(_)) {
            self.rules.push((allow, about));
        }
    }
}

impl About {
    fn names(&self, leaf: &Leaf) -> bool {
        match self {
            Self::Category(category) => leaf.is_in(*category),
            Self::Command(name) => leaf.is_named(name) || leaf.spec.name.eq_ignore_ascii_case(name),
        }
    }

    /// Whether nothing is left of an earlier rule behind this one.
    fn covers(&self, earlier: &Self) -> bool {
        match (self, earlier) {
            (Self::Command(name), Self::Command(before)) => {
                before == name || before.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('|'))
            }
            _ => self == earlier,
        }
    }
}

impl fmt::Display for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.all { "+@all" } else { "-@all" })?;
        for (allow, about) in &self.rules {
            let sign = if *allow { '+' } else { '-' };
            match about {
                About::Category(category) => write!(f, " {sign}@{}", category.name())?,
                About::Command(name) => write!(f, " {sign}{name}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_all_commands() {
        assert!(leaves().count() <= MOST);
    }
}
