// Formulas as MathML, which browsers draw themselves. KaTeX comes with the first formula, and only then.

const MAX_FORMULA = 2000;
const MAX_DRAWN = 500;
const OPTIONS = { output: "mathml", throwOnError: true, strict: "ignore", maxSize: 20, maxExpand: 300 };

let loading = null;
const waiting = new Set();
const drawings = new Map(); // an answer that streams asks for each of its formulas again and again

function load() {
  loading ??= new Promise((resolve) => {
    const script = document.createElement("script");
    script.src = new URL("./katex.min.js", import.meta.url);
    script.addEventListener("load", resolve);
    document.head.append(script);
  }).then(() => {
    for (const draw of waiting) draw();
    waiting.clear();
  });
}

function draw(node, tex, display) {
  const key = `${display} ${tex}`;
  if (!drawings.has(key)) {
    if (drawings.size >= MAX_DRAWN) drawings.clear();
    const drawn = document.createElement("span");
    try {
      globalThis.katex.render(tex, drawn, { ...OPTIONS, displayMode: display });
    } catch {
      drawn.textContent = tex; // no formula, or one with commands that KaTeX does not know
    }
    drawings.set(key, drawn);
  }
  node.replaceChildren(...drawings.get(key).cloneNode(true).childNodes);
}

/** A node for a formula in TeX; the TeX itself stands there until KaTeX has come. */
export function formula(tex, display) {
  const node = document.createElement("span");
  node.className = display ? "formula display" : "formula";
  if (display) {
    node.tabIndex = 0; // wide ones scroll, and the keyboard must reach them
    node.role = "group";
    node.ariaLabel = "Formula";
  }
  node.textContent = tex;
  if (tex.length > MAX_FORMULA) return node;
  if (globalThis.katex) draw(node, tex, display);
  else {
    load();
    waiting.add(() => draw(node, tex, display));
  }
  return node;
}

/** Resolves once all formulas that were asked for are drawn. */
export async function drawn() {
  await loading;
}
