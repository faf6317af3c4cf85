//! Clients, what they were told, and the record of it all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use hatokuse::error::{Certainty, Refusal};
use hatokuse::leader::coordinator::Coordinator;
use hatokuse::protocol::{Command, Reply};
use hatokuse::telemetry::served::Protocol;
use hatokuse::types::checksum;
use tokio::time::{Instant, sleep};

use crate::checker::{Action, History, Outcome};
use crate::network::{LeaderHere, Net};

/// Everybody writes, reads and deletes all of these.
pub(crate) const IDS: u32 = 6;

/// One in so many values ends by itself.
const EXPIRES: u64 = 5;

/// The register's time is told in whole milliseconds, and drawn in steps of some.
const ROUNDED_MS: u64 = 10;

/// How often the leaders' times are looked at, and how much of them can be missed by that.
const LOOK: Duration = Duration::from_millis(50);
const LATE_MS: u64 = 100;

/// What happened, in one order; clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct World(Arc<Mutex<Record>>);

#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) history: History,
    pub(crate) trace: String,
    /// Troubles that took effect, by kind.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    began: Instant,
    values: u64,
    /// The time by which each value has ended, by the register's time, where that is known.
    ends: BTreeMap<u64, u64>,
    /// Values that end, until they may be gone.
    ending: Vec<Ending>,
    /// Nodes that only read, and for which leader.
    only_read: BTreeSet<(String, u32)>,
    /// What each leader's time was when it was last looked at. (As long as it is named here no other has its place.)
    times: BTreeMap<usize, (Weak<Coordinator>, Instant, u64)>,
}

/// A value that ends by itself.
#[derive(Debug)]
struct Ending {
    client: u32,
    id: String,
    value: u64,
    time: Duration,
    /// The leader that was asked to write it, when, and, once that is known, what its time was then.
    leader: LeaderHere,
    at: Instant,
    asked: Option<u64>,
}

impl World {
    pub(crate) fn new() -> Self {
        let (history, faults) = (History::new(), BTreeMap::new());
        let (ends, ending, only_read, times) = (BTreeMap::new(), Vec::new(), BTreeSet::new(), BTreeMap::new());
        let (trace, began) = (String::new(), Instant::now());
        let record = Record { history, trace, faults, began, values: 0, ends, ending, only_read, times };
        Self(Arc::new(Mutex::new(record)))
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.record().began.elapsed()
    }

    pub(crate) fn began(&self) -> Instant {
        self.record().began
    }

    pub(crate) fn say(&self, line: &str) {
        let mut record = self.record();
        let at = record.began.elapsed().as_millis();
        let _ = writeln!(record.trace, "{at} {line}");
        tracing::info!("{at} {line}");
    }

    /// A trouble took effect.
    pub(crate) fn count(&self, fault: &'static str) {
        *self.record().faults.entry(fault).or_default() += 1;
    }
}

impl Record {
    /// One that nobody has written.
    pub(crate) fn next_value(&mut self) -> u64 {
        self.values += 1;
        self.values
    }
}

impl World {
    /// A leader is about to be asked: gives its time, which may not be known yet. It runs as fast as the machine's, to a
    /// hundredth.
    pub(crate) fn time_of(&self, leader: &LeaderHere) -> Option<u64> {
        let time = &leader.coordinator.time;
        if !time.is_settled() {
            return None;
        }
        let (at, now, of) = (Instant::now(), time.peek(), Arc::downgrade(&leader.coordinator));
        let last = self.record().times.insert(of.as_ptr() as usize, (of, at, now));
        let (before, then) = last.map_or((at, now), |(_, at, then)| (at, then));
        let (passed, shown) = ((at - before).as_millis() as u64, now - then);
        assert!(
            shown.abs_diff(passed) <= passed / 100 + ROUNDED_MS,
            "{shown} ms of {}'s time in {passed} ms",
            leader.home
        );
        Some(now)
    }

