// The websocket of pictures: only for the streams that are on the screen now, so that what is not looked at costs
// nothing. It is apart from that of changes, so that pictures on a slow link never hold up a score.

import { backoff, socketUrl } from "./connection.js";

const SETTLE = 200;
/** The service takes 20 messages in 10 s; this keeps well below. */
const SPACING = 1_000;

export class Pictures {
  #wanted = "[]";
  #size = "small";
  #heat = true;
  #socket = null;
  #timer = null;
  #sentAt = -Infinity;
  #sent = "";
  #attempt = 0;
  #running = false;

  /** @param received function ({type, stream, captured_at, ...}, ImageBitmap) */
  constructor(received) {
    this.received = received;
  }

  start() {
    this.#running = true;
    this.#plan();
  }

  stop() {
    this.#running = false;
    clearTimeout(this.#timer);
    this.#socket?.close(1000);
    this.#socket = null;
  }

  /** @param streams ids, in any order; @param size "small" (320 px wide) or "large" (960); @param heat with heat maps */
  show(streams, size = "small", heat = true) {
    this.#wanted = JSON.stringify([...streams].sort());
    this.#size = size;
    this.#heat = heat;
    this.#plan();
  }

  #plan() {
    if (!this.#running) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#apply(), Math.max(SETTLE, this.#sentAt + SPACING - performance.now()));
  }

  #apply() {
    if (!this.#socket) {
      if (this.#wanted !== "[]") this.#open();
      return;
    }
    const message = `{"type":"subscribe","streams":${this.#wanted},"thumbnails":"${this.#size}","heat":${this.#heat}}`;
    if (this.#socket.readyState !== WebSocket.OPEN || message === this.#sent) return;
    this.#sent = message;
    this.#sentAt = performance.now();
    this.#socket.send(message);
  }

  #open() {
    const socket = new WebSocket(socketUrl("streams="));
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#sent = "";
    socket.onopen = () => {
      this.#attempt = 0;
      this.#apply();
    };
    socket.onmessage = (event) => {
      if (typeof event.data !== "string") this.#receive(event.data);
    };
    socket.onclose = () => {
      if (socket !== this.#socket) return;
      this.#socket = null;
      if (this.#running) this.#timer = setTimeout(() => this.#apply(), backoff(++this.#attempt));
    };
  }

  async #receive(buffer) {
    const length = new DataView(buffer).getUint32(0);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    const type = header.type === "heat" ? "image/png" : "image/jpeg";
    let bitmap;
    try {
      bitmap = await createImageBitmap(new Blob([new Uint8Array(buffer, 4 + length)], { type }));
    } catch {
      return; // half a picture is no picture; the next one comes in a moment
    }
    this.received(header, bitmap);
  }
}
