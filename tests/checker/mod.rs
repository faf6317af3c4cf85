//! Is this history of SETs, GETs, DELs and swaps (reads and writes at one instant) one of registers that change at one
//! instant between request and answer?
//!
//! Exact: it answers yes if and only if there is an order of all operations that fits every answer (Herlihy and
//! Wing, "Linearizability", 1990). Registers are independent, so each id is checked by itself. The check goes
//! through the events and keeps every state that can explain them (Wing and Gong 1993, Lowe 2017); since each
//! value is written once, few states survive an answer, and the time is that of reading the history.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a client asks of one id. Every value is written at most once in a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Set(u64),
    Get,
    Delete,
    /// Reads the value and writes another one, at one instant.
    Swap(u64),
    /// Nobody's request: the time of this value is over, and it may go at any time from here on. Nothing else goes with it.
    Expire(u64),
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The write happened.
    Done,
    /// The swap happened, and this is what was there before it.
    Swapped(Option<u64>),
    /// The value that was read.
    Found(u64),
    /// Nothing was there.
    NotFound,
    /// The write surely did not happen, or the read told nothing.
    SurelyNot,
    /// The write may happen at any time from its request on, or never; the read told nothing.
    Unknown,
}

/// Operations in the order in which they began and ended.
#[derive(Debug, Default)]
pub(crate) struct History {
    ops: Vec<Op>,
    clock: usize,
}

#[derive(Debug, Clone)]
struct Op {
    client: u32,
    id: String,
    action: Action,
    began: usize,
    ended: Option<(usize, Outcome)>,
}

/// What was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) operations: usize,
    pub(crate) ids: usize,
}

/// No order fits; the operations of this id, up to the answer that has none.
#[derive(Debug)]
pub(crate) struct Violation {
    id: String,
    ops: Vec<Op>,
}

impl History {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A request is about to leave; gives its number.
    pub(crate) fn invoke(&mut self, client: u32, id: &str, action: Action) -> usize {
        self.clock += 1;
        self.ops.push(Op { client, id: id.to_owned(), action, began: self.clock, ended: None });
        self.ops.len() - 1
    }

    /// Its answer has come. A request without one may happen at any time.
    pub(crate) fn complete(&mut self, op: usize, outcome: Outcome) {
        self.clock += 1;
        self.ops[op].ended = Some((self.clock, outcome));
    }

    /// How many requests there were.
    pub(crate) fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether a SET of this value ended without anybody knowing what became of it.
    pub(crate) fn is_in_doubt(&self, value: u64) -> bool {
        let of = |op: &&Op| matches!(op.action, Action::Set(written) | Action::Swap(written) if written == value);
        self.ops.iter().find(of).is_some_and(|op| matches!(op.ended, None | Some((_, Outcome::Unknown))))
    }

    /// A value that was seen after a deletion that was acknowledged and had begun after the value's SET had ended. For
    /// the order of operations a SET of unknown outcome is open for ever; a deletion ends it nevertheless.
    pub(crate) fn came_back(&self) -> Option<String> {
        let mut deletions: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
        for op in self.ops.iter().filter(|op| op.action == Action::Delete) {
            if matches!(op.ended, Some((_, Outcome::Done))) {
                deletions.entry(&op.id).or_default().push(op);
            }
        }
        let sets: BTreeMap<u64, &Op> = self
            .ops
            .iter()
            .filter_map(|op| match op.action {
                Action::Set(value) => Some((value, op)),
                _ => None,
            })
            .collect();
        self.ops.iter().find_map(|get| {
            let Some((_, Outcome::Found(value))) = get.ended else { return None };
            let set = sets.get(&value)?;
            let (over, _) = set.ended?;
            let stands_between =
                |deletion: &&&Op| deletion.began > over && deletion.ended.is_some_and(|(ended, _)| ended < get.began);
            let deletion = deletions.get(get.id.as_str())?.iter().find(stands_between)?;
            Some(format!("{set:?} was over when it was deleted, {deletion:?}, and came back: {get:?}"))
        })
    }

    /// Every id that was named.
    pub(crate) fn ids(&self) -> BTreeSet<String> {
        self.ops.iter().map(|op| op.id.clone()).collect()
    }

