// Drives a real browser through the console.
//
// argv: the browser's program, an empty folder for its home. Standard input: one JSON line each, answered by one
// JSON line, {"value": …} or {"error": text}:
//   {"visitor": {"width", "theme", "script", "audit"}}  a new visitor, without cookies; `audit`: the content security
//                                                      policy is off, so that axe can be loaded
//   {"open": url}, {"fill": [selector, text]}, {"evaluate": text}
//   {"click": selector} or {"press": key}, with {"leads": true} if another page follows
//   {"wait": selector}  until the page has such an element
//   {"text": selector}, {"url": true}, {"screenshot": file} with {"clip": selector} for all down to its end
//   {"axe": true}       violations of WCAG 2.2 AA on this page
//   {"alien": true}     markup of this page that no template of the console has
//   {"problems": true}  of all pages of the visitor so far: errors, violations of the policy, requests to other origins,
//                       dialogs, and calls of `canary`
"use strict";
const readline = require("node:readline");
const { chromium } = require("playwright-core");

const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];

// Runs in the page.
const alien = () => {
  const found = [];
  const forbidden = "iframe, frame, object, embed, base, style, math, template, video, audio, marquee, link[rel=import], "
    + "meta[http-equiv], script:not([type=module][src]), svg:not(.bar > svg, .chart > svg), [srcdoc], [style]";
  for (const element of document.querySelectorAll(forbidden)) found.push(element.outerHTML);
  for (const element of document.querySelectorAll("*")) {
    for (const { name, value } of element.attributes) {
      if (name.startsWith("on")) found.push(`${name} of ${element.outerHTML}`);
      const isAddress = ["href", "src", "action", "formaction", "data", "poster", "xlink:href"].includes(name);
      if (isAddress && new URL(value, location.href).origin !== location.origin) found.push(`${name}=${value}`);
    }
  }
  return found.map((markup) => markup.slice(0, 300));
};

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
    problems = [];
    if (script) {
      // What a hostile text calls; and a violation is a text that was taken for markup, though it did not run.
      await context.exposeFunction("canary", (words) => { problems.push(`canary: ${words ?? "it ran"}`); });
      await context.addInitScript(() => {
        document.addEventListener("securitypolicyviolation", (event) => {
          canary(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
        });
      });
    }
    page = await context.newPage();
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
    if (given.screenshot) {
      const end = given.clip && await page.locator(given.clip).boundingBox();
      const clip = end ? { x: 0, y: 0, width: page.viewportSize().width, height: Math.ceil(end.y + end.height) } : undefined;
      return void await page.screenshot({ path: given.screenshot, clip, fullPage: clip !== undefined });
    }
    if (given.alien) return page.evaluate(alien);
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
