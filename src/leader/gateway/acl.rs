//! ACL: who may do what.

use ring::rand::{SecureRandom as _, SystemRandom};

use super::OK;
use super::help;
use super::refused::{NOT_AN_INTEGER, error, wrong_number};
use super::rights::full_name;
use super::session::Session;
use crate::acl::{Denied, User, UserName};
use crate::leader::users::Denial;
use crate::protocol::resp::{Value, Words, number};
use crate::protocol::table::{self, Category};

/// Bits of a password that ACL GENPASS makes, if it is not said, and at most.
const USUAL_BITS: i64 = 256;
const MOST_BITS: i64 = 4096;

/// Entries of the log that are shown, if it is not said how many.
const USUAL_ENTRIES: i64 = 10;

/// There is no file: what is changed is in the leader's log at once.
const NO_FILE: &str = "ERR there is no ACL file here: users are in the leader's log as soon as ACL SETUSER has answered, and need no SAVE";

impl Session {
    pub(super) async fn acl(&mut self, words: &Words) -> Result<Value, String> {
        let users = self.rights.users().clone();
        match (words[1].to_ascii_uppercase().as_slice(), words.len()) {
            (b"HELP", 2) => Ok(help::of("ACL", help::ACL)),
            (b"WHOAMI", 2) => Ok(self.rights.name().map_or(Value::Nil, |name| Value::text(name.as_str()))),
            (b"CAT", 2) => Ok(Value::Array(Category::ALL.iter().map(|one| Value::text(one.name())).collect())),
            (b"CAT", 3) => {
                let unknown = || format!("ERR Unknown category '{}'", crate::error::printable(&words[2], 128));
                let category = Category::find(&words[2]).ok_or_else(unknown)?;
                Ok(Value::Array(category.commands().map(|leaf| Value::text(leaf.name())).collect()))
            }
            (b"GENPASS", 2 | 3) => generate(words.get(2).map(|word| number(word))),
            (b"USERS", 2) => Ok(Value::Array(users.all().iter().map(|(name, _)| Value::text(name.as_str())).collect())),
            (b"LIST", 2) => Ok(Value::Array(users.all().iter().map(|(name, user)| line(name, user)).collect())),
            (b"GETUSER", 3) => Ok(users.find(&words[2]).map_or(Value::Nil, |user| described(&user))),
            (b"SETUSER", _) => {
                users.set(&self.coordinator, &words[2], &words[3..]).await?;
                self.rights.refresh();
                Ok(OK)
            }
            (b"DELUSER", _) => {
                let gone = users.delete(&self.coordinator, &words[2..]).await?;
                let is_gone = |user: &str| gone.iter().any(|name| name.as_str() == user);
                self.door.clients.which(|seat| is_gone(&seat.said().user)).iter().for_each(|seat| seat.kill.cancel());
                Ok(Value::Integer(gone.len() as i64))
            }
            (b"DRYRUN", _) => {
                let missing = || format!("ERR User '{}' not found", crate::error::printable(&words[2], 128));
                let user = users.find(&words[2]).ok_or_else(missing)?;
                dry_run(&user, &words[3..].iter().cloned().collect())
            }
            (b"LOG", 2 | 3) => {
                let reset = words.get(2).is_some_and(|word| word.eq_ignore_ascii_case(b"RESET"));
                if reset {
                    users.denials.reset();
                    return Ok(OK);
                }
                let most = words.get(2).map_or(Some(USUAL_ENTRIES), |word| number(word)).ok_or(NOT_AN_INTEGER)?;
                let entries = users.denials.newest(usize::try_from(most).unwrap_or(0));
                Ok(Value::Array(entries.into_iter().map(entry).collect()))
            }
            (b"SAVE" | b"LOAD", 2) => error(NO_FILE),
            _ => Err(format!(
                "ERR unknown subcommand or wrong number of arguments for '{}'. Try ACL HELP.",
                crate::error::printable(&words[1], 128)
            )),
        }
    }
}

fn generate(bits: Option<Option<i64>>) -> Result<Value, String> {
    let bits = bits.unwrap_or(Some(USUAL_BITS)).ok_or(NOT_AN_INTEGER)?;
    if !(1..=MOST_BITS).contains(&bits) {
        return Err(format!(
            "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to \
             {MOST_BITS}"
        ));
    }
    let digits = (bits as usize).div_ceil(4);
    let mut bytes = vec![0; digits.div_ceil(2)];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "ERR the system has no random bytes")?;
    let mut text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    text.truncate(digits);
    Ok(Value::text(text))
}

/// A user, as a line that ACL SETUSER takes.
fn line(name: &UserName, user: &User) -> Value {
    Value::Bulk([format!("user {name} ").into_bytes(), user.text()].concat().into())
}

fn described(user: &User) -> Value {
    let text = |text: &str| Value::text(text);
    let flags = [(if user.is_enabled() { "on" } else { "off" }, true), ("nopass", user.takes_any_password())];
    let flags = flags.into_iter().filter(|(_, is)| *is).map(|(flag, _)| text(flag)).collect();
    let passwords = user.passwords().iter().map(|hash| Value::text(hash.to_string())).collect();
    Value::Map(vec![
        (text("flags"), Value::Set(flags)),
        (text("passwords"), Value::Array(passwords)),
        (text("commands"), Value::text(user.commands())),
        (text("keys"), Value::Bulk(user.keys().into())),
        (text("channels"), text("")),
        (text("selectors"), Value::Array(Vec::new())),
    ])
}

/// Whether a user may run a request, without running it.
fn dry_run(user: &User, words: &Words) -> Result<Value, String> {
    let shown = |word: &[u8]| crate::error::printable(word, 128);
    let known = table::find(&words[0]).filter(|spec| spec.op != table::Op::OtherProtocol);
    let spec = known.ok_or_else(|| format!("ERR Command '{}' not found", shown(&words[0])))?;
    match spec.fits(words) {
        Ok(()) => {}
        Err(table::Misfit::Subcommand) => return Err(format!("ERR Command '{}' not found", shown(&words[0]))),
        Err(table::Misfit::Number(name)) => {
            return Err(wrong_number(&name));
        }
    }
    Ok(match user.check(spec, words) {
        Ok(()) => OK,
        Err(Denied::Command) => Value::text(format!(
            "This user has no permissions to run the '{}' command",
            full_name(spec, words.get(1).map(|word| &**word))
        )),
        Err(Denied::Key(place)) => {
            let id = words.get(place).map_or(&b""[..], |word| &**word);
            Value::Bulk([&b"This user has no permissions to access the '"[..], id, b"' key"].concat().into())
        }
    })
}

fn entry(denial: Denial) -> Value {
    let text = |text: &str| Value::text(text);
    Value::Map(vec![
        (text("count"), Value::Integer(denial.count as i64)),
        (text("reason"), text(denial.reason.name())),
        (text("context"), text(denial.context.name())),
        (text("object"), Value::Bulk(denial.object.into())),
        (text("username"), Value::text(denial.user)),
        (text("age-seconds"), Value::Double(format!("{:.3}", denial.at.elapsed().as_secs_f64()))),
        (text("client-info"), Value::text(denial.client)),
    ])
}
