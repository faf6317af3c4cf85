//! Clients that write, read and delete, and the history of what they were told.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hatokuse::error::{Certainty, certainty_of};

use crate::PATIENCE;
use crate::checker::{Action, History, Outcome};

/// Few, so that clients meet.
const IDS: u32 = 20;

/// How long a client waits for an answer before it takes the outcome for unknown.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Between two tries to connect, and after a refusal.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug)]
struct Shared {
    /// Each connection goes to one of them, by chance.
    leaders: Mutex<Vec<SocketAddr>>,
    /// How often they changed: connections are made anew then.
    changes: AtomicU64,
    /// Its order is sound because a request enters it before it leaves, and an answer after it has come.
    history: Mutex<History>,
    /// How often each kind of outcome was met.
    outcomes: Mutex<BTreeMap<String, u64>>,
    next_value: AtomicU64,
    /// Requests that were answered by more than an error.
    told: AtomicU64,
    stop: AtomicBool,
}

/// Clients at work.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

/// What they were told.
#[derive(Debug)]
pub(crate) struct Told(Arc<Shared>);

impl Load {
    /// Starts so many clients.
    pub(crate) fn start(addr: &str, clients: u32, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            leaders: Mutex::new(vec![addr.parse().expect("an address")]),
            changes: AtomicU64::new(0),
            history: Mutex::new(History::new()),
            outcomes: Mutex::new(BTreeMap::new()),
            next_value: AtomicU64::new(1),
            told: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        Self::with(shared, clients, seed)
    }

    fn with(shared: Arc<Shared>, clients: u32, seed: u64) -> Self {
        let run = |client| {
            let shared = shared.clone();
            let rng = fastrand::Rng::with_seed(seed.wrapping_add(u64::from(client)));
            std::thread::spawn(move || Client { number: client, shared, wire: None, changes: 0, rng }.run())
        };
        let clients = (1..=clients).map(run).collect();
        Self { shared, clients }
    }

