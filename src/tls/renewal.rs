//! Certificates that are renewed while a process runs.
//!
//! Files are compared by what they hold, not by their times: links that are pointed elsewhere (as those of Kubernetes
//! secrets are) keep the time of the file that they point to. What does not fit together is not taken: a pair may be
//! read between two renames.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tokio::signal::unix::{SignalKind, signal};

use super::material::{Files, Material};
use crate::lock::Lock;
use crate::stop::Stop;

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(10);

/// How soon they are looked at again when they did not fit together.
const AGAIN: Duration = Duration::from_secs(1);

/// Makes it of what the files hold.
type Make<T> = Box<dyn Fn(&Material) -> Result<T, String> + Send + Sync>;

/// What is made of the files as they are now.
pub(super) struct Renewed<T> {
    files: Files,
    make: Make<T>,
    state: Lock<State<T>>,
}

struct State<T> {
    /// Of what the files held: a key is not kept twice.
    digest: u128,
    now: Arc<T>,
    not_after: Option<Duration>,
    /// What was wrong at the last look.
    refused: Option<String>,
    renewals: u64,
}

impl<T> std::fmt::Debug for Renewed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewed").field("files", &self.files).finish_non_exhaustive()
    }
}

impl<T> Renewed<T> {
    /// Reads and checks the files for the first time.
    pub(super) fn new(
        files: Files,
        make: impl Fn(&Material) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let contents = files.contents()?;
        let material = files.check(&contents)?;
        let now = Arc::new(make(&material)?);
        let state = State { digest: contents.digest(), now, not_after: material.not_after, refused: None, renewals: 0 };
        Ok(Self { files, make: Box::new(make), state: Lock::new(state) })
    }

    /// What is in force.
    pub(super) fn now(&self) -> Arc<T> {
        self.state.lock().now.clone()
    }

    fn renew(&self) -> Result<bool, String> {
        let contents = self.files.contents()?;
        let digest = contents.digest();
        if self.state.lock().digest == digest {
            return Ok(false);
        }
        let material = self.files.check(&contents)?;
        let made = Arc::new((self.make)(&material)?);
        let mut state = self.state.lock();
        (state.digest, state.now, state.not_after) = (digest, made, material.not_after);
        state.renewals += 1;
        Ok(true)
    }
}

/// What follows its files.
pub trait Renews: std::fmt::Debug + Send + Sync {
    /// Looks at the files, and takes what they hold if it is new and good. `false`: it has to be looked at again soon.
    fn look(&self) -> bool;
    /// When the first of the own certificates ends, since 1970, and how often they were renewed.
    fn state(&self) -> (Option<Duration>, u64);
    /// `tls` or `cluster`.
    fn what(&self) -> &'static str;
}

impl<T: Send + Sync> Renews for Renewed<T> {
    fn look(&self) -> bool {
        let (looked, what) = (self.renew(), self.files.prefix);
        let mut state = self.state.lock();
        match looked {
            Ok(renewed) => {
                if renewed {
                    let until = state.not_after.map(|end| humantime::format_rfc3339_seconds(UNIX_EPOCH + end));
                    let until = until.map(|end| format!(", valid until {end}")).unwrap_or_default();
                    tracing::info!("the certificates of --{what}-... were renewed{until}");
                } else if state.refused.is_some() {
                    tracing::info!("the files of --{what}-... are again those that are in force");
                }
                state.refused = None;
                true
            }
            Err(why) => {
                if state.refused.as_ref() != Some(&why) {
                    tracing::warn!("the certificates of --{what}-... were not renewed, and those before stay: {why}");
                    state.refused = Some(why);
                }
                false
            }
        }
    }

    fn state(&self) -> (Option<Duration>, u64) {
        let state = self.state.lock();
        (state.not_after, state.renewals)
    }

    fn what(&self) -> &'static str {
        self.files.prefix
    }
}

/// Looks after these until the end: every ten seconds, and at once at SIGHUP.
pub async fn watch(all: Vec<Arc<dyn Renews>>, stop: Stop) {
    let Ok(mut asked) = signal(SignalKind::hangup()) else { return };
    let mut pause = EVERY;
    loop {
        let woken = stop.unless(async {
            tokio::select! {
                _ = asked.recv() => {}
                () = tokio::time::sleep(pause) => {}
            }
        });
        if woken.await.is_none() {
            return;
        }
        let looked = all.clone();
        // A file may lie on a disk that hangs.
        let looks = tokio::task::spawn_blocking(move || looked.iter().filter(|one| !one.look()).count() == 0);
        pause = if looks.await.unwrap_or(false) { EVERY } else { AGAIN };
    }
}
