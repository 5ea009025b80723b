// better-auth's apiKey plugin behind one route of node's http server: the verbs of ../contract.py.
// Its limit of ten requests a day and key is off; everything else is its default (storage: the database).
import cluster from "node:cluster";
import { createServer } from "node:http";
import { parseArgs } from "node:util";

import { apiKey } from "@better-auth/api-key";
import { betterAuth } from "better-auth";
import { getMigrations } from "better-auth/db/migration";
import pg from "pg";

const OWNER = "owner@bench.invalid";
const FILL = `
INSERT INTO apikey (id, "configId", name, start, "referenceId", key, enabled, "rateLimitEnabled", "requestCount",
                    "createdAt", "updatedAt")
SELECT lpad(n::text, 32, '0'), 'default', 'filler', '000000', $1, md5(n::text), true, false, 0,
       now(), now()
FROM generate_series(1, $2::int) AS n`;

const pool = new pg.Pool(); // ten connections, its default; the address comes from libpq's variables
const options = {
  baseURL: "http://127.0.0.1",
  secret: "not a secret: nothing is signed in this benchmark",
  database: pool,
  logger: { disabled: true },
  telemetry: { enabled: false },
  plugins: [apiKey({ rateLimit: { enabled: false } })],
};
const auth = betterAuth(options);

async function prepare(keys, sample) {
  const { runMigrations } = await getMigrations(options);
  await runMigrations();
  const { internalAdapter } = await auth.$context;
  const owner = await internalAdapter.createUser({ email: OWNER, name: "owner", emailVerified: true });
  const made = [];
  for (let n = 0; n < sample; n += 1) {
    const { id, key } = await auth.api.createApiKey({ body: { name: `sample ${n}`, userId: owner.id } });
    made.push({ key_id: id, value: key });
  }
  await pool.query(FILL, [owner.id, keys - sample]);
  await pool.query("ANALYZE");
  console.log(JSON.stringify({ header: "x-api-key", keys: made }));
}

async function revoke(keyId) {
  const { internalAdapter } = await auth.$context;
  const { user } = await internalAdapter.findUserByEmail(OWNER);
  await auth.api.updateApiKey({ body: { keyId, enabled: false, userId: user.id } });
  console.log(JSON.stringify({ key_id: keyId, returned_ns: Number(process.hrtime.bigint()) }));
}

function answer(response, status, type, body) {
  response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(body) });
  response.end(body);
}

async function handle(request, response) {
  if (request.url === "/pid") return answer(response, 200, "text/plain", String(process.pid));
  const key = request.headers["x-api-key"];
  const { valid } = key ? await auth.api.verifyApiKey({ body: { key } }) : { valid: false };
  return valid
    ? answer(response, 200, "application/json", '{"ok":true}')
    : answer(response, 401, "application/json", '{"ok":false}');
}

function listen(port) {
  createServer((request, response) => {
    handle(request, response).catch(() => answer(response, 500, "application/json", '{"ok":false}'));
  }).listen(port, "127.0.0.1");
  process.once("SIGTERM", () => process.exit(0));
}

function serve(port, workers) {
  if (workers === 1 || cluster.isWorker) return listen(port);
  for (let n = 0; n < workers; n += 1) cluster.fork();
  process.once("SIGTERM", () => {
    for (const worker of Object.values(cluster.workers)) worker.process.kill("SIGTERM");
    process.exit(0);
  });
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    keys: { type: "string", default: "1000" },
    sample: { type: "string", default: "64" },
    port: { type: "string" },
    workers: { type: "string", default: "1" },
  },
});
const [verb, keyId] = positionals;
if (verb === "serve") {
  serve(Number(values.port), Number(values.workers));
} else {
  await (verb === "prepare" ? prepare(Number(values.keys), Number(values.sample)) : revoke(keyId));
  await pool.end();
}
