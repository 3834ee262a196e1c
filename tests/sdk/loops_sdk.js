// Makes calls with Loops' own SDK, which is unchanged but for where it sends.
//
// Standard input: one JSON line {apiRoot, apiKey, method, arguments} a call. For each, a line {value} or
// {error: {name, status, body, limit, remaining}} is printed.
"use strict";
const readline = require("node:readline");
const { LoopsClient } = require("loops");

async function call({ apiRoot, apiKey, method, arguments: given }) {
  const client = new LoopsClient(apiKey);
  client.apiRoot = apiRoot;
  try {
    return { value: await client[method](...given) };
  } catch (error) {
    const { name, statusCode: status, json: body, limit, remaining } = error;
    if (!["APIError", "RateLimitExceededError"].includes(name)) throw error;
    return { error: { name, status, body, limit, remaining } };
  }
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    process.stdout.write(`${JSON.stringify(await call(JSON.parse(line)))}\n`);
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
