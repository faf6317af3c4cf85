#!/usr/bin/env bash
# Guess: a limit of one call in half a second lets one pass every half second; at worst the half second is rounded up to a whole one, or refused.
# Seen: rate-limiter-flexible 11.4.0, ioredis 5.9.3, redis-server 7.0.15. Kept in Redis the seconds are rounded down, and none means "never reset": who has used up `duration: 0.5` is refused for ever, who is blocked for half a
# second is blocked for ever, and 1.9 seconds are 1. The same options kept in memory do as they say. Its documentation says "number of seconds", and that 0 is never reset.
# Needs redis-server, redis-cli, python3, node with npm.
set -euo pipefail
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || { kill "$server"; wait "$server" || true; }; rm -rf "$dir"' EXIT
cd "$dir"
echo '{ "type": "module" }' >package.json
timeout 300 npm install --silent --no-audit --no-fund rate-limiter-flexible@11.4.0 ioredis@5.9.3 </dev/null >npm.log 2>&1
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis-server --bind 127.0.0.1 --port "$port" --dir "$dir" --save "" --appendonly no </dev/null >server.log 2>&1 &
server=$!
for _ in $(seq 50); do redis-cli -p "$port" ping >ping.log 2>&1 && break; sleep 0.1; done
cat >ask.js <<'JS'
import Redis from "ioredis";
import { RateLimiterMemory, RateLimiterRedis } from "rate-limiter-flexible";

const storeClient = new Redis(Number(process.argv[2]));
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const ask = (limiter, name) => limiter.consume(name).then(() => "passes", (refused) => (refused instanceof Error ? String(refused) : "refused"));
for (const [name, Limiter] of [["memory", RateLimiterMemory], ["Redis", RateLimiterRedis]]) {
  const limiter = new Limiter({ storeClient, points: 1, duration: 0.5 });
  await limiter.block("blocked", 0.5);
  console.log(`${name}, 0.5 s: ${await ask(limiter, "caller")}, ${await ask(limiter, "caller")}; blocked for 0.5 s: ${await ask(limiter, "blocked")}`);
  await wait(3000);
  console.log(`${name}, 3 s later: ${await ask(limiter, "caller")}; blocked for 0.5 s: ${await ask(limiter, "blocked")}`);
  const longer = new Limiter({ storeClient, points: 1, duration: 1.9, keyPrefix: "longer" });
  const { msBeforeNext } = await longer.consume("caller");
  console.log(`${name}, 1.9 s: ${msBeforeNext > 1000 ? "more than" : "at most"} 1000 ms before the next`);
}
for (const key of (await storeClient.keys("rlflx:*")).sort()) console.log(`${key}: seconds to live ${await storeClient.ttl(key)}`);
storeClient.disconnect();
JS
timeout 60 node ask.js "$port" </dev/null | tee seen
diff - seen <<'SEEN'
memory, 0.5 s: passes, refused; blocked for 0.5 s: refused
memory, 3 s later: passes; blocked for 0.5 s: passes
memory, 1.9 s: more than 1000 ms before the next
Redis, 0.5 s: passes, refused; blocked for 0.5 s: refused
Redis, 3 s later: refused; blocked for 0.5 s: refused
Redis, 1.9 s: at most 1000 ms before the next
rlflx:blocked: seconds to live -1
rlflx:caller: seconds to live -1
SEEN
echo "as found"
