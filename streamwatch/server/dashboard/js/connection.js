// The websocket of changes: connects, resumes where it left off, and knows when it has gone silent.

const FIRST_DELAY = 400;
const LAST_DELAY = 8_000;

export function socketUrl(query) {
  const url = new URL("api/v1/ws", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  url.search = query;
  return url;
}

/** Exponential, with jitter, so that a wall of screens does not come back in step. */
export function backoff(attempt) {
  return Math.min(LAST_DELAY, FIRST_DELAY * 1.7 ** attempt) * (0.7 + 0.6 * Math.random());
}

export class Connection {
  state = "connecting";
  retryAt = null;
  /** What the service said when it ended the connection, if it did. */
  reason = "";
  #socket = null;
  #attempt = 0;
  #timer = null;
  #watchdog = null;
  #heartbeat = 15_000;
  #epoch = null;
  #seen = new Map();
  #stopped = true;

  /** @param handlers {message(object), state(word), refused()}: `refused` when the service wants a login */
  constructor(handlers) {
    this.handlers = handlers;
    addEventListener("online", () => this.#hurry());
    document.addEventListener("visibilitychange", () => document.hidden || this.#hurry());
  }

  start() {
    this.#stopped = false;
    this.#attempt = 0;
    this.#open();
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#watchdog);
    this.#socket?.close(1000);
    this.#socket = null;
  }

  /** Now rather than at the end of the delay. */
  retry() {
    if (this.#stopped || this.#socket) return;
    clearTimeout(this.#timer);
    this.#open();
  }

  #hurry() {
    this.#attempt = 0;
    this.retry();
  }

  #enter(state) {
    this.state = state;
    this.handlers.state(state);
  }

  #open() {
    const resuming = this.#epoch !== null;
    const socket = new WebSocket(socketUrl(resuming ? "resume=1" : ""));
    this.#socket = socket;
    this.retryAt = null;
    if (this.state !== "lost") this.#enter("connecting");
    this.#listen(8_000);
    socket.onopen = () => {
      if (resuming) socket.send(JSON.stringify({ type: "resume", epoch: this.#epoch, seq: Object.fromEntries(this.#seen) }));
    };
    socket.onmessage = (event) => this.#receive(JSON.parse(event.data));
    socket.onclose = (event) => this.#lost(socket, event.reason);
  }

  /** Whoever says nothing for two heartbeats is gone, whatever the socket believes. */
  #listen(patience = 2 * this.#heartbeat + 1_000) {
    clearTimeout(this.#watchdog);
    const socket = this.#socket;
    this.#watchdog = setTimeout(() => {
      socket.close();
      this.#lost(socket);
    }, patience);
  }

  #receive(message) {
    if (message.type === "snapshot") this.#adopt(message);
    else if (message.seq !== undefined) {
      if (message.seq <= (this.#seen.get(message.stream) ?? -1)) return;
      if (message.type === "removed") this.#seen.delete(message.stream);
      else this.#seen.set(message.stream, message.seq);
    }
    this.#listen();
    this.handlers.message(message);
    if (message.type === "snapshot") this.#enter("live");
  }

  #adopt(snapshot) {
    this.#heartbeat = snapshot.heartbeat_s * 1000;
    this.#attempt = 0;
    if (snapshot.epoch !== this.#epoch) this.#seen.clear();
    this.#epoch = snapshot.epoch;
    for (const { stream, seq } of snapshot.streams) this.#seen.set(stream, seq);
  }

  async #lost(socket, reason = "") {
    if (socket !== this.#socket) return;
    this.reason = reason;
    this.#socket = null;
    clearTimeout(this.#watchdog);
    if (this.#stopped) return;
    const delay = backoff(this.#attempt++);
    this.retryAt = performance.now() + delay;
    this.#timer = setTimeout(() => this.#open(), delay);
    this.#enter("lost");
    if (await this.handlers.refused()) this.stop();
  }
}
