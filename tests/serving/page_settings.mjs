// What the page sends where a person changed nothing, something, or something wrong, or left it open; and what a paste is
// taken for. The server grants 12 tokens. How it is started: driver.mjs.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { ask, done, folder, open, picture, run, set } from "./driver.mjs";

const problem = (page, words) => page.waitForFunction(
  (words) => new RegExp(words).test(document.querySelector("#problem:not([hidden])")?.textContent), words);

const steps = {
  async "settings: what nobody chose is left to the server"() {
    const page = await open({ viewport: { width: 900, height: 700 } });
    await page.click("summary");
    await page.screenshot({ path: `${folder}/settings.png` });
    await page.keyboard.press("Escape");
    await ask(page, "What color is the circle?");
    assert.equal("max_tokens" in page.bodies[0], false);
    assert.match(await page.locator(".below").textContent(), /^Look insidecut off at the server's longest .*, 12 said$/);
    await set(page, "temperature", "");
    await ask(page, "What?");
    assert.equal("temperature" in page.bodies[1], false);
    await set(page, "length", "5");
    for (const temperature of ["0.75", "1.25", "2"]) {
      await set(page, "temperature", temperature);
      await ask(page, "What?");
      const { max_tokens, temperature: sent } = page.bodies.at(-1);
      assert.deepEqual([max_tokens, sent], [5, Number(temperature)]);
    }
    assert.match(await page.locator(".below").last().textContent(), /cut off at the longest answer \(Settings\)/);
    await done(page);
  },

  async "settings: what is wrong is said, and nothing is asked"() {
    const page = await open({ viewport: { width: 900, height: 700 } });
    await page.setInputFiles("#file", picture);
    await page.waitForSelector("#waiting img");
    await page.press("#question", "Enter");
    await problem(page, "^Type what you want to know about the picture");
    await page.fill("#question", "What?");
    for (const [id, wrong, right] of [["temperature", "3", "1"], ["temperature", "-0.1", ""], ["length", "12.5", "5"], ["length", "0", "13"]]) {
      await set(page, id, wrong);
      await page.press("#question", "Enter");
      await problem(page, `^Settings: the ${id === "length" ? "longest answer is a whole" : "temperature is a number from 0 to 2"}`);
      if (wrong === "3") await page.screenshot({ path: `${folder}/wrong-setting.png` });
      await set(page, id, right);
    }
    assert.deepEqual([page.bodies.length, await page.locator(".turn").count()], [0, 0]);
    assert.equal(await page.inputValue("#question"), "What?");
    await page.press("#question", "Enter"); // 13 is more than the server grants
    await problem(page, "The server refused this: an answer of 13 tokens: expected at most 12\\.$");
    await set(page, "length", "");
    await ask(page, await page.inputValue("#question"));
    assert.equal(await page.locator("#problem").isVisible(), false);
    assert.equal(page.bodies.at(-1).messages[0].content.length, 2);
    await done(page);
  },

  async "a conversation of too many pictures: what to do is said"() {
    const page = await open({ viewport: { width: 900, height: 700 } });
    await page.setInputFiles("#file", Array(9).fill(picture));
    await page.waitForSelector("#waiting li:nth-child(9)");
    await page.fill("#question", "What?");
    await page.press("#question", "Enter");
    await problem(page, "refused this: 9 pictures: expected at most 8. A conversation counts as a whole: begin a new chat");
    const json = { error: { message: "the body is larger than 5 bytes" } };
    await page.route("**/v1/chat/completions", (route) => route.fulfill({ status: 413, json }));
    await page.press("#question", "Enter");
    await problem(page, "^This is more than the server takes: the body is larger than 5 bytes. A conversation counts");
    await done(page);
  },

  async "a page that was left open asks the model that the server has by now"() {
    const page = await open({ viewport: { width: 900, height: 700 } });
    const model = await page.textContent("#model");
    await page.route("**/v1/models", (route) => route.fulfill({ json: { data: [{ id: "the-one-before" }] } }), { times: 1 });
    await page.reload();
    await page.waitForFunction(() => document.getElementById("model").textContent === "the-one-before");
    await ask(page, "What?");
    assert.deepEqual([page.bodies.at(-1).model, await page.textContent("#model")], [model, model]);
    assert.equal(await page.locator("#problem").isVisible(), false);
    await done(page);
  },

  async "paste: words that bring a picture of themselves are words"() {
    const page = await open({ viewport: { width: 900, height: 700 } });
    const bytes = [...readFileSync(picture)];
    const paste = (where, words, name = "image.png") => page.evaluate(([where, words, name, bytes]) => {
      const clipboardData = new DataTransfer();
      if (words) clipboardData.setData("text/plain", words);
      clipboardData.items.add(new File([Uint8Array.from(bytes)], name, { type: "image/png" }));
      const event = new ClipboardEvent("paste", { bubbles: true, cancelable: true, clipboardData });
      return document.querySelector(where).dispatchEvent(event); // whether the browser goes on and puts in the words
    }, [where, words, name, bytes]);
    assert.equal(await paste("#question", "12 apples"), true);
    let count = 0;
    for (const [where, words, name] of [["#question", ""], ["body", "12 apples"], ["#question", "a star.png\n", "a star.png"]]) {
      assert.equal(await paste(where, words, name), false);
      await page.waitForSelector(`#waiting li:nth-child(${++count})`);
    }
    assert.equal(await page.locator("#waiting li").count(), 3);
    await done(page);
  },

  async "what is transparent is white, in the dark too"() {
    const page = await open({ viewport: { width: 900, height: 700 }, colorScheme: "dark" });
    const overlays = [];
    for (const name of ["clear.png", "white.png"]) {
      await page.setInputFiles("#file", `${folder}/${name}`);
      await page.waitForSelector("#waiting img");
      await ask(page, "What?");
      await page.click(".look");
      await page.waitForSelector(".overlay");
      const shown = page.locator(".pictures img");
      assert.equal(await shown.evaluate((image) => getComputedStyle(image).backgroundColor), "rgb(255, 255, 255)");
      overlays.push(await page.locator(".overlay").first().evaluate((canvas) => (
        [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data])));
      await page.screenshot({ path: `${folder}/${name}-seen.png` });
      await page.click("#anew");
    }
    const apart = overlays[0].reduce((most, value, index) => Math.max(most, Math.abs(value - overlays[1][index])), 0);
    assert.ok(apart <= 4, `the maps differ by ${apart} of 255`);
    await done(page);
  },
};

await run(steps);
