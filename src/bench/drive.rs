//! Drives one phase of requests at a register, and checks every reply.
//!
//! Closed loop: each connection keeps up to `pipeline` requests in flight all
//! the time. All connections live on the caller's one thread, because a bench
//! shares its machine with the servers it measures.
//!
//! Never retries and never reconnects: what went wrong is what is to be seen.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::connection::{Connection, Shared, closed};
use super::progress::Progress;
use super::report::Samples;
use super::workload::{Lane, Plan, Values};

/// How long to wait for any reply at all before giving up.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Time between two looks at the progress.
const TICK: Duration = Duration::from_millis(100);

/// Where and how to send.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// The leader.
    pub(super) addr: String,
    /// Connections.
    pub(super) connections: usize,
    /// Requests in flight on each.
    pub(super) pipeline: usize,
    /// See [`PATIENCE`].
    pub(super) patience: Duration,
}

/// What came of a phase.
#[derive(Debug)]
pub(super) struct Outcome {
    /// SETs.
    pub(super) sets: Samples,
    /// GETs.
    pub(super) gets: Samples,
    /// Errors that belong to no request: connections that were refused or lost while idle.
    pub(super) connection_errors: u64,
    /// What went wrong first.
    pub(super) first_error: Option<String>,
    /// From the first request to the last reply, connecting not included.
    pub(super) elapsed: Duration,
}

impl Outcome {
    /// All errors.
    pub(super) fn errors(&self) -> u64 {
        self.sets.errors + self.gets.errors + self.connection_errors
    }
}

/// Sends everything in the plan. Fails only if not a single connection could be made.
///
/// Must run inside a [`tokio::task::LocalSet`].
pub(super) async fn drive(target: &Target, values: &Values, plan: Plan, mut progress: Progress) -> io::Result<Outcome> {
    let lanes: Vec<Lane> = (0..target.connections).map(|number| plan.lane(number)).collect();
    let shared = Rc::new(RefCell::new(Shared::new(plan)));
    let streams = connect_all(target, &shared).await?;
    let started = Instant::now();
    let connections = join_all(streams.into_iter().zip(lanes).map(|(stream, lane)| {
        let connection = Connection::new(shared.clone(), values.clone(), lane, target.pipeline);
        // Dropped with this future, so that a stalled phase leaves no task behind.
        AbortOnDrop(tokio::task::spawn_local(connection.run(stream)))
    }));
    tokio::select! {
        _ = connections => {}
        () = watch(&shared, &mut progress, target.patience) => {}
    }
    let elapsed = started.elapsed();
    let mut shared = shared.borrow_mut();
    let shared = &mut *shared;
    // Only after a stall is anything still open.
    shared.sets.errors += shared.open_sets;
    shared.gets.errors += shared.open_gets;
    progress.update(&shared.sets, &shared.gets);
    Ok(Outcome {
        sets: std::mem::take(&mut shared.sets),
        gets: std::mem::take(&mut shared.gets),
        connection_errors: shared.connection_errors,
        first_error: shared.first_error.take(),
        elapsed,
    })
}

async fn connect_all(target: &Target, shared: &RefCell<Shared>) -> io::Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(target.connections);
    let mut refused = None;
    for result in join_all((0..target.connections).map(|_| connect(&target.addr, target.patience))).await {
        match result {
            Ok(stream) => streams.push(stream),
            Err(error) => {
                shared.borrow_mut().lost(std::iter::empty(), &error);
                refused = Some(error);
            }
        }
    }
    match refused {
        Some(error) if streams.is_empty() => Err(error),
        _ => Ok(streams),
    }
}

