// Sends calls with a Node SDK that is unchanged but for its host.
//
// argv: the SDK's package. Standard input: one JSON line {host, writeKey, calls}, then one line with an
// object {calls} for each further round. After each round the SDK is flushed and "sent" is printed;
// that every call was delivered is what the SDK says, not what this script believes.
"use strict";
const readline = require("node:readline");

const name = process.argv[2];

/** Each gives a function that makes one call and tells when the SDK delivered it, and a flush. */
const sdks = {
  "@segment/analytics-node"({ host, writeKey }) {
    const { Analytics } = require("@segment/analytics-node");
    const analytics = new Analytics({ writeKey, host });
    return { call: (kind, fields, done) => analytics[kind](fields, done), flush: () => analytics.flush() };
  },
  "analytics-node"({ host, writeKey }) {
    const Analytics = require("analytics-node");
    const analytics = new Analytics(writeKey, { host });
    return { call: (kind, fields, done) => analytics[kind](fields, done), flush: () => analytics.flush() };
  },
  "@rudderstack/rudder-sdk-node"({ host, writeKey }) {
    const RudderAnalytics = require("@rudderstack/rudder-sdk-node");
    const analytics = new RudderAnalytics(writeKey, { dataPlaneUrl: host });
    return { call: (kind, fields, done) => analytics[kind](fields, done), flush: () => analytics.flush() };
  },
};

async function send(sdk, calls) {
  const delivered = calls.map(
    ({ type, timestamp, ...fields }) =>
      new Promise((resolve, reject) => {
        const done = (error) => (error ? reject(error) : resolve());
        sdk.call(type, { ...fields, timestamp: new Date(timestamp) }, done);
      }),
  );
  await sdk.flush();
  await Promise.all(delivered);
}

async function main() {
  let sdk;
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const given = JSON.parse(line);
    sdk ??= sdks[name](given);
    await send(sdk, given.calls);
    process.stdout.write("sent\n");
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
