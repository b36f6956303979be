// Making elements, always from text: nothing on this page is ever parsed as HTML.

export const byId = (id) => document.getElementById(id);

// make("td", {class: "number"}, "12", child): attributes by name, on* as listeners, children as text or elements.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function makeSvg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

// Any JSON value as nested definition lists.
export function tree(value) {
  if (value === null || typeof value !== "object") return document.createTextNode(plain(value));
  const rows = Object.entries(value);
  if (!rows.length) return document.createTextNode("none");
  return make("dl", { class: "facts" }, ...rows.flatMap(([name, inner]) => [
    make("dt", {}, name.replaceAll("_", " ")), make("dd", {}, tree(inner)),
  ]));
}

function plain(value) {
  if (typeof value === "number" && !Number.isInteger(value)) return String(Number(value.toPrecision(4)));
  if (value === true) return "yes";
  if (value === false) return "no";
  return value === null || value === undefined ? "–" : String(value);
}

export function number(value, digits = 1) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return (value / 1e9).toFixed(digits) + " G";
  if (size >= 1e6) return (value / 1e6).toFixed(digits) + " M";
  if (size >= 1e4) return (value / 1e3).toFixed(digits) + " k";
  return String(Number(value.toPrecision(3)));
}

export function seconds(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value < 1e-3) return (value * 1e6).toFixed(0) + " µs";
  if (value < 1) return Number((value * 1e3).toPrecision(value < 0.01 ? 2 : 3)) + " ms";
  if (value < 120) return Number(value.toPrecision(3)) + " s";
  if (value < 7200) return (value / 60).toFixed(0) + " min";
  return value < 172800 ? (value / 3600).toFixed(1) + " h" : (value / 86400).toFixed(1) + " d";
}

export const percent = (share) => (Number.isFinite(share) ? (100 * share).toFixed(1) + "%" : "–");

export const clockTime = (unix) =>
  unix ? new Date(unix * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" }) : "–";
