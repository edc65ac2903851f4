// Drives the page in Chromium as a person would. When it prints "change the key", whoever started it changes the server's
// and answers with the new one. How it is started: driver.mjs.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

import { ask, done, folder, open, picture, run, setLength } from "./driver.mjs";

const replies = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

const steps = {
  async "a picture, a streamed answer, several turns, both views"() {
    const page = await open({ viewport: { width: 1100, height: 860 } });
    await page.screenshot({ path: `${folder}/start.png` });
    await setLength(page, "12");
    await page.setInputFiles("#file", picture);
    await page.waitForSelector("#waiting img");
    await ask(page, "What color is the circle?");
    const first = await page.locator(".said .text").first().textContent();
    assert.ok(first.trim().length > 3);
    assert.match(await page.locator(".below").first().textContent(), /cut off .* tokens read, 12 said/);
    await ask(page, "a star?\nor a ring?");
    const [, { messages, max_tokens, temperature }] = page.bodies;
    assert.deepEqual([messages.length, max_tokens, temperature], [3, 12, 0]);
    const bytes = readFileSync(picture).toString("base64");
    assert.equal(messages[0].content[0].image_url.url, `data:image/png;base64,${bytes}`);
    assert.deepEqual(messages[1], { role: "assistant", content: first });
    assert.deepEqual(messages[2].content, [{ type: "text", text: "a star?\nor a ring?" }]);
    const look = page.locator(".look").first();
    await look.click();
    await page.waitForSelector(".views");
    assert.deepEqual(await page.locator(".view h3").allTextContents(), ["Where it looked twice", "What the phantom adds"]);
    assert.equal(await look.getAttribute("aria-expanded"), "true");
    const colours = () => page.locator(".overlay").first().evaluate((canvas) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return [...new Set(new Uint32Array(data.buffer))];
    });
    const mean = await colours();
    assert.ok(mean.length > 4, "the map is blank");
    await page.locator(".view select").first().selectOption("0");
    assert.notDeepEqual(await colours(), mean);
    await page.locator(".grid").first().focus();
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("ArrowDown");
    assert.match(await page.locator(".readout").first().textContent(), /^layer 1, “<s>”: w 0?\.?\d/);
    await page.screenshot({ path: `${folder}/views.png` });
    await look.click();
    assert.equal(await page.locator(".views").isVisible(), false);
    await page.click("#anew");
    assert.equal(await page.locator(".turn").count(), 0);
    await done(page);
  },

  async "keyboard: new line, stop, focus order"() {
    const page = await open({ viewport: { width: 900, height: 700 } });
    assert.equal(await page.evaluate(() => document.activeElement.id), "question");
    await page.keyboard.type("one");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("two");
    assert.equal(await page.inputValue("#question"), "one\ntwo");
    assert.equal(page.bodies.length, 0);
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelector(".said .text")?.textContent.length > 4);
    assert.ok(await page.locator("#stop").isVisible());
    await page.keyboard.press("Escape");
    await page.waitForSelector(".look");
    assert.match(await page.locator(".below").textContent(), /stopped/);
    await page.focus(".skip");
    const order = [];
    for (let index = 0; index < 6; index++) {
      if (index) await page.keyboard.press("Tab");
      const [name, ring] = await page.evaluate(() => {
        const at = document.activeElement;
        const style = getComputedStyle(at.id === "question" ? at.parentElement : at);
        return [at.id || at.className || at.tagName, style.outlineStyle !== "none" || style.boxShadow !== "none"];
      });
      assert.ok(ring, `${name} shows no focus`);
      order.push(name);
    }
    assert.deepEqual(order, ["skip", "SUMMARY", "anew", "look", "attach", "question"]);
    await done(page);
  },

  async "pictures: dropped, pasted, taken away, no picture at all"() {
    const page = await open({ viewport: { width: 900, height: 700 } });
    const hand = (kind, bytes, type) => page.evaluate(([kind, bytes, type]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([Uint8Array.from(bytes)], "a file", { type }));
      const options = { bubbles: true, cancelable: true };
      const event = kind === "drop" ? new DragEvent("drop", { ...options, dataTransfer: transfer })
        : new ClipboardEvent("paste", { ...options, clipboardData: transfer });
      document.body.dispatchEvent(event);
    }, [kind, [...bytes], type]);
    await hand("drop", readFileSync(picture), "image/png");
    await page.waitForSelector("#waiting li:nth-child(1)");
    await hand("paste", readFileSync(picture), "image/png");
    await page.waitForSelector("#waiting li:nth-child(2)");
    await page.getByRole("button", { name: "Remove a file" }).first().click();
    assert.equal(await page.locator("#waiting li").count(), 1);
    await hand("drop", Buffer.from("words"), "text/plain");
    assert.match(await page.locator("#problem").textContent(), /no picture/);
    await hand("drop", Buffer.from("words"), "image/png");
    await page.waitForFunction(() => /cannot read a file/.test(document.getElementById("problem").textContent));
    await page.setInputFiles("#file", `${folder}/large.png`);
    await page.waitForSelector("#waiting li:nth-child(2)");
    const size = await page.locator("#waiting img").last().evaluate((image) => [image.naturalWidth, image.naturalHeight]);
    assert.deepEqual(size, [2048, 512]); // made smaller before it is sent
    await done(page);
  },

  async "refusals are said in plain words, and the question comes back"() {
    const page = await open({ viewport: { width: 900, height: 700 } });
    await page.setInputFiles("#file", picture);
    await page.waitForSelector("#waiting img");
    await setLength(page, "4096"); // more than this server grants
    await page.fill("#question", "What?");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#problem:not([hidden])");
    assert.match(await page.locator("#problem").textContent(), /^The server refused this: .*\d.*\.$/);
    assert.equal(await page.inputValue("#question"), "What?");
    assert.equal(await page.locator("#waiting li").count(), 1);
    assert.equal(await page.locator(".turn").count(), 0);
    await page.route("**/v1/chat/completions", (route) => route.fulfill({ status: 429, headers: { "Retry-After": "7" } }));
    await page.press("#question", "Enter");
    await page.waitForFunction(() => /again in 7 s/.test(document.getElementById("problem").textContent));
    await page.unroute("**/v1/chat/completions");
    await page.route("**/v1/chat/completions", (route) => route.abort());
    await page.press("#question", "Enter");
    await page.waitForFunction(() => /does not answer/.test(document.getElementById("problem").textContent));
    const broken = 'data: {"choices":[{"delta":{"content":"half"}}]}\n\n';
    await page.unroute("**/v1/chat/completions");
    await page.route("**/v1/chat/completions", (route) => route.fulfill({ contentType: "text/event-stream", body: broken }));
    await page.press("#question", "Enter");
    await page.waitForFunction(() => /broke off/.test(document.getElementById("problem").textContent));
    assert.equal(await page.locator(".said .text").textContent(), "half");
    page.problems = page.problems.filter((words) => !words.includes("ERR_FAILED"));
    await done(page);
  },

  async "no question, picture or focus is lost"() {
    const page = await open({ viewport: { width: 900, height: 700 } });
    const chat = "**/v1/chat/completions";
    await page.evaluate(() => {
      const read = createImageBitmap;
      window.createImageBitmap = async (file) => {
        await new Promise((resolve) => { window.goOn = resolve; });
        return read(file);
      };
    });
    await page.route(chat, () => {}); // no answer ever comes
    await page.setInputFiles("#file", picture);
    await page.waitForFunction(() => window.goOn);
    const sent = page.waitForRequest(chat);
    await page.fill("#question", "What?");
    await page.press("#question", "Enter"); // the picture is still being read
    await page.evaluate(() => window.goOn());
    const kinds = (await sent).postDataJSON().messages[0].content.map((part) => part.type);
    assert.deepEqual(kinds, ["image_url", "text"]);
    await page.locator("#stop").waitFor();
    await page.fill("#question", "And?"); // the next one is typed already
    await page.keyboard.press("Escape");
    await page.locator("#send").waitFor();
    assert.equal(await page.inputValue("#question"), "What?\nAnd?");
    assert.equal(await page.locator("#waiting li").count(), 1);
    assert.equal(await page.locator(".turn").count(), 0);
    assert.equal(await page.locator("#problem").isVisible(), false);
    await page.unroute(chat);
    const empty = 'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n';
    await page.route(chat, (route) => route.fulfill({ contentType: "text/event-stream", body: empty }));
    await page.press("#question", "Enter");
    await page.waitForSelector(".look");
    assert.equal(await page.locator(".said .text").textContent(), "(it said nothing)");
    await page.unroute(chat);
    await setLength(page, "5");
    await ask(page, "a star?");
    const { messages } = page.bodies.at(-1);
    assert.equal(messages.length, 3);
    assert.deepEqual(messages[0].content.map((part) => part.type), ["image_url", "text"]);
    assert.deepEqual(messages[1], { role: "assistant", content: "" });
    let answer;
    await page.route("**/v1/phantrol/explain", async (route) => {
      await new Promise((resolve) => { answer = resolve; });
      await route.continue();
    });
    const asked = page.waitForRequest("**/v1/phantrol/explain");
    await page.locator(".look").first().click();
    await page.focus("#question");
    await asked;
    while (!answer) await page.waitForTimeout(10);
    answer();
    await page.waitForSelector(".views");
    assert.equal(await page.evaluate(() => document.activeElement.id), "question");
    await page.unroute("**/v1/phantrol/explain");
    await page.locator(".look").last().click();
    await page.waitForFunction(() => document.querySelectorAll(".views").length === 2);
    assert.equal(await page.evaluate(() => document.activeElement.className), "look"); // nobody took it
    await done(page);
  },

  async "Escape ends one thing at a time, and whoever reads keeps the focus"() {
    const page = await open({ viewport: { width: 900, height: 700 } });
    await setLength(page, "5");
    await ask(page, "a star?");
    await page.locator(".look").click();
    await page.waitForSelector(".views");
    await page.route("**/v1/models", () => {}); // as of a server that hangs
    await page.fill("#question", "What?");
    await page.press("#question", "Enter");
    await page.locator("#stop").waitFor();
    await page.keyboard.press("Escape");
    await page.locator("#send").waitFor();
    assert.equal(await page.inputValue("#question"), "What?");
    await page.unroute("**/v1/models");
    let answer;
    await page.route("**/v1/chat/completions", async (route) => {
      await new Promise((resolve) => { answer = resolve; });
      await route.continue();
    });
    const asked = page.waitForRequest("**/v1/chat/completions");
    await page.press("#question", "Enter");
    await asked;
    while (!answer) await page.waitForTimeout(10);
    await page.click("summary");
    await page.keyboard.press("Escape");
    assert.equal(await page.locator("#length").isVisible(), false);
    assert.ok(await page.locator("#stop").isVisible(), "the answer was stopped too");
    await page.locator(".grid").first().focus();
    answer();
    await page.locator(".look").nth(1).waitFor();
    assert.equal(await page.evaluate(() => document.activeElement.className), "grid");
    await done(page);
  },

  async "telephone: nothing sticks out, light and dark differ"() {
    const shades = [];
    for (const colorScheme of ["light", "dark"]) {
      const page = await open({ viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true, colorScheme });
      await setLength(page, "20");
      await page.setInputFiles("#file", picture);
      await page.waitForSelector("#waiting img");
      await ask(page, "What color is the circle? ".repeat(6) + "w".repeat(60));
      await page.locator(".look").tap();
      await page.waitForSelector(".views");
      shades.push(await page.evaluate(() => getComputedStyle(document.body).backgroundColor));
      await page.screenshot({ path: `${folder}/phone-${colorScheme}.png` });
      for (const [width, name] of [[390, "tiny"], [320, "tiny"], [390, "a-name".repeat(20)], [280, "a-name".repeat(20)]]) {
        await page.setViewportSize({ width, height: 844 });
        const [left, right, bottom, room, typed] = await page.evaluate((name) => {
          document.getElementById("model").textContent = name;
          document.getElementById("settings").open = true;
          const question = document.getElementById("question"); // empty: its placeholder is one line
          question.style.height = "auto";
          const boxes = [...document.querySelectorAll("body :not(.skip)")].map((each) => each.getBoundingClientRect());
          return [Math.min(...boxes.map((box) => box.left)), Math.max(...boxes.map((box) => box.right)),
            document.getElementById("composer").getBoundingClientRect().bottom, document.getElementById("model").clientWidth,
            question.scrollHeight];
        }, name);
        assert.ok(room > 200 && typed < 50, `${width}: ${room} px for the model's name, ${typed} px high`);
        assert.ok(left >= 0 && right <= width && bottom <= 844, `${name} at ${width}: ${left}, ${right}, ${bottom} px`);
      }
      await done(page);
    }
    assert.notEqual(shades[0], shades[1]);
  },

  async "a key that is no longer right is asked for in the page"() {
    const page = await open({ viewport: { width: 900, height: 700 } });
    console.log("change the key");
    const { value: newKey } = await replies.next();
    await page.fill("#question", "What?");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#key-form:not([hidden])");
    assert.equal(await page.evaluate(() => document.activeElement.id), "key");
    await page.keyboard.type("a wrong one");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => /refused this key/.test(document.getElementById("problem").textContent));
    await page.fill("#key", newKey);
    await page.keyboard.press("Enter");
    await page.waitForSelector("#key-form", { state: "hidden" });
    await setLength(page, "5");
    await ask(page, await page.inputValue("#question"));
    await done(page);
  },
};

await run(steps);
