// Conversations and settings in the browser's own storage; each conversation has an entry of its own.

const CHAT = "edgellm.chat.";
const DELETED = "edgellm.deleted";
const SETTINGS = "edgellm.settings";

function read(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
}

function valid(chat) {
  const said = ({ role, content }) => (role === "user" || role === "assistant") && typeof content === "string";
  return typeof chat?.id === "string" && typeof chat.title === "string" && Array.isArray(chat.messages) && chat.messages.every(said);
}

/** All conversations, the one changed last first. */
export function allChats() {
  return Object.keys(localStorage)
    .filter((key) => key.startsWith(CHAT))
    .map(read)
    .filter(valid)
    .sort((a, b) => b.changed - a.changed);
}

/** Conversations in which all words of a text occur. */
export function searchChats(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return allChats().filter((chat) => {
    const all = [chat.title, ...chat.messages.map((message) => message.content)].join("\n").toLowerCase();
    return words.every((word) => all.includes(word));
  });
}

/** A name that cannot be guessed. */
export function randomName() {
  // crypto.randomUUID is missing where a page comes over plain HTTP from another machine.
  const words = crypto.getRandomValues(new Uint32Array(5));
  return Array.from(words, (word) => word.toString(36).padStart(7, "0")).join("");
}

/** A conversation without messages, which is not stored yet. */
export function newChat() {
  return { id: randomName(), title: "New conversation", changed: Date.now(), messages: [] };
}

/** Store a conversation; throws if the browser's storage is full. */
export function saveChat(chat) {
  localStorage.setItem(CHAT + chat.id, JSON.stringify(chat));
}

/** Store a conversation again, unless it has been deleted meanwhile. */
export function updateChat(chat) {
  if (localStorage.getItem(CHAT + chat.id) !== null) saveChat(chat);
}

/** Delete a conversation. everywhere: on a server that keeps them, and on other devices, too. */
export function removeChat(id, { everywhere = true } = {}) {
  localStorage.removeItem(CHAT + id);
  if (everywhere) localStorage.setItem(DELETED, JSON.stringify({ ...deletions(), [id]: Date.now() }));
}

/** The times of deletions that the server does not know yet, by the ids of conversations. */
export function deletions() {
  return read(DELETED) ?? {};
}

export function forgetDeletion(id) {
  const { [id]: _, ...rest } = deletions();
  localStorage.setItem(DELETED, JSON.stringify(rest));
}

/** Every conversation as one text. */
export function exported() {
  return JSON.stringify({ format: "edgellm-chats", version: 1, chats: allChats() }, null, 1);
}

/** Add the conversations of an exported text; those that are here stay as they are. The number added; throws for others. */
export function imported(text) {
  const { format, chats } = JSON.parse(text);
  if (format !== "edgellm-chats" || !Array.isArray(chats) || !chats.every(valid)) throw new Error("no conversations");
  const added = chats.filter((chat) => localStorage.getItem(CHAT + chat.id) === null);
  for (const chat of added) saveChat({ changed: 0, ...chat });
  return added.length;
}

/**
 * Put `messages` in the place of a conversation's messages from `place` on. Those that were there stay, as another
 * version: the first message of a version has {versions, version}, and the entry of the one shown is null.
 */
export function branch(chat, place, messages) {
  const old = chat.messages.splice(place);
  const { versions = [null], version = 0 } = old[0];
  versions[version] = without(old);
  versions.push(null);
  chat.messages.push({ ...messages[0], versions, version: versions.length - 1 }, ...messages.slice(1));
}

/** Show another version of what comes from `place` on. */
export function showVersion(chat, place, wanted) {
  const old = chat.messages.splice(place);
  const { versions, version } = old[0];
  versions[version] = without(old);
  const [first, ...rest] = versions[wanted];
  versions[wanted] = null;
  chat.messages.push({ ...first, versions, version: wanted }, ...rest);
}

/** Forget the version that is shown, and show the one before. */
export function dropVersion(chat, place) {
  const [{ versions, version }] = chat.messages.splice(place);
  versions.splice(version, 1);
  const shown = Math.max(0, version - 1);
  const [first, ...rest] = versions[shown];
  versions[shown] = null;
  chat.messages.push(versions.length > 1 ? { ...first, versions, version: shown } : first, ...rest);
}

function without([first, ...rest]) {
  const { versions: _, version: __, ...kept } = first;
  return [kept, ...rest];
}

export function loadSettings() {
  return read(SETTINGS) ?? {};
}

export function saveSettings(settings) {
  localStorage.setItem(SETTINGS, JSON.stringify(settings));
}
