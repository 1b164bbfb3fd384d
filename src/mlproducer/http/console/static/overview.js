// The overview: what passes, what waits, what is dead, and the two levers.

import { api, call } from "./api.js";
import { Chart } from "./chart.js";
import { confirmed } from "./dialogs.js";
import { el, setText, table, toast } from "./dom.js";
import { axisSeconds, bytes, count, seconds, short, span, when, words } from "./format.js";
import { DEAD, WAITING, deadRow, waitingRow } from "./rows.js";
import { causes, causesOf, fillOf, queues, queuesOf, refused, routes, routesOf } from "./state.js";

const TILES = [
  ["accepted", "Accepted", "per second"],
  ["confirmed", "Confirmed", "per second"],
  ["p95", "Accept to confirm", "95 % within"],
  ["in_flight", "In flight", "waiting for a confirm"],
  ["waiting", "Retry queue", ""],
  ["dead", "Dead letters", ""],
];

export function overview(main, past) {
  const tiles = new Map(TILES.map(([key, title, note]) => [key, tile(title, note)]));
  const charts = makeCharts();
  const link = facts("Connection", ["State", "Broker", "Next attempt", "Failed attempts", "Last confirm", "Last error"]);
  const guard = facts("Circuit breaker", ["State", "Failures in a row", "Next probe"]);
  const spool = facts("Spool", ["Tasks", "Size", "Oldest", "Fill", "Full in", "Refused calls", "Service up"]);
  const reconnect = el("button", { type: "button", on: { click: () => askReconnect(latest) } }, "Reconnect");
  const reset = el("button", { type: "button", on: { click: resetBreaker } }, "Reset breaker");
  link.node.append(el("p", { class: "act" }, reconnect));
  guard.node.append(el("p", { class: "act" }, reset));
  const places = { waiting: el("div"), dead: el("div"), changes: el("div") };
  const found = { causes: causes(), queues: queues(), routes: routes() };
  let latest = null;

  main.append(
    el("h1", { class: "unseen", tabindex: "-1" }, "Overview"),
    el("section", { class: "card rows" }, el("h2", {}, "What is wrong"), found.causes.node),
    el("dl", { class: "tiles" }, [...tiles.values()].map((each) => each.node)),
    el("div", { class: "charts" }, charts.map((each) => each.node)),
    numbers(past),
    el("div", { class: "cards" }, link.node, guard.node, spool.node),
    el("section", { class: "card rows" }, el("h2", {}, "Broker queues"), found.queues.node),
    el("section", { class: "card rows" }, el("h2", {}, "Held routes"), found.routes.node),
    el("div", { class: "pair" },
      section("Retry queue", "#/retry-queue", places.waiting),
      section("Dead letters", "#/dead-letters", places.dead)),
    section("What changed", null, places.changes),
  );

  function show({ sample, status }) {
    latest = status;
    for (const key of ["accepted", "confirmed"]) setText(tiles.get(key).value, short(sample[key]));
    setText(tiles.get("p95").value, seconds(sample.p95));
    setText(tiles.get("in_flight").value, count(sample.in_flight));
    setText(tiles.get("waiting").value, count(sample.waiting));
    setText(tiles.get("dead").value, count(sample.dead));
    setText(tiles.get("waiting").note, status.spool_oldest_age === null ? "nothing waits" : `oldest ${span(status.spool_oldest_age)}`);
    setText(tiles.get("dead").note, sample.dead ? "need a person" : "none");
    tiles.get("dead").node.classList.toggle("warn", sample.dead > 0);
    tiles.get("waiting").node.classList.toggle("warn", sample.waiting > 0 && sample.level !== "ok");
    const next = status.next_attempt_in === null ? "–" : when(Math.round(sample.at + status.next_attempt_in), true);
    link.show([words(status.connection), status.node, next, count(status.reconnect_attempts), when(status.last_confirm_at, true), status.last_error || "none"]);
    const probe = status.breaker_probe_in === null ? "–" : when(Math.round(sample.at + status.breaker_probe_in), true);
    guard.show([words(status.breaker), count(status.breaker_failures), probe]);
    spool.show([count(status.spool_tasks), bytes(status.spool_bytes), status.spool_oldest_age === null ? "–" : span(status.spool_oldest_age), ...fillOf(status), refused(status), span(status.uptime)]);
    found.causes.show(causesOf(status, sample.at));
    found.queues.show(queuesOf(status));
    found.routes.show(routesOf(status, sample.at));
    setText(reconnect, status.connection === "connected" ? "Reconnect" : "Try now");
    link.node.classList.toggle("bad", status.connection !== "connected" || status.blocked);
    guard.node.classList.toggle("bad", status.breaker === "open");
    spool.node.classList.toggle("bad", ["some_refused", "refused"].includes(status.new_tasks));
  }

  const tell = {
    history: () => charts.forEach((each) => each.update(past.points)),
    sample: (data) => {
      show(data);
      charts.forEach((each) => each.update(past.points));
    },
    waiting: (rows) => fill(places.waiting, table("Retry queue, the next ten", WAITING, rows.map(waitingRow), "No task waits.")),
    dead: (rows) => fill(places.dead, table("Dead letters, the newest ten", DEAD, rows.map((row) => deadRow(row)), "No task is dead.")),
    changes: (rows) => fill(places.changes, changesList(rows)),
  };
  return { tell: (name, data) => tell[name]?.(data), end: () => charts.forEach((each) => each.end()) };
}

