// A small line plot over time, in SVG. Colours come from classes, so that dark mode and printing follow the style sheet.

import { make, makeSvg } from "./dom.js";

const HEIGHT = 190, LEFT = 52, RIGHT = 8, TOP = 8, BOTTOM = 22, LEAST_SPAN = 30;

// Plot(box, {format, lines: [{name, style}], most}): draw(points) with points [{at, values: [...]}], NaN for gaps.
export class Plot {
  constructor(box, { format, lines, most = null, logarithmic = false, span = 600 }) {
    Object.assign(this, { box, format, lines, most, logarithmic, span, points: [], pointer: null });
    this.svg = makeSvg("svg", { role: "img", preserveAspectRatio: "none" });
    this.legend = make("ul", { class: "legend" });
    box.replaceChildren(this.svg, this.legend);
    this.svg.addEventListener("pointermove", (event) => {
      this.pointer = event.clientX - this.svg.getBoundingClientRect().left;
      this.paint();
    });
    this.svg.addEventListener("pointerleave", () => { this.pointer = null; this.paint(); });
    new ResizeObserver(() => this.paint()).observe(box);
  }

  draw(points) {
    this.points = points;
    this.paint();
  }

  paint() {
    const width = Math.max(this.box.clientWidth, 160);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.replaceChildren();
    const seen = this.points.flatMap((point) => point.values).filter(Number.isFinite);
    if (!seen.length) {
      this.svg.append(makeSvg("text", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle", class: "empty" }, "waiting for requests"));
      this.describe(null);
      return;
    }
    const last = this.points[this.points.length - 1].at;
    const since = Math.max(Math.min(this.points[0].at, last - LEAST_SPAN), last - this.span);
    const toX = (at) => LEFT + ((at - since) / Math.max(last - since, 1)) * (width - LEFT - RIGHT);
    const toY = this.scale(seen);
    this.axes(width, toY, last - since);
    this.lines.forEach((line, index) => {
      if (!this.points.some((point) => point.values[index] > 0)) return; // nothing but an axis drawn over
      for (const path of runs(this.points, index, toX, toY)) {
        this.svg.append(makeSvg("path", { d: path, class: `line ${line.style}` }));
      }
    });
    this.describe(this.marked(toX, width));
  }

  scale(seen) {
    const bottom = HEIGHT - BOTTOM;
    if (this.logarithmic) {
      const positive = seen.filter((value) => value > 0);
      const low = Math.floor(Math.log10(Math.min(...positive, 1))), high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...positive, 1e-6))));
      const toY = (value) => bottom - ((Math.log10(Math.max(value, 10 ** low)) - low) / (high - low)) * (bottom - TOP);
      const step = Math.ceil((high - low) / 5);
      toY.ticks = Array.from({ length: Math.floor((high - low) / step) + 1 }, (_, i) => 10 ** (low + i * step));
      return toY;
    }
    const most = this.most ?? niceCeiling(Math.max(...seen));
    const toY = (value) => bottom - (value / most) * (bottom - TOP);
    toY.ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => share * most);
    return toY;
  }

  axes(width, toY, span) {
    for (const tick of toY.ticks) {
      const y = toY(tick);
      this.svg.append(makeSvg("line", { x1: LEFT, x2: width - RIGHT, y1: y, y2: y, class: "grid" }));
      this.svg.append(makeSvg("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, this.format(tick)));
    }
    const ago = span < 90 ? `${Math.round(span)} s ago` : `${Math.round(span / 60)} min ago`;
    this.svg.append(makeSvg("text", { x: LEFT, y: HEIGHT - 5 }, ago));
    this.svg.append(makeSvg("text", { x: width - RIGHT, y: HEIGHT - 5, "text-anchor": "end" }, "now"));
  }

  // The point under the pointer, or the latest.
  marked(toX) {
    const point = this.pointer === null ? null : this.points.reduce((best, each) =>
      Math.abs(toX(each.at) - this.pointer) < Math.abs(toX(best.at) - this.pointer) ? each : best);
    if (point) {
      const x = toX(point.at);
      this.svg.append(makeSvg("line", { x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM, class: "cursor" }));
    }
    return point ?? this.points[this.points.length - 1];
  }

  tell(line, value) {
    return value < (line.least ?? 0) ? `under ${this.format(line.least)}` : this.format(value);
  }

  describe(point) {
    const shown = this.lines.map((line, index) => [line, point ? this.tell(line, point.values[index]) : "–"]);
    this.legend.replaceChildren(...shown.map(([line, value]) => make("li", {},
      makeSvg("svg", { viewBox: "0 0 18 8", "aria-hidden": "true" }, makeSvg("line", { x1: 0, x2: 18, y1: 4, y2: 4, "stroke-width": 3, class: line.style })),
      `${line.name} `, make("b", {}, value))));
    this.svg.setAttribute("aria-label", shown.map(([line, value]) => `${line.name}: ${value}`).join(", "));
  }
}

function runs(points, index, toX, toY) {
  const paths = [];
  let path = "";
  for (const point of points) {
    const value = point.values[index];
    if (!Number.isFinite(value)) {
      if (path) paths.push(path);
      path = "";
      continue;
    }
    path += `${path ? "L" : "M"}${toX(point.at).toFixed(1)} ${toY(value).toFixed(1)}`;
  }
  // A lone point is a line of no length, which would not show.
  return [...paths, path].filter(Boolean).map((each) => (each.includes("L") ? each : `${each}h-3`));
}

function niceCeiling(value) {
  if (value <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 10].map((factor) => factor * unit).find((candidate) => candidate >= value);
}
