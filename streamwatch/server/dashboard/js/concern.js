// What the page may claim about a stream at this moment, and how urgently. Pure: all it knows comes as arguments.

import { duration, failureWords, score as scoreText, unknownWords } from "./format.js";

/** Without a score for so long a stream's last one is no longer shown as live, in ms ... */
const STALE_AFTER = 5_000;
/** ... unless the stream is analysed less often on purpose: then three of its intervals, but never longer than this. */
const STALE_AT_MOST = 60_000;

/** @param captures times of the newest frames in ms, rising; the least gap counts, so that an outage is not taken for a rhythm */
export function patience(captures) {
  let least = Infinity;
  for (let i = 1; i < captures.length; i++) {
    const gap = captures[i] - captures[i - 1];
    if (gap > 0) least = Math.min(least, gap); // a frame that is told again is no rhythm
  }
  return Number.isFinite(least) ? Math.min(STALE_AT_MOST, Math.max(STALE_AFTER, 3 * least)) : STALE_AFTER;
}

export const RANKS = ["fake", "suspect", "alert", "down", "unknown", "real", "paused"];

const DOWN = new Set(["stalled", "reconnecting", "failed", "ended", "stopped"]);

/**
 * @param stream  {state, reason, detail, retryAt, last, past, lastAt, patience}: `last` is the newest score message that holds, `past` one that
 *                no longer does, `lastAt` the capture of either on the service's clock in ms
 * @param world   {connected, now (the service's clock in ms), alerts: active alerts of this stream}
 * @returns {rank, live, look, badge, verdict, score, words, age}: `look` is fake | suspect | real | unknown | down | paused | gone,
 *          `score` is null unless it is live
 */
export function judge(stream, world) {
  const { last } = stream;
  const known = last ?? stream.past; // without a size no frame has come yet: there is nothing that could have an age
  const age = known?.frame ? Math.max(0, world.now - stream.lastAt) : null;
  const base = { live: false, verdict: "unknown", score: null, age };
  if (!world.connected) return { ...base, ...kept(stream, world), look: "gone", badge: "Disconnected", words: lastWords("Not live", known, age) };
  if (stream.state === "paused") return { ...base, rank: "paused", look: "paused", badge: "Paused", words: lastWords("Not analysed while paused", known, age) };
  if (DOWN.has(stream.state)) return { ...base, rank: "down", look: "down", badge: downBadge(stream), words: downWords(stream, world) };
  if (stream.state !== "live") return { ...base, rank: alerted(world, "unknown"), look: "unknown", badge: "Connecting", words: stream.detail || "Opening the source" };
  if (!last) return { ...base, rank: alerted(world, "unknown"), look: "unknown", badge: "Live", words: unknownWords("warming_up") };
  if (age > stream.patience) return { ...base, rank: "down", look: "gone", badge: "Stale", words: lastWords("No fresh score", last, age) };
  const verdict = last.verdict;
  const rank = verdict === "fake" || verdict === "suspect" ? verdict : alerted(world, verdict);
  return { rank, live: true, look: verdict, badge: "Live", verdict, score: last.score, words: verdictWords(last), age };
}

/** Where the service cannot be heard, tiles keep the place that they had when their last score came. */
function kept(stream, world) {
  return { rank: judge(stream, { ...world, connected: true, now: stream.lastAt }).rank };
}

const alerted = (world, otherwise) => (world.alerts ? "alert" : otherwise);

const downBadge = (stream) => ({ stalled: "Stalled", reconnecting: "Reconnecting", failed: "Failed", ended: "Ended", stopped: "Stopped" })[stream.state];

function downWords(stream, world) {
  const why = stream.detail || sentence(failureWords(stream.reason)) || "No picture";
  const retry = stream.retryAt ? stream.retryAt - world.now : null;
  return retry !== null && retry > 500 ? `${why}. Next attempt in ${duration(retry)}` : why;
}

function lastWords(lead, last, age) {
  if (!last || last.score === null) return lead;
  return `${lead}. Last was ${scoreText(last.score)}, ${duration(age)} ago`;
}

export function verdictWords(last) {
  if (last.verdict === "unknown") return unknownWords(last.reason, last.gate);
  const limit = scoreText(last.threshold);
  const faces = last.faces.filter((face) => face.score !== null).length;
  const many = faces > 1 ? `, worst of ${faces} faces` : "";
  if (last.verdict === "fake") return last.score >= last.threshold ? `Above the threshold of ${limit}${many}` : `Falling, still close to ${limit}${many}`;
  if (last.verdict === "suspect") return last.score >= last.threshold ? `Above ${limit}, not yet confirmed${many}` : `Close to the threshold of ${limit}${many}`;
  return faces > 1 ? `All ${faces} faces below ${limit}` : `Below the threshold of ${limit}`;
}

const sentence = (words) => words && words.charAt(0).toUpperCase() + words.slice(1);
