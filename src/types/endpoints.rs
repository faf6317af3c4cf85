//! Where a register is called by its clients.

use std::fmt;

/// The addresses of a register's leader processes: one, or several of which any will do. The one that served last is
/// tried first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    all: Vec<String>,
    last: usize,
}

impl Endpoints {
    /// Of `HOST:PORT`, or of several with commas between.
    pub fn new(list: &str) -> Self {
        Self { all: list.split(',').map(|one| one.trim().to_owned()).collect(), last: 0 }
    }

    /// How many there are; at least one.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Whether there is another one to turn to.
    pub fn are_several(&self) -> bool {
        self.count() > 1
    }

    /// The one that served last; before any has, the first.
    pub fn current(&self) -> &str {
        self.all.get(self.last).map_or("", String::as_str)
    }

    /// In the order in which they are tried, each with its number.
    pub fn in_order(&self) -> Vec<(usize, String)> {
        let numbers = (self.last..self.count()).chain(0..self.last);
        numbers.filter_map(|at| Some((at, self.all.get(at)?.clone()))).collect()
    }

    /// This one serves now.
    pub fn served_by(&mut self, at: usize) {
        self.last = at.min(self.count() - 1);
    }

    /// The one that served last is the last to be tried.
    pub fn move_on(&mut self) {
        self.last = (self.last + 1) % self.count();
    }
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.all.join(","))
    }
}

/// Whether a leader process says, by this code word and explanation, that nobody leads whom it could pass a request on
/// to, or that it passes nothing on: nothing was done, and another one may do it.
pub fn says_nobody_leads(code: &str, explanation: &str) -> bool {
    let names_a_leader = explanation.starts_with("peer ") && explanation.contains(" leads");
    let redirects = explanation.starts_with("this peer is a standby");
    let passes_nothing_on = explanation.starts_with("no leader") || names_a_leader || redirects;
    matches!(code, "UNAVAILABLE" | "LOADING" | "READONLY") && passes_nothing_on
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_served_last_is_tried_first() {
        let mut all = Endpoints::new("a:1, b:2,c:3");
        let order = |all: &Endpoints| all.in_order().iter().map(|(_, one)| one.clone()).collect::<Vec<_>>().join(" ");
        assert_eq!((order(&all).as_str(), all.current(), all.are_several()), ("a:1 b:2 c:3", "a:1", true));
        all.served_by(1);
        assert_eq!((order(&all).as_str(), all.current()), ("b:2 c:3 a:1", "b:2"));
        all.move_on();
        assert_eq!((order(&all).as_str(), all.to_string().as_str()), ("c:3 a:1 b:2", "a:1,b:2,c:3"));
        all.move_on();
        assert_eq!(order(&all), "a:1 b:2 c:3");
        let one = Endpoints::new("a:1");
        assert_eq!((order(&one).as_str(), one.are_several(), one.to_string().as_str()), ("a:1", false, "a:1"));
    }

    #[test]
    fn a_standby_without_a_leader_is_known_by_its_words() {
        for (code, explanation, says) in [
            ("UNAVAILABLE", "no leader: peers 1 of 1,2,3 can be reached; nothing was written, try again", true),
            ("UNAVAILABLE", "peer 2 leads and cannot be reached; nothing was written, try again", true),
            ("LOADING", "no leader: peers 1 of 1,2,3 can be reached", true),
            ("UNAVAILABLE", "this peer is a standby: peer 2 leads, clients go to h:1; nothing was written", true),
            ("READONLY", "this peer is a standby: peer 2 leads, clients go to h:1; nothing was written", true),
            ("UNAVAILABLE", "peer 3 cannot be reached; nothing was changed", false),
            ("UNAVAILABLE", "its copies are on nodes that are down", false),
            ("BUSY", "no leader", false),
        ] {
            assert_eq!(says_nobody_leads(code, explanation), says, "{code} {explanation}");
        }
    }
}
