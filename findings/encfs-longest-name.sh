#!/usr/bin/env bash
# Guess: a file system's statfs says how long a name may be (f_namemax).
# Seen, Debian 12: encfs 1.9.5-2, standard configuration. statfs says 189 bytes; a name of 175 is taken, one of 176 is ENAMETOOLONG.
# Needs root, /dev/fuse and python3.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
get() { apt-get download -qq "$@" || { apt-get update -qq && apt-get download -qq "$@"; }; }
get encfs=1.9.5-2 libfuse2=2.9.9-6+b1 libtinyxml2-9=9.0.0+dfsg-3.1 2>/dev/null
for package in *.deb; do dpkg -x "$package" root; done
export LD_LIBRARY_PATH="$dir/root/usr/lib/encfs:$dir/root/usr/lib/$(uname -m)-linux-gnu:$dir/root/lib/$(uname -m)-linux-gnu" PATH="$dir/root/usr/bin:$PATH"
echo secret >password
cat >run.sh <<'SH'
mkdir low up
encfs --standard --extpass="cat $PWD/password" -f "$PWD/low" "$PWD/up" >log 2>&1 &
for _ in $(seq 100); do mountpoint -q up && break; sleep 0.1; done
python3 - <<'PY'
import errno
import os

said = os.statvfs("up").f_namemax
for length in range(1, said + 1):
    try:
        os.close(os.open("up/" + "a" * length, os.O_CREAT | os.O_WRONLY))
    except OSError as error:
        print(f"said {said}, longest {length - 1}, then {errno.errorcode[error.errno]}")
        break
PY
umount up
wait
SH
unshare -m bash run.sh | tee seen
echo "said 189, longest 175, then ENAMETOOLONG" | diff - seen
echo "as found"
