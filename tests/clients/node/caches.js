// Caches and stores of objects: caches.js NAME.
const assert = require("node:assert/strict");
const { once } = require("node:events");
const { REGISTER, gone, kill, sleep, tally, until } = require("./tally.js");

const OBJECT = { text: "Merhaba Dünya\r\n", list: [1, 2.5, null] };
const MINUTES = 300000;

// ---- adapters: get, set(key, value, milliseconds), delete, keys and clear; `once` makes what is not there --------------

class KeyvOnRedis {
  constructor() {
    const { Keyv } = require("keyv");
    const { default: KeyvRedis } = require("@keyv/redis");
    this.keyv = new Keyv(new KeyvRedis({ socket: REGISTER }, { throwOnErrors: true }), { throwOnErrors: true });
    this.keyv.on("error", () => {});
    for (const name of ["get", "set", "has", "delete", "clear"]) this[name] = (...words) => this.keyv[name](...words);
  }
  setMany(pairs) {
    return this.keyv.setMany(Object.entries(pairs).map(([key, value]) => ({ key, value, ttl: MINUTES })));
  }
  getMany(keys) {
    return this.keyv.getMany(keys);
  }
  async keys() {
    const seen = [];
    for await (const [key] of this.keyv.iterator()) seen.push(key);
    return seen;
  }
}

class CacheManager extends KeyvOnRedis {
  constructor() {
    super();
    this.cache = require("cache-manager").createCache({ stores: [this.keyv] });
    for (const [name, own] of Object.entries({ get: "get", set: "set", delete: "del", clear: "clear", getMany: "mget" }))
      this[name] = (...words) => this.cache[own](...words);
  }
  setMany(pairs) {
    return this.cache.mset(Object.entries(pairs).map(([key, value]) => ({ key, value, ttl: MINUTES })));
  }
  once(key, make) {
    return this.cache.wrap(key, make, MINUTES);
  }
}

class Unstorage {
  constructor() {
    const { createStorage } = require("unstorage");
    const driver = require("unstorage/drivers/redis");
    this.storage = createStorage({ driver: (driver.default ?? driver)({ base: "unstorage", ...REGISTER }) });
    this.storage.getMount("").driver.getInstance().on("error", () => {});
    this.get = (key) => this.storage.getItem(key);
    this.set = (key, value, milliseconds) => this.storage.setItem(key, value, { ttl: Math.ceil(milliseconds / 1000) });
    this.has = (key) => this.storage.hasItem(key);
    this.delete = (key) => this.storage.removeItem(key);
    this.keys = () => this.storage.getKeys();
    this.clear = () => this.storage.clear();
  }
  setMany(pairs) {
    return this.storage.setItems(Object.entries(pairs).map(([key, value]) => ({ key, value })), { ttl: MINUTES / 1000 });
  }
  async getMany(keys) {
    return (await this.storage.getItems(keys)).map(({ value }) => value);
  }
}

class Bento {
  constructor() {
    const { BentoCache, bentostore } = require("bentocache");
    const { redisDriver, redisBusDriver } = require("bentocache/drivers/redis");
    const { memoryDriver } = require("bentocache/drivers/memory");
    const connection = new (require("ioredis"))(REGISTER);
    connection.on("error", () => {});
    const driver = redisDriver({ connection });
    this.bento = new BentoCache({ default: "register", stores: { register: bentostore().useL2Layer(driver) } });
    const twoLayers = bentostore().useL1Layer(memoryDriver({})).useL2Layer(driver).useBus(redisBusDriver({ connection: REGISTER }));
    this.withBus = () => new BentoCache({ default: "layers", stores: { layers: twoLayers } }).set({ key: "bus", value: 1 });
    this.get = (key) => this.bento.get({ key });
    this.set = (key, value, ttl) => this.bento.set({ key, value, ttl });
    this.has = (key) => this.bento.has({ key });
    this.delete = (key) => this.bento.delete({ key });
    this.clear = () => this.bento.clear();
    this.once = (key, factory) => this.bento.getOrSet({ key, factory, ttl: MINUTES });
  }
}

