#!/usr/bin/env bash
# Guess: a file that `rsync -aX` does not copy, as size and time are alike, it leaves as it was.
# Seen, Debian 12: rsync 3.5.0+ds1-0+deb12u1. The content stays the old one and the extended attributes become the new ones: a file that was at no time like this at the source.
# Where an attribute describes the content (a checksum, a version), every such file is damaged. `-c` in a second pass is right. (Same size within one unit of time is what
# a store of small records has all the time; the time is set by hand here.)
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
get() { apt-get download -qq "$@" || { apt-get update -qq && apt-get download -qq "$@"; }; }
get rsync=3.5.0+ds1-0+deb12u1 libpopt0=1.19+dfsg-1 attr=1:2.5.1-4 2>/dev/null
for package in *.deb; do dpkg -x "$package" root; done
export LD_LIBRARY_PATH="$dir/root/usr/lib/$(uname -m)-linux-gnu" PATH="$dir/root/usr/bin:$PATH"
write() {
    printf '%s' "$1" >from/file
    setfattr -n user.record -v "$1" from/file
    touch -d '2020-01-01 00:00:00' from/file
}
show() { echo "$1: content $(cat to/file), attribute $(getfattr --only-values -n user.record to/file 2>/dev/null)"; }
mkdir from
{
    write old
    rsync -aX from/ to/
    show first
    write new
    rsync -aX from/ to/
    show second
    rsync -aXc from/ to/
    show "with -c"
} | tee seen
printf '%s\n' "first: content old, attribute old" "second: content old, attribute new" "with -c: content new, attribute new" | diff - seen
echo "as found"
