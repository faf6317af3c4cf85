#!/usr/bin/env bash
# Guess: fsync of a folder, after a rename in it, reaches the file system below a FUSE layer; or else fails.
# Seen, Debian 12: bindfs 1.14.7-1, mergerfs 2.33.5-1, unionfs-fuse 1.0-1+b1 on Linux. The file's fsync and the rename go down; the folder's fsync is answered
# with 0, and nothing is called below. (FUSE takes a layer that does not have fsyncdir for one that needs none.) So the usual order of a safe replacement
# (write, sync, rename, sync the folder) does not make the rename durable here; a sync of the renamed file does go down.
# Needs root, /dev/fuse, python3 and strace.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
get() { apt-get download -qq "$@" || { apt-get update -qq && apt-get download -qq "$@"; }; }
get bindfs=1.14.7-1 mergerfs=2.33.5-1 unionfs-fuse=1.0-1+b1 libfuse2=2.9.9-6+b1 2>/dev/null
for package in *.deb; do dpkg -x "$package" root; done
export LD_LIBRARY_PATH="$dir/root/usr/lib/$(uname -m)-linux-gnu:$dir/root/lib/$(uname -m)-linux-gnu" PATH="$dir/root/usr/bin:$PATH"
cat >replace.py <<'PY'
import os
import sys

folder = sys.argv[1]
file = os.open(f"{folder}/new", os.O_CREAT | os.O_WRONLY, 0o644)
os.write(file, b"hello")
os.fsync(file)
os.close(file)
os.rename(f"{folder}/new", f"{folder}/file")
os.fsync(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
again = os.open(f"{folder}/file", os.O_RDONLY)
os.fsync(again)
PY
cat >run.sh <<'SH'
mkdir low up
mount -t tmpfs none low
for layer in "bindfs -f low up" "mergerfs -f low up" "unionfs -f $PWD/low=RW up"; do
    strace -f -qq -o trace -e trace=fsync,fdatasync,rename,renameat,renameat2 $layer &
    for _ in $(seq 100); do mountpoint -q up && break; sleep 0.1; done
    python3 replace.py up
    umount up
    wait
    echo "${layer%% *}: $(grep -oE '(fsync|fdatasync|rename)[a-z0-9]*\(.*= 0' trace | sed 's/(.*//' | tr '\n' ' ')"
    rm -f low/*
done
SH
unshare -m bash run.sh | tee seen
for layer in bindfs mergerfs unionfs; do echo "$layer: fsync rename fsync "; done | diff - seen
echo "as found: two syncs of files, none of the folder, and no error"