class Catbox {
  async begin() {
    const catbox = require("@hapi/catbox");
    const { Engine } = require("@hapi/catbox-redis");
    this.client = new catbox.Client(new Engine({ partition: "catbox", ...REGISTER }));
    await this.client.start();
    this.segment = (id) => ({ id, segment: "objects" });
    this.made = new catbox.Policy({ expiresIn: MINUTES, generateTimeout: 10000, generateFunc: () => this.make() }, this.client, "made");
    this.get = async (id) => (await this.client.get(this.segment(id)))?.item;
    this.set = (id, value, milliseconds) => this.client.set(this.segment(id), value, milliseconds);
    this.delete = (id) => this.client.drop(this.segment(id));
  }
  once(key, make) {
    this.make = make;
    return this.made.get(key);
  }
}

// ---- checks ------------------------------------------------------------------------------------------------------------

async function keepsAnyObject(c) {
  assert.equal((await c.get("none")) ?? null, null);
  await c.set("object", OBJECT, MINUTES);
  assert.deepEqual(await c.get("object"), OBJECT);
  if (c.has) assert.deepEqual([await c.has("object"), await c.has("none")], [true, false]);
}

async function manyObjects(c) {
  await c.setMany({ a: 1, b: "two" });
  assert.deepEqual((await c.getMany(["a", "b", "none"])).map((one) => one ?? null), [1, "two", null]);
  assert.deepEqual((await c.keys()).sort(), ["a", "b", "object"]);
}

async function deletes(c) {
  await c.set("gone", 1, MINUTES);
  await c.delete("gone");
  assert.equal((await c.get("gone")) ?? null, null);
}

async function objectsEndByThemselves(c) {
  await c.set("brief", 1, 1000);
  assert.equal(await c.get("brief"), 1);
  await gone(() => c.get("brief"));
}

async function isMadeOnce(c) {
  let made = 0;
  const make = async () => {
    await sleep(100);
    return ++made;
  };
  assert.deepEqual(await Promise.all(Array.from({ length: 8 }, () => c.once("made", make))), Array(8).fill(1));
  assert.equal(await c.once("made", make), 1);
}

async function tagsEndTogether(c) {
  await c.bento.set({ key: "tagged:a", value: 1, tags: ["tag"] });
  await c.bento.set({ key: "tagged:b", value: 2, tags: ["other"] });
  await c.bento.deleteByTag({ tags: ["tag"] });
  assert.equal(await c.get("tagged:a"), undefined);
  assert.equal(await c.get("tagged:b"), 2);
}

async function itsBusIsRefused(c) {
  const refused = once(process, "unhandledRejection"); // it waits for no answer, and so ends a process that does not listen
  await c.withBus();
  assert.match((await refused)[0].message, /there is no channel/);
}

async function reconnectsAfterAKill(c) {
  kill();
  const [seen, errors] = await until(async () => (await c.get("object")) ?? assert.fail("to cache-manager, an error is nothing"));
  assert.deepEqual(seen, OBJECT);
  return `after a kill ${errors} errors`;
}

async function clears(c) {
  await c.clear();
  assert.equal((await c.get("object")) ?? null, null);
}

const MOST = [keepsAnyObject, deletes, objectsEndByThemselves, reconnectsAfterAKill];
const CLIENTS = {
  "@keyv/redis": () => [new KeyvOnRedis(), [keepsAnyObject, manyObjects, ...MOST.slice(1), clears]],
  "cache-manager": () => [new CacheManager(), [keepsAnyObject, manyObjects, isMadeOnce, ...MOST.slice(1), clears]],
  unstorage: () => [new Unstorage(), [keepsAnyObject, manyObjects, ...MOST.slice(1), clears]],
  bentocache: () => [new Bento(), [...MOST, isMadeOnce, tagsEndTogether, itsBusIsRefused, clears]],
  "@hapi/catbox-redis": () => [new Catbox(), [...MOST, isMadeOnce]],
};

(async () => {
  const name = process.argv[2];
  const [client, checks] = CLIENTS[name]();
  await client.begin?.();
  return tally(name, name, checks, client);
})();
