// The timeline of one stream: fused and member scores, threshold, alerts, states. Zoom and pan by mouse, touch and keyboard.

import { palette, stroke, surface } from "./draw.js";
import { h, setText } from "./dom.js";
import { clockTime, duration, score, stateWord } from "./format.js";

const SPANS = [["1 min", 60_000], ["5 min", 300_000], ["15 min", 900_000], ["1 h", 3_600_000]];
const NARROWEST = 10_000;
const WIDEST = 7 * 86_400_000;
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200, 86_400].map((s) => s * 1000);
const PAD = { left: 34, right: 10, top: 16, bottom: 22 };
const DASHES = [[], [5, 2], [2, 2], [7, 2, 2, 2]];
/** Points further apart than this are not joined: what lies between is not known. */
const GAP = 6_000;
export const memberColour = (index) => `m${(index % 4) + 1}`;

export class Timeline {
  #span = 300_000;
  #end = null; // null: follows the present
  #cursor = null;
  #drag = null;

  /** @param source {now(), points(): [{t, score, threshold, members}] rising, members(): names, alerts(), events(), wanted(from, to)} */
  constructor(source) {
    this.source = source;
    this.canvas = h("canvas", { class: "timeline", tabindex: "0", role: "img", "aria-describedby": "timeline-keys" });
    this.readout = h("p", { class: "readout num" });
    this.spans = SPANS.map(([word, span]) => h("button", { type: "button", onclick: () => this.zoomTo(span) }, word));
    this.live = h("button", { type: "button", onclick: () => this.#follow() }, "Live");
    this.element = h("figure", { class: "timeline-box" },
      h("div", { class: "toolbar" }, h("h2", {}, "Timeline"), h("div", { class: "chips", role: "group", "aria-label": "Span" }, this.spans), this.live,
        h("span", { id: "timeline-keys", class: "hint" }, "Scroll or + and − to zoom, drag or arrow keys to move, End for live")),
      this.canvas, this.readout);
    this.#wire();
  }

  get #range() {
    const to = this.#end ?? this.source.now();
    return { from: to - this.#span, to };
  }

  zoomTo(span, anchor = null) {
    const { from, to } = this.#range;
    const next = Math.min(WIDEST, Math.max(NARROWEST, span));
    if (anchor !== null && this.#end !== null) this.#end = anchor + (to - anchor) * (next / (to - from));
    this.#span = next;
    this.#moved();
  }

  #pan(ms) {
    this.#end = (this.#end ?? this.source.now()) + ms;
    if (this.#end >= this.source.now()) this.#end = null;
    this.#moved();
  }

  #follow() {
    this.#end = null;
    this.#moved();
  }

  #moved() {
    const { from, to } = this.#range;
    this.source.wanted(from, to);
    this.draw();
  }

  #wire() {
    const { canvas } = this;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.#pan(((event.deltaX || event.deltaY) / canvas.clientWidth) * this.#span);
      else this.zoomTo(this.#span * 1.0015 ** event.deltaY, this.#timeAt(event.offsetX));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#drag = event.offsetX;
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.#drag !== null) {
        this.#pan(((this.#drag - event.offsetX) / this.#plot.width) * this.#span);
        this.#drag = event.offsetX;
      }
      this.#cursor = this.#timeAt(event.offsetX);
      this.draw();
    });
    canvas.addEventListener("pointerup", () => (this.#drag = null));
    canvas.addEventListener("pointerleave", () => {
      this.#cursor = null;
      this.draw();
    });
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  #key(event) {
    const quick = event.shiftKey ? 0.5 : 0.1;
    const act = {
      ArrowLeft: () => this.#pan(-quick * this.#span),
      ArrowRight: () => this.#pan(quick * this.#span),
      "+": () => this.zoomTo(this.#span / 1.5),
      "=": () => this.zoomTo(this.#span / 1.5),
      "-": () => this.zoomTo(this.#span * 1.5),
      End: () => this.#follow(),
    }[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  }

  get #plot() {
    return { width: Math.max(1, this.canvas.clientWidth - PAD.left - PAD.right), height: Math.max(1, this.canvas.clientHeight - PAD.top - PAD.bottom) };
  }

  #timeAt(x) {
    const { from, to } = this.#range;
    return from + ((x - PAD.left) / this.#plot.width) * (to - from);
  }

  draw() {
    const area = surface(this.canvas);
    if (!area) return;
    const { from, to } = this.#range;
    const { width, height } = this.#plot;
    const scale = { from, to, width, height, x: (t) => PAD.left + ((t - from) / (to - from)) * width, y: (value) => PAD.top + (1 - value) * height };
    const points = visible(this.source.points(), from, to);
    const { ctx } = area;
    const theme = palette();
    ctx.clearRect(0, 0, area.width, area.height);
    ctx.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    grid(ctx, scale, theme);
    ctx.save();
    ctx.beginPath();
    ctx.rect(PAD.left, 0, width, area.height);
    ctx.clip();
    bands(ctx, scale, theme, this.source.alerts(), this.source.now());
    curves(ctx, scale, theme, points, this.source.members());
    marks(ctx, scale, theme, this.source.events());
    ctx.restore();
    this.#tell(ctx, scale, theme, points);
  }

  /** What the cursor points at, else the newest; also the text for those who do not see the canvas. */
  #tell(ctx, scale, theme, points) {
    const at = this.#cursor;
    const point = at === null ? points.at(-1) : nearest(points, at, this.#span / 40);
    if (at !== null && point) {
      ctx.strokeStyle = theme.edge;
      ctx.lineWidth = 1;
      stroke(ctx, [[scale.x(point.t), PAD.top], [scale.x(point.t), PAD.top + scale.height]]);
    }
    const members = point ? this.source.members().filter((name) => name in point.members).map((name) => `${name} ${score(point.members[name])}`) : [];
    setText(this.readout, point ? [clockTime(point.t), point.score === null ? "unknown" : `fused ${score(point.score)}`, ...members].join("   ") : "No score in this span.");
    const known = points.filter((each) => each.score !== null).map((each) => each.score);
    const range = known.length ? `from ${score(Math.min(...known))} to ${score(Math.max(...known))}` : "nothing known";
    this.canvas.setAttribute("aria-label", `Fused score over ${duration(this.#span)} until ${this.#end ? clockTime(this.#end) : "now"}: ${range}`);
    for (const [i, [, span]] of SPANS.entries()) this.spans[i].setAttribute("aria-pressed", String(span === this.#span));
    this.live.setAttribute("aria-pressed", String(this.#end === null));
  }
}

/** Those in the range and one beyond either end, thinned so that no pixel is drawn many times. */
function visible(points, from, to) {
  let first = points.findIndex((point) => point.t >= from);
  if (first < 0) return [];
  first = Math.max(0, first - 1);
  let last = first;
  while (last < points.length && points[last].t <= to) last++;
  const shown = points.slice(first, last + 1);
  const every = Math.ceil(shown.length / 4000);
  return every > 1 ? shown.filter((_, i) => i % every === 0) : shown;
}

function nearest(points, t, within) {
  let best = null;
  for (const point of points) if (!best || Math.abs(point.t - t) < Math.abs(best.t - t)) best = point;
  return best && Math.abs(best.t - t) <= Math.max(within, 2000) ? best : null;
}

function grid(ctx, { from, to, width, height, x, y }, theme) {
  ctx.strokeStyle = theme.line;
  ctx.fillStyle = theme.muted;
  ctx.lineWidth = 1;
  ctx.textBaseline = "middle";
  ctx.textAlign = "right";
  for (const value of [0, 0.25, 0.5, 0.75, 1]) {
    const line = Math.round(y(value)) + 0.5;
    stroke(ctx, [[PAD.left, line], [PAD.left + width, line]]);
    if (value !== 0.25 && value !== 0.75) ctx.fillText(value.toFixed(1), PAD.left - 8, line);
  }
  const step = STEPS.find((each) => ((to - from) / each) * 76 <= width) ?? STEPS.at(-1);
  const zone = new Date(to).getTimezoneOffset() * 60_000;
  ctx.textAlign = "center";
  for (let t = Math.ceil((from - zone) / step) * step + zone; t <= to; t += step) {
    const tick = Math.round(x(t)) + 0.5;
    stroke(ctx, [[tick, PAD.top], [tick, PAD.top + height]]);
    const text = step >= 86_400_000 ? new Date(t).toLocaleDateString("en-GB", { day: "numeric", month: "short" }) : clockTime(t).slice(0, step < 60_000 ? 8 : 5);
    if (tick > PAD.left + 24 && tick < PAD.left + width - 20) ctx.fillText(text, tick, PAD.top + height + 12);
  }
}

function bands(ctx, { x, height }, theme, alerts, now) {
  for (const alert of alerts) {
    const begin = x(Date.parse(alert.opened_at));
    const end = x(alert.resolved_at ? Date.parse(alert.resolved_at) : now);
    const colour = alert.kind === "deepfake_suspected" ? theme.fake : theme.down;
    ctx.fillStyle = colour;
    ctx.globalAlpha = 0.12;
    ctx.fillRect(begin, PAD.top, Math.max(2, end - begin), height);
    ctx.globalAlpha = 1;
    ctx.fillRect(begin, PAD.top - 6, Math.max(3, end - begin), 4);
  }
}

function curves(ctx, scale, theme, points, members) {
  ctx.lineJoin = "round";
  ctx.lineWidth = 1.25;
  for (const [i, name] of members.entries()) {
    ctx.strokeStyle = theme[memberColour(i)];
    ctx.setLineDash(DASHES[i % 4]);
    ctx.globalAlpha = 0.85;
    for (const run of runs(points, (point) => point.members[name] ?? null, scale)) stroke(ctx, run);
  }
  ctx.globalAlpha = 1;
  ctx.lineWidth = 1.25;
  ctx.setLineDash([6, 4]);
  ctx.strokeStyle = theme.fake;
  for (const run of runs(points, (point) => point.threshold, scale, Infinity)) stroke(ctx, run);
  ctx.setLineDash([]);
  ctx.lineWidth = 2.5;
  ctx.strokeStyle = theme.text;
  for (const run of runs(points, (point) => point.score, scale)) stroke(ctx, run);
}

function runs(points, pick, { x, y }, gap = GAP) {
  const found = [];
  let run = null;
  let before = -Infinity;
  for (const point of points) {
    const value = pick(point);
    if (value === null || value === undefined) {
      run = null;
      continue;
    }
    if (!run || point.t - before > Math.max(gap, (point.step ?? 0) * 3)) found.push((run = []));
    run.push([x(point.t), y(value)]);
    before = point.t;
  }
  return found;
}

/** Changes of the stream's state, seen while this page was open. */
function marks(ctx, { x, height }, theme, events) {
  ctx.textAlign = "left";
  for (const { at, state } of events) {
    ctx.fillStyle = ctx.strokeStyle = state === "live" ? theme.real : theme.down;
    stroke(ctx, [[x(at), PAD.top + height - 8], [x(at), PAD.top + height]]);
    ctx.fillText(stateWord(state), x(at) + 4, PAD.top + height - 6);
  }
}
