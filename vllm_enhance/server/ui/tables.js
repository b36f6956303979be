// Tables and lists: recent requests with their explanation, top entries, components, settings.

import { byId, clockTime, make, number, percent, seconds, tree } from "./dom.js";

export const WORDS = {
  memory: "from memory", store: "from the shared store", similar: "similar question", joined: "joined",
  hook: "answered by a hook", engine: "generated",
};

const REUSED = new Set(["memory", "store", "similar", "joined", "hook"]);

const REQUEST_COLUMNS = [
  ["When", "nowrap wide", (r) => clockTime(r.at)],
  ["Request", "", null],
  ["Answer", "", (r) => make("span", { class: `badge ${r.source ?? ""}` }, WORDS[r.source] ?? r.source ?? "under way")],
  ["Why", "wide", (r) => r.reason ?? (r.similarity != null ? `similarity ${r.similarity.toFixed(3)}` : r.source === "engine" ? "miss" : "")],
  ["Question", "question wide", (r) => r.question?.slice(0, 100) ?? ""],
  ["Age", "number wide", (r) => (r.age == null ? "" : seconds(r.age))],
  ["Tokens", "number wide", (r) => (r.output_tokens == null ? "" : number(r.output_tokens))],
  ["Time", "number", (r) => (r.seconds == null ? "" : seconds(r.seconds))],
];

// Redrawn at each look; open explanations and the focus stay where they are.
export class RequestTable {
  constructor({ explain, markWrong }) {
    Object.assign(this, { explain, markWrong, open: new Map(), entries: [], shown: "" });
    byId("requests").tHead.append(head(REQUEST_COLUMNS));
    byId("filter").addEventListener("input", () => this.draw(this.entries, true));
  }

  draw(entries, force = false) {
    const wanted = byId("filter").value.trim().toLowerCase();
    const shown = entries.filter((entry) => !wanted || searched(entry).includes(wanted));
    // What somebody is reading stays, also when newer requests have pushed it out.
    const missing = [...this.open].filter(([id]) => !entries.some((entry) => entry.request_id === id));
    shown.unshift(...missing.map(([id, found]) => found ?? { request_id: id }));
    const print = JSON.stringify([shown, [...this.open]]);
    this.entries = entries;
    if (print === this.shown && !force) return;
    this.shown = print;
    const focus = document.activeElement?.dataset?.spot;
    byId("requests").tBodies[0].replaceChildren(...shown.flatMap((entry) => this.rows(entry)));
    byId("requests").classList.toggle("silent", !shown.some((entry) => entry.question));
    byId("no-requests").hidden = shown.length > 0;
    byId("no-requests").textContent = entries.length ? "No request fits the filter." : "No request yet.";
    if (focus) document.querySelector(`[data-spot="${CSS.escape(focus)}"]`)?.focus();
  }

  rows(entry) {
    const id = entry.request_id;
    const isOpen = this.open.has(id);
    const toggle = make("button", {
      class: "link mono id", type: "button", title: id, "aria-expanded": String(isOpen), "data-spot": id, onclick: () => this.toggle(id),
    }, short(id));
    const cells = REQUEST_COLUMNS.map(([, kind, read]) => make("td", { class: kind }, read ? read(entry) : toggle));
    const row = make("tr", { class: isOpen ? "open" : "" }, ...cells);
    if (!isOpen) return [row];
    return [row, make("tr", {}, make("td", { colspan: REQUEST_COLUMNS.length }, this.why(entry, this.open.get(id))))];
  }

  async toggle(id) {
    if (this.open.has(id)) {
      this.open.delete(id);
    } else {
      this.open.clear();
      this.open.set(id, await this.explain(id));
    }
    this.draw(this.entries, true);
  }

  why(entry, found) {
    if (!found) return make("div", { class: "why" }, "This request is no longer remembered.");
    const button = make("button", {
      type: "button", class: "danger", "data-spot": `wrong ${entry.request_id}`, onclick: () => this.markWrong(found),
    }, "Wrong answer…");
    return make("div", { class: "why" }, ...sentences(found).map((text) => make("p", {}, text)), ...neighbours(found),
      found.key ? button : null, tree(facts(found)));
  }
}

