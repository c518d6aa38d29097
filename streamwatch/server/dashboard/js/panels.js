// Beside the picture: what each member says, the tracks, the figures of the stream.

import { api } from "./api.js";
import { arrange, h, setAttribute, setText } from "./dom.js";
import { latency, number, percent, score, unknownWords, VERDICTS } from "./format.js";
import { memberColour } from "./timeline.js";

const REFRESH = 3_000;
/** Members further apart than this are said to disagree. */
const APART = 0.4;
/** Quantiser of H.264 from which few fakes are found (docs/operators.md). */
const HARD = 25;

export class Panels {
  #rows = new Map();
  #tracks = new Map();
  #chosen = null;

  constructor(id) {
    this.id = id;
    /** Whether the stream is compressed so hard that a low score says little. */
    this.hard = false;
    this.bars = h("ul", { class: "bars" });
    this.spread = h("p", { class: "muted" });
    this.whose = h("span", { class: "muted" });
    this.members = h("section", { class: "card", "aria-label": "Members" }, h("h2", {}, "Members ", this.whose), this.bars, this.spread);
    this.trackRows = h("tbody");
    this.noFace = h("p", { class: "muted" }, "No face in the newest frame.");
    this.trackTable = h("table", {}, h("thead", {}, h("tr", {}, ["Face", "Score", "Verdict", "Quality", "Coverage"].map((word) => h("th", { scope: "col" }, word)))), this.trackRows);
    this.tracks = h("section", { class: "card", "aria-label": "Faces" }, h("h2", {}, "Faces"), this.trackTable, this.noFace);
    this.list = h("dl", { class: "facts-list" });
    this.figures = h("section", { class: "card", "aria-label": "Stream" }, h("h2", {}, "Stream"), this.list);
    this.timer = setInterval(() => this.refresh(), REFRESH);
    this.refresh();
  }

  close() {
    clearInterval(this.timer);
  }

  show(stream, view, names) {
    const faces = view.live ? (stream.last?.faces ?? []) : [];
    const face = faces.find((each) => each.track === this.#chosen) ?? faces.find((each) => each.track === stream.last.worst) ?? faces[0];
    this.#showMembers(face, names, stream.last?.threshold ?? stream.past?.threshold);
    this.#showTracks(faces, face);
  }

  #showMembers(face, names, threshold) {
    setText(this.whose, face ? `of face ${face.track}` : "");
    const values = [];
    const shown = names.map((name, i) => {
      const row = this.#bar(name, i);
      const value = face?.members[name] ?? null;
      if (value !== null) values.push([name, value]);
      setText(row.number, score(value));
      row.meter.value = value ?? 0;
      setAttribute(row.meter, "aria-valuetext", score(value));
      row.element.style.setProperty("--threshold", `${(threshold ?? 1) * 100}%`);
      row.fill.style.width = `${(value ?? 0) * 100}%`;
      return row.element;
    });
    arrange(this.bars, shown);
    values.sort((a, b) => a[1] - b[1]);
    const apart = values.length > 1 ? values.at(-1)[1] - values[0][1] : 0;
    const disagree = apart > APART;
    const text = !values.length ? "No face is being scored." : disagree ? `They disagree: ${values.at(-1)[0]} says ${score(values.at(-1)[1])}, ${values[0][0]} says ${score(values[0][1])}.` : values.length > 1 ? `They agree within ${number(apart, 2)}.` : "One member only.";
    setText(this.spread, text);
    this.spread.classList.toggle("warn", disagree);
  }

  #bar(name, index) {
    let row = this.#rows.get(name);
    if (!row) {
      const meter = h("meter", { class: "hidden", min: "0", max: "1", "aria-label": name });
      const fill = h("i", { class: `fill ${memberColour(index)}` });
      const value = h("span", { class: "num" });
      row = { meter, fill, number: value, element: h("li", {}, h("span", { class: `swatch ${memberColour(index)}` }), h("span", { class: "member" }, name), h("span", { class: "track", "aria-hidden": "true" }, fill), value, meter) };
      this.#rows.set(name, row);
    }
    return row;
  }

  #showTracks(faces, current) {
    this.trackTable.hidden = !faces.length;
    this.noFace.hidden = faces.length > 0;
    arrange(this.trackRows, faces.map((face) => {
      const row = this.#track(face.track);
      setAttribute(row.element, "data-look", face.verdict);
      row.button.setAttribute("aria-pressed", String(face === current));
      const { glyph, word } = VERDICTS[face.verdict];
      const cells = [score(face.score), face.reason ? unknownWords(face.reason, face.gate) : `${glyph} ${word}`, percent(face.quality), percent(face.coverage)];
      for (const [i, text] of cells.entries()) setText(row.cells[i], text);
      return row.element;
    }));
    for (const track of this.#tracks.keys()) if (!faces.some((face) => face.track === track)) this.#tracks.delete(track);
  }

  #track(track) {
    let row = this.#tracks.get(track);
    if (!row) {
      const cells = [h("td", { class: "num" }), h("td", { class: "verdict" }), h("td", { class: "num" }), h("td", { class: "num" })];
      const button = h("button", { type: "button", class: "small", title: "Show what the members say of this face", onclick: () => (this.#chosen = track) }, String(track));
      row = { cells, button, element: h("tr", {}, h("td", {}, button), cells) };
      this.#tracks.set(track, row);
    }
    return row;
  }

  async refresh() {
    let given;
    try {
      given = await api.stream(this.id);
    } catch {
      return; // the page says by itself that the service is away, or the stream gone
    }
    const { info, statistics: counts } = given;
    this.hard = counts.quantiser > HARD;
    const drops = Object.entries(counts.dropped).filter(([, count]) => count);
    const facts = [
      ["Address", given.url],
      ["Video", info ? `${info.codec.toUpperCase()} ${info.width} × ${info.height}${info.fps ? `, ${number(info.fps, info.fps % 1 ? 1 : 0)} a second` : ""}` : "–"],
      ["Compression", counts.quantiser === null ? "not known" : `quantiser ${number(counts.quantiser)} of 51${this.hard ? ", hard" : ""}`],
      ["Decoded by", info ? [info.decoder, info.transport].filter(Boolean).join(", over ") : "–"],
      ["Analysed", `${number(counts.measured_fps, 1)} a second of ${number(counts.sample_fps, 1)} asked for${given.degraded ? " (degraded: the device is busy)" : ""}`],
      ["Latency", `${latency(counts.latency_p50)} median, ${latency(counts.latency_p95)} at 95 %`],
      ["Frames", `${number(counts.decoded)} decoded, ${number(counts.sampled)} sampled`],
      ["Faces scored", number(counts.scored_faces)],
      ["Dropped", drops.length ? drops.map(([reason, count]) => `${number(count)} ${reason.replaceAll("_", " ")}`).join(", ") : "none"],
      ["Reconnects", number(counts.reconnects)],
    ];
    this.list.replaceChildren(...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", { class: "num" }, value)]));
  }
}
