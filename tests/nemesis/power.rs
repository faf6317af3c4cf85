//! A real file system that loses its power: an image in memory, cut off and mounted again.
//!
//! ext4 and XFS are shut down by their own ioctl: after that nothing reaches the image any more, not even what waits in
//! the journal, and every call fails. btrfs has none before Linux 6.19: there the image is cloned (an instant, as it lies
//! on XFS), and the clone is what is mounted again. Each cut proves that it was one: what was synced is there afterwards,
//! what was not is gone.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;

use crate::PATIENCE;
use crate::tools::needs;

/// Of the image; sparse.
const BYTES: u64 = 512 << 20;

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`, the same number as `XFS_IOC_GOINGDOWN` with
/// `XFS_FSOP_GOING_FLAGS_NOLOGFLUSH`; no safe Rust calls it. Just before that a file is written and
/// not synced: a node that syncs the whole file system in between would save it, and the cut would seem to be none.
const SHUTDOWN: &str = "
import fcntl, os, struct, sys
mounted = os.open(sys.argv[1], os.O_RDONLY)
file = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
os.write(file, b'not synced')
fcntl.ioctl(mounted, 0x8004587D, struct.pack('I', 2))";

/// `FICLONE` of the image, after the same.
const CLONE: &str = "
import fcntl, os, sys
file = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
os.write(file, b'not synced')
image = os.open(sys.argv[3], os.O_RDONLY)
fcntl.ioctl(os.open(sys.argv[4], os.O_WRONLY | os.O_CREAT), 0x40049409, image)";

/// A mounted image.
#[derive(Debug)]
pub(crate) struct Volume {
    image: PathBuf,
    mount_point: PathBuf,
    /// What the image lies on, if it is cut off by a clone of it.
    host: Option<Box<Volume>>,
    /// Goes last.
    _home: Option<TempDir>,
}

impl Volume {
    /// Makes and mounts one of this kind (ext4, xfs, btrfs), or says why this machine cannot.
    pub(crate) fn make(kind: &str, home: TempDir) -> Result<Self, String> {
        run("python3", &["-c".as_ref(), "import fcntl".as_ref()])?;
        let host = match kind {
            "btrfs" => Some(Box::new(Self::mounted("xfs", home.path().join("host"), None, 2 * BYTES)?)),
            _ => None,
        };
        let at = host.as_ref().map_or(home.path(), |host| host.path()).join(kind);
        let mut volume = Self::mounted(kind, at, host, BYTES)?;
        volume._home = Some(home);
        Ok(volume)
    }

    /// An image of this kind at `at`, mounted beside it.
    fn mounted(kind: &str, at: PathBuf, host: Option<Box<Self>>, bytes: u64) -> Result<Self, String> {
        let volume = Self { image: at.with_extension("image"), mount_point: at, host, _home: None };
        let fail = |error: std::io::Error| error.to_string();
        File::create(&volume.image).and_then(|file| file.set_len(bytes)).map_err(fail)?;
        std::fs::create_dir(&volume.mount_point).map_err(fail)?;
        let (package, force) = match kind {
            "ext4" => ("e2fsprogs", "-F"),
            "xfs" => ("xfsprogs", "-f"),
            _ => ("btrfs-progs", "-f"),
        };
        needs(&format!("mkfs.{kind}"), package);
        run(&format!("mkfs.{kind}"), &["-q".as_ref(), force.as_ref(), &volume.image])?;
        volume.mount()?;
        Ok(volume)
    }

    /// What of the image a cut leaves, if it is cloned.
    fn left(&self) -> PathBuf {
        self.image.with_extension("left")
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
        let script = if self.host.is_some() { CLONE } else { SHUTDOWN };
        let args = ["-c".as_ref(), script.as_ref(), self.path(), &not_synced, &self.image, &self.left()];
        run("python3", &args).expect("a cut");
    }

    /// What the power cut left, once nobody holds it any more.
    pub(crate) fn mount_again(&self) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(why) = run("umount", &[self.path()]) {
            assert!(Instant::now() < deadline, "{why}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        if self.host.is_some() {
            std::fs::rename(self.left(), &self.image).expect("what is left is the image");
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
