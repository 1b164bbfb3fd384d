// The live stream: server-sent events, closed while nobody sees the page, and honest about being old.

const OLD = 4000; // ms without a sample: four were due
const AGAIN = 1500; // ms until the next try, where the browser does not try by itself

const EVENTS = ["history", "sample", "changes", "waiting", "dead"];

export class Stream {
  /** `tell(name, data)` for each event; `state("live" | "old" | "off")` when that changes. */
  constructor(tell, state) {
    this.tell = tell;
    this.state = state;
    this.source = null;
    this.at = 0;
    this.timer = setInterval(() => this.look(), 500);
    this.visible = () => (document.hidden ? this.shut() : this.open());
    document.addEventListener("visibilitychange", this.visible);
    this.open();
  }

  open() {
    if (this.source) return;
    const source = new EventSource("console/events");
    this.source = source;
    this.at = performance.now();
    for (const name of EVENTS) {
      source.addEventListener(name, (event) => {
        this.at = performance.now();
        if (name === "sample") this.state("live");
        this.tell(name, JSON.parse(event.data));
      });
    }
    source.addEventListener("error", () => {
      if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
      this.shut();
      dispatchEvent(new Event("stream-refused"));
      setTimeout(() => this.timer && !document.hidden && this.open(), AGAIN);
    });
  }

  look() {
    if (this.source && performance.now() - this.at > OLD) this.state("old");
  }

  shut() {
    this.source?.close();
    this.source = null;
    this.state("off");
  }

  end() {
    clearInterval(this.timer);
    this.timer = null;
    document.removeEventListener("visibilitychange", this.visible);
    this.shut();
  }
}
