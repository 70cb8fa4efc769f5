// Markdown to DOM nodes. Text only ever becomes text nodes, so nothing in it can become markup, and links lead
// to web and mail addresses only. What hostile text can cost is bounded.

const MAX_DEPTH = 8;
const MAX_LINE = 20000;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
// Longest marks first; the text within one is bounded, or many open marks would take quadratic time.
const INLINE =
  /(`+)(.{1,500}?)\1(?!`)|\*\*(\S.{0,500}?)\*\*|__(\S.{0,500}?)__(?!\w)|~~(\S.{0,500}?)~~|\*(\S[^*]{0,500}?)\*|\b_(\S[^_]{0,500}?)_\b|!?\[([^\]]{0,1000})\]\(([^()\s]{1,2000})(?:\s+"[^"]{0,200}")?\)|(https?:\/\/[^\s<>"')\]]{1,2000})|\\([\\`*_{}[\]()#+\-.!~|>])/g;

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

/** The nodes of one line's text. */
function inline(text, depth = 0) {
  if (depth > MAX_DEPTH || text.length > MAX_LINE) return [text];
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, , code, strong, strong2, gone, em, em2, label, address, bare, escaped] = match;
    if (match.index > end) nodes.push(text.slice(end, match.index));
    end = match.index + whole.length;
    if (code !== undefined) nodes.push(make("code", code.trim() || code));
    else if (strong ?? strong2) nodes.push(make("strong", ...inline(strong ?? strong2, depth + 1)));
    else if (gone) nodes.push(make("del", ...inline(gone, depth + 1)));
    else if (em ?? em2) nodes.push(make("em", ...inline(em ?? em2, depth + 1)));
    else if (address) nodes.push(...link(address, inline(label || address, depth + 1)));
    else if (bare) {
      const kept = bare.replace(/[.,;:!?]+$/, "");
      nodes.push(...link(kept, [kept]), bare.slice(kept.length));
    } else nodes.push(escaped);
  }
  if (end < text.length) nodes.push(text.slice(end));
  return nodes;
}

function paragraph(lines) {
  const nodes = lines.flatMap((line, i) => [...(i ? [make("br")] : []), ...inline(line.trim())]);
  return make("p", ...nodes);
}

function codeBlock(language, lines) {
  const button = make("button", "Copy");
  button.type = "button";
  button.dataset.action = "copy-code";
  const block = make("div", make("div", make("span", language), button), make("pre", make("code", lines.join("\n"))));
  block.className = "code";
  return block;
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split("|").slice(0, 64);
}

function table(lines) {
  const row = (line, tag) => make("tr", ...cells(line).map((cell) => make(tag, ...inline(cell.trim()))));
  const box = make(
    "div",
    make("table", make("thead", row(lines[0], "th")), make("tbody", ...lines.slice(2).map((line) => row(line, "td")))),
  );
  box.className = "table";
  return box;
}

/** A list out of lines of which the first is an item; deeper lines belong to the item above them. */
function list(lines, depth) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const node = document.createElement(/\d/.test(mark) ? "ol" : "ul");
  if (node.tagName === "OL") node.start = parseInt(mark, 10);
  let item = [];
  const close = () => item.length && node.append(make("li", ...tight(blocks(item, depth + 1))));
  for (const line of lines) {
    const match = ITEM.exec(line);
    if (match && match[1].length < indent.length + 2) {
      close();
      item = [match[3]];
    } else {
      item.push(line.replace(new RegExp(`^\\s{0,${indent.length + 2}}`), ""));
    }
  }
  close();
  return node;
}

/** An item of one paragraph is written without its margins. */
function tight(nodes) {
  return nodes[0]?.tagName === "P" ? [...nodes[0].childNodes, ...nodes.slice(1)] : nodes;
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
      found.push(make(`h${Math.min(6, match[1].length + 1)}`, ...inline(match[2].replace(/\s+#+\s*$/, ""))));
      i++;
    } else if (RULE.test(line)) {
      close();
      found.push(make("hr"));
      i++;
    } else if (QUOTE.test(line)) {
      close();
      while (i < lines.length && QUOTE.test(lines[i])) i++;
      const quoted = lines.slice(from, i).map((one) => one.replace(QUOTE, ""));
      found.push(make("blockquote", ...blocks(quoted, depth + 1)));
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

/** The nodes of a markdown text. */
export function markdown(text) {
  return blocks(text.replaceAll("\r", "").split("\n"), 0);
}
