// What every Redis library has to do against a register, through each of them: libraries.js NAME.
const assert = require("node:assert/strict");
const { REGISTER, LOSSY, kill, until, gone, tally } = require("./tally.js");

// ---- adapters: one way to ask, by the names of ioredis, for libraries that have others ---------------------------------

// ioredis and iovalkey.
class IoRedis {
  constructor(library) {
    this.Client = require(library);
    this.client = this.connect(REGISTER);
    this.once = { maxRetriesPerRequest: 0 }; // nothing is sent twice
    for (const name of ["get", "getBuffer", "mset", "mget", "incrby", "incrbyfloat", "append", "getrange", "strlen", "expire", "lpush"])
      this[name] = (...words) => this.client[name](...words);
  }
  connect(address, options = {}) {
    const client = new this.Client({ ...address, ...options });
    client.on("error", () => {}); // what a call is told is enough
    return client;
  }
  set(id, value, { nx, get, ex } = {}) {
    return this.client.set(id, value, ...(ex ? ["EX", ex] : []), ...(nx ? ["NX"] : []), ...(get ? ["GET"] : []));
  }
  del(...ids) {
    return this.client.del(...ids);
  }
  async ids(match) {
    const found = [];
    for await (const some of this.client.scanStream({ match, count: 100 })) found.push(...some);
    return found;
  }
  async batch(commands, transaction = false) {
    const batch = transaction ? this.client.multi() : this.client.pipeline();
    for (const [name, ...words] of commands) batch[name](...words);
    return (await batch.exec()).map(([error, reply]) => {
      if (error) throw error;
      return reply;
    });
  }
  async conflict(id, meanwhile) {
    await this.client.watch(id);
    await meanwhile();
    return (await this.client.multi().set(id, "mine").exec()) === null;
  }
  lose(id, options) {
    return this.connect(LOSSY, options).incr(id);
  }
}

// node-redis, whose methods are spelled in camel case; what is asked without waiting goes in one pipeline.
class NodeRedis {
  constructor(RESP) {
    this.library = require("redis");
    this.RESP = RESP;
    this.binary = { [this.library.RESP_TYPES.BLOB_STRING]: Buffer };
    for (const [name, own] of Object.entries({ get: "get", incrby: "incrBy", append: "append", getrange: "getRange", strlen: "strLen", expire: "expire", lpush: "lPush" }))
      this[name] = (...words) => this.client[own](...words);
  }
  async connect(address) {
    const client = this.library.createClient({ socket: address, RESP: this.RESP });
    client.on("error", () => {}); // what a call is told is enough
    return client.connect();
  }
  async begin() {
    this.client = await this.connect(REGISTER);
  }
  set(id, value, { nx, get, ex } = {}) {
    return this.client.set(id, value, { ...(ex && { EX: ex }), ...(nx && { NX: true }), ...(get && { GET: true }) });
  }
  getBuffer(id) {
    return this.client.withTypeMapping(this.binary).get(id);
  }
  mset(pairs) {
    return this.client.mSet(pairs);
  }
  mget(...ids) {
    return this.client.mGet(ids);
  }
  async incrbyfloat(id, by) {
    return String(await this.client.incrByFloat(id, by));
  }
  del(...ids) {
    return this.client.del(ids);
  }
  async ids(match) {
    const found = [];
    for await (const some of this.client.scanIterator({ MATCH: match, COUNT: 100 })) found.push(...some);
    return found;
  }
  batch(commands, transaction = false) {
    if (!transaction) return Promise.all(commands.map(([name, ...words]) => this[name](...words)));
    const multi = this.client.multi();
    for (const [name, ...words] of commands) multi[name === "lpush" ? "lPush" : name](...words);
    return multi.exec();
  }
  async conflict(id, meanwhile) {
    await this.client.watch(id);
    await meanwhile();
    await assert.rejects(this.client.multi().set(id, "mine").exec(), this.library.WatchError);
    return true;
  }
  async lose(id) {
    return (await this.connect(LOSSY)).incr(id);
  }
}

// ---- checks ------------------------------------------------------------------------------------------------------------

async function anyBytes(c) {
  const id = Buffer.from("js:\r\n\xff \0", "latin1");
  const value = Buffer.from(Array.from({ length: 256 }, (_, n) => n));
  assert.equal(await c.set(id, value), "OK");
  assert.deepEqual(await c.getBuffer(id), value);
  assert.equal(await c.del(id), 1);
}

async function deletionsAreCounted(c) {
  await c.mset({ "js:a": "1", "js:b": "2" });
  assert.equal(await c.del("js:a", "js:b", "js:none"), 2);
  assert.equal(await c.del("js:a"), 0);
}

async function noMessageIsNull(c) {
  assert.equal(await c.get("js:none"), null);
}

