//! The data commands on a map, against what Redis answers.

use std::collections::BTreeMap;

use super::super::words;
use super::*;
use crate::protocol::table;

#[derive(Default)]
struct Map(BTreeMap<MessageId, (Payload, Option<Deadline>)>);

impl Ids for Map {
    fn get(&self, id: &MessageId) -> Option<Payload> {
        self.0.get(id).map(|(message, _)| message.clone())
    }
    fn length(&self, id: &MessageId) -> Option<usize> {
        self.0.get(id).map(|(message, _)| message.len())
    }
    fn take(&mut self, id: &MessageId) -> Option<Payload> {
        self.0.remove(id).map(|(message, _)| message)
    }
    fn expires(&self, id: &MessageId) -> Option<Deadline> {
        self.0.get(id)?.1
    }
    fn now(&self) -> u64 {
        1_000_000
    }
    fn set(&mut self, id: &MessageId, payload: Payload, expires: Option<Deadline>) {
        self.0.insert(id.clone(), (payload, expires));
    }
    fn delete(&mut self, id: &MessageId) {
        self.0.remove(id);
    }
}

/// Runs one request after the other; gives their replies as version 2 writes them, on one line each.
fn talk(requests: &str) -> Vec<String> {
    let mut map = Map::default();
    let run = |request: &str| {
        let words = words(request);
        let spec = table::find(&words[0]).unwrap();
        assert!(spec.takes(words.len()) && spec.data().is_some(), "{request}");
        let key = |place: usize| MessageId::from_bytes(&words[place]).unwrap();
        let keys: Vec<MessageId> = spec.key_places(&words).unwrap().map(key).collect();
        let mut out = bytes::BytesMut::new();
        super::run(spec.data().unwrap(), &words, &keys, 30, &mut map).encode(2, &mut out);
        String::from_utf8_lossy(&out).trim_end().replace("\r\n", " ")
    };
    requests.split('|').map(run).collect()
}

#[test]
fn commands_do_what_clients_of_redis_expect() {
    for (requests, replies) in [
        ("SET a 1|GET a|GET b|STRLEN a|TYPE a|TYPE b", "+OK|$1 1|$-1|:1|+string|+none"),
        ("SET a 1 NX|SET a 2 NX|GET a|SET b 1 XX|SET a 3 xx get|SET b 4 GET|GET b", "+OK|$-1|$1 1|$-1|$1 1|$-1|$1 4"),
        ("SET a 1 NX XX|SET a 1 nonsense|SET a 1 KEEPTTL", "-ERR syntax error|-ERR syntax error|+OK"),
        ("SETNX a 1|SETNX a 2|GETSET a 3|GETDEL a|GETDEL a|EXISTS a", ":1|:0|$1 1|$1 3|$-1|:0"),
        (
            "MSET a 1 b 2|MGET a x b|MSETNX c 1 a 2|EXISTS c|MSETNX c 1 d 2|DEL a b b x",
            "+OK|*3 $1 1 $-1 $1 2|:0|:0|:1|:2",
        ),
        ("MSET a 1 b", "-ERR wrong number of arguments for 'mset' command"),
        ("EXISTS a a|SET a 1|EXISTS a a|TOUCH a b|TTL a|PTTL b", ":0|+OK|:2|:1|:-1|:-2"),
        ("INCR n|INCRBY n 5|DECR n|DECRBY n 10|GET n", ":1|:6|:5|:-5|$2 -5"),
        (
            "SET n 9223372036854775807|INCR n|GET n",
            "+OK|-ERR increment or decrement would overflow|$19 9223372036854775807",
        ),
        (
            "SET n 01|INCR n|INCRBY x y",
            "+OK|-ERR value is not an integer or out of range|-ERR value is not an integer or out of range",
        ),
        ("DECRBY n -9223372036854775808", "-ERR decrement would overflow"),
        (
            "SET n 1|INCRBYFLOAT n -1.1|INCRBYFLOAT n 0.1|INCRBYFLOAT n 5.0e3|INCRBYFLOAT n x",
            "+OK|$4 -0.1|$1 0|$4 5000|-ERR value is not a valid float",
        ),
        (
            "APPEND a 12|APPEND a 345|GETRANGE a 1 2|GETRANGE a -2 -1|GETRANGE a 3 1|GETRANGE a -9 99",
            ":2|:5|$2 23|$2 45|$0|$5 12345",
        ),
        (
            "SETRANGE a 3 x|STRLEN a|SETRANGE a -1 x|SETRANGE a 30 x",
            ":4|:4|-ERR offset is out of range|-ERR string exceeds maximum allowed size (--max-message)",
        ),
        (
            "SET a 1|RENAME a b|GET b|RENAME a c|RENAMENX b b|SET c 2|RENAMENX b c|RENAME b b",
            "+OK|+OK|$1 1|-ERR no such key|:0|+OK|:0|+OK",
        ),
        (
            "SET a 1|COPY a b|COPY a b|SET a 2|COPY a b REPLACE DB 0|GET b|COPY a a|COPY a c DB 1",
            "+OK|:1|:0|+OK|:1|$1 2|-ERR source and destination objects are the same|-ERR DB index is out of range",
        ),
    ] {
        assert_eq!(talk(requests).join("|"), replies, "{requests}");
    }
}

