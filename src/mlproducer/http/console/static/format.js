// Numbers, sizes and times as people read them.

import { el } from "./dom.js";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

const rough = new Intl.NumberFormat("en", { notation: "compact" });

export const count = (n) => whole.format(n);

/** Where there is little room: 1.1K. */
export const about = (n) => rough.format(n);

/** A rate or another number, with three digits that mean something. */
export function short(n) {
  if (n === null || n === undefined) return "–";
  if (n >= 99.95 || Number.isInteger(n)) return whole.format(n);
  return n >= 9.995 ? n.toFixed(1) : n.toFixed(2);
}

export function seconds(s) {
  if (s === null || s === undefined) return "–";
  if (s < 0.0995) return `${short(s * 1000)} ms`;
  if (s < 1) return `${whole.format(s * 1000)} ms`;
  if (s < 60) return `${short(s)} s`;
  return span(s);
}

/** The same for an axis, where all numbers are round and there is little room. */
export function axisSeconds(s) {
  if (s < 1) return `${short(s * 1000)} ms`;
  return s < 1000 ? `${short(s)} s` : `${short(s / 60)} min`;
}

/** Whole units, the two largest: 2 min 5 s. */
export function span(s) {
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = Math.max(0, units.findIndex(([size]) => s >= size));
  if (s < 1) return "0 s";
  const [size, name] = units[at];
  const rest = units[at + 1];
  const more = rest ? Math.floor((s % size) / rest[0]) : 0;
  return `${Math.floor(s / size)} ${name}${more ? ` ${more} ${rest[1]}` : ""}`;
}

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  for (; n >= 1024 && at < units.length - 1; at += 1) n /= 1024;
  return `${at ? short(n) : n} ${units[at]}`;
}

/** 14:03:22, or with the day before it if that is not today. `at` is Unix seconds. */
export function timeOf(at) {
  const date = new Date(at * 1000);
  const text = clock.format(date);
  return date.toDateString() === new Date().toDateString() ? text : `${day.format(date)} ${text}`;
}

export function relative(at) {
  const s = at - Date.now() / 1000;
  if (Math.abs(s) < 1) return "now";
  return s < 0 ? `${span(-s)} ago` : `in ${span(s)}`;
}

/** A moment: the clock's time, or how far it is (kept current by `tick`). */
export function when(at, far = false) {
  if (at === null || at === undefined) return "–";
  const date = new Date(at * 1000);
  const node = el("time", { datetime: date.toISOString(), title: date.toString() }, far ? relative(at) : timeOf(at));
  if (far) node.dataset.far = String(at);
  return node;
}

export function tick() {
  for (const node of document.querySelectorAll("time[data-far]")) {
    const text = relative(Number(node.dataset.far));
    if (node.textContent !== text) node.textContent = text;
  }
}

/** `not_connected` → `not connected`. */
export const words = (label) => String(label).replaceAll("_", " ");
