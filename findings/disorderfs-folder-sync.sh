#!/usr/bin/env bash
# Guess: disorderfs, the layer that shows a build in which order a folder is listed, passes a folder's fsync on.
# Seen, Debian 12: disorderfs 0.5.11-3 on Linux. It calls fsync below with a number that is no descriptor (EBADF), and answers 0: the caller takes the
# folder for synced.
# Needs root, /dev/fuse, python3 and strace.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
get() { apt-get download -qq "$@" || { apt-get update -qq && apt-get download -qq "$@"; }; }
get disorderfs=0.5.11-3 libfuse2=2.9.9-6+b1 2>/dev/null
for package in *.deb; do dpkg -x "$package" root; done
export LD_LIBRARY_PATH="$dir/root/usr/lib/$(uname -m)-linux-gnu:$dir/root/lib/$(uname -m)-linux-gnu" PATH="$dir/root/usr/bin:$PATH"
cat >run.sh <<'SH'
mkdir low up
mount -t tmpfs none low
strace -f -qq -o trace -e trace=fsync disorderfs -f "$PWD/low" "$PWD/up" >log 2>&1 &
for _ in $(seq 100); do mountpoint -q up && break; sleep 0.1; done
python3 -c 'import os; os.fsync(os.open("up", os.O_RDONLY | os.O_DIRECTORY))'
echo "the caller's fsync: $?"
umount up
wait
grep -o '= .*' trace
SH
unshare -m bash run.sh | tee seen
printf "the caller's fsync: 0\n= -1 EBADF (Bad file descriptor)\n" | diff - seen
echo "as found"
