// The calls of proto/family.proto, health and reflection through @grpc/grpc-js: grpc.js GRPC_ADDRESS PROTO_FOLDER.
const assert = require("node:assert/strict");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const { tally } = require("./tally.js");

const [address, protos] = process.argv.slice(2);
const load = (file) => grpc.loadPackageDefinition(loader.loadSync(file, { keepCase: true, defaults: true, enums: String, longs: Number }));
const connect = (Service) => new Service(address, grpc.credentials.createInsecure());

const family = connect(load(path.join(protos, "family.proto")).family.FamilyService);
const within = (milliseconds) => ({ deadline: Date.now() + milliseconds });

function call(stub, name, request, milliseconds = 30000) {
  return new Promise((resolve, reject) =>
    stub[name](request, within(milliseconds), (error, answer) => (error ? reject(error) : resolve(answer))),
  );
}

async function all(stream) {
  const seen = [];
  for await (const one of stream) seen.push(one);
  return seen;
}

const store = (message, milliseconds) => call(family, "StoreMessage", { chat_message: message }, milliseconds);
const get = (request) => call(family, "GetMessage", request);
const codeOf = (promise) => promise.then(() => grpc.status.OK, (error) => error.code);

async function storesAndGets() {
  const stored = await store({ message_id: 9, message: "Merhaba Dünya" });
  assert.equal(stored.success, true);
  assert.equal(stored.stored_nodes.length, 2);
  const got = await get({ message_id: 9 });
  assert.equal(got.found, true);
  assert.equal(got.chat_message.message, "Merhaba Dünya");
}

async function anyBytes() {
  const key = Buffer.from("grpc-js:\r\n\xff \0", "latin1");
  const body = Buffer.from(Array.from({ length: 256 }, (_, n) => n));
  assert.equal((await store({ key, body })).success, true);
  assert.deepEqual((await get({ key })).chat_message.body, body);
}

async function notFound() {
  const got = await get({ id: "grpc-js:none" });
  assert.equal(got.found, false);
  assert.equal(got.chat_message, null);
}

async function listsMessages() {
  const wanted = Array.from({ length: 2000 }, (_, n) => `grpc-js:list:${n}`);
  for (let start = 0; start < 2000; start += 100) {
    const some = wanted.slice(start, start + 100).map((id) => store({ id, message: `of ${id}` }));
    assert.ok((await Promise.all(some)).every((one) => one.success));
  }
  const listed = (await all(family.listMessages({}, within(60000)))).filter((one) => one.id.startsWith("grpc-js:list:"));
  assert.ok(listed.every((one) => one.message === `of ${one.id}`));
  assert.deepEqual(listed.map((one) => one.id).sort(), wanted.sort());
}

async function listsNodes() {
  const nodes = await all(family.listNodes({}, within(30000)));
  assert.deepEqual(nodes.map((one) => one.node_id).sort(), [1, 2, 3]);
  assert.ok(nodes.every((one) => one.state === "up" && one.address.includes(":")));
}

async function deadlines() {
  assert.equal((await store({ message_id: 10, message: "in time" })).success, true);
  assert.equal(await codeOf(all(family.listMessages({}, within(1)))), grpc.status.DEADLINE_EXCEEDED);
  assert.equal((await get({ message_id: 10 })).found, true);
}

async function overTheLimit() {
  const body = (bytes) => Buffer.alloc(bytes, "x");
  assert.equal((await store({ id: "grpc-js:largest", body: body(1 << 20) })).success, true);
  const larger = await store({ id: "grpc-js:larger", body: body((1 << 20) + 1) }); // a refusal is an answer, a request too long a status
  assert.equal(larger.success, false);
  assert.match(larger.error, /^TOO_LARGE/);
  assert.equal(await codeOf(store({ id: "grpc-js:huge", body: body(8 << 20) })), grpc.status.OUT_OF_RANGE);
  assert.equal((await get({ id: "grpc-js:larger" })).found, false);
}

async function health() {
  const { Health } = load(require("grpc-health-check").protoPath).grpc.health.v1;
  const stub = connect(Health);
  for (const service of ["", "family.FamilyService"]) assert.equal((await call(stub, "Check", { service })).status, "SERVING");
  assert.equal(await codeOf(call(stub, "Check", { service: "unknown" })), grpc.status.NOT_FOUND);
}

async function reflection() {
  const file = path.join(process.env.NODE_PATH, "@grpc/reflection/build/proto/grpc/reflection/v1/reflection.proto");
  const stream = connect(load(file).grpc.reflection.v1.ServerReflection).ServerReflectionInfo(within(30000));
  stream.write({ list_services: "" });
  stream.end();
  const [answer] = await all(stream);
  const services = answer.list_services_response.service.map((one) => one.name);
  assert.ok(services.includes("family.FamilyService") && services.includes("grpc.health.v1.Health"), services.join());
}

tally("@grpc/grpc-js", "@grpc/grpc-js", [storesAndGets, anyBytes, notFound, listsMessages, listsNodes, deadlines, overTheLimit, health, reflection]);
