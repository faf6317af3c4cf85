//! `hatokuse client --watch 1s`: a line about the register each interval, with what happened since the line before.
//!
//! Invariant: every line is of one STATUS, and a rate is taken by the leader's own
//! clock. A leader that goes away is said once, and asked again every interval
//! until it is back. Ends with Ctrl-C, SIGTERM, or its reader.

use std::io::{self, Write};
use std::time::Duration;

use ratatui::style::Color;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::render::{Style, inked, write_reply};
use super::shell::{EXIT_OK, Settings, complain, connect, failed, note_address};
use super::status::Status;
use super::{Client, Error, unexpected};
use crate::dashboard::words;
use crate::logs;
use crate::protocol::Command;
use crate::protocol::text::ReplyLine;
use crate::telemetry::grouped;
use crate::terminal::Paper;

/// Lines between two headings.
const PAGE: usize = 20;

/// How often a silent watch looks whether its reader is still there.
const GLANCE: Duration = Duration::from_secs(1);

const HEADING: &str = "UTC      HEALTH     MESSAGES   DELTA   SET/s   GET/s NODES  SHORT LOST REPAIR";

/// Of what is shown in a terminal that is too narrow for all of it.
const NARROW_HEADING: &str = "UTC      HEALTH     MESSAGES NODES";

/// Watches until it is told to stop; gives the exit code.
pub(super) async fn run(settings: &Settings, every: Duration) -> anyhow::Result<u8> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut out = io::stdout().lock();
    tokio::select! {
        result = roll(settings, every, &mut out) => result,
        _ = interrupt.recv() => Ok(EXIT_OK),
        _ = terminate.recv() => Ok(EXIT_OK),
        () = reader_left() => Ok(EXIT_OK),
    }
}

/// Resolves when nobody can read standard output any more, which a watch without news would not see.
async fn reader_left() {
    loop {
        tokio::time::sleep(GLANCE).await;
        let stdout = io::stdout();
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        if poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok()
            && fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
        {
            return;
        }
    }
}

/// Asks and writes, for ever; gives an exit code only where there is nothing to be watched.
pub(super) async fn roll(settings: &Settings, every: Duration, out: &mut impl Write) -> anyhow::Result<u8> {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rolling = Rolling::default();
    let mut client: Option<Client> = None;
    let mut served: Option<String> = None;
    let (mut was_there, mut is_away) = (false, false);
    loop {
        ticks.tick().await;
        match look(settings, &mut client).await {
            Ok((reply, status)) => {
                was_there = true;
                if let Some(client) = &client {
                    let before = served.replace(client.address().to_owned());
                    before.into_iter().for_each(|before| note_address(&before, client));
                }
                if std::mem::take(&mut is_away) {
                    complain(&format!("the leader is back, up {}", words::age(status.uptime_s)));
                }
                let style = Style::here(settings);
                match style.json {
                    true => write_reply(&reply, style, out)?,
                    false => out.write_all(rolling.lines(status, &logs::clock(), style.paper).as_bytes())?,
                }
                out.flush()?;
            }
            // A wrong address or password is not mended by asking again.
            Err(error) if !was_there || is_final(&error) => return Ok(failed(&error)),
            Err(error) => {
                client = None;
                if !std::mem::replace(&mut is_away, true) {
                    let every = humantime::format_duration(every);
                    complain(&format!("the leader is away ({}); asking again every {every}", why(&error)));
                }
            }
        }
    }
}

/// What happened, without what errors say of writes: a watch writes nothing.
fn why(error: &Error) -> String {
    match error {
        Error::Connect { source, .. } => source.kind().to_string(),
        Error::NoneAnswers { .. } => error.in_short(),
        Error::Timeout { after } => format!("no answer within {}", humantime::format_duration(*after)),
        Error::Refused { code, explanation } => format!("{code}: {explanation}"),
        _ => "the connection was lost".to_owned(),
    }
}

/// Whether the leader has said that it will not talk with us.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::Refused { code, .. } if code == "NOAUTH" || code == "WRONGPASS")
}

/// One STATUS, over the connection that there is or a new one.
async fn look(settings: &Settings, client: &mut Option<Client>) -> Result<(ReplyLine, Status), Error> {
    let client = match client {
        Some(client) => client,
        None => client.insert(connect(settings).await?),
    };
    match client.request(&Command::Status).await? {
        ReplyLine::Error { code, explanation } => Err(Error::Refused { code, explanation }),
        reply => match &reply {
            ReplyLine::Other(line) if let Some(status) = Status::parse(line) => Ok((reply, status)),
            _ => Err(unexpected("STATUS as JSON", &reply)),
        },
    }
}

/// What was seen last, and how far down the page we are.
#[derive(Debug, Default)]
struct Rolling {
    seen: Option<Status>,
    lines: usize,
}

