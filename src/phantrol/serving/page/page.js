// The page: what a person does, and what is shown of it.

import { Client, ServerError } from "./chat.js";
import { dragsWords, filesOf, pastedFiles, readPictures } from "./pictures.js";
import { options, wrongSetting } from "./settings.js";
import { answerBox, imageOf, loaded, questionBox } from "./turns.js";
import { make, viewsOf } from "./views.js";

const find = (id) => document.getElementById(id);
const [log, scroll, question, waitingList, settings] = ["log", "scroll", "question", "waiting", "settings"].map(find);
const client = new Client();
let turns = []; // {role, content} as the server takes them
let waiting = []; // pictures for the next question
let running = null; // the AbortController of the answer that is being written
let reading = null; // while chosen pictures are read: a promise of whether all of them could be

// --- asking -----------------------------------------------------------------------------------------------------

async function ask() {
  while (reading) if (!(await reading)) return; // the question waits for its pictures
  const text = question.value.trim();
  if (running || !(text || waiting.length)) return;
  const wrong = text ? wrongSetting() : "Type what you want to know about the picture.";
  if (wrong) {
    showProblem(new Error(wrong));
    if (!text) question.focus();
    return;
  }
  const wanted = options();
  const pictures = waiting;
  const content = [
    ...pictures.map((picture) => ({ type: "image_url", image_url: { url: picture.url } })),
    { type: "text", text },
  ];
  const prompt = [...turns, { role: "user", content }];
  const shown = show(questionBox(text, pictures));
  const answer = answerBox();
  show(answer.box);
  question.value = "";
  waiting = [];
  showWaiting();
  running = new AbortController();
  setBusy(true);
  let said = "";
  let usage = null;
  let cut = false;
  let stopped = false;
  try {
    await findModel(running.signal); // since the page was opened, the server may have been started with another one
    for await (const piece of client.ask(prompt, wanted, running.signal)) {
      usage = piece.usage ?? usage;
      cut ||= piece.reason === "length";
      if (!piece.text) continue;
      said += piece.text;
      answer.text.append(piece.text);
      keepAtEnd();
    }
  } catch (error) {
    if (error.name !== "AbortError") showProblem(error);
    if (!said) {
      takeBack(text, pictures, [shown, answer.box]);
      return;
    }
    stopped = true;
  } finally {
    running = null;
    setBusy(false);
    answer.box.removeAttribute("aria-busy");
  }
  turns = [...prompt, { role: "assistant", content: said }];
  finish(answer, prompt, remark(usage, cut && wanted, stopped));
}

// A question that came to nothing goes back where it was typed, pictures and all.
function takeBack(text, pictures, boxes) {
  for (const box of boxes) box.remove();
  question.value = [text, question.value].filter(Boolean).join("\n");
  waiting = [...pictures, ...waiting];
  showWaiting();
  fitQuestion();
  find("status").textContent = "The question is back in its field.";
  find("welcome").hidden = log.childElementCount > 0;
}

// `cut` is what was wanted of an answer that is cut off.
function remark(usage, cut, stopped) {
  if (stopped) return "stopped";
  const counted = usage ? `${usage.prompt_tokens} tokens read, ${usage.completion_tokens} said` : "";
  const length = cut.max_tokens ? "the longest answer (Settings)" : "the server's longest answer";
  return [cut ? `cut off at ${length}` : "", counted].filter(Boolean).join(" · ");
}

async function findModel(signal) {
  find("model").textContent = await client.findModel(signal);
  document.title = `${client.model} · phantrol`;
}

// --- what is shown ----------------------------------------------------------------------------------------------

function show(box) {
  log.append(box);
  find("welcome").hidden = true;
  find("anew").disabled = false;
  keepAtEnd(true);
  return box;
}

function finish({ box, text }, prompt, words) {
  if (!text.textContent) text.append(make("span", "empty", "(it said nothing)"));
  const line = make("div", "below");
  const look = make("button", "look", "Look inside");
  look.type = "button";
  look.setAttribute("aria-expanded", "false");
  look.addEventListener("click", () => lookInside(box, look, prompt));
  line.append(look, make("span", "small", words));
  box.append(line);
  find("status").textContent = "The answer is complete.";
  keepAtEnd();
}

