// Rows of the two queues, as the overview and the pages of their own show them.

import { el } from "./dom.js";
import { bytes, when, words } from "./format.js";

export function taskLink(id) {
  return el("a", { class: "id", href: `#/tasks/${encodeURIComponent(id)}`, title: id }, id);
}

export const WAITING = [["Task", ""], ["Type", "wide"], ["Due", ""], ["Attempts", "num wide"], ["Why it waits", ""], ["Size", "num wide"]];

export function waitingRow(row) {
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, taskLink(row.task_id)),
    el("td", { class: "wide" }, row.task_type),
    el("td", { class: "near" }, when(row.due_at, true)),
    el("td", { class: "num wide" }, String(row.attempts)),
    el("td", { class: "text" }, why(row.cause, null, row.text)),
    el("td", { class: "num wide" }, bytes(row.size)),
  );
}

export const DEAD = [["Task", ""], ["Type", "wide"], ["Died", ""], ["Attempts", "num wide"], ["Why", ""], ["Queue", "wide"]];

export function deadRow(row, before = []) {
  return el(
    "tr",
    {},
    before,
    el("th", { scope: "row" }, taskLink(row.task_id)),
    el("td", { class: "wide" }, row.task_type),
    el("td", { class: "near" }, when(row.died_at, true)),
    el("td", { class: "num wide" }, String(row.attempts)),
    el("td", { class: "text" }, why(row.reason, row.code, row.text)),
    el("td", { class: "wide" }, row.queue),
  );
}

/** The label, the reply code and the words of an attempt or a row. */
export function why(label, code, text) {
  const parts = [el("b", {}, words(label || "unknown"))];
  if (code !== null && code !== undefined) parts.push(" ", el("span", { class: "code" }, String(code)));
  if (text && text !== label) parts.push(" ", el("span", { class: "said" }, text));
  return parts;
}
