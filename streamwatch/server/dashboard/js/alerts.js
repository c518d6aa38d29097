// All alerts: list, filter, review, evidence.

import { api } from "./api.js";
import { arrange, h, say, setText } from "./dom.js";
import { Evidence } from "./evidence.js";
import { duration, KINDS, kindWords, moment, number, REVIEWS, score } from "./format.js";

const SHOWN = { active: "Active", unreviewed: "Unreviewed", all: "All" };
const PAGE = 50;

export function openAlerts(context, selected) {
  const page = new Alerts(context, selected);
  return { title: "Alerts", element: page.element, close: () => page.close() };
}

class Alerts {
  #rows = new Map();
  #known = new Map();
  #next = null;
  #show = "all";
  #loads = 0;

  constructor(context, selected) {
    this.context = context;
    this.selected = selected ?? null;
    this.#build();
    this.unlisten = context.store.listen((kind, id) => {
      if (kind === "alert" && id) this.#take([context.store.alerts.get(id)]);
      if (kind === "alert" && !id) this.#load();
    });
    this.timer = setInterval(() => this.#list(), 1000);
    this.#load();
    if (this.selected) this.#select(this.selected);
  }

  close() {
    this.unlisten();
    clearInterval(this.timer);
  }

  #build() {
    const choices = Object.entries(SHOWN).map(([value, word]) => h("button", { type: "button", "data-show": value, "aria-pressed": String(value === this.#show), onclick: () => this.#choose(value) }, word));
    this.choices = choices;
    const changed = () => this.#load();
    this.stream = h("select", { "aria-label": "Stream", onchange: changed }, h("option", { value: "" }, "Every stream"));
    for (const stream of [...this.context.store.streams.values()].sort((a, b) => a.name.localeCompare(b.name))) this.stream.append(h("option", { value: stream.id }, stream.name));
    this.kind = h("select", { "aria-label": "Kind", onchange: changed }, h("option", { value: "" }, "Every kind"), Object.entries(KINDS).map(([value, word]) => h("option", { value }, word)));
    this.list = h("ul", { class: "alert-list", "aria-label": "Alerts, newest first" });
    this.more = h("button", { type: "button", hidden: true, onclick: () => this.#load(this.#next) }, "Older alerts");
    this.none = h("p", { class: "empty", hidden: true }, "No alert matches.");
    this.fault = h("p", { class: "fault", role: "alert" });
    this.detail = h("div", { class: "detail", "aria-live": "off" }, h("p", { class: "empty" }, "Choose an alert to see its evidence."));
    this.element = h("section", { class: "alerts-page" },
      h("div", { class: "toolbar" }, h("h1", {}, "Alerts"), h("div", { class: "chips", role: "group", "aria-label": "Show" }, choices), this.stream, this.kind),
      this.fault,
      h("div", { class: "split" }, h("div", {}, this.list, this.none, this.more), this.detail));
  }

  #choose(show) {
    this.#show = show;
    for (const button of this.choices) button.setAttribute("aria-pressed", String(button.dataset.show === show));
    this.#load();
  }

  /** From the beginning, or (with a cursor) the page after what is shown. */
  async #load(cursor = null) {
    const ticket = ++this.#loads;
    const filter = { stream: this.stream.value, kind: this.kind.value, limit: PAGE, cursor };
    if (this.#show === "active") filter.active = true;
    if (this.#show === "unreviewed") filter.review = "none";
    try {
      const { items, next } = await api.alerts(filter);
      if (ticket !== this.#loads) return; // another filter was chosen meanwhile
      if (!cursor) this.#known.clear();
      this.#next = next;
      this.more.hidden = !next;
      this.fault.textContent = "";
      this.#take(items);
    } catch (error) {
      this.fault.textContent = error.message;
    }
  }

  #take(alerts) {
    for (const alert of alerts) this.#known.set(alert.id, alert);
    this.#list();
    const current = alerts.find((alert) => alert.id === this.selected);
    if (current) this.#describe(current);
  }

  #matches(alert) {
    if (this.#show === "active" && !alert.active) return false;
    if (this.#show === "unreviewed" && alert.review !== "none") return false;
    return (!this.stream.value || alert.stream === this.stream.value) && (!this.kind.value || alert.kind === this.kind.value);
  }

  #list() {
    const shown = [...this.#known.values()].filter((alert) => this.#matches(alert));
    shown.sort((a, b) => b.opened_at.localeCompare(a.opened_at) || b.id.localeCompare(a.id));
    arrange(this.list, shown.map((alert) => this.#row(alert)));
    this.none.hidden = shown.length > 0;
  }

  #row(alert) {
    let row = this.#rows.get(alert.id);
    if (!row) {
      const parts = { kind: h("strong"), name: h("span", { class: "where" }), when: h("span", { class: "when num" }), what: h("span", { class: "what" }), review: h("span", { class: "review" }) };
      const button = h("button", { type: "button", class: "alert-row", onclick: () => this.#select(alert.id) }, h("span", { class: "top" }, parts.kind, parts.when), h("span", { class: "what-line" }, parts.name, parts.what), parts.review);
      row = { element: h("li", {}, button), button, parts };
      this.#rows.set(alert.id, row);
    }
    const { button, parts } = row;
    const stream = this.context.store.streams.get(alert.stream);
    button.dataset.severity = alert.severity;
    button.dataset.active = String(alert.active);
    button.setAttribute("aria-current", String(alert.id === this.selected));
    setText(parts.kind, kindWords(alert.kind));
    const name = stream?.name ?? alert.stream;
    setText(parts.name, alert.summary.startsWith(name) ? "" : name);
    setText(parts.what, alert.summary);
    setText(parts.when, `${moment(Date.parse(alert.opened_at))} · ${this.#lasted(alert)}`);
    setText(parts.review, `${alert.active ? "Active" : "Resolved"} · ${REVIEWS[alert.review] ?? alert.review}${alert.silenced ? " · Silenced" : ""}`);
    return row.element;
  }

  #lasted(alert) {
    const end = alert.resolved_at ? Date.parse(alert.resolved_at) : this.context.store.clock.now();
    return duration(Math.max(0, end - Date.parse(alert.opened_at)));
  }

  async #select(id) {
    this.selected = id;
    history.replaceState(null, "", `#/alerts/${encodeURIComponent(id)}`);
    this.#list();
    this.shown = null;
    try {
      this.#describe(this.#known.get(id) ?? (await api.alert(id)));
    } catch (error) {
      this.detail.replaceChildren(h("p", { class: "fault" }, error.message));
    }
  }

  /** A new alert builds the panel; a change of the one shown only rewrites its facts: a playing clip goes on. */
  #describe(alert) {
    if (this.shown !== alert.id) {
      this.shown = alert.id;
      this.facts = h("dl", { class: "facts-list" });
      this.note = h("input", { name: "note", maxlength: 1000, "aria-label": "Note on this alert", placeholder: "Note (optional)" });
      this.note.value = alert.review_note;
      this.buttons = [["acknowledged", "Acknowledge"], ["confirmed", "Confirm"], ["false_alarm", "False alarm"]].map(([review, word]) => h("button", { type: "button", "data-review": review, onclick: () => this.#review(alert.id, review) }, word));
      this.reviewFault = h("p", { class: "fault", role: "alert" });
      this.title = h("h2", { class: "plain" });
      this.told = h("ul", { class: "told", "aria-label": "Deliveries" });
      const review = h("div", { class: "review-bar", hidden: !this.context.may("operate") }, this.note, h("div", { class: "actions" }, this.buttons));
      this.evidence = new Evidence(alert.id);
      this.tracks = tracks(alert);
      this.detail.replaceChildren(this.title, review, this.reviewFault, this.told, this.evidence.element, this.facts);
    }
    const joined = [...tracks(alert)].filter((track) => !this.tracks.has(track));
    for (const track of joined) this.evidence.join(`${alert.id}+${track}`);
    this.tracks = tracks(alert);
    setText(this.title, alert.summary);
    for (const button of this.buttons) button.setAttribute("aria-pressed", String(button.dataset.review === alert.review));
    const facts = [
      ["Kind", kindWords(alert.kind)],
      ["Stream", alert.stream ? h("a", { href: `#/streams/${encodeURIComponent(alert.stream)}` }, this.context.store.streams.get(alert.stream)?.name ?? alert.stream) : "The service"],
      ["Severity", alert.severity],
      ["Opened", moment(Date.parse(alert.opened_at))],
      ["Resolved", alert.resolved_at ? moment(Date.parse(alert.resolved_at)) : "still active"],
      ["Peak", alert.kind === "deepfake_suspected" ? against(alert) : `${alert.peak}`],
      ["Rule", alert.rule],
      ["Review", `${REVIEWS[alert.review] ?? alert.review}${alert.reviewed_by ? ` by ${alert.reviewed_by}` : ""}`],
    ];
    this.#tell(alert.id);
    this.facts.replaceChildren(...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  }

  /** Who was told, and who was not: a line for each sink, of its newest event. */
  async #tell(id) {
    try {
      const newest = new Map((await api.deliveries(id)).map((delivery) => [delivery.sink, delivery]));
      if (this.shown !== id) return;
      const lines = [...newest.values()].map((delivery) => h("li", { "data-state": delivery.state }, h("strong", {}, delivery.sink), " ", told(delivery)));
      this.told.replaceChildren(...lines);
    } catch {
      // The alert itself is shown; of its deliveries nothing is known then.
      this.told.replaceChildren();
    }
  }

  async #review(id, review) {
    this.reviewFault.textContent = "";
    try {
      const alert = await api.review(id, review, this.note.value);
      this.#take([alert]);
      say(`Marked as ${REVIEWS[review].toLowerCase()}.`);
    } catch (error) {
      this.reviewFault.textContent = error.message;
    }
  }
}

const tracks = (alert) => new Set(alert.labels.tracks?.split(","));

/** A threshold above 1 is one of accumulated evidence, not of a score. */
function against({ peak, threshold }) {
  const words = threshold > 1 ? (value) => number(value, 1) : score;
  return `${words(peak)} against a threshold of ${words(threshold)}`;
}

function told({ state, attempts, finished_at, error }) {
  if (state === "delivered") return `told at ${moment(Date.parse(finished_at))}`;
  const tries = attempts === 1 ? "one attempt" : `${attempts} attempts`;
  const why = error ? `: ${error}` : "";
  return state === "dead" ? `given up after ${tries}${why}` : attempts ? `not told yet, ${tries}${why}` : "not told yet";
}
