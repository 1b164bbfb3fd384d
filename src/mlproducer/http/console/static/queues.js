// The pages of the retry queue, the dead letters and the audit.

import { api, call } from "./api.js";
import { replay } from "./dialogs.js";
import { el, field, setText, table } from "./dom.js";
import { count, when } from "./format.js";
import { DEAD, WAITING, deadRow, taskLink, waitingRow } from "./rows.js";

const PAGE = 50;
const PAUSE = 3000; // ms between two looks while the queue changes

/** Loads when asked, at most every `PAUSE`, and never twice at once. */
class Loader {
  constructor(load, told) {
    this.load = load;
    this.told = told;
    this.at = -PAUSE;
    this.ended = false;
  }

  soon() {
    if (this.timer || this.ended) return;
    this.timer = setTimeout(() => this.now(), Math.max(0, this.at + PAUSE - performance.now()));
  }

  async now() {
    clearTimeout(this.timer);
    this.timer = null;
    this.at = performance.now();
    const turn = (this.turn = (this.turn ?? 0) + 1);
    try {
      const found = await this.load();
      if (!this.ended && turn === this.turn) this.told(found);
    } catch (error) {
      if (!this.ended && turn === this.turn) this.told(null, error.message);
    }
  }

  end() {
    this.ended = true;
    clearTimeout(this.timer);
  }
}

function pager(go) {
  const back = el("button", { type: "button", on: { click: () => go(-PAGE) } }, "Previous");
  const on = el("button", { type: "button", on: { click: () => go(PAGE) } }, "Next");
  const text = el("span", {});
  const node = el("p", { class: "pager" }, back, text, on);
  function show(offset, length, matched) {
    node.hidden = !offset && length < PAGE;
    back.disabled = !offset;
    on.disabled = matched === null ? length < PAGE : offset + length >= matched;
    setText(text, length ? `${count(offset + 1)} to ${count(offset + length)}` : "none");
  }
  return { node, show };
}

export function retryQueue(main) {
  const place = el("div");
  const note = el("p", { class: "note", role: "status" });
  let offset = 0;
  let size = null;
  const pages = pager((by) => {
    offset = Math.max(0, offset + by);
    loader.now();
  });
  const loader = new Loader(
    () => call("GET", api("retry-queue", { limit: PAGE, offset })),
    (found, error) => {
      setText(note, error ?? "");
      if (!found) return;
      place.replaceChildren(table("Retry queue, by when tasks are due", WAITING, found.tasks.map(waitingRow), "No task waits."));
      pages.show(offset, found.tasks.length, null);
    },
  );
  main.append(
    el("h1", { tabindex: "-1" }, "Retry queue"),
    el("p", { class: "lead" }, "Tasks that are accepted and not confirmed yet. They are safe here and published by themselves when they are due and the broker takes them."),
    el("section", { class: "card rows", "aria-label": "Tasks" }, note, place, pages.node),
  );
  loader.now();
  return {
    tell(name, data) {
      if (name === "waiting") loader.soon();
      if (name === "sample" && data.status.spool_tasks !== size) {
        size = data.status.spool_tasks;
        loader.soon();
      }
    },
    end: () => loader.end(),
  };
}

const REASONS = ["nacked", "returned", "channel_refused", "too_large", "expired"];
const AGES = [["", "any time"], ["3600", "the last hour"], ["86400", "the last day"], ["604800", "the last week"]];

export function deadLetters(main, { types, query }) {
  return new DeadLetters(main, types, query);
}

class DeadLetters {
  constructor(main, types, query) {
    this.offset = 0;
    this.picked = new Set();
    this.size = null;
    this.controls = {
      text: el("input", { type: "search", id: "dead-text", maxlength: "1000", value: query.get("text") ?? "", autocomplete: "off" }),
      task_type: select("dead-type", [["", "any type"], ...types.map((each) => [each, each])], query.get("task_type")),
      reason: select("dead-reason", [["", "any reason"], ...REASONS.map((each) => [each, each.replaceAll("_", " ")])], query.get("reason")),
      newer_than_seconds: select("dead-age", AGES, query.get("newer_than_seconds")),
    };
    this.note = el("p", { class: "note", role: "status" }, "Loading …");
    this.place = el("div");
    this.some = el("button", { type: "button", disabled: true, on: { click: () => this.replaySome() } }, "Replay selected …");
    this.all = el("button", { type: "button", disabled: true, on: { click: () => this.replayAll() } }, "Replay all …");
    this.pages = pager((by) => {
      this.offset = Math.max(0, this.offset + by);
      this.loader.now();
    });
    this.loader = new Loader(() => call("GET", api("dlq", { ...this.where(), limit: PAGE, offset: this.offset })), (found, error) => this.show(found, error));
    this.build(main);
    this.loader.now();
  }

  build(main) {
    const { text, task_type: type, reason, newer_than_seconds: age } = this.controls;
    const changed = (event) => {
      event.preventDefault();
      this.search();
    };
    main.append(
      el("h1", { tabindex: "-1" }, "Dead letters"),
      el("p", { class: "lead" }, "Tasks that spent their attempts, or came too late. Each is kept until it is replayed or removed."),
      el("form", { class: "filters card", role: "search", "aria-label": "Dead letters", on: { submit: changed, change: changed } },
        field("Error text contains", text), field("Type", type), field("Reason", reason), field("Died within", age),
        el("button", { type: "submit" }, "Search")),
      el("section", { class: "card rows", "aria-label": "Found" },
        el("div", { class: "bar" }, this.note, el("p", { class: "buttons" }, this.some, this.all)), this.place, this.pages.node),
    );
  }

