// The page: looks at the server every two seconds, draws what it sees.

import { markWrong, setUpForget } from "./actions.js";
import { Refused, ask, keepKey, keptKey } from "./api.js";
import { byId, make, number, percent, seconds, tree } from "./dom.js";
import { Plot } from "./plot.js";
import { SOURCES, between, firstEdge, quantile, sums, total } from "./rates.js";
import { RequestTable, WORDS, drawComponents, drawSettings, drawTop } from "./tables.js";

const STYLES = { memory: "s0", store: "s1", similar: "s2", joined: "s3", engine: "s4", hook: "s5" };
const EVERY = 2000, KEPT = 300, LATENCY_LOOKS = 15, RECENT = 50;

const looks = [];   // answers of /v1/enhance/series, oldest first, the last few
const points = [];  // what the plots show
let paused = false, timer = null, told = null, plots = null, requests = null;

function start() {
  byId("sign-in").hidden = true;
  byId("main").hidden = false;
  byId("pause").hidden = false;
  byId("sign-out").hidden = !keptKey();
  plots ??= {
    requests: new Plot(byId("plot-requests"), { format: (v) => number(v), lines: SOURCES.map((source) => ({ name: WORDS[source], style: STYLES[source] })) }),
    hits: new Plot(byId("plot-hits"), { format: percent, most: 1, lines: [{ name: "answered without generating", style: "s0" }] }),
    latency: new Plot(byId("plot-latency"), { format: seconds, logarithmic: true, lines: [
      { name: "reused, median", style: "s0" }, { name: "reused, 95th percentile", style: "s0 dashed" },
      { name: "generated, median", style: "s4" }, { name: "generated, 95th percentile", style: "s4 dashed" },
    ] }),
  };
  requests ??= new RequestTable({ explain, markWrong: (found) => report(async () => tell(await markWrong(found))) });
  tick();
}

// Asks for the key if one is wanted, and until the server can be reached.
async function open() {
  clearTimeout(timer);
  await report(async () => { await ask("config"); notice(null); start(); });
  if (byId("main").hidden && byId("sign-in").hidden) timer = setTimeout(open, EVERY);
}

async function tick() {
  clearTimeout(timer);
  if (!paused && !document.hidden) await report(look);
  timer = setTimeout(tick, EVERY);
}

async function look() {
  const [health, stats, series, recent, config] = await Promise.all([
    ask("health"), ask("stats"), ask("series"), ask("requests", { query: { limit: RECENT } }), ask("config"),
  ]);
  remember(series);
  byId("status").textContent = health.status;
  byId("status").className = `badge ${health.status}`;
  const [, of] = stats.api_process ?? [0, 1];
  byId("process").textContent = of > 1 ? `${of} API processes` : "";
  drawTiles(stats, series);
  drawPlots();
  requests.draw(recent.requests);
  drawTop(recent.top, (id) => { requests.open.has(id) || requests.toggle(id); byId("h-requests").scrollIntoView(); });
  drawComponents(health);
  byId("hooks").querySelector(".tree").replaceChildren(tree(stats.hooks ?? {}));
  drawSettings(config);
  notice(null);
}

function remember(series) {
  const before = looks[looks.length - 1];
  looks.push(series);
  if (!before) return;
  const point = between(before, series);
  if (point === null) {
    looks.splice(0, looks.length - 1); // the server has started anew
    points.length = 0;
    return;
  }
  if (looks.length > LATENCY_LOOKS) looks.shift();
  const span = (name, q) => quantile(looks[0], series, name, q);
  point.latency = ["vllm_enhance_replay_seconds", "vllm:e2e_request_latency_seconds"].flatMap((name) => [span(name, 0.5), span(name, 0.95)]);
  for (const line of plots.latency.lines.slice(2)) line.least = firstEdge(series, "vllm:e2e_request_latency_seconds");
  points.push(point);
  if (points.length > KEPT) points.shift();
}