    /// Whether some order explains everything.
    pub(crate) fn check(&self) -> Result<Checked, Violation> {
        let mut by_id: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
        for op in &self.ops {
            by_id.entry(&op.id).or_default().push(op);
        }
        for (id, ops) in &by_id {
            if let Err(at) = check_register(ops) {
                let seen = |op: &&&Op| op.began <= at;
                let ops = ops.iter().filter(seen).map(|op| (*op).clone()).collect();
                return Err(Violation { id: (*id).to_owned(), ops });
            }
        }
        Ok(Checked { operations: self.ops.len(), ids: by_id.len() })
    }
}

/// An operation that has to be (or, without an end, may be) put into the order.
#[derive(Debug, Clone, Copy)]
struct Step {
    kind: Kind,
    began: usize,
    /// It has its place before this.
    until: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The register holds this from here on.
    Write(Option<u64>),
    /// It holds this here.
    Read(Option<u64>),
    /// It holds the one here, and the other from here on.
    Swap(Option<u64>, u64),
    /// It holds this here, and nothing from here on.
    Expire(u64),
}

/// One explanation of the events so far.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    value: Option<u64>,
    /// Steps under way (by number) that have their place already.
    placed: BTreeSet<usize>,
}

/// `Err`: the time of the first answer that nothing explains.
fn check_register(ops: &[&Op]) -> Result<(), usize> {
    let steps = steps(ops);
    let mut events: Vec<(usize, bool, usize)> = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        events.push((step.began, true, i));
        events.extend(step.until.map(|until| (until, false, i)));
    }
    events.sort_unstable();
    let mut open: BTreeSet<usize> = BTreeSet::new();
    let mut states = BTreeSet::from([State { value: None, placed: BTreeSet::new() }]);
    for (time, begins, i) in events {
        if begins {
            open.insert(i);
            continue;
        }
        states = place(&steps, &open, states, i);
        open.remove(&i);
        if states.is_empty() {
            return Err(time);
        }
    }
    Ok(())
}

/// The steps of one register. An unknown SET whose value nobody read needs no place; one that was read has its
/// place before the first such answer.
fn steps(ops: &[&Op]) -> Vec<Step> {
    let mut first_read: BTreeMap<u64, usize> = BTreeMap::new();
    for op in ops {
        if let Some((at, Outcome::Found(value) | Outcome::Swapped(Some(value)))) = op.ended {
            let first = first_read.entry(value).or_insert(at);
            *first = at.min(*first);
        }
    }
    // Writes that may have happened, whose values nobody read: when they began.
    let mut unseen: BTreeMap<u64, usize> = BTreeMap::new();
    for op in ops {
        if let (Action::Set(value) | Action::Swap(value), None | Some((_, Outcome::Unknown))) = (op.action, op.ended)
            && !first_read.contains_key(&value)
        {
            unseen.insert(value, op.began);
        }
    }
    let step = |op: &&Op| {
        let (end, outcome) = match op.ended {
            Some((at, outcome)) => (Some(at), outcome),
            None => (None, Outcome::Unknown),
        };
        let (kind, until) = match (op.action, outcome) {
            (Action::Set(value), Outcome::Done) => (Kind::Write(Some(value)), end),
            (Action::Set(value), Outcome::Unknown) => (Kind::Write(Some(value)), Some(*first_read.get(&value)?)),
            (Action::Swap(value), Outcome::Swapped(before)) => (Kind::Swap(before, value), end),
            // What it read is not known.
            (Action::Swap(value), Outcome::Unknown) => (Kind::Write(Some(value)), Some(*first_read.get(&value)?)),
            (Action::Expire(value), _) => match unseen.get(&value) {
                // Whether it was written nobody knows; if so, it went over what was there, and left nothing.
                Some(&written) => {
                    return Some(Step { kind: Kind::Write(None), began: op.began.max(written), until: None });
                }
                None => (Kind::Expire(value), None),
            },
            (Action::Delete, Outcome::Done) => (Kind::Write(None), end),
            (Action::Delete, Outcome::Unknown) => (Kind::Write(None), None),
            (Action::Get, Outcome::Found(value)) => (Kind::Read(Some(value)), end),
            (Action::Get, Outcome::NotFound) => (Kind::Read(None), end),
            _ => return None,
        };
        // A place before the request itself is none: the end then comes first, and nothing explains it.
        Some(Step { kind, began: op.began, until })
    };
    ops.iter().filter_map(step).collect()
}

