//! The prompt of `hatokuse client`: lines with editing, history and completion.
//!
//! The editor blocks, so it has a thread of its own; it and the connection take
//! turns, a line this way and a word that it is done the other way.
//!
//! Invariant: a line is sent at most once by the prompt itself. A lost connection
//! is opened again for the next command, never for the one that was lost, and with
//! several addresses it may be another one's. Never
//! fails because of its history, which is a convenience.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use rustix::termios::{QueueSelector, tcflush};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{Context, Editor, Helper};
use tokio::sync::mpsc;

use super::advice::{help, only_redis};
use super::render::{Style, write_bare, write_reply};
use super::shell::{self, EXIT_NO_ANSWER, EXIT_OK, Request, Settings, complain, read_request};
use super::{Client, Error};
use crate::protocol::Command;
use crate::protocol::table;
use crate::protocol::text::ReplyLine;
use crate::types::Endpoints;

const PROMPT: &str = "hatokuse> ";

const HISTORY_LINES: usize = 1000;

/// Whether the line holds a password, which no history should.
fn is_secret(line: &str) -> bool {
    let word = line.split_whitespace().next().unwrap_or_default();
    let is_secret =
        |op| matches!(op, table::Op::Server(table::ServerOp::Auth | table::ServerOp::Acl | table::ServerOp::Hello));
    table::find(word.as_bytes()).is_some_and(|spec| is_secret(spec.op))
}

/// Command words as they are completed: with a blank where something has to follow.
fn words() -> impl Iterator<Item = String> {
    let takes_more = |line: &str| line.contains(" <");
    let written = table::COMMANDS.iter().filter_map(|spec| Some((spec.name, spec.line?)));
    written.map(move |(name, line)| if takes_more(line) { format!("{name} ") } else { name.to_owned() })
}

/// What comes from the editor's thread.
enum Typed {
    Line(String),
    /// Ctrl-D, or the terminal is gone.
    Left,
    /// The editor cannot work, and why.
    Failed(ReadlineError),
}

/// Runs the prompt until it is left; gives the exit code.
pub(super) async fn run(settings: &Settings) -> anyhow::Result<u8> {
    let mut session = Session { settings, client: None };
    if let Err(error) = session.connect().await {
        complain(&error.to_string());
        return Ok(EXIT_NO_ANSWER);
    }
    say(&format!("connected to {}; HELP lists the commands, Ctrl-D leaves", session.address()))?;

    let (next, turns) = mpsc::channel(1);
    let (typed, mut lines) = mpsc::channel(1);
    let history = history_file(|name| std::env::var_os(name));
    std::thread::Builder::new().name("prompt".to_owned()).spawn(move || edit(history, turns, &typed))?;
    while next.send(()).await.is_ok() {
        match lines.recv().await {
            Some(Typed::Line(line)) => {
                // A paste may hold several lines, and each is a command.
                for line in line.lines().filter(|line| !line.trim().is_empty()) {
                    match session.run(line.as_bytes()).await? {
                        Next::Prompt => {}
                        Next::Interrupted => break,
                        Next::Leave => return Ok(EXIT_OK),
                    }
                }
            }
            Some(Typed::Failed(error)) => return Err(error.into()),
            Some(Typed::Left) | None => break,
        }
    }
    Ok(EXIT_OK)
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    Prompt,
    /// The rest of what was typed with it is not run.
    Interrupted,
    Leave,
}

/// The connection behind the prompt.
struct Session<'a> {
    settings: &'a Settings,
    client: Option<Client>,
}

