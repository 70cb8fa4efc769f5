// The list of conversations: search, rename, delete, export and import.

import { allChats, exported, imported, removeChat, searchChats, updateChat } from "./chats.js";
import { $, button, download, make } from "./dom.js";

const sidebar = $("sidebar");
let actions = null; // {current, open, removed, notify}

/** Show the conversations that match the search, or all. */
export function showChats() {
  const wanted = $("search").value.trim();
  const found = wanted ? searchChats(wanted) : allChats();
  const items = found.map((one) => {
    const open = button(one.title, { open: one.id });
    open.className = "name";
    open.title = one.title;
    const rename = button("✎", { rename: one.id }, `Rename ${one.title}`);
    const remove = button("✕", { remove: one.id }, `Delete ${one.title}`);
    remove.className = "remove";
    const item = make("li", "", open, rename, remove);
    if (one.id === actions.current()) item.setAttribute("aria-current", "true");
    return item;
  });
  $("chats").replaceChildren(...items);
  $("none-found").hidden = !wanted || found.length > 0;
}

export function showMenu(open) {
  const was = sidebar.classList.contains("open");
  sidebar.classList.toggle("open", open);
  $("shade").hidden = !open;
  $("menu").setAttribute("aria-expanded", String(open));
  if (open) $("new-chat").focus();
  else if (was) $("menu").focus();
}

export const menuIsOpen = () => sidebar.classList.contains("open");

function rename(id) {
  const chat = allChats().find((one) => one.id === id);
  const place = $("chats").querySelector(`[data-open="${id}"]`).closest("li");
  const field = make("input", "rename");
  field.value = chat.title;
  field.ariaLabel = "Name of the conversation";
  field.maxLength = 120;
  place.replaceChildren(field);
  let ended = false;
  const end = (keep) => {
    if (ended) return;
    ended = true;
    const title = field.value.trim();
    if (keep && title) {
      chat.title = title;
      chat.changed = Date.now();
      updateChat(chat);
      actions.renamed(chat);
      actions.changed();
    }
    showChats();
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter") end(true);
    if (event.key === "Escape") end(false);
    event.stopPropagation();
  });
  field.addEventListener("blur", () => end(true));
  field.select();
  field.focus();
}

function remove(id) {
  if (!confirm("Delete this conversation?")) return;
  removeChat(id);
  actions.removed(id);
  actions.changed();
  showChats();
}

async function importFile(file) {
  try {
    const n = imported(await file.text());
    actions.notify(`${n} ${n === 1 ? "conversation" : "conversations"} imported.`);
  } catch (error) {
    const full = error.name === "QuotaExceededError";
    actions.notify(full ? "The browser's storage is full." : `${file.name} holds no conversations of this page.`);
  }
  actions.changed();
  showChats();
}

/**
 * Connect the list. current: id of the conversation on the screen. open: shows one. removed, renamed, changed:
 * called after these. notify: says a sentence.
 */
export function startSidebar(given) {
  actions = given;
  $("chats").addEventListener("click", (event) => {
    const data = event.target.closest("button")?.dataset ?? {};
    if (data.open) actions.open(allChats().find((one) => one.id === data.open));
    if (data.rename) rename(data.rename);
    if (data.remove) remove(data.remove);
  });
  $("search").addEventListener("input", showChats);
  $("menu").addEventListener("click", () => showMenu(!menuIsOpen()));
  $("shade").addEventListener("click", () => showMenu(false));
  $("export").addEventListener("click", () => download("edgellm-conversations.json", exported(), "application/json"));
  $("import").addEventListener("click", () => $("import-file").click());
  $("import-file").addEventListener("change", ({ target }) => {
    if (target.files.length) importFile(target.files[0]);
    target.value = "";
  });
  $("delete-all").addEventListener("click", () => {
    const all = allChats();
    if (!all.length || !confirm(`Delete all ${all.length} conversations? They cannot be brought back.`)) return;
    for (const chat of all) removeChat(chat.id);
    actions.removed(actions.current());
    actions.changed();
    showChats();
  });
  window.addEventListener("storage", showChats); // another tab has changed them
}
