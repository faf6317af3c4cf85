//! What is known of the terminal, and reports on standard output: a screen drawn in place, or a line a period.
//!
//! Invariants: the terminal is given back on every way out, a panic's message
//! included; a terminal or a pipe that blocks, fails or goes away ends the
//! reporting and never touches the server, because all of it happens on threads
//! of its own. This is the only file that knows crossterm, and it never decides
//! what a screen shows: `dashboard` does.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Read, Stdout, Write};
use std::mem::ManuallyDrop;
use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crossterm::{cursor, execute, queue, terminal};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::dashboard::{Action, Key, Look, Ui};
use crate::logs;
use crate::telemetry::Period;

/// How long a stop waits for a reporter; one that is stuck in a write is left behind.
const PATIENCE: Duration = Duration::from_secs(1);

/// A screen is drawn this often: who is down, what is repaired and how much there is has changed long before a period is
/// over. What is measured over a period stays that of the last whole one.
const REDRAW: Duration = Duration::from_millis(500);

/// Wakes that wait for a reporter; more of them than this would be a stuck key.
const WAKES: usize = 64;

/// Whether standard output takes a screen: a terminal that can move its cursor, with this process in its foreground.
///
/// A server started with `&` shares its terminal with a shell: it prints lines,
/// because touching the terminal's modes would stop it (SIGTTOU).
pub fn takes_screen() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let stdout = io::stdout();
    let foreground = || rustix::termios::tcgetpgrp(&stdout).is_ok_and(|group| group == rustix::process::getpgrp());
    stdout.is_terminal() && !dumb && foreground()
}

/// What lines that scroll by can look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paper {
    /// Columns of a line.
    pub columns: usize,
    /// Whether to colour.
    pub color: bool,
    /// Whether more than ASCII is shown.
    pub utf8: bool,
}

impl Default for Paper {
    /// What any terminal can show.
    fn default() -> Self {
        Self { columns: 80, color: false, utf8: false }
    }
}

/// What standard output can show now, where it is a terminal; `plain` is the flag.
pub fn paper(plain: bool) -> Paper {
    let Ui { color, utf8, .. } = ui_here();
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let columns = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_col));
    let columns = if columns > 0 { columns } else { Paper::default().columns };
    Paper { columns, color: color && !plain && !dumb, utf8 }
}

/// Draws `view` on the terminal until `stop`, and `q` or Ctrl-C is such a stop; then leaves a report behind.
///
/// The view is fetched twice a second, with a period's figures once that is over, and for `r`; other keys and a new size draw
/// what is there. Where no screen can be had, this is [`run_lines`]. Returns when
/// the terminal is as it was: wait for it before the process exits.
pub async fn run_screen<V: 'static>(
    every: Duration,
    stop: CancellationToken,
    view: impl FnMut(Period) -> V + Send + 'static,
    look: Look<V>,
) {
    run(every, stop, view, look, true).await;
}

/// Prints a line of `view` each period until `stop`, or until standard output is closed or full.
pub async fn run_lines<V: 'static>(
    every: Duration,
    stop: CancellationToken,
    view: impl FnMut(Period) -> V + Send + 'static,
    look: Look<V>,
) {
    run(every, stop, view, look, false).await;
}

/// Gives the terminal back if a screen has it; to be called before a process ends in a hurry.
pub fn restore() {
    if UP.swap(false, Ordering::SeqCst) {
        // Nothing can be done about a terminal that takes no more orders.
        let _ = execute!(io::stdout(), terminal::EndSynchronizedUpdate, terminal::LeaveAlternateScreen, cursor::Show);
        let _ = terminal::disable_raw_mode();
    }
}

/// Whether a screen has the terminal. There is one terminal, so there is one such flag.
static UP: AtomicBool = AtomicBool::new(false);

