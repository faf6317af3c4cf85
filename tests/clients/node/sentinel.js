// What ioredis, iovalkey and node-redis do when the leader dies, by Sentinel and by the address of one leader that passes on:
// sentinel.js NAME.
const assert = require("node:assert/strict");
const net = require("node:net");
const { sleep, tally } = require("./tally.js");

const name = process.argv[2];
const LEADERS = process.env.LEADERS.split(",").map((one) => ({ host: one.split(":")[0], port: Number(one.split(":")[1]) }));
const DEATHS = Number(process.env.DEATHS ?? 3);
const MOST = 5;
const PAUSE = 20;
const now = () => Number(process.hrtime.bigint()) / 1e9;
const isLeader = ({ host, port }) => LEADERS.some((one) => one.host === host && one.port === port);

// What becomes of an order to the group.
function order(line) {
  const [host, port] = process.env.GROUP.split(":");
  return new Promise((resolve, reject) => {
    let said = "";
    const stream = net.connect(Number(port), host, () => stream.write(`${line}\n`));
    stream.setEncoding("utf8").on("error", reject);
    stream.on("data", (text) => {
      said += text;
      if (!said.endsWith("\n")) return;
      stream.destroy();
      if (said.startsWith("failed")) reject(new Error(said));
      else resolve(said.trim());
    });
  });
}

// Writes one id after another, whatever becomes of each, and notes what was acknowledged.
class Writer {
  constructor(kind, client) {
    Object.assign(this, { kind, client, n: 0, kept: [], errors: [], took: [], last: 0, ends: false });
  }
  async write() {
    while (!this.ends) {
      const n = ++this.n;
      const began = now();
      try {
        assert.equal(await this.client.set(`${name}-js:${this.kind}:${n}`, String(n)), "OK");
        this.kept.push(n);
        this.last = began;
      } catch (error) {
        this.errors.push(String(error));
      }
      await sleep(PAUSE);
    }
  }
  // Seconds until something was acknowledged that was begun after a moment.
  async again(since) {
    while (this.last <= since) {
      await sleep(5);
      assert.ok(now() < since + 30, `${this.kind}: ${this.errors.slice(-3)}`);
    }
    return now() - since;
  }
}

async function connect() {
  const quiet = (client) => client.on("error", () => {});
  if (name === "redis") {
    const { createClient, createSentinel } = require("redis");
    const byName = quiet(createSentinel({ name: "hatokuse", sentinelRootNodes: LEADERS }));
    const plain = quiet(createClient({ socket: LEADERS[0] }));
    await Promise.all([byName.connect(), plain.connect()]);
    return [byName, plain];
  }
  const Redis = require(name);
  // With and without the connections that wait for +switch-master.
  const watches = name === "ioredis";
  const byName = quiet(new Redis({ sentinels: LEADERS, name: "hatokuse", updateSentinels: true, failoverDetector: watches }));
  return [byName, quiet(new Redis(LEADERS[0]))];
}

const checks = [
  async function findsWhoLeads(c) {
    const [byName, plain] = await connect();
    c.writers = [new Writer("sentinel", byName), new Writer("plain", plain)];
    assert.equal(await byName.get("none"), null);
    if (name === "redis") {
      assert.ok(isLeader(byName.getMasterNode()));
    } else {
      const [host, port] = await plain.sentinel("get-master-addr-by-name", "hatokuse");
      assert.ok(isLeader({ host, port: Number(port) }));
      assert.equal(await plain.sentinel("get-master-addr-by-name", "other"), null);
    }
    c.tasks = c.writers.map((writer) => writer.write());
  },
  ...Array(DEATHS).fill(async function aLeaderDies(c) {
    // The plain client's own address stays.
    await order("spare 1");
    for (const writer of c.writers) await writer.again(now());
    const since = Number((await order("kill")).split(" ").at(-1));
    const took = await Promise.all(c.writers.map((writer) => writer.again(since)));
    c.writers.forEach((writer, at) => writer.took.push(took[at]));
    await order("start");
    assert.ok(Math.max(...took) < MOST, String(took));
  }),
  async function keepsWhatItAcknowledged(c) {
    for (const writer of c.writers) writer.ends = true;
    await Promise.all(c.tasks);
    const notes = [];
    for (const writer of c.writers) {
      for (const n of writer.kept) assert.equal(await writer.client.get(`${name}-js:${writer.kind}:${n}`), String(n));
      const took = writer.took.sort((a, b) => a - b).map((one) => one.toFixed(process.env.DEATHS ? 2 : 1));
      notes.push(`${writer.kind} ${took[0]} to ${took.at(-1)} s, ${writer.errors.length} errors`);
      if (process.env.DEATHS) console.error(writer.kind, took.join(" "), new Set(writer.errors));
    }
    return notes.join(", ");
  },
];
tally(`${name}, deaths of leaders`, name, checks, {});
