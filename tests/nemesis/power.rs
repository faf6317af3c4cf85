//! A real file system that loses its power: ext4 in an image in memory, shut down by its own ioctl and mounted again.
//!
//! After the shutdown nothing reaches the image any more, not even what waits in the journal, and every call
//! fails. Each cut proves that it was one: what was synced is there afterwards, what was not is gone.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;

use crate::PATIENCE;

/// Of the image; sparse.
const BYTES: u64 = 512 << 20;

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`; no safe Rust calls it. Just before that a file is written and
/// not synced: a node that syncs the whole file system in between would save it, and the cut would seem to be none.
const SHUTDOWN: &str = "
import fcntl, os, struct, sys
mounted = os.open(sys.argv[1], os.O_RDONLY)
file = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
os.write(file, b'not synced')
fcntl.ioctl(mounted, 0x8004587D, struct.pack('I', 2))";

/// A mounted image.
#[derive(Debug)]
pub(crate) struct Volume {
    image: PathBuf,
    mount_point: PathBuf,
    /// Goes last.
    _home: TempDir,
}

impl Volume {
    /// Makes and mounts one, or says why this machine cannot.
    pub(crate) fn make(home: TempDir) -> Result<Self, String> {
        let volume = Self { image: home.path().join("image"), mount_point: home.path().join("mounted"), _home: home };
        let fail = |error: std::io::Error| error.to_string();
        File::create(&volume.image).and_then(|file| file.set_len(BYTES)).map_err(fail)?;
        std::fs::create_dir(&volume.mount_point).map_err(fail)?;
        run("python3", &["-c".as_ref(), "import fcntl".as_ref()])?;
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &volume.image])?;
        volume.mount()?;
        Ok(volume)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Writes everything to the image.
    pub(crate) fn sync(&self) {
        run("sync", &["-f".as_ref(), self.path()]).expect("a sync");
    }

    /// Cuts the power, under whoever writes.
    pub(crate) fn cut(&self) {
        File::create(self.path().join("synced")).and_then(|file| file.sync_all()).expect("a synced file");
        File::open(self.path()).and_then(|folder| folder.sync_all()).expect("a synced folder");
        let not_synced = self.path().join("not-synced");
        run("python3", &["-c".as_ref(), SHUTDOWN.as_ref(), self.path(), &not_synced]).expect("a cut");
    }

    /// What the power cut left, once nobody holds it any more.
    pub(crate) fn mount_again(&self) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(why) = run("umount", &[self.path()]) {
            assert!(Instant::now() < deadline, "{why}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        self.mount().expect("it can be mounted again");
        assert!(self.path().join("synced").exists(), "more was lost than a power cut takes");
        let unsynced = std::fs::read(self.path().join("not-synced")).unwrap_or_default();
        assert!(unsynced.is_empty(), "that was no power cut");
        std::fs::remove_file(self.path().join("synced")).expect("it goes");
        let _ = std::fs::remove_file(self.path().join("not-synced"));
    }

    fn mount(&self) -> Result<(), String> {
        run("mount", &["-o".as_ref(), "loop".as_ref(), &self.image, self.path()])
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Best effort; lazily, in case a failed test left somebody in it.
        let _ = run("umount", &["-l".as_ref(), self.path()]);
    }
}

fn run(program: &str, args: &[&Path]) -> Result<(), String> {
    let output = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