function sentences(found) {
  const lines = [];
  if (found.question) lines.push(`“${found.question}”`);
  if (found.source === "engine") lines.push(found.reason ? because("Generated", found.reason, found.reason_meaning) : "Generated: no stored answer fitted.");
  else if (found.source) lines.push(`Answered without generating: ${WORDS[found.source] ?? found.source}.`);
  if (found.not_stored) lines.push(because("Not kept", found.not_stored, found.not_stored_meaning));
  if (found.nearest) {
    const parts = found.nearest.differs_in.map((part) => part + where(part, found));
    lines.push(parts.length
      ? `The nearest remembered request, ${short(found.nearest.request_id)}, differs in: ${parts.join(", ")}.`
      : `Request ${short(found.nearest.request_id)} has the same key.`);
  }
  for (const [who, what] of found.notes ?? []) lines.push(`${who}: ${what}`);
  return lines;
}

const because = (what, label, meaning) => (meaning ? `${what} (${label}): ${meaning}` : `${what}: ${label}.`);

// In brackets, what is known of how a part of the key differs.
function where(part, { nearest, prompt_tokens: tokens }) {
  if (part === "sampling" && nearest.sampling_fields?.length) return ` (${nearest.sampling_fields.join(", ")})`;
  if (part === "prompt" && nearest.prompt_differs_at != null) return ` (from token ${nearest.prompt_differs_at + 1} of ${tokens} on)`;
  return "";
}

function neighbours(found) {
  if (!found.similar?.length) return [];
  return [make("p", {}, "Nearest questions:"), make("ul", {}, ...found.similar.map((each) => make("li", {},
    `similarity ${each.similarity.toFixed(3)}`, each.refused_by ? `, refused by the guard “${each.refused_by}”` : "",
    each.question ? `: “${each.question}”` : "", make("span", { class: "mono muted" }, ` ${each.key.slice(0, 16)}`))))];
}

function facts(found) {
  const names = { request_id: "request", key: "key", model: "model", tenant: "tenant", prompt_tokens: "prompt tokens", output_tokens: "output tokens" };
  const result = {};
  for (const [name, label] of Object.entries(names)) if (found[name] !== undefined && found[name] !== null && found[name] !== "") result[label] = found[name];
  if (found.decided_seconds !== undefined) result["decided in"] = seconds(found.decided_seconds);
  if (found.nlp_result) result["reading of the question"] = found.nlp_result;
  return result;
}

const searched = (entry) => [entry.request_id, entry.source, WORDS[entry.source], entry.reason, entry.model, entry.question]
  .filter(Boolean).join(" ").toLowerCase();

const short = (id) => (id.length > 30 ? `${id.slice(0, 18)}…${id.slice(-8)}` : id);

function head(columns) {
  return make("tr", {}, ...columns.map(([name, kind]) => make("th", { scope: "col", class: kind }, name)));
}

export function drawTop(top, explain) {
  const columns = [
    ["Question", "question", (t) => make("button", { type: "button", class: t.question ? "link" : "link mono", onclick: () => explain(t.request_id) }, t.question ? t.question.slice(0, 80) : t.key.slice(0, 16))],
    ["Asked", "number", (t) => number(t.requests)],
    ["Reused", "number", (t) => percent(t.reused / t.requests)],
    ["Tokens", "number", (t) => number(t.saved_tokens)],
  ];
  drawTable(byId("top"), columns, top.slice(0, 10));
  byId("no-top").hidden = top.length > 0;
}

export function drawTable(table, columns, rows) {
  const print = JSON.stringify(rows);
  if (table.dataset.print === print) return; // what has not changed keeps its focus
  table.dataset.print = print;
  table.tHead.replaceChildren(head(columns));
  table.tBodies[0].replaceChildren(...rows.map((row) => make("tr", {}, ...columns.map(([, kind, read]) => make("td", { class: kind }, read(row))))));
}

export function drawComponents(health) {
  byId("components").replaceChildren(...(health.components ?? []).map((each) => make("li", {},
    make("span", { class: `badge ${each.status}` }, each.status), make("span", {}, make("b", {}, each.component), make("span", { class: "muted" }, each.detail ? ` ${each.detail}` : "")))));
}

export function drawSettings(config) {
  const columns = [
    ["Setting", "nowrap", (s) => make("code", {}, `--enhance-${s.name}`)],
    ["Value", "", (s) => make("code", {}, s.value === "" ? "unset" : s.value)],
    ["From", "nowrap", (s) => s.from ?? "default"],
  ];
  drawTable(byId("settings").querySelector("table"), columns, Object.entries(config.settings).map(([name, value]) => ({ name, value, from: config.sources?.[name] })));
}

export const isReused = (source) => REUSED.has(source);
