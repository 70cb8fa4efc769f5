// Markdown to DOM nodes. Text only ever becomes text nodes, so nothing in it can become markup, and links lead
// to web and mail addresses only. What hostile text can cost is bounded.

import { button, make } from "./dom.js";
import { highlight } from "./highlight.js";
import { MAX_DEPTH, inline } from "./inline.js";
import { formula } from "./maths.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(\s+)(.*)$/;
const TASK = /^\[([ xX])\]\s+/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const FORMULA = /^\s*(?:\$\$|\\\[)(.*)$/;
const FORMULA_END = /^(.*?)(?:\$\$|\\\])\s*$/;
const MAX_FORMULA_LINES = 60;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

function paragraph(lines) {
  const nodes = lines.flatMap((line, i) => [...(i ? [make("br")] : []), ...inline(line.trim())]);
  return make("p", "", ...nodes);
}

function codeBlock(language, lines) {
  const text = lines.join("\n");
  const pre = make("pre", "", make("code", "", ...highlight(text, language)));
  pre.tabIndex = 0; // wide code scrolls, and the keyboard must reach it
  return make("div", "code", make("div", "", make("span", "", language), button("Copy", { action: "copy-code" })), pre);
}

/** The texts of a row's cells; a pipe after a backslash belongs to its cell. */
function cells(line) {
  const parts = line.trim().replaceAll("\\|", "\0").replace(/^\|/, "").split("|").slice(0, 64);
  if (!parts.at(-1).trim() && parts.length > 1) parts.pop();
  return parts.map((cell) => cell.trim().replaceAll("\0", "|"));
}

function table(lines) {
  const sides = cells(lines[1]).map((mark) => (mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "right") : ""));
  const row = (line, tag) => make("tr", "", ...cells(line).map((cell, i) => make(tag, sides[i] ?? "", ...inline(cell))));
  const rows = lines.slice(2).map((line) => row(line, "td"));
  const box = make("div", "table", make("table", "", make("thead", "", row(lines[0], "th")), make("tbody", "", ...rows)));
  box.tabIndex = 0;
  box.role = "group";
  box.ariaLabel = "Table";
  return box;
}

/** The item's content, with a box before it where it is a task. */
function listItem(lines, depth) {
  const task = TASK.exec(lines[0]);
  if (!task) return make("li", "", ...tight(blocks(lines, depth)));
  const box = make("input");
  box.type = "checkbox";
  box.disabled = true;
  box.defaultChecked = task[1] !== " ";
  box.ariaLabel = box.defaultChecked ? "done" : "to do";
  return make("li", "task", box, ...tight(blocks([lines[0].slice(task[0].length), ...lines.slice(1)], depth)));
}

/** A list out of lines of which the first is an item; deeper lines belong to the item above them. */
function list(lines, depth) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const node = make(/\d/.test(mark) ? "ol" : "ul");
  if (node.tagName === "OL") node.start = parseInt(mark, 10);
  let item = [];
  let width = 0; // columns before the item's text, which its other lines have, too
  const close = () => item.length && node.append(listItem(item, depth + 1));
  for (const line of lines) {
    const match = ITEM.exec(line);
    if (match && match[1].length < indent.length + 2) {
      close();
      width = match[1].length + match[2].length + (match[3].length > 4 ? 1 : match[3].length);
      item = [match[4]];
    } else {
      item.push(line.slice(Math.min(width, line.search(/\S|$/))));
    }
  }
  close();
  return node;
}

/** An item of one paragraph is written without its margins. */
function tight(nodes) {
  return nodes[0]?.tagName === "P" ? [...nodes[0].childNodes, ...nodes.slice(1)] : nodes;
}

/** The line after a formula that begins at a line; the line itself if none ends. */
function formulaEnd(lines, from) {
  const first = FORMULA.exec(lines[from])[1];
  const marks = first.match(/\$\$|\\\]/g) ?? [];
  if (marks.length) return marks.length === 1 && FORMULA_END.test(first) ? from + 1 : from;
  for (let i = from + 1; i < Math.min(lines.length, from + MAX_FORMULA_LINES); i++) {
    if (FORMULA_END.test(lines[i])) return i + 1;
  }
  return from;
}

function blocks(lines, depth) {
  if (depth > MAX_DEPTH) return [paragraph(lines)];
  const found = [];
  let text = [];
  const close = () => {
    if (text.length) found.push(paragraph(text));
    text = [];
  };
  for (let i = 0; i < lines.length; ) {
    const line = lines[i];
    const from = i;
    let match;
    if ((match = FENCE.exec(line))) {
      close();
      const end = new RegExp(`^ {0,3}${match[1][0]}{${match[1].length},}\\s*$`);
      for (i++; i < lines.length && !end.test(lines[i]); ) i++;
      found.push(codeBlock(match[2], lines.slice(from + 1, i)));
      i++; // a fence that is still open holds the rest
    } else if (!line.trim()) {
      close();
      i++;
    } else if ((match = HEADING.exec(line))) {
      close();
      found.push(make(`h${Math.min(6, match[1].length + 1)}`, "", ...inline(match[2].replace(/\s+#+\s*$/, ""))));
      i++;
    } else if (RULE.test(line)) {
      close();
      found.push(make("hr"));
      i++;
    } else if ((match = FORMULA.exec(line)) && (i = formulaEnd(lines, from)) > from) {
      close();
      const tex = lines.slice(from, i).join("\n").replace(/^\s*(?:\$\$|\\\[)/, "").replace(/(?:\$\$|\\\])\s*$/, "");
      found.push(formula(tex.trim(), true));
    } else if (QUOTE.test(line)) {
      close();
      while (i < lines.length && QUOTE.test(lines[i])) i++;
      const quoted = lines.slice(from, i).map((one) => one.replace(QUOTE, ""));
      found.push(make("blockquote", "", ...blocks(quoted, depth + 1)));
    } else if (ITEM.test(line)) {
      close();
      const ordered = /^\s*\d/.test(line);
      for (i++; i < lines.length; i++) {
        const next = lines[i];
        const deeper = /^\s{2,}\S/.test(next);
        const item = ITEM.exec(next);
        if (item && (deeper || /\d/.test(item[2]) === ordered)) continue;
        if (deeper || (next.trim() === "" && i + 1 < lines.length && (ITEM.test(lines[i + 1]) || /^\s{2,}\S/.test(lines[i + 1])))) continue;
        break;
      }
      found.push(list(lines.slice(from, i), depth));
    } else if (line.includes("|") && i + 1 < lines.length && lines[i + 1].includes("-") && DIVIDER.test(lines[i + 1])) {
      close();
      while (i < lines.length && lines[i].includes("|")) i++;
      found.push(table(lines.slice(from, i)));
    } else {
      text.push(line);
      i++;
    }
  }
  close();
  return found;
}

/** Levels of headings for a screen reader, which must not leave any out; models begin with any, and keep their sizes. */
function levelled(nodes) {
  let level = 1; // the title of the conversation
  for (const node of nodes) {
    for (const heading of /^H\d$/.test(node.tagName) ? [node] : node.querySelectorAll("h2, h3, h4, h5, h6")) {
      const own = Number(heading.tagName[1]);
      level = Math.min(own, level + 1);
      if (level < own) heading.setAttribute("aria-level", level);
    }
  }
  return nodes;
}

/** The nodes of a markdown text. */
export function markdown(text) {
  return levelled(blocks(text.replaceAll("\r", "").split("\n"), 0));
}
