// How old a moment of the service is, whatever the clock of this computer says.

const BUCKET = 15_000;

/**
 * Estimates the offset between the service's wall clock and this page's monotonic clock from messages that carry the time
 * at which they were made. The smallest difference seen is that of the message that waited least; a message that was
 * held up (a slow link, a resume) has a larger one, so it is shown as old as it really is. The minimum is over
 * the last 15 to 30 s, so that a stepped clock on either side is followed.
 */
export class ServerClock {
  #current = Infinity;
  #previous = Infinity;
  #began = 0;

  /** `sent` is the service's wall time in ms at which it made a message that arrived just now. */
  observe(sent, now = performance.now()) {
    if (!Number.isFinite(sent)) return;
    if (now - this.#began > BUCKET) {
      this.#previous = now - this.#began > 2 * BUCKET ? Infinity : this.#current;
      this.#current = Infinity;
      this.#began = now;
    }
    this.#current = Math.min(this.#current, now - sent);
  }

  get known() {
    return Number.isFinite(this.#offset);
  }

  get #offset() {
    return Math.min(this.#current, this.#previous);
  }

  /** The service's wall clock now, in ms; this computer's own until a message has come. */
  now(now = performance.now()) {
    return this.known ? now - this.#offset : Date.now();
  }

  /** Age in ms of a moment on the service's wall clock; never negative. */
  age(wall) {
    return Math.max(0, this.now() - wall);
  }
}