#[test]
fn deadlines_go_where_redis_has_them_go() {
    // The time is 1000 s.
    for (requests, replies) in [
        ("SET a 1 EX 10|TTL a|PTTL a|EXPIRETIME a|PEXPIRETIME a", "+OK|:10|:10000|:1010|:1010000"),
        ("TTL a|EXPIRETIME a|SET a 1|TTL a|PEXPIRETIME a|PERSIST a", ":-2|:-2|+OK|:-1|:-1|:0"),
        ("SETEX a 10 1|PTTL a|PSETEX a 10 2|PTTL a|GET a", "+OK|:10000|+OK|:10|$1 2"),
        ("SET a 1 PX 1499|TTL a|SET a 1 PX 1500|TTL a", "+OK|:1|+OK|:2"),
        ("SET a 1 EX 9|SET a 2|TTL a|SET a 3 EX 9|SET a 4 KEEPTTL|TTL a", "+OK|+OK|:-1|+OK|+OK|:9"),
        ("SET a 1 EX 9|INCR a|APPEND a x|SETRANGE a 0 y|SETBIT a 0 1|TTL a", "+OK|:2|:2|:2|:0|:9"),
        ("SET a 1 EX 9|INCRBYFLOAT a 1|TTL a|GETSET a 5|TTL a", "+OK|$1 2|:9|$1 2|:-1"),
        ("SET a 1 EX 9|MSET a 2|TTL a|SET a 1 EX 9|SETNX a 3|TTL a", "+OK|+OK|:-1|+OK|:0|:9"),
        ("SET a 1 EX 9|RENAME a b|TTL b|COPY b c|TTL c|PERSIST c|TTL c|TTL b", "+OK|+OK|:9|:1|:9|:1|:-1|:9"),
        ("SET a 1 EX 9|SET b 2|RENAME b a|TTL a", "+OK|+OK|+OK|:-1"),
        ("EXPIRE a 5|SET a 1|EXPIRE a 5|TTL a|EXPIRE a -1|EXISTS a", ":0|+OK|:1|:5|:1|:0"),
        ("SET a 1|EXPIREAT a 1005|TTL a|PEXPIREAT a 1000001|PTTL a|EXPIREAT a 999|GET a", "+OK|:1|:5|:1|:1|:1|$-1"),
        ("SET a 1|PEXPIRE a 5|PTTL a|PEXPIRE a 9 LT|PEXPIRE a 9 GT|PTTL a", "+OK|:1|:5|:0|:1|:9"),
        (
            "SET a 1|EXPIRE a 1.5|EXPIRE a 9223372036854775807|EXPIRE a 5 AB",
            "+OK|-ERR value is not an integer or out of range|-ERR invalid expire time in 'expire' command|-ERR Unsupported option AB",
        ),
        (
            "SETEX a 0 1|PSETEX a -5 1|EXISTS a",
            "-ERR invalid expire time in 'setex' command|-ERR invalid expire time in 'psetex' command|:0",
        ),
        (
            "SET a 1|GETEX a EX 5|TTL a|GETEX a|TTL a|GETEX a PERSIST|TTL a|GETEX b EX 5",
            "+OK|$1 1|:5|$1 1|:5|$1 1|:-1|$-1",
        ),
        ("SET a 1|GETEX a EXAT 5|EXISTS a|SET a 1 PXAT 5|EXISTS a", "+OK|$1 1|:0|+OK|:0"),
    ] {
        assert_eq!(talk(requests).join("|"), replies, "{requests}");
    }
}