/// Every state in which step `i` has its place, and which follows from one of `states`.
fn place(steps: &[Step], open: &BTreeSet<usize>, states: BTreeSet<State>, i: usize) -> BTreeSet<State> {
    let mut seen = states.clone();
    let mut work: Vec<State> = states.into_iter().collect();
    let mut done: BTreeSet<State> = BTreeSet::new();
    while let Some(state) = work.pop() {
        if state.placed.contains(&i) {
            let mut state = state;
            state.placed.remove(&i);
            done.insert(state);
            continue;
        }
        // Deletions of unknown outcome are all alike: the oldest is taken, and only where there is something to delete.
        let optional = |i: &&usize| steps[**i].until.is_none();
        let is_deletion = |i: &&usize| optional(i) && steps[**i].kind == Kind::Write(None);
        let deletion = open.difference(&state.placed).find(is_deletion).filter(|_| state.value.is_some());
        let expires = |i: &&usize| state.value.is_some_and(|value| steps[**i].kind == Kind::Expire(value));
        let expiry = open.difference(&state.placed).find(expires);
        let others = open.difference(&state.placed).filter(|i| !optional(i));
        for &next in others.chain(deletion).chain(expiry) {
            let value = match steps[next].kind {
                Kind::Read(value) | Kind::Swap(value, _) if value != state.value => continue,
                Kind::Swap(_, value) => Some(value),
                Kind::Expire(_) => None,
                Kind::Read(value) | Kind::Write(value) => value,
            };
            let mut placed = state.placed.clone();
            placed.insert(next);
            let state = State { value, placed };
            if seen.insert(state.clone()) {
                work.push(state);
            }
        }
    }
    thin_out(steps, done)
}

