//! Clients that read and write several ids at one instant.
//!
//! The two halves of the pair are only ever written together and with the same value, so in the history they are one
//! register, `pair`: whoever sees two values, or one of them too late, has seen half of a transaction.

use std::time::Duration;

use hatokuse::leader::transaction::{Need, Transaction};
use hatokuse::protocol::Command;
use hatokuse::types::{MessageId, Payload};
use hatokuse::{error::Refusal, protocol::Reply};
use tokio::time::sleep;

use crate::checker::{Action, Outcome};
use crate::network::{LeaderHere, Net};
use crate::world::{IDS, World, ask, certain, value_of};

/// The register that the pair is.
pub(crate) const PAIR: &str = "pair";

/// Its halves.
pub(crate) const HALVES: [&str; 2] = ["pair-left", "pair-right"];

fn halves() -> [MessageId; 2] {
    HALVES.map(|half| half.parse().unwrap())
}

/// What one request came to; nothing: the leader went before it answered.
async fn tell<T>(net: &Net, work: impl AsyncFnOnce(LeaderHere) -> Result<T, Refusal>) -> Option<Result<T, Refusal>> {
    let Some(leader) = net.either() else { return Some(Err(Refusal::Unavailable("nobody listens".to_owned()))) };
    let (life, home) = (leader.life.clone(), leader.home.clone());
    let answer = async {
        net.wait_while_stalled(&home).await;
        let answer = work(leader).await;
        net.wait_while_stalled(&home).await;
        answer
    };
    tokio::select! {
        biased;
        () = life.cancelled() => None,
        answer = answer => Some(answer),
    }
}

/// The value of the pair, both of whose halves are the same, or not there.
fn value(messages: &[Option<Payload>]) -> Option<u64> {
    let values: Vec<_> =
        messages.iter().map(|message| message.as_deref().map(|message| value_of(PAIR, message))).collect();
    assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "half of a transaction is seen: {values:?}");
    values[0]
}

/// Works until `until`; on the pair only if what goes wrong leaves transactions whole.
pub(crate) async fn client(n: u32, net: Net, mut chance: fastrand::Rng, world: World, until: Duration, pairs: bool) {
    while world.elapsed() < until {
        sleep(Duration::from_millis(chance.u64(0..40))).await;
        let padding = chance.usize(..200);
        let id = format!("id{}", chance.u32(..IDS));
        match chance.u8(..20) {
            0..4 if pairs => write(n, &net, &world, padding).await,
            4..8 if pairs => swap(n, &net, &world, PAIR, &halves(), padding).await,
            8..10 if pairs => delete(n, &net, &world).await,
            10..14 if pairs => drop(read(n, &net, &world).await),
            14..17 if pairs => read_half(n, &net, &world, HALVES[chance.usize(..2)]).await,
            _ => swap(n, &net, &world, &id, &[id.parse().unwrap()], padding).await,
        }
    }
}

fn payload(register: &str, value: u64, padding: usize) -> Payload {
    format!("{register}={value}={}", "x".repeat(padding)).into()
}

fn begin(n: u32, world: &World, register: &str, action: impl FnOnce(u64) -> Action) -> (usize, u64) {
    let mut record = world.record();
    let value = record.next_value();
    (record.history.invoke(n, register, action(value)), value)
}

fn end(world: &World, what: &str, op: usize, outcome: Outcome) {
    world.say(&format!("{what} {op} -> {outcome:?}"));
    world.record().history.complete(op, outcome);
}

/// Writes the next value to both halves.
pub(crate) async fn write(n: u32, net: &Net, world: &World, padding: usize) {
    let (op, value) = begin(n, world, PAIR, Action::Set);
    let message = payload(PAIR, value, padding);
    let done = tell(net, async |leader| {
        let set = move |transaction: &mut Transaction| {
            halves().iter().for_each(|half| transaction.set(half, message.clone(), None))
        };
        leader.coordinator.transact(halves().map(|half| (half, Need::Nothing)), set).await
    });
    end(world, "write pair", op, outcome(done.await, |()| Outcome::Done));
}

