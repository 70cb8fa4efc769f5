// The chat: one conversation on the screen, the others in the list beside it.

import { Answering } from "./answering.js";
import { allChats, branch, dropVersion, loadSettings, newChat, saveChat, saveSettings, showVersion, updateChat } from "./chats.js";
import { LostError, ServerError } from "./completion.js";
import { keepFrom, kept, textOf, tokens } from "./context.js";
import { $, button, copy } from "./dom.js";
import { hasFiles, startFiles, takeFiles } from "./files.js";
import { chosen, context, learnContext, models, showModels } from "./models.js";
import { SAMPLING, askForKey, isOpen, openSettings, showTheme } from "./settings.js";
import { synchronize } from "./sync.js";
import { menuIsOpen, showChats, showMenu, startSidebar } from "./sidebar.js";
import { busyView, edit, fill, firstScreen, settle, showMessages } from "./view.js";

const SAVE_EVERY_MS = 1000;
const END_PX = 60;
const SPOKEN = 1500;

const messages = $("messages");
const input = $("input");
const send = $("send");

let settings = loadSettings();
let chat = newChat();
let running = null; // the answer under way in this conversation
let keeping = false; // true if the server keeps conversations
let agreed = false; // to leave out messages for this answer

function notify(text, ...buttons) {
  const end = atEnd();
  $("notice").replaceChildren(text, ...buttons);
  $("notice").hidden = !text;
  if (end) toEnd(); // the sentence takes some of the room
}

function store(save, one) {
  try {
    save(one);
  } catch {
    notify("The browser's storage is full: this conversation is not kept. Delete others to make room.");
  }
}

// The conversation

function openChat(one) {
  running?.leave();
  running = null;
  chat = one;
  notify("");
  showRunning(false);
  showChat();
  showChats();
  showMenu(false);
  if (!matchMedia("(pointer: coarse)").matches) input.focus();
  if (models.length && chat.messages.at(-1)?.answerId) resume();
}

function showChat() {
  showMessages(chat, models, running !== null);
  if (!chat.messages.length && models.length) messages.append(firstScreen(chosen()));
  showTitle();
  showRoom();
  toEnd();
  showToEnd();
}

function showTitle() {
  $("title").textContent = document.title = chat.title;
}

function showRoom() {
  const [used, all] = [tokens(chat), context()];
  $("room").hidden = !used || !all;
  $("room").textContent = `Context ${Math.min(100, Math.round((100 * used) / all))} % full, of ${all.toLocaleString("en")} tokens`;
}

function showRunning(on) {
  document.body.classList.toggle("running", on);
  send.textContent = on ? "Stop" : "Send";
  send.classList.toggle("stop", on);
  send.title = on ? "Esc" : "";
}

const atEnd = () => messages.scrollHeight - messages.scrollTop - messages.clientHeight < END_PX;

function toEnd() {
  messages.scrollTop = messages.scrollHeight;
}

function request(into, going) {
  const sampling = SAMPLING.filter((name) => settings[name] != null).map((name) => [name, settings[name]]);
  const system = settings.system ? [{ role: "system", content: settings.system }] : [];
  const given = kept(chat).filter((message) => going || message !== into);
  const turns = given.map((message) => ({ role: message.role, content: textOf(message) }));
  const body = { model: chosen().name, messages: [...system, ...turns], ...Object.fromEntries(sampling) };
  if (settings.full !== "ask" || agreed) body.truncation = "auto";
  if (going) body.continue_final_message = true;
  // Thinking is over: the answer goes on with its words.
  if (going && into.thoughts) body.reasoning_effort = "none";
  return body;
}

/** Have the last question answered: into a new message, or `into` one that is there; or have the last answer go on. */
async function answer({ into = null, going = false } = {}) {
  if (!chosen()) return;
  const message = into ?? (going ? chat.messages.at(-1) : { role: "assistant", content: "" });
  const body = request(message, going);
  message.model = body.model;
  if (going) Object.assign(message, { before: message.content, reason: "" });
  else if (!into) chat.messages.push(message);
  await attend(chat, message, (one) => one.ask(body), going);
}

/** Follow an answer that the server went on with while the page was away. */
async function resume() {
  await attend(chat, chat.messages.at(-1), (one) => one.resume(), true);
}

