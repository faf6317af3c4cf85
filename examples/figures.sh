#!/usr/bin/env bash
# The figures beside Redis in docs/bench.md again: hatokuse, tolerance 3 on 3 nodes, and in turn with it, where it is
# installed, Redis with two replicas. Every setting RUNS times, alternating; prints medians and ratios.
#   usage: examples/figures.sh [FOLDER]      the runs' JSON goes there (default: a temporary folder)
#   knobs: HATOKUSE=target/release/hatokuse  RUNS=5  SECS=4  LAYOUT=text  PORT=7401  TMPDIR=/tmp (the disk that is measured)
set -euo pipefail
cd "$(dirname "$0")/.."
HATOKUSE=${HATOKUSE:-target/release/hatokuse} RUNS=${RUNS:-5} SECS=${SECS:-4} LAYOUT=${LAYOUT:-text} PORT=${PORT:-7401}
[ -x "$HATOKUSE" ] || { echo "no $HATOKUSE: run cargo build --release first, or set HATOKUSE" >&2; exit 2; }
work=$(mktemp -d) out=${1:-$work/runs} pids=()
mkdir -p "$out"

stop_peers() { # by pid, and only those started here
    local pid
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    pids=()
}
trap 'stop_peers; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

redis() { # redis FSYNC: a primary and two replicas, each with its own log, synced as FSYNC says
    local n port of
    for n in 0 1 2; do
        port=$((PORT + n)) of=()
        ((n)) && of=(--replicaof "127.0.0.1 $PORT")
        rm -rf "$work/redis-$n" && mkdir "$work/redis-$n"
        redis-server --bind 127.0.0.1 --port $port --dir "$work/redis-$n" --save '' --appendonly yes --appendfsync "$1" \
            --auto-aof-rewrite-percentage 0 --repl-diskless-sync-delay 0 "${of[@]}" >"$work/redis-$n/log" 2>&1 &
        pids+=($!)
    done
    for ((n = 0; n < 200; n++)); do
        [ "$(redis-cli -p "$PORT" info replication 2>/dev/null | grep -c state=online)" = 2 ] && return
        sleep 0.1
    done
    echo "the replicas did not come online; see $work/redis-*/log" >&2
    exit 1
}

compare() { # compare NAME IO_MODE FSYNC WAIT FLAGS...
    local name=$1 io=$2 fsync=$3 wait=$4 run ours="$out/$1.hatokuse.json" theirs="$out/$1.redis.json"
    shift 4
    local flags=(--duration "${SECS}s" --warmup 1s "$@")
    rm -f "$ours" "$theirs"
    for ((run = 0; run < RUNS; run++)); do
        "$HATOKUSE" bench --local-nodes 3 --tolerance 3 --io-mode "$io" --layout "$LAYOUT" "${flags[@]}" --json >>"$ours" 2>"$work/err" ||
            { cat "$work/err" >&2; exit 1; }
        if command -v redis-server >/dev/null; then
            redis "$fsync"
            "$HATOKUSE" bench --protocol resp --addr "127.0.0.1:$PORT" --wait "$wait" "${flags[@]}" --json >>"$theirs" 2>"$work/err" ||
                { cat "$work/err" >&2; exit 1; }
            stop_peers
        fi
    done
    printf '\n== %s: %s\n' "$name" "$*"
    [ -f "$theirs" ] || theirs=$ours # without a peer: our own medians, ratio 1
    "$HATOKUSE" bench --compare "$theirs" "$ours"
}

compare durable-set-1 unbuffered always 2 --connections 1
compare durable-set-32 unbuffered always 2 --connections 32
compare durable-set-128 unbuffered always 2 --connections 128
compare durable-set-32x128 unbuffered always 2 --connections 32 --pipeline 128
compare durable-overwrite-32 unbuffered always 2 --connections 32 --keys 20000
compare buffered-set-32 buffered everysec 0 --connections 32
compare get-32 buffered everysec 0 --connections 32 --op get --keys 20000
compare get-32x128 buffered everysec 0 --connections 32 --pipeline 128 --op get --keys 20000
[ -n "${1:-}" ] && printf '\nThe runs are in %s\n' "$out"
exit 0
