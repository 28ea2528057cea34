// The webhook guide's receiver: Express parses the JSON, and the signature is
// checked over the text of the parsed body. It checks the Standard Webhooks
// headers too, with three libraries, and prints one JSON line per request.
//
// Environment: SECRET signs; PORT listens on loopback; LIMIT is the body limit
// of express.json, its own default if empty; TLS_CERT and TLS_KEY are PEM files
// for HTTPS.
//
// The query says how to answer what is verified: ?fail=500&times=2 answers the
// first two requests of that URL so, ?fail=500&share=0.3 three of ten, and without
// either all of them.
import crypto from "node:crypto";
import fs from "node:fs";
import http from "node:http";
import https from "node:https";
import express from "express";
import { validateWebhook } from "replicate";
import * as standardwebhooks from "standardwebhooks";
import * as svix from "svix";

const webhookSecret = process.env.SECRET;
const app = express();
app.use(
  express.json({
    ...(process.env.LIMIT && { limit: process.env.LIMIT }),
    // The guide needs the parsed body alone; the libraries need the bytes.
    verify: (req, _res, bytes) => {
      req.bytes = bytes;
    },
  }),
);

const asked = new Map();

app.post("/webhooks/replicate", async (req, res) => {
  const line = await describe(req);
  if (req.query.native !== undefined) {
    // A client that knows nothing of this server: the official client's check alone.
    const answered = line.verified.includes("replicate") ? answerTo(req) : 401;
    print({ ...line, parsed: { id: req.body.id, status: req.body.status }, answered });
    return res.status(answered).end();
  }
  // The guide's own steps.
  const signature = req.headers["x-replicate-signature"];
  if (!verifySignature(signature, webhookSecret, req.body)) {
    print({ ...line, answered: 401 });
    return res.status(401).send("Invalid signature");
  }
  line.verified.push("guide");

  const { event, prediction } = req.body;
  line.parsed = { event, id: prediction.id, status: prediction.status };

  const answer = answerTo(req);
  print({ ...line, answered: answer });
  res.status(answer).send(answer === 200 ? "OK" : "not now");
});

// Express' own handler answers, as it would without this one.
app.use((error, req, _res, next) => {
  print({ event: req.get("x-replicate-event"), attempt: attemptOf(req), verified: [], answered: error.status, error: error.type });
  next(error);
});

// answerTo returns the status of the answer to a request that is verified.
function answerTo(req) {
  const { fail, times, share } = req.query;
  if (!fail || (times && nth(req) > Number(times)) || (share && Math.random() >= Number(share))) return 200;
  return Number(fail);
}

// nth counts the requests of a URL.
function nth(req) {
  const n = (asked.get(req.originalUrl) ?? 0) + 1;
  asked.set(req.originalUrl, n);
  return n;
}

function verifySignature(signature, secret, payload) {
  if (!signature) return false;
  const expectedSignature = crypto
    .createHmac("sha256", secret)
    .update(JSON.stringify(payload))
    .digest("hex");
  return crypto.timingSafeEqual(Buffer.from(signature), Buffer.from(expectedSignature));
}

function attemptOf(req) {
  return Number(req.get("x-replicate-attempt"));
}

// describe tells what a request is, and who else verifies it.
async function describe(req) {
  const text = req.bytes.toString("utf8");
  const verified = [];
  for (const [name, { Webhook }] of Object.entries({ svix, standardwebhooks })) {
    try {
      new Webhook(webhookSecret).verify(text, req.headers);
      verified.push(name);
    } catch {
      // Not verified.
    }
  }
  try {
    if (await validateWebhook({ headers: req.headers, body: text }, webhookSecret)) verified.push("replicate");
  } catch {
    // Not verified.
  }
  return {
    url: req.originalUrl,
    event: req.get("x-replicate-event"),
    attempt: attemptOf(req),
    delivery: req.get("x-replicate-delivery"),
    verified,
    sha256: crypto.createHash("sha256").update(req.bytes).digest("hex"),
    length: req.bytes.length,
    timestamp: req.body.timestamp,
    headers: req.headers,
    body: req.bytes.length <= 65536 ? text : undefined,
  };
}

function print(line) {
  console.log(JSON.stringify(line));
}

const { TLS_CERT, TLS_KEY, PORT } = process.env;
const server = TLS_CERT
  ? https.createServer({ cert: fs.readFileSync(TLS_CERT), key: fs.readFileSync(TLS_KEY) }, app)
  : http.createServer(app);
server.listen(Number(PORT), "127.0.0.1", () => print({ listening: server.address().port }));
// The test closes our stdin when it ends, however it ends.
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
