#!/usr/bin/env bash
# Guess: pottery's `redis_cache`, which keeps what a function returned in Redis, gives other processes what one has kept, and never gives what another argument got.
# Seen: pottery 3.0.1, CPython 3.11, redis-server 7.0.15. What is kept is found by Python's `hash()` of the arguments alone. That of a text is another in each process, so a second process calls the function again
# (and the hash in Redis grows by an entry with each); and -1 and -2 have the same, so whoever asks for -2 gets what -1 got. Its documentation says it does as `functools.cache` does, which compares the arguments.
# With PYTHONHASHSEED set alike the second process finds it; the other half stays.
# Needs redis-server, redis-cli, python3 with venv.
set -euo pipefail
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || { kill "$server"; wait "$server" || true; }; rm -rf "$dir"' EXIT
cd "$dir"
timeout 120 python3 -m venv env
timeout 300 env/bin/pip install -q --disable-pip-version-check pottery==3.0.1 redis==5.0.8 mmh3==5.3.1 typing_extensions==4.16.0 </dev/null
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis-server --bind 127.0.0.1 --port "$port" --dir "$dir" --save "" --appendonly no </dev/null >server.log 2>&1 &
server=$!
for _ in $(seq 50); do redis-cli -p "$port" ping >ping.log 2>&1 && break; sleep 0.1; done
cat >ask.py <<'PY'
import ast, functools, sys
from redis import Redis
from pottery import redis_cache

calls = 0
def double(number):
    global calls
    calls += 1
    return number * 2

kept = redis_cache(redis=Redis(port=int(sys.argv[1])), key=sys.argv[2])(double)
for argument in map(ast.literal_eval, sys.argv[3:]):
    before = calls
    value = kept(argument)
    print(f"{argument!r}: {value!r}, {'called' if calls > before else 'not called'}, functools.cache {functools.cache(double)(argument)!r}")
    calls = before
PY
ask() { timeout 60 env/bin/python ask.py "$port" "$@" </dev/null; }
{
    unset PYTHONHASHSEED
    echo "numbers"
    ask numbers 5 -1 -2
    ask numbers 5
    echo "texts"
    ask texts '"a"' '"a"'
    ask texts '"a"'
    echo "$(redis-cli -p "$port" hlen texts) entries"
    echo "texts, same seed"
    export PYTHONHASHSEED=1
    ask seeded '"a"'
    ask seeded '"a"'
} | tee seen
diff - seen <<'SEEN'
numbers
5: 10, called, functools.cache 10
-1: -2, called, functools.cache -2
-2: -2, not called, functools.cache -4
5: 10, not called, functools.cache 10
texts
'a': 'aa', called, functools.cache 'aa'
'a': 'aa', not called, functools.cache 'aa'
'a': 'aa', called, functools.cache 'aa'
2 entries
texts, same seed
'a': 'aa', called, functools.cache 'aa'
'a': 'aa', not called, functools.cache 'aa'
SEEN
echo "as found"
