//! Where log lines go: stderr or a file as text or JSON, and always the ring that screens show.
//!
//! Invariants: an event is one line and holds no control character, whatever its
//! fields hold; while a screen is up nothing goes to stderr, which would tear it.
//! Times are UTC, here and on the screens: an offset that is right across
//! time zones and daylight saving would need another dependency, and servers'
//! logs are compared across machines. It never decides what is worth a line.

use std::fmt::{self, Write};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use anyhow::Context;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{EnvFilter, Targets};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::{Context as LayerContext, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::util::SubscriberInitExt;

use crate::lock::Lock;
use crate::telemetry::{AUDIT, EventRing, escaped, time_of_day};
use crate::types::EventLine;

/// Fields that say again what stands in the message: of which node it is, and where that is. Text leaves them out.
const NODE_FIELD: &str = "node.id";
const AGAIN: [&str; 2] = [NODE_FIELD, "node.address"];

/// What is logged where `RUST_LOG` says nothing else.
const DEFAULT_FILTER: &str = "hatokuse=info,openraft=error,h2::proto=error,warn";

type AnyLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// How lines look, as it was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// JSON instead of text.
    pub json: bool,
    /// No colour, wherever they go.
    pub plain: bool,
    /// Who writes them, as JSON tells.
    pub who: Who,
}

/// Who writes a log.
#[derive(Debug, Clone, Copy)]
pub struct Who {
    /// `leader`, `node`, `bench`.
    pub role: &'static str,
    /// The node's number.
    pub node: Option<u32>,
}

/// What lines are written as that are no events: JSON, where the log is.
static JSON: OnceLock<Who> = OnceLock::new();

/// A line that every reader of the output is to get, whatever is logged: itself, or as an object of the JSON log.
pub fn told(line: &str) -> String {
    let Some(who) = JSON.get() else { return line.to_owned() };
    let mut object = object_of("INFO", "hatokuse", *who);
    object.insert("message".to_owned(), line.into());
    Value::Object(object).to_string()
}

/// Whether an output goes into systemd's journal, which knows the time of each line.
pub fn is_journal(output: impl AsFd) -> bool {
    let Some((device, inode)) = std::env::var("JOURNAL_STREAM").ok().and_then(|stream| {
        let (device, inode) = stream.split_once(':')?;
        Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?))
    }) else {
        return false;
    };
    rustix::fs::fstat(output).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (device, inode))
}

fn object_of(level: &str, target: &str, who: Who) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("timestamp".to_owned(), humantime::format_rfc3339_micros(SystemTime::now()).to_string().into());
    object.insert("level".to_owned(), level.into());
    object.insert("target".to_owned(), target.into());
    object.insert("role".to_owned(), who.role.into());
    if let Some(node) = who.node {
        object.insert(NODE_FIELD.to_owned(), node.into());
    }
    object
}

/// Sets up logging for the whole process; to be called once, before anything is logged.
///
/// Events go to `ring`, to `file` if there is one, and to stderr unless a `screen` is up.
pub fn init(look: Look, file: Option<&Path>, screen: bool, ring: EventRing) -> anyhow::Result<()> {
    let mut layers: Vec<AnyLayer> = vec![ring_layer(ring)];
    let form = if look.json { Form::Json(JsonLine(look.who)) } else { Form::Text { colour: false, journal: false } };
    if look.json {
        let _ = JSON.set(look.who);
    }
    if !screen {
        let form = match form {
            Form::Text { .. } => Form::Text { colour: takes_colour(look.plain), journal: is_journal(io::stderr()) },
            json => json,
        };
        layers.push(line_layer(form, io::stderr, filter()?));
    }
    if let Some(path) = file {
        let opened = append_to(path)
            .with_context(|| format!("cannot write the log file {}: choose another --log-file", path.display()))?;
        let log = LOG_FILE.get_or_init(|| LogFile { path: path.to_owned(), file: Lock::new(opened) });
        layers.push(line_layer(form, || log.now(), filter()?));
    }
    tracing_subscriber::registry().with(layers).try_init().context("logging was set up twice")
}

/// Whether stderr shows colours, and they are wanted.
fn takes_colour(plain: bool) -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let dumb = set("TERM").is_none_or(|term| term == "dumb");
    !plain && set("NO_COLOR").is_none() && !dumb && io::stderr().is_terminal()
}

