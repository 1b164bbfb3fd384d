// A curve over up to ten minutes, in SVG: its colours are the page's, and it is as sharp as the screen.

import { el, setText, svg } from "./dom.js";
import { span, timeOf } from "./format.js";

const SPANS = [60, 120, 300, 600]; // seconds; the shortest that holds all points is shown
const HEIGHT = 168;
const PAD = { left: 46, right: 10, top: 10, bottom: 22 };
const GAP = 5; // seconds without a sample break the line

/** `series`: [{key, label, kind}], drawn in order; `kind` is a class that the style sheet knows. `show` formats y. */
export class Chart {
  constructor(title, series, show, { strip = false, least = 0, axis = show } = {}) {
    this.series = series;
    this.show = show;
    this.strip = strip;
    this.least = least;
    this.axis = axis;
    this.points = [];
    this.title = title;
    this.now = el("p", { class: "now" });
    this.plot = svg("svg", { class: "plot", role: "img", "aria-label": title });
    this.legend = el("ul", { class: "legend" }, series.map((each) => this.entry(each)));
    this.node = el(
      "figure",
      { class: "chart card" },
      el("figcaption", {}, el("h2", {}, title), this.legend),
      el("div", { class: "canvas" }, this.plot),
      this.now,
    );
    this.width = 0;
    this.hover = null;
    this.watch = new ResizeObserver(([entry]) => {
      this.width = Math.round(entry.contentRect.width);
      this.draw();
    });
    this.watch.observe(this.node.querySelector(".canvas"));
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.point(null));
  }

  entry(each) {
    const mark = svg("svg", { class: "mark", viewBox: "0 0 18 8", "aria-hidden": "true" },
      svg("line", { class: `line ${each.kind}`, x1: 0, x2: 18, y1: 4, y2: 4 }));
    each.value = el("b", {}, "–");
    return el("li", {}, mark, `${each.label} `, each.value);
  }

  update(points) {
    this.points = points;
    this.draw();
  }

  end() {
    this.watch.disconnect();
  }

  point(event) {
    this.hover = null;
    if (event && this.points.length) {
      const box = this.plot.getBoundingClientRect();
      const at = this.to - this.span + ((event.clientX - box.left - PAD.left) / this.inner) * this.span;
      this.hover = this.points.reduce((a, b) => (Math.abs(b.at - at) < Math.abs(a.at - at) ? b : a));
    }
    this.draw();
  }

  draw() {
    const { width, points } = this;
    if (!width) return;
    this.to = points.length ? points.at(-1).at : Date.now() / 1000;
    this.inner = width - PAD.left - PAD.right;
    const age = points.length ? this.to - points[0].at : 0;
    this.span = SPANS.find((span) => span >= age - 1) ?? SPANS.at(-1);
    const seen = points.filter((point) => point.at >= this.to - this.span);
    const values = seen.flatMap((point) => this.series.map((each) => point[each.key] ?? 0));
    const top = ceiling(Math.max(this.least, ...values));
    const x = (at) => PAD.left + ((at - this.to + this.span) / this.span) * this.inner;
    const y = (value) => HEIGHT - PAD.bottom - (value / top) * (HEIGHT - PAD.top - PAD.bottom);
    this.plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.plot.replaceChildren(
      ...this.grid(top, y, width),
      ...this.series.flatMap((each) => curve(seen, each, x, y)),
      ...(this.strip ? levels(seen, x) : []),
      ...this.cross(x, y),
    );
    this.tellValues(seen);
  }

  grid(top, y, width) {
    const lines = [0, 0.5, 1].flatMap((part) => [
      svg("line", { class: "rule", x1: PAD.left, x2: width - PAD.right, y1: y(top * part), y2: y(top * part) }),
      svg("text", { class: "tick", x: PAD.left - 6, y: y(top * part) + 4, "text-anchor": "end" }, this.axis(top * part)),
    ]);
    const times = [[0, `${span(this.span)} ago`, "start"], [0.5, span(this.span / 2), "middle"], [1, "now", "end"]].map(([part, text, anchor]) =>
      svg("text", { class: "tick", x: PAD.left + part * this.inner, y: HEIGHT - 5, "text-anchor": anchor }, text));
    return [...lines, ...times];
  }

  cross(x, y) {
    if (!this.hover) return [];
    const at = x(this.hover.at);
    const dots = this.series
      .filter((each) => this.hover[each.key] !== null)
      .map((each) => svg("circle", { class: `knob ${each.kind}`, cx: at, cy: y(this.hover[each.key]), r: 3.5 }));
    return [svg("line", { class: "cross", x1: at, x2: at, y1: PAD.top, y2: HEIGHT - PAD.bottom }), ...dots];
  }

  tellValues(seen) {
    const point = this.hover ?? seen.at(-1);
    for (const each of this.series) setText(each.value, point ? this.show(point[each.key]) : "–");
    setText(this.now, this.hover ? `at ${timeOf(this.hover.at)}` : "");
    const texts = this.series.map((each) => `${each.label} ${point ? this.show(point[each.key]) : "unknown"}`);
    this.plot.setAttribute("aria-label", `${this.title}, the last ${span(this.span)}; now: ${texts.join(", ")}`);
  }
}

function curve(points, { key, kind }, x, y) {
  const runs = [];
  let run = [];
  for (const point of points) {
    const value = point[key];
    if (run.length && (value === null || point.at - run.at(-1).at > GAP)) {
      runs.push(run);
      run = [];
    }
    if (value !== null) run.push({ at: point.at, value });
  }
  if (run.length) runs.push(run);
  const path = (each) => each.map((p, n) => `${n ? "L" : "M"}${x(p.at).toFixed(1)} ${y(p.value).toFixed(1)}`).join("");
  const area = runs
    .filter((each) => each.length > 1)
    .map((each) => `${path(each)}L${x(each.at(-1).at).toFixed(1)} ${y(0)}L${x(each[0].at).toFixed(1)} ${y(0)}Z`);
  return [
    svg("path", { class: `area ${kind}`, d: area.join("") }),
    svg("path", { class: `line ${kind}`, d: runs.map(path).join("") }),
  ];
}

/** The state over time, under the curve: a bar for each stretch that was not green. */
function levels(points, x) {
  const bars = [];
  for (const [n, point] of points.entries()) {
    const until = points[n + 1]?.at ?? point.at + 1;
    const last = bars.at(-1);
    if (last && last.level === point.level && point.at - last.until < GAP) last.until = until;
    else bars.push({ level: point.level, from: point.at, until });
  }
  return bars.map(({ level, from, until }) =>
    svg("rect", { class: `level ${level}`, x: x(from), width: Math.max(1, x(Math.min(until, points.at(-1).at)) - x(from)), y: HEIGHT - PAD.bottom, height: 4 }));
}

/** The next number that is round, and so is its half: 1, 2 or 4 times a power of ten. */
function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 10].map((n) => n * power).find((n) => n >= value) ?? value;
}
