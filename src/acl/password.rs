//! Passwords, as they are kept: argon2id of their SHA-256.
//!
//! What is hashed is the SHA-256 in hexadecimal digits, so that the hashes that Redis keeps can be taken over, and are as
//! hard to guess from what is kept here as passwords are.

use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;

use argon2::password_hash::phc::PasswordHash as Phc;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use ring::digest::{SHA256, digest};

/// Random bytes, other ones for each user: the passwords of one have the same, so that one hash tells whether any is right.
pub type Salt = [u8; 16];

/// Memory, KiB, and passes over it: OWASP's recommendation for argon2id. A hash takes some 20 ms of a core.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;

/// What a hash that is brought along may cost, so that nobody's login is made to hold up all others.
const MOST_MEMORY_KIB: u32 = 64 * 1024;
const MOST_PASSES: u32 = 8;

/// Digits of a SHA-256.
const SHA_DIGITS: usize = 64;

/// A password that cannot be read any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Hashes a password. It takes long: not on a thread that serves.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn of(password: &[u8], salt: Salt) -> Result<Self, String> {
        Self::of_sha256(&sha256(password), salt)
    }

    /// The same, of the SHA-256 of one, in 64 lower hexadecimal digits.
    ///
    /// # Errors
    /// They are not that; or there is no memory for it.
    pub fn of_sha256(digits: &str, salt: Salt) -> Result<Self, String> {
        if digits.len() != SHA_DIGITS || !digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(format!(
                "The password hash must be exactly {SHA_DIGITS} characters and contain only lowercase hexadecimal characters"
            ));
        }
        let params = Params::new(MEMORY_KIB, PASSES, 1, None);
        Self::hashed(digits, params, &salt).map_err(|error| format!("a password cannot be hashed: {error}"))
    }

    fn hashed(digits: &str, params: Result<Params, argon2::Error>, salt: &[u8]) -> Result<Self, String> {
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.map_err(|error| error.to_string())?);
        let hash: Phc = argon.hash_password_with_salt(digits.as_bytes(), salt).map_err(|error| error.to_string())?;
        Ok(Self(hash.to_string()))
    }

    /// Its salt, if it is as long as those that are made here.
    pub fn salt(&self) -> Option<Salt> {
        Phc::new(&self.0).ok()?.salt?.as_ref().try_into().ok()
    }

    /// What it is made with: all but the hash.
    fn recipe(&self) -> &str {
        self.0.rsplit_once('$').map_or("", |(recipe, _)| recipe)
    }

    /// Whether any is of this password. It takes a hash for each salt that they have, wherever they differ.
    pub fn any_is_of(all: &[Self], password: &[u8]) -> bool {
        let digits = sha256(password);
        let mut made: Vec<Self> = Vec::new();
        for hash in all {
            if made.iter().all(|known| known.recipe() != hash.recipe()) {
                made.extend(hash.again(&digits));
            }
        }
        all.iter().any(|hash| made.iter().any(|made| made.is_same(hash)))
    }

    /// What it would be of the password that has this SHA-256.
    fn again(&self, digits: &str) -> Option<Self> {
        let hash = Phc::new(&self.0).ok()?;
        let params = Params::try_from(&hash).ok()?;
        Self::hashed(digits, Ok(params), hash.salt.as_ref()?.as_ref()).ok()
    }

    /// As long wherever they differ.
    fn is_same(&self, other: &Self) -> bool {
        let differ = self.0.bytes().zip(other.0.bytes()).fold(0, |differ, (one, other)| differ | (one ^ other));
        self.0.len() == other.0.len() && differ == 0
    }

    /// Whether it is of this password. It takes long, and as long wherever they differ.
    pub fn is_of(&self, password: &[u8]) -> bool {
        self.is_of_sha256(&sha256(password))
    }

    /// Whether it is of the password that has this SHA-256.
    pub fn is_of_sha256(&self, digits: &str) -> bool {
        let Ok(hash) = Phc::new(&self.0) else { return false };
        Argon2::default().verify_password(digits.as_bytes(), &hash).is_ok()
    }
}

