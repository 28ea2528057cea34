// Answers, for each JSON line on standard input, what other implementations
// of the two signature schemes make of one message.
//
// In:  {"secret", "id", "timestamp", "body", "signature", "replicateSignature"}
//      all texts; the timestamp in Unix seconds.
// Out: {"canonical": text,
//       "<library>": {"verified": bool, "signature": text, "error": text}, …}
//      canonical is JSON.stringify(JSON.parse(body)); signature is what the
//      library signs the message with, where it can sign.

import { createHmac, timingSafeEqual, webcrypto } from "node:crypto";
import { createInterface } from "node:readline";
import replicate from "replicate";
import * as standardwebhooks from "standardwebhooks";
import * as svix from "svix";

// attempt turns an exception into an answer: most libraries throw to refuse.
async function attempt(run) {
  try {
    return { verified: true, ...(await run()) };
  } catch (error) {
    return { verified: false, error: String(error.message) };
  }
}

// webhook asks a library with the Webhook class of Standard Webhooks.
async function webhook({ Webhook }, m, headers) {
  const hook = new Webhook(m.secret);
  const signature = hook.sign(m.id, new Date(Number(m.timestamp) * 1000), m.body);
  return { ...(await attempt(() => void hook.verify(m.body, headers))), signature };
}

// express is the check that Replicate's guide shows for a server that has
// parsed the body already: what it hashes is the payload written out again.
function express(m, payload) {
  const expected = createHmac("sha256", m.secret).update(JSON.stringify(payload)).digest("hex");
  const given = Buffer.from(m.replicateSignature, "utf8");
  const wanted = Buffer.from(expected, "utf8");
  return {
    verified: given.length === wanted.length && timingSafeEqual(given, wanted),
    signature: expected,
  };
}

async function answer(m) {
  const headers = {
    "webhook-id": m.id,
    "webhook-timestamp": m.timestamp,
    "webhook-signature": m.signature,
  };
  const payload = JSON.parse(m.body);
  const out = { canonical: JSON.stringify(payload), express: express(m, payload) };
  if (m.secret.startsWith("whsec_")) {
    out.svix = await webhook(svix, m, headers);
    out.standardwebhooks = await webhook(standardwebhooks, m, headers);
    out.replicate = await attempt(async () => ({
      // The last argument is for Node 18, which has no global crypto.
      verified: await replicate.validateWebhook({ headers, body: m.body }, m.secret, webcrypto),
    }));
  }
  return out;
}

for await (const line of createInterface({ input: process.stdin })) {
  // Lines are answered in order, one for one.
  process.stdout.write(JSON.stringify(await answer(JSON.parse(line))) + "\n");
}
