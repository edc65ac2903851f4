// The elements of a conversation: what was asked, and what was said.

import { make } from "./views.js";

export function questionBox(text, pictures) {
  const box = make("article", "turn asked");
  box.setAttribute("aria-label", "You");
  const row = make("div", "pictures");
  row.append(...pictures.map(imageOf));
  if (pictures.length) box.append(row);
  box.append(textOf(text));
  return box;
}

// Returns the box, and the element that the answer grows in.
export function answerBox() {
  const box = make("article", "turn said");
  box.setAttribute("aria-label", "The model");
  box.setAttribute("aria-busy", "true");
  const text = textOf();
  box.append(text);
  return { box, text };
}

function textOf(words) {
  const text = make("p", "text", words);
  text.dir = "auto"; // from right to left where the words are
  return text;
}

export function imageOf({ url, name }) {
  const image = make("img");
  image.src = url;
  image.alt = name;
  return image;
}

// The same picture, decoded, to be drawn.
export async function loaded(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}
