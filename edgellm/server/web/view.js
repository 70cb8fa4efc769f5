// A conversation as nodes: messages with their actions, what is left out of the context, and the first screen.

import { $, button, make, update } from "./dom.js";
import { markdown } from "./markdown.js";

const TRIES = [
  "Explain how a rainbow forms, in three sentences.",
  "Plan a simple dinner for four with a shopping list.",
  "Write a Python function that finds the most common word in a text, and explain it.",
];
const REASONS = {
  stopped: "Stopped.",
  repeated: "Ended, as it only repeated itself.",
  length: "Cut off at the limit of tokens.",
  full: "Cut off: the context is full.",
  lost: "The connection was lost before the answer ended.",
};

/** Figures of an answer. */
export function stats(message, showModel) {
  const parts = showModel && message.model ? [message.model] : [];
  const { timings, firstMs } = message;
  if (timings) {
    parts.push(`${timings.predicted_n} tokens`, `${timings.predicted_per_second.toFixed(1)} tok/s`);
    parts.push(`first after ${((firstMs ?? timings.queue_ms + timings.prompt_ms) / 1000).toFixed(1)} s`);
  }
  return parts.join(" · ");
}

/** Bring the body of an answer up to date; nodes that have not changed stay, with selections in them. */
export function fill(body, message) {
  let thoughts = body.querySelector(":scope > .thoughts");
  if (message.thoughts) {
    if (!thoughts) {
      thoughts = make("details", "thoughts", make("summary", "", "Thoughts"), make("p"));
      // A person's own choice stays; otherwise they are open until the answer begins.
      thoughts.firstChild.addEventListener("click", () => (thoughts.dataset.chosen = "true"));
      body.prepend(thoughts);
    }
    const text = thoughts.lastChild;
    if (text.textContent !== message.thoughts) {
      if (text.firstChild && message.thoughts.startsWith(text.textContent)) text.firstChild.appendData(message.thoughts.slice(text.textContent.length));
      else text.textContent = message.thoughts;
    }
    if (!thoughts.dataset.chosen) thoughts.open = !message.content;
  } else thoughts?.remove();
  let words = body.querySelector(":scope > .words");
  if (!words) body.append((words = make("div", "words")));
  update(words, markdown(message.content));
}

function versions(message) {
  const { versions: all, version } = message;
  if (!all || all.length < 2) return [];
  const previous = button("‹", { action: "version", to: version - 1 }, "Previous version");
  const next = button("›", { action: "version", to: version + 1 }, "Next version");
  previous.disabled = version === 0;
  next.disabled = version === all.length - 1;
  return [make("span", "versions", previous, `${version + 1} / ${all.length}`, next)];
}

function answerFooter(message, isLast, showModel) {
  const footer = make("footer", "", button("Copy", { action: "copy" }));
  if (isLast) footer.append(button("Regenerate", { action: "again" }));
  footer.append(...versions(message), make("span", "stats", stats(message, showModel)));
  return footer;
}

function note(message, isLast) {
  const words = REASONS[message.reason];
  if (!words) return [];
  const box = make("p", "half", words);
  if (isLast) box.append(" ", button("Continue", { action: "continue" }));
  return [box];
}

function question(message) {
  const files = (message.files ?? []).map(({ name, text }) => make("span", "file", `${name} (${sizeOf(text.length)})`));
  const body = make("div", "body", message.content);
  const footer = make("footer", "", button("Edit", { action: "edit" }), button("Copy", { action: "copy" }), ...versions(message));
  return make("article", "message user", ...(files.length ? [make("div", "files", ...files)] : []), body, footer);
}

/** Bytes for a person, as errors.size_text of the server writes them. */
export function sizeOf(n) {
  if (n < 1000) return `${n} B`;
  for (const unit of ["kB", "MB", "GB"]) {
    n /= 1000;
    if (n < 999.5) return `${n < 99.95 ? n.toFixed(1) : Math.round(n)} ${unit}`;
  }
  return `${Math.round(n)} TB`;
}

/** The node of a message. */
export function view(message, isLast, showModel) {
  let node;
  if (message.role === "user") node = question(message);
  else {
    const body = make("div", "body");
    fill(body, message);
    node = make("article", "message assistant", body, ...note(message, isLast), answerFooter(message, isLast, showModel));
  }
  node.setAttribute("aria-label", message.role === "user" ? "You" : "Answer");
  return node;
}

/** The node of an answer under way. */
export function busyView() {
  const node = make("article", "message assistant busy", make("div", "body"), make("footer", "", make("span", "stats")));
  node.setAttribute("aria-label", "Answer");
  node.setAttribute("aria-busy", "true");
  return node;
}

/** Make the node of an answer that has ended that of a message; what has been drawn of it stays. */
export function settle(node, message, showModel) {
  node.classList.remove("busy");
  node.removeAttribute("aria-busy");
  fill(node.querySelector(".body"), message);
  node.querySelector("footer").replaceWith(...note(message, true), answerFooter(message, true, showModel));
}

/** The screen before the first message. */
export function firstScreen(model) {
  const facts = [model.parameters, model.quantization, model.size ? sizeOf(model.size) : ""].filter(Boolean);
  const tries = TRIES.map((text) => make("li", "", button(text, { try: text })));
  const node = make(
    "div",
    "",
    make("h2", "", model.name),
    make("p", "facts", facts.join(" · ")),
    make("p", "", "Runs on your own server: nothing leaves it. Check what matters; a model can be wrong."),
    make("ul", "tries", ...tries),
  );
  node.id = "empty";
  return node;
}

/** The conversation, as the children of #messages. */
export function showMessages(chat, models, isRunning) {
  const all = chat.messages;
  const nodes = all.map((message, i) => view(message, i === all.length - 1, models.length > 1));
  if (chat.dropped) {
    const text = `The context is full: the model no longer sees the ${chat.dropped} messages above.`;
    nodes.splice(chat.dropped, 0, make("p", "dropped", text));
  }
  if (all.at(-1)?.role === "user" && !isRunning) nodes.push(make("div", "message retry", button("Try again", { action: "again" })));
  $("messages").replaceChildren(...nodes);
}

/** The editor of a question, in its place. */
export function edit(node, text) {
  const area = make("textarea", "editor");
  area.value = text;
  area.rows = Math.min(12, text.split("\n").length + 1);
  area.ariaLabel = "Your message";
  const save = button("Send", { action: "save-edit" });
  save.classList.add("primary");
  node.replaceChildren(area, make("footer", "", save, button("Cancel", { action: "cancel-edit" })));
  area.focus();
}