/// The file of `--log-file`; one a process, as the subscriber is.
static LOG_FILE: OnceLock<LogFile> = OnceLock::new();

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: Lock<Arc<File>>,
}

impl LogFile {
    fn now(&self) -> Arc<File> {
        self.file.lock().clone()
    }
}

fn append_to(path: &Path) -> io::Result<Arc<File>> {
    OpenOptions::new().create(true).append(true).open(path).map(Arc::new)
}

/// Opens the log file anew, after somebody has moved it away. If that fails, lines go on into the old one.
pub fn reopen() {
    let Some(log) = LOG_FILE.get() else { return };
    match append_to(&log.path) {
        Ok(file) => {
            *log.file.lock() = file;
            tracing::info!("the log file was opened anew");
        }
        Err(error) => tracing::error!(
            "the log file {} cannot be opened anew: {error}; lines go on into the one from before",
            log.path.display()
        ),
    }
}

/// The time of day in UTC, as events and screens show it.
pub fn clock() -> String {
    // A clock before 1970 is wrong anyway; it shows as midnight.
    time_of_day(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn filter() -> anyhow::Result<EnvFilter> {
    match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.trim().is_empty() => EnvFilter::builder()
            .parse(&directives)
            .with_context(|| format!("RUST_LOG={directives:?} is no log filter: write for example {DEFAULT_FILTER}")),
        _ => Ok(EnvFilter::new(DEFAULT_FILTER)),
    }
}

fn ring_layer(ring: EventRing) -> AnyLayer {
    // Not under RUST_LOG: the screen's last events stay what they are, whatever somebody debugs.
    RingLayer(ring)
        .with_filter(Targets::new().with_target("hatokuse", LevelFilter::INFO).with_target(AUDIT, LevelFilter::OFF))
        .boxed()
}

/// How events become lines.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// For people, or for a journal that has the time of each line already.
    Text {
        colour: bool,
        journal: bool,
    },
    Json(JsonLine),
}

fn line_layer<W>(form: Form, writer: W, filter: EnvFilter) -> AnyLayer
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // A full disk or a closed stderr loses log lines; saying so on stderr would tear a screen.
    let layer = tracing_subscriber::fmt::layer().log_internal_errors(false).with_writer(writer);
    match form {
        Form::Text { colour, journal } => {
            layer.with_ansi(colour).event_format(OneLine { journal }).with_filter(filter).boxed()
        }
        Form::Json(line) => layer.with_ansi(false).event_format(line).with_filter(filter).boxed(),
    }
}

/// One object a line: `{"level":"WARN","message":"..","node.id":3,"role":"leader","target":"..","timestamp":".."}`.
#[derive(Debug, Clone, Copy)]
struct JsonLine(Who);

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let mut object = Object(object_of(metadata.level().as_str(), metadata.target(), self.0));
        event.record(&mut object);
        writeln!(to, "{}", Value::Object(object.0))
    }
}

/// An event's fields as JSON.
struct Object(Map<String, Value>);

impl Visit for Object {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }
}

/// `2026-11-23T12:41:07.123Z  WARN node=3 missed heartbeats`, on exactly one line. In a journal the time is the journal's,
/// and the level is told in its way as well (sd-daemon(3)).
struct OneLine {
    journal: bool,
}

impl<S, N> FormatEvent<S, N> for OneLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let level = metadata.level();
        if self.journal {
            let priority = match *level {
                Level::ERROR => 3,
                Level::WARN => 4,
                Level::INFO => 6,
                _ => 7,
            };
            write!(to, "<{priority}>")?;
        } else {
            write!(to, "{} ", humantime::format_rfc3339_millis(SystemTime::now()))?;
        }
        if to.has_ansi_escapes() {
            let colour = match *level {
                Level::ERROR => 31,
                Level::WARN => 33,
                Level::INFO => 32,
                _ => 34,
            };
            write!(to, "\x1b[{colour}m{level:>5}\x1b[0m ")?;
        } else {
            write!(to, "{level:>5} ")?;
        }
        if !is_ours(metadata.target()) {
            write!(to, "{}: ", metadata.target())?;
        }
        writeln!(to, "{}", text_of(event))
    }
}

fn is_ours(target: &str) -> bool {
    target == "hatokuse" || target.starts_with("hatokuse::")
}

/// Turns events into lines of the ring.
struct RingLayer(EventRing);

impl<S: Subscriber> Layer<S> for RingLayer {
    fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
        self.0.push(EventLine { time: clock(), level: event.metadata().level().to_string(), text: text_of(event) });
    }
}

