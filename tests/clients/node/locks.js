// Locks, which are kept by SET with NX and a time and freed by a script: locks.js NAME.
const assert = require("node:assert/strict");
const { REGISTER, forget, sleep, tally } = require("./tally.js");

// ---- adapters: `take` gives a lock, or null after waiting for so long --------------------------------------------------

const STEP = 20;

class Semaphore {
  constructor() {
    this.library = require("redis-semaphore");
    this.client = new (require("ioredis"))(REGISTER);
  }
  make(name, options) {
    return new this.library.Mutex(this.client, name, options);
  }
  async take(name, lockTimeout, acquireTimeout, refreshInterval = 0) {
    const lock = this.make(name, { lockTimeout, acquireTimeout: acquireTimeout || 100, retryInterval: STEP, refreshInterval });
    return (await lock.tryAcquire()) ? lock : null;
  }
  kept(name) {
    return this.take(name, 600, 0, 200);
  }
  free(lock) {
    return lock.release();
  }
  async cannot() {
    await assert.rejects(new this.library.Semaphore(this.client, "semaphore", 3).acquire(), /Unknown Redis command called from script/); // ZREMRANGEBYSCORE
  }
}

class SemaphoreRedlock extends Semaphore {
  make(name, options) {
    return new this.library.RedlockMutex([this.client], name, options);
  }
}

class Universal {
  constructor(adapter) {
    this.library = require("redlock-universal");
    this.adapter = adapter;
  }
  async begin() {
    const name = "redis";
    this.client = this.adapter === "NodeRedisAdapter" ? await require(name).createClient({ socket: REGISTER }).connect() : new (require("ioredis"))(REGISTER);
    this.on = new this.library[this.adapter](this.client);
  }
  async take(key, ttl, wait) {
    const lock = this.library.createLock({ adapter: this.on, key, ttl, retryAttempts: Math.ceil(wait / STEP), retryDelay: STEP, circuitBreaker: false });
    try {
      return { lock, handle: await lock.acquire() };
    } catch (error) {
      assert.match(error.name, /LockAcquisitionError/);
      return null;
    }
  }
  async kept(name) {
    const taken = await this.take(name, 600, 0);
    assert.equal(await taken.lock.extend(taken.handle, 30000), true);
    return taken;
  }
  free({ lock, handle }) {
    return lock.release(handle);
  }
}

class Sesame {
  constructor() {
    this.library = require("@sesamecare-oss/redlock");
    this.client = new (require("ioredis"))(REGISTER);
  }
  async take(name, milliseconds, wait) {
    const redlock = new this.library.Redlock([this.client], { retryCount: Math.ceil(wait / STEP), retryDelay: STEP, retryJitter: 0 });
    redlock.on("error", () => {});
    try {
      return await redlock.acquire([name], milliseconds);
    } catch (error) {
      assert.match(error.name, /ExecutionError|ResourceLockedError/);
      return null;
    }
  }
  async kept(name) {
    return (await this.take(name, 600, 0)).extend(30000);
  }
  free(lock) {
    return lock.release();
  }
}

// ---- checks ------------------------------------------------------------------------------------------------------------

async function excludesASecondTaker(c) {
  const first = await c.take("excludes", 30000, 0);
  assert.ok(first);
  assert.equal(await c.take("excludes", 30000, 100), null);
  const other = await c.take("other", 30000, 0);
  assert.ok(other);
  await c.free(other);
  await c.free(first);
  const second = await c.take("excludes", 30000, 0);
  assert.ok(second);
  await c.free(second);
}

async function aWaitingTakerIsNext(c) {
  const first = await c.take("waits", 30000, 0);
  const waiting = c.take("waits", 30000, 30000);
  assert.equal(await Promise.race([waiting, sleep(200).then(() => "waits")]), "waits");
  await c.free(first);
  await c.free(await waiting);
}

async function freesItselfByItsTime(c) {
  const begun = Date.now();
  const first = await c.take("brief", 500, 0);
  const second = await c.take("brief", 30000, 10000);
  assert.ok(first && second && Date.now() - begun > 400);
  await Promise.resolve(c.free(first)).catch(() => {}); // it is another's now
  assert.equal(await c.take("brief", 30000, 100), null);
  await c.free(second);
}

async function isKeptLonger(c) {
  const first = await c.kept("longer");
  assert.equal(await c.take("longer", 30000, 1000), null);
  await c.free(first);
  await c.free(await c.take("longer", 30000, 0));
}

async function freesThoughItsScriptIsForgotten(c) {
  for (let n = 0; n < 2; n++) {
    const lock = await c.take("forgotten", 30000, 0);
    assert.ok(lock);
    forget();
    await c.free(lock);
  }
}

async function countsUnderTheLock(c) {
  let count = 0;
  const taker = async () => {
    for (let n = 0; n < 10; n++) {
      const lock = await c.take("counting", 30000, 50000);
      const seen = count;
      await sleep(1);
      count = seen + 1;
      await c.free(lock);
    }
  };
  await Promise.all([taker(), taker(), taker(), taker()]);
  assert.equal(count, 40);
}

async function aSemaphoreIsRefused(c) {
  await c.cannot();
}

async function severalAtOnce(c) {
  const options = { retryCount: 0 };
  const redlock = new c.library.Redlock([c.client], options);
  redlock.on("error", () => {});
  const both = await redlock.acquire(["several:a", "several:b"], 30000);
  assert.equal(await c.take("several:b", 30000, 100), null);
  await assert.rejects(redlock.acquire(["several:b", "several:c"], 30000));
  await c.free(await c.take("several:c", 30000, 0)); // what could not be taken whole is not taken in part
  await both.release();
  const seen = await redlock.using(["several:a", "several:b"], 1000, async (signal) => signal.aborted);
  assert.equal(seen, false);
}

const LOCK = [excludesASecondTaker, aWaitingTakerIsNext, freesItselfByItsTime, isKeptLonger, freesThoughItsScriptIsForgotten, countsUnderTheLock];
const CLIENTS = {
  "redis-semaphore": () => [new Semaphore(), [...LOCK, aSemaphoreIsRefused]],
  "redis-semaphore, redlock": () => [new SemaphoreRedlock(), LOCK],
  "redlock-universal, ioredis": () => [new Universal("IoredisAdapter"), LOCK],
  "redlock-universal, redis": () => [new Universal("NodeRedisAdapter"), LOCK],
  "@sesamecare-oss/redlock": () => [new Sesame(), [...LOCK, severalAtOnce]],
};

(async () => {
  const name = process.argv[2];
  const [client, checks] = CLIENTS[name]();
  await client.begin?.();
  return tally(name, name.split(",")[0], checks, client);
})();
