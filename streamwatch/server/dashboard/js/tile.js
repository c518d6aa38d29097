// One stream on the wall. Built once, then told what changed; it draws only while it is on the screen.

import { frame, sparkline } from "./draw.js";
import { h, setAttribute, setText } from "./dom.js";
import { ago, score, VERDICTS } from "./format.js";

export const SPAN = 180_000;
/** A point of the curve is narrower than a pixel: it need not be drawn anew for each, in ms. */
const LINE_EVERY = 900;

export class Tile {
  visible = false;
  drawnAt = 0;

  constructor(stream) {
    this.stream = stream;
    this.picture = h("canvas", { class: "picture", "aria-hidden": "true" });
    this.line = h("canvas", { class: "spark", "aria-hidden": "true" });
    this.name = h("a", { class: "name", href: `#/streams/${encodeURIComponent(stream.id)}` });
    this.badge = h("span", { class: "badge" });
    this.age = h("span", { class: "age num" });
    this.value = h("span", { class: "value num" });
    this.glyph = h("span", { class: "glyph", "aria-hidden": "true" });
    this.verdict = h("span", { class: "word" });
    this.words = h("p", { class: "words" });
    this.alerts = h("span", { class: "alerts", hidden: true });
    this.element = h("li", { class: "tile", "data-stream": stream.id },
      h("div", { class: "screen" }, this.picture, this.badge, this.age),
      h("div", { class: "facts" },
        h("div", { class: "head" }, this.name, this.alerts),
        h("div", { class: "reading" }, h("div", { class: "says" }, this.value, h("span", { class: "verdict" }, this.glyph, " ", this.verdict)), this.line),
        this.words));
  }

  /** The text of the tile: cheap, and only what differs is written. */
  describe(view, alerts) {
    setText(this.name, this.stream.name);
    setAttribute(this.element, "data-look", view.look);
    setAttribute(this.element, "data-live", String(view.live));
    setText(this.badge, view.badge);
    setText(this.age, view.age === null ? "" : ago(view.age));
    setText(this.value, score(view.score));
    const { word, glyph } = VERDICTS[view.verdict];
    setText(this.glyph, view.live ? glyph : "");
    setText(this.verdict, view.live ? word : view.badge);
    setText(this.words, view.words);
    setText(this.alerts, alerts ? `${alerts} alert${alerts > 1 ? "s" : ""}` : "");
    this.alerts.hidden = !alerts;
  }

  /** `what` is a set of wall.js's marks; a frame whose score has just come gets its boxes now. */
  paint(view, scene, what, now) {
    const { stream } = this;
    const all = what.has("all");
    const boxes = what.has("score") && stream.picture?.capturedAt === stream.last?.captured_at;
    if (all || what.has("picture") || boxes) frame(this.picture, scene, { dim: !view.live || scene?.past, labels: this.picture.clientWidth > 220 });
    if (!all && (!what.has("score") || now - this.drawnAt < LINE_EVERY)) return;
    this.drawnAt = now;
    sparkline(this.line, stream.series, { now, span: SPAN, threshold: stream.last?.threshold, dim: !view.live });
  }
}
