// Limiters of rates, whose counting is a script: limiters.js NAME.
const assert = require("node:assert/strict");
const { REGISTER, forget, serve, sleep, tally } = require("./tally.js");

const DAY = { many: 20, seconds: 86400, path: "day" };
const SECOND = { many: 3, seconds: 1, path: "second" };
const RATES = [DAY, SECOND];

const ioredis = () => new (require("ioredis"))(REGISTER);
const nodeRedis = () => require("redis").createClient({ socket: REGISTER }).connect();

// express-rate-limit in front of an application, which counts by rate-limit-redis.
class Express {
  constructor(connect, send) {
    this.connect = connect;
    this.send = send;
  }
  async begin() {
    const { rateLimit } = require("express-rate-limit");
    const { RedisStore } = require("rate-limit-redis");
    const client = await this.connect();
    const app = require("express")();
    this.stores = new Map();
    for (const { many, seconds, path } of RATES) {
      const store = new RedisStore({ sendCommand: (...words) => this.send(client, words), prefix: `${path}:` });
      const options = { windowMs: seconds * 1000, limit: many, standardHeaders: "draft-8", legacyHeaders: false };
      this.stores.set(path, store);
      app.use(`/${path}`, rateLimit({ ...options, keyGenerator: (request) => request.query.name, store }), (_, response) => response.send("ok"));
    }
    this.at = await serve(app);
  }
  async hit({ path }, name) {
    const { status } = await fetch(`${this.at}/${path}?name=${name}`);
    assert.ok(status === 200 || status === 429, String(status));
    return status === 200;
  }
  clear({ path }, name) {
    return this.stores.get(path).resetKey(name);
  }
}

class Flexible {
  constructor(connect, options) {
    this.connect = connect;
    this.options = options;
  }
  async begin() {
    const { RateLimiterRedis } = require("rate-limiter-flexible");
    const storeClient = await this.connect();
    this.limiters = new Map();
    for (const { many, seconds, path } of RATES)
      this.limiters.set(path, new RateLimiterRedis({ storeClient, points: many, duration: seconds, keyPrefix: path, ...this.options }));
  }
  async hit({ path }, name) {
    try {
      await this.limiters.get(path).consume(name);
      return true;
    } catch (refused) {
      if (refused instanceof Error) throw refused; // a limit is no error there
      return false;
    }
  }
  clear({ path }, name) {
    return this.limiters.get(path).delete(name);
  }
}

async function admitsExactlySoMany(c) {
  const some = async () => {
    const seen = [];
    for (let n = 0; n < 10; n++) seen.push(await c.hit(DAY, "many"));
    return seen;
  };
  const seen = (await Promise.all([some(), some(), some(), some()])).flat();
  assert.equal(seen.filter(Boolean).length, 20);
  assert.equal(await c.hit(DAY, "many"), false);
}

async function namesAreApart(c) {
  assert.equal(await c.hit(DAY, "apart"), true);
}

async function countsThoughItsScriptIsForgotten(c) {
  for (let n = 0; n < 10; n++) {
    forget();
    assert.equal(await c.hit(DAY, "forgotten"), true);
  }
  for (let n = 0; n < 10; n++) assert.equal(await c.hit(DAY, "forgotten"), true);
  assert.equal(await c.hit(DAY, "forgotten"), false);
}

async function clears(c) {
  await c.clear(DAY, "many");
  assert.equal(await c.hit(DAY, "many"), true);
}

async function admitsAgainAfterwards(c) {
  let hits = 0;
  while (await c.hit(SECOND, "again")) assert.ok(++hits < 100);
  for (let n = 0; n < 200; n++) {
    if (await c.hit(SECOND, "again")) return;
    await sleep(50);
  }
  assert.fail("it does not end");
}

async function givesAndTakesPoints(c) {
  const limiter = c.limiters.get("day");
  assert.equal((await limiter.penalty("points", 5)).consumedPoints, 5);
  assert.equal((await limiter.reward("points", 2)).consumedPoints, 3);
  assert.equal((await limiter.get("points")).remainingPoints, 17);
  assert.ok((await limiter.block("points", 100)).msBeforeNext > 99000);
  await assert.rejects(limiter.consume("points"), (refused) => refused.msBeforeNext > 90000);
  assert.equal(await limiter.get("none"), null);
}

const LIMITER = [admitsExactlySoMany, namesAreApart, countsThoughItsScriptIsForgotten, clears, admitsAgainAfterwards];
const CLIENTS = {
  "rate-limit-redis, redis": () => [new Express(nodeRedis, (client, words) => client.sendCommand(words)), LIMITER],
  "rate-limit-redis, ioredis": () => [new Express(ioredis, (client, words) => client.call(...words)), LIMITER],
  "rate-limiter-flexible, ioredis": () => [new Flexible(ioredis), [...LIMITER, givesAndTakesPoints]],
  "rate-limiter-flexible, redis": () => [new Flexible(nodeRedis, { useRedisPackage: true }), [...LIMITER, givesAndTakesPoints]],
};

(async () => {
  const name = process.argv[2];
  const [client, checks] = CLIENTS[name]();
  await client.begin();
  return tally(name, name.split(",")[0], checks, client);
})();
