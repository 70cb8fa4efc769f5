// The models of the server, and the one that answers.

import { listModels, properties } from "./completion.js";
import { $ } from "./dom.js";
import { sizeOf } from "./view.js";

export const models = [];
const contexts = new Map();

/** The model that answers, as the server lists it. */
export function chosen() {
  return models.find(({ name }) => name === $("model").value) ?? models[0];
}

/** List the models anew; `wanted` is chosen if it is there. */
export async function showModels(key, wanted) {
  const found = await listModels(key);
  models.splice(0, models.length, ...found);
  const value = $("model").value;
  const options = found.map((model) => {
    const facts = [model.parameters, model.quantization, model.size ? sizeOf(model.size) : "", model.state === "unloaded" ? "" : model.state];
    const option = new Option([model.name, ...facts.filter(Boolean)].join(" · "), model.name);
    return option;
  });
  $("model").replaceChildren(...options);
  const names = found.map(({ name }) => name);
  $("model").value = [value, wanted, names[0]].find((name) => names.includes(name)) ?? "";
}

/** Tokens that the chosen model's context holds; 0 as long as nobody knows. */
export function context() {
  return contexts.get(chosen()?.name) ?? 0;
}

/** Ask for the chosen model's context. True if the server keeps conversations. */
export async function learnContext(key) {
  const model = chosen();
  if (!model) return false;
  const found = await properties(model.name, key);
  contexts.set(model.name, found.n_ctx);
  return found.keeps_chats;
}