impl Rolling {
    /// The line of a STATUS, with a heading where it is time for one.
    fn lines(&mut self, status: Status, clock: &str, paper: Paper) -> String {
        let narrow = paper.columns < HEADING.len();
        let heading = match (self.lines.is_multiple_of(PAGE), narrow) {
            (false, _) => String::new(),
            (true, false) => format!("{HEADING}\n"),
            (true, true) => format!("{NARROW_HEADING}\n"),
        };
        self.lines += 1;
        let since = self.seen.as_ref().map(|seen| Since::of(seen, &status));
        let rate = |of: fn(&Since) -> Option<f64>| since.as_ref().and_then(of).map_or("-".to_owned(), words::rate);
        let delta = since.as_ref().map_or("-".to_owned(), |since| signed(since.messages));
        let health = status.health();
        let (up, all) = (status.up(), status.nodes.len());
        let count = |n: u64, wide: usize, color: Color| {
            inked(&format!("{:>wide$}", grouped(n)), (n > 0).then_some(color), paper).into_owned()
        };
        let repair = match &status.repair {
            repair if repair.is_idle() && repair.blocked.is_empty() => "-".to_owned(),
            repair if repair.is_idle() => "waiting".to_owned(),
            repair => repair.in_short(),
        };
        let health_word = inked(&format!("{:<8}", health.word), Some(health.color), paper).into_owned();
        let nodes =
            inked(&format!("{:>5}", format!("{up}/{all}")), (up < all).then_some(Color::Yellow), paper).into_owned();
        if narrow {
            let line = format!("{clock} {health_word} {:>10} {nodes}\n", grouped(status.messages));
            self.seen = Some(status);
            return heading + &line;
        }
        let line = format!(
            "{clock} {health_word} {:>10} {delta:>7} {:>7} {:>7} {nodes} {} {} {repair}\n",
            grouped(status.messages),
            rate(|since| since.sets),
            rate(|since| since.gets),
            count(status.under_replicated, 6, Color::Yellow),
            count(status.lost, 4, Color::Red),
        );
        self.seen = Some(status);
        heading + &line
    }
}

/// What happened between two STATUS.
#[derive(Debug, PartialEq)]
struct Since {
    messages: i64,
    /// A second; `None`: the leader does not count them.
    sets: Option<f64>,
    gets: Option<f64>,
}

impl Since {
    fn of(before: &Status, now: &Status) -> Self {
        // A leader that started anew counts from its start.
        let is_new = now.uptime_s < before.uptime_s;
        let elapsed = if is_new { now.uptime_s } else { now.uptime_s - before.uptime_s };
        let rate = |before: Option<u64>, now: Option<u64>| {
            let before = if is_new { 0 } else { before? };
            let done = now?.saturating_sub(before) as f64;
            Some(if elapsed > 0.0 { done / elapsed } else { 0.0 })
        };
        Self {
            messages: now.messages as i64 - before.messages as i64,
            sets: rate(before.sets, now.sets),
            gets: rate(before.gets, now.gets),
        }
    }
}