impl Session<'_> {
    async fn connect(&mut self) -> Result<&mut Client, Error> {
        Ok(self.client.insert(shell::connect(self.settings).await?))
    }

    /// The address that serves, or that would be tried first.
    fn address(&self) -> String {
        let first = || Endpoints::new(&self.settings.addr).current().to_owned();
        self.client.as_ref().map_or_else(first, |client| client.address().to_owned())
    }

    /// Runs one line and shows its reply, or what became of it.
    async fn run(&mut self, line: &[u8]) -> io::Result<Next> {
        let style = self.style();
        if let Some(of) = shell::asks_for_help(line) {
            return say(&help(of, style.paper.columns)).map(|()| Next::Prompt);
        }
        if let Some(instead) = only_redis(line, &self.address()) {
            complain(&instead);
            return Ok(Next::Prompt);
        }
        let request = match read_request(line) {
            Ok(Request::Known(Command::Exit)) => return Ok(Next::Leave),
            Ok(request) => request,
            // The same words as the leader would use, without asking it.
            Err(refusal) => {
                let (code, explanation) = (refusal.code().to_owned(), refusal.to_string());
                show(&ReplyLine::Error { code, explanation }, style)?;
                return Ok(Next::Prompt);
            }
        };
        match shell::unless_interrupted(&request, self.ask(&request)).await {
            Some(Ok(reply)) => {
                match self.table_of(&request, &reply, style).await {
                    Some(table) => write(&table)?,
                    None => show(&reply, style)?,
                }
                if let Some(hint) = shell::hint(&request, &reply) {
                    say(&hint)?;
                }
            }
            Some(Err(error)) => complain(&error.to_string()),
            // Its late answer is taken for no other command's: it was left before that came.
            None => return Ok(Next::Interrupted),
        }
        Ok(Next::Prompt)
    }

    /// Only the input is sure to be a terminal; what is shown is made safe for one in any case.
    fn style(&self) -> Style {
        Style { terminal: true, ..Style::here(self.settings) }
    }

    async fn table_of(&mut self, request: &Request, reply: &ReplyLine, style: Style) -> Option<String> {
        let people = style.is_for_people() && io::stdout().is_terminal();
        let client = self.client.as_mut().filter(|_| people)?;
        shell::table_of(client, request, reply, style.paper).await
    }

    /// Asks over the connection there is, or over a new one if that cannot be used any more.
    async fn ask(&mut self, request: &Request) -> Result<ReplyLine, Error> {
        let style = self.style();
        let client = match &mut self.client {
            Some(client) => client,
            None => self.client.insert(shell::connect(self.settings).await?),
        };
        let before = client.address().to_owned();
        if client.check().is_err() {
            let again = client.endpoints();
            complain(&format!(
                "the connection was lost; this command has not been sent yet; connecting to {again} again"
            ));
            client.reconnect().await?;
        }
        // A terminal that is gone ends the prompt with the last line.
        let asked = shell::ask(client, request, |part| drop(show(part, style))).await;
        shell::note_address(&before, client);
        asked
    }
}

fn show(reply: &ReplyLine, style: Style) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write_reply(reply, style, &mut out)?;
    out.flush()
}

/// Lines of ours, with their ends.
fn write(lines: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(lines.as_bytes())?;
    out.flush()
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in text.lines() {
        write_bare(line.as_bytes(), Style { terminal: true, ..Style::default() }, &mut out)?;
    }
    out.flush()
}

/// The editor's thread: a line for each turn, until it is left or the turns end.
fn edit(history: Option<PathBuf>, mut turns: mpsc::Receiver<()>, typed: &mpsc::Sender<Typed>) {
    let mut editor = match editor(history.as_deref()) {
        Ok(editor) => editor,
        Err(error) => {
            let _ = typed.blocking_send(Typed::Failed(error));
            return;
        }
    };
    while turns.blocking_recv().is_some() {
        let answer = loop {
            match editor.readline(PROMPT) {
                Ok(line) => break Typed::Line(line),
                // Ctrl-C gives up this line only.
                Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => {}
                Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    // What was typed along with it is no line of its own.
                    let _ = tcflush(io::stdin(), QueueSelector::IFlush);
                    complain(
                        "a byte came that is no UTF-8: that line is dropped, and nothing was sent; use a terminal in UTF-8, or a pipe, which takes any bytes",
                    );
                }
                Err(ReadlineError::Eof) => break Typed::Left,
                Err(error) => break Typed::Failed(error),
            }
        };
        if let (Typed::Line(line), Some(path)) = (&answer, &history)
            && !is_secret(line)
            && editor.add_history_entry(line.as_str()).unwrap_or(false)
        {
            // At once, since a prompt is often ended by closing its window.
            let _ = editor.append_history(path);
        }
        if typed.blocking_send(answer).is_err() {
            return;
        }
    }
}

