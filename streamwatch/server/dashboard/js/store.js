// What the page knows: streams and alerts, fed by the websockets; pages listen for what changed.

import { patience } from "./concern.js";
import { Series } from "./series.js";

/** Scores kept to find the one that belongs to a picture: both carry the time of capture, and either may come first. */
const RECENT = 12;
/** In these states earlier scores and pictures still hold. */
const SHOWING = new Set(["live", "stalled"]);
/** A picture that is older than the newest score by more is shown as what it is, past; in ms. */
const LAGS = 4_000;
const ALERTS = 500;

export class Store {
  streams = new Map();
  alerts = new Map();
  connected = false;
  #listeners = new Set();

  constructor(clock) {
    this.clock = clock;
  }

  /** listener(kind, id): "streams" (one came or went), "stream", "score", "picture", "alert". Returns the function that ends it. */
  listen(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  tell(kind, id) {
    for (const listener of this.#listeners) listener(kind, id);
  }

  alertsOf(id) {
    let count = 0;
    for (const alert of this.alerts.values()) if (alert.stream === id && alert.active) count++;
    return count;
  }

  get activeAlerts() {
    let count = 0;
    for (const alert of this.alerts.values()) if (alert.active) count++;
    return count;
  }

  /** What concern.js asks of the world around one stream. */
  world(id) {
    return { connected: this.connected, now: this.clock.now(), alerts: this.alertsOf(id) };
  }

  receive(message) {
    if (message.type === "snapshot") this.#snapshot(message);
    else if (message.type === "score") this.#score(message);
    else if (message.type === "stream") this.#status(message);
    else if (message.type === "removed") this.#remove(message.stream);
    else if (message.type === "alert") this.#alert(message.after);
    else if (message.type === "heartbeat") this.clock.observe(Date.parse(message.at));
  }

  #snapshot(message) {
    this.clock.observe(Date.parse(message.at));
    const there = new Set([...message.resumed, ...message.streams.map((entry) => entry.stream)]);
    for (const id of [...this.streams.keys()]) if (!there.has(id)) this.#remove(id);
    for (const { stream, status, score } of message.streams) {
      this.#entry(stream);
      if (status) this.#status(status);
      if (score) this.#score(score);
      else this.#retire(this.streams.get(stream));
    }
    const active = new Set(message.alerts.map((alert) => alert.id));
    for (const [id, alert] of this.alerts) if (alert.active && !active.has(id)) this.alerts.delete(id);
    for (const alert of message.alerts) this.#alert(alert);
    this.tell("alert", null);
  }

  #entry(id) {
    let stream = this.streams.get(id);
    if (!stream) {
      stream = { id, name: id, state: "connecting", reason: null, detail: "", retryAt: null, degraded: false, info: null, last: null, past: null, lastAt: 0, recent: [], patience: 0, series: new Series(), events: [], backfilled: false, picture: null, heat: null, shownHeat: null };
      this.streams.set(id, stream);
      this.tell("streams", id);
    }
    return stream;
  }

  #status(message) {
    const stream = this.#entry(message.stream);
    const { state, reason, detail, degraded, info, attempt } = message;
    if (state !== stream.state) stream.events = [...stream.events.slice(-49), { at: Date.parse(message.at), state }];
    Object.assign(stream, { name: message.name || message.stream, state, reason, detail, degraded, info, attempt });
    stream.retryAt = message.retry_at ? Date.parse(message.retry_at) : null;
    if (!SHOWING.has(state)) this.#retire(stream, Date.parse(message.at));
    this.tell("stream", stream.id);
  }

  #score(given) {
    const stream = this.#entry(given.stream);
    const at = Date.parse(given.captured_at);
    // Time may change a verdict without a new frame; the faces are then still those of the frame.
    const message = stream.last && at === stream.lastAt ? { ...given, faces: stream.last.faces } : given;
    this.clock.observe(at + message.age_ms);
    stream.last = message;
    stream.lastAt = at;
    stream.state = message.state;
    stream.recent.push(message);
    if (stream.recent.length > RECENT) stream.recent.shift();
    stream.patience = patience(stream.recent.map((each) => Date.parse(each.captured_at)));
    stream.series.push(at, message.score);
    this.tell("score", stream.id);
  }

  /** Its score no longer holds; what it was is kept for words such as "last was 0.81". */
  #retire(stream, at = this.clock.now()) {
    if (stream.last) stream.series.push(at, null);
    stream.past = stream.last ?? stream.past;
    stream.last = null;
  }

  #alert(alert) {
    this.alerts.delete(alert.id);
    this.alerts.set(alert.id, alert);
    this.#forgetOldAlerts();
    this.tell("alert", alert.id);
  }

  /** A wall hangs for months: of what is resolved only the newest are kept, the rest is on the alerts page. */
  #forgetOldAlerts() {
    if (this.alerts.size <= ALERTS) return;
    for (const [id, alert] of this.alerts) {
      if (alert.active) continue;
      this.alerts.delete(id);
      return;
    }
  }

  #remove(id) {
    const stream = this.streams.get(id);
    if (!stream) return;
    stream.picture?.bitmap.close();
    stream.heat?.bitmap.close();
    stream.shownHeat?.bitmap.close();
    this.streams.delete(id);
    this.tell("streams", id);
  }

  /** A picture of pictures.js; the store closes it when it is no longer needed. A frame's heat map may come before the frame. */
  show(header, bitmap) {
    const stream = this.streams.get(header.stream);
    if (!stream) return bitmap.close();
    const given = { bitmap, capturedAt: header.captured_at, frame: header.frame, box: header.box };
    if (header.type === "heat") {
      stream.heat?.bitmap.close();
      stream.heat = given;
    } else {
      stream.picture?.bitmap.close();
      stream.picture = given;
    }
    if (stream.heat && stream.heat.capturedAt === stream.picture?.capturedAt) {
      stream.shownHeat?.bitmap.close();
      stream.shownHeat = stream.heat;
      stream.heat = null;
    }
    if (header.type !== "heat" || stream.shownHeat?.bitmap === bitmap) this.tell("picture", stream.id);
  }

  /** The newest picture with what was found in that very frame: boxes of another moment would point beside the face. */
  scene(stream) {
    const { picture, shownHeat } = stream;
    if (!picture) return null;
    const found = stream.recent.find((message) => message.captured_at === picture.capturedAt);
    return {
      bitmap: picture.bitmap,
      frame: picture.frame,
      faces: found?.faces ?? [],
      past: stream.lastAt - Date.parse(picture.capturedAt) > LAGS,
      heat: shownHeat?.capturedAt === picture.capturedAt ? shownHeat : null,
    };
  }
}
