// The chat: one conversation on the screen, the others in the list beside it.

import { allChats, loadSettings, newChat, removeChat, saveChat, saveSettings, updateChat } from "./chats.js";
import { ServerError, complete, listModels } from "./completion.js";
import { markdown } from "./markdown.js";

const SAMPLING = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];
const SAVE_EVERY_MS = 1000;

const $ = (id) => document.getElementById(id);
const sidebar = $("sidebar");
const messages = $("messages");
const input = $("input");
const send = $("send");
const dialog = $("settings");

let settings = loadSettings();
let chat = newChat();
let running = null; // the AbortController of the answer under way

function make(tag, name, ...children) {
  const node = document.createElement(tag);
  node.className = name;
  node.append(...children);
  return node;
}

function action(name, label) {
  const button = make("button", "", label);
  button.type = "button";
  button.dataset.action = name;
  return button;
}

function notify(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function store(save, one) {
  try {
    save(one);
  } catch {
    notify("The browser's storage is full: this conversation is not kept. Delete others to make room.");
  }
}

// The list of conversations

function showChats() {
  const items = allChats().map((one) => {
    const open = make("button", "name", one.title);
    open.type = "button";
    open.dataset.open = one.id;
    const remove = make("button", "remove", "✕");
    remove.type = "button";
    remove.dataset.remove = one.id;
    remove.setAttribute("aria-label", `Delete ${one.title}`);
    const item = make("li", "", open, remove);
    if (one.id === chat.id) item.setAttribute("aria-current", "true");
    return item;
  });
  $("chats").replaceChildren(...items);
}

function openChat(one) {
  running?.abort();
  chat = one;
  notify("");
  showChat();
  showChats();
  showMenu(false);
  if (!matchMedia("(pointer: coarse)").matches) input.focus();
}

function showMenu(open) {
  sidebar.classList.toggle("open", open);
  $("shade").hidden = !open;
  $("menu").setAttribute("aria-expanded", String(open));
  if (open) sidebar.querySelector("button").focus();
}

// The conversation

function stats(message) {
  const parts = [];
  const timings = message.timings;
  if (timings) {
    parts.push(`${timings.predicted_n} tokens`, `${timings.predicted_per_second.toFixed(1)} tok/s`);
    parts.push(`first after ${((timings.queue_ms + timings.prompt_ms) / 1000).toFixed(1)} s`);
  }
  if (message.reason === "length") parts.push("cut off at the limit");
  if (message.reason === "stopped") parts.push("stopped");
  return parts.join(" · ");
}

function fill(body, message) {
  if (message.role === "user") {
    body.textContent = message.content;
    return;
  }
  body.replaceChildren(...markdown(message.content));
  if (!message.thoughts) return;
  const thoughts = make("details", "thoughts", make("summary", "", "Thoughts"), make("p", "", message.thoughts));
  thoughts.open = !message.content; // they close when the answer begins
  body.prepend(thoughts);
}

function view(message, isLast) {
  const body = make("div", "body");
  fill(body, message);
  const node = make("article", `message ${message.role}`, body);
  node.setAttribute("aria-label", message.role === "user" ? "You" : "Answer");
  if (message.role === "assistant") {
    const footer = make("footer", "", action("copy", "Copy"));
    if (isLast) footer.append(action("again", "Regenerate"));
    footer.append(make("span", "stats", stats(message)));
    node.append(footer);
  }
  return node;
}

function showChat() {
  const all = chat.messages;
  messages.replaceChildren(...all.map((message, i) => view(message, i === all.length - 1)));
  if (!all.length) {
    const empty = make("p", "", "What the model writes may be wrong. Nothing leaves this server.");
    empty.id = "empty";
    messages.append(empty);
  } else if (all.at(-1).role === "user" && !running) {
    messages.append(make("div", "message", action("again", "Try again")));
  }
  $("title").textContent = document.title = chat.title;
  messages.scrollTop = messages.scrollHeight;
}

function showRunning(on) {
  send.textContent = on ? "Stop" : "Send";
  send.classList.toggle("stop", on);
  send.title = on ? "Esc" : "";
}

function request() {
  const sampling = SAMPLING.filter((name) => settings[name] != null).map((name) => [name, settings[name]]);
  const system = settings.system ? [{ role: "system", content: settings.system }] : [];
  const turns = chat.messages.map(({ role, content }) => ({ role, content }));
  return { model: $("model").value, messages: [...system, ...turns], ...Object.fromEntries(sampling) };
}

/** Have the conversation, which ends with what the person said, answered. */
async function answer() {
  const mine = chat;
  const asked = request();
  const message = { role: "assistant", content: "" };
  const controller = new AbortController();
  running = controller;
  notify("");
  showRunning(true);
  showChat();
  const node = view(message, false);
  node.classList.add("busy");
  for (const button of node.querySelectorAll("footer button")) button.hidden = true;
  messages.append(node);
  messages.scrollTop = messages.scrollHeight;
  mine.messages.push(message);

  let drawing = false;
  let saved = Date.now();
  let pieces = 0;
  let begun = 0;
  const draw = () => {
    drawing = false;
    const atEnd = messages.scrollHeight - messages.scrollTop - messages.clientHeight < 60;
    fill(node.querySelector(".body"), message);
    // Nearly every piece is one token; at the end the server says exactly.
    const seconds = (performance.now() - begun) / 1000;
    const speed = (pieces - 1) / seconds;
    if (pieces > 1 && seconds > 0) node.querySelector(".stats").textContent = `about ${speed.toFixed(1)} tok/s`;
    if (atEnd) messages.scrollTop = messages.scrollHeight;
  };
  try {
    for await (const piece of complete(asked, settings.key, controller.signal)) {
      if (piece.text || piece.thought) {
        if (!pieces++) begun = performance.now();
        message.content += piece.text ?? "";
        if (piece.thought) message.thoughts = (message.thoughts ?? "") + piece.thought;
        if (!drawing) requestAnimationFrame(draw);
        drawing = true;
        if (Date.now() - saved > SAVE_EVERY_MS) {
          store(updateChat, mine);
          saved = Date.now();
        }
      } else {
        message.reason = piece.reason;
        message.timings = piece.timings;
      }
    }
  } catch (error) {
    if (error.name === "AbortError") message.reason = "stopped";
    else explain(error);
  }
  if (!message.content && message.reason !== "stop" && message.reason !== "length") mine.messages.pop();
  mine.changed = Date.now();
  store(updateChat, mine);
  if (running === controller) {
    running = null;
    showRunning(false);
  }
  if (chat === mine) showChat();
  showChats();
}

function explain(error) {
  const known = error instanceof ServerError;
  notify(known ? error.message : "The server cannot be reached.");
  if (known && error.status === 401) openSettings("key");
}

function say(text) {
  if (!chat.messages.length) chat.title = text.split("\n")[0].slice(0, 60);
  if (chat.messages.at(-1)?.role === "user") chat.messages.pop(); // it was not answered
  chat.messages.push({ role: "user", content: text });
  chat.changed = Date.now();
  store(saveChat, chat);
  showChats();
  answer();
}

function again() {
  if (running) return;
  if (chat.messages.at(-1)?.role === "assistant") chat.messages.pop();
  answer();
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages that came over plain HTTP from another machine have no clipboard; this older way still works.
    const area = make("textarea", "hidden", text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = label), 1200);
}

