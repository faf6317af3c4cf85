#!/usr/bin/env bash
# Guess: pwritev2 with RWF_APPEND puts a line behind whatever is in the file, as a descriptor opened with O_APPEND does.
# Seen, Debian 12: bindfs 1.14.7-1, mergerfs 2.33.5-1, unionfs-fuse 1.0-1+b1 on Linux. Two writers append in turn, one through the layer and one to the
# file below it. With O_APPEND all four lines are there. With RWF_APPEND the layer is given the offset that the kernel believes to be the end, and
# the line of the other writer is overwritten. Matters to logs: O_APPEND is passed on to the layer, RWF_APPEND is not.
# Needs root, /dev/fuse and python3.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
get() { apt-get download -qq "$@" || { apt-get update -qq && apt-get download -qq "$@"; }; }
get bindfs=1.14.7-1 mergerfs=2.33.5-1 unionfs-fuse=1.0-1+b1 libfuse2=2.9.9-6+b1 2>/dev/null
for package in *.deb; do dpkg -x "$package" root; done
export LD_LIBRARY_PATH="$dir/root/usr/lib/$(uname -m)-linux-gnu:$dir/root/lib/$(uname -m)-linux-gnu" PATH="$dir/root/usr/bin:$PATH"
cat >append.py <<'PY'
import os
import sys

above, below = sys.argv[1:]
for how in "O_APPEND", "RWF_APPEND":
    open(f"{below}/{how}", "w").close()
    ours = os.open(f"{above}/{how}", os.O_WRONLY | (os.O_APPEND if how == "O_APPEND" else 0))
    theirs = os.open(f"{below}/{how}", os.O_WRONLY | os.O_APPEND)
    for n in b"1", b"2":
        line = b"above " + n + b"\n"
        os.write(ours, line) if how == "O_APPEND" else os.pwritev(ours, [line], 0, os.RWF_APPEND)
        os.write(theirs, b"below " + n + b"\n")
    print(how, open(f"{below}/{how}").read().split("\n")[:-1])
PY
cat >run.sh <<'SH'
mkdir low up
mount -t tmpfs none low
for layer in "bindfs -f low up" "mergerfs -f low up" "unionfs -f $PWD/low=RW up"; do
    $layer &
    for _ in $(seq 100); do mountpoint -q up && break; sleep 0.1; done
    echo "${layer%% *}"
    python3 append.py up low
    umount up
    wait
    rm -f low/*
done
SH
unshare -m bash run.sh | tee seen
for layer in bindfs mergerfs unionfs; do
    echo "$layer"
    echo "O_APPEND ['above 1', 'below 1', 'above 2', 'below 2']"
    echo "RWF_APPEND ['above 1', 'above 2', 'below 2']"
done | diff - seen
echo "as found"
