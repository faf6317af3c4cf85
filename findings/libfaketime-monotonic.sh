#!/usr/bin/env bash
# Guess: libfaketime moves the wall clock, and leaves the clocks that count since the start of the machine.
# Seen, Debian 12: libfaketime 0.9.10-2.1. With FAKETIME="-400d" CLOCK_MONOTONIC and CLOCK_BOOTTIME are the faked date in seconds since 1970. A test that steps the date with it does not
# show what a step of the date does to a program that keeps its time-outs by the monotonic clock: DONT_FAKE_MONOTONIC=1 leaves CLOCK_MONOTONIC.
# Needs python3.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
get() { apt-get download -qq "$@" || { apt-get update -qq && apt-get download -qq "$@"; }; }
get libfaketime=0.9.10-2.1 2>/dev/null
for package in *.deb; do dpkg -x "$package" root; done
cat >look.py <<'PY'
import time

# Nothing has been up for 30 years.
is_date = lambda seconds: "a date" if seconds > 30 * 365 * 86400 else "since the start"
print("monotonic:", is_date(time.clock_gettime(time.CLOCK_MONOTONIC)))
print("boot time:", is_date(time.clock_gettime(time.CLOCK_BOOTTIME)))
PY
export LD_PRELOAD="$dir/root/usr/lib/$(uname -m)-linux-gnu/faketime/libfaketime.so.1" FAKETIME="-400d"
python3 look.py >faked
DONT_FAKE_MONOTONIC=1 python3 look.py >left
unset LD_PRELOAD
cat faked left
printf '%s\n' "monotonic: a date" "boot time: a date" | diff - faked
grep -q "monotonic: since the start" left
echo "as found"