/** Show an answer while it comes, and keep what has come. */
async function attend(mine, message, follow, shown) {
  notify("");
  const answering = new Answering(message, settings.key, () => news());
  running = answering;
  showRunning(true);
  showTitle();
  showMessages({ ...mine, messages: mine.messages.slice(0, -1) }, models, true);
  const node = busyView();
  messages.append(node);
  const body = node.querySelector(".body");
  const figures = node.querySelector(".stats");
  if (shown) fill(body, message);
  figures.textContent = "…";
  toEnd();

  let drawing = false;
  let saved = Date.now();
  const draw = () => {
    drawing = false;
    if (running !== answering) return;
    const end = atEnd();
    if (answering.pieces) fill(body, message);
    const { status, speed } = answering;
    figures.textContent = status || (speed ? `about ${speed.toFixed(1)} tok/s` : "…");
    if (end) toEnd();
    showToEnd();
  };
  const news = () => {
    if (!drawing) requestAnimationFrame(draw);
    drawing = true;
    if (answering.pieces && Date.now() - saved > SAVE_EVERY_MS) {
      store(updateChat, mine);
      saved = Date.now();
    }
  };
  let failure = null;
  const asked = follow(answering);
  store(updateChat, mine); // with the answer's name: a page that is loaded anew finds it
  try {
    await asked;
  } catch (error) {
    failure = error;
  }
  if (answering.left) return;
  ended(mine, message, node, answering, failure);
}

function ended(mine, message, node, answering, failure) {
  if (failure && message.content) message.reason = "lost";
  const { timings } = message;
  const filled = timings && context() && timings.cache_n + timings.prompt_n + timings.predicted_n >= context() - 1;
  if (message.reason === "length" && filled) message.reason = "full";
  const empty = !message.content && !message.thoughts;
  const going = message.before !== undefined;
  delete message.before;
  if (empty && message.reason !== "stop" && message.reason !== "length") {
    if (message.versions) dropVersion(mine, mine.messages.length - 1);
    else mine.messages.pop();
  }
  mine.dropped = (mine.dropped ?? 0) + answering.dropped;
  mine.changed = Date.now();
  store(updateChat, mine);
  if (running === answering) running = null;
  if (chat !== mine) return;
  const end = atEnd();
  showRunning(false);
  if (mine.messages.at(-1) === message && !answering.dropped) settle(node, message, models.length > 1);
  else showChat();
  showRoom();
  if (end) toEnd(); // whoever reads further up stays there
  showToEnd();
  showChats();
  if (!failure) agreed = false;
  if (failure) explain(failure, going ? () => answer({ going }) : again);
  else if (!empty) $("spoken").textContent = `Answer: ${message.content.slice(0, SPOKEN)}`;
  refresh();
}

/** List the models as they are by now, and learn the context of one that has been loaded. */
async function refresh() {
  try {
    await showModels(settings.key, settings.model);
    keeping = await learnContext(settings.key);
    showRoom();
    await share();
  } catch {
    // A failure is said when a person asks for something.
  }
}

/** Share conversations with the server, if it keeps them; one that has changed elsewhere is shown anew. */
async function share() {
  $("where").textContent = keeping
    ? "The server keeps conversations, for everyone who has its key. Settings stay in this browser."
    : "Conversations and settings stay in this browser.";
  if (!keeping) return;
  const changed = await synchronize(settings.key);
  if (!changed.length) return;
  showChats();
  if (running || !changed.includes(chat.id)) return;
  openChat(allChats().find(({ id }) => id === chat.id) ?? newChat());
}

/** Say why there is no answer, and offer what helps. */
function explain(error, retry = again) {
  if (error.status === 401 || error.status === 429) {
    const wrong = settings.key ? "That key was wrong. Letters must be exactly as they are written." : "";
    askForKey(error.status === 429 ? error.message : wrong, (key) => keepKey(key));
    return;
  }
  if (error.code === "context_length_exceeded") {
    const choice = button("Leave out the oldest messages");
    choice.addEventListener("click", () => {
      notify("");
      agreed = true;
      retry();
    });
    notify(`${error.message} `, ...(settings.full === "ask" && !agreed ? [choice] : []));
    return;
  }
  const known = error instanceof ServerError || error instanceof LostError;
  notify(known ? error.message : `The page failed: ${error.message}`);
}

function say(text, files = []) {
  if (!chat.messages.length) chat.title = (text || files[0].name).split("\n")[0].slice(0, 60);
  if (chat.messages.at(-1)?.role === "user") chat.messages.pop(); // it was not answered
  chat.messages.push({ role: "user", content: text, ...(files.length ? { files } : {}) });
  chat.changed = Date.now();
  store(saveChat, chat);
  showChats();
  answer();
}

// Actions on messages

function again() {
  if (running) return;
  if (chat.messages.at(-1).role === "user") {
    answer();
    return;
  }
  // The earlier answer stays as another version of the new one.
  branch(chat, chat.messages.length - 1, [{ role: "assistant", content: "" }]);
  answer({ into: chat.messages.at(-1) });
}