  where() {
    return Object.fromEntries(Object.entries(this.controls).map(([name, control]) => [name, control.value.trim()]).filter(([, value]) => value));
  }

  search() {
    this.offset = 0;
    this.picked.clear();
    const query = new URLSearchParams(this.where()).toString();
    history.replaceState(null, "", `#/dead-letters${query ? `?${query}` : ""}`);
    this.loader.now();
  }

  show(found, error) {
    if (!found) {
      setText(this.note, error);
      return;
    }
    this.matched = found.matched;
    const here = new Set(found.dead_letters.map((row) => row.task_id));
    for (const id of this.picked) if (!here.has(id)) this.picked.delete(id);
    const filtered = Object.keys(this.where()).length > 0;
    setText(this.note, filtered ? `${count(found.matched)} found` : `${count(found.matched)} kept`);
    const focused = this.place.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    const rows = found.dead_letters.map((row) => deadRow(row, el("td", { class: "pick" }, this.box(row.task_id))));
    this.place.replaceChildren(table("Dead letters, newest first", [[el("span", { class: "unseen" }, "Select"), "pick"], ...DEAD], rows, filtered ? "None like this." : "No task is dead."));
    if (focused) [...this.place.querySelectorAll("input")].find((each) => each.getAttribute("aria-label") === focused)?.focus();
    this.pages.show(this.offset, found.dead_letters.length, found.matched);
    this.all.textContent = filtered ? `Replay all ${count(found.matched)} found …` : `Replay all ${count(found.matched)} …`;
    this.all.disabled = !found.matched;
    this.pick();
  }

  box(id) {
    const box = el("input", { type: "checkbox", "aria-label": `Select ${id}` });
    box.checked = this.picked.has(id);
    box.addEventListener("change", (event) => {
      event.stopPropagation();
      if (box.checked) this.picked.add(id);
      else this.picked.delete(id);
      this.pick();
    });
    return box;
  }

  pick() {
    this.some.disabled = !this.picked.size;
    this.some.textContent = this.picked.size ? `Replay ${count(this.picked.size)} selected …` : "Replay selected …";
  }

  async replaySome() {
    const ids = [...this.picked];
    await replay({ ids }, ids.length === 1 ? `Task ${ids[0]}` : `${count(ids.length)} selected tasks`);
    this.picked.clear();
    this.loader.now();
  }

  async replayAll() {
    const where = this.where();
    const chosen = Object.keys(where).length ? numbered(where) : { all: true };
    const words = Object.entries(where).map(([name, value]) => `${NAMES[name]} “${value}”`);
    await replay(chosen, words.length ? `All dead letters with ${words.join(", ")}` : "All dead letters");
    this.loader.now();
  }

  tell(name, data) {
    if (name === "dead") this.loader.soon();
    if (name === "sample" && data.status.dead !== this.size) {
      this.size = data.status.dead;
      this.loader.soon();
    }
  }

  end() {
    this.loader.end();
  }
}

const NAMES = { text: "error text", task_type: "type", reason: "reason", newer_than_seconds: "an age in seconds below" };

function numbered(where) {
  return where.newer_than_seconds ? { ...where, newer_than_seconds: Number(where.newer_than_seconds) } : where;
}

function select(id, options, chosen) {
  return el("select", { id }, options.map(([value, text]) => el("option", { value, selected: value === chosen }, text)));
}

export function audit(main) {
  const place = el("div");
  const note = el("p", { class: "note", role: "status" });
  let offset = 0;
  const pages = pager((by) => {
    offset = Math.max(0, offset + by);
    loader.now();
  });
  const columns = [["When", ""], ["Who", ""], ["Did", ""], ["Tasks", "num"], ["Which were meant", "wide"]];
  const loader = new Loader(
    () => call("GET", api("dlq/audit", { limit: PAGE, offset })),
    (found, error) => {
      setText(note, error ?? "");
      if (!found) return;
      place.replaceChildren(table("Who replayed or removed what, newest first", columns, found.audits.map(auditRow), "Nobody replayed or removed a dead letter yet."));
      pages.show(offset, found.audits.length, null);
    },
  );
  main.append(
    el("h1", { tabindex: "-1" }, "Audit"),
    el("p", { class: "lead" }, "Who replayed or removed dead letters. A large replay has a line for each of its chunks."),
    el("section", { class: "card rows", "aria-label": "Entries" }, note, place, pages.node),
  );
  loader.now();
  return { tell() {}, end: () => loader.end() };
}

function auditRow(row) {
  return el("tr", {},
    el("th", { scope: "row" }, when(row.at)),
    el("td", {}, row.by),
    el("td", {}, row.action),
    el("td", { class: "num" }, count(row.count)),
    el("td", { class: "wide text" }, row.task_ids.length === 1 ? taskLink(row.task_ids[0]) : row.detail));
}
