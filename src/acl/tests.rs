use proptest::prelude::*;

use super::*;
use crate::protocol::table::{self, Access, COMMANDS, Op, leaves};

/// A user that these rules make.
fn user(rules: &str) -> User {
    try_user(rules).unwrap_or_else(|why| panic!("{rules}: {why}"))
}

fn try_user(rules: &str) -> Result<User, BadRule> {
    let mut user = User::fresh();
    for word in rules.split_whitespace() {
        user.change(&Rule::read(word.as_bytes())?, [7; 16])?;
    }
    Ok(user)
}

fn check(user: &User, line: &str) -> Result<(), Denied> {
    let words: Vec<&str> = line.split(' ').collect();
    user.check(table::find(words[0].as_bytes()).unwrap(), &words)
}

/// What a Redis 7.0.15 said of these; what it says of a user after several changes of subcommands is its own.
#[test]
fn rules_about_commands_are_written_as_redis_writes_them() {
    for (rules, written) in [
        ("", "-@all"),
        ("+@all", "+@all"),
        ("allcommands", "+@all"),
        ("+@all nocommands", "-@all"),
        ("+@all -client|kill", "+@all -client|kill"),
        ("+@all -client +client|id +client|setname", "+@all -client +client|id +client|setname"),
        ("-@all +acl +config -config|set", "-@all +acl +config -config|set"),
        ("+memory|usage +memory", "-@all +memory"),
        ("+memory|usage +memory +@all +client|id", "+@all"),
        ("+@all -memory|usage -memory", "+@all -memory"),
        ("+@all -@string +incr", "+@all -@string +incr"),
        ("+@string -incr +acl", "-@all +@string -incr +acl"),
        ("+@ALL -GET +get", "+@all"),
        ("+@hash", "-@all +@hash"),
    ] {
        assert_eq!(user(rules).commands(), written, "{rules}");
    }
}

#[test]
fn a_rule_that_is_wrong_says_why() {
    for (rule, why) in [
        ("+nosuch", "Unknown command"),
        ("+@nosuch", "Unknown command"),
        ("-config|nosuch", "Unknown command"),
        ("+get|key1|key2", "Unknown command"),
        ("+config|get|appendonly", "first-arg"),
        ("+select|0", "first-arg"),
        ("+config|", "Syntax"),
        ("+", "Unknown command"),
        ("", "Syntax"),
        ("onn", "Syntax"),
        ("%~a", "Syntax"),
        ("%RR~a", "Syntax"),
        ("%X~a", "Syntax"),
        ("~a\u{b}b", "Syntax"),
        ("&*", "channels"),
        ("allchannels", "channels"),
        ("(+get", "selectors"),
    ] {
        let told = Rule::read(rule.as_bytes()).unwrap_err().to_string();
        assert!(told.contains(why), "{rule}: {told}");
    }
    assert_eq!(try_user("~* ~a"), Err(BadRule::AfterAllKeys));
    assert_eq!(try_user("<never"), Err(BadRule::NoSuchPassword));
    assert_eq!(Rule::read(&[b"~".as_slice(), &[b'a'; 3000]].concat()), Err(BadRule::LongPattern));
}

#[test]
fn a_user_is_let_in_by_its_passwords() {
    let right = |user: &User, password: &[u8]| user.passwords().iter().any(|hash| hash.is_of(password));
    let two = user("on >one >two >one");
    assert_eq!(two.passwords().len(), 2, "a password is kept once");
    assert!(right(&two, b"one") && right(&two, b"two") && !right(&two, b"three"));
    let one = user("on >one >two <one");
    assert!(!right(&one, b"one") && right(&one, b"two"));
    let hash = one.passwords()[0].to_string();
    assert!(right(&user(&format!("#{hash}")), b"two"));
    assert!(user(&format!("#{hash} !{hash}")).passwords().is_empty());
    let any = user("on >one nopass");
    assert!(any.takes_any_password() && any.passwords().is_empty());
    assert!(!user("nopass >one").takes_any_password() && !user("nopass resetpass").takes_any_password());
    let many: String =
        (0..17).map(|n| format!(" #{}", hash.replace(&hash[..32], &format!("{}{n:02}", &hash[..30])))).collect();
    assert!(try_user(&many).is_err());
}

