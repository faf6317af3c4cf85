//! Scripts in Lua, as Redis has them (EVAL and its kin): which are known, and the threads that run them.
//!
//! A script is a decision of a transaction like any other: its ids are locked, their messages are read, it says what is to
//! be written, and that becomes true in one record. It runs on a thread of `pool`, away from those that serve, in an
//! interpreter (`interpreter`) that is bounded in steps, time and memory. `gateway::eval` has the commands.

mod bit;
mod cjson;
mod cmsgpack;
mod convert;
mod interpreter;
mod pool;
mod redis;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sha1::{Digest, Sha1};

pub(super) use self::interpreter::{Call, Interpreter};
use self::pool::Pool;
pub(super) use self::pool::{BUSY, Killed};
use crate::error::Refusal;
use crate::leader::coordinator::ScriptMeters;
use crate::lock::Lock;

/// What one script may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Steps of the interpreter: so the same script ends at the same place everywhere. Some seconds of a core.
    steps: u64,
    /// How long it may run.
    time: Duration,
    /// Memory of its interpreter, bytes.
    memory: usize,
    /// How long it waits for a thread: longer than all short ones that stand before it take.
    queue: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { steps: 1_000_000_000, time: Duration::from_secs(5), memory: 64 << 20, queue: Duration::from_secs(1) }
    }
}

/// Scripts that EVAL was given and that are kept (Redis 7.4 has the same number); the one that was not used for longest
/// goes first.
const MOST_EVALUATED: usize = 500;

/// Bytes of all scripts that are kept.
const MOST_BYTES: usize = 32 << 20;

/// The name of a script: the SHA-1 of its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Sha([u8; 20]);

impl Sha {
    /// Of a text.
    pub(super) fn of(text: &[u8]) -> Self {
        Self(Sha1::digest(text).into())
    }

    /// Reads forty hexadecimal digits.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let (pairs, rest) = text.as_chunks::<2>();
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let byte = |[high, low]: &[u8; 2]| Some((digit(*high)? << 4 | digit(*low)?) as u8);
        let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
        bytes?.try_into().ok().filter(|_| rest.is_empty()).map(Self)
    }
}

impl std::fmt::Display for Sha {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A script's text.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) sha: Sha,
    text: Vec<u8>,
    /// Where Lua begins, after a line `#!lua`.
    begin: usize,
    /// It says of itself that it does not write.
    reads_only: bool,
}

impl Script {
    /// Reads the line `#!lua name=value...`, if there is one.
    ///
    /// # Errors
    /// What is wrong with it, as Redis says it.
    fn read(text: &[u8]) -> Result<Self, String> {
        let mut script = Self { sha: Sha::of(text), text: text.to_vec(), begin: 0, reads_only: false };
        if !text.starts_with(b"#!") {
            return Ok(script);
        }
        let Some(end) = text.iter().position(|byte| *byte == b'\n') else {
            return Err("ERR Invalid script shebang".to_owned());
        };
        let line = String::from_utf8_lossy(&text[..end]);
        let mut parts = line.split_whitespace();
        match parts.next() {
            Some("#!lua") => {}
            engine => return Err(format!("ERR Unexpected engine in script shebang: {}", engine.unwrap_or_default())),
        }
        for part in parts {
            let Some(flags) = part.strip_prefix("flags=") else {
                return Err(format!("ERR Unknown lua shebang option: {part}"));
            };
            for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
                match flag {
                    "no-writes" => script.reads_only = true,
                    "allow-oom" | "allow-stale" | "no-cluster" | "allow-cross-slot-keys" => {}
                    _ => return Err(format!("ERR Unexpected flag in script shebang: {flag}")),
                }
            }
        }
        // The line end stays, so that lines keep their numbers.
        script.begin = end;
        Ok(script)
    }

    fn body(&self) -> &[u8] {
        &self.text[self.begin..]
    }
}

/// The scripts that are known, and where they run.
#[derive(Debug)]
pub(super) struct Scripts {
    known: Lock<Known>,
    pool: Arc<Pool>,
    meters: Arc<ScriptMeters>,
}

