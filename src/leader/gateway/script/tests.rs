//! Scripts against what a Redis 7.0.15 answered to them, and what ends them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use bytes::{Bytes, BytesMut};

use super::*;
use crate::leader::gateway::rights::Rights;
use crate::leader::transaction::Transaction;
use crate::types::MessageId;

const SMALL: Limits =
    Limits { steps: 5_000_000, time: Duration::from_secs(60), memory: 4 << 20, queue: Duration::from_millis(20) };

fn interpreter() -> Interpreter {
    Interpreter::new(SMALL).unwrap()
}

fn id(name: &str) -> MessageId {
    MessageId::from_bytes(name.as_bytes()).unwrap()
}

/// A number, a text, and an id without a message; besides one that no script names.
fn messages() -> Transaction {
    let mut all = Transaction::of(&["k", "t", "n", "other"].map(id), 1_700_000_000_123);
    all.set(&id("k"), Bytes::from("10"), None);
    all.set(&id("t"), Bytes::from("text"), None);
    all
}

fn call(text: &str) -> Call {
    let script = Arc::new(Script::read(text.as_bytes()).unwrap());
    let args = ["arg1", "2", ""].map(Bytes::from).to_vec();
    Call {
        script,
        keys: ["k", "t", "n"].map(id).to_vec(),
        args,
        reads_only: false,
        rights: Rights::of_all(),
        max_message: 1000,
    }
}

/// Runs a script on these messages.
fn run_on(interpreter: &mut Interpreter, text: &str, all: &mut Transaction) -> Result<String, String> {
    let value = interpreter.run(&call(text), &Killed::default(), all)?;
    let mut out = BytesMut::new();
    value.encode(2, &mut out);
    Ok(String::from_utf8_lossy(&out).trim_end().replace("\r\n", " "))
}

fn run(interpreter: &mut Interpreter, text: &str) -> String {
    run_on(interpreter, text, &mut messages()).unwrap_or_else(|why| format!("ended: {why}"))
}

