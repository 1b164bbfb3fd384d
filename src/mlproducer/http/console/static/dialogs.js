// Dialogs: one that asks, and the replay, which counts first, then asks, then says what came of it.

import { api, call, linesOf, request } from "./api.js";
import { el, field, setText } from "./dom.js";
import { count } from "./format.js";

/** Shows a dialog; resolves when it is closed, however that happened. The focus goes back to where it was. */
function open(title, content, onClose) {
  const heading = el("h2", { id: "dialog-title" }, title);
  const dialog = el("dialog", { "aria-labelledby": "dialog-title" }, heading, content);
  dialog.addEventListener("close", () => {
    dialog.remove();
    onClose();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** True if the person says yes. */
export function confirmed(title, text, yes) {
  return new Promise((resolve) => {
    let said = false;
    const go = el("button", { type: "button", class: "main" }, yes);
    const no = el("button", { type: "button", autofocus: true }, "Cancel");
    const dialog = open(title, el("div", {}, el("p", {}, text), el("p", { class: "buttons" }, no, go)), () => resolve(said));
    go.addEventListener("click", () => {
      said = true;
      dialog.close();
    });
    no.addEventListener("click", () => dialog.close());
  });
}

/** Replays what `chosen` means (`ids`, or a filter, or `all`); `words` say it. Resolves when the dialog is closed. */
export function replay(chosen, words) {
  return new Promise((resolve) => new Replay(chosen, words, resolve).start());
}

class Replay {
  constructor(chosen, words, resolve) {
    this.chosen = chosen;
    this.words = words;
    this.resolve = resolve;
    this.stop = new AbortController();
    this.said = el("p", { class: "said-now", role: "status" }, "Counting …");
    this.limit = el("input", { type: "number", min: "1", step: "1", inputmode: "numeric" });
    this.rate = el("input", { type: "number", min: "0.1", step: "any", inputmode: "decimal" });
    this.options = el("div", { class: "options", hidden: true },
      field("At most", this.limit, "Tasks; the newest first. Empty: all, at most 10,000 at once."),
      field("Rate", this.rate, "Tasks per second, to spare the workers. Empty: as fast as it goes."));
    this.bar = el("progress", { hidden: true, "aria-label": "Replayed" });
    this.go = el("button", { type: "submit", class: "main", disabled: true }, "Replay");
    this.no = el("button", { type: "button", autofocus: true }, "Cancel");
  }

  start() {
    const form = el("form", { on: { submit: (event) => this.submit(event) } },
      el("p", {}, this.words), this.said, this.options, this.bar, el("p", { class: "buttons" }, this.no, this.go));
    this.dialog = open("Replay dead letters", form, () => {
      this.stop.abort();
      this.resolve();
    });
    this.no.addEventListener("click", () => this.dialog.close());
    this.count();
  }

  /** The dry run. */
  async count() {
    try {
      const found = await call("POST", api("dlq/replay"), { ...this.chosen, dry_run: true });
      this.matched = found.matched;
      if (!found.matched) {
        setText(this.said, "Dry run: none is dead any more. There is nothing to replay.");
        this.no.textContent = "Close";
        return;
      }
      setText(this.said, `Dry run: ${tasks(found.matched)} would go back to the retry queue with all attempts given back. Nothing is changed yet.`);
      this.go.textContent = `Replay ${tasks(found.matched)}`;
      this.go.disabled = false;
      this.options.hidden = found.matched < 2;
    } catch (error) {
      setText(this.said, error.message);
    }
  }

  async submit(event) {
    event.preventDefault();
    if (this.go.disabled) return;
    this.go.disabled = true;
    this.options.hidden = true;
    setText(this.said, "Replaying …");
    const body = { ...this.chosen };
    if (this.limit.value) body.limit = Number(this.limit.value);
    if (this.rate.value) body.rate = Number(this.rate.value);
    try {
      const response = await request("POST", api("dlq/replay"), body, this.stop.signal);
      const done = body.rate ? await this.follow(response) : await response.json();
      setText(this.said, `${tasks(done.replayed)} replayed, ${count(done.left)} left.`);
    } catch (error) {
      if (this.stop.signal.aborted) return;
      setText(this.said, error.message);
    }
    this.bar.hidden = true;
    this.go.remove();
    this.no.textContent = "Close";
    this.no.focus();
  }

  /** A replay with a rate tells as it goes; closing the dialog ends it between two chunks. */
  async follow(response) {
    this.bar.hidden = false;
    this.no.textContent = "Stop";
    for await (const line of linesOf(response)) {
      if (line.error) throw new Error(`${line.error.detail} (${tasks(line.replayed)} replayed before it)`);
      if (line.done) return line;
      this.bar.max = Math.max(1, line.total);
      this.bar.value = line.taken;
      setText(this.said, `${count(line.replayed)} of ${tasks(line.total)} replayed …`);
    }
    throw new Error("The service ended the replay early; the audit tells what was replayed.");
  }
}

const tasks = (n) => `${count(n)} ${n === 1 ? "task" : "tasks"}`;
