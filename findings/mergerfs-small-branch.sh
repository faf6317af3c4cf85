#!/usr/bin/env bash
# Guess: where df shows room, a file can be made.
# Seen, Debian 12: mergerfs 2.33.5-1 with its defaults. Over a file system of 230 MiB that is empty, making a file is ENOSPC, as `minfreespace` is 4 GiB; df shows
# all of it as available, and a file that exists can be written. A small disk behind it looks full from the first message on.
# Needs root, /dev/fuse and mkfs.ext4.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
get() { apt-get download -qq "$@" || { apt-get update -qq && apt-get download -qq "$@"; }; }
get mergerfs=2.33.5-1 2>/dev/null
for package in *.deb; do dpkg -x "$package" root; done
export PATH="$dir/root/usr/bin:$PATH"
cat >run.sh <<'SH'
truncate -s 256M image
mkfs.ext4 -q image
mkdir small up
mount -o loop image small
echo old >small/there
for options in "" "-o minfreespace=1M"; do
    mergerfs -f $options "$PWD/small" up &
    for _ in $(seq 100); do mountpoint -q up && break; sleep 0.1; done
    free=$(($(stat -f -c '%a * %S' up) >> 20))
    ((free > 200)) && echo "over 200 MiB available"
    (echo new >up/new) 2>&1 | grep -o 'No space left on device' || echo "made"
    (echo new >up/there) && echo "written"
    umount up
    wait
done
umount small
SH
unshare -m bash run.sh | tee seen
printf '%s\n' "over 200 MiB available" "No space left on device" written "over 200 MiB available" made written | diff - seen
echo "as found"
