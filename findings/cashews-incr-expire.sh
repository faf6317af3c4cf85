#!/usr/bin/env bash
# Guess: `incr(name, value, expire=...)` gives a counter that it makes a time to live, whatever the step is.
# Seen: cashews 7.6.0, redis-server 7.0.15. Only a counter that stands at exactly 1 after the step gets one: made with a step of 5 (bytes, points) it lives for ever and counts on through all windows. In memory likewise.
# A counter that comes from 0 or below gets it when it reaches 1.
# Needs redis-server, redis-cli, python3 with venv.
set -euo pipefail
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || { kill "$server"; wait "$server" || true; }; rm -rf "$dir"' EXIT
cd "$dir"
timeout 120 python3 -m venv env
timeout 300 env/bin/pip install -q --disable-pip-version-check cashews==7.6.0 redis==5.0.8 </dev/null
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis-server --bind 127.0.0.1 --port "$port" --dir "$dir" --save "" --appendonly no </dev/null >server.log 2>&1 &
server=$!
for _ in $(seq 50); do redis-cli -p "$port" ping >ping.log 2>&1 && break; sleep 0.1; done
cat >ask.py <<'PY'
import asyncio, sys
from cashews import Cache

async def main():
    for name, address in [("Redis", f"redis://127.0.0.1:{sys.argv[1]}/0"), ("memory", "mem://")]:
        cache = Cache()
        cache.setup(address)
        for step in 1, 5:
            await cache.incr(f"step {step}", step, expire=1)
        below = [await cache.incr("below", step, expire=1) for step in (-1, 1)]
        await asyncio.sleep(2)
        for step in 1, 5:
            print(f"{name}, step {step}, expire=1, two seconds later: {await cache.get(f'step {step}')}, next {await cache.incr(f'step {step}', step, expire=1)}")
        print(f"{name}, steps -1 and 1, {below}, two seconds later: {await cache.get('below')}, next {await cache.incr('below', 1, expire=1)}")
        await asyncio.sleep(2)
        print(f"{name}, two seconds after that: {await cache.get('below')}")
        await cache.close()

asyncio.run(main())
PY
timeout 60 env/bin/python ask.py "$port" </dev/null | tee seen
diff - seen <<'SEEN'
Redis, step 1, expire=1, two seconds later: None, next 1
Redis, step 5, expire=1, two seconds later: 5, next 10
Redis, steps -1 and 1, [-1, 0], two seconds later: 0, next 1
Redis, two seconds after that: None
memory, step 1, expire=1, two seconds later: None, next 1
memory, step 5, expire=1, two seconds later: 5, next 10
memory, steps -1 and 1, [-1, 0], two seconds later: 0, next 1
memory, two seconds after that: None
SEEN
echo "as found"
