//! Scripts (EVAL and its kin) as clients of Redis send them: at one instant, over crashes, within limits, beside others.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::resp::{Redis, request};
use crate::support::{Register, eventually, folder};

/// Moves from one id to another, if there is so much.
const MOVE: &str = "local have = tonumber(redis.call('get', KEYS[1]))
if have < tonumber(ARGV[1]) then return redis.error_reply('POOR only ' .. have) end
redis.call('decrby', KEYS[1], ARGV[1])
return redis.call('incrby', KEYS[2], ARGV[1])";

/// Deletes an id, if it has this message: how locks are released.
const RELEASE: &str = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0";

/// A connection, or nothing while the leader is away.
fn connect(register: &Register) -> Redis {
    eventually("the leader to be there", || std::net::TcpStream::connect(register.addr()).ok());
    Redis::to(register.addr())
}

pub(crate) fn eval(redis: &mut Redis, script: &str, keys: &[&str], args: &[&str]) -> String {
    redis.ask(&words("EVAL", script, keys, args).iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn words(name: &str, script: &str, keys: &[&str], args: &[&str]) -> Vec<Vec<u8>> {
    let count = keys.len().to_string();
    let all = [name, script, &count].into_iter().chain(keys.iter().copied()).chain(args.iter().copied());
    all.map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn a_script_is_one_step_for_everybody_and_over_kills() {
    for layout in ["text", "log"] {
        let mut register = Register::with(3, 2, folder(), |builder| builder.node_args(["--layout", layout]));
        ["a", "b", "c"].iter().for_each(|id| register.set(id, "1000"));
        let addr = register.addr().to_owned();
        move_around(&[&addr], || {
            register.kill_leader().unwrap();
            register.start_leader().unwrap();
        });
    }
}

/// Ids `a`, `b` and `c` have 1000 each. Clients move some from one to another by scripts, one after the other at each of
/// these addresses, while this kills whoever leads, three times: there are always 3000.
pub(crate) fn move_around(addrs: &[&str], mut kill: impl FnMut()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for (from, to) in [("a", "b"), ("b", "c"), ("c", "a"), ("a", "c")] {
            let stop = &stop;
            scope.spawn(move || {
                for addr in addrs.iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // Whatever it is told, or not told, as the leader is killed: all of it is true, or nothing.
                    let Some(mut redis) = Redis::try_to(addr) else { continue };
                    let request = words("EVAL", MOVE, &[from, to], &["7"]);
                    let request = request.iter().map(Vec::as_slice).collect::<Vec<_>>();
                    while redis.try_ask(&request).is_some() && !stop.load(Ordering::Relaxed) {}
                }
            });
        }
        for _ in 0..3 {
            for looked in 0..30 {
                let sum = eventually("all three", || {
                    let mut redis = Redis::try_to(addrs[looked % addrs.len()])?;
                    let told = redis.try_ask(&[b"MGET", b"a", b"b", b"c"])?;
                    let numbers = told.strip_prefix('[')?.strip_suffix(']')?.split(' ');
                    Some(numbers.map(|text| text.trim_matches('"').parse::<i64>().unwrap()).sum::<i64>())
                });
                assert_eq!(sum, 3000);
            }
            kill();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn scripts_and_commands_count_together() {
    let register = Register::start(3, 2);
    let counts = |by_script: bool| {
        let mut redis = connect(&register);
        for _ in 0..100 {
            if by_script {
                eval(&mut redis, "return redis.call('incr', KEYS[1])", &["n"], &[]);
            } else {
                redis.say("INCR n");
            }
        }
    };
    thread::scope(|scope| (0..6).for_each(|n| drop(scope.spawn(move || counts(n % 2 == 0)))));
    assert_eq!(register.get("n"), "600");
}

#[test]
fn scripts_are_known_by_their_sums_until_they_are_forgotten() {
    let mut register = Register::start(3, 2);
    let mut redis = connect(&register);
    let script = "return redis.call('get', KEYS[1])";
    register.set("a", "x");
    let sha = redis.ask(&[b"SCRIPT", b"LOAD", script.as_bytes()]);
    assert_eq!(sha, "\"4e6d8fc8bb01276962cce5371fa795a7763657ae\"");
    let sha = sha.trim_matches('"');
    let call = format!("EVALSHA {sha} 1 a");
    assert_eq!(redis.say(&call), "\"x\"");
    assert_eq!(redis.say(&format!("EVALSHA_RO {} 1 a", sha.to_uppercase())), "\"x\"");
    assert_eq!(redis.say(&format!("SCRIPT EXISTS {sha} {}", "0".repeat(40))), "[:1 :0]");
    assert_eq!(redis.say("SCRIPT FLUSH"), "+OK");
    assert_eq!(redis.say(&call), "-NOSCRIPT No matching script. Please use EVAL.");
    assert_eq!(eval(&mut redis, script, &["a"], &[]), "\"x\"");
    assert_eq!(redis.say(&call), "\"x\"", "EVAL makes it known");
    register.kill_leader().unwrap();
    register.start_leader().unwrap();
    let mut redis = connect(&register);
    assert_eq!(redis.say(&call), "-NOSCRIPT No matching script. Please use EVAL.");
    assert_eq!(redis.say(&format!("SCRIPT EXISTS {sha}")), "[:0]");
}

#[test]
fn requests_are_checked_as_in_redis() {
    let register = Register::start(3, 2);
    let mut redis = connect(&register);
    for (line, reply) in [
        ("EVAL x", "-ERR wrong number of arguments for 'eval' command"),
        ("EVAL x y", "-ERR value is not an integer or out of range"),
        ("EVAL x 1", "-ERR Number of keys can't be greater than number of args"),
        ("EVAL x -1", "-ERR Number of keys can't be negative"),
        ("EVALSHA x 0", "-NOSCRIPT No matching script. Please use EVAL."),
        ("SCRIPT", "-ERR wrong number of arguments for 'script' command"),
        ("SCRIPT NOSUCH", "-ERR unknown subcommand 'NOSUCH'. Try SCRIPT HELP."),
        ("SCRIPT FLUSH NOW", "-ERR SCRIPT FLUSH only support SYNC|ASYNC option"),
        ("SCRIPT FLUSH SYNC x", "-ERR SCRIPT FLUSH only support SYNC|ASYNC option"),
        ("SCRIPT DEBUG x", "-ERR Use SCRIPT DEBUG YES/SYNC/NO"),
        ("MSETEX 0 a 1", "-ERR invalid numkeys value"),
        ("SCRIPT KILL", "-NOTBUSY No scripts in execution right now."),
        ("COMMAND GETKEYS EVAL x 2 a b c", "[\"a\" \"b\"]"),
        ("FUNCTION LIST", "[]"),
    ] {
        assert_eq!(redis.say(line), reply, "{line}");
    }
    let write = "return redis.call('set', KEYS[1], 1)";
    let told = redis.ask(&[b"EVAL_RO", write.as_bytes(), b"1", b"a"]);
    assert!(told.starts_with("-ERR Write commands are not allowed from read-only scripts."), "{told}");
    let told = eval(&mut redis, "return redis.call('set', ARGV[1], 1)", &[], &["a"]);
    assert!(told.contains("\"a\" is not among the KEYS of the script"), "{told}");
    assert_eq!(redis.say("EXISTS a"), ":0");
}

#[test]
fn scripts_go_in_transactions_and_pipelines() {
    let register = Register::start(3, 2);
    let mut redis = connect(&register);
    let incr = "return redis.call('incr', KEYS[1])";
    assert_eq!(redis.say("MULTI"), "+OK");
    assert_eq!(redis.say("SET a 5"), "+QUEUED");
    assert_eq!(eval(&mut redis, incr, &["a"], &[]), "+QUEUED");
    assert_eq!(redis.say(&format!("EVALSHA {} 0", "1".repeat(40))), "+QUEUED");
    assert_eq!(eval(&mut redis, "redis.call('set', KEYS[1], 'x') while true do end", &["b"], &[]), "+QUEUED");
    assert_eq!(redis.say("GET a"), "+QUEUED");
    let killer = thread::scope(|scope| {
        let kill = scope.spawn(|| {
            eventually("a script to kill", || (connect(&register).say("SCRIPT KILL") == "+OK").then_some(()))
        });
        let told = redis.say("EXEC");
        kill.join().unwrap();
        told
    });
    let killed = "-ERR the script was killed by SCRIPT KILL; nothing was written";
    assert_eq!(killer, format!("[+OK :6 -NOSCRIPT No matching script. Please use EVAL. {killed} \"6\"]"));
    assert_eq!(redis.say("EXISTS b"), ":0");
    // A watched id that a script has written.
    assert_eq!(redis.together(&["WATCH a", "GET a"]), ["+OK", "\"6\""]);
    assert_eq!(eval(&mut connect(&register), incr, &["a"], &[]), ":7");
    assert_eq!(redis.together(&["MULTI", "SET a 0", "EXEC"]), ["+OK", "+QUEUED", "*-1"]);
    let many: Vec<u8> = (0..50)
        .flat_map(|_| {
            let request_words = words("EVAL", incr, &["a"], &[]);
            request(&request_words.iter().map(Vec::as_slice).collect::<Vec<_>>())
        })
        .collect();
    redis.send(many);
    let replies: Vec<String> = (0..50).map(|_| redis.reply()).collect();
    assert_eq!(replies, (8..58).map(|n| format!(":{n}")).collect::<Vec<_>>());
}

#[test]
fn a_script_that_does_not_end_holds_up_its_own_ids_only_until_it_is_killed() {
    let register = Register::start(3, 2);
    register.set("own", "before");
    thread::scope(|scope| {
        let endless = scope.spawn(|| {
            let text = "redis.call('set', KEYS[1], 'half') while true do pcall(function() while true do end end) end";
            eval(&mut connect(&register), text, &["own"], &[])
        });
        let busy = register.addr().to_owned();
        let waits = scope.spawn(move || Redis::to(&busy).say("SET own after"));
        let mut redis = connect(&register);
        for n in 0..20 {
            assert_eq!(redis.say(&format!("SET other{n} x")), "+OK");
            // The SET is before the script, or waits for it.
            assert!(["\"before\"", "\"after\""].contains(&redis.say("GET own").as_str()));
        }
        assert_eq!(eval(&mut redis, "return redis.call('get', KEYS[1])", &["other1"], &[]), "\"x\"");
        // It may have come to its limit before.
        redis.say("SCRIPT KILL");
        let told = endless.join().unwrap();
        assert!(told.starts_with("-ERR the script") && told.ends_with("nothing was written"), "{told}");
        assert_eq!(waits.join().unwrap(), "+OK");
    });
    assert_eq!(register.get("own"), "after");
    let told = eval(&mut connect(&register), "while true do end", &[], &[]);
    assert!(told.contains("and was ended; nothing was written"), "{told}");
}

#[test]
fn a_script_reads_and_writes_deadlines_at_one_time() {
    let register = Register::start(3, 2);
    let mut redis = connect(&register);
    let script = "redis.call('set', KEYS[1], 'x', 'PX', 100000)
        local t = redis.call('time')
        return {redis.call('pttl', KEYS[1]), redis.call('pexpiretime', KEYS[1]) - (t[1] * 1000 + t[2] / 1000)}";
    assert_eq!(eval(&mut redis, script, &["a"], &[]), "[:100000 :100000]");
    // What has ended is gone for scripts.
    assert_eq!(redis.say("SET brief x PX 50"), "+OK");
    let exists = "return redis.call('exists', KEYS[1])";
    eventually("it to end", || (eval(&mut redis, exists, &["brief"], &[]) == ":0").then_some(()));
}

/// How long a lock is held at most.
const LEASE: Duration = Duration::from_secs(1);

#[test]
fn nobody_else_is_inside_a_lock_while_the_leader_is_killed() {
    let mut register = Register::start(3, 2);
    let addr = register.addr().to_owned();
    let take_turns = |entered: &AtomicUsize| {
        for _ in 0..4 {
            let before = entered.load(Ordering::Relaxed);
            eventually("the lock to go round", || (entered.load(Ordering::Relaxed) > before + 20).then_some(()));
            register.kill_leader().unwrap();
            register.start_leader().unwrap();
        }
    };
    hold_a_lock(&[&addr], take_turns);
}

/// Clients at these addresses take a lock and let go of it, until this returns, which sees how often it was taken: no two
/// are ever inside.
pub(crate) fn hold_a_lock(addrs: &[&str], until: impl FnOnce(&AtomicUsize)) {
    let (stop, entered, all) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for client in 0..4 {
            let (stop, entered, all) = (&stop, &entered, &all);
            scope.spawn(move || {
                let mut turn = 0;
                for addr in addrs.iter().cycle().skip(client) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let Some(mut redis) = Redis::try_to(addr) else { continue };
                    while !stop.load(Ordering::Relaxed) {
                        turn += 1;
                        let (token, asked) = (format!("{client}-{turn}"), Instant::now());
                        // One whose answer is lost may be held: it ends by itself.
                        let lease = LEASE.as_millis().to_string();
                        let take: [&[u8]; 6] = [b"SET", b"lock", token.as_bytes(), b"NX", b"PX", lease.as_bytes()];
                        let Some(told) = redis.try_ask(&take) else { break };
                        if told != "+OK" {
                            continue;
                        }
                        let began = Instant::now();
                        thread::yield_now();
                        // Who is held up for longer than that does not hold it any more; clocks differ by a hundredth.
                        let ended = Instant::now().min(asked + LEASE * 98 / 100);
                        all.lock().unwrap().push((began, ended));
                        entered.fetch_add(1, Ordering::Relaxed);
                        let release = words("EVAL", RELEASE, &["lock"], &[&token]);
                        if redis.try_ask(&release.iter().map(Vec::as_slice).collect::<Vec<_>>()).is_none() {
                            break;
                        }
                    }
                }
            });
        }
        until(&entered);
        stop.store(true, Ordering::Relaxed);
    });
    let mut all = all.into_inner().unwrap();
    all.retain(|(began, ended)| began < ended);
    all.sort();
    let overlap = all.windows(2).find(|pair| pair[1].0 < pair[0].1);
    assert!(all.len() >= 80 && overlap.is_none(), "{} times; two at once: {overlap:?}", all.len());
}
