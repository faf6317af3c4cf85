//! Patterns of ids, as KEYS and SCAN take them.

/// Whether bytes match a pattern: `*` any bytes, `?` one, `[a-c]`, `[^a]` one of these or none of these, `\` takes the next
/// byte as it is (Redis's `stringmatchlen`). The work is bounded by the product of the two lengths.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on if what follows the last star does not match: the star, and the next byte that it takes.
    let mut retry = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        if t == text.len() {
            return p == pattern.len();
        }
        match one(&pattern[p..], text[t]) {
            Some(length) => (p, t) = (p + length, t + 1),
            None => {
                let Some((star, from)) = retry else { return false };
                retry = Some((star, from + 1));
                (p, t) = (star, from + 1);
            }
        }
    }
}

/// How much of a pattern takes this byte; nothing if its first part does not.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', class @ ..] => {
            let (not, mut class) = match class {
                [b'^', rest @ ..] => (true, rest),
                rest => (false, rest),
            };
            let whole = class.len();
            let mut is = false;
            loop {
                match class {
                    // A class that is not closed ends with the pattern.
                    [] | [b']', ..] => break,
                    [b'\\', escaped, rest @ ..] => {
                        is |= *escaped == byte;
                        class = rest;
                    }
                    [from, b'-', to, rest @ ..] => {
                        is |= (*from.min(to)..=*from.max(to)).contains(&byte);
                        class = rest;
                    }
                    [only, rest @ ..] => {
                        is |= *only == byte;
                        class = rest;
                    }
                }
            }
            let used = 1 + usize::from(not) + (whole - class.len()) + usize::from(!class.is_empty());
            (is != not).then_some(used)
        }
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [only, ..] => (*only == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

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
}