#[test]
fn numbers_stay_within_bounds() {
    // The examples of Redis's page of INCREX, and its edges.
    for (requests, replies) in [
        ("INCREX n|INCREX n|INCREX n BYINT -10", "*2 :1 :1|*2 :2 :1|*2 :-8 :-10"),
        ("SET n 99|INCREX n BYINT 5 UBOUND 100|GET n", "+OK|*2 :99 :0|$2 99"),
        ("SET n 99|INCREX n BYINT 5 UBOUND 100 SATURATE|GET n", "+OK|*2 :100 :1|$3 100"),
        ("INCREX n UBOUND 0|EXISTS n|INCREX n BYINT -5 LBOUND -3 SATURATE", "*2 :0 :0|:0|*2 :-3 :-3"),
        (
            "SET n 1.5|INCREX n BYFLOAT 0.25|INCREX n",
            "+OK|*2 $4 1.75 $4 0.25|-ERR value is not an integer or out of range",
        ),
        (
            "INCREX f BYFLOAT 5 UBOUND 3.5|INCREX f BYFLOAT 5 UBOUND 3.5 SATURATE|INCREX f BYFLOAT -9 LBOUND 1 SATURATE",
            "*2 $1 0 $1 0|*2 $3 3.5 $3 3.5|*2 $1 1 $4 -2.5",
        ),
        ("INCREX n EX 100|TTL n|INCREX n|TTL n|INCREX n PERSIST|TTL n", "*2 :1 :1|:100|*2 :2 :1|:100|*2 :3 :1|:-1"),
        ("INCREX n EX 100 ENX|INCREX n EX 5 ENX|TTL n|INCREX n EX 5|TTL n", "*2 :1 :1|*2 :2 :1|:100|*2 :3 :1|:5"),
        (
            "SET n 9 EX 7|INCREX n UBOUND 9 EX 100|TTL n|INCREX n UBOUND 9 EX 50 SATURATE|TTL n",
            "+OK|*2 :9 :0|:7|*2 :9 :0|:50",
        ),
        (
            "SET n 9223372036854775807|INCREX n|INCREX n SATURATE",
            "+OK|*2 :9223372036854775807 :0|*2 :9223372036854775807 :0",
        ),
        (
            "SET n -9223372036854775808|INCREX n LBOUND 9223372036854775807 SATURATE",
            "+OK|-ERR increment or decrement would overflow",
        ),
        (
            "INCREX n LBOUND 2 UBOUND 1|INCREX n BYFLOAT 1 LBOUND 2 UBOUND 1",
            "-ERR LBOUND is greater than UBOUND|-ERR LBOUND is greater than UBOUND",
        ),
        (
            "INCREX n BYINT 1 BYFLOAT 1|INCREX n EX 5 PERSIST|INCREX n x",
            "-ERR syntax error|-ERR syntax error|-ERR syntax error",
        ),
        (
            "INCREX n ENX|INCREX n EX 0",
            "-ERR ENX wants a time: EX, PX, EXAT or PXAT|-ERR invalid expire time in 'increx' command",
        ),
        ("INCREX n EXAT 5|EXISTS n", "*2 :1 :1|:0"),
    ] {
        assert_eq!(talk(requests).join("|"), replies, "{requests}");
    }
}

