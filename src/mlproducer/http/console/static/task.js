// One task: where it is, what became of each attempt, and what it would tell the worker.

import { Problem, api, call } from "./api.js";
import { replay } from "./dialogs.js";
import { el } from "./dom.js";
import { bytes, count, when, words } from "./format.js";
import { why } from "./rows.js";

const STATES = {
  confirmed: ["ok", "RabbitMQ routed it to a durable queue and confirmed it."],
  in_flight: ["warn", "It is being published now."],
  accepted: ["warn", "It is being accepted now."],
  spooled: ["warn", "It is safe here and will be published."],
  dead: ["bad", "It spent its attempts. It is kept here until somebody replays or removes it."],
  expired: ["bad", "It came too late. It is kept here until somebody replays or removes it."],
};
const PLACES = { spooled: "retry-queue", dead: "dlq", expired: "dlq" };

export function task(main, { id }) {
  const place = el("div", { class: "task" });
  main.append(el("h1", { tabindex: "-1" }, "Task"), el("p", { class: "lead id-line" }, id), place);
  const page = { ended: false, shown: "", busy: false, at: 0 };

  async function load() {
    page.busy = true;
    page.at = performance.now();
    const found = await look(id);
    page.busy = false;
    const text = JSON.stringify(found);
    if (page.ended || text === page.shown) return;
    page.shown = text;
    place.replaceChildren(...(found.receipt ? parts(found, again) : [el("p", { class: "notice", role: "status" }, found.error)]));
    page.settled = !PLACES[found.receipt?.state] && !["accepted", "in_flight"].includes(found.receipt?.state);
  }

  async function again() {
    await replay({ ids: [id] }, `Task ${id}`);
    await load();
    main.querySelector("h1").focus();
  }

  load();
  return {
    tell(name) {
      if (name === "sample" && !page.busy && !page.settled && performance.now() - page.at > 1500) load();
    },
    end: () => (page.ended = true),
  };
}

async function look(id) {
  const name = encodeURIComponent(id);
  try {
    const receipt = await call("GET", api(`tasks/${name}`));
    const where = PLACES[receipt.state];
    const whole = where ? await call("GET", api(`${where}/${name}`)).catch(() => null) : null;
    return { receipt, whole: whole?.task_id === id ? whole : null };
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return { error: error.message };
  }
}

function parts({ receipt, whole }, again) {
  const [level, text] = STATES[receipt.state] ?? ["warn", ""];
  const dead = PLACES[receipt.state] === "dlq";
  const left = el("div", { class: "stack" },
    el("section", { class: "card stack" },
      el("h2", {}, "State"),
      el("p", {}, el("span", { class: `tag ${level}` }, words(receipt.state)), " ", text),
      dead && el("p", { class: "act" }, el("button", { type: "button", class: "main", on: { click: again } }, "Replay …"))),
    el("section", { class: "card facts" }, el("h2", {}, "Facts"), facts(receipt, whole)));
  const right = el("section", { class: "card stack" }, el("h2", {}, "History"), history(receipt, whole));
  const below = whole && el("section", { class: "card stack all" }, el("h2", {}, "What the worker would see"), content(whole.message));
  return [left, right, below].filter(Boolean);
}

function history(receipt, whole) {
  const steps = [step(receipt.accepted_at, "ok", el("b", {}, "accepted"))];
  for (const each of whole?.history ?? []) steps.push(step(each.at, "bad", ["attempt: ", why(each.outcome, each.code, each.text)]));
  if (whole?.died_at) steps.push(step(whole.died_at, "bad", [el("b", {}, "dead: "), why(whole.reason, whole.code, null)]));
  if (receipt.state === "spooled") {
    steps.push(step(whole?.due_at ?? receipt.next_attempt_at, "warn", [el("b", {}, "next attempt "), when(whole?.due_at ?? receipt.next_attempt_at, true)]));
  }
  if (receipt.confirmed_at) steps.push(step(receipt.confirmed_at, "ok", el("b", {}, "confirmed")));
  const none = !whole && receipt.state === "confirmed" && receipt.attempts > 0;
  return el("div", {},
    el("ol", { class: "steps" }, steps),
    none && el("p", { class: "hint" }, `${count(receipt.attempts)} attempts were spent before; their lines went with the task.`));
}

function step(at, level, content) {
  return el("li", { class: level }, when(at), el("span", {}, content));
}

function facts(receipt, whole) {
  const pairs = [
    ["Type", receipt.task_type],
    ["Attempts spent", count(receipt.attempts)],
    ["Queue", whole?.queue],
    ["Size", whole && bytes(whole.size)],
    ["Expires", whole?.expires_at && when(whole.expires_at)],
    ["Last error", receipt.reason],
  ].filter(([, value]) => value);
  return el("dl", {}, pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function content(message) {
  const text = JSON.stringify(message, null, 2);
  return el("pre", { tabindex: "0", role: "region", "aria-label": "Message" }, text.length > 20000 ? `${text.slice(0, 20000)}\n… (${count(text.length)} characters)` : text);
}
