// What changes something on the server, each behind a question.

import { ask } from "./api.js";
import { byId } from "./dom.js";

// Resolves to true when the person said yes. Escape and Cancel are no.
export function confirmed(title, text, yes) {
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = yes;
  const dialog = byId("confirm");
  settle(false); // a question that was closed a moment ago, and has not been told yet
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    settle = (answer) => { settle = () => {}; resolve(answer); };
  });
}

let settle = () => {};

// The event comes a little after the closing: when the next question is open by then, it is none of its own.
byId("confirm").addEventListener("close", () => { if (!byId("confirm").open) settle(byId("confirm").returnValue === "yes"); });

export async function markWrong(found) {
  const sure = await confirmed("Wrong answer?", `The stored answer of request ${found.request_id} is forgotten and not given again.`, "Forget it");
  if (!sure) return null;
  const result = await ask("feedback", { method: "POST", body: { request_id: found.request_id, verdict: "wrong" } });
  return `Marked as wrong; ${count(result.removed)} forgotten.`;
}

const HINTS = { age: "15m, 2h, 7d", key: "64 hex digits", tenant: "32 hex digits, or self", model: "served model name", all: "" };

// The form "Forget stored answers": counts first, forgets after a confirmation that tells the count.
export function setUpForget(report) {
  const scope = byId("scope"), value = byId("value"), result = byId("forget-result");
  const query = (dry) => ({ scope: scope.value, ...(scope.value === "all" ? {} : { value: value.value.trim() }), dry_run: dry });
  const counted = async () => (await ask("cache", { method: "DELETE", query: query(true) })).removed;
  const show = () => {
    byId("value-label").hidden = scope.value === "all";
    value.placeholder = HINTS[scope.value];
    result.textContent = "";
  };
  scope.addEventListener("change", () => { value.value = ""; show(); });
  show();
  byId("forget").addEventListener("submit", (event) => {
    event.preventDefault();
    report(async () => { result.textContent = `${count(await counted())} would go.`; });
  });
  byId("forget-now").addEventListener("click", () => report(async () => {
    const what = scope.value === "all" ? "Everything" : scope.selectedOptions[0].textContent + " " + value.value.trim();
    const sure = await confirmed("Forget stored answers?", `${what}: ${count(await counted())} of this server will be forgotten. This cannot be undone.`, "Forget");
    if (sure) result.textContent = `${count((await ask("cache", { method: "DELETE", query: query(false) })).removed)} forgotten.`;
  }));
}

const count = (n) => (n === 1 ? "1 stored answer" : `${n ?? 0} stored answers`);
