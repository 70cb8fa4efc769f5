// The server's OpenAI API: the models, and answers as they are written.

function headers(key) {
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

/** An error with a sentence for a person, and the HTTP status. */
export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

async function refusal(response) {
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // A proxy in between may answer with something that is not JSON.
  }
  return new ServerError(message, response.status);
}

/** The names of the models. */
export async function listModels(key) {
  const response = await fetch("v1/models", { headers: headers(key) });
  if (!response.ok) throw await refusal(response);
  return (await response.json()).data.map((model) => model.id);
}

/** The lines of a response as they come. */
async function* lines(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = parts.pop();
    yield* parts;
  }
}

/**
 * Pieces of an answer: {thought} or {text}, and at the end {reason, timings}. Throws ServerError, or AbortError once
 * `signal` has been used.
 */
export async function* complete(body, key, signal) {
  const asked = { ...body, stream: true };
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: headers(key),
    body: JSON.stringify(asked),
    signal,
  });
  if (!response.ok) throw await refusal(response);
  let finished = false;
  for await (const line of lines(response)) {
    if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
    const chunk = JSON.parse(line.slice(6));
    if (chunk.error) throw new ServerError(chunk.error.message);
    const choice = chunk.choices[0];
    if (!choice) continue;
    if (choice.delta.reasoning_content) yield { thought: choice.delta.reasoning_content };
    if (choice.delta.content) yield { text: choice.delta.content };
    if (choice.finish_reason) {
      finished = true;
      yield { reason: choice.finish_reason, timings: chunk.timings };
    }
  }
  if (!finished) throw new ServerError("The connection ended before the answer did.");
}
