use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::acl::Rule;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn rules(text: &str) -> Vec<u8> {
    let mut user = User::fresh();
    for word in text.split_whitespace() {
        user.change(&Rule::read(word.as_bytes()).unwrap(), [1; 16]).unwrap();
    }
    user.text()
}

fn logged(users: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    users.iter().map(|(name, text)| ((*name).to_owned(), rules(text))).collect()
}

#[tokio::test]
async fn whoever_knows_the_password_is_let_in_and_nobody_else() {
    let users = Users::new(None, false);
    users.load(&logged(&[("alice", "on >secret ~a* +get"), ("off", "off >secret"), ("any", "on nopass")]));
    for (name, password, right) in [
        ("alice", "secret", true),
        ("alice", "secret", true),
        ("alice", "wrong", false),
        ("off", "secret", false),
        ("nobody", "secret", false),
        ("any", "whatever", true),
        ("default", "whatever", true),
        ("a b", "secret", false),
    ] {
        let told = users.log_in(name.as_bytes(), password.as_bytes(), HERE).await;
        assert_eq!(told.is_ok(), right, "{name} {password}");
        assert!(told.is_ok_and(|login| login.name().as_str() == name) == right);
    }
}

#[tokio::test]
async fn a_password_that_was_right_is_not_any_more_when_it_has_changed() {
    let users = Users::new(None, false);
    users.load(&logged(&[("alice", "on >one")]));
    assert!(users.log_in(b"alice", b"one", HERE).await.is_ok());
    users.load(&logged(&[("alice", "on >two")]));
    assert!(users.log_in(b"alice", b"one", HERE).await.is_err());
    assert!(users.log_in(b"alice", b"two", HERE).await.is_ok());
    users.load(&logged(&[]));
    assert!(users.log_in(b"alice", b"two", HERE).await.is_err());
}

/// Holds the thread that checks passwords until it is let go.
async fn held(users: &Arc<Users>) -> std::sync::mpsc::Sender<()> {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (begun, begins) = tokio::sync::oneshot::channel();
    let users = users.clone();
    tokio::spawn(async move {
        let hold = move || {
            let _ = begun.send(());
            let _ = wait.recv();
        };
        users.logins.apart(hold).await
    });
    begins.await.unwrap();
    go
}

#[tokio::test]
async fn a_password_that_waits_to_be_checked_is_held_against_what_its_user_is_then() {
    let changes = [vec![("alice", "on >two ~* +@all")], vec![("alice", "off >one")], vec![]];
    for change in changes {
        let users = Arc::new(Users::new(None, false));
        users.load(&logged(&[("alice", "on >one")]));
        let go = held(&users).await;
        let waiting = users.clone();
        let asked = tokio::spawn(async move { waiting.log_in(b"alice", b"one", HERE).await.map(drop) });
        tokio::task::yield_now().await;
        users.load(&logged(&change));
        go.send(()).unwrap();
        assert_eq!(asked.await.unwrap(), Err(NotLetIn::Wrong), "{change:?}");
    }
}

#[tokio::test]
async fn who_was_right_is_right_at_once_whatever_becomes_of_others() {
    let users = Arc::new(Users::new(None, false));
    users.load(&logged(&[("alice", "on >one")]));
    assert!(users.log_in(b"alice", b"one", HERE).await.is_ok());
    users.load(&logged(&[("alice", "on >one ~a"), ("bob", "on >two")]));
    // Nothing is hashed for it.
    let _go = held(&users).await;
    assert!(users.log_in(b"alice", b"one", HERE).await.is_ok());
}

#[tokio::test]
async fn many_who_come_at_once_from_one_address_and_are_right_are_let_in() {
    let users = Arc::new(Users::new(None, false));
    let names: Vec<String> = (0..40).map(|n| format!("user{n}")).collect();
    let all: Vec<_> = names.iter().map(|name| (name.as_str(), "on >one")).collect();
    users.load(&logged(&all));
    let log_in = |name: String| {
        let users = users.clone();
        tokio::spawn(async move { users.log_in(name.as_bytes(), b"one", HERE).await.map(drop) })
    };
    for asked in names.into_iter().map(log_in).collect::<Vec<_>>() {
        assert_eq!(asked.await.unwrap(), Ok(()));
    }
}