impl FromStr for PasswordHash {
    type Err = String;

    /// Reads what was written: `$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("no argon2id hash: {why}");
        let hash = Phc::new(text).map_err(|error| wrong(&error.to_string()))?;
        let params = Params::try_from(&hash).map_err(|error| wrong(&error.to_string()))?;
        let is_whole = hash.version == Some(19) && hash.salt.is_some() && hash.hash.is_some();
        if hash.algorithm.as_str() != "argon2id" || !is_whole {
            return Err(wrong("it has to be $argon2id$v=19$m=..,t=..,p=..$<salt>$<hash>"));
        }
        if params.m_cost() > MOST_MEMORY_KIB || params.t_cost() > MOST_PASSES || params.p_cost() > 4 {
            return Err(wrong(&format!("it may take up to {MOST_MEMORY_KIB} KiB, {MOST_PASSES} passes and 4 lanes")));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// In hexadecimal digits.
fn sha256(password: &[u8]) -> String {
    digest(&SHA256, password).as_ref().iter().fold(String::new(), |mut digits, byte| {
        // A string takes everything.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_knows_its_password_and_no_other() {
        let hash = PasswordHash::of(b"correct horse", [1; 16]).unwrap();
        assert!(hash.to_string().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(hash.is_of(b"correct horse") && !hash.is_of(b"correct horsf") && !hash.is_of(b""));
        assert_eq!(hash.to_string().parse(), Ok(hash.clone()));
        assert_ne!(PasswordHash::of(b"correct horse", [2; 16]).unwrap(), hash, "each has a salt of its own");
    }

    /// The hash that Redis's documentation of ACL has for the password `passwd4` of its tests.
    #[test]
    fn what_redis_keeps_of_a_password_can_be_taken_over() {
        let redis = "34344e4d60c2b6d639b7bd22e18f2b0b91bc34bf0ac5f9952744435093cfb4e6";
        let hash = PasswordHash::of_sha256(redis, [3; 16]).unwrap();
        assert!(hash.is_of(b"passwd4") && hash.is_of_sha256(redis) && !hash.is_of(redis.as_bytes()));
        assert!(PasswordHash::of_sha256(&redis[1..], [3; 16]).unwrap_err().contains("exactly 64"));
        assert!(PasswordHash::of_sha256(&redis.replace('3', "G"), [3; 16]).unwrap_err().contains("hexadecimal"));
    }

    /// How long a wrong password takes says nothing of how many a user has.
    #[test]
    fn the_passwords_of_a_user_share_a_salt_and_one_hash_tells() {
        let mut user = crate::acl::User::fresh();
        for (salt, rule) in [(1, ">one"), (2, ">two"), (3, ">three")] {
            user.change(&crate::acl::Rule::read(rule.as_bytes()).unwrap(), [salt; 16]).unwrap();
        }
        assert!(user.passwords().iter().all(|hash| hash.salt() == Some([1; 16])));
        // One that was made before they did.
        let all = [user.passwords(), &[PasswordHash::of(b"old", [9; 16]).unwrap()]].concat();
        for (password, right) in [("one", true), ("three", true), ("old", true), ("none", false), ("", false)] {
            assert_eq!(PasswordHash::any_is_of(&all, password.as_bytes()), right, "{password}");
        }
        assert!(!PasswordHash::any_is_of(&[], b"one"));
    }

    #[test]
    fn a_hash_that_is_none_or_costs_too_much_is_refused() {
        let right = "$argon2id$v=19$m=19456,t=2,p=1$AQEBAQEBAQEBAQEBAQEBAQ$AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";
        assert!(right.parse::<PasswordHash>().is_ok());
        for (change, to) in
            [("argon2id", "argon2i"), ("m=19456", "m=4000000"), ("t=2", "t=9"), ("p=1", "p=5"), ("id$v=19", "id")]
        {
            assert!(right.replace(change, to).parse::<PasswordHash>().is_err(), "{change} -> {to}");
        }
        assert!("".parse::<PasswordHash>().is_err() && "$argon2id".parse::<PasswordHash>().is_err());
    }
}
