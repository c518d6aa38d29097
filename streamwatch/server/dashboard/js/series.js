// The last minutes of one stream's score, bounded.

export class Series {
  #times;
  #values;
  #start = 0;
  #length = 0;

  constructor(capacity = 900) {
    this.#times = new Float64Array(capacity);
    this.#values = new Float32Array(capacity);
  }

  get length() {
    return this.#length;
  }

  time(i) {
    return this.#times[(this.#start + i) % this.#times.length];
  }

  /** NaN where the verdict was unknown. */
  value(i) {
    return this.#values[(this.#start + i) % this.#times.length];
  }

  get lastTime() {
    return this.#length ? this.time(this.#length - 1) : -Infinity;
  }

  /** Later than all others, else it is ignored: a resume may repeat what is known. */
  push(time, value) {
    if (!(time > this.lastTime)) return;
    const capacity = this.#times.length;
    const at = (this.#start + this.#length) % capacity;
    this.#times[at] = time;
    this.#values[at] = value === null || value === undefined ? NaN : value;
    if (this.#length < capacity) this.#length++;
    else this.#start = (this.#start + 1) % capacity;
  }

  /** Puts [time, value] pairs from the history before what has come live. */
  backfill(pairs) {
    const own = [];
    for (let i = 0; i < this.#length; i++) own.push([this.time(i), this.value(i)]);
    const first = own.length ? own[0][0] : Infinity;
    this.#start = this.#length = 0;
    for (const [time, value] of pairs) if (time < first) this.push(time, value);
    for (const [time, value] of own) this.push(time, value);
  }

  /** Index of the first point not before `time`. */
  from(time) {
    let low = 0;
    let high = this.#length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.time(middle) < time) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