#[test]
fn several_messages_are_kept_for_the_same_time() {
    for (requests, replies) in [
        ("MSETEX 2 a 1 b 2 EX 9|MGET a b|TTL a|TTL b", ":1|*2 $1 1 $1 2|:9|:9"),
        ("SET a 1|MSETEX 2 a 2 b 2 NX|MSETEX 2 a 2 b 2 XX|GET a|EXISTS b", "+OK|:0|:0|$1 1|:0"),
        ("MSETEX 1 a 1 NX|MSETEX 1 a 2 XX|GET a|TTL a", ":1|:1|$1 2|:-1"),
        ("SET a 1 EX 9|MSETEX 2 a 2 b 2 KEEPTTL|TTL a|TTL b|MSETEX 1 a 3|TTL a", "+OK|:1|:9|:-1|:1|:-1"),
        (
            "MSETEX 1 a 1 GET|MSETEX 1 a 1 IFEQ 1|MSETEX 1 a 1 EX 1 PX 1",
            "-ERR syntax error|-ERR syntax error|-ERR syntax error",
        ),
        ("MSETEX 1 a 1 EX 0|EXISTS a", "-ERR invalid expire time in 'msetex' command|:0"),
        ("SET a 1|DELIFEQ a 2|DELIFEQ a 1|DELIFEQ a 1|EXISTS a", "+OK|:0|:1|:0|:0"),
    ] {
        assert_eq!(talk(requests).join("|"), replies, "{requests}");
    }
}

#[test]
fn bits_are_counted_found_joined_and_changed() {
    for (requests, replies) in [
        (
            "SET a foobar|BITCOUNT a|BITCOUNT a 0 0|BITCOUNT a 1 1|BITCOUNT a 5 30 BIT|BITCOUNT b",
            "+OK|:26|:4|:6|:17|:0",
        ),
        (
            "SET a x|BITCOUNT a 0|BITCOUNT a 0 1 X|BITCOUNT a x 1",
            "+OK|-ERR syntax error|-ERR syntax error|-ERR value is not an integer or out of range",
        ),
        (
            "BITPOS b 0|BITPOS b 1|SET a x|BITPOS a 1|BITPOS a 0|BITPOS a 1 2|BITPOS a 2",
            ":0|:-1|+OK|:1|:0|:-1|-ERR The bit argument must be 1 or 0.",
        ),
        ("SET a abc|SET b ab|BITOP AND c a b|GET c|BITOP OR c a b|GET c|TTL c", "+OK|+OK|:3|$3 ab\u{0}|:3|$3 abc|:-1"),
        (
            "SET a abc|BITOP XOR c a a|STRLEN c|BITOP NOT c a b|BITOP X c a|BITOP AND c x y|EXISTS c",
            "+OK|:3|:3|-ERR BITOP NOT must be called with a single source key.|-ERR syntax error|:0|:0",
        ),
        ("BITFIELD a SET u8 0 255 GET u4 2 INCRBY i5 #2 3|STRLEN a|BITFIELD a", "*3 :0 :15 :3|:2|*0"),
        (
            "BITFIELD a OVERFLOW SAT INCRBY u2 0 9 OVERFLOW FAIL INCRBY u2 0 1 OVERFLOW WRAP INCRBY u2 0 1",
            "*3 :3 $-1 :0",
        ),
        (
            "BITFIELD a GET u64 0|BITFIELD a GET u8 -1|BITFIELD a OVERFLOW X SET u8 0 1|BITFIELD_RO a SET u8 0 1|EXISTS a",
            "-ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.|-ERR bit offset is not an integer or out of range|-ERR Invalid OVERFLOW type specified|-ERR BITFIELD_RO only supports the GET subcommand|:0",
        ),
        (
            "SET a 1 EX 9|BITFIELD a SET u8 0 1|TTL a|BITFIELD a SET u8 240 1|SUBSTR a 0 0",
            "+OK|*1 :49|:9|-ERR bit offset is not an integer or out of range|$1 \u{1}",
        ),
    ] {
        assert_eq!(talk(requests).join("|"), replies, "{requests}");
    }
}

