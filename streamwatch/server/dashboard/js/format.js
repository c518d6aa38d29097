// Words and numbers as people read them.

export const VERDICTS = {
  fake: { word: "Fake", glyph: "▲" },
  suspect: { word: "Suspect", glyph: "◆" },
  real: { word: "Real", glyph: "●" },
  unknown: { word: "Unknown", glyph: "○" },
};

const UNKNOWN = {
  warming_up: "Collecting its first frames",
  no_face: "No face in view",
  low_quality: "Faces too small or unclear to judge",
  stale: "No fresh frame to judge",
  disagreement: "The members disagree",
};

const GATES = {
  size: "Face too small to judge",
  sharpness: "Face too blurred to judge",
  brightness: "Too dark to judge",
  glare: "Too bright to judge",
  pose: "Face turned too far away",
  truncation: "Face cut off by the picture's edge",
  compression: "Too strongly compressed to judge",
};

const FAILURES = {
  connection_failed: "the source cannot be reached",
  auth_failed: "the source refused the user name or password",
  tls: "no secure connection",
  timeout: "the source does not answer in time",
  not_found: "the source has no such path",
  codec_unsupported: "the codec is not supported",
  no_video: "the source has no video",
  ended: "the source ended the stream",
  stalled: "the source sends nothing",
  decode_errors: "too much of it cannot be decoded",
  not_allowed: "the source is not on the allow-list",
  device_missing: "the device is not there",
};

const STATES = {
  connecting: "Connecting",
  live: "Live",
  stalled: "Stalled",
  reconnecting: "Reconnecting",
  paused: "Paused",
  ended: "Ended",
  failed: "Failed",
  stopped: "Stopped",
};

export const KINDS = {
  deepfake_suspected: "Deepfake suspected",
  stream_down: "Stream down",
  stream_stale: "Stream stale",
  no_face_for: "No face",
  detector_drift: "Detector drift",
  canary: "Canary",
  sink_failing: "Sink failing",
  storage: "Storage",
  test: "Test",
};

export const REVIEWS = {
  none: "Unreviewed",
  acknowledged: "Acknowledged",
  confirmed: "Confirmed",
  false_alarm: "False alarm",
};

const plain = (word) => word.replaceAll("_", " ");
const sentence = (word) => plain(word).charAt(0).toUpperCase() + plain(word).slice(1);

export const stateWord = (state) => STATES[state] ?? sentence(state ?? "unknown");
export const failureWords = (reason) => (reason ? (FAILURES[reason] ?? plain(reason)) : "");
export const unknownWords = (reason, gate = null) => ((reason === "low_quality" && GATES[gate]) || UNKNOWN[reason]) ?? (reason ? sentence(reason) : "Not enough to judge");
export const kindWords = (kind) => KINDS[kind] ?? sentence(kind);

/** Two decimals: a third would claim a precision that no detector has; and never 0.00 or 1.00, which would claim certainty. */
export function score(value) {
  if (value === null || value === undefined) return "–";
  return Math.min(0.99, Math.max(0.01, value)).toFixed(2);
}

export const percent = (ratio) => (ratio === null || ratio === undefined ? "–" : `${Math.round(ratio * 100)} %`);

export function number(value, digits = 0) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  return value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
}

/** 340 -> "0.3 s", 74_000 -> "1 min 14 s"; ms in. */
export function duration(ms) {
  const seconds = ms / 1000;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 59.5) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  if (minutes < 60) return minutes < 10 && Math.round(seconds) % 60 ? `${minutes} min ${Math.round(seconds) % 60} s` : `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
  return `${Math.floor(minutes / 1440)} days`;
}

export const ago = (ms) => `${duration(ms)} ago`;

/** Latencies: 12.3 ms, 340 ms, 1.2 s; seconds in. */
export function latency(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  if (seconds < 0.01) return `${(seconds * 1000).toFixed(1)} ms`;
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
}

export const clockTime = (ms) => new Date(ms).toLocaleTimeString("en-GB");

/** The time of day, with the date where it is not today. */
export function moment(ms) {
  const then = new Date(ms);
  const today = new Date().toDateString() === then.toDateString();
  const day = then.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  return today ? clockTime(ms) : `${day}, ${clockTime(ms)}`;
}
