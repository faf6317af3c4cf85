//! The calls on a real folder.

use super::*;

fn open(dir: &tempfile::TempDir) -> (OsDisk, Arc<dyn Folder>) {
    let disk = OsDisk::new();
    let folder = disk.folder(&dir.path().join("a/b/c")).unwrap();
    (disk, folder)
}

#[test]
fn files_live() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, folder) = open(&dir);
    let mut file = folder.create_new("f").unwrap();
    assert_eq!(folder.create_new("f").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    let parts: Vec<_> = (0..3000).map(|n| [n as u8; 3]).collect();
    let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
    file.append(&slices).unwrap();
    file.append(&[IoSlice::new(b""), IoSlice::new(b"end"), IoSlice::new(b"")]).unwrap();
    assert_eq!(file.len().unwrap(), 9003);
    let mut again = folder.edit("f").unwrap();
    let content = again.read_all(9003).unwrap();
    assert!(content.ends_with(b"\xb7\xb7\xb7end") && content.len() == 9003);
    assert_eq!(again.read_all(10).unwrap().len(), 11, "one more than the limit, so that it can be told");
    again.uncache(9000, 3);
    again.truncate(2).unwrap();
    again.append(&[IoSlice::new(b"x")]).unwrap();
    assert_eq!(file.read_all(100).unwrap(), b"\0\0x");
    again.write_at(&[IoSlice::new(b"a"), IoSlice::new(b"bcd")], 1).unwrap();
    file.append(&[IoSlice::new(b"y")]).unwrap();
    assert_eq!(file.read_all(100).unwrap(), b"\0abcdy");
    assert_eq!(file.record().unwrap(), None);
    file.set_record(b"hello").unwrap();
    assert_eq!(again.record().unwrap().unwrap(), b"hello");
    folder.rename("f", "g").unwrap();
    assert_eq!(folder.open("f").unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(folder.list().unwrap(), [Listed { name: "g".into(), regular: true }]);
    file.sync_data().unwrap();
    assert!(disk.sync_many(vec![file]).into_iter().all(|r| r.is_ok()));
    folder.sync().unwrap();
    folder.sync_all().unwrap();
    folder.remove("g").unwrap();
    assert_eq!(folder.remove("g").unwrap_err().kind(), io::ErrorKind::NotFound);
    let space = folder.space().unwrap();
    assert!(0 < space.free && space.free <= space.size && space.free_files <= space.files);
    assert!(!folder.folds_case().unwrap());
    assert!(folder.list().unwrap().is_empty());
    assert_eq!(disk.boot_id(), OsDisk::new().boot_id());
}

#[test]
fn only_regular_files_are_opened() {
    let dir = tempfile::tempdir().unwrap();
    let (_disk, folder) = open(&dir);
    std::fs::write(folder.path().join("real"), "secret").unwrap();
    std::os::unix::fs::symlink("real", folder.path().join("link")).unwrap();
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    fs::mknodat(fs::CWD, folder.path().join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    for odd in ["link", "folder", "fifo"] {
        for error in [folder.open(odd).unwrap_err(), folder.edit(odd).unwrap_err()] {
            assert_ne!(error.kind(), io::ErrorKind::NotFound, "{odd} must not look absent");
        }
    }
    let mut listed = folder.list().unwrap();
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(listed.iter().map(|l| l.regular).collect::<Vec<_>>(), [false, false, false, true]);
}

#[test]
fn a_volatile_overlay_is_told_by_its_mount() {
    let mounts = "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,volatile2\n\
        40 22 0:33 / /data rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w,volatile\n\
        41 22 0:34 / /other rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w\n";
    for (device, volatile) in [("0:33", true), ("0:34", false), ("254:1", false), ("0:3", false)] {
        assert_eq!(is_volatile(mounts, device), volatile, "{device}");
    }
}

#[test]
fn old_kernels_tell_nothing_of_a_failed_syncfs() {
    let table = [
        ("6.18.0", true),
        ("5.8.0-rc1", true),
        ("5.10.0-28-amd64", true),
        ("10.0", true),
        ("5.7.19", false),
        ("4.18.0-553.el8_10.x86_64", false),
        ("3.10.0", false),
        ("", false),
        ("gVisor", false),
        ("5", false),
    ];
    for (release, tells) in table {
        assert_eq!(syncfs_tells(release), tells, "{release}");
    }
}

#[test]
fn a_system_that_cannot_append_at_once_appends_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    for refused in [Errno::OPNOTSUPP, Errno::NOSYS] {
        let path = dir.path().join("f");
        std::fs::write(&path, "one").unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        append_by(&file, &[IoSlice::new(b"two"), IoSlice::new(b"three")], |_| Err(refused)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "onetwothree");
    }
    let file = File::options().read(true).write(true).open(dir.path().join("f")).unwrap();
    assert!(append_by(&file, &[IoSlice::new(b"x")], |_| Err(Errno::IO)).is_err());
}

#[test]
fn a_folder_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, folder) = open(&dir);
    let guard = folder.lock(".lock").unwrap();
    let other = disk.folder(&folder.path()).unwrap();
    assert_eq!(other.lock(".lock").unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let pid = std::fs::read_to_string(folder.path().join(".lock")).unwrap();
    assert_eq!(pid.trim(), std::process::id().to_string());
    // A cleaner that removes the file opens the folder to nobody.
    folder.remove(".lock").unwrap();
    assert_eq!(other.lock(".lock").unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(guard);
    other.lock(".lock").unwrap();
}

#[test]
fn many_files_are_synced_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, folder) = open(&dir);
    for round in 0..3 {
        let files = (0..40).map(|n| folder.create_new(&format!("{round}-{n}")).unwrap()).collect();
        let results = disk.sync_many(files);
        assert_eq!(results.len(), 40);
        assert!(results.into_iter().all(|result| result.is_ok()));
    }
}