async fn run<V: 'static>(
    every: Duration,
    stop: CancellationToken,
    view: impl FnMut(Period) -> V + Send + 'static,
    look: Look<V>,
    screen: bool,
) {
    let (wake, wakes) = sync_channel(WAKES);
    let (ended, mut end) = oneshot::channel::<()>();
    let (keys, stopping) = (wake.clone(), stop.clone());
    let reporter = move || {
        let reporter = Reporter { every: every.max(Duration::from_millis(1)), stop: stopping, wakes, view, look };
        let screen = if screen { Screen::enter().ok() } else { None };
        if screen.is_some() {
            // Detached: it may sit in a read for ever, which nobody has to wait for.
            let _ = thread::Builder::new().name("keys".to_owned()).spawn(move || read_keys(&keys));
        }
        if let Err(error) = reporter.run(screen) {
            tracing::warn!("no more reports on standard output: {error}");
        }
        drop(ended);
    };
    if let Err(error) = thread::Builder::new().name("report".to_owned()).spawn(reporter) {
        tracing::warn!("no reports on standard output: {error}");
        return;
    }
    // Without the signal a new size shows with the next period.
    let mut resized = signal(SignalKind::window_change()).ok();
    loop {
        let resize = async {
            match &mut resized {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = &mut end => return,
            () = stop.cancelled() => break,
            _ = resize => drop(wake.try_send(Wake::Draw)),
        }
    }
    // A full queue wakes the reporter just as well.
    let _ = wake.try_send(Wake::Draw);
    let _ = tokio::time::timeout(PATIENCE, end).await;
}

/// Why a reporter does something before its period is over.
enum Wake {
    Key(Key),
    /// The size has changed, or the end has come.
    Draw,
}

struct Reporter<V, F> {
    every: Duration,
    stop: CancellationToken,
    wakes: Receiver<Wake>,
    view: F,
    look: Look<V>,
}

impl<V, F: FnMut(Period) -> V> Reporter<V, F> {
    fn run(mut self, mut screen: Option<Screen>) -> io::Result<()> {
        let mut since = Instant::now();
        let mut now = match &mut screen {
            Some(screen) => {
                let first = self.look_within(since);
                screen.draw(&self.look, &first)?;
                Some(first)
            }
            None => None,
        };
        loop {
            let rest = self.every.saturating_sub(since.elapsed());
            let wake = self.wakes.recv_timeout(if screen.is_some() { rest.min(REDRAW) } else { rest });
            if self.stop.is_cancelled() {
                break;
            }
            // A panic elsewhere has taken the screen down to be read; lines go on below it.
            screen.take_if(|_| !UP.load(Ordering::SeqCst));
            match (wake, &mut screen) {
                (Err(RecvTimeoutError::Timeout), Some(screen)) if since.elapsed() < self.every => {
                    let view = self.look_within(since);
                    screen.fetched(&self.look, &view)?;
                    now = Some(view);
                }
                (Err(RecvTimeoutError::Timeout), screen) => {
                    let view = (self.view)(Period { elapsed: since.elapsed(), full: true });
                    since = Instant::now();
                    match screen {
                        Some(screen) => screen.fetched(&self.look, &view)?,
                        None => say(&format!("{}\n", logs::told(&(self.look.line)(&view))))?,
                    }
                    now = Some(view);
                }
                (Err(RecvTimeoutError::Disconnected), _) => break,
                (Ok(wake), Some(screen)) => {
                    let action = match wake {
                        Wake::Key(key) => screen.ui.key(key),
                        Wake::Draw => Action::Redraw,
                    };
                    match (action, &now) {
                        (Action::Quit, _) => {
                            self.stop.cancel();
                            break;
                        }
                        (Action::Refresh, _) => {
                            let view = (self.view)(Period { elapsed: since.elapsed(), full: false });
                            screen.mend = true;
                            screen.fetched(&self.look, &view)?;
                            now = Some(view);
                        }
                        (Action::Redraw, Some(view)) => screen.draw(&self.look, view)?,
                        (Action::Redraw | Action::None, _) => {}
                    }
                }
                (Ok(_), None) => {}
            }
        }
        if screen.take().is_some() {
            let last = self.look_within(since);
            say(&(self.look.last)(&last))?;
        }
        Ok(())
    }

    fn look_within(&mut self, since: Instant) -> V {
        (self.view)(Period { elapsed: since.elapsed(), full: false })
    }
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The terminal while it is ours.
struct Screen {
    /// Never dropped: that would write to the terminal, and panic where stderr has gone along with it.
    terminal: ManuallyDrop<Terminal<CrosstermBackend<BufWriter<Stdout>>>>,
    ui: Ui,
    /// The time of day of the view that is shown.
    clock: String,
    /// Whether the next frame paints every cell: another program may have written over it.
    mend: bool,
    _held: Held,
}

/// Gives the terminal back when dropped.
struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        restore();
    }
}

impl Screen {
    fn enter() -> io::Result<Self> {
        if !takes_screen() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        restore_on_panic();
        terminal::enable_raw_mode()?;
        UP.store(true, Ordering::SeqCst);
        // From here on a failure gives the terminal back, too.
        let held = Held;
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        // A frame is one write, if the terminal takes that much at once.
        let terminal = Terminal::new(CrosstermBackend::new(BufWriter::with_capacity(1 << 16, io::stdout())))?;
        Ok(Self { terminal: ManuallyDrop::new(terminal), ui: ui_here(), clock: clock(), mend: false, _held: held })
    }

    /// Draws a view that is new.
    fn fetched<V>(&mut self, look: &Look<V>, view: &V) -> io::Result<()> {
        self.clock = clock();
        self.draw(look, view)
    }

