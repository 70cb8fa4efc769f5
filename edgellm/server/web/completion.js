// The server's APIs: the models, and answers as they are written.

/** An error with a sentence for a person, the HTTP status, and the server's code for it. */
export class ServerError extends Error {
  constructor(message, status = 0, code = "") {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The connection has ended before the answer did. */
export class LostError extends Error {}

/** A response of the server; throws ServerError or LostError. */
export async function ask(path, key, options = {}) {
  const headers = { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new LostError("The server cannot be reached.");
  }
  if (response.ok) return response;
  let { message, code } = { message: `The server answered ${response.status}.`, code: "" };
  try {
    ({ message, code } = (await response.json()).error);
  } catch {
    // A proxy in between may answer with something that is not JSON.
  }
  throw new ServerError(message, response.status, code);
}

/** The models: {name, state, details}; details has size, parameters and quantization where the server says them. */
export async function listModels(key) {
  const [models, tags] = await Promise.all(
    ["v1/models", "api/tags"].map(async (path) => (await ask(path, key)).json()),
  );
  const details = Object.fromEntries(tags.models.map((one) => [one.name, one]));
  return models.data.map(({ id, status }) => ({
    name: id,
    state: status?.value ?? "",
    size: details[id]?.size ?? 0,
    parameters: (details[id]?.details?.parameter_size ?? "").replace(/\d+\.\d+/, (n) => Number(Number(n).toPrecision(2))),
    quantization: details[id]?.details?.quantization_level ?? "",
  }));
}

/** The states of the models by their names: loaded, loading or unloaded. */
export async function modelStates(key) {
  const { data } = await (await ask("v1/models", key)).json();
  return Object.fromEntries(data.map(({ id, status }) => [id, status?.value]));
}

/** The properties of a model, such as n_ctx, the tokens that its context holds, and of the server. */
export async function properties(model, key) {
  return (await ask(`props?model=${encodeURIComponent(model)}`, key)).json();
}

/** The lines of a response as they come. */
async function* lines(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new LostError("The connection was lost.");
    }
    if (part.done) return;
    const parts = (rest + decoder.decode(part.value, { stream: true })).split("\n");
    rest = parts.pop();
    yield* parts;
  }
}

async function* pieces(response) {
  let finished = false;
  for await (const line of lines(response)) {
    if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
    const chunk = JSON.parse(line.slice(6));
    if (chunk.error) throw new ServerError(chunk.error.message, 0, chunk.error.code);
    if (chunk.prompt_progress) yield { progress: chunk.prompt_progress };
    const choice = chunk.choices[0];
    if (!choice) continue;
    if (choice.delta.reasoning_content) yield { thought: choice.delta.reasoning_content };
    if (choice.delta.content) yield { text: choice.delta.content };
    if (choice.finish_reason) {
      finished = true;
      yield { reason: choice.finish_reason, timings: chunk.timings };
    }
  }
  if (!finished) throw new LostError("The connection was lost.");
}

/**
 * Pieces of an answer: {dropped}, the number of messages that were left out, {progress}, {thought} or {text}, and at the end {reason, timings}. Throws ServerError,
 * LostError, or AbortError once `signal` has been used.
 */
export async function* complete(body, key, signal) {
  const asked = { ...body, stream: true, return_progress: true };
  const response = await ask("v1/chat/completions", key, { method: "POST", body: JSON.stringify(asked), signal });
  const dropped = Number(response.headers.get("X-Edgellm-Dropped-Messages"));
  if (dropped) yield { dropped };
  yield* pieces(response);
}

/** Pieces of an answer that the server keeps, from its beginning. */
export async function* follow(id, key, signal) {
  yield* pieces(await ask(`v1/answers/${id}`, key, { signal }));
}

/** Have an answer end; its pieces then come to their end, too. */
export async function stop(id, key) {
  await ask(`v1/answers/${id}`, key, { method: "DELETE" });
}
