// What all drivers in node share: each check is a function, one that throws has failed, and the rest goes on.
const { readFileSync } = require("node:fs");
const { execFileSync } = require("node:child_process");
const assert = require("node:assert/strict");

const address = (name) => {
  const [, host, port] = process.env[name].match(/^(.*):(\d+)$/);
  return { host, port: Number(port) };
};
const REGISTER = address("REGISTER");

// The server closes the connections of all clients but redis-cli's own.
function kill() {
  const words = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];
  const killed = execFileSync("redis-cli", ["-h", REGISTER.host, "-p", REGISTER.port, ...words], { encoding: "utf8" });
  assert.ok(Number(killed) > 0, killed);
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

module.exports = { REGISTER, LOSSY: address("LOSSY"), kill, until, tally };
