// Posts webhooks as OpenAI, Svix and Gemini send them, signed by the libraries that
// are published for it, to the edge at EDGE. Behind the edge it is the app, on
// APP_PORT, and verifies each request by OpenAI's own library. It prints a JSON line
// for each webhook.
import http from "node:http";
import OpenAI from "openai";
import * as standardwebhooks from "standardwebhooks";
import * as svix from "svix";

const { EDGE, APP_PORT, SECRET } = process.env;
const openai = new OpenAI({ apiKey: "none is needed to verify", webhookSecret: SECRET });

let got;
const app = http.createServer(async (req, res) => {
  const chunks = [];
  for await (const chunk of req) chunks.push(chunk);
  const text = Buffer.concat(chunks).toString("utf8");
  got = { headers: req.headers, body: text };
  try {
    got.type = (await openai.webhooks.unwrap(text, req.headers)).type;
    new svix.Webhook(SECRET).verify(text, req.headers);
    new standardwebhooks.Webhook(SECRET).verify(text, req.headers);
    got.verified = true;
  } catch (error) {
    got.error = String(error);
  }
  res.writeHead(got.verified ? 200 : 401).end();
});
await new Promise((listening) => app.listen(Number(APP_PORT), "127.0.0.1", listening));

// post sends a body that a library signed. prefix begins the names of the headers.
async function post(name, library, prefix, id, payload) {
  const body = JSON.stringify(payload);
  const now = new Date();
  got = null;
  const response = await fetch(EDGE, {
    method: "POST",
    body,
    headers: {
      "content-type": "application/json",
      [`${prefix}-id`]: id,
      [`${prefix}-timestamp`]: String(Math.floor(now.getTime() / 1000)),
      [`${prefix}-signature`]: new library.Webhook(SECRET).sign(id, now, body),
    },
  });
  console.log(JSON.stringify({ name, status: response.status, duplicate: response.headers.get("x-replicate-duplicate"), sent: body, got }));
}

const completed = { id: "evt_1", object: "event", created_at: 1750287018, type: "response.completed", data: { id: "resp_1" } };
await post("openai", standardwebhooks, "webhook", "wh_1", completed);
await post("openai, again", standardwebhooks, "webhook", "wh_1", completed);
await post("svix", svix, "svix", "msg_1", { type: "invoice.paid", id: "in_1", status: "failed" });
await post("svix, again", svix, "webhook", "msg_1", { type: "invoice.paid", id: "in_1", status: "failed" });
await post("gemini", standardwebhooks, "webhook", "gem_1", {
  type: "batch.succeeded",
  version: "v1",
  timestamp: now(),
  data: { id: "batches/b1", output_file_uri: "https://example.com/f1" },
});
await post("no type", svix, "webhook", "msg_2", { hello: "world" });
app.close();
app.closeIdleConnections();
process.exit(0);

function now() {
  return new Date().toISOString();
}
