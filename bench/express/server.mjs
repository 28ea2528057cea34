// A receiver built as the webhook guide describes: Express parses the JSON, the
// signature is checked over the text of the parsed body, and a Set in memory
// stands for "handle duplicate deliveries gracefully". It is what an app does
// for itself when nothing in front of it does.
import crypto from "node:crypto";
import express from "express";

const secret = process.env.WEBHOOK_SECRET;
if (!secret) {
  throw new Error("WEBHOOK_SECRET is not set");
}

const accepted = new Set();
const app = express();
app.use(express.json());

app.post("/webhooks/replicate", (req, res) => {
  if (!verifySignature(req.headers["x-replicate-signature"], secret, req.body)) {
    return res.status(401).send("Invalid signature");
  }
  const { event, prediction } = req.body;
  const key = `${prediction.id} ${event}`;
  if (accepted.has(key)) {
    return res.status(200).set("X-Replicate-Duplicate", "true").send("OK");
  }
  accepted.add(key);
  res.status(200).send("OK");
});

function verifySignature(signature, key, payload) {
  if (!signature) {
    return false;
  }
  const expected = crypto
    .createHmac("sha256", key)
    .update(JSON.stringify(payload))
    .digest("hex");
  return crypto.timingSafeEqual(Buffer.from(signature), Buffer.from(expected));
}

// The bench reads the address from this line. It closes our stdin when it ends,
// however it ends.
const server = app.listen(0, "127.0.0.1", () => {
  console.log(`listening 127.0.0.1:${server.address().port}`);
});
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
