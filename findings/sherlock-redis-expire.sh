#!/usr/bin/env bash
# Guess: sherlock's `RedisLock` with `expire=None` is held until it is released, and one with `expire=0.5` for half a second; the documentation says "if explicitly set to None, lock will not expire" and calls `expire` a float.
# Seen: sherlock 0.4.1, redis-server 7.0.15. With None the script gets -1 as a text, which is not the number it compares with, and calls `EXPIRE` with it: the lock is gone at once, both get it, and `release` fails.
# With 0.5 `acquire` raises an error after the name was set, and what a script wrote stays: nobody holds the lock, it has no time to live, and nobody ever gets it.
# Needs redis-server, redis-cli, python3 with venv.
set -euo pipefail
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || { kill "$server"; wait "$server" || true; }; rm -rf "$dir"' EXIT
cd "$dir"
timeout 120 python3 -m venv env
timeout 300 env/bin/pip install -q --disable-pip-version-check sherlock==0.4.1 redis==5.0.8 </dev/null
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis-server --bind 127.0.0.1 --port "$port" --dir "$dir" --save "" --appendonly no </dev/null >server.log 2>&1 &
server=$!
for _ in $(seq 50); do redis-cli -p "$port" ping >ping.log 2>&1 && break; sleep 0.1; done
cat >ask.py <<'PY'
import sys
from redis import Redis
from sherlock import RedisLock

client = Redis(port=int(sys.argv[1]))
def ask(name, call):
    try:
        print(f"{name}: {call()}")
    except Exception as error:
        print(f"{name}: {type(error).__name__}")

for expire in 60, None, 0.5:
    client.flushall()
    first, second = RedisLock("door", client=client, expire=expire), RedisLock("door", client=client, expire=60)
    ask(f"expire={expire}, first acquires", lambda: first.acquire(blocking=False))
    print(f"  seconds to live {client.ttl('door')}")  # -1: for ever, -2: no such name
    ask("  second acquires", lambda: second.acquire(blocking=False))
    ask("  first releases", first.release)
PY
timeout 60 env/bin/python ask.py "$port" </dev/null 2>errors | tee seen
diff - seen <<'SEEN'
expire=60, first acquires: True
  seconds to live 60
  second acquires: False
  first releases: None
expire=None, first acquires: True
  seconds to live -2
  second acquires: True
  first releases: LockException
expire=0.5, first acquires: ResponseError
  seconds to live -1
  second acquires: False
  first releases: LockException
SEEN
echo "as found"
