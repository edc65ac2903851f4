// What the server is asked, and what its refusals mean to a person. Knows nothing of the page.

const KEY = "phantrol-key";
const WHOLE = "A conversation counts as a whole: begin a new chat, or show and write less.";

export class ServerError extends Error {
  constructor(words, status = 0) {
    super(words);
    this.status = status;
  }
}

export class Client {
  constructor() {
    this.key = storedKey();
    this.model = "";
  }

  useKey(key) {
    this.key = key.trim();
    storeKey(this.key);
  }

  // The name of the model that this server answers with. AbortError where `signal` fires.
  async findModel(signal) {
    const found = await (await this.#request("/v1/models", null, signal)).json();
    this.model = found.data[0].id;
    return this.model;
  }

  // Yields {text} piece by piece, and {usage, reason} as they come. Throws ServerError; AbortError where `signal` fires.
  async *ask(messages, options, signal) {
    const body = { model: this.model, messages, stream: true, stream_options: { include_usage: true }, ...options };
    const response = await this.#request("/v1/chat/completions", body, signal);
    let ended = false;
    for await (const data of eventsOf(response.body)) {
      if (data === "[DONE]") {
        ended = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ServerError(sentence(chunk.error.message), response.status);
      if (chunk.usage) yield { usage: chunk.usage };
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) yield { text: choice.delta.content };
      if (choice?.finish_reason) yield { reason: choice.finish_reason };
    }
    if (!ended) throw new ServerError("The answer broke off: the connection to the server was lost.");
  }

  // The maps of the prompt that these messages make.
  async explain(messages) {
    return (await this.#request("/v1/phantrol/explain", { model: this.model, messages })).json();
  }

  async #request(path, body, signal) {
    const headers = this.key ? { Authorization: `Bearer ${this.key}` } : {};
    if (body) headers["Content-Type"] = "application/json";
    const options = { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) };
    let response;
    try {
      response = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError("The server does not answer. Is phantrol serve still running?");
    }
    if (!response.ok) throw new ServerError(await inWords(response), response.status);
    return response;
  }
}

// A browser may forbid a page to store anything: then the key lasts until the page is left.
function storedKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

function storeKey(key) {
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // `Client.key` has it
  }
}

async function inWords(response) {
  const { message: said, param, code } = (await response.json().catch(() => null))?.error ?? {};
  const wait = response.headers.get("Retry-After");
  switch (response.status) {
    case 401:
    case 403:
      return "The server refused this key. Type another one.";
    case 413:
      if (said) return `This is more than the server takes: ${sentence(said)} ${WHOLE}`;
      return "This is more than the server takes: choose smaller or fewer pictures.";
    case 429:
      return `The server has too much to do. Ask again ${wait ? `in ${wait} s` : "in a moment"}.`;
    case 503:
      return "The server is shutting down or not ready. Ask again in a moment.";
    case 504:
      return "The answer took longer than the server allows. Ask for a shorter one, or again in a moment.";
    default:
      if (said && response.status < 500) {
        const isTooLong = param === "messages" && ["limit_exceeded", "context_length_exceeded"].includes(code);
        return `The server refused this: ${sentence(said)}${isTooLong ? ` ${WHOLE}` : ""}`;
      }
      return `Something went wrong in the server (status ${response.status}). Ask again; its log says more.`;
  }
}

function sentence(words) {
  return /[.!?]$/.test(words) ? words : `${words}.`;
}

// Yields the data of each server-sent event.
async function* eventsOf(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    while (true) {
      let got;
      try {
        got = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new ServerError("The answer broke off: the connection to the server was lost.");
      }
      rest += decoder.decode(got.value, { stream: !got.done });
      const events = rest.split(/\r?\n\r?\n/);
      rest = events.pop();
      for (const event of events) {
        const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
      }
      if (got.done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
