// Drives a real browser: opens pages, evaluates in them.
//
// argv: the browser's program, an empty folder for its profile. Standard input: one JSON line each,
// {"open": url}, {"evaluate": text} or {"origins": true}, which asks for all origins that anything was
// requested from; each is answered by one JSON line, {"value": …} or {"error": text}.
"use strict";
const readline = require("node:readline");
const { chromium } = require("playwright-core");

async function main() {
  const [program, profile] = process.argv.slice(2);
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: program,
    env: { ...process.env, HOME: profile },
    headless: true,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
  try {
    const origins = new Set();
    const page = browser.pages()[0] ?? (await browser.newPage());
    page.on("request", (request) => origins.add(new URL(request.url()).origin));
    page.on("console", (message) => console.error("page:", message.text()));
    page.on("pageerror", (error) => console.error("page:", error));
    for await (const line of readline.createInterface({ input: process.stdin })) {
      const given = JSON.parse(line);
      try {
        let value = null;
        // A real navigation: what the page before does on its way out is done.
        if (given.open) await page.goto(given.open);
        if (given.evaluate) value = await page.evaluate(given.evaluate);
        if (given.origins) value = [...origins];
        console.log(JSON.stringify({ value: value ?? null }));
      } catch (error) {
        console.log(JSON.stringify({ error: String(error) }));
      }
    }
  } finally {
    await browser.close();
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
