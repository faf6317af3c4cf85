// ioredis, iovalkey and node-redis over TLS, with and without certificates of their own: tls.js NAME.
const assert = require("node:assert/strict");
const { randomBytes } = require("node:crypto");
const { readFileSync } = require("node:fs");
const { REGISTER, address, kill, until, tally } = require("./tally.js");

const { CERTS, OTHERS } = process.env;
// Two ports that speak TLS: one asks for no certificates, one for those of the authority in CERTS.
const [TLS, MUTUAL] = ["TLS", "MUTUAL"].map(address);
const authority = (folder) => ({ ca: readFileSync(`${folder}/ca.pem`) });
const app = (folder) => ({ cert: readFileSync(`${folder}/client-app.pem`), key: readFileSync(`${folder}/client-app-key.pem`) });

class IoRedis {
  constructor(library) {
    this.Client = require(library);
    this.pause = { retryStrategy: () => 50 };
  }
  connect({ host, port }, tls, options = this.pause) {
    const client = new this.Client(`${tls ? "rediss" : "redis"}://${host}:${port}`, { ...(tls && { tls }), ...options });
    client.on("error", (error) => (client.why = error));
    return client;
  }
  // With what a connection, or a PING on it, ends.
  async why(address, tls) {
    const client = this.connect(address, tls, { retryStrategy: null, maxRetriesPerRequest: 0 });
    const refused = await client.ping().then(() => "nothing", (error) => error);
    return String(client.why ?? refused);
  }
  batch(client, commands) {
    const batch = client.pipeline();
    for (const [name, ...words] of commands) batch[name](...words);
    return batch.exec().then((replies) => replies.map(([error, reply]) => error ?? reply));
  }
  getBuffer(client, id) {
    return client.getBuffer(id);
  }
}

class NodeRedis {
  constructor() {
    this.library = require("redis");
    this.binary = { [this.library.RESP_TYPES.BLOB_STRING]: Buffer };
  }
  async connect({ host, port }, tls, reconnectStrategy = () => 50) {
    const socket = { ...(tls && { tls: true, ...tls }), reconnectStrategy };
    const client = this.library.createClient({ url: `${tls ? "rediss" : "redis"}://${host}:${port}`, socket });
    client.on("error", (error) => (client.why = error));
    return client.connect();
  }
  why(address, tls) {
    const asked = this.connect(address, tls, false).then((client) => client.ping());
    return asked.then(() => "nothing", String);
  }
  batch(client, commands) {
    return Promise.all(commands.map(([name, ...words]) => client[name](...words)));
  }
  getBuffer(client, id) {
    return client.withTypeMapping(this.binary).get(id);
  }
}

const asks = (port) => [
  async function setsAndGets(c) {
    assert.equal(await c[port].set("tls", "Merhaba Dünya"), "OK");
    assert.equal(await c[port].get("tls"), "Merhaba Dünya");
  },
  async function largeBothWays(c) {
    const large = randomBytes(1 << 20);
    assert.equal(await c[port].set("tls:large", large), "OK");
    assert.deepEqual(await c.getBuffer(c[port], "tls:large"), large);
  },
  async function aPipelineOf500(c) {
    const all = Array.from({ length: 500 }, (_, n) => [`tls:${n}`, String(n).repeat(1000)]);
    const seen = await c.batch(c[port], all.flatMap(([id, message]) => [["set", id, message], ["get", id]]));
    assert.deepEqual(seen, all.flatMap(([, message]) => ["OK", message]));
  },
];

async function reconnectsAfterAKill(c) {
  kill();
  assert.equal((await until(() => c.tls.get("tls")))[0], "Merhaba Dünya");
}

async function withoutACertificate(c) {
  assert.match(await c.why(MUTUAL, authority(CERTS)), /certificate required/i);
}

async function withACertificateOfAnotherAuthority(c) {
  assert.match(await c.why(MUTUAL, { ...authority(CERTS), ...app(OTHERS) }), /Error/);
}

async function anotherAuthorityIsNotBelieved(c) {
  assert.match(await c.why(TLS, authority(OTHERS)), /certificate/);
}

async function anotherHostIsNotBelieved(c) {
  assert.match(await c.why({ ...TLS, host: "localhost" }, authority(CERTS)), /does not match certificate/);
}

async function withoutTlsToThePortOfIt(c) {
  // The reply is one to the first command, and ioredis does not say what became of that.
  assert.match(await c.why(TLS), process.argv[2] === "ioredis" ? /Error/ : /this port speaks TLS/);
}

async function withTlsToThePlainPort(c) {
  assert.match(await c.why(REGISTER, authority(CERTS)), /Error/);
}

const CHECKS = [
  ...asks("tls"),
  ...asks("mutual"),
  reconnectsAfterAKill,
  withoutACertificate,
  withACertificateOfAnotherAuthority,
  anotherAuthorityIsNotBelieved,
  anotherHostIsNotBelieved,
  withoutTlsToThePortOfIt,
  withTlsToThePlainPort,
];

(async () => {
  const name = process.argv[2];
  const client = name === "redis" ? new NodeRedis() : new IoRedis(name);
  client.tls = await client.connect(TLS, authority(CERTS));
  client.mutual = await client.connect(MUTUAL, { ...authority(CERTS), ...app(CERTS) });
  return tally(`${name === "redis" ? "node-redis" : name}, TLS`, name, CHECKS, client);
})();
