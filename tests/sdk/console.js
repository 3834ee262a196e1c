// Drives a real browser through the console.
//
// argv: the browser's program, an empty folder for its home. Standard input: one JSON line each, answered by one
// JSON line, {"value": …} or {"error": text}:
//   {"visitor": {"width", "theme", "script", "audit"}}  a new visitor, without cookies; `audit`: the content security
//                                                      policy is off, so that axe can be loaded
//   {"open": url}, {"fill": [selector, text]}, {"evaluate": text}
//   {"click": selector} or {"press": key}, with {"leads": true} if another page follows
//   {"wait": selector}  until the page has such an element
//   {"text": selector}, {"url": true}, {"screenshot": file}
//   {"axe": true}       violations of WCAG 2.2 AA on this page
//   {"problems": true}  errors of the page so far, and requests to other origins
"use strict";
const readline = require("node:readline");
const { chromium } = require("playwright-core");

const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];

async function main() {
  const [program, home] = process.argv.slice(2);
  const browser = await chromium.launch({
    executablePath: program,
    env: { ...process.env, HOME: home },
    headless: true,
    args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
  });
  let page = null;
  let problems = [];
  const visit = async ({ width = 1280, theme = "light", script = true, audit = false }) => {
    await page?.context().close();
    const context = await browser.newContext({
      viewport: { width, height: 900 }, colorScheme: theme, javaScriptEnabled: script, bypassCSP: audit,
    });
    page = await context.newPage();
    problems = [];
    page.on("console", (said) => { if (said.type() === "error") problems.push(said.text()); });
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("dialog", (dialog) => { problems.push(`dialog: ${dialog.message()}`); void dialog.dismiss(); });
    page.on("request", (request) => {
      const own = new URL(page.url() === "about:blank" ? request.url() : page.url()).origin;
      if (new URL(request.url()).origin !== own) problems.push(`request to ${request.url()}`);
    });
  };
  const act = async (given) => {
    if (given.visitor) return visit(given.visitor);
    if (given.open) return void await page.goto(given.open);
    if (given.fill) return page.fill(...given.fill);
    const loaded = given.leads ? page.waitForEvent("load") : null;
    if (given.click) { await page.click(given.click); return void await loaded; }
    if (given.press) { await page.keyboard.press(given.press); return void await loaded; }
    if (given.wait) return void await page.waitForSelector(given.wait);
    if (given.evaluate) return page.evaluate(given.evaluate);
    if (given.text) return page.innerText(given.text);
    if (given.url) return page.url();
    if (given.screenshot) return void await page.screenshot({ path: given.screenshot });
    if (given.problems) return problems;
    if (given.axe) {
      await page.addScriptTag({ path: require.resolve("axe-core/axe.min.js") });
      const found = await page.evaluate((values) => axe.run({ runOnly: { type: "tag", values } }), RULES);
      return found.violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" ")}`);
    }
    throw new Error("an unknown command");
  };
  try {
    for await (const line of readline.createInterface({ input: process.stdin })) {
      try {
        console.log(JSON.stringify({ value: (await act(JSON.parse(line))) ?? null }));
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
