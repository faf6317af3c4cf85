//! Requests out and replies in, as bytes: the text protocol, and the Redis protocol (RESP2).
//!
//! The usual reply is known before it comes, so it is taken by one comparison, in
//! place; only where that fails is a reply looked at. Nothing here allocates, but for
//! the buffers that it is handed. The bytes may be split anywhere. Knows no socket.

use super::workload::{Kind, Operation, Values, digits_of, put_number};

/// A reply line is never longer than its message and this.
const LINE_BYTES: usize = 64 << 10;

/// A Redis string is never longer than this.
const BULK_BYTES: usize = 512 << 20;

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Dialect {
    /// Lines, as hatokuse's contract says.
    Text,
    /// Redis's protocol, version 2.
    Resp,
}

/// What stands at the front of the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken<'a> {
    /// Nothing whole yet.
    Need,
    /// The right reply, of so many bytes.
    Right(usize),
    /// Another one: its bytes, and what it says.
    Wrong(usize, &'a [u8]),
    /// No reply at all; nothing after it can be understood.
    Broken(&'static str),
}

impl Dialect {
    /// As typed and reported.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Resp => "resp",
        }
    }

    /// Appends a request.
    pub(super) fn put_request(self, operation: Operation, values: &Values, out: &mut Vec<u8>) {
        let Operation { kind, index } = operation;
        let ttl = values.ttl_ms().filter(|_| kind == Kind::Set);
        match self {
            Self::Text => {
                out.extend_from_slice(match kind {
                    Kind::Set if ttl.is_some() => b"SETEX ",
                    Kind::Set => b"SET ",
                    Kind::Get => b"GET ",
                });
                values.put_id(index, out);
                if let Some(ttl) = ttl {
                    out.push(b' ');
                    put_number(ttl, out);
                    out.extend_from_slice(b"ms");
                }
                if kind == Kind::Set {
                    out.push(b' ');
                    values.put_message(index, out);
                }
                out.push(b'\n');
            }
            Self::Resp => {
                out.extend_from_slice(match kind {
                    Kind::Set if ttl.is_some() => b"*5\r\n$3\r\nSET\r\n",
                    Kind::Set => b"*3\r\n$3\r\nSET\r\n",
                    Kind::Get => b"*2\r\n$3\r\nGET\r\n",
                });
                put_length(values.id_len(index), out);
                values.put_id(index, out);
                out.extend_from_slice(b"\r\n");
                if kind == Kind::Set {
                    put_message(values, index, out);
                }
                if let Some(ttl) = ttl {
                    out.extend_from_slice(b"$2\r\nPX\r\n");
                    put_digits(ttl, out);
                }
            }
        }
    }

    /// Appends a request that Redis answers once so many replicas have what this connection wrote.
    pub(super) fn put_wait(replicas: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(b"*3\r\n$4\r\nWAIT\r\n");
        put_digits(u64::from(replicas), out);
        out.extend_from_slice(b"$5\r\n30000\r\n");
    }

    /// Takes the reply to a request. `scanned` bytes are known to hold no line end; `expected` is only room.
    pub(super) fn take<'a>(
        self,
        operation: Operation,
        values: &Values,
        input: &'a [u8],
        scanned: &mut usize,
        expected: &mut Vec<u8>,
    ) -> Taken<'a> {
        if let (Kind::Set, right) = (operation.kind, self.done()) {
            if input.starts_with(right) {
                *scanned = 0;
                return Taken::Right(right.len());
            }
        } else if input.len() > values.size(operation.index) {
            // Long enough to be worth making the comparison.
            expected.clear();
            match self {
                Self::Text => {
                    expected.extend_from_slice(b"VALUE ");
                    values.put_message(operation.index, expected);
                    expected.push(b'\n');
                }
                Self::Resp => put_message(values, operation.index, expected),
            }
            if input.starts_with(expected) {
                *scanned = 0;
                return Taken::Right(expected.len());
            }
        }
        match self {
            Self::Text => take_line(input, values.longest() + LINE_BYTES, scanned),
            Self::Resp => take_resp(input, scanned),
        }
    }

    /// Takes the reply to [`Dialect::put_wait`].
    pub(super) fn take_wait<'a>(replicas: u32, input: &'a [u8], scanned: &mut usize) -> Taken<'a> {
        match take_resp(input, scanned) {
            Taken::Wrong(used, reply) => {
                let have = reply.strip_prefix(b":").and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
                if have.is_some_and(|have: u32| have >= replicas) {
                    Taken::Right(used)
                } else {
                    Taken::Wrong(used, reply)
                }
            }
            other => other,
        }
    }

    fn done(self) -> &'static [u8] {
        match self {
            Self::Text => b"OK\n",
            Self::Resp => b"+OK\r\n",
        }
    }

    /// The message in what [`Taken::Wrong`] says, if it is one.
    pub(super) fn message(self, reply: &[u8]) -> Option<&[u8]> {
        match self {
            Self::Text => reply.strip_prefix(b"VALUE "),
            Self::Resp if reply.starts_with(b"$") && reply != b"$-1" => {
                let at = reply.iter().position(|&byte| byte == b'\n')?;
                Some(&reply[at + 1..])
            }
            Self::Resp => None,
        }
    }
}

