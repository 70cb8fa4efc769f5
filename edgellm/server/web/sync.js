// Conversations on the server, where its owner keeps them: the newest state of each goes to all devices.

import { allChats, deletions, forgetDeletion, removeChat, saveChat } from "./chats.js";
import { ServerError, ask } from "./completion.js";

let busy = false;
let again = false;

async function send(method, path, key, body) {
  try {
    return await (await ask(path, key, { method, body: body && JSON.stringify(body) })).json();
  } catch (error) {
    if (error instanceof ServerError && [400, 404, 409, 413].includes(error.status)) return null; // a newer state, or none that is kept
    throw error;
  }
}

async function exchange(key) {
  for (const [id, changed] of Object.entries(deletions())) {
    await send("DELETE", `v1/chats/${id}?changed=${changed}`, key);
    forgetDeletion(id);
  }
  const { data } = await (await ask("v1/chats", key)).json();
  const there = new Map(data.map((one) => [one.id, one]));
  const changed = [];
  for (const chat of allChats()) {
    const other = there.get(chat.id);
    there.delete(chat.id);
    if (other?.deleted && other.changed >= chat.changed) {
      removeChat(chat.id, { everywhere: false });
      changed.push(chat.id);
    } else if (!other || chat.changed > other.changed) await send("PUT", `v1/chats/${chat.id}`, key, chat);
    else if (chat.changed < other.changed) there.set(chat.id, other);
  }
  for (const { id, deleted } of there.values()) {
    const chat = deleted ? null : await send("GET", `v1/chats/${id}`, key);
    if (!chat) continue;
    saveChat(chat);
    changed.push(id);
  }
  return changed;
}

/** Bring this browser and the server to the same state. The ids of the conversations that have changed here. */
export async function synchronize(key) {
  again = busy;
  if (busy) return [];
  busy = true;
  try {
    let changed = [];
    do {
      again = false;
      changed = [...changed, ...(await exchange(key))];
    } while (again);
    return changed;
  } catch {
    return []; // the server cannot be reached: the next time will do
  } finally {
    busy = false;
  }
}
