//! The threads that run scripts, each with an interpreter of its own.
//!
//! They are started when they are needed. A script that does not end within its time, as it is inside a function of Lua
//! that does not look at limits, keeps its thread, and another takes its place: what it worked on is lost with it, so that
//! it can write nothing more.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Interpreter, Limits};
use crate::error::Refusal;
use crate::leader::coordinator::ScriptMeters;

/// Threads that run scripts at once.
const THREADS: usize = 4;

/// Threads whose script does not end, beyond these: then there are fewer that run scripts.
const MOST_STUCK: usize = 4;

/// After its time a script has so long to notice.
const GRACE: Duration = Duration::from_millis(500);

/// Stack of a thread, bytes: a pattern of the longest takes a tenth of it.
const STACK: usize = 8 << 20;

/// How much a thread gives way whose script does not end (nice(2)).
const NICE: i32 = 19;

/// Why a script was not run.
pub(in crate::leader::gateway) const BUSY: &str =
    "scripts are running that take long, and this one was not begun; SCRIPT KILL ends them";

/// Set when a script is to end.
pub(in crate::leader::gateway) type Killed = Arc<AtomicBool>;

/// Where a job is: one of the three below, and the number of the thread that has it.
#[derive(Debug, Default)]
struct Place {
    state: AtomicU8,
    thread: AtomicI32,
}

/// Work gives what tells the one who waits.
type Work = Box<dyn FnOnce(&mut Interpreter, &Killed) -> Tell + Send>;
type Tell = Box<dyn FnOnce()>;

const WAITS: u8 = 0;
const RUNS: u8 = 1;
/// Nobody waits for it any more.
const LEFT: u8 = 2;

struct Job {
    work: Work,
    place: Arc<Place>,
    killed: Killed,
}

impl Place {
    /// From one state to the next, if it is in the first.
    fn change(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// The threads, and what waits for them.
#[derive(Debug)]
pub(super) struct Pool {
    limits: Limits,
    meters: Arc<ScriptMeters>,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
    stuck: usize,
    running: Vec<Killed>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("threads", &self.threads)
            .field("running", &self.running.len())
            .finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(limits: Limits, meters: Arc<ScriptMeters>) -> Arc<Self> {
        Arc::new(Self { limits, meters, state: Mutex::default(), wake: Condvar::new() })
    }

    /// A panic of a script's thread leaves nothing half done in here.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what runs; gives how much that was.
    pub(super) fn kill(&self) -> usize {
        let state = self.state();
        state.running.iter().for_each(|killed| killed.store(true, Ordering::Relaxed));
        state.running.len()
    }

    /// Does work on one of the threads.
    pub(super) async fn run<R: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Interpreter, &Killed) -> R + Send + 'static,
    ) -> Result<R, Refusal> {
        let (tell, mut told) = oneshot::channel();
        let (place, killed) = (Arc::<Place>::default(), Killed::default());
        let work: Work = Box::new(move |interpreter, killed| {
            let done = work(interpreter, killed);
            // One that has gone hears nothing.
            Box::new(move || drop(tell.send(done)))
        });
        let busy = || {
            self.meters.refused.fetch_add(1, Ordering::Relaxed);
            Refusal::Busy(BUSY)
        };
        if !self.add(Job { work, place: place.clone(), killed: killed.clone() }) {
            return Err(busy());
        }
        let lost = |_| Refusal::Unavailable("the script failed in the interpreter; nothing was written".to_owned());
        if let Ok(done) = timeout(self.limits.queue, &mut told).await {
            return done.map_err(lost);
        }
        if place.change(WAITS, LEFT) {
            return Err(busy());
        }
        if let Ok(done) = timeout(self.limits.time, &mut told).await {
            return done.map_err(lost);
        }
        killed.store(true, Ordering::Relaxed);
        if let Ok(done) = timeout(GRACE, &mut told).await {
            return done.map_err(lost);
        }
        self.replace(&place, &killed);
        tracing::warn!("a script does not end: it is in a function that cannot be interrupted");
        Err(Refusal::BadCommand(format!(
            "the script took more than {} s in a function that cannot be interrupted; nothing was written",
            self.limits.time.as_secs()
        )))
    }

    /// Whether there is a thread that can come to it.
    fn add(self: &Arc<Self>, job: Job) -> bool {
        let mut state = self.state();
        if state.idle <= state.queue.len() {
            self.grow(&mut state);
        }
        if state.threads == 0 {
            return false;
        }
        state.queue.push_back(job);
        drop(state);
        self.wake.notify_one();
        true
    }

    /// Starts another thread, if there may be one more.
    fn grow(self: &Arc<Self>, state: &mut State) {
        if state.threads >= THREADS || state.threads + state.stuck >= THREADS + MOST_STUCK {
            return;
        }
        let pool = self.clone();
        let thread = std::thread::Builder::new().name("script".to_owned()).stack_size(STACK);
        match thread.spawn(move || pool.serve()) {
            Ok(_) => state.threads += 1,
            Err(error) => tracing::warn!("no thread for scripts: {error}"),
        }
    }

    /// Gives a script up, if it still runs: its thread runs others no more.
    fn replace(self: &Arc<Self>, place: &Place, killed: &Killed) {
        let mut state = self.state();
        if !place.change(RUNS, LEFT) {
            return;
        }
        let thread = rustix::process::Pid::from_raw(place.thread.load(Ordering::SeqCst));
        // Where that is not allowed it takes as much as others do.
        let _ = thread.map(|thread| rustix::process::setpriority_process(Some(thread), NICE));
        state.threads -= 1;
        state.stuck += 1;
        state.running.retain(|other| !Arc::ptr_eq(other, killed));
        self.count(&state);
        self.meters.ended.fetch_add(1, Ordering::Relaxed);
        self.grow(&mut state);
    }

    /// Tells the metrics what the threads do.
    fn count(&self, state: &State) {
        self.meters.running.store(state.running.len(), Ordering::Relaxed);
        self.meters.stuck.store(state.stuck, Ordering::Relaxed);
    }

    /// What a thread does.
    fn serve(&self) {
        let Ok(mut interpreter) = Interpreter::new(self.limits) else {
            tracing::warn!("no interpreter for scripts: too little memory");
            self.state().threads -= 1;
            return;
        };
        loop {
            let Job { work, place, killed } = self.next();
            place.thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::SeqCst);
            if !place.change(WAITS, RUNS) {
                continue;
            }
            {
                let mut state = self.state();
                state.running.push(killed.clone());
                self.count(&state);
            }
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mut interpreter, &killed)));
            // It was given up: another thread is in place of this one.
            if place.state.swap(LEFT, Ordering::SeqCst) == LEFT {
                let mut state = self.state();
                state.stuck -= 1;
                self.count(&state);
                return;
            }
            {
                let mut state = self.state();
                state.running.retain(|other| !Arc::ptr_eq(other, &killed));
                self.count(&state);
            }
            interpreter.counted().tell(&self.meters);
            match done {
                Ok(tell) => tell(),
                Err(_) => {
                    self.meters.ended.fetch_add(1, Ordering::Relaxed);
                    if let Ok(fresh) = Interpreter::new(self.limits) {
                        interpreter = fresh;
                    }
                }
            }
        }
    }

    fn next(&self) -> Job {
        let mut state = self.state();
        loop {
            if let Some(job) = state.queue.pop_front() {
                return job;
            }
            state.idle += 1;
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}