/// Of two states that differ only in deletions of unknown outcome that were used up, the thriftier one explains
/// whatever the other does.
fn thin_out(steps: &[Step], states: BTreeSet<State>) -> BTreeSet<State> {
    let split = |state: &State| {
        let optional = |i: &&usize| steps[**i].until.is_none();
        let used: BTreeSet<usize> = state.placed.iter().filter(optional).copied().collect();
        let rest: BTreeSet<usize> = state.placed.difference(&used).copied().collect();
        (used, (state.value, rest))
    };
    let all: Vec<_> = states.iter().map(split).collect();
    let worse = |n: usize| {
        let (used, rest) = &all[n];
        all.iter()
            .enumerate()
            .any(|(m, (other, same))| m != n && same == rest && other != used && other.is_subset(used))
    };
    states.into_iter().enumerate().filter(|(n, _)| !worse(*n)).map(|(_, state)| state).collect()
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no order of these operations on {:?} explains the last answer:", self.id)?;
        let mut lines: Vec<(usize, String)> = Vec::new();
        for op in &self.ops {
            lines.push((op.began, format!("client {} {:?}", op.client, op.action)));
            if let Some((at, outcome)) = op.ended {
                lines.push((at, format!("client {} {:?} -> {outcome:?}", op.client, op.action)));
            }
        }
        lines.sort();
        // What was long ago rarely matters.
        let from = lines.len().saturating_sub(40);
        lines[from..].iter().try_for_each(|(at, line)| writeln!(f, "  {at:>7}  {line}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `i` begins an operation, `o` ends one: `"set 1 a"` by client 1, then `"1 ok"`, `"1 2"` (read 2), `"1 none"`, ...
    fn history(lines: &[&str]) -> History {
        let mut history = History::new();
        let mut open: BTreeMap<u32, usize> = BTreeMap::new();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let client = words[0].parse().unwrap();
            let action = match words[1] {
                "set" => Some(Action::Set(words[2].parse().unwrap())),
                "get" => Some(Action::Get),
                "del" => Some(Action::Delete),
                "swap" => Some(Action::Swap(words[2].parse().unwrap())),
                "ends" => {
                    history.invoke(client, "x", Action::Expire(words[2].parse().unwrap()));
                    continue;
                }
                _ => None,
            };
            if let Some(action) = action {
                open.insert(client, history.invoke(client, "x", action));
                continue;
            }
            let outcome = match words[1] {
                "ok" => Outcome::Done,
                "none" => Outcome::NotFound,
                "was" => Outcome::Swapped(words[2].parse().ok()),
                "not" => Outcome::SurelyNot,
                "maybe" => Outcome::Unknown,
                value => Outcome::Found(value.parse().unwrap()),
            };
            history.complete(open.remove(&client).unwrap(), outcome);
        }
        history
    }

    #[test]
    fn good_histories_are_explained() {
        let good: [&[&str]; 16] = [
            &["1 swap 1", "1 was none", "1 swap 2", "1 was 1", "2 get", "2 2"],
            &["1 swap 1", "2 swap 2", "1 was 2", "2 was none", "2 get", "2 1"],
            &["1 swap 1", "1 maybe", "2 swap 2", "2 was none", "2 swap 3", "2 was 2"],
            &["1 get", "1 none", "1 set 1", "1 ok", "1 get", "1 1", "1 del", "1 ok", "1 get", "1 none"],
            // Two writers at once: either may be last.
            &["1 set 1", "2 set 2", "1 ok", "2 ok", "3 get", "3 1", "3 get", "3 1"],
            &["1 set 1", "2 set 2", "1 ok", "2 ok", "3 get", "3 2"],
            // A read beside a write sees either.
            &["1 set 1", "1 ok", "1 set 2", "2 get", "3 get", "2 2", "3 2", "1 ok"],
            &["1 set 1", "1 ok", "1 set 2", "2 get", "2 1", "1 ok"],
            // An unknown write may come late, or never.
            &["1 set 1", "1 ok", "1 set 2", "1 maybe", "2 get", "2 1", "2 get", "2 2"],
            &["1 set 1", "1 ok", "1 set 2", "1 maybe", "2 get", "2 1", "2 set 3", "2 ok", "2 get", "2 3"],
            &["1 set 1", "1 ok", "1 del", "1 maybe", "2 get", "2 1", "2 get", "2 none", "2 set 3", "2 ok"],
            &["1 set 1", "1 not", "2 get", "2 none", "3 set 4"],
            // What ends goes at any time from then on, and once.
            &["1 set 1", "1 ok", "9 ends 1", "2 get", "2 1", "2 get", "2 none", "2 get", "2 none"],
            &["1 set 1", "1 ok", "9 ends 1", "1 set 2", "1 ok", "2 get", "2 2"],
            &["1 set 1", "1 ok", "2 get", "9 ends 1", "2 none"],
            &["1 set 1", "1 maybe", "9 ends 1", "2 get", "2 1", "2 get", "2 none", "2 swap 3", "2 was none"],
        ];
        for lines in good {
            assert!(history(lines).check().is_ok(), "{lines:?}");
        }
    }

    #[test]
    fn bad_histories_are_not() {
        let bad: [(&str, &[&str]); 19] = [
            ("an update lost", &["1 swap 1", "2 swap 2", "1 was none", "2 was none"]),
            ("an update of what is gone", &["1 set 1", "1 ok", "1 set 2", "1 ok", "2 swap 3", "2 was 1"]),
            ("an update from nothing", &["1 set 1", "1 ok", "2 swap 3", "2 was none"]),
            ("a stale read", &["1 set 1", "1 ok", "1 set 2", "1 ok", "2 get", "2 1"]),
            ("a value un-read", &["1 set 1", "1 ok", "1 set 2", "2 get", "2 2", "3 get", "3 1", "1 ok"]),
            ("a lost write", &["1 set 1", "1 ok", "2 get", "2 none"]),
            ("a value from nowhere", &["1 set 1", "1 ok", "2 get", "2 7"]),
            ("a write that surely was not", &["1 set 1", "1 not", "2 get", "2 1"]),
            ("read before it was written", &["2 get", "2 1", "1 set 1", "1 ok"]),
            ("back after its deletion", &["1 set 1", "1 ok", "1 del", "1 ok", "2 get", "2 1"]),
            ("gone without a deletion", &["1 set 1", "1 ok", "1 del", "1 not", "2 get", "2 none"]),
            (
                "an unknown write seen, then unseen",
                &["1 set 1", "1 ok", "1 set 2", "1 maybe", "2 get", "2 2", "2 get", "2 1"],
            ),
            (
                "one unknown deletion for two",
                &["1 set 1", "1 ok", "1 del", "1 maybe", "2 get", "2 none", "2 set 2", "2 ok", "2 get", "2 none"],
            ),
            ("a deletion undone", &["1 set 1", "1 ok", "2 del", "3 get", "3 none", "3 get", "3 1", "2 ok"]),
            ("gone before its time", &["1 set 1", "1 ok", "2 get", "2 none", "9 ends 1"]),
            ("back after its time", &["1 set 1", "1 ok", "9 ends 1", "2 get", "2 none", "2 get", "2 1"]),
            ("another one gone with it", &["1 set 1", "1 ok", "9 ends 1", "1 set 2", "1 ok", "2 get", "2 none"]),
            ("gone for another's time", &["1 set 1", "1 ok", "1 set 2", "1 ok", "9 ends 1", "2 get", "2 none"]),
            (
                "two readers disagree",
                &["1 set 1", "2 set 2", "1 ok", "2 ok", "3 get", "3 1", "4 get", "4 2", "3 get", "3 1"],
            ),
        ];
        for (what, lines) in bad {
            let violation = history(lines).check().expect_err(what);
            assert!(violation.to_string().contains("client 2") || what.contains("readers") || what.contains("undone"));
        }
    }

    #[test]
    fn what_was_over_when_it_was_deleted_does_not_come_back() {
        let rows: [(bool, &[&str]); 3] = [
            (true, &["1 set 1", "1 maybe", "1 del", "1 ok", "2 get", "2 1"]),
            (false, &["1 set 1", "2 del", "2 ok", "1 maybe", "2 get", "2 1"]),
            (false, &["1 set 1", "1 maybe", "1 del", "2 get", "1 ok", "2 1"]),
        ];
        for (back, lines) in rows {
            let history = history(lines);
            assert_eq!((history.came_back().is_some(), history.check().is_ok()), (back, true), "{lines:?}");
        }
    }

    /// Every order of the operations, tried one by one.
    fn brute_force(ops: &[&Op]) -> bool {
        fn go(ops: &[&Op], used: u32, value: Option<u64>) -> bool {
            let mandatory = |op: &Op| !matches!(op.ended, None | Some((_, Outcome::Unknown | Outcome::SurelyNot)));
            if ops.iter().enumerate().all(|(i, op)| used & 1 << i != 0 || !mandatory(op)) {
                return true;
            }
            (0..ops.len()).filter(|i| used & 1 << i == 0).any(|i| {
                let op = ops[i];
                // Whoever ended before this one began has its place already.
                let late = |j: usize| {
                    used & 1 << j == 0 && mandatory(ops[j]) && ops[j].ended.is_some_and(|(at, _)| at < op.began)
                };
                if (0..ops.len()).any(late) {
                    return false;
                }
                let next = match (op.action, op.ended.map(|(_, outcome)| outcome)) {
                    (_, Some(Outcome::SurelyNot)) | (Action::Get, None | Some(Outcome::Unknown)) => return false,
                    (Action::Set(value), _) => Some(value),
                    (Action::Swap(to), Some(Outcome::Swapped(from))) if from == value => Some(to),
                    (Action::Swap(to), None | Some(Outcome::Unknown)) => Some(to),
                    (Action::Swap(_), _) => return false,
                    (Action::Delete, _) => None,
                    (Action::Expire(of), _) if value == Some(of) => None,
                    (Action::Expire(_), _) => return false,
                    (Action::Get, Some(Outcome::Found(found))) if value == Some(found) => value,
                    (Action::Get, Some(Outcome::NotFound)) if value.is_none() => None,
                    (Action::Get, _) => return false,
                };
                go(ops, used | 1 << i, next)
            })
        }
        go(ops, 0, None)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn it_says_what_trying_every_order_says(
            moves in proptest::collection::vec((0u32..3, 0u8..6, 0u8..6, 0u64..5), 1..16),
        ) {
            let mut history = History::new();
            let mut open: BTreeMap<u32, usize> = BTreeMap::new();
            let mut written = 0;
            for (client, what, how, value) in moves {
                match open.remove(&client) {
                    None if what == 5 => { history.invoke(9, "x", Action::Expire(value)); }
                    None => {
                        let action = match what {
                            0 | 1 => { written += 1; Action::Set(written) }
                            2 => Action::Get,
                            3 => { written += 1; Action::Swap(written) }
                            _ => Action::Delete,
                        };
                        open.insert(client, history.invoke(client, "x", action));
                    }
                    Some(op) => {
                        let outcome = match (history.ops[op].action, how) {
                            (_, 0) => Outcome::Unknown,
                            (_, 1) => Outcome::SurelyNot,
                            (Action::Get, 2) => Outcome::NotFound,
                            (Action::Get, _) => Outcome::Found(value),
                            (Action::Swap(_), _) => Outcome::Swapped(Some(value).filter(|value| *value > 0)),
                            _ => Outcome::Done,
                        };
                        history.complete(op, outcome);
                    }
                }
            }
            let ops: Vec<&Op> = history.ops.iter().collect();
            prop_assert_eq!(history.check().is_ok(), brute_force(&ops), "{:?}", history);
        }
    }
}
