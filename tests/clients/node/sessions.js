// Sessions of web applications: sessions.js NAME.
const assert = require("node:assert/strict");
const { REGISTER, gone, kill, serve, sleep, tally } = require("./tally.js");

// Each application answers to /keep?what=WORD, /what and /forget; a visitor is one with cookies of its own.

class Express {
  later = 0; // how long it keeps what has ended
  async open(milliseconds) {
    const express = require("express");
    const { RedisStore } = require("connect-redis");
    const client = require("redis").createClient({ socket: REGISTER });
    client.on("error", () => {});
    const store = new RedisStore({ client: await client.connect(), prefix: `express:${milliseconds}:` });
    const app = express();
    app.use(require("express-session")({ store, secret: "no secret", resave: false, saveUninitialized: false, cookie: { maxAge: milliseconds } }));
    app.get("/keep", (request, response) => response.send((request.session.what = request.query.what)));
    app.get("/what", (request, response) => response.send(request.session.what ?? "nothing"));
    app.get("/forget", (request, response) => request.session.destroy(() => response.send("nothing")));
    return serve(app);
  }
  pattern(milliseconds) {
    return `express:${milliseconds}:*`;
  }
}

class Koa {
  later = 10000;
  async open(milliseconds) {
    const { default: Application } = require("koa");
    const { createSession } = require("koa-session");
    const app = new Application();
    app.keys = ["no secret"];
    const store = require("koa-redis")(REGISTER);
    store.on("error", () => {});
    app.use(createSession({ store, prefix: `koa:${milliseconds}:`, maxAge: milliseconds }, app));
    app.use(async (context) => {
      if (context.path === "/keep") context.session.what = context.query.what;
      if (context.path === "/forget") context.session = null;
      context.body = context.session?.what ?? "nothing";
    });
    return serve(app.callback());
  }
  pattern(milliseconds) {
    return `koa:${milliseconds}:*`;
  }
}

function visitor(at) {
  const cookies = {};
  return async (path) => {
    const cookie = Object.entries(cookies).map((pair) => pair.join("=")).join("; ");
    const seen = await fetch(at + path, { headers: { cookie } });
    for (const one of seen.headers.getSetCookie()) {
      const [, name, value] = one.match(/^([^=]+)=([^;]*)/);
      cookies[name] = value;
    }
    return `${seen.status} ${await seen.text()}`;
  };
}

async function keepsWhatAVisitorSaid(c) {
  const ask = visitor(c.lasting);
  assert.equal(await ask("/what"), "200 nothing");
  assert.equal(await ask("/keep?what=word"), "200 word");
  assert.equal(await ask("/what"), "200 word");
  assert.equal(await ask("/keep?what=other"), "200 other");
  assert.equal(await ask("/what"), "200 other");
}

async function visitorsAreApart(c) {
  const visitors = Array.from({ length: 8 }, () => visitor(c.lasting));
  await Promise.all(visitors.map((ask, n) => ask(`/keep?what=${n}`)));
  assert.deepEqual(await Promise.all(visitors.map((ask) => ask("/what"))), visitors.map((_, n) => `200 ${n}`));
  assert.equal(await visitor(c.lasting)("/what"), "200 nothing");
}

async function forgets(c) {
  const ask = visitor(c.lasting);
  await ask("/keep?what=word");
  const before = (await c.client.keys(c.pattern(300000))).length;
  assert.equal(await ask("/forget"), "200 nothing");
  assert.equal((await c.client.keys(c.pattern(300000))).length, before - 1);
  assert.equal(await ask("/what"), "200 nothing");
}

async function allHaveATime(c) {
  const ids = await c.client.keys(c.pattern(300000));
  assert.equal(ids.length, 9);
  for (const id of ids) assert.ok((await c.client.pttl(id)) > 200000);
}

async function sessionsEndByThemselves(c) {
  const ask = visitor(c.brief);
  await ask("/keep?what=word");
  const [id] = await c.client.keys(c.pattern(1000));
  assert.ok(id);
  assert.ok((await c.client.pttl(id)) <= 1000 + c.later);
  await gone(async () => ((c.later ? (await ask("/what")) === "200 nothing" : !(await c.client.exists(id))) ? null : id));
  assert.equal(await ask("/what"), "200 nothing");
}

async function comesBackAfterAKill(c) {
  const ask = visitor(c.lasting);
  await ask("/keep?what=word");
  kill();
  for (let errors = 0; errors < 100; errors++) {
    if ((await ask("/what")) === "200 word") return `after a kill ${errors} errors`;
    await sleep(100);
  }
  assert.fail("it did not come back in 10 s");
}

const CHECKS = [keepsWhatAVisitorSaid, visitorsAreApart, forgets, allHaveATime, sessionsEndByThemselves, comesBackAfterAKill];
const CLIENTS = { "connect-redis": Express, "koa-redis": Koa };

(async () => {
  const name = process.argv[2];
  const adapter = new CLIENTS[name]();
  adapter.client = new (require("ioredis"))(REGISTER);
  adapter.client.on("error", () => {});
  adapter.lasting = await adapter.open(300000);
  adapter.brief = await adapter.open(1000);
  return tally(name, name, CHECKS, adapter);
})();
