//! Clients that write and read all the time, and remember every answer.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::{PATIENCE, Register, eventually};

/// What the clients were told so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct Told {
    /// Numbers of messages that were acknowledged.
    pub(crate) kept: Vec<u64>,
    /// Replies to SET that were no OK.
    pub(crate) refused: Vec<String>,
    /// Acknowledged messages that were read back right.
    pub(crate) read: u64,
    /// Replies to GET of an acknowledged message that were not that message.
    pub(crate) wrong: Vec<String>,
    /// Connections that broke.
    pub(crate) broken: u64,
}

/// One client that writes `load<n>`, each once, and one that reads back what was acknowledged.
pub(crate) struct Load {
    told: Arc<Mutex<Told>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts both.
    pub(crate) fn start(register: &Register) -> Self {
        let told = Arc::new(Mutex::new(Told::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let threads = [write as fn(&mut Line, &Mutex<Told>, &AtomicBool), read]
            .map(|work| {
                let (addr, told, stop) = (register.addr().to_owned(), told.clone(), stop.clone());
                std::thread::spawn(move || {
                    let mut line = Line { addr, connection: None };
                    while !stop.load(Ordering::Relaxed) {
                        work(&mut line, &told, &stop);
                    }
                })
            })
            .into();
        Self { told, stop, threads }
    }

    /// What they were told so far.
    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    /// Waits until so many more messages were acknowledged, and as many read.
    pub(crate) fn goes_on(&self, more: usize) {
        let (kept, read) = {
            let told = self.told();
            (told.kept.len() + more, told.read + more as u64)
        };
        eventually("the load to go on", || {
            let told = self.told();
            (told.kept.len() >= kept && told.read >= read).then_some(())
        });
    }

    /// Ends both clients.
    pub(crate) fn finish(mut self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
        self.told().clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Told {
    /// Every request was answered as if nothing had happened.
    #[track_caller]
    pub(crate) fn is_flawless(&self) {
        assert!(self.refused.is_empty() && self.broken == 0, "{:?}, broken {}", self.refused, self.broken);
        assert!(self.wrong.is_empty(), "{:?}", self.wrong);
    }

    /// Every acknowledged message is there.
    #[track_caller]
    pub(crate) fn is_all_there(&self, register: &Register) {
        assert!(self.wrong.is_empty(), "{:?}", self.wrong);
        let replies = register.ask_all(self.kept.iter().map(|n| format!("GET load{n}")));
        for (n, reply) in self.kept.iter().zip(replies) {
            assert_eq!(reply, format!("VALUE {}", message(*n)), "load{n}, one of {}", self.kept.len());
        }
    }
}

fn message(n: u64) -> String {
    format!("message {n} of the load")
}

fn write(line: &mut Line, told: &Mutex<Told>, stop: &AtomicBool) {
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        match line.ask(&format!("SET load{n} {}", message(n))) {
            Some(reply) if reply == "OK" => told.lock().unwrap().kept.push(n),
            Some(reply) => told.lock().unwrap().refused.push(reply),
            None => told.lock().unwrap().broken += 1,
        }
    }
}

fn read(line: &mut Line, told: &Mutex<Told>, stop: &AtomicBool) {
    let n = {
        let told = told.lock().unwrap();
        if told.kept.is_empty() { None } else { Some(told.kept[fastrand::usize(..told.kept.len())]) }
    };
    let Some(n) = n else { return std::thread::yield_now() };
    let reply = line.ask(&format!("GET load{n}"));
    let mut told = told.lock().unwrap();
    match reply {
        Some(reply) if reply == format!("VALUE {}", message(n)) => told.read += 1,
        Some(reply) => told.wrong.push(format!("load{n}: {reply}")),
        None if stop.load(Ordering::Relaxed) => {}
        None => told.broken += 1,
    }
}

/// A connection that is made anew when it broke.
struct Line {
    addr: String,
    connection: Option<BufReader<TcpStream>>,
}

impl Line {
    /// The reply; nothing if the connection broke, or there was none.
    fn ask(&mut self, line: &str) -> Option<String> {
        if self.connection.is_none() {
            let Ok(stream) = TcpStream::connect(&self.addr) else {
                // Nobody listens: the one wait here, so that a leader that is away is not hammered.
                std::thread::sleep(Duration::from_millis(5));
                return None;
            };
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            stream.set_nodelay(true).ok()?;
            self.connection = Some(BufReader::new(stream));
        }
        let connection = self.connection.as_mut()?;
        let mut reply = String::new();
        let sent = connection.get_mut().write_all(format!("{line}\n").as_bytes());
        match sent.and_then(|()| connection.read_line(&mut reply)) {
            Ok(1..) if reply.ends_with('\n') => Some(reply.trim_end().to_owned()),
            _ => {
                self.connection = None;
                None
            }
        }
    }
}
