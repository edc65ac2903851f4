// What the scripts that drive the page share. node SCRIPT MODULES URL KEY FOLDER: the folder with playwright-core's
// node_modules, the server, the key that it begins with, and the folder of the pictures, where screenshots go too.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [modules, url, key, given] = process.argv.slice(2);
export { key };
const { chromium } = createRequire(`${modules}/`)("playwright-core");
const flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
export const folder = given;
export const picture = `${folder}/picture.png`;
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: flags });

// `before` is a function that the page does before its own scripts.
export async function open(options, before) {
  const context = await browser.newContext({ httpCredentials: { username: "", password: key }, ...options });
  if (before) await context.addInitScript(before);
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.problems = [];
  page.bodies = [];
  page.on("pageerror", (error) => page.problems.push(error.message));
  page.on("console", (said) => {
    if (said.type() === "error" && !said.text().includes("status of")) page.problems.push(said.text());
  });
  page.on("request", (request) => {
    if (!/^(data|blob):/.test(request.url()) && !request.url().startsWith(url)) page.problems.push(request.url());
    if (request.url().endsWith("/chat/completions")) page.bodies.push(request.postDataJSON());
  });
  await page.goto(url);
  await page.waitForFunction(() => document.getElementById("model").textContent);
  return page;
}

export const setLength = (page, tokens) => set(page, "length", tokens);

export async function set(page, setting, value) {
  await page.click("summary");
  await page.fill(`#${setting}`, value);
  await page.keyboard.press("Escape");
  assert.equal(await page.locator(`#${setting}`).isVisible(), false);
}

export async function ask(page, words) {
  const before = await page.locator(".look").count();
  await page.fill("#question", words);
  await page.press("#question", "Enter");
  await page.waitForFunction((count) => document.querySelectorAll(".look").length > count, before);
}

export const done = async (page) => {
  assert.deepEqual(page.problems, []);
  await page.context().close();
};

// Does the steps of a script, {name: function}, says how each went, and ends the process.
export async function run(steps) {
  let code = 0;
  for (const [name, step] of Object.entries(steps)) {
    try {
      await step();
      console.log(`ok: ${name}`);
    } catch (error) {
      code = 1;
      console.log(`FAILED: ${name}\n${error.stack}`);
    }
  }
  await browser.close();
  process.exit(code);
}
