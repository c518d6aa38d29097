// The wall: all streams, the most worrying first.

import { api } from "./api.js";
import { judge, RANKS } from "./concern.js";
import { arrange, h, setAttribute, setText } from "./dom.js";
import { addStream } from "./forms.js";
import { SPAN, Tile } from "./tile.js";
import { recall, remember } from "./settings.js";

/** Painting stops after so many ms and goes on in the next frame: no wall is so large that it makes the page stutter. */
const BUDGET = 7;
/** Changes gather for so many ms: with many streams something changes in every frame, and each frame shown costs. */
const GATHER = 60;
const TICK = 500;
const COMPACT_FROM = 25;
/** Tiles wider than this, in CSS pixels, get the larger pictures, unless there are many. */
const LARGE_FROM = 400;
const MANY = 6;
/** With more tiles than this a heat map would be a few pixels. */
const HEAT_UP_TO = 24;
const CHIPS = { fake: "Fake", suspect: "Suspect", alert: "Other alert", down: "Down", unknown: "Unknown", real: "Real", paused: "Paused" };

export function openWall(context) {
  const wall = new Wall(context);
  return { title: "Wall", element: wall.element, close: () => wall.close() };
}

class Wall {
  #tiles = new Map();
  #views = new Map();
  #stale = new Map();
  #chosen = new Set(recall("ranks", []));
  #frame = 0;
  #gathering = 0;
  #orderDirty = true;
  #order = "";
  #backfills = 0;