    /// Writes what has changed since the last frame, to be shown at once by terminals that can.
    fn draw<V>(&mut self, look: &Look<V>, view: &V) -> io::Result<()> {
        let Self { terminal, ui, clock, mend, .. } = self;
        queue!(terminal.backend_mut(), terminal::BeginSynchronizedUpdate)?;
        if std::mem::take(mend) {
            // Not `clear`, which asks for the cursor's place and would wait for an answer that `read_keys` gets.
            let area = terminal.size()?.into();
            terminal.resize(area)?;
        }
        terminal.draw(|frame| (look.frame)(view, clock, ui, frame))?;
        execute!(terminal.backend_mut(), terminal::EndSynchronizedUpdate)
    }
}

/// Makes every panic give the terminal back before its message is printed.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            print(info);
        }));
    });
}

/// The time of day as headers show it: the one place that says which it is.
fn clock() -> String {
    format!("{} UTC", logs::clock())
}

fn ui_here() -> Ui {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    Ui::new(variable("NO_COLOR").is_empty(), is_utf8(variable))
}

/// Whether the locale is a UTF-8 one; the first variable that is set decides, as everywhere.
fn is_utf8(variable: impl Fn(&str) -> String) -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().map(variable).find(|value| !value.is_empty());
    locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

/// Passes keys on until the screen is down or the terminal has gone.
///
/// Not crossterm's reader: that one spins when its terminal goes away, and a
/// server outlives its terminal.
fn read_keys(to: &SyncSender<Wake>) {
    let Ok(mut terminal) = File::open("/dev/tty") else { return };
    let mut bytes = [0; 256];
    while UP.load(Ordering::SeqCst) {
        match terminal.read(&mut bytes) {
            Ok(0) => return,
            Ok(n) => keys(&bytes[..n]).for_each(|key| drop(to.try_send(Wake::Key(key)))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// The keys in what one read of a terminal in raw mode gave; those that mean nothing here are left out.
fn keys(bytes: &[u8]) -> impl Iterator<Item = Key> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        loop {
            let (&first, after) = rest.split_first()?;
            rest = after;
            match first {
                0x03 => return Some(Key::Interrupt),
                // Arrows, function keys: their letters are no keys of their own.
                0x1b if matches!(rest.first(), Some(b'[' | b'O')) => {
                    let end = rest[1..].iter().position(|byte| (0x40..=0x7e).contains(byte));
                    rest = end.map_or(&[], |end| &rest[end + 2..]);
                }
                0x1b if rest.is_empty() => return Some(Key::Escape),
                // Alt with a key.
                0x1b => rest = &rest[1..],
                0x20..=0x7e => return Some(Key::Char(char::from(first))),
                _ => {}
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_keys() {
        let cases: [(&[u8], &[Key]); 8] = [
            (b"", &[]),
            (b"qs", &[Key::Char('q'), Key::Char('s')]),
            (b"\x03", &[Key::Interrupt]),
            (b"\x1b", &[Key::Escape]),
            (b"\x1b[A\x1bOP\x1b[15;2~n", &[Key::Char('n')]),
            (b"\x1bq\x1a\x7f\r", &[]),
            (b"\x1b[1;", &[]),
            ("ü?".as_bytes(), &[Key::Char('?')]),
        ];
        for (bytes, expected) in cases {
            assert_eq!(keys(bytes).collect::<Vec<_>>(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn the_locale_decides_on_utf8() {
        let with = |set: &'static [(&str, &str)]| {
            is_utf8(|name| set.iter().find(|(n, _)| *n == name).map_or(String::new(), |(_, v)| (*v).to_owned()))
        };
        assert!(with(&[("LANG", "tr_TR.UTF-8")]) && with(&[("LC_ALL", "C.utf8"), ("LANG", "C")]));
        assert!(!with(&[]) && !with(&[("LANG", "C")]) && !with(&[("LC_ALL", "C"), ("LANG", "C.UTF-8")]));
        assert!(with(&[("LC_ALL", ""), ("LC_CTYPE", "C.UTF-8")]));
    }

    /// Periods as a view sees them, from a reporter that prints nothing.
    #[test]
    fn a_stop_ends_a_reporter_at_once() {
        let (wake, wakes) = sync_channel(1);
        let stop = CancellationToken::new();
        stop.cancel();
        wake.try_send(Wake::Draw).unwrap();
        let mut fetched = 0;
        let look = Look::<()> { frame: |_, _, _, _| (), line: |_| String::new(), last: |_| String::new() };
        let every = Duration::from_secs(3600);
        Reporter { every, stop, wakes, view: |_| fetched += 1, look }.run(None).unwrap();
        assert_eq!(fetched, 0);
    }
}