function saveEdit(place, text) {
  const old = chat.messages[place];
  if (!text.trim() || running) return;
  branch(chat, place, [{ role: "user", content: text.trim(), ...(old.files ? { files: old.files } : {}) }]);
  keepFrom(chat, place);
  store(updateChat, chat);
  answer();
}

function placeOf(node) {
  return [...messages.querySelectorAll(":scope > article")].indexOf(node);
}

function act(source) {
  const { action, to } = source.dataset;
  if (source.dataset.try) say(source.dataset.try);
  if (action === "again") again();
  if (action === "continue") answer({ going: true });
  if (action === "copy-code") copy(source.closest(".code").querySelector("code").textContent, source);
  const node = source.closest(".message");
  const place = placeOf(node);
  if (place < 0) return;
  if (action === "copy") copy(chat.messages[place].content, source);
  if (action === "edit" && !running) edit(node, chat.messages[place].content);
  if (action === "save-edit") saveEdit(place, node.querySelector("textarea").value);
  if (action === "cancel-edit") showChat();
  if (action === "version" && !running) {
    showVersion(chat, place, Number(to));
    keepFrom(chat, place);
    chat.changed = Date.now();
    store(updateChat, chat);
    const scrolled = messages.scrollTop;
    showChat();
    messages.scrollTop = scrolled;
  }
}

// Settings and models

function keep(changed) {
  settings = { ...settings, ...changed };
  saveSettings(settings);
  showTheme(settings.theme);
}

function keepKey(key) {
  keep({ key });
  load();
}

async function load() {
  try {
    await showModels(settings.key, settings.model);
    notify("");
    if (!chat.messages.length) showChat();
    keeping = await learnContext(settings.key);
    showRoom();
    await share();
    if (!running && chat.messages.at(-1)?.answerId) resume();
  } catch (error) {
    explain(error);
    if (error instanceof LostError) {
      const retry = button("Try again");
      retry.addEventListener("click", load);
      notify(`${error.message} `, retry);
    }
  }
}

function showToEnd() {
  $("to-end").hidden = atEnd();
}

// Actions of the person

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) {
    running.stop();
    return;
  }
  const text = input.value.trim();
  if (!text && !hasFiles()) return;
  input.value = "";
  say(text, takeFiles());
});

if (!CSS.supports("field-sizing", "content")) {
  // Browsers without it: as high as the text, up to the limit of the style sheet.
  const grow = () => {
    input.style.height = "auto";
    input.style.height = `${input.scrollHeight + 2}px`;
  };
  input.addEventListener("input", grow);
  $("composer").addEventListener("submit", () => setTimeout(grow));
}

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
  } else if (event.key === "Escape" && !isOpen()) {
    if (menuIsOpen()) showMenu(false);
    else if (event.target.matches?.(".editor")) showChat();
    else running?.stop();
  }
});

messages.addEventListener("click", (event) => {
  const source = event.target.closest("button");
  if (source) act(source);
});
messages.addEventListener("scroll", showToEnd);
$("to-end").addEventListener("click", toEnd);
$("new-chat").addEventListener("click", () => openChat(newChat()));
$("open-settings").addEventListener("click", () => {
  showMenu(false);
  const old = settings.key;
  openSettings(settings, (changed) => {
    keep(changed);
    if (settings.key !== old) load();
  });
});
$("model").addEventListener("change", () => {
  keep({ model: $("model").value });
  if (!chat.messages.length) showChat();
  refresh();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && models.length && !running) refresh();
  if (document.hidden && running) store(updateChat, chat); // the page may not come back
});

/** Take the key that a link brings; neither bookmarks nor screenshots show it then. */
function takeKey() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!key) return false;
  keep({ key });
  history.replaceState(null, "", location.pathname);
  return true;
}

window.addEventListener("hashchange", () => {
  if (!takeKey()) return;
  $("access").close();
  load();
});
takeKey();
showTheme(settings.theme);
startSidebar({
  current: () => chat.id,
  open: (one) => one && (one.id === chat.id ? showMenu(false) : openChat(one)),
  renamed: (one) => {
    if (one.id !== chat.id) return;
    chat.title = one.title;
    showTitle();
  },
  removed: (id) => {
    if (id === chat.id) openChat(newChat());
  },
  changed: share,
  notify,
});
startFiles(context, notify);
const last = allChats()[0];
if (last) openChat(last);
else {
  showChats();
  if (!matchMedia("(pointer: coarse)").matches) input.focus();
}
load();