#[test]
fn scripts_answer_as_in_redis() {
    let mut interpreter = interpreter();
    for (text, reply) in [
        ("return {KEYS[1],ARGV[1],1,2.7,-2.7,'x',false,true}", "*8 $1 k $4 arg1 :1 :2 :-2 $1 x $-1 :1"),
        ("return {1,2,nil,4}", "*2 :1 :2"),
        ("return redis.call('incr',KEYS[1])", ":11"),
        ("return redis.call('get',KEYS[3]) == false", ":1"),
        ("return redis.call('set',KEYS[1],'v').ok", "$2 OK"),
        ("return redis.call('set',KEYS[1],'v','NX')", "$-1"),
        ("redis.call('set',KEYS[3],3.3) return redis.call('get',KEYS[3])", "$18 3.2999999999999998"),
        ("redis.call('set',KEYS[3],100) return redis.call('get',KEYS[3])", "$3 100"),
        ("return redis.call('mget',KEYS[1],KEYS[2],KEYS[3])", "*3 $2 10 $4 text $-1"),
        ("return redis.pcall('incr',KEYS[2])", "-ERR value is not an integer or out of range"),
        ("return {pcall(redis.call,'incr',KEYS[2])}", "*2 $-1 $43 ERR value is not an integer or out of range"),
        ("return redis.error_reply('My Error')", "-My Error"),
        ("return redis.error_reply('MyError')", "-ERR MyError"),
        ("return {err='My Error'}", "-My Error"),
        ("return redis.status_reply('fine')", "+fine"),
        ("return {ok='fi\\r\\nne'}", "+fi  ne"),
        ("return redis.sha1hex('')", "$40 da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        ("return redis.call('time')[2]", "$6 123000"),
        ("return 1e300", ":-9223372036854775808"),
        ("return cjson.encode({1,{a=1.5},cjson.null,'a/\"',{}})", "$29 [1,{\"a\":1.5},null,\"a\\/\\\"\",{}]"),
        ("return cjson.decode('[1,{\"a\":[true,\"x\\\\u00e9\"]}]')[2].a[2]", "$3 xé"),
        ("return bit.tohex(bit.bxor(0xff, 0x0f), 4)", "$4 00f0"),
        ("return {bit.tobit(2^40+1), bit.arshift(-256,4), bit.bnot(0)}", "*3 :1 :-16 :-1"),
        ("redis.setresp(3) return {redis.call('get',KEYS[3]) == nil, true}", "*2 :1 :1"),
        ("return {double=3.5}", "$3 3.5"),
        ("return #redis.call('echo', string.rep('x', 10))", ":10"),
        ("#!lua flags=no-writes\nreturn redis.call('get',KEYS[1])", "$2 10"),
        ("return redis.error_reply('a','b')", "-ERR wrong number or type of arguments"),
        ("return redis.error_reply(1)", "-ERR wrong number or type of arguments"),
        ("return redis.status_reply('a','b')", "-ERR wrong number or type of arguments"),
        ("return redis.status_reply()", "-ERR wrong number or type of arguments"),
        ("return redis.setresp('3')", "$-1"),
        ("return redis.set_repl('1')", "$-1"),
        ("return redis.set_repl(redis.REPL_ALL)", "$-1"),
        ("return redis.log('1', 'x', {}, 2)", "$-1"),
        ("return redis.sha1hex({})", "$40 da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        ("return redis.sha1hex(1.5)", "$40 aa8f289ebe6d4db1b4a1038b8931ec8c2b5399fb"),
        ("return redis.acl_check_cmd('get','a')", ":1"),
        (
            "local t = {} for k, v in pairs(bit) do t[#t + 1] = k .. type(v) end table.sort(t) return t[1]",
            "$15 arshiftfunction",
        ),
        (
            "local found for k, v in pairs(redis) do found = found or k == 'sha1hex' and v == redis.sha1hex end return found",
            ":1",
        ),
        (
            "local n = 0 for k in pairs(_G) do n = n + 1 end return {n > 25, type(next(redis)), next({}) == nil}",
            "*3 :1 $6 string :1",
        ),
        ("local n = 0 for k, v in pairs({1,2,a=3}) do n = n + v end return n", ":6"),
    ] {
        assert_eq!(run(&mut interpreter, text), reply, "{text}");
    }
}

/// What the cjson of a Redis 7.0.15 answered.
#[test]
fn json_is_that_of_redis() {
    let mut interpreter = interpreter();
    let number = |text: &str| format!("return tostring(cjson.decode('{text}'))");
    for (text, reply) in [
        ("01", "1"),
        ("-01", "-1"),
        ("+1", "1"),
        ("0x10", "16"),
        ("-0x.8", "-0.5"),
        ("0x1p4", "16"),
        ("1.", "1"),
        ("1e5", "100000"),
        ("1e400", "inf"),
        ("inf", "inf"),
        ("-Infinity", "-inf"),
        ("NaN", "nan"),
        ("-0", "-0"),
    ] {
        assert_eq!(run(&mut interpreter, &number(text)), format!("${} {reply}", reply.len()), "{text}");
    }
    for (text, why) in [
        ("", "value but found T_END at character 1"),
        ("[1,]", "value but found T_ARR_END at character 4"),
        ("[1 2]", "comma or array end but found T_NUMBER at character 4"),
        ("{a:1}", "object key string but found invalid token at character 2"),
        (r#"{"a" 1}"#, "colon but found T_NUMBER at character 6"),
        (r#"{"a":1 "b":2}"#, "comma or object end but found T_STRING at character 8"),
        ("[1]x", "the end but found invalid token at character 4"),
        (".5", "value but found invalid token at character 1"),
        ("1e", "the end but found invalid token at character 2"),
        ("0xg", "the end but found invalid token at character 2"),
        ("-", "value but found invalid number at character 1"),
        (r#""abc"#, "value but found unexpected end of string at character 5"),
        (r#""a\\x""#, "value but found invalid escape code at character 3"),
        (r#""\\ud83d""#, "value but found invalid unicode escape code at character 2"),
        ("tru", "value but found invalid token at character 1"),
    ] {
        let told = run(&mut interpreter, &number(text));
        assert!(told.starts_with(&format!("-ERR user_script:1: Expected {why} script: ")), "{text}: {told}");
    }
    for (text, reply) in [
        ("return cjson.decode('\"\\\\ud83d\\\\ude00\"')", "$4 😀"),
        ("return cjson.encode({[0]=4})", "$7 {\"0\":4}"),
        ("return cjson.encode({[1.5]=true})", "$12 {\"1.5\":true}"),
        ("return cjson.encode({1,2,nil,4})", "$12 [1,2,null,4]"),
        ("local t = {} for i = 1, 999 do t = {t} end return #cjson.encode(t)", ":2000"),
        ("return type(cjson.decode(('['):rep(1000) .. (']'):rep(1000)))", "$5 table"),
        (
            "return {cjson.encode_max_depth(), cjson.decode_max_depth(), cjson.encode_number_precision()}",
            "*3 :1000 :1000 :14",
        ),
        ("return {cjson.encode_sparse_array(true)}", "*3 :1 :2 :10"),
        ("cjson.encode_sparse_array(true) return cjson.encode({[100]=1})", "$9 {\"100\":1}"),
        ("cjson.encode_invalid_numbers('null') return cjson.encode({1/0,0/0})", "$11 [null,null]"),
        ("cjson.encode_invalid_numbers(true) return cjson.encode({1/0,-1/0,0/0})", "$14 [inf,-inf,nan]"),
        ("cjson.encode_number_precision(3) return cjson.encode(3.14159)", "$4 3.14"),
        (
            "local c = cjson.new() c.encode_max_depth(1) return {pcall(c.encode, {{}}), cjson.encode({{}})}",
            "*2 $-1 $4 [{}]",
        ),
        // Another script finds what is usual.
        ("return {cjson.encode_sparse_array(), cjson.encode_invalid_numbers()}", "*2 $-1 $-1"),
    ] {
        assert_eq!(run(&mut interpreter, text), reply, "{text}");
    }
    for (text, why) in [
        ("cjson.encode_max_depth(1) return cjson.encode({{}})", "Cannot serialise, excessive nesting (2)"),
        (
            "cjson.decode_max_depth(1) return cjson.decode('[[]]')",
            "Found too many nested data structures (2) at character 2",
        ),
        (
            "cjson.encode_max_depth(2^31 - 1) local t = {} t[1] = t return cjson.encode(t)",
            "Cannot serialise, excessive nesting (2001)",
        ),
        (
            "cjson.decode_invalid_numbers(false) return cjson.decode('01')",
            "Expected value but found invalid number at character 1",
        ),
        ("return cjson.encode({[true]=1})", "Cannot serialise boolean: table key must be a number or string"),
        ("return cjson.encode({[11]=1})", "Cannot serialise table: excessively sparse array"),
        ("return cjson.encode({print=redis.call})", "Cannot serialise function: type not supported"),
        (
            "return cjson.encode_max_depth(0)",
            "bad argument #1 to 'encode_max_depth' (expected integer between 1 and 2147483647)",
        ),
        ("return cjson.encode_max_depth('x')", "bad argument #1 to 'encode_max_depth' (number expected, got string)"),
        ("return cjson.encode_max_depth(1, 2)", "bad argument #2 to 'encode_max_depth' (found too many arguments)"),
        (
            "return cjson.decode_invalid_numbers('null')",
            "bad argument #1 to 'decode_invalid_numbers' (invalid option 'null')",
        ),
    ] {
        let told = run(&mut interpreter, text);
        assert!(told.starts_with(&format!("-ERR user_script:1: {why} script: ")), "{text}: {told}");
    }
}

/// What the cmsgpack of a Redis 7.0.15 answered.
#[test]
fn message_pack_is_that_of_redis() {
    let mut interpreter = interpreter();
    for (value, packed) in [
        ("0", "00"),
        ("127", "7f"),
        ("128", "cc80"),
        ("65536", "ce00010000"),
        ("2^53", "cf0020000000000000"),
        ("-32", "e0"),
        ("-33", "d0df"),
        ("-2147483649", "d3ffffffff7fffffff"),
        ("2^64", "ca5f800000"),
        ("0.5", "ca3f000000"),
        ("0.1", "cb3fb999999999999a"),
        ("1/0", "ca7f800000"),
        ("nil", "c0"),
        ("true", "c3"),
        ("'x'", "a178"),
        ("{}", "90"),
        ("{1,2,3}", "93010203"),
        ("{[2]=1}", "810201"),
        ("{[0]=1}", "810001"),
        ("{a=1}", "81a16101"),
        ("{{{1}}}", "919191 01"),
        ("cjson.null", "c0"),
        ("1,2,'x'", "0102a178"),
    ] {
        let text =
            format!("return (cmsgpack.pack({value}):gsub('.', function(c) return ('%02x'):format(c:byte()) end))");
        let packed = packed.replace(' ', "");
        assert_eq!(run(&mut interpreter, &text), format!("${} {packed}", packed.len()), "{value}");
    }
    for (text, reply) in [
        (
            "local t = cmsgpack.unpack(cmsgpack.pack({1, {a='x'}, 2.5, true})) return {t[1], t[2].a, t[3] * 2, t[4]}",
            "*4 :1 $1 x :5 :1",
        ),
        ("return {cmsgpack.unpack('\\1\\2\\3')}", "*3 :1 :2 :3"),
        ("return {cmsgpack.unpack('')}", "*0"),
        ("return {cmsgpack.unpack_one('\\1\\2\\3', 1)}", "*2 :2 :2"),
        ("return {cmsgpack.unpack_one('\\1\\2\\3', 2)}", "*2 :-1 :3"),
        ("return {cmsgpack.unpack_limit('\\1\\2\\3', 2)}", "*3 :2 :1 :2"),
        ("return {cmsgpack.unpack_limit('\\1\\2\\3', 0)}", "*3 :1 :2 :3"),
        ("return cmsgpack.unpack('\\207\\255\\255\\255\\255\\255\\255\\255\\255')", ":-1"),
        ("return #cmsgpack.unpack(cmsgpack.pack(('x'):rep(70000)))", ":70000"),
        ("local t = {} for i = 1, 20000 do t[i] = i end return #cmsgpack.unpack(cmsgpack.pack(t))", ":20000"),
        (
            "local a, n = {}, 0 a[1] = a local t = cmsgpack.unpack(cmsgpack.pack(a)) while t do t, n = t[1], n + 1 end return n",
            ":16",
        ),
    ] {
        assert_eq!(run(&mut interpreter, text), reply, "{text}");
    }
    for (text, why) in [
        ("return cmsgpack.pack()", "bad argument #0 to 'pack' (MessagePack pack needs input.)"),
        ("return cmsgpack.unpack()", "bad argument #1 to 'unpack' (string expected, got no value)"),
        ("return cmsgpack.unpack_limit('x')", "bad argument #2 to 'unpack_limit' (number expected, got no value)"),
        ("return cmsgpack.unpack('\\221')", "Missing bytes in input."),
        ("return cmsgpack.unpack('\\221\\255\\255\\255\\255')", "Missing bytes in input."),
        ("return cmsgpack.unpack('\\193')", "Bad data format in input."),
        ("return cmsgpack.unpack_one('x', 2)", "Start offset 2 greater than input length 1."),
        ("return cmsgpack.unpack_one('x', -1)", "Invalid request to unpack with offset of -1 and limit of 1."),
        (
            "return cmsgpack.unpack(('\\1'):rep(9000))",
            "stack overflow (too many return values at once; use unpack_one or unpack_limit instead.)",
        ),
        ("return cmsgpack.unpack('\\129\\192\\1')", "table index is nil"),
        ("return cmsgpack.unpack(('\\145'):rep(1e5))", "Too many nested tables in input."),
        (
            "local t = ('x'):rep(1e4) for i = 1, 15 do t = {t, t, t, t} end return cmsgpack.pack(t)",
            "Cannot pack, more than 33554432 bytes",
        ),
    ] {
        let told = run(&mut interpreter, text);
        assert!(told.starts_with(&format!("-ERR user_script:1: {why} script: ")), "{text}: {told}");
    }
    // As many empty tables as fit into less than the memory of a script do not.
    let told = run(&mut interpreter, "return #cmsgpack.unpack('\\221\\0\\16\\0\\0' .. ('\\144'):rep(2^20))");
    assert!(told.contains("not enough memory"), "{told}");
}

#[test]
fn errors_of_scripts_say_what_and_where() {
    let mut interpreter = interpreter();
    let commands_refused = [
        ("return redis.call('incr',KEYS[2])", "ERR value is not an integer or out of range", 1),
        ("\nredis.call('nosuch')", "ERR Unknown Redis command called from script", 2),
        ("redis.call('get')", "ERR Wrong number of args calling Redis command from script", 1),
        ("redis.call('multi')", "ERR This Redis command is not allowed from script", 1),
        ("redis.call('keys','*')", "ERR This Redis command is not allowed from script", 1),
        ("redis.call('get',{})", "ERR Lua redis lib command arguments must be strings or integers", 1),
        ("error('boom')", "ERR user_script:1: boom", 1),
        ("error({err='MY boom'})", "MY boom", 1),
        ("\n\nlocal t = {} return t.x.y", "ERR user_script:3: attempt to index field 'x' (a nil value)", 3),
        ("x = 1", "ERR user_script:1: Attempt to modify a readonly table", 1),
        ("setmetatable(_G, {})", "ERR Attempt to modify a readonly table", 1),
        ("redis.call = 1", "ERR user_script:1: Attempt to modify a readonly table", 1),
        ("getmetatable(_G).__index = 1", "ERR user_script:1: Attempt to modify a readonly table", 1),
        ("return x", "ERR user_script:1: Script attempted to access nonexistent global variable 'x'", 1),
        ("local a = string.find('a', '[')", "ERR user_script:1: malformed pattern (missing ']')", 1),
        ("local a = unpack(1)", "ERR user_script:1: bad argument #1 to 'unpack' (table expected)", 1),
        ("return io", "ERR user_script:1: Script attempted to access nonexistent global variable 'io'", 1),
        ("return os", "ERR user_script:1: Script attempted to access nonexistent global variable 'os'", 1),
        ("print('x')", "ERR user_script:1: Script attempted to access nonexistent global variable 'print'", 1),
        ("return cjson.encode(0/0)", "ERR user_script:1: Cannot serialise number: must not be NaN or Inf", 1),
        ("return redis.setresp('x')", "ERR RESP version must be 2 or 3.", 1),
        ("return redis.setresp()", "ERR redis.setresp() requires one argument.", 1),
        ("return redis.sha1hex()", "ERR wrong number of arguments", 1),
        ("return redis.log(1)", "ERR redis.log() requires two arguments or more.", 1),
        ("return redis.log('x', 'y')", "ERR First argument must be a number (log level).", 1),
        ("return redis.log(7, 'y')", "ERR Invalid debug level.", 1),
        ("return redis.set_repl()", "ERR redis.set_repl() requires two arguments.", 1),
        (
            "\nreturn redis.set_repl(99)",
            "ERR Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.",
            2,
        ),
        ("return redis.acl_check_cmd()", "ERR Please specify at least one argument for this redis lib call", 1),
        ("return redis.acl_check_cmd('nosuch')", "ERR Invalid command passed to redis.acl_check_cmd()", 1),
        ("return redis.acl_check_cmd({})", "ERR Lua redis lib command arguments must be strings or integers", 1),
        ("return bit.lshift(1)", "ERR user_script:1: bad argument #2 to 'lshift' (number expected, got no value)", 1),
        ("return bit.tobit('x')", "ERR user_script:1: bad argument #1 to 'tobit' (number expected, got string)", 1),
        ("for k in pairs(1) do end", "ERR user_script:1: bad argument #1 to 'pairs' (table expected, got number)", 1),
        ("for k in pairs(redis) do redis[k] = 1 end", "ERR user_script:1: Attempt to modify a readonly table", 1),
        ("local f, t = pairs(redis) t.call = 1", "ERR user_script:1: Attempt to modify a readonly table", 1),
        (
            "#!lua flags=no-writes\nreturn redis.call('set',KEYS[1],1)",
            "ERR Write commands are not allowed from read-only scripts.",
            2,
        ),
    ];
    for (text, why, line) in commands_refused {
        let sha = Sha::of(text.as_bytes());
        let told = format!("-{why} script: {sha}, on @user_script:{line}.");
        assert_eq!(run(&mut interpreter, text), told, "{text}");
    }
    let told = run(&mut interpreter, "return 1 +");
    assert!(told.starts_with("ended: ERR Error compiling script (new function): user_script:1:"), "{told}");
    for (text, why) in [
        ("#!perl\nreturn 1", "ERR Unexpected engine in script shebang: #!perl"),
        ("#!lua flags=bad\nreturn 1", "ERR Unexpected flag in script shebang: bad"),
        ("#!lua x=y\nreturn 1", "ERR Unknown lua shebang option: x=y"),
        ("#!lua", "ERR Invalid script shebang"),
    ] {
        assert_eq!(Script::read(text.as_bytes()).unwrap_err(), why, "{text}");
    }
}

#[test]
fn only_ids_among_the_keys_are_used() {
    let mut interpreter = interpreter();
    for text in
        ["return redis.call('get','other')", "return redis.call('set','other',1)", "redis.call('del','k','other')"]
    {
        let mut all = messages();
        let told = run_on(&mut interpreter, text, &mut all).unwrap();
        assert!(told.contains("not among the KEYS"), "{text}: {told}");
        assert!(!all.exists(&id("other")) && all.exists(&id("k")), "{text}");
    }
}

#[test]
fn what_a_script_wrote_before_an_error_of_its_own_stays_and_what_one_that_was_ended_wrote_does_not() {
    let mut interpreter = interpreter();
    let mut all = messages();
    let told = run_on(&mut interpreter, "redis.call('set',KEYS[1],1) error('x')", &mut all).unwrap();
    assert!(told.starts_with("-ERR user_script:1: x"), "{told}");
    assert_eq!(all.get(&id("k")).unwrap(), "1");
    let told = run_on(&mut interpreter, "redis.call('set',KEYS[1],2) while true do end", &mut all).unwrap_err();
    assert_eq!(told, "ERR the script took more than 5000000 steps, and was ended; nothing was written");
    assert_eq!(all.get(&id("k")).unwrap(), "1");
}

#[test]
fn nothing_goes_on_for_ever() {
    let mut interpreter = interpreter();
    for text in [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "while true do pcall(error) end",
        "while true do xpcall(function() while true do end end, function() return 1 end) end",
        "xpcall(function() while true do end end, function() while true do end end)",
        "local f f = function() return f() end f()",
        "local c = coroutine.wrap(function() while true do end end) while true do pcall(c) end",
        "local function g() while true do end end while true do coroutine.resume(coroutine.create(g)) end",
        "string.gsub(string.rep('x', 1000), '.', function() while true do end end)",
        "setmetatable({}, {__index = function() while true do end end}).x()",
        "table.sort({1,2,3}, function() while true do end end)",
        "return loadstring('while true do end')()",
    ] {
        let told = run(&mut interpreter, text);
        assert!(told.contains("steps, and was ended; nothing was written"), "{text}: {told}");
        assert_eq!(run(&mut interpreter, "return 1"), ":1", "after {text}");
    }
}

#[test]
fn very_many_arguments_are_taken() {
    let mut many = call("return #ARGV");
    many.args = vec![Bytes::from("x"); 20_000];
    let told = interpreter().run(&many, &Killed::default(), &mut messages());
    assert_eq!(told, Ok(crate::protocol::resp::Value::Integer(20_000)));
}

#[test]
fn memory_is_bounded() {
    let mut interpreter = interpreter();
    for text in [
        "return #string.rep('x', 1e9)",
        "local t = {} while true do t[#t + 1] = string.rep('x', 1000) .. #t end",
        "local s = 'x' while true do s = s .. s end",
        "local t = {} while true do t = {t} end",
        "return redis.call('echo', string.rep('x', 3e6)) .. redis.call('echo', string.rep('y', 3e6))",
    ] {
        let mut all = messages();
        let text = format!("redis.call('set', KEYS[1], 'changed') {text}");
        let told = run_on(&mut interpreter, &text, &mut all).unwrap_err();
        assert!(told.contains("not enough memory") && told.ends_with("nothing was written"), "{text}: {told}");
        assert_eq!(all.get(&id("k")).unwrap(), "10", "{text}");
        assert_eq!(run(&mut interpreter, "return 1"), ":1", "after {text}");
    }
}

#[test]
fn a_script_leaves_nothing_for_the_next() {
    let mut interpreter = interpreter();
    for text in [
        "table.insert(redis, 'left') table.insert(_G, 'left') return 1",
        "pcall(rawset, _G, 'left', 1) pcall(rawset, string, 'left', 1) return 1",
        "pcall(rawset, getmetatable(_G), 'left', 1) table.insert(getmetatable(_G), 1) return 1",
        "pcall(function() getmetatable('').__index = function() return 1 end end) return 1",
        "pcall(function() string.upper = 1 end) return 1",
    ] {
        assert_eq!(run(&mut interpreter, text), ":1", "{text}");
    }
    let looks = "local m = getmetatable(_G) \
                 return {redis[1] or 0, rawget(_G,'left') or 0, _G[1] or 0, string.left or 0, rawget(m,'left') or 0, #m, ('x'):upper()}";
    let told = run(&mut interpreter, &looks.replace("_G[1] or 0", "rawget(_G,1) or 0"));
    assert_eq!(told, "*7 :0 :0 :0 :0 :0 :0 $1 X");
}

/// What a Lua 5.1 as it comes does not survive, or did not in one of its releases.
#[test]
fn nothing_takes_the_process_along() {
    let (mut interpreter, mut wrong) = (interpreter(), Vec::new());
    for (text, told) in [
        ("return {unpack({1,2,3}, -2, 2147483647)}", "too many results"),
        ("return {unpack({}, 0, 2^53)}", "too many results"),
        ("return {unpack({}, 1, 0/0)}", "too many results"),
        ("return {unpack({}, 1, 1/0)}", "too many results"),
        ("return {unpack({}, -1/0, 1)}", "too many results"),
        ("return {unpack(1)}", "table expected"),
        ("return {unpack({1,2,3})}", "*3 :1 :2 :3"),
        ("return #{unpack({}, 1, 7000)}", ":0"),
        ("return string.find(string.rep('a', 1e5), string.rep('a?', 1e5))", "at most 4096"),
        ("return (string.rep('a', 1e5)):gsub(string.rep('a?', 1e5), '')", "at most 4096"),
        ("return string.find(string.rep('a', 5e3), string.rep('a', 5e3), 1, true)", ":1"),
        ("return string.find(string.rep('a', 2048), string.rep('a?', 2048))", ":1"),
        ("return string.find(string.rep('a', 40), string.rep('(a)', 40))", "too many captures"),
        ("return string.gsub('x', '%', 'y')", "malformed pattern"),
        ("return string.format('%' .. string.rep('0', 1000) .. 'd', 1)", "invalid format"),
        ("return string.format('%s')", "bad argument #2"),
        ("return string.byte('abc', -2^31, 2^31 - 1)", ":97"),
        ("return string.rep('x', -1)", "$0"),
        ("return loadstring('return ' .. string.rep('(', 1e4) .. '1' .. string.rep(')', 1e4)) == nil", ":1"),
        ("local function f(n) return n == 0 or (pcall(f, n - 1)) end return f(1000)", ":1"),
        ("local t = {} for i = 1, 200 do t = {t} end return cjson.encode(t)", "$402"),
        ("local t = {} t[1] = t return cjson.encode(t)", "excessive nesting (1001)"),
        ("local t = {} t[1] = t return t", "reached lua stack limit"),
        ("local t = {} for i = 1, 60 do t = {t, t} end return t", "its reply takes more than"),
        (
            "local t = {ok=string.rep('x', 1e6)} local all = {} for i = 1, 100 do all[i] = t end return all",
            "its reply takes more than",
        ),
        ("local t = {} for i = 1, 60 do t = {t, t} end return cjson.encode(t)", "more than 33554432 bytes"),
        ("for i = 1, 1e5 do redis.log(redis.LOG_DEBUG, i) end return 1", ":1"),
        ("return cjson.decode(string.rep('[', 1e5))", "too many nested data structures (1001) at character 1001"),
        ("local c c = coroutine.wrap(function() return c() end) return c()", "cannot resume"),
        ("local function f(n) return coroutine.wrap(function() return f(n + 1) end)() end return f(1)", "overflow"),
        ("setmetatable({}, {__index = function(t, k) return t[k] end}).x()", "stack overflow"),
        ("error(setmetatable({}, {__index = function() error('again') end}))", "-"),
        ("error(redis)", "-"),
        ("return tostring(setmetatable({}, {__tostring = function() return 1 end}))", ":1"),
        ("return table.concat({1, {}, 3})", "-"),
        ("table.sort({3, 1, 2, 5, 4}, function() return true end) return 1", ""),
        ("return redis.call('set', KEYS[1], string.rep('x', 2e6))", "not enough memory"),
        ("return redis.call(unpack({}, 1, 7000))", "must be strings or integers"),
        ("return redis.call(redis.call)", "must be strings or integers"),
    ] {
        let seen = run(&mut interpreter, text);
        if !seen.contains(told) || run(&mut interpreter, "return 1") != ":1" {
            wrong.push(format!("{text}: {seen}, wanted {told}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn bytes_of_another_compiler_are_not_run() {
    let told =
        run(&mut interpreter(), "return {loadstring(string.char(27)..'LuaQ'), load(function() return nil end)()}");
    assert_eq!(told, "*0");
    assert_eq!(run(&mut interpreter(), "return loadstring(string.dump(function() end))"), "$-1");
    assert!(run(&mut interpreter(), "\u{1b}LuaQ").starts_with("ended: ERR Error compiling script"));
}

#[tokio::test]
async fn threads_end_what_is_killed_and_are_replaced_where_that_does_not_end() {
    let meters = Arc::<ScriptMeters>::default();
    let pool = Pool::new(Limits { time: Duration::from_millis(50), ..SMALL }, meters.clone());
    let (begun, beginning) = mpsc::channel();
    let (release, held) = mpsc::channel::<()>();
    let stuck = pool.run(move |_, _| {
        begun.send(()).unwrap();
        held.recv()
    });
    let told = stuck.await.unwrap_err();
    beginning.recv().unwrap();
    assert!(told.to_string().contains("cannot be interrupted; nothing was written"), "{told}");
    let gauge = |of: &AtomicUsize| of.load(Ordering::Relaxed);
    assert_eq!((gauge(&meters.stuck), gauge(&meters.running), meters.counts()[2]), (1, 0, ("ended", 1)));
    // Its thread is stuck: the others, and one that took its place, go on.
    for _ in 0..10 {
        assert_eq!(pool.run(|_, _| 5).await, Ok(5));
    }
    release.send(()).unwrap();
    assert_eq!(pool.kill(), 0);
    while gauge(&meters.stuck) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn threads_that_are_stuck_are_so_many_and_no_more() {
    let meters = Arc::<ScriptMeters>::default();
    let pool = Pool::new(Limits { time: Duration::from_millis(50), ..SMALL }, meters.clone());
    let (begun, beginning) = mpsc::channel();
    let held = Arc::new(AtomicBool::new(true));
    for _ in 0..20 {
        let (begun, held) = (begun.clone(), held.clone());
        let stuck = move |_: &mut Interpreter, _: &Killed| {
            begun.send(()).unwrap();
            while held.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
        };
        assert!(pool.run(stuck).await.is_err());
    }
    assert_eq!(beginning.try_iter().count(), 8, "four that run, and four in their place");
    assert_eq!(pool.run(|_, _| 5).await, Err(Refusal::Busy(BUSY)));
    held.store(false, Ordering::Relaxed);
    // As they end others are started.
    while pool.run(|_, _| 5).await != Ok(5) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_finds_no_thread_is_told_so_and_not_begun() {
    let meters = Arc::<ScriptMeters>::default();
    let pool = Pool::new(SMALL, meters.clone());
    let mut all = Vec::new();
    let (begun, beginning) = mpsc::channel();
    for _ in 0..4 {
        let (pool, begun) = (pool.clone(), begun.clone());
        let busy = move |_: &mut Interpreter, killed: &Killed| {
            begun.send(()).unwrap();
            while !killed.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
        };
        all.push(tokio::spawn(async move { pool.run(busy).await }));
    }
    while beginning.try_recv().is_err() {
        tokio::task::yield_now().await;
    }
    let ran = Arc::new(AtomicBool::new(false));
    let runs = ran.clone();
    // Once all four are at work.
    loop {
        let runs = runs.clone();
        match pool.run(move |_, _| runs.store(true, Ordering::Relaxed)).await {
            Ok(()) => ran.store(false, Ordering::Relaxed),
            Err(told) => {
                assert_eq!(told, Refusal::Busy(BUSY));
                break;
            }
        }
    }
    assert_eq!(pool.kill(), 4);
    for busy in all {
        assert_eq!(busy.await.unwrap(), Ok(()));
    }
    assert_eq!(pool.run(|_, _| 5).await, Ok(5));
    assert!(!ran.load(Ordering::Relaxed));
    assert_eq!(meters.counts()[3], ("busy", 1));
}

#[tokio::test]
async fn scripts_are_counted_by_how_they_end() {
    let meters = Arc::<ScriptMeters>::default();
    let pool = Pool::new(SMALL, meters.clone());
    for text in ["return 1", "return 2", "error('x')", "while true do end"] {
        let run = move |interpreter: &mut Interpreter, killed: &Killed| {
            drop(interpreter.run(&call(text), killed, &mut messages()));
        };
        assert_eq!(pool.run(run).await, Ok(()));
    }
    assert_eq!(meters.counts(), [("ok", 2), ("failed", 1), ("ended", 1), ("busy", 0)]);
}

#[tokio::test]
async fn scripts_are_kept_by_their_sums() {
    let meters = Arc::<ScriptMeters>::default();
    let scripts = Scripts::new(meters.clone());
    let first = scripts.load(b"return 1", Source::Evaluated).await.unwrap().sha;
    let loaded = scripts.load(b"return 'loaded'", Source::Loaded).await.unwrap().sha;
    assert_eq!(Sha::read(first.to_string().to_uppercase().as_bytes()), Some(first));
    assert_eq!(Sha::read(b"e0e1f9fabfc9d4800c877a703b823ac0578ff8d"), None);
    assert!(scripts.load(b"return +", Source::Loaded).await.is_err());
    for n in 0..MOST_EVALUATED {
        let text = format!("return {n} + 1");
        scripts.load(text.as_bytes(), Source::Evaluated).await.unwrap();
        if n == MOST_EVALUATED - 2 {
            assert!(scripts.find(&first).is_some(), "it is used again");
        }
    }
    assert!(scripts.is_known(&first) && scripts.is_known(&loaded));
    assert_eq!(meters.cached.load(Ordering::Relaxed), MOST_EVALUATED + 1);
    assert!(!scripts.is_known(&Sha::of(b"return 0 + 1")));
    scripts.flush();
    assert_eq!(meters.cached.load(Ordering::Relaxed), 0);
    assert!(!scripts.is_known(&first) && !scripts.is_known(&loaded));
}
