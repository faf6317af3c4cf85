//! A register in a map, for tests of the load generator, with faults on demand.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::error::Refusal;
use crate::protocol::text::{CommandDecoder, encode_reply};
use crate::protocol::{Command, Decoded, Reply};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// GET of the id that ends in `-<n>` gives the message of another.
    WrongValue(u64),
    /// SET of the id that ends in `-<n>` is refused.
    Refuse(u64),
    /// A connection breaks instead of answering its n-th request, counted from 0.
    HangUpAt(usize),
    /// A connection never answers its n-th request, nor any after it.
    SilentAt(usize),
}

/// The server; refuses connections once it is dropped.
pub(super) struct Fake {
    addr: String,
    accepting: tokio::task::JoinHandle<()>,
}

type Store = Rc<RefCell<BTreeMap<String, bytes::Bytes>>>;

impl Fake {
    pub(super) async fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let store = Store::default();
        let accepting = tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(serve(stream, store.clone(), fault));
            }
        });
        Self { addr, accepting }
    }

    pub(super) fn addr(&self) -> String {
        self.addr.clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Runs a test that needs a [`Fake`].
pub(super) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

async fn serve(mut stream: TcpStream, store: Store, fault: Fault) {
    let _ = stream.set_nodelay(true);
    let mut decoder = CommandDecoder::new(1 << 20);
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    let mut number = 0;
    while let Ok(1..) = stream.read_buf(&mut input).await {
        loop {
            let reply = match decoder.decode(&mut input) {
                Decoded::Need => break,
                Decoded::Item(command) => answer(&mut store.borrow_mut(), fault, command),
                Decoded::Bad(refusal) => Reply::Refused(refusal),
            };
            if fault == Fault::HangUpAt(number) {
                let _ = stream.write_all(&out).await;
                return;
            }
            if matches!(fault, Fault::SilentAt(from) if number >= from) {
                continue;
            }
            number += 1;
            encode_reply(&reply, &mut out);
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
    }
}

fn answer(store: &mut BTreeMap<String, bytes::Bytes>, fault: Fault, command: Command) -> Reply {
    let is = |id: &str, n: u64| id.ends_with(&format!("-{n}"));
    match command {
        Command::Set { id, .. } if matches!(fault, Fault::Refuse(n) if is(id.as_str(), n)) => {
            Reply::Refused(Refusal::Busy("no room"))
        }
        Command::Set { id, payload } => {
            store.insert(id.as_str().to_owned(), payload);
            Reply::Done
        }
        Command::Get(id) => {
            let value = match fault {
                Fault::WrongValue(n) if is(id.as_str(), n) => {
                    store.iter().find(|entry| entry.0 != id.as_str()).map(|entry| entry.1)
                }
                _ => store.get(id.as_str()),
            };
            value.map_or(Reply::Refused(Refusal::NotFound), |value| Reply::Value(value.clone()))
        }
        Command::Status => Reply::Status(format!(
            r#"{{"tolerance":2,"messages":{0},"nodes":[{{"id":1,"state":"up","messages":{0},"io_mode":"buffered"}},{{"id":2,"state":"up","messages":{0},"io_mode":"buffered"}}]}}"#,
            store.len()
        )),
        _ => Reply::Pong,
    }
}
