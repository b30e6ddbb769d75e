// A stream of server-sent events, read by fetch because EventSource cannot send the token. It comes back by itself:
// at once after the server's own hint, otherwise ever more slowly, and never in step with others.

const WAIT_FIRST_MS = 500;
const WAIT_MAX_MS = 15_000;
const ANSWER_WITHIN_MS = 4_000;

export class Stream {
  #url;
  #token;
  #on;
  #silenceMs = 10_000;
  #abort = null;
  #stopped = false;
  #lostInARow = 0;

  // `on.event(kind, data)`, `on.live(boolean)`, and `on.refused()` when the token is no longer in force.
  constructor(url, token, on) {
    this.#url = url;
    this.#token = token;
    this.#on = on;
  }

  async run() {
    while (!this.#stopped) {
      const hintMs = await this.#once();
      this.#on.live(false);
      if (this.#stopped) {
        return;
      }
      await new Promise((resume) => setTimeout(resume, hintMs ?? this.#backOffMs()));
    }
  }

  stop() {
    this.#stopped = true;
    this.#abort?.abort();
  }

  #backOffMs() {
    this.#lostInARow += 1;
    const most = Math.min(WAIT_MAX_MS, WAIT_FIRST_MS * 2 ** (this.#lostInARow - 1));
    return most * (0.5 + Math.random() / 2);
  }

  // One connection; gives the server's hint of when to come back, null without one.
  async #once() {
    this.#abort = new AbortController();
    let watch = setTimeout(() => this.#abort.abort(), ANSWER_WITHIN_MS);
    try {
      const response = await fetch(this.#url, {
        headers: { Authorization: `Bearer ${this.#token}`, Accept: "text/event-stream" },
        cache: "no-store",
        signal: this.#abort.signal,
      });
      if (response.status === 401) {
        this.stop();
        this.#on.refused();
        return null;
      }
      if (!response.ok || response.body === null) {
        const seconds = Number(response.headers.get("Retry-After"));
        return seconds > 0 ? Math.min(WAIT_MAX_MS, seconds * 1000 * (1 + Math.random())) : null;
      }
      return await this.#read(response.body, () => {
        clearTimeout(watch);
        watch = setTimeout(() => this.#abort.abort(), this.#silenceMs);
      });
    } catch {
      return null; // the network, or our own limit: both are answered by coming back
    } finally {
      clearTimeout(watch);
    }
  }

  async #read(body, heard) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let hintMs = null;
    for (;;) {
      const { done, value } = await reader.read();
      if (done || this.#stopped) {
        return hintMs;
      }
      heard();
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        hintMs = this.#take(block) ?? hintMs;
      }
    }
  }

  #take(block) {
    const fields = new Map();
    for (const line of block.split("\n")) {
      const at = line.indexOf(":");
      fields.set(line.slice(0, at), line.slice(at + 1).trimStart());
    }
    if (fields.has("event")) {
      const kind = fields.get("event");
      const data = JSON.parse(fields.get("data"));
      if (kind === "hello") {
        this.#silenceMs = data.silence_s * 1000;
        this.#lostInARow = 0;
      }
      this.#on.event(kind, data);
    }
    this.#on.live(true);
    return fields.has("retry") ? Number(fields.get("retry")) : null;
  }
}
