// Making of elements: text only ever becomes text nodes.

export const $ = (id) => document.getElementById(id);

/** An element with classes and children. */
export function make(tag, name = "", ...children) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.append(...children);
  return node;
}

/** A button; `data` becomes its data attributes, `label` its name for screen readers where the text is a sign. */
export function button(text, data = {}, label = "") {
  const node = make("button", "", text);
  node.type = "button";
  Object.assign(node.dataset, data);
  if (label) {
    node.setAttribute("aria-label", label);
    node.title = label;
  }
  return node;
}

/** Make a node's children equal to `wanted`, and keep those that are equal already: selections in them survive. */
export function update(node, wanted) {
  wanted.forEach((child, i) => {
    const old = node.childNodes[i];
    if (!old) node.append(child);
    else if (!old.isEqualNode(child)) old.replaceWith(child);
  });
  while (node.childNodes.length > wanted.length) node.lastChild.remove();
}

/** Offer a text as a file to save. */
export function download(name, text, type) {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** Put a text on the clipboard, and say so on the button. */
export async function copy(text, source) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages that came over plain HTTP from another machine have no clipboard; this older way still works.
    const area = make("textarea", "hidden", text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const label = source.textContent;
  source.textContent = "Copied";
  setTimeout(() => (source.textContent = label), 1200);
}