  constructor(context) {
    this.context = context;
    this.store = context.store;
    this.#build();
    this.observer = new IntersectionObserver((entries) => this.#seen(entries), { rootMargin: "120px" });
    this.unlisten = this.store.listen((kind, id) => this.#changed(kind, id));
    this.timer = setInterval(() => this.#tick(), TICK);
    this.onVisibility = () => this.#showPictures();
    document.addEventListener("visibilitychange", this.onVisibility);
    for (const id of this.store.streams.keys()) this.#mark(id);
    this.#schedule();
  }

  close() {
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#gathering);
    clearInterval(this.timer);
    this.unlisten();
    this.observer.disconnect();
    document.removeEventListener("visibilitychange", this.onVisibility);
    this.context.pictures.show([]);
  }

  #build() {
    this.search = h("input", { type: "search", placeholder: "Find a stream  /", "aria-label": "Find a stream by name", oninput: () => this.#reorder() });
    this.chips = new Map(RANKS.map((rank) => {
      const count = h("b", {}, "0");
      const button = h("button", { type: "button", "data-rank": rank, "aria-pressed": String(this.#chosen.has(rank)), onclick: () => this.#choose(rank) }, count, ` ${CHIPS[rank]}`);
      return [rank, { button, count }];
    }));
    this.density = h("button", { type: "button", "aria-pressed": "false", onclick: () => this.#toggleDensity() }, "Compact");
    this.list = h("ul", { class: "wall", "aria-label": "Streams, the most worrying first", onkeydown: (event) => this.#arrow(event) });
    this.none = h("div", { class: "empty", hidden: true });
    this.element = h("section", { "aria-labelledby": "wall-title" },
      h("h1", { id: "wall-title", class: "hidden" }, "Wall"),
      h("div", { class: "toolbar" }, this.search,
        h("div", { class: "chips", role: "group", "aria-label": "Show only" }, [...this.chips.values()].map((chip) => chip.button)),
        h("div", { class: "end" }, this.density)),
      this.list, this.none);
    this.element.focusSearch = () => this.search.focus();
  }

  #changed(kind, id) {
    if (kind === "streams") this.#orderDirty = true;
    if (kind === "alert") for (const each of this.store.streams.keys()) this.#mark(each, "text");
    else if (id) this.#mark(id, kind === "score" || kind === "picture" ? kind : "all");
    this.#schedule();
  }

  /** `what`: "picture", "score" (the curve; and the picture, if the score is of that frame), "text", or "all". */
  #mark(id, what = "all") {
    const marked = this.#stale.get(id);
    if (marked) marked.add(what);
    else this.#stale.set(id, new Set([what]));
  }

  /** Time alone makes a score old: every tile is judged anew though nothing came. */
  #tick() {
    for (const id of this.store.streams.keys()) this.#judge(id);
    this.#schedule();
  }

  #schedule() {
    this.#gathering ||= setTimeout(() => {
      this.#frame = requestAnimationFrame(() => {
        this.#gathering = 0;
        this.#render();
      });
    }, GATHER);
  }

  #render() {
    const began = performance.now();
    const now = this.store.clock.now();
    if (this.#orderDirty) this.#arrangeTiles();
    for (const [id, what] of this.#stale) {
      if (performance.now() - began > BUDGET) break;
      this.#stale.delete(id);
      const tile = this.#tiles.get(id);
      if (!tile || !this.store.streams.has(id)) continue;
      const view = this.#judge(id);
      if (!tile.visible) continue;
      tile.paint(view, this.store.scene(tile.stream), what, now);
    }
    if (this.#orderDirty || this.#stale.size) this.#schedule();
  }

  #judge(id) {
    const stream = this.store.streams.get(id);
    const world = this.store.world(id);
    const view = judge(stream, world);
    const before = this.#views.get(id);
    this.#views.set(id, view);
    if (before?.rank !== view.rank) this.#orderDirty = true;
    if (before?.live !== view.live) this.#mark(id);
    const tile = this.#tiles.get(id);
    if (tile?.visible || before?.rank !== view.rank) tile?.describe(view, world.alerts);
    return view;
  }

  #arrangeTiles() {
    this.#orderDirty = false;
    const { streams } = this.store;
    for (const id of this.#tiles.keys()) if (!streams.has(id)) this.#drop(id);
    const counts = Object.fromEntries(RANKS.map((rank) => [rank, 0]));
    const shown = [];
    const wanted = this.search.value.trim().toLowerCase();
    for (const [id, stream] of streams) {
      if (!this.#tiles.has(id) || this.#tiles.get(id).stream !== stream) this.#make(stream);
      const { rank } = this.#views.get(id) ?? this.#judge(id);
      counts[rank]++;
      if (this.#chosen.size && !this.#chosen.has(rank)) continue;
      if (wanted && !`${id} ${stream.name}`.toLowerCase().includes(wanted)) continue;
      shown.push({ id, rank: RANKS.indexOf(rank), name: stream.name });
    }
    this.#orderDirty = false;
    shown.sort((a, b) => a.rank - b.rank || a.name.localeCompare(b.name, "en", { numeric: true }));
    const order = shown.map((entry) => entry.id).join(" ");
    if (order !== this.#order) arrange(this.list, shown.map((entry) => this.#tiles.get(entry.id).element));
    this.#order = order;
    for (const [rank, { button, count }] of this.chips) {
      setText(count, String(counts[rank]));
      button.classList.toggle("some", counts[rank] > 0);
    }
    this.#setDensity();
    setAttribute(this.list, "data-count", String(shown.length));
    this.#explainNothing(shown.length);
  }

  #explainNothing(count) {
    if (count === this.none.shown) return;
    this.none.shown = count;
    this.none.hidden = count > 0;
    if (count) return;
    if (this.store.streams.size) this.none.replaceChildren(h("strong", {}, "No stream matches"), h("button", { type: "button", onclick: () => this.#clear() }, "Show all streams"));
    else if (!this.store.connected) this.none.replaceChildren(h("strong", {}, "Waiting for the service"));
    else this.none.replaceChildren(h("strong", {}, "No streams yet"), h("p", {}, "Add a camera by its RTSP address, or publish this browser’s own camera."), h("button", { type: "button", class: "primary", onclick: () => addStream(this.context) }, "Add stream"));
  }

  #make(stream) {
    if (this.#tiles.has(stream.id)) this.#drop(stream.id);
    const tile = new Tile(stream);
    this.#tiles.set(stream.id, tile);
    this.observer.observe(tile.element);
    this.#mark(stream.id);
    tile.describe(this.#judge(stream.id), this.store.alertsOf(stream.id));
  }

  #drop(id) {
    const tile = this.#tiles.get(id);
    this.observer.unobserve(tile.element);
    tile.element.remove();
    this.#tiles.delete(id);
    this.#views.delete(id);
    this.#order = "";
  }

  #seen(entries) {
    for (const { target, isIntersecting } of entries) {
      const tile = this.#tiles.get(target.dataset.stream);
      if (!tile || tile.element !== target) continue;
      tile.visible = isIntersecting;
      if (isIntersecting) {
        this.#mark(tile.stream.id);
        this.#backfill(tile.stream);
      }
    }
    this.#showPictures();
    this.#schedule();
  }

  #showPictures() {
    const shown = [...this.#tiles.values()].filter((tile) => tile.visible);
    const large = shown.length > 0 && shown.length <= MANY && shown[0].picture.clientWidth > LARGE_FROM;
    this.context.pictures.show(document.hidden ? [] : shown.map((tile) => tile.stream.id), large ? "large" : "small", shown.length <= HEAT_UP_TO);
  }

  /** The sparkline's past, once for each stream that comes into view, few at a time. */
  async #backfill(stream) {
    if (stream.backfilled || this.#backfills >= 3) return;
    stream.backfilled = true;
    this.#backfills++;
    try {
      const points = await api.scores(stream.id, this.store.clock.now() - SPAN, null);
      stream.series.backfill(points.map((point) => [Date.parse(point.at), point.score]));
      this.#mark(stream.id);
    } catch {
      // Without its past the curve begins now.
    }
    this.#backfills--;
    const next = [...this.#tiles.values()].find((tile) => tile.visible && !tile.stream.backfilled);
    if (next) this.#backfill(next.stream);
    this.#schedule();
  }

  #choose(rank) {
    if (!this.#chosen.delete(rank)) this.#chosen.add(rank);
    setAttribute(this.chips.get(rank).button, "aria-pressed", String(this.#chosen.has(rank)));
    remember("ranks", [...this.#chosen]);
    this.#reorder();
  }

  #clear() {
    this.search.value = "";
    for (const rank of [...this.#chosen]) this.#choose(rank);
    this.#reorder();
  }

  #reorder() {
    this.#orderDirty = true;
    this.#schedule();
  }

  #toggleDensity() {
    remember("compact", !this.#compact);
    this.#setDensity();
    for (const id of this.#tiles.keys()) this.#mark(id);
    this.#schedule();
  }

  get #compact() {
    return recall("compact", null) ?? this.store.streams.size >= COMPACT_FROM;
  }

  #setDensity() {
    setAttribute(this.list, "data-compact", this.#compact ? "" : null);
    setAttribute(this.density, "aria-pressed", String(this.#compact));
  }

  /** Arrow keys go from tile to tile as they lie on the screen. */
  #arrow(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: "up", ArrowDown: "down", Home: "first", End: "last" }[event.key];
    if (step === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    const tiles = [...this.list.children];
    const at = tiles.indexOf(event.target.closest(".tile"));
    if (at < 0) return;
    event.preventDefault();
    const columns = Math.max(1, tiles.findIndex((tile) => tile.offsetTop !== tiles[0].offsetTop)) || tiles.length;
    const to = { up: at - columns, down: at + columns, first: 0, last: tiles.length - 1 }[step] ?? at + step;
    tiles[to]?.querySelector(".name").focus();
  }
}
