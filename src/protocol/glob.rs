//! Patterns of ids, as KEYS, SCAN and the rules of users take them.

/// What one part of a pattern takes.
#[derive(Debug, Clone)]
enum Part {
    /// Any bytes, also none.
    Star,
    /// Any byte.
    Any,
    /// This byte.
    Byte(u8),
    /// One of these: a bit each.
    Class(Box<[u64; 4]>),
}

impl Part {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Star => false,
            Self::Any => true,
            Self::Byte(own) => *own == byte,
            Self::Class(bits) => bits[usize::from(byte) / 64] >> (byte % 64) & 1 == 1,
        }
    }
}

/// A pattern that was read: `*` any bytes, `?` one, `[a-c]`, `[^a]` one of these or none of these, `\` takes the next
/// byte as it is (Redis's `stringmatchlen`).
#[derive(Debug, Clone)]
pub struct Pattern {
    parts: Vec<Part>,
    /// Bytes that what matches has at least.
    least: usize,
}

impl Pattern {
    /// Reads one: any bytes are one.
    pub fn new(pattern: &[u8]) -> Self {
        let (mut parts, mut left) = (Vec::new(), pattern);
        while !left.is_empty() {
            let part;
            (part, left) = first(left);
            if !matches!((parts.last(), &part), (Some(Part::Star), Part::Star)) {
                parts.push(part);
            }
        }
        let least = parts.iter().filter(|part| !matches!(part, Part::Star)).count();
        Self { parts, least }
    }

    /// How many comparisons it takes at most to look at so many bytes: a star lets what follows it be tried at each place.
    pub fn most_steps(&self, length: usize) -> usize {
        let behind = self.parts.iter().skip_while(|part| !matches!(part, Part::Star)).skip(1).count();
        match length.checked_sub(self.least) {
            None => 1,
            Some(spare) => 1 + self.least + behind * spare,
        }
    }

    /// Whether all of these bytes are what it takes.
    pub fn matches(&self, text: &[u8]) -> bool {
        let (mut p, mut t) = (0, 0);
        // Where to go on if what follows the last star does not match: behind the star, and the next byte that it takes.
        let mut retry = None;
        if text.len() < self.least {
            return false;
        }
        loop {
            match (self.parts.get(p), text.get(t)) {
                (Some(Part::Star), _) => {
                    p += 1;
                    retry = Some((p, t));
                }
                (None, None) => return true,
                (Some(part), Some(byte)) if part.takes(*byte) => (p, t) = (p + 1, t + 1),
                (Some(_), None) => return false,
                _ => {
                    let Some((star, from)) = retry else { return false };
                    // Nothing follows the star: it takes the rest.
                    if star == self.parts.len() {
                        return true;
                    }
                    retry = Some((star, from + 1));
                    (p, t) = (star, from + 1);
                }
            }
        }
    }
}

/// Whether bytes match a pattern that is not used again.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    Pattern::new(pattern).matches(text)
}

/// The first part of a pattern, and what follows it.
fn first(pattern: &[u8]) -> (Part, &[u8]) {
    match pattern {
        [b'*', rest @ ..] => (Part::Star, rest),
        [b'?', rest @ ..] => (Part::Any, rest),
        [b'[', class @ ..] => class_of(class),
        [b'\\', escaped, rest @ ..] => (Part::Byte(*escaped), rest),
        [only, rest @ ..] => (Part::Byte(*only), rest),
        [] => (Part::Star, &[]),
    }
}

/// What stands behind `[`, and what follows its `]`.
fn class_of(class: &[u8]) -> (Part, &[u8]) {
    let (not, mut class) = match class {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut bits = [0_u64; 4];
    let mut add = |from: u8, to: u8| (from..=to).for_each(|byte| bits[usize::from(byte) / 64] |= 1 << (byte % 64));
    loop {
        class = match class {
            // A class that is not closed ends with the pattern.
            [] => break,
            [b']', rest @ ..] => {
                class = rest;
                break;
            }
            [b'\\', escaped, rest @ ..] => {
                add(*escaped, *escaped);
                rest
            }
            [from, b'-', to, rest @ ..] => {
                add(*from.min(to), *from.max(to));
                rest
            }
            [only, rest @ ..] => {
                add(*only, *only);
                rest
            }
        }
    }
    if not {
        bits.iter_mut().for_each(|bits| *bits = !*bits);
    }
    (Part::Class(Box::new(bits)), class)
}

#[cfg(test)]
mod tests {
    use super::{Pattern, matches};

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, yes, no) in [
            ("*", &["", "a", "any*thing"][..], &[][..]),
            ("h?llo", &["hello", "h*llo"], &["hllo", "heello"]),
            ("h*llo", &["hllo", "heeello"], &["hell", "ello"]),
            ("h[ae]llo", &["hallo", "hello"], &["hillo", "hllo"]),
            ("h[^e]llo", &["hallo"], &["hello"]),
            ("h[a-c]llo", &["hallo", "hcllo"], &["hdllo"]),
            ("h[c-a]llo", &["hbllo"], &["hdllo"]),
            ("a\\*b", &["a*b"], &["axb"]),
            ("[\\]]x", &["]x"], &["\\x"]),
            ("*a*b*", &["ab", "xaxbx", "aab"], &["ba", "a"]),
            ("a[", &[], &["a", "a["]),
            ("foo*", &["foo", "foo:1"], &["fo", "xfoo"]),
        ] {
            yes.iter().for_each(|text| assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}"));
            no.iter().for_each(|text| assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}"));
        }
    }

    #[test]
    fn a_pattern_of_many_stars_ends() {
        let pattern = "a*".repeat(50) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(2000).as_bytes()));
    }

    #[test]
    fn the_work_is_known_before_it_is_done() {
        let steps = |pattern: &str, length| Pattern::new(pattern.as_bytes()).most_steps(length);
        assert_eq!(steps("*", 1024), 1);
        assert_eq!((steps("foo*", 1024), steps("foo*", 2)), (4, 1));
        let long = format!("*[{}]{}", "x".repeat(5000), "a".repeat(511));
        assert!(steps(&long, 1024) <= 512 * 512 + 513, "a class costs as much as a byte");
        assert_eq!(steps(&"a".repeat(5000), 1024), 1, "what is too short is not looked at");
    }
}
