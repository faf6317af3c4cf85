// What all drivers in node share: each check is a function, one that throws has failed, and the rest goes on.
const { readFileSync } = require("node:fs");
const { execFileSync } = require("node:child_process");
const { once } = require("node:events");
const { createServer } = require("node:http");
const assert = require("node:assert/strict");

const address = (name) => {
  const [, host, port] = process.env[name].match(/^(.*):(\d+)$/);
  return { host, port: Number(port) };
};
const REGISTER = address("REGISTER");

const cli = (...words) => execFileSync("redis-cli", ["-h", REGISTER.host, "-p", REGISTER.port, ...words], { encoding: "utf8" });

// The server closes the connections of all clients but redis-cli's own.
function kill() {
  const killed = cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
  assert.ok(Number(killed) > 0, killed);
}

// The server knows no script any more, as after a restart.
function forget() {
  assert.equal(cli("SCRIPT", "FLUSH"), "OK\n");
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// The first answer of `call`, and how many errors were before it.
async function until(call) {
  for (let errors = 0; errors < 100; errors++) {
    try {
      return [await call(), errors];
    } catch {
      await sleep(100);
    }
  }
  throw new Error("the client did not come back in 10 s");
}

// Waits until there is nothing.
async function gone(get) {
  for (let n = 0; n < 200; n++) {
    if ((await get()) == null) return;
    await sleep(50);
  }
  assert.fail("it does not end");
}

// The address of a server of its own for what answers HTTP.
async function serve(application) {
  const server = createServer(application).listen(0, "127.0.0.1");
  await once(server, "listening");
  return `http://127.0.0.1:${server.address().port}`;
}

// Runs the checks, prints the line that tests/clients/run adds up, and ends the process.
async function tally(name, installed, checks, client) {
  let passed = 0;
  let failed = 0;
  const notes = [];
  for (const check of checks) {
    try {
      const late = sleep(60000).then(() => Promise.reject(new Error("no end in 60 s")));
      const note = await Promise.race([check(client), late]);
      if (note) notes.push(note);
      passed += 1;
    } catch (error) {
      failed += 1;
      console.error(`FAILED ${name}, ${check.name}:`, error);
    }
  }
  const { version } = JSON.parse(readFileSync(`${process.env.NODE_PATH}/${installed}/package.json`));
  const said = notes.length ? ` (${notes.join("; ")})` : "";
  console.log(`${name} ${version}: ${passed} checks passed, ${failed} failed${said}`);
  process.exit(failed ? 1 : 0);
}

module.exports = { REGISTER, LOSSY: address("LOSSY"), address, cli, kill, forget, sleep, until, gone, serve, tally };