#[test]
fn messages_are_compared_and_swapped() {
    for (requests, replies) in [
        ("SET a 1 IFEQ 1|SET a 1|SET a 2 IFEQ 1|SET a 3 IFEQ 1|GET a", "$-1|+OK|+OK|$-1|$1 2"),
        ("SET a 1 IFNE 1|SET a 2 IFNE 1|SET a 3 IFNE 1 GET|GET a", "+OK|$-1|$1 1|$1 1"),
        ("SET a 1|SET a 2 IFEQ 1 EX 9 GET|TTL a|SET a 3 IFEQ 9 GET|GET a", "+OK|$1 1|:9|$1 2|$1 2"),
        ("DELEX a|SET a 1|DELEX a IFEQ 2|DELEX a IFEQ 1|DELEX a IFEQ 1|EXISTS a", ":0|+OK|:0|:1|:0|:0"),
        (
            "SET a 1|DELEX a IFNE 1|DELEX a IFNE 2|SET a 1|DELEX a|DELEX a IFEQ|DELEX a x y",
            "+OK|:0|:1|+OK|:1|-ERR syntax error|-ERR syntax error",
        ),
    ] {
        assert_eq!(talk(requests).join("|"), replies, "{requests}");
    }
}

#[test]
fn a_message_over_a_limit_that_was_lowered_is_refused_and_not_lost() {
    let (id, message) = (MessageId::from_bytes(b"a").unwrap(), Bytes::from(vec![b'x'; 40]));
    for request in ["SETRANGE a 0 y", "SETBIT a 1 1", "APPEND a y"] {
        let kept = (message.clone(), None);
        let mut map = Map([(id.clone(), kept.clone())].into());
        let words = words(request);
        let op = table::find(&words[0]).unwrap().data().unwrap();
        let told = super::run(op, &words, std::slice::from_ref(&id), 30, &mut map);
        assert!(matches!(told, Value::Error(_)) && map.0.get(&id) == Some(&kept), "{request}: {told:?}");
    }
}

#[test]
fn what_can_never_succeed_is_known_before_it_is_run() {
    let long = "x".repeat(31);
    for (request, refused) in [
        ("SET a 1".to_owned(), false),
        ("SET a 1 NX nonsense".to_owned(), false),
        ("SETEX a 5 x".to_owned(), false),
        (format!("SETEX a 5 {long}"), true),
        (format!("SET a {long}"), true),
        (format!("MSET b 1 a {long}"), true),
        ("MSET b 1 a".to_owned(), true),
        (format!("GETSET a {long}"), true),
        (format!("SETRANGE a 0 {long}"), true),
        (format!("APPEND a {long}"), true),
        (format!("INCRBY a {long}"), false),
    ] {
        let words = words(&request);
        let op = table::find(&words[0]).unwrap().data().unwrap();
        assert_eq!(surely_refused(op, &words, 30).is_some(), refused, "{request}");
    }
}

#[test]
fn what_is_too_long_is_refused() {
    let long = "x".repeat(31);
    for request in [format!("SET a {long}"), format!("MSET b 1 a {long}"), format!("APPEND a {long}")] {
        let replies = talk(&format!("{request}|EXISTS a b"));
        assert!(replies[0].contains("over the limit of 30"), "{replies:?}");
        assert_eq!(replies[1], ":0");
    }
}
