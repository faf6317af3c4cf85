//! Changes of users: in the log before they are answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::{DEFAULT, Users};
use crate::acl::{Rule, Salt, User, UserName};
use crate::cluster::state::Event;
use crate::leader::coordinator::Coordinator;

/// Users that there may be.
const MOST_USERS: usize = 1024;

/// Bytes of the rules that make one.
const MOST_RULE_BYTES: usize = 64 << 10;

/// What is refused as it would leave nobody who could change users any more.
const LAST_ADMIN: &str = "after this nobody could change users any more: first let another user in who may run ACL \
     (on, a password, +acl); nothing was changed";

impl Users {
    /// Makes a user, or changes one by these rules.
    ///
    /// # Errors
    /// Why nothing was changed; or, where the log failed, what may have.
    pub async fn set(self: &Arc<Self>, leader: &Arc<Coordinator>, name: &[u8], words: &[Bytes]) -> Result<(), String> {
        let name = UserName::from_bytes(name).map_err(|why| format!("ERR {why}"))?;
        let _turn = self.changing.lock().await;
        let before = self.get(&name);
        if before.is_none() && self.all().len() >= MOST_USERS {
            return Err(format!("ERR there may be {MOST_USERS} users; nothing was changed"));
        }
        let has_file = name.as_str() == DEFAULT && self.file.is_some();
        let (words, was) = (words.to_vec(), before.map_or_else(User::fresh, |user| (*user).clone()));
        // Passwords take long to hash.
        let changed = self.logins.apart(move || changed(was, &words, has_file)).await;
        let user = changed.ok_or("ERR the rules cannot be worked on; nothing was changed")??;
        let text = user.text();
        if text.len() > MOST_RULE_BYTES {
            return Err(format!("ERR the rules of a user have up to {MOST_RULE_BYTES} bytes; nothing was changed"));
        }
        let all: BTreeMap<_, _> = self.all().into_iter().collect();
        let others = all.iter().filter(|(other, _)| **other != name).map(|(name, user)| (name, &**user));
        if !self.has_admin(others.chain([(&name, &user)])) {
            return Err(format!("ERR {LAST_ADMIN}"));
        }
        self.log(leader, vec![Event::User { name: name.to_string(), rules: Some(text) }]).await
    }

    /// Deletes users; gives those that there were.
    ///
    /// # Errors
    /// Why nothing was changed; or, where the log failed, what may have.
    pub async fn delete(self: &Arc<Self>, leader: &Arc<Coordinator>, names: &[Bytes]) -> Result<Vec<UserName>, String> {
        if names.iter().any(|name| &**name == DEFAULT.as_bytes()) {
            return Err("ERR The 'default' user cannot be removed".to_owned());
        }
        let _turn = self.changing.lock().await;
        let all: BTreeMap<_, _> = self.all().into_iter().collect();
        let mut gone: Vec<UserName> = names.iter().filter_map(|name| UserName::from_bytes(name).ok()).collect();
        gone.retain(|name| all.contains_key(name));
        gone.sort_unstable();
        gone.dedup();
        let left = all.iter().filter(|(name, _)| !gone.contains(name)).map(|(name, user)| (name, &**user));
        if !self.has_admin(left) {
            return Err(format!("ERR {LAST_ADMIN}"));
        }
        let events = gone.iter().map(|name| Event::User { name: name.to_string(), rules: None }).collect();
        self.log(leader, events).await.map(|()| gone)
    }

    /// It is carried out even if its client goes meanwhile.
    async fn log(self: &Arc<Self>, leader: &Arc<Coordinator>, events: Vec<Event>) -> Result<(), String> {
        let (users, order) = (self.clone(), leader.clone());
        let change = async move {
            let logged = order.ledger().append(&events).await;
            let was_open = users.are_open();
            // Also where the log failed: then it is for the next start to say, and nothing here has changed.
            users.load(order.cluster().state().users());
            if users.are_open() && !was_open {
                tracing::warn!(
                    "user default takes any password now: whoever reaches the ports for clients is that user"
                );
            }
            logged
        };
        let logged = leader.tasks.spawn(change).await;
        let logged = logged.map_err(|_| "UNKNOWN the leader failed while it wrote".to_owned())?;
        logged.map(drop).map_err(|why| format!("UNKNOWN {why}; the change may appear later: look with ACL GETUSER"))
    }
}

/// Follows the rules one by one.
fn changed(mut user: User, words: &[Bytes], has_file: bool) -> Result<User, String> {
    for word in words {
        let rule = Rule::read(word);
        if has_file && rule.as_ref().is_ok_and(Rule::is_about_passwords) {
            return Err("ERR the password of user default is that of --password-file: change it there; nothing was \
                        changed"
                .to_owned());
        }
        let followed = rule.and_then(|rule| user.change(&rule, salt().map_err(crate::acl::BadRule::Other)?));
        followed.map_err(|why| {
            // A word that may hold a password is not said again.
            let shown = match word.first() {
                Some(b'>' | b'<' | b'#' | b'!') => format!("{}***", char::from(word[0])),
                _ => crate::error::printable(word, 128),
            };
            format!("ERR Error in ACL SETUSER modifier '{shown}': {why}")
        })?;
    }
    Ok(user)
}

fn salt() -> Result<Salt, String> {
    let mut salt = Salt::default();
    SystemRandom::new().fill(&mut salt).map_err(|_| "the system has no random bytes".to_owned())?;
    Ok(salt)
}
