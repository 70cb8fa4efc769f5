// One answer: asked for, followed as it comes, and picked up again where the connection or the page has gone.

import { randomName } from "./chats.js";
import { LostError, complete, follow, modelStates, stop } from "./completion.js";
import { repeats } from "./repetition.js";

const GIVE_UP_MS = 120000;
const RETRY_MS = 2000;
const PATIENCE_MS = 600;
const REPLAY_MS = 700;
const STOP_TRIES = 30;
const MISSES = 3;

/**
 * An answer under way.
 *
 * message: gets content, thoughts, reason, timings, firstMs, and answerId as long as the server keeps it. onNews: called
 * when the message or the status, a text such as "Loading", has changed. dropped: messages that the server left out.
 */
export class Answering {
  constructor(message, key, onNews) {
    this.message = message;
    this.status = "";
    this.pieces = 0;
    this.firstAt = 0;
    this.stopped = false;
    this.dropped = 0;
    this._key = key;
    this._onNews = onNews;
    this._controller = new AbortController();
    this._begun = false;
    this._failingSince = 0;
    this._misses = 0;
  }

  /** Ask for the answer and follow it to its end. Throws what the server refuses it with, or LostError. */
  async ask(body) {
    this.message.answerId = randomName();
    this._since = performance.now();
    this._asked = Date.now();
    await this._run(complete({ ...body, answer_id: this.message.answerId }, this._key, this._controller.signal));
  }

  /** Follow an answer that was asked for earlier, by this page or before it was loaded anew. */
  async resume() {
    this._asked = Date.now();
    await this._run(this._follow());
  }

  /** Have the answer end; what it has cost still comes. */
  async stop() {
    this.stopped = true;
    try {
      await stop(this.message.answerId, this._key);
    } catch {
      this._controller.abort();
      stopLater(this.message.answerId, this._key);
    }
  }

  /** Follow it no longer; on the server it goes on. */
  leave() {
    this.left = true;
    this._controller.abort();
  }

  _follow() {
    this._replayedAt = performance.now();
    return follow(this.message.answerId, this._key, this._controller.signal);
  }

  async _run(stream) {
    const watching = setInterval(() => this._watch(), PATIENCE_MS);
    try {
      for (;;) {
        try {
          await this._take(stream);
          break;
        } catch (error) {
          if (error.name === "AbortError") {
            if (this.left) return;
            break;
          }
          await this._again(error);
          stream = this._follow();
        }
      }
      if (this.stopped) this.message.reason = this._repeats ? "repeated" : "stopped";
      delete this.message.answerId;
    } catch (error) {
      delete this.message.answerId;
      throw error;
    } finally {
      clearInterval(watching);
    }
  }

  /** Wait for the next try; throws the error where there is none. */
  async _again(error) {
    if (!(error instanceof LostError)) {
      if (error.status !== 404 || !this._replayedAt) throw error;
      // It is not kept any more, or not yet, as its model is being loaded.
      const mayCome = !this._begun && ((await this._loading()) || ++this._misses < MISSES);
      if (!mayCome) throw new LostError("The connection was lost before the answer ended.");
    }
    const now = Date.now();
    this._failingSince ||= now;
    const unreachable = error instanceof LostError && !this._begun && now - this._asked < PATIENCE_MS;
    if (unreachable || now - this._failingSince > GIVE_UP_MS) throw error;
    this._say("Connection lost, trying again");
    await pause(RETRY_MS);
  }

  async _take(stream) {
    const before = this.message.before ?? "";
    let content = before;
    let thoughts = "";
    for await (const piece of stream) {
      if (this.left) return;
      this._begun = true;
      this._failingSince = 0;
      if (piece.dropped) this.dropped = piece.dropped;
      else if (piece.progress) this._read(piece.progress);
      else if (piece.reason) Object.assign(this.message, { reason: piece.reason, timings: piece.timings });
      else {
        content += piece.text ?? "";
        thoughts += piece.thought ?? "";
        this._count();
        this.message.content = content;
        if (thoughts) this.message.thoughts = thoughts;
        this._say("");
        if (!this.stopped && repeats(piece.text ? content.slice(before.length) : thoughts)) {
          this._repeats = true;
          this.stop();
        }
      }
    }
  }

  _count() {
    const now = performance.now();
    // A replay comes at once, and says nothing about the speed.
    if (this._replayedAt && now - this._replayedAt < REPLAY_MS) this.pieces = 0;
    if (this.pieces++) return;
    this.firstAt = now;
    if (this._since && !this._replayedAt) this.message.firstMs = now - this._since; // with the loading of the model
  }

  _read({ total, cache, processed, time_ms }) {
    const share = total > cache ? (processed - cache) / (total - cache) : 1;
    if (processed > 0) this._say(`Reading ${Math.floor(100 * Math.max(0, share))} %`);
    else if (time_ms > PATIENCE_MS) this._say("Waiting for its turn");
  }

  /** Until the answer begins: what it waits for. */
  async _watch() {
    if (this._begun || this._asking) return;
    this._asking = true;
    if (await this._loading()) this._say(`Loading ${this.message.model}, ${Math.round((performance.now() - (this._since ?? 0)) / 1000)} s`);
    this._asking = false;
  }

  async _loading() {
    try {
      return (await modelStates(this._key))[this.message.model] === "loading";
    } catch {
      return false;
    }
  }

  _say(status) {
    this.status = status;
    this._onNews();
  }

  /** Tokens a second up to now, nearly: nearly every piece is one token. */
  get speed() {
    const seconds = (performance.now() - this.firstAt) / 1000;
    return this.pieces > 1 && seconds > 0 ? (this.pieces - 1) / seconds : 0;
  }
}

/** End an answer that has not begun on the server yet, as its model is being loaded. */
async function stopLater(id, key) {
  for (let i = 0; i < STOP_TRIES; i++) {
    try {
      await stop(id, key);
      return;
    } catch {
      await pause(RETRY_MS);
    }
  }
}

/** Wait, or until the network or the page is back. */
function pause(ms) {
  return new Promise((resolve) => {
    const controller = new AbortController();
    const done = () => {
      controller.abort();
      resolve();
    };
    setTimeout(done, ms);
    window.addEventListener("online", done, { signal: controller.signal });
    document.addEventListener("visibilitychange", done, { signal: controller.signal });
  });
}
