// The official API client, told what to do by JSON lines on standard input:
//
//	{"token": "…", "call": "predictions.create", "args": [{…}]}
//
// Each is answered by one line, {"result": …} or {"status", "error"}. A call of
// "request" gives the answer's status and JSON. BASE_URL is the API.
import { createInterface } from "node:readline";
import Replicate from "replicate";

const clients = new Map();

function clientFor(token) {
  if (!clients.has(token)) {
    clients.set(token, new Replicate({ auth: token, baseUrl: process.env.BASE_URL }));
  }
  return clients.get(token);
}

async function run({ token, call, args }) {
  const client = clientFor(token);
  if (call === "request") {
    const response = await client.request(...args);
    const text = await response.text();
    return { status: response.status, body: text === "" ? null : JSON.parse(text) };
  }
  const method = call.split(".").reduce((object, name) => object[name], client);
  return method(...(args ?? []));
}

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { result: (await run(JSON.parse(line))) ?? null };
  } catch (error) {
    answer = { status: error.response?.status ?? 0, error: String(error.message) };
  }
  console.log(JSON.stringify(answer));
}