async function lookInside(box, look, prompt) {
  const open = box.querySelector(".views");
  if (open) {
    open.hidden = !open.hidden;
    look.setAttribute("aria-expanded", String(!open.hidden));
    return;
  }
  look.disabled = true;
  look.textContent = "Looking ...";
  try {
    const urls = prompt.flatMap((turn) => (Array.isArray(turn.content) ? turn.content : []))
      .filter((part) => part.type === "image_url")
      .map((part) => part.image_url.url);
    const [maps, images] = await Promise.all([client.explain(prompt), Promise.all(urls.map(loaded))]);
    const views = viewsOf(maps, images);
    box.append(views);
    look.setAttribute("aria-expanded", "true");
    box.scrollIntoView({ block: "nearest", behavior: "smooth" });
  } catch (error) {
    showProblem(error);
  } finally {
    look.disabled = false;
    look.textContent = "Look inside";
    if (document.activeElement === document.body) look.focus(); // where it was, unless it was taken elsewhere
  }
}

function showWaiting() {
  waitingList.replaceChildren(
    ...waiting.map((picture, index) => {
      const item = make("li");
      const remove = make("button", "remove", "×");
      remove.type = "button";
      remove.setAttribute("aria-label", `Remove ${picture.name}`);
      remove.addEventListener("click", () => {
        waiting.splice(index, 1);
        showWaiting();
        question.focus();
      });
      item.append(imageOf(picture), remove);
      return item;
    }),
  );
}

function showProblem(error) {
  const known = error instanceof ServerError || error.constructor === Error;
  const line = find("problem");
  line.textContent = known ? error.message : `This page made a mistake: ${error.message}`;
  const wantsKey = error.status === 401 || error.status === 403;
  line.hidden = wantsKey && !client.key; // the field itself says what is wanted
  if (wantsKey) {
    find("key-form").hidden = false;
    find("key").focus();
  }
}

function setBusy(busy) {
  find("send").hidden = busy;
  find("stop").hidden = !busy;
  find("anew").disabled = busy || !log.childElementCount;
  if (busy) {
    find("problem").hidden = true;
    find("status").textContent = "The model is answering.";
  }
  const isFree = document.activeElement?.matches("body, #send, #stop, #question"); // nobody reads a map with it
  if (isFree && find("key-form").hidden) question.focus();
  fitQuestion();
}

// Follows the answer as it grows, unless the reader has scrolled up.
function keepAtEnd(always = false) {
  const left = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight;
  if (always || left < 120) scroll.scrollTop = scroll.scrollHeight;
}

function closeSettings() {
  settings.open = false;
  settings.querySelector("summary").focus();
}

function fitQuestion() {
  question.style.height = "auto";
  question.style.height = `${Math.min(question.scrollHeight + 2, 180)}px`;
}

// --- what a person does -----------------------------------------------------------------------------------------

function addPictures(files) {
  const read = Promise.all([reading, takePictures(files)]).then((all) => !all.includes(false));
  reading = read;
  read.then(() => {
    if (reading === read) reading = null;
  });
}

// Returns whether all of them could be read.
async function takePictures(files) {
  const { pictures, error } = await readPictures(files);
  waiting.push(...pictures);
  showWaiting();
  find("problem").hidden = true;
  if (error) showProblem(error);
  question.focus();
  return !error;
}

find("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask();
});
question.addEventListener("input", fitQuestion);
find("stop").addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing) return;
  if (settings.open) closeSettings();
  else running?.abort();
});
document.addEventListener("pointerdown", (event) => {
  if (!settings.contains(event.target)) settings.open = false;
});
find("anew").addEventListener("click", () => {
  turns = [];
  waiting = [];
  log.replaceChildren();
  showWaiting();
  find("problem").hidden = true;
  find("welcome").hidden = false;
  find("anew").disabled = true;
  question.focus();
});
for (const id of ["attach", "drop"]) find(id).addEventListener("click", () => find("file").click());
find("file").addEventListener("change", (event) => {
  addPictures([...event.target.files]);
  event.target.value = "";
});
document.addEventListener("paste", (event) => {
  const files = pastedFiles(event);
  if (!files.length) return;
  event.preventDefault();
  addPictures(files);
});
document.addEventListener("dragover", (event) => {
  if (dragsWords(event)) return;
  event.preventDefault();
  if (event.dataTransfer.types.includes("Files")) document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  if (dragsWords(event)) return;
  event.preventDefault();
  document.body.classList.remove("dropping");
  const files = filesOf(event.dataTransfer);
  if (files.length) addPictures(files);
  else showProblem(new Error("That was no picture. Drop a PNG, JPEG or WebP file."));
});
find("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  client.useKey(find("key").value);
  try {
    await findModel();
    find("key-form").hidden = true;
    find("problem").hidden = true;
    question.focus();
  } catch (error) {
    showProblem(error);
  }
});

findModel().catch(showProblem);