function makeCharts() {
  return [
    new Chart("Throughput, tasks per second", [
      { key: "accepted", label: "accepted", kind: "two" },
      { key: "confirmed", label: "confirmed", kind: "one filled" },
    ], short, { strip: true }),
    new Chart("Accept to confirm", [
      { key: "p99", label: "99 %", kind: "three" },
      { key: "p95", label: "95 %", kind: "two" },
      { key: "p50", label: "half", kind: "one filled" },
    ], seconds, { axis: axisSeconds }),
    new Chart("Kept here", [
      { key: "waiting", label: "retry queue", kind: "one filled" },
      { key: "dead", label: "dead letters", kind: "four" },
    ], short, { least: 2 }),
  ];
}

/** The curves as a table, a row a minute, made when it is opened. */
function numbers(past) {
  const place = el("div");
  const open = (event) => {
    if (!event.target.open) return place.replaceChildren();
    const rows = minutes(past.points).map((p) => el("tr", {},
      el("th", { scope: "row" }, when(p.at)),
      [short(p.accepted), short(p.confirmed), seconds(p.p50), seconds(p.p95), count(p.waiting), count(p.dead)].map((text) => el("td", { class: "num" }, text))));
    const columns = [["Time", ""], ["Accepted/s", "num"], ["Confirmed/s", "num"], ["Half within", "num"], ["95 % within", "num"], ["Retry queue", "num"], ["Dead letters", "num"]];
    fill(place, table("The curves as numbers", columns, rows, "No numbers yet."));
  };
  return el("details", { class: "numbers", on: { toggle: open } }, el("summary", {}, "The curves as numbers"), place);
}

function minutes(points) {
  return points.filter((point, n) => n === points.length - 1 || Math.floor(point.at / 60) !== Math.floor(points[n + 1].at / 60)).reverse();
}

function tile(title, text) {
  const value = el("dd", { class: "value" }, "–");
  const note = el("dd", { class: "note" }, text);
  return { node: el("div", { class: "tile" }, el("dt", {}, title), value, note), value, note };
}

function facts(title, names) {
  const values = names.map(() => el("dd", {}, "–"));
  const list = el("dl", {}, names.map((name, n) => el("div", {}, el("dt", {}, name), values[n])));
  return {
    node: el("section", { class: "card facts" }, el("h2", {}, title), list),
    show: (found) => found.forEach((value, n) => (value instanceof Node ? values[n].replaceChildren(value) : setText(values[n], value))),
  };
}

function section(title, href, place) {
  place.append(el("p", { class: "empty" }, "Loading …"));
  return el("section", { class: "card rows" }, el("h2", {}, href ? el("a", { href }, title) : title), place);
}

/** Keeps the keyboard's place where a row is drawn anew. */
function fill(place, content) {
  const active = place.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  place.replaceChildren(content);
  if (active) [...place.querySelectorAll("a")].find((each) => each.getAttribute("href") === active)?.focus();
}

const LEVELS = { ok: "Green", warn: "Amber", bad: "Red" };

function changesList(rows) {
  return el("ol", { class: "changes" }, rows.slice(0, 12).map((row) => el("li", {},
    when(row.at),
    el("span", { class: `tag ${row.level}` }, LEVELS[row.level]),
    el("span", {}, el("b", {}, row.title), " ", el("span", { class: "said" }, row.detail)))));
}

async function askReconnect(status) {
  if (status?.connection === "connected") {
    const text = "The link works. Closing it makes what is in flight unsure: those tasks are published again, and a worker may see some twice.";
    if (!(await confirmed("Reconnect now?", text, "Close and reconnect"))) return;
  }
  await act("connection/reconnect", "Reconnecting.");
}

const resetBreaker = () => act("circuit-breaker/reset", "The circuit breaker is closed.");

async function act(path, done) {
  try {
    await call("POST", api(path));
    toast(done);
  } catch (error) {
    toast(error.message);
  }
}