/// Every command, with each of its ids forbidden in turn: the rest of them may be named.
#[test]
fn a_forbidden_id_is_seen_wherever_it_stands() {
    let mut seen = 0;
    for spec in COMMANDS.iter().filter(|spec| spec.op != Op::OtherProtocol) {
        for line in requests_of(spec.name) {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let places: Vec<usize> = spec.key_places(&words).unwrap().collect();
            let own = user("+@all ~own:*");
            assert_eq!(own.check(spec, &words), Ok(()), "{line}");
            for (nth, place) in places.iter().enumerate() {
                let mut words = words.clone();
                words[*place] = "others:1".to_owned();
                assert_eq!(own.check(spec, &words), Err(Denied::Key(*place)), "{words:?}");
                seen += 1;
                // Rights of the wrong kind are none.
                let access = spec.access(&words, nth);
                for (rule, has) in [("%R~", Access::READ), ("%W~", Access::WRITE)] {
                    let one = user(&format!("+@all ~own:* {rule}others:*"));
                    let allowed = (has.read || !access.read) && (has.write || !access.write);
                    assert_eq!(one.check(spec, &words).is_ok(), allowed, "{rule} {words:?}");
                }
            }
        }
    }
    assert!(seen > 90, "{seen}");
}

/// Requests of a command, with all ids that one can name, which begin with `own:`.
fn requests_of(name: &str) -> Vec<String> {
    let spec = table::find(name.as_bytes()).unwrap();
    let line = |rest: &str| format!("{name} {rest}").trim_end().to_owned();
    match name {
        "SET" => ["own:1 x", "own:1 x GET", "own:1 x EX 10 XX", "own:1 x IFEQ y"].map(line).to_vec(),
        "MSET" | "MSETNX" => vec![line("own:1 x own:2 y own:3 z")],
        "MSETEX" => vec![line("2 own:1 x own:2 y EX 10")],
        "BITOP" => vec![line("AND own:1 own:2 own:3 own:4")],
        "BITFIELD" => ["own:1 GET u8 0", "own:1 SET u8 0 1", "own:1 GET u8"].map(line).to_vec(),
        "EVAL" | "EVALSHA" | "EVAL_RO" | "EVALSHA_RO" => vec![line("x 3 own:1 own:2 own:3 others:1")],
        "DELEX" => ["own:1", "own:1 IFEQ x"].map(line).to_vec(),
        "OBJECT" => ["ENCODING own:1", "FREQ own:1", "HELP"].map(line).to_vec(),
        "MEMORY" => ["USAGE own:1", "USAGE own:1 SAMPLES 5", "HELP"].map(line).to_vec(),
        "COPY" => ["own:1 own:2", "own:1 own:2 REPLACE"].map(line).to_vec(),
        _ if spec.keys == (0, 0, 0) => vec![line("")],
        _ if spec.keys.1 < 0 => vec![line("own:1"), line("own:1 own:2 own:3")],
        _ => {
            let words = spec.arity.unsigned_abs() as i32 - 1;
            let ids = (1..=spec.keys.1).map(|n| format!("own:{n}"));
            let rest = (spec.keys.1..words.max(spec.keys.1)).map(|n| n.to_string());
            vec![line(&ids.chain(rest).collect::<Vec<_>>().join(" "))]
        }
    }
}

#[test]
fn what_is_done_to_an_id_is_what_redis_says() {
    for (rights, allowed, denied) in [
        (
            "%R~a",
            "GET a,MGET a a,STRLEN a,EXISTS a,TTL a,TYPE a,WHERE a,WATCH a,BITFIELD a GET u8 0,LCS a a",
            "SET a x,DEL a,INCR a,EXPIRE a 1,GETDEL a,GETEX a,BITFIELD a SET u8 0 1,COPY a a,RENAME a a,EVAL x 1 a,DELEX a",
        ),
        (
            "%W~a",
            "SET a x,MSET a x,DEL a,APPEND a x,EXPIRE a 1,SETRANGE a 0 x,PERSIST a,EXISTS a,STRLEN a,DELEX a,SET a x NX",
            "GET a,INCR a,SET a x GET,SET a x IFEQ y,GETSET a x,SETBIT a 0 1,TTL a,DELEX a IFEQ x,BITOP AND a a,EVAL_RO x 1 a",
        ),
        ("%R~a %W~b", "COPY a b,BITOP AND b a,GET a,SET b x", "COPY b a,RENAME a b,INCR a,SET a x"),
        ("%R~a %W~a", "GET a,SET a x,INCR a", "GET b"),
        ("%R~a* %W~*a", "GET a", "INCR a"),
    ] {
        let user = user(&format!("+@all {rights}"));
        for line in allowed.split(',') {
            assert_eq!(check(&user, line), Ok(()), "{rights}: {line}");
        }
        for line in denied.split(',') {
            assert!(matches!(check(&user, line), Err(Denied::Key(_))), "{rights}: {line}");
        }
    }
}