async fn delete(n: u32, net: &Net, world: &World) {
    let op = world.record().history.invoke(n, PAIR, Action::Delete);
    let done = tell(net, async |leader| {
        let delete = |transaction: &mut Transaction| {
            let there = halves().map(|half| transaction.exists(&half));
            assert_eq!(there[0], there[1], "half of a transaction is seen");
            halves().iter().for_each(|half| transaction.delete(half));
        };
        leader.coordinator.transact(halves().map(|half| (half, Need::Version)), delete).await
    });
    end(world, "delete pair", op, outcome(done.await, |()| Outcome::Done));
}

/// Gives all ids of a register another value, and tells what they had before.
async fn swap(n: u32, net: &Net, world: &World, register: &str, ids: &[MessageId], padding: usize) {
    let (op, new) = begin(n, world, register, Action::Swap);
    let message = payload(register, new, padding);
    let (mut asked, mut of) = (None, None);
    let done = tell(net, async |leader| {
        asked = world.time_of(&leader);
        of = Some(leader.clone());
        let ids = ids.to_vec();
        let needs: Vec<_> = ids.iter().map(|id| (id.clone(), Need::Message)).collect();
        let swap = move |mut transaction: Transaction| async move {
            // Some take their time over it, as scripts do, and some of these are given up.
            if padding.is_multiple_of(4) {
                sleep(Duration::from_millis(padding as u64)).await;
            }
            if padding.is_multiple_of(40) {
                return Err(Refusal::Unavailable("it was given up; nothing was written".to_owned()));
            }
            let before: Vec<_> = ids.iter().map(|id| transaction.get(id).cloned()).collect();
            ids.iter().for_each(|id| transaction.set(id, message.clone(), None));
            Ok((transaction, before))
        };
        leader.coordinator.transact_apart(needs, swap).await
    });
    let before = |messages: Vec<Option<Payload>>| match register {
        PAIR => value(&messages),
        _ => messages[0].as_ref().map(|message| value_of(register, message)),
    };
    let done = done.await;
    of.iter().for_each(|leader| world.note_ended(leader));
    let swapped = |messages| {
        let before = before(messages);
        before.into_iter().for_each(|value| world.shown(asked, value));
        Outcome::Swapped(before)
    };
    end(world, &format!("swap {register}"), op, outcome(done, swapped));
}

/// Reads both halves; gives what is there.
pub(crate) async fn read(n: u32, net: &Net, world: &World) -> Option<u64> {
    let op = world.record().history.invoke(n, PAIR, Action::Get);
    let read = tell(net, async |leader| Ok(leader.coordinator.read_many(&halves()).await?.0));
    let outcome = outcome(read.await, |messages| found(value(&messages)));
    end(world, "read pair", op, outcome);
    match outcome {
        Outcome::Found(value) => Some(value),
        _ => None,
    }
}

async fn read_half(n: u32, net: &Net, world: &World, half: &str) {
    let op = world.record().history.invoke(n, PAIR, Action::Get);
    let read = match ask(net, Command::Get(half.parse().unwrap())).await {
        Some(Reply::Value(message)) => Some(Ok(Some(message))),
        Some(Reply::Refused(Refusal::NotFound)) => Some(Ok(None)),
        Some(Reply::Refused(refusal)) => Some(Err(refusal)),
        None => None,
        other => panic!("{half} was answered with {other:?}"),
    };
    end(world, &format!("read {half}"), op, outcome(read, |message| found(value(&[message]))));
}

fn found(value: Option<u64>) -> Outcome {
    value.map_or(Outcome::NotFound, Outcome::Found)
}

fn outcome<T>(answer: Option<Result<T, Refusal>>, of: impl FnOnce(T) -> Outcome) -> Outcome {
    match answer {
        Some(Ok(told)) => of(told),
        Some(Err(Refusal::Lost(_))) => panic!("something is said to be lost"),
        Some(Err(refusal)) => certain(&refusal),
        None => Outcome::Unknown,
    }
}