async fn connect(addr: &str, patience: Duration) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(patience.min(CONNECT), TcpStream::connect(addr)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request that stands alone, such as STATUS; the reply line without its end.
pub(super) async fn ask(addr: &str, line: &str, patience: Duration) -> io::Result<String> {
    let mut stream = connect(addr, patience).await?;
    let answer = async {
        stream.write_all(format!("{line}\n").as_bytes()).await?;
        let mut input = Vec::new();
        while !input.ends_with(b"\n") {
            if stream.read_buf(&mut input).await? == 0 {
                return Err(closed());
            }
        }
        input.pop();
        Ok(String::from_utf8_lossy(&input).into_owned())
    };
    tokio::time::timeout(patience, answer).await?
}

/// Shows the progress, and returns once no reply has come for too long.
async fn watch(shared: &RefCell<Shared>, progress: &mut Progress, patience: Duration) {
    let mut seen = 0;
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(TICK.min(patience)).await;
        let mut shared = shared.borrow_mut();
        progress.update(&shared.sets, &shared.gets);
        if shared.ended() > seen {
            (seen, since) = (shared.ended(), Instant::now());
        } else if since.elapsed() >= patience {
            let open = shared.open_sets + shared.open_gets;
            shared.note(|| format!("no reply for {patience:?}; {open} requests were left unanswered"));
            return;
        }
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Future for AbortOnDrop {
    type Output = ();
    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        std::pin::Pin::new(&mut self.0).poll(cx).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, Fault};
    use super::super::{Op, fake};
    use super::*;

    fn values(size: usize) -> Values {
        Values::new("k-", 1, size)
    }

    fn target(fake: &Fake, connections: usize, pipeline: usize) -> Target {
        Target { addr: fake.addr(), connections, pipeline, patience: Duration::from_millis(400) }
    }

    /// Runs phases against a fake server with this fault.
    fn phases(fault: Fault, connections: usize, pipeline: usize, size: usize, plans: Vec<Plan>) -> Vec<Outcome> {
        fake::run(async move {
            let fake = Fake::start(fault).await;
            let mut all = Vec::new();
            for plan in plans {
                let target = target(&fake, connections, pipeline);
                all.push(drive(&target, &values(size), plan, Progress::hidden()).await.unwrap());
            }
            all
        })
    }

    #[test]
    fn what_was_written_is_read_back() {
        for (connections, pipeline, size) in [(1, 1, 0), (3, 1, 1), (4, 16, 100), (2, 5000, 9), (3, 7, 300_000)] {
            let count = if size > 1000 { 40 } else { 1000 };
            let plans = vec![
                Plan::measured(Op::Set, count, 1),
                Plan::measured(Op::Get, count, 1),
                Plan::read_back(count),
                Plan::measured(Op::Mixed, count, 1),
                Plan::load(0),
            ];
            let all = phases(Fault::None, connections, pipeline, size, plans);
            let ended: Vec<_> = all.iter().map(|o| (o.sets.right(), o.gets.right(), o.errors())).collect();
            let half = count / 2;
            assert_eq!(ended, [(count, 0, 0), (0, count, 0), (0, count, 0), (half, half, 0), (0, 0, 0)], "{all:?}");
            assert!(all[0].sets.quantile(1.0) <= all[0].elapsed);
        }
    }

    #[test]
    fn wrong_bytes_and_refusals_are_errors() {
        let plans = || vec![Plan::load(100), Plan::read_back(100)];
        let all = phases(Fault::WrongValue(7), 2, 8, 20, plans());
        assert_eq!((all[0].errors(), all[1].errors(), all[1].gets.right()), (0, 1, 99));
        let error = all[1].first_error.as_deref().unwrap();
        assert!(error.starts_with("GET k-7: not the message that this seed and size give, but 20 bytes: "), "{error}");

        let all = phases(Fault::Refuse(7), 2, 8, 20, plans());
        assert_eq!((all[0].errors(), all[0].sets.right(), all[1].errors()), (1, 99, 1));
        assert!(all[0].first_error.as_deref().unwrap().starts_with("SET k-7: ERROR BUSY "));
        assert!(all[1].first_error.as_deref().unwrap().starts_with("GET k-7: ERROR NOT_FOUND "));
    }

    #[test]
    fn a_lost_connection_counts_what_it_left_open() {
        // The connection breaks instead of answering request 10: that one and the 7 behind it are lost.
        let all = phases(Fault::HangUpAt(10), 1, 8, 5, vec![Plan::load(100)]);
        assert_eq!((all[0].sets.right(), all[0].errors()), (10, 8));
        assert!(all[0].first_error.as_deref().unwrap().starts_with("connection: "));
    }

    #[test]
    fn silence_ends_a_phase() {
        let all = phases(Fault::SilentAt(10), 1, 8, 5, vec![Plan::load(100)]);
        assert_eq!((all[0].sets.right(), all[0].errors()), (10, 8));
        assert!(all[0].first_error.as_deref().unwrap().contains("8 requests were left unanswered"));
    }

    #[test]
    fn no_connection_at_all_is_a_failure() {
        let error = fake::run(async {
            let addr = Fake::start(Fault::None).await.addr();
            tokio::task::yield_now().await;
            let target = Target { addr, connections: 2, pipeline: 1, patience: PATIENCE };
            drive(&target, &values(1), Plan::load(1), Progress::hidden()).await.unwrap_err()
        });
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_single_question_gets_its_line() {
        let reply = fake::run(async {
            let fake = Fake::start(Fault::None).await;
            ask(&fake.addr(), "GET nothing", PATIENCE).await.unwrap()
        });
        assert_eq!(reply, "ERROR NOT_FOUND no message with this id");
    }
}
