// What the timeline of one stream shows: the live scores, and the service's history, fetched as far back as someone looks.

import { api } from "./api.js";

const MOST = 20_000;
const SETTLE = 250;

export class Past {
  #points = [];
  #members = [];
  #oldest = null;
  #timer = null;
  #busy = false;
  #alerts = [];

  constructor(store, id, changed) {
    this.store = store;
    this.id = id;
    this.changed = changed;
    this.wanted(this.now() - 600_000);
    api.alerts({ stream: id, limit: 200 }).then(({ items }) => {
      this.#alerts = items;
      changed();
    }, () => {}); // the timeline then shows the alerts that come live
  }

  close() {
    clearTimeout(this.#timer);
    this.changed = () => {};
  }

  now = () => this.store.clock.now();
  points = () => this.#points;
  members = () => this.#members;
  events = () => this.store.streams.get(this.id)?.events ?? [];

  alerts() {
    const known = new Map(this.#alerts.map((alert) => [alert.id, alert]));
    for (const alert of this.store.alerts.values()) if (alert.stream === this.id) known.set(alert.id, alert);
    return [...known.values()];
  }

  /** A live score message. The members are those of the face that gave the score. */
  add(message) {
    if (!message) return;
    const face = message.faces.find((each) => each.track === message.worst) ?? message.faces[0];
    const t = Date.parse(message.captured_at);
    if (this.#points.length && t <= this.#points.at(-1).t) return;
    this.#points.push({ t, score: message.score, threshold: message.threshold, members: face?.members ?? {} });
    if (this.#points.length > MOST) this.#points.splice(0, MOST / 10);
    this.#meet(face?.members);
  }

  #meet(members) {
    for (const name of Object.keys(members ?? {})) if (!this.#members.includes(name)) this.#members = [...this.#members, name].sort();
  }

  /** The timeline looks back to `from`: what is not yet there is fetched, once the movement has settled. */
  wanted = (from) => {
    if (this.#oldest !== null && from >= this.#oldest) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#fetch(from), this.#oldest === null ? 0 : SETTLE);
  };

  async #fetch(from) {
    if (this.#busy) return this.wanted(from);
    this.#busy = true;
    const until = this.#oldest;
    try {
      const items = await api.scores(this.id, from, until, 500);
      const first = this.#points[0]?.t ?? Infinity;
      const older = items.map((item) => ({ t: Date.parse(item.at), score: item.score, threshold: item.threshold, members: item.members })).filter((point) => point.t < first);
      this.#points = [...older, ...this.#points];
      // The newest points of the span come first; a full answer leaves older ones to be asked for next.
      this.#oldest = items.length >= 500 ? Date.parse(items[0].at) : from;
      for (const point of older.slice(-50)) this.#meet(point.members);
      this.changed();
      if (items.length >= 500 && this.#points.length < MOST) this.wanted(from);
    } catch {
      this.#oldest = from; // without a history the live scores have to do
    } finally {
      this.#busy = false;
    }
  }
}
