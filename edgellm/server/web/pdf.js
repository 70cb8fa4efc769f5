// Text of PDF files, by pdf.js, which is loaded when the first one comes.

import { sizeOf } from "./view.js";

let library = null;

/** The text of a file, page by page; throws an Error with a sentence without text, or with more than `most` characters. */
export async function pdfText(file, most) {
  library ??= await import("./pdfjs.min.mjs");
  library.GlobalWorkerOptions.workerSrc = new URL("./pdfjs.worker.min.mjs", import.meta.url).href;
  const task = library.getDocument({
    data: await file.arrayBuffer(),
    isEvalSupported: false,
    disableFontFace: true,
    useWasm: false,
    verbosity: 0,
  });
  try {
    return await textOf(await task.promise, most);
  } catch (error) {
    if (error.name === "PasswordException") throw new Error("asks for a password; save it without one");
    if (error.name === "InvalidPDFException") throw new Error("is damaged, or no PDF file");
    throw error;
  } finally {
    await task.destroy();
  }
}

async function textOf(pdf, most) {
  const pages = [];
  let length = 0;
  for (let number = 1; number <= pdf.numPages; number++) {
    const { items } = await (await pdf.getPage(number)).getTextContent();
    const text = items.map(({ str, hasEOL }) => (str ?? "") + (hasEOL ? "\n" : "")).join("").trim();
    length += text.length;
    if (length > most) throw new Error(`is too long: page ${number} of ${pdf.numPages} is beyond ${sizeOf(most)}`);
    pages.push(text);
  }
  if (!length) throw new Error("holds no text; pictures of pages cannot be read");
  return pages.join("\n\n");
}
