#!/usr/bin/env bash
# Guess: a network block device can be told to flush, so that fsync on a file system over it means what it says.
# Seen, Debian 12: nbd-server 1:3.24-1.1. An export that names only its file offers neither flush nor FUA; `flush = true` in the export brings the first, `fua = true` the second. Without
# them a client's kernel takes the device for one without a cache, and has nothing to send when a file is synced.
# Runs on loopback, in a network namespace of its own: needs root.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
get() { apt-get download -qq "$@" || { apt-get update -qq && apt-get download -qq "$@"; }; }
get nbd-server=1:3.24-1.1 libnbd-bin=1.14.2-1 libnbd0=1.14.2-1 2>/dev/null
for package in *.deb; do dpkg -x "$package" root; done
export LD_LIBRARY_PATH="$dir/root/usr/lib/$(uname -m)-linux-gnu" PATH="$dir/root/usr/bin:$dir/root/bin:$PATH"
truncate -s 8M disk
cat >config <<CONF
[generic]
    user = root
    group = root
    listenaddr = 127.0.0.1
[plain]
    exportname = $dir/disk
[asked]
    exportname = $dir/disk
    flush = true
    fua = true
CONF
cat >run.sh <<'SH'
ip link set lo up
for export in plain asked; do
    # Undaemonised it serves one client, and ends.
    nbd-server -d -C config >log 2>&1 &
    for _ in $(seq 100); do nbdinfo "nbd://127.0.0.1/$export" >info 2>/dev/null && break; sleep 0.1; done
    echo "$export: $(grep -E 'can_(flush|fua)' info | tr -d '\t ' | tr '\n' ' ')"
done
SH
unshare -n bash run.sh | tee seen
printf '%s\n' "plain: can_flush:false can_fua:false " "asked: can_flush:true can_fua:true " | diff - seen
echo "as found"
