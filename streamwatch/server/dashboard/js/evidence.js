// The evidence of one alert: clip, pictures, download.

import { api } from "./api.js";
import { h } from "./dom.js";

const AGAIN_AFTER = 3_000;
const ATTEMPTS = 10;

/** What was kept of one alert, and below it what was kept of the faces that joined; it fills itself. */
export class Evidence {
  #joined = new Set();

  constructor(alert) {
    this.alert = alert;
    this.own = h("div", { class: "evidence" }, h("p", { class: "muted" }, "Looking for evidence"));
    this.element = h("div", { class: "evidence" }, this.own);
    this.#look(0);
  }

  /** A face that came to a running alert has a bundle of its own, `ALERT+TRACK` or `ALERT+TRACK-2`. What is shown already stays as it is. */
  join(id) {
    if (this.#joined.has(id)) return;
    this.#joined.add(id);
    this.element.append(h("section", { class: "joined" }, h("h3", {}, `Face ${parseInt(id.slice(id.lastIndexOf("+") + 1), 10)}, which joined`), new Evidence(id).element));
  }

  /** The bundle of a running alert is written only after its post-roll: so it asks again. */
  async #look(attempt) {
    try {
      const bundle = await api.evidence(this.alert);
      this.own.replaceChildren(player(bundle), pictures(bundle), files(bundle));
      for (const id of bundle.joined) this.join(id);
    } catch (error) {
      const final = error.status !== 404 || attempt >= ATTEMPTS;
      this.own.replaceChildren(h("p", { class: "muted" }, error.status === 404 ? (final ? "No evidence was kept for this alert." : "No evidence yet.") : error.message));
      if (!final) setTimeout(() => this.own.isConnected && this.#look(attempt + 1), AGAIN_AFTER);
    }
  }
}

function player(bundle) {
  const clip = bundle.files.find((file) => file.media_type.startsWith("video/"));
  if (!clip) return h("p", { class: "muted" }, "The bundle holds no clip.");
  return h("video", { src: clip.href, controls: true, preload: "metadata", playsinline: true, "aria-label": "Evidence clip" });
}

const CAPTIONS = { worst: "Worst face", worst_heat: "… and where", typical: "Typical face", typical_heat: "… and where" };

/** What the members saw: the faces that decided, and where they look manipulated. */
function pictures(bundle) {
  const stem = (file) => file.name.replace(/\.\w+$/, "");
  const known = Object.keys(CAPTIONS);
  const stills = bundle.files.filter((file) => file.media_type.startsWith("image/"));
  stills.sort((a, b) => known.indexOf(stem(a)) - known.indexOf(stem(b)));
  return h("div", { class: "stills" }, stills.map((file) => h("figure", {}, h("img", { src: file.href, alt: "", loading: "lazy" }), h("figcaption", {}, CAPTIONS[stem(file)] ?? file.name))));
}

function files(bundle) {
  const size = (bytes) => (bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.max(1, Math.round(bytes / 1e3))} kB`);
  return h("div", { class: "files" },
    h("a", { class: "button", href: bundle.zip, download: "" }, "Download all (zip)"),
    h("ul", {}, bundle.files.map((file) => h("li", {}, h("a", { href: file.href, download: "" }, file.name), " ", h("span", { class: "muted num" }, size(file.size))))));
}
