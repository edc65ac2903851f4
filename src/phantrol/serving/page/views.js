// The two views of an answer: where the model looked twice, and what its phantom adds.

import { colourOf, drawOverlay, heatCanvas, largest, meanOfRows, rampCanvas, runsOf, short } from "./maps.js";

// Returns an element with both views. `maps` is what /v1/phantrol/explain said, `images` the loaded pictures in order.
export function viewsOf(given, images) {
  const maps = given.pictures.some((found, index) => isTurned(found, images[index])) ? withoutPictures(given) : given;
  const box = make("div", "views");
  if (maps.traversal) {
    box.append(
      view(maps, images, {
        title: "Where it looked twice",
        lead: "A layer that traverses runs again on its own output, and a token keeps a share w of that second look. "
          + "The lightest is the largest of its map: the map's scale says how much that is.",
        measure: "w",
        rows: maps.traversal.ratios,
        names: maps.traversal.layers.map((layer) => `layer ${layer}`),
      }),
    );
  }
  if (maps.phantom) {
    const twice = maps.phantom.rows.some((row) => row.pass > 1);
    const names = maps.phantom.rows.map((row) => `layer ${row.layer}${twice ? `, pass ${row.pass}` : ""}`);
    const section = view(maps, images, {
      title: "What the phantom adds",
      lead: "How large the phantom's part is beside what attention says without it. 1 is as much again.",
      measure: "share",
      rows: maps.phantom.by_token,
      names,
    });
    const heads = maps.phantom.by_head;
    const label = (column) => `head ${column}`;
    const words = `By head, mean of the tokens, 0 to ${short(largest(heads))}`;
    section.append(caption(words), grid(maps.colours, heads, names, label, "share"));
    box.append(section);
  }
  for (const note of maps.notes) box.append(make("p", "note", note));
  return box;
}

// Whether the model read a picture lying that this browser shows standing, or the other way round.
function isTurned({ width_px, height_px }, { naturalWidth, naturalHeight }) {
  return Math.sign(width_px - height_px) !== Math.sign(naturalWidth - naturalHeight);
}

function withoutPictures(maps) {
  const note = "This browser shows a picture turned otherwise than the model reads it, so that no map can lie over it. "
    + "Save the picture upright, without EXIF data, and show it again.";
  return { ...maps, pictures: [], notes: [...maps.notes, note] };
}

function view(maps, images, { title, lead, measure, rows, names }) {
  const section = make("section", "view");
  const overlays = make("div", "overlays");
  const strip = make("p", "strip");
  const pictures = maps.pictures.map(() => make("canvas", "overlay"));
  const scale = make("div", "scale");
  const choose = choice(names);
  const words = caption();
  const redraw = () => {
    const row = choose.value === "mean" ? meanOfRows(rows) : rows[Number(choose.value)];
    const grids = maps.pictures.map((found) => found.positions.map((line) => line.map((index) => row[index])));
    const high = Math.max(0, ...grids.map(largest));
    grids.forEach((cells, index) => {
      drawOverlay(pictures[index], images[index], maps.colours, cells, high);
      pictures[index].setAttribute("aria-label", `${title}, over picture ${index + 1}: from 0 to ${short(high)}`);
    });
    if (grids.length) scale.replaceChildren(...legend(maps.colours, high, measure));
    const highWord = largest([row.filter((_, index) => !maps.is_image[index])]); // may lie far from the pictures'
    words.textContent = `The words, in order, 0 to ${short(highWord)}`;
    strip.replaceChildren(...chips(maps, row, highWord, measure));
  };
  for (const canvas of pictures) canvas.setAttribute("role", "img");
  overlays.append(...pictures);
  section.append(make("h3", "", title), make("p", "lead", lead));
  if (rows.length > 1) section.append(labelled("Shown", choose));
  if (pictures.length) section.append(overlays, scale);
  section.append(words, strip, caption(`Every layer and token, 0 to ${short(largest(rows))}`));
  const runs = runsOf(maps.is_image);
  const describe = (column) => {
    const { start, end, flag } = runs.find((run) => column < run.end);
    if (flag) return `image token ${column - start + 1} of ${end - start}`;
    return `“${maps.tokens[column].trim() || "space"}”`;
  };
  section.append(grid(maps.colours, rows, names, describe, measure, brackets(runs)));
  choose.addEventListener("change", redraw);
  redraw();
  return section;
}

