// One stream: picture, verdict, timeline, members, tracks, figures.

import { judge } from "./concern.js";
import { controls } from "./controls.js";
import { frame } from "./draw.js";
import { h, setAttribute, setText } from "./dom.js";
import { ago, score, VERDICTS } from "./format.js";
import { Past } from "./past.js";
import { Panels } from "./panels.js";
import { recall, remember } from "./settings.js";
import { Timeline } from "./timeline.js";

export function openStream(context, id) {
  const page = new StreamPage(context, id);
  return { title: context.store.streams.get(id)?.name ?? id, element: page.element, close: () => page.close() };
}

class StreamPage {
  #frame = 0;

  constructor(context, id) {
    this.context = context;
    this.store = context.store;
    this.id = id;
    this.heat = recall("heat", true);
    this.past = new Past(context.store, id, () => this.#schedule());
    this.timeline = new Timeline(this.past);
    this.panels = new Panels(id);
    this.controls = controls(context, id);
    this.#build();
    this.unlisten = this.store.listen((kind, which) => this.#changed(kind, which));
    this.timer = setInterval(() => this.#schedule(), 500);
    context.pictures.show([id], "large");
    this.#schedule();
  }

  close() {
    cancelAnimationFrame(this.#frame);
    clearInterval(this.timer);
    this.unlisten();
    this.past.close();
    this.panels.close();
    this.controls.close();
    this.context.pictures.show([]);
  }

  #build() {
    this.picture = h("canvas", { class: "picture", role: "img", "aria-label": "The newest analysed frame" });
    this.badge = h("span", { class: "badge" });
    this.age = h("span", { class: "age num" });
    this.name = h("h1");
    this.value = h("span", { class: "value num" });
    this.verdict = h("span", { class: "verdict" });
    this.words = h("p", { class: "words" });
    this.caution = h("p", { class: "warn", hidden: true }, "Compressed so hard that fakes are easily missed: a low score says little.");
    const heat = h("input", { type: "checkbox", onchange: () => {
      this.heat = heat.checked;
      remember("heat", this.heat);
      this.#schedule();
    } });
    heat.checked = this.heat;
    this.body = h("div", { class: "stream-grid" },
      h("div", { class: "stream-main" },
        h("div", { class: "screen large" }, this.picture, this.badge, this.age),
        h("label", { class: "check hint" }, heat, "Show where the worst face looks manipulated"),
        this.timeline.element),
      h("aside", { class: "stream-side", "aria-label": "Verdict" },
        h("div", { class: "card verdict-card" }, h("div", { class: "says" }, this.value, this.verdict), this.words, this.caution),
        this.panels.members, this.panels.tracks, this.panels.figures));
    this.gone = h("div", { class: "empty", hidden: true }, h("strong", {}, "There is no such stream"), h("a", { href: "#/" }, "To the wall"));
    this.element = h("section", { class: "stream-page" },
      h("div", { class: "toolbar" }, h("a", { class: "back", href: "#/" }, "← Wall"), this.name, this.controls.element), this.body, this.gone);
  }

  #changed(kind, which) {
    if (kind === "alert" || which === this.id || which === null) this.#schedule();
    if (kind === "score" && which === this.id) this.past.add(this.store.streams.get(this.id).last);
  }

  #schedule() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#render();
    });
  }

  #render() {
    const stream = this.store.streams.get(this.id);
    // Before the first snapshot nothing is known, which is not the same as absent.
    this.gone.hidden = Boolean(stream) || !this.store.connected;
    this.body.hidden = !stream;
    this.controls.show(stream);
    setText(this.name, stream?.name ?? this.id);
    if (!stream) return;
    const view = judge(stream, this.store.world(this.id));
    const scene = this.store.scene(stream);
    setAttribute(this.body, "data-look", view.look);
    setAttribute(this.body, "data-live", String(view.live));
    setText(this.badge, view.badge);
    setText(this.age, view.age === null ? "" : ago(view.age));
    setText(this.value, score(view.score));
    setText(this.verdict, view.live ? `${VERDICTS[view.verdict].glyph} ${VERDICTS[view.verdict].word}` : view.badge);
    setText(this.words, view.words);
    this.caution.hidden = !(view.live && view.verdict === "real" && this.panels.hard);
    frame(this.picture, scene, { dim: !view.live || scene?.past, heat: this.heat });
    this.timeline.draw();
    this.panels.show(stream, view, this.past.members());
  }
}
