// The service itself: device, batches, queues, latency, and what the weights are worth.

import { api } from "./api.js";
import { h } from "./dom.js";
import { palette, surface } from "./draw.js";
import { duration, latency, number, percent, score, stateWord } from "./format.js";

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
    Service: () => facts([
      ["Ready", system.ready ? "yes" : `no: ${system.not_ready.join(", ")}`],
      ["Version", system.version],
      ["Running for", duration(Math.max(0, now - Date.parse(system.started_at)))],
      ["Streams", Object.entries(system.streams ?? {}).filter(([, count]) => count).map(([state, count]) => `${count} ${stateWord(state).toLowerCase()}`).join(", ") || "none"],
      ["Analysis budget", system.budget_fps ? `${number(system.budget_fps, 1)} frames a second over all streams` : "not limited"],
      ["Threshold", score(system.threshold)],
      ["Websocket clients", number(system.websocket_clients)],
    ]),
    "Capture to score": () => latencyPanel(system.latency),
    Devices: () => (system.devices ?? []).map((device) => h("div", { class: "device" }, h("strong", {}, device.name), " ", h("span", { class: "muted" }, device.dtype),
      meter("Busy", device.busy_ratio),
      facts([["Batches", number(device.batches)], ["Faces in a batch", `${number(device.mean_batch, 1)} on average`]]))),
    Queues: () => facts(Object.entries(system.queues ?? {}).map(([name, depth]) => [name, `${number(depth)} waiting`])),
    Weights: () => weights(system.weights ?? []),
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

function facts(pairs) {
  return h("dl", { class: "facts-list" }, pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", { class: "num" }, value)]));
}

function meter(name, ratio) {
  const fill = h("i", { class: "fill" });
  fill.style.width = percent(ratio).replace(" ", "").replace("–", "0");
  return h("div", { class: "gauge" }, h("span", {}, name), h("span", { class: "track", "aria-hidden": "true" }, fill), h("span", { class: "num" }, percent(ratio)));
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
function weights(list) {
  if (!list.length) return h("p", { class: "muted" }, "The weights are not loaded.");
  const names = [...new Set(list.flatMap((each) => Object.keys(flat(each.figures))))];
  return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Weights" }, h("table", {},
    h("thead", {}, h("tr", {}, ["Name", "Version", "Licence", ...names, "SHA-256"].map((word) => h("th", { scope: "col" }, word.replaceAll("_", " "))))),
    h("tbody", {}, list.map((each) => {
      const figures = flat(each.figures);
      return h("tr", {}, h("th", { scope: "row" }, each.name), h("td", {}, each.version), h("td", {}, each.license), names.map((name) => h("td", { class: "num" }, figure(figures[name]))), h("td", { class: "num", title: each.sha256 }, (each.sha256 ?? "").slice(0, 12)));
    }))));
}

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
