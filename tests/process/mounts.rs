//! File systems that are mounted for a test: small, broken, through layers.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::eventually;
use crate::tools::{needs, needs_module};

/// A file system, mounted while this lives.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// Mounts one; nothing (and the reason on stderr) where that is not permitted.
    pub(crate) fn tmpfs(at: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "hatokuse-test"]).arg(at).stderr(Stdio::null());
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Self(at.to_owned()));
        }
        no_mounts()
    }

    /// Mounts one of so many MiB on an image.
    pub(crate) fn ext4(at: &Path, image: &Path, mebibytes: u64, options: &[&str]) -> Option<Self> {
        Self::image(at, image, mebibytes, Command::new("mkfs.ext4").args(["-q", "-F"]).args(options))
    }

    /// Mounts what `make` makes of an image of so many MiB.
    fn image(at: &Path, image: &Path, mebibytes: u64, make: &mut Command) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        std::fs::File::create(image).unwrap().set_len(mebibytes << 20).unwrap();
        let done = |command: &mut Command| command.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        if done(make.arg(image)) && done(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at)) {
            return Some(Self(at.to_owned()));
        }
        no_mounts()
    }

    /// Mounts an XFS of 300 MiB on an image: mkfs makes no smaller one.
    pub(crate) fn xfs(at: &Path, image: &Path) -> Option<Self> {
        needs("mkfs.xfs", "xfsprogs");
        Self::image(at, image, 300, Command::new("mkfs.xfs").arg("-q"))
    }

    /// Mounts a btrfs of 128 MiB on an image: the smallest that mkfs makes is 109.
    pub(crate) fn btrfs(at: &Path, image: &Path) -> Option<Self> {
        needs("mkfs.btrfs", "btrfs-progs");
        Self::image(at, image, 128, Command::new("mkfs.btrfs").arg("-q").stdout(Stdio::null()))
    }

    /// Mounts `below` once more, through bindfs.
    pub(crate) fn bindfs(below: &Path, at: &Path, options: &[&str]) -> Option<Self> {
        needs("bindfs", "bindfs");
        std::fs::create_dir_all(below).unwrap();
        Self::layer(at, Command::new("bindfs").args(options).arg(below).arg(at))
    }

    /// Mounts an encrypted folder, in which names have 175 bytes at most (and statfs says 189).
    pub(crate) fn encfs(below: &Path, at: &Path) -> Option<Self> {
        needs("encfs", "encfs");
        std::fs::create_dir_all(below).unwrap();
        let script = r#"echo secret | encfs -S --standard "$0" "$1""#;
        Self::layer(at, Command::new("sh").args(["-c", script]).arg(below).arg(at).stdout(Stdio::null()))
    }

    /// Mounts `below` once more, through a layer whose calls fail as the file of rules says.
    pub(crate) fn faulty(below: &Path, at: &Path, rules: &Path) -> Option<Self> {
        needs_module("fusepy", "python3-fusepy");
        std::fs::create_dir_all(below).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/process/faulty_layer.py");
        // Debian's own, which has Debian's modules.
        Self::layer(at, Command::new("/usr/bin/python3").arg(script).args([below, at, rules]))
    }

    /// Waits for a file system in user space to be there.
    fn layer(at: &Path, mount: &mut Command) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let is_there = || std::fs::read_to_string("/proc/mounts").unwrap().contains(&*at.to_string_lossy());
        if mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
            eventually("the layer", || is_there().then_some(()));
            return Some(Self(at.to_owned()));
        }
        no_mounts()
    }

    /// Of a btrfs: keeps what is there as it is, so that writing over it takes room.
    pub(crate) fn snapshot(&self) -> bool {
        let mut snapshot = Command::new("btrfs");
        snapshot.args(["subvolume", "snapshot", "-r"]).arg(&self.0).arg(self.0.join(".snapshot"));
        snapshot.stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// Has room again that [`fill`](Self::fill) took.
    pub(crate) fn empty(&self) {
        std::fs::remove_file(self.0.join(".filler")).unwrap();
    }

    /// Leaves no room in it for a single byte, nor for another file.
    pub(crate) fn fill_up(&self) {
        self.fill();
        let file = |n| std::fs::File::create(self.0.join(format!(".file-{n}")));
        assert!((0..1_000_000).any(|n| file(n).is_err()), "it takes files without end");
        self.fill();
    }

    /// Leaves no room in it for a single byte.
    pub(crate) fn fill(&self) {
        let mut filler = std::fs::File::options().create(true).append(true).open(self.0.join(".filler")).unwrap();
        for size in [4096, 1] {
            while filler.write_all(&[0; 4096][..size]).is_ok() {}
        }
    }

    /// Fills it with attributes: on btrfs it is the metadata that is full then, and not even a name can be changed.
    pub(crate) fn crowd(&self) {
        let crowd = self.0.join(".crowd");
        std::fs::create_dir(&crowd).unwrap();
        let small = |n| {
            let (staged, name) = (crowd.join("staged"), crowd.join(format!("{n}")));
            let file = std::fs::File::create(&staged)?;
            rustix::fs::fsetxattr(&file, "user.crowd", &[b'x'; 12_000], rustix::fs::XattrFlags::empty())?;
            std::fs::rename(staged, name)
        };
        assert!((0..1_000_000).any(|n| small(n).is_err()), "it takes files without end");
    }

    /// Has an ext4 refuse all writes from here on, as after an error.
    pub(crate) fn break_down(&self) {
        // It is read-only then, which mount takes for a failure.
        let _ =
            Command::new("mount").args(["-o", "remount,abort"]).arg(&self.0).stderr(Stdio::null()).status().unwrap();
        eventually("it is read-only", || std::fs::write(self.0.join(".probe"), "x").is_err().then_some(()));
    }

    /// Changes its options.
    pub(crate) fn remount(&self, options: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).status().unwrap();
        assert!(status.success(), "remount {options}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a server that a failed test left may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        // The cluster's folder could not go before.
        let _ = self.0.parent().map(std::fs::remove_dir_all);
    }
}

/// Only a user who may not mount anything goes without these tests.
fn no_mounts<T>() -> Option<T> {
    assert!(!rustix::process::geteuid().is_root(), "root cannot mount file systems here: these tests need it");
    eprintln!("SKIPPED: this user may not mount file systems");
    None
}

/// A file system on an image, mounted while this lives, that can be told to hang: whoever writes waits.
pub(crate) struct Hanging(Mount);

impl Hanging {
    /// Mounts one; nothing (and the reason on stderr) where that is not possible.
    pub(crate) fn ext4(at: &Path, image: &Path) -> Option<Self> {
        if let Some(mount) = Mount::ext4(at, image, 64, &[]) {
            let hanging = Self(mount);
            if hanging.freeze("--freeze") && hanging.freeze("--unfreeze") {
                return Some(hanging);
            }
        }
        no_mounts()
    }

    pub(crate) fn freeze(&self, order: &str) -> bool {
        let status = Command::new("fsfreeze").arg(order).arg(&self.0.0).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        // Whoever waits for it could not be killed.
        self.freeze("--unfreeze");
    }
}
