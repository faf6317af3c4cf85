//! Commands from a pipe: lines out as they come, replies in, in order.
//!
//! Invariant: each line gets one reply, or is counted among those without an answer. With several addresses only whole
//! lines are sent, so that a connection that ends between two of them has taken nothing half.

use std::cell::Cell;
use std::io::{self, Write};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::watch;

use super::advice::stranger;
use super::connection::while_writing;
use super::render::{Style, write_reply};
use super::shell::{EXIT_NO_ANSWER, EXIT_OK, EXIT_REFUSED, complain, failed, found_faults, note_address};
use super::{Client, Connection, Error, Receiver, Sender};
use crate::protocol::text::ReplyLine;

/// Bytes of a pipe that are taken at once.
const CHUNK: usize = 64 * 1024;

/// How a connection was left.
enum Left {
    /// With this exit code, as there is no more to do, or no more can be done.
    Done(u8),
    /// It has ended, while every line that was sent had its reply.
    Idle,
}

/// Sends `input` as it is, and writes a reply for each line of it; gives the exit code.
pub(super) async fn run(
    mut client: Client,
    input: impl AsyncRead + Unpin,
    style: Style,
    out: &mut impl Write,
) -> anyhow::Result<u8> {
    let is_one_of_several = client.endpoints().are_several();
    let mut lines = Lines::new(input, is_one_of_several);
    let mut replies =
        Replies { timeout: client.options.timeout, style, out, code: EXIT_OK, sees_ends: is_one_of_several };
    loop {
        let unread = Cell::new(None);
        // The sender lives until the last reply: a leader may take a half-closed connection for a client that left.
        let Connection { sender, receiver } = &mut client.connection;
        let (sent, to_answer) = watch::channel(0_u64);
        let send = async {
            if let Err(error) = lines.send(sender, sent).await {
                unread.set(Some(error));
            }
        };
        let left = while_writing(send, replies.print(receiver, to_answer)).await?;
        if let Some(error) = unread.into_inner() {
            return Err(anyhow::Error::new(error).context("cannot read commands from stdin"));
        }
        match left {
            Left::Done(code) => return Ok(code),
            Left::Idle => {
                let before = client.address().to_owned();
                if let Err(error) = client.reconnect().await {
                    return Ok(failed(&error));
                }
                note_address(&before, &client);
            }
        }
    }
}

/// What comes from the pipe.
struct Lines<R> {
    input: R,
    chunk: Vec<u8>,
    /// The line that has begun; its bytes are kept here where only whole lines are sent.
    begun: Vec<u8>,
    in_line: bool,
    keeps: bool,
    is_over: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(input: R, keeps: bool) -> Self {
        Self { input, chunk: vec![0; CHUNK], begun: Vec::new(), in_line: false, keeps, is_over: false }
    }

    /// Sends all bytes while they come; counts the lines in `sent`, and drops that at the end.
    ///
    /// Only errors of the pipe are given back: one of the connection shows where its replies are read. Dropped half way, it
    /// has sent all lines that it has counted, or has yet to count and to send them.
    async fn send(&mut self, sender: &mut Sender, sent: watch::Sender<u64>) -> io::Result<()> {
        while !self.is_over {
            let read = self.input.read(&mut self.chunk).await?;
            let mut bytes = &self.chunk[..read];
            if read == 0 {
                // People write printf 'GET 1', and mean that line to run.
                bytes = if self.in_line { b"\n" } else { b"" };
                self.is_over = true;
            }
            self.in_line = bytes.last().is_some_and(|&last| last != b'\n');
            let mut later: &[u8] = b"";
            if self.keeps {
                (bytes, later) = bytes.split_at(bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1));
            }
            let lines = bytes.iter().filter(|&&byte| byte == b'\n').count() as u64;
            // Before they leave: a line that may have reached the leader must count as unanswered.
            sent.send_modify(|sent| *sent += lines);
            if !bytes.is_empty() {
                sender.send_raw(&std::mem::take(&mut self.begun));
                sender.send_raw(bytes);
            }
            self.begun.extend_from_slice(later);
            if sender.flush().await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Where replies go.
struct Replies<'a, W> {
    timeout: Duration,
    style: Style,
    out: &'a mut W,
    code: u8,
    /// An end of the connection is looked for while nothing is to be answered.
    sees_ends: bool,
}

impl<W: Write> Replies<'_, W> {
    /// Writes replies until every line that was sent has its own.
    async fn print(&mut self, receiver: &mut Receiver, mut to_answer: watch::Receiver<u64>) -> anyhow::Result<Left> {
        let mut answered = 0;
        loop {
            let mut sent = *to_answer.borrow_and_update();
            if sent == answered {
                self.out.flush()?;
                let more = to_answer.wait_for(|&sent| sent > answered);
                sent = tokio::select! {
                    biased;
                    more = more => match more {
                        Ok(sent) => *sent,
                        Err(_) => return Ok(Left::Done(self.code)),
                    },
                    _ = receiver.next_reply(), if self.sees_ends => return Ok(Left::Idle),
                };
            }
            let reply = match receiver.buffered_reply() {
                Some(ReplyLine::Other(line)) if let Some(what) = stranger(&line) => Err(Error::NotALeader { what }),
                Some(reply) => Ok(reply),
                None => {
                    self.out.flush()?;
                    match tokio::time::timeout(self.timeout, receiver.next_reply()).await {
                        Ok(reply) => reply,
                        Err(_) => Err(Error::Timeout { after: self.timeout }),
                    }
                }
            };
            let reply = match reply {
                Ok(reply) => reply,
                Err(error) => {
                    complain(&format!("{error} (lines without an answer: {})", sent - answered));
                    return Ok(Left::Done(EXIT_NO_ANSWER));
                }
            };
            answered += u64::from(!reply.is_part());
            write_reply(&reply, self.style, self.out)?;
            if matches!(reply, ReplyLine::Error { .. }) || found_faults(&reply) {
                self.code = EXIT_REFUSED;
            }
            // The answer to EXIT: the leader reads nothing after it.
            if matches!(&reply, ReplyLine::Other(line) if line == "BYE") {
                self.out.flush()?;
                if sent > answered {
                    complain(&format!("lines after EXIT that were not run: {}", sent - answered));
                }
                return Ok(Left::Done(self.code));
            }
        }
    }
}
