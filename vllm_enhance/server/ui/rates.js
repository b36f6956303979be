// From counters to rates: what happened between two looks at /v1/enhance/series.

export const SOURCES = ["memory", "store", "similar", "joined", "hook", "engine"];
const REQUESTS = "vllm_enhance_requests_total";

// Sum of a counter's samples, by the values of one label.
export function sums(look, name, label) {
  const result = {};
  for (const sample of look.series) {
    if (sample.name === name) {
      const value = label ? sample.labels[label] : "";
      result[value] = (result[value] ?? 0) + sample.value;
    }
  }
  return result;
}

export const total = (look, name) => Object.values(sums(look, name, null)).reduce((a, b) => a + b, 0);

// One point for the plots, or null after a restart of the server (counters went back).
export function between(before, after) {
  const dt = after.at - before.at;
  const old = sums(before, REQUESTS, "source"), now = sums(after, REQUESTS, "source");
  if (dt <= 0 || SOURCES.some((source) => (now[source] ?? 0) < (old[source] ?? 0))) return null;
  const counts = Object.fromEntries(SOURCES.map((source) => [source, (now[source] ?? 0) - (old[source] ?? 0)]));
  const served = Object.values(counts).reduce((a, b) => a + b, 0);
  return {
    at: after.at,
    rates: Object.fromEntries(SOURCES.map((source) => [source, counts[source] / dt])),
    served: served / dt,
    hitRate: served ? (served - counts.engine) / served : NaN,
  };
}

// Quantile of what a histogram took in between two looks, by linear interpolation in the bucket (as Prometheus does).
export function quantile(before, after, name, q) {
  const old = buckets(before, name), now = buckets(after, name);
  const steps = now.map(([edge, count]) => [edge, count - (old.find(([other]) => other === edge)?.[1] ?? 0)]);
  const all = steps.length ? steps[steps.length - 1][1] : 0;
  if (all <= 0) return NaN;
  let lower = 0, below = 0;
  for (const [edge, count] of steps) {
    if (count >= q * all) {
      if (!Number.isFinite(edge)) return lower;
      return lower + (edge - lower) * ((q * all - below) / Math.max(count - below, 1e-9));
    }
    lower = edge;
    below = count;
  }
  return lower;
}

// Upper edge of a histogram's first bucket: of what lies below it, no more is known than that.
export const firstEdge = (look, name) => buckets(look, name)[0]?.[0] ?? 0;

function buckets(look, name) {
  const counts = new Map();
  for (const sample of look.series) {
    if (sample.name === name + "_bucket") {
      const edge = sample.labels.le === "+Inf" ? Infinity : Number(sample.labels.le);
      counts.set(edge, (counts.get(edge) ?? 0) + sample.value);
    }
  }
  return [...counts].sort((a, b) => a[0] - b[0]);
}
