//! What two messages have in common (LCS).

use bytes::Bytes;

use super::refused::{NOT_AN_INTEGER, SYNTAX};
use crate::protocol::resp::{Value, Words, number};

/// Cells of the table that LCS may fill: more would hold up everybody.
const MOST_CELLS: usize = 4 << 20;

/// What is asked of LCS.
#[derive(Debug, Default)]
struct Asked {
    length: bool,
    places: bool,
    with_lengths: bool,
    at_least: u32,
}

fn read(words: &Words) -> Result<Asked, String> {
    let (mut asked, mut options) = (Asked::default(), words[3..].iter());
    while let Some(word) = options.next() {
        match word.to_ascii_uppercase().as_slice() {
            b"LEN" => asked.length = true,
            b"IDX" => asked.places = true,
            b"WITHMATCHLEN" => asked.with_lengths = true,
            b"MINMATCHLEN" => {
                let least = number(options.next().ok_or(SYNTAX)?).ok_or(NOT_AN_INTEGER)?;
                asked.at_least = u32::try_from(least.max(0)).unwrap_or(u32::MAX);
            }
            _ => return Err(SYNTAX.to_owned()),
        }
    }
    if asked.length && asked.places {
        let both = "ERR If you want both the length and indexes, please just use IDX.";
        return Err(both.to_owned());
    }
    Ok(asked)
}

/// The longest sequence of bytes that both messages have, though not side by side.
pub(super) fn common(words: &Words, a: &[u8], b: &[u8]) -> Result<Value, String> {
    let asked = read(words)?;
    if (a.len() + 1).saturating_mul(b.len() + 1) > MOST_CELLS {
        return Err("ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len".to_owned());
    }
    let width = b.len() + 1;
    let mut table = vec![0_u32; (a.len() + 1) * width];
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            table[i * width + j] = if a[i - 1] == b[j - 1] {
                table[(i - 1) * width + j - 1] + 1
            } else {
                table[(i - 1) * width + j].max(table[i * width + j - 1])
            };
        }
    }
    let length = table[a.len() * width + b.len()];
    if asked.length {
        return Ok(Value::Integer(length.into()));
    }
    let (mut sequence, mut runs) = (vec![0; length as usize], Vec::<Run>::new());
    let (mut i, mut j, mut left) = (a.len(), b.len(), length as usize);
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            left -= 1;
            sequence[left] = a[i - 1];
            match runs.last_mut() {
                Some(run) if (run.a, run.b) == (i, j) => *run = Run { a: i - 1, b: j - 1, length: run.length + 1 },
                _ => runs.push(Run { a: i - 1, b: j - 1, length: 1 }),
            }
            (i, j) = (i - 1, j - 1);
        } else if table[(i - 1) * width + j] > table[i * width + j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    if !asked.places {
        return Ok(Value::Bulk(Bytes::from(sequence)));
    }
    let matches = runs.iter().filter(|run| run.length >= asked.at_least).map(|run| run.value(asked.with_lengths));
    Ok(Value::Map(vec![
        (Value::text("matches"), Value::Array(matches.collect())),
        (Value::text("len"), Value::Integer(length.into())),
    ]))
}

/// Bytes side by side in both messages: where they begin.
#[derive(Debug)]
struct Run {
    a: usize,
    b: usize,
    length: u32,
}

impl Run {
    fn value(&self, with_length: bool) -> Value {
        let range = |from: usize| {
            let last = from + self.length as usize - 1;
            Value::Array(vec![Value::Integer(from as i64), Value::Integer(last as i64)])
        };
        let mut parts = vec![range(self.a), range(self.b)];
        if with_length {
            parts.push(Value::Integer(self.length.into()));
        }
        Value::Array(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    #[test]
    fn what_two_messages_have_in_common() {
        let (a, b) = (b"ohmytext".as_slice(), b"mynewtext".as_slice());
        assert_eq!(common(&words("LCS a b"), a, b), Ok(Value::text("mytext")));
        assert_eq!(common(&words("LCS a b LEN"), a, b), Ok(Value::Integer(6)));
        let Ok(Value::Map(pairs)) = common(&words("LCS a b IDX MINMATCHLEN 4 WITHMATCHLEN"), a, b) else { panic!() };
        let range = |from, to| Value::Array(vec![Value::Integer(from), Value::Integer(to)]);
        let found = Value::Array(vec![Value::Array(vec![range(4, 7), range(5, 8), Value::Integer(4)])]);
        assert_eq!(pairs[0].1, found);
        assert!(common(&words("LCS a b IDX LEN"), a, b).is_err() && common(&words("LCS a b X"), a, b).is_err());
        assert_eq!(common(&words("LCS a b"), b"", b""), Ok(Value::text("")));
        let big = vec![0; 1 << 20];
        assert!(common(&words("LCS a b"), &big, &big).unwrap_err().starts_with("ERR Insufficient memory"));
    }
}