function choice(names) {
  const select = make("select");
  select.append(new Option("the mean of all layers", "mean"), ...names.map((name, index) => new Option(name, index)));
  return select;
}

// Text tokens upon their colour, from 0 to `high`; a run of image tokens is one chip without any.
function chips(maps, row, high, measure) {
  return runsOf(maps.is_image).flatMap((run) => {
    if (run.flag) return [make("span", "chip picture", `${run.end - run.start} image tokens`)];
    return maps.tokens.slice(run.start, run.end).map((token, offset) => {
      const value = row[run.start + offset];
      const chip = make("span", "chip", token.trim() || "␣");
      const share = high > 0 ? value / high : 0;
      chip.style.backgroundColor = `rgb(${colourOf(maps.colours, share).join(" ")})`;
      chip.style.color = share > 0.44 ? "#000" : "#fff"; // there both have a contrast of 4.5
      chip.title = `${measure} ${short(value)}`;
      return chip;
    });
  });
}

// A map of rows by columns that says what is under the pointer, or under a cursor that the arrow keys move.
function grid(colours, rows, names, describe, measure, below = make("div")) {
  const canvas = heatCanvas(colours, rows, largest(rows));
  canvas.className = "grid";
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", "Map of layers by columns. Arrow keys read it cell by cell.");
  canvas.style.height = `${Math.min(320, Math.max(22, rows.length * 14))}px`;
  const cells = make("div", "cells");
  const cell = make("span", "cell");
  cell.hidden = true;
  cells.append(canvas, cell);
  const said = make("p", "readout", "Touch or point at the map, or move over it with the arrow keys.");
  said.setAttribute("aria-live", "polite");
  let [row, column] = [0, -1];
  const say = () => {
    const [right, down] = [100 / rows[0].length, 100 / rows.length]; // of a cell, in percent
    const place = { left: column * right, top: row * down, width: right, height: down };
    for (const [side, percent] of Object.entries(place)) cell.style[side] = `${percent}%`;
    cell.hidden = false;
    said.textContent = `${names[row]}, ${describe(column)}: ${measure} ${short(rows[row][column])}`;
  };
  const move = (down, right) => {
    row = Math.min(rows.length - 1, Math.max(0, row + down));
    column = Math.min(rows[0].length - 1, Math.max(0, column + right));
    say();
  };
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = { ...steps, Home: [0, -Infinity], End: [0, Infinity] }[event.key];
    if (!step) return;
    event.preventDefault();
    move(...step);
  });
  const point = (event) => {
    const place = canvas.getBoundingClientRect();
    row = Math.floor(((event.clientY - place.top) / place.height) * rows.length);
    column = Math.floor(((event.clientX - place.left) / place.width) * rows[0].length);
    move(0, 0);
  };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point); // a tap moves nothing
  const frame = make("div", "named");
  const sides = make("div", "names");
  sides.append(...(rows.length > 1 ? [names[0], names.at(-1)] : names).map((name) => make("span", "", name)));
  frame.append(sides, cells, below, said);
  return frame;
}

function brackets(runs) {
  const line = make("div", "brackets");
  for (const run of runs) {
    const part = make("span", run.flag ? "image" : "");
    part.style.flexGrow = run.end - run.start;
    if (run.end - run.start > runs.at(-1).end / 8) part.textContent = run.flag ? "image" : "text";
    line.append(part);
  }
  return line;
}

function legend(colours, high, measure) {
  const ramp = rampCanvas(colours);
  ramp.className = "ramp";
  ramp.setAttribute("aria-hidden", "true");
  return [make("span", "", `${measure} 0`), ramp, make("span", "", short(high))];
}

function labelled(words, control) {
  const label = make("label", "choice", `${words} `);
  label.append(control);
  return label;
}

function caption(words) {
  return make("h4", "", words);
}

export function make(tag, kind = "", words = "") {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  if (words) element.textContent = words;
  return element;
}
