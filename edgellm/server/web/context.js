// The room of a model's context: how full a conversation makes it, and the messages that the model still gets.
// The server leaves out the oldest ones of a conversation that is too long, and says how many.

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
