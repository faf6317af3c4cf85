//! Rules of users.

use hatokuse::acl::{Rule, User};
use hatokuse::protocol::table::{Access, COMMANDS};

/// Rules of any bytes make a user that is read as it was written, and whose rights can be asked for anything.
pub(crate) fn user(bytes: &[u8]) {
    let mut user = User::fresh();
    for word in bytes.split(|byte| *byte == b' ') {
        let Ok(rule) = Rule::read(word) else { continue };
        // A hash takes long, and is looked at elsewhere.
        let takes_long = match &rule {
            Rule::Add(_) | Rule::Remove(_) => true,
            Rule::AddHash(hash) | Rule::RemoveHash(hash) => !hash.starts_with('$'),
            _ => false,
        };
        if !takes_long {
            let _ = user.change(&rule, [0; 16]);
        }
    }
    let read = User::read(&user.text()).expect("it was written");
    assert_eq!(read, user);
    let words: Vec<&[u8]> = bytes.split(|byte| *byte == b' ').take(8).collect();
    for spec in COMMANDS.iter().filter(|spec| spec.takes(words.len())) {
        let allowed = read.check(spec, &words).is_ok();
        assert!(allowed || !read.may_all());
    }
    assert!(read.may(bytes, Access::LOOK) || !read.may(bytes, Access::BOTH));
}
