//! A register in a map, for tests of the load generator, with faults on demand; it speaks both protocols.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::error::Refusal;
use crate::protocol::text::{CommandDecoder, encode_reply};
use crate::protocol::{Command, Decoded, Reply};
use crate::types::MessageId;

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
    /// WAIT says that so many replicas have it.
    Replicas(u32),
}

/// The server, on a thread of its own; refuses connections once it is dropped.
pub(super) struct Fake {
    addr: String,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

type Store = Rc<RefCell<BTreeMap<String, bytes::Bytes>>>;

impl Fake {
    pub(super) fn start(fault: Fault) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let accepting = async move {
                let listener = TcpListener::from_std(listener).unwrap();
                let store = Store::default();
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::task::spawn_local(serve(stream, store.clone(), fault));
                }
            };
            tokio::task::LocalSet::new().block_on(&runtime, async {
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
            });
        });
        Self { addr, stop: Some(stop), thread: Some(thread) }
    }

    pub(super) fn addr(&self) -> String {
        self.addr.clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a connection was asked, in either protocol.
enum Asked {
    Text(Decoded<Command>),
    Resp(Vec<bytes::Bytes>),
}

async fn serve(mut stream: TcpStream, store: Store, fault: Fault) {
    let _ = stream.set_nodelay(true);
    let mut decoder = CommandDecoder::new(1 << 20);
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    let mut number = 0;
    while let Ok(1..) = stream.read_buf(&mut input).await {
        loop {
            let asked = if input.first() == Some(&b'*') {
                match take_array(&mut input) {
                    Some(words) => Asked::Resp(words),
                    None => break,
                }
            } else {
                match decoder.decode(&mut input) {
                    Decoded::Need => break,
                    other => Asked::Text(other),
                }
            };
            if fault == Fault::HangUpAt(number) {
                let _ = stream.write_all(&out).await;
                return;
            }
            if matches!(fault, Fault::SilentAt(from) if number >= from) {
                continue;
            }
            number += 1;
            match asked {
                Asked::Text(Decoded::Item(command)) => {
                    encode_reply(&answer(&mut store.borrow_mut(), fault, command), &mut out);
                }
                Asked::Text(Decoded::Bad(refusal)) => encode_reply(&Reply::Refused(refusal), &mut out),
                Asked::Text(Decoded::Need) => {}
                Asked::Resp(words) => answer_array(&mut store.borrow_mut(), fault, &words, &mut out),
            }
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
    }
}

/// An array of strings, once it is there whole. Trusts its sender: only the bench speaks to it.
fn take_array(input: &mut BytesMut) -> Option<Vec<bytes::Bytes>> {
    let number = |at: usize| {
        let end = at + input[at..].iter().position(|&byte| byte == b'\r')?;
        let number: usize = std::str::from_utf8(&input[at + 1..end]).ok()?.parse().ok()?;
        (end + 2 <= input.len()).then_some((number, end + 2))
    };
    let (count, mut at) = number(0)?;
    let mut words = Vec::new();
    for _ in 0..count {
        if at >= input.len() {
            return None;
        }
        let (length, from) = number(at)?;
        at = from + length + 2;
        words.push(bytes::Bytes::copy_from_slice(input.get(from..at)?.get(..length)?));
    }
    input.advance(at);
    Some(words)
}

fn answer_array(store: &mut BTreeMap<String, bytes::Bytes>, fault: Fault, words: &[bytes::Bytes], out: &mut BytesMut) {
    let id = MessageId::parse(&words[1]).unwrap();
    let command = match words[0].as_ref() {
        b"SET" => Command::Set { id, payload: words[2].clone() },
        b"GET" => Command::Get(id),
        b"DEL" => {
            store.remove(&id.to_string());
            return out.extend_from_slice(b":1\r\n");
        }
        b"WAIT" => {
            let replicas = if let Fault::Replicas(replicas) = fault { replicas } else { 0 };
            return out.extend_from_slice(format!(":{replicas}\r\n").as_bytes());
        }
        other => panic!("{other:?}"),
    };
    match answer(store, fault, command) {
        Reply::Done => out.extend_from_slice(b"+OK\r\n"),
        Reply::Value(value) => {
            out.extend_from_slice(format!("${}\r\n", value.len()).as_bytes());
            out.extend_from_slice(&value);
            out.extend_from_slice(b"\r\n");
        }
        Reply::Refused(Refusal::NotFound) => out.extend_from_slice(b"$-1\r\n"),
        _ => out.extend_from_slice(b"-ERR no room\r\n"),
    }
}

fn answer(store: &mut BTreeMap<String, bytes::Bytes>, fault: Fault, command: Command) -> Reply {
    let is = |id: &str, n: u64| id.ends_with(&format!("-{n}"));
    match command {
        Command::Set { id, .. } if matches!(fault, Fault::Refuse(n) if is(&id.to_string(), n)) => {
            Reply::Refused(Refusal::Busy("no room"))
        }
        Command::Set { id, payload } => {
            store.insert(id.to_string(), payload);
            Reply::Done
        }
        Command::Get(id) => {
            let value = match fault {
                Fault::WrongValue(n) if is(&id.to_string(), n) => {
                    store.iter().find(|entry| *entry.0 != id.to_string()).map(|entry| entry.1)
                }
                _ => store.get(&id.to_string()),
            };
            value.map_or(Reply::Refused(Refusal::NotFound), |value| Reply::Value(value.clone()))
        }
        Command::Delete(id) => {
            store.remove(&id.to_string());
            Reply::Done
        }
        Command::Status => Reply::Status(format!(
            r#"{{"tolerance":2,"messages":{0},"nodes":[{{"id":1,"state":"up","messages":{0},"io_mode":"buffered","layout":"text"}},{{"id":2,"state":"up","messages":{0},"io_mode":"buffered","layout":"text"}}]}}"#,
            store.len()
        )),
        _ => Reply::Pong { crlf: false },
    }
}
