// What is wrong and where: causes, held routes, the broker's queues, refused calls. All of it comes with the verdict.

import { el, table } from "./dom.js";
import { count, short, span, when, words } from "./format.js";

const LEVELS = { green: "Green", amber: "Amber", red: "Red" };
const TAGS = { green: "ok", amber: "warn", red: "bad" };

/** Draws a place anew only if what it shows has changed: the focus and a selection stay. */
export class Place {
  constructor(draw) {
    this.node = el("div");
    this.draw = draw;
    this.drawn = null;
  }

  show(content, at) {
    const key = JSON.stringify(content);
    if (key === this.drawn) return;
    this.drawn = key;
    this.node.replaceChildren(...[this.draw(content, at)].flat());
  }
}

/** Each cause, the worst first, with what mends it. */
export const causes = () => new Place((found) => {
  if (!found.length) return el("p", { class: "empty" }, "Nothing is wrong.");
  return el("ol", { class: "changes causes" }, found.map((cause) => el("li", {},
    when(cause.from, true),
    el("span", { class: `tag ${TAGS[cause.level]}` }, LEVELS[cause.level]),
    el("span", {}, el("b", {}, cause.title), " ", el("span", { class: "said" }, `${cause.text}. To mend it: ${cause.todo}.`)))));
});

/** Numbers that count by the second are left to `when`, which keeps itself current. */
export const causesOf = (status, at) => status.causes.map(({ level, title, text, todo, since }) => ({
  level, title, text, todo, from: since === null ? null : Math.round((at - since) / 2) * 2,
}));

/** The state first: on a phone the numbers are scrolled to. */
const READY = [["Queue", ""], ["State", ""], ["Ready", "num"], ["Consumers", "num"], ["Growth", "num"]];
const TRAFFIC = [["Queue", ""], ["State", ""], ["Ready", "num"], ["Unacked", "num"], ["Consumers", "num"], ["Published", "num"], ["Delivered", "num"], ["Acked", "num"], ["Growth", "num"]];

/** Without the management API nothing is known of what workers hold: its columns are left out, and it is said why. */
export const queues = () => new Place(({ found, note }) => [
  table("Broker queues", note ? READY : TRAFFIC, found.map((queue) => el("tr", {},
    el("th", { scope: "row" }, queue.name),
    el("td", { class: "text" }, stateOf(queue)),
    number(queue, count(queue.ready)),
    note ? [] : number(queue, known(queue.unacked, count)),
    number(queue, count(queue.consumers)),
    note ? [] : [queue.published, queue.delivered, queue.acked].map((rate) => number(queue, known(rate, perSecond))),
    el("td", { class: "num" }, known(queue.growth, growth)))),
  "No queue was looked at yet."),
  el("p", { class: "note" }, `As the last health check found them. ${note ? `What workers hold and the rates are not shown: ${note}.` : "Rates are RabbitMQ's own averages."}`),
]);

export const queuesOf = (status) => ({ found: status.queues, note: status.traffic_note });

const number = (queue, text) => el("td", { class: "num" }, queue.missing ? "–" : text);

const known = (value, say) => (value === null ? "–" : say(value));

function stateOf(queue) {
  if (queue.missing) return [el("span", { class: "tag warn" }, "Missing"), " ", el("span", { class: "said" }, queue.missing)];
  if (queue.ready && !queue.consumers) return el("span", { class: "tag warn" }, "Nobody reads it");
  return queue.consumers ? "is read" : "empty, and nobody reads it";
}

const perSecond = (rate) => `${short(Math.round(rate * 100) / 100)}/s`;

const growth = (rate) => `${rate > 0 ? "+" : ""}${perSecond(rate)}`;

export const routes = () => new Place((found) => table("Held routes", [["Route", ""], ["Why", ""], ["Held since", ""], ["Next probe", ""]],
  found.map((route) => el("tr", {},
    el("th", { scope: "row" }, route.key),
    el("td", { class: "text" }, words(route.reason)),
    el("td", {}, when(route.from, true)),
    el("td", {}, route.failing ? "its tasks spend their attempts" : route.next === null ? "on its way" : when(route.next, true)))),
  "All routes are open."));

export const routesOf = (status, at) => status.routes.map(({ key, reason, failing, since, probe_in }) => ({
  key, reason, failing, from: Math.round(at - since), next: probe_in === null ? null : Math.round(at + probe_in),
}));

/** `SpoolFull 3.2/s, NotInTime 0.1/s`. */
export const refused = (status) => status.refused.map(({ reason, rate }) => `${reason} ${short(rate)}/s`).join(", ") || "none";

/** How full, by what, and for how long it lasts. */
export function fillOf(status) {
  const share = `${short(status.spool_fill * 100)} % of ${status.spool_limit}`;
  return status.spool_full_in === null ? [share, "does not grow"] : [share, `${span(status.spool_full_in)}, as it grows now`];
}
