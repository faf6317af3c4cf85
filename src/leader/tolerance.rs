//! Where the tolerance comes from: the flag, tolerance.conf, the log. What is in force is noted in the log, so that a
//! file that is not there any more at a restart lowers nothing.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use tokio::signal::unix::Signal;

use super::coordinator::Coordinator;
use super::every;
use crate::cluster::state::Event;
use crate::config::{BadTolerance, DEFAULT_TOLERANCE, parse_tolerance};

/// The file is looked at this often: well within a report period.
const LOOK: Duration = Duration::from_secs(1);

/// What is read of it at most: comments and a line.
const CONF_BYTES: u64 = 64 << 10;

/// The file's usual name, which is looked for in the data folder first and then in the current one.
pub const USUAL_NAME: &str = "tolerance.conf";

/// Why the tolerance is not known.
#[derive(Debug, thiserror::Error)]
pub enum NoTolerance {
    /// The file says none.
    #[error("{0} cannot be used: {1}")]
    Bad(String, #[source] BadTolerance),
    /// The file cannot be read, which is not the same as that there is none.
    #[error("{0} cannot be read: {1}")]
    Unreadable(String, #[source] io::Error),
}

/// Where to look.
#[derive(Debug, Clone)]
pub struct Source {
    flag: Option<usize>,
    conf: Vec<PathBuf>,
}

/// What was found there.
#[derive(Debug)]
pub struct Said {
    /// The tolerance; nothing: the last one in force, which the log knows, or else [`DEFAULT_TOLERANCE`].
    pub tolerance: Option<usize>,
    /// Who says so, for people.
    pub by: String,
    /// The file that was read, with the very bytes that were parsed: what differs from them is a change.
    read: Option<(PathBuf, Vec<u8>)>,
}

impl Source {
    /// `conf` is what `--tolerance-conf` names.
    pub fn new(flag: Option<usize>, conf: &Path, data_dir: &Path) -> Self {
        let mut all = vec![conf.to_owned()];
        if conf == Path::new(USUAL_NAME) && data_dir != Path::new(".") {
            all.insert(0, data_dir.join(conf));
        }
        Self { flag, conf: all }
    }

    /// Reads what there is: what is illegal is an error, as a leader must not start with fewer copies than meant.
    pub fn read(&self) -> Result<Said, NoTolerance> {
        let shown = |path: &Path| path.display().to_string();
        let mut said = Said { tolerance: self.flag, by: "--tolerance".to_owned(), read: None };
        for path in &self.conf {
            let bytes = match read_conf(path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(_) if self.flag.is_some() => break,
                Err(error) => return Err(NoTolerance::Unreadable(shown(path), error)),
            };
            match (parse_tolerance(&String::from_utf8_lossy(&bytes)), self.flag) {
                (Ok(other), Some(flag)) if other != flag => {
                    tracing::warn!("{} says {other}, and --tolerance {flag} goes before it", path.display());
                }
                (_, Some(_)) => {}
                (Ok(tolerance), None) => (said.tolerance, said.by) = (Some(tolerance), shown(path)),
                (Err(error), None) => return Err(NoTolerance::Bad(shown(path), error)),
            }
            said.read = Some((path.clone(), bytes));
            break;
        }
        Ok(said)
    }

    /// The paths, for people.
    pub fn shown(&self) -> String {
        self.conf.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
    }
}

/// The tolerance to start with, where the log noted `last`.
pub fn at_start(said: Option<usize>, last: Option<usize>) -> usize {
    if let Some(tolerance) = said {
        return tolerance;
    }
    match last {
        Some(last) => tracing::warn!(
            "{USUAL_NAME} is not there: every message is kept on {last} nodes, as before; write tolerance={last} into it, or give --tolerance"
        ),
        None => tracing::warn!("{USUAL_NAME} is not there: every message is kept on {DEFAULT_TOLERANCE} nodes"),
    }
    last.unwrap_or(DEFAULT_TOLERANCE)
}

/// Reads a file, which has to be a regular one: a FIFO would be waited for, and a device read without an end.
fn read_conf(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut content = Vec::new();
    file.take(CONF_BYTES).read_to_end(&mut content)?;
    Ok(content)
}

/// What a look at the file shows.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// Nothing new.
    Same,
    /// There is none any more, or it cannot be read: the tolerance stays, and that is said once.
    Gone(String),
    /// Another content, or it was asked for.
    Content(PathBuf, Vec<u8>),
}

/// Watches the file from the bytes on that a start has parsed.
#[derive(Debug)]
struct Watch {
    conf: Vec<PathBuf>,
    read: Option<(PathBuf, Vec<u8>)>,
    gone: bool,
}

impl Watch {
    /// Blocks. `asked`: a file is taken up even if it has not changed.
    fn look(&mut self, asked: bool) -> Seen {
        // One that was found is stuck to: that it is gone must not make another one count, which may say less.
        let paths = self.read.as_ref().map_or(self.conf.clone(), |(path, _)| vec![path.clone()]);
        let mut trouble = None;
        for path in paths {
            match read_conf(&path) {
                Ok(bytes) => {
                    let same = self.read.as_ref().is_some_and(|(_, before)| *before == bytes) && !self.gone;
                    self.gone = false;
                    if same && !asked {
                        return Seen::Same;
                    }
                    self.read = Some((path.clone(), bytes.clone()));
                    return Seen::Content(path, bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && self.read.is_none() => {}
                Err(error) => trouble = Some(format!("{} cannot be read: {error}", path.display())),
            }
        }
        match trouble {
            Some(why) if !std::mem::replace(&mut self.gone, true) => Seen::Gone(why),
            _ => Seen::Same,
        }
    }
}

/// Takes up a changed file, at SIGHUP and by itself, and notes in the log what is in force. Illegal content keeps the old
/// value, and that is said once. `noted`: what the log says.
pub async fn watch(
    source: Source,
    said: Said,
    noted: Option<usize>,
    mut hang_up: Signal,
    coordinator: Arc<Coordinator>,
) {
    let mut look = every(LOOK);
    let mut noted = noted.unwrap_or(DEFAULT_TOLERANCE);
    let mut watch = Watch { conf: source.conf, read: said.read, gone: false };
    loop {
        let asked = tokio::select! {
            _ = look.tick() => false,
            Some(()) = hang_up.recv() => true,
        };
        // Away from the threads that serve: a disk that hangs holds up nobody else.
        let looked = tokio::task::spawn_blocking(move || {
            let seen = watch.look(asked);
            (watch, seen)
        });
        let Ok((kept, seen)) = looked.await else { return };
        watch = kept;
        match (seen, source.flag) {
            (Seen::Same, _) => {}
            (Seen::Content(path, _), Some(flag)) => tracing::warn!(
                "{} has changed, and --tolerance {flag} goes before it: start the leader without that to use the file",
                path.display()
            ),
            (Seen::Content(path, bytes), None) => {
                take(&path, parse_tolerance(&String::from_utf8_lossy(&bytes)), &coordinator);
            }
            (Seen::Gone(why), _) => {
                tracing::warn!("{why}; tolerance stays {}, after a restart too", coordinator.cluster().tolerance());
            }
        }
        let now = coordinator.cluster().tolerance();
        // What the log does not take is tried again with the next look.
        if now != noted && coordinator.ledger().append(&[Event::Tolerance(now as u8)]).await.is_ok() {
            noted = now;
        }
    }
}

fn take(path: &Path, parsed: Result<usize, BadTolerance>, coordinator: &Arc<Coordinator>) {
    let mut cluster = coordinator.cluster();
    let before = cluster.tolerance();
    match parsed {
        Ok(tolerance) if tolerance != before => {
            cluster.set_tolerance(tolerance);
            // What was heard may suffice now.
            if cluster.settle_knowledge() {
                coordinator.tell_all(&cluster);
            }
            drop(cluster);
            coordinator.notify();
            tracing::info!(
                "tolerance is {tolerance} from here on (it was {before}); messages stored before follow through repair"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!("{} cannot be used: {error}; tolerance stays {before}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_flag_goes_before_the_file_the_file_before_the_log_and_the_data_folder_before_the_current_one() {
        let home = tempfile::tempdir().unwrap();
        let in_data = home.path().join(USUAL_NAME);
        let source = |flag| Source::new(flag, Path::new(USUAL_NAME), home.path());
        assert_eq!(source(None).conf, [in_data.clone(), PathBuf::from(USUAL_NAME)]);
        assert_eq!(Source::new(None, Path::new("x/t.conf"), home.path()).conf, [PathBuf::from("x/t.conf")]);
        fs::write(&in_data, "tolerance=3\n").unwrap();
        assert_eq!(source(None).read().unwrap().tolerance, Some(3));
        assert_eq!(source(Some(5)).read().unwrap().tolerance, Some(5));
        for half in ["", "tolerance=", "# three\n"] {
            fs::write(&in_data, half).unwrap();
            assert!(matches!(source(None).read(), Err(NoTolerance::Bad(..))), "{half:?}");
            assert_eq!(source(Some(5)).read().unwrap().tolerance, Some(5));
        }
        assert_eq!([at_start(Some(1), Some(3)), at_start(None, Some(3)), at_start(None, None)], [1, 3, 2]);
    }

    #[test]
    fn what_differs_from_the_bytes_that_were_parsed_is_a_change() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("conf");
        fs::write(&path, "tolerance=1\n").unwrap();
        let source = Source::new(None, &path, home.path());
        let said = source.read().unwrap();
        // Changed while the leader reads its log.
        fs::write(&path, "tolerance=2\n").unwrap();
        let mut watch = Watch { conf: source.conf, read: said.read, gone: false };
        let two = || Seen::Content(path.clone(), b"tolerance=2\n".to_vec());
        assert_eq!([watch.look(false), watch.look(false), watch.look(true)], [two(), Seen::Same, two()]);
        fs::remove_file(&path).unwrap();
        assert!(matches!(watch.look(false), Seen::Gone(why) if why.contains("cannot be read")));
        assert_eq!(watch.look(true), Seen::Same, "it is said once");
        fs::write(&path, "tolerance=2\n").unwrap();
        assert_eq!([watch.look(false), watch.look(false)], [two(), Seen::Same]);
    }
}
