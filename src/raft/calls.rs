//! Calls of one peer on one stream.
//!
//! A call by itself costs both sides a stream of HTTP/2 with its headers: half of what the smallest entry takes. On a
//! stream that stays open it is one frame each way. Calls carry numbers, so that none waits for the answer to another.

use std::collections::HashMap;
use std::io;

use futures::stream;
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::grpc::failed;
use super::proto::peers_client::PeersClient;
use super::proto::{Answered, Numbered, Request, Response};

/// So many calls without an answer that nobody waits for any more, and the stream is given up: the other side and the way
/// to it hold them as long as it is there.
const MOST_LEFT: usize = 16;

/// The way to one peer, until it breaks.
#[derive(Debug, Clone)]
pub(super) struct Calls(mpsc::UnboundedSender<Asked>);

#[derive(Debug)]
struct Asked {
    request: Request,
    tell: oneshot::Sender<io::Result<Response>>,
}

impl Calls {
    /// Opens a stream. It lives on the runtime that this is called on.
    pub(super) fn open(client: PeersClient<Channel>) -> Self {
        let (calls, asked) = mpsc::unbounded_channel();
        tokio::spawn(carry(client, asked));
        Self(calls)
    }

    /// Whether it is broken: nothing more goes this way.
    pub(super) fn is_broken(&self) -> bool {
        self.0.is_closed()
    }

    /// Asks, and waits for the answer.
    pub(super) async fn call(&self, request: Request) -> io::Result<Response> {
        let broken = || io::Error::new(io::ErrorKind::BrokenPipe, "the stream to the peer broke");
        let (tell, told) = oneshot::channel();
        self.0.send(Asked { request, tell }).map_err(|_| broken())?;
        told.await.unwrap_or_else(|_| Err(broken()))
    }
}

/// Carries calls there and answers back, until either side ends.
async fn carry(mut client: PeersClient<Channel>, mut asked: mpsc::UnboundedReceiver<Asked>) {
    let (send, sent) = mpsc::unbounded_channel();
    let sent = stream::unfold(sent, |mut sent| async { sent.recv().await.map(|call| (call, sent)) });
    let mut waiting = Waiting::default();
    let opening = client.calls(Box::pin(sent));
    tokio::pin!(opening);
    let mut answers: Option<Streaming<Answered>> = None;
    let broke = loop {
        tokio::select! {
            biased;
            answer = next(&mut answers), if answers.is_some() => match answer {
                Ok(Some(answer)) => waiting.answer(answer),
                Ok(None) => break Status::unavailable("the peer ended the stream"),
                Err(status) => break status,
            },
            call = asked.recv() => match call {
                Some(asked) if waiting.has_room() => drop(send.send(waiting.ask(asked))),
                Some(_) => break Status::unavailable("too many calls are without an answer"),
                None => return,
            },
            opened = &mut opening, if answers.is_none() => match opened {
                Ok(opened) => answers = Some(opened.into_inner()),
                Err(status) => break status,
            },
        }
    };
    asked.close();
    waiting.fail(&broke);
    while let Some(asked) = asked.recv().await {
        let _ = asked.tell.send(Err(failed(&broke)));
    }
}

async fn next(answers: &mut Option<Streaming<Answered>>) -> Result<Option<Answered>, Status> {
    match answers {
        Some(answers) => answers.message().await,
        None => Ok(None),
    }
}

/// Calls without an answer, by number.
#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    calls: HashMap<u64, oneshot::Sender<io::Result<Response>>>,
}

impl Waiting {
    fn has_room(&self) -> bool {
        self.calls.len() < MOST_LEFT || self.calls.values().filter(|tell| tell.is_closed()).count() < MOST_LEFT
    }

    fn ask(&mut self, Asked { request, tell }: Asked) -> Numbered {
        self.last += 1;
        self.calls.insert(self.last, tell);
        Numbered { number: self.last, request: Some(request) }
    }

    fn answer(&mut self, Answered { number, response }: Answered) {
        let senseless = || io::Error::new(io::ErrorKind::InvalidData, "an answer without a response");
        if let Some(tell) = self.calls.remove(&number) {
            let _ = tell.send(response.ok_or_else(senseless));
        }
    }

    fn fail(self, status: &Status) {
        for (_, tell) in self.calls {
            let _ = tell.send(Err(failed(status)));
        }
    }
}
