//! The plain lock that everything shares, never held across an await.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A mutex that goes on after a panic of whoever held it: tasks that may not panic stop the process by themselves
/// (`stop`), and what others leave behind is whole after each statement.
#[derive(Default)]
pub struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    /// A free one.
    pub const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Waits for its turn.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: fmt::Debug> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