fn put_length(length: usize, out: &mut Vec<u8>) {
    out.push(b'$');
    put_number(length as u64, out);
    out.extend_from_slice(b"\r\n");
}

/// A number as a Redis string.
fn put_digits(number: u64, out: &mut Vec<u8>) {
    put_length(digits_of(number), out);
    put_number(number, out);
    out.extend_from_slice(b"\r\n");
}

/// A message as a Redis string.
fn put_message(values: &Values, index: u64, out: &mut Vec<u8>) {
    put_length(values.size(index), out);
    values.put_message(index, out);
    out.extend_from_slice(b"\r\n");
}

/// A whole line is a wrong reply here: the right one was compared before.
fn take_line<'a>(input: &'a [u8], limit: usize, scanned: &mut usize) -> Taken<'a> {
    match input.get(*scanned..).unwrap_or_default().iter().position(|&byte| byte == b'\n') {
        Some(at) => {
            let end = *scanned + at;
            *scanned = 0;
            Taken::Wrong(end + 1, input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]))
        }
        None if input.len() > limit => Taken::Broken("a reply line without an end"),
        None => {
            *scanned = input.len();
            Taken::Need
        }
    }
}

fn take_resp<'a>(input: &'a [u8], scanned: &mut usize) -> Taken<'a> {
    match input.first() {
        None => Taken::Need,
        Some(b'+' | b'-' | b':') => take_line(input, LINE_BYTES, scanned),
        Some(b'$') => {
            // The head is short: looking at it again costs nothing.
            *scanned = 0;
            let mut head = 0;
            let (used, line) = match take_line(input, 32, &mut head) {
                Taken::Wrong(used, line) => (used, line),
                Taken::Need => return Taken::Need,
                _ => return Taken::Broken("a string without a length"),
            };
            if line == b"$-1" {
                return Taken::Wrong(used, line);
            }
            let length = std::str::from_utf8(&line[1..]).ok().and_then(|digits| digits.parse::<usize>().ok());
            let Some(length) = length.filter(|length| *length <= BULK_BYTES) else {
                return Taken::Broken("a string whose length is no number, or beyond 512 MiB");
            };
            match input.get(used + length..used + length + 2) {
                None => Taken::Need,
                Some(b"\r\n") => Taken::Wrong(used + length + 2, &input[..used + length]),
                Some(_) => Taken::Broken("a string that is longer than it says"),
            }
        }
        Some(_) => Taken::Broken("something that is no reply of the Redis protocol"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::workload::Sizes;
    use super::*;

    const SET_7: Operation = Operation { kind: Kind::Set, index: 7 };
    const GET_7: Operation = Operation { kind: Kind::Get, index: 7 };

    fn values(size: usize) -> Values {
        Values::new("k-", 1, Sizes::only(size))
    }

    fn take(dialect: Dialect, operation: Operation, input: &[u8]) -> Taken<'_> {
        dialect.take(operation, &values(4), input, &mut 0, &mut Vec::new())
    }

    #[test]
    fn requests_are_as_the_protocols_say() {
        let made = |dialect: Dialect, operation| {
            let mut out = Vec::new();
            dialect.put_request(operation, &values(4), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(made(Dialect::Text, SET_7), "SET k-7 ^gF\\\n");
        assert_eq!(made(Dialect::Text, GET_7), "GET k-7\n");
        assert_eq!(made(Dialect::Resp, SET_7), "*3\r\n$3\r\nSET\r\n$3\r\nk-7\r\n$4\r\n^gF\\\r\n");
        let ending = |dialect: Dialect, operation| {
            let mut out = Vec::new();
            dialect.put_request(operation, &values(4).ending(Some(1500)), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(ending(Dialect::Text, SET_7), "SETEX k-7 1500ms ^gF\\\n");
        assert_eq!(ending(Dialect::Text, GET_7), "GET k-7\n");
        let words = "*5\r\n$3\r\nSET\r\n$3\r\nk-7\r\n$4\r\n^gF\\\r\n$2\r\nPX\r\n$4\r\n1500\r\n";
        assert_eq!(ending(Dialect::Resp, SET_7), words);
        assert_eq!(made(Dialect::Resp, GET_7), "*2\r\n$3\r\nGET\r\n$3\r\nk-7\r\n");
        let mut wait = Vec::new();
        Dialect::put_wait(12, &mut wait);
        assert_eq!(wait, b"*3\r\n$4\r\nWAIT\r\n$2\r\n12\r\n$5\r\n30000\r\n");
    }

    #[test]
    fn replies_are_told_apart() {
        use Dialect::{Resp, Text};
        assert_eq!(take(Text, SET_7, b"OK\nOK\n"), Taken::Right(3));
        assert_eq!(take(Text, SET_7, b"OK"), Taken::Need);
        assert_eq!(take(Text, SET_7, b"OKAY\n"), Taken::Wrong(5, b"OKAY"));
        assert_eq!(take(Text, GET_7, b"VALUE ^gF\\\nOK"), Taken::Right(11));
        assert_eq!(take(Text, GET_7, b"VALUE ^gF\\x\n"), Taken::Wrong(12, b"VALUE ^gF\\x"));
        assert_eq!(take(Text, GET_7, b"ERROR NOT_FOUND x\r\n"), Taken::Wrong(19, b"ERROR NOT_FOUND x"));
        assert_eq!(take(Resp, SET_7, b"+OK\r\n"), Taken::Right(5));
        assert_eq!(take(Resp, SET_7, b"-ERR no\r\n"), Taken::Wrong(9, b"-ERR no"));
        assert_eq!(take(Resp, GET_7, b"$4\r\n^gF\\\r\n"), Taken::Right(10));
        assert_eq!(take(Resp, GET_7, b"$4\r\n^gFx\r\n"), Taken::Wrong(10, b"$4\r\n^gFx"));
        assert_eq!(take(Resp, GET_7, b"$-1\r\n"), Taken::Wrong(5, b"$-1"));
        assert_eq!(take(Resp, GET_7, b""), Taken::Need);
        for broken in [&b"$x\r\n"[..], b"$-2\r\n", b"$536870913\r\n", b"$4\r\n^gF\\xx", b"HTTP/1.1", &[b'$'; 40]] {
            assert!(matches!(take(Resp, GET_7, broken), Taken::Broken(_)), "{broken:?}");
        }
        assert!(matches!(take(Text, SET_7, &vec![b'x'; LINE_BYTES + 5]), Taken::Broken(_)));
        assert!(matches!(take(Resp, SET_7, &[&b"+"[..], &[b'x'; LINE_BYTES]].concat()), Taken::Broken(_)));
    }

    #[test]
    fn a_wait_needs_its_number() {
        let take = |input| Dialect::take_wait(2, input, &mut 0);
        assert_eq!(take(b":2\r\n"), Taken::Right(4));
        assert_eq!(take(b":3\r\n+OK\r\n"), Taken::Right(4));
        assert_eq!(take(b":1\r\n"), Taken::Wrong(4, b":1"));
        assert_eq!(take(b"-ERR unknown\r\n"), Taken::Wrong(14, b"-ERR unknown"));
        assert_eq!(take(b":"), Taken::Need);
    }

    #[test]
    fn messages_are_found_in_wrong_replies() {
        assert_eq!(Dialect::Text.message(b"VALUE a b"), Some(&b"a b"[..]));
        assert_eq!(Dialect::Text.message(b"ERROR LOST x"), None);
        assert_eq!(Dialect::Resp.message(b"$3\r\na\nb"), Some(&b"a\nb"[..]));
        assert_eq!([Dialect::Resp.message(b"$-1"), Dialect::Resp.message(b"-ERR")], [None, None]);
    }

    proptest! {
        /// No input makes the parser fail, take more than there is, or see an end where the whole shows none.
        #[test]
        fn hostile_bytes_are_survived(input in proptest::collection::vec(any::<u8>(), 0..60), head in "[$+:-][0-9]{0,4}\r?\n?") {
            for input in [input.clone(), [head.as_bytes(), &input].concat()] {
                for (dialect, operation) in [Dialect::Text, Dialect::Resp].iter().flat_map(|d| [(d, SET_7), (d, GET_7)]) {
                    match take(*dialect, operation, &input) {
                        Taken::Right(used) | Taken::Wrong(used, _) => prop_assert!(used <= input.len() && used > 0),
                        Taken::Need | Taken::Broken(_) => {}
                    }
                }
            }
        }
    }
}
