// What is shown of pictures and words, however they come; and a browser that stores nothing. How it is started:
// driver.mjs.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { ask, done, folder, key, open, picture, run, setLength } from "./driver.mjs";

const size = { viewport: { width: 900, height: 700 } };
const explain = "**/v1/phantrol/explain";
const ARABIC = "ما لون الدائرة (الكبيرة) في الصورة؟ 3+4!";

async function choose(page, file) {
  await page.setInputFiles("#file", file);
  await page.waitForSelector("#waiting img");
}

const steps = {
  async "what the model reads lies as what is shown"() {
    const page = await open(size);
    let maps;
    for (const name of ["turned.webp", "turned.jpg", "turned.png"]) {
      await choose(page, `${folder}/${name}`);
      await ask(page, "What?");
      const answer = page.waitForResponse(explain);
      await page.click(".look");
      maps = await (await answer).json();
      await page.waitForSelector(".overlay");
      const shown = await page.locator(".pictures img").evaluate((image) => [image.naturalWidth, image.naturalHeight]);
      const [{ width_px, height_px }] = maps.pictures;
      assert.deepEqual(shown, [width_px, height_px], name);
      await page.screenshot({ path: `${folder}/${name}-seen.png` });
      await page.click("#anew");
    }
    await page.route(explain, (route) => route.fulfill({ json: maps })); // of a picture that stands
    await choose(page, picture);
    await ask(page, "What?");
    await page.click(".look");
    assert.match(await page.locator(".note").textContent(), /turned otherwise than the model reads it/);
    assert.deepEqual([await page.locator(".view").count(), await page.locator(".overlay").count()], [2, 0]);
    await page.screenshot({ path: `${folder}/otherwise.png` });
    await done(page);
  },

  async "a narrow picture and words from right to left"() {
    for (const colorScheme of ["light", "dark"]) {
      const page = await open({ viewport: { width: 390, height: 760 }, colorScheme });
      await setLength(page, "5");
      await choose(page, `${folder}/narrow.png`);
      const direction = (where) => page.locator(where).last().evaluate((each) => getComputedStyle(each).direction);
      await page.fill("#question", ARABIC);
      assert.equal(await direction("#question"), "rtl");
      await page.screenshot({ path: `${folder}/typed-${colorScheme}.png` });
      await ask(page, ARABIC);
      assert.equal(await direction(".asked .text"), "rtl");
      const fit = await page.locator(".pictures img").evaluate((image) => getComputedStyle(image).objectFit);
      assert.equal(fit, "contain");
      await page.click(".look");
      await page.waitForSelector(".overlay");
      await page.locator(".asked").scrollIntoViewIfNeeded();
      await page.screenshot({ path: `${folder}/narrow-${colorScheme}.png` });
      await ask(page, "What?");
      assert.deepEqual([await direction("#question"), await direction(".asked .text")], ["ltr", "ltr"]);
      await done(page);
    }
  },

  async "drop: what is no picture is named, and words are the field's"() {
    const page = await open(size);
    const drop = (...names) => page.evaluate(([names, bytes]) => {
      const dataTransfer = new DataTransfer();
      for (const name of names) {
        const type = name.endsWith(".pdf") ? "application/pdf" : "image/png";
        dataTransfer.items.add(new File([Uint8Array.from(bytes)], name, { type }));
      }
      if (!names.length) dataTransfer.setData("text/plain", "words");
      const event = new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer });
      document.body.dispatchEvent(event);
    }, [names, [...readFileSync(picture)]]);
    const problem = page.locator("#problem");
    await page.evaluate(() => { // in Chromium a PDF is none, whatever its bytes are
      const read = createImageBitmap;
      window.createImageBitmap = async (file) => {
        if (file.type === "application/pdf") throw new Error();
        return read(file);
      };
    });
    await drop("a.pdf", "b.png", "c.pdf", "d.png");
    await page.waitForSelector("#waiting li:nth-child(2)");
    assert.match(await problem.textContent(), /^This browser cannot read a\.pdf, c\.pdf\. /);
    assert.ok(await problem.isVisible());
    await page.screenshot({ path: `${folder}/left-out.png` });
    await drop("e.png");
    await page.waitForSelector("#waiting li:nth-child(3)");
    assert.equal(await problem.isVisible(), false);
    await drop();
    assert.match(await problem.textContent(), /^That was no picture/);
    await setLength(page, "5");
    await ask(page, "circle");
    await page.locator(".asked .text").evaluate((text) => getSelection().selectAllChildren(text));
    const from = await page.locator(".asked .text").boundingBox();
    const to = await page.locator("#question").boundingBox();
    await page.mouse.move(from.x + 10, from.y + 10);
    await page.mouse.down();
    await page.mouse.move(400, 400, { steps: 5 });
    assert.equal(await page.locator(".dropping").count(), 0); // which would say: drop the picture
    await page.mouse.move(to.x + 20, to.y + 15, { steps: 5 });
    await page.mouse.up();
    assert.equal(await page.inputValue("#question"), "circle");
    await done(page);
  },

  async "a browser that forbids to store anything"() {
    const page = await open(size, () => {
      const get = () => { throw new DOMException("Access is denied", "SecurityError"); };
      Object.defineProperty(window, "sessionStorage", { get });
    });
    const chat = "**/v1/chat/completions";
    await page.route(chat, (route) => route.fulfill({ status: 401 }), { times: 1 });
    await page.fill("#question", "What?");
    await page.press("#question", "Enter");
    await page.fill("#key", key);
    await page.press("#key", "Enter");
    await page.waitForSelector("#key-form", { state: "hidden" });
    await setLength(page, "5");
    const sent = page.waitForRequest(chat);
    await ask(page, "What?");
    assert.equal(await (await sent).headerValue("Authorization"), `Bearer ${key}`);
    await done(page);
  },
};

await run(steps);
