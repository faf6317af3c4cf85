//! Drives one phase of requests at a server: sockets, the clock, and the moment of each request.
//!
//! One thread owns all connections and asks the system what is ready (epoll),
//! because a bench shares its machine with the servers it measures: a batch of requests
//! costs one write, its replies one read into one buffer that all connections share, and
//! nothing is allocated for a request. What is sent and whether a reply is right is
//! `session`'s; nothing here knows a protocol.
//!
//! With one address it never reconnects: what went wrong is what is to be seen. Of several, a connection that dies is
//! made anew where one answers, and what it left open are errors all the same.

use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fd::OwnedFd;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use super::dial::{Target, connect};
use super::machine;
use super::progress::Progress;
use super::report::Samples;
use super::session::{Load, Rules, Session};
use super::workload::{Plan, Values};
use crate::tls::Blocking;

/// How long to wait for any reply at all before giving up.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Time between two looks at the progress.
const TICK: Duration = Duration::from_millis(100);

/// What the clock's events are named by; no connection has this number.
const CLOCK: u64 = u64::MAX;

/// Room for one read.
const READ_BYTES: usize = 256 << 10;

/// Sockets that are looked at in one go.
const EVENTS: usize = 1024;

/// What came of a phase.
#[derive(Debug)]
pub(super) struct Outcome {
    /// SETs.
    pub(super) sets: Samples,
    /// GETs.
    pub(super) gets: Samples,
    /// Errors that belong to no request: connections that were refused or lost while idle.
    pub(super) connection_errors: u64,
    /// Requests that were due and never sent.
    pub(super) unsent: u64,
    /// Nothing that was asked got a reply, and it was waited for long enough.
    pub(super) silent: bool,
    /// What went wrong first.
    pub(super) first_error: Option<String>,
    /// From the first request after the warm-up to the last reply, connecting not included.
    pub(super) elapsed: Duration,
    /// CPU time of this thread in that time, and of the server's processes.
    pub(super) cpu: (Duration, Duration),
    /// What is left of the plan.
    pub(super) plan: Plan,
}

impl Outcome {
    /// All errors.
    pub(super) fn errors(&self) -> u64 {
        self.sets.errors + self.gets.errors + self.connection_errors
    }
}

/// A connection and its socket; no socket once it has ended.
struct Link {
    stream: Option<Blocking>,
    session: Session,
    /// The socket was full: wait until it is not.
    blocked: bool,
}

/// Sends everything in the plan. Fails only if not a single connection could be made.
pub(super) fn drive(
    target: &Target,
    rules: Rules,
    values: &Values,
    plan: Plan,
    progress: &mut Progress,
) -> io::Result<Outcome> {
    let mut load = Load::new(rules, values.clone(), plan);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let clock = ticking(&epoll, TICK.min(target.patience))?;
    let links = connect_all(target, &mut load, &epoll)?;
    let open = links.iter().filter(|link| link.stream.is_some()).count();
    let started = Instant::now();
    let mut driver = Driver { target, load, epoll, clock, links, open, gave_up: false, next_due: 0, started };
    let cpu = driver.run(progress)?;
    progress.update(&driver.load, driver.started.elapsed());
    let elapsed = driver.started.elapsed().saturating_sub(Duration::from_nanos(driver.load.rules.warm));
    // Only after a stall is anything still open.
    for link in driver.links.iter_mut().filter(|link| link.stream.is_some()) {
        link.session.lose(&mut driver.load, None);
    }
    let (unsent, gave_up, load) = (driver.load.unsent(), driver.gave_up, driver.load);
    Ok(Outcome {
        sets: load.sets,
        gets: load.gets,
        connection_errors: load.connection_errors,
        unsent,
        silent: gave_up && load.replies == 0,
        first_error: load.first_error,
        elapsed,
        cpu,
        plan: load.plan,
    })
}

