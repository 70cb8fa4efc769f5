// The dialogs: settings, which only Save keeps, and the key of the server.

import { $ } from "./dom.js";

export const SAMPLING = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];
const dialog = $("settings");
const access = $("access");

/** Show the colours that are chosen. */
export function showTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  const dark = theme === "dark" || (!theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.querySelector("meta[name=theme-color]").content = dark ? "#151918" : "#ffffff";
}

/** Open the settings; `onSave` gets those that were changed. */
export function openSettings(settings, onSave) {
  const fields = [...dialog.querySelectorAll("[name]")];
  for (const element of fields) element.value = settings[element.name] ?? "";
  dialog.returnValue = "";
  dialog.addEventListener(
    "close",
    () => {
      if (dialog.returnValue !== "save") return; // Esc and Cancel change nothing
      const given = fields.map(({ name, value }) => [name, !SAMPLING.includes(name) ? value : value === "" ? null : Number(value)]);
      onSave(Object.fromEntries(given));
    },
    { once: true },
  );
  dialog.showModal();
}

/** Ask for the server's key. reason: a sentence if one was refused. */
export function askForKey(reason, onKey) {
  const field = access.querySelector("input");
  $("key-wrong").textContent = reason;
  $("key-wrong").hidden = !reason;
  field.value = "";
  field.setAttribute("aria-invalid", String(Boolean(reason)));
  access.querySelector("form").onsubmit = (event) => {
    event.preventDefault();
    const key = field.value.trim();
    if (!key) return;
    access.close();
    onKey(key);
  };
  if (!access.open) access.showModal();
  field.focus();
}

$("cancel-settings").addEventListener("click", () => dialog.close());
access.addEventListener("cancel", (event) => event.preventDefault()); // without the key there is nothing to see

export const isOpen = () => dialog.open || access.open;
