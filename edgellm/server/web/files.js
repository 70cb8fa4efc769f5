// Text files and the texts of PDF files that go with a message: attached, dropped or pasted.

import { $, button, make } from "./dom.js";
import { sizeOf } from "./view.js";

const MAX_FILES = 10;
// Characters of a token, at least; a text that is longer than the context by this measure does not fit.
const CHARS_PER_TOKEN = 3;

let files = [];

function show() {
  const chips = files.map(({ name, text }, i) =>
    make("li", "file", `${name} (${sizeOf(text.length)})`, button("✕", { drop: i }, `Remove ${name}`)),
  );
  $("files").replaceChildren(...chips);
  $("files").hidden = !files.length;
}

/** The files that wait, which are gone then. */
export function takeFiles() {
  const taken = files;
  files = [];
  show();
  return taken;
}

export const hasFiles = () => files.length > 0;

/** The text of a file; throws an Error with a sentence for one that has none. */
async function read(file, most) {
  if (file.type === "application/pdf" || /\.pdf$/i.test(file.name)) {
    const { pdfText } = await import("./pdf.js");
    return pdfText(file, most);
  }
  if (file.size > most * 2) throw new Error(`is too long: ${sizeOf(file.size)}`);
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    text = "\0";
  }
  if (text.includes("\0")) throw new Error("is no text file; text, code, CSV, JSON, PDF and the like can be read");
  return text.replaceAll("\r\n", "\n");
}

/** Add files; `refuse` gets a sentence for one that cannot be added. n_ctx: tokens that the model holds, 0: unknown. */
async function add(given, n_ctx, refuse) {
  for (const file of given) {
    if (files.length >= MAX_FILES) {
      refuse(`At most ${MAX_FILES} files go with a message.`);
      break;
    }
    const name = file.name || "pasted.txt";
    try {
      const text = await read(file, n_ctx ? n_ctx * CHARS_PER_TOKEN : Infinity);
      files.push({ name, text });
    } catch (error) {
      const room = error.message.startsWith("is too long") ? `, and the model holds about ${sizeOf(n_ctx * CHARS_PER_TOKEN)} of text` : "";
      refuse(`${name} ${error.message}${room}.`);
    }
  }
  show();
}

/** Connect the button, dropping and pasting. context: tokens that the model holds. */
export function startFiles(context, refuse) {
  const take = (given) => add([...given], context(), refuse);
  $("attach").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", ({ target }) => {
    take(target.files);
    target.value = "";
  });
  $("files").addEventListener("click", (event) => {
    const place = event.target.closest("button")?.dataset.drop;
    if (place === undefined) return;
    files.splice(Number(place), 1);
    show();
    $("input").focus();
  });
  $("input").addEventListener("paste", (event) => {
    if (!event.clipboardData.files.length) return;
    event.preventDefault();
    take(event.clipboardData.files);
  });
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    take(event.dataTransfer.files);
  });
}
