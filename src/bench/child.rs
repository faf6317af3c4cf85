//! One server as a child process: started, awaited, signalled, and never left behind.
//!
//! Its stdin is a pipe that only this process holds, so that it ends even if
//! this process is killed. Its stderr is read all the time: the ready line tells
//! that it is ready, the last lines tell why it is not.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::lock::Lock;

/// Lines of stderr that are kept.
const LINES: usize = 400;

/// Bytes of one line that are kept.
const LINE_BYTES: u64 = 16 << 10;

/// What servers said on stderr last; shared by all processes of one role, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Lock<VecDeque<String>>>);

impl Tail {
    pub(super) fn text(&self) -> String {
        let lines = self.0.lock();
        lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }

    fn push(&self, line: String) {
        let mut lines = self.0.lock();
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// What the reader of stderr has seen.
#[derive(Debug, Default)]
struct Seen {
    /// The ready line.
    ready: Option<String>,
    /// Nothing more will come.
    ended: bool,
}

/// A running child; killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    /// `leader`, or `node 3`.
    name: String,
    child: Child,
    seen: Arc<(Lock<Seen>, Condvar)>,
    tail: Tail,
}

impl Process {
    /// Starts a child that prints `<name> ready ...` on stderr once it is ready.
    pub(super) fn spawn(mut command: Command, name: &str, tail: &Tail) -> anyhow::Result<Self> {
        let program = command.get_program().to_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        // Its own group: Ctrl-C is for whoever started us, who then stops the children in order.
        command.process_group(0);
        let mut child = command.spawn().with_context(|| format!("{name} did not start: {}", program.display()))?;
        let seen = Arc::new((Lock::new(Seen::default()), Condvar::new()));
        tail.push(format!("--- {name} started, process {}", child.id()));
        if let Some(stderr) = child.stderr.take() {
            let (seen, tail, ready) = (seen.clone(), tail.clone(), format!("{name} ready"));
            std::thread::Builder::new()
                .name(format!("{name} stderr"))
                .spawn(move || read(stderr, &ready, &seen, &tail))?;
        }
        Ok(Self { name: name.to_owned(), child, seen, tail: tail.clone() })
    }

    /// Waits for the ready line; gives its `key=value` parts.
    pub(super) fn await_ready(&mut self, deadline: Instant) -> anyhow::Result<Vec<(String, String)>> {
        let (seen, changed) = &*self.seen;
        let mut seen = seen.lock();
        loop {
            if let Some(line) = &seen.ready {
                let parts = line.split_whitespace().filter_map(|part| part.split_once('='));
                return Ok(parts.map(|(key, value)| (key.to_owned(), value.to_owned())).collect());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if seen.ended || left.is_zero() {
                break;
            }
            seen = changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let ended = seen.ended;
        drop(seen);
        if ended {
            // Its stderr is closed, so it is gone or about to be.
            let status = self.wait(deadline.max(Instant::now() + Duration::from_secs(1)))?;
            bail!("{} ended before it was ready, {status}; it said:\n{}", self.name, self.tail.text());
        }
        bail!("{} was not ready in time; it said:\n{}", self.name, self.tail.text());
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("{} could not be signalled; it said:\n{}", self.name, self.tail.text()))
    }

    /// Asks it to stop, and waits until it did.
    pub(super) fn stop(mut self, deadline: Instant) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(deadline)
    }

    /// Waits for its end.
    fn wait(&mut self, deadline: Instant) -> anyhow::Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} did not end in time; it said:\n{}", self.name, self.tail.text());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(stderr: impl Read, ready: &str, seen: &(Lock<Seen>, Condvar), tail: &Tail) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    while let Ok(1..) = reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        let is_ready = text.starts_with(ready);
        tail.push(text.clone());
        if is_ready {
            seen.0.lock().ready = Some(text);
            seen.1.notify_all();
        }
    }
    seen.0.lock().ended = true;
    seen.1.notify_all();
}
