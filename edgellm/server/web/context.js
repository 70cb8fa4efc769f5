// The room of a model's context: how full a conversation makes it, and leaving out its oldest messages.

// So full, a conversation is shortened before the next question, and to so much of its text.
const FULL = 0.85;
const KEPT = 0.6;

const length = (messages) => messages.reduce((sum, message) => sum + textOf(message).length, 0);

/** A message with the files that came with it, as the model gets it. */
export function textOf(message) {
  const files = (message.files ?? []).map(({ name, text }) => `File ${name}:\n\`\`\`\n${text}\n\`\`\`\n\n`);
  return files.join("") + message.content;
}

/** The messages that the model gets. */
export function kept(chat) {
  return chat.messages.slice(chat.dropped ?? 0);
}

/** After another version has come from `place` on: the last question up to there is not left out. */
export function keepFrom(chat, place) {
  const question = chat.messages.findLastIndex((message, i) => i <= place && message.role === "user");
  chat.dropped = Math.min(chat.dropped ?? 0, Math.max(0, question));
}

/** Tokens that the conversation took at its last answer; 0 before the first. */
export function tokens(chat) {
  const timings = chat.messages.findLast((message) => message.timings)?.timings;
  return timings ? timings.cache_n + timings.prompt_n + timings.predicted_n : 0;
}

/** True if the next answer would have little room in a context of so many tokens. */
export function isFull(chat, n_ctx) {
  return n_ctx > 0 && tokens(chat) > FULL * n_ctx;
}

/** Leave out the oldest exchanges; false if nothing but the last question is left. */
export function dropOldest(chat) {
  const all = chat.messages;
  const most = KEPT * length(kept(chat));
  const before = chat.dropped ?? 0;
  let place = before;
  // The kept part begins with a question.
  const next = () => all.findIndex((message, i) => i > place && message.role === "user");
  while (next() > 0 && (place === before || length(all.slice(place)) > most)) place = next();
  chat.dropped = place;
  return place > before;
}