function drawTiles(stats, series) {
  const by = sums(series, "vllm_enhance_requests_total", "source");
  const served = SOURCES.reduce((sum, source) => sum + (by[source] ?? 0), 0);
  const latest = points[points.length - 1];
  const tiles = [
    ["Hit rate", served ? percent((served - (by.engine ?? 0)) / served) : "–", "since the start"],
    ["Requests", number(served), latest ? `${number(latest.served)} per second now` : ""],
    ["Tokens saved", number(total(series, "vllm_enhance_saved_tokens_total")), "not generated again"],
    ["Engine time saved", seconds(total(series, "vllm_enhance_saved_engine_seconds_total")), "by reused answers"],
    ["Under way", number(total(series, "vllm_enhance_inflight_generations")), `${number(total(series, "vllm_enhance_joined_requests"))} joined`],
    ["Faults", number(total(series, "vllm_enhance_faults_total")), stats.enabled === false ? "the plugin stands aside" : "served as plain vLLM"],
  ];
  const similar = measured(series, stats.hooks?.similarity?.mode);
  if (similar) tiles.push(similar);
  byId("tiles").replaceChildren(...tiles.map(([name, value, note]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value, make("small", {}, note || "\u00a0")))));
}

// How often a similar question would do, and how often that would be wrong where an answer was generated all the same.
function measured(series, mode) {
  const actions = sums(series, "vllm_enhance_similarity_decisions_total", "action");
  const considered = Object.values(actions).reduce((a, b) => a + b, 0);
  if (!considered) return null;
  const judged = { same: 0, different: 0 };
  for (const { name, labels, value } of series.series) {
    if (name === "vllm_enhance_similarity_verdicts_total" && labels.action !== "miss") judged[labels.verdict] += value;
  }
  const all = judged.same + judged.different;
  const would = ((actions.reuse ?? 0) + (actions.audit ?? 0)) / considered;
  const name = mode === "shadow" ? "Similar (shadow)" : "Similar";
  return [name, percent(would), all ? `${number(judged.different)} of ${number(all)} judged differed` : "none judged"];
}

function drawPlots() {
  plots.requests.draw(points.map((point) => ({ at: point.at, values: SOURCES.map((source) => point.rates[source]) })));
  plots.hits.draw(points.map((point) => ({ at: point.at, values: [point.hitRate] })));
  plots.latency.draw(points.map((point) => ({ at: point.at, values: point.latency })));
}

async function explain(id) {
  try {
    return await ask(`requests/${encodeURIComponent(id)}`);
  } catch (error) {
    if (error instanceof Refused) signIn(true);
    return null;
  }
}

// Runs something that talks to the server; what goes wrong is shown, and never leaves here.
async function report(action) {
  try {
    await action();
  } catch (error) {
    if (error instanceof Refused) signIn(Boolean(keptKey()));
    else notice(error.message);
  }
}

function notice(text) {
  byId("notice").hidden = !text;
  if (byId("notice").textContent !== (text ?? "")) byId("notice").textContent = text ?? "";
  if (text) {
    byId("status").textContent = "no news";
    byId("status").className = "badge unhealthy";
  }
}

function tell(text) {
  if (!text) return;
  byId("done").textContent = text;
  byId("done").hidden = false;
  clearTimeout(told);
  told = setTimeout(() => { byId("done").hidden = true; }, 8000);
  tick();
}

function signIn(wrong) {
  clearTimeout(timer);
  paused = true;
  keepKey("");
  byId("main").hidden = true;
  byId("pause").hidden = true;
  byId("sign-out").hidden = true;
  byId("notice").hidden = true;
  byId("sign-in").hidden = false;
  byId("refused").hidden = !wrong;
  byId("status").textContent = "locked";
  byId("status").className = "badge";
  byId("key").value = "";
  byId("key").focus();
}

byId("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey(byId("key").value.trim());
  byId("key").value = "";
  paused = false;
  open();
});
byId("sign-out").addEventListener("click", () => signIn(false));
byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "Go on" : "Pause";
  if (!paused) tick();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden && !byId("main").hidden && !paused) tick(); });
setUpForget(report);
open();
