// Canvas: sparkline, analysed frame with faces. No state but the palette of the current theme.

import { score } from "./format.js";

const NAMES = ["text", "muted", "line", "edge", "surface", "raised", "accent", "fake", "suspect", "real", "unknown", "down", "fake-tint", "m1", "m2", "m3", "m4"];
/** On pictures the theme does not matter, the picture does: light strokes on a dark halo. */
const ON_PICTURE = { fake: "#ff6f61", suspect: "#f1b53d", real: "#d7f5e7", unknown: "#c6d0d7" };
const HALO = "rgb(6 10 13 / 0.75)";

let colours = null;

/** Resolved colours of the current theme, by the names of base.css. */
export function palette() {
  if (colours) return colours;
  const probe = document.createElement("i");
  document.body.append(probe);
  colours = {};
  for (const name of NAMES) {
    probe.style.color = `var(--${name})`;
    colours[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  return colours;
}

export function themeChanged() {
  colours = null;
}

/** Fits the backing store to the element's size on the screen; returns {ctx, width, height} in CSS pixels, or null while it has no size. */
export function surface(canvas) {
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (!width || !height) return null;
  const scale = Math.min(window.devicePixelRatio || 1, 2);
  const w = Math.round(width * scale);
  const h = Math.round(height * scale);
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
  }
  const ctx = canvas.getContext("2d");
  ctx.setTransform(scale, 0, 0, scale, 0, 0);
  return { ctx, width, height };
}

/** The curve of `series` over the `span` ms before `now`, on a scale of 0 to 1 with the threshold as a dashed line. */
export function sparkline(canvas, series, { now, span, threshold, dim }) {
  const area = surface(canvas);
  if (!area) return;
  const { ctx, width, height } = area;
  const theme = palette();
  const top = 2;
  const y = (value) => top + (1 - value) * (height - 2 * top);
  const x = (time) => width - ((now - time) / span) * width;
  ctx.clearRect(0, 0, width, height);
  ctx.lineWidth = 1;
  if (threshold !== null && threshold !== undefined) {
    const line = Math.round(y(threshold)) + 0.5;
    ctx.strokeStyle = theme.edge;
    ctx.setLineDash([3, 3]);
    stroke(ctx, [[0, line], [width, line]]);
    ctx.setLineDash([]);
  }
  const runs = pieces(series, now - span, x, y);
  ctx.lineWidth = 1.5;
  ctx.lineJoin = "round";
  const limit = threshold ?? 1;
  for (const [colour, from, to] of [[dim ? theme.edge : theme.muted, limit, 0], [dim ? theme.edge : theme.fake, 1, limit]]) {
    ctx.save();
    ctx.beginPath();
    ctx.rect(0, y(from) - (from === 1 ? top : 0), width, y(to) - y(from) + top);
    ctx.clip();
    ctx.strokeStyle = ctx.fillStyle = colour;
    for (const run of runs) {
      stroke(ctx, run);
      ctx.globalAlpha = from === 1 ? 0.3 : 0.1;
      ctx.lineTo(run.at(-1)[0], y(to));
      ctx.lineTo(run[0][0], y(to));
      ctx.fill();
      ctx.globalAlpha = 1;
    }
    ctx.restore();
  }
}

/** Unbroken runs of points on the screen: a gap in time or an unknown verdict breaks the line, since nothing is known there. */
export function pieces(series, since, x, y, gap = 6_000) {
  const runs = [];
  let run = null;
  let before = -Infinity;
  for (let i = Math.max(0, series.from(since) - 1); i < series.length; i++) {
    const time = series.time(i);
    const value = series.value(i);
    if (Number.isNaN(value)) run = null;
    else {
      if (!run || time - before > gap) runs.push((run = []));
      run.push([x(time), y(value)]);
    }
    before = time;
  }
  return runs;
}

export function stroke(ctx, points) {
  ctx.beginPath();
  ctx.moveTo(points[0][0], points[0][1]);
  if (points.length === 1) ctx.lineTo(points[0][0] + 0.5, points[0][1]);
  for (let i = 1; i < points.length; i++) ctx.lineTo(points[i][0], points[i][1]);
  ctx.stroke();
}

/**
 * The analysed frame, whole (letterboxed), and what was found in this very frame.
 * @param picture  {bitmap, frame: [w, h], faces, heat: {bitmap, box} or null}, or null
 * @param options  {dim: draw it grey and bare, labels: write the scores, heat: lay the heat-map over}
 */
export function frame(canvas, picture, { dim = false, labels = true, heat = true } = {}) {
  const area = surface(canvas);
  if (!area) return;
  const { ctx, width, height } = area;
  ctx.clearRect(0, 0, width, height);
  if (!picture) return;
  const { bitmap } = picture;
  const fit = Math.min(width / bitmap.width, height / bitmap.height);
  const w = bitmap.width * fit;
  const h = bitmap.height * fit;
  const left = (width - w) / 2;
  const up = (height - h) / 2;
  ctx.filter = dim ? "grayscale(1) brightness(0.55)" : "none";
  ctx.drawImage(bitmap, left, up, w, h);
  ctx.filter = "none";
  if (dim) return;
  const scale = w / picture.frame[0];
  const place = ([x0, y0, x1, y1]) => ({ x: left + x0 * scale, y: up + y0 * scale, w: (x1 - x0) * scale, h: (y1 - y0) * scale });
  if (heat && picture.heat) {
    const box = place(picture.heat.box);
    ctx.drawImage(picture.heat.bitmap, box.x, box.y, box.w, box.h);
  }
  for (const face of picture.faces) {
    const box = place(face.box);
    // A face that cannot be judged is shown, so that nobody takes it for overlooked, but it does not draw the eye.
    ctx.globalAlpha = face.score === null ? 0.55 : 1;
    brackets(ctx, box, ON_PICTURE[face.verdict]);
    ctx.globalAlpha = 1;
    if (labels && face.score !== null) label(ctx, box, face, ON_PICTURE[face.verdict], width);
  }
}

/** Corners only, so that the box hides nothing of the face. */
function brackets(ctx, { x, y, w, h }, colour) {
  const arm = Math.max(4, Math.min(w, h) * 0.22);
  const path = new Path2D();
  for (const [cx, cy, dx, dy] of [[x, y, 1, 1], [x + w, y, -1, 1], [x + w, y + h, -1, -1], [x, y + h, 1, -1]]) {
    path.moveTo(cx + dx * arm, cy);
    path.lineTo(cx, cy);
    path.lineTo(cx, cy + dy * arm);
  }
  const thin = Math.min(w, h) < 40;
  ctx.lineJoin = "miter";
  ctx.strokeStyle = HALO;
  ctx.lineWidth = thin ? 3 : 4.5;
  ctx.stroke(path);
  ctx.strokeStyle = colour;
  ctx.lineWidth = thin ? 1.5 : 2.25;
  ctx.stroke(path);
}

function label(ctx, box, face, colour, width) {
  const text = score(face.score);
  ctx.font = `600 12px ${getComputedStyle(document.body).fontFamily}`;
  const w = ctx.measureText(text).width + 10;
  const x = Math.max(0, Math.min(box.x - 2, width - w));
  const y = box.y > 22 ? box.y - 20 : box.y + box.h + 4;
  ctx.fillStyle = HALO;
  ctx.fillRect(x, y, w, 17);
  ctx.fillStyle = colour;
  ctx.textBaseline = "middle";
  ctx.fillText(text, x + 5, y + 9);
}
