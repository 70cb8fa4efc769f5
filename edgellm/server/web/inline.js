// Markdown within a line: emphasis, code, links, formulas, entities, breaks. What hostile text can cost is bounded.

import { formula } from "./maths.js";

export const MAX_DEPTH = 8;
const MAX_LINE = 20000;
// Longest marks first; the text within one is bounded, or many open marks would take quadratic time.
const INLINE = new RegExp(
  [
    /(?<ticks>`+)(?<code>.{1,500}?)\k<ticks>(?!`)/,
    /\$\$(?<display>[^$]{1,2000}?)\$\$/,
    /\\\[(?<display2>.{1,2000}?)\\\]/,
    /\\\((?<math>.{1,1000}?)\\\)/,
    // As pandoc has it: no space inside the marks, and no digit after, or prices would become formulas.
    /\$(?![\s$])(?<math2>(?:\\.|[^$\\]){0,500}?(?:\\.|[^\s$\\]))\$(?![\d$])/,
    /\*\*\*(?<both>\S.{0,500}?)\*\*\*(?!\*)/,
    /\*\*(?!\*)(?<strong>\S.{0,500}?)\*\*(?!\*)/,
    /__(?<strong2>\S.{0,500}?)__(?!\w)/,
    /~~(?<gone>\S.{0,500}?)~~/,
    /\*(?![*\s])(?<em>(?:[^*]|\*\*[^*]{1,200}\*\*){1,300}?)\*(?!\*)/,
    /\b_(?<em2>\S[^_]{0,500}?)_\b/,
    /!?\[(?<label>[^\]]{0,1000})\]\((?<address>[^()\s]{1,2000})(?:\s+"[^"]{0,200}")?\)/,
    /(?<bare>https?:\/\/[^\s<>"')\]]{1,2000})/,
    /&(?<entity>#\d{1,7}|#[xX][\da-fA-F]{1,6}|[A-Za-z]{2,8});/,
    /(?<line><br ?\/?>)/,
    /\\(?<escaped>[\\`*_{}[\]()#+\-.!~|>$<&])/,
  ]
    .map((part) => part.source)
    .join("|"),
  "g",
);
const ENTITIES = {
  amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", copy: "©", reg: "®", trade: "™", hellip: "…",
  mdash: "—", ndash: "–", lsquo: "‘", rsquo: "’", ldquo: "“", rdquo: "”", laquo: "«", raquo: "»", bull: "•",
  middot: "·", deg: "°", plusmn: "±", times: "×", divide: "÷", le: "≤", ge: "≥", ne: "≠", larr: "←", rarr: "→",
  uarr: "↑", darr: "↓", harr: "↔", infin: "∞", sum: "∑", radic: "√", euro: "€", pound: "£", yen: "¥", cent: "¢",
  sect: "§", para: "¶", micro: "µ", alpha: "α", beta: "β", gamma: "γ", delta: "δ", lambda: "λ", mu: "μ", pi: "π",
  sigma: "σ", omega: "ω", Delta: "Δ", Omega: "Ω", frac12: "½", frac14: "¼", sup2: "²", sup3: "³", check: "✓",
};

function make(tag, ...children) {
  const node = document.createElement(tag);
  node.append(...children);
  return node;
}

function link(address, children) {
  if (!/^(https?:\/\/|mailto:)/i.test(address)) return children;
  const node = make("a", ...children);
  node.href = address;
  node.target = "_blank";
  node.rel = "noopener noreferrer";
  return [node];
}

function character(entity, whole) {
  if (entity[0] !== "#") return ENTITIES[entity] ?? whole;
  const code = /^#x/i.test(entity) ? parseInt(entity.slice(2), 16) : parseInt(entity.slice(1), 10);
  return code > 31 && code < 0x110000 && (code < 0xd800 || code > 0xdfff) ? String.fromCodePoint(code) : whole;
}

/** The nodes of one line's text. */
export function inline(text, depth = 0) {
  if (depth > MAX_DEPTH || text.length > MAX_LINE) return [text];
  const nodes = [];
  const within = (part) => inline(part, depth + 1);
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole] = match;
    const found = match.groups;
    if (match.index > end) nodes.push(text.slice(end, match.index));
    end = match.index + whole.length;
    if (found.code !== undefined) nodes.push(make("code", found.code.trim() || found.code));
    else if (found.display ?? found.display2) nodes.push(formula(found.display ?? found.display2, true));
    else if (found.math ?? found.math2) nodes.push(formula(found.math ?? found.math2, false));
    else if (found.both) nodes.push(make("strong", make("em", ...within(found.both))));
    else if (found.strong ?? found.strong2) nodes.push(make("strong", ...within(found.strong ?? found.strong2)));
    else if (found.gone) nodes.push(make("del", ...within(found.gone)));
    else if (found.em ?? found.em2) nodes.push(make("em", ...within(found.em ?? found.em2)));
    else if (found.address) nodes.push(...link(found.address, within(found.label || found.address)));
    else if (found.entity) nodes.push(character(found.entity, whole));
    else if (found.line) nodes.push(make("br"));
    else if (found.bare) {
      const kept = found.bare.replace(/[.,;:!?*_]+$/, "");
      nodes.push(...link(kept, [kept]), found.bare.slice(kept.length));
    } else nodes.push(found.escaped);
  }
  if (end < text.length) nodes.push(text.slice(end));
  return nodes;
}
