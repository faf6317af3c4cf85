//! Who a client says it is.

use std::fmt;

/// The name of a user and its password. Neither is shown where this is printed for people who look for a fault.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Nothing: the user that is there from the start, `default`.
    pub user: Option<String>,
    /// Its password.
    pub password: String,
}

impl Credentials {
    /// The words of AUTH behind its name.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.user.as_deref().into_iter().chain([self.password.as_str()])
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}