struct Driver<'a> {
    target: &'a Target,
    load: Load,
    epoll: OwnedFd,
    /// Wakes us every tick, so that a wait needs no time limit of its own: that would set and clear a timer in the
    /// kernel for every request.
    clock: OwnedFd,
    links: Vec<Link>,
    /// Links that have a socket.
    open: usize,
    /// No reply came for too long.
    gave_up: bool,
    /// Open loop: the request whose moment comes next.
    next_due: u64,
    started: Instant,
}

impl Driver<'_> {
    /// Until all connections are done or nothing comes any more; gives the CPU time since the warm-up.
    fn run(&mut self, progress: &mut Progress) -> io::Result<(Duration, Duration)> {
        let target = self.target;
        let mut room = vec![0; READ_BYTES];
        let mut events = Vec::with_capacity(EVENTS);
        let cpu = || (machine::cpu_of_this_thread(), machine::cpu_of(&target.pids));
        let (mut cpu_before, mut is_warm) = (cpu(), self.load.rules.warm == 0);
        let (mut seen, mut since, mut ticked) = (0, Instant::now(), Instant::now());
        for number in 0..self.links.len() {
            self.serve(number, 0);
        }
        while self.open > 0 && !self.all_ended() {
            let now = self.now();
            if !is_warm && now >= self.load.rules.warm {
                (cpu_before, is_warm) = (cpu(), true);
            }
            self.start_due(now);
            self.wait(&mut events)?;
            for event in events.drain(..) {
                self.attend(event, &mut room);
            }
            if self.load.replies > seen || self.load.in_flight == 0 {
                (seen, since) = (self.load.replies, Instant::now());
            }
            if ticked.elapsed() < TICK.min(target.patience) {
                continue;
            }
            ticked = Instant::now();
            progress.update(&self.load, self.started.elapsed());
            if since.elapsed() >= target.patience {
                let (open, patience) = (self.load.in_flight, target.patience);
                self.load.note(|| format!("no reply for {patience:?}; {open} requests were left unanswered"));
                self.gave_up = true;
                break;
            }
        }
        let after = cpu();
        Ok((after.0.saturating_sub(cpu_before.0), after.1.saturating_sub(cpu_before.1)))
    }

    /// The count is used up and answered: nobody waits for a moment at which nothing is left to do.
    fn all_ended(&self) -> bool {
        self.load.in_flight == 0 && self.load.plan.left() == Some(0)
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Open loop: lets the connections whose requests have become due make them.
    fn start_due(&mut self, now: u64) {
        let Some(pace) = self.load.rules.pace else { return };
        let connections = self.links.len() as u64;
        let from = self.next_due;
        self.next_due = pace.before(now.saturating_add(1)).max(from);
        // After a pause of ours each connection is served once, however many fell due on it.
        for number in from..self.next_due.min(from + connections) {
            self.serve((number % connections) as usize, now);
        }
    }

    /// Waits for sockets, for the next request's moment, and at most a tick.
    fn wait(&mut self, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        let mut at_once = None;
        if let Some(pace) = self.load.rules.pace {
            let left = Duration::from_nanos(pace.due(self.next_due).saturating_sub(self.now())).min(TICK);
            // epoll alone counts in milliseconds; a moment has to be met more closely than that.
            let limit = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&limit)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
                result => result?,
            };
            at_once = Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), at_once.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Something happened at a socket.
    fn attend(&mut self, event: epoll::Event, room: &mut [u8]) {
        let (number, flags) = (event.data.u64(), event.flags);
        if number == CLOCK {
            // How many ticks there were is of no interest; whether it was time to look is seen by the time.
            let _ = rustix::io::read(&self.clock, &mut [0; 8]);
            return;
        }
        let number = number as usize;
        let link = &mut self.links[number];
        let Some(stream) = &mut link.stream else { return };
        if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            match stream.read(room) {
                Ok(0) => return self.lose(number, &"the server closed it"),
                Ok(bytes) => {
                    let now = self.started.elapsed().as_nanos() as u64;
                    if let Err(error) = link.session.receive(&mut self.load, &room[..bytes], now) {
                        return self.lose(number, &error);
                    }
                    return self.serve(number, now);
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => return self.lose(number, &error),
            }
        }
        let now = self.now();
        self.serve(number, now);
    }

    /// Makes what may start, sends what can be sent, and ends what is finished.
    fn serve(&mut self, number: usize, now: u64) {
        let link = &mut self.links[number];
        let Some(stream) = &mut link.stream else { return };
        link.session.fill(&mut self.load, now);
        let mut full = false;
        while !full && !link.session.outgoing().is_empty() {
            match stream.write(link.session.outgoing()) {
                Ok(bytes) => link.session.advance(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => full = true,
                // Replies that came before the break still count: reading tells of it after them.
                Err(_) => link.session.stop_sending(),
            }
        }
        // What is encrypted may still be held.
        full |= stream.flush().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        if full != link.blocked {
            link.blocked = full;
            let flags = if full { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
            if let Err(error) = epoll::modify(&self.epoll, &*stream, epoll::EventData::new_u64(number as u64), flags) {
                return self.lose(number, &error);
            }
        }
        if link.session.is_finished() {
            // Closing it takes it off the epoll too.
            link.stream = None;
            self.open -= 1;
        }
    }

    fn lose(&mut self, number: usize, error: &dyn std::fmt::Display) {
        let link = &mut self.links[number];
        link.stream = None;
        link.session.lose(&mut self.load, Some(error));
        self.open -= 1;
        if self.target.endpoints.lock().are_several() && !self.is_over() {
            self.connect_again(number);
        }
    }

    /// Whether a new connection would have nothing more to do.
    fn is_over(&self) -> bool {
        self.load.plan.left() == Some(0) || self.load.rules.end.is_some_and(|end| self.now() >= end)
    }

    /// Has a connection that was lost go on where one of the addresses answers. All others wait meanwhile.
    fn connect_again(&mut self, number: usize) {
        let connected = connect(self.target, self.load.rules.dialect).and_then(|stream| {
            watch(&self.epoll, &stream, number)?;
            Ok(stream)
        });
        let link = &mut self.links[number];
        match connected {
            Ok(stream) => {
                (link.stream, link.blocked) = (Some(stream), false);
                link.session.go_on();
                self.open += 1;
                let now = self.now();
                self.serve(number, now);
            }
            Err(error) => self.load.note(|| format!("connection: {error}")),
        }
    }
}

/// Has the epoll look at a connection's socket.
fn watch(epoll: &OwnedFd, stream: &Blocking, number: usize) -> io::Result<()> {
    stream.tcp().set_nonblocking(true)?;
    Ok(epoll::add(epoll, stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?)
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A clock that wakes the epoll every so often.
fn ticking(epoll: &OwnedFd, every: Duration) -> io::Result<OwnedFd> {
    let clock = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let every = Timespec { tv_sec: every.as_secs() as i64, tv_nsec: every.subsec_nanos().into() };
    timerfd_settime(&clock, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: every, it_value: every })?;
    epoll::add(epoll, &clock, epoll::EventData::new_u64(CLOCK), epoll::EventFlags::IN)?;
    Ok(clock)
}

fn connect_all(target: &Target, load: &mut Load, epoll: &OwnedFd) -> io::Result<Vec<Link>> {
    let mut links = Vec::with_capacity(load.rules.connections);
    let mut refused: Option<io::Error> = None;
    for number in 0..load.rules.connections {
        let mut session = Session::new(number, &load.plan);
        // One that does not answer at all is not waited for a thousand times.
        let stream = match &refused {
            Some(error) if error.kind() == io::ErrorKind::TimedOut => Err(io::ErrorKind::TimedOut.into()),
            _ => connect(target, load.rules.dialect),
        };
        let stream = match stream {
            Ok(stream) => {
                watch(epoll, &stream, number)?;
                Some(stream)
            }
            Err(error) => {
                session.lose(load, Some(&error));
                refused = Some(error);
                None
            }
        };
        links.push(Link { stream, session, blocked: false });
    }
    match refused {
        Some(error) if links.iter().all(|link| link.stream.is_none()) => Err(error),
        _ => Ok(links),
    }
}

#[cfg(test)]
#[path = "drive_tests.rs"]
mod tests;
