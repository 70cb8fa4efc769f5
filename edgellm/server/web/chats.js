// Conversations and settings in the browser's own storage; each conversation has an entry of its own.

const CHAT = "edgellm.chat.";
const SETTINGS = "edgellm.settings";

function read(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
}

/** All conversations, the one changed last first. */
export function allChats() {
  return Object.keys(localStorage)
    .filter((key) => key.startsWith(CHAT))
    .map(read)
    .filter((chat) => chat && typeof chat.id === "string" && Array.isArray(chat.messages))
    .sort((a, b) => b.changed - a.changed);
}

/** A conversation without messages, which is not stored yet. */
export function newChat() {
  // crypto.randomUUID is missing where a page comes over plain HTTP from another machine.
  const words = crypto.getRandomValues(new Uint32Array(3));
  const id = Array.from(words, (word) => word.toString(36)).join("");
  return { id, title: "New conversation", changed: Date.now(), messages: [] };
}

/** Store a conversation; throws if the browser's storage is full. */
export function saveChat(chat) {
  localStorage.setItem(CHAT + chat.id, JSON.stringify(chat));
}

/** Store a conversation again, unless it has been deleted meanwhile. */
export function updateChat(chat) {
  if (localStorage.getItem(CHAT + chat.id) !== null) saveChat(chat);
}

export function removeChat(id) {
  localStorage.removeItem(CHAT + id);
}

export function loadSettings() {
  return read(SETTINGS) ?? {};
}

export function saveSettings(settings) {
  localStorage.setItem(SETTINGS, JSON.stringify(settings));
}