async function setNx(c) {
  assert.equal(await c.set("js:nx", "1", { nx: true }), "OK");
  assert.equal(await c.set("js:nx", "2", { nx: true }), null);
  assert.equal(await c.get("js:nx"), "1");
}

async function setGet(c) {
  assert.equal(await c.set("js:sg", "1", { get: true }), null);
  assert.equal(await c.set("js:sg", "2", { get: true }), "1");
}

async function manyAtOnce(c) {
  assert.equal(await c.mset({ "js:x": "1", "js:y": "Dünya" }), "OK");
  assert.deepEqual(await c.mget("js:x", "js:none", "js:y"), ["1", null, "Dünya"]);
}

async function numbers(c) {
  assert.equal(await c.incrby("js:n", 42), 42);
  assert.equal(await c.incrbyfloat("js:f", 0.25), "0.25");
  assert.equal(await c.incrbyfloat("js:f", 1.5), "1.75");
}

async function parts(c) {
  assert.equal(await c.append("js:p", "Merhaba "), 8);
  assert.equal(await c.append("js:p", "Dünya"), 14);
  assert.equal(await c.getrange("js:p", 8, -1), "Dünya");
  assert.equal(await c.strlen("js:p"), 14);
}

async function scanSeesEveryId(c) {
  const wanted = Array.from({ length: 1000 }, (_, n) => `js:scan:${n}`);
  await c.mset(Object.fromEntries(wanted.map((id) => [id, "x"])));
  assert.deepEqual((await c.ids("js:scan:*")).sort(), wanted.sort());
}

async function aPipelineOf500(c) {
  const all = Array.from({ length: 250 }, (_, n) => n);
  const seen = await c.batch([...all.map((n) => ["set", `js:pipe:${n}`, String(n)]), ...all.map((n) => ["get", `js:pipe:${n}`])]);
  assert.deepEqual(seen, [...all.map(() => "OK"), ...all.map(String)]);
}

async function aTransaction(c) {
  assert.deepEqual(await c.batch([["set", "js:t", "1"], ["incr", "js:t"], ["get", "js:t"]], true), ["OK", 2, "2"]);
}

async function aWatchedIdThatChangedAborts(c) {
  assert.ok(await c.conflict("js:w", () => c.set("js:w", "other")));
  assert.equal(await c.get("js:w"), "other");
}

async function messagesEndByThemselves(c) {
  await c.set("js:e", "kept", { ex: 100 });
  assert.equal(await c.get("js:e"), "kept");
  assert.equal(Number(await c.expire("js:e", 1)), 1);
  await gone(() => c.get("js:e"));
}

async function otherTypesAreRefused(c) {
  await assert.rejects(c.lpush("js:l", "1"), /ERR unknown command 'lpush'/i);
  assert.equal(await c.get("js:l"), null);
}

async function aRefusalAbortsTheTransaction(c) {
  await assert.rejects(c.batch([["set", "js:aborted", "1"], ["lpush", "js:aborted", "1"]], true), /EXECABORT|lpush/i);
  assert.equal(await c.get("js:aborted"), null);
}

async function reconnectsAfterAKill(c) {
  kill();
  const [seen, errors] = await until(() => c.get("js:w"));
  assert.equal(seen, "other");
  return `after a kill ${errors} errors`;
}

async function aLostReply(c) {
  const id = `js:${process.argv[2]}:lost`;
  let again = true;
  try {
    assert.equal(await c.lose(id, {}), 2);
  } catch (error) {
    assert.notEqual(error.code, "ERR_ASSERTION");
    again = false;
  }
  assert.equal(await c.get(id), again ? "2" : "1");
  return `a lost INCR is ${again ? "sent again" : "an error"}`;
}

async function nothingIsSentTwiceIfToldSo(c) {
  const id = `js:${process.argv[2]}:once:lost`;
  await assert.rejects(c.lose(id, c.once));
  assert.equal(await c.get(id), "1");
}

async function cleansUp(c) {
  const ids = await c.ids("js:*");
  assert.equal(ids.length, 1261);
  assert.equal(await c.del(...ids), ids.length);
}

const CHECKS = [
  anyBytes,
  deletionsAreCounted,
  noMessageIsNull,
  setNx,
  setGet,
  manyAtOnce,
  numbers,
  parts,
  scanSeesEveryId,
  aPipelineOf500,
  aTransaction,
  aWatchedIdThatChangedAborts,
  messagesEndByThemselves,
  otherTypesAreRefused,
  aRefusalAbortsTheTransaction,
  reconnectsAfterAKill,
  aLostReply,
  nothingIsSentTwiceIfToldSo,
  cleansUp,
];

(async () => {
  const name = process.argv[2];
  if (!name.startsWith("redis-")) return tally(name, name, CHECKS, new IoRedis(name));
  const client = new NodeRedis(Number(name.slice(-1)));
  await client.begin();
  return tally(`node-${name}`, "redis", CHECKS, client);
})();
