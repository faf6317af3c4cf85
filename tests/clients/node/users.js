// Users of ioredis, iovalkey and node-redis: users.js NAME.
const assert = require("node:assert/strict");
const { REGISTER, cli, kill, until, tally } = require("./tally.js");

const name = process.argv[2];
const [USER, WORD] = [`app-${name}-js`, "Geheim-ü-1"];

// A client that says who it is, by the options or by the URL.
async function connect(login, byUrl = false, pause = () => 50) {
  const { host, port } = REGISTER;
  const part = byUrl && login ? `${encodeURIComponent(login.username)}:${encodeURIComponent(login.password)}@` : "";
  const url = `redis://${part}${host}:${port}`;
  const options = byUrl ? {} : login;
  if (name === "redis") {
    const client = require("redis").createClient({ url, ...options, socket: { reconnectStrategy: pause ?? false } });
    client.on("error", (error) => (client.why = error));
    return client.connect();
  }
  const client = new (require(name))(url, { ...options, retryStrategy: pause });
  client.on("error", (error) => (client.why = error));
  return client;
}
const ask = (client, ...words) => (name === "redis" ? client.sendCommand(words) : client.call(...words));
const end = (client) => (name === "redis" ? client.destroy() : client.disconnect());

const checks = [
  async function makesAUser(c) {
    const rules = ["on", `>${WORD}`, `~${USER}:*`, "+@all", "-@admin"];
    assert.equal(await ask(c.boss, "ACL", "SETUSER", USER, ...rules), "OK");
  },
  async function logsInByOptionsAndByUrl(c) {
    c.app = await connect({ username: USER, password: WORD });
    assert.equal(await ask(c.app, "ACL", "WHOAMI"), USER);
    const byUrl = await connect({ username: USER, password: WORD }, true);
    assert.equal(await ask(byUrl, "ACL", "WHOAMI"), USER);
    end(byUrl);
  },
  async function hasItsIdsAndNoOthers(c) {
    assert.equal(await c.app.set(`${USER}:1`, "x"), "OK");
    assert.equal(await c.app.get(`${USER}:1`), "x");
    for (const refused of [() => c.app.get("another"), () => c.app.set("another", "x"), () => ask(c.app, "CONFIG", "GET", "*")]) {
      await assert.rejects(refused, /NOPERM/);
    }
    assert.deepEqual(await c.app.keys("*"), [`${USER}:1`]);
  },
  async function saysWhoItIsAgainAfterAKill(c) {
    kill();
    const [seen] = await until(() => c.app.get(`${USER}:1`));
    assert.equal(seen, "x");
  },
  async function aWrongPasswordIsTold() {
    const seen = await connect({ username: USER, password: "wrong" }, false, null).then(
      async (client) => {
        await ask(client, "ACL", "WHOAMI").catch((error) => (client.why ??= error));
        end(client);
        return client.why;
      },
      (error) => error,
    );
    assert.match(String(seen), /WRONGPASS|NOAUTH|invalid username-password/);
  },
  async function isGone(c) {
    assert.equal(cli("ACL", "DELUSER", USER), "1\n");
    end(c.app);
    end(c.boss);
  },
];
connect().then((boss) => tally(`${name}, users`, name, checks, { boss }));