// Settings

function showTheme() {
  if (settings.theme) document.documentElement.dataset.theme = settings.theme;
  else delete document.documentElement.dataset.theme;
}

function openSettings(field = "system") {
  for (const element of dialog.querySelectorAll("[name]")) element.value = settings[element.name] ?? "";
  if (!dialog.open) dialog.showModal();
  dialog.querySelector(`[name=${field}]`).focus();
}

dialog.addEventListener("close", () => {
  for (const element of dialog.querySelectorAll("[name]")) {
    const { name, value } = element;
    if (SAMPLING.includes(name)) settings[name] = value === "" ? null : Number(value);
    else settings[name] = value;
  }
  saveSettings(settings);
  showTheme();
  showModels();
});

async function showModels() {
  try {
    const names = await listModels(settings.key);
    const options = names.map((name) => new Option(name, name));
    $("model").replaceChildren(...options);
    if (names.includes(settings.model)) $("model").value = settings.model;
    notify("");
  } catch (error) {
    explain(error);
  }
}

// Actions of the user

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) {
    running.abort();
    return;
  }
  const text = input.value.trim();
  if (!text) return;
  input.value = "";
  say(text);
});

input.addEventListener("keydown", (event) => {
  // On a touch screen, Enter begins a new line.
  const sends = event.key === "Enter" && !event.shiftKey && !event.isComposing;
  if (!sends || matchMedia("(pointer: coarse)").matches) return;
  event.preventDefault();
  if (!running) $("composer").requestSubmit();
});

document.addEventListener("keydown", (event) => {
  if (event.altKey && event.code === "KeyN") {
    event.preventDefault();
    openChat(newChat());
  } else if (event.key === "Escape" && !dialog.open) {
    if (sidebar.classList.contains("open")) showMenu(false);
    else running?.abort();
  }
});

messages.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (!button) return;
  if (button.dataset.action === "again") again();
  else if (button.dataset.action === "copy-code") copy(button.closest(".code").querySelector("code").textContent, button);
  else {
    const place = [...messages.children].indexOf(button.closest(".message"));
    copy(chat.messages[place].content, button);
  }
});

$("chats").addEventListener("click", (event) => {
  const { open, remove } = event.target.closest("button")?.dataset ?? {};
  const found = allChats().find((one) => one.id === open);
  if (found && open !== chat.id) openChat(found);
  else if (open) showMenu(false);
  if (remove && confirm("Delete this conversation?")) {
    removeChat(remove);
    if (remove === chat.id) openChat(newChat());
    else showChats();
  }
});

$("new-chat").addEventListener("click", () => openChat(newChat()));
$("open-settings").addEventListener("click", () => {
  showMenu(false);
  openSettings();
});
$("menu").addEventListener("click", () => showMenu(!sidebar.classList.contains("open")));
$("shade").addEventListener("click", () => showMenu(false));
$("model").addEventListener("change", () => {
  settings.model = $("model").value;
  saveSettings(settings);
});
window.addEventListener("storage", showChats); // another tab has changed them

const given = new URLSearchParams(location.hash.slice(1)).get("key");
if (given) {
  settings.key = given;
  saveSettings(settings);
  history.replaceState(null, "", location.pathname); // neither bookmarks nor screenshots show the key
}
showTheme();
showModels();
openChat(allChats()[0] ?? chat);