/// `+1,234`, `-5`, `0`.
fn signed(n: i64) -> String {
    let sign = match n {
        0 => "",
        n if n < 0 => "-",
        _ => "+",
    };
    format!("{sign}{}", grouped(n.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Listener, Peer, nobody, serve};
    use super::*;

    const PAPER: Paper = Paper { columns: 80, color: false, utf8: false };

    fn line(uptime_s: f64, messages: u64, sets: u64, under_replicated: u64, state: &str) -> String {
        let node = |id, state| {
            format!(
                r#"{{"id":{id},"address":"a:{id}","state":"{state}","messages":1,"bytes":5,"io_mode":"buffered","layout":"text"}}"#
            )
        };
        let repair = format!(r#"{{"pending":{under_replicated},"done":20,"per_s":10.0,"eta_s":2.0}}"#);
        format!(
            r#"{{"version":"1","epoch":7,"tolerance":1,"uptime_s":{uptime_s},"messages":{messages},"sets":{sets},"gets":0,"under_replicated":{under_replicated},"lost":0,"repair":{repair},"nodes":[{},{}]}}"#,
            node(1, "up"),
            node(2, state)
        )
    }

    fn status(uptime_s: f64, messages: u64, sets: u64, under_replicated: u64, state: &str) -> Status {
        Status::parse(line(uptime_s, messages, sets, under_replicated, state).as_bytes()).unwrap()
    }

    #[test]
    fn each_line_says_what_happened_since_the_one_before() {
        let mut rolling = Rolling::default();
        let mut shown = String::new();
        for (seen, clock) in [
            (status(10.0, 8_980, 100, 0, "up"), "12:41:07"),
            (status(12.0, 9_000, 2_668, 0, "up"), "12:41:09"),
            (status(13.0, 8_900, 2_668, 80, "down"), "12:41:10"),
            (status(0.5, 8_900, 10, 0, "up"), "12:41:20"),
        ] {
            shown.push_str(&rolling.lines(seen, clock, PAPER));
        }
        let wanted = "\
UTC      HEALTH     MESSAGES   DELTA   SET/s   GET/s NODES  SHORT LOST REPAIR
12:41:07 HEALTHY       8,980       -       -       -   2/2      0    0 -
12:41:09 HEALTHY       9,000     +20   1,284       0   2/2      0    0 -
12:41:10 DEGRADED      8,900    -100       0       0   1/2     80    0 20% 2.0s
12:41:20 HEALTHY       8,900       0      20       0   2/2      0    0 -
";
        assert_eq!(shown, wanted);
    }

    #[test]
    fn a_narrow_terminal_gets_less_and_no_broken_lines() {
        let paper = Paper { columns: 40, ..PAPER };
        let shown = Rolling::default().lines(status(10.0, 1_234_567, 100, 0, "down"), "12:41:07", paper);
        assert!(shown.lines().all(|line| line.len() <= 40) && shown.contains("1,234,567   1/2"), "{shown}");
    }

    #[test]
    fn the_heading_comes_again_and_colours_mark_what_is_wrong() {
        let mut rolling = Rolling::default();
        let lines: String =
            (0..2 * PAGE + 1).map(|_| rolling.lines(status(1.0, 1, 1, 0, "up"), "12:00:00", PAPER)).collect();
        assert_eq!(lines.matches(HEADING).count(), 3);
        let paper = Paper { color: true, ..PAPER };
        let ill = rolling.lines(status(2.0, 1, 1, 7, "down"), "12:00:00", paper);
        for part in ["\u{1b}[31mDEGRADED\u{1b}[0m", "\u{1b}[33m  1/2\u{1b}[0m", "\u{1b}[33m     7\u{1b}[0m"] {
            assert!(ill.contains(part), "{part:?} in {ill:?}");
        }
        assert!(!ill.contains("[31m   0"), "nothing is lost");
    }

    /// A stdout that ends after so many lines.
    struct Reader {
        text: Vec<u8>,
        lines: usize,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.text.iter().filter(|&&byte| byte == b'\n').count() >= self.lines {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.text.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn settings(addr: &str, json: bool) -> Settings {
        let timeout = Duration::from_secs(60);
        Settings { json, ..Settings::new(addr, timeout) }
    }

    async fn answer(peer: &mut Peer, uptime_s: f64) {
        peer.expect("STATUS").await;
        peer.send(line(uptime_s, 1, 1, 0, "up") + "\n").await;
    }

    #[tokio::test]
    async fn a_leader_that_goes_away_is_asked_until_it_is_back() {
        let (addr, server) = serve(async |listener: Listener| {
            let mut peer = listener.accept().await;
            answer(&mut peer, 1.0).await;
            peer.expect("STATUS").await;
            drop(peer);
            let mut full = listener.accept().await;
            full.send("ERROR BUSY too many clients\n").await;
            drop(full);
            let mut peer = listener.accept().await;
            answer(&mut peer, 0.25).await;
            answer(&mut peer, 0.5).await;
            answer(&mut peer, 0.75).await;
        })
        .await;
        let mut reader = Reader { text: Vec::new(), lines: 3 };
        let settings = settings(&addr, true);
        let error = roll(&settings, Duration::from_millis(1), &mut reader).await.unwrap_err();
        let cause = error.downcast_ref::<io::Error>().unwrap();
        assert_eq!(cause.kind(), io::ErrorKind::BrokenPipe, "the door ends quietly for this");
        server.await.unwrap();
        let uptimes: Vec<f64> = String::from_utf8(reader.text)
            .unwrap()
            .lines()
            .map(|l| Status::parse(l.as_bytes()).unwrap().uptime_s)
            .collect();
        assert_eq!(uptimes, [1.0, 0.25, 0.5]);
    }

    #[tokio::test]
    async fn what_cannot_be_watched_is_told_at_once() {
        let every = Duration::from_millis(1);
        let mut out = Vec::new();
        assert_eq!(roll(&settings(&nobody().await, false), every, &mut out).await.unwrap(), 4);
        for (reply, code) in [("ERROR NOAUTH no", 1), ("HTTP/1.1 400 Bad Request", 4)] {
            let (addr, server) = serve(async move |listener: Listener| {
                let mut peer = listener.accept().await;
                peer.expect("STATUS").await;
                peer.send(format!("{reply}\n")).await;
            })
            .await;
            assert_eq!(roll(&settings(&addr, false), every, &mut out).await.unwrap(), code, "{reply}");
            server.await.unwrap();
        }
        assert!(out.is_empty());
    }
}