    /// Looks at the leaders' times for ever: a value may be gone as soon as one of those who have led since it was written
    /// has come to its deadline.
    pub(crate) async fn watch_ends(self, net: Net) {
        loop {
            let leaders: Vec<_> = net.leader().into_iter().chain(net.second()).collect();
            leaders.iter().for_each(|leader| self.note_ended(leader));
            self.note_only_reading(&leaders);
            sleep(LOOK).await;
        }
    }

    /// Counts the nodes that have come to be linked for reads only.
    fn note_only_reading(&self, leaders: &[LeaderHere]) {
        let mut now = BTreeSet::new();
        for leader in leaders {
            let cluster = leader.coordinator.cluster();
            now.extend(cluster.registry.only_reading().map(|node| (leader.home.clone(), node.member.id.0)));
        }
        let before = std::mem::replace(&mut self.record().only_read, now.clone());
        now.difference(&before).for_each(|_| self.count("node only reads"));
    }

    /// A leader has answered, or is looked at: what has ended by its time may be gone.
    pub(crate) fn note_ended(&self, leader: &LeaderHere) {
        self.time_of(leader);
        let mut record = self.record();
        for mut ending in std::mem::take(&mut record.ending) {
            let time = &ending.leader.coordinator.time;
            // It is known with the first look after its leader knows what time it is: before that it writes none.
            ending.asked = ending.asked.or_else(|| time.is_settled().then(|| time.peek()));
            let ends = ending.asked.map(|asked| (asked + ending.time.as_millis() as u64).saturating_sub(LATE_MS));
            let came = |ends: u64| record.times.values().any(|(_, at, now)| *at >= ending.at && *now >= ends);
            match ends.is_some_and(came) {
                true => drop(record.history.invoke(ending.client, &ending.id, Action::Expire(ending.value))),
                false => record.ending.push(ending),
            }
        }
    }

    /// A leader was asked at this time, and showed this value: then it had not ended before. (The promise gives a second
    /// after a deadline; but who is asked after it has the deletion made first, or says that it cannot be told.)
    pub(crate) fn shown(&self, asked: Option<u64>, value: u64) {
        let ends = self.record().ends.get(&value).copied();
        let late = asked.zip(ends).filter(|(asked, ends)| asked >= ends);
        assert!(late.is_none(), "{value} was shown, (asked, ended): {late:?}");
    }
}

/// One request; nothing: the leader went before it answered.
pub(crate) async fn ask(net: &Net, command: Command) -> Option<Reply> {
    ask_any(net.either().as_ref(), net, command).await
}

async fn ask_any(leader: Option<&LeaderHere>, net: &Net, command: Command) -> Option<Reply> {
    match leader {
        Some(leader) => ask_of(leader, net, command).await,
        None => Some(Reply::Refused(Refusal::Unavailable("nobody listens".to_owned()))),
    }
}

/// One request of this leader.
pub(crate) async fn ask_of(leader: &LeaderHere, net: &Net, command: Command) -> Option<Reply> {
    let mut queue = VecDeque::from([Ok(command)]);
    let answer = async {
        net.wait_while_stalled(&leader.home).await;
        let answer = leader.coordinator.execute(&mut queue, Protocol::Text).await;
        net.wait_while_stalled(&leader.home).await;
        answer
    };
    tokio::select! {
        biased;
        () = leader.life.cancelled() => None,
        (mut replies, _room) = answer => replies.pop(),
    }
}

/// Works until `until`.
pub(crate) async fn client(n: u32, net: Net, mut chance: fastrand::Rng, world: World, until: Duration) {
    while world.elapsed() < until {
        sleep(Duration::from_millis(chance.u64(0..40))).await;
        let id = format!("id{}", chance.u32(..IDS));
        match chance.u8(..20) {
            0..8 => {
                let reply = request(n, &net, &world, &id, Some(chance.usize(..300))).await;
                // What may have happened is deleted, and must not come back.
                if matches!(reply, Some(Reply::Refused(Refusal::Unknown(_))) | None) && chance.bool() {
                    delete(n, &net, &world, &id).await;
                }
            }
            8..10 => delete(n, &net, &world, &id).await,
            _ => drop(request(n, &net, &world, &id, None).await),
        }
    }
}

