#!/usr/bin/env bash
# Guess: what is short of room on a full btrfs are contents, so that a staged file can still be renamed over the old one, as `unlink` works too.
# Seen, Debian 12: btrfs-progs 6.2-1+deb12u2 with its defaults on a file system of 128 MiB, Linux 6.18. Where the metadata are full (many small files or attributes)
# `rename` and `RENAME_EXCHANGE` are ENOSPC, while `df` shows megabytes, a file without content can be made, and one can be removed. What always works is to overwrite
# and sync, in place, a file that has FS_NOCOW_FL. So "write beside, sync, rename" cannot change a settings file there, and a double write in place can.
# Needs root and python3.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
get() { apt-get download -qq "$@" || { apt-get update -qq && apt-get download -qq "$@"; }; }
get btrfs-progs=6.2-1+deb12u2 2>/dev/null
for package in *.deb; do dpkg -x "$package" root; done
cat >run.py <<'PY'
import ctypes, fcntl, os, struct

def made(name, content, in_place=False):
    fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    if in_place:
        flags = struct.unpack("l", fcntl.ioctl(fd, 0x80086601, bytes(8)))[0]
        fcntl.ioctl(fd, 0x40086602, struct.pack("l", flags | 0x00800000))
    os.write(fd, content)
    os.fsync(fd)
    return fd

def tell(what, step):
    try:
        step()
        print(what, "works")
    except OSError as error:
        print(what, os.strerror(error.errno))

def exchange():
    if ctypes.CDLL(None, use_errno=True).renameat2(-100, b"m/staged", -100, b"m/settings", 2):
        raise OSError(ctypes.get_errno(), "")

def overwrite():
    os.pwrite(place, b"c" * 16384, 0)
    os.fsync(place)

place = made("m/settings", b"a" * 16384, in_place=True)
made("m/staged", b"b" * 16384, in_place=True)
os.mkdir("m/d")
try:
    for n in range(1_000_000):
        fd = os.open("m/d/new", os.O_CREAT | os.O_WRONLY)
        os.setxattr(fd, "user.x", b"x" * 12000)
        os.close(fd)
        os.rename("m/d/new", f"m/d/{n}")
except OSError as error:
    print("after some thousand files:", os.strerror(error.errno))
print("df shows MiB:", os.statvfs("m").f_bavail * 4096 >> 20 > 2)
tell("rename", lambda: os.rename("m/staged", "m/settings"))
tell("exchange", exchange)
tell("overwrite in place", overwrite)
tell("an empty file", lambda: os.open("m/empty", os.O_CREAT | os.O_EXCL))
tell("unlink", lambda: os.unlink("m/d/1"))
PY
cat >run.sh <<'SH'
set -e
truncate -s 128M image
root/sbin/mkfs.btrfs -q image >/dev/null 2>&1
mkdir m
mount -o loop image m
python3 run.py
umount m
SH
unshare -m bash run.sh | tee seen
printf '%s\n' "after some thousand files: No space left on device" "df shows MiB: True" "rename No space left on device" \
    "exchange No space left on device" "overwrite in place works" "an empty file works" "unlink works" | diff - seen
echo "as found"