#[test]
fn a_user_that_was_just_made_may_only_say_who_it_is() {
    let fresh = User::fresh();
    let may: Vec<String> = leaves()
        .filter(|leaf| fresh.may_run(leaf.spec, leaf.subcommand.map(str::as_bytes)))
        .map(|l| l.name())
        .collect();
    assert_eq!(may, ["auth", "exit", "quit", "hello", "reset"]);
    assert!(!fresh.is_enabled() && !fresh.may(b"a", Access::LOOK) && !fresh.may_all());
    assert!(User::almighty().may_all() && User::almighty() == user("on nopass ~* +@all"));
}

#[test]
fn subcommands_have_rights_of_their_own() {
    let one = user("+@all -client +client|id");
    assert_eq!(check(&one, "CLIENT ID"), Ok(()));
    assert_eq!(check(&one, "CLIENT KILL x"), Err(Denied::Command));
    assert_eq!(check(&user("+config"), "CONFIG GET x"), Ok(()));
    assert_eq!(check(&user("+config|get"), "CONFIG SET x y"), Err(Denied::Command));
}

#[test]
fn names_of_users() {
    for right in ["a", "default", "übung", "a:b@c", &"x".repeat(64)] {
        assert_eq!(UserName::from_bytes(right.as_bytes()).unwrap().as_str(), right);
    }
    for wrong in ["", "a b", "a\0", "a\n", &"x".repeat(65)] {
        assert!(wrong.parse::<UserName>().is_err(), "{wrong:?}");
    }
    assert!(UserName::from_bytes(b"\xff").is_err());
}

fn a_rule() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(leaves().map(|leaf| leaf.name()).collect::<Vec<_>>());
    let category = prop::sample::select(table::Category::ALL.iter().map(|one| one.name()).collect::<Vec<_>>());
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$AQEBAQEBAQEBAQEBAQEBAQ$AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";
    prop_oneof![
        8 => (any::<bool>(), leaf).prop_map(|(on, name)| format!("{}{name}", if on { '+' } else { '-' })),
        8 => (any::<bool>(), category).prop_map(|(on, name)| format!("{}@{name}", if on { '+' } else { '-' })),
        1 => prop::sample::select(vec!["+@all", "-@all", "reset"]).prop_map(str::to_owned),
        3 => prop::sample::select(vec!["on", "off", "nopass", "resetpass", "allkeys", "resetkeys"]).prop_map(str::to_owned),
        3 => "(~|%R~|%W~|%RW~)[a-c*?]{0,3}",
        1 => Just(format!("#{hash}")),
    ]
}

proptest! {
    /// What is kept of a user makes the same one again, whatever rules have made it.
    #[test]
    fn a_user_is_read_as_it_was_written(rules in proptest::collection::vec(a_rule(), 0..24)) {
        let mut user = User::fresh();
        for rule in &rules {
            // One that does not fit changes nothing of what is compared.
            let _ = user.change(&Rule::read(rule.as_bytes()).unwrap(), [0; 16]);
        }
        let read = User::read(&user.text()).unwrap();
        prop_assert_eq!(&read, &user, "{:?}", rules);
        prop_assert_eq!(read.text(), user.text());
    }

    /// No word, of whatever bytes, does more than to be refused.
    #[test]
    fn any_bytes_are_a_rule_or_none(word in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(rule) = Rule::read(&word) {
            prop_assert!(!matches!(rule, Rule::AllKeys | Rule::AllCommands(true)) || word.len() <= 11);
        }
    }
}