/// A GET, or a SET of a new value that is so much longer than its number.
pub(crate) async fn request(n: u32, net: &Net, world: &World, id: &str, padding: Option<usize>) -> Option<Reply> {
    let (mut time_to_live, mut written) = (None, 0);
    let leader = net.either();
    let asked = leader.as_ref().and_then(|leader| world.time_of(leader));
    let (op, command) = {
        let mut record = world.record();
        match padding {
            Some(padding) => {
                let value = record.next_value();
                let payload = format!("{id}={value}={}", "x".repeat(padding)).into();
                let of = id.parse().unwrap();
                written = value;
                let set = match value % EXPIRES {
                    0 => {
                        let time = Duration::from_secs(1 + value / EXPIRES % 6);
                        time_to_live = Some(time);
                        record.ending.extend(leader.clone().map(|leader| {
                            let (id, at) = (id.to_owned(), Instant::now());
                            Ending { client: n, id, value, time, leader, at, asked }
                        }));
                        Command::SetFor { id: of, time, payload }
                    }
                    _ => Command::Set { id: of, payload },
                };
                (record.history.invoke(n, id, Action::Set(value)), set)
            }
            None => (record.history.invoke(n, id, Action::Get), Command::Get(id.parse().unwrap())),
        }
    };
    let reply = ask_any(leader.as_ref(), net, command).await;
    leader.iter().for_each(|leader| world.note_ended(leader));
    if let (Some(Reply::Done), Some(time), Some(leader)) = (&reply, time_to_live, &leader)
        && let Some(answered) = world.time_of(leader)
    {
        // The deadline was given between question and answer.
        world.record().ends.insert(written, answered + time.as_millis() as u64);
    }
    let shown = match &reply {
        Some(Reply::Value(payload)) => format!("{} bytes, {:08x}", payload.len(), checksum(payload)),
        other => format!("{other:?}"),
    };
    world.say(&format!("{} {id} {op} -> {shown}", if padding.is_some() { "SET" } else { "GET" }));
    let outcome = match &reply {
        Some(Reply::Done) => Outcome::Done,
        Some(Reply::Value(payload)) => {
            world.shown(asked, value_of(id, payload));
            Outcome::Found(value_of(id, payload))
        }
        Some(Reply::Refused(Refusal::NotFound)) => Outcome::NotFound,
        Some(Reply::Refused(Refusal::Lost(_))) => panic!("{id} is said to be lost"),
        Some(Reply::Refused(refusal)) => certain(refusal),
        None => Outcome::Unknown,
        other => panic!("{id} was answered with {other:?}"),
    };
    world.record().history.complete(op, outcome);
    reply
}

async fn delete(n: u32, net: &Net, world: &World, id: &str) {
    let op = world.record().history.invoke(n, id, Action::Delete);
    let reply = ask(net, Command::Delete(id.parse().unwrap())).await;
    world.say(&format!("DEL {id} {op} -> {reply:?}"));
    let outcome = match &reply {
        Some(Reply::Done) => Outcome::Done,
        Some(Reply::Refused(refusal)) => certain(refusal),
        None => Outcome::Unknown,
        other => panic!("a DEL was answered with {other:?}"),
    };
    world.record().history.complete(op, outcome);
}

/// Whether a write that was refused may happen.
pub(crate) fn certain(refusal: &Refusal) -> Outcome {
    match refusal.certainty() {
        Certainty::SurelyNot => Outcome::SurelyNot,
        Certainty::Maybe => Outcome::Unknown,
    }
}

/// The number of a value.
pub(crate) fn value_of(id: &str, payload: &[u8]) -> u64 {
    let text = std::str::from_utf8(payload).unwrap();
    let mut fields = text.split('=');
    assert_eq!(fields.next(), Some(id), "a value of another id");
    fields.next().unwrap().parse().unwrap()
}
