#!/usr/bin/env bash
# Guess: LoggedFS, which lays a log over a folder, passes every call on.
# Seen, Debian 12: loggedfs 0.9+ds-4 on Linux. fsync of a file and of a folder are answered with 0, and nothing is called below: what was synced through
# it is in the page cache alone.
# Needs root, /dev/fuse, python3 and strace.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
get() { apt-get download -qq "$@" || { apt-get update -qq && apt-get download -qq "$@"; }; }
get loggedfs=0.9+ds-4 libfuse2=2.9.9-6+b1 2>/dev/null
for package in *.deb; do dpkg -x "$package" root; done
export LD_LIBRARY_PATH="$dir/root/usr/lib/$(uname -m)-linux-gnu:$dir/root/lib/$(uname -m)-linux-gnu" PATH="$dir/root/usr/bin:$PATH"
cat >run.sh <<'SH'
mkdir folder
mount -t tmpfs none folder
strace -f -qq -o trace -e trace=fsync,fdatasync,sync_file_range,syncfs,rename loggedfs -f -p "$PWD/folder" >log 2>&1 &
for _ in $(seq 100); do grep -q "$PWD/folder fuse.loggedfs" /proc/mounts && break; sleep 0.1; done
python3 - "$PWD/folder" <<'PY'
import os
import sys

folder = sys.argv[1]
file = os.open(f"{folder}/new", os.O_CREAT | os.O_WRONLY, 0o644)
os.write(file, b"hello")
os.fsync(file)
os.rename(f"{folder}/new", f"{folder}/file")
os.fsync(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
PY
umount folder
wait
sed 's/^[0-9]* *//; s/(.*//' trace
SH
unshare -m bash run.sh | tee seen
echo rename | diff - seen
echo "as found: the rename is the only call that came through"
