// What "Look inside" says to whoever looks, points, taps or types. How it is started: driver.mjs.

import assert from "node:assert/strict";

import { ask, done, folder, key, open, picture, run, setLength } from "./driver.mjs";

// A page with the maps of one picture open, as `change` makes them.
async function look(options, file = picture, change = (maps) => maps) {
  const page = await open({ viewport: { width: 900, height: 700 }, ...options });
  await page.route("**/v1/phantrol/explain", async (route) => {
    const headers = { ...route.request().headers(), authorization: `Bearer ${key}` };
    await route.fulfill({ json: change(await (await route.fetch({ headers })).json()) });
  });
  await setLength(page, "5");
  await page.setInputFiles("#file", file);
  await page.waitForSelector("#waiting img");
  await ask(page, "What color is the circle?");
  await page.click(".look");
  await page.waitForSelector(".overlay");
  return page;
}

// 16 tokens of a picture that keep little, and 101 words that keep from nothing to all.
function manyWords(maps) {
  const image = Array(16).fill(0.0087);
  const words = Array.from({ length: 101 }, (_, index) => index / 100);
  maps.tokens = [...image.map(() => "<image>"), ...words.map((_, index) => `word${index}`)];
  maps.is_image = [...image.map(() => true), ...words.map(() => false)];
  maps.pictures[0].positions = [0, 4, 8, 12].map((start) => [0, 1, 2, 3].map((index) => start + index));
  maps.traversal = { layers: [3, 5], ratios: [[...image, ...words], [...image, ...words.map((word) => word / 2)]] };
  maps.phantom = null;
  return maps;
}

// Of two colours as a browser says them: "rgb(0, 0, 0)".
function contrast(...colours) {
  const [dark, light] = colours.map((colour) => {
    const linear = colour.match(/\d+/g).map((channel) => channel / 255)
      .map((share) => (share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  }).sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
}

const chipColours = (page) => page.locator(".chip:not(.picture)").evaluateAll((chips) => chips.map((chip) => {
  const { color, backgroundColor } = getComputedStyle(chip);
  return [color, backgroundColor];
}));

const steps = {
  async "a tall picture leaves room for the maps below it"() {
    const page = await look({}, `${folder}/narrow.png`);
    const heights = await page.locator(".overlay").evaluateAll((all) => all.map((canvas) => canvas.clientHeight));
    assert.ok(Math.min(...heights) > 300 && Math.max(...heights) < 400, `${heights} px`);
    await page.screenshot({ path: `${folder}/tall-maps.png` });
    await done(page);
  },

  async "each map tells its own scale, and each word can be read on its colour"() {
    const page = await look({}, picture, manyWords);
    const captions = page.locator(".view").first().locator("h4");
    assert.deepEqual(await captions.allTextContents(), ["The words, in order, 0 to 0.75", "Every layer and token, 0 to 1"]);
    assert.equal(await page.locator(".scale").first().textContent(), "w 00.0087");
    const colours = await chipColours(page);
    assert.equal(new Set(colours.map(([, ground]) => ground)).size > 90, true);
    for (const [ink, ground] of colours) assert.ok(contrast(ink, ground) >= 4.5, `${ink} on ${ground}`);
    await page.screenshot({ path: `${folder}/many-words.png` });
    await page.locator(".view select").first().selectOption("1");
    assert.equal(await captions.first().textContent(), "The words, in order, 0 to 0.5");
    await done(page);
  },

  async "a tap reads a map and marks its cell"() {
    const page = await look({ viewport: { width: 375, height: 760 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
    const map = page.locator(".grid").first();
    await map.scrollIntoViewIfNeeded();
    const { x, y, width, height } = await map.boundingBox();
    const said = page.locator(".readout").first();
    for (const [place, words] of [[0.001, /^layer 1, “<s>”: w /], [0.3, /^layer 1, image token \d+ of 16: w /]]) {
      const at = [x + place * width, y + 0.75 * height];
      await page.touchscreen.tap(...at);
      assert.match(await said.textContent(), words);
      const cell = await page.locator(".cell").first().boundingBox();
      assert.ok(cell.x <= at[0] && at[0] <= cell.x + cell.width && cell.y <= at[1] && at[1] <= cell.y + cell.height);
    }
    await page.screenshot({ path: `${folder}/tapped.png` });
    await done(page);
  },

  async "keys read a map and show where"() {
    const page = await look();
    const map = page.locator(".grid").first();
    const [said, cell] = [page.locator(".readout").first(), page.locator(".cell").first()];
    assert.equal(await cell.isVisible(), false);
    await map.focus();
    const [columns, all] = [await map.evaluate((canvas) => canvas.width), await map.boundingBox()];
    const read = async (key, words, column) => {
      await page.keyboard.press(key);
      assert.match(await said.textContent(), words);
      const { x, width } = await cell.boundingBox();
      assert.ok(Math.abs(x - all.x - (column * all.width) / columns) < 1 && Math.abs(width - all.width / columns) < 1, key);
    };
    await read("End", /^layer 0, “.+”: w /, columns - 1);
    await read("Home", /^layer 0, “<s>”: w /, 0);
    let column = 0;
    while (!/image/.test(await said.textContent())) await read("ArrowRight", /^layer 0, /, ++column);
    await read("ArrowRight", /^layer 0, image token 2 of 16: w /, column + 1);
    await page.screenshot({ path: `${folder}/keys.png` });
    await done(page);
  },

  async "forced colours leave the words theirs, and both tones of the mark"() {
    const page = await look({ forcedColors: "active" });
    assert.ok(new Set((await chipColours(page)).map(([, ground]) => ground)).size > 4);
    await page.locator(".grid").first().press("End");
    assert.match(await page.locator(".cell").first().evaluate((cell) => getComputedStyle(cell).boxShadow), /255, 255, 255/);
    await done(page);
  },
};

await run(steps);
