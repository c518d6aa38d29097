// Publishes this browser's camera by WHIP (RFC 9725): one POST, no server of anyone else.

import { call } from "./api.js";

const GATHER = 2_000;

const publishers = new Map();
const watchers = new Set();

/** The one publisher of a stream: it goes on while this browser shows other pages. */
export function publisherOf(stream) {
  if (!publishers.has(stream)) publishers.set(stream, new Publisher(stream));
  return publishers.get(stream);
}

/** watcher(publisher) is told of each change of any. Returns the function that ends it. */
export function watchPublishers(watcher) {
  watchers.add(watcher);
  return () => watchers.delete(watcher);
}

class Publisher {
  text = "";
  active = false;
  #peer = null;
  #media = null;
  #session = null;

  constructor(stream) {
    this.stream = stream;
  }

  #tell(text, active) {
    this.text = text;
    this.active = active;
    for (const watcher of watchers) watcher(this);
  }

  async start() {
    this.#tell("Asking for the camera", true);
    try {
      if (!navigator.mediaDevices) throw new Error("The browser gives its camera only to a page from this computer or over HTTPS.");
      this.#media = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 25 } }, audio: false });
      await this.#publish();
    } catch (error) {
      await this.stop();
      this.#tell(error.name === "NotAllowedError" ? "The camera was not allowed." : error.message, false);
    }
  }

  async #publish() {
    const peer = new RTCPeerConnection({ iceServers: [] });
    this.#peer = peer;
    for (const track of this.#media.getVideoTracks()) peer.addTransceiver(track, { direction: "sendonly", streams: [this.#media] });
    peer.onconnectionstatechange = () => {
      if (peer !== this.#peer) return;
      if (peer.connectionState === "connected") this.#tell("This camera is being published", true);
      if (["failed", "disconnected"].includes(peer.connectionState)) this.stop("The connection was lost");
    };
    this.#tell("Connecting", true);
    await peer.setLocalDescription();
    await gathered(peer);
    const response = await call("POST", `whip/${encodeURIComponent(this.stream)}`, { body: peer.localDescription.sdp, type: "application/sdp" });
    this.#session = new URL(response.headers.get("Location"), location.href);
    await peer.setRemoteDescription({ type: "answer", sdp: await response.text() });
  }

  async stop(why = "") {
    const session = this.#session;
    this.#peer?.close();
    for (const track of this.#media?.getTracks() ?? []) track.stop();
    this.#peer = this.#media = this.#session = null;
    this.#tell(why, false);
    if (session) await fetch(session, { method: "DELETE" }).catch(() => {}); // the service notices the silence by itself
  }
}

/** All candidates in the offer: no trickle is needed. Some networks never finish gathering; what is there by then goes. */
function gathered(peer) {
  return new Promise((done) => {
    if (peer.iceGatheringState === "complete") return done();
    const timer = setTimeout(done, GATHER);
    peer.addEventListener("icegatheringstatechange", () => {
      if (peer.iceGatheringState !== "complete") return;
      clearTimeout(timer);
      done();
    });
  });
}
