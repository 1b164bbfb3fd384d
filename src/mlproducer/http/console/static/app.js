// The console: signs in, listens, and shows the page that the address names.

import { call, operator, remember } from "./api.js";
import { byId, el, field, setText, toast } from "./dom.js";
import { about, tick } from "./format.js";
import { overview } from "./overview.js";
import { audit, deadLetters, retryQueue } from "./queues.js";
import { Stream } from "./stream.js";
import { task } from "./task.js";

const TABS = [["overview", "#/", "Overview"], ["retry-queue", "#/retry-queue", "Retry queue"], ["dead-letters", "#/dead-letters", "Dead letters"], ["audit", "#/audit", "Audit"]];
const WORDS = { ok: "Green", warn: "Amber", bad: "Red" };
const LIVE = { live: "Live", old: "No news from the service", off: "Not connected" };
const KEPT = 600;

const app = { session: null, stream: null, view: null, title: "mlproducer", level: null, latest: new Map(), past: { points: [] } };

async function begin() {
  try {
    const session = await call("GET", "console/session");
    if (session.signed_in) enter(session);
    else signIn();
  } catch (error) {
    byId("main").replaceChildren(el("h1", { tabindex: "-1" }, "mlproducer"), el("p", { class: "notice", role: "alert" }, error.message));
  }
}

function signIn(why = "") {
  leave();
  document.title = "Sign in – mlproducer";
  const key = el("input", { type: "password", name: "key", required: true, autocomplete: "current-password", maxlength: "1024" });
  const name = el("input", { type: "text", name: "operator", maxlength: "64", pattern: "[!-~]([ -~]{0,62}[!-~])?", autocomplete: "username", value: operator() });
  const note = el("p", { class: "error", role: "alert" }, why);
  const send = async (event) => {
    event.preventDefault();
    setText(note, "");
    try {
      const session = await call("POST", "console/session", { key: key.value });
      operator(name.value.trim());
      enter(session);
    } catch (error) {
      setText(note, error.message);
      key.select();
      key.focus();
    }
  };
  byId("main").replaceChildren(
    el("form", { class: "card sign-in", on: { submit: send } },
      el("img", { src: "console/icon.svg", alt: "", width: "40", height: "40" }),
      el("h1", { tabindex: "-1" }, "Sign in to mlproducer"),
      field("API key", key, "One of ML_API_KEYS."),
      field("Your name", name, "For the audit of replays; may stay empty."),
      note,
      el("button", { type: "submit", class: "main" }, "Sign in")),
  );
  key.focus();
}

function enter(session) {
  app.session = session;
  remember(session);
  byId("top").hidden = false;
  byId("verdict").hidden = false;
  byId("sign-out").hidden = !session.by_key;
  byId("tabs").replaceChildren(...TABS.map(([name, href, text]) => el("li", {}, el("a", { href, id: `tab-${name}` }, text, " ", el("span", { class: "badge", hidden: true })))));
  app.stream = new Stream(tell, live);
  route(false);
}

function leave() {
  app.stream?.end();
  app.view?.end();
  Object.assign(app, { session: null, stream: null, view: null, level: null, latest: new Map(), past: { points: [] } });
  remember({});
  byId("top").hidden = true;
  byId("verdict").hidden = true;
}

function tell(name, data) {
  if (name === "history") app.past.points = pointsOf(data);
  if (name === "sample") {
    app.past.points.push(data.sample);
    if (app.past.points.length > KEPT) app.past.points.shift();
    head(data);
  }
  if (name !== "history") app.latest.set(name, data);
  app.view?.tell(name, data);
}

/** Columns to points. */
function pointsOf(columns) {
  return columns.at.map((_, n) => Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values[n]])));
}

function head({ verdict, status }) {
  if (app.level !== verdict.level) {
    app.level = verdict.level;
    paint(verdict.level);
  }
  setText(byId("verdict-title"), verdict.title);
  setText(byId("verdict-detail"), verdict.detail);
  badge("retry-queue", status.spool_tasks);
  badge("dead-letters", status.dead);
  const title = `${WORDS[verdict.level]}: ${app.title} – mlproducer`;
  if (document.title !== title) document.title = title;
}

function badge(name, size) {
  const node = document.querySelector(`#tab-${name} .badge`);
  node.hidden = !size;
  setText(node, about(size));
}

function live(state) {
  byId("live").className = `live ${state}`;
  setText(byId("live-text"), LIVE[state]);
  document.body.classList.toggle("stale", state !== "live");
  if (state === "old" && app.level !== "old") {
    // Better no answer than an old one that looks like a new one.
    app.level = "old";
    paint("bad");
    setText(byId("verdict-title"), "The service does not answer");
    setText(byId("verdict-detail"), "Everything below is from before. Is the service running, and the network there?");
    document.title = `Red: ${app.title} – mlproducer`;
  }
}

function paint(level) {
  const place = byId("verdict");
  place.classList.remove("ok", "warn", "bad");
  place.classList.add(level);
  setText(byId("verdict-word"), WORDS[level]);
}

function route(focus = true) {
  if (!app.session) return;
  const [path, query] = location.hash.slice(1).split("?");
  const [name = "", id = ""] = path.replace(/^\//, "").split("/");
  const main = byId("main");
  app.view?.end();
  main.replaceChildren();
  const [tab, title] = show(main, name, decoded(id), new URLSearchParams(query ?? ""));
  app.title = title;
  document.title = `${title} – mlproducer`;
  for (const [each] of TABS) {
    if (each === tab) byId(`tab-${each}`).setAttribute("aria-current", "page");
    else byId(`tab-${each}`).removeAttribute("aria-current");
  }
  app.view.tell("history", null);
  for (const [event, data] of app.latest) app.view.tell(event, data);
  if (focus) {
    scrollTo(0, 0);
    main.querySelector("h1").focus({ preventScroll: true });
  }
}

function show(main, name, id, query) {
  switch (name) {
    case "retry-queue":
      app.view = retryQueue(main);
      return [name, "Retry queue"];
    case "dead-letters":
      app.view = deadLetters(main, { types: app.session.task_types, query });
      return [name, "Dead letters"];
    case "audit":
      app.view = audit(main);
      return [name, "Audit"];
    case "tasks":
      app.view = task(main, { id });
      return ["", "Task"];
    default:
      app.view = overview(main, app.past);
      return ["overview", "Overview"];
  }
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

byId("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = byId("find-id").value.trim();
  if (id) location.hash = `#/tasks/${encodeURIComponent(id)}`;
});
byId("sign-out").addEventListener("click", async () => {
  try {
    await call("DELETE", "console/session");
    signIn();
  } catch (error) {
    toast(error.message);
  }
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
addEventListener("hashchange", () => route());
addEventListener("signed-out", () => app.session && signIn("The session is over. Sign in again."));
addEventListener("stream-refused", () => app.session && call("GET", "console/session").then((found) => {
  if (!found.signed_in && app.session) signIn("The session is over. Sign in again.");
}, () => {}));
setInterval(tick, 1000);
begin();
