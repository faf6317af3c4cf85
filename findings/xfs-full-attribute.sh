#!/usr/bin/env bash
# Guess: on a full disk a small attribute fits into the inode of a file that is there, as it takes no block.
# Seen: XFS of xfsprogs 6.1.0 (Debian 12), Linux 6.18. Without a free block `setxattr` of 20 bytes is ENOSPC, though ext4 takes it: XFS wants blocks at hand for the attribute's worst case before it looks whether
# it takes any. Writing over what is in a file, cutting it and renaming it over another still work. Removing one file of 256 KiB is enough for hundreds of attributes.
# So what is to be marked on a full disk needs bytes put by that can be given back first, and not only files.
# Needs root, mkfs.ext4 and python3.
set -euo pipefail
dir=$(mktemp -d)
trap 'umount "$dir/at" 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
get() { apt-get download -qq "$@" || { apt-get update -qq && apt-get download -qq "$@"; }; }
get xfsprogs=6.1.0-1 libinih1=55-1 liburcu8 2>/dev/null
for package in *.deb; do dpkg -x "$package" root; done
mkfs_xfs() { LD_LIBRARY_PATH=$(dirname "$(find "$dir/root" -name libinih.so.1)") "$dir/root/sbin/mkfs.xfs" -q -f "$1"; }
mkdir "$dir/at"
for kind in ext4 xfs; do
    rm -f "$dir/image"
    truncate -s 300M "$dir/image"
    if [ "$kind" = xfs ]; then mkfs_xfs "$dir/image"; else mkfs.ext4 -q -F -m 0 "$dir/image"; fi
    mount -o loop "$dir/image" "$dir/at"
    python3 - "$kind" "$dir/at" <<'PY'
import errno, os, sys
kind, at = sys.argv[1:]
os.chdir(at)
for n in range(300):
    with open(f"put-by-{n}", "wb") as f: f.write(bytes(4096))
with open("reserve", "wb") as f: f.write(bytes(256 << 10))
os.sync()
filler = os.open("filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for size in (1 << 20, 4096, 1):
    try:
        while True: os.write(filler, bytes(size))
    except OSError as error: assert error.errno == errno.ENOSPC, error
os.fsync(filler)
def tried(what, work):
    try: work()
    except OSError as error: print(f"{kind}: {what}: {errno.errorcode[error.errno]}")
    else: print(f"{kind}: {what}: done")
def over():
    file = os.open("put-by-0", os.O_WRONLY)
    os.pwrite(file, b"another", 0); os.ftruncate(file, 7); os.fsync(file); os.close(file)
mark = lambda n: os.setxattr(f"put-by-{n}", "user.mark", bytes(20))
tried("write over a file, and cut it", over)
tried("rename it over another", lambda: os.rename("put-by-0", "put-by-1"))
tried("give it an attribute of 20 bytes", lambda: mark(1))
tried("remove 256 KiB", lambda: os.remove("reserve"))
tried("give 299 files such an attribute", lambda: [mark(n) for n in range(1, 300)])
PY
    umount "$dir/at"
done | tee "$dir/seen"
diff - "$dir/seen" <<'SEEN'
ext4: write over a file, and cut it: done
ext4: rename it over another: done
ext4: give it an attribute of 20 bytes: done
ext4: remove 256 KiB: done
ext4: give 299 files such an attribute: done
xfs: write over a file, and cut it: done
xfs: rename it over another: done
xfs: give it an attribute of 20 bytes: ENOSPC
xfs: remove 256 KiB: done
xfs: give 299 files such an attribute: done
SEEN
echo "as found"