#[tokio::test]
async fn the_password_of_the_file_is_that_of_the_user_that_is_there_from_the_start() {
    let users = Users::new(Some("of the file"), false);
    assert!(users.anonymous().is_none() && !users.are_open());
    assert!(users.log_in(b"default", b"of the file", HERE).await.is_ok());
    assert!(users.log_in(b"default", b"of the fil", HERE).await.is_err());
    users.load(&logged(&[("default", "on nopass +@all ~*"), ("alice", "on >secret")]));
    assert!(users.anonymous().is_none(), "a file means that a password is asked for");
    users.load(&logged(&[("default", "off >own +@all ~*"), ("alice", "on >secret")]));
    assert!(users.log_in(b"default", b"of the file", HERE).await.is_err());
    assert!(users.log_in(b"alice", b"of the file", HERE).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn who_guesses_waits_longer_and_longer_and_hinders_nobody_else() {
    let users = Arc::new(Users::new(None, false));
    users.load(&logged(&[("alice", "on >secret")]));
    assert!(users.log_in(b"alice", b"secret", HERE).await.is_ok());
    let mut waited = Vec::new();
    for n in 0..8 {
        let began = tokio::time::Instant::now();
        assert_eq!(users.log_in(b"alice", format!("guess{n}").as_bytes(), HERE).await.unwrap_err(), NotLetIn::Wrong);
        waited.push(began.elapsed());
    }
    assert!(waited[..3].iter().all(|time| time.is_zero()), "{waited:?}");
    assert!(waited[3..].windows(2).all(|pair| pair[0] < pair[1]), "{waited:?}");
    // Who was right before is right at once, also from there.
    let began = tokio::time::Instant::now();
    assert!(users.log_in(b"alice", b"secret", HERE).await.is_ok());
    assert!(began.elapsed().is_zero());
    // Too many at once are turned away, and other addresses are not.
    let guess = |n: u32| {
        let users = users.clone();
        tokio::spawn(async move { users.log_in(b"alice", format!("more{n}").as_bytes(), HERE).await.map(drop) })
    };
    let guesses: Vec<_> = (0..20).map(guess).collect();
    let mut told = Vec::new();
    for guess in guesses {
        told.push(guess.await.unwrap().unwrap_err());
    }
    assert_eq!(told.iter().filter(|why| **why == NotLetIn::TooMany).count(), 12, "{told:?}");
    let began = tokio::time::Instant::now();
    let other = IpAddr::from([192, 0, 2, 2]);
    assert_eq!(users.log_in(b"alice", b"guess", other).await.unwrap_err(), NotLetIn::Wrong);
    assert!(began.elapsed().is_zero());
    // After a while it is as at first.
    tokio::time::advance(Duration::from_secs(61)).await;
    let began = tokio::time::Instant::now();
    assert!(users.log_in(b"alice", b"guess", HERE).await.is_err());
    assert!(began.elapsed().is_zero());
}

#[test]
fn rules_that_cannot_be_read_make_nobody() {
    let users = Users::new(None, true);
    let logged = BTreeMap::from([
        ("alice".to_owned(), b"on nopass ~* +@all +ofalaterversion".to_vec()),
        ("default".to_owned(), b"\xff".to_vec()),
    ]);
    users.load(&logged);
    assert!(users.anonymous().is_none() && users.of_certificate("alice").is_none());
    let alice = users.get(&"alice".parse().unwrap()).unwrap();
    assert!(!alice.is_enabled() && !alice.may_all());
}

#[test]
fn a_certificate_lets_in_a_user_of_its_name() {
    let users = Users::new(None, true);
    users.load(&logged(&[("alice", "on ~a* +get"), ("off", "off +@all ~*")]));
    let name = |users: &Users, of: &str| users.of_certificate(of).map(|login| login.name().to_string());
    assert_eq!(name(&users, "alice").as_deref(), Some("alice"));
    assert_eq!(name(&users, "off"), None, "who is off is not let in as another one");
    for stranger in ["nobody", "default", "", "a b"] {
        assert_eq!(name(&users, stranger).as_deref(), Some("default"), "{stranger}");
    }
    let without = Users::new(None, false);
    without.load(&logged(&[("alice", "on ~a* +get"), ("default", "off")]));
    assert_eq!([name(&without, "alice"), name(&without, "nobody")], [None, None]);
}

#[test]
fn a_connection_notices_that_its_user_has_changed_or_is_gone() {
    let users = Users::new(None, true);
    users.load(&logged(&[("alice", "on ~a* +get")]));
    let mut login = users.of_certificate("alice").unwrap();
    users.load(&logged(&[("alice", "on ~b* +get")]));
    assert!(login.refresh(&users) && login.user().may(b"b", crate::protocol::table::Access::READ));
    users.load(&logged(&[]));
    assert!(!login.refresh(&users));
}

#[test]
fn what_was_denied_is_kept_and_the_same_is_counted() {
    let denials = Denials::default();
    let note = |object: &str, user: &str| {
        denials.note((Reason::Key, Context::Multi), object.as_bytes(), user, || "id=1".to_owned());
    };
    (0..3).for_each(|_| note("a", "alice"));
    note("a", "bob");
    note("a", "alice");
    let shown: Vec<_> = denials.newest(9).iter().map(|one| (one.user.clone(), one.count)).collect();
    assert_eq!(shown, [("alice".to_owned(), 4), ("bob".to_owned(), 1)]);
    (0..1000).for_each(|n| note(&n.to_string(), "alice"));
    assert_eq!(denials.newest(usize::MAX).len(), 128);
    assert_eq!(denials.counts(), [("auth", 0), ("command", 0), ("key", 1005)]);
    denials.reset();
    assert!(denials.newest(9).is_empty());
}
