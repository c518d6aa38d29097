// The service itself: device, batches, queues, latency, and what the weights are worth.

import { api } from "./api.js";
import { h } from "./dom.js";
import { palette, surface } from "./draw.js";
import { duration, latency, number, score, stateWord } from "./format.js";

const REFRESH = 2_000;

export function openSystem(context) {
  const body = h("div", { class: "cards" }, h("p", { class: "empty" }, "Loading"));
  const fault = h("p", { class: "fault", role: "alert" });
  const element = h("section", {}, h("div", { class: "toolbar" }, h("h1", {}, "System")), fault, body);
  const refresh = async () => {
    try {
      const system = await api.system();
      fault.textContent = "";
      describe(body, system, context.store.clock.now());
    } catch (error) {
      fault.textContent = `${error.message} What is shown is not current.`;
    }
  };
  const timer = setInterval(refresh, REFRESH);
  refresh();
  return { title: "System", element, close: () => clearInterval(timer) };
}

/** Panels are kept and refilled, so that a selection or the focus survives the refresh. */
function describe(body, system, now) {
  const sections = {
    Service: () => service(system, now),
    "Capture to score": () => latencyPanel(system.latency),
    Devices: () => (system.devices ?? []).map(device),
    "Queues and batches": () => Object.entries(system.batches ?? {}).map(lane),
    Weights: () => weights(system.weights, system.detector),
  };
  const kept = new Map([...body.querySelectorAll(":scope > section")].map((section) => [section.dataset.name, section]));
  if (!kept.size) body.replaceChildren();
  for (const [name, make] of Object.entries(sections)) {
    let section = kept.get(name);
    if (!section) {
      section = h("section", { class: name === "Weights" ? "card wide" : "card", "data-name": name, "aria-label": name }, h("h2", {}, name), h("div"));
      body.append(section);
    }
    section.lastElementChild.replaceChildren(...[make()].flat());
    section.querySelectorAll("canvas").forEach((canvas) => canvas.paint());
  }
}

function service(system, now) {
  const streams = Object.entries(system.streams ?? {}).filter(([, count]) => count);
  const { history } = system;
  return facts([
    ["Ready", system.ready ? "yes" : `no: ${system.not_ready.join(", ")}`],
    ["Version", system.version],
    ["Running for", duration(Math.max(0, now - Date.parse(system.started_at)))],
    ["Streams", streams.map(([state, count]) => `${count} ${stateWord(state).toLowerCase()}`).join(", ") || "none"],
    ["Websocket clients", number(system.websocket_clients)],
    ...(history ? [["History", history.down ? `the database is down, ${number(history.waiting)} rows wait` : `${number(history.written)} rows written${history.lost ? `, ${number(history.lost)} lost` : ""}`]] : []),
  ]);
}

function device({ device: id, name, dtype, alive }) {
  const types = typeof dtype === "object" ? [...new Set(Object.values(dtype))].join(", ") : dtype;
  return h("div", { class: "device" }, h("strong", {}, name), facts([["Device", id], ["Number format", types], ["State", alive === false ? "failed" : "working"]]));
}

const LANES = { detect: "Face detection", score: "Ensemble" };

/** Work of one kind on its way to the devices: faces of many streams share a batch. */
function lane([name, counts]) {
  const lost = ["expired", "refused", "failed"].filter((kind) => counts[kind]).map((kind) => `${number(counts[kind])} ${kind}`);
  return h("div", { class: "device" }, h("strong", {}, LANES[name] ?? name), facts([
    ["Waiting", number(counts.queued)],
    ["In a batch", `${number(counts.batches ? counts.items / counts.batches : null, 1)} on average, ${number(counts.largest_batch)} at most`],
    ["Batches", number(counts.batches)],
    ["Not done", lost.join(", ") || "none"],
  ]));
}

function facts(pairs) {
  return h("dl", { class: "facts-list" }, pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", { class: "num" }, value)]));
}

function latencyPanel(given) {
  if (!given?.count) return h("p", { class: "muted" }, "No frame has been scored yet.");
  const bars = steps(given.buckets);
  const canvas = h("canvas", { class: "histogram", role: "img", "aria-label": bars.map((bar) => `up to ${latency(bar.le)}: ${bar.count}`).join("; ") });
  canvas.paint = () => histogram(canvas, bars);
  return [facts([["Median", latency(given.p50)], ["95 %", latency(given.p95)], ["99 %", latency(given.p99)], ["Frames", number(given.count)]]), canvas];
}

/** Cumulative counts -> the count of each bucket; the last may have no upper end. */
function steps(buckets) {
  let before = 0;
  return buckets.map(({ le, count }) => {
    const own = count - before;
    before = count;
    return { le, count: own };
  });
}

function histogram(canvas, bars) {
  const area = surface(canvas);
  if (!area) return;
  const { ctx, width, height } = area;
  const theme = palette();
  const most = Math.max(1, ...bars.map((bar) => bar.count));
  const each = width / bars.length;
  ctx.clearRect(0, 0, width, height);
  ctx.font = `10px ${getComputedStyle(document.body).fontFamily}`;
  ctx.textAlign = "center";
  for (const [i, bar] of bars.entries()) {
    const tall = (bar.count / most) * (height - 18);
    ctx.fillStyle = theme.accent;
    ctx.fillRect(i * each + 1, height - 16 - tall, each - 2, tall);
    ctx.fillStyle = theme.muted;
    if (each > 30 || i % 2 === 0) ctx.fillText(Number.isFinite(bar.le) && bar.le !== null ? `${bar.le} s` : "more", (i + 0.5) * each, height - 3);
  }
}

/** Every figure as the weights' manifest gives it: none is left out because it looks bad. */
function weights(set, detector) {
  if (!set) return h("p", { class: "muted" }, "The weights are not loaded.");
  const names = [...new Set(set.members.flatMap((member) => Object.keys(flat(member.figures))))];
  const about = facts([
    ["Set", `${set.set}, version ${set.version}`],
    ["Threshold", `${score(set.threshold)}${set.threshold_basis ? ` (${set.threshold_basis})` : ""}`],
    ...Object.entries(flat(set.figures)).map(([name, value]) => [words(name), figure(value)]),
    ...(detector ? [["Detector", `${detector.file}, faces from ${score(detector.score_threshold)}`]] : []),
  ]);
  const table = h("table", {},
    h("thead", {}, h("tr", {}, ["Member", ...names.map(words), "SHA-256"].map((word) => h("th", { scope: "col" }, word)))),
    h("tbody", {}, set.members.map((member) => {
      const figures = flat(member.figures);
      return h("tr", {}, h("th", { scope: "row" }, member.name), names.map((name) => h("td", { class: "num" }, figure(figures[name]))), h("td", { class: "num", title: member.sha256 }, member.sha256.slice(0, 12)));
    })));
  return [about, h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Members" }, table)];
}

const words = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");
const figure = (value) => (typeof value === "number" ? number(value, Number.isInteger(value) ? 0 : 3) : (value ?? "–"));

/** {a: {b: 1}} -> {"a b": 1} */
function flat(figures, prefix = "") {
  const found = {};
  for (const [key, value] of Object.entries(figures ?? {})) {
    if (value !== null && typeof value === "object" && !Array.isArray(value)) Object.assign(found, flat(value, `${prefix}${key} `));
    else found[prefix + key] = Array.isArray(value) ? value.join(" to ") : value;
  }
  return found;
}
