// SET, GET, DEL, pipelines, transactions and refusals through ioredis or node-redis: drive.js LIBRARY HOST PORT.
const assert = require("node:assert/strict");
const [library, host, port] = [process.argv[2], process.argv[3], Number(process.argv[4])];

async function refused(promise) {
  await assert.rejects(promise, /ERR/);
}

async function ioredis() {
  const Redis = require("ioredis");
  const client = new Redis({ host, port });
  assert.equal(await client.ping(), "PONG");
  const binary = Buffer.from(Array.from({ length: 256 }, (_, n) => n));
  assert.equal(await client.set("js:binary", binary), "OK");
  assert.deepEqual(await client.getBuffer("js:binary"), binary);
  assert.equal(await client.set("js:a", "1", "NX"), "OK");
  assert.equal(await client.set("js:a", "2", "NX"), null);
  assert.deepEqual(await client.mget("js:a", "js:none"), ["1", null]);
  assert.equal(await client.incrby("js:a", 4), 5);
  const pipeline = client.pipeline();
  for (let n = 0; n < 500; n++) pipeline.set(`js:p${n}`, n).get(`js:p${n}`);
  const replies = await pipeline.exec();
  assert.ok(replies.every(([error, value], at) => error === null && value === (at % 2 ? String(at >> 1) : "OK")));
  assert.deepEqual(await client.multi().set("js:t", 1).incr("js:t").exec(), [[null, "OK"], [null, 2]]);
  const other = client.duplicate();
  await client.watch("js:t");
  await other.set("js:t", "other");
  assert.equal(await client.multi().set("js:t", "mine").exec(), null);
  await refused(client.set("js:e", 1, "EX", 10));
  await refused(client.lpush("js:l", 1));
  const keys = [];
  for await (const some of client.scanStream({ match: "js:*", count: 100 })) keys.push(...some);
  assert.equal(keys.length, 503);
  assert.equal(await client.del(...keys), 503);
  await other.quit();
  assert.equal(await client.quit(), "OK");
}

async function redis(RESP) {
  const { createClient } = require("redis");
  const client = await createClient({ socket: { host, port }, RESP }).connect();
  assert.equal(await client.ping(), "PONG");
  assert.equal(await client.set("nr:a", "1", { NX: true }), "OK");
  assert.equal(await client.set("nr:a", "2", { NX: true }), null);
  assert.equal(await client.get("nr:a"), "1");
  assert.deepEqual(await client.mGet(["nr:a", "nr:none"]), ["1", null]);
  assert.equal(await client.incrBy("nr:a", 4), 5);
  // What is asked without waiting goes in one pipeline.
  const asked = Array.from({ length: 500 }, (_, n) => client.set(`nr:p${n}`, String(n)));
  assert.ok((await Promise.all(asked)).every((reply) => reply === "OK"));
  assert.deepEqual(await client.multi().set("nr:t", "1").incr("nr:t").exec(), ["OK", 2]);
  const other = await client.duplicate().connect();
  await client.watch("nr:t");
  await other.set("nr:t", "other");
  await assert.rejects(client.multi().set("nr:t", "mine").exec());
  await refused(client.expire("nr:a", 10));
  const keys = [];
  for await (const some of client.scanIterator({ MATCH: "nr:*", COUNT: 100 })) keys.push(...some);
  assert.equal(keys.length, 502);
  assert.equal(await client.del(keys), 502);
  await other.close();
  await client.close();
}

(async () => {
  if (library === "ioredis") await ioredis();
  else for (const version of [2, 3]) await redis(version);
  console.log("done");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
