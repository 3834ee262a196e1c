// Runs Segment's own code of its webhook destination, as Segment does for each event, or for several.
//
// Standard input: one JSON line {url, method, headers, sharedSecret, events, batch} a round. After each
// round the status that the code was answered with is printed.
"use strict";
const readline = require("node:readline");
const { Destination } = require("@segment/actions-core");
// This alone: the package's own entry loads all of Segment's destinations.
const webhook = require("@segment/action-destinations/dist/destinations/webhook").default;

const destination = new Destination(webhook);

async function send({ url, method, headers, sharedSecret, events, batch }) {
  // What the destination's form has unless changed: the whole event as data.
  const data = webhook.actions.send.fields.data.default;
  const mapping = { url, method, headers, data };
  const subscription = { partnerAction: "send", subscribe: "type != null", mapping };
  const settings = { sharedSecret, subscription };
  try {
    const results = batch
      ? await destination.onBatch(events, settings)
      : await destination.onEvent(events[0], settings);
    const taken = batch ? results[0].multistatus : results.filter((one) => one.output === "Action Executed");
    if (taken.length !== events.length) throw new Error(`not sent: ${JSON.stringify(results)}`);
    return 200;
  } catch (error) {
    if (!error.response) throw error;
    return error.response.status;
  }
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    process.stdout.write(`${await send(JSON.parse(line))}\n`);
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