fn editor(history: Option<&Path>) -> rustyline::Result<Editor<Words, DefaultHistory>> {
    let config = rustyline::Config::builder()
        .max_history_size(HISTORY_LINES)?
        .history_ignore_dups(true)?
        .history_ignore_space(true)
        .completion_type(rustyline::CompletionType::List)
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(Words));
    if let Some(path) = history {
        if let Some(folder) = path.parent() {
            let _ = std::fs::create_dir_all(folder);
        }
        let _ = editor.load_history(path);
    }
    Ok(editor)
}

/// Where history is kept: `$XDG_STATE_HOME/hatokuse/history`, or below `~/.local/state`.
fn history_file(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("hatokuse/history"))
}

/// Completes the command word, which is the only word that can be known.
struct Words;

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok((0, candidates(line.get(..pos).unwrap_or_default())))
    }
}

impl Helper for Words {}
impl Highlighter for Words {}
impl Hinter for Words {
    type Hint = String;
}
impl Validator for Words {}

fn candidates(typed: &str) -> Vec<String> {
    let typed = typed.to_ascii_uppercase();
    words().filter(|word| word.starts_with(&typed) && !typed.ends_with(' ')).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Certainty;
    use super::super::tests::{Listener, serve};
    use super::*;

    #[test]
    fn command_words_are_completed_and_nothing_else() {
        assert_eq!(candidates("s"), ["SET ", "STATUS", "SETEX "]);
        assert_eq!(candidates("wh"), ["WHERE "]);
        assert_eq!(candidates("").len(), words().count());
        assert_eq!(candidates("SET "), [""; 0]);
        assert_eq!(candidates("GET so"), [""; 0]);
    }

    #[test]
    fn passwords_stay_out_of_the_history() {
        assert!(
            is_secret("auth hunter2")
                && is_secret("  AUTH x")
                && is_secret("ACL SETUSER a >x")
                && !is_secret("SET auth x")
                && !is_secret("")
        );
    }

    #[tokio::test]
    async fn a_lost_connection_is_opened_again_for_the_next_command_only() {
        let (addr, server) = serve(async |listener: Listener| {
            listener.accept().await.expect("SET 1 a").await;
            let mut second = listener.accept().await;
            second.expect("GET 1").await;
            second.send("VALUE a\n").await;
        })
        .await;
        let settings = Settings::new(&addr, std::time::Duration::from_secs(60));
        let mut session = Session { settings: &settings, client: None };
        session.connect().await.unwrap();
        let error = session.ask(&read_request(b"SET 1 a").unwrap()).await.unwrap_err();
        assert!(matches!(error, Error::Closed) && error.certainty() == Certainty::Maybe, "{error}");
        let reply = session.ask(&read_request(b"GET 1").unwrap()).await.unwrap();
        assert_eq!(reply, ReplyLine::Value("a".into()));
        server.await.unwrap();
    }

    #[test]
    fn history_lies_where_the_system_keeps_state() {
        let with = |set: &'static [(&str, &str)]| {
            history_file(move |name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        assert_eq!(with(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")]), Some("/s/hatokuse/history".into()));
        assert_eq!(with(&[("HOME", "/h")]), Some("/h/.local/state/hatokuse/history".into()));
        assert_eq!(with(&[("XDG_STATE_HOME", "relative"), ("HOME", "/h")]), with(&[("HOME", "/h")]));
        assert_eq!(with(&[]), None);
    }
}