/// An event's message and fields on one line, all control characters escaped.
fn text_of(event: &Event<'_>) -> String {
    let mut text = Text::default();
    event.record(&mut text);
    if !text.message.is_empty() && !text.fields.is_empty() {
        text.message.push(' ');
    }
    text.message.push_str(&text.fields);
    text.message
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn add(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = escaped(value);
            return;
        }
        if AGAIN.contains(&field.name()) {
            return;
        }
        if !self.fields.is_empty() {
            self.fields.push(' ');
        }
        // Quoted where it could be taken for more than one field.
        let odd = value.is_empty() || value.contains(|c: char| c.is_whitespace() || c == '"' || c == '=');
        let value = escaped(value);
        let _ = if odd {
            write!(self.fields, "{}=\"{}\"", field.name(), value.replace('"', "\\\""))
        } else {
            write!(self.fields, "{}={value}", field.name())
        };
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing::{debug, error, info, warn};

    use super::*;

    /// A writer that remembers.
    #[derive(Clone, Default)]
    struct Memory(Arc<Lock<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Memory {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().clone()).unwrap()
        }
    }

    const TEXT: Form = Form::Text { colour: false, journal: false };

    fn logged(form: Form, events: impl FnOnce()) -> (String, EventRing) {
        let (memory, ring) = (Memory::default(), EventRing::new());
        let writer = memory.clone();
        let lines = line_layer(form, move || writer.clone(), EnvFilter::new(DEFAULT_FILTER));
        let subscriber = tracing_subscriber::registry().with(vec![ring_layer(ring.clone()), lines]);
        tracing::subscriber::with_default(subscriber, events);
        (memory.text(), ring)
    }

    fn hostile() {
        info!(id = "x\nFAKE \x1b[2J", count = 3, address = %"127.0.0.1:1", "node\u{9b}31m joined\r\nagain");
    }

    #[test]
    fn an_event_is_one_clean_line() {
        let (text, ring) = logged(TEXT, hostile);
        let shown = "node\\u{9b}31m joined\\r\\nagain id=\"x\\nFAKE \\u{1b}[2J\" count=3 address=127.0.0.1:1";
        assert!(text.ends_with(&format!("Z  INFO {shown}\n")), "{text}");
        assert_eq!(text.lines().count(), 1);
        let events = ring.last(9);
        assert_eq!((events[0].level.as_str(), events[0].text.as_str()), ("INFO", shown));
        assert_eq!(events[0].time.len(), 8);
    }

    #[test]
    fn a_journal_gets_the_level_and_no_second_time() {
        let journal = Form::Text { colour: false, journal: true };
        let (text, _) = logged(journal, || warn!(node.id = 3, "node 3 is down"));
        assert_eq!(text, "<4> WARN node 3 is down\n");
    }

    #[test]
    fn json_is_one_object_a_line() {
        let who = Who { role: "leader", node: None };
        let (text, _) = logged(Form::Json(JsonLine(who)), || {
            hostile();
            warn!(node.id = 3, "second");
        });
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["count"], 3);
        assert_eq!(lines[0]["level"], "INFO");
        assert_eq!((&lines[1]["message"], &lines[1]["node.id"]), (&"second".into(), &3.into()));
        assert_eq!((&lines[1]["role"], &lines[1]["target"]), (&"leader".into(), &module_path!().into()));
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn only_the_level_is_coloured() {
        let (text, _) = logged(Form::Text { colour: true, journal: false }, || error!("\x1b[2Jbad"));
        assert_eq!(text.matches('\x1b').count(), 2, "{text}");
        assert!(text.contains("\x1b[31mERROR\x1b[0m \\u{1b}[2Jbad"), "{text}");
    }

    #[test]
    fn the_ring_takes_our_events_from_info_up() {
        let (text, ring) = logged(TEXT, || {
            debug!("detail");
            warn!(target: "h2::codec", "theirs");
            info!(target: "h2::codec", "theirs, and unimportant");
            warn!(target: "hatokuse::node", "ours");
        });
        let events: Vec<_> = ring.last(9).into_iter().map(|e| e.text).collect();
        assert_eq!(events, ["ours"]);
        assert!(text.contains("WARN h2::codec: theirs\n") && text.contains("WARN ours\n"), "{text}");
        assert_eq!(text.lines().count(), 2);
    }
}