#[derive(Debug, Default)]
struct Known {
    scripts: HashMap<Sha, (Arc<Script>, Source)>,
    /// Of those that EVAL was given, the one that was used last at the end.
    evaluated: VecDeque<Sha>,
    bytes: usize,
}

/// How a script became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// By SCRIPT LOAD: it is kept until SCRIPT FLUSH.
    Loaded,
    /// By EVAL.
    Evaluated,
}

impl Scripts {
    pub(super) fn new(meters: Arc<ScriptMeters>) -> Self {
        Self { known: Lock::default(), pool: Pool::new(Limits::default(), meters.clone()), meters }
    }

    /// The script of this name, if it is known.
    pub(super) fn find(&self, sha: &Sha) -> Option<Arc<Script>> {
        self.known.lock().find(sha)
    }

    /// Whether the script of this name is known.
    pub(super) fn is_known(&self, sha: &Sha) -> bool {
        self.known.lock().scripts.contains_key(sha)
    }

    /// Takes a script, if it can be compiled, and keeps it.
    ///
    /// # Errors
    /// What is wrong with it, as Redis says it.
    pub(super) async fn load(&self, text: &[u8], source: Source) -> Result<Arc<Script>, String> {
        if let Some(script) = self.known.lock().take(Sha::of(text), source) {
            return Ok(script);
        }
        let script = Arc::new(Script::read(text)?);
        let compiled = script.clone();
        let check = move |interpreter: &mut Interpreter, _: &Killed| interpreter.compile(&compiled).map(drop);
        self.pool.run(check).await.map_err(|refusal| format!("BUSY {refusal}"))??;
        let mut known = self.known.lock();
        let kept = known.keep(script.clone(), source);
        self.meters.cached.store(known.scripts.len(), Ordering::Relaxed);
        kept.map(|()| script)
    }

    /// How many are known.
    pub(super) fn count(&self) -> usize {
        self.known.lock().scripts.len()
    }

    /// Forgets all scripts.
    pub(super) fn flush(&self) {
        let mut known = self.known.lock();
        *known = Known::default();
        self.meters.cached.store(0, Ordering::Relaxed);
    }

    /// Ends the scripts that run; gives how many they were.
    pub(super) fn kill(&self) -> usize {
        self.pool.kill()
    }

    /// Does work on a thread that has an interpreter.
    ///
    /// # Errors
    /// All of these threads are busy, or it did not come to an end: then nothing of it is left.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Interpreter, &Killed) -> R + Send + 'static,
    ) -> Result<R, Refusal> {
        self.pool.run(work).await
    }
}

impl Known {
    fn find(&mut self, sha: &Sha) -> Option<Arc<Script>> {
        let (script, source) = self.scripts.get(sha)?;
        let script = script.clone();
        if *source == Source::Evaluated {
            self.evaluated.retain(|other| other != sha);
            self.evaluated.push_back(*sha);
        }
        Some(script)
    }

    /// As `find`; one that is loaded now stays.
    fn take(&mut self, sha: Sha, source: Source) -> Option<Arc<Script>> {
        let script = self.find(&sha)?;
        if source == Source::Loaded {
            self.evaluated.retain(|other| *other != sha);
            self.scripts.insert(sha, (script.clone(), source));
        }
        Some(script)
    }

    fn keep(&mut self, script: Arc<Script>, source: Source) -> Result<(), String> {
        if self.scripts.contains_key(&script.sha) {
            return Ok(());
        }
        let bytes = script.text.len();
        while self.evaluated.len() >= MOST_EVALUATED || self.bytes + bytes > MOST_BYTES {
            let Some(oldest) = self.evaluated.pop_front() else { break };
            if let Some((gone, _)) = self.scripts.remove(&oldest) {
                self.bytes -= gone.text.len();
            }
        }
        if self.bytes + bytes > MOST_BYTES {
            return match source {
                // It runs, and is not kept.
                Source::Evaluated => Ok(()),
                Source::Loaded => Err(format!(
                    "OOM the scripts that are loaded have {} bytes, and at most {MOST_BYTES} are kept: SCRIPT FLUSH forgets them",
                    self.bytes
                )),
            };
        }
        self.bytes += bytes;
        if source == Source::Evaluated {
            self.evaluated.push_back(script.sha);
        }
        self.scripts.insert(script.sha, (script, source));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
