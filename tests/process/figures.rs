//! Figures about clients of Redis: those that they ask for themselves, and those that the leader counts.

use crate::http::{http, metrics, register};
use crate::resp::{Redis, story};
use crate::support::Register;

#[test]
fn monitors_find_what_they_ask_for() {
    let register = Register::start(2, 2);
    let mut redis = Redis::to(register.addr());
    story(&mut redis, &[("SET a 1", "+OK"), ("GET a", "\"1\""), ("GET b", "$-1"), ("PING", "+PONG")]);
    let info = redis.say("INFO");
    let value = |name: &str| {
        let rest = info.split(&format!("\\n{name}:")).nth(1).unwrap_or_else(|| panic!("no {name} in {info}"));
        rest.split("\\r").next().unwrap().parse::<f64>().unwrap_or_else(|_| panic!("{name} in {info}"))
    };
    for (name, least) in [
        ("uptime_in_seconds", 0.0),
        ("connected_clients", 1.0),
        ("used_memory", 1.0),
        ("total_connections_received", 1.0),
        ("total_commands_processed", 4.0),
        ("instantaneous_ops_per_sec", 0.0),
        ("keyspace_hits", 1.0),
        ("keyspace_misses", 1.0),
        ("used_cpu_user", 0.0),
    ] {
        assert!(value(name) >= least, "{name} in {info}");
    }
    assert_eq!((value("rejected_connections"), value("evicted_keys")), (0.0, 0.0), "{info}");
    story(
        &mut redis,
        &[
            ("COMMAND LIST FILTERBY PATTERN getr*", "[\"getrange\"]"),
            ("COMMAND LIST FILTERBY MODULE json", "[]"),
            ("COMMAND LIST FILTERBY NONSENSE x", "-ERR syntax error"),
            ("COMMAND COUNT x", "-ERR wrong number of arguments for 'command|count' command"),
        ],
    );
}

#[test]
fn requests_of_redis_clients_are_counted_once_each() {
    let register = register(2, 2);
    let addr = http(&register);
    let mut wire = register.wire();
    wire.send("*1\r\n$4\r\nPING\r\n");
    assert_eq!(wire.line(), "+PONG\r");
    for (line, lines) in [
        ("SET a 1", 1),
        ("GET a", 2),
        ("INCR a", 1),
        ("INCR a\r\nINCR b\r\nEXISTS b", 3),
        ("MSET c 1 d 2", 1),
        ("MGET c d", 5),
        ("GETRANGE nobody 0 1", 2),
        ("STRLEN a", 1),
        ("MULTI\r\nINCR a\r\nDEL d\r\nEXEC", 6),
        ("APPEND a x\r\nINCR a", 2),
        ("NONSENSE", 1),
    ] {
        wire.send(format!("{line}\r\n"));
        let replies: Vec<String> = (0..lines).map(|_| wire.line()).collect();
        assert!(!replies.concat().contains("-NOREPLICAS"), "{line}: {replies:?}");
    }
    let samples = metrics(&addr);
    let count = |op: &str, result: &str| {
        samples.get(&format!("hatokuse_requests_total{{op=\"{op}\",protocol=\"resp\",result=\"{result}\"}}")).copied()
    };
    // SET, INCR, two INCRs, MSET, EXEC, APPEND; GET, EXISTS, MGET, GETRANGE, STRLEN.
    assert_eq!(count("write", "ok"), Some(7.0));
    assert_eq!(count("read", "ok"), Some(5.0));
    assert_eq!(count("other", "bad_command"), Some(2.0), "no command, and a message that is no number");
    let writes = samples["hatokuse_request_duration_seconds_count{op=\"write\",protocol=\"resp\"}"];
    assert_eq!(writes, 7.0, "each has a latency");
}