    /// From now on clients ask all of these leaders.
    pub(crate) fn ask_at(&self, leaders: &[&str]) {
        *lock(&self.shared.leaders) = leaders.iter().map(|addr| addr.parse().expect("an address")).collect();
        self.shared.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests were answered by more than an error.
    pub(crate) fn told(&self) -> u64 {
        self.shared.told.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests were answered.
    pub(crate) fn goes_on(&self, more: u64) {
        let wanted = self.told() + more;
        let deadline = Instant::now() + PATIENCE;
        while self.told() < wanted {
            let outcomes = || Told(self.shared.clone()).summary();
            assert!(Instant::now() < deadline, "clients get no answers any more: {}", outcomes());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops them, and waits for their last answers.
    pub(crate) fn finish(self) -> Told {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a client's thread");
        }
        Told(self.shared)
    }
}

impl Told {
    /// Reads every id until it is answered for sure; gives the history with these answers.
    pub(crate) fn read_everything(&self, patience: Duration) -> MutexGuard<'_, History> {
        let deadline = Instant::now() + patience;
        let ids = lock(&self.0.history).ids();
        let mut client =
            Client { number: 0, shared: self.0.clone(), wire: None, changes: 0, rng: fastrand::Rng::with_seed(0) };
        for id in ids {
            while !matches!(client.ask(&id, Action::Get), Some(Outcome::Found(_) | Outcome::NotFound)) {
                assert!(Instant::now() < deadline, "{id} cannot be read: {}", self.summary());
                std::thread::sleep(PAUSE);
            }
        }
        lock(&self.0.history)
    }

    /// The same history goes on.
    pub(crate) fn goes_on_with(self, clients: u32, seed: u64) -> Load {
        self.0.stop.store(false, Ordering::Relaxed);
        Load::with(self.0, clients, seed)
    }

    /// `DEL done 12, GET found 34, ...`
    pub(crate) fn summary(&self) -> String {
        let outcomes = lock(&self.0.outcomes);
        outcomes.iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>().join(", ")
    }
}

struct Client {
    number: u32,
    shared: Arc<Shared>,
    wire: Option<BufReader<TcpStream>>,
    /// The choice of leaders that the connection was made under.
    changes: u64,
    rng: fastrand::Rng,
}

impl Client {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let id = format!("id{}", self.rng.u32(0..IDS));
            let action = match self.rng.u32(0..20) {
                0..9 => Action::Set(self.shared.next_value.fetch_add(1, Ordering::Relaxed)),
                9..18 => Action::Get,
                _ => Action::Delete,
            };
            if !matches!(self.ask(&id, action), Some(Outcome::Done | Outcome::Found(_) | Outcome::NotFound)) {
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// One request and its outcome; `None` if nobody listens, and nothing was asked.
    fn ask(&mut self, id: &str, action: Action) -> Option<Outcome> {
        let changes = self.shared.changes.load(Ordering::Relaxed);
        if self.wire.is_none() || self.changes != changes {
            (self.wire, self.changes) = (None, changes);
            let leader = {
                let leaders = lock(&self.shared.leaders);
                leaders[self.rng.usize(0..leaders.len())]
            };
            let stream = TcpStream::connect_timeout(&leader, TIMEOUT).ok()?;
            stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
            stream.set_write_timeout(Some(TIMEOUT)).expect("a timeout");
            stream.set_nodelay(true).expect("no delay");
            self.wire = Some(BufReader::new(stream));
        }
        let line = match action {
            Action::Set(value) => format!("SET {id} {}\n", message(value)),
            Action::Get => format!("GET {id}\n"),
            Action::Delete => format!("DEL {id}\n"),
            Action::Swap(_) | Action::Expire(_) => unreachable!("no line of text does that"),
        };
        let op = lock(&self.shared.history).invoke(self.number, id, action);
        let reply = self.exchange(&line);
        let outcome = reply.as_deref().map_or(Outcome::Unknown, |reply| outcome(action, reply));
        lock(&self.shared.history).complete(op, outcome);
        self.count(action, outcome, reply.as_deref());
        if reply.is_none() {
            // An answer that comes late must not be taken for that of the next request.
            self.wire = None;
        }
        Some(outcome)
    }

    /// Sends a line; gives the complete line that comes back, if one does.
    fn exchange(&mut self, line: &str) -> Option<String> {
        let wire = self.wire.as_mut()?;
        wire.get_mut().write_all(line.as_bytes()).ok()?;
        let mut reply = String::new();
        wire.read_line(&mut reply).ok()?;
        reply.strip_suffix('\n').map(str::to_owned)
    }

    fn count(&self, action: Action, outcome: Outcome, reply: Option<&str>) {
        let word = match action {
            Action::Set(_) => "SET",
            Action::Get => "GET",
            Action::Delete => "DEL",
            Action::Swap(_) | Action::Expire(_) => "SWAP",
        };
        let what = match outcome {
            Outcome::Done | Outcome::Swapped(_) => "done".to_owned(),
            Outcome::Found(_) => "found".to_owned(),
            Outcome::NotFound => "not found".to_owned(),
            Outcome::SurelyNot | Outcome::Unknown => match reply {
                Some(reply) => reply.split(' ').nth(1).unwrap_or_default().to_owned(),
                None => "unanswered".to_owned(),
            },
        };
        *lock(&self.shared.outcomes).entry(format!("{word} {what}")).or_default() += 1;
        if matches!(outcome, Outcome::Done | Outcome::Found(_) | Outcome::NotFound) {
            self.shared.told.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What a reply line tells. Panics on replies that no fault excuses.
fn outcome(action: Action, reply: &str) -> Outcome {
    if let Some(error) = reply.strip_prefix("ERROR ") {
        let code = error.split(' ').next().unwrap_or_default();
        assert!(!["BAD_COMMAND", "TOO_LARGE", "NOT_A_LINE", "LOST"].contains(&code), "{action:?}: {reply}");
        return match (action, certainty_of(code)) {
            (Action::Get, _) if code == "NOT_FOUND" => Outcome::NotFound,
            (_, Certainty::SurelyNot) => Outcome::SurelyNot,
            (_, Certainty::Maybe) => Outcome::Unknown,
        };
    }
    match (action, reply.strip_prefix("VALUE ")) {
        (Action::Get, Some(text)) => {
            let value = text.split(' ').next().and_then(|word| word.parse().ok());
            let value = value.filter(|&value| message(value) == text);
            Outcome::Found(value.unwrap_or_else(|| panic!("nobody wrote {text:?}")))
        }
        (Action::Set(_) | Action::Delete, None) if reply == "OK" => Outcome::Done,
        _ => panic!("{action:?} was answered by {reply:?}"),
    }
}

/// Of different lengths, and told from its number, so that a piece of one is noticed.
fn message(value: u64) -> String {
    let filling = char::from(b'a' + (value % 26) as u8).to_string().repeat((value * 37 % 500) as usize);
    format!("{value} {filling}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
